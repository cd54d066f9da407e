//! What each function does to values. *Pure.*

use std::borrow::Cow;
use std::cmp::Ordering;
use std::sync::Arc;

use chrono::{DateTime, TimeDelta};

use super::eval::{Budget, Fault, Outcome};
use super::function::Function;
use super::value::{Value, equal, find, numbers};

fn none(function: Function) -> Fault {
    Fault::error(format!("no such overload: {}", function.name()))
}

pub(crate) fn call<'a>(budget: &Budget, function: Function, args: &[Value<'a>]) -> Outcome<'a> {
    use Function as F;
    match (function, args) {
        (F::Not, [Value::Bool(value)]) => Ok(Value::Bool(!value)),
        (F::Equal, [a, b]) => compare(budget, a, b).map(Value::Bool),
        (F::Unequal, [a, b]) => compare(budget, a, b).map(|same| Value::Bool(!same)),
        (F::Less | F::LessEqual | F::Greater | F::GreaterEqual, [a, b]) => order(function, a, b),
        (F::In, [item, list]) => contains(budget, item, list),
        (F::Index, [Value::Optional(_), _])
        | (
            F::OptionalOf
            | F::OptionalOfNonZero
            | F::OptionalNone
            | F::HasValue
            | F::OptionalValue
            | F::Or
            | F::OrValue
            | F::First
            | F::Last
            | F::OptSelect
            | F::OptIndex
            | F::Some
            | F::SomeEntry
            | F::Merge,
            _,
        ) => super::optional::call(budget, function, args),
        (F::Index, [of, key]) => index(budget, of, key),
        (F::Negate | F::Add | F::Subtract | F::Multiply | F::Divide | F::Remainder, args) => {
            super::function_arithmetic(budget, function, args)
        }
        (F::Size | F::SizeOf, [of]) => size(budget, of),
        (F::ToDyn, [value]) => Ok(value.clone()),
        (F::TypeOf, [value]) => Ok(Value::Type(value.type_name())),
        (F::SetsContains, [a, b]) => subset(budget, b, a).map(Value::Bool),
        (F::SetsEquivalent, [a, b]) => Ok(Value::Bool(subset(budget, a, b)? && subset(budget, b, a)?)),
        (F::SetsIntersects, [a, b]) => intersects(budget, a, b),
        (
            F::ToInt
            | F::ToUint
            | F::ToDouble
            | F::ToText
            | F::ToBool
            | F::ToBytes
            | F::Timestamp
            | F::Duration,
            [value],
        ) => convert(budget, function, value),
        (F::Ip | F::IsIp | F::Cidr | F::ContainsIp | F::IsCidr | F::ContainsCidr | F::IsCanonical, args) => {
            super::net::address(function, args)
        }
        (_, [Value::Ip(_) | Value::Net(_)]) => super::net::part(function, args),
        (
            F::Keys | F::Range | F::Distinct | F::Flatten | F::FlattenTo | F::Slice | F::Sort | F::SortBy,
            args,
        ) => super::list::call(budget, function, args),
        (F::Encode, [Value::Bytes(bytes)]) => {
            budget.build(bytes.len().saturating_mul(4) / 3)?;
            Ok(Value::text(super::text::encode(bytes)))
        }
        (F::Decode, [Value::Text(text)]) => {
            budget.build(text.len())?;
            let bytes = super::text::decode(text).ok_or_else(|| Fault::error("not base64"))?;
            Ok(Value::Bytes(Cow::Owned(bytes)))
        }
        (F::Quote, [Value::Text(text)]) => super::format::quote(budget, text),
        (F::Format, [Value::Text(text), list]) => super::format::format(budget, text, list),
        (_, [Value::Timestamp(time)]) => super::time::date(function, *time, &super::time::Zone::UTC),
        (_, [Value::Duration(span)]) => span_part(function, *span),
        (_, [Value::Text(text), rest @ ..]) => super::function_text(budget, function, text, rest),
        (F::Join | F::JoinWith | F::Reverse, [list, rest @ ..]) => {
            super::function_join(budget, function, list, rest)
        }
        _ => Err(none(function)),
    }
}

fn compare(budget: &Budget, a: &Value<'_>, b: &Value<'_>) -> Result<bool, Fault> {
    let size = match (a, b) {
        (Value::Text(a), Value::Text(b)) => a.len().min(b.len()),
        (a, b) if a.len() == b.len() => a.weight().saturating_mul(16),
        _ => 0,
    };
    budget.scan(size)?;
    Ok(equal(a, b))
}

