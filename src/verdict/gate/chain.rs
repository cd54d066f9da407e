//! The chain of approvers that an action needs: each in turn, all of them.
//!
//! A grant stands for all people of the chain, once each; judges are asked whatever was granted. Where
//! a judge gave no verdict and leaves it to people, they have to look: no grant answers then.

use std::sync::Arc;

use super::{Allowed, Gate, How, UNAVAILABLE_REASON, or_default, record};
use crate::identity::{Agent, Identity};
use crate::policy::{ApproverKind, FailMode, Judge, Policy};
use crate::state::StateError;
use crate::verdict::approval::{Answer, Before, Lodged, Question, Said, Stands, Use};
use crate::verdict::judge::wire::prompt_version;
use crate::verdict::{Action, Cause, Later, Refusal, Ticket};

/// What an agent is told where neither the rule nor a person says why.
const REFUSED_REASON: &str = "an approver refused it";
const HELD_REASON: &str = "people have to look at it";
const SPENT_REASON: &str = "this retry token is of another request or another policy, what it changes is not as it \
    was shown, or it was used; send the request without it";

/// The rule that asks, and what it tells the agent.
struct Asking {
    rule: Arc<str>,
    reason: String,
}

impl Gate {
    /// How a lodged action of the agent's own stands; `None` of another's.
    ///
    /// # Errors
    /// The state cannot be read.
    pub async fn lodged(&self, identity: &Identity, id: i64) -> Result<Option<Stands>, StateError> {
        self.queue.own(id, identity.agent_key()).await
    }

