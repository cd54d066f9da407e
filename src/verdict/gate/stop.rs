//! What ends an action that was permitted and is not over: another policy, a grant that is taken back,
//! an agent that is stopped.

use std::sync::Arc;

use tokio::sync::watch;

use super::{Allowed, Gate, UNAVAILABLE_REASON};
use crate::audit::Record;
use crate::audit::log::AuditDown;
use crate::identity::{Agent, Identity};
use crate::policy::Policy;
use crate::state::StateError;
use crate::verdict::approval::{Grant, Stopped};
use crate::verdict::{Action, Approved, Cause, Refusal, Verdict};

/// What an agent that was stopped is told.
const STOPPED_REASON: &str = "a person has stopped this agent";

impl Gate {
    /// Why nothing of this peer may pass, if a person has stopped it.
    pub(super) fn stopped(&self, identity: &Identity) -> Option<Refusal> {
        let killed = self.killed.borrow();
        // As a rule there are none, and nothing is made then.
        let stopped = !killed.is_empty() && killed.contains_key(&identity.agent_key());
        stopped.then(|| Refusal::new(Cause::Killed, STOPPED_REASON))
    }

    /// Whether a person has stopped this peer: its connections end.
    pub fn is_stopped(&self, identity: &Identity) -> bool {
        self.stopped(identity).is_some()
    }

    /// Stops an agent, by [`Identity::agent_key`]: its open connections end, its grants are taken back,
    /// what it is held for is refused and so is everything new, until [`Gate::unkill`].
    ///
    /// # Errors
    /// The state cannot be written; nothing is changed then. That it cannot be recorded is logged: an
    /// agent is stopped all the same.
    pub async fn kill(&self, agent: &str, person: &str, reason: Option<&str>) -> Result<Stopped, StateError> {
        let reason = reason.map(|reason| self.known.scrub(reason).into_owned());
        let (key, by) = (agent.to_owned(), person.to_owned());
        let stopped = self.queue.kill(key, by, reason.clone()).await?;
        self.peers_changed();
        let facts = serde_json::json!({
            "agent": agent, "person": person, "reason": reason, "grants": stopped.grants, "held": stopped.held,
        });
        self.note("agent_killed", format!("{person} stopped {agent}"), facts)
            .await;
        Ok(stopped)
    }

    /// Lets an agent go again; `false` if it was not stopped.
    ///
    /// # Errors
    /// The state cannot be written.
    pub async fn unkill(&self, agent: &str, person: &str) -> Result<bool, StateError> {
        let gone = self.queue.unkill(agent.to_owned()).await?;
        if gone {
            let facts = serde_json::json!({ "agent": agent, "person": person });
            self.note("agent_unkilled", format!("{person} let {agent} go again"), facts)
                .await;
        }
        Ok(gone)
    }

    /// Takes a grant back, and ends what passes by it; `None` if there is none.
    ///
    /// # Errors
    /// The state cannot be written.
    pub async fn revoke_grant(&self, id: i64, person: &str) -> Result<Option<Grant>, StateError> {
        let grant = self.queue.revoke(id, person.to_owned()).await?;
        self.peers_changed();
        if let Some(grant) = &grant {
            let facts = serde_json::json!({ "grant": id, "person": person, "about": grant.about, "uses": grant.uses });
            self.note("grant_revoked", format!("{person} took grant {id} back"), facts)
                .await;
        }
        Ok(grant)
    }

    /// Records that a grant is in force; one that cannot be recorded is taken back.
    ///
    /// # Errors
    /// The audit log takes no record.
    pub async fn record_grant(&self, grant: &Grant) -> Result<(), AuditDown> {
        let summary = format!("{} gave grant {}", grant.by.join(", "), grant.id);
        let facts = serde_json::json!({
            "grant": grant.id, "people": grant.by, "about": grant.about, "agent": grant.agent,
            "lasts_s": grant.lasts_s, "uses_max": grant.uses_max,
        });
        let record = Record::note("grant_given", summary, facts);
        let down = match self.log.append(record).await {
            Ok(_) => return Ok(()),
            Err(down) => down,
        };
        if let Err(error) = self.queue.revoke(grant.id, "gateway".to_owned()).await {
            tracing::error!(%error, grant = grant.id, "a grant that is not recorded could not be taken back");
        }
        self.peers_changed();
        Err(down)
    }