fn order<'a>(function: Function, a: &Value<'a>, b: &Value<'a>) -> Outcome<'a> {
    let ordering = match (a, b) {
        (Value::Text(a), Value::Text(b)) => Some(a.cmp(b)),
        (Value::Bytes(a), Value::Bytes(b)) => Some(a.cmp(b)),
        (Value::Bool(a), Value::Bool(b)) => Some(a.cmp(b)),
        (Value::Timestamp(a), Value::Timestamp(b)) => Some(a.cmp(b)),
        (Value::Duration(a), Value::Duration(b)) => Some(a.cmp(b)),
        (a, b) => match numbers(a, b) {
            Some(ordering) => Some(ordering),
            None if is_number(a) && is_number(b) => None,
            None => return Err(none(function)),
        },
    };
    Ok(Value::Bool(match (function, ordering) {
        (_, None) => false,
        (Function::Less, Some(ordering)) => ordering == Ordering::Less,
        (Function::LessEqual, Some(ordering)) => ordering != Ordering::Greater,
        (Function::Greater, Some(ordering)) => ordering == Ordering::Greater,
        (_, Some(ordering)) => ordering != Ordering::Less,
    }))
}

fn is_number(value: &Value<'_>) -> bool {
    matches!(value, Value::Int(_) | Value::Uint(_) | Value::Double(_))
}

fn contains<'a>(budget: &Budget, item: &Value<'a>, list: &Value<'a>) -> Outcome<'a> {
    let count = list.len().ok_or_else(|| none(Function::In))?;
    let each = if item.len().is_some() {
        list.weight()
    } else {
        count
    };
    budget.scan(each.saturating_mul(16))?;
    if list.is_map() {
        return Ok(Value::Bool(find(list, item)?.is_some()));
    }
    if let (Value::Text(text), Value::Texts(texts)) = (item, list) {
        return Ok(Value::Bool(texts.iter().any(|own| own == text)));
    }
    if let Value::List(items) = list {
        return Ok(Value::Bool(items.iter().any(|own| equal(own, item))));
    }
    Ok(Value::Bool(
        (0..count)
            .filter_map(|index| list.item(index))
            .any(|own| equal(&own, item)),
    ))
}

fn index<'a>(budget: &Budget, of: &Value<'a>, key: &Value<'a>) -> Outcome<'a> {
    if of.is_map() {
        budget.scan(of.len().unwrap_or(0).saturating_mul(8))?;
        return of
            .get(key)
            .ok_or_else(|| Fault::error(format!("no such key: {}", key.show())));
    }
    if !of.is_list() {
        return Err(none(Function::Index));
    }
    let position = match key {
        Value::Int(index) => usize::try_from(*index).ok(),
        Value::Uint(index) => usize::try_from(*index).ok(),
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        Value::Double(index) if index.fract() == 0.0 && *index >= 0.0 && *index < 1e15 => {
            Some(*index as usize)
        }
        _ => return Err(none(Function::Index)),
    };
    position
        .and_then(|index| of.item(index))
        .ok_or_else(|| Fault::error("index out of bounds"))
}

fn size<'a>(budget: &Budget, of: &Value<'a>) -> Outcome<'a> {
    let size = match of {
        Value::Text(text) => {
            budget.scan(text.len())?;
            text.chars().count()
        }
        Value::Bytes(bytes) => bytes.len(),
        other => other.len().ok_or_else(|| none(Function::Size))?,
    };
    Ok(Value::Int(i64::try_from(size).unwrap_or(i64::MAX)))
}

/// Whether every item of `a` is in `b`.
fn subset(budget: &Budget, a: &Value<'_>, b: &Value<'_>) -> Result<bool, Fault> {
    if !a.is_list() || !b.is_list() {
        return Err(none(Function::SetsContains));
    }
    let (count, other) = (a.len().unwrap_or(0), b.len().unwrap_or(0));
    budget.scan(count.saturating_mul(b.weight()).saturating_mul(16))?;
    Ok((0..count).filter_map(|index| a.item(index)).all(|item| {
        (0..other)
            .filter_map(|index| b.item(index))
            .any(|own| equal(&own, &item))
    }))
}

fn intersects<'a>(budget: &Budget, a: &Value<'a>, b: &Value<'a>) -> Outcome<'a> {
    if !a.is_list() || !b.is_list() {
        return Err(none(Function::SetsIntersects));
    }
    let (count, other) = (a.len().unwrap_or(0), b.len().unwrap_or(0));
    budget.scan(count.saturating_mul(b.weight()).saturating_mul(16))?;
    Ok(Value::Bool((0..count).filter_map(|index| a.item(index)).any(
        |item| {
            (0..other)
                .filter_map(|index| b.item(index))
                .any(|own| equal(&own, &item))
        },
    )))
}

