//! An identity out of what tailscaled says. *Pure.*
//!
//! A tailnet policy file says more of a node than its tags, by app capabilities ([`CAPABILITY`],
//! [`APPROVER`]). Their values are read whole or not at all: a field that is not known may be a
//! restriction. What was not understood is kept for the operator ([`Known::strange`]).

use std::net::IpAddr;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::localapi::WhoIs;
use crate::identity::{Identity, Limits, Transport, node_proof};

/// The app capability by which a tailnet policy file hands out profiles:
/// `{"profiles": ["ci"], "expires": "2027-01-31T00:00:00Z", "limits": {"connections": 10,
/// "requests_per_minute": 60}}`. `expires` and `limits` may be left out. Of several values each
/// grants its profiles, and the smallest limits hold.
pub const CAPABILITY: &str = "tailkeep.dev/cap/profile";

/// The app capability by which it names who may decide: `{"approvers": ["oncall"], "expires": …}`
/// is the `grant:oncall` of an approver's list.
pub const APPROVER: &str = "tailkeep.dev/cap/approver";

/// Names of one kind that one peer can be granted; a policy file that grants more is a mistake.
pub const GRANTS_MAX: usize = 64;

/// App capabilities of one peer; beyond them nobody could say that a rule reads them all.
pub const CAPS_MAX: usize = 256;

/// Bytes of a name that is granted.
const NAME_BYTES_MAX: usize = 128;

/// Values that were not understood and are kept for the operator.
const STRANGE_MAX: usize = 16;

/// Who a peer is, and until when that counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// The same for as long as the node is of the tailnet.
    pub stable_id: String,
    pub identity: Arc<Identity>,
    /// When the first of its grants expires.
    pub expires: Option<DateTime<Utc>>,
    /// The node's own addresses.
    pub addresses: Vec<IpAddr>,
    /// What of its capabilities was not understood, and so grants nothing.
    pub strange: Vec<String>,
}

/// One value of [`CAPABILITY`].
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Profiles {
    profiles: Vec<String>,
    #[serde(default)]
    expires: Option<DateTime<Utc>>,
    #[serde(default)]
    limits: Option<Limits>,
}

/// One value of [`APPROVER`].
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Approvers {
    approvers: Vec<String>,
    #[serde(default)]
    expires: Option<DateTime<Utc>>,
}

/// A value whose names count until it expires.
trait Grant: DeserializeOwned {
    fn parts(self) -> (Vec<String>, Option<DateTime<Utc>>, Limits);
}

impl Grant for Profiles {
    fn parts(self) -> (Vec<String>, Option<DateTime<Utc>>, Limits) {
        (self.profiles, self.expires, self.limits.unwrap_or_default())
    }
}

impl Grant for Approvers {
    fn parts(self) -> (Vec<String>, Option<DateTime<Utc>>, Limits) {
        (self.approvers, self.expires, Limits::default())
    }
}

/// Why an answer names nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Nobody {
    #[error("tailscaled's answer names no node")]
    NoNode,
    #[error("tailscaled's answer has no address of the node")]
    NoAddress,
    #[error("the node has more than {CAPS_MAX} app capabilities")]
    Caps,
}

/// Reads an answer. `suffix` is the tailnet's own MagicDNS suffix, without a dot at its ends: a node
/// of another tailnet that was shared in keeps its whole name and none of its tags, so that it
/// cannot pass for one of ours.
///
/// # Errors
/// The answer lacks what an identity needs.
pub fn read(found: &WhoIs, suffix: &str, now: DateTime<Utc>) -> Result<Known, Nobody> {
    let name = found.node.name.trim_end_matches('.').to_ascii_lowercase();
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    // A name without its tailnet's could be anybody's.
    let Some((first, rest)) = name.split_once('.').filter(|_| name.bytes().all(is_name)) else {
        return Err(Nobody::NoNode);
    };
    if found.node.stable_id.is_empty() || first.is_empty() {
        return Err(Nobody::NoNode);
    }
    let is_guest = suffix.is_empty() || !rest.eq_ignore_ascii_case(suffix);
    // A range is no address: who has one is not everybody in it.
    let addresses = found.node.addresses.iter().flatten();
    let whole = addresses.filter(|net| net.prefix_len() == net.max_prefix_len());
    let mut addresses: Vec<IpAddr> = whole.map(|net| net.addr().to_canonical()).collect();
    // The IPv4 address, where there is one, whichever of its two a node connects from.
    addresses.sort_by_key(IpAddr::is_ipv6);
    let address = *addresses.first().ok_or(Nobody::NoAddress)?;
    let tags = match is_guest {
        false => found.node.tags.clone().unwrap_or_default(),
        true => Vec::new(),
    };
    let mut reading = Reading {
        found,
        now,
        expires: None,
        limits: Limits::default(),
        strange: Vec::new(),
    };
    let grants = reading.names::<Profiles>(CAPABILITY);
    let approves = reading.names::<Approvers>(APPROVER);
    let mut caps: Vec<String> = found.cap_map.iter().flat_map(|map| map.keys().cloned()).collect();
    if caps.len() > CAPS_MAX {
        return Err(Nobody::Caps);
    }
    caps.extend(grants.iter().cloned());
    // A tagged node is nobody's: what the control server says as its login is a stand-in.
    let login = Some(&found.user_profile.login_name)
        .filter(|login| found.node.tags.iter().flatten().next().is_none() && !login.is_empty());
    let identity = Identity {
        login: login.map(|login| login.to_ascii_lowercase()),
        is_guest,
        tags,
        grants,
        caps,
        approves,
        limits: reading.limits,
        ..Identity::new(Transport::Tailnet, address, if is_guest { &name } else { first })
            .proved_by(node_proof(&found.node.stable_id))
    };
    Ok(Known {
        stable_id: found.node.stable_id.clone(),
        identity: Arc::new(identity),
        expires: reading.expires,
        addresses,
        strange: reading.strange,
    })
}

