//! JSON that every reader reads alike (RFC 8259; I-JSON, RFC 7493, for the keys). *Pure.*

use std::cell::Cell;
use std::collections::HashSet;
use std::fmt;

use http::HeaderMap;
use http::header::CONTENT_TYPE;
use serde::de::{self, Deserialize, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::map::Entry;
use serde_json::{Map, Value};

use crate::facts::{Blind, Fact};

/// The message by which a duplicate key leaves serde's error.
const DUPLICATE: &str = "duplicate key";

/// Values of one text, each member's name beside it: a small text may say very many, and each takes a hundred times its
/// bytes.
pub const VALUES_MAX: usize = 1 << 18;

/// The message of a text with more.
const MANY: &str = "too many values";

/// The message of a number that readers round in different ways.
const LARGE: &str = "number over 64 bits";

/// A body as JSON. Null where there is none, or where it neither is JSON, says so, nor begins as an
/// object or a list does.
pub fn read(headers: &HeaderMap, body: &[u8]) -> Fact<Value> {
    let text = match super::body::text(headers, body) {
        Ok(text) => text.trim_ascii(),
        Err(blind) => return Fact::Unknown(blind),
    };
    if text.is_empty() {
        return Fact::Known(Value::Null);
    }
    match parse(text.as_bytes()) {
        Ok(value) => Fact::Known(value),
        Err(Blind::Unparseable) if !says_json(headers) && !text.starts_with(['{', '[']) => {
            Fact::Known(Value::Null)
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
pub fn parse(body: &[u8]) -> Result<Value, Blind> {
    let mut reader = serde_json::Deserializer::from_slice(body);
    let unique = Unique::deserialize(&mut reader);
    match unique.and_then(|value| reader.end().map(|()| value)) {
        Ok(value) => Ok(value.0),
        Err(error) if error.to_string().starts_with(DUPLICATE) || error.to_string().starts_with(LARGE) => {
            Err(Blind::Ambiguous)
        }
        Err(error) if error.to_string().starts_with(MANY) => Err(Blind::Truncated),
        Err(_) => Err(Blind::Unparseable),
    }
}

/// Whether no two keys are one to a reader that does not tell case apart, as Go's does.
fn differ_when_folded<'a>(mut keys: impl Iterator<Item = &'a String>) -> bool {
    let mut seen = HashSet::new();
    // Upper case first: the long s (U+017F) and the Kelvin sign (U+212A) meet s and k there.
    keys.all(|key| seen.insert(key.to_uppercase().to_lowercase()))
}

fn says_json(headers: &HeaderMap) -> bool {
    headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .is_some_and(|text| {
            let kind = text
                .split(';')
                .next()
                .unwrap_or_default()
                .trim()
                .to_ascii_lowercase();
            kind.ends_with("/json") || kind.ends_with("+json")
        })
}

/// A value whose objects have no key twice; serde_json's own keeps the last one silently.
struct Unique(Value);

impl<'de> Deserialize<'de> for Unique {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let left = Cell::new(VALUES_MAX);
        UniqueSeed(&left).deserialize(deserializer).map(Unique)
    }
}

/// With how many values may follow.
#[derive(Clone, Copy)]
struct UniqueSeed<'a>(&'a Cell<usize>);

impl<'de> DeserializeSeed<'de> for UniqueSeed<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        let left = self.0.get().checked_sub(1);
        self.0.set(left.ok_or_else(|| de::Error::custom(MANY))?);
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for UniqueSeed<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Value, E> {
        // An integer over 64 bits arrives here too, rounded.
        if value.abs() >= 9.0e18 {
            return Err(E::custom(LARGE));
        }
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut array = Vec::new();
        while let Some(item) = items.next_element_seed(self)? {
            array.push(item);
        }
        Ok(Value::Array(array))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        let mut folds = false;
        while let Some(key) = entries.next_key::<String>()? {
            folds |= key
                .bytes()
                .any(|byte| byte.is_ascii_uppercase() || !byte.is_ascii());
            match object.entry(key) {
                Entry::Vacant(place) => place.insert(entries.next_value_seed(self)?),
                Entry::Occupied(_) => return Err(de::Error::custom(DUPLICATE)),
            };
        }
        // Keys of small ASCII letters alone differ in every fold.
        if folds && !differ_when_folded(object.keys()) {
            return Err(de::Error::custom(DUPLICATE));
        }
        Ok(Value::Object(object))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn typed(kind: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, kind.parse().unwrap());
        headers
    }

    #[track_caller]
    fn check(kind: &str, body: &str, want: Fact<Value>) {
        assert_eq!(read(&typed(kind), body.as_bytes()), want, "{kind} {body}");
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
        check("text/plain", "/* */ {}", Fact::Known(Value::Null));
    }

    #[test]
    fn a_text_says_so_many_values() {
        let list = |count: usize| format!("[{}0]", "0,".repeat(count - 2));
        let known = read(&typed("application/json"), list(VALUES_MAX).as_bytes());
        assert!(matches!(known, Fact::Known(Value::Array(values)) if values.len() == VALUES_MAX - 1));
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
