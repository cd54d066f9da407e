//! Hop-by-hop headers and upgrades (RFC 9110 sections 7.6.1 and 7.8). *Pure.*

use http::header::{CONNECTION, HeaderMap, HeaderName, HeaderValue, TE, TRAILER, UPGRADE};
use http::request::Parts;
use http::{Method, Version};
use smallvec::SmallVec;

use super::Malformed;

/// A protocol that a connection may be upgraded to. Others (h2c among them) are taken out of the
/// request: an upstream that took them would speak what nobody judges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Upgrade {
    /// RFC 6455, or RFC 8441 over HTTP/2.
    WebSocket,
    /// `SPDY/3.1`, Kubernetes' older streams for exec, attach and port-forward.
    Spdy,
}

/// The `:protocol` of an extended CONNECT; the proxy puts it into the request's extensions.
#[derive(Clone, Debug)]
pub struct ConnectProtocol(pub String);

/// What `Connection` may name. Any other name would have the next server drop a header that was
/// judged.
const CONNECTION_NAMES: &[&str] = &[
    "close",
    "keep-alive",
    "upgrade",
    "te",
    "trailer",
    "http2-settings",
    "transfer-encoding",
    "proxy-connection",
];

/// Headers that belong to one connection alone.
const HOP_BY_HOP: &[&str] = &[
    "connection",
    "keep-alive",
    "proxy-connection",
    "proxy-authorization",
    "proxy-authenticate",
    "http2-settings",
    "te",
    "transfer-encoding",
    "upgrade",
];

/// Refuses `Connection` that names an end-to-end header, and upgrades that are not whole.
pub(super) fn check(parts: &Parts) -> Result<(), Malformed> {
    for name in connection_names(&parts.headers)? {
        if !CONNECTION_NAMES.contains(&name.as_str()) {
            return Err(Malformed::ConnectionHeader);
        }
    }
    upgrade(parts).map(|_| ())
}

/// The upgrade that a request asks for.
///
/// # Errors
/// Several protocols at once, a WebSocket handshake that is not one, an upgrade over HTTP/2.
pub fn upgrade(parts: &Parts) -> Result<Option<Upgrade>, Malformed> {
    if parts.version >= Version::HTTP_2 {
        return extended_connect(parts);
    }
    let mut values = parts.headers.get_all(UPGRADE).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    let bad = || Err(Malformed::ForbiddenHeader("such an Upgrade"));
    if values.next().is_some() {
        return bad();
    }
    let Ok(text) = value.to_str() else {
        return bad();
    };
    let mut names = text.split(',').map(|name| name.trim().to_ascii_lowercase());
    let known = |name: &str| match name {
        "websocket" => Some(Upgrade::WebSocket),
        "spdy/3.1" => Some(Upgrade::Spdy),
        _ => None,
    };
    let Some(kind) = names.next().as_deref().and_then(known) else {
        if text.to_ascii_lowercase().contains("websocket") {
            return bad();
        }
        return Ok(None);
    };
    if names.next().is_some() {
        return bad();
    }
    if !connection_names(&parts.headers)?
        .iter()
        .any(|name| name == "upgrade")
    {
        return bad();
    }
    if kind == Upgrade::WebSocket
        && (parts.method != Method::GET || !parts.headers.contains_key("sec-websocket-key"))
    {
        return bad();
    }
    Ok(Some(kind))
}

/// RFC 8441: `CONNECT` with `:protocol`, which hyper keeps as an extension.
fn extended_connect(parts: &Parts) -> Result<Option<Upgrade>, Malformed> {
    if parts.headers.contains_key(UPGRADE) || parts.headers.contains_key(CONNECTION) {
        return Err(Malformed::ConnectionHeader);
    }
    if parts.method != Method::CONNECT {
        return Ok(None);
    }
    match parts
        .extensions
        .get::<ConnectProtocol>()
        .map(|own| own.0.as_str())
    {
        Some("websocket") => Ok(Some(Upgrade::WebSocket)),
        _ => Err(Malformed::Connect),
    }
}

/// The names that `Connection` lists, in lower case.
fn connection_names(headers: &HeaderMap) -> Result<Vec<String>, Malformed> {
    let mut names = Vec::new();
    for value in headers.get_all(CONNECTION) {
        let text = value.to_str().map_err(|_| Malformed::ConnectionHeader)?;
        names.extend(
            text.split(',')
                .map(|name| name.trim().to_ascii_lowercase())
                .filter(|name| !name.is_empty()),
        );
    }
    Ok(names)
}

/// Removes what belongs to one connection, on requests and responses. Keeps `te: trailers`
/// (gRPC needs it) and, for an upgrade that was judged, `Upgrade` with its `Connection`.
pub fn strip_hop_by_hop(headers: &mut HeaderMap, keep: Option<Upgrade>) {
    if !headers.keys().any(is_hop_by_hop) {
        return;
    }
    let trailers = headers
        .get_all(TE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|text| text.split(','))
        .any(|coding| coding.trim().eq_ignore_ascii_case("trailers"));
    let upgrade = headers.get(UPGRADE).cloned();
    for name in connection_names(headers).unwrap_or_default() {
        if let Ok(name) = HeaderName::from_bytes(name.as_bytes())
            && name != TRAILER
        {
            headers.remove(name);
        }
    }
    remove_if(headers, is_hop_by_hop);
    if trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
    if let (Some(_), Some(value)) = (keep, upgrade) {
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(UPGRADE, value);
    }
}

/// Removes every header with such a name. Most heads have few headers and none of those: it costs less to look at those
/// that are there than for each that may be.
pub fn remove_if(headers: &mut HeaderMap, is: impl Fn(&HeaderName) -> bool) {
    let names: SmallVec<[HeaderName; 4]> = headers.keys().filter(|name| is(name)).cloned().collect();
    for name in names {
        headers.remove(name);
    }
}

/// Whether a header belongs to one connection alone.
pub(super) fn is_hop_by_hop(name: &HeaderName) -> bool {
    HOP_BY_HOP.contains(&name.as_str())
}