    /// Waits until the policy in force, by what is known of the peer then, would not let a permitted action pass any more: for
    /// actions that last, such as an upgraded stream. `approved_by` is the permit's, `reloads` what
    /// [`Gate::reloads`] gave before the action was judged. Costs nothing while nothing is reloaded.
    pub async fn revoked(
        &self,
        agent: &Agent,
        action: &Action,
        approved_by: Option<&Approved>,
        mut reloads: watch::Receiver<u64>,
    ) -> Refusal {
        while reloads.changed().await.is_ok() {
            if let Err(refusal) = self.still(agent, action, approved_by) {
                return refusal;
            }
        }
        Refusal::new(Cause::NoRule, UNAVAILABLE_REASON)
    }

    /// Whether the policy in force lets a permitted action pass, by what is known of the agent now. `approved_by` is the permit's.
    ///
    /// # Errors
    /// Why it does not.
    pub fn still(
        &self,
        agent: &Agent,
        action: &Action,
        approved_by: Option<&Approved>,
    ) -> Result<(), Refusal> {
        // Whatever the policy says by now: those who let it pass have changed their mind.
        if let Some(Approved {
            rule,
            grant: Some(grant),
        }) = approved_by
            && self.queue.is_revoked(*grant)
        {
            return Err(taken_back(rule.clone()));
        }
        match self.ask_policy(&self.policy(), &agent.now(), action).verdict {
            Verdict::Allow { .. } => Ok(()),
            Verdict::Ask { rule, .. } if approved_by.is_some_and(|approved| approved.rule == rule) => Ok(()),
            Verdict::Ask { rule, .. } => Err(Refusal::new(
                Cause::Rule(rule),
                "a new policy wants an approval for this",
            )),
            Verdict::Deny(refusal) => Err(refusal),
        }
    }

    /// After an approval: the policy of now must not deny what the policy of then asked about, nor want it to be
    /// decided otherwise than it was.
    pub(super) fn still_asks(
        &self,
        (then, asked): (&Policy, &[Arc<str>]),
        agent: &Agent,
        action: &Action,
        allowed: Allowed,
    ) -> Result<Allowed, Refusal> {
        if allowed.grant.is_some_and(|grant| self.queue.is_revoked(grant)) {
            return Err(taken_back(allowed.rule.unwrap_or_default()));
        }
        let policy = self.policy();
        match self.ask_policy(&policy, agent, action).verdict {
            Verdict::Allow { .. } => Ok(allowed),
            Verdict::Ask { rule, chain, .. }
                if Some(&rule) == allowed.rule.as_ref() && asks_alike((then, asked), (&policy, &chain)) =>
            {
                Ok(allowed)
            }
            Verdict::Ask { rule, .. } => {
                let cause = Cause::ApprovalDown(rule);
                Err(Refusal::new(
                    cause,
                    "the policy changed while this was held; send it again",
                ))
            }
            Verdict::Deny(refusal) => Err(refusal),
        }
    }

    /// Records that a person changes the policy, before they do.
    ///
    /// # Errors
    /// The audit log takes no record.
    pub async fn record_edit(
        &self,
        person: &str,
        file: &str,
        facts: serde_json::Value,
    ) -> Result<(), AuditDown> {
        let summary = format!("{person} writes {file}");
        let written = self
            .log
            .append(Record::note("policy_written", summary, facts))
            .await;
        written.map(|_| ())
    }

    /// Records that what was recorded last could not be done.
    pub async fn record_no_edit(&self, person: &str, file: &str, why: &str) {
        let summary = format!("{file} could not be written for {person}");
        let facts = serde_json::json!({ "person": person, "file": file, "error": why });
        self.note("policy_not_written", summary, facts).await;
    }

    async fn note(&self, cause: &'static str, summary: String, facts: serde_json::Value) {
        tracing::info!(summary, "recorded");
        if let Err(down) = self.log.append(Record::note(cause, summary, facts)).await {
            tracing::error!(error = %down, cause, "this could not be recorded");
        }
    }
}

/// Whether two policies' chains ask the same of the same. For how long, and where else it is told, changes no answer.
fn asks_alike((then, asked): (&Policy, &[Arc<str>]), (now, chain): (&Policy, &[Arc<str>])) -> bool {
    let is_alike = |key: &Arc<str>| match (then.model().approver(key), now.model().approver(key)) {
        (Some(was), Some(is)) => {
            let mut differences = was.differences(is).into_iter();
            differences.all(|field| matches!(field, "channel" | "timeout"))
        }
        _ => false,
    };
    asked == chain && chain.iter().all(is_alike)
}

fn taken_back(rule: Arc<str>) -> Refusal {
    Refusal::new(Cause::ApprovalDown(rule), "the approval was taken back")
}
