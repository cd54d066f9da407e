//! What is to be written, run and taken away, compared with what is there.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use anyhow::Context as _;
use ipnet::IpNet;

use super::{Wanted, table, unit};
use crate::ingress::tailnet::guard::LOADED;

/// Where the table lies.
pub(super) const INTERCEPT: &str = "/etc/tailkeep/intercept.nft";
const GATEWAY_UNIT: &str = "/etc/systemd/system/tailkeep.service";
const INTERCEPT_UNIT: &str = "/etc/systemd/system/tailkeep-intercept.service";
const WATCH_UNIT: &str = "/etc/systemd/system/tailkeep-watch.service";
const ACCOUNT: &str = "/etc/sysusers.d/tailkeep.conf";

/// How the lines of the unit begin that take the table away.
pub(super) const STOP: &str = "ExecStopPost=-";

/// One thing to be done.
pub(super) enum Change {
    Write {
        path: &'static str,
        text: String,
    },
    Remove {
        path: &'static str,
    },
    /// A command; one that `may_fail` undoes what may be undone already.
    Run {
        words: Vec<String>,
        may_fail: bool,
    },
}

/// What is left to be done, in order.
pub(super) fn setting_up(wanted: &Wanted) -> Vec<Change> {
    let files = [
        (ACCOUNT, unit::account(&wanted.user)),
        (INTERCEPT, table::text(wanted)),
        (INTERCEPT_UNIT, unit::intercept(wanted)),
        (WATCH_UNIT, unit::watch(wanted)),
        (GATEWAY_UNIT, unit::gateway(wanted)),
    ];
    let has_account = matches!(nix::unistd::User::from_name(&wanted.user), Ok(Some(_)));
    let same = |path: &str, text: &str| std::fs::read_to_string(path).is_ok_and(|there| there == text);
    let is_loaded = same(LOADED, &files[1].1);
    let mut changes: Vec<Change> = Vec::new();
    for (path, text) in files {
        let is_needed = path != ACCOUNT || !has_account;
        if is_needed && !same(path, &text) {
            changes.push(Change::Write { path, text });
        }
    }
    let writes = !changes.is_empty();
    if !has_account {
        changes.push(run(&["systemd-sysusers", ACCOUNT]));
    }
    if has_systemd() && writes {
        changes.push(run(&["systemctl", "daemon-reload"]));
    }
    if writes || !is_loaded {
        match has_systemd() {
            true => {
                changes.push(run(&["systemctl", "enable", "tailkeep-intercept.service"]));
                changes.push(run(&["systemctl", "restart", "tailkeep-intercept.service"]));
            }
            false => changes.extend(doing(&wanted.names).into_iter().map(|words| Change::Run {
                words,
                may_fail: false,
            })),
        }
    }
    changes
}

/// What takes everything away that an earlier run has written.
pub(super) fn removal() -> Vec<Change> {
    let unit = std::fs::read_to_string(INTERCEPT_UNIT).unwrap_or_default();
    let mut changes = Vec::new();
    let may_fail = |words: Vec<String>| Change::Run {
        words,
        may_fail: true,
    };
    if has_systemd() && !unit.is_empty() {
        let words = [
            "systemctl",
            "disable",
            "--now",
            "tailkeep.service",
            "tailkeep-intercept.service",
        ];
        changes.push(may_fail(words.map(str::to_owned).to_vec()));
    } else {
        // What the unit would do when it is stopped; its own lines know the ranges of that time.
        let stop = unit.lines().filter_map(|line| line.strip_prefix(STOP));
        let words = |line: &str| line.split(' ').map(str::to_owned).collect();
        changes.extend(stop.map(words).map(may_fail));
    }
    let files = [
        GATEWAY_UNIT,
        WATCH_UNIT,
        INTERCEPT_UNIT,
        INTERCEPT,
        ACCOUNT,
        LOADED,
    ];
    let there = files.into_iter().filter(|path| Path::new(path).exists());
    changes.extend(there.map(|path| Change::Remove { path }));
    if has_systemd() && !unit.is_empty() {
        changes.push(run(&["systemctl", "daemon-reload"]));
    }
    changes
}

/// What loads the table and makes the virtual ranges local.
pub(super) fn doing(names: &[IpNet]) -> Vec<Vec<String>> {
    let mut commands = vec![words(&["/usr/sbin/nft", "-f", INTERCEPT])];
    commands.extend(names.iter().map(|net| route(net, "replace")));
    // Last: it says that the table is loaded.
    commands.push(words(&[
        "/usr/bin/install",
        "-D",
        "-m",
        "0644",
        INTERCEPT,
        LOADED,
    ]));
    commands
}

/// What takes both away.
pub(super) fn undoing(names: &[IpNet]) -> Vec<Vec<String>> {
    let mut commands = vec![words(&["/bin/rm", "-f", LOADED])];
    commands.extend(names.iter().map(|net| route(net, "del")));
    commands.push(words(&["/usr/sbin/nft", "delete", "table", "inet", table::NAME]));
    commands
}

fn route(net: &IpNet, verb: &str) -> Vec<String> {
    let family = match net {
        IpNet::V4(_) => "-4",
        IpNet::V6(_) => "-6",
    };
    words(&[
        "/usr/sbin/ip",
        family,
        "route",
        verb,
        "local",
        &net.to_string(),
        "dev",
        "lo",
    ])
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

fn run(command: &[&str]) -> Change {
    Change::Run {
        words: words(command),
        may_fail: false,
    }
}

fn has_systemd() -> bool {
    Path::new("/run/systemd/system").exists()
}

/// A word of a unit's command line: `%` and `$` mean something there.
pub(super) fn quoted(word: &str) -> String {
    let escaped = word
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('%', "%%")
        .replace('$', "$$");
    match escaped
        .bytes()
        .any(|byte| byte == b' ' || byte == b'\'' || byte == b'"')
    {
        true => format!("\"{escaped}\""),
        false => escaped,
    }
}

impl Change {
    /// Prints it.
    pub(super) fn show(&self) {
        match self {
            Change::Write { path, text } => {
                println!("write {path}");
                text.lines().for_each(|line| println!("    {line}"));
            }
            Change::Remove { path } => println!("remove {path}"),
            Change::Run { words, .. } => println!("run {}", words.join(" ")),
        }
    }

    /// Does it.
    pub(super) fn make(&self) -> anyhow::Result<()> {
        match self {
            Change::Write { path, text } => {
                let path = Path::new(path);
                if let Some(folder) = path.parent() {
                    std::fs::create_dir_all(folder)
                        .with_context(|| format!("cannot make {}", folder.display()))?;
                }
                // Whole or not at all: a unit or a table that was cut off would be loaded.
                let new = path.with_extension("new");
                std::fs::write(&new, text)
                    .and_then(|()| std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o644)))
                    .and_then(|()| std::fs::rename(&new, path))
                    .with_context(|| format!("cannot write {}", path.display()))
            }
            Change::Remove { path } => match std::fs::remove_file(path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    Err(error).with_context(|| format!("cannot remove {path}"))
                }
                _ => Ok(()),
            },
            Change::Run { words, may_fail } => {
                let (program, arguments) = words.split_first().context("no command")?;
                let shown = words.join(" ");
                let status = Command::new(program).args(arguments).status();
                let done = status.with_context(|| format!("cannot run {shown}"))?.success();
                anyhow::ensure!(done || *may_fail, "{shown} failed");
                Ok(())
            }
        }
    }
}
