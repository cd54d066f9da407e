//! A real secret in a response put back to its placeholder. *Pure.*
//!
//! Looks for the secret as it is, as it went on the wire, in base64 at each of its three offsets
//! (both alphabets), percent-encoded and JSON-escaped, over the seams of chunks. The length
//! changes, so [`Scrub::head`] drops what speaks of the old bytes. An upstream that hides a secret
//! in another way (reversed, encrypted, byte by byte) is not caught; nothing on the wire can.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use bytes::Bytes;
use http::header::{
    ACCEPT_RANGES, CONTENT_ENCODING, CONTENT_LENGTH, ETAG, HeaderMap, HeaderName, HeaderValue,
};
use memchr::memmem;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use zeroize::Zeroizing;

use super::Secret;

/// Shortest text that is looked for, bytes; shorter ones would be found by chance everywhere.
pub const NEEDLE_BYTES_MIN: usize = 4;

/// Replaces one secret in one response: first [`Scrub::head`], then every chunk through
/// [`Scrub::push`], then [`Scrub::finish`].
pub struct Scrub {
    needles: Vec<Zeroizing<Vec<u8>>>,
    longest: usize,
    placeholder: Vec<u8>,
    held: Zeroizing<Vec<u8>>,
    /// Bytes at the front of `held` that went on already.
    released: usize,
    /// How many times a secret was put back.
    hits: u64,
}

impl Scrub {
    /// For `secret`, which went on the wire as `wire`.
    pub fn new(secret: &Secret, wire: &[u8], placeholder: &str) -> Self {
        let needles = needles(secret, wire);
        let longest = needles.first().map_or(0, |needle| needle.len());
        Scrub {
            needles,
            longest,
            placeholder: placeholder.as_bytes().to_vec(),
            held: Zeroizing::new(Vec::new()),
            released: 0,
            hits: 0,
        }
    }

    /// Cleans a response's headers (or trailers) and drops those that speak of the old bytes.
    /// Returns whether the body can be scrubbed; where it cannot (a content coding that was not
    /// asked for), the response must not reach the agent.
    pub fn head(&mut self, headers: &mut HeaderMap) -> bool {
        for name in headers.keys().cloned().collect::<Vec<_>>() {
            self.header(headers, &name);
        }
        for name in [CONTENT_LENGTH, ETAG, ACCEPT_RANGES] {
            headers.remove(name);
        }
        for name in ["content-md5", "digest", "content-digest", "repr-digest"] {
            headers.remove(name);
        }
        headers
            .get_all(CONTENT_ENCODING)
            .iter()
            .all(|coding| coding.as_bytes().trim_ascii().eq_ignore_ascii_case(b"identity"))
    }

    fn header(&mut self, headers: &mut HeaderMap, name: &HeaderName) {
        let dirty = |value: &HeaderValue| {
            self.needles
                .iter()
                .any(|needle| memmem::find(value.as_bytes(), needle).is_some())
        };
        if !headers.get_all(name).iter().any(dirty) {
            return;
        }
        let values: Vec<HeaderValue> = headers.get_all(name).iter().cloned().collect();
        headers.remove(name);
        for value in values {
            let mut out = Vec::new();
            self.replace(value.as_bytes(), &mut out, true);
            // A value that the placeholder makes invalid is left out.
            if let Ok(value) = HeaderValue::from_bytes(&out) {
                headers.append(name, value);
            }
        }
    }

    /// Takes the next chunk of the body; returns what may go to the agent. At most one needle's
    /// length less one byte is kept back, and only where a secret may have begun.
    pub fn push(&mut self, chunk: &[u8]) -> Bytes {
        if self.needles.is_empty() {
            return Bytes::copy_from_slice(chunk);
        }
        let mut input = std::mem::take(&mut self.held);
        input.extend_from_slice(chunk);
        let mut out = Vec::with_capacity(input.len());
        let (hits, used) = (self.hits, self.replace(&input, &mut out, false));
        self.held = Zeroizing::new(input.get(used..).unwrap_or_default().to_vec());
        self.without_released(&mut out, hits, used);
        Bytes::from(out)
    }

