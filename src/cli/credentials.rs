//! `tailkeep credentials`: which secrets are there; setting one. Values are never printed.

use std::io::Read as _;
use std::process::ExitCode;

use super::Format;
use crate::admin::client::Reach;

#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    reach: Reach,
    /// How to print.
    #[arg(long, value_enum, default_value_t, global = true)]
    format: Format,
}

#[derive(clap::Subcommand)]
enum Command {
    /// List credentials, and whether their secrets can be had.
    List,
    /// Set a secret; its value is read from standard input.
    #[command(visible_alias = "rotate")]
    Set {
        name: String,
        /// The slot, for credentials with several: cert, key, ca.
        #[arg(long, default_value = "")]
        slot: String,
    },
}

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let json = args.format == Format::Json;
    match args.command.unwrap_or(Command::List) {
        Command::List => {
            let listed = args.reach.get("/v1/credentials")?;
            if json {
                println!("{listed}");
                return Ok(ExitCode::SUCCESS);
            }
            for row in listed.as_array().into_iter().flatten() {
                let missing = row["missing"].as_array().into_iter().flatten();
                let missing: Vec<&str> = missing.filter_map(|cause| cause.as_str()).collect();
                let state = if missing.is_empty() {
                    "ready".to_owned()
                } else {
                    missing.join("; ")
                };
                println!("{:<40} {state}", row["credential"].as_str().unwrap_or("-"));
            }
        }
        Command::Set { name, slot } => {
            let mut value = zeroize::Zeroizing::new(Vec::new());
            std::io::stdin().lock().read_to_end(&mut value)?;
            while value.last().is_some_and(|byte| matches!(byte, b'\n' | b'\r')) {
                value.pop();
            }
            let path = format!(
                "/v1/credentials/{}?slot={}",
                super::segment(&name),
                super::segment(&slot)
            );
            let set = args
                .reach
                .ask(reqwest::Method::PUT, &path, Some(value.to_vec()))?;
            println!(
                "{}",
                if json {
                    set.to_string()
                } else {
                    format!("{name} is set")
                }
            );
        }
    }
    Ok(ExitCode::SUCCESS)
}
