//! Where an agent's placeholders stand in a request, and which credential they select. *Pure.*
//!
//! A placeholder counts only in the exact slot of its credential's type. Found anywhere else, or
//! towards an endpoint that its credential is not bound to, or by a profile that does not hold
//! it, it refuses the request: a gateway that forwarded it would teach agents to guess where it is
//! replaced. One request carries one credential, since a permit names one.

use std::borrow::Cow;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{AUTHORIZATION, COOKIE, HeaderMap, HeaderName};
use http::request::Parts;
use memchr::memmem;
use smallvec::SmallVec;

use crate::facts::http::{HeldBody, query};
use crate::policy::{Credential, CredentialKind, Endpoint, Model, Profile};
use crate::verdict::{Cause, Refusal};

/// Pieces of a head that most requests have at most, so that their list is no allocation.
const PLACES: usize = 36;

/// The credential that a request is to be sent with: the one whose placeholder stands in its
/// slot, else the profile's fallback for the endpoint, else none.
///
/// # Errors
/// [`Cause::Credential`]: a placeholder where it may not stand, two credentials in one request,
/// or a credential of a type that cannot be injected here.
pub fn select(
    model: &Model,
    profile: &Profile,
    endpoint: &Endpoint,
    parts: &Parts,
    body: HeldBody<'_>,
) -> Result<Option<Arc<Credential>>, Refusal> {
    let known = Known::new(model, profile);
    let mut chosen: Option<&Arc<Credential>> = None;
    for (credential, placeholder) in found(&known, parts) {
        if !may_use(profile, endpoint, credential) {
            return refuse("a placeholder may not be used for this endpoint", &credential.key);
        }
        if !stands_in_slot(&credential.kind, parts, placeholder) {
            return refuse("a placeholder stands outside its slot", &credential.key);
        }
        if chosen.as_ref().is_some_and(|own| own.key != credential.key) {
            return refuse("a request can carry one credential only", &credential.key);
        }
        chosen = Some(credential);
    }
    if let HeldBody::Whole(bytes) = body
        && let Some(text) = known.first_in(bytes)
    {
        return refuse("a placeholder stands in the body", text);
    }
    let credential = match chosen {
        Some(credential) => credential.clone(),
        None => match fallback(model, profile, endpoint) {
            Some(credential) => credential,
            None => return Ok(None),
        },
    };
    match credential.kind {
        CredentialKind::Unread { .. } | CredentialKind::Postgres { .. } => {
            refuse("this credential's type cannot be used over HTTP", &credential.key)
        }
        _ => Ok(Some(credential)),
    }
}

/// The first placeholder that stands in a trailer, where none has a slot.
pub fn in_trailers(model: &Model, profile: &Profile, trailers: &HeaderMap) -> Option<Refusal> {
    let known = Known::new(model, profile);
    let text = trailers
        .values()
        .find_map(|value| known.first_in(value.as_bytes()))?;
    refuse::<()>("a placeholder stands in a trailer", text).err()
}

/// Every placeholder text that means something: of all credentials, and the profile's own texts.
pub struct Known<'a> {
    texts: Vec<(&'a str, &'a Arc<Credential>)>,
}

impl<'a> Known<'a> {
    /// Collects the placeholders of a policy, as `profile` writes them.
    pub fn new(model: &'a Model, profile: &'a Profile) -> Self {
        let own = |credential: &'a Arc<Credential>| (credential.placeholder.as_str(), credential);
        let mut texts: Vec<_> = model.credentials.iter().map(own).collect();
        for held in &profile.credentials {
            let Some(credential) = model.credential(&held.credential) else {
                continue;
            };
            for text in held.placeholders.iter().filter(|text| !text.is_empty()) {
                if !texts
                    .iter()
                    .any(|(own, by)| own == text && by.key == credential.key)
                {
                    texts.push((text, credential));
                }
            }
        }
        Known { texts }
    }

    /// The first known text in `bytes`.
    fn first_in(&self, bytes: &[u8]) -> Option<&'a str> {
        let hit = |text: &&(&str, &Arc<Credential>)| memmem::find(bytes, text.0.as_bytes()).is_some();
        self.texts.iter().find(hit).map(|(text, _)| *text)
    }

    /// A scan for a body that is streamed.
    pub fn scan(&self) -> PlaceholderScan {
        PlaceholderScan::new(
            self.texts
                .iter()
                .map(|(text, _)| text.as_bytes().to_vec())
                .collect(),
        )
    }
}

