//! Arithmetic, and the functions over strings (the `strings` extension of cel-go).

use std::borrow::Cow;
use std::sync::Arc;

use chrono::TimeDelta;

use super::call::list;
use super::eval::{Budget, Fault, Outcome};
use super::function::Function;
use super::value::Value;

fn none(function: Function) -> Fault {
    Fault::error(format!("no such overload: {}", function.name()))
}

pub(crate) fn function_arithmetic<'a>(
    budget: &Budget,
    function: Function,
    args: &[Value<'a>],
) -> Outcome<'a> {
    use Function as F;
    let overflow = || Fault::error("overflow");
    let zero = || Fault::error("division by zero");
    let checked = |value: Option<i64>| value.map(Value::Int).ok_or_else(overflow);
    let uint = |value: Option<u64>| value.map(Value::Uint).ok_or_else(overflow);
    match (function, args) {
        (F::Negate, [Value::Int(a)]) => checked(a.checked_neg()),
        (F::Negate, [Value::Double(a)]) => Ok(Value::Double(-a)),
        (F::Divide | F::Remainder, [Value::Int(_), Value::Int(0)]) => Err(zero()),
        (F::Divide | F::Remainder, [Value::Uint(_), Value::Uint(0)]) => Err(zero()),
        (F::Add, [Value::Int(a), Value::Int(b)]) => checked(a.checked_add(*b)),
        (F::Subtract, [Value::Int(a), Value::Int(b)]) => checked(a.checked_sub(*b)),
        (F::Multiply, [Value::Int(a), Value::Int(b)]) => checked(a.checked_mul(*b)),
        (F::Divide, [Value::Int(a), Value::Int(b)]) => checked(a.checked_div(*b)),
        (F::Remainder, [Value::Int(a), Value::Int(b)]) => checked(a.checked_rem(*b)),
        (F::Add, [Value::Uint(a), Value::Uint(b)]) => uint(a.checked_add(*b)),
        (F::Subtract, [Value::Uint(a), Value::Uint(b)]) => uint(a.checked_sub(*b)),
        (F::Multiply, [Value::Uint(a), Value::Uint(b)]) => uint(a.checked_mul(*b)),
        (F::Divide, [Value::Uint(a), Value::Uint(b)]) => uint(a.checked_div(*b)),
        (F::Remainder, [Value::Uint(a), Value::Uint(b)]) => uint(a.checked_rem(*b)),
        (F::Add, [Value::Double(a), Value::Double(b)]) => Ok(Value::Double(a + b)),
        (F::Subtract, [Value::Double(a), Value::Double(b)]) => Ok(Value::Double(a - b)),
        (F::Multiply, [Value::Double(a), Value::Double(b)]) => Ok(Value::Double(a * b)),
        (F::Divide, [Value::Double(a), Value::Double(b)]) => Ok(Value::Double(a / b)),
        (F::Add, [Value::Text(a), Value::Text(b)]) => {
            budget.build(a.len().saturating_add(b.len()))?;
            Ok(Value::Text(Cow::Owned(format!("{a}{b}"))))
        }
        (F::Add, [Value::Bytes(a), Value::Bytes(b)]) => {
            budget.build(a.len().saturating_add(b.len()))?;
            Ok(Value::Bytes(Cow::Owned([a.as_ref(), b.as_ref()].concat())))
        }
        (F::Add, [a, b]) if a.is_list() && b.is_list() => {
            let count = a.len().unwrap_or(0).saturating_add(b.len().unwrap_or(0));
            budget.build(count.saturating_mul(16))?;
            let items = |of: &Value<'a>| -> Vec<Value<'a>> {
                let count = of.len().unwrap_or(0);
                (0..count).filter_map(|index| of.item(index)).collect()
            };
            let mut all = items(a);
            all.extend(items(b));
            Ok(Value::List(Arc::new(all)))
        }
        (F::Add | F::Subtract, args) => times(function, args),
        _ => Err(none(function)),
    }
}

fn times<'a>(function: Function, args: &[Value<'a>]) -> Outcome<'a> {
    use Function as F;
    let value = match (function, args) {
        (F::Add, [Value::Timestamp(a), Value::Duration(b)] | [Value::Duration(b), Value::Timestamp(a)]) => {
            a.checked_add_signed(*b).map(Value::Timestamp)
        }
        (F::Subtract, [Value::Timestamp(a), Value::Duration(b)]) => {
            a.checked_sub_signed(*b).map(Value::Timestamp)
        }
        (F::Subtract, [Value::Timestamp(a), Value::Timestamp(b)]) => {
            Some(Value::Duration(a.signed_duration_since(b)))
        }
        (F::Add, [Value::Duration(a), Value::Duration(b)]) => a.checked_add(b).map(Value::Duration),
        (F::Subtract, [Value::Duration(a), Value::Duration(b)]) => a.checked_sub(b).map(Value::Duration),
        _ => return Err(none(function)),
    };
    let within = value.filter(|value| match value {
        Value::Timestamp(time) => in_range(time),
        // The range of cel-go: nanoseconds in 64 bits.
        Value::Duration(span) => span.num_nanoseconds().is_some(),
        _ => true,
    });
    within.ok_or_else(|| Fault::error("range error"))
}

