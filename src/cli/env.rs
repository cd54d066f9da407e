//! `tailkeep env`.

use std::process::ExitCode;

use super::Format;
use crate::client::{environment, store::Store};

#[derive(clap::Args)]
pub struct Args {
    /// How to print.
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let store = Store::from_env()?;
    let mut enrolment = store.load()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    super::run::refresh(&store, &mut enrolment, &runtime);
    let variables = environment::variables(&store, &enrolment)?;
    match args.format {
        Format::Text => print!("{}", environment::exports(&variables)),
        Format::Json => println!("{}", serde_json::to_string(&variables)?),
    }
    Ok(ExitCode::SUCCESS)
}
