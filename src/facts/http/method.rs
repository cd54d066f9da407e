//! Another method than the request line's, in a request's query or body. *Pure.*
//!
//! Forms of browsers know GET and POST alone. So servers take a third from `_method`: of a form's fields (Rails, Laravel,
//! Symfony, Express), of JSON (Laravel, Express), of the query (Symfony, WordPress); Salesforce from `_HttpMethod`,
//! Facebook's Graph API from `method`. A POST that a rule allows would be a DELETE there, so the method of such a
//! request is [`Blind::Ambiguous`]: a rule that hangs on it denies, and one that is meant for such a server may read
//! `http.query` or `http.form` instead. The headers that do the same are refused before (`protocol::http::head`).
//!
//! A body is looked at where it is a POST's. That of a form is held; JSON and multipart are looked through as they
//! stream ([`MethodScan`]), since there the name stands before what it says, and ends the request in time.

use http::Method;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderMap};
use http::request::Parts;
use memchr::memmem;
use percent_encoding::percent_decode;

use super::{HeldBody, body, form};
use crate::facts::{Blind, Fact, FactSet, Slot};

/// Parameters whose value is a method wherever a server knows them, in lower case.
const NAMES: &[&str] = &[
    "_method",
    "_httpmethod",
    "x-http-method-override",
    "x-http-method",
    "x-method-override",
];

/// One whose value is a method at some servers, and anything at others.
const LOOSE: &str = "method";

/// What the value of [`LOOSE`] is where it means a method.
const VERBS: &[&str] = &["get", "head", "post", "put", "patch", "delete", "options"];

/// What of JSON may be the name `_method`: itself, or one of its letters as an escape (RFC 8259 section 7).
const JSON_NEEDLES: &[&str] = &["\"_method\"", "\\u005f", "\\u005F", "\\u006", "\\u0074"];

/// Bytes of one line of a part's head that are looked through; a longer one may have any name.
pub const LINE_BYTES_MAX: usize = 4 << 10;

/// The request's method in lower case, if it has one only.
pub(super) fn read(
    parts: &Parts,
    held: HeldBody<'_>,
    needs: FactSet,
    decoded_bytes_max: usize,
) -> Fact<String> {
    let own = parts.method.as_str().to_ascii_lowercase();
    if !needs.contains(Slot::HttpMethod) {
        return Fact::Known(own);
    }
    if pairs_name_another(parts.uri.query().unwrap_or_default().as_bytes(), &own) {
        return Fact::Unknown(Blind::Ambiguous);
    }
    match in_body(parts, held, &own, decoded_bytes_max) {
        Ok(false) => Fact::Known(own),
        Ok(true) => Fact::Unknown(Blind::Ambiguous),
        Err(blind) => Fact::Unknown(blind),
    }
}

/// Whether a body has to be held for the method's sake.
pub(super) fn wants_body(parts: &Parts, needs: FactSet) -> bool {
    needs.contains(Slot::HttpMethod)
        && match kind(parts) {
            Kind::Other => false,
            Kind::Form => true,
            Kind::Json | Kind::Multipart => is_coded(&parts.headers),
        }
}

/// How a body would be read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Form,
    Json,
    Multipart,
    /// In no way in which a method could stand in it.
    Other,
}

fn kind(parts: &Parts) -> Kind {
    if parts.method != Method::POST {
        return Kind::Other;
    }
    let mut kinds = parts.headers.get_all(CONTENT_TYPE).iter();
    let Some(first) = kinds.next() else {
        // Rack takes it for a form.
        return Kind::Form;
    };
    let line = String::from_utf8_lossy(first.as_bytes()).to_ascii_lowercase();
    let essence = line.split(';').next().unwrap_or_default().trim();
    match essence {
        essence if essence.starts_with("multipart/") => Kind::Multipart,
        essence if essence.contains("json") => Kind::Json,
        "application/x-www-form-urlencoded" => Kind::Form,
        // As which of them it is read, nobody knows.
        _ if kinds.next().is_some() || form::media_type(&parts.headers).is_err() => Kind::Form,
        _ => Kind::Other,
    }
}

