//! One held action, whole, for a terminal.

use std::fmt::Write as _;

use serde_json::Value;

use super::{asker, line};
use crate::admin::client::Reach;
use crate::cli::printable;
use crate::verdict::approval::{Said, parameters};

/// One question as the gateway gives it, and as a text: with who asks it, and what was decided on others like it.
///
/// # Errors
/// The gateway cannot be asked, or has none with this number.
pub(super) fn whole(reach: &Reach, id: i64) -> anyhow::Result<(Value, String)> {
    let held = reach.get(&format!("/v1/approvals/{id}"))?;
    let beside = reach.get(&format!("/v1/approvals/{id}/asker"))?;
    let text = format!("{}{}", text(&held)?, asker::text(&beside));
    Ok((held, text))
}

/// Everything of a question that a person needs to decide. What the agent wrote cannot drive the terminal.
fn text(held: &Value) -> anyhow::Result<String> {
    let question = &held["question"];
    let mut out = format!("{}\n\n", line(held));
    for (label, value) in labelled(held) {
        let _ = writeln!(out, "{label:<11} {}", printable(&value));
    }
    let wide = wide();
    if !question["preview"].is_null() {
        let shown = lines(&serde_json::to_string_pretty(&question["preview"])?);
        let _ = write!(out, "\nWhat it would do:\n{shown}\n");
    }
    let detail = question["detail"].as_str().unwrap_or_default();
    let _ = write!(
        out,
        "\nIn its agent's words, behind each |:\n{}\n",
        quoted(detail, wide)
    );
    let bound = parameters(question);
    if !bound.is_empty() {
        let bound = quoted(&bound.join("\n"), wide);
        let _ = write!(out, "\nWith these parameters:\n{bound}\n");
    }
    if let (Some(kind), Some(body)) = (held["body"]["kind"].as_str(), held["body"]["text"].as_str()) {
        let _ = write!(
            out,
            "\nIts body, as {}:\n{}\n",
            printable(kind),
            quoted(body, wide)
        );
    }
    let facts = lines(&serde_json::to_string_pretty(&question["facts"])?);
    let _ = write!(out, "\n{facts}\n");
    Ok(out)
}

/// What stands beside the action, a label and a text each.
fn labelled(held: &Value) -> Vec<(&'static str, String)> {
    let question = &held["question"];
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let names = |value: &Value| {
        let names = value.as_array().into_iter().flatten();
        names.filter_map(Value::as_str).collect::<Vec<_>>().join(", ")
    };
    // What cannot be read says nothing here; `--format json` has it as it is.
    let earlier: Vec<Said> = serde_json::from_value(question["earlier"].clone()).unwrap_or_default();
    let earlier: Vec<String> = earlier.iter().map(Said::to_string).collect();
    let wanted = match (
        question["required"].as_u64().unwrap_or(1),
        names(&question["eligible"]),
    ) {
        (1, eligible) if eligible.is_empty() => String::new(),
        (required, eligible) => {
            let people = if required == 1 { "person" } else { "people" };
            let of = if eligible.is_empty() { "" } else { " of " };
            format!("{required} {people}{of}{eligible}")
        }
    };
    let later = match names(&question["escalate_to"]) {
        to if to.is_empty() => to,
        to => format!("{to}, after {} s", question["escalate_after_s"]),
    };
    let mut rows = vec![
        ("came by", text(&question["transport"])),
        ("tags", names(&question["tags"])),
        ("asked by", text(&question["login"])),
        ("profile", text(&question["profile"])),
        ("credential", text(&question["credential"])),
        ("endpoint", text(&question["description"])),
        ("reason", text(&question["reason"])),
        ("approver", text(&question["approver"])),
        ("channel", text(&question["channel"])),
        ("needs", wanted),
        ("never", text(&question["excluded"])),
        ("later also", later),
        ("said before", earlier.join(", ")),
        ("digest", text(&question["digest"])),
        ("said", text(&held["reason"])),
    ];
    for told in held["told"].as_array().into_iter().flatten() {
        let (channel, state, problem) = (
            text(&told["channel"]),
            text(&told["state"]),
            text(&told["problem"]),
        );
        rows.push((
            "told",
            format!("{channel} {state} {problem}").trim_end().to_owned(),
        ));
    }
    rows.retain(|(_, text)| !text.is_empty());
    rows
}

/// A text with its lines, each behind a mark, and cut where the terminal would: none of them passes for what is said
/// beside it. Behind `\` a line goes on.
fn quoted(text: &str, wide: usize) -> String {
    let room = wide.saturating_sub(3).max(8);
    let mut out = Vec::new();
    for line in text.split('\n').map(printable) {
        let (mut piece, mut taken) = (String::new(), 0);
        for char in line.chars() {
            // What is not ASCII may take two places.
            let takes = if char.is_ascii() { 1 } else { 2 };
            if taken + takes > room {
                out.push(format!("| {piece}\\"));
                (piece, taken) = (String::new(), 0);
            }
            piece.push(char);
            taken += takes;
        }
        out.push(format!("| {piece}"));
    }
    out.join("\n")
}

/// Columns of the terminal; what is no terminal cuts no line.
fn wide() -> usize {
    let size = rustix::termios::tcgetwinsize(std::io::stdout()).ok();
    let columns = size.map(|size| usize::from(size.ws_col));
    columns.filter(|columns| *columns > 0).unwrap_or(usize::MAX)
}

/// A text with its lines.
fn lines(text: &str) -> String {
    text.split('\n').map(printable).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_line_of_an_agent_passes_for_another() {
        assert_eq!(
            quoted("a\nWhat it would do:\n", 80),
            "| a\n| What it would do:\n| "
        );
        let padded = format!("{}approved", " ".repeat(17));
        assert_eq!(quoted(&padded, 20), format!("| {}\\\n| approved", " ".repeat(17)));
        assert_eq!(quoted("ééééé", 11), "| éééé\\\n| é");
        assert_eq!(quoted(&padded, usize::MAX), format!("| {padded}"));
    }
}
