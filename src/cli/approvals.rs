//! `tailkeep approvals`: held actions, and what a person says to them.

use std::collections::HashSet;
use std::process::ExitCode;
use std::time::Duration;

use serde_json::Value;

use super::Format;
use crate::admin::client::Reach;

/// How often `watch` asks.
const WATCH_EVERY: Duration = Duration::from_millis(500);

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
    /// List what is held now.
    List {
        /// Decided ones too.
        #[arg(long)]
        all: bool,
    },
    /// Show one whole: the statement or the request, its facts, who asks.
    Show { id: i64 },
    /// Let one happen.
    Approve { id: i64 },
    /// Refuse one; the agent is told the reason.
    Deny {
        id: i64,
        #[arg(long)]
        reason: Option<String>,
    },
    /// Print each held action as it comes, until interrupted.
    Watch,
}

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let json = args.format == Format::Json;
    match args.command.unwrap_or(Command::List { all: false }) {
        Command::List { all } => {
            let listed = args.reach.get(&format!("/v1/approvals?all={all}"))?;
            if json {
                println!("{listed}");
            } else {
                for held in listed.as_array().into_iter().flatten() {
                    println!("{}", line(held));
                }
            }
        }
        Command::Show { id } => {
            let held = args.reach.get(&format!("/v1/approvals/{id}"))?;
            if json {
                println!("{held}");
            } else {
                println!("{}\n", line(&held));
                println!("{}\n", held["question"]["detail"].as_str().unwrap_or_default());
                println!("{}", serde_json::to_string_pretty(&held["question"]["facts"])?);
            }
        }
        Command::Approve { id } => decide(&args.reach, json, id, "approve", None)?,
        Command::Deny { id, reason } => decide(&args.reach, json, id, "deny", reason)?,
        Command::Watch => {
            let mut seen = HashSet::new();
            loop {
                let listed = args.reach.get("/v1/approvals")?;
                for held in listed.as_array().into_iter().flatten() {
                    if seen.insert(held["id"].as_i64()) {
                        println!("{}", if json { held.to_string() } else { line(held) });
                    }
                }
                std::thread::sleep(WATCH_EVERY);
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn decide(reach: &Reach, json: bool, id: i64, said: &str, reason: Option<String>) -> anyhow::Result<()> {
    let query = reason
        .map(|reason| format!("?reason={}", super::segment(&reason)))
        .unwrap_or_default();
    let held = reach.ask(
        reqwest::Method::POST,
        &format!("/v1/approvals/{id}/{said}{query}"),
        None,
    )?;
    println!("{}", if json { held.to_string() } else { line(&held) });
    Ok(())
}

/// `12 pending  agent → kubernetes.prod  DELETE /api/v1/…  (pod-deletion)`.
fn line(held: &Value) -> String {
    let question = &held["question"];
    let text = |field: &str| question[field].as_str().unwrap_or("-");
    format!(
        "{} {:<9} {} → {}  {}  ({})",
        held["id"],
        held["state"].as_str().unwrap_or("-"),
        text("node"),
        text("endpoint"),
        text("summary"),
        text("rule"),
    )
}
