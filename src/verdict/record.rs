//! The record of a verdict, and the last lines before it or a question is written: no credential is
//! in it, whoever put it there, and it is not larger than it may be.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use super::approval::{People, Question, Scope, person_of};
use super::{Action, Digest, Refusal, Step};
use crate::audit::Record;
use crate::credential::KnownSecrets;
use crate::facts::{Facts, FactsText, Mask};
use crate::identity::{Agent, Identity, Transport};
use crate::policy::{ApproverKind, Escalation, Policy};

/// What an agent reads when the rule gives no reason of its own.
const NO_RULE_REASON: &str = "no rule allows this";

/// An action's text with its credentials masked, as its family writes them.
pub(super) fn masked(mask: &Mask, facts: &Facts, text: &str) -> String {
    match facts {
        Facts::Sql(_) => mask.sql(text).into_owned(),
        _ => mask.request(text).into_owned(),
    }
}

/// What a record holds of an action.
pub(super) fn fill_action(known: &KnownSecrets, mask: &Mask, action: &Action, record: &mut Record) {
    record.step = action.step;
    record.credential = action.credential.clone();
    record.summary = masked(mask, &action.facts, &action.summary);
    record.facts = known.scrubbing(|scrub| FactsText::of(&action.facts, mask, scrub));
    record.digest = action.digest;
}

/// Cleans and bounds a record, but for its facts.
pub(super) fn clean(known: &KnownSecrets, policy: &Policy, record: &mut Record) {
    record.bound_agent();
    // An evaluator's word may repeat the value that it failed on.
    if let Some(detail) = &mut record.detail
        && let Cow::Owned(clean) = policy.mask().text(detail)
    {
        *detail = clean;
    }
    let texts = [&mut record.summary, &mut record.reason];
    for text in texts.into_iter().chain(&mut record.detail) {
        scrub(known, text);
    }
}

/// What a rule's chain asks of people, step by step, and what a grant in their place would be for.
pub(super) fn chain_of(
    policy: &Policy,
    agent: &Agent,
    action: &Action,
    rule: &str,
    chain: &[Arc<str>],
) -> (Vec<People>, Option<Scope>) {
    let approvers = chain.iter().filter_map(|key| policy.model().approver(key));
    let people = approvers.filter_map(|approver| match &approver.kind {
        ApproverKind::Human {
            require_approvers,
            approvers,
            separation,
            ..
        } => Some(People {
            required: *require_approvers,
            eligible: approvers.clone(),
            excluded: owner(agent, *separation),
        }),
        ApproverKind::Llm(_) => None,
    });
    let digest = policy.rule_digest(&action.endpoint, action.credential.as_deref(), rule);
    let scope = digest.and_then(|digest| Scope::new(&agent.identity, &agent.profile, (rule, digest)));
    (people.collect(), scope)
}

/// Who may not decide on what the agent does.
fn owner(agent: &Agent, separation: bool) -> Option<String> {
    let login = agent.identity.login.as_ref().filter(|_| separation);
    login.map(|login| person_of(login))
}

