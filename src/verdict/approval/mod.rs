//! Held actions: asked, decided by people, kept in the state database.

use std::sync::Arc;
use std::time::Duration;

use super::Digest;

/// What an approver is asked.
#[derive(Clone, Debug)]
pub struct Question {
    pub approver: Arc<str>,
    pub rule: Arc<str>,
    pub reason: String,
    pub node: String,
    pub login: Option<String>,
    pub profile: Arc<str>,
    pub endpoint: Arc<str>,
    pub credential: Option<Arc<str>>,
    pub summary: String,
    pub detail: String,
    pub facts: serde_json::Value,
    pub digest: Digest,
    /// Distinct people who must allow.
    pub required: u32,
    /// Who may decide; empty for every operator.
    pub eligible: Vec<String>,
    pub timeout: Duration,
    pub policy: u64,
}

/// How a question ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// These people allowed it.
    Allowed {
        by: Vec<String>,
    },
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

/// The queue of held actions; cheap to clone.
#[derive(Clone)]
pub struct Queue {}

impl Queue {
    /// Holds the question until it is decided or times out. Dropping the future (the agent left)
    /// withdraws the question.
    pub async fn ask(&self, _question: Question) -> Result<Answer, ApprovalDown> {
        todo!()
    }
}
