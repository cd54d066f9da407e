//! Credentials in SQL: only what stands in a literal is masked. *Pure.*
//!
//! A pattern over the whole text could begin in a comment and end behind a condition, which the
//! approver would then not see. So a text is cut as the server's lexer does. A literal is masked if
//! it is a role's password, or is all connection string, URL or key; code in one (DO, a function's
//! body) is looked at in the same way.

use std::borrow::Cow;
use std::sync::LazyLock;

use regex::Regex;
use serde_json::Value;

use super::{ENDS, Mask, PEM, USERINFO, fixed, replace, shown};

/// Literals of code within literals of code that are looked at; deeper ones are shown as they are.
pub(super) const DEPTH_MAX: usize = 4;

/// Statements in which a password may stand: of roles, and of servers for foreign tables.
static ROLE: LazyLock<Regex> = LazyLock::new(|| {
    fixed(r"(?i)(?-u:\b)(?:create|alter)\s+(?:role|user|group|server|foreign|subscription)(?-u:\b)")
});
/// The first word of one, at the end of a piece: a comment may stand behind it.
static MAKES: LazyLock<Regex> = LazyLock::new(|| fixed(r"(?i)(?-u:\b)(?:create|alter)\s*$"));
/// A literal that is a connection string and nothing else (libpq's `key=value`).
static PAIRS: LazyLock<Regex> =
    LazyLock::new(|| fixed(r"(?i)^\s*(?:[a-z_]+\s*=\s*(?:'[^']*'|[^\s']+)(?:\s+|$))+$"));
static CONNINFO: LazyLock<Regex> =
    LazyLock::new(|| fixed(&format!(r"(?i)(?-u:\b)(password\s*=\s*)('[^']*'|[^{ENDS}]+)")));
/// The same where it may be none, and its value what runs: of characters that no statement can be made of.
static LIKE_CONNINFO: LazyLock<Regex> = LazyLock::new(|| {
    fixed(&format!(
        r"(?i)(?-u:\b)(password\s*=\s*)('[^*{ENDS}]*'|[^*{ENDS}]+)"
    ))
});
static URL: LazyLock<Regex> = LazyLock::new(|| fixed(r"(?i)^\s*[a-z][a-z0-9+.-]*://\S*\s*$"));

/// A piece of a text.
enum Piece<'a> {
    /// Words, operators, quoted names.
    Code(&'a str),
    Comment(&'a str),
    Literal(Literal<'a>),
}

struct Literal<'a> {
    whole: &'a str,
    /// What is between its quotes.
    content: &'a str,
    /// In plain quotes, where `''` is one quote.
    doubled: bool,
}

impl Mask {
    /// A SQL statement: the passwords of roles and of connection strings. Other literals are the
    /// action itself, which an approver must see.
    pub fn sql<'a>(&self, text: &'a str) -> Cow<'a, str> {
        if !self.may_hide(text) {
            return Cow::Borrowed(text);
        }
        Cow::Owned(code(text, DEPTH_MAX))
    }

    /// SQL facts, or any JSON whose texts are SQL.
    pub fn sql_json(&self, value: &mut Value) {
        each_text(value, &|text| code(text, DEPTH_MAX), &self.0.any);
    }

    /// Bound parameters: each is what would stand in a literal.
    pub fn parameters_json(&self, value: &mut Value) {
        each_text(
            value,
            &|text| literal(text, DEPTH_MAX, &LIKE_CONNINFO),
            &self.0.any,
        );
    }
}

fn each_text(value: &mut Value, masked: &dyn Fn(&str) -> String, any: &Regex) {
    match value {
        Value::String(text) if any.is_match(text) => *text = masked(text),
        Value::Array(values) => values.iter_mut().for_each(|value| each_text(value, masked, any)),
        Value::Object(members) => members
            .values_mut()
            .for_each(|value| each_text(value, masked, any)),
        _ => {}
    }
}

