//! Whose a recorded action was, and whose it would be by another policy. *Pure.*

use std::net::IpAddr;
use std::sync::Arc;

use serde_json::{Value, json};

use super::text;
use crate::identity::{Identity, Transport};
use crate::policy::Policy;

/// Whose an action was, as far as a record tells; `None` where it has no tags of a tailnet's node.
pub(super) fn identity(record: &Value) -> Option<Identity> {
    let address = text(record, "address")?.parse::<IpAddr>().ok()?;
    let node = text(record, "node")?;
    if text(record, "transport") == Some(Transport::Wireguard.name()) {
        return Some(Identity::new(Transport::Wireguard, address, node));
    }
    let agent = record.get("agent")?;
    let texts = |name: &str| -> Option<Vec<String>> {
        let items = agent.get(name)?.as_array()?.iter();
        items.map(|item| Some(item.as_str()?.to_owned())).collect()
    };
    Some(Identity {
        login: text(record, "login").map(str::to_owned),
        is_guest: agent.get("is_guest")?.as_bool()?,
        tags: texts("tags")?,
        grants: texts("grants")?,
        caps: texts("caps")?,
        ..Identity::new(Transport::Tailnet, address, node)
    })
}

/// The profile that `policy` gives the agent of a record.
pub(super) fn profile(policy: &Policy, record: &Value) -> Option<Arc<str>> {
    if let Some(identity) = identity(record) {
        return policy.profile_for(&identity).ok();
    }
    policy
        .model()
        .profile(text(record, "profile")?)
        .map(|own| own.name.clone())
}

/// The agent's facts that a record has.
pub fn agent(record: &Value, profile: &str) -> Value {
    let mut agent = json!({
        "login": text(record, "login").unwrap_or_default(),
        "node": record["node"], "address": record["address"],
        "profile": profile, "transport": record["transport"],
    });
    if let Some(identity) = identity(record) {
        agent["tags"] = json!(identity.tags);
        agent["caps"] = json!(identity.caps);
    }
    agent
}
