//! Values of the evaluation: facts borrowed where they lie, and what is computed from them.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::net::IpAddr;
use std::sync::Arc;

use super::eval::Fault;
use crate::facts::json::{self, Json};
use crate::facts::{Slot, View};
use chrono::{DateTime, TimeDelta, Utc};
use ipnet::IpNet;

/// A CEL value.
#[derive(Clone, Debug)]
pub enum Value<'a> {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Double(f64),
    Text(Cow<'a, str>),
    Bytes(Cow<'a, [u8]>),
    List(Arc<Vec<Value<'a>>>),
    Map(Arc<Vec<(Value<'a>, Value<'a>)>>),
    /// A fact that is a list of texts.
    Texts(&'a [String]),
    /// Names of code that cannot be read; see [`View::Named`]. The slot is for the fault.
    Names(Slot, &'a [String]),
    /// One of them.
    Name(Slot, &'a str),
    /// A fact that maps texts to texts.
    Pairs(&'a [(String, String)]),
    /// A fact that maps texts to lists of texts.
    Multi(&'a [(String, Vec<String>)]),
    JsonList(json::List<'a>),
    JsonMap(json::Map<'a>),
    /// What may not be there; see `optional.rs`.
    Optional(Option<Arc<Value<'a>>>),
    Timestamp(DateTime<Utc>),
    Duration(TimeDelta),
    Ip(IpAddr),
    Net(IpNet),
    Type(&'static str),
}

impl<'a> Value<'a> {
    pub(crate) fn of_view(slot: Slot, view: View<'a>) -> Value<'a> {
        match view {
            View::Null => Value::Null,
            View::Bool(value) => Value::Bool(value),
            View::Int(value) => Value::Int(value),
            View::Text(value) => Value::Text(Cow::Borrowed(value)),
            View::Texts(values) => Value::Texts(values),
            View::Named(values) => Value::Names(slot, values),
            View::Json(document) => Value::of_json(document.root()),
            View::Map(pairs) => Value::Pairs(pairs),
            View::MultiMap(pairs) => Value::Multi(pairs),
        }
    }

    /// CEL compares numbers across their types, so a rule sees no difference.
    fn of_json(json: Json<'a>) -> Value<'a> {
        match json {
            Json::Null => Value::Null,
            Json::Bool(value) => Value::Bool(value),
            Json::Int(value) => Value::Int(value),
            Json::Uint(value) => Value::Uint(value),
            Json::Double(value) => Value::Double(value),
            Json::Text(text) => Value::Text(Cow::Borrowed(text)),
            Json::List(items) => Value::JsonList(items),
            Json::Map(map) => Value::JsonMap(map),
        }
    }

    pub(crate) fn text(text: impl Into<String>) -> Value<'a> {
        Value::Text(Cow::Owned(text.into()))
    }

    /// The same value, borrowed: a constant of the tree is read without a copy.
    pub(crate) fn borrow(&'a self) -> Value<'a> {
        match self {
            Value::Text(text) => Value::Text(Cow::Borrowed(text)),
            Value::Bytes(bytes) => Value::Bytes(Cow::Borrowed(bytes)),
            other => other.clone(),
        }
    }

    /// The name that `type()` gives.
    pub fn type_name(&self) -> &'static str {
        match self {
            Value::Null => "null_type",
            Value::Bool(_) => "bool",
            Value::Int(_) => "int",
            Value::Uint(_) => "uint",
            Value::Double(_) => "double",
            Value::Text(_) | Value::Name(..) => "string",
            Value::Bytes(_) => "bytes",
            Value::List(_) | Value::Texts(_) | Value::Names(..) | Value::JsonList(_) => "list",
            Value::Map(_) | Value::Pairs(_) | Value::Multi(_) | Value::JsonMap(_) => "map",
            Value::Optional(_) => "optional_type",
            Value::Timestamp(_) => "google.protobuf.Timestamp",
            Value::Duration(_) => "google.protobuf.Duration",
            Value::Ip(_) => "net.IP",
            Value::Net(_) => "net.CIDR",
            Value::Type(_) => "type",
        }
    }

    /// Items of a list, entries of a map; `None` for anything else.
    pub(crate) fn len(&self) -> Option<usize> {
        Some(match self {
            Value::List(items) => items.len(),
            Value::Texts(items) | Value::Names(_, items) => items.len(),
            Value::JsonList(items) => items.len(),
            Value::Map(entries) => entries.len(),
            Value::Pairs(entries) => entries.len(),
            Value::Multi(entries) => entries.len(),
            Value::JsonMap(entries) => entries.len(),
            _ => return None,
        })
    }

    pub(crate) fn is_list(&self) -> bool {
        matches!(self, Value::List(_) | Value::Texts(_) | Value::JsonList(_))
    }

    pub(crate) fn is_map(&self) -> bool {
        matches!(
            self,
            Value::Map(_) | Value::Pairs(_) | Value::Multi(_) | Value::JsonMap(_)
        )
    }

    /// Values that are compared with another such value at most: itself, and what lies in it however deep. A key of a map is
    /// looked for.
    pub(super) fn weight(&self) -> usize {
        let count = self.len().unwrap_or_default();
        let each: usize = match self {
            Value::Map(entries) => entries.iter().map(|(_, value)| value.weight()).sum(),
            Value::Pairs(_) => count,
            Value::Multi(entries) => entries.iter().map(|(_, values)| 1 + values.len()).sum(),
            Value::JsonMap(entries) => entries
                .iter()
                .map(|(_, value)| Value::of_json(value).weight())
                .sum(),
            list => (0..count)
                .filter_map(|index| list.item(index))
                .map(|item| item.weight())
                .sum(),
        };
        let searched = if self.is_map() {
            count.saturating_mul(count)
        } else {
            0
        };
        each.saturating_add(1 + searched)
    }

    /// The item of a list at `index`.
    pub(crate) fn item(&self, index: usize) -> Option<Value<'a>> {
        match self {
            Value::List(items) => items.get(index).cloned(),
            Value::Texts(items) => items.get(index).map(|text| Value::Text(Cow::Borrowed(text))),
            Value::Names(slot, items) => items.get(index).map(|name| Value::Name(*slot, name)),
            Value::JsonList(items) => items.get(index).map(Value::of_json),
            _ => None,
        }
    }

    /// What a comprehension walks: the item of a list, or the key of a map.
    pub(crate) fn step(&self, index: usize) -> Option<Value<'a>> {
        match self {
            Value::Map(entries) => entries.get(index).map(|(key, _)| key.clone()),
            Value::Pairs(entries) => entries.get(index).map(|(key, _)| Value::Text(Cow::Borrowed(key))),
            Value::Multi(entries) => entries.get(index).map(|(key, _)| Value::Text(Cow::Borrowed(key))),
            Value::JsonMap(entries) => entries.at(index).map(|(key, _)| Value::Text(Cow::Borrowed(key))),
            list => list.item(index),
        }
    }

    /// The entry of a map.
    pub(crate) fn get(&self, key: &Value<'_>) -> Option<Value<'a>> {
        match (self, key) {
            (Value::Map(entries), key) => entries
                .iter()
                .find(|(own, _)| equal(own, key))
                .map(|(_, value)| value.clone()),
            (Value::Pairs(entries), Value::Text(key)) => entries
                .iter()
                .find(|(own, _)| own == key)
                .map(|(_, value)| Value::Text(Cow::Borrowed(value))),
            (Value::Multi(entries), Value::Text(key)) => entries
                .iter()
                .find(|(own, _)| own == key)
                .map(|(_, values)| Value::Texts(values)),
            (Value::JsonMap(entries), Value::Text(key)) => entries.get(key).map(Value::of_json),
            _ => None,
        }
    }

    /// For people: short, and cut where it is long.
    pub fn show(&self) -> String {
        const SHOWN_CHARS_MAX: usize = 120;
        let text = match self {
            Value::Null => "null".to_owned(),
            Value::Bool(value) => value.to_string(),
            Value::Int(value) => value.to_string(),
            Value::Uint(value) => format!("{value}u"),
            Value::Double(value) => value.to_string(),
            Value::Text(text) => format!("'{text}'"),
            Value::Name(_, name) => format!("'{name}' and what it calls"),
            Value::Bytes(bytes) => format!("{} bytes", bytes.len()),
            Value::Timestamp(time) => time.to_rfc3339(),
            Value::Duration(span) => format!("{}s", span.num_seconds()),
            Value::Ip(ip) => ip.to_string(),
            Value::Net(net) => net.to_string(),
            Value::Type(name) => (*name).to_owned(),
            Value::Optional(None) => "none".to_owned(),
            Value::Optional(Some(value)) => format!("optional {}", value.show()),
            map if map.is_map() => format!("a map of {}", map.len().unwrap_or_default()),
            list => {
                let count = list.len().unwrap_or_default();
                let shown: Vec<String> = (0..count.min(12))
                    .filter_map(|index| list.item(index))
                    .map(|item| item.show())
                    .collect();
                let more = if count > 12 { ", …" } else { "" };
                format!("[{}{more}]", shown.join(", "))
            }
        };
        match text.char_indices().nth(SHOWN_CHARS_MAX) {
            Some((end, _)) => format!("{}…", &text[..end]),
            None => text,
        }
    }
}

/// CEL's `==`: across numeric types by value, across other types false.
pub(crate) fn equal(a: &Value<'_>, b: &Value<'_>) -> bool {
    match (a, b) {
        (Value::Null, Value::Null) => true,
        (Value::Bool(a), Value::Bool(b)) => a == b,
        (Value::Text(a), Value::Text(b)) => a == b,
        (Value::Bytes(a), Value::Bytes(b)) => a == b,
        (Value::Timestamp(a), Value::Timestamp(b)) => a == b,
        (Value::Duration(a), Value::Duration(b)) => a == b,
        (Value::Ip(a), Value::Ip(b)) => a == b,
        (Value::Net(a), Value::Net(b)) => a == b,
        (Value::Type(a), Value::Type(b)) => a == b,
        (Value::Optional(a), Value::Optional(b)) => match (a, b) {
            (Some(a), Some(b)) => equal(a, b),
            (a, b) => a.is_none() && b.is_none(),
        },
        (a, b) if a.is_list() && b.is_list() => {
            a.len() == b.len()
                && (0..a.len().unwrap_or_default()).all(|index| match (a.item(index), b.item(index)) {
                    (Some(a), Some(b)) => equal(&a, &b),
                    _ => false,
                })
        }
        (a, b) if a.is_map() && b.is_map() => {
            a.len() == b.len()
                && (0..a.len().unwrap_or_default()).all(|index| {
                    let Some(key) = a.step(index) else { return false };
                    match (a.get(&key), b.get(&key)) {
                        (Some(a), Some(b)) => equal(&a, &b),
                        _ => false,
                    }
                })
        }
        (a, b) => numbers(a, b) == Some(Ordering::Equal),
    }
}

/// The order of two numbers of any types; `None` for NaN and for anything that is no number.
pub(crate) fn numbers(a: &Value<'_>, b: &Value<'_>) -> Option<Ordering> {
    match (a, b) {
        (Value::Int(a), Value::Int(b)) => Some(a.cmp(b)),
        (Value::Uint(a), Value::Uint(b)) => Some(a.cmp(b)),
        (Value::Int(a), Value::Uint(b)) => Some(i128::from(*a).cmp(&i128::from(*b))),
        (Value::Uint(a), Value::Int(b)) => Some(i128::from(*a).cmp(&i128::from(*b))),
        (Value::Double(a), Value::Double(b)) => a.partial_cmp(b),
        (Value::Int(a), Value::Double(b)) => lossy(i128::from(*a), *b),
        (Value::Uint(a), Value::Double(b)) => lossy(i128::from(*a), *b),
        (Value::Double(a), Value::Int(b)) => lossy(i128::from(*b), *a).map(Ordering::reverse),
        (Value::Double(a), Value::Uint(b)) => lossy(i128::from(*b), *a).map(Ordering::reverse),
        _ => None,
    }
}

/// What stands in a map at a key, if it is there.
///
/// # Errors
/// It is not, and an agent's JSON has a key that differs in its letters' case alone: some readers (Go's, .NET's) take that
/// one, so that neither answer would be theirs.
pub(super) fn find<'a>(map: &Value<'a>, key: &Value<'a>) -> Result<Option<Value<'a>>, Fault> {
    let found = map.get(key);
    if let (None, Value::JsonMap(members), Value::Text(key)) = (&found, map, key)
        && members.iter().any(|(own, _)| is_same_folded(own, key))
    {
        return Err(Fault::error(format!("`{key}` stands there in another case")));
    }
    Ok(found)
}

fn is_same_folded(a: &str, b: &str) -> bool {
    match a.is_ascii() && b.is_ascii() {
        true => a.eq_ignore_ascii_case(b),
        false => json::folded(a) == json::folded(b),
    }
}

/// As cel-spec does: the integer as the nearest double.
#[allow(clippy::cast_precision_loss)]
fn lossy(a: i128, b: f64) -> Option<Ordering> {
    (a as f64).partial_cmp(&b)
}
