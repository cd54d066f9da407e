//! The rules as people read them. *Pure.*

use serde::Serialize;

use super::Policy;
use super::rule::Outcome;

/// One rule, as it is walked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ShownRule {
    /// `profile/name` of one that stands inside a profile.
    pub name: String,
    pub endpoints: Vec<String>,
    pub profile: Option<String>,
    pub credential: Option<String>,
    /// CEL, as written.
    pub condition: Option<String>,
    /// `allow`, `deny` or `approve`.
    pub verdict: &'static str,
    /// Who must allow, for `approve`.
    pub approvers: Vec<String>,
    pub reason: Option<String>,
    pub priority: i64,
    /// Recorded, and without effect.
    pub shadow: bool,
}

impl Policy {
    /// Every rule that is walked, in the order of declaration.
    pub fn shown_rules(&self) -> Vec<ShownRule> {
        let text = |key: &std::sync::Arc<str>| key.to_string();
        let rules = self.rules.all().into_iter().map(|rule| ShownRule {
            name: rule.name.to_string(),
            endpoints: rule.endpoints.iter().map(text).collect(),
            profile: rule.profile.as_ref().map(text),
            credential: rule.credential.as_ref().map(text),
            condition: rule
                .condition
                .as_ref()
                .map(|condition| condition.source().to_owned()),
            verdict: rule.outcome.name(),
            approvers: match &rule.outcome {
                Outcome::Approve(chain) => chain.iter().map(text).collect(),
                Outcome::Allow | Outcome::Deny => Vec::new(),
            },
            reason: rule.reason.clone(),
            priority: rule.priority,
            shadow: rule.shadow,
        });
        rules.collect()
    }
}
