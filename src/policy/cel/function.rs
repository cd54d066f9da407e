//! The operators and functions: their names, their types, what they do.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

use chrono::{DateTime, Datelike as _, TimeDelta, Timelike as _, Utc};

use super::eval::{Env, Fault, Outcome};
use super::value::{Value, equal, numbers};

/// What is known of an expression's type at load.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ty {
    Dyn,
    Null,
    Bool,
    Int,
    Uint,
    Double,
    Text,
    Bytes,
    List(Box<Ty>),
    /// A map, by the type of its values.
    Map(Box<Ty>),
    /// A type without operators of interest: timestamp, duration, address.
    Other,
}

impl Ty {
    /// Whether a value of this type may stand where `other` is wanted.
    pub(crate) fn fits(&self, other: &Ty) -> bool {
        match (self, other) {
            (Ty::Dyn, _) | (_, Ty::Dyn) => true,
            (Ty::List(a), Ty::List(b)) | (Ty::Map(a), Ty::Map(b)) => a.fits(b),
            (a, b) => a == b || (a.is_number() && b.is_number()),
        }
    }

    fn is_number(&self) -> bool {
        matches!(self, Ty::Int | Ty::Uint | Ty::Double)
    }
}

impl fmt::Display for Ty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Ty::Dyn => f.write_str("dyn"),
            Ty::Null => f.write_str("null"),
            Ty::Bool => f.write_str("bool"),
            Ty::Int => f.write_str("int"),
            Ty::Uint => f.write_str("uint"),
            Ty::Double => f.write_str("double"),
            Ty::Text => f.write_str("string"),
            Ty::Bytes => f.write_str("bytes"),
            Ty::List(item) => write!(f, "list({item})"),
            Ty::Map(value) => write!(f, "map(string, {value})"),
            Ty::Other => f.write_str("a time or an address"),
        }
    }
}

macro_rules! functions {
    ($($variant:ident $name:literal $member:literal $args:literal $ty:expr;)*) => {
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Function { $($variant,)* }

        impl Function {
            pub(crate) fn name(self) -> &'static str {
                match self { $(Function::$variant => $name,)* }
            }
        }

        const TABLE: &[(Function, &str, bool, usize, Ty)] =
            &[$((Function::$variant, $name, $member, $args, $ty),)*];
    };
}

functions! {
    Not "!_" false 1 Ty::Bool;
    Negate "-_" false 1 Ty::Dyn;
    Add "_+_" false 2 Ty::Dyn;
    Subtract "_-_" false 2 Ty::Dyn;
    Multiply "_*_" false 2 Ty::Dyn;
    Divide "_/_" false 2 Ty::Dyn;
    Remainder "_%_" false 2 Ty::Dyn;
    Equal "_==_" false 2 Ty::Bool;
    Unequal "_!=_" false 2 Ty::Bool;
    Less "_<_" false 2 Ty::Bool;
    LessEqual "_<=_" false 2 Ty::Bool;
    Greater "_>_" false 2 Ty::Bool;
    GreaterEqual "_>=_" false 2 Ty::Bool;
    In "@in" false 2 Ty::Bool;
    Index "_[_]" false 2 Ty::Dyn;
    Size "size" false 1 Ty::Int;
    SizeOf "size" true 1 Ty::Int;
    Contains "contains" true 2 Ty::Bool;
    StartsWith "startsWith" true 2 Ty::Bool;
    EndsWith "endsWith" true 2 Ty::Bool;
    LowerAscii "lowerAscii" true 1 Ty::Text;
    UpperAscii "upperAscii" true 1 Ty::Text;
    Trim "trim" true 1 Ty::Text;
    Reverse "reverse" true 1 Ty::Dyn;
    CharAt "charAt" true 2 Ty::Text;
    IndexOf "indexOf" true 2 Ty::Int;
    LastIndexOf "lastIndexOf" true 2 Ty::Int;
    Substring "substring" true 2 Ty::Text;
    SubstringTo "substring" true 3 Ty::Text;
    Replace "replace" true 3 Ty::Text;
    Split "split" true 2 Ty::Dyn;
    Join "join" true 1 Ty::Text;
    JoinWith "join" true 2 Ty::Text;
    ToInt "int" false 1 Ty::Int;
    ToUint "uint" false 1 Ty::Uint;
    ToDouble "double" false 1 Ty::Double;
    ToText "string" false 1 Ty::Text;
    ToBool "bool" false 1 Ty::Bool;
    ToBytes "bytes" false 1 Ty::Bytes;
    ToDyn "dyn" false 1 Ty::Dyn;
    TypeOf "type" false 1 Ty::Dyn;
    Timestamp "timestamp" false 1 Ty::Other;
    Duration "duration" false 1 Ty::Other;
    GetFullYear "getFullYear" true 1 Ty::Int;
    GetMonth "getMonth" true 1 Ty::Int;
    GetDate "getDate" true 1 Ty::Int;
    GetDayOfWeek "getDayOfWeek" true 1 Ty::Int;
    GetHours "getHours" true 1 Ty::Int;
    GetMinutes "getMinutes" true 1 Ty::Int;
    GetSeconds "getSeconds" true 1 Ty::Int;
    SetsContains "sets.contains" false 2 Ty::Bool;
    SetsEquivalent "sets.equivalent" false 2 Ty::Bool;
    SetsIntersects "sets.intersects" false 2 Ty::Bool;
    Ip "ip" false 1 Ty::Other;
    IsIp "isIP" false 1 Ty::Bool;
    Cidr "cidr" false 1 Ty::Other;
    ContainsIp "containsIP" true 2 Ty::Bool;
}

