//! JSON that every reader reads alike (RFC 8259; I-JSON, RFC 7493, for the keys). *Pure.*

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::fmt;

use http::HeaderMap;
use http::header::CONTENT_TYPE;
use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

use crate::facts::json::{Builder, Document, Raw, TooLong, folded};
use crate::facts::{Blind, Fact};

/// The message by which a duplicate key leaves serde's error.
const DUPLICATE: &str = "duplicate key";

/// Values of one text, each member's name beside it: a small text may say very many, and each takes many times its
/// bytes.
pub const VALUES_MAX: usize = 1 << 18;

/// The message of a text with more.
const MANY: &str = "too many values";

/// The message of a number that readers round in different ways.
const LARGE: &str = "number over 64 bits";

/// A body as JSON. Null where there is none, or where it neither is JSON, says so, nor begins as an
/// object or a list does, also to a reader that takes comments and more for blanks.
pub fn read(headers: &HeaderMap, body: &[u8]) -> Fact<Document> {
    let text = match super::body::text(headers, body) {
        Ok(text) => text.trim_ascii(),
        Err(blind) => return Fact::Unknown(blind),
    };
    if text.is_empty() {
        return Fact::Known(Document::default());
    }
    match parse(text) {
        Ok(document) => Fact::Known(document),
        Err(Blind::Unparseable) if !says_json(headers) && !begins_json(text) => {
            Fact::Known(Document::default())
        }
        Err(blind) => Fact::Unknown(blind),
    }
}

/// One JSON text with unique keys.
///
/// # Errors
/// [`Blind::Truncated`] over [`VALUES_MAX`], [`Blind::Ambiguous`] for a duplicate key (also one of another case, since some readers take
/// `FORCE` for `force`) or an integer over 64 bits (whose last digits some
/// readers lose), [`Blind::Unparseable`] for what is no JSON.
pub fn parse(text: &str) -> Result<Document, Blind> {
    let reading = Reading {
        left: Cell::new(VALUES_MAX),
        builder: RefCell::new(Builder::of(text).map_err(|TooLong| Blind::Truncated)?),
    };
    let mut reader = serde_json::Deserializer::from_str(text);
    let root = Next(&reading).deserialize(&mut reader);
    match root.and_then(|root| reader.end().map(|()| root)) {
        Ok(root) => Ok(reading.builder.into_inner().finish(root)),
        Err(error) if error.to_string().starts_with(DUPLICATE) || error.to_string().starts_with(LARGE) => {
            Err(Blind::Ambiguous)
        }
        Err(error) if error.to_string().starts_with(MANY) => Err(Blind::Truncated),
        Err(_) => Err(Blind::Unparseable),
    }
}

/// Whether no two keys are one to a reader that does not tell case apart, as Go's does.
fn differ_when_folded<'a>(mut keys: impl Iterator<Item = &'a str>) -> bool {
    let mut seen = HashSet::new();
    keys.all(|key| seen.insert(folded(key)))
}

/// Whether a lenient reader may find an object or a list: Elasticsearch, Gson and Ruby take comments, Gson a guard against
/// scripts, others any blank of Unicode's.
fn begins_json(text: &str) -> bool {
    let text = text.trim_start_matches(|char: char| char.is_whitespace() || char.is_control());
    text.starts_with(['{', '[', '#']) || ["//", "/*", ")]}'"].iter().any(|front| text.starts_with(front))
}

fn says_json(headers: &HeaderMap) -> bool {
    headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .is_some_and(|text| {
            let kind = text.split(';').next().unwrap_or_default();
            kind.to_ascii_lowercase().contains("json")
        })
}

/// What a text was read as so far.
struct Reading<'t> {
    /// Values that may follow.
    left: Cell<usize>,
    builder: RefCell<Builder<'t>>,
}

impl Reading<'_> {
    fn string<E: de::Error>(&self, string: &str) -> Result<Raw, E> {
        self.builder.borrow_mut().string(string).map_err(too_long)
    }
}

fn too_long<E: de::Error>(_: TooLong) -> E {
    E::custom(MANY)
}

/// Reads the next value.
#[derive(Clone, Copy)]
struct Next<'r, 't>(&'r Reading<'t>);

/// Reads the name of the next member.
struct Name<'r, 't>(&'r Reading<'t>);

impl<'de> DeserializeSeed<'de> for Next<'_, '_> {
    type Value = Raw;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Raw, D::Error> {
        let left = self.0.left.get().checked_sub(1);
        self.0.left.set(left.ok_or_else(|| de::Error::custom(MANY))?);
        deserializer.deserialize_any(self)
    }
}

impl<'de> DeserializeSeed<'de> for Name<'_, '_> {
    type Value = Raw;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Raw, D::Error> {
        deserializer.deserialize_str(Next(self.0))
    }
}

