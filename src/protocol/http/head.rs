//! Whether a head names the endpoint that its connection was claimed for. *Pure.*

use http::header::{CONTENT_LENGTH, HOST, HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;
use http::{Method, Uri, Version};

use super::{Malformed, hop, is_claim};
use crate::policy::HostPort;

/// The host that a request names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authority {
    /// A name in lower case without a trailing dot, or an address (IPv6 without brackets).
    pub host: String,
    pub port: Option<u16>,
}

/// Headers by which some servers take another method or path than the request line's.
pub const OVERRIDES: &[&str] = &[
    "x-http-method-override",
    "x-http-method",
    "x-method-override",
    "x-original-url",
    "x-rewrite-url",
];

/// Checks the parts of a head that hyper does not: `Host` is there once, agrees with an absolute
/// form or `:authority`, and names `claimed`; `Connection` and `Upgrade` do nothing hidden; no
/// header overrides the method or the path.
///
/// A port may be left out; one that is named must be the claimed one.
///
/// # Errors
/// Which check failed; [`Malformed::Misdirected`] for another host.
pub fn check_head(parts: &Parts, claimed: &HostPort) -> Result<Authority, Malformed> {
    if parts.method == Method::CONNECT && parts.version < Version::HTTP_2 {
        return Err(Malformed::Connect);
    }
    if let Some(scheme) = parts.uri.scheme_str()
        && !matches!(scheme, "http" | "https" | "ws" | "wss")
    {
        return Err(Malformed::HostMismatch);
    }
    let authority = authority(parts)?;
    hop::check(parts)?;
    if let Some(name) = OVERRIDES.iter().find(|name| parts.headers.contains_key(**name)) {
        return Err(Malformed::ForbiddenHeader(name));
    }
    let host = fold(&claimed.host);
    if authority.host != host || authority.port.is_some_and(|port| port != claimed.port) {
        return Err(Malformed::Misdirected);
    }
    Ok(authority)
}

/// The length of the body that a head says. HTTP/2 takes several, of which it counts by the first; written to HTTP/1.1
/// the next server may take another.
fn length(headers: &HeaderMap) -> Result<Option<u64>, Malformed> {
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    let Some(first) = lengths.next() else {
        return Ok(None);
    };
    let length = first.to_str().ok().and_then(|text| text.parse().ok());
    match (length, lengths.next()) {
        (Some(length), None) => Ok(Some(length)),
        _ => Err(Malformed::ForbiddenHeader("such a Content-Length")),
    }
}

/// Writes the length that was read as the one that is sent: `010` is eight to some.
///
/// # Errors
/// It is no number, or there are several.
pub fn count_once(headers: &mut HeaderMap) -> Result<(), Malformed> {
    if let Some(length) = length(headers)? {
        headers.insert(CONTENT_LENGTH, length.into());
    }
    Ok(())
}

/// Writes the authority that was checked as the one that is sent: folded, and with its port where that is not the
/// scheme's own. A server that tells hosts apart by case, dot or port would else be asked for another than the rules
/// read. Where it stands in the target of HTTP/1.1 it goes into `Host`, where HTTP/2 has both it stays in the target.
pub fn name_once(parts: &mut Parts, authority: &Authority, claimed: &HostPort, tls: bool) {
    let host = match authority.host.contains(':') {
        true => format!("[{}]", authority.host),
        false => authority.host.clone(),
    };
    let own = if tls { 443 } else { 80 };
    let text = match claimed.port == own {
        true => host,
        false => format!("{host}:{}", claimed.port),
    };
    let target = parts.uri.path_and_query().cloned();
    let renamed = match (parts.uri.authority(), target) {
        (Some(_), Some(target)) if parts.version < Version::HTTP_2 => Some(Uri::from(target)),
        (Some(_), target) => {
            let mut pieces = parts.uri.clone().into_parts();
            pieces.authority = text.parse().ok();
            pieces.path_and_query = target;
            Uri::from_parts(pieces).ok()
        }
        (None, _) => None,
    };
    let in_target = renamed.is_some() && parts.version >= Version::HTTP_2;
    if let Some(uri) = renamed {
        parts.uri = uri;
    }
    match HeaderValue::from_str(&text) {
        Ok(value) if !in_target => {
            parts.headers.insert(HOST, value);
        }
        _ => {
            parts.headers.remove(HOST);
        }
    }
}

/// Whether a field's name has an underscore. CGI and its heirs (WSGI, Rack, PHP) read `X_A` and
/// `X-A` as one, so that a rule over the one would not see the other.
pub fn is_underscored(name: &HeaderName) -> bool {
    name.as_str().contains('_')
}

/// Whether a field of a trailer could change who asks, or for what, at a server that merges
/// trailers into the head against RFC 9110 §6.5.1.
pub fn may_not_trail(name: &HeaderName) -> bool {
    let text = name.as_str();
    OVERRIDES.contains(&text) || is_underscored(name) || is_claim(name) || text.starts_with("impersonate-")
}

/// The one authority that a request names.
fn authority(parts: &Parts) -> Result<Authority, Malformed> {
    let mut hosts = parts.headers.get_all(HOST).iter();
    let header = hosts.next();
    if hosts.next().is_some() {
        return Err(Malformed::ManyHosts);
    }
    let header = match header {
        Some(value) => Some(parse(value.to_str().unwrap_or_default())?),
        None if parts.version < Version::HTTP_2 => {
            return Err(Malformed::NoHost);
        }
        None => None,
    };
    let form = match parts.uri.authority() {
        Some(authority) => Some(parse(authority.as_str())?),
        None => None,
    };
    match (form, header) {
        (Some(form), Some(header)) if form != header => Err(Malformed::HostMismatch),
        (Some(one), _) | (None, Some(one)) => Ok(one),
        (None, None) => Err(Malformed::NoHost),
    }
}

/// `host`, `host:port`, `[v6]`, `[v6]:port`; no user part.
fn parse(text: &str) -> Result<Authority, Malformed> {
    let bad = || Malformed::UserInfo;
    let (host, port) = if let Some(rest) = text.strip_prefix('[') {
        let (address, rest) = rest.split_once(']').ok_or_else(bad)?;
        address.parse::<std::net::Ipv6Addr>().map_err(|_| bad())?;
        match rest {
            "" => (address, None),
            rest => (address, Some(rest.strip_prefix(':').ok_or_else(bad)?)),
        }
    } else {
        match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        }
    };
    let label = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    let is_v6 = text.starts_with('[');
    if host.is_empty() || host.len() > 255 || !(is_v6 || host.bytes().all(label)) {
        return Err(bad());
    }
    let port = match port {
        Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
            Some(digits.parse().map_err(|_| bad())?)
        }
        Some(_) => return Err(bad()),
        None => None,
    };
    Ok(Authority {
        host: fold(host),
        port,
    })
}

/// Lower case, no trailing dot; IPv6 in its one canonical form.
fn fold(host: &str) -> String {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    if let Ok(address) = host.parse::<std::net::Ipv6Addr>() {
        return address.to_string();
    }
    let host = host.to_ascii_lowercase();
    host.strip_suffix('.').map(str::to_owned).unwrap_or(host)
}