/// Finds placeholders in a body that is not held, over the seams of its chunks too. Costs one
/// vectorized pass a placeholder and a copy of at most two placeholders' length a chunk.
pub struct PlaceholderScan {
    needles: Vec<Vec<u8>>,
    longest: usize,
    tail: Vec<u8>,
}

impl PlaceholderScan {
    fn new(needles: Vec<Vec<u8>>) -> Self {
        let longest = needles.iter().map(Vec::len).max().unwrap_or(0);
        PlaceholderScan {
            needles,
            longest,
            tail: Vec::new(),
        }
    }

    /// Whether a placeholder stands in a text that is whole.
    pub fn stands_in(&self, text: &[u8]) -> bool {
        self.needles
            .iter()
            .any(|needle| memmem::find(text, needle).is_some())
    }

    /// Takes the next chunk, before it is forwarded. Once it has said yes the body must be aborted:
    /// the placeholder's first bytes may be gone, its last ones are not.
    pub fn push(&mut self, chunk: &[u8]) -> bool {
        if self.longest == 0 {
            return false;
        }
        let keep = self.longest - 1;
        let head = chunk.get(..keep).unwrap_or(chunk);
        self.tail.extend_from_slice(head);
        let found = self.needles.iter().any(|needle| {
            memmem::find(&self.tail, needle).is_some() || memmem::find(chunk, needle).is_some()
        });
        if chunk.len() >= keep {
            self.tail.clear();
            self.tail
                .extend_from_slice(chunk.get(chunk.len() - keep..).unwrap_or_default());
        } else if self.tail.len() > keep {
            self.tail.drain(..self.tail.len() - keep);
        }
        found
    }
}

fn refuse<T>(reason: &str, which: &str) -> Result<T, Refusal> {
    Err(Refusal::new(Cause::Credential, reason).with_detail(which.to_owned()))
}

/// Whether the profile holds the credential and it is bound to the endpoint.
fn may_use(profile: &Profile, endpoint: &Endpoint, credential: &Credential) -> bool {
    profile
        .credentials
        .iter()
        .any(|held| held.credential == credential.key)
        && credential.endpoints.contains(&endpoint.key)
}

fn fallback(model: &Model, profile: &Profile, endpoint: &Endpoint) -> Option<Arc<Credential>> {
    profile
        .credentials
        .iter()
        .filter(|held| held.fallback)
        .filter_map(|held| model.credential(&held.credential))
        .find(|credential| credential.endpoints.contains(&endpoint.key))
        .cloned()
}

