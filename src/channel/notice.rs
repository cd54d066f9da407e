//! What people are told of a held action, as plain text. *Pure.*
//!
//! Whatever an agent wrote goes through [`printable`]: what is not seen, or turns round what stands beside
//! it, stands escaped. What a service makes of the text (markup, headers) is for each channel to shut out.

use std::fmt::Write as _;

use serde_json::Value;

use super::short;
use super::visible::printable;
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
    /// The whole action with its parameters: its agent's own words, to be shown by [`Notice::quoted`].
    pub action: String,
    /// What it would do, where that was found out.
    pub does: String,
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
        let does = match &question["preview"] {
            Value::Null => String::new(),
            shown => lines(&serde_json::to_string_pretty(shown).unwrap_or_default()),
        };
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
            does,
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

    /// The action, each of its lines behind a mark: none of them passes for what is said beside it.
    pub fn quoted(&self) -> String {
        let lines = self.action.split('\n').map(|line| format!("| {line}"));
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
        assert_eq!(
            notice.quoted(),
            "| DELETE\n| \tFROM\\u{d} x\\u{200b}\\u{feff}\n| \n| With these parameters:\n| $1 = \"7\"\n| $2 = NULL"
        );
        assert!(notice.does.contains("DELETE 3"));
        assert_eq!(notice.link, "https://page/#/approvals/7");
        assert_eq!(notice.said, "approved so far by ann@example.com");
        assert!(
            notice
                .about()
                .contains("Tags: tag:ci, tag:x\\u{200b}\nWanted: 2 people\nSaid before: eve@example.com, bob@example.com through slack.ops\nUntil: 1970-01-01 00:01:00 UTC")
        );
    }
}
