//! `tailkeep agents`: who asks, and the kill switch.

use std::process::ExitCode;

use serde_json::Value;

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
    /// List the agents that were active lately, and those that are stopped.
    List,
    /// Stop an agent: its connections end, its grants are taken back, what it is held for is refused
    /// and so is everything new, until `unkill`.
    Kill {
        /// The peer's or node's name, or its key: peer:NAME, node:STABLEID.
        name: String,
        /// For the record.
        #[arg(long)]
        reason: Option<String>,
        /// Also by the key of one that nobody here knows, before it comes.
        #[arg(long)]
        ahead: bool,
    },
    /// Let a stopped agent go again. Its grants stay taken back.
    Unkill { name: String },
}

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let json = args.format == Format::Json;
    let post = |path: &str, body: Value| {
        let body = body.to_string().into_bytes();
        args.reach.ask(reqwest::Method::POST, path, Some(body))
    };
    match args.command.unwrap_or(Command::List) {
        Command::List => {
            let listed = args.reach.get("/v1/agents")?;
            match json {
                true => println!("{listed}"),
                false => print!("{}", lines(&listed)),
            }
        }
        Command::Kill { name, reason, ahead } => {
            let done = post(
                "/v1/agents/kill",
                serde_json::json!({ "agent": name, "reason": reason, "ahead": ahead }),
            )?;
            let text = || {
                format!(
                    "stopped {}: {} grants taken back, {} held actions refused",
                    done["killed"].as_str().unwrap_or("-"),
                    done["grants"],
                    done["held"],
                )
            };
            println!("{}", if json { done.to_string() } else { text() });
        }
        Command::Unkill { name } => {
            let done = post("/v1/agents/unkill", serde_json::json!({ "agent": name }))?;
            let text = || format!("{} may go on", done["unkilled"].as_str().unwrap_or("-"));
            println!("{}", if json { done.to_string() } else { text() });
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn lines(listed: &Value) -> String {
    let rows = |name: &str| listed[name].as_array().cloned().unwrap_or_default();
    let mut out = String::new();
    for one in rows("active") {
        let text = |field: &str| super::printable(one[field].as_str().unwrap_or("-"));
        let line = format!(
            "{:<24} {:<10} {:<16} {:<16} {} actions, {} denied",
            text("node"),
            text("transport"),
            text("address"),
            text("profile"),
            one["actions"],
            one["denied"],
        );
        out.push_str(line.trim_end());
        out.push('\n');
    }
    for kill in rows("killed") {
        let text = |field: &str| super::printable(kill[field].as_str().unwrap_or_default());
        let line = format!(
            "{:<24} stopped by {}  {}",
            text("agent"),
            text("person"),
            text("reason")
        );
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}
