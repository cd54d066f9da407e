//! Credentials where a text's form says where a value ends: a request's head, a form in parts, YAML. *Pure.*
//!
//! A pattern over the whole text would find its beginning in what is no head, and its end behind what an approver has to
//! see. What an agent could give the look of such a form is masked only where it is one line of plain characters.

use std::borrow::Cow;
use std::sync::LazyLock;

use http::header::CONTENT_TYPE;
use regex::{Captures, Regex};
use serde::de::IgnoredAny;

use super::{ENDS, MASKED, Mask, SECRET, fixed, replace, shown};
use crate::facts::Blind;
use crate::facts::http::{form, json};

/// A word that nothing is made of.
static PLAIN: LazyLock<Regex> = LazyLock::new(|| fixed(&format!("^[^{ENDS}]*$")));

/// A string of JSON that has a quote in it.
static STRING: LazyLock<Regex> = LazyLock::new(|| fixed(r"\x22(?:[^\x22\\]|\\.)*\x22"));

/// Whether a text is JSON, whatever stands twice in it: each quote in it is what JSON says.
pub(super) fn is_json(text: &str) -> bool {
    text.trim_start().starts_with(['{', '[']) && serde_json::from_str::<IgnoredAny>(text).is_ok()
}

impl Mask {
    /// A request as people are shown it ([`crate::protocol::http::detail`]): a line, header fields, a body.
    pub fn request<'a>(&self, text: &'a str) -> Cow<'a, str> {
        let Some((head, body)) = text.split_once("\n\n") else {
            return self.text(text);
        };
        let mut out = String::with_capacity(text.len());
        let mut lines = head.split('\n');
        let mut boundary = None;
        out.push_str(&self.target(lines.next().unwrap_or_default()));
        for line in lines {
            out.push('\n');
            match line.split_once(": ") {
                Some((name, value)) => {
                    out.extend([name, ": ", &self.header(name, value)]);
                    if name == CONTENT_TYPE.as_str() {
                        boundary = form::boundary(value).ok();
                    }
                }
                None => out.push_str(&self.text(line)),
            }
        }
        out.push_str("\n\n");
        let body = match boundary.map(|boundary| format!("--{boundary}")) {
            Some(first) if body.lines().next() == Some(&first) => self.parts(Cow::Borrowed(body), true),
            _ => Cow::Borrowed(body),
        };
        out.push_str(&self.text(&body));
        Cow::Owned(out)
    }

    /// A request's target, or a line that ends with one: the values of its query, each to its end.
    pub fn target<'a>(&self, target: &'a str) -> Cow<'a, str> {
        let Some((path, query)) = target.split_once('?').filter(|_| self.0.any.is_match(target)) else {
            return self.text(target);
        };
        let ends = |char| matches!(char, '&' | ';' | '?');
        let pairs = query.split_inclusive(ends).map(|pair| {
            let (pair, end) = match pair.strip_suffix(ends) {
                Some(bare) => pair.split_at(bare.len()),
                None => (pair, ""),
            };
            match pair.split_once('=') {
                Some((name, value)) => format!("{name}={}{end}", self.parameter(name, value)),
                None => format!("{pair}{end}"),
            }
        });
        let pairs: String = pairs.collect();
        Cow::Owned(format!("{}?{pairs}", self.text(path)))
    }

    /// `name: value` on lines of their own, as far as nothing before them can have opened what they stand in: within
    /// brackets, a line has more than one value, or a name means something else.
    pub(super) fn lines<'a>(&self, text: Cow<'a, str>) -> Cow<'a, str> {
        let lines = text.split_inclusive('\n').take_while(|line| is_settled(line));
        let end = lines.map(str::len).sum();
        let Some((settled, rest)) = text.split_at_checked(end) else {
            return text;
        };
        // The line that opens something stands by itself still.
        let own = rest.find(['{', '[', '(', '\'', '"', '\n']).unwrap_or(rest.len());
        let (own, rest) = rest.split_at(own);
        match replace(&self.0.line, Cow::Owned(format!("{settled}{own}"))) {
            masked if *masked == text[..end + own.len()] => text,
            masked => Cow::Owned(masked.into_owned() + rest),
        }
    }

    /// The parts of a form (RFC 7578) that are named as credentials, where the text is one from its first line on:
    /// lines, or where it only may be a form, words.
    pub(super) fn parts<'a>(&self, text: Cow<'a, str>, is_form: bool) -> Cow<'a, str> {
        let Some(line) = text
            .lines()
            .next()
            .filter(|line| line.len() > 2 && line.starts_with("--"))
        else {
            return text;
        };
        let between = format!("\n{line}");
        let parts = text.split(between.as_str()).map(|part| {
            let masked = self.part(part, is_form);
            masked.unwrap_or_else(|| part.to_owned())
        });
        Cow::Owned(parts.collect::<Vec<_>>().join(&between))
    }

    /// One part, from the end of its boundary on, if it is a credential.
    fn part(&self, part: &str, is_form: bool) -> Option<String> {
        let (at, blank) = ["\r\n\r\n", "\n\n"]
            .into_iter()
            .filter_map(|blank| Some((part.find(blank)?, blank)))
            .min()?;
        let (head, content) = part.split_at(at + blank.len());
        // The name as all readers take it: what stands in another field of the head, or in a file's name, hides nothing.
        let (_, fields) = head.trim_end().split_once('\n')?;
        let fields = fields.replace("\r\n", "\n").replace('\n', "\r\n");
        let name = form::name_of(fields.as_bytes()).ok()?;
        let value = content.strip_suffix('\r').unwrap_or(content);
        let is_whole = match is_form {
            true => !value.contains(['\r', '\n']),
            false => PLAIN.is_match(value),
        };
        let end = content.get(value.len()..).unwrap_or_default();
        (is_whole && self.0.parameter.is_match(&name)).then(|| format!("{head}{}{end}", shown(value)))
    }

    /// Members within the strings of a JSON text: each to its end where the string is JSON itself, else as in any text.
    pub(super) fn strings<'a>(&self, text: Cow<'a, str>) -> Cow<'a, str> {
        let masked = STRING.replace_all(&text, |found: &Captures<'_>| {
            let literal = found.get(0).map_or("", |literal| literal.as_str());
            let is_own = |inner: String| is_json(&inner);
            let pattern = match serde_json::from_str(literal).is_ok_and(is_own) {
                true => &self.0.members[1],
                false => &self.0.quoted[1],
            };
            replace(pattern, Cow::Borrowed(literal)).into_owned()
        });
        match masked {
            Cow::Borrowed(_) => text,
            Cow::Owned(masked) => Cow::Owned(masked),
        }
    }

    pub(super) fn secret_object(&self, body: &str) -> String {
        match json::parse(body) {
            Ok(document) => {
                let mut value = document.root().to_value();
                self.json(&mut value);
                value.to_string()
            }
            // A key that stands twice is something to be seen.
            Err(Blind::Ambiguous) => body.to_owned(),
            Err(_) => secret_yaml(body),
        }
    }
}

