//! `format` and `strings.quote` of the strings extension. *Pure.*

use std::fmt::Write as _;

use super::eval::{Budget, Fault, Outcome};
use super::value::Value;

/// Digits behind the point that `%.Nf` may ask for.
const PRECISION_MAX: usize = 64;
/// Lists and maps inside each other that `%s` prints.
const DEPTH_MAX: usize = 32;

fn wrong(verb: char) -> Fault {
    Fault::error(format!("this value has no form for %{verb}"))
}

pub(crate) fn format<'a>(budget: &Budget, text: &str, args: &Value<'a>) -> Outcome<'a> {
    if !args.is_list() {
        return Err(Fault::error("no such overload: format"));
    }
    let mut out = String::new();
    let mut chars = text.chars().peekable();
    let mut index = 0;
    while let Some(char) = chars.next() {
        if char != '%' {
            out.push(char);
            continue;
        }
        if chars.next_if_eq(&'%').is_some() {
            out.push('%');
            continue;
        }
        let mut precision = None;
        if chars.next_if_eq(&'.').is_some() {
            let mut digits = String::new();
            while let Some(digit) = chars.next_if(char::is_ascii_digit) {
                digits.push(digit);
            }
            let number = digits.parse().ok().filter(|number| *number <= PRECISION_MAX);
            precision = Some(number.ok_or_else(|| Fault::error("the precision is no small number"))?);
        }
        let verb = chars.next().ok_or_else(|| Fault::error("the format ends in %"))?;
        let value = args
            .item(index)
            .ok_or_else(|| Fault::error("more verbs than values"))?;
        index += 1;
        one(&mut out, verb, &value, precision)?;
        budget.build(out.len())?;
    }
    Ok(Value::text(out))
}

fn one(out: &mut String, verb: char, value: &Value<'_>, precision: Option<usize>) -> Result<(), Fault> {
    let radix = |out: &mut String, negative: bool, number: u64| {
        if negative {
            out.push('-');
        }
        match verb {
            'b' => write!(out, "{number:b}"),
            'o' => write!(out, "{number:o}"),
            'x' => write!(out, "{number:x}"),
            _ => write!(out, "{number:X}"),
        }
        .map_err(|_| wrong(verb))
    };
    match (verb, value) {
        ('s', value) => show(out, value, 0),
        ('d', Value::Int(_) | Value::Uint(_)) => show(out, value, 0),
        ('d' | 'f' | 'e', Value::Double(number)) if !number.is_finite() => show(out, value, 0),
        ('f' | 'e', Value::Int(_) | Value::Uint(_) | Value::Double(_)) => {
            float(out, verb, as_double(value), precision.unwrap_or(6));
            Ok(())
        }
        ('b', Value::Bool(value)) => {
            out.push(if *value { '1' } else { '0' });
            Ok(())
        }
        ('b' | 'o' | 'x' | 'X', Value::Int(number)) => radix(out, *number < 0, number.unsigned_abs()),
        ('b' | 'o' | 'x' | 'X', Value::Uint(number)) => radix(out, false, *number),
        ('x' | 'X', Value::Text(text)) => {
            hex(out, text.as_bytes(), verb);
            Ok(())
        }
        ('x' | 'X', Value::Bytes(bytes)) => {
            hex(out, bytes, verb);
            Ok(())
        }
        _ => Err(wrong(verb)),
    }
}

#[allow(clippy::cast_precision_loss, reason = "that is what %f says")]
fn as_double(value: &Value<'_>) -> f64 {
    match value {
        Value::Int(number) => *number as f64,
        Value::Uint(number) => *number as f64,
        Value::Double(number) => *number,
        _ => f64::NAN,
    }
}

fn hex(out: &mut String, bytes: &[u8], verb: char) {
    for byte in bytes {
        let _ = match verb {
            'x' => write!(out, "{byte:02x}"),
            _ => write!(out, "{byte:02X}"),
        };
    }
}

