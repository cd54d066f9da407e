//! From an action to a permit or a refusal.
//!
//! [`Action`], [`Verdict`], [`Refusal`] and [`Permit`] are *pure*; the [`gate`] that turns one
//! into the other asks the policy, runs the approvals and writes the audit record, and is the
//! only place that can make a [`Permit`].
//!
//! Invariants: one gate for every action of every protocol; no permit before its audit record is
//! durable; a permit carries the digest of the bytes that were judged.

#[cfg(feature = "daemon")]
pub mod approval;
#[cfg(feature = "daemon")]
pub mod gate;
#[cfg(feature = "daemon")]
pub mod judge;
pub mod later;
pub mod pace;
pub mod permit;
pub mod preview;
pub mod rate;
#[cfg(feature = "daemon")]
mod record;
pub(crate) mod sha256;

use std::sync::Arc;

use crate::facts::Facts;

pub use later::{Later, Ticket};
pub use permit::{Approved, Digest, Permit};
pub use preview::Preview;

/// What is judged: one request, one statement, one connection's start.
#[derive(Clone, Debug)]
pub struct Action {
    pub step: Step,
    /// The endpoint's reference, `type.name`, such as `postgres.orders`.
    pub endpoint: Arc<str>,
    /// The credential that the agent's placeholder (or the profile's only choice) selected.
    pub credential: Option<Arc<str>>,
    pub facts: Facts,
    /// SHA-256 over exactly the bytes that are held and will be sent.
    pub digest: Digest,
    /// Whether the digest covers all that the permit lets through. A request whose body streams is
    /// not whole, and is never put before approvers: they would say yes to what nobody has seen.
    pub whole: bool,
    /// One line for people: `DELETE /repos/x`, `DROP TABLE users`. Holds placeholders, no secrets.
    pub summary: String,
    /// The whole action for an approver, as text: the statement, or the request with its body.
    pub detail: String,
}

/// Which part of a connection's life an action is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Step {
    /// A connection to an endpoint is opened (Postgres start-up). No rule is walked: the agent's
    /// profile must hold the endpoint. Each request on it is judged on its own.
    Connect,
    /// One request or statement: the endpoint's rules are walked.
    Request,
    /// A held request is tried, for those who decide on it; nothing of it lasts without a yes.
    Preview,
    /// A destination that no endpoint claims, where `unknown_host` lets it pass.
    Passthrough,
}

/// What the policy says of an action.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Allow {
        /// The rule, or `None` where `unmatched = "allow"`.
        rule: Option<Arc<str>>,
    },
    Deny(Refusal),
    /// Every approver of the chain must allow, in this order.
    Ask {
        rule: Arc<str>,
        reason: String,
        chain: Vec<Arc<str>>,
    },
}

/// A denial: what the agent is told, and why it came to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub cause: Cause,
    /// The rule's own reason, or a fixed sentence. Never an evaluator's detail.
    pub reason: String,
    /// What the audit log keeps and the agent never sees.
    pub detail: Option<String>,
}

impl Verdict {
    /// The rule that lets it pass or asks.
    pub fn rule(&self) -> Option<&Arc<str>> {
        match self {
            Verdict::Allow { rule } => rule.as_ref(),
            Verdict::Ask { rule, .. } => Some(rule),
            Verdict::Deny(_) => None,
        }
    }
}

impl Refusal {
    pub fn new(cause: Cause, reason: impl Into<String>) -> Self {
        Refusal {
            cause,
            reason: reason.into(),
            detail: None,
        }
    }

    pub fn with_detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    /// What an agent that does not wait is given, where people are to decide.
    pub fn ticket(&self) -> Option<&Ticket> {
        match &self.cause {
            Cause::Held { ticket, .. } => Some(ticket),
            _ => None,
        }
    }

    /// The rule that decided, where one did.
    pub fn rule(&self) -> Option<&Arc<str>> {
        match &self.cause {
            Cause::Rule(rule) | Cause::Unevaluable(rule) | Cause::Changed(rule) => Some(rule),
            Cause::Refused { rule, .. }
            | Cause::TimedOut { rule, .. }
            | Cause::Limit { rule, .. }
            | Cause::Held { rule, .. } => Some(rule),
            _ => None,
        }
    }
}

/// Why an action was denied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cause {
    /// A rule says deny.
    Rule(Arc<str>),
    /// No rule matched, and `unmatched` says deny.
    NoRule,
    /// A condition failed or hung on an unknown fact.
    Unevaluable(Arc<str>),
    /// An approver said no.
    Refused { rule: Arc<str>, approver: Arc<str> },
    /// Nobody decided in time, or the agent left.
    TimedOut { rule: Arc<str>, approver: Arc<str> },
    /// Its agent does not wait, and people have not decided yet.
    Held { rule: Arc<str>, ticket: Ticket },
    /// People said yes by this rule, and what the action is about is not known to be as they were shown it.
    Changed(Arc<str>),
    /// The approval could not be asked for.
    ApprovalDown(Arc<str>),
    /// The audit record could not be made durable.
    AuditDown,
    /// A person has stopped the agent.
    Killed,
    /// No profile claims the peer, or several do.
    NoProfile,
    /// The profile does not hold the endpoint, or no endpoint claims the destination.
    NoEndpoint,
    /// A limit of the rule is reached; after so many seconds it would not be.
    Limit { rule: Arc<str>, retry_after_s: u64 },
    /// A placeholder stands where its credential may not go, or the secret is missing.
    Credential,
    /// The agent asks more often than the tailnet's policy file lets it.
    TooMany,
    /// The request cannot be read, or two servers would read it differently.
    Malformed,
}

impl Cause {
    /// The name in the audit log and in JSON bodies.
    pub fn name(&self) -> &'static str {
        match self {
            Cause::Rule(_) => "rule",
            Cause::NoRule => "no_rule",
            Cause::Unevaluable(_) => "unevaluable",
            Cause::Refused { .. } => "refused",
            Cause::TimedOut { .. } => "timed_out",
            Cause::Held { .. } => "held",
            Cause::Changed(_) => "changed",
            Cause::ApprovalDown(_) => "approval_down",
            Cause::AuditDown => "audit_down",
            Cause::Killed => "killed",
            Cause::NoProfile => "no_profile",
            Cause::NoEndpoint => "no_endpoint",
            Cause::Limit { .. } => "limit",
            Cause::Credential => "credential",
            Cause::TooMany => "too_many",
            Cause::Malformed => "malformed",
        }
    }
}
