//! `tailkeep approvals watch` in a terminal: what is held is shown whole as it comes, and decided by typing.
//!
//! Lines, not keys: another question may come between a look and a key, and would get the answer. So each
//! decision names its question.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::sync::mpsc;

use clap::Parser as _;
use serde_json::Value;

use super::{Command, execute, follow, line};
use crate::admin::client::Reach;

const HELP: &str = "What is held is shown as it comes. Type: approve ID [--for 30m] [--uses 20], deny ID [REASON], show ID, list, grants,
revoke ID, quit (or a ID, d ID, q).";

/// What a person types: the commands of `tailkeep approvals`.
#[derive(clap::Parser)]
#[command(
    no_binary_name = true,
    disable_help_flag = true,
    disable_help_subcommand = true
)]
struct Typed {
    #[command(subcommand)]
    command: Command,
}

enum Event {
    Held(Value),
    Typed(String),
    /// The person has gone, or why nothing can be followed.
    End(anyhow::Result<()>),
}

/// Goes on until the person ends it.
///
/// # Errors
/// As [`follow`]'s.
pub(super) fn watch(reach: &Reach) -> anyhow::Result<()> {
    let (events, heard) = mpsc::channel();
    let (typed, followed) = (events.clone(), reach.clone());
    // Both end with the process: one waits for a key, the other for the gateway.
    std::thread::spawn(move || {
        for line in std::io::stdin().lines().map_while(Result::ok) {
            if typed.send(Event::Typed(line)).is_err() {
                return;
            }
        }
        let _ = typed.send(Event::End(Ok(())));
    });
    std::thread::spawn(move || {
        let each = |held| {
            events
                .send(Event::Held(held))
                .map_err(|_| std::io::ErrorKind::BrokenPipe.into())
        };
        let ended = follow(&followed, each);
        let _ = events.send(Event::End(ended));
    });
    println!("{HELP}");
    let mut shown = BTreeSet::new();
    for event in heard {
        match event {
            Event::End(ended) => return ended,
            Event::Held(held) => came(reach, &held, &mut shown),
            Event::Typed(text) if ["q", "quit", "exit"].contains(&text.trim()) => return Ok(()),
            Event::Typed(text) => {
                if let Err(error) = typed_in(reach, &text) {
                    println!("{error:#}");
                }
            }
        }
        std::io::stdout().flush()?;
    }
    Ok(())
}

/// A question is shown whole the first time, and with a bell; how it ended is a line.
fn came(reach: &Reach, held: &Value, shown: &mut BTreeSet<i64>) {
    let id = held["id"].as_i64().unwrap_or_default();
    if held["state"] != "pending" || !shown.insert(id) {
        println!("{}", line(held));
        return;
    }
    println!("\x07{:─<72}", "");
    // One that was decided meanwhile is shown as that.
    match execute(Command::Show { id }, reach, false) {
        Ok(()) => println!("approve {id}, or deny {id} REASON"),
        Err(error) => println!("{}\n{error:#}", line(held)),
    }
}

fn typed_in(reach: &Reach, text: &str) -> anyhow::Result<()> {
    let mut words = text.split_whitespace();
    let command = match (words.next(), words.next()) {
        (None, _) => return Ok(()),
        (Some("help" | "?" | "h"), _) => {
            println!("{HELP}");
            return Ok(());
        }
        // A reason is the rest of the line, without quotes.
        (Some("deny" | "d"), Some(id))
            if words.clone().next().is_some_and(|word| !word.starts_with("--")) =>
        {
            Command::Deny {
                id: id.parse()?,
                reason: Some(words.collect::<Vec<_>>().join(" ")),
            }
        }
        _ => Typed::try_parse_from(text.split_whitespace())?.command,
    };
    match command {
        Command::Watch => {
            println!("it is watched already");
            Ok(())
        }
        command => execute(command, reach, false),
    }
}
