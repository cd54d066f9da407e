//! Names of code that cannot be read, in a condition. *Pure.*
//!
//! `own` in `sql.functions` is `own` and whatever its body calls. It equals the text that names it: who lists it
//! answers for it. Whether it equals any other text is unknown, and so is all else that could be asked of it.

use super::eval::{Budget, Fault, Outcome};
use super::function::Function;
use super::value::Value;
use crate::facts::{Blind, Slot};

fn slot(value: &Value<'_>) -> Option<Slot> {
    match value {
        Value::Name(slot, _) | Value::Names(slot, _) => Some(*slot),
        _ => None,
    }
}

fn unknown(slot: Slot) -> Fault {
    Fault::Unknown(slot, Blind::Opaque)
}

/// The value, for whoever takes it for what it looks like.
#[inline]
pub(super) fn read(value: Value<'_>) -> Outcome<'_> {
    match slot(&value) {
        Some(slot) => Err(unknown(slot)),
        None => Ok(value),
    }
}

/// What a function says of such names; `None` where none is among its arguments.
#[inline]
pub(super) fn call<'a>(budget: &Budget, function: Function, args: &[Value<'a>]) -> Option<Outcome<'a>> {
    let slot = args.iter().find_map(slot)?;
    Some(of_names(budget, slot, function, args))
}

fn of_names<'a>(budget: &Budget, slot: Slot, function: Function, args: &[Value<'a>]) -> Outcome<'a> {
    use Function as F;
    let sure = match (function, args) {
        (F::ToDyn, [value]) => return Ok(value.clone()),
        (F::Equal | F::Unequal, [Value::Name(_, name), Value::Text(text)])
        | (F::Equal | F::Unequal, [Value::Text(text), Value::Name(_, name)]) => name == text,
        (F::In, [Value::Name(_, name), list]) => has(budget, list, name)?,
        (F::In, [Value::Text(text), Value::Names(_, names)]) => {
            budget.scan(names.len().saturating_mul(16))?;
            names.iter().any(|name| name == text)
        }
        (F::SetsContains, [list, Value::Names(_, names)]) => {
            let mut all = true;
            for name in *names {
                all &= has(budget, list, name)?;
            }
            all
        }
        _ => false,
    };
    match sure {
        true => Ok(Value::Bool(function != F::Unequal)),
        false => Err(unknown(slot)),
    }
}

/// Whether a list of texts, or the keys of a map, has a name.
fn has(budget: &Budget, list: &Value<'_>, name: &str) -> Result<bool, Fault> {
    let count = list.len().unwrap_or(0);
    budget.scan(count.saturating_mul(16))?;
    let is = |item: Value<'_>| matches!(item, Value::Text(text) if text == name);
    Ok((0..count).filter_map(|index| list.step(index)).any(is))
}
