//! Shows people what a held action would do.

use std::sync::Arc;

use serde_json::Value;

use super::{Gate, record};
use crate::identity::Agent;
use crate::policy::Policy;
use crate::verdict::{Action, Permit, Preview, Step};

impl Gate {
    /// Runs a preview under a permit of its own, whose record is durable before. What it shows has no
    /// known secret in it.
    pub(super) async fn show(
        &self,
        policy: &Policy,
        agent: &Agent,
        action: &Action,
        rule: &Arc<str>,
        preview: &dyn Preview,
    ) -> Result<Value, String> {
        if let Some(without) = preview.without() {
            return Ok(without);
        }
        let (identity, profile) = (&agent.identity, agent.profile.clone());
        let mut record = record::blank(identity, Some(profile), action.endpoint.clone());
        record.step = Step::Preview;
        record.verdict = "allow";
        record.cause = "preview";
        record.rule = Some(rule.clone());
        record.credential = action.credential.clone();
        record.summary = record::masked(policy.mask(), &action.facts, &action.summary);
        record.facts = action.facts.to_json(policy.mask());
        record.digest = action.digest;
        record.policy = policy.version();
        record::clean(&self.known, policy, &mut record);
        let id = self.log.append(record).await.map_err(|down| down.to_string())?;
        let mut shown = preview.run(Permit::grant(id, action, None)).await;
        self.known.scrub_json(&mut shown);
        Ok(shown)
    }
}
