//! Who is on the other end of a tunnel. *Pure.*
//!
//! An [`Identity`] is what the tunnel's cryptography proved: the WireGuard peer that owns the
//! key, or the tailnet node that tailscaled vouches for. An [`Agent`] is an identity that exactly
//! one profile claims. Nothing in a payload ever changes either.
//!
//! A tailnet's node may be tagged, renamed or granted something while it has connections open: a
//! [`Live`] identity is told so, and whatever is judged later reads the facts of then. A connection
//! whose profile is another one by them ends.

pub mod budget;
pub mod cluster;
pub mod manifest;

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::{Arc, PoisonError, RwLock};

use crate::facts::{Blind, Fact, FactSource, Slot, View};

/// How the peer reached the gateway.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    Tailnet,
    Wireguard,
}

impl Transport {
    pub fn name(self) -> &'static str {
        match self {
            Transport::Tailnet => "tailnet",
            Transport::Wireguard => "wireguard",
        }
    }
}

/// What the tunnel proved about a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    pub transport: Transport,
    /// What the tunnel proved it by, whatever it is called and wherever it comes from: `key:` and the
    /// WireGuard key of the machine (its runs have the machine's), or `node:` and the tailnet's
    /// StableID. A name and an address may be given to another once their owner is removed; this is
    /// not. Empty where no tunnel proved anything; nothing is ever bound to that.
    pub proof: Arc<str>,
    /// The peer's address inside the tunnel.
    pub address: IpAddr,
    /// The tailnet node's name, or the WireGuard peer's.
    pub node: String,
    /// The login of the node's user; `None` for tagged nodes and WireGuard peers.
    pub login: Option<String>,
    /// A node of another tailnet that was shared in: it is meant by its whole name, by its own login
    /// or by a grant, never by a wildcard.
    pub is_guest: bool,
    /// Tailnet tags, `tag:` included.
    pub tags: Vec<String>,
    /// Profile names that the tailnet policy grants by capability.
    pub grants: Vec<String>,
    /// The names of all app capabilities that the tailnet policy grants towards this gateway, and
    /// after them the [`Identity::grants`]. A name of the former has a `/`, of the latter none.
    pub caps: Vec<String>,
    /// What the tailnet policy lets the person behind the node decide about as an approver.
    pub approves: Vec<String>,
    /// What the tailnet policy grants no more of.
    pub limits: Limits,
}

impl Identity {
    /// A peer of whom nothing but its place and its name is known.
    pub fn new(transport: Transport, address: IpAddr, node: impl Into<String>) -> Self {
        Identity {
            transport,
            proof: Arc::from(""),
            address,
            node: node.into(),
            login: None,
            is_guest: false,
            tags: Vec::new(),
            grants: Vec::new(),
            caps: Vec::new(),
            approves: Vec::new(),
            limits: Limits::default(),
        }
    }

    /// With what the tunnel proved it by; see [`Identity::proof`].
    #[must_use]
    pub fn proved_by(mut self, proof: impl Into<Arc<str>>) -> Self {
        self.proof = proof.into();
        self
    }

    /// Who an agent is in everything that is counted, bounded, held or stopped, with all its addresses
    /// and keys: `peer:` and the name of a WireGuard peer, which the operator gave to all its keys,
    /// those that it makes later too; of a tailnet's node its [`Identity::proof`], for its owner may
    /// rename it at any time.
    pub fn agent_key(&self) -> String {
        match self.transport {
            Transport::Wireguard => format!("peer:{}", self.node),
            Transport::Tailnet if self.proof.is_empty() => format!("unproved:{}", self.node),
            Transport::Tailnet => self.proof.to_string(),
        }
    }
}

/// The [`Identity::proof`] of a machine with a WireGuard key.
pub fn key_proof(machine: &[u8; 32]) -> String {
    use base64::Engine as _;
    format!(
        "key:{}",
        base64::engine::general_purpose::STANDARD.encode(machine)
    )
}

/// The [`Identity::proof`] of a node of a tailnet.
pub fn node_proof(stable_id: &str) -> String {
    format!("node:{stable_id}")
}

/// Bounds that hold for one agent, beside the gateway's own. `None` bounds nothing, 0 lets nothing
/// through.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize, schemars::JsonSchema,
)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Open connections.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connections: Option<u32>,
    /// Requests and statements that are judged: so many at once, and so many a minute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests_per_minute: Option<u32>,
}