/// A text of SQL with its credentials masked.
fn code(text: &str, depth: usize) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    // Whether the last word is PASSWORD, with nothing but blanks, comments and literals since, where a role is made.
    let mut password = false;
    let (mut is_role, mut before) = (false, "");
    let mut pairs = &*LIKE_CONNINFO;
    while let Some((piece, after)) = next(rest) {
        rest = after;
        match piece {
            Piece::Comment(comment) => out.push_str(comment),
            Piece::Code(code) => {
                out.push_str(code);
                let statement = match code.rsplit_once(';') {
                    Some((_, own)) => {
                        is_role = false;
                        own.to_owned()
                    }
                    None => format!("{before}{code}"),
                };
                is_role |= ROLE.is_match(&statement);
                before = if MAKES.is_match(&statement) { "alter " } else { "" };
                let end = code.trim_end();
                if !end.is_empty() {
                    let word = last_word(end.trim_end_matches(['(', ' '])).to_ascii_lowercase();
                    // `dblink('…')` and its like, `CREATE SUBSCRIPTION … CONNECTION '…'`.
                    pairs = match word.starts_with("dblink") || word == "connection" {
                        true => &*CONNINFO,
                        false => &*LIKE_CONNINFO,
                    };
                    password = last_word(end).eq_ignore_ascii_case("password") && is_role;
                }
            }
            Piece::Literal(own) => {
                before = "";
                match password {
                    true => out.push_str(&shown(own.whole)),
                    false => out.push_str(&quoted(&own, depth, pairs)),
                }
            }
        }
    }
    out
}

fn quoted(own: &Literal<'_>, depth: usize, pairs: &Regex) -> String {
    let masked = match own.doubled {
        true => literal(&own.content.replace("''", "'"), depth, pairs).replace('\'', "''"),
        false => literal(own.content, depth, pairs),
    };
    own.whole
        .replacen(own.content, &masked, usize::from(!own.content.is_empty()))
}

/// What is in a literal; `pairs` are what is masked where it is a connection string.
fn literal(content: &str, depth: usize, pairs: &Regex) -> String {
    let pattern = if PAIRS.is_match(content) {
        pairs
    } else if URL.is_match(content) {
        &*USERINFO
    } else if content.trim_start().starts_with("-----BEGIN") {
        &*PEM
    } else if depth > 0 {
        return code(content, depth - 1);
    } else {
        return content.to_owned();
    };
    replace(pattern, Cow::Borrowed(content)).into_owned()
}

fn is_of_word(char: char) -> bool {
    char.is_ascii_alphanumeric() || matches!(char, '_' | '$') || !char.is_ascii()
}

fn last_word(code: &str) -> &str {
    let start = code.trim_end_matches(is_of_word).len();
    code.get(start..).unwrap_or_default()
}

/// The first piece of a text, and what is behind it.
fn next(text: &str) -> Option<(Piece<'_>, &str)> {
    let bytes = text.as_bytes();
    if bytes.is_empty() {
        return None;
    }
    let mut at = 0;
    while let Some(rest) = text.get(at..).filter(|rest| !rest.is_empty()) {
        let before = text.get(..at).unwrap_or_default();
        let found = if rest.starts_with("--") || rest.starts_with("/*") {
            Some((at, comment(rest)))
        } else if rest.starts_with('\'') {
            Some((at - prefix(before).len(), 0))
        } else if dollar(before, rest).is_some() {
            Some((at, 0))
        } else {
            None
        };
        match found {
            None if rest.starts_with('"') => at += closed(rest, 1, "\"\"", "\"", false),
            None => at += rest.chars().next().map_or(1, char::len_utf8),
            Some((start, _)) if start > 0 => {
                let (code, rest) = text.split_at_checked(start)?;
                return Some((Piece::Code(code), rest));
            }
            Some((_, 0)) => return Some(first_literal(text, at)),
            Some((_, end)) => {
                let (comment, rest) = text.split_at_checked(end)?;
                return Some((Piece::Comment(comment), rest));
            }
        }
    }
    Some((Piece::Code(text), ""))
}