/// What an approver is asked, not cleaned yet.
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
    let (mut excluded, mut escalation) = (None, None);
    let endpoint = policy.model().endpoint(&action.endpoint);
    let (channel, timeout, required, eligible) = match &approver.kind {
        ApproverKind::Human {
            channel,
            timeout,
            require_approvers,
            approvers,
            separation,
            escalation: later,
            quiet,
            ..
        } => {
            let is_quiet = quiet.is_some_and(|quiet| quiet.holds(chrono::Utc::now()));
            excluded = owner(agent, *separation);
            escalation = later.clone().map(|later| Escalation {
                after: if is_quiet { Duration::ZERO } else { later.after },
                ..later
            });
            let timeout = timeout.unwrap_or(policy.model().defaults.human_timeout);
            // What nobody is there for is over before it is asked, but for a grant.
            let timeout = if is_quiet && escalation.is_none() {
                Duration::ZERO
            } else {
                timeout
            };
            (channel.clone(), timeout, *require_approvers, approvers.clone())
        }
        // It answers at once, and nobody else is asked.
        ApproverKind::Llm(judge) => (None, judge.timeout, 1, Vec::new()),
    };
    let facts = action.facts.to_json(policy.mask());
    let mut detail = masked(policy.mask(), &action.facts, &action.detail);
    if matches!(action.facts, Facts::Sql(_)) {
        detail = with_parameters(&facts, detail);
    }
    Ok(Question {
        approver: key.clone(),
        channel,
        rule: rule.clone(),
        reason: reason.to_owned(),
        node: agent.identity.node.clone(),
        login: agent.identity.login.clone(),
        transport: agent.identity.transport,
        tags: agent.identity.tags.clone(),
        profile: agent.profile.clone(),
        endpoint: action.endpoint.clone(),
        description: endpoint.and_then(|endpoint| endpoint.description.clone()),
        credential: action.credential.clone(),
        summary: masked(policy.mask(), &action.facts, &action.summary),
        detail,
        facts,
        preview: serde_json::Value::Null,
        digest: action.digest,
        required,
        eligible,
        excluded,
        escalation,
        timeout,
        policy: policy.version(),
        agent: agent.identity.agent_key(),
        scope: None,
        heeds_grants: false,
        chain: Vec::new(),
        earlier: Vec::new(),
    })
}

/// A statement with what its parameters are, which are no less what will be run. They stand first, so that nothing in
/// the text passes for them.
fn with_parameters(facts: &serde_json::Value, text: String) -> String {
    let mut lines = String::new();
    for (at, value) in facts["parameters"].as_array().into_iter().flatten().enumerate() {
        lines.push_str(&format!("${} = {value}\n", at + 1));
    }
    lines + &text
}

/// Cleans a question, whose size the queue bounds.
pub(super) fn clean_question(known: &KnownSecrets, mut question: Question) -> Question {
    known.scrub_json(&mut question.facts);
    for text in [&mut question.summary, &mut question.detail, &mut question.reason] {
        scrub(known, text);
    }
    question
}

fn scrub(known: &KnownSecrets, text: &mut String) {
    if let Cow::Owned(clean) = known.scrub(text) {
        *text = clean;
    }
}

/// A record of a denial, to be filled.
pub(super) fn blank(identity: &Identity, profile: Option<Arc<str>>, endpoint: Arc<str>) -> Record {
    Record {
        at_us: crate::state::now_us(),
        step: Step::Request,
        transport: identity.transport.name(),
        node: identity.node.clone(),
        login: identity.login.clone(),
        address: identity.address.to_string(),
        agent: known(identity),
        profile,
        endpoint,
        credential: None,
        summary: String::new(),
        facts: FactsText::default(),
        digest: Digest::EMPTY,
        verdict: "deny",
        cause: "no_rule",
        rule: None,
        reason: String::new(),
        detail: None,
        approvers: Vec::new(),
        shadow: Vec::new(),
        judge_us: 0,
        wait_us: 0,
        policy: 0,
    }
}

/// What else is known of a tailnet's node.
fn known(identity: &Identity) -> Option<serde_json::Value> {
    match identity.transport {
        Transport::Wireguard => None,
        Transport::Tailnet => Some(serde_json::json!({
            "tags": identity.tags, "grants": identity.grants, "caps": identity.caps,
            "is_guest": identity.is_guest,
        })),
    }
}

/// Writes why it was refused.
pub(super) fn fill_refusal(record: &mut Record, refusal: &Refusal) {
    record.verdict = "deny";
    record.cause = refusal.cause.name();
    record.rule = refusal.rule().cloned();
    record.reason = super::gate::or_default(&refusal.reason, NO_RULE_REASON);
    record.detail = refusal.detail.clone();
}
