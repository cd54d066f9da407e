//! Optional values: what may not be there, without an error (`a.?b`, `list[?0]`, `list.first()`). *Pure.*
//!
//! As cel-go has them: reading in one that is there gives one, reading in none gives none, and only `value()` fails.

use std::sync::Arc;

use super::eval::{Budget, Fault, Outcome};
use super::function::Function;
use super::manual::{Entry, global, member};
use super::value::{Value, equal, find};

/// What each function of optional values is, in one line.
pub(crate) const MANUAL: &[Entry] = &[
    global(
        "optional.of",
        "optional.of(value) -> optional",
        "The value, as one that is there.",
    ),
    global(
        "optional.ofNonZeroValue",
        "optional.ofNonZeroValue(value) -> optional",
        "The value, unless it is empty, zero, false or null.",
    ),
    global(
        "optional.none",
        "optional.none() -> optional",
        "What is not there.",
    ),
    member("hasValue", "optional.hasValue() -> bool", "Whether it is there."),
    member(
        "value",
        "optional.value() -> value",
        "The value; fails where it is not there.",
    ),
    member(
        "or",
        "optional.or(optional) -> optional",
        "It, or else the other.",
    ),
    member(
        "orValue",
        "optional.orValue(value) -> value",
        "Its value, or else this one.",
    ),
    member(
        "first",
        "list.first() -> optional",
        "The first item, if there is one.",
    ),
    member(
        "last",
        "list.last() -> optional",
        "The last item, if there is one.",
    ),
    global(
        "regex.extract",
        "regex.extract(string, pattern) -> optional",
        "The first match of a literal pattern, or its group, if there is one.",
    ),
];

pub(super) fn of(value: Option<Value<'_>>) -> Value<'_> {
    Value::Optional(value.map(Arc::new))
}

fn inner<'a>(value: &Option<Arc<Value<'a>>>) -> Option<Value<'a>> {
    value.as_deref().cloned()
}

pub(super) fn call<'a>(budget: &Budget, function: Function, args: &[Value<'a>]) -> Outcome<'a> {
    use Function as F;
    Ok(match (function, args) {
        (F::OptionalOf, [value]) => of(Some(value.clone())),
        (F::OptionalOfNonZero, [value]) => of(Some(value.clone()).filter(|value| !is_zero(value))),
        (F::OptionalNone, []) => of(None),
        (F::HasValue, [Value::Optional(own)]) => Value::Bool(own.is_some()),
        (F::OptionalValue, [Value::Optional(own)]) => {
            inner(own).ok_or_else(|| Fault::error("the optional value is not there"))?
        }
        (F::Or, [own @ Value::Optional(there), other @ Value::Optional(_)]) => match there {
            Some(_) => own.clone(),
            None => other.clone(),
        },
        (F::OrValue, [Value::Optional(own), other]) => inner(own).unwrap_or_else(|| other.clone()),
        (F::First, [list]) if list.is_list() => of(list.item(0)),
        (F::Last, [list]) if list.is_list() => {
            let last = list.len().and_then(|len| len.checked_sub(1));
            of(last.and_then(|last| list.item(last)))
        }
        (F::Index | F::OptSelect | F::OptIndex, [Value::Optional(own), key]) => match own {
            Some(of) => read(budget, of, key)?,
            None => of(None),
        },
        (F::OptSelect | F::OptIndex, [of, key]) => read(budget, of, key)?,
        (F::Some, [Value::Optional(own)]) => Value::List(Arc::new(inner(own).into_iter().collect())),
        (F::SomeEntry, [key, Value::Optional(own)]) => {
            let entry = inner(own).map(|value| (key.clone(), value));
            Value::Map(Arc::new(entry.into_iter().collect()))
        }
        (F::Merge, [a, b]) if a.is_map() && b.is_map() => merge(budget, a, b)?,
        _ => return Err(Fault::error(format!("no such overload: {}", function.name()))),
    })
}

/// What stands in a map at a key, or in a list at an index, if it is there.
pub(super) fn read<'a>(budget: &Budget, of: &Value<'a>, key: &Value<'a>) -> Outcome<'a> {
    budget.scan(of.len().unwrap_or(0).saturating_mul(8))?;
    let found = match (of, key) {
        (map, key) if map.is_map() => find(map, key)?,
        (list, Value::Int(index)) if list.is_list() => {
            usize::try_from(*index).ok().and_then(|index| list.item(index))
        }
        _ => {
            return Err(Fault::error(format!(
                "{} has no {} to read",
                of.type_name(),
                key.type_name()
            )));
        }
    };
    Ok(self::of(found))
}

/// Two maps as one; a key is in one of them.
fn merge<'a>(budget: &Budget, a: &Value<'a>, b: &Value<'a>) -> Outcome<'a> {
    let (count, more) = (a.len().unwrap_or(0), b.len().unwrap_or(0));
    budget.build(count.saturating_add(more).saturating_mul(32))?;
    budget.scan(count.saturating_mul(more).saturating_mul(16))?;
    let entries = |of: &Value<'a>| -> Result<Vec<(Value<'a>, Value<'a>)>, Fault> {
        // What a macro gathers is one of these, and copied as it is.
        if let Value::Map(entries) = of {
            return Ok(entries.to_vec());
        }
        let count = of.len().unwrap_or(0);
        budget.scan(count.saturating_mul(count).saturating_mul(16))?;
        let keys = (0..count).filter_map(|index| of.step(index));
        Ok(keys
            .filter_map(|key| Some((key.clone(), of.get(&key)?)))
            .collect())
    };
    let mut all = entries(a)?;
    for (key, value) in entries(b)? {
        if !matches!(
            key,
            Value::Bool(_) | Value::Int(_) | Value::Uint(_) | Value::Text(_)
        ) {
            return Err(Fault::error("unsupported key type"));
        }
        if all.iter().any(|(own, _)| equal(own, &key)) {
            return Err(Fault::error("repeated key"));
        }
        all.push((key, value));
    }
    Ok(Value::Map(Arc::new(all)))
}

/// Whether a value is what its type begins with.
fn is_zero(value: &Value<'_>) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(value) => !value,
        Value::Int(value) => *value == 0,
        Value::Uint(value) => *value == 0,
        Value::Double(value) => *value == 0.0,
        Value::Text(text) => text.is_empty(),
        Value::Bytes(bytes) => bytes.is_empty(),
        Value::Timestamp(time) => time.timestamp() == 0 && time.timestamp_subsec_nanos() == 0,
        Value::Duration(span) => span.is_zero(),
        Value::Optional(own) => own.is_none(),
        other => other.len() == Some(0),
    }
}
