//! A secret put into the one slot that its credential's type names. *Pure.*
//!
//! Invariants: nothing is written without a permit for that credential and endpoint; a missing
//! secret refuses, the request is never sent bare; whatever the agent put into the slot is gone,
//! and with it every `Authorization` of its own, so that a request has one identity.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::Uri;
use http::header::{ACCEPT_ENCODING, AUTHORIZATION, COOKIE, HeaderName, HeaderValue, PROXY_AUTHORIZATION};
use http::request::Parts;
use http::uri::PathAndQuery;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use zeroize::Zeroizing;

use super::placeholder::{basic_pair, cookies, is_bearer_scheme};
use super::scrub::Scrub;
use super::{KnownSecrets, Secret};
use crate::policy::{Credential, CredentialKind, Model};
use crate::protocol::http::remove_if;
use crate::verdict::{Cause, Permit, Refusal};

/// Other headers by which an answer, or an upgraded stream, would come coded or in parts: ranges, gRPC's and
/// Connect's compression, that of WebSocket (RFC 7692), deltas (RFC 3229).
const CODINGS: &[&str] = &[
    "range",
    "if-range",
    "grpc-accept-encoding",
    "connect-accept-encoding",
    "sec-websocket-extensions",
    "a-im",
];

/// How a secret is had: the credential and its slot (`""` for the only one).
pub type Secrets<'a> = &'a dyn Fn(&Credential, &str) -> Option<Secret>;

/// Writes the credential's secret into its slot, and returns what puts it back to its placeholder
/// in the response. `None` for a credential that is not in the request (mTLS).
///
/// The response is asked for without content coding and without ranges: a coded or cut response
/// could not be searched for the secret. The cost is bandwidth towards that upstream.
///
/// # Errors
/// [`Cause::Credential`]: the permit is not for this credential and endpoint, the secret is missing,
/// or it has bytes that its slot cannot hold.
pub fn inject(
    permit: &Permit,
    parts: &mut Parts,
    credential: &Credential,
    secrets: Secrets<'_>,
) -> Result<Option<Scrub>, Refusal> {
    if permit.credential() != Some(&credential.key) || !credential.endpoints.contains(permit.endpoint()) {
        return Err(refusal("the permit is not for this credential", &credential.key));
    }
    if credential.kind == CredentialKind::Mtls {
        return Ok(None);
    }
    let secret = secrets(credential, "")
        .filter(|secret| !secret.expose().is_empty())
        .ok_or_else(|| refusal("the credential has no secret set", &credential.key))?;
    let text = std::str::from_utf8(secret.expose())
        .ok()
        .filter(|text| !text.chars().any(char::is_control))
        .ok_or_else(|| refusal("the secret has bytes that its slot cannot hold", &credential.key))?;
    let wire = write(parts, &credential.kind, text)
        .ok_or_else(|| refusal("the credential cannot be put into its slot", &credential.key))?;
    ask_plainly(parts);
    Ok(Some(Scrub::new(
        &secret,
        wire.as_bytes(),
        &credential.placeholder,
    )))
}

/// What takes the secrets out of a response that an endpoint may know, whoever sent them: an upstream that keeps what
/// it was sent shows it to a request without a credential, too. `scrub` is what looks for the request's own.
///
/// Of a credential that the profile does not hold, not even the name is told.
pub fn scrub_all(
    (model, profile): (&Model, &str),
    endpoint: &str,
    known: &KnownSecrets,
    parts: &mut Parts,
    scrub: Option<Scrub>,
) -> Option<Scrub> {
    let mut all = scrub.unwrap_or_default();
    let profile = model.profile(profile);
    for credential in &model.credentials {
        let goes_there = credential.endpoints.iter().any(|own| **own == *endpoint);
        if !goes_there || credential.kind == CredentialKind::Mtls {
            continue;
        }
        let mut held = profile.into_iter().flat_map(|own| &own.credentials);
        let placeholder = match held.any(|held| held.credential == credential.key) {
            true => credential.placeholder.as_str(),
            false => ANOTHERS,
        };
        known.each(&credential.key, |secret| all.add(secret, secret, placeholder));
    }
    if all.is_empty() {
        return None;
    }
    ask_plainly(parts);
    Some(all)
}

/// What stands where a secret was of a credential that the agent does not hold.
const ANOTHERS: &str = "(a secret)";

/// Asks for a response that can be searched: whole, and in no coding.
fn ask_plainly(parts: &mut Parts) {
    let headers = &mut parts.headers;
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    remove_if(headers, |name| CODINGS.contains(&name.as_str()));
}

