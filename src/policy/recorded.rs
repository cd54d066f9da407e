//! Facts as a record keeps them, for judging what was done by another policy. *Pure.*
//!
//! A record has the facts that the policy of then read, with credentials masked. What it does not
//! have, or has in part, is not guessed: a verdict that hangs on it is no verdict.

use std::cell::Cell;

use serde_json::Value as Json;

use crate::facts::json::Document;
use crate::facts::k8s::params;
use crate::facts::mask::MASKED;
use crate::facts::{Blind, Fact, FactSource, Family, Kind, Slot, View};

/// A fact of a record.
#[derive(Debug)]
enum Kept {
    Null,
    Bool(bool),
    Int(i64),
    Text(String),
    Texts(Vec<String>),
    Named(Vec<String>),
    Json(Document),
    Map(Vec<(String, String)>),
    MultiMap(Vec<(String, Vec<String>)>),
    /// It could not be had then either.
    Unknown(Blind),
}

/// The facts of one record, or of the agent in it.
#[derive(Debug, Default)]
pub struct RecordedFacts {
    facts: Vec<(Slot, Kept)>,
    missed: Cell<Option<Slot>>,
}

impl RecordedFacts {
    /// Reads what [`crate::facts::Facts::to_json`] wrote of a family.
    pub fn read(family: Family, facts: &Json) -> RecordedFacts {
        let kept = |slot: Slot| Some((slot, kept(slot, facts.get(slot.name())?)?));
        RecordedFacts {
            facts: Slot::of_family(family).filter_map(kept).collect(),
            missed: Cell::new(None),
        }
    }

    /// The last fact that was asked for and is not in the record.
    pub fn missed(&self) -> Option<Slot> {
        self.missed.get()
    }

    /// Whether a fact is in the record.
    pub fn has(&self, slot: Slot) -> bool {
        self.facts.iter().any(|(own, _)| *own == slot)
    }
}

fn texts(value: &Json) -> Option<Vec<String>> {
    value
        .as_array()?
        .iter()
        .map(|item| Some(item.as_str()?.to_owned()))
        .collect()
}

fn kept(slot: Slot, value: &Json) -> Option<Kept> {
    if hidden(value) {
        return None;
    }
    if let (Slot::SqlFunctions, Some(names)) = (slot, value.get("named")) {
        return Some(Kept::Named(texts(names)?));
    }
    if let Some(why) = value.get("unknown") {
        // A body of this very form cannot be told from the mark; nor is what the log's own limit
        // took out what could not be had.
        if slot.kind() == Kind::Json || value.as_object()?.len() != 1 {
            return None;
        }
        return Some(Kept::Unknown(match why.as_str()? {
            "truncated" => Blind::Truncated,
            "unparseable" => Blind::Unparseable,
            "ambiguous" => Blind::Ambiguous,
            "opaque" => Blind::Opaque,
            _ => return None,
        }));
    }
    Some(match slot.kind() {
        Kind::Json => Kept::Json(value.into()),
        _ if value.is_null() => Kept::Null,
        Kind::Bool => Kept::Bool(value.as_bool()?),
        Kind::Int | Kind::OptionalInt => Kept::Int(value.as_i64()?),
        Kind::Text => Kept::Text(value.as_str()?.to_owned()),
        Kind::Texts => Kept::Texts(texts(value)?),
        Kind::Map => {
            let pair = |(name, value): (&String, &Json)| Some((name.clone(), value.as_str()?.to_owned()));
            let pairs = value.as_object()?.iter().map(pair).collect::<Option<_>>()?;
            // Records of before have them as they were sent.
            Kept::Map(match slot {
                Slot::K8sParams => params::canonical(pairs),
                _ => pairs,
            })
        }
        Kind::MultiMap => {
            let pair = |(name, value): (&String, &Json)| Some((name.clone(), texts(value)?));
            Kept::MultiMap(value.as_object()?.iter().map(pair).collect::<Option<_>>()?)
        }
    })
}

/// Whether a part of the value is masked.
fn hidden(value: &Json) -> bool {
    match value {
        Json::String(text) => text.contains(MASKED.trim_end_matches(')')),
        Json::Array(items) => items.iter().any(hidden),
        Json::Object(map) => map.values().any(hidden),
        _ => false,
    }
}

impl FactSource for RecordedFacts {
    fn fact(&self, slot: Slot) -> Fact<View<'_>> {
        let Some((_, kept)) = self.facts.iter().find(|(own, _)| *own == slot) else {
            self.missed.set(Some(slot));
            return Fact::Unknown(Blind::NotRead);
        };
        Fact::Known(match kept {
            Kept::Null => View::Null,
            Kept::Bool(value) => View::Bool(*value),
            Kept::Int(value) => View::Int(*value),
            Kept::Text(text) => View::Text(text),
            Kept::Texts(texts) => View::Texts(texts),
            Kept::Named(names) => View::Named(names),
            Kept::Json(json) => View::Json(json),
            Kept::Map(pairs) => View::Map(pairs),
            Kept::MultiMap(pairs) => View::MultiMap(pairs),
            Kept::Unknown(blind) => return Fact::Unknown(*blind),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_record_lacks_or_hides_is_missed_and_not_guessed() {
        let json = serde_json::json!({
            "method": "get", "body": {"unknown": "truncated"}, "websocket": false,
            "headers": {"authorization": ["(masked)"]}, "body_json": {"unknown": "truncated"},
            "query": {"unknown": "truncated", "bytes": 70000},
        });
        let facts = RecordedFacts::read(Family::Http, &json);
        assert!(matches!(
            facts.fact(Slot::HttpMethod),
            Fact::Known(View::Text("get"))
        ));
        assert!(matches!(
            facts.fact(Slot::HttpBody),
            Fact::Unknown(Blind::Truncated)
        ));
        assert!(matches!(
            facts.fact(Slot::HttpWebsocket),
            Fact::Known(View::Bool(false))
        ));
        assert_eq!(facts.missed(), None);
        for slot in [
            Slot::HttpHeaders,
            Slot::HttpBodyJson,
            Slot::HttpQuery,
            Slot::HttpPath,
        ] {
            assert!(
                matches!(facts.fact(slot), Fact::Unknown(Blind::NotRead)),
                "{slot:?}"
            );
            assert_eq!(facts.missed(), Some(slot));
        }
    }

    #[test]
    fn every_kind_reads_back_as_it_was_written() {
        let json = serde_json::json!({
            "verb": "select", "verbs": ["select"], "statements": 2, "row_limit": null, "parameters": [null, "a"],
            "functions": {"unknown": "opaque", "named": ["own"]},
        });
        let facts = RecordedFacts::read(Family::Sql, &json);
        for (slot, wanted) in [
            (Slot::SqlVerb, serde_json::json!("select")),
            (Slot::SqlVerbs, serde_json::json!(["select"])),
            (Slot::SqlStatements, serde_json::json!(2)),
            (Slot::SqlRowLimit, serde_json::json!(null)),
            (Slot::SqlParameters, serde_json::json!([null, "a"])),
            (
                Slot::SqlFunctions,
                serde_json::json!({"unknown": "opaque", "named": ["own"]}),
            ),
        ] {
            let Fact::Known(view) = facts.fact(slot) else {
                panic!("{slot:?}");
            };
            assert_eq!(view.to_json(), wanted);
        }
    }
}
