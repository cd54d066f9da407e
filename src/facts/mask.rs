//! What of an action is shown to people and kept in records: its credentials masked. *Pure.*
//!
//! An agent may hold credentials of its own and send them. They are none of the audit log's
//! business, and an approver needs to see that one is there, not what it is. A value that stands
//! where a credential stands by its place or its name (a header, a cookie, a query parameter, a
//! member of a body, the password of a role, a URL's userinfo, a Kubernetes Secret) is replaced
//! by [`MASKED`]. Placeholders stay: they are what an approver wants to see.
//!
//! An approver must see all the rest: a mask ends where the value ends as its reader would see it, so
//! that no agent can hide what it does behind something that looks like a credential, and what is
//! long says so ([`LONG_BYTES`]). Where the form is known (a request's head, JSON, a form in parts:
//! [`request`]) a value ends as that form says. In any other text, which may be a script, a value in the place of
//! a credential is masked as far as it is of characters that no shell and no markup makes anything of.
//!
//! Names are matched generously: too much masked costs a look elsewhere, too little a leak. Real
//! secrets that stand anywhere else are found by their value ([`crate::credential::KnownSecrets`]).
//! The digest is over the bytes as they are, so masking changes nothing of what is approved.

mod request;
mod sql;

use std::borrow::Cow;
use std::sync::{Arc, LazyLock};

use regex::{Captures, Regex};
use serde_json::Value;

/// What stands in the place of a credential.
pub const MASKED: &str = "(masked)";

/// Bytes of a value above which its place says how many they were.
pub const LONG_BYTES: usize = 256;

/// The ends of names whose values are credentials, wherever they are text.
const NAME: &str = "(?:password|passwd|passphrase|pwd|secret|token|jwt|api[_-]?key|private[_-]?key|\
    access[_-]?key|secret[_-]?key|signing[_-]?key|credentials?|authorization|signature|session[_-]?id)";
/// Whole names that mean a credential in a query or a form, and something harmless elsewhere.
const PARAMETER: &str = "key|sig|sid|session|auth|pass";
/// Headers whose names do not end in [`NAME`].
const HEADERS: &[&str] = &["cookie", "set-cookie", "x-auth", "x-amz-content-sha256"];
/// What ends a value in a text whose form is not known, for a class of a regex: blanks, quotes, and what shells,
/// markup and code make something of.
const ENDS: &str = r"\s\x22'`;&|$(){}<>\[\]\\,#";
/// A credential that the gateway puts in, as a pattern.
const PLACEHOLDER: &str = r"\{\{[A-Za-z0-9_.-]+\}\}";
/// Authentication schemes that stay visible before what they carry.
const SCHEMES: &[&str] = &["basic", "bearer", "bot", "digest", "negotiate", "token"];

/// Replaces credentials by [`MASKED`]; cheap to clone.
#[derive(Clone, Debug)]
pub struct Mask(Arc<Patterns>);

#[derive(Debug)]
struct Patterns {
    /// Whether a text has anything that the others could match.
    any: Regex,
    /// A whole name of a header.
    header: Regex,
    /// A whole name of a query parameter or a form's field.
    parameter: Regex,
    /// A whole name of a member of a body.
    member: Regex,
    /// `name=value` of queries and forms.
    form: Regex,
    /// `"name": "value"`, as JSON and as JSON within a JSON string.
    members: [Regex; 2],
    /// The same in a text that is no JSON.
    quoted: [Regex; 2],
    /// `name: value` on a line of its own, as YAML and as headers.
    line: Regex,
}

static PLAIN: LazyLock<Mask> = LazyLock::new(|| Mask(Arc::new(Patterns::new(&[], &[]))));
/// Not what begins as a path or as an option does.
static BEARER: LazyLock<Regex> = LazyLock::new(|| {
    fixed(r"(?i)(?-u:\b)((?:bearer|basic)(?: |\+|%20))([A-Za-z0-9_+=%][A-Za-z0-9._~+/=%-]{7,})")
});
static PROTOCOL: LazyLock<Regex> =
    LazyLock::new(|| fixed(r"(base64url\.bearer\.authorization\.k8s\.io\.)([A-Za-z0-9_=-]+)"));
