//! The tailnet's nodes, as they are known: what was granted to them, and what of it was not understood.

use serde_json::{Value, json};

use super::Operator;
use crate::ingress::tailnet::Known;
use crate::policy::Policy;

/// Every node that was asked for lately, with the profile that is for it.
pub(super) fn nodes(operator: &Operator) -> Vec<Value> {
    let policy = operator.gate.policy();
    let known = operator.directory.as_ref().map(|directory| directory.nodes());
    known.iter().flatten().map(|known| node(&policy, known)).collect()
}

fn node(policy: &Policy, known: &Known) -> Value {
    let identity = &known.identity;
    let profile = policy.profile_for(identity);
    json!({
        "node": identity.node,
        "stable_id": known.stable_id,
        "addresses": known.addresses,
        "login": identity.login,
        "is_guest": identity.is_guest,
        "tags": identity.tags,
        "profile": profile.as_deref().ok(),
        "no_profile": profile.as_ref().err(),
        "grants": identity.grants,
        "approves": identity.approves,
        "caps": identity.caps,
        "limits": identity.limits,
        "expires": known.expires,
        "not_understood": known.strange,
    })
}