pub(crate) fn find(name: &str, member: bool, args: usize) -> Option<(Function, Ty)> {
    TABLE
        .iter()
        .find(|(_, own, own_member, own_args, _)| *own == name && *own_member == member && *own_args == args)
        .map(|(function, _, _, _, ty)| (*function, ty.clone()))
}

/// The names that a message may offer.
pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    let named = TABLE.iter().map(|row| row.1);
    named
        .filter(|name| name.starts_with(|c: char| c.is_ascii_alphabetic()))
        .chain(["matches", "has", "all", "exists", "exists_one", "map", "filter"])
}

pub(crate) fn is_namespace(name: &str) -> bool {
    name == "sets"
}

/// The types that stand as identifiers.
pub(crate) fn type_name(name: &str) -> Option<&'static str> {
    const NAMES: &[&str] = &[
        "bool",
        "int",
        "uint",
        "double",
        "string",
        "bytes",
        "list",
        "map",
        "null_type",
        "type",
    ];
    NAMES.iter().copied().find(|own| *own == name)
}

/// A more exact type of the result, where the arguments tell it.
pub(crate) fn result(function: Function, ty: Ty, args: &[&Ty]) -> Ty {
    match (function, args) {
        (Function::Index, [Ty::List(item), _]) => (**item).clone(),
        (Function::Index, [Ty::Map(value), _]) => (**value).clone(),
        (Function::Split, _) => Ty::List(Box::new(Ty::Text)),
        (
            Function::Add | Function::Subtract | Function::Multiply | Function::Divide | Function::Remainder,
            [a, b],
        ) if a == b => (*a).clone(),
        _ => ty,
    }
}

/// What can be told of the arguments at load.
pub(crate) fn check(function: Function, args: &[&Ty]) -> Result<(), String> {
    use Function as F;
    let text = |ty: &Ty| ty.fits(&Ty::Text);
    match (function, args) {
        (F::Equal | F::Unequal, [a, b]) if !a.fits(b) && **a != Ty::Null && **b != Ty::Null => {
            Err(format!("{a} is never equal to {b}"))
        }
        (F::Equal | F::Unequal, [a, b]) if matches!((a, b), (Ty::Null, b) | (b, Ty::Null) if **b != Ty::Dyn && **b != Ty::Null) => {
            Err("this is never null".to_owned())
        }
        (F::Less | F::LessEqual | F::Greater | F::GreaterEqual, [a, b]) if !a.fits(b) => {
            Err(format!("{a} has no order with {b}"))
        }
        (F::In, [a, Ty::List(item)]) if !a.fits(item) => Err(format!("{a} is never in a list of {item}")),
        (F::In, [a, Ty::Map(_)]) if !text(a) => Err(format!("{a} is never a key of this map")),
        (F::In, [_, b]) if !matches!(b, Ty::Dyn | Ty::List(_) | Ty::Map(_)) => Err(format!(
            "`in` wants a list or a map on its right, and this is {b}; a text has `contains`"
        )),
        (F::Not, [a]) if !a.fits(&Ty::Bool) => Err(format!("`!` wants bool, and this is {a}")),
        (
            F::Contains
            | F::StartsWith
            | F::EndsWith
            | F::LowerAscii
            | F::UpperAscii
            | F::Trim
            | F::IndexOf
            | F::LastIndexOf
            | F::Split
            | F::Replace,
            args,
        ) if !args.iter().all(|arg| text(arg)) => {
            let types: Vec<String> = args.iter().map(ToString::to_string).collect();
            let hint =
                matches!(args.first(), Some(Ty::List(_))).then_some("; for a list use `in` or `exists`");
            let name = function.name();
            Err(format!(
                "`{name}` is for strings, and here are {}{}",
                types.join(", "),
                hint.unwrap_or("")
            ))
        }
        (F::Size | F::SizeOf, [Ty::Bool | Ty::Int | Ty::Uint | Ty::Double | Ty::Null | Ty::Other]) => {
            Err("this has no size".to_owned())
        }
        (F::SetsContains | F::SetsEquivalent | F::SetsIntersects, args) => {
            match args.iter().find(|arg| !matches!(arg, Ty::Dyn | Ty::List(_))) {
                Some(other) => Err(format!("`{}` is for lists, and this is {other}", function.name())),
                None => Ok(()),
            }
        }
        (F::Add | F::Subtract | F::Multiply | F::Divide | F::Remainder, [a, b]) if !arithmetic(a, b) => Err(
            format!("no such operation: {a} {} {b}", function.name().trim_matches('_')),
        ),
        (F::Index, [a, _]) if !matches!(a, Ty::Dyn | Ty::List(_) | Ty::Map(_)) => {
            Err(format!("{a} has no index"))
        }
        _ => Ok(()),
    }
}