fn is_coded(headers: &HeaderMap) -> bool {
    let is_plain = |coding: &[u8]| coding.trim_ascii().eq_ignore_ascii_case(b"identity");
    let mut codings = headers.get_all(CONTENT_ENCODING).iter();
    codings.any(|coding| !is_plain(coding.as_bytes()))
}

fn in_body(parts: &Parts, held: HeldBody<'_>, own: &str, decoded_bytes_max: usize) -> Result<bool, Blind> {
    let kind = kind(parts);
    if kind == Kind::Other {
        return Ok(false);
    }
    let bytes = match held {
        HeldBody::Empty => return Ok(false),
        HeldBody::Whole(bytes) => bytes,
        // Looked through on its way.
        HeldBody::Over | HeldBody::NotHeld if kind != Kind::Form && !is_coded(&parts.headers) => {
            return Ok(false);
        }
        HeldBody::Over => return Err(Blind::Truncated),
        HeldBody::NotHeld => return Err(Blind::NotRead),
    };
    let decoded = body::decode(&parts.headers, bytes, decoded_bytes_max)?;
    Ok(match kind {
        Kind::Form => pairs_name_another(&decoded, own),
        _ => MethodScan::of(kind).is_some_and(|mut scan| scan.push(&decoded)),
    })
}

/// Whether a query, or a form's body, names another method. Servers differ in whether a semicolon parts pairs, so it does.
fn pairs_name_another(text: &[u8], own: &str) -> bool {
    text.split(|byte| matches!(byte, b'&' | b';')).any(|pair| {
        let mut sides = pair.splitn(2, |byte| *byte == b'=');
        let name = name_of(sides.next().unwrap_or_default());
        if name != LOOSE && !NAMES.contains(&name.as_str()) {
            return false;
        }
        let value = String::from_utf8_lossy(&decode(sides.next().unwrap_or_default()))
            .trim()
            .to_ascii_lowercase();
        value != own && (name != LOOSE || VERBS.contains(&value.as_str()))
    })
}

/// The name of a pair as the most lenient reader has it, PHP: without leading spaces, up to a NUL or a bracket, with
/// what may not stand in a variable's name as underscores.
fn name_of(coded: &[u8]) -> String {
    let decoded = decode(coded);
    let name = decoded.split(|byte| *byte == 0).next().unwrap_or_default();
    let name = name.trim_ascii_start();
    let mut out = String::new();
    for (at, byte) in name.iter().enumerate() {
        match byte {
            b'[' if at > 0 => break,
            b'[' | b'.' | b' ' => out.push('_'),
            byte => out.push(char::from(byte.to_ascii_lowercase())),
        }
    }
    out
}

fn decode(coded: &[u8]) -> Vec<u8> {
    let spaced: Vec<u8> = coded
        .iter()
        .map(|byte| if *byte == b'+' { b' ' } else { *byte })
        .collect();
    percent_decode(&spaced).collect()
}

/// Looks for a second method in a body of JSON or of parts, over the seams of its pieces too.
pub struct MethodScan {
    kind: Kind,
    /// The end of what came: what may be the front of a name, or a line that has no end yet.
    tail: Vec<u8>,
    /// Whether the line that is read is too long to be a part's head.
    long: bool,
    /// Whether the line before was a part's `Content-Disposition`, which this one may continue.
    continues: bool,
}

impl MethodScan {
    /// For a body that streams; `None` where no method can stand in it.
    pub fn new(parts: &Parts) -> Option<MethodScan> {
        MethodScan::of(kind(parts))
    }

    fn of(kind: Kind) -> Option<MethodScan> {
        matches!(kind, Kind::Json | Kind::Multipart).then(|| MethodScan {
            kind,
            tail: Vec::new(),
            long: false,
            continues: false,
        })
    }

    /// Takes the next piece, before it is forwarded. Once it has said yes the body must be aborted.
    pub fn push(&mut self, piece: &[u8]) -> bool {
        match self.kind {
            Kind::Json => self.json(piece),
            _ => self.lines(piece),
        }
    }

