//! Who decides when a rule asks. *Pure.*

use std::sync::Arc;
use std::time::Duration;

/// What stands before the name of a grant in a list of approvers.
pub const APPROVER_GRANT: &str = "grant:";

/// Who arbitrates in a chain.
#[derive(Clone, Debug)]
pub struct Approver {
    /// `human_approver.oncall`.
    pub key: Arc<str>,
    pub name: String,
    pub kind: ApproverKind,
}

#[derive(Clone, Debug)]
pub enum ApproverKind {
    Human {
        /// Where its questions belong (`channel`), as free text that goes with each of them: what hands them on
        /// (`tailkeep approvals watch --format json`) reads it. The gateway itself sends nothing there.
        channel: Option<String>,
        timeout: Option<Duration>,
        /// Distinct people who must allow.
        require_approvers: u32,
        /// Who may decide: accounts, logins, `*@domain`, and [`APPROVER_GRANT`] with a name; empty for
        /// every operator.
        approvers: Vec<String>,
    },
    Llm(Box<Judge>),
}

/// An LLM judge (`llm_approver`).
#[derive(Clone, Debug)]
pub struct Judge {
    /// Which API it speaks (`provider`); from the model's name where it is not said.
    pub provider: Provider,
    /// Where it is (`base_url`), without the API's own path.
    pub base_url: String,
    pub model: String,
    /// What holds its key.
    pub credential: Option<Arc<str>>,
    /// The operator's words to it.
    pub policy: String,
    /// For one question, its wait for a place included.
    pub timeout: Duration,
    pub fail_mode: FailMode,
    /// From 0 to 1: a less certain `allow` is a failure (`confidence_min`, in percent).
    pub confidence_min: f64,
    /// How long an opinion counts for the identical action (`cache`); zero is not at all.
    pub cache: Duration,
    /// Bytes of an action, facts and all, that it is sent.
    pub request_bytes_max: usize,
    pub requests_per_hour: u64,
    pub tokens_per_day: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Provider {
    /// Anthropic's Messages API.
    Anthropic,
    /// OpenAI's Chat Completions, which many servers speak.
    Openai,
}

/// What a judge's failure means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailMode {
    Deny,
    /// The people behind it in the chain decide without it; where there are none, it denies.
    Next,
}
