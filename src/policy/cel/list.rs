//! The `lists` extension of cel-go; `first` and `last` stand in `optional.rs`. *Pure.*

use std::cmp::Ordering;
use std::sync::Arc;

use super::eval::{Budget, Fault, Outcome};
use super::function::Function;
use super::value::{Value, equal, numbers};

/// Levels that `flatten` goes down, at most: each is a level of recursion.
const FLATTEN_LEVELS_MAX: i64 = 64;

fn items<'a>(of: &Value<'a>) -> Option<Vec<Value<'a>>> {
    of.is_list().then(|| {
        (0..of.len().unwrap_or(0))
            .filter_map(|index| of.item(index))
            .collect()
    })
}

pub(crate) fn call<'a>(budget: &Budget, function: Function, args: &[Value<'a>]) -> Outcome<'a> {
    use Function as F;
    let none = || Fault::error(format!("no such overload: {}", function.name()));
    if let (F::Range, [Value::Int(count)]) = (function, args) {
        let count = usize::try_from(*count).map_err(|_| Fault::error("a range has no length below 0"))?;
        budget.build(count.saturating_mul(16))?;
        let count = i64::try_from(count).unwrap_or(0);
        return Ok(Value::List(Arc::new((0..count).map(Value::Int).collect())));
    }
    if let (F::Keys, [of]) = (function, args) {
        return keys(budget, of);
    }
    let own = args.first().and_then(items).ok_or_else(none)?;
    budget.build(own.len().saturating_mul(16))?;
    let list = match (function, args) {
        (F::Distinct, [_]) => {
            let all = own.iter().map(Value::weight).fold(0, usize::saturating_add);
            budget.scan(own.len().saturating_mul(all).saturating_mul(16))?;
            let mut kept: Vec<Value<'a>> = Vec::new();
            for item in own {
                if !kept.iter().any(|other| equal(other, &item)) {
                    kept.push(item);
                }
            }
            kept
        }
        (F::Slice, [_, Value::Int(from), Value::Int(to)]) => {
            let index = |index: &i64| usize::try_from(*index).ok();
            let range = index(from).zip(index(to)).filter(|(from, to)| from <= to);
            let part = range.and_then(|(from, to)| own.get(from..to));
            part.ok_or_else(|| Fault::error("index out of bounds"))?.to_vec()
        }
        (F::Flatten, [_]) => flatten(budget, own, 1)?,
        (F::FlattenTo, [_, Value::Int(levels)]) if (0..=FLATTEN_LEVELS_MAX).contains(levels) => {
            flatten(budget, own, *levels)?
        }
        (F::SortBy, [_, keys]) => {
            let keys = items(keys)
                .filter(|keys| keys.len() == own.len())
                .ok_or_else(none)?;
            sort_by(keys, own).ok_or_else(|| Fault::error("these cannot be sorted"))?
        }
        (F::Sort, [_]) => sort(own).ok_or_else(|| Fault::error("these cannot be sorted"))?,
        _ => return Err(none()),
    };
    Ok(Value::List(Arc::new(list)))
}

fn flatten<'a>(budget: &Budget, own: Vec<Value<'a>>, levels: i64) -> Result<Vec<Value<'a>>, Fault> {
    let mut all = Vec::new();
    for item in own {
        match (items(&item), levels) {
            (Some(inner), 1..) => all.extend(flatten(budget, inner, levels - 1)?),
            _ => all.push(item),
        }
        budget.build(all.len().saturating_mul(16))?;
    }
    Ok(all)
}

/// The keys of a map, or the indices of a list.
fn keys<'a>(budget: &Budget, of: &Value<'a>) -> Outcome<'a> {
    let count = of
        .len()
        .filter(|_| !matches!(of, Value::Text(_) | Value::Bytes(_)))
        .ok_or_else(|| Fault::error(format!("{} cannot be walked", of.type_name())))?;
    budget.build(count.saturating_mul(16))?;
    let keys = match of.is_list() {
        true => (0..count)
            .filter_map(|index| i64::try_from(index).ok())
            .map(Value::Int)
            .collect(),
        false => (0..count).filter_map(|index| of.step(index)).collect(),
    };
    Ok(Value::List(Arc::new(keys)))
}

/// Integers that a double holds exactly, and so each smaller one.
const EXACT_MAX: u64 = 1 << 53;

fn sort(own: Vec<Value<'_>>) -> Option<Vec<Value<'_>>> {
    sort_by(own.clone(), own)
}

/// The items in the order of their keys; those of equal keys as they stood.
fn sort_by<'a>(keys: Vec<Value<'a>>, own: Vec<Value<'a>>) -> Option<Vec<Value<'a>>> {
    // The first is compared with itself, too. Where an order is none, what sorts may panic: the integers that a double cannot
    // hold are equal to the same one, and not to each other.
    let is_double = |key: &Value<'_>| matches!(key, Value::Double(_));
    let is_exact = |key: &Value<'_>| match key {
        Value::Int(own) => own.unsigned_abs() <= EXACT_MAX,
        Value::Uint(own) => *own <= EXACT_MAX,
        _ => true,
    };
    let comparable = |first| keys.iter().all(|key| order(first, key).is_some());
    let is_total = keys.iter().all(is_exact) || !keys.iter().any(is_double);
    if !(is_total && keys.first().is_none_or(comparable)) {
        return None;
    }
    let mut pairs: Vec<(Value<'a>, Value<'a>)> = keys.into_iter().zip(own).collect();
    pairs.sort_by(|(a, _), (b, _)| order(a, b).unwrap_or(Ordering::Equal));
    Some(pairs.into_iter().map(|(_, item)| item).collect())
}

fn order(a: &Value<'_>, b: &Value<'_>) -> Option<Ordering> {
    match (a, b) {
        (Value::Text(a), Value::Text(b)) => Some(a.cmp(b)),
        (Value::Bytes(a), Value::Bytes(b)) => Some(a.cmp(b)),
        (Value::Bool(a), Value::Bool(b)) => Some(a.cmp(b)),
        (Value::Timestamp(a), Value::Timestamp(b)) => Some(a.cmp(b)),
        (Value::Duration(a), Value::Duration(b)) => Some(a.cmp(b)),
        (Value::Double(a), _) | (_, Value::Double(a)) if a.is_nan() => None,
        (a, b) => numbers(a, b),
    }
}
