//! What an approver is asked about an action.

use std::sync::Arc;

use super::approval::Question;
use super::{Action, record};
use crate::identity::Agent;
use crate::policy::{ApproverKind, Policy};

/// The question to the approver `key`, which `rule` wants asked.
///
/// # Errors
/// Nobody can be asked; why.
pub(super) fn question(
    policy: &Policy,
    agent: &Agent,
    action: &Action,
    rule: &Arc<str>,
    reason: &str,
    key: &Arc<str>,
) -> Result<Question, String> {
    let approver = policy
        .model()
        .approver(key)
        .ok_or_else(|| format!("{key} is not in the policy"))?;
    let (timeout, required, eligible) = match &approver.kind {
        ApproverKind::Human {
            timeout,
            require_approvers,
            approvers,
            ..
        } => (
            timeout.unwrap_or(policy.model().defaults.human_timeout),
            *require_approvers,
            approvers.clone(),
        ),
        ApproverKind::Llm { .. } => return Err(format!("{key}: this gateway has no LLM judge yet")),
    };
    Ok(Question {
        approver: key.clone(),
        rule: rule.clone(),
        reason: reason.to_owned(),
        node: agent.identity.node.clone(),
        login: agent.identity.login.clone(),
        profile: agent.profile.clone(),
        endpoint: action.endpoint.clone(),
        credential: action.credential.clone(),
        summary: record::masked(policy.mask(), &action.facts, &action.summary),
        detail: record::masked(policy.mask(), &action.facts, &action.detail),
        facts: action.facts.to_json(policy.mask()),
        digest: action.digest,
        required,
        eligible,
        timeout,
        policy: policy.version(),
    })
}