/// The range of google.protobuf.Timestamp.
pub(crate) fn in_range(time: &chrono::DateTime<chrono::Utc>) -> bool {
    (1..=9999).contains(&chrono::Datelike::year(time))
}

pub(crate) fn function_text<'a>(
    budget: &Budget,
    function: Function,
    text: &Cow<'a, str>,
    args: &[Value<'a>],
) -> Outcome<'a> {
    use Function as F;
    budget.scan(text.len())?;
    match (function, args) {
        (F::Contains, [Value::Text(part)]) => Ok(Value::Bool(
            memchr::memmem::find(text.as_bytes(), part.as_bytes()).is_some(),
        )),
        (F::StartsWith, [Value::Text(part)]) => Ok(Value::Bool(text.starts_with(part.as_ref()))),
        (F::EndsWith, [Value::Text(part)]) => Ok(Value::Bool(text.ends_with(part.as_ref()))),
        (F::LowerAscii, []) => Ok(Value::text(text.to_ascii_lowercase())),
        (F::UpperAscii, []) => Ok(Value::text(text.to_ascii_uppercase())),
        (F::Trim, []) => Ok(Value::text(text.trim())),
        (F::Reverse, []) => Ok(Value::text(text.chars().rev().collect::<String>())),
        (F::CharAt, [Value::Int(at)]) => {
            let at = bound(text, *at)?;
            Ok(Value::text(
                text.chars().nth(at).map(String::from).unwrap_or_default(),
            ))
        }
        (F::IndexOfFrom, [Value::Text(part), Value::Int(from)]) => {
            let from = byte_at(text, bound(text, *from)?);
            let found = text.get(from..).and_then(|rest| rest.find(part.as_ref()));
            Ok(Value::Int(position(text, found.map(|at| at + from))))
        }
        (F::LastIndexOfFrom, [Value::Text(part), Value::Int(last)]) => {
            // The match may begin at `last`, and end after it.
            let end = byte_at(text, bound(text, *last)?).saturating_add(part.len());
            let mut end = end.min(text.len());
            while !text.is_char_boundary(end) {
                end -= 1;
            }
            let found = text.get(..end).and_then(|front| front.rfind(part.as_ref()));
            Ok(Value::Int(position(text, found)))
        }
        (F::IndexOf, [Value::Text(part)]) => Ok(Value::Int(position(text, text.find(part.as_ref())))),
        (F::LastIndexOf, [Value::Text(part)]) => Ok(Value::Int(position(text, text.rfind(part.as_ref())))),
        (F::Substring, [Value::Int(from)]) => {
            let from = bound(text, *from)?;
            Ok(Value::text(text.chars().skip(from).collect::<String>()))
        }
        (F::SubstringTo, [Value::Int(from), Value::Int(to)]) => {
            let (from, to) = (bound(text, *from)?, bound(text, *to)?);
            let count = to
                .checked_sub(from)
                .ok_or_else(|| Fault::error("index out of range"))?;
            Ok(Value::text(
                text.chars().skip(from).take(count).collect::<String>(),
            ))
        }
        (F::Replace, [Value::Text(from), Value::Text(to)]) => {
            let count = text.matches(from.as_ref()).count();
            budget.build(text.len().saturating_add(count.saturating_mul(to.len())))?;
            Ok(Value::text(text.replace(from.as_ref(), to)))
        }
        (F::ReplaceSome, [Value::Text(from), Value::Text(to), Value::Int(most)]) => {
            let most = usize::try_from(*most).unwrap_or(usize::MAX);
            let count = text.matches(from.as_ref()).take(most).count();
            budget.build(text.len().saturating_add(count.saturating_mul(to.len())))?;
            Ok(Value::text(text.replacen(from.as_ref(), to, most)))
        }
        (F::Split, [Value::Text(by)]) => split(budget, text, by, usize::MAX),
        (F::SplitSome, [Value::Text(by), Value::Int(most)]) => {
            split(budget, text, by, usize::try_from(*most).unwrap_or(usize::MAX))
        }
        _ => Err(none(function)),
    }
}

