//! The durable record of every verdict.
//!
//! [`Record`] and [`Outcome`] are *pure*; the [`log`] keeps them in SQLite, in groups, and
//! answers only when a group is on disk.
//!
//! Invariants: no secret is ever in a record (facts hold placeholders); a record that cannot be
//! made durable is an error that denies; nothing is dropped silently; a record that says `allow`
//! without an outcome was told to its caller.

#[cfg(feature = "daemon")]
pub mod activity;
#[cfg(feature = "daemon")]
mod database;
#[cfg(feature = "daemon")]
mod journal;
#[cfg(feature = "daemon")]
pub mod log;
#[cfg(feature = "daemon")]
mod note;
#[cfg(feature = "daemon")]
mod outcomes;
#[cfg(feature = "daemon")]
pub mod read;
#[cfg(feature = "daemon")]
pub mod replay;
#[cfg(feature = "daemon")]
mod retention;
#[cfg(feature = "daemon")]
mod row;
#[cfg(feature = "daemon")]
mod share;
#[cfg(feature = "daemon")]
mod writer;

use std::sync::Arc;

#[cfg(feature = "daemon")]
pub use share::PARTS_PER_AGENT_MAX;

use crate::facts::FactsText;
use crate::verdict::{Digest, Step};

/// The number of a record, in order of arrival. Zero is no record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct RecordId(pub u64);

/// Bytes of one fact in a record, as JSON; a longer one stands as unknown, with its size. Without
/// a limit an agent could push the records of what it did out of the log by its size.
pub const FACT_BYTES_MAX: usize = 64 << 10;

/// One judged action.
#[derive(Clone, Debug)]
pub struct Record {
    /// Unix time of the verdict, in microseconds.
    pub at_us: i64,
    pub step: Step,
    pub transport: &'static str,
    pub node: String,
    pub login: Option<String>,
    pub address: String,
    /// What else is known of a tailnet's node, that another policy may choose its profile anew:
    /// `tags`, `grants`, `caps`, `is_guest`. None of a WireGuard peer, whose name says all.
    pub agent: Option<serde_json::Value>,
    pub profile: Option<Arc<str>>,
    pub endpoint: Arc<str>,
    pub credential: Option<Arc<str>>,
    pub summary: String,
    pub facts: FactsText,
    pub digest: Digest,
    /// `allow` or `deny`.
    pub verdict: &'static str,
    /// Why it was denied ([`crate::verdict::Cause::name`]), or how it was allowed: `rule`,
    /// `approved`, `unmatched`, `connect`, `passthrough`.
    pub cause: &'static str,
    pub rule: Option<Arc<str>>,
    pub reason: String,
    /// What the agent was not told.
    pub detail: Option<String>,
    /// Who approved or refused, as `approver:person`.
    pub approvers: Vec<String>,
    /// Rules in shadow mode that would have decided otherwise: `rule=verdict`.
    pub shadow: Vec<String>,
    /// Microseconds from the action's last byte to the policy's verdict.
    pub judge_us: u64,
    /// Microseconds spent waiting for approvers.
    pub wait_us: u64,
    /// Version of the policy that judged.
    pub policy: u64,
}

/// How long records are kept. Zero is for ever, or any number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Days (of 24 hours) that a record is kept.
    pub keep_days: u64,
    /// Bytes that the log takes on disk before the oldest records go. An agent that asks for much can
    /// push older records out: where that matters, `tailkeep audit tail -f` copies them elsewhere.
    pub bytes_max: u64,
}

impl Default for Retention {
    fn default() -> Self {
        Retention {
            keep_days: 365,
            bytes_max: 16 << 30,
        }
    }
}

/// What became of an allowed action. Recorded when it ends; not waited for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// `HTTP 200`, `SELECT 3`, `ERROR 23505`, `closed`.
    pub status: String,
    /// Bytes that went to the upstream.
    pub bytes_up: u64,
    /// Bytes that came from the upstream.
    pub bytes_down: u64,
    /// Microseconds from the permit to the end.
    pub took_us: u64,
}

impl Record {
    /// [`Record::verdict`] of a record of the gateway itself.
    #[cfg(feature = "daemon")]
    pub(crate) const NOTE: &str = "note";

    /// A record of what a person did to the gateway, not of an action: its step is `gateway`.
    #[cfg(feature = "daemon")]
    pub(crate) fn note(cause: &'static str, summary: String, facts: serde_json::Value) -> Record {
        Record {
            at_us: crate::state::now_us(),
            step: Step::Request,
            transport: "none",
            node: "gateway".to_owned(),
            login: None,
            address: String::new(),
            agent: None,
            profile: None,
            endpoint: "gateway".into(),
            credential: None,
            summary,
            facts: facts.into(),
            digest: Digest::EMPTY,
            verdict: Record::NOTE,
            cause,
            rule: None,
            reason: String::new(),
            detail: None,
            approvers: Vec::new(),
            shadow: Vec::new(),
            judge_us: 0,
            wait_us: 0,
            policy: 0,
        }
    }

    /// Leaves out what else is known of the agent where it is over [`FACT_BYTES_MAX`].
    pub fn bound_agent(&mut self) {
        self.agent = self.agent.take().filter(|agent| size(agent) <= FACT_BYTES_MAX);
    }
}

/// About how many bytes a value takes as JSON.
fn size(value: &serde_json::Value) -> usize {
    use serde_json::Value;
    match value {
        Value::Null | Value::Bool(_) => 5,
        Value::Number(_) => 20,
        Value::String(text) => text.len() + 2,
        Value::Array(values) => values.iter().map(|value| size(value) + 1).sum::<usize>() + 2,
        Value::Object(members) => {
            let members = members.iter();
            members
                .map(|(name, value)| name.len() + size(value) + 4)
                .sum::<usize>()
                + 2
        }
    }
}

#[cfg(feature = "daemon")]
impl Outcome {
    /// Of an action that its record allows and that never happened.
    fn not_done() -> Outcome {
        Outcome {
            status: log::NOT_DONE.to_owned(),
            ..Outcome::default()
        }
    }
}
