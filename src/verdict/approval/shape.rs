//! What a question and a grant's object have in JSON, for those who read them: [`super::Question::to_json`]
//! and `about` as types. Nothing is built of these; a test holds real answers against them. *Pure.*

#![allow(dead_code, reason = "shapes, of which a schema is derived")]

use schemars::JsonSchema;
use serde_json::Value;

use super::row::Said;
use crate::identity::Transport;

/// What an approver is asked.
#[derive(JsonSchema)]
#[schemars(rename = "Question")]
pub(super) struct Asked {
    approver: String,
    /// Where the approver wants its questions.
    channel: Option<String>,
    rule: String,
    reason: String,
    node: String,
    login: Option<String>,
    /// How the node came.
    transport: Transport,
    /// The node's tags on the tailnet, `tag:` included.
    tags: Vec<String>,
    profile: String,
    endpoint: String,
    /// What the operator wrote of the endpoint, for people.
    description: Option<String>,
    /// Which credential the gateway puts in.
    credential: Option<String>,
    summary: String,
    /// The whole action. Null in a listing where `cut` is true.
    detail: Option<String>,
    /// By the names of the endpoint's family. Null in a listing where `cut` is true.
    facts: Value,
    /// What it would do, or why that is not known; null where nothing can tell.
    preview: Value,
    /// Of the exact bytes that are held.
    digest: String,
    /// Distinct people who must allow.
    required: u32,
    /// Who may decide; empty for every operator.
    eligible: Vec<String>,
    /// Who may not: the agent's owner.
    excluded: Option<String>,
    /// Who may decide too, after `escalate_after_s`.
    escalate_to: Option<Vec<String>>,
    escalate_after_s: Option<u64>,
    /// The policy's version.
    policy: u64,
    /// The agent's key, `peer:NAME` or `node:STABLEID`.
    agent: String,
    /// Who said yes at the steps of the rule's chain before this one.
    earlier: Vec<Said>,
    /// Whether a grant can be given.
    grantable: bool,
    /// In a listing: detail and facts are left out for their length.
    #[schemars(skip_serializing_if = "std::ops::Not::not")]
    cut: bool,
}

/// What a grant is for.
#[derive(JsonSchema)]
#[schemars(rename = "GrantAbout")]
pub(super) struct About {
    node: String,
    login: Option<String>,
    profile: String,
    endpoint: String,
    credential: Option<String>,
    rule: String,
}