static USERINFO: LazyLock<Regex> = LazyLock::new(|| fixed(&format!(r"(://[^/\s:@'\x22]*:)([^@/{ENDS}]+)@")));
static PEM: LazyLock<Regex> = LazyLock::new(|| {
    fixed(
        r"(-----BEGIN [A-Z ]*PRIVATE KEY-----)((?:\s|\\[nr])*(?:[A-Za-z0-9+/=]{16,}(?:\s|\\[nr])*)+(?:[A-Za-z0-9+/=]{1,15}(?:\s|\\[nr])*)?)",
    )
});
static SECRET: LazyLock<Regex> = LazyLock::new(|| {
    fixed(r#"(?m)\x22kind\x22\s*:\s*\x22Secret(?:List)?\x22|^kind:\s*[\x22']?Secret(?-u:\b)"#)
});

impl Default for Mask {
    fn default() -> Self {
        PLAIN.clone()
    }
}

impl Mask {
    /// A mask that also knows these names of headers and of query parameters, which a
    /// configuration names as slots of its credentials.
    pub fn new(headers: &[&str], parameters: &[&str]) -> Mask {
        if headers.is_empty() && parameters.is_empty() {
            return Mask::default();
        }
        Mask(Arc::new(Patterns::new(headers, parameters)))
    }

    /// A header's value as it may be shown; `name` in lower case.
    pub fn header<'a>(&self, name: &str, value: &'a str) -> Cow<'a, str> {
        if name == "cookie" {
            let pairs = value.split(';').map(|pair| match pair.split_once('=') {
                Some((name, value)) => format!("{name}={}", shown(value)),
                None => MASKED.to_owned(),
            });
            return Cow::Owned(pairs.collect::<Vec<_>>().join(";"));
        }
        if HEADERS.contains(&name) || self.0.header.is_match(name) {
            return Cow::Owned(shown(value));
        }
        self.text(value)
    }

    /// A query parameter's decoded value as it may be shown.
    pub fn parameter<'a>(&self, name: &str, value: &'a str) -> Cow<'a, str> {
        if self.0.parameter.is_match(name) {
            return Cow::Owned(shown(value));
        }
        self.text(value)
    }

    /// Whether anything in a text may be masked. In JSON without an escape, where no string and no member's value is if not.
    pub(super) fn may_hide(&self, text: &str) -> bool {
        self.0.any.is_match(text)
    }

    /// A text that may be a query, a form, JSON, YAML, or anything else.
    pub fn text<'a>(&self, text: &'a str) -> Cow<'a, str> {
        if !self.may_hide(text) {
            return Cow::Borrowed(text);
        }
        let mut out = Cow::Borrowed(text);
        if SECRET.is_match(text) {
            out = Cow::Owned(self.secret_object(text));
        }
        let patterns = &*self.0;
        out = match request::is_json(&out) {
            true => self.strings(replace(&patterns.members[0], out)),
            false => patterns
                .quoted
                .iter()
                .fold(out, |out, pattern| replace(pattern, out)),
        };
        out = replace(&patterns.form, out);
        out = self.parts(self.lines(out), false);
        for pattern in [&*BEARER, &PROTOCOL, &USERINFO, &PEM] {
            out = replace(pattern, out);
        }
        out
    }

    /// JSON, whatever it means: members by their names, texts as [`Mask::text`].
    pub fn json(&self, value: &mut Value) {
        match value {
            Value::String(text) => {
                if let Cow::Owned(masked) = self.text(text) {
                    *text = masked;
                }
            }
            Value::Array(values) => values.iter_mut().for_each(|value| self.json(value)),
            Value::Object(members) => {
                let kind = members.get("kind").and_then(Value::as_str);
                let is_secret = matches!(kind, Some("Secret"));
                for (name, value) in members.iter_mut() {
                    let is_content = is_secret && matches!(name.as_str(), "data" | "stringData");
                    if is_content || value.is_string() && self.0.member.is_match(name) {
                        mask_all(value);
                    } else {
                        self.json(value);
                    }
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }

    /// Whether a member of this name is a credential where it is a text.
    pub(super) fn is_member(&self, name: &str) -> bool {
        self.0.member.is_match(name)
    }
}

impl Patterns {
    fn new(headers: &[&str], parameters: &[&str]) -> Patterns {
        let own = |names: &[&str]| {
            let names = names.iter().map(|name| format!("|{}", regex::escape(name)));
            names.collect::<String>()
        };
        let (headers, parameters) = (own(headers), own(parameters));
        let name = format!("[A-Za-z0-9_.-]*{NAME}");
        let value = r"(?:[^\x22\\\x00-\x1f]|\\.)*";
        // What a shell would run within double quotes is shown.
        let within = r"(?:[^\x22\\\x00-\x1f`$]|\$[^\x22\\\x00-\x1f`$({]|\\\\(?:\\\x22|[^\x22]))*";
        let quoted = format!("(?:{name}{parameters})");
        // A blank within quotes is a value's own.
        let plain = format!("(?:[^{ENDS}]| )");
        // On a line, a quote within a word and a comma, too; a value begins with none of what YAML makes something of.
        let rest = r"[^`;&|$(){}<>\[\]\\,\r\n]";
        let first = r"[^\s\x22>!#`;&|$(){}<\[\]\\,]";
        Patterns {
            any: fixed(&format!(
                "(?i){NAME}|(?:{PARAMETER}{parameters})[=\\x22]|(?-u:\\b)(?:{PARAMETER}{headers}):|bearer|basic|://|-----BEGIN|Secret"
            )),
            header: fixed(&format!(
                "(?i)^(?:{name}|[A-Za-z0-9_.-]*-key|.*secret.*{headers})$"
            )),
            parameter: fixed(&format!("(?i)^(?:{name}|{PARAMETER}{parameters})$")),
            member: fixed(&format!("(?i)^{quoted}$")),
            form: fixed(&format!(
                // What curl and its like read from a file is its name.
                r"(?i)((?:^|[?&;\s])(?:{name}|{PARAMETER}{parameters})=)([^@{ENDS}][^{ENDS}]*)"
            )),
            members: [
                fixed(&format!(r"(?i)(\x22{quoted}\x22\s*:\s*\x22)({value})(\x22|$)")),
                fixed(&format!(
                    r"(?i)(\\\x22{quoted}\\\x22\s*:\s*\\\x22)({within})(\\\x22|$)"
                )),
            ],
            quoted: [
                fixed(&format!(r"(?i)(\x22{quoted}\x22\s*:\s*\x22)({plain}*)(\x22|$)")),
                fixed(&format!(
                    r"(?i)(\\\x22{quoted}\\\x22\s*:\s*\\\x22)({plain}*)(\\\x22|$)"
                )),
            ],
            line: fixed(&format!(
                r"(?im)(^[ \t-]*(?:{name}{headers})[ \t]*:[ \t]+)((?:{first}|{PLACEHOLDER})(?:{rest}|{PLACEHOLDER})*)"
            )),
        }
    }
}

fn fixed(pattern: &str) -> Regex {
    Regex::new(pattern).expect("a pattern of constants and escaped names")
}

/// Masks the second group of each match, and keeps the others.
fn replace<'a>(pattern: &Regex, text: Cow<'a, str>) -> Cow<'a, str> {
    let masked = pattern.replace_all(&text, |found: &Captures<'_>| {
        let group = |index| found.get(index).map_or("", |group| group.as_str());
        let end = found.get(2).map_or(0, |group| group.end());
        let whole = found.get(0).map_or(0..0, |group| group.range());
        let rest = text.get(end..whole.end).unwrap_or_default();
        format!("{}{}{rest}", group(1), shown(group(2)))
    });
    match masked {
        Cow::Borrowed(_) => text,
        Cow::Owned(masked) => Cow::Owned(masked),
    }
}

