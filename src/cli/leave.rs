//! `tailkeep leave`.

use std::process::ExitCode;

use crate::client::signed;
use crate::client::store::Store;

/// Removes this machine's key, here and at the gateway.
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
    let told = match store.load() {
        Ok(enrolment) => {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            let told = runtime.block_on(signed::leave(&enrolment));
            told.map_err(|error| (error.to_string(), enrolment.assigned.name))
        }
        // A damaged enrolment proves nothing; its files go all the same.
        Err(error) => Err((error.to_string(), "NAME".to_owned())),
    };
    store.remove()?;
    match told {
        Ok(()) => println!("left; the gateway has removed this machine's key"),
        Err((why, name)) => {
            println!(
                "left, but the gateway was not told ({why}); its operator ends it with `tailkeep peers remove {name}`"
            );
        }
    }
    Ok(ExitCode::SUCCESS)
}
