//! `tailkeep leave`.

use std::process::ExitCode;

use crate::client::store::Store;

/// Removes this machine's key. The gateway's operator removes the peer with `tailkeep peers remove`.
#[derive(clap::Args)]
pub struct Args {}

pub fn run(_args: Args) -> anyhow::Result<ExitCode> {
    let store = Store::from_env()?;
    if !store.is_enrolled() {
        eprintln!("tailkeep: this machine is not enrolled");
        return Ok(ExitCode::from(1));
    }
    if store.lock()?.is_none() {
        anyhow::bail!("a `tailkeep run` is using this enrolment; end it first");
    }
    store.remove()?;
    println!("left; the gateway keeps the peer until its operator removes it");
    Ok(ExitCode::SUCCESS)
}