impl<'de> Visitor<'de> for Next<'_, '_> {
    type Value = Raw;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Raw, E> {
        Ok(Raw::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Raw, E> {
        Ok(Raw::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Raw, E> {
        Ok(Raw::Int(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Raw, E> {
        Ok(i64::try_from(value).map_or(Raw::Uint(value), Raw::Int))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Raw, E> {
        // An integer over 64 bits arrives here too, rounded.
        if value.abs() >= 9.0e18 {
            return Err(E::custom(LARGE));
        }
        Ok(self.0.builder.borrow_mut().double(value))
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<Raw, E> {
        self.0.string(value)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Raw, A::Error> {
        let builder = &self.0.builder;
        let begun = builder.borrow().begin();
        while let Some(item) = items.next_element_seed(self)? {
            builder.borrow_mut().push(item);
        }
        builder.borrow_mut().end_list(begun).map_err(too_long)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Raw, A::Error> {
        let builder = &self.0.builder;
        let begun = builder.borrow().begin();
        while let Some(name) = entries.next_key_seed(Name(self.0))? {
            builder.borrow_mut().push(name);
            let value = entries.next_value_seed(self)?;
            builder.borrow_mut().push(value);
        }
        let mut builder = builder.borrow_mut();
        // Keys of small ASCII letters alone differ in every fold.
        let is_plain = |name: &str| {
            name.bytes()
                .all(|byte| byte.is_ascii() && !byte.is_ascii_uppercase())
        };
        let differ = builder.names(begun).all(is_plain) || differ_when_folded(builder.names(begun));
        match builder.end_map(begun).map_err(too_long)? {
            Some(map) if differ => Ok(map),
            _ => Err(de::Error::custom(DUPLICATE)),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::facts::json::Json;

    fn typed(kind: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, kind.parse().unwrap());
        headers
    }

    #[track_caller]
    fn check(kind: &str, body: &str, want: Fact<Value>) {
        let read = read(&typed(kind), body.as_bytes());
        assert_eq!(read.map(|read| read.root().to_value()), want, "{kind} {body}");
    }

    #[test]
    fn json_is_read_whatever_the_type_says() {
        check(
            "application/json",
            r#"{"a":[1,2.5,"x",null,true]}"#,
            Fact::Known(json!({"a":[1,2.5,"x",null,true]})),
        );
        check("text/plain", r#"{"a":1}"#, Fact::Known(json!({"a":1})));
        check("text/plain", "hello", Fact::Known(Value::Null));
        check("application/json", "", Fact::Known(Value::Null));
    }

    #[test]
    fn what_readers_read_differently_is_ambiguous() {
        for body in [
            r#"{"a":1,"a":2}"#,
            r#"{"x":{"a":1,"\u0061":2}}"#,
            r#"{"force":false,"FORCE":true}"#,
            "{\"kind\":1,\"\u{212a}ind\":2}",
            "{\"pass\":1,\"pa\u{17f}s\":2}",
            "\u{feff}{}",
            "[18446744073709551616]",
        ] {
            check("application/json", body, Fact::Unknown(Blind::Ambiguous));
            check("text/plain", body, Fact::Unknown(Blind::Ambiguous));
        }
    }

    #[test]
    fn what_looks_like_json_must_be_json() {
        check(
            "text/plain",
            r#"{"force":true,}"#,
            Fact::Unknown(Blind::Unparseable),
        );
        for body in ["/* */ {}", "// x\n{}", "# x\n[]", ")]}'\n{}", "\u{2003}{}"] {
            check("text/plain", body, Fact::Unknown(Blind::Unparseable));
        }
        check("application/x-ndjson", "1\n2", Fact::Unknown(Blind::Unparseable));
        for body in ["/path", "a {}", "-- {}", ")"] {
            check("text/plain", body, Fact::Known(Value::Null));
        }
    }

    #[test]
    fn a_text_says_so_many_values() {
        let list = |count: usize| format!("[{}0]", "0,".repeat(count - 2));
        let known = read(&typed("application/json"), list(VALUES_MAX).as_bytes());
        let known = known.known().map(Document::root);
        assert!(matches!(known, Some(Json::List(values)) if values.len() == VALUES_MAX - 1));
        let many = list(VALUES_MAX + 1);
        check("application/json", &many, Fact::Unknown(Blind::Truncated));
        check("text/plain", &many, Fact::Unknown(Blind::Truncated));
    }

    #[test]
    fn what_is_no_json_but_says_so_is_unparseable() {
        for body in ["{", r#"{"a":1} x"#, "{'a':1}", "[1,]", &"[".repeat(5000)] {
            check(
                "application/problem+json; charset=utf-8",
                body,
                Fact::Unknown(Blind::Unparseable),
            );
        }
    }
}