fn arithmetic(a: &Ty, b: &Ty) -> bool {
    let known = |ty: &Ty| !matches!(ty, Ty::Dyn | Ty::Other);
    !known(a)
        || !known(b)
        || (a == b && !matches!(a, Ty::Bool | Ty::Null | Ty::Map(_)))
        || (matches!(a, Ty::List(_)) && matches!(b, Ty::List(_)))
}

fn none(function: Function) -> Fault {
    Fault::error(format!("no such overload: {}", function.name()))
}

pub(crate) fn call<'a>(env: &Env<'a>, function: Function, args: &[Value<'a>]) -> Outcome<'a> {
    use Function as F;
    match (function, args) {
        (F::Not, [Value::Bool(value)]) => Ok(Value::Bool(!value)),
        (F::Equal, [a, b]) => compare(env, a, b).map(Value::Bool),
        (F::Unequal, [a, b]) => compare(env, a, b).map(|same| Value::Bool(!same)),
        (F::Less | F::LessEqual | F::Greater | F::GreaterEqual, [a, b]) => order(function, a, b),
        (F::In, [item, list]) => contains(env, item, list),
        (F::Index, [of, key]) => index(env, of, key),
        (F::Negate | F::Add | F::Subtract | F::Multiply | F::Divide | F::Remainder, args) => {
            super::function_arithmetic(env, function, args)
        }
        (F::Size | F::SizeOf, [of]) => size(env, of),
        (F::ToDyn, [value]) => Ok(value.clone()),
        (F::TypeOf, [value]) => Ok(Value::Type(value.type_name())),
        (F::SetsContains, [a, b]) => subset(env, b, a).map(Value::Bool),
        (F::SetsEquivalent, [a, b]) => Ok(Value::Bool(subset(env, a, b)? && subset(env, b, a)?)),
        (F::SetsIntersects, [a, b]) => intersects(env, a, b),
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
        ) => convert(env, function, value),
        (F::Ip | F::IsIp | F::Cidr | F::ContainsIp, args) => address(function, args),
        (_, [Value::Timestamp(time)]) => date(function, time),
        (_, [Value::Duration(span)]) => span_part(function, *span),
        (_, [Value::Text(text), rest @ ..]) => super::function_text(env, function, text, rest),
        (F::Join | F::JoinWith | F::Reverse, [list, rest @ ..]) => {
            super::function_join(env, function, list, rest)
        }
        _ => Err(none(function)),
    }
}

