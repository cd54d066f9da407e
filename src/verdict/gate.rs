//! The one gate: every action of every protocol passes [`Gate::judge`].
//!
//! It asks the current policy, runs the chain of approvers, writes the audit record, and only
//! then makes a [`Permit`]. Denials are recorded too, and nothing waits for the network of an
//! upstream before the record is durable. A policy is an immutable snapshot behind an
//! [`ArcSwap`]; every call reads the newest one, so a reload applies to open connections.

pub mod asker;
mod chain;
mod left;
mod shown;
mod stop;

pub use shown::{PREVIEWS_PER_AGENT_MAX, PREVIEWS_PER_ENDPOINT_MAX};

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::sync::watch;

use super::approval::Queue;
use super::judge::Judges;
use super::pace::Pace;
use super::rate::Counter;
use super::{Action, Approved, Cause, Later, Permit, Preview, Refusal, Step, Verdict, record};
use crate::audit::log::Log;
use crate::audit::{Outcome, Record, RecordId};
use crate::credential::KnownSecrets;
use crate::facts::FactSet;
use crate::identity::{Agent, Identity, Live};
use crate::policy::{Judgement, Policy, UnknownHost};
use crate::state::Killed;

const UNAVAILABLE_REASON: &str = "this cannot be judged right now";
const NOT_WHOLE_REASON: &str =
    "this needs an approval, and is too large for anyone to see all of it, or cannot be shown";
const NOT_HELD_REASON: &str = "this endpoint is not one of yours";

/// Asks, records, permits. Cheap to clone through its `Arc`.
pub struct Gate {
    policy: ArcSwap<Policy>,
    queue: Queue,
    log: Log,
    known: KnownSecrets,
    pace: Pace,
    judges: Option<Judges>,
    rates: Counter,
    previews: shown::Places,
    /// The agents that are stopped.
    killed: watch::Receiver<Arc<Killed>>,
    /// How often a policy came into force, or a peer became known as something else.
    reloads: watch::Sender<u64>,
}

/// How approvers are asked.
#[derive(Clone, Copy, Default)]
pub struct How<'a> {
    /// What people are shown besides.
    pub preview: Option<&'a dyn Preview>,
    /// That the agent may not wait for people: what they have to decide is refused with a ticket
    /// ([`Cause::Held`]), by which the same action takes the answer. Where several of the chain's steps are
    /// people's, it waits all the same.
    pub later: Option<&'a Later>,
    /// Writes [`Action::detail`] when it comes to that. Most actions are never put before anyone.
    pub detail: Option<&'a (dyn Fn() -> String + Sync)>,
}

/// How an action came to be allowed, for its record.
struct Allowed {
    cause: &'static str,
    rule: Option<Arc<str>>,
    approvers: Vec<String>,
    /// The grant that it passes by.
    grant: Option<i64>,
}

impl Gate {
    pub fn new(policy: Arc<Policy>, queue: Queue, log: Log) -> Self {
        Gate {
            policy: ArcSwap::new(policy),
            killed: queue.killed(),
            queue,
            log,
            known: KnownSecrets::default(),
            pace: Pace::default(),
            judges: None,
            rates: Counter::default(),
            previews: shown::Places::default(),
            reloads: watch::Sender::new(0),
        }
    }

    /// With the secrets that no record and no question may show, wherever they come from.
    pub fn hiding(mut self, known: KnownSecrets) -> Self {
        self.known = known;
        self
    }

    /// With LLM judges; without, a rule that asks one denies.
    pub fn judging(mut self, judges: Judges) -> Self {
        self.judges = Some(judges);
        self
    }

    /// A number that grows when the audit log has more to read.
    pub fn audit_changes(&self) -> watch::Receiver<u64> {
        self.log.changes()
    }

    /// Returns when a reader of the audit log sees all that was recorded; at once where it cannot be written.
    pub async fn audit_written(&self) {
        let _ = self.log.flush().await;
    }

    /// The snapshot in force. Hold it for one action only.
    pub fn policy(&self) -> Arc<Policy> {
        self.policy.load_full()
    }

