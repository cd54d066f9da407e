//! The head of a request against what was dialled.

use http::header::{HOST, HeaderName};
use http::request::Parts;

use super::Claimed;
use super::judge::Judge;
use super::request::Exchange;
use crate::policy::HostPort;
use crate::protocol::admit::{admit, slots};
use crate::protocol::http::Malformed;

impl<J: Judge> Exchange<'_, J> {
    /// Checks the head against what was dialled, and takes out what belongs to this hop.
    pub(super) fn check(&mut self, parts: &mut Parts) -> Result<(), Malformed> {
        if !self.is_claimed() {
            return Err(Malformed::Misdirected);
        }
        let claimed = HostPort {
            host: self.called(parts),
            port: self.connection.claimed.destination.port(),
        };
        let judge = &self.connection.shared.judge;
        let admitted = judge.with_model(|model| admit(parts, &self.endpoint, &claimed, model))?;
        self.host = admitted.host;
        // What TLS settled, or a Host by which an address was called, may have come to lead
        // elsewhere by a reload; what was dialled is looked after where connections are served.
        let own = claimed_host(&self.connection.claimed);
        if self.host != own && !self.connection.shared.leads(&self.connection.claimed, &self.host) {
            return Err(Malformed::Misdirected);
        }
        self.upgrade = admitted.upgrade;
        self.later = admitted.later;
        Ok(())
    }

    /// The headers in which credentials of this endpoint have their slots.
    pub(super) fn slots(&self) -> Vec<HeaderName> {
        let judge = &self.connection.shared.judge;
        judge.with_model(|model| slots(&self.endpoint, model))
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