/// What is found while the capabilities of an answer are read.
struct Reading<'a> {
    found: &'a WhoIs,
    now: DateTime<Utc>,
    expires: Option<DateTime<Utc>>,
    limits: Limits,
    strange: Vec<String>,
}

impl Reading<'_> {
    /// The names that one capability grants now.
    fn names<G: Grant>(&mut self, capability: &str) -> Vec<String> {
        let caps = self.found.cap_map.as_ref();
        let values = caps.and_then(|caps| caps.get(capability)).into_iter();
        let mut names = Vec::new();
        for value in values.flatten().flatten() {
            match granted::<G>(value) {
                Ok((_, Some(at), _)) if at <= self.now => {}
                Ok((own, until, limits)) => {
                    self.expires = self.expires.into_iter().chain(until).min();
                    self.limits = self.limits.and(limits);
                    names.extend(own);
                }
                Err(error) => {
                    self.note(format!("{capability}: {error}"));
                    // Somebody wanted the agent limited, whatever lets it in.
                    if value.get("limits").is_some() {
                        self.limits = Limits::NOTHING;
                    }
                }
            }
        }
        names.sort();
        names.dedup();
        if names.len() > GRANTS_MAX {
            self.note(format!("{capability}: more than {GRANTS_MAX} names"));
            names.clear();
        }
        names
    }

    fn note(&mut self, what: String) {
        if self.strange.len() < STRANGE_MAX {
            self.strange.push(what);
        }
    }
}

type Granted = (Vec<String>, Option<DateTime<Utc>>, Limits);