/// Whether whatever a line opens it closes: brackets and quotes, with what may be a comment and without it.
fn is_settled(line: &str) -> bool {
    let line = line.trim_end();
    let (mut open, mut quote, mut before) = (Vec::new(), None, ' ');
    let mut chars = line.chars();
    while let Some(char) = chars.next() {
        match (quote, char) {
            (Some('"'), '\\') => _ = chars.next(),
            (Some(own), _) if own == char => quote = None,
            (Some(_), _) => {}
            // Within a word it is an apostrophe.
            (None, '"' | '\'') if !before.is_alphanumeric() => quote = Some(char),
            (None, '{') => open.push('}'),
            (None, '[') => open.push(']'),
            (None, '(') => open.push(')'),
            (None, '}' | ']' | ')') if open.pop() != Some(char) => return false,
            (None, '#') if !open.is_empty() => return false,
            (None, _) => {}
        }
        before = char;
    }
    open.is_empty() && quote.is_none() && !line.ends_with([',', '\\'])
}

/// YAML of Secrets: the values under `data` and `stringData` of each document that is one. Where a text in quotes or
/// brackets may be what says so, values of plain characters alone.
fn secret_yaml(body: &str) -> String {
    let indent = |line: &str| line.len() - line.trim_start_matches(' ').len();
    let mut out = Vec::new();
    for document in body.split_inclusive("\n---") {
        let is_secret = SECRET.is_match(document);
        let is_sure = document.matches("kind").count() == 1
            && document.lines().all(is_settled)
            && !document.contains(['?', '&', '!']);
        let hidden = |value: &str| is_sure || PLAIN.is_match(value);
        let mut within: Option<usize> = None;
        for line in document.split_inclusive('\n') {
            let text = line.trim();
            within = within.filter(|start| text.is_empty() || indent(line) > *start);
            let end = line.get(line.trim_end().len()..).unwrap_or_default();
            match (within, line.split_once(':')) {
                (Some(_), _) if text.is_empty() => out.push(line.to_owned()),
                (Some(_), Some((name, value))) if hidden(value.trim()) => {
                    out.push(format!("{name}: {MASKED}{end}"));
                }
                (Some(start), None) if hidden(text) => {
                    out.push(format!("{}{MASKED}{end}", " ".repeat(start + 1)));
                }
                _ => out.push(line.to_owned()),
            }
            if within.is_none() && is_secret && matches!(text, "data:" | "stringData:") {
                within = Some(indent(line));
            }
        }
    }
    out.concat()
}
