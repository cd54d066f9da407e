//! Real secrets in a response put back to their placeholders. *Pure.*
//!
//! Looks for each secret in all its [`Forms`], over the seams of chunks. The length changes, so [`Scrub::head`] drops what speaks of the old bytes. An upstream that hides a secret
//! in another way (reversed, encrypted, byte by byte) is not caught; nothing on the wire can.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{CONTENT_ENCODING, HeaderMap, HeaderName, HeaderValue};
use zeroize::Zeroizing;

use super::Secret;
use super::forms::Forms;
use crate::protocol::http::remove_if;

/// What speaks of an answer's bytes.
const OF_BYTES: &[&str] = &[
    "content-length",
    "etag",
    "accept-ranges",
    "content-md5",
    "digest",
    "content-digest",
    "repr-digest",
];

/// Replaces secrets in one response: first [`Scrub::head`], then every chunk through
/// [`Scrub::push`], then [`Scrub::finish`].
#[derive(Default)]
pub struct Scrub {
    sought: Vec<Sought>,
    held: Zeroizing<Vec<u8>>,
    /// Bytes at the front of `held` that went on already.
    released: usize,
    /// How many times a secret was put back.
    hits: u64,
    torn: bool,
}

/// A secret that is looked for, and what stands in its place.
struct Sought {
    forms: Arc<Forms>,
    placeholder: Box<[u8]>,
}

impl Scrub {
    /// For `secret`, which went on the wire as `wire`.
    pub fn new(secret: &Secret, wire: &[u8], placeholder: &str) -> Self {
        let mut scrub = Scrub::default();
        scrub.add(secret.expose(), wire, placeholder);
        scrub
    }

    /// For one more secret, before anything is looked at. One that is looked for already keeps its placeholder.
    pub fn add(&mut self, secret: &[u8], wire: &[u8], placeholder: &str) {
        let stands = |own: &Sought| own.forms.has(secret);
        if wire == secret && self.sought.iter().any(stands) {
            return;
        }
        self.sought.push(Sought {
            forms: Forms::of(secret, wire),
            placeholder: placeholder.as_bytes().into(),
        });
    }

    /// Whether there is nothing to look for.
    pub fn is_empty(&self) -> bool {
        self.sought.iter().all(|own| own.forms.needles.is_empty())
    }

    /// Where the first needle of any secret stands, its length and its placeholder; of several there, the longest.
    fn first_in(&self, text: &[u8]) -> Option<(usize, usize, &[u8])> {
        let found = self.sought.iter().filter_map(|own| {
            let (at, length) = own.forms.first_in(text)?;
            Some((at, length, &*own.placeholder))
        });
        found.min_by_key(|(at, length, _)| (*at, std::cmp::Reverse(*length)))
    }

    /// Cleans a response's headers (or trailers) and drops those that speak of the old bytes.
    /// Returns whether the body can be scrubbed; where it cannot (a content coding that was not
    /// asked for), the response must not reach the agent.
    pub fn head(&mut self, headers: &mut HeaderMap) -> bool {
        let dirty = |value: &HeaderValue| self.first_in(value.as_bytes()).is_some();
        if headers.values().any(dirty) {
            for name in headers.keys().cloned().collect::<Vec<_>>() {
                self.header(headers, &name);
            }
        }
        remove_if(headers, |name| OF_BYTES.contains(&name.as_str()));
        headers
            .get_all(CONTENT_ENCODING)
            .iter()
            .all(|coding| coding.as_bytes().trim_ascii().eq_ignore_ascii_case(b"identity"))
    }

    fn header(&mut self, headers: &mut HeaderMap, name: &HeaderName) {
        let dirty = |value: &HeaderValue| self.first_in(value.as_bytes()).is_some();
        if !headers.get_all(name).iter().any(dirty) {
            return;
        }
        let values: Vec<HeaderValue> = headers.get_all(name).iter().cloned().collect();
        headers.remove(name);
        for value in values {
            let mut out = Vec::new();
            let all = value.as_bytes();
            self.hits += self.replace(all, all.len(), &mut out).hits;
            // A value that the placeholder makes invalid is left out.
            if let Ok(value) = HeaderValue::from_bytes(&out) {
                headers.append(name, value);
            }
        }
    }

