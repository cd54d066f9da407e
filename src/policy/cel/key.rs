//! What an action must have for a condition to hold: by this rules are found without walking all
//! of them, and contradictions are seen at load. *Pure.*
//!
//! A key is taken from a part of the condition's outermost `&&` that reads one short fact and
//! compares it with literals. Such parts stand first in the compiled tree, and `&&` absorbs what
//! the others would say, so that a rule whose key is missed is exactly one whose condition is
//! false. A fact that is unknown misses no key.

use super::function::Function;
use super::node::{Kind, Node};
use super::value::Value;
use crate::facts::{Kind as FactKind, Slot};

/// How a fact meets a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Test {
    /// The text is this.
    Equal,
    /// The text begins with this.
    Prefix,
    /// The list has this.
    Has,
}

/// One literal that a fact is compared with.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    pub(crate) slot: Slot,
    pub(crate) test: Test,
    pub(crate) text: String,
}

/// The alternatives of each part of the outermost `&&` that has keys: of every part, one must be met.
pub(crate) fn required(node: &Node) -> Vec<Vec<Key>> {
    match &node.kind {
        Kind::And(sides) => sides.iter().filter_map(keys).collect(),
        _ => keys(node).into_iter().collect(),
    }
}

/// The alternatives of one part, if it is nothing but comparisons of short facts with literals.
pub(crate) fn keys(node: &Node) -> Option<Vec<Key>> {
    match &node.kind {
        Kind::Or(sides) => {
            let mut all = Vec::new();
            for side in sides {
                all.extend(keys(side)?);
            }
            Some(all)
        }
        Kind::Call(function, args) => {
            let [first, second] = args.as_slice() else {
                return None;
            };
            comparison(*function, &first.kind, &second.kind)
        }
        _ => None,
    }
}

fn comparison(function: Function, first: &Kind, second: &Kind) -> Option<Vec<Key>> {
    let one = |slot: Slot, test: Test, text: &str| {
        let text = text.to_owned();
        vec![Key { slot, test, text }]
    };
    match (function, first, second) {
        (Function::Equal, Kind::Slot(slot), Kind::Const(Value::Text(text)))
        | (Function::Equal, Kind::Const(Value::Text(text)), Kind::Slot(slot))
            if is_short(*slot, FactKind::Text) =>
        {
            Some(one(*slot, Test::Equal, text))
        }
        (Function::StartsWith, Kind::Slot(slot), Kind::Const(Value::Text(text)))
            if is_short(*slot, FactKind::Text) =>
        {
            Some(one(*slot, Test::Prefix, text))
        }
        (Function::In, Kind::Const(Value::Text(text)), Kind::Slot(slot))
            if is_short(*slot, FactKind::Texts) =>
        {
            Some(one(*slot, Test::Has, text))
        }
        (Function::In, Kind::Slot(slot), Kind::Const(Value::List(items)))
            if is_short(*slot, FactKind::Text) =>
        {
            let mut all = Vec::with_capacity(items.len());
            for item in items.iter() {
                let Value::Text(text) = item else { return None };
                all.extend(one(*slot, Test::Equal, text));
            }
            Some(all)
        }
        _ => None,
    }
}

/// A fact whose comparison costs next to nothing, so that it can never spend the budget.
fn is_short(slot: Slot, kind: FactKind) -> bool {
    slot.kind() == kind && !matches!(slot, Slot::HttpBody | Slot::SqlStatement)
}

/// Whether no action can meet all of these parts: two of them want different texts of one fact.
pub(crate) fn contradiction(parts: &[Vec<Key>]) -> Option<Slot> {
    for (index, one) in parts.iter().enumerate() {
        for other in parts.iter().skip(index + 1) {
            let clash = |a: &Key, b: &Key| match (a.test, b.test) {
                (Test::Equal, Test::Equal) => a.text != b.text,
                (Test::Equal, Test::Prefix) => !a.text.starts_with(&b.text),
                (Test::Prefix, Test::Equal) => !b.text.starts_with(&a.text),
                (Test::Prefix, Test::Prefix) => !a.text.starts_with(&b.text) && !b.text.starts_with(&a.text),
                _ => false,
            };
            let all = one
                .iter()
                .all(|a| other.iter().all(|b| a.slot == b.slot && clash(a, b)));
            if let Some(first) = one.first().filter(|_| all && !other.is_empty()) {
                return Some(first.slot);
            }
        }
    }
    None
}
