//! `tailkeep approvals watch`: each held action as it comes and how it ended; at a terminal, what is typed decides.
//!
//! The terminal stays in its own mode: a line is read when it is whole, and Ctrl-C ends the command as it ends any.
//! Lines name the action by its number, so that none that comes while somebody types is meant instead; and none is
//! approved that was not shown whole here before.

use std::collections::HashMap;
use std::io::{BufRead as _, IsTerminal as _, Write as _};
use std::ops::ControlFlow;
use std::time::Duration;

use serde_json::Value;

use super::{because, grant_beside, line, say, shown, terms};
use crate::admin::client::{ApiError, Reach};
use crate::cli::{printable, seconds};

/// How long `watch` waits before it looks for a gateway that went away.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

const HELP: &str = "Type a number to see that action whole; `a NUMBER` then approves it, once, or `a NUMBER for 30m`, \
                    `a NUMBER uses 20`; `d NUMBER REASON` denies it; `q` ends.";

/// Goes on over restarts of the gateway, whose questions survive them too.
///
/// # Errors
/// There is no gateway at the start, it refuses, or nothing can be written any more.
pub(super) fn watch(reach: &Reach, json: bool) -> anyhow::Result<()> {
    if !json && std::io::stdin().is_terminal() && std::io::stdout().is_terminal() {
        put(HELP)?;
        let own = reach.clone();
        std::thread::spawn(move || take_lines(&own));
    }
    let (mut connected, mut lost) = (false, false);
    let mut wrong = None;
    loop {
        let ended = reach.follow("/v1/approvals/watch", |name, held| {
            if name == "open" {
                if lost && !json {
                    eprintln!("the gateway is back");
                }
                (connected, lost) = (true, false);
                return ControlFlow::Continue(());
            }
            if name == "error" {
                wrong = held["error"].as_str().map(str::to_owned);
                return ControlFlow::Break(());
            }
            let text = if json { held.to_string() } else { line(&held) };
            // Nobody reads any more.
            put(&text).map_or_else(
                |_| {
                    wrong = Some("nothing can be written".to_owned());
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
        if !lost && !json {
            eprintln!("the gateway is gone; what it holds it keeps, and it is looked for");
        }
        lost = true;
        std::thread::sleep(AGAIN_AFTER);
    }
}

/// One whole text at a time, whoever writes.
fn put(text: &str) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}").and_then(|()| out.flush())
}

/// The actions that were shown whole here, by number: what was asked then, and when. A number alone may be another's,
/// where another gateway took this one's place.
type Seen = HashMap<i64, (Value, Value)>;

/// Does what is typed, until the end of it, which ends the command.
fn take_lines(reach: &Reach) {
    let mut seen = Seen::new();
    for typed in std::io::stdin().lock().lines().map_while(Result::ok) {
        let answer = match Typed::read(&typed) {
            Ok(Typed::Nothing) => continue,
            Ok(Typed::End) => break,
            Ok(typed) => typed.done(reach, &mut seen),
            Err(why) => Ok(why),
        };
        // What the gateway says of it may repeat what was typed.
        let text = answer.unwrap_or_else(|error| printable(&error.to_string()));
        if put(&text).is_err() {
            break;
        }
    }
    std::process::exit(0);
}

/// What a line says.
#[derive(Debug, PartialEq, Eq)]
enum Typed {
    Nothing,
    Show(i64),
    Approve { id: i64, terms: String },
    Deny { id: i64, reason: Option<String> },
    End,
}

impl Typed {
    /// # Errors
    /// What may be typed, and what is wrong with what was.
    fn read(line: &str) -> Result<Typed, String> {
        let (word, rest) = line
            .trim()
            .split_once(char::is_whitespace)
            .unwrap_or((line.trim(), ""));
        let (number, rest) = match word.parse::<i64>() {
            Ok(_) => (word, rest),
            Err(_) => {
                let rest = rest.trim_start();
                rest.split_once(char::is_whitespace).unwrap_or((rest, ""))
            }
        };
        let rest = rest.trim();
        let id = number.parse::<i64>().map_err(|_| HELP.to_owned());
        match word {
            "" => Ok(Typed::Nothing),
            "q" | "quit" => Ok(Typed::End),
            "a" | "approve" => Ok(Typed::Approve {
                id: id?,
                terms: granting(rest)?,
            }),
            "d" | "deny" => Ok(Typed::Deny {
                id: id?,
                reason: Some(rest.to_owned()).filter(|reason| !reason.is_empty()),
            }),
            "s" | "show" => id.map(Typed::Show),
            word if word == number && rest.is_empty() => id.map(Typed::Show),
            _ => Err(HELP.to_owned()),
        }
    }

    /// Does it: what is to be printed of it. How the action ended is told to whoever watches, and so here.
    fn done(self, reach: &Reach, seen: &mut Seen) -> anyhow::Result<String> {
        match self {
            Typed::Show(id) => {
                let (held, text) = shown::whole(reach, id)?;
                seen.insert(id, asked(&held));
                Ok(text)
            }
            Typed::Approve { id, terms } => {
                let (held, text) = shown::whole(reach, id)?;
                let now = asked(&held);
                if seen.get(&id) == Some(&now) {
                    return Ok(told(&say(reach, (id, "approve"), &terms)?));
                }
                seen.insert(id, now);
                Ok(format!(
                    "{text}\nThis is {id}, whole. `a {id}` once more approves it."
                ))
            }
            Typed::Deny { id, reason } => Ok(told(&say(reach, (id, "deny"), &because(reason.as_deref()))?)),
            Typed::Nothing | Typed::End => Ok(String::new()),
        }
    }
}

fn asked(held: &Value) -> (Value, Value) {
    (held["question"].clone(), held["asked_us"].clone())
}

fn told(held: &Value) -> String {
    format!("{}{}", line(held), grant_beside(held))
}

/// `for 30m`, `uses 20`, or both, as a query.
fn granting(text: &str) -> Result<String, String> {
    let (mut lasts, mut uses) = (None, None);
    let mut words = text.split_whitespace();
    while let Some(word) = words.next() {
        match (word, words.next()) {
            ("for", Some(time)) => lasts = Some(seconds(time).map_err(|error| error.to_string())?),
            ("uses", Some(count)) => uses = Some(count.parse().map_err(|_| HELP.to_owned())?),
            _ => return Err(HELP.to_owned()),
        }
    }
    Ok(terms(lasts, uses))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_means_one_action_or_nothing() {
        let approve = |id, terms: &str| {
            Ok(Typed::Approve {
                id,
                terms: terms.to_owned(),
            })
        };
        let deny = |id, reason: Option<&str>| {
            Ok(Typed::Deny {
                id,
                reason: reason.map(str::to_owned),
            })
        };
        for (line, want) in [
            ("", Ok(Typed::Nothing)),
            ("  \t", Ok(Typed::Nothing)),
            ("12", Ok(Typed::Show(12))),
            ("s 12", Ok(Typed::Show(12))),
            ("a 12", approve(12, "")),
            ("approve  12 ", approve(12, "")),
            ("a 12 for 30m", approve(12, "for_s=1800")),
            ("a 12 uses 20 for 2h", approve(12, "for_s=7200&uses=20")),
            ("d 12", deny(12, None)),
            ("deny 12 not on a Friday", deny(12, Some("not on a Friday"))),
            ("q", Ok(Typed::End)),
        ] {
            assert_eq!(Typed::read(line), want, "{line}");
        }
        for line in [
            "a",
            "d",
            "s",
            "x",
            "x 12",
            "12 a",
            "12 13",
            "a twelve",
            "a 12 13",
            "a 12 for",
            "a 12 for ever",
            "a 12 uses many",
            "a 12 uses -1",
            "a 12 always",
            "99999999999999999999",
        ] {
            assert!(Typed::read(line).is_err(), "{line}: {:?}", Typed::read(line));
        }
    }
}
