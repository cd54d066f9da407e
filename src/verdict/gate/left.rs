//! What is recorded of an action whose agent leaves while people are asked: that it was refused, as everything that is.
//!
//! The question alone would not do: it is the queue's, which keeps so many, and an agent could make many more.

use std::sync::Arc;
use std::time::Instant;

use super::{Gate, micros, record};
use crate::identity::Agent;
use crate::policy::Policy;
use crate::verdict::Action;

const LEFT_REASON: &str = "its agent left before it was decided";

/// Dropped before [`Left::stayed`], it records that.
pub(super) struct Left<'a> {
    pub(super) gate: &'a Gate,
    pub(super) policy: &'a Policy,
    pub(super) agent: &'a Agent,
    pub(super) action: &'a Action,
    pub(super) rule: Arc<str>,
    pub(super) asked: Instant,
    /// Whether it is over by an answer.
    pub(super) stayed: bool,
}

impl Left<'_> {
    pub(super) fn stayed(mut self) {
        self.stayed = true;
    }
}

impl Drop for Left<'_> {
    fn drop(&mut self) {
        // At the end of the gateway the question stays, and its agent may come back.
        if self.stayed || self.gate.queue.is_closing() {
            return;
        }
        let (gate, identity) = (self.gate, &self.agent.identity);
        let endpoint = self.action.endpoint.clone();
        let mut record = record::blank(identity, Some(self.agent.profile.clone()), endpoint);
        record::fill_action(&gate.known, self.policy.mask(), self.action, &mut record);
        record.cause = "withdrawn";
        record.rule = Some(self.rule.clone());
        record.reason = LEFT_REASON.to_owned();
        record.wait_us = micros(self.asked.elapsed());
        record.policy = self.policy.version();
        record::clean(&gate.known, self.policy, &mut record);
        let log = gate.log.clone();
        let written = async move {
            if let Err(down) = log.append(record).await {
                tracing::error!(error = %down, "that an agent left a held action could not be recorded");
            }
        };
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(written);
        }
    }
}
