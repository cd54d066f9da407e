//! How questions like one were decided: by the same rule at the same endpoint, and of the same shape.
//!
//! A shape is what an action does, without what differs from one time to the next: method and path with their
//! numbers left out, verbs and tables, verb and resource, a tool. It is for people to look at and decides
//! nothing. What is kept of closed questions is bounded ([`super::CLOSED_KEPT_MAX`]), and an index holds all
//! that is counted here.

use rusqlite::{Connection, OptionalExtension, params};
use serde::Serialize;
use serde_json::Value;

use super::Queue;
use super::row::{State, voters};
use crate::state::{State as Database, StateError};

/// Questions that are shown, the newest first.
pub const SHOWN_MAX: u32 = 5;
/// Bytes of a shape that are kept: an agent chooses paths and names.
const SHAPE_BYTES_MAX: usize = 256;
/// Facts that say what an action does, in the order in which they stand in a shape. Lists of names count too.
const FACTS: &[&str] = &[
    "method",
    "host",
    "path",
    "graphql.kind",
    "graphql.fields",
    "verb",
    "verbs",
    "writes",
    "reads",
    "group",
    "resource",
    "namespace",
    "tool",
];

/// Other questions that the same rule asked of the same endpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, schemars::JsonSchema)]
pub struct Alike {
    /// Those of this shape, by how they stand: `used` is a yes, too.
    pub same: Vec<Stood>,
    /// Those of other shapes.
    pub others: Vec<Stood>,
    /// The newest of this shape that are closed.
    pub newest: Vec<Decided>,
}

/// How many questions stand so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, schemars::JsonSchema)]
pub struct Stood {
    pub state: State,
    pub questions: u64,
}

/// A question that is closed, in short.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, schemars::JsonSchema)]
pub struct Decided {
    pub id: i64,
    pub state: State,
    pub node: String,
    pub summary: String,
    pub by: Vec<String>,
    pub reason: Option<String>,
    /// Unix time, microseconds.
    pub closed_us: Option<i64>,
}

impl Queue {
    /// How questions like this one were decided; `None` where there is none with this number.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn alike(&self, id: i64) -> Result<Option<Alike>, StateError> {
        let look = move |state: &Database| state.with(|connection| of(connection, id));
        self.state().run(look).await
    }
}

/// What an action does, without what differs from one time to the next.
pub(super) fn shape(facts: &Value) -> String {
    let mut shape = String::new();
    for name in FACTS {
        let text = match &facts[name] {
            Value::String(text) if *name == "path" => without_numbers(text),
            Value::String(text) => text.clone(),
            Value::Array(names) => {
                let mut names: Vec<&str> = names.iter().filter_map(Value::as_str).collect();
                names.sort_unstable();
                names.join(",")
            }
            _ => continue,
        };
        if !text.is_empty() {
            shape.push_str(&format!("{name}={text} "));
        }
    }
    let end = shape.floor_char_boundary(SHAPE_BYTES_MAX);
    shape.truncate(end);
    shape
}

/// A path in which each segment with a digit is `*`: most of these are numbers of things.
fn without_numbers(path: &str) -> String {
    let segments = path.split('/').enumerate().map(|(at, segment)| {
        // `v1` and its like are versions, where they come first.
        let is_number = at > 2 && segment.bytes().any(|byte| byte.is_ascii_digit());
        if is_number || segment.bytes().all(|byte| byte.is_ascii_digit()) && !segment.is_empty() {
            "*"
        } else {
            segment
        }
    });
    segments.collect::<Vec<_>>().join("/")
}

fn of(connection: &Connection, id: i64) -> Result<Option<Alike>, StateError> {
    type Place = (Option<String>, Option<String>, Option<String>);
    let place = "SELECT endpoint, rule, shape FROM approval WHERE id = ?";
    let place = connection.query_row(place, [id], |row| -> rusqlite::Result<Place> {
        Ok((row.get(0)?, row.get(1)?, row.get(2)?))
    });
    let Some((endpoint, rule, shape)) = place.optional()? else {
        return Ok(None);
    };
    let mut alike = Alike::default();
    let mut counted = connection.prepare_cached(
        "SELECT shape = ?3, state, count(*) FROM approval WHERE endpoint = ?1 AND rule = ?2 AND id <> ?4
         GROUP BY 1, 2 ORDER BY 2",
    )?;
    let mut rows = counted.query(params![endpoint, rule, shape, id])?;
    while let Some(row) = rows.next()? {
        let stood = Stood {
            state: state(&row.get::<_, String>(1)?)?,
            questions: row.get::<_, i64>(2)? as u64,
        };
        match row.get(0)? {
            true => alike.same.push(stood),
            false => alike.others.push(stood),
        }
    }
    let mut newest = connection.prepare_cached(
        "SELECT id, state, node, json_extract(question, '$.summary'), decided_by, reason, closed_us
         FROM approval WHERE id IN (
           SELECT id FROM approval WHERE endpoint = ?1 AND rule = ?2 AND shape = ?3 AND state <> 'pending'
           AND id <> ?4 ORDER BY id DESC LIMIT ?5) ORDER BY id DESC",
    )?;
    let mut rows = newest.query(params![endpoint, rule, shape, id, SHOWN_MAX])?;
    while let Some(row) = rows.next()? {
        let id = row.get(0)?;
        alike.newest.push(Decided {
            id,
            state: state(&row.get::<_, String>(1)?)?,
            node: row.get(2)?,
            summary: row.get::<_, Option<String>>(3)?.unwrap_or_default(),
            by: match row.get(4)? {
                Some(person) => vec![person],
                None => voters(connection, id)?,
            },
            reason: row.get(5)?,
            closed_us: row.get(6)?,
        });
    }
    Ok(Some(alike))
}

fn state(name: &str) -> Result<State, StateError> {
    State::read(name).ok_or_else(|| StateError::Refused(format!("unknown state {name} of an approval")))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_shape_is_what_is_done_without_its_numbers() {
        let of = |path: &str, method: &str| shape(&json!({ "method": method, "path": path, "body": "x" }));
        assert_eq!(
            of("/v1/orders/4711/refund", "post"),
            "method=post path=/v1/orders/*/refund "
        );
        assert_eq!(
            of("/v1/orders/4711/refund", "post"),
            of("/v1/orders/12/refund", "post")
        );
        assert_ne!(
            of("/v1/orders/4711/refund", "post"),
            of("/v1/orders/4711", "post")
        );
        assert_ne!(of("/v1/orders/1", "get"), of("/v1/orders/1", "delete"));
        assert_ne!(of("/v1/orders", "get"), of("/v2/orders", "get"));
        let sql = |writes: &[&str]| shape(&json!({ "verb": "update", "writes": writes, "statement": "x" }));
        assert_eq!(sql(&["b", "a"]), sql(&["a", "b"]));
        assert_ne!(sql(&["a"]), sql(&["b"]));
        // A fact that could not be had is an object, and part of no shape.
        assert_eq!(shape(&json!({ "verb": { "unknown": "large" }, "tool": "" })), "");
        let long = of(&"/é".repeat(SHAPE_BYTES_MAX), "post");
        assert!(long.len() <= SHAPE_BYTES_MAX && long.starts_with("method=post path=/é"));
    }
}
