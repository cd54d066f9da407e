//! What people are told of a held action, as plain text. *Pure.*
//!
//! Whatever an agent wrote goes through [`printable`]: what is not seen, or turns round what stands beside
//! it, stands escaped. What a service makes of the text (markup, headers) is for each channel to shut out.

use std::fmt::Write as _;

use serde_json::Value;

use super::short;
use crate::verdict::approval::{Held, QuestionState, Said, parameters};

/// Ends the version of a question that others may decide too by now.
pub const ESCALATED: &str = " escalated";

/// A held action for people.
#[derive(Clone, Debug)]
pub struct Notice {
    pub id: i64,
    /// One line of ours and of names; nothing of the action.
    pub title: String,
    /// Who asks, and why people are asked: labels and their texts.
    pub about: Vec<(&'static str, String)>,
    /// The whole action with its parameters, and what it would do where that was found out.
    pub action: String,
    /// What the gateway read it as, in short.
    pub facts: Vec<String>,
    /// What the agent did of late and how questions like this were decided, in short; empty where it was not
    /// looked for.
    pub asker: Vec<String>,
    /// Where the page shows it.
    pub link: String,
    pub state: QuestionState,
    /// Others may decide it too by now.
    pub is_escalated: bool,
    /// Who said yes so far, or how it ended.
    pub said: String,
}

impl Notice {
    /// `held` is whole, as [`crate::verdict::approval::Queue::show`] gives it.
    pub fn of(held: &Held, page: &str) -> Notice {
        let question = &held.question;
        let text = |field: &str| line(question[field].as_str().unwrap_or_default());
        let labels = [
            ("Agent", "node"),
            ("Came by", "transport"),
            ("Login", "login"),
            ("Profile", "profile"),
            ("Endpoint", "endpoint"),
            ("Description", "description"),
            ("Credential", "credential"),
            ("Rule", "rule"),
            ("Reason", "reason"),
            ("Approver", "approver"),
            ("Digest", "digest"),
        ];
        let mut about: Vec<(&'static str, String)> = labels
            .into_iter()
            .map(|(label, field)| (label, text(field)))
            .filter(|(_, text)| !text.is_empty())
            .collect();
        let names = |field: &str| -> Vec<String> {
            let names = question[field].as_array().into_iter().flatten();
            names.filter_map(|name| name.as_str()).map(line).collect()
        };
        let tags = names("tags");
        if !tags.is_empty() {
            about.push(("Tags", tags.join(", ")));
        }
        let required = question["required"].as_u64().unwrap_or(1);
        if required > 1 {
            about.push(("Wanted", format!("{required} people")));
        }
        if held.escalated {
            about.push(("By now also of", names("escalate_to").join(", ")));
        }
        let earlier = said_before(question);
        if !earlier.is_empty() {
            about.push(("Said before", line(&earlier)));
        }
        if let Some(at) = chrono::DateTime::from_timestamp_micros(held.expires_us) {
            about.push(("Until", at.format("%Y-%m-%d %H:%M:%S UTC").to_string()));
        }
        let whole = |field: &str| question[field].as_str().filter(|text| !text.is_empty());
        let whole = whole("detail").or(whole("summary")).unwrap_or_default();
        let mut action = lines(whole);
        let bound = parameters(question);
        if !bound.is_empty() {
            let _ = write!(action, "\n\nWith these parameters:\n{}", lines(&bound.join("\n")));
        }
        if !question["preview"].is_null() {
            let shown = serde_json::to_string_pretty(&question["preview"]).unwrap_or_default();
            let _ = write!(action, "\n\nWhat it would do:\n{}", lines(&shown));
        }
        let by = line(&held.by.join(", "));
        let mut said = match held.state {
            QuestionState::Pending if held.by.is_empty() => String::new(),
            QuestionState::Pending => format!("approved so far by {by}"),
            QuestionState::Allowed | QuestionState::Used => format!("approved by {by}"),
            QuestionState::Denied => format!("denied by {by}"),
            QuestionState::TimedOut => "nobody decided in time".to_owned(),
            QuestionState::Withdrawn => "its agent has gone".to_owned(),
        };
        if let Some(reason) = held
            .reason
            .as_deref()
            .filter(|_| held.state != QuestionState::Pending)
        {
            let _ = write!(said, ": {}", line(reason));
        }
        Notice {
            id: held.id,
            title: format!("Approval {}: {} asks {}", held.id, text("node"), text("endpoint")),
            about,
            action,
            facts: short::facts(&question["facts"]),
            asker: Vec::new(),
            link: link(page, held.id),
            state: held.state,
            is_escalated: held.escalated,
            said,
        }
    }

    /// Who asks and why, a line each.
    pub fn about(&self) -> String {
        let lines = self.about.iter().map(|(label, text)| format!("{label}: {text}"));
        lines.collect::<Vec<_>>().join("\n")
    }

    /// How the question stands: a channel that was told of this is told again once it is another.
    pub fn version(held: &Held) -> String {
        match held.state {
            QuestionState::Pending => {
                let later = if held.escalated { ESCALATED } else { "" };
                format!("pending {}{later}", held.by.len())
            }
            // That it was used changes nothing for people.
            QuestionState::Used => QuestionState::Allowed.name().to_owned(),
            state => state.name().to_owned(),
        }
    }
}

/// The page of one question.
pub fn link(page: &str, id: i64) -> String {
    format!("{page}/#/approvals/{id}")
}

/// The whole question as JSON, for a program.
pub fn document(held: &Held, page: &str) -> Value {
    serde_json::json!({
        "approval": held.id, "state": held.state, "by": held.by, "reason": held.reason,
        "digest": held.question["digest"], "expires_us": held.expires_us,
        "page": link(page, held.id), "escalated": held.escalated, "question": held.question,
    })
}

/// Who said yes at the steps of the rule's chain before this one.
fn said_before(question: &Value) -> String {
    let earlier: Vec<Said> = serde_json::from_value(question["earlier"].clone()).unwrap_or_default();
    let each: Vec<String> = earlier.iter().map(Said::to_string).collect();
    each.join(", ")
}

/// A text on one line.
fn line(text: &str) -> String {
    printable(text)
}

/// A text with its lines and tabs.
fn lines(text: &str) -> String {
    let lines = text.split('\n');
    let kept = lines.map(|own| own.split('\t').map(printable).collect::<Vec<_>>().join("\t"));
    kept.collect::<Vec<_>>().join("\n")
}

/// A text that an agent may have written: what is no character of it stands escaped.
pub fn printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for char in text.chars() {
        match is_hidden(char) {
            true => out.extend(char.escape_unicode()),
            false => out.push(char),
        }
    }
    out
}

/// Controls drive a terminal; the others turn round what stands beside them, or are not seen. As
/// `printable` of the page.
pub fn is_hidden(char: char) -> bool {
    char.is_control()
        || matches!(char, '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}'
            | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
            | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{ffff}'
            | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(detail: &str) -> Held {
        let question = serde_json::json!({
            "node": "lap\u{202e}top", "endpoint": "https.api", "rule": "ask", "detail": detail,
            "digest": "sha256:00", "required": 2, "transport": "tailnet", "tags": ["tag:ci", "tag:x\u{200b}"],
            "facts": { "parameters": ["7", null] },
            "earlier": [{ "person": "eve@example.com", "through": null }, { "person": "bob@example.com", "through": "slack.ops" }], "preview": { "does": { "tag": "DELETE 3" } },
        });
        let held = serde_json::json!({
            "id": 7, "state": "pending", "question": question, "asked_us": 0, "expires_us": 60_000_000,
            "closed_us": null, "by": ["ann@example.com"], "reason": null,
        });
        serde_json::from_value(held).unwrap()
    }

    #[test]
    fn nothing_that_is_not_seen_is_told_as_if_it_were() {
        let notice = Notice::of(&held("DELETE\n\tFROM\r x\u{200b}\u{feff}"), "https://page");
        assert_eq!(notice.title, "Approval 7: lap\\u{202e}top asks https.api");
        assert!(
            notice
                .action
                .starts_with("DELETE\n\tFROM\\u{d} x\\u{200b}\\u{feff}\n\nWith these parameters:\n$1 = \"7\"\n$2 = NULL\n\nWhat it would do:")
        );
        assert!(notice.action.contains("DELETE 3"), "the preview is part of it");
        assert_eq!(notice.link, "https://page/#/approvals/7");
        assert_eq!(notice.said, "approved so far by ann@example.com");
        assert!(
            notice
                .about()
                .contains("Tags: tag:ci, tag:x\\u{200b}\nWanted: 2 people\nSaid before: eve@example.com, bob@example.com through slack.ops\nUntil: 1970-01-01 00:01:00 UTC")
        );
    }
}