    /// Puts a whole new policy in force: every later action is judged by it, and so is anew
    /// whatever waits in [`Gate::revoked`] or has an eye on [`Gate::reloads`].
    pub fn swap(&self, policy: Arc<Policy>) {
        self.policy.store(policy);
        self.reloads.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// A peer with open connections is known as something else than before: whatever lasts is
    /// judged anew by that, as after [`Gate::swap`].
    pub fn peers_changed(&self) {
        self.reloads.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// Changes with every policy that comes into force, and with [`Gate::peers_changed`].
    pub fn reloads(&self) -> watch::Receiver<u64> {
        self.reloads.subscribe()
    }

    /// The agent behind an identity, by the policy in force.
    ///
    /// # Errors
    /// No profile or several claim it. The refusal is recorded.
    pub async fn admit(&self, live: &Live, destination: &str) -> Result<Agent, Refusal> {
        let (policy, identity) = (self.policy(), &live.now());
        if let Some(refusal) = self.stopped(identity) {
            self.turn_away(identity, None, destination, &refusal).await;
            return Err(refusal);
        }
        match policy.profile_for(identity) {
            Ok(profile) => Ok(Agent::new(live.clone(), profile)),
            Err(detail) => {
                let refusal = Refusal::new(Cause::NoProfile, "no profile is for you").with_detail(detail);
                self.turn_away(identity, None, destination, &refusal).await;
                Err(refusal)
            }
        }
    }

    /// The facts that rules read for this agent and endpoint, by the policy in force.
    pub fn needs(&self, agent: &Agent, endpoint: &str) -> FactSet {
        self.policy().needs(agent, endpoint)
    }

    /// Whether the policy in force would put the action before approvers, if it says the same when
    /// the action is judged: what they are to see has to be held before.
    pub fn asks(&self, agent: &Agent, action: &Action) -> bool {
        let judgement = self.ask_policy(&self.policy(), &agent.now(), action);
        matches!(judgement.verdict, Verdict::Ask { .. })
    }

    /// Judges one action, by what is known of the agent now. The permit is for these bytes, once.
    ///
    /// Dropping the future while an approval is pending withdraws the question.
    ///
    /// # Errors
    /// A [`Refusal`], already recorded where the log can be written.
    pub async fn judge(&self, agent: &Agent, action: &Action) -> Result<Permit, Refusal> {
        self.judge_shown(agent, action, None).await
    }

    /// As [`Gate::judge`]; people who are asked are shown what the action would do.
    ///
    /// # Errors
    /// As [`Gate::judge`].
    pub async fn judge_shown(
        &self,
        agent: &Agent,
        action: &Action,
        preview: Option<&dyn Preview>,
    ) -> Result<Permit, Refusal> {
        let how = How {
            preview,
            ..How::default()
        };
        self.judge_as(agent, action, how).await
    }

    /// As [`Gate::judge`], with a say in how approvers are asked.
    ///
    /// # Errors
    /// As [`Gate::judge`].
    pub async fn judge_as(&self, agent: &Agent, action: &Action, how: How<'_>) -> Result<Permit, Refusal> {
        let started = Instant::now();
        let policy = self.policy();
        let then = agent;
        let agent = &*then.now();
        let judgement = match self.may_ask(agent, action) {
            Ok(()) => self.ask_policy(&policy, agent, action),
            Err(refusal) => Judgement::plain(Verdict::Deny(refusal)),
        };
        let judge_time = started.elapsed();

        let asked = Instant::now();
        // A retry of a held action counts like any other: the rate is of what is asked.
        let verdict = match self.rates.count(&judgement, agent, &action.endpoint) {
            Ok(()) => judgement.verdict,
            Err(refusal) => Verdict::Deny(refusal),
        };
        let decision = match verdict {
            Verdict::Allow { rule } => {
                let cause = match (action.step, &rule) {
                    (Step::Connect, _) => "connect",
                    (Step::Passthrough, _) => "passthrough",
                    (_, Some(_)) => "rule",
                    (_, None) => "unmatched",
                };
                Ok(Allowed {
                    cause,
                    rule,
                    approvers: Vec::new(),
                    grant: None,
                })
            }
            Verdict::Deny(refusal) => Err(refusal),
            Verdict::Ask { rule, .. } if !action.whole => {
                Err(Refusal::new(Cause::Unevaluable(rule), NOT_WHOLE_REASON))
            }
            Verdict::Ask { rule, reason, chain } => {
                let detailed = how.detail.map(|detail| Action {
                    detail: detail(),
                    ..action.clone()
                });
                let action = detailed.as_ref().unwrap_or(action);
                let left = left::Left {
                    gate: self,
                    policy: &policy,
                    agent,
                    action,
                    rule: rule.clone(),
                    asked,
                    stayed: false,
                };
                // Most actions are never put before anyone: their futures have no room for it.
                let decided = Box::pin(self.ask_chain(&policy, agent, (action, how), (rule, reason), &chain));
                let decided = decided.await;
                left.stayed();
                // People took their time: the policy of now must still want this action of this agent to pass.
                decided.and_then(|allowed| self.still_asks((&policy, &chain), &then.now(), action, allowed))
            }
        };
        let wait_time = asked.elapsed();

        let mut record = record::blank(
            &agent.identity,
            Some(agent.profile.clone()),
            action.endpoint.clone(),
        );
        record::fill_action(&self.known, policy.mask(), action, &mut record);
        record.shadow = judgement.shadow;
        record.judge_us = micros(judge_time);
        record.wait_us = micros(wait_time);
        record.policy = policy.version();
        match decision {
            Ok(allowed) => {
                record.verdict = "allow";
                record.cause = allowed.cause;
                record.rule = allowed.rule;
                record.approvers = allowed.approvers;
                record::clean(&self.known, &self.policy(), &mut record);
                let approved = record.rule.clone().filter(|_| !record.approvers.is_empty());
                let approved = approved.map(|rule| Approved {
                    rule,
                    grant: allowed.grant,
                });
                match self.log.append(record).await {
                    Ok(id) => Ok(Permit::grant(id, action, approved)),
                    Err(down) => {
                        tracing::error!(error = %down, "the audit log takes no record; the action is denied");
                        Err(Refusal::new(Cause::AuditDown, UNAVAILABLE_REASON).with_detail(down.to_string()))
                    }
                }
            }
            Err(refusal) => {
                record::fill_refusal(&mut record, &refusal);
                self.record_refusal(record).await;
                Err(refusal)
            }
        }
    }

    /// Records a refusal that was found before an action could be read: a destination that no
    /// endpoint claims, a request that two servers would read differently.
    pub async fn refuse(&self, agent: &Agent, endpoint: &str, summary: &str, refusal: Refusal) -> Refusal {
        let identity = &agent.now().identity;
        let mut record = record::blank(identity, Some(agent.profile.clone()), Arc::from(endpoint));
        let policy = self.policy();
        record.summary = policy.mask().text(summary).into_owned();
        record.policy = policy.version();
        record::fill_refusal(&mut record, &refusal);
        self.record_refusal(record).await;
        refusal
    }

    /// Adds what became of a permitted action to its record.
    pub fn finish(&self, record: RecordId, mut outcome: Outcome) {
        if let Cow::Owned(clean) = self.known.scrub(&outcome.status) {
            outcome.status = clean;
        }
        self.log.finish(record, outcome);
    }

    /// Counts a request of an agent whose number is limited.
    fn may_ask(&self, agent: &Agent, action: &Action) -> Result<(), Refusal> {
        if action.step != Step::Request {
            return Ok(());
        }
        self.pace.take(&agent.identity, Instant::now()).map_err(|wait| {
            let wait = wait.as_secs() + 1;
            Refusal::new(Cause::TooMany, format!("too many requests; the next in {wait} s"))
        })
    }

    fn ask_policy(&self, policy: &Policy, agent: &Agent, action: &Action) -> Judgement {
        let plain = Judgement::plain;
        if let Some(refusal) = self.stopped(&agent.identity) {
            return plain(Verdict::Deny(refusal));
        }
        // The profile is asked for anew: a reload may have moved or removed it since the connection opened.
        match policy.profile_for(&agent.identity) {
            Ok(profile) if profile == agent.profile => {}
            Ok(_) | Err(_) => {
                let refusal = Refusal::new(Cause::NoProfile, "your profile has changed; connect again");
                return plain(Verdict::Deny(refusal));
            }
        }
        if action.step == Step::Passthrough {
            return plain(match policy.model().defaults.unknown_host {
                UnknownHost::Passthrough => Verdict::Allow { rule: None },
                UnknownHost::Deny => Verdict::Deny(Refusal::new(Cause::NoEndpoint, NOT_HELD_REASON)),
            });
        }
        let holds = policy
            .model()
            .profile(&agent.profile)
            .is_some_and(|profile| profile.endpoints.contains(&action.endpoint));
        if !holds {
            return plain(Verdict::Deny(Refusal::new(Cause::NoEndpoint, NOT_HELD_REASON)));
        }
        match action.step {
            Step::Connect => plain(Verdict::Allow { rule: None }),
            _ => policy.evaluate(
                agent,
                &action.endpoint,
                action.credential.as_deref(),
                &action.facts,
                chrono::Utc::now(),
            ),
        }
    }

    async fn turn_away(&self, identity: &Identity, profile: Option<Arc<str>>, to: &str, refusal: &Refusal) {
        let mut record = record::blank(identity, profile, Arc::from("unknown"));
        record.step = Step::Connect;
        record.summary = format!("connect {to}");
        record.policy = self.policy().version();
        record::fill_refusal(&mut record, refusal);
        self.record_refusal(record).await;
    }

    /// A refusal stands whether or not it can be recorded; a lost record is said aloud.
    async fn record_refusal(&self, mut record: Record) {
        record::clean(&self.known, &self.policy(), &mut record);
        if let Err(down) = self.log.append(record).await {
            tracing::error!(error = %down, "a refusal could not be recorded");
        }
    }
}

pub(super) fn or_default(text: &str, default: &str) -> String {
    if text.is_empty() {
        default.to_owned()
    } else {
        text.to_owned()
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