    /// Takes what [`Scrub::release`] gave off what goes on now. Where a secret was found, its first part
    /// may have gone; its place is the caller's to close.
    fn without_released(&mut self, out: &mut Vec<u8>, hits: u64, used: usize) {
        let gone = self.released.min(used);
        self.released -= gone;
        if self.hits == hits {
            out.drain(..gone.min(out.len()));
        }
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

    /// Bytes at the end of what came that a secret begins with, those that went on included.
    pub fn begun(&self) -> usize {
        self.held.len()
    }

    /// What was kept back, at the end of the body.
    pub fn finish(&mut self) -> Bytes {
        let input = std::mem::take(&mut self.held);
        let mut out = Vec::with_capacity(input.len());
        let hits = self.hits;
        self.replace(&input, &mut out, true);
        self.without_released(&mut out, hits, input.len());
        Bytes::from(out)
    }

    /// How many times the secret was found.
    pub fn hits(&self) -> u64 {
        self.hits
    }

    /// Copies `input` with its secrets replaced; returns how much of it was used up.
    fn replace(&mut self, input: &[u8], out: &mut Vec<u8>, last: bool) -> usize {
        let mut used = 0;
        loop {
            let rest = input.get(used..).unwrap_or_default();
            let first = self
                .needles
                .iter()
                .filter_map(|needle| memmem::find(rest, needle).map(|at| (at, needle.len())))
                .min_by_key(|(at, length)| (*at, std::cmp::Reverse(*length)));
            let open = if last { rest.len() } else { self.open(rest) };
            match first {
                // A longer form may have begun before this one; wait for its end.
                Some((at, _)) if !last && open < at => {
                    out.extend_from_slice(rest.get(..open).unwrap_or_default());
                    return used + open;
                }
                Some((at, length)) => {
                    out.extend_from_slice(rest.get(..at).unwrap_or_default());
                    out.extend_from_slice(&self.placeholder);
                    self.hits += 1;
                    used += at + length;
                }
                None => {
                    out.extend_from_slice(rest.get(..open).unwrap_or_default());
                    return used + open;
                }
            }
        }
    }

    /// Where the longest end of `rest` starts that a secret may begin with.
    fn open(&self, rest: &[u8]) -> usize {
        let from = rest.len().saturating_sub(self.longest.saturating_sub(1));
        (from..rest.len())
            .find(|&at| {
                let end = rest.get(at..).unwrap_or_default();
                self.needles
                    .iter()
                    .any(|needle| needle.len() > end.len() && needle.starts_with(end))
            })
            .unwrap_or(rest.len())
    }
}

/// What is looked for, longest first: a form that begins with another is replaced whole.
pub(super) fn needles(secret: &Secret, wire: &[u8]) -> Vec<Zeroizing<Vec<u8>>> {
    let mut needles: Vec<Zeroizing<Vec<u8>>> = Vec::new();
    let mut add = |text: Vec<u8>| {
        let text = Zeroizing::new(text);
        if text.len() >= NEEDLE_BYTES_MIN && !needles.contains(&text) {
            needles.push(text);
        }
    };
    let raw = secret.expose();
    add(raw.to_vec());
    add(wire.to_vec());
    for offset in 0..3 {
        for text in base64_at(raw, offset) {
            add(text);
        }
    }
    if let Ok(text) = std::str::from_utf8(raw) {
        let percent = utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
        add(percent.to_ascii_lowercase().into_bytes());
        add(percent.into_bytes());
        add(form(raw));
        let json = serde_json::Value::from(text).to_string();
        let inner = json.trim_start_matches('"');
        add(inner.strip_suffix('"').unwrap_or(inner).as_bytes().to_vec());
        add(inner
            .strip_suffix('"')
            .unwrap_or(inner)
            .replace('/', "\\/")
            .into_bytes());
    }
    needles.sort_by_key(|needle| std::cmp::Reverse(needle.len()));
    needles
}

/// The characters of a base64 text that `raw` alone decides, when `offset` bytes stand before it
/// in the group of three, in both alphabets.
fn base64_at(raw: &[u8], offset: usize) -> [Vec<u8>; 2] {
    let mut padded = Zeroizing::new(vec![0u8; offset]);
    padded.extend_from_slice(raw);
    // The first character that holds only bits of the secret, and the last.
    let start = (offset * 8).div_ceil(6);
    let end = padded.len() * 8 / 6;
    let cut = |text: String| text.as_bytes().get(start..end).unwrap_or_default().to_vec();
    [cut(STANDARD.encode(&*padded)), cut(URL_SAFE.encode(&*padded))]
}

/// As HTML forms encode it: what RFC 3986 calls unreserved stays, the rest is escaped.
fn form(raw: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(raw.len());
    for &byte in raw {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(byte);
        } else {
            out.extend_from_slice(format!("%{byte:02X}").as_bytes());
        }
    }
    out
}
