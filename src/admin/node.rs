//! The tailnet's nodes, as they are known: what was granted to them, and what of it was not understood.

use std::net::IpAddr;

use chrono::{DateTime, Utc};
use schemars::JsonSchema;
use serde::Serialize;

use super::Operator;
use crate::identity::Limits;
use crate::ingress::tailnet::Known;
use crate::policy::Policy;

/// A node that was asked for lately, with the profile that is for it.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "TailnetNode")]
pub(super) struct Node {
    node: String,
    stable_id: String,
    addresses: Vec<IpAddr>,
    login: Option<String>,
    is_guest: bool,
    tags: Vec<String>,
    profile: Option<String>,
    /// Why none is for it.
    no_profile: Option<String>,
    /// Profiles that the tailnet's policy grants.
    grants: Vec<String>,
    /// What the person behind it may decide about.
    approves: Vec<String>,
    caps: Vec<String>,
    limits: Limits,
    /// When the first of its grants does.
    #[schemars(with = "Option<String>")]
    expires: Option<DateTime<Utc>>,
    not_understood: Vec<String>,
}

/// Every node that was asked for lately.
pub(super) fn nodes(operator: &Operator) -> Vec<Node> {
    let policy = operator.gate.policy();
    let known = operator.directory.as_ref().map(|directory| directory.nodes());
    known.iter().flatten().map(|known| node(&policy, known)).collect()
}

fn node(policy: &Policy, known: &Known) -> Node {
    let identity = (*known.identity).clone();
    let (profile, no_profile) = match policy.profile_for(&identity) {
        Ok(profile) => (Some(profile.to_string()), None),
        Err(why) => (None, Some(why)),
    };
    Node {
        node: identity.node,
        stable_id: known.stable_id.clone(),
        addresses: known.addresses.clone(),
        login: identity.login,
        is_guest: identity.is_guest,
        tags: identity.tags,
        profile,
        no_profile,
        grants: identity.grants,
        approves: identity.approves,
        caps: identity.caps,
        limits: identity.limits,
        expires: known.expires,
        not_understood: known.strange.clone(),
    }
}
