//! Shows people what a held action would do.
//!
//! What is found out may be held open until they decide: so an agent, and an endpoint, has so many at
//! once. Beyond them people are asked without.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Value, json};

use super::{Gate, record};
use crate::identity::Agent;
use crate::policy::Policy;
use crate::verdict::{Action, Permit, Preview, Step};

/// Previews of one agent at once, from their beginning until what they are for is decided.
pub const PREVIEWS_PER_AGENT_MAX: usize = 4;
/// Previews at one endpoint at once, of all agents.
pub const PREVIEWS_PER_ENDPOINT_MAX: usize = 16;

/// Who has how many.
#[derive(Debug, Default)]
pub(super) struct Places(Mutex<HashMap<String, usize>>);

/// One preview's place, given back when dropped.
#[derive(Debug)]
pub(super) struct Place<'a> {
    among: &'a Places,
    keys: [String; 2],
}

impl Places {
    fn enter(&self, agent: &str, endpoint: &str) -> Option<Place<'_>> {
        let keys = [format!("agent {agent}"), format!("endpoint {endpoint}")];
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let most = [PREVIEWS_PER_AGENT_MAX, PREVIEWS_PER_ENDPOINT_MAX];
        let has = |key: &String| open.get(key).copied().unwrap_or(0);
        if keys.iter().zip(most).any(|(key, most)| has(key) >= most) {
            return None;
        }
        for key in &keys {
            *open.entry(key.clone()).or_default() += 1;
        }
        Some(Place { among: self, keys })
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut open = self.among.0.lock().unwrap_or_else(PoisonError::into_inner);
        for key in &self.keys {
            if let Some(count) = open.get_mut(key) {
                *count -= 1;
                if *count == 0 {
                    open.remove(key);
                }
            }
        }
    }
}

impl Gate {
    /// Runs a preview under a permit of its own, whose record is durable before. What it shows has no
    /// known secret in it. It has its `place` for as long as that is kept.
    pub(super) async fn show<'a>(
        &'a self,
        (policy, agent, action): (&Policy, &Agent, &Action),
        rule: &Arc<str>,
        (preview, place): (&dyn Preview, &mut Option<Place<'a>>),
    ) -> Result<Value, String> {
        if let Some(without) = preview.without() {
            return Ok(without);
        }
        let identity = &agent.identity;
        *place = self.previews.enter(&identity.agent_key(), &action.endpoint);
        if place.is_none() {
            let none = "too many others are tried and not decided yet";
            return Ok(json!({ "none": none }));
        }
        let mut record = record::blank(identity, Some(agent.profile.clone()), action.endpoint.clone());
        record::fill_action(&self.known, policy.mask(), action, &mut record);
        record.step = Step::Preview;
        record.verdict = "allow";
        record.cause = "preview";
        record.rule = Some(rule.clone());
        record.policy = policy.version();
        record::clean(&self.known, policy, &mut record);
        let id = self.log.append(record).await.map_err(|down| down.to_string())?;
        let mut shown = preview.run(Permit::grant(id, action, None)).await;
        // A server's words may repeat what the action's own hide.
        if let Some(Value::String(error)) = shown.pointer_mut("/does/error") {
            *error = policy.mask().text(error).into_owned();
        }
        self.known.scrub_json(&mut shown);
        Ok(shown)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_and_an_endpoint_have_so_many_at_once() {
        let places = Places::default();
        let mut taken = Vec::new();
        for agent in 0..PREVIEWS_PER_ENDPOINT_MAX / PREVIEWS_PER_AGENT_MAX {
            let agent = format!("node:n{agent}");
            for _ in 0..PREVIEWS_PER_AGENT_MAX {
                taken.push(places.enter(&agent, "postgres.a").unwrap());
            }
            assert!(places.enter(&agent, "postgres.b").is_none(), "of the agent");
        }
        assert!(
            places.enter("node:other", "postgres.a").is_none(),
            "of the endpoint"
        );
        assert!(places.enter("node:other", "postgres.b").is_some());
        taken.pop();
        assert!(places.enter("node:other", "postgres.a").is_some());
        taken.clear();
        assert!(places.0.lock().unwrap().is_empty());
    }
}
