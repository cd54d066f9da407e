//! A record as it is stored: its columns, and its link in the chain.

use std::fmt::Display;
use std::io::Write as _;

use rusqlite::{Statement, params};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::{Outcome, Record};
use crate::facts::escape;

/// SHA-256 of a link: over the hash before it and the row's canonical content.
pub(super) type Hash = [u8; 32];

/// Bytes that the texts of most records fit in, so that they are not moved while they grow.
const TEXT_BYTES: usize = 1 << 10;

/// A stored record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    pub id: u64,
    /// Unix time, microseconds.
    pub at_us: i64,
    pub step: String,
    pub transport: String,
    pub node: String,
    pub login: Option<String>,
    pub address: String,
    pub profile: Option<String>,
    pub endpoint: String,
    pub credential: Option<String>,
    pub summary: String,
    /// JSON text.
    pub facts: String,
    pub digest: String,
    pub verdict: String,
    pub cause: String,
    pub rule: Option<String>,
    pub reason: String,
    pub detail: Option<String>,
    /// JSON array.
    pub approvers: String,
    /// JSON array.
    pub shadow: String,
    pub judge_us: u64,
    pub wait_us: u64,
    pub policy: u64,
    /// JSON text; rows of the first version have none, and their links stay what they were.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
}

impl Row {
    pub(super) const INSERT: &str =
        "INSERT INTO record VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)";

    pub(super) fn new(id: u64, record: &Record) -> Row {
        let text = |value: &Option<std::sync::Arc<str>>| value.as_deref().map(str::to_owned);
        Row {
            id,
            at_us: record.at_us,
            step: match record.step {
                _ if record.verdict == Record::NOTE => "gateway",
                crate::verdict::Step::Connect => "connect",
                crate::verdict::Step::Request => "request",
                crate::verdict::Step::Preview => "preview",
                crate::verdict::Step::Passthrough => "passthrough",
            }
            .to_owned(),
            transport: record.transport.to_owned(),
            node: record.node.clone(),
            login: record.login.clone(),
            address: record.address.clone(),
            profile: text(&record.profile),
            endpoint: record.endpoint.to_string(),
            credential: text(&record.credential),
            summary: record.summary.clone(),
            facts: record.facts.as_str().to_owned(),
            digest: hex(record.digest.as_bytes()),
            verdict: record.verdict.to_owned(),
            cause: record.cause.to_owned(),
            rule: text(&record.rule),
            reason: record.reason.clone(),
            detail: record.detail.clone(),
            approvers: json(&record.approvers),
            shadow: json(&record.shadow),
            judge_us: record.judge_us & i64::MAX as u64,
            wait_us: record.wait_us & i64::MAX as u64,
            policy: record.policy & i64::MAX as u64,
            agent: record.agent.as_ref().map(json),
        }
    }

    /// A record of what the gateway did to the log itself.
    pub(super) fn of_gateway(id: u64, at_us: i64, cause: &str, summary: String, facts: String) -> Row {
        Row {
            id,
            at_us,
            step: "gateway".to_owned(),
            transport: "none".to_owned(),
            node: "gateway".to_owned(),
            login: None,
            address: String::new(),
            profile: None,
            endpoint: "gateway".to_owned(),
            credential: None,
            summary,
            facts,
            digest: crate::verdict::Digest::of(&[]).to_string(),
            verdict: "note".to_owned(),
            cause: cause.to_owned(),
            rule: None,
            reason: String::new(),
            detail: None,
            approvers: "[]".to_owned(),
            shadow: "[]".to_owned(),
            judge_us: 0,
            wait_us: 0,
            policy: 0,
            agent: None,
        }
    }

