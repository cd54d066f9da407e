//! `tailkeep approvals`: held actions, and what a person says to them.

mod asker;
mod terminal;

use std::io::{IsTerminal as _, Write as _};
use std::ops::ControlFlow;
use std::process::ExitCode;
use std::time::Duration;

use serde_json::Value;

use super::Format;
use crate::admin::client::{ApiError, Reach};

/// How long `watch` waits before it looks for a gateway that went away.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

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
    #[command(visible_alias = "a")]
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
    #[command(visible_alias = "d")]
    Deny {
        id: i64,
        #[arg(long)]
        reason: Option<String>,
    },
    /// Print each held action as it comes and how it ended, until interrupted. In a terminal each is shown whole, and decided
    /// by typing: `approve ID`, `deny ID REASON`.
    Watch,
}

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let json = args.format == Format::Json;
    execute(
        args.command.unwrap_or(Command::List { all: false }),
        &args.reach,
        json,
    )?;
    Ok(ExitCode::SUCCESS)
}

fn execute(command: Command, reach: &Reach, json: bool) -> anyhow::Result<()> {
    match command {
        Command::List { all } => {
            let listed = reach.get(&format!("/v1/approvals?all={all}"))?;
            if json {
                println!("{listed}");
            } else {
                for held in listed.as_array().into_iter().flatten() {
                    println!("{}", line(held));
                }
            }
        }
        Command::Show { id } => {
            let mut held = reach.get(&format!("/v1/approvals/{id}"))?;
            held["asker"] = reach.get(&format!("/v1/approvals/{id}/asker"))?;
            if json {
                println!("{held}");
            } else {
                print!("{}{}", whole(&held)?, asker::text(&held["asker"]));
            }
        }
        Command::Approve { id, lasts, uses } => {
            let mut query = Vec::new();
            query.extend(lasts.map(|lasts| format!("for_s={lasts}")));
            query.extend(uses.map(|uses| format!("uses={uses}")));
            decide(reach, json, id, "approve", &query.join("&"))?;
        }
        Command::Deny { id, reason } => {
            let reason = reason.map(|reason| format!("reason={}", super::segment(&reason)));
            decide(reach, json, id, "deny", &reason.unwrap_or_default())?;
        }
        Command::Grants { all } => {
            let listed = reach.get(&format!("/v1/grants?all={all}"))?;
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
            let grant = reach.ask(reqwest::Method::DELETE, &format!("/v1/grants/{id}"), None)?;
            println!("{}", if json { grant.to_string() } else { granted(&grant) });
        }
        Command::Watch if !json && std::io::stdin().is_terminal() && std::io::stdout().is_terminal() => {
            terminal::watch(reach)?;
        }
        Command::Watch => {
            let mut out = std::io::stdout().lock();
            follow(reach, |held| {
                let text = if json { held.to_string() } else { line(&held) };
                writeln!(out, "{text}").and_then(|()| out.flush())
            })?;
        }
    }
    Ok(())
}

/// Hands each held action to `each` as it comes and as it ends. Goes on over restarts of the gateway, whose questions survive
/// them too.
///
/// # Errors
/// No gateway was there at first, it refused, or `each` failed.
fn follow(reach: &Reach, mut each: impl FnMut(Value) -> std::io::Result<()>) -> anyhow::Result<()> {
    let mut connected = false;
    let mut wrong = None;
    loop {
        let ended = reach.follow("/v1/approvals/watch", |name, held| {
            let told = match name {
                "open" => {
                    connected = true;
                    Ok(())
                }
                "error" => Err(held["error"].as_str().unwrap_or_default().to_owned()),
                // Nobody reads any more.
                _ => each(held).map_err(|_| "nothing can be written".to_owned()),
            };
            told.map_or_else(
                |text| {
                    wrong = Some(text);
                    ControlFlow::Break(())
                },
                ControlFlow::Continue,
            )
        });
        if let Some(text) = wrong {
            anyhow::bail!(text);
        }
        match ended {
            Ok(()) => {}
            Err(ApiError::Unreachable(..)) if connected => {}
            Err(error) => return Err(error.into()),
        }
        std::thread::sleep(AGAIN_AFTER);
    }
}

fn decide(reach: &Reach, json: bool, id: i64, said: &str, query: &str) -> anyhow::Result<()> {
    let path = format!("/v1/approvals/{id}/{said}?{query}");
    let held = reach.ask(reqwest::Method::POST, &path, None)?;
    println!("{}", if json { held.to_string() } else { line(&held) });
    match held.get("grant") {
        _ if json => {}
        None => {}
        Some(Value::Null) => println!("the grant waits until others agree to the same one"),
        Some(grant) => println!("grant {}", granted(grant)),
    }
    Ok(())
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

/// Everything a person needs to decide. What the agent wrote cannot drive the terminal.
fn whole(held: &Value) -> anyhow::Result<String> {
    let question = &held["question"];
    let text = |value: &Value| super::printable(value.as_str().unwrap_or("-"));
    let mut out = format!("{}\n\n", line(held));
    let tags = question["tags"].as_array().into_iter().flatten();
    let tags: Vec<&str> = tags.filter_map(Value::as_str).collect();
    let tags = tags.join(", ");
    for (label, value) in [
        ("came by", &question["transport"]),
        ("tags", &serde_json::json!(tags)),
        ("asked by", &question["login"]),
        ("profile", &question["profile"]),
        ("credential", &question["credential"]),
        ("endpoint", &question["description"]),
        ("reason", &question["reason"]),
        ("approver", &question["approver"]),
        ("channel", &question["channel"]),
        ("digest", &question["digest"]),
        ("said", &held["reason"]),
    ] {
        if value.as_str().is_some_and(|value| !value.is_empty()) {
            out.push_str(&format!("{label:<11} {}\n", text(value)));
        }
    }
    for told in held["told"].as_array().into_iter().flatten() {
        let (channel, state) = (text(&told["channel"]), text(&told["state"]));
        out.push_str(&format!(
            "{:<11} {channel} {state} {}\n",
            "told",
            text(&told["problem"])
        ));
    }
    if question["required"].as_u64().is_some_and(|required| required > 1) {
        out.push_str(&format!("{:<11} {} people\n", "needs", question["required"]));
    }
    if !question["preview"].is_null() {
        let shown = serde_json::to_string_pretty(&question["preview"])?;
        let shown: Vec<String> = shown.split('\n').map(super::printable).collect();
        out.push_str(&format!("\nWhat it would do:\n{}\n", shown.join("\n")));
    }
    let detail = question["detail"].as_str().unwrap_or_default();
    let lines = |text: &str| {
        text.split('\n')
            .map(super::printable)
            .collect::<Vec<_>>()
            .join("\n")
    };
    out.push_str(&format!("\n{}\n", lines(detail)));
    if let (Some(kind), Some(body)) = (held["body"]["kind"].as_str(), held["body"]["text"].as_str()) {
        out.push_str(&format!("\nIts body, as {kind}:\n{}\n", lines(body)));
    }
    out.push_str(&format!(
        "\n{}\n",
        serde_json::to_string_pretty(&question["facts"])?
    ));
    Ok(out)
}
