//! What of an action is shown to people and kept in records: its credentials masked. *Pure.*
//!
//! An agent may hold credentials of its own and send them. They are none of the audit log's
//! business, and an approver needs to see that one is there, not what it is. A value that stands
//! where a credential stands by its place or its name (a header, a cookie, a query parameter, a
//! member of a body, the password of a role, a URL's userinfo, a Kubernetes Secret) is replaced
//! by [`MASKED`]. Placeholders stay: they are what an approver wants to see.
//!
//! Names are matched generously: too much masked costs a look elsewhere, too little a leak. Real
//! secrets that stand anywhere else are found by their value ([`crate::credential::KnownSecrets`]).
//! The digest is over the bytes as they are, so masking changes nothing of what is approved.

use std::borrow::Cow;
use std::sync::{Arc, LazyLock};

use regex::{Captures, Regex};
use serde_json::Value;

/// What stands in the place of a credential.
pub const MASKED: &str = "(masked)";

/// What stands in the place of a Kubernetes Secret that cannot be read member by member.
const MASKED_SECRET: &str = "(a Secret, masked)";

/// The ends of names whose values are credentials, wherever they are text.
const NAME: &str = "(?:password|passwd|passphrase|pwd|secret|token|jwt|api[_-]?key|private[_-]?key|\
    access[_-]?key|secret[_-]?key|signing[_-]?key|credentials?|authorization|signature|session[_-]?id)";
/// Whole names that mean a credential in a query or a form, and something harmless elsewhere.
const PARAMETER: &str = "key|sig|sid|session|auth|pass";
/// Headers whose names do not end in [`NAME`].
const HEADERS: &[&str] = &["cookie", "set-cookie", "x-auth", "x-amz-content-sha256"];
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
    /// A part of a form in several parts (RFC 7578).
    part: Regex,
    /// `name: value` on a line of its own, as YAML and as headers.
    line: Regex,
}

static PLAIN: LazyLock<Mask> = LazyLock::new(|| Mask(Arc::new(Patterns::new(&[], &[]))));
static BEARER: LazyLock<Regex> =
    LazyLock::new(|| fixed(r"(?i)(?-u:\b)((?:bearer|basic)(?: |\+|%20))([A-Za-z0-9._~+/=%-]{8,})"));
static PROTOCOL: LazyLock<Regex> =
    LazyLock::new(|| fixed(r"(base64url\.bearer\.authorization\.k8s\.io\.)([A-Za-z0-9_=-]+)"));
