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
    let variables = environment::variables(&store, &store.load()?)?;
    match args.format {
        Format::Text => print!("{}", environment::exports(&variables)),
        Format::Json => println!("{}", serde_json::to_string(&variables)?),
    }
    Ok(ExitCode::SUCCESS)
}
