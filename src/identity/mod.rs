//! Who is on the other end of a tunnel. *Pure.*
//!
//! An [`Identity`] is what the tunnel's cryptography proved: the WireGuard peer that owns the
//! key, or the tailnet node that tailscaled vouches for. An [`Agent`] is an identity that exactly
//! one profile claims. Nothing in a payload ever changes either.

use std::net::IpAddr;
use std::sync::Arc;

use crate::facts::{Blind, Fact, FactSource, Slot, View};

/// How the peer reached the gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
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
    /// The peer's address inside the tunnel.
    pub address: IpAddr,
    /// The tailnet node's name, or the WireGuard peer's.
    pub node: String,
    /// The login of the node's user; `None` for tagged nodes and WireGuard peers.
    pub login: Option<String>,
    /// Tailnet tags, `tag:` included.
    pub tags: Vec<String>,
    /// Profile names that the tailnet policy grants by capability.
    pub grants: Vec<String>,
}

/// An identity that one profile claims.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Agent {
    pub identity: Arc<Identity>,
    pub profile: Arc<str>,
    address_text: String,
}

impl Agent {
    /// Binds an identity to the profile that the policy found for it.
    pub fn new(identity: Arc<Identity>, profile: Arc<str>) -> Self {
        let address_text = identity.address.to_string();
        Agent {
            identity,
            profile,
            address_text,
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
            Slot::AgentCaps => View::Texts(&self.identity.grants),
            _ => return Fact::Unknown(Blind::NotRead),
        })
    }
}
