//! A real secret in a response put back to its placeholder. *Pure.*
//!
//! Looks for the secret as it is, as it went on the wire, in base64 at each of its three offsets
//! (both alphabets), in hex, percent-encoded, and escaped for JSON and HTML, over the seams of chunks. The length
//! changes, so [`Scrub::head`] drops what speaks of the old bytes. An upstream that hides a secret
//! in another way (reversed, encrypted, byte by byte) is not caught; nothing on the wire can.

use std::collections::VecDeque;
use std::sync::{Arc, PoisonError, RwLock};

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

/// Secrets whose forms are kept ready; those of the oldest are zeroed.
pub const FORMS_KEPT_MAX: usize = 64;
/// Bits of the filter by the first [`NEEDLE_BYTES_MIN`] bytes of a needle: some 20 needles set as many.
const FILTER_BITS: usize = 1 << 12;
/// Bytes of a text up to which one pass for all needles is quicker than a vectorized one for each.
const SHORT_BYTES_MAX: usize = 2 << 10;

/// Bytes with which lines, events and JSON messages end, and which secrets hardly ever have: what
/// came up to one of them need not wait. Few, since an agent may learn which of them a secret has.
const BREAKS: &[u8] = b"\n\r\0}]";

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

/// The forms of one secret, ready to be looked for.
struct Forms {
    /// What they were made of.
    secret: Zeroizing<Vec<u8>>,
    wire: Zeroizing<Vec<u8>>,
    needles: Vec<Zeroizing<Vec<u8>>>,
    longest: usize,
    /// Which first bytes a needle has, by [`first_bit`].
    first: [u64; FILTER_BITS / 64],
    /// Those of [`BREAKS`] that none of the needles has.
    breaks: Vec<u8>,
}

/// The forms that were made last, the newest at the end: to make them costs more than to look through a short answer.
static RECENT: RwLock<VecDeque<Arc<Forms>>> = RwLock::new(VecDeque::new());

impl Scrub {
    /// For `secret`, which went on the wire as `wire`.
    pub fn new(secret: &Secret, wire: &[u8], placeholder: &str) -> Self {
        let mut scrub = Scrub::default();
        scrub.add(secret, wire, placeholder);
        scrub
    }

    /// For one more secret, before anything is looked at. One that is looked for already keeps its placeholder.
    pub fn add(&mut self, secret: &Secret, wire: &[u8], placeholder: &str) {
        let stands = |own: &Sought| own.forms.has(secret.expose());
        if wire == secret.expose() && self.sought.iter().any(stands) {
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

impl Forms {
    /// Those of `secret`, which went on the wire as `wire`.
    fn of(secret: &Secret, wire: &[u8]) -> Arc<Forms> {
        let is_own = |forms: &&Arc<Forms>| *forms.secret == secret.expose() && *forms.wire == wire;
        let kept = RECENT.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(forms) = kept.iter().find(is_own) {
            return forms.clone();
        }
        drop(kept);
        let forms = Arc::new(Forms::new(secret, wire));
        let mut kept = RECENT.write().unwrap_or_else(PoisonError::into_inner);
        kept.push_back(forms.clone());
        if kept.len() > FORMS_KEPT_MAX {
            kept.pop_front();
        }
        forms
    }

    fn new(secret: &Secret, wire: &[u8]) -> Forms {
        let needles = needles(secret, wire);
        let stands = |byte: &u8| needles.iter().any(|needle| needle.contains(byte));
        let breaks = BREAKS.iter().copied().filter(|byte| !stands(byte)).collect();
        let mut first = [0; FILTER_BITS / 64];
        for needle in &needles {
            if let Some(bit) = first_bit(needle)
                && let Some(word) = first.get_mut(bit / 64)
            {
                *word |= 1 << (bit % 64);
            }
        }
        Forms {
            secret: Zeroizing::new(secret.expose().to_vec()),
            wire: Zeroizing::new(wire.to_vec()),
            longest: needles.first().map_or(0, |needle| needle.len()),
            needles,
            first,
            breaks,
        }
    }

    fn has(&self, text: &[u8]) -> bool {
        self.needles.iter().any(|needle| needle.as_slice() == text)
    }

    /// Where the first needle stands, and its length; of several there, the longest.
    fn first_in(&self, text: &[u8]) -> Option<(usize, usize)> {
        if text.len() > SHORT_BYTES_MAX {
            let found = |needle: &Zeroizing<Vec<u8>>| memmem::find(text, needle).map(|at| (at, needle.len()));
            let found = self.needles.iter().filter_map(found);
            return found.min_by_key(|(at, length)| (*at, std::cmp::Reverse(*length)));
        }
        for (at, window) in text.windows(NEEDLE_BYTES_MIN).enumerate() {
            let word = first_bit(window).and_then(|bit| Some((self.first.get(bit / 64)?, bit % 64)));
            if word.is_some_and(|(word, bit)| word >> bit & 1 == 1) {
                let rest = text.get(at..).unwrap_or_default();
                if let Some(needle) = self.needles.iter().find(|needle| rest.starts_with(needle)) {
                    return Some((at, needle.len()));
                }
            }
        }
        None
    }
}

#[cfg(test)]
pub(super) fn forms_kept() -> usize {
    RECENT.read().unwrap_or_else(PoisonError::into_inner).len()
}

/// The filter's bit for a text's first bytes; `None` where it has too few.
fn first_bit(bytes: &[u8]) -> Option<usize> {
    let first = bytes.first_chunk::<NEEDLE_BYTES_MIN>()?;
    let hash = u32::from_le_bytes(*first).wrapping_mul(0x9E37_79B1);
    Some(hash as usize >> (32 - FILTER_BITS.ilog2()))
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
        let inner = json.strip_prefix('"').unwrap_or(&json);
        add(inner.strip_suffix('"').unwrap_or(inner).as_bytes().to_vec());
        let inner = inner.strip_suffix('"').unwrap_or(inner);
        add(inner.replace('/', "\\/").into_bytes());
        if text.contains(['&', '<', '>', '"', '\'']) {
            for_html(text, inner)
                .into_iter()
                .for_each(|text| add(text.into_bytes()));
        }
    }
    let hex = |digits: &[u8; 16]| {
        let both = raw.iter().flat_map(|byte| [byte >> 4, byte & 15]);
        both.filter_map(|digit| digits.get(usize::from(digit)).copied())
            .collect::<Vec<u8>>()
    };
    add(hex(b"0123456789abcdef"));
    add(hex(b"0123456789ABCDEF"));
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

/// As pages show it, by what the templates of most languages make of `&<>"'`, and as JSON that may stand in a page (Go's,
/// PHP's and Rails' own), where those are `\u0026`.
fn for_html(text: &str, json: &str) -> Vec<String> {
    let escaped = |double: &str, single: &str| {
        let text = text
            .replace('&', "&amp;")
            .replace('<', "&lt;")
            .replace('>', "&gt;");
        text.replace('"', double).replace('\'', single)
    };
    let mut forms: Vec<String> = ["&quot;", "&#34;", "\""]
        .iter()
        .flat_map(|double| ["&#39;", "&#039;", "&#x27;", "&apos;", "'"].map(|single| escaped(double, single)))
        .collect();
    let json = json
        .replace('&', "\\u0026")
        .replace('<', "\\u003c")
        .replace('>', "\\u003e");
    forms.push(json.replace("\\u003c", "\\u003C").replace("\\u003e", "\\u003E"));
    forms.push(json.replace('\'', "\\u0027"));
    forms.push(json);
    forms
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