fn refusal(reason: &str, key: &str) -> Refusal {
    Refusal::new(Cause::Credential, reason).with_detail(key.to_owned())
}

/// Writes the slot; returns the text that went on the wire in the secret's place.
fn write(parts: &mut Parts, kind: &CredentialKind, secret: &str) -> Option<Zeroizing<String>> {
    let mut wire = Zeroizing::new(secret.to_owned());
    let old = parts
        .headers
        .get(AUTHORIZATION)
        .and_then(|value| value.to_str().ok());
    let slot = match kind {
        CredentialKind::Bearer => {
            let scheme = old
                .and_then(|value| value.split_once(' '))
                .map(|(scheme, _)| scheme)
                .filter(|scheme| is_bearer_scheme(scheme));
            let scheme = scheme.unwrap_or("Bearer");
            Some((AUTHORIZATION, Zeroizing::new([scheme, " ", secret].concat())))
        }
        CredentialKind::Basic { username } => {
            let user = match username {
                Some(user) => user.clone(),
                None => old
                    .and_then(|value| basic_pair(value.as_bytes()))
                    .and_then(|pair| String::from_utf8(pair).ok())
                    .and_then(|pair| pair.split_once(':').map(|(user, _)| user.to_owned()))
                    .unwrap_or_default(),
            };
            let pair = Zeroizing::new(format!("{user}:{secret}"));
            wire = Zeroizing::new(STANDARD.encode(pair.as_bytes()));
            Some((AUTHORIZATION, Zeroizing::new(format!("Basic {}", *wire))))
        }
        CredentialKind::Header { header, prefix } => {
            let name = HeaderName::from_bytes(header.as_bytes()).ok()?;
            Some((name, Zeroizing::new(format!("{prefix}{secret}"))))
        }
        CredentialKind::Cookie { name } => Some((COOKIE, cookie(parts, name, secret)?)),
        CredentialKind::Query { parameter } => {
            let coded = utf8_percent_encode(secret, NON_ALPHANUMERIC).to_string();
            set_query(&mut parts.uri, parameter, &coded)?;
            wire = Zeroizing::new(coded);
            None
        }
        CredentialKind::Mtls | CredentialKind::Postgres { .. } | CredentialKind::Unread { .. } => {
            return None;
        }
    };
    let value = match &slot {
        Some((_, text)) => Some(HeaderValue::from_bytes(text.as_bytes()).ok()?),
        None => None,
    };
    parts.headers.remove(AUTHORIZATION);
    parts.headers.remove(PROXY_AUTHORIZATION);
    if let (Some((name, _)), Some(mut value)) = (slot, value) {
        value.set_sensitive(true);
        parts.headers.insert(name, value);
    }
    Some(wire)
}

/// Every cookie of the agent but the named one, then that one with the secret.
fn cookie(parts: &Parts, name: &str, secret: &str) -> Option<Zeroizing<String>> {
    if secret.contains([';', ',', ' ', '"', '\\']) {
        return None;
    }
    let mut text = Zeroizing::new(String::new());
    for (own, value) in cookies(parts).iter().filter(|(own, _)| own != name) {
        text.push_str(&format!("{own}={value}; "));
    }
    text.push_str(&format!("{name}={secret}"));
    Some(text)
}

/// The query without the parameter's old values, however they were spelled, and with the new one.
fn set_query(uri: &mut Uri, parameter: &str, coded: &str) -> Option<()> {
    // A query that readers split differently could hold the parameter twice.
    crate::facts::http::query::read(uri.query().unwrap_or_default()).known()?;
    let mut query = Zeroizing::new(String::new());
    for piece in uri
        .query()
        .unwrap_or_default()
        .split('&')
        .filter(|piece| !piece.is_empty())
    {
        let name = piece.split_once('=').map_or(piece, |(name, _)| name);
        if crate::facts::http::query::decode(name).as_deref() != Some(parameter) {
            query.push_str(piece);
            query.push('&');
        }
    }
    let name = utf8_percent_encode(parameter, NON_ALPHANUMERIC);
    query.push_str(&format!("{name}={coded}"));
    let mut pieces = uri.clone().into_parts();
    let target = Zeroizing::new(format!("{}?{}", uri.path(), *query));
    pieces.path_and_query = Some(PathAndQuery::try_from(target.as_str()).ok()?);
    *uri = Uri::from_parts(pieces).ok()?;
    Some(())
}