    /// Every field, in a fixed order, unambiguous as JSON: what the link is computed from. As serde writes it, whose way of
    /// escaping takes most of a record's time where its facts are long.
    pub(super) fn text(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(TEXT_BYTES + self.facts.len());
        let number = |out: &mut Vec<u8>, name: &str, value: &dyn Display| {
            // A vector takes whatever is written.
            let _ = write!(out, "\"{name}\":{value},");
        };
        let text = |out: &mut Vec<u8>, name: &str, value: Option<&str>| {
            out.push(b'"');
            out.extend_from_slice(name.as_bytes());
            out.extend_from_slice(b"\":");
            match value {
                Some(value) => escape::text(out, value),
                None => out.extend_from_slice(b"null"),
            }
            out.push(b',');
        };
        out.push(b'{');
        number(&mut out, "id", &self.id);
        number(&mut out, "at_us", &self.at_us);
        for (name, value) in [
            ("step", Some(&self.step)),
            ("transport", Some(&self.transport)),
            ("node", Some(&self.node)),
            ("login", self.login.as_ref()),
            ("address", Some(&self.address)),
            ("profile", self.profile.as_ref()),
            ("endpoint", Some(&self.endpoint)),
            ("credential", self.credential.as_ref()),
            ("summary", Some(&self.summary)),
            ("facts", Some(&self.facts)),
            ("digest", Some(&self.digest)),
            ("verdict", Some(&self.verdict)),
            ("cause", Some(&self.cause)),
            ("rule", self.rule.as_ref()),
            ("reason", Some(&self.reason)),
            ("detail", self.detail.as_ref()),
            ("approvers", Some(&self.approvers)),
            ("shadow", Some(&self.shadow)),
        ] {
            text(&mut out, name, value.map(String::as_str));
        }
        number(&mut out, "judge_us", &self.judge_us);
        number(&mut out, "wait_us", &self.wait_us);
        number(&mut out, "policy", &self.policy);
        if let Some(agent) = &self.agent {
            text(&mut out, "agent", Some(agent));
        }
        out.pop();
        out.push(b'}');
        out
    }

    pub(super) fn insert(&self, insert: &mut Statement<'_>, hash: &Hash) -> rusqlite::Result<()> {
        insert.execute(params![
            self.id as i64,
            self.at_us,
            self.step,
            self.transport,
            self.node,
            self.login,
            self.address,
            self.profile,
            self.endpoint,
            self.credential,
            self.summary,
            self.facts,
            self.digest,
            self.verdict,
            self.cause,
            self.rule,
            self.reason,
            self.detail,
            self.approvers,
            self.shadow,
            self.judge_us as i64,
            self.wait_us as i64,
            self.policy as i64,
            hash.as_slice(),
            self.agent,
        ])?;
        Ok(())
    }

    /// Reads `SELECT * FROM record`.
    pub(super) fn read(row: &rusqlite::Row<'_>) -> rusqlite::Result<(Row, Hash)> {
        let number = |index| row.get::<_, i64>(index).map(|value| value as u64);
        let record = Row {
            id: number(0)?,
            at_us: row.get(1)?,
            step: row.get(2)?,
            transport: row.get(3)?,
            node: row.get(4)?,
            login: row.get(5)?,
            address: row.get(6)?,
            profile: row.get(7)?,
            endpoint: row.get(8)?,
            credential: row.get(9)?,
            summary: row.get(10)?,
            facts: row.get(11)?,
            digest: row.get(12)?,
            verdict: row.get(13)?,
            cause: row.get(14)?,
            rule: row.get(15)?,
            reason: row.get(16)?,
            detail: row.get(17)?,
            approvers: row.get(18)?,
            shadow: row.get(19)?,
            judge_us: number(20)?,
            wait_us: number(21)?,
            policy: number(22)?,
            agent: match row.get("agent") {
                // A log that a gateway of the first version wrote, and none has opened since.
                Err(rusqlite::Error::InvalidColumnName(_)) => None,
                agent => agent?,
            },
        };
        Ok((record, row.get("hash")?))
    }

