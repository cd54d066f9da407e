//! A record as it is stored: its columns, and its link in the chain.

use std::borrow::Cow;
use std::fmt::Display;
use std::io::Write as _;

use rusqlite::{Statement, params};
use serde::{Deserialize, Serialize};

use super::{Outcome, Record};
use crate::facts::escape;
pub(super) use crate::facts::escape::hex;
use crate::verdict::sha256::Sha256;

/// SHA-256 of a link: over the hash before it and the row's canonical content.
pub(super) type Hash = [u8; 32];

/// Bytes that the texts of most records fit in, so that they are not moved while they grow.
const TEXT_BYTES: usize = 1 << 10;

/// A stored record, or one on its way there, which is written from where it lies.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row<'a> {
    pub id: u64,
    /// Unix time, microseconds.
    pub at_us: i64,
    pub step: Cow<'a, str>,
    pub transport: Cow<'a, str>,
    pub node: Cow<'a, str>,
    pub login: Option<Cow<'a, str>>,
    pub address: Cow<'a, str>,
    pub profile: Option<Cow<'a, str>>,
    pub endpoint: Cow<'a, str>,
    pub credential: Option<Cow<'a, str>>,
    pub summary: Cow<'a, str>,
    /// JSON text.
    pub facts: Cow<'a, str>,
    pub digest: Cow<'a, str>,
    pub verdict: Cow<'a, str>,
    pub cause: Cow<'a, str>,
    pub rule: Option<Cow<'a, str>>,
    pub reason: Cow<'a, str>,
    pub detail: Option<Cow<'a, str>>,
    /// JSON array.
    pub approvers: Cow<'a, str>,
    /// JSON array.
    pub shadow: Cow<'a, str>,
    pub judge_us: u64,
    pub wait_us: u64,
    pub policy: u64,
    /// JSON text; rows of the first version have none, and their links stay what they were.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<Cow<'a, str>>,
}

impl<'a> Row<'a> {
    pub(super) const INSERT: &'static str =
        "INSERT INTO record VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)";

    pub(super) fn new(id: u64, record: &'a Record) -> Row<'a> {
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
            .into(),
            transport: record.transport.into(),
            node: (&record.node).into(),
            login: record.login.as_deref().map(Cow::from),
            address: (&record.address).into(),
            profile: record.profile.as_deref().map(Cow::from),
            endpoint: (&*record.endpoint).into(),
            credential: record.credential.as_deref().map(Cow::from),
            summary: (&record.summary).into(),
            facts: record.facts.as_str().into(),
            digest: hex(record.digest.as_bytes()).into(),
            verdict: record.verdict.into(),
            cause: record.cause.into(),
            rule: record.rule.as_deref().map(Cow::from),
            reason: (&record.reason).into(),
            detail: record.detail.as_deref().map(Cow::from),
            approvers: array(&record.approvers),
            shadow: array(&record.shadow),
            judge_us: record.judge_us & i64::MAX as u64,
            wait_us: record.wait_us & i64::MAX as u64,
            policy: record.policy & i64::MAX as u64,
            agent: record.agent.as_ref().map(|agent| json(agent).into()),
        }
    }

    /// A record of what the gateway did to the log itself.
    pub(super) fn of_gateway(id: u64, at_us: i64, cause: &'a str, summary: String, facts: String) -> Row<'a> {
        Row {
            id,
            at_us,
            step: "gateway".into(),
            transport: "none".into(),
            node: "gateway".into(),
            login: None,
            address: "".into(),
            profile: None,
            endpoint: "gateway".into(),
            credential: None,
            summary: summary.into(),
            facts: facts.into(),
            digest: crate::verdict::Digest::EMPTY.to_string().into(),
            verdict: "note".into(),
            cause: cause.into(),
            rule: None,
            reason: "".into(),
            detail: None,
            approvers: NONE.into(),
            shadow: NONE.into(),
            judge_us: 0,
            wait_us: 0,
            policy: 0,
            agent: None,
        }
    }

    /// Every field, in a fixed order, unambiguous as JSON: what the link is computed from. As serde writes it, whose way of
    /// escaping takes most of a record's time where its facts are long.
    pub(super) fn text(&self) -> Vec<u8> {
        // Of facts that are JSON, the quotes are escaped.
        let mut out = Vec::with_capacity(TEXT_BYTES + self.facts.len() + self.facts.len() / 4);
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
            text(&mut out, name, value.map(AsRef::as_ref));
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
    pub(super) fn read(row: &rusqlite::Row<'_>) -> rusqlite::Result<(Row<'static>, Hash)> {
        let number = |index| row.get::<_, i64>(index).map(|value| value as u64);
        let text = |index| row.get::<_, String>(index).map(Cow::from);
        let maybe = |index| {
            row.get::<_, Option<String>>(index)
                .map(|text| text.map(Cow::from))
        };
        let record = Row {
            id: number(0)?,
            at_us: row.get(1)?,
            step: text(2)?,
            transport: text(3)?,
            node: text(4)?,
            login: maybe(5)?,
            address: text(6)?,
            profile: maybe(7)?,
            endpoint: text(8)?,
            credential: maybe(9)?,
            summary: text(10)?,
            facts: text(11)?,
            digest: text(12)?,
            verdict: text(13)?,
            cause: text(14)?,
            rule: maybe(15)?,
            reason: text(16)?,
            detail: maybe(17)?,
            approvers: text(18)?,
            shadow: text(19)?,
            judge_us: number(20)?,
            wait_us: number(21)?,
            policy: number(22)?,
            agent: match row.get::<_, Option<String>>("agent") {
                // A log that a gateway of the first version wrote, and none has opened since.
                Err(rusqlite::Error::InvalidColumnName(_)) => None,
                agent => agent?.map(Cow::from),
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

/// An empty array.
const NONE: &str = "[]";

fn array(names: &[impl Serialize]) -> Cow<'static, str> {
    match names {
        [] => NONE.into(),
        names => json(&names).into(),
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
    hash.finish()
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
            *own = Some("x é \u{1}".into());
        }
        (row.judge_us, row.wait_us, row.policy) = (1, 2, u64::MAX);
        assert_eq!(row.text(), serde_json::to_vec(&row).unwrap());
        assert_eq!(serde_json::from_slice::<Row>(&row.text()).unwrap(), row);
    }
}