/// `%e` as C prints it: two digits of the exponent, with its sign.
fn float(out: &mut String, verb: char, number: f64, precision: usize) {
    if verb == 'f' {
        let _ = write!(out, "{number:.precision$}");
        return;
    }
    let text = format!("{number:.precision$e}");
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let (sign, digits) = match exponent.strip_prefix('-') {
        Some(digits) => ('-', digits),
        None => ('+', exponent),
    };
    let _ = write!(out, "{mantissa}e{sign}{digits:0>2}");
}

/// A value as `%s` prints it.
pub(crate) fn shown(value: &Value<'_>) -> Result<String, Fault> {
    let mut out = String::new();
    show(&mut out, value, 0)?;
    Ok(out)
}

fn show(out: &mut String, value: &Value<'_>, depth: usize) -> Result<(), Fault> {
    if depth > DEPTH_MAX {
        return Err(Fault::error("this nests too deep to be printed"));
    }
    match value {
        Value::Null => out.push_str("null"),
        Value::Text(text) => out.push_str(text),
        Value::Bytes(bytes) => out.push_str(&String::from_utf8_lossy(bytes)),
        Value::Uint(number) => out.push_str(&number.to_string()),
        Value::Double(number) if number.is_nan() => out.push_str("NaN"),
        Value::Double(number) if number.is_infinite() => {
            out.push_str(if *number > 0.0 { "Infinity" } else { "-Infinity" });
        }
        Value::Type(name) => out.push_str(name),
        Value::Timestamp(time) => {
            out.push_str(&time.to_rfc3339_opts(chrono::SecondsFormat::AutoSi, true));
        }
        Value::Duration(span) => {
            let nanos = span.subsec_nanos().unsigned_abs();
            let sign = if *span < chrono::TimeDelta::zero() {
                "-"
            } else {
                ""
            };
            let part = format!("{nanos:09}");
            let part = part.trim_end_matches('0');
            let point = if part.is_empty() { "" } else { "." };
            out.push_str(&format!(
                "{sign}{}{point}{part}s",
                span.num_seconds().unsigned_abs()
            ));
        }
        list if list.is_list() => {
            out.push('[');
            for index in 0..list.len().unwrap_or(0) {
                if index > 0 {
                    out.push_str(", ");
                }
                if let Some(item) = list.item(index) {
                    show(out, &item, depth + 1)?;
                }
            }
            out.push(']');
        }
        map if map.is_map() => entries(out, map, depth)?,
        other => out.push_str(&other.show()),
    }
    Ok(())
}

/// Entries in the order of their keys, as printed.
fn entries(out: &mut String, map: &Value<'_>, depth: usize) -> Result<(), Fault> {
    let mut shown = Vec::new();
    for index in 0..map.len().unwrap_or(0) {
        let Some(key) = map.step(index) else { continue };
        let (mut name, mut text) = (String::new(), String::new());
        show(&mut name, &key, depth + 1)?;
        if let Some(value) = map.get(&key) {
            show(&mut text, &value, depth + 1)?;
        }
        shown.push((name, text));
    }
    shown.sort();
    let shown: Vec<String> = shown
        .into_iter()
        .map(|(name, text)| format!("{name}: {text}"))
        .collect();
    out.push_str(&format!("{{{}}}", shown.join(", ")));
    Ok(())
}

/// The text as a CEL literal in double quotes.
pub(crate) fn quote<'a>(budget: &Budget, text: &str) -> Outcome<'a> {
    budget.build(text.len().saturating_mul(2))?;
    let mut out = String::from("\"");
    for char in text.chars() {
        match char {
            '\x07' => out.push_str("\\a"),
            '\x08' => out.push_str("\\b"),
            '\x0c' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\x0b' => out.push_str("\\v"),
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            char => out.push(char),
        }
    }
    out.push('"');
    Ok(Value::text(out))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_printed_so_deep() {
        let printed = |levels: usize| {
            let nested = (0..levels).fold(Value::Int(1), |inner, _| Value::List(vec![inner].into()));
            show(&mut String::new(), &nested, 0)
        };
        assert!(printed(DEPTH_MAX).is_ok());
        assert!(printed(DEPTH_MAX + 1).is_err());
    }
}
