//! Held actions: asked, decided by people, kept in the state database.
//!
//! A question is a durable row before anyone waits for it. Approving, refusing, timing out,
//! withdrawing and using are each one conditional update, so that exactly one of them wins. After
//! a restart the pending questions are still there, with nobody waiting: the agent's retry of the
//! identical action takes its question up again, or uses the decision given meanwhile, once.
//!
//! A client that goes withdraws its question; the end of the gateway does not ([`Queue::close`]).
//! Closed questions are kept for people, within limits of age, number and bytes.
//!
//! People may also give a yes beforehand: a [`grant`]. It answers what it is for at once.
//!
//! Invariants: one decision lets one action pass; a person counts once; only who is eligible
//! decides; a closed question never opens again.

mod alike;
mod before;
mod bound;
mod decision;
pub mod grant;
mod identity;
mod lodge;
mod queue;
mod revoked;
mod room;
mod row;
mod shape;
mod store;
mod told;
mod voter;

pub use alike::{Alike, Decided, SHOWN_MAX, Stood};
pub use before::Before;
pub use bound::parameters;
pub use decision::{Decide, DecideError, Decision};
pub use grant::{Grant, People, Scope, Terms, Use};
pub use lodge::{Lodged, Stands};
pub use queue::Queue;
pub use queue::{LIST_MAX, Stopped};
pub use revoked::REVOKED_REMEMBERED_MAX;
pub use room::{
    LODGED_MAX, LODGED_PER_AGENT_MAX, PENDING_FEW, PENDING_KEPT, PENDING_MAX, PENDING_OWNER_FEW,
    PENDING_PER_AGENT_MAX, PENDING_PER_OWNER_MAX,
};
pub use row::{Held, LISTED_BYTES_MAX, Said, State as QuestionState};
pub use store::{
    CLOSED_BYTES_MAX, CLOSED_KEPT_DAYS, CLOSED_KEPT_MAX, DECISION_S, WITHDRAWN_BYTES_MAX, WITHDRAWN_KEPT_MAX,
};
pub use told::{Begun, Telling, Told, ToldState};
pub use voter::{Voter, person_of};

use std::sync::Arc;
use std::time::Duration;

use super::Digest;
use crate::identity::Transport;
use crate::policy::Escalation;

/// What an approver is asked.
#[derive(Clone, Debug)]
pub struct Question {
    pub approver: Arc<str>,
    /// Where the approver wants its questions, if that is said (`channel`).
    pub channel: Option<String>,
    pub rule: Arc<str>,
    pub reason: String,
    pub node: String,
    pub login: Option<String>,
    /// How the node came, by what it was proved.
    pub transport: Transport,
    /// Its tags on the tailnet, `tag:` included.
    pub tags: Vec<String>,
    pub profile: Arc<str>,
    pub endpoint: Arc<str>,
    /// What the operator wrote of the endpoint, for people.
    pub description: Option<String>,
    pub credential: Option<Arc<str>>,
    pub summary: String,
    pub detail: String,
    pub facts: serde_json::Value,
    /// What it would do, as [`super::Preview`] found out; null where nothing can.
    pub preview: serde_json::Value,
    pub digest: Digest,
    /// Distinct people who must allow.
    pub required: u32,
    /// Who may decide, as [`Voter::may_decide`] reads it; empty for every operator.
    pub eligible: Vec<String>,
    /// Whom nobody may be that decides, by [`Voter::counts_as`]: the agent's owner.
    pub excluded: Option<String>,
    /// Who may decide too, after so long.
    pub escalation: Option<Escalation>,
    pub timeout: Duration,
    pub policy: u64,
    /// As [`crate::identity::Identity::agent_key`].
    pub agent: String,
    /// What a grant would be for; `None` where none can be given.
    pub scope: Option<Scope>,
    /// Whether a grant answers it: not where a judge of the chain gave no verdict, so that people look.
    pub heeds_grants: bool,
    /// What people have to say at each of their steps of the rule's chain.
    pub chain: Vec<People>,
    /// Who said yes at the steps before this one.
    pub earlier: Vec<Said>,
}

/// How a question ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// These people allowed it.
    Allowed {
        by: Vec<Said>,
    },
    /// A grant lets it pass.
    Granted(Use),
    Denied {
        by: String,
        reason: Option<String>,
    },
    TimedOut,
}

/// The queue could not hold the question.
#[derive(Debug, thiserror::Error)]
#[error("the approval queue is not available: {0}")]
pub struct ApprovalDown(pub String);

impl Question {
    /// What is kept of it and shown to the approver.
    pub fn to_json(&self) -> serde_json::Value {
        serde_json::json!({
            "approver": &*self.approver,
            "channel": self.channel,
            "rule": &*self.rule,
            "reason": self.reason,
            "node": self.node,
            "login": self.login,
            "transport": self.transport,
            "tags": self.tags,
            "profile": &*self.profile,
            "endpoint": &*self.endpoint,
            "description": self.description,
            "credential": self.credential.as_deref(),
            "summary": self.summary,
            "detail": self.detail,
            "facts": self.facts,
            "preview": self.preview,
            "digest": self.digest.to_string(),
            "required": self.required,
            "eligible": self.eligible,
            "excluded": self.excluded,
            "escalate_to": self.escalation.as_ref().map(|later| &later.to),
            "escalate_after_s": self.escalation.as_ref().map(|later| later.after.as_secs()),
            "policy": self.policy,
            "agent": self.agent,
            "earlier": self.earlier,
            "grantable": self.scope.is_some(),
        })
    }
}