impl Limits {
    /// Of an agent that was to be limited in a way that is not understood.
    pub const NOTHING: Limits = Limits {
        connections: Some(0),
        requests_per_minute: Some(0),
    };

    /// The smaller of each.
    #[must_use]
    pub fn and(self, other: Limits) -> Limits {
        let least = |one: Option<u32>, two: Option<u32>| one.into_iter().chain(two).min();
        Limits {
            connections: least(self.connections, other.connections),
            requests_per_minute: least(self.requests_per_minute, other.requests_per_minute),
        }
    }
}

/// The identity behind one connection, which may be told anew while it is open: every action is
/// judged by what is known of the peer then. Clones share it.
#[derive(Clone, Debug)]
pub struct Live(Arc<RwLock<Arc<Identity>>>);

impl Live {
    /// What is known now.
    pub fn now(&self) -> Arc<Identity> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// From here on the peer is known as this; whether that is something else than before.
    pub fn set(&self, identity: Arc<Identity>) -> bool {
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let differs = **known != *identity;
        if differs {
            *known = identity;
        }
        differs
    }
}

impl From<Arc<Identity>> for Live {
    fn from(identity: Arc<Identity>) -> Self {
        Live(Arc::new(RwLock::new(identity)))
    }
}

/// An identity that one profile claims.
#[derive(Clone, Debug)]
pub struct Agent {
    /// As it was known when this value was made; see [`Agent::now`].
    pub identity: Arc<Identity>,
    pub profile: Arc<str>,
    address_text: String,
    live: Live,
}

impl Agent {
    /// Binds an identity to the profile that the policy found for it.
    pub fn new(identity: impl Into<Live>, profile: Arc<str>) -> Self {
        let live = identity.into();
        let identity = live.now();
        Agent {
            address_text: identity.address.to_string(),
            identity,
            profile,
            live,
        }
    }

    /// The agent with what is known of its peer now. Whether its profile is the same is for the
    /// policy to say.
    pub fn now(&self) -> Cow<'_, Agent> {
        match self.live.now() {
            same if Arc::ptr_eq(&same, &self.identity) => Cow::Borrowed(self),
            _ => Cow::Owned(Agent::new(self.live.clone(), self.profile.clone())),
        }
    }
}

impl FactSource for Agent {
    fn fact(&self, slot: Slot) -> Fact<View<'_>> {
        Fact::Known(match slot {
            Slot::AgentTags => View::Texts(&self.identity.tags),
            Slot::AgentLogin => View::Text(self.identity.login.as_deref().unwrap_or_default()),
            Slot::AgentNode => View::Text(&self.identity.node),
            Slot::AgentAddress => View::Text(&self.address_text),
            Slot::AgentProfile => View::Text(&self.profile),
            Slot::AgentTransport => View::Text(self.identity.transport.name()),
            Slot::AgentCaps => View::Texts(&self.identity.caps),
            _ => return Fact::Unknown(Blind::NotRead),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_is_what_is_known_of_its_peer_now() {
        let address = IpAddr::from([100, 64, 0, 2]);
        let before = Arc::new(Identity::new(Transport::Tailnet, address, "ci-1"));
        let live = Live::from(before.clone());
        let agent = Agent::new(live.clone(), "ci".into());
        assert!(matches!(agent.now(), Cow::Borrowed(_)));
        assert!(!live.set(Arc::new((*before).clone())), "the same is no change");
        let tags = vec!["tag:x".to_owned()];
        assert!(live.set(Arc::new(Identity {
            tags: tags.clone(),
            ..(*before).clone()
        })));
        assert_eq!(agent.now().identity.tags, tags);
        assert!(agent.identity.tags.is_empty());
        assert_eq!(&*agent.now().profile, "ci");
    }

    #[test]
    fn of_two_limits_the_smaller_holds() {
        let limits = |connections, requests_per_minute| Limits {
            connections,
            requests_per_minute,
        };
        assert_eq!(
            limits(Some(3), None).and(limits(Some(2), Some(60))),
            limits(Some(2), Some(60))
        );
        assert_eq!(
            limits(None, Some(1)).and(Limits::default()),
            limits(None, Some(1))
        );
        assert_eq!(limits(Some(3), None).and(Limits::NOTHING), Limits::NOTHING);
    }
}
