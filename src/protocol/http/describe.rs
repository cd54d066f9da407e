//! A request for people, and its digest. *Pure.*

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderMap;
use http::header::CONTENT_ENCODING;
use http::request::Parts;

use super::hop;
use crate::facts::http::{HeldBody, body as coding};
use crate::facts::{Blind, Mask};
use crate::verdict::Digest;

/// Characters of one line that [`summary`] keeps of a path.
pub const SUMMARY_CHARS_MAX: usize = 200;

/// Bytes of a body that [`detail`] shows.
pub const DETAIL_BYTES_MAX: usize = 64 << 10;

/// Bytes of a body that is no text that [`detail`] shows: as many characters as of a text.
pub const BINARY_BYTES_MAX: usize = DETAIL_BYTES_MAX / 4 * 3;

/// SHA-256 over the request line, the authority, every end-to-end header in order, the held body and
/// its trailers. A body that is not held is not covered; that it is not is covered.
pub fn digest(parts: &Parts, body: HeldBody<'_>, trailers: Option<&HeaderMap>) -> Digest {
    let headers: Vec<_> = parts
        .headers
        .iter()
        .filter(|(name, _)| !hop::is_hop_by_hop(name))
        .collect();
    // So that no header can be taken for a body and its trailers.
    let count = (headers.len() as u64).to_be_bytes();
    let mut pieces: Vec<&[u8]> = vec![
        parts.method.as_str().as_bytes(),
        parts.uri.scheme_str().unwrap_or_default().as_bytes(),
        parts.uri.authority().map_or("", |own| own.as_str()).as_bytes(),
        parts.uri.path().as_bytes(),
        if parts.uri.query().is_some() { b"?" } else { b"" },
        parts.uri.query().unwrap_or_default().as_bytes(),
        &count,
    ];
    for (name, value) in headers {
        pieces.push(name.as_str().as_bytes());
        pieces.push(value.as_bytes());
    }
    match body {
        HeldBody::Empty => pieces.push(b"empty"),
        HeldBody::Whole(bytes) => pieces.extend([b"whole".as_slice(), bytes]),
        HeldBody::Over => pieces.push(b"over"),
        HeldBody::NotHeld => pieces.push(b"not held"),
    }
    for (name, value) in trailers.into_iter().flatten() {
        pieces.extend([b"trailer".as_slice(), name.as_str().as_bytes(), value.as_bytes()]);
    }
    Digest::of_parts(pieces)
}

/// One line: `DELETE /repos/x`. The query's values are left out, since a secret may stand there.
pub fn summary(parts: &Parts) -> String {
    let mut line = format!("{} {}", parts.method, printable(parts.uri.path()));
    if parts.uri.query().is_some_and(|query| !query.is_empty()) {
        line.push_str("?…");
    }
    match line.char_indices().nth(SUMMARY_CHARS_MAX) {
        Some((end, _)) => format!("{}…", line.get(..end).unwrap_or_default()),
        None => line,
    }
}

/// Stands before a body that was sent in a content coding and is shown without. Where a request has one, its
/// body is never shown but behind a line of the gateway's own, so that no agent writes this one.
pub(super) const DECODED: &str = "(decoded; ";

/// Whether [`detail`] shows all of a body: nobody approves what they cannot see.
pub fn is_shown_whole(headers: &HeaderMap, body: HeldBody<'_>) -> bool {
    let fits = |bytes: &[u8]| match std::str::from_utf8(bytes) {
        Ok(_) => bytes.len() <= DETAIL_BYTES_MAX,
        Err(_) => bytes.len() <= BINARY_BYTES_MAX,
    };
    match body {
        HeldBody::Empty => true,
        HeldBody::Over | HeldBody::NotHeld => false,
        HeldBody::Whole(bytes) if !headers.contains_key(CONTENT_ENCODING) => fits(bytes),
        HeldBody::Whole(bytes) => match coding::decode(headers, bytes, DETAIL_BYTES_MAX) {
            Ok(decoded) => fits(&decoded),
            Err(Blind::Truncated) => false,
            Err(_) => bytes.len() <= BINARY_BYTES_MAX,
        },
    }
}

