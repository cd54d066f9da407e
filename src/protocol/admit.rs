//! What is refused of a request before any rule, and what rules may read of it: one way for the gateway, and for
//! `eval`, `test` and `judge test`, which would else allow what never passes. *Pure.*

use std::sync::Arc;

use http::Method;
use http::header::HeaderName;
use http::request::Parts;

use super::http::{Malformed, Upgrade, check_head, count_once, is_underscored, later, name_once};
use super::http::{strip_claims, strip_hop_by_hop, upgrade};
use super::kubernetes::check_kubernetes_head;
use crate::facts::http::{HeldBody, HttpFacts, path};
use crate::facts::k8s::K8sFacts;
use crate::facts::mcp::{self, Messages};
use crate::facts::{FactSet, Facts, Family};
use crate::policy::{Credential, CredentialKind, Endpoint, HostPort, Model, Protocol};
use crate::verdict::Later;

/// What a head that may go on says.
pub struct Admitted {
    /// The host that it names.
    pub host: String,
    /// The upgrade that it asks for, if it is one that its endpoint has.
    pub upgrade: Option<Upgrade>,
    /// That the agent does not wait for people.
    pub later: Option<Later>,
}

/// Checks a head against what was dialled, and takes out what belongs to this hop and to the gateway.
///
/// # Errors
/// Why it goes no further.
pub fn admit(
    parts: &mut Parts,
    endpoint: &Endpoint,
    claimed: &HostPort,
    model: &Model,
) -> Result<Admitted, Malformed> {
    if matches!(parts.method, Method::TRACE | Method::CONNECT) {
        return Err(Malformed::Method);
    }
    let authority = match endpoint.protocol {
        Protocol::Kubernetes => check_kubernetes_head(parts, claimed)?,
        _ => check_head(parts, claimed)?,
    };
    let slots = slots(endpoint, model);
    let underscored = |name: &&HeaderName| is_underscored(name) && !slots.contains(name);
    if parts.headers.keys().any(|name| underscored(&name)) {
        return Err(Malformed::Underscore);
    }
    name_once(parts, &authority, claimed, endpoint.tls);
    count_once(&mut parts.headers)?;
    strip_claims(&mut parts.headers, &slots);
    let upgrade = upgrade(parts)?.filter(|kind| match kind {
        Upgrade::WebSocket => endpoint.protocol != Protocol::Mcp,
        Upgrade::Spdy => endpoint.protocol == Protocol::Kubernetes,
    });
    strip_hop_by_hop(&mut parts.headers, upgrade);
    Ok(Admitted {
        host: authority.host,
        upgrade,
        later: later::take(&mut parts.headers)?,
    })
}

/// The headers in which credentials of an endpoint have their slots.
pub fn slots(endpoint: &Endpoint, model: &Model) -> Vec<HeaderName> {
    let slot = |credential: &Arc<Credential>| match &credential.kind {
        CredentialKind::Header { header, .. } if credential.endpoints.contains(&endpoint.key) => {
            HeaderName::from_bytes(header.as_bytes()).ok()
        }
        _ => None,
    };
    model.credentials.iter().filter_map(slot).collect()
}

/// The facts of each action of a request: one, or one for each message or operation of a batch; and MCP's messages.
///
/// # Errors
/// Two servers could read it differently.
pub fn facts(
    parts: &Parts,
    host: &str,
    body: HeldBody<'_>,
    endpoint: &Endpoint,
    needs: FactSet,
    decoded_bytes_max: usize,
) -> Result<(Vec<Facts>, Option<Messages>), Malformed> {
    match endpoint.family {
        Family::K8s => {
            let facts = K8sFacts::read(parts, host, body, needs, decoded_bytes_max)?;
            Ok((vec![Facts::K8s(Box::new(facts))], None))
        }
        Family::Mcp => {
            let path = path::normalize(parts.uri.path())?;
            if path.strip_suffix('/').unwrap_or(&path) != endpoint.path {
                return Err(Malformed::OtherPath);
            }
            let read = mcp::read(parts, body, decoded_bytes_max)?;
            let each = read.messages.iter();
            let facts = each.map(|one| Facts::Mcp(Box::new(one.clone()))).collect();
            Ok((facts, Some(read)))
        }
        _ => {
            let each = HttpFacts::read_each(parts, host, body, needs, decoded_bytes_max)?;
            let facts = each.into_iter().map(|one| Facts::Http(Box::new(one))).collect();
            Ok((facts, None))
        }
    }
}
