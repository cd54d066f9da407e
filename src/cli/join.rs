//! `tailkeep join`.

use std::process::ExitCode;

use anyhow::Context as _;

use crate::client::{enrol, invite::Invite, store::Store};

#[derive(clap::Args)]
pub struct Args {
    /// The URL that `tailkeep peers add NAME` printed at the gateway.
    url: String,
    /// The name to ask for; default: this machine's host name.
    #[arg(long)]
    name: Option<String>,
    /// Replace an enrolment that is there.
    #[arg(long)]
    force: bool,
}

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let invite = Invite::parse(&args.url)?;
    let store = Store::from_env()?;
    if store.is_enrolled() && !args.force {
        anyhow::bail!("this machine is enrolled already; `tailkeep leave` first, or give --force");
    }
    let name = match args.name {
        Some(name) => name,
        None => nix::unistd::gethostname()?.to_string_lossy().into_owned(),
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let enrolment = match runtime.block_on(enrol::enrol(&invite, &name)) {
        Ok(enrolment) => enrolment,
        Err(error) => {
            eprintln!("tailkeep: {error}");
            return Ok(ExitCode::from(1));
        }
    };
    store
        .save(&enrolment)
        .context("enrolled, but the enrolment could not be stored")?;
    println!(
        "enrolled as {} at {}",
        enrolment.assigned.name, enrolment.authority
    );
    Ok(ExitCode::SUCCESS)
}
