//! `tailkeep setup --watch`: mends the kernel's table. A service of its own runs it, as root.
//!
//! Nothing tells the gateway, which may not read the table, that somebody flushed it. Here it is read
//! now and then; one that is gone or is another is loaded anew. Invariant: while it is not as it
//! should be, the file that says that it is loaded is not there, and the gateway withdraws what would
//! go round it.

use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::Context as _;

use super::change::INTERCEPT;
use super::table;
use crate::ingress::tailnet::guard::LOADED;

/// How often the table is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(500);

const NFT: &str = "/usr/sbin/nft";

/// Runs until it is ended.
pub(super) fn run() -> anyhow::Result<ExitCode> {
    anyhow::ensure!(
        Path::new(INTERCEPT).exists(),
        "{INTERCEPT} is not there: this is run by tailkeep-watch.service, after `tailkeep setup`"
    );
    // What is there may be of somebody else, since nobody watched; the kernel puts ours in its place in one step.
    let mut right = load().ok().and_then(|()| listed());
    let mut said = String::new();
    loop {
        std::thread::sleep(LOOK_EVERY);
        if right.is_some() && listed() == right {
            continue;
        }
        right = match mend() {
            Ok(()) => {
                eprintln!("tailkeep: the table was changed or taken away; it is loaded anew");
                said.clear();
                listed()
            }
            Err(error) => {
                let error = format!("{error:#}");
                if said != error {
                    eprintln!("tailkeep: the table was changed or taken away, and cannot be loaded: {error}");
                    said = error;
                }
                None
            }
        };
    }
}

/// The table as it is in the kernel; `None` where it is not there.
fn listed() -> Option<Vec<u8>> {
    let output = Command::new(NFT)
        .args(["list", "table", "inet", table::NAME])
        .output()
        .ok()?;
    output.status.success().then_some(output.stdout)
}

/// As [`load`], for a table that is not as it should be.
fn mend() -> anyhow::Result<()> {
    match std::fs::remove_file(LOADED) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {LOADED}"))
        }
        _ => load(),
    }
}

fn load() -> anyhow::Result<()> {
    let text = std::fs::read(INTERCEPT).with_context(|| format!("cannot read {INTERCEPT}"))?;
    let output = Command::new(NFT)
        .args(["-f", INTERCEPT])
        .output()
        .context("cannot run nft")?;
    anyhow::ensure!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    // Last, and whole: it says that the table is loaded.
    let new = format!("{LOADED}.new");
    std::fs::write(&new, text)
        .and_then(|()| {
            std::fs::set_permissions(&new, std::os::unix::fs::PermissionsExt::from_mode(0o644))?;
            std::fs::rename(&new, LOADED)
        })
        .with_context(|| format!("cannot write {LOADED}"))
}