    fn json(&mut self, piece: &[u8]) -> bool {
        let longest = JSON_NEEDLES.iter().map(|needle| needle.len()).max().unwrap_or(0) - 1;
        let stands = |text: &[u8]| {
            let mut needles = JSON_NEEDLES.iter();
            needles.any(|needle| memmem::find(text, needle.as_bytes()).is_some())
        };
        let seam = piece.get(..longest.min(piece.len())).unwrap_or_default();
        self.tail.extend_from_slice(seam);
        if stands(&self.tail) || stands(piece) {
            return true;
        }
        if piece.len() > longest {
            self.tail.clear();
            self.tail
                .extend_from_slice(piece.get(piece.len() - longest..).unwrap_or_default());
        } else {
            let over = self.tail.len().saturating_sub(longest);
            self.tail.drain(..over);
        }
        false
    }

    fn lines(&mut self, piece: &[u8]) -> bool {
        let mut rest = piece;
        while let Some(end) = memchr::memchr2(b'\n', b'\r', rest) {
            let (line, behind) = (rest.get(..end).unwrap_or_default(), rest.get(end + 1..));
            if self.keep(line) {
                return true;
            }
            let line = std::mem::take(&mut self.tail);
            if !std::mem::take(&mut self.long) {
                self.continues = self.is_of_a_head(&line);
                if self.continues && may_name_method(&line) {
                    return true;
                }
            }
            rest = behind.unwrap_or_default();
        }
        self.keep(rest)
    }

    /// Keeps a part of a line, and says whether it is of a head that is too long to be looked through.
    fn keep(&mut self, part: &[u8]) -> bool {
        if !self.long && self.tail.len() + part.len() <= LINE_BYTES_MAX {
            self.tail.extend_from_slice(part);
            return false;
        }
        let room = LINE_BYTES_MAX - self.tail.len();
        self.tail.extend_from_slice(part.get(..room).unwrap_or(part));
        let is_head = !self.long && self.is_of_a_head(&self.tail);
        (self.long, self.continues) = (true, false);
        self.tail.clear();
        is_head
    }

    /// Whether a line is a part's `Content-Disposition`, or goes on with one. An empty line is the second half of a
    /// line's end.
    fn is_of_a_head(&self, line: &[u8]) -> bool {
        const NAME: &[u8] = b"content-disposition";
        let front = line.trim_ascii_start().get(..NAME.len()).unwrap_or_default();
        let goes_on = || line.first().is_none_or(|byte| matches!(byte, b' ' | b'\t'));
        front.eq_ignore_ascii_case(NAME) || self.continues && goes_on()
    }
}

/// Whether the head of a part may be of one whose name is a method's: the name of a file is left out where it stands as
/// all readers take it, and escapes are undone as any of them might.
fn may_name_method(line: &[u8]) -> bool {
    let text = String::from_utf8_lossy(line).to_ascii_lowercase();
    let plain: String = text
        .split(';')
        .filter(|part| !is_plain_file(part))
        .collect::<Vec<_>>()
        .join(";");
    let undone: Vec<u8> = percent_decode(plain.as_bytes())
        .filter(|byte| *byte != b'\\')
        .collect();
    // `payment_method` is another name.
    let begins = |at: usize| {
        let before = at.checked_sub(1).and_then(|at| undone.get(at));
        before.is_none_or(|byte| !byte.is_ascii_alphanumeric() && !matches!(byte, b'_' | b'-'))
    };
    let names = ["_method", ".method", "[method", " method", "_httpmethod"];
    let mut found = names
        .iter()
        .flat_map(|name| memmem::find_iter(&undone, name.as_bytes()));
    found.any(begins) || memmem::find(&undone, b"=?").is_some()
}

/// `filename="…"` without anything in it that one reader could end elsewhere than another.
fn is_plain_file(part: &str) -> bool {
    let value = part
        .trim()
        .strip_prefix("filename=\"")
        .and_then(|rest| rest.strip_suffix('"'));
    value.is_some_and(|value| !value.contains(['"', '\\', '%', '=']))
}

#[cfg(test)]
#[path = "method_tests.rs"]
mod tests;
