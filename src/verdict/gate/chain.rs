//! The chain of approvers that an action needs: each in turn, all of them.

use std::sync::Arc;

use super::{Allowed, Gate, UNAVAILABLE_REASON, or_default, record};
use crate::identity::Agent;
use crate::policy::{ApproverKind, FailMode, Judge, Policy};
use crate::verdict::approval::{Answer, Question};
use crate::verdict::judge::wire::prompt_version;
use crate::verdict::{Action, Cause, Preview, Refusal};

/// What an agent is told where neither the rule nor a person says why.
const REFUSED_REASON: &str = "an approver refused it";

/// The rule that asks, and what it tells the agent.
struct Asking {
    rule: Arc<str>,
    reason: String,
}

impl Gate {
    pub(super) async fn ask_chain(
        &self,
        policy: &Policy,
        agent: &Agent,
        (action, preview): (&Action, Option<&dyn Preview>),
        (rule, reason): (Arc<str>, String),
        chain: &[Arc<str>],
    ) -> Result<Allowed, Refusal> {
        let asking = Asking { rule, reason };
        let mut approvers = Vec::with_capacity(chain.len());
        let mut shown = None;
        for (at, key) in chain.iter().enumerate() {
            let question = record::question(policy, agent, action, &asking.rule, &asking.reason, key);
            let question = question.map_err(|detail| asking.down(detail))?;
            let question = record::clean_question(&self.known, question);
            match policy.model().approver(key).map(|approver| &approver.kind) {
                Some(ApproverKind::Llm(judge)) => {
                    let behind = chain.get(at + 1..).unwrap_or_default();
                    let skip = judge.fail_mode == FailMode::Next && has_people(policy, behind);
                    approvers.push(self.ask_judge(policy, judge, &question, &asking, skip).await?);
                }
                _ => {
                    if shown.is_none()
                        && let Some(preview) = preview
                    {
                        let found = self.show(policy, agent, action, &asking.rule, preview).await;
                        shown = Some(found.map_err(|detail| asking.down(detail))?);
                    }
                    let question = Question {
                        preview: shown.clone().unwrap_or_default(),
                        ..question
                    };
                    approvers.extend(self.ask_people(question, &asking).await?);
                }
            }
        }
        Ok(Allowed {
            cause: "approved",
            rule: Some(asking.rule),
            approvers,
        })
    }

    async fn ask_people(&self, question: Question, asking: &Asking) -> Result<Vec<String>, Refusal> {
        let key = question.approver.clone();
        match self.queue.ask(question).await {
            Ok(Answer::Allowed { by }) => {
                Ok(by.into_iter().map(|person| format!("{key}:{person}")).collect())
            }
            Ok(Answer::Denied { by, reason }) => {
                let refusal = asking.refused(&key, format!("{key}:{by}"));
                Err(match reason {
                    Some(reason) => Refusal { reason, ..refusal },
                    None => refusal,
                })
            }
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

    /// What stands in the record as the judge's yes. With `skip`, its failure is one to be left to others.
    async fn ask_judge(
        &self,
        policy: &Policy,
        judge: &Judge,
        question: &Question,
        asking: &Asking,
        skip: bool,
    ) -> Result<String, Refusal> {
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
                    true => Ok(said),
                    false => Err(asking.refused(key, format!("{said}: {}", opinion.reason))),
                }
            }
            Err(down) => {
                tracing::warn!(approver = %key, error = %down, skip, "a judge gave no verdict");
                match skip {
                    true => Ok(format!("{key}:no verdict")),
                    false => Err(asking.down(format!("{key}: {down}"))),
                }
            }
        }
    }
}

impl Asking {
    fn refused(&self, approver: &Arc<str>, detail: String) -> Refusal {
        let cause = Cause::Refused {
            rule: self.rule.clone(),
            approver: approver.clone(),
        };
        Refusal::new(cause, or_default(&self.reason, REFUSED_REASON)).with_detail(detail)
    }

    fn down(&self, detail: String) -> Refusal {
        Refusal::new(Cause::ApprovalDown(self.rule.clone()), UNAVAILABLE_REASON).with_detail(detail)
    }
}

fn has_people(policy: &Policy, chain: &[Arc<str>]) -> bool {
    let mut approvers = chain.iter().filter_map(|key| policy.model().approver(key));
    approvers.any(|approver| matches!(approver.kind, ApproverKind::Human { .. }))
}