/// A credential as it may be shown: whole if it is a placeholder, else masked, after its scheme.
fn shown(value: &str) -> String {
    let trimmed = value.trim();
    if trimmed.is_empty() || is_masked(trimmed) || is_placeholder(trimmed) {
        return value.to_owned();
    }
    match trimmed.split_once(' ') {
        Some((scheme, rest)) if SCHEMES.contains(&scheme.to_ascii_lowercase().as_str()) => {
            format!("{scheme} {}", shown(rest))
        }
        _ if value.len() > LONG_BYTES => format!("(masked: {} bytes)", value.len()),
        _ => MASKED.to_owned(),
    }
}

/// What [`shown`] writes: nothing else is left as it is.
fn is_masked(text: &str) -> bool {
    let count = text
        .strip_prefix("(masked: ")
        .and_then(|text| text.strip_suffix(" bytes)"));
    text == MASKED
        || count.is_some_and(|count| count.len() < 20 && count.bytes().all(|byte| byte.is_ascii_digit()))
}

/// `{{name}}`, with nothing round it.
fn is_placeholder(text: &str) -> bool {
    let name = text.strip_prefix("{{").and_then(|text| text.strip_suffix("}}"));
    name.is_some_and(|name| {
        (1..=64).contains(&name.len())
            && name
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte))
    })
}

/// Masks every text below, keeping the names.
pub(super) fn mask_all(value: &mut Value) {
    match value {
        Value::String(text) => *text = shown(text),
        Value::Array(values) => values.iter_mut().for_each(mask_all),
        Value::Object(members) => members.values_mut().for_each(mask_all),
        Value::Null => {}
        Value::Bool(_) | Value::Number(_) => *value = Value::from(MASKED),
    }
}

#[cfg(test)]
mod tests;
