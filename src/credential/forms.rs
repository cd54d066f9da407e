//! The forms in which a secret may come back. *Pure.*
//!
//! As it is, as it went on the wire, in base64 at each of its three offsets (both alphabets), in hex, percent-encoded, and
//! escaped for JSON and HTML.
//!
//! Invariant: what is kept of a secret is zeroed when it falls out.

use std::collections::VecDeque;
use std::sync::{Arc, PoisonError, RwLock};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use memchr::memmem;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use zeroize::Zeroizing;

use super::filter::{Filter, NEEDLE_BYTES_MIN};

/// Secrets whose forms are kept ready; those of the oldest are zeroed.
pub const FORMS_KEPT_MAX: usize = 64;
/// Bytes of a text up to which one pass for all needles is quicker than a vectorized one for each, where a needle is
/// shorter than [`LONG_BYTES_MIN`].
const SHORT_BYTES_MAX: usize = 2 << 10;
/// Bytes of the shortest needle with which a pass for all skips enough to be the quicker one for any text.
const LONG_BYTES_MIN: usize = 12;

/// Bytes with which lines, events and JSON messages end, and which secrets hardly ever have: what
/// came up to one of them need not wait. Few, since an agent may learn which of them a secret has.
const BREAKS: &[u8] = b"\n\r\0}]";

/// The forms of one secret, ready to be looked for.
pub(super) struct Forms {
    /// What they were made of.
    secret: Zeroizing<Vec<u8>>,
    wire: Zeroizing<Vec<u8>>,
    pub(super) needles: Vec<Zeroizing<Vec<u8>>>,
    pub(super) longest: usize,
    filter: Filter,
    /// Those of [`BREAKS`] that none of the needles has.
    pub(super) breaks: Vec<u8>,
}

/// The forms that were made last, the newest at the end: to make them costs more than to look through a short answer.
static RECENT: RwLock<VecDeque<Arc<Forms>>> = RwLock::new(VecDeque::new());

impl Forms {
    /// Those of `secret`, which went on the wire as `wire`.
    pub(super) fn of(secret: &[u8], wire: &[u8]) -> Arc<Forms> {
        let is_own = |forms: &&Arc<Forms>| *forms.secret == secret && *forms.wire == wire;
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

    fn new(secret: &[u8], wire: &[u8]) -> Forms {
        let needles = needles(secret, wire);
        let stands = |byte: &u8| needles.iter().any(|needle| needle.contains(byte));
        let breaks = BREAKS.iter().copied().filter(|byte| !stands(byte)).collect();
        Forms {
            secret: Zeroizing::new(secret.to_vec()),
            wire: Zeroizing::new(wire.to_vec()),
            longest: needles.first().map_or(0, |needle| needle.len()),
            filter: Filter::of(needles.iter().map(|needle| needle.as_slice())),
            needles,
            breaks,
        }
    }

    pub(super) fn has(&self, text: &[u8]) -> bool {
        self.needles.iter().any(|needle| needle.as_slice() == text)
    }

    /// Where the first needle stands, and its length; of several there, the longest.
    pub(super) fn first_in(&self, text: &[u8]) -> Option<(usize, usize)> {
        if text.len() > SHORT_BYTES_MAX && self.filter.shortest() < LONG_BYTES_MIN {
            let found = |needle: &Zeroizing<Vec<u8>>| memmem::find(text, needle).map(|at| (at, needle.len()));
            let found = self.needles.iter().filter_map(found);
            return found.min_by_key(|(at, length)| (*at, std::cmp::Reverse(*length)));
        }
        let stands = |rest: &[u8]| {
            let needle = self.needles.iter().find(|needle| rest.starts_with(needle))?;
            Some(needle.len())
        };
        self.filter.first_in(text, stands)
    }
}

#[cfg(test)]
pub(super) fn forms_kept() -> usize {
    RECENT.read().unwrap_or_else(PoisonError::into_inner).len()
}

/// What is looked for, longest first: a form that begins with another is replaced whole.
pub(super) fn needles(raw: &[u8], wire: &[u8]) -> Vec<Zeroizing<Vec<u8>>> {
    let mut needles: Vec<Zeroizing<Vec<u8>>> = Vec::new();
    let mut add = |text: Vec<u8>| {
        let text = Zeroizing::new(text);
        if text.len() >= NEEDLE_BYTES_MIN && !needles.contains(&text) {
            needles.push(text);
        }
    };
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

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn the_first_needle_is_found_wherever_it_stands(
            secret in "[ab]{4,24}", before in "[abc]{0,80}", after in "[abc]{0,80}", long: bool, stands: bool,
        ) {
            let forms = Forms::of(secret.as_bytes(), secret.as_bytes());
            let before = if long { "c".repeat(SHORT_BYTES_MAX) + &before } else { before };
            let text = before + if stands { &secret } else { "" } + &after;
            let at = |from: usize| {
                let rest = text.as_bytes().get(from..).unwrap_or_default();
                let needle = forms.needles.iter().find(|needle| rest.starts_with(needle))?;
                Some((from, needle.len()))
            };
            let naive = (0..text.len()).find_map(at);
            proptest::prop_assert_eq!(forms.first_in(text.as_bytes()), naive);
        }
    }
}