    pub(super) async fn ask_chain(
        &self,
        policy: &Policy,
        agent: &Agent,
        (action, how): (&Action, How<'_>),
        (rule, reason): (Arc<str>, String),
        chain: &[Arc<str>],
    ) -> Result<Allowed, Refusal> {
        let asking = Asking { rule, reason };
        let (people, scope) = record::chain_of(policy, agent, action, &asking.rule, chain);
        let mut approvers = Vec::with_capacity(chain.len());
        let mut earlier: Vec<Said> = Vec::new();
        let (mut shown, mut place) = (None, None);
        let (mut granted, mut undecided): (Option<Use>, bool) = (None, false);
        for (at, key) in chain.iter().enumerate() {
            let question = record::question(policy, agent, action, &asking.rule, &asking.reason, key);
            let question = question.map_err(|detail| asking.down(detail))?;
            let mut question = record::clean_question(&self.known, question);
            match policy.model().approver(key).map(|approver| &approver.kind) {
                Some(ApproverKind::Llm(judge)) => {
                    let behind = chain.get(at + 1..).unwrap_or_default();
                    let skip = judge.fail_mode == FailMode::Next && has_people(policy, behind);
                    let opinion = self.ask_judge(policy, judge, &question, &asking, skip).await?;
                    undecided |= opinion.is_none();
                    approvers.push(opinion.unwrap_or_else(|| format!("{key}:no verdict")));
                }
                _ => {
                    if let Some(used) = granted.as_ref().filter(|_| !undecided) {
                        approvers.push(by_grant(key, used));
                        continue;
                    }
                    question.chain.clone_from(&people);
                    question.earlier.clone_from(&earlier);
                    (question.scope, question.heeds_grants) = (scope, !undecided);
                    // A quiet hour: it is over at once, but for what was answered before.
                    let is_asked = !question.timeout.is_zero();
                    // With more steps, the answer of the first would be used up before the last is there.
                    let later = how
                        .later
                        .filter(|later| people.len() == 1 && (is_asked || later.token.is_some()));
                    // Nothing is tried where nobody will look: a grant answers, it is a quiet hour, or
                    // no more may be held.
                    if shown.is_none()
                        && (is_asked || later.is_some())
                        && let Some(preview) = how.preview
                    {
                        let before = self.queue.before(&question, later).await;
                        match before.map_err(|down| asking.down(down.to_string()))? {
                            Before::Ask => {}
                            Before::Spent => return Err(asking.spent()),
                            Before::Granted(used) => {
                                approvers.push(by_grant(key, &used));
                                granted = Some(used);
                                continue;
                            }
                        }
                        let found = self.show((policy, agent, action), &asking.rule, (preview, &mut place));
                        shown = Some(found.await.map_err(|detail| asking.down(detail))?);
                    }
                    question.preview = shown.clone().unwrap_or_default();
                    let behind = chain.get(at + 1..).unwrap_or_default();
                    let skip = leaves_to_next(policy, key) && has_people(policy, behind);
                    match self.ask_people(question, &asking, (skip, later)).await? {
                        Yes::Left => {
                            undecided = true;
                            approvers.push(format!("{key}:nobody in time"));
                        }
                        Yes::Of(said) => {
                            approvers.extend(said.iter().map(|said| format!("{key}:{said}")));
                            earlier.extend(said);
                        }
                        Yes::Granted(used) => {
                            approvers.push(by_grant(key, &used));
                            granted = Some(used);
                        }
                    }
                }
            }
        }
        Ok(Allowed {
            cause: if granted.is_some() { "granted" } else { "approved" },
            grant: granted.map(|used| used.grant),
            rule: Some(asking.rule),
            approvers,
        })
    }

    /// With `skip`, that nobody decided in time leaves it to the people behind.
    async fn ask_people(
        &self,
        question: Question,
        asking: &Asking,
        (skip, later): (bool, Option<&Later>),
    ) -> Result<Yes, Refusal> {
        let key = question.approver.clone();
        let answer = match later {
            None => self.queue.ask(question).await,
            Some(later) => match self.queue.lodge(question, later.clone()).await {
                Ok(Lodged::Answered(answer)) => Ok(answer),
                Ok(Lodged::Held(ticket)) => return Err(asking.held(ticket)),
                Ok(Lodged::Spent) => return Err(asking.spent()),
                Err(down) => Err(down),
            },
        };
        match answer {
            Ok(Answer::Allowed { by }) => Ok(Yes::Of(by)),
            Ok(Answer::Granted(used)) => Ok(Yes::Granted(used)),
            Ok(Answer::Denied { by, reason }) => {
                let refusal = asking.refused(&key, format!("{key}:{by}"));
                Err(match reason {
                    Some(reason) => Refusal { reason, ..refusal },
                    None => refusal,
                })
            }
            Ok(Answer::TimedOut) if skip => Ok(Yes::Left),
            Ok(Answer::TimedOut) => {
                let (rule, approver) = (asking.rule.clone(), key);
                Err(Refusal::new(
                    Cause::TimedOut { rule, approver },
                    "nobody approved it in time",
                ))
            }
            Err(down) => Err(asking.down(down.to_string())),
        }
    }

    /// What stands in the record as the judge's yes; `None` with `skip`, where it gave no verdict, which
    /// is one to be left to others then.
    async fn ask_judge(
        &self,
        policy: &Policy,
        judge: &Judge,
        question: &Question,
        asking: &Asking,
        skip: bool,
    ) -> Result<Option<String>, Refusal> {
        let key = &question.approver;
        let judges = self.judges.as_ref();
        let judges = judges.ok_or_else(|| asking.down(format!("{key}: this gateway asks no judges")))?;
        match judges.ask(policy.model(), judge, question).await {
            // A judge's words are of the agent's making: they go to the log, not back to the agent.
            Ok(opinion) => {
                let prompt = prompt_version(&judge.policy);
                let said = format!(
                    "{key}:{} prompt {prompt} ({:.2})",
                    judge.model, opinion.confidence
                );
                match opinion.allow {
                    true => Ok(Some(said)),
                    false => Err(asking.refused(key, format!("{said}: {}", opinion.reason))),
                }
            }
            Err(down) => {
                tracing::warn!(approver = %key, error = %down, skip, "a judge gave no verdict");
                match skip {
                    true => Ok(None),
                    false => Err(asking.down(format!("{key}: {down}"))),
                }
            }
        }
    }
}

/// How people let it pass.
enum Yes {
    /// These people looked.
    Of(Vec<Said>),
    Granted(Use),
    /// Nobody decided in time, and others are to.
    Left,
}

/// What stands in the record of a use.
fn by_grant(key: &str, used: &Use) -> String {
    format!("{key}:grant {} by {}", used.grant, used.by.join(", "))
}

impl Asking {
    fn refused(&self, approver: &Arc<str>, detail: String) -> Refusal {
        let cause = Cause::Refused {
            rule: self.rule.clone(),
            approver: approver.clone(),
        };
        Refusal::new(cause, or_default(&self.reason, REFUSED_REASON)).with_detail(detail)
    }

    fn held(&self, ticket: Ticket) -> Refusal {
        let rule = self.rule.clone();
        Refusal::new(
            Cause::Held { rule, ticket },
            or_default(&self.reason, HELD_REASON),
        )
    }

    fn spent(&self) -> Refusal {
        Refusal::new(Cause::ApprovalDown(self.rule.clone()), SPENT_REASON)
    }

    fn down(&self, detail: String) -> Refusal {
        Refusal::new(Cause::ApprovalDown(self.rule.clone()), UNAVAILABLE_REASON).with_detail(detail)
    }
}

fn leaves_to_next(policy: &Policy, key: &str) -> bool {
    let approver = policy.model().approver(key);
    approver.is_some_and(|approver| {
        matches!(&approver.kind, ApproverKind::Human { on_timeout, .. } if *on_timeout == FailMode::Next)
    })
}

fn has_people(policy: &Policy, chain: &[Arc<str>]) -> bool {
    let mut approvers = chain.iter().filter_map(|key| policy.model().approver(key));
    approvers.any(|approver| matches!(approver.kind, ApproverKind::Human { .. }))
}