fn split<'a>(budget: &Budget, text: &str, by: &str, most: usize) -> Outcome<'a> {
    budget.build(text.len().saturating_mul(16))?;
    if most == 0 {
        return Ok(list(std::iter::empty()));
    }
    if !by.is_empty() {
        return Ok(list(text.splitn(most, by).map(Value::text)));
    }
    let mut parts = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        if parts.len() + 1 == most {
            parts.push(Value::text(rest));
            break;
        }
        parts.push(Value::text(first.to_string()));
        rest = rest.get(first.len_utf8()..).unwrap_or_default();
    }
    Ok(list(parts.into_iter()))
}

/// Base64, with padding.
pub(crate) fn encode(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

/// Base64, with padding or without.
pub(crate) fn decode(text: &str) -> Option<Vec<u8>> {
    use base64::Engine as _;
    let bare = text.trim_end_matches('=');
    base64::engine::general_purpose::STANDARD_NO_PAD.decode(bare).ok()
}

/// Where a character begins; the end of the text behind the last.
fn byte_at(text: &str, index: usize) -> usize {
    text.char_indices().nth(index).map_or(text.len(), |(at, _)| at)
}

fn bound(text: &str, index: i64) -> Result<usize, Fault> {
    let count = text.chars().count();
    let index = usize::try_from(index).ok().filter(|index| *index <= count);
    index.ok_or_else(|| Fault::error("index out of range"))
}

fn position(text: &str, byte: Option<usize>) -> i64 {
    let chars = byte
        .and_then(|byte| text.get(..byte))
        .map(|front| front.chars().count());
    chars.and_then(|count| i64::try_from(count).ok()).unwrap_or(-1)
}

pub(crate) fn function_join<'a>(
    budget: &Budget,
    function: Function,
    of: &Value<'a>,
    args: &[Value<'a>],
) -> Outcome<'a> {
    if !of.is_list() {
        return Err(none(function));
    }
    let count = of.len().unwrap_or(0);
    budget.scan(count.saturating_mul(16))?;
    if function == Function::Reverse {
        return Ok(list((0..count).rev().filter_map(|index| of.item(index))));
    }
    let between = match args {
        [] => "",
        [Value::Text(text)] => text.as_ref(),
        _ => return Err(none(function)),
    };
    let mut joined = String::new();
    for index in 0..count {
        let Some(Value::Text(item)) = of.item(index) else {
            return Err(none(function));
        };
        if index > 0 {
            joined.push_str(between);
        }
        joined.push_str(&item);
        budget.build(joined.len())?;
    }
    Ok(Value::text(joined))
}

/// The range of google.protobuf.Duration: ten thousand years, in nanoseconds.
const DURATION_NANOS_MAX: i128 = 315_576_000_000 * NANOS + (NANOS - 1);
const NANOS: i128 = 1_000_000_000;

/// Go's duration text: `1h30m`, `1.5s`, `250ms`.
pub(crate) fn duration(text: &str) -> Option<TimeDelta> {
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Some(TimeDelta::zero());
    }
    let mut total = 0i128;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, unit) = (rest.get(..end)?, rest.get(end..)?);
        let unit_end = unit
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(unit.len());
        let scale = match unit.get(..unit_end)? {
            "ns" => 1,
            "us" => 1_000,
            "ms" => 1_000_000,
            "s" => NANOS,
            "m" => 60 * NANOS,
            "h" => 3600 * NANOS,
            _ => return None,
        };
        total = total.checked_add(scaled(number, scale)?)?;
        rest = unit.get(unit_end..)?;
    }
    if total > DURATION_NANOS_MAX {
        return None;
    }
    let seconds = i64::try_from(total / NANOS).ok()?;
    let span = TimeDelta::new(seconds, u32::try_from(total % NANOS).ok()?)?;
    Some(if negative { -span } else { span })
}

/// `1.5` times a scale; what is below one of it is dropped.
fn scaled(number: &str, scale: i128) -> Option<i128> {
    /// Digits behind the point that say anything: an hour has some 10^12 nanoseconds.
    const DIGITS: usize = 15;
    let (whole, part) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && part.is_empty() {
        return None;
    }
    let digits = |text: &str| match text {
        "" => Some(0i128),
        text => text.parse().ok(),
    };
    let part = part.get(..part.len().min(DIGITS))?;
    let below = digits(part)?.checked_mul(scale)? / 10i128.checked_pow(u32::try_from(part.len()).ok()?)?;
    digits(whole)?.checked_mul(scale)?.checked_add(below)
}
