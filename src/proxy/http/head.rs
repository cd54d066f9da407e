//! The head of a request against what was dialled.

use std::sync::Arc;

use http::Method;
use http::header::{HOST, HeaderName};
use http::request::Parts;

use super::Claimed;
use super::judge::Judge;
use super::request::Exchange;
use crate::policy::{Credential, CredentialKind, HostPort, Protocol};
use crate::protocol::http::{
    Malformed, Upgrade, check_head, is_underscored, later, strip_hop_by_hop, upgrade,
};
use crate::protocol::kubernetes::check_kubernetes_head;

impl<J: Judge> Exchange<'_, J> {
    /// Checks the head against what was dialled, and takes out what belongs to this hop.
    pub(super) fn check(&mut self, parts: &mut Parts) -> Result<(), Malformed> {
        if matches!(parts.method, Method::TRACE | Method::CONNECT) {
            return Err(Malformed::Method);
        }
        if !self.is_claimed() {
            return Err(Malformed::Misdirected);
        }
        let claimed = HostPort {
            host: self.called(parts),
            port: self.connection.claimed.destination.port(),
        };
        let authority = match self.endpoint.protocol {
            Protocol::Kubernetes => check_kubernetes_head(parts, &claimed)?,
            _ => check_head(parts, &claimed)?,
        };
        self.host = authority.host;
        // What TLS settled, or a Host by which an address was called, may have come to lead
        // elsewhere by a reload; what was dialled is looked after where connections are served.
        let own = claimed_host(&self.connection.claimed);
        if self.host != own && !self.connection.shared.leads(&self.connection.claimed, &self.host) {
            return Err(Malformed::Misdirected);
        }
        if let Some(name) = parts.headers.keys().find(|name| is_underscored(name))
            && !self.slots().contains(name)
        {
            return Err(Malformed::Underscore);
        }
        self.upgrade = upgrade(parts)?.filter(|kind| match kind {
            Upgrade::WebSocket => self.endpoint.protocol != Protocol::Mcp,
            Upgrade::Spdy => self.endpoint.protocol == Protocol::Kubernetes,
        });
        strip_hop_by_hop(&mut parts.headers, self.upgrade);
        self.later = later::take(&mut parts.headers)?;
        Ok(())
    }

    /// The headers in which credentials of this endpoint have their slots.
    pub(super) fn slots(&self) -> Vec<HeaderName> {
        let slot = |credential: &Arc<Credential>| match &credential.kind {
            CredentialKind::Header { header, .. } if credential.endpoints.contains(&self.endpoint.key) => {
                HeaderName::from_bytes(header.as_bytes()).ok()
            }
            _ => None,
        };
        let judge = &self.connection.shared.judge;
        judge.with_model(|model| model.credentials.iter().filter_map(slot).collect())
    }

    /// Whether the endpoint still claims what this connection dialled: a reload may have taken
    /// the destination away and left the endpoint.
    fn is_claimed(&self) -> bool {
        let claimed = &self.connection.claimed;
        let port = claimed.destination.port();
        self.endpoint.claims.iter().any(|claim| {
            claim.port == port
                && match &claimed.name {
                    Some(name) => claim.host.matches_name(name),
                    None => claim.host.matches_address(claimed.destination.ip()),
                }
        })
    }

    /// The host that a request must name: what TLS settled, or the dialled name. Where only an
    /// address was dialled, any name that the endpoint claims, or the address.
    fn called(&self, parts: &Parts) -> String {
        let claimed = &self.connection.claimed;
        if let Some(name) = self.connection.sni.as_ref().or(claimed.name.as_ref()) {
            return name.clone();
        }
        let named = parts
            .headers
            .get(HOST)
            .and_then(|host| host.to_str().ok())
            .or_else(|| parts.uri.authority().map(|authority| authority.as_str()));
        let named = named.map(|host| host.split(':').next().unwrap_or(host).to_ascii_lowercase());
        named
            .filter(|host| self.connection.shared.leads(claimed, host))
            .unwrap_or_else(|| claimed.destination.ip().to_string())
    }
}

/// What was dialled: the name behind the virtual address, or the address.
fn claimed_host(claimed: &Claimed) -> String {
    let address = || claimed.destination.ip().to_string();
    claimed.name.clone().unwrap_or_else(address)
}