/// The literal that a text begins with; its quote is at `quote`.
fn first_literal(text: &str, quote: usize) -> (Piece<'_>, &str) {
    let rest = text.get(quote..).unwrap_or_default();
    let (open, end, close) = match dollar("", rest) {
        Some(tag) => {
            let from = rest.get(tag.len()..).and_then(|rest| rest.find(tag));
            let end = from.map_or(rest.len(), |from| from + 2 * tag.len());
            (tag.len(), end, if from.is_some() { tag.len() } else { 0 })
        }
        None => {
            let escapes = text
                .get(..quote)
                .is_some_and(|prefix| prefix.eq_ignore_ascii_case("e"));
            let end = closed(rest, 1, "''", "'", escapes);
            (1, end, usize::from(is_closed(rest, end, escapes)))
        }
    };
    let whole = text.get(..quote + end).unwrap_or(text);
    let content = text.get(quote + open..quote + end - close).unwrap_or_default();
    let own = Literal {
        whole,
        content,
        doubled: open == 1 && quote == 0,
    };
    (Piece::Literal(own), text.get(whole.len()..).unwrap_or_default())
}

/// Whether the quoted text of `end` bytes ends with its own quote rather than with the text.
fn is_closed(rest: &str, end: usize, escapes: bool) -> bool {
    let without = rest.get(..end - 1).unwrap_or_default();
    end > 1
        && rest.as_bytes().get(end - 1) == Some(&b'\'')
        && closed(without, 1, "''", "'", escapes) == end - 1
}

/// Bytes up to behind the closing `quote`, from `at` on; all of them where there is none.
fn closed(text: &str, mut at: usize, twice: &str, quote: &str, escapes: bool) -> usize {
    while let Some(rest) = text.get(at..).filter(|rest| !rest.is_empty()) {
        if escapes && rest.starts_with('\\') {
            at += 1;
            at += text
                .get(at..)
                .and_then(|rest| rest.chars().next())
                .map_or(0, char::len_utf8);
        } else if rest.starts_with(twice) {
            at += 2;
        } else if rest.starts_with(quote) {
            return at + 1;
        } else {
            at += rest.chars().next().map_or(1, char::len_utf8);
        }
    }
    text.len()
}

/// Bytes of the comment that a text begins with.
fn comment(text: &str) -> usize {
    if text.starts_with("--") {
        return text.find(['\n', '\r']).unwrap_or(text.len());
    }
    let (mut depth, mut at) = (0_usize, 0);
    while let Some(rest) = text.get(at..).filter(|rest| !rest.is_empty()) {
        if rest.starts_with("/*") {
            (depth, at) = (depth + 1, at + 2);
        } else if rest.starts_with("*/") {
            (depth, at) = (depth - 1, at + 2);
            if depth == 0 {
                return at;
            }
        } else {
            at += rest.chars().next().map_or(1, char::len_utf8);
        }
    }
    text.len()
}

/// `E`, `U&` and their like right before a quote, if they are no word's end.
fn prefix(before: &str) -> &str {
    for length in [2, 1] {
        let Some((front, prefix)) = before
            .len()
            .checked_sub(length)
            .and_then(|at| before.split_at_checked(at))
        else {
            continue;
        };
        let is_prefix = match length {
            2 => prefix.eq_ignore_ascii_case("u&"),
            _ => matches!(prefix, "e" | "E" | "n" | "N" | "b" | "B" | "x" | "X"),
        };
        if is_prefix && !front.ends_with(is_of_word) {
            return prefix;
        }
    }
    ""
}

/// The `$tag$` that a text begins with, if it opens a literal there.
fn dollar<'a>(before: &str, rest: &'a str) -> Option<&'a str> {
    let inner = rest.strip_prefix('$').filter(|_| !before.ends_with(is_of_word))?;
    let end = inner.find('$')?;
    let tag = inner.get(..end)?;
    let fits = tag.chars().all(|char| is_of_word(char) && char != '$')
        && !tag.starts_with(|char: char| char.is_ascii_digit());
    fits.then(|| rest.get(..end + 2))?
}