static USERINFO: LazyLock<Regex> = LazyLock::new(|| fixed(r#"(://[^/\s:@'"]*:)([^@\s/'"]+)@"#));
static PEM: LazyLock<Regex> =
    LazyLock::new(|| fixed(r"(?s)(-----BEGIN [A-Z ]*PRIVATE KEY-----)(.*?)(-----END|$)"));
static ROLE: LazyLock<Regex> = LazyLock::new(|| {
    fixed(r"(?is)(?-u:\b)(password\s*)((?:E|U&)?'(?:[^'\\]|''|\\.)*(?:'|$)|\$\w*\$.*?(?:\$\w*\$|$))")
});
static CONNINFO: LazyLock<Regex> = LazyLock::new(|| fixed(r"(?i)(?-u:\b)(password=)([^\s'&]+)"));
static SECRET: LazyLock<Regex> = LazyLock::new(|| fixed(r#"kind\\?"?\s*:\s*\\?"?Secret(?:List)?\b"#));

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

    /// A text that may be a request's head, a query, a form, JSON or YAML.
    pub fn text<'a>(&self, text: &'a str) -> Cow<'a, str> {
        if !self.0.any.is_match(text) {
            return Cow::Borrowed(text);
        }
        let mut out = Cow::Borrowed(text);
        if SECRET.is_match(text) {
            let (head, body) = match text.split_once("\n\n") {
                Some((head, body)) => (format!("{head}\n\n"), body),
                None => (String::new(), text),
            };
            out = Cow::Owned(head + &self.secret_object(body));
        }
        let patterns = &*self.0;
        for pattern in patterns
            .members
            .iter()
            .chain([&patterns.line, &patterns.form, &patterns.part])
        {
            out = replace(pattern, out);
        }
        for pattern in [&*BEARER, &PROTOCOL, &USERINFO, &PEM] {
            out = replace(pattern, out);
        }
        out
    }

    /// A SQL statement: the passwords of roles and of connection strings. Other literals are the
    /// action itself, which an approver must see.
    pub fn sql<'a>(&self, text: &'a str) -> Cow<'a, str> {
        if !self.0.any.is_match(text) {
            return Cow::Borrowed(text);
        }
        let mut out = Cow::Borrowed(text);
        for pattern in [&*ROLE, &CONNINFO, &USERINFO, &PEM] {
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

    /// SQL facts, or any JSON whose texts are SQL.
    pub fn sql_json(&self, value: &mut Value) {
        match value {
            Value::String(text) => {
                if let Cow::Owned(masked) = self.sql(text) {
                    *text = masked;
                }
            }
            Value::Array(values) => values.iter_mut().for_each(|value| self.sql_json(value)),
            Value::Object(members) => members.values_mut().for_each(|value| self.sql_json(value)),
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }

    fn secret_object(&self, body: &str) -> String {
        match serde_json::from_str(body) {
            Ok(mut value) => {
                self.json(&mut value);
                value.to_string()
            }
            Err(_) => MASKED_SECRET.to_owned(),
        }
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
        let value = r"(?:[^\x22\\]|\\.)*";
        let within = r"(?:[^\x22\\]|\\\\(?:\\\x22|[^\x22]))*";
        let quoted = format!("(?:{name}{parameters})");
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
                r"(?i)((?:^|[?&;\s])(?:{name}|{PARAMETER}{parameters})=)([^&\s\x22'<>]+)"
            )),
            members: [
                fixed(&format!(r"(?is)(\x22{quoted}\x22\s*:\s*\x22)({value})(\x22|$)")),
                fixed(&format!(
                    r"(?is)(\\\x22{quoted}\\\x22\s*:\s*\\\x22)({within})(\\\x22|$)"
                )),
            ],
            part: fixed(&format!(
                r"(?is)(\bname=\x22(?:{name}|{PARAMETER}{parameters})\x22[^\r\n]*\r?\n(?:[^\r\n]+\r?\n)*\r?\n)(.*?)(\r?\n--|$)"
            )),
            line: fixed(&format!(
                r"(?im)(^[ \t-]*(?:{name}{headers})[ \t]*:[ \t]+)([^\s\x22{{\[|>].*)$"
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
    if trimmed.is_empty() || trimmed == MASKED || is_placeholder(trimmed) {
        return value.to_owned();
    }
    match trimmed.split_once(' ') {
        Some((scheme, rest)) if SCHEMES.contains(&scheme.to_ascii_lowercase().as_str()) => {
            format!("{scheme} {}", shown(rest))
        }
        _ => MASKED.to_owned(),
    }
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
fn mask_all(value: &mut Value) {
    match value {
        Value::String(text) => *text = shown(text),
        Value::Array(values) => values.iter_mut().for_each(mask_all),
        Value::Object(members) => members.values_mut().for_each(mask_all),
        Value::Null => {}
        Value::Bool(_) | Value::Number(_) => *value = Value::from(MASKED),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, want: &str) {
        let mask = Mask::new(&["x-mine"], &["pin"]);
        let once = mask.text(text).into_owned();
        assert_eq!(once, want);
        assert_eq!(mask.text(&once), want, "masked twice");
    }

    #[test]
    fn texts() {
        for plain in [
            "GET /repos/x?page=2&sort=key",
            r#"{"title":"a token of thanks","key":"node","max_tokens":5}"#,
            "monkey=1",
            "https://api.test/a:b@c",
        ] {
            check(plain, plain);
        }
        check("GET /x?token=abc&page=2", "GET /x?token=(masked)&page=2");
        check("GET /x?pin=1234", "GET /x?pin=(masked)");
        check("a=1&api_key=xyz&key=k", "a=1&api_key=(masked)&key=(masked)");
        check("X-Amz-Signature=0f&b=1", "X-Amz-Signature=(masked)&b=1");
        check("token={{pat}}&a=1", "token={{pat}}&a=1");
        check(r#"{"password":"a\"b","a":1}"#, r#"{"password":"(masked)","a":1}"#);
        check(r#"{"accessToken" : "abc"#, r#"{"accessToken" : "(masked)"#);
        check(
            r#"{"inner":"{\"client_secret\":\"a\\\"b\",\"a\":1}"}"#,
            r#"{"inner":"{\"client_secret\":\"(masked)\",\"a\":1}"}"#,
        );
        check(
            "--b\r\nContent-Disposition: form-data; name=\"password\"\r\n\r\nhunter2\r\n--b\r\n\
             Content-Disposition: form-data; name=\"a\"\r\n\r\nx\r\n--b--",
            "--b\r\nContent-Disposition: form-data; name=\"password\"\r\n\r\n(masked)\r\n--b\r\n\
             Content-Disposition: form-data; name=\"a\"\r\n\r\nx\r\n--b--",
        );
        check("a: 1\npassword: hunter2\nb: 2", "a: 1\npassword: (masked)\nb: 2");
        check("x-mine: abc\nb: 2", "x-mine: (masked)\nb: 2");
        check(
            "authorization: Bearer {{pat}}\nb: 2",
            "authorization: Bearer {{pat}}\nb: 2",
        );
        check(
            "run curl -H 'Authorization: Bearer abcdefgh1'",
            "run curl -H 'Authorization: Bearer (masked)'",
        );
        check("postgres://app:hunter2@db/x", "postgres://app:(masked)@db/x");
        check(
            "-----BEGIN EC PRIVATE KEY-----\nabc\n-----END EC PRIVATE KEY-----",
            "-----BEGIN EC PRIVATE KEY-----(masked)-----END EC PRIVATE KEY-----",
        );
    }

    #[test]
    fn headers() {
        let mask = Mask::new(&["x-mine"], &[]);
        for (name, value, want) in [
            ("authorization", "Bearer abc", "Bearer (masked)"),
            ("authorization", "Basic dXNlcjpwYXNz", "Basic (masked)"),
            ("authorization", "Bearer {{pat}}", "Bearer {{pat}}"),
            ("authorization", "Bearer {{pat}}real", "Bearer (masked)"),
            ("authorization", "abc", "(masked)"),
            ("proxy-authorization", "Basic eDp5", "Basic (masked)"),
            (
                "cookie",
                "a={{pat}}; sid=real; bare",
                "a={{pat}}; sid=(masked);(masked)",
            ),
            ("x-api-key", "abc", "(masked)"),
            ("api-key", "abc", "(masked)"),
            ("private-token", "abc", "(masked)"),
            ("x-vault-token", "abc", "(masked)"),
            ("x-mine", "abc", "(masked)"),
            ("x-my-secret-thing", "abc", "(masked)"),
            ("accept", "text/html", "text/html"),
            (
                "referer",
                "https://u:p@h/?token=abc",
                "https://u:(masked)@h/?token=(masked)",
            ),
            (
                "sec-websocket-protocol",
                "v4.channel.k8s.io, base64url.bearer.authorization.k8s.io.c2VjcmV0",
                "v4.channel.k8s.io, base64url.bearer.authorization.k8s.io.(masked)",
            ),
        ] {
            assert_eq!(mask.header(name, value), want, "{name}: {value}");
        }
    }

    #[test]
    fn statements() {
        let mask = Mask::default();
        for (text, want) in [
            (
                "SELECT token FROM t WHERE token='x'",
                "SELECT token FROM t WHERE token='x'",
            ),
            (
                "CREATE ROLE a PASSWORD 'it''s'",
                "CREATE ROLE a PASSWORD (masked)",
            ),
            (
                r"ALTER ROLE a ENCRYPTED password E'a\'b' LOGIN",
                "ALTER ROLE a ENCRYPTED password (masked) LOGIN",
            ),
            (
                "ALTER ROLE a PASSWORD $x$abc$x$",
                "ALTER ROLE a PASSWORD (masked)",
            ),
            ("ALTER ROLE a PASSWORD 'cut of", "ALTER ROLE a PASSWORD (masked)"),
            (
                "SELECT dblink('host=h password=abc user=u', 'x')",
                "SELECT dblink('host=h password=(masked) user=u', 'x')",
            ),
        ] {
            assert_eq!(mask.sql(text), want);
        }
    }

    #[test]
    fn kubernetes_secrets() {
        let mask = Mask::default();
        let mut secret = serde_json::json!({
            "items": [{"kind": "Secret", "metadata": {"name": "a"}, "data": {"x": "c2VjcmV0"},
                       "stringData": {"y": "s"}}],
            "spec": {"automountServiceAccountToken": true, "secretName": "a"},
        });
        mask.json(&mut secret);
        let text = secret.to_string();
        assert!(!text.contains("c2VjcmV0") && !text.contains("\"s\""), "{text}");
        assert!(
            text.contains("\"secretName\":\"a\"") && text.contains("true"),
            "{text}"
        );
        let json = "POST /s\nhost: k\n\n{\"kind\":\"Secret\",\"data\":{\"x\":\"c2VjcmV0\"}}";
        assert_eq!(
            mask.text(json),
            "POST /s\nhost: k\n\n{\"kind\":\"Secret\",\"data\":{\"x\":\"(masked)\"}}"
        );
        let yaml = "POST /s\n\nkind: Secret\ndata:\n  x: c2VjcmV0\n";
        assert_eq!(mask.text(yaml), "POST /s\n\n(a Secret, masked)");
    }
}
