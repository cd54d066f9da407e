//! An identity out of what tailscaled says. *Pure.*

use std::net::IpAddr;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde_json::Value;

use super::localapi::WhoIs;
use crate::identity::{Identity, Transport};

/// The app capability by which a tailnet policy file hands out profiles:
/// `{"profiles": ["ci"], "expires": "2027-01-31T00:00:00Z"}`.
pub const CAPABILITY: &str = "tailkeep.dev/cap/profile";

/// Profiles that one peer can be granted; a policy file that grants more is a mistake.
pub const GRANTS_MAX: usize = 64;

/// Who a peer is, and until when that counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// The same for as long as the node is of the tailnet.
    pub stable_id: String,
    pub identity: Arc<Identity>,
    /// When the first of its grants expires.
    pub expires: Option<DateTime<Utc>>,
}

/// One value of [`CAPABILITY`]. A field that is not known is a restriction that would be ignored, so
/// that such a value grants nothing.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Grant {
    profiles: Vec<String>,
    #[serde(default)]
    expires: Option<DateTime<Utc>>,
}

/// Why an answer names nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Nobody {
    #[error("tailscaled's answer names no node")]
    NoNode,
    #[error("tailscaled's answer has no address of the node")]
    NoAddress,
}

/// Reads an answer. `suffix` is the tailnet's own MagicDNS suffix, without a dot at its ends: a node
/// of another tailnet that was shared in keeps its whole name and none of its tags, so that it
/// cannot pass for one of ours. The second value says what of the grants was not understood.
///
/// # Errors
/// The answer lacks what an identity needs.
pub fn read(found: &WhoIs, suffix: &str, now: DateTime<Utc>) -> Result<(Known, Vec<String>), Nobody> {
    let name = found.node.name.trim_end_matches('.').to_ascii_lowercase();
    if found.node.stable_id.is_empty() || name.is_empty() {
        return Err(Nobody::NoNode);
    }
    let own = name
        .split_once('.')
        .filter(|(_, rest)| !suffix.is_empty() && rest.eq_ignore_ascii_case(suffix))
        .map(|(first, _)| first.to_owned());
    let addresses = found.node.addresses.iter().flatten();
    let mut addresses: Vec<IpAddr> = addresses.map(|net| net.addr()).collect();
    // The IPv4 address, where there is one, whichever of its two a node connects from.
    addresses.sort_by_key(IpAddr::is_ipv6);
    let address = *addresses.first().ok_or(Nobody::NoAddress)?;
    let tags = match &own {
        Some(_) => found.node.tags.clone().unwrap_or_default(),
        None => Vec::new(),
    };
    let (mut grants, mut strange) = (Vec::new(), Vec::new());
    let mut expires: Option<DateTime<Utc>> = None;
    for value in values(found) {
        match Grant::deserialize(value) {
            Ok(grant) if grant.expires.is_some_and(|at| at <= now) => {}
            Ok(grant) => {
                expires = expires.into_iter().chain(grant.expires).min();
                grants.extend(grant.profiles);
            }
            Err(error) => strange.push(format!("{CAPABILITY}: {error}")),
        }
    }
    grants.sort();
    grants.dedup();
    if grants.len() > GRANTS_MAX {
        strange.push(format!("{CAPABILITY}: more than {GRANTS_MAX} profiles"));
        grants.clear();
    }
    // A tagged node is nobody's: what the control server says as its login is a stand-in.
    let login = Some(&found.user_profile.login_name)
        .filter(|login| found.node.tags.iter().flatten().next().is_none() && !login.is_empty());
    let identity = Identity {
        transport: Transport::Tailnet,
        address,
        node: own.unwrap_or(name),
        login: login.cloned(),
        tags,
        grants,
    };
    let known = Known {
        stable_id: found.node.stable_id.clone(),
        identity: Arc::new(identity),
        expires,
    };
    Ok((known, strange))
}

