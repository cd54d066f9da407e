//! `tailkeep approvals`: held actions, and what a person says to them.

mod asker;
mod shown;
mod watch;

use std::process::ExitCode;

use serde_json::Value;

use super::Format;
use crate::admin::client::{ApiError, Reach};

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
    /// Let one happen, once; with --for or --uses, also what else this agent asks for by the same rule.
    Approve {
        id: i64,
        /// Give a grant that lasts so long: 90s, 30m, 2h; 24 h at most.
        #[arg(long = "for", value_name = "TIME", value_parser = super::seconds)]
        lasts: Option<i64>,
        /// Give a grant that counts so often, this time included.
        #[arg(long, value_name = "COUNT")]
        uses: Option<u32>,
    },
    /// List the grants in force.
    Grants {
        /// Those that are over too.
        #[arg(long)]
        all: bool,
    },
    /// Take a grant back; what it let through and still runs ends.
    Revoke { id: i64 },
    /// Refuse one; the agent is told the reason.
    Deny {
        id: i64,
        #[arg(long)]
        reason: Option<String>,
    },
    /// Print each held action as it comes and how it ended, until interrupted. At a terminal, what is typed decides.
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
            if json {
                let mut held = args.reach.get(&format!("/v1/approvals/{id}"))?;
                held["asker"] = args.reach.get(&format!("/v1/approvals/{id}/asker"))?;
                println!("{held}");
            } else {
                print!("{}", shown::whole(&args.reach, id)?.1);
            }
        }
        Command::Approve { id, lasts, uses } => {
            decide(&args.reach, json, (id, "approve"), &terms(lasts, uses))?;
        }
        Command::Deny { id, reason } => {
            decide(&args.reach, json, (id, "deny"), &because(reason.as_deref()))?;
        }
        Command::Grants { all } => {
            let listed = args.reach.get(&format!("/v1/grants?all={all}"))?;
            match json {
                true => println!("{listed}"),
                false => listed
                    .as_array()
                    .into_iter()
                    .flatten()
                    .for_each(|grant| println!("{}", granted(grant))),
            }
        }
        Command::Revoke { id } => {
            let grant = args
                .reach
                .ask(reqwest::Method::DELETE, &format!("/v1/grants/{id}"), None)?;
            println!("{}", if json { grant.to_string() } else { granted(&grant) });
        }
        Command::Watch => watch::watch(&args.reach, json)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// What a grant beside a yes is for.
fn terms(lasts: Option<i64>, uses: Option<u32>) -> String {
    let mut query = Vec::new();
    query.extend(lasts.map(|lasts| format!("for_s={lasts}")));
    query.extend(uses.map(|uses| format!("uses={uses}")));
    query.join("&")
}

fn because(reason: Option<&str>) -> String {
    reason.map_or_else(String::new, |reason| format!("reason={}", super::segment(reason)))
}

fn say(reach: &Reach, (id, said): (i64, &str), query: &str) -> Result<Value, ApiError> {
    let path = format!("/v1/approvals/{id}/{said}?{query}");
    reach.ask(reqwest::Method::POST, &path, None)
}

fn decide(reach: &Reach, json: bool, what: (i64, &str), query: &str) -> anyhow::Result<()> {
    let held = say(reach, what, query)?;
    match json {
        true => println!("{held}"),
        false => println!("{}{}", line(&held), grant_beside(&held)),
    }
    Ok(())
}

/// What became of the grant that was asked for with a yes, on a line of its own.
fn grant_beside(held: &Value) -> String {
    match held.get("grant") {
        None => String::new(),
        Some(Value::Null) => "\nthe grant waits until others agree to the same one".to_owned(),
        Some(grant) => format!("\ngrant {}", granted(grant)),
    }
}

/// `7 active  laptop → postgres.orders  (writes)  3 of 20 uses, until 2026-11-26T10:00:00Z  alice`.
fn granted(grant: &Value) -> String {
    let about = |field: &str| super::printable(grant["about"][field].as_str().unwrap_or("-"));
    let by: Vec<&str> = grant["by"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    let until = grant["expires_us"]
        .as_i64()
        .and_then(chrono::DateTime::from_timestamp_micros);
    let until = until.map_or_else(
        || format!("for {} s", grant["lasts_s"]),
        |at| format!("until {}", at.to_rfc3339_opts(chrono::SecondsFormat::Secs, true)),
    );
    format!(
        "{} {:<8} {} → {}  ({})  {} of {} uses, {until}  {}",
        grant["id"],
        grant["state"].as_str().unwrap_or("-"),
        about("node"),
        about("endpoint"),
        about("rule"),
        grant["uses"],
        grant["uses_max"],
        by.join(", "),
    )
    .trim_end()
    .to_owned()
}

/// `12 pending  agent → kubernetes.prod  DELETE /api/v1/…  (pod-deletion)  alice`.
fn line(held: &Value) -> String {
    let question = &held["question"];
    let text = |field: &str| super::printable(question[field].as_str().unwrap_or("-"));
    let by: Vec<&str> = held["by"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    let away = held["state"] == "pending" && held["waiting"] == false;
    format!(
        "{} {:<9} {} → {}  {}  ({})  {}{}",
        held["id"],
        held["state"].as_str().unwrap_or("-"),
        text("node"),
        text("endpoint"),
        text("summary"),
        text("rule"),
        by.join(", "),
        if away { "its agent is away" } else { "" },
    )
    .trim_end()
    .to_owned()
}