    /// The record as one JSON object; `facts`, `approvers`, `shadow` and `agent` as what they are.
    pub fn to_json(&self) -> serde_json::Value {
        let mut value = serde_json::to_value(self).unwrap_or_default();
        if let Some(object) = value.as_object_mut() {
            for (name, text) in [
                ("facts", &self.facts),
                ("approvers", &self.approvers),
                ("shadow", &self.shadow),
            ] {
                let parsed = serde_json::from_str(text).unwrap_or(serde_json::Value::Null);
                object.insert(name.to_owned(), parsed);
            }
            if let Some(agent) = &self.agent {
                let parsed = serde_json::from_str(agent).unwrap_or(serde_json::Value::Null);
                object.insert("agent".to_owned(), parsed);
            }
        }
        value
    }
}

/// An outcome as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct OutcomeRow {
    pub(super) seq: u64,
    pub(super) record: u64,
    pub(super) outcome: Outcome,
}

impl OutcomeRow {
    pub(super) const INSERT: &str = "INSERT INTO outcome VALUES (?,?,?,?,?,?,?)";

    /// As [`Row::text`].
    pub(super) fn text(&self) -> Vec<u8> {
        let outcome = &self.outcome;
        let fields = (
            self.seq,
            self.record,
            &outcome.status,
            outcome.bytes_up as i64,
            outcome.bytes_down as i64,
            outcome.took_us as i64,
        );
        serde_json::to_vec(&fields).unwrap_or_default()
    }

    pub(super) fn insert(&self, insert: &mut Statement<'_>, hash: &Hash) -> rusqlite::Result<()> {
        insert.execute(params![
            self.seq as i64,
            self.record as i64,
            self.outcome.status,
            self.outcome.bytes_up as i64,
            self.outcome.bytes_down as i64,
            self.outcome.took_us as i64,
            hash.as_slice(),
        ])?;
        Ok(())
    }

    /// Reads `SELECT * FROM outcome`.
    pub(super) fn read(row: &rusqlite::Row<'_>) -> rusqlite::Result<(OutcomeRow, Hash)> {
        let number = |index| row.get::<_, i64>(index).map(|value| value as u64);
        let outcome = Outcome {
            status: row.get(2)?,
            bytes_up: number(3)?,
            bytes_down: number(4)?,
            took_us: number(5)?,
        };
        let row_of = OutcomeRow {
            seq: number(0)?,
            record: number(1)?,
            outcome,
        };
        Ok((row_of, row.get(6)?))
    }
}

/// As `Display` of a [`serde_json::Value`], without its formatter.
fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

/// The link after `before` of a row with this text.
pub(super) fn chain(before: &Hash, text: &[u8]) -> Hash {
    let mut hash = Sha256::new();
    hash.update(before);
    hash.update(text);
    hash.finalize().into()
}

pub(super) fn hex(hash: &Hash) -> String {
    let digit = |digit: u8| char::from_digit(u32::from(digit), 16).unwrap_or_default();
    hash.iter().fold(String::with_capacity(64), |mut text, byte| {
        text.push(digit(byte >> 4));
        text.push(digit(byte & 15));
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_written_as_serde_writes_it() {
        let mut row = Row::of_gateway(7, -1, "a\"b", "line\nline".to_owned(), r#"{"a":"\\"}"#.to_owned());
        assert_eq!(row.text(), serde_json::to_vec(&row).unwrap());
        for own in [
            &mut row.login,
            &mut row.profile,
            &mut row.credential,
            &mut row.rule,
            &mut row.detail,
            &mut row.agent,
        ] {
            *own = Some("x é \u{1}".to_owned());
        }
        (row.judge_us, row.wait_us, row.policy) = (1, 2, u64::MAX);
        assert_eq!(row.text(), serde_json::to_vec(&row).unwrap());
        assert_eq!(serde_json::from_slice::<Row>(&row.text()).unwrap(), row);
    }
}