/// The whole request as text, for an approver. Values of `Authorization`, `Cookie` and their like
/// are masked here, what a configuration names besides by the gate, before anyone is asked; a body
/// that is compressed is shown as it was before, and one that is not text in base64.
pub fn detail(parts: &Parts, body: HeldBody<'_>, trailers: Option<&HeaderMap>) -> String {
    let target = parts.uri.path_and_query().map_or("/", |own| own.as_str());
    let mask = Mask::default();
    let mut text = format!("{} {}\n", parts.method, printable(&mask.target(target)));
    fields(&mut text, &mask, &parts.headers);
    text.push('\n');
    match body {
        HeldBody::Empty => {}
        HeldBody::Over => text.push_str("(a body over the limit)"),
        HeldBody::NotHeld => text.push_str("(a body that no rule reads; it is streamed)"),
        HeldBody::Whole(bytes) if !parts.headers.contains_key(CONTENT_ENCODING) => show(&mut text, bytes),
        HeldBody::Whole(bytes) => {
            let sent = bytes.len();
            match coding::decode(&parts.headers, bytes, DETAIL_BYTES_MAX) {
                Ok(decoded) => {
                    let _ = writeln!(text, "{DECODED}{sent} bytes as sent)");
                    show(&mut text, &decoded);
                }
                Err(why) => {
                    let why = match why {
                        Blind::Truncated => format!("that are more than {DETAIL_BYTES_MAX} decoded"),
                        _ => "whose content coding cannot be undone".to_owned(),
                    };
                    in_base64(&mut text, bytes, &why);
                }
            }
        }
    }
    if let Some(trailers) = trailers {
        text.push_str("\n\n");
        fields(&mut text, &mask, trailers);
    }
    text
}

/// A body, or as much of it as is shown.
fn show(text: &mut String, bytes: &[u8]) {
    match std::str::from_utf8(bytes) {
        Ok(whole) if bytes.len() <= DETAIL_BYTES_MAX => text.push_str(whole),
        Ok(whole) => {
            let end = whole.floor_char_boundary(DETAIL_BYTES_MAX);
            text.push_str(whole.get(..end).unwrap_or_default());
            let _ = write!(text, "\n(cut: {} bytes in all)", bytes.len());
        }
        Err(_) => in_base64(text, bytes, "that are not text"),
    }
}

/// In base64 (RFC 4648), so that whoever decides has all of it.
fn in_base64(text: &mut String, bytes: &[u8], why: &str) {
    let shown = bytes.get(..BINARY_BYTES_MAX.min(bytes.len())).unwrap_or_default();
    let _ = write!(text, "({} bytes {why})\n{}", bytes.len(), STANDARD.encode(shown));
    if shown.len() < bytes.len() {
        text.push_str("\n(cut)");
    }
}

fn fields(text: &mut String, mask: &Mask, headers: &HeaderMap) {
    for (name, value) in headers {
        let shown = match std::str::from_utf8(value.as_bytes()) {
            Ok(value) => printable(&mask.header(name.as_str(), value)),
            // A server may read it as Latin-1.
            Err(_) => {
                let escaped = value.as_bytes().escape_ascii().to_string();
                format!("(not text) {}", mask.header(name.as_str(), &escaped))
            }
        };
        let _ = writeln!(text, "{name}: {shown}");
    }
}

/// Control characters shown as escapes, so that a terminal is not driven by them.
fn printable(text: &str) -> String {
    text.chars()
        .flat_map(|char| {
            let (escaped, plain) = if char.is_control() {
                (Some(char.escape_default()), None)
            } else {
                (None, Some(char))
            };
            escaped.into_iter().flatten().chain(plain)
        })
        .collect()
}
