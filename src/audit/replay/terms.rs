//! By which terms an action would pass that passes by two policies: who may say yes and how long they have, by which
//! channels, and how often a rule lets it. *Pure.*

use crate::policy::{Approver, ApproverKind, Model, Policy};

/// Where the terms of `new` are others than those of `old`, in words.
///
/// `rules` are the rules that decide by the one and by the other; `chain` is who is asked by both.
pub(super) fn changed(
    (old, new): (&Policy, &Policy),
    endpoint: &str,
    rules: [Option<&str>; 2],
    chain: &[String],
) -> Vec<String> {
    let mut said = Vec::new();
    for key in chain {
        let both = (old.model().approver(key), new.model().approver(key));
        let (Some(was), Some(is)) = both else { continue };
        let mut fields = was.differences(is);
        if waits_by_default(was) && waits_by_default(is) && human_timeout(old) != human_timeout(new) {
            fields.push("defaults.human_timeout");
        }
        if !fields.is_empty() {
            said.push(format!("{key}: {}", fields.join(", ")));
        }
        for channel in channels(is) {
            said.extend(channel_changed(old.model(), new.model(), channel));
        }
    }
    let limits = |policy: &Policy, rule: Option<&str>| -> String {
        let own = rule.and_then(|rule| policy.rule_limits(endpoint, rule));
        let own: Vec<String> = own.into_iter().flatten().map(ToString::to_string).collect();
        match own.is_empty() {
            true => "none".to_owned(),
            false => own.join(" and "),
        }
    };
    let [was, is] = [limits(old, rules[0]), limits(new, rules[1])];
    if was != is {
        said.push(format!("the rule's limit: {was}, then {is}"));
    }
    // Two may tell by one channel.
    said.dedup();
    said
}

fn human_timeout(policy: &Policy) -> std::time::Duration {
    policy.model().defaults.human_timeout
}

fn waits_by_default(approver: &Approver) -> bool {
    matches!(approver.kind, ApproverKind::Human { timeout: None, .. })
}

fn channels(approver: &Approver) -> &[std::sync::Arc<str>] {
    match &approver.kind {
        ApproverKind::Human { channels, .. } => channels,
        ApproverKind::Llm(_) => &[],
    }
}

/// What is another of a channel: who decides through it, where it is, by which secrets.
fn channel_changed(old: &Model, new: &Model, key: &str) -> Option<String> {
    // One that is new to an approver is among its `channels`.
    let fields = old.channel(key)?.differences(new.channel(key)?);
    (!fields.is_empty()).then(|| format!("{key}: {}", fields.join(", ")))
}
