//! Which endpoint a destination means. No I/O.
//!
//! Invariant: what any endpoint claims is never passed through, whether or not the agent's
//! profile holds that endpoint. A virtual address that no name owns leads nowhere.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::identity::manifest::HOST;
use crate::policy::{Claim, Endpoint, HostPattern, Model, UnknownHost};

/// What the agent dialled.
#[derive(Clone, Copy, Debug)]
pub struct Destination<'a> {
    pub address: SocketAddr,
    /// The name that owns the address, if it is a virtual one.
    pub name: Option<&'a str>,
}

/// Where a flow goes.
#[derive(Clone, Debug)]
pub enum Route {
    /// An endpoint that the profile holds.
    Endpoint(Arc<Endpoint>),
    /// A destination that nothing claims, and `unknown_host` lets it pass.
    Passthrough,
    /// Nowhere; the text is for the audit log.
    Closed(&'static str),
}

impl Route {
    /// Whether a connection on this route may stay where `other` would be taken now: the same
    /// endpoint (whose fields may have changed), or passed through as before.
    pub fn is_as(&self, other: &Route) -> bool {
        match (self, other) {
            (Route::Endpoint(one), Route::Endpoint(two)) => one.key == two.key,
            (Route::Passthrough, Route::Passthrough) | (Route::Closed(_), Route::Closed(_)) => true,
            _ => false,
        }
    }
}

/// Finds the route of a destination for a profile.
pub fn route(model: &Model, profile: &str, destination: Destination<'_>) -> Route {
    let held = |endpoint: &Endpoint| {
        model
            .profile(profile)
            .is_some_and(|profile| profile.endpoints.contains(&endpoint.key))
    };
    let best = |only_held: bool| {
        model
            .endpoints
            .iter()
            .filter(|endpoint| !only_held || held(endpoint))
            .filter_map(|endpoint| Some((specificity(endpoint, destination)?, endpoint)))
            // `max_by_key` keeps the last of equals; the first declared is to win.
            .rev()
            .max_by_key(|(rank, _)| *rank)
            .map(|(_, endpoint)| endpoint)
    };
    // A wildcard of a policy may hold it; it is still ours alone.
    if destination.name == Some(HOST) {
        return Route::Closed("it is the gateway's own name");
    }
    if let Some(endpoint) = best(true) {
        return Route::Endpoint(endpoint.clone());
    }
    if best(false).is_some() {
        return Route::Closed("the profile does not hold the endpoint that claims it");
    }
    let address = destination.address.ip();
    if destination.name.is_some() || is_virtual(model, address) {
        return Route::Closed("no endpoint claims this port of the name");
    }
    match model.defaults.unknown_host {
        UnknownHost::Passthrough => Route::Passthrough,
        UnknownHost::Deny => Route::Closed("no endpoint claims it"),
    }
}

/// Whether a host that a client names leads to the endpoint `key` at `port`, as dialling it would.
///
/// A wildcard's claim on a name ends where another endpoint claims that name more closely: else a
/// client could dial one name, name the other, and be judged by the rules of the first.
pub fn leads_to(model: &Model, profile: &str, (host, port): (&str, u16), key: &str) -> bool {
    let (address, name) = match host.parse() {
        Ok(address) => (address, None),
        Err(_) => (IpAddr::from([0; 4]), Some(host)),
    };
    let destination = Destination {
        address: SocketAddr::new(address, port),
        name,
    };
    matches!(route(model, profile, destination), Route::Endpoint(endpoint) if *endpoint.key == *key)
}

/// Whether an address is of the ranges that names get their addresses from.
pub fn is_virtual(model: &Model, address: IpAddr) -> bool {
    model.gateway.virtual_v4.contains(&address) || model.gateway.virtual_v6.contains(&address)
}

/// How closely the best claim of an endpoint fits: a whole name before a longer suffix before a
/// shorter one; a longer prefix before a shorter one.
fn specificity(endpoint: &Endpoint, destination: Destination<'_>) -> Option<usize> {
    endpoint
        .claims
        .iter()
        .filter_map(|claim| fit(claim, destination))
        .max()
}

fn fit(claim: &Claim, destination: Destination<'_>) -> Option<usize> {
    if claim.port != destination.address.port() {
        return None;
    }
    match (&claim.host, destination.name) {
        (HostPattern::Name(_), Some(name)) if claim.host.matches_name(name) => Some(usize::MAX),
        (HostPattern::Suffix(suffix), Some(name)) if claim.host.matches_name(name) => Some(suffix.len()),
        (HostPattern::Net(net), None) if net.contains(&destination.address.ip()) => {
            Some(usize::from(net.prefix_len()))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::Family;
    use crate::policy::{Profile, Protocol, SslMode};

    fn endpoint(key: &str, claims: &[(&str, u16)]) -> Arc<Endpoint> {
        let claims = claims.iter().map(|(host, port)| {
            let host = match (host.strip_prefix("*."), host.parse()) {
                (Some(suffix), _) => HostPattern::Suffix(suffix.to_owned()),
                (None, Ok(net)) => HostPattern::Net(net),
                (None, Err(_)) => HostPattern::Name((*host).to_owned()),
            };
            Claim { host, port: *port }
        });
        Arc::new(Endpoint {
            key: Arc::from(key),
            protocol: Protocol::Https,
            family: Family::Http,
            claims: claims.collect(),
            upstream: None,
            tls: true,
            ca_cert: None,
            sslmode: SslMode::Prefer,
            database: None,
            path: String::new(),
            preview: None,
            description: None,
        })
    }

    fn model(unknown_host: UnknownHost) -> Model {
        let mut model = Model {
            endpoints: vec![
                endpoint("https.any", &[("*.example.com", 443)]),
                endpoint("https.api", &[("api.example.com", 443)]),
                endpoint("https.deep", &[("*.eu.example.com", 443)]),
                endpoint("https.net", &[("192.0.2.0/24", 443)]),
                endpoint("https.host", &[("192.0.2.7/32", 443)]),
                endpoint("https.other", &[("other.test", 443)]),
            ],
            profiles: vec![Arc::new(Profile {
                name: Arc::from("ci"),
                tags: vec![],
                logins: vec![],
                nodes: vec![],
                peers: vec![],
                grants: vec![],
                credentials: vec![],
                endpoints: ["any", "api", "deep", "net", "host"]
                    .map(|name| Arc::from(format!("https.{name}")))
                    .to_vec(),
            })],
            ..Model::default()
        };
        model.defaults.unknown_host = unknown_host;
        model
    }

    #[track_caller]
    fn check(unknown_host: UnknownHost, address: &str, name: Option<&str>, want: &str) {
        let destination = Destination {
            address: address.parse().unwrap(),
            name,
        };
        let got = match route(&model(unknown_host), "ci", destination) {
            Route::Endpoint(endpoint) => endpoint.key.to_string(),
            Route::Passthrough => "passthrough".to_owned(),
            Route::Closed(_) => "closed".to_owned(),
        };
        assert_eq!(got, want, "{address} {name:?}");
    }

    #[test]
    fn the_closest_claim_wins() {
        use UnknownHost::Deny;
        check(Deny, "10.78.0.5:443", Some("api.example.com"), "https.api");
        check(Deny, "10.78.0.6:443", Some("www.example.com"), "https.any");
        check(Deny, "10.78.0.7:443", Some("a.eu.example.com"), "https.deep");
        check(Deny, "192.0.2.9:443", None, "https.net");
        check(Deny, "192.0.2.7:443", None, "https.host");
    }

    #[test]
    fn a_name_leads_to_its_closest_claim_alone() {
        let model = model(UnknownHost::Passthrough);
        let cases = [
            (("www.example.com", 443), "https.any", true),
            (("api.example.com", 443), "https.any", false),
            (("api.example.com", 443), "https.api", true),
            (("api.example.com", 8443), "https.api", false),
            (("a.eu.example.com", 443), "https.any", false),
            (("192.0.2.9", 443), "https.net", true),
            (("192.0.2.7", 443), "https.net", false),
            (("other.test", 443), "https.other", false),
            (("nobody.test", 443), "https.any", false),
        ];
        for (host, key, leads) in cases {
            assert_eq!(leads_to(&model, "ci", host, key), leads, "{host:?} {key}");
        }
    }

    #[test]
    fn what_is_claimed_is_never_passed_through() {
        use UnknownHost::Passthrough;
        check(Passthrough, "10.78.0.8:443", Some("other.test"), "closed");
        check(Passthrough, "10.78.0.5:8443", Some("api.example.com"), "closed");
        check(Passthrough, "10.78.9.9:443", None, "closed");
        check(Passthrough, "198.51.100.1:443", None, "passthrough");
    }

    #[test]
    fn what_nothing_claims_is_denied_by_default() {
        check(UnknownHost::Deny, "198.51.100.1:443", None, "closed");
        check(UnknownHost::Deny, "192.0.2.7:22", None, "closed");
    }
}
