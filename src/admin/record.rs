//! What the API shows that is made of JSON and no type: a record of the audit log, as
//! [`crate::audit::read::Reader::select`] gives it, what is wrong in a policy, and what a rehearsal finds.

#![allow(dead_code, reason = "shapes, of which a schema is derived")]

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde_json::Value;

use crate::audit::replay::LeftOut;

/// One action as it was judged, or a note of the gateway's own.
#[derive(JsonSchema)]
pub(super) struct Record {
    /// Its number; they have no gaps.
    id: u64,
    /// Unix time, microseconds.
    at_us: i64,
    /// `connect`, `request`, `preview`, `passthrough`, or `gateway` of a note.
    step: String,
    transport: String,
    node: String,
    login: Option<String>,
    address: String,
    profile: Option<String>,
    endpoint: String,
    credential: Option<String>,
    summary: String,
    /// By the names of the endpoint's family, credentials masked.
    facts: Value,
    /// Of the exact bytes.
    digest: String,
    verdict: String,
    cause: String,
    rule: Option<String>,
    reason: String,
    detail: Option<String>,
    /// Who said yes, `approver:person`.
    approvers: Vec<String>,
    /// What rules in shadow mode would have said, `rule=verdict`.
    shadow: Vec<String>,
    judge_us: u64,
    wait_us: u64,
    /// The policy's version.
    policy: u64,
    /// The agent's tags, grants and capabilities; records of before have none.
    #[schemars(skip_serializing_if = "Value::is_null")]
    agent: Value,
    /// Its link in the chain, SHA-256 in hex.
    hash: String,
    /// What became of it, once that is known.
    #[schemars(skip_serializing_if = "Option::is_none")]
    outcome: Option<Outcome>,
}

/// What became of an action.
#[derive(JsonSchema)]
struct Outcome {
    status: String,
    bytes_up: i64,
    bytes_down: i64,
    took_us: i64,
}

/// What is wrong in a policy, or does not do what its writer may expect.
#[derive(JsonSchema)]
pub(super) struct Diagnostic {
    message: String,
    /// What would have been right.
    help: Option<String>,
    file: Option<String>,
    /// From 1.
    line: Option<usize>,
    /// From 1, in characters.
    column: Option<usize>,
    /// The line; null where it holds what must not be repeated.
    text: Option<String>,
    /// Another place that belongs to it.
    other: Option<String>,
}

/// What a policy would change of what was recorded.
#[derive(JsonSchema)]
pub(super) struct Rehearsed {
    /// Records that were judged anew.
    judged: u64,
    /// Of these, how many would come out otherwise.
    changed: u64,
    /// Of these, how many by the profile that was recorded.
    assumed: u64,
    changes: Vec<Change>,
    /// Why others could not be judged, with how many.
    not_replayed: BTreeMap<String, u64>,
    /// What was not looked at, as it was over a bound.
    left_out: Option<LeftOut>,
}

/// Records whose verdict would change in the same way.
#[derive(JsonSchema)]
struct Change {
    count: u64,
    endpoint: String,
    profile: String,
    was: Said,
    would: Said,
    /// The first of them.
    record: u64,
    summary: String,
}

/// A verdict with its rule.
#[derive(JsonSchema)]
struct Said {
    verdict: String,
    rule: Option<String>,
    /// Whom it asks, where that is known.
    #[schemars(skip_serializing_if = "Option::is_none")]
    approvers: Option<Vec<String>>,
}