fn granted<G: Grant>(value: &Value) -> Result<Granted, String> {
    let value = G::deserialize(value).map_err(|error| error.to_string())?;
    let (names, expires, limits) = value.parts();
    let odd = |name: &&String| {
        name.is_empty()
            || name.len() > NAME_BYTES_MAX
            || name.contains('/')
            || name.contains(char::is_control)
    };
    match names.iter().find(odd) {
        // A `/` tells capabilities from profiles in `agent.caps`.
        Some(name) => Err(format!(
            "{name:?} is no name: 1 to {NAME_BYTES_MAX} bytes without a slash"
        )),
        None => Ok((names, expires, limits)),
    }
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

    fn known(found: &WhoIs) -> Known {
        read(found, "lab.ts.net", at("2026-06-01T00:00:00Z")).unwrap()
    }

    #[test]
    fn a_tagged_node_is_its_tags_and_nobodys() {
        let found = answer(
            node("Build-7.lab.ts.net.", &["tag:ci"]),
            "tagged-devices",
            json!([]),
        );
        let known = known(&found);
        assert_eq!(
            *known.identity,
            Identity {
                tags: vec!["tag:ci".to_owned()],
                caps: vec!["other/cap".to_owned(), CAPABILITY.to_owned()],
                ..Identity::new(Transport::Tailnet, IpAddr::from([100, 64, 0, 2]), "build-7")
                    .proved_by("node:n1")
            }
        );
        assert_eq!(
            (known.stable_id.as_str(), known.expires, known.strange.len()),
            ("n1", None, 0)
        );
        let found = answer(node("laptop.lab.ts.net.", &[]), "Ann@example.com", json!(null));
        let login = read(&found, "lab.ts.net", Utc::now()).unwrap();
        assert_eq!(login.identity.login.as_deref(), Some("ann@example.com"));
    }

    #[test]
    fn a_node_of_another_tailnet_passes_for_none_of_ours() {
        for (name, suffix) in [
            ("build-7.evil.ts.net.", "lab.ts.net"),
            ("build-7.evil.ts.net.", ""),
            ("build-7.lab.ts.net.evil.", "lab.ts.net"),
            ("build-7.x.lab.ts.net.", "lab.ts.net"),
            ("build-7.xlab.ts.net", "lab.ts.net"),
        ] {
            let found = answer(node(name, &["tag:ci"]), "x@evil", json!([]));
            let known = read(&found, suffix, Utc::now()).unwrap();
            assert!(known.identity.is_guest);
            assert_eq!(known.identity.node, name.trim_end_matches('.'));
            assert_eq!(*known.identity.proof, node_proof(&known.stable_id));
            assert!(known.identity.tags.is_empty());
            assert_eq!(
                known.identity.login, None,
                "a tagged node is nobody's, wherever it is"
            );
        }
        // A short name would be that of one of ours.
        for name in [
            "build-7",
            "build-7.",
            ".lab.ts.net",
            "",
            "build 7.lab.ts.net",
            "b\n.lab.ts.net",
        ] {
            let found = answer(node(name, &["tag:ci"]), "x@evil", json!([]));
            assert_eq!(
                read(&found, "lab.ts.net", Utc::now()),
                Err(Nobody::NoNode),
                "{name}"
            );
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
                {"profiles": ["old"], "expires": "2026-05-31T00:00:00Z", "limits": {"connections": 1}},
                {"profiles": ["sure"], "only_on": "monday"},
                {"profiles": ["a/b"]},
                {"profiles": [""]},
                {"profiles": ["x".repeat(NAME_BYTES_MAX + 1)]},
                {"profiles": "ops"},
                {"expires": "2026-06-02T00:00:00Z"},
                {"profiles": ["late"], "expires": "tomorrow"},
                "root",
            ]),
        );
        let known = known(&found);
        assert_eq!(known.identity.grants, ["ci", "dev"]);
        assert_eq!(known.identity.caps, ["other/cap", CAPABILITY, "ci", "dev"]);
        assert_eq!(known.identity.limits, Limits::default());
        assert_eq!(known.expires, Some(at("2026-06-01T12:00:00Z")));
        assert_eq!(known.strange.len(), 8, "{:?}", known.strange);
        let longest = "x".repeat(NAME_BYTES_MAX);
        let found = answer(node("a.lab.ts.net.", &[]), "", json!([{ "profiles": [longest] }]));
        assert_eq!(
            read(&found, "", Utc::now()).unwrap().identity.grants,
            [longest.as_str()]
        );
        let many: Vec<String> = (0..=GRANTS_MAX).map(|number| number.to_string()).collect();
        let found = answer(node("a.lab.ts.net.", &[]), "", json!([{ "profiles": many }]));
        let known = read(&found, "", Utc::now()).unwrap();
        assert!(known.identity.grants.is_empty() && known.strange.len() == 1);
        let values: Vec<Value> = (0..=STRANGE_MAX).map(Value::from).collect();
        let found = answer(node("a.lab.ts.net.", &[]), "", json!(values));
        assert_eq!(read(&found, "", Utc::now()).unwrap().strange.len(), STRANGE_MAX);
    }

    #[test]
    fn the_smallest_limits_hold_and_those_not_understood_let_nothing_through() {
        let limits = |grants: Value| {
            let found = answer(node("a.lab.ts.net.", &[]), "", grants);
            let known = known(&found);
            (known.identity.limits, known.identity.grants.clone())
        };
        let (both, grants) = limits(json!([
            {"profiles": ["ci"], "limits": {"connections": 10}},
            {"profiles": [], "limits": {"connections": 4, "requests_per_minute": 60}},
            {"profiles": ["ci"], "limits": null},
        ]));
        assert_eq!((both.connections, both.requests_per_minute), (Some(4), Some(60)));
        assert_eq!(grants, ["ci"]);
        for strange in [
            json!({"connections": -1}),
            json!({"connections": 5_000_000_000_u64}),
            json!({"connections": 1, "bytes": 7}),
            json!("few"),
        ] {
            let (none, grants) = limits(json!([
                {"profiles": ["ci"]}, {"profiles": ["ci"], "limits": strange}
            ]));
            assert_eq!((none, grants.len()), (Limits::NOTHING, 1), "{strange}");
        }
    }

    #[test]
    fn who_may_decide_is_granted_apart_from_profiles() {
        let mut found = answer(node("a.lab.ts.net.", &[]), "", json!([]));
        let caps = found.cap_map.as_mut().unwrap();
        let values = json!([{"approvers": ["oncall", "lead"]}, {"approvers": ["x"], "profiles": ["ci"]}]);
        caps.insert(APPROVER.to_owned(), serde_json::from_value(values).unwrap());
        let known = known(&found);
        assert_eq!(known.identity.approves, ["lead", "oncall"]);
        assert!(known.identity.grants.is_empty() && known.strange.len() == 1);
    }

    #[test]
    fn capabilities_have_a_number() {
        let caps: serde_json::Map<String, Value> = (0..=CAPS_MAX)
            .map(|number| (format!("example.com/cap/{number}"), Value::Null))
            .collect();
        let found = json!({ "Node": node("a.b.", &[]), "UserProfile": {}, "CapMap": caps });
        let found: WhoIs = serde_json::from_value(found).unwrap();
        assert_eq!(read(&found, "b", Utc::now()), Err(Nobody::Caps));
    }

    #[test]
    fn an_answer_without_a_node_names_nobody() {
        let mut found = answer(json!({"StableID": "", "Name": "a.b."}), "", json!([]));
        assert_eq!(read(&found, "", Utc::now()), Err(Nobody::NoNode));
        found = answer(json!({"StableID": "n1", "Name": "a.b."}), "", json!([]));
        assert_eq!(read(&found, "", Utc::now()), Err(Nobody::NoAddress));
    }
}
