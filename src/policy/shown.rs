//! The rules as people read them. *Pure.*

use std::sync::Arc;

use serde::Serialize;

use super::rule::{Outcome, Rule};
use super::{Limit, Policy};
use crate::verdict::Digest;

/// One rule, as it is walked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, schemars::JsonSchema)]
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
        self.rules.all().into_iter().map(|rule| shown(rule)).collect()
    }

    /// How often a rule of an endpoint lets actions pass.
    pub fn rule_limits(&self, endpoint: &str, rule: &str) -> Option<&[Limit]> {
        self.rules.find(endpoint, rule)?.limits.as_deref()
    }

    /// What a rule asks of whom, for which server and with which credential, as one digest: anything
    /// of it that is changed makes another. `None` if the endpoint has no such rule.
    pub fn rule_digest(&self, endpoint: &str, credential: Option<&str>, rule: &str) -> Option<Digest> {
        let rule = self.rules.find(endpoint, rule)?;
        let approvers = match &rule.outcome {
            Outcome::Approve(chain) => chain.iter().map(|key| self.model.approver(key)).collect(),
            Outcome::Allow | Outcome::Deny => Vec::new(),
        };
        let parts = [
            serde_json::to_string(&shown(rule)).ok()?,
            format!("{:?}", rule.limits),
            format!("{approvers:?}"),
            format!("{:?}", self.model.defaults.human_timeout),
            format!("{:?}", self.model.endpoint(endpoint)?),
            format!("{:?}", credential.map(|key| self.model.credential(key))),
        ];
        Some(Digest::of_parts(parts.iter().map(String::as_bytes)))
    }
}

fn shown(rule: &Rule) -> ShownRule {
    let text = |key: &Arc<str>| key.to_string();
    ShownRule {
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
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Source;

    const POLICY: &str = r#"
endpoint "https" "api" { hosts = ["api.test"] }
endpoint "https" "other" { hosts = ["other.test"] }
credential "bearer_token" "key" {
  endpoint = https.api
  secret = env("KEY")
}
approver "human_approver" "ops" {
  approvers = ["ann@example.com"]
}
rule "writes" {
  endpoint = https.api
  condition = "http.method == 'post'"
  approve = [human_approver.ops]
}
profile "ci" {
  tags = ["tag:ci"]
  endpoints = [https.api, https.other]
  credentials = [bearer_token.key]
}
"#;

    fn digest(text: &str) -> Option<Digest> {
        let source = Source {
            path: "p.hcl".into(),
            text: text.to_owned(),
        };
        let policy = Policy::load(vec![source], &|_| Err(std::io::ErrorKind::NotFound.into()));
        let policy = policy.map_err(|errors| errors.render()).expect("it loads");
        policy.rule_digest("https.api", Some("bearer_token.key"), "writes")
    }

    #[test]
    fn a_rule_is_another_when_anything_that_it_says_is() {
        let before = digest(POLICY);
        assert!(before.is_some());
        for (from, to) in [
            ("'post'", "'put'"),
            ("\"ann@example.com\"", "\"ann@example.com\", \"bob@example.com\""),
            ("approvers = ", "timeout = \"9m\"\n  approvers = "),
            ("\"api.test\"", "\"api2.test\""),
            ("env(\"KEY\")", "env(\"KEY2\")"),
            ("approve = [", "priority = 3\n  approve = ["),
            ("approve = [", "limit {\n rate = \"3/m\"\n }\n  approve = ["),
        ] {
            assert!(POLICY.contains(from), "{from}");
            assert_ne!(digest(&POLICY.replace(from, to)), before, "{from} to {to}");
        }
        assert_eq!(
            digest(&POLICY.replace("\"other.test\"", "\"others.test\"")),
            before
        );
        assert_eq!(digest(&format!("{POLICY}\n# a remark\n")), before);
        assert_eq!(digest(&POLICY.replace("\"writes\"", "\"others\"")), None);
    }
}