fn span_part<'a>(function: Function, span: TimeDelta) -> Outcome<'a> {
    match function {
        Function::GetHours => Ok(Value::Int(span.num_hours())),
        Function::GetMinutes => Ok(Value::Int(span.num_minutes())),
        Function::GetSeconds => Ok(Value::Int(span.num_seconds())),
        Function::GetMilliseconds => Ok(Value::Int(i64::from(span.subsec_millis()))),
        _ => Err(none(function)),
    }
}

fn convert<'a>(budget: &Budget, function: Function, value: &Value<'a>) -> Outcome<'a> {
    use Function as F;
    let range = || Fault::error("range error");
    let parse = |text: &str| Fault::error(format!("cannot be converted: {}", Value::text(text).show()));
    #[allow(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss
    )]
    Ok(match (function, value) {
        (F::ToInt, Value::Int(_)) | (F::ToUint, Value::Uint(_)) | (F::ToDouble, Value::Double(_)) => {
            value.clone()
        }
        (F::ToBool, Value::Bool(_)) | (F::ToText, Value::Text(_)) | (F::ToBytes, Value::Bytes(_)) => {
            value.clone()
        }
        (F::Timestamp, Value::Timestamp(_)) | (F::Duration, Value::Duration(_)) => value.clone(),
        (F::ToInt, Value::Uint(number)) => Value::Int(i64::try_from(*number).map_err(|_| range())?),
        (F::ToInt, Value::Double(number)) => match *number > -(2f64.powi(63)) && *number < 2f64.powi(63) {
            true => Value::Int(*number as i64),
            false => return Err(range()),
        },
        (F::ToInt, Value::Text(text)) => Value::Int(text.parse().map_err(|_| parse(text))?),
        (F::ToInt, Value::Timestamp(time)) => Value::Int(time.timestamp()),
        (F::ToUint, Value::Int(number)) => Value::Uint(u64::try_from(*number).map_err(|_| range())?),
        (F::ToUint, Value::Double(number)) => match *number >= 0.0 && *number < 2f64.powi(64) {
            true => Value::Uint(*number as u64),
            false => return Err(range()),
        },
        (F::ToUint, Value::Text(text)) => Value::Uint(text.parse().map_err(|_| parse(text))?),
        (F::ToDouble, Value::Int(number)) => Value::Double(*number as f64),
        (F::ToDouble, Value::Uint(number)) => Value::Double(*number as f64),
        (F::ToDouble, Value::Text(text)) => Value::Double(text.parse().map_err(|_| parse(text))?),
        (F::ToText, Value::Int(number)) => Value::text(number.to_string()),
        (F::ToText, Value::Uint(number)) => Value::text(number.to_string()),
        (F::ToText, Value::Double(number)) => Value::text(number.to_string()),
        (F::ToText, Value::Bool(value)) => Value::text(value.to_string()),
        (F::ToText, Value::Ip(ip)) => Value::text(ip.to_string()),
        (F::ToText, Value::Net(net)) => Value::text(net.to_string()),
        (F::ToText, Value::Timestamp(time)) => {
            Value::text(time.to_rfc3339_opts(chrono::SecondsFormat::AutoSi, true))
        }
        (F::ToText, Value::Duration(_)) => Value::text(super::format::shown(value)?),
        (F::ToText, Value::Bytes(bytes)) => {
            budget.build(bytes.len())?;
            let text = std::str::from_utf8(bytes).map_err(|_| Fault::error("invalid UTF-8"))?;
            Value::text(text)
        }
        (F::ToBytes, Value::Text(text)) => {
            budget.build(text.len())?;
            Value::Bytes(Cow::Owned(text.as_bytes().to_vec()))
        }
        (F::ToBool, Value::Text(text)) => match text.as_ref() {
            "1" | "t" | "T" | "true" | "True" | "TRUE" => Value::Bool(true),
            "0" | "f" | "F" | "false" | "False" | "FALSE" => Value::Bool(false),
            _ => return Err(parse(text)),
        },
        (F::Timestamp, Value::Int(seconds)) => Value::Timestamp(
            DateTime::from_timestamp(*seconds, 0)
                .filter(super::text::in_range)
                .ok_or_else(range)?,
        ),
        (F::Timestamp, Value::Text(text)) => {
            let time = DateTime::parse_from_rfc3339(text)
                .map_err(|_| parse(text))?
                .to_utc();
            match super::text::in_range(&time) {
                true => Value::Timestamp(time),
                false => return Err(range()),
            }
        }
        (F::Duration, Value::Text(text)) => {
            Value::Duration(super::duration(text).ok_or_else(|| parse(text))?)
        }
        _ => return Err(none(function)),
    })
}

/// A list from an iterator of values.
pub(super) fn list<'a>(items: impl Iterator<Item = Value<'a>>) -> Value<'a> {
    Value::List(Arc::new(items.collect()))
}
