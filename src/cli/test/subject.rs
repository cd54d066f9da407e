//! Who did a recorded action, where, and with what. *Of `tailkeep test`.*

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use anyhow::Context as _;

use super::fixture::{Action, Fixture, Who};
use crate::identity::{Agent, Identity, Transport};
use crate::policy::{Endpoint, Policy};

/// The endpoint that the fixture names, or that claims its host.
pub(in crate::cli) fn endpoint<'a>(
    policy: &'a Policy,
    fixture: &Fixture,
) -> anyhow::Result<&'a Arc<Endpoint>> {
    let endpoints = &policy.model().endpoints;
    if let Some(name) = fixture.wanted.endpoint.as_deref().filter(|name| !name.is_empty()) {
        let same = |key: &str| key == name || key.split_once('.').is_some_and(|(_, own)| own == name);
        let found = endpoints.iter().find(|endpoint| same(&endpoint.key));
        return found.with_context(|| format!("there is no endpoint `{name}`"));
    }
    let host = fixture
        .action
        .host
        .as_deref()
        .context("neither `match.endpoint` nor `action.host` is set")?;
    let name = host
        .rsplit_once(':')
        .map_or(host, |(name, _)| name)
        .to_ascii_lowercase();
    let claims = |endpoint: &Endpoint| {
        let address = name.parse::<IpAddr>().ok();
        let own = |claim: &crate::policy::Claim| {
            claim.host.matches_name(&name) || address.is_some_and(|ip| claim.host.matches_address(ip))
        };
        endpoint.claims.iter().any(own)
    };
    let found = endpoints.iter().find(|endpoint| claims(endpoint));
    found.with_context(|| format!("no endpoint claims {host}"))
}

/// The agent of the fixture, or, where none is named, any that holds the endpoint: the published
/// fixtures know no agents.
pub(in crate::cli) fn agent(policy: &Policy, action: &Action, endpoint: &Endpoint) -> anyhow::Result<Agent> {
    let who = action.agent.as_ref();
    let peer = who.and_then(|who| who.peer.clone());
    let transport = match peer {
        Some(_) => Transport::Wireguard,
        None => Transport::Tailnet,
    };
    let address = action.peer_ip.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
    let node = peer.or_else(|| who.and_then(|who| who.node.clone()));
    let identity = Arc::new(Identity {
        login: who.and_then(|who| who.login.clone()),
        tags: who.map(|who| who.tags.clone()).unwrap_or_default(),
        grants: who.map(|who| who.grants.clone()).unwrap_or_default(),
        caps: who
            .map(|who| [&*who.caps, &*who.grants].concat())
            .unwrap_or_default(),
        ..Identity::new(transport, address, node.unwrap_or_default())
    });
    let profile = match who {
        Some(Who {
            profile: Some(name), ..
        }) => {
            let found = policy
                .model()
                .profile(name)
                .with_context(|| format!("there is no profile `{name}`"))?;
            found.name.clone()
        }
        Some(_) => policy.profile_for(&identity).map_err(anyhow::Error::msg)?,
        None => {
            let mut holding = policy
                .model()
                .profiles
                .iter()
                .filter(|own| own.endpoints.contains(&endpoint.key));
            holding
                .next()
                .with_context(|| format!("no profile holds {}", endpoint.key))?
                .name
                .clone()
        }
    };
    Ok(Agent::new(identity, profile))
}

/// The credential that the fixture names.
pub(in crate::cli) fn credential(policy: &Policy, action: &Action) -> Option<Arc<str>> {
    let name = action.credential.as_ref()?;
    let found = policy
        .model()
        .credentials
        .iter()
        .find(|own| own.name == *name || *own.key == **name);
    Some(found.map_or_else(|| Arc::from(name.as_str()), |own| own.key.clone()))
}