    /// Takes the next chunk of the body; returns what may go to the agent. The end of what came is
    /// kept back, less than a needle's length, up to the last byte that no secret has: the same
    /// whatever stands there. Were it kept back only where a secret begins, an agent that has its
    /// own bytes come back to it would find the secret byte by byte, by what comes late.
    pub fn push(&mut self, chunk: &[u8]) -> Bytes {
        let mut input = std::mem::take(&mut self.held);
        input.extend_from_slice(chunk);
        let kept = self.kept(&input);
        self.take(input, kept)
    }

    /// What is held, for a stream that pauses. It is still looked at, with what comes behind it.
    pub fn release(&mut self) -> Bytes {
        let held = self.held.get(self.released..).unwrap_or_default();
        let held = Bytes::copy_from_slice(held);
        self.released = self.held.len();
        held
    }

    /// Whether anything is kept back.
    pub fn holds(&self) -> bool {
        self.held.len() > self.released
    }

    /// Takes the last chunk of the body; returns what is left of it. One in which nothing stands goes on as it is.
    pub fn last(&mut self, chunk: Bytes) -> Bytes {
        if self.held.is_empty() && self.first_in(&chunk).is_none() {
            return chunk;
        }
        [self.push(&chunk), self.finish()].concat().into()
    }

    /// What was kept back, at the end of the body.
    pub fn finish(&mut self) -> Bytes {
        let input = std::mem::take(&mut self.held);
        let end = input.len();
        self.take(input, end)
    }

    /// Whether a secret was found whose beginning had been released: the stream must end.
    pub fn torn(&self) -> bool {
        self.torn
    }

    /// How many times the secret was found.
    pub fn hits(&self) -> u64 {
        self.hits
    }

    /// Lets go of what stands before `until` or before the end of a secret, and keeps the rest, in
    /// which no whole secret is.
    fn take(&mut self, input: Zeroizing<Vec<u8>>, until: usize) -> Bytes {
        let mut out = Vec::with_capacity(input.len());
        let found = self.replace(&input, until, &mut out);
        self.hits += found.hits;
        if found.first.is_some_and(|first| first < self.released) {
            self.torn = true;
            return Bytes::new();
        }
        let gone = self.released.min(found.used);
        self.released -= gone;
        out.drain(..gone.min(out.len()));
        self.held = Zeroizing::new(input.get(found.used..).unwrap_or_default().to_vec());
        Bytes::from(out)
    }

    /// Copies up to `until`, or to the end of the last secret behind it, with all secrets replaced.
    fn replace(&self, input: &[u8], until: usize, out: &mut Vec<u8>) -> Replaced {
        let mut done = Replaced::default();
        loop {
            let rest = input.get(done.used..).unwrap_or_default();
            let Some((at, length, placeholder)) = self.first_in(rest) else {
                out.extend_from_slice(input.get(done.used..until).unwrap_or_default());
                done.used = done.used.max(until);
                return done;
            };
            out.extend_from_slice(rest.get(..at).unwrap_or_default());
            out.extend_from_slice(placeholder);
            done.first.get_or_insert(done.used + at);
            done.used += at + length;
            done.hits += 1;
        }
    }

    /// Where the end of `input` begins that is kept back. No secret goes over a break.
    fn kept(&self, input: &[u8]) -> usize {
        let longest = self.sought.iter().map(|own| own.forms.longest).max();
        let from = input
            .len()
            .saturating_sub(longest.unwrap_or_default().saturating_sub(1));
        let end = input.get(from..).unwrap_or_default();
        let ends = |byte: &u8| self.sought.iter().all(|own| own.forms.breaks.contains(byte));
        let last = end.iter().rposition(ends);
        last.map_or(from, |at| from + at + 1)
    }
}

/// What [`Scrub::replace`] did.
#[derive(Default)]
struct Replaced {
    /// How much of the input was used up.
    used: usize,
    hits: u64,
    /// Where the first secret stood.
    first: Option<usize>,
}