fn values(found: &WhoIs) -> impl Iterator<Item = &Value> {
    let granted = found.cap_map.as_ref().and_then(|caps| caps.get(CAPABILITY));
    granted.into_iter().flatten().flatten()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn answer(node: Value, login: &str, grants: Value) -> WhoIs {
        serde_json::from_value(json!({
            "Node": node,
            "UserProfile": { "LoginName": login },
            "CapMap": { CAPABILITY: grants, "other/cap": null },
        }))
        .unwrap()
    }

    fn node(name: &str, tags: &[&str]) -> Value {
        json!({
            "StableID": "n1", "Name": name, "Tags": tags,
            "Addresses": ["fd7a:115c:a1e0::2/128", "100.64.0.2/32"],
        })
    }

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    fn known(found: &WhoIs) -> (Known, Vec<String>) {
        read(found, "lab.ts.net", at("2026-06-01T00:00:00Z")).unwrap()
    }

    #[test]
    fn a_tagged_node_is_its_tags_and_nobodys() {
        let found = answer(
            node("Build-7.lab.ts.net.", &["tag:ci"]),
            "tagged-devices",
            json!([]),
        );
        let (known, strange) = known(&found);
        assert_eq!(
            *known.identity,
            Identity {
                transport: Transport::Tailnet,
                address: "100.64.0.2".parse().unwrap(),
                node: "build-7".to_owned(),
                login: None,
                tags: vec!["tag:ci".to_owned()],
                grants: vec![],
            }
        );
        assert_eq!(
            (known.stable_id.as_str(), known.expires, strange.len()),
            ("n1", None, 0)
        );
        let found = answer(node("laptop.lab.ts.net.", &[]), "ann@example.com", json!(null));
        let login = super::read(&found, "lab.ts.net", Utc::now()).unwrap().0;
        assert_eq!(login.identity.login.as_deref(), Some("ann@example.com"));
    }

    #[test]
    fn a_node_of_another_tailnet_passes_for_none_of_ours() {
        for suffix in ["lab.ts.net", ""] {
            let found = answer(node("build-7.evil.ts.net.", &["tag:ci"]), "x@evil", json!([]));
            let (known, _) = read(&found, suffix, Utc::now()).unwrap();
            assert_eq!(known.identity.node, "build-7.evil.ts.net");
            assert!(known.identity.tags.is_empty());
        }
    }

    #[test]
    fn grants_count_until_they_expire_and_only_if_they_are_understood() {
        let found = answer(
            node("a.lab.ts.net.", &[]),
            "",
            json!([
                {"profiles": ["dev", "ci"], "expires": "2026-06-02T00:00:00Z"},
                {"profiles": ["ci"], "expires": "2026-06-01T12:00:00Z"},
                {"profiles": ["old"], "expires": "2026-05-31T00:00:00Z"},
                {"profiles": ["sure"], "only_on": "monday"},
                {"profiles": "ops"},
                "root",
            ]),
        );
        let (known, strange) = known(&found);
        assert_eq!(known.identity.grants, ["ci", "dev"]);
        assert_eq!(known.expires, Some(at("2026-06-01T12:00:00Z")));
        assert_eq!(strange.len(), 3, "{strange:?}");
        let many: Vec<String> = (0..=GRANTS_MAX).map(|number| number.to_string()).collect();
        let found = answer(node("a.lab.ts.net.", &[]), "", json!([{ "profiles": many }]));
        assert!(
            super::read(&found, "", Utc::now())
                .unwrap()
                .0
                .identity
                .grants
                .is_empty()
        );
    }

    #[test]
    fn an_answer_without_a_node_names_nobody() {
        let mut found = answer(node("", &[]), "", json!([]));
        assert_eq!(read(&found, "", Utc::now()), Err(Nobody::NoNode));
        found = answer(json!({"StableID": "n1", "Name": "a."}), "", json!([]));
        assert_eq!(read(&found, "", Utc::now()), Err(Nobody::NoAddress));
    }
}
