//! A held action's facts, and what is known of who asks, in few lines for a message. *Pure.*
//!
//! The page shows all of it. Here each line and their number are bounded, whatever an agent wrote is
//! [`printable`], and of what the agent did there are counts alone: a message stays with its service.

use serde_json::Value;

use super::visible::printable;
use crate::verdict::approval::{Alike, Stood};
use crate::verdict::gate::asker::Asker;

/// Facts that a message shows; the page has the rest.
pub const FACTS_MAX: usize = 24;
/// Characters of one line, escapes of what is not seen included.
pub const LINE_CHARS_MAX: usize = 120;
/// Endpoints and verdicts that a message counts by.
pub const COUNTS_MAX: usize = 6;

/// Facts that stand in the action itself, whole.
const IN_THE_ACTION: &[&str] = &["statement", "parameters", "body", "body_json", "headers"];

/// What the gateway read the action as, a fact a line.
pub fn facts(facts: &Value) -> Vec<String> {
    let facts = facts.as_object().into_iter().flatten();
    let shown = facts.filter(|(name, _)| !IN_THE_ACTION.contains(&name.as_str()));
    let mut lines: Vec<String> = shown
        .filter_map(|(name, value)| Some(cut(&format!("{name}: {}", value_of(value)?))))
        .collect();
    let more = lines.len().saturating_sub(FACTS_MAX);
    if more > 0 {
        lines.truncate(FACTS_MAX);
        lines.push(format!("{more} more on the page"));
    }
    lines
}

/// One fact; `None` where it says nothing (no body, no LIMIT).
fn value_of(value: &Value) -> Option<String> {
    match value {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        Value::Array(values) if values.is_empty() => None,
        Value::Array(values) => {
            let texts: Option<Vec<String>> = values.iter().map(value_of).collect();
            texts.map(|texts| texts.join(", "))
        }
        Value::Object(fields) if fields.is_empty() => None,
        Value::Object(fields) => match fields.get("unknown").and_then(Value::as_str) {
            Some(why) if fields.len() == 1 => Some(format!("not known ({why})")),
            _ => Some(value.to_string()),
        },
        value => Some(value.to_string()),
    }
}

/// What the agent did in the last hour, and how questions like this one were decided.
pub fn asker(asker: &Asker) -> Vec<String> {
    let counts = &asker.did.counts;
    let shown = counts.iter().take(COUNTS_MAX);
    let mut did: Vec<String> = shown
        .map(|count| format!("{} {} at {}", count.actions, count.verdict, count.endpoint))
        .collect();
    if counts.len() > COUNTS_MAX {
        did.push("more elsewhere".to_owned());
    }
    if did.is_empty() {
        did.push("nothing else".to_owned());
    }
    if !asker.did.whole {
        did.push("of the newest records alone".to_owned());
    }
    let Alike { same, others, .. } = &asker.alike;
    [
        format!("Its last hour: {}", did.join(", ")),
        format!("Asked before by this rule, like this: {}", stood(same)),
        format!("Asked before by this rule, others: {}", stood(others)),
    ]
    .iter()
    .map(|line| cut(line))
    .collect()
}

fn stood(of: &[Stood]) -> String {
    let each = of
        .iter()
        .map(|one| format!("{} {}", one.questions, one.state.name().replace('_', " ")));
    let each: Vec<String> = each.collect();
    match each.is_empty() {
        true => "none".to_owned(),
        false => each.join(", "),
    }
}

/// One line of what can be seen.
fn cut(text: &str) -> String {
    let text = printable(text);
    match text.char_indices().nth(LINE_CHARS_MAX) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::audit::activity::{Count, Latest};
    use crate::verdict::approval::QuestionState;

    #[test]
    fn facts_are_few_lines_that_can_be_seen() {
        let of = |value: Value| facts(&value);
        assert_eq!(
            of(json!({
                "verb": "delete", "writes": ["orders", "li\u{202e}nes"], "has_where": false, "row_limit": null,
                "statement": "DELETE", "parameters": [], "opaque": { "unknown": "truncated" }, "query": { "a": ["1"] },
            })),
            [
                "verb: delete",
                "writes: orders, li\\u{202e}nes",
                "has_where: false",
                "opaque: not known (truncated)",
                "query: {\"a\":[\"1\"]}",
            ]
        );
        assert!(of(Value::Null).is_empty());
        let long = of(json!({ "path": "\n".repeat(LINE_CHARS_MAX) }));
        assert_eq!(long[0].chars().count(), LINE_CHARS_MAX + 1);
        assert!(long[0].ends_with('…') && !long[0].contains('\n'), "{long:?}");
        let many: serde_json::Map<String, Value> = (0..=FACTS_MAX + 1)
            .map(|number| (format!("f{number:02}"), json!(number)))
            .collect();
        let many = of(Value::Object(many));
        assert_eq!(many.len(), FACTS_MAX + 1);
        assert_eq!(many[FACTS_MAX], "2 more on the page");
    }

    #[test]
    fn who_asks_is_told_by_counts() {
        let of = |counts: u64, whole: bool| {
            let did = Latest {
                counts: (0..counts)
                    .map(|number| Count {
                        endpoint: format!("https.e{number}"),
                        verdict: "allow".to_owned(),
                        actions: number,
                    })
                    .collect(),
                actions: Vec::new(),
                whole,
            };
            let state = QuestionState::TimedOut;
            let same = vec![Stood { state, questions: 3 }];
            let alike = Alike {
                same,
                ..Alike::default()
            };
            asker(&Asker {
                since_us: 0,
                did,
                alike,
            })
        };
        assert_eq!(
            of(0, true),
            [
                "Its last hour: nothing else",
                "Asked before by this rule, like this: 3 timed out",
                "Asked before by this rule, others: none",
            ]
        );
        let most = u64::try_from(COUNTS_MAX).unwrap();
        assert!(!of(most, true)[0].contains("elsewhere"));
        let many = &of(most + 1, true)[0];
        assert!(!many.contains(&format!("e{most}")), "{many}");
        assert!(of(1, false)[0].ends_with("of the newest records alone"));
    }
}
