//! What makes two questions the same one: a yes to one is a yes to the other.

use super::Question;
use crate::verdict::Digest;

/// What identifies an action across retries. Whatever a person was shown is in it.
pub(super) fn identity(question: &Question) -> [u8; 32] {
    let required = question.required.to_be_bytes();
    let policy = question.policy.to_be_bytes();
    let facts = question.facts.to_string();
    let credential = serde_json::json!(question.credential.as_deref()).to_string();
    let does = question.preview["does"].to_string();
    let eligible = serde_json::json!(question.eligible).to_string();
    let later = serde_json::json!([
        question.excluded,
        question.escalation.as_ref().map(|later| &later.to),
        question.earlier,
    ])
    .to_string();
    *Digest::of_parts([
        question.digest.as_bytes().as_slice(),
        question.node.as_bytes(),
        serde_json::json!([question.login, question.transport, question.tags])
            .to_string()
            .as_bytes(),
        question.profile.as_bytes(),
        question.endpoint.as_bytes(),
        credential.as_bytes(),
        question.rule.as_bytes(),
        question.approver.as_bytes(),
        question.summary.as_bytes(),
        question.detail.as_bytes(),
        facts.as_bytes(),
        does.as_bytes(),
        eligible.as_bytes(),
        question.agent.as_bytes(),
        later.as_bytes(),
        question.scope.as_ref().map_or(&[][..], |scope| scope.bytes()),
        &required,
        &policy,
    ])
    .as_bytes()
}
