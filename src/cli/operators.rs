//! `tailkeep operators`: who may sign in to the admin page, and their sessions.

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
    /// List the people who have a password, and those who are invited.
    List,
    /// Print a link by which a person sets their password, once; for one who has one, a new one.
    Invite {
        /// A short name, or an e-mail address.
        name: String,
        /// The same person's login on the tailnet: where two approvers are needed, both ways together
        /// count as one. It gives no right.
        #[arg(long)]
        login: Option<String>,
    },
    /// Remove a person, and end their sessions.
    Remove { name: String },
    /// List the sessions that are open.
    Sessions,
    /// End a session.
    End {
        /// Its number, from `sessions`.
        id: i64,
    },
}

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let reach = &args.reach;
    let delete = |path: &str| reach.ask(reqwest::Method::DELETE, path, None);
    let (answer, text) = match args.command.unwrap_or(Command::List) {
        Command::List => {
            let all = reach.get("/v1/operators")?;
            let text = lines(&all, |one| {
                let state = match (one["created_us"].is_null(), one["invited_until_us"].as_i64()) {
                    (_, Some(until)) => format!("invited until {}", at(until)),
                    (true, None) => "invited".to_owned(),
                    (false, None) => "has a password".to_owned(),
                };
                let login = one["login"]
                    .as_str()
                    .map(|login| format!(", on the tailnet {login}"));
                format!("{:<32} {state}{}", word(one, "name"), login.unwrap_or_default())
            });
            (all, text)
        }
        Command::Invite { name, login } => {
            let body = serde_json::json!({ "name": name, "login": login });
            let body = body.to_string().into_bytes();
            let invited = reach.ask(reqwest::Method::POST, "/v1/operators", Some(body))?;
            let text = format!(
                "Within a day, in a browser of this machine (or through `ssh -L`), {name} opens\n  {}",
                word(&invited, "url")
            );
            (invited, text)
        }
        Command::Remove { name } => (
            delete(&format!("/v1/operators/{}", super::segment(&name)))?,
            format!("removed {name}"),
        ),
        Command::Sessions => {
            let all = reach.get("/v1/sessions")?;
            let text = lines(&all, |one| {
                let seen = one["seen_us"].as_i64().map(at).unwrap_or_default();
                let (person, via, address) = (word(one, "person"), word(one, "via"), word(one, "address"));
                let browser = super::printable(word(one, "browser"));
                format!(
                    "{:<6} {person:<32} {via:<9} {address:<16} used {seen}  {browser}",
                    one["id"]
                )
            });
            (all, text)
        }
        Command::End { id } => (delete(&format!("/v1/sessions/{id}"))?, format!("ended {id}")),
    };
    match args.format {
        Format::Json => println!("{answer}"),
        Format::Text if text.is_empty() => {}
        Format::Text => println!("{text}"),
    }
    Ok(ExitCode::SUCCESS)
}

fn lines(all: &Value, one: impl Fn(&Value) -> String) -> String {
    let lines: Vec<String> = all.as_array().into_iter().flatten().map(one).collect();
    lines.join("\n")
}

fn word<'a>(one: &'a Value, field: &str) -> &'a str {
    one[field].as_str().unwrap_or("-")
}

fn at(us: i64) -> String {
    chrono::DateTime::from_timestamp_micros(us)
        .map(|at| at.format("%Y-%m-%d %H:%M:%SZ").to_string())
        .unwrap_or_default()
}
