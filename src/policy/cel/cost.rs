//! How many steps a condition could take, estimated when it loads. *Pure.*

use super::function::Function;
use super::node::{Fold, Kind, Node};
use super::{ESTIMATE_ITEMS, ESTIMATE_TEXT_BYTES};
use crate::policy::cel::value::Value;

/// The steps of a node for lists of [`ESTIMATE_ITEMS`] items and texts of
/// [`ESTIMATE_TEXT_BYTES`], as [`super::eval`] counts them.
pub(super) fn steps(node: &Node) -> u64 {
    let all = |nodes: &[Node]| nodes.iter().map(steps).fold(0, u64::saturating_add);
    let inner = match &node.kind {
        Kind::Const(_) | Kind::Slot(_) | Kind::Var(_) | Kind::Now => 0,
        Kind::Select(of, _) | Kind::Has(of, _) | Kind::NotStrictlyFalse(of) | Kind::Date(_, of, _) => {
            steps(of)
        }
        Kind::Matches(of, _) => steps(of).saturating_add(text(of) / 16),
        Kind::Regex(_, _, nodes) => all(nodes).saturating_add(nodes.iter().map(text).sum::<u64>() / 16),
        Kind::And(nodes) | Kind::Or(nodes) | Kind::List(nodes) => all(nodes),
        Kind::If(parts) => {
            let [condition, yes, no] = &**parts;
            steps(condition).saturating_add(steps(yes).max(steps(no)))
        }
        Kind::Map(entries) => entries
            .iter()
            .map(|(key, value)| steps(key).saturating_add(steps(value)))
            .fold(0, u64::saturating_add),
        Kind::Call(function, nodes) => all(nodes).saturating_add(call(*function, nodes)),
        Kind::Fold(fold) => walk(fold),
    };
    inner.saturating_add(1)
}

fn walk(fold: &Fold) -> u64 {
    let each = steps(&fold.condition)
        .saturating_add(steps(&fold.step))
        .saturating_add(1);
    let ends = steps(&fold.range)
        .saturating_add(steps(&fold.init))
        .saturating_add(steps(&fold.result));
    items(&fold.range).saturating_mul(each).saturating_add(ends)
}

fn call(function: Function, nodes: &[Node]) -> u64 {
    use Function as F;
    let first = nodes.first().map_or(0, text);
    match function {
        F::Contains | F::StartsWith | F::EndsWith | F::IndexOf | F::LastIndexOf => first / 64,
        F::In | F::SetsContains | F::SetsIntersects | F::SetsEquivalent => {
            let each = nodes.iter().map(items).fold(1, u64::saturating_mul);
            each / 4
        }
        F::Split | F::Format | F::Replace | F::LowerAscii | F::UpperAscii => first / 4,
        _ => 0,
    }
}

/// Items of what a macro walks: a constant's own.
fn items(node: &Node) -> u64 {
    match &node.kind {
        Kind::Const(value) => value.len().map_or(1, |len| len as u64),
        Kind::List(nodes) => nodes.len() as u64,
        Kind::Map(entries) => entries.len() as u64,
        _ => ESTIMATE_ITEMS,
    }
}

/// Bytes of a text: a constant's own, what a variable holds is an item and short.
fn text(node: &Node) -> u64 {
    match &node.kind {
        Kind::Const(Value::Text(text)) => text.len() as u64,
        Kind::Const(_) | Kind::Var(_) | Kind::Select(..) => 256,
        _ => ESTIMATE_TEXT_BYTES,
    }
}