fn compare(env: &Env<'_>, a: &Value<'_>, b: &Value<'_>) -> Result<bool, Fault> {
    let size = match (a, b) {
        (Value::Text(a), Value::Text(b)) => a.len().min(b.len()),
        (a, b) => a
            .len()
            .unwrap_or(0)
            .saturating_mul(b.len().unwrap_or(0))
            .saturating_mul(16),
    };
    env.scan(size)?;
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

fn contains<'a>(env: &Env<'a>, item: &Value<'a>, list: &Value<'a>) -> Outcome<'a> {
    let count = list.len().ok_or_else(|| none(Function::In))?;
    env.scan(count.saturating_mul(16))?;
    if list.is_map() {
        return Ok(Value::Bool(list.get(item).is_some()));
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

fn index<'a>(env: &Env<'a>, of: &Value<'a>, key: &Value<'a>) -> Outcome<'a> {
    if of.is_map() {
        env.scan(of.len().unwrap_or(0).saturating_mul(8))?;
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

fn size<'a>(env: &Env<'a>, of: &Value<'a>) -> Outcome<'a> {
    let size = match of {
        Value::Text(text) => {
            env.scan(text.len())?;
            text.chars().count()
        }
        Value::Bytes(bytes) => bytes.len(),
        other => other.len().ok_or_else(|| none(Function::Size))?,
    };
    Ok(Value::Int(i64::try_from(size).unwrap_or(i64::MAX)))
}

/// Whether every item of `a` is in `b`.
fn subset(env: &Env<'_>, a: &Value<'_>, b: &Value<'_>) -> Result<bool, Fault> {
    if !a.is_list() || !b.is_list() {
        return Err(none(Function::SetsContains));
    }
    let (count, other) = (a.len().unwrap_or(0), b.len().unwrap_or(0));
    env.scan(count.saturating_mul(other).saturating_mul(16))?;
    Ok((0..count).filter_map(|index| a.item(index)).all(|item| {
        (0..other)
            .filter_map(|index| b.item(index))
            .any(|own| equal(&own, &item))
    }))
}

fn intersects<'a>(env: &Env<'a>, a: &Value<'a>, b: &Value<'a>) -> Outcome<'a> {
    if !a.is_list() || !b.is_list() {
        return Err(none(Function::SetsIntersects));
    }
    let (count, other) = (a.len().unwrap_or(0), b.len().unwrap_or(0));
    env.scan(count.saturating_mul(other).saturating_mul(16))?;
    Ok(Value::Bool((0..count).filter_map(|index| a.item(index)).any(
        |item| {
            (0..other)
                .filter_map(|index| b.item(index))
                .any(|own| equal(&own, &item))
        },
    )))
}

fn address<'a>(function: Function, args: &[Value<'a>]) -> Outcome<'a> {
    use Function as F;
    match (function, args) {
        (F::IsIp, [Value::Text(text)]) => Ok(Value::Bool(text.parse::<std::net::IpAddr>().is_ok())),
        (F::Ip, [Value::Text(text)]) => text
            .parse()
            .map(Value::Ip)
            .map_err(|_| Fault::error(format!("not an address: {text}"))),
        (F::Cidr, [Value::Text(text)]) => text
            .parse()
            .map(Value::Net)
            .map_err(|_| Fault::error(format!("not a range: {text}"))),
        (F::ContainsIp, [Value::Net(net), Value::Ip(ip)]) => Ok(Value::Bool(net.contains(ip))),
        (F::ContainsIp, [Value::Net(net), Value::Text(ip)]) => match ip.parse::<std::net::IpAddr>() {
            Ok(ip) => Ok(Value::Bool(net.contains(&ip))),
            Err(_) => Err(Fault::error(format!("not an address: {ip}"))),
        },
        _ => Err(none(function)),
    }
}

fn date<'a>(function: Function, time: &DateTime<Utc>) -> Outcome<'a> {
    let number = match function {
        Function::GetFullYear => i64::from(time.year()),
        Function::GetMonth => i64::from(time.month0()),
        Function::GetDate => i64::from(time.day()),
        Function::GetDayOfWeek => i64::from(time.weekday().num_days_from_sunday()),
        Function::GetHours => i64::from(time.hour()),
        Function::GetMinutes => i64::from(time.minute()),
        Function::GetSeconds => i64::from(time.second()),
        _ => return Err(none(function)),
    };
    Ok(Value::Int(number))
}

fn span_part<'a>(function: Function, span: TimeDelta) -> Outcome<'a> {
    match function {
        Function::GetHours => Ok(Value::Int(span.num_hours())),
        Function::GetMinutes => Ok(Value::Int(span.num_minutes())),
        Function::GetSeconds => Ok(Value::Int(span.num_seconds())),
        _ => Err(none(function)),
    }
}

fn convert<'a>(env: &Env<'a>, function: Function, value: &Value<'a>) -> Outcome<'a> {
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
        (F::ToText, Value::Bytes(bytes)) => {
            env.build(bytes.len())?;
            let text = std::str::from_utf8(bytes).map_err(|_| Fault::error("invalid UTF-8"))?;
            Value::text(text)
        }
        (F::ToBytes, Value::Text(text)) => {
            env.build(text.len())?;
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