/// Every placeholder in the head, with its credential. Where one text means several credentials
/// (two profiles' look-alikes), the one that fits its slot is meant.
fn found<'a>(known: &Known<'a>, parts: &Parts) -> Vec<(&'a Arc<Credential>, &'a str)> {
    let mut places: SmallVec<[Cow<'_, [u8]>; PLACES]> = SmallVec::new();
    places.push(parts.method.as_str().as_bytes().into());
    for text in [parts.uri.path(), parts.uri.query().unwrap_or_default()] {
        places.push(text.as_bytes().into());
        if text.contains(['%', '+']) {
            places.push(percent_encoding::percent_decode_str(text).into());
            let spaced = text.replace('+', " ");
            places.push(
                percent_encoding::percent_decode_str(&spaced)
                    .collect::<Vec<u8>>()
                    .into(),
            );
        }
    }
    for (name, value) in &parts.headers {
        places.push(value.as_bytes().into());
        places.push(name.as_str().as_bytes().into());
        if let Some(pair) = basic_pair(value.as_bytes()) {
            places.push(pair.into());
        }
    }
    let mut out: Vec<(&Arc<Credential>, &str)> = Vec::new();
    for (text, credential) in &known.texts {
        let here = places
            .iter()
            .any(|place| memmem::find(place, text.as_bytes()).is_some());
        if !here {
            continue;
        }
        match out.iter_mut().find(|(_, own)| own == text) {
            Some(entry) if stands_in_slot(&credential.kind, parts, text) => entry.0 = credential,
            Some(_) => {}
            None => out.push((credential, text)),
        }
    }
    out
}

/// Whether the placeholder stands in the slot of `kind` and, in the whole head, nowhere else.
fn stands_in_slot(kind: &CredentialKind, parts: &Parts, placeholder: &str) -> bool {
    let places = count(parts, placeholder);
    places == 1 && slot_holds(kind, parts, placeholder)
}

/// How many times the head holds the text, in any of the forms that are looked through.
fn count(parts: &Parts, text: &str) -> usize {
    let finder = memmem::Finder::new(text);
    let times = |bytes: &[u8]| match bytes.len() < text.len() {
        true => 0,
        false => finder.find_iter(bytes).count(),
    };
    let decoded = |part: &str| {
        let plain = Cow::from(percent_encoding::percent_decode_str(part));
        times(&plain).max(times(part.as_bytes()))
    };
    let mut sum = times(parts.method.as_str().as_bytes())
        + decoded(parts.uri.path())
        + decoded(&parts.uri.query().unwrap_or_default().replace('+', " "));
    for (name, value) in &parts.headers {
        sum += times(name.as_str().as_bytes());
        sum += match basic_pair(value.as_bytes()) {
            Some(pair) => times(&pair).max(times(value.as_bytes())),
            None => times(value.as_bytes()),
        };
    }
    sum
}

fn slot_holds(kind: &CredentialKind, parts: &Parts, placeholder: &str) -> bool {
    let header = |name: &HeaderName| {
        let mut values = parts.headers.get_all(name).iter();
        let first = values.next().and_then(|value| value.to_str().ok());
        first.filter(|_| values.next().is_none())
    };
    match kind {
        CredentialKind::Bearer => header(&AUTHORIZATION).is_some_and(|value| {
            value
                .split_once(' ')
                .is_some_and(|(scheme, rest)| is_bearer_scheme(scheme) && rest.trim() == placeholder)
        }),
        CredentialKind::Header { header: name, prefix } => HeaderName::from_bytes(name.as_bytes())
            .ok()
            .and_then(|name| header(&name))
            .is_some_and(|value| {
                value == placeholder || value.strip_prefix(prefix.as_str()) == Some(placeholder)
            }),
        CredentialKind::Basic { username } => header(&AUTHORIZATION)
            .and_then(|value| basic_pair(value.as_bytes()))
            .and_then(|pair| String::from_utf8(pair).ok())
            .is_some_and(|pair| match pair.split_once(':') {
                Some((user, password)) => {
                    password == placeholder
                        || (username.is_some() && user == placeholder && password.is_empty())
                }
                None => false,
            }),
        CredentialKind::Cookie { name } => cookies(parts)
            .iter()
            .any(|(own, value)| own == name && value == placeholder),
        CredentialKind::Query { parameter } => {
            let raw = parts.uri.query().unwrap_or_default();
            query::read(raw).known().is_some_and(|pairs| {
                pairs
                    .iter()
                    .any(|(own, values)| own == parameter && *values == [placeholder])
            })
        }
        CredentialKind::Mtls | CredentialKind::Postgres { .. } | CredentialKind::Unread { .. } => false,
    }
}

/// `Bearer` (RFC 6750), or `token`, which GitHub and Gitea take for the same.
pub(super) fn is_bearer_scheme(scheme: &str) -> bool {
    scheme.eq_ignore_ascii_case("bearer") || scheme.eq_ignore_ascii_case("token")
}

/// `user:password` of a `Basic` value (RFC 7617).
pub(super) fn basic_pair(value: &[u8]) -> Option<Vec<u8>> {
    let (scheme, rest) = value.split_at_checked(6)?;
    if !scheme.eq_ignore_ascii_case(b"basic ") {
        return None;
    }
    STANDARD.decode(rest.trim_ascii()).ok()
}

/// The pairs of every `Cookie` header, in order (RFC 6265 section 4.2).
pub(super) fn cookies(parts: &Parts) -> Vec<(String, String)> {
    let mut pairs = Vec::new();
    for value in parts.headers.get_all(COOKIE) {
        for piece in String::from_utf8_lossy(value.as_bytes()).split(';') {
            let (name, value) = piece.trim().split_once('=').unwrap_or((piece.trim(), ""));
            if !name.is_empty() {
                pairs.push((name.to_owned(), value.to_owned()));
            }
        }
    }
    pairs
}
