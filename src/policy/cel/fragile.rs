//! Where a condition fails on what an action may lack. *Pure.*
//!
//! A condition that fails denies. That is safe, and often not what was meant: these places make
//! a note when a policy loads.

use super::function::Function;
use super::node::{Kind, Node};
use super::print::text;
use super::value::Value;
use crate::facts::{Kind as FactKind, Slot};

/// A part that fails where something is missing, and what keeps it from failing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fragile {
    pub(crate) part: String,
    pub(crate) guard: String,
}

pub(crate) fn find(node: &Node) -> Vec<Fragile> {
    let mut found = Vec::new();
    walk(node, &[], &mut found);
    found
}

/// What is certain at a place of a condition.
#[derive(Clone)]
enum There {
    /// A part is there.
    Part(String),
    /// A list has so many items at least.
    Items(String, i64),
}

fn is_there(known: &[There], part: &str) -> bool {
    known
        .iter()
        .any(|there| matches!(there, There::Part(own) if own == part))
}

/// What is certain where `node` is `outcome`.
fn certain(node: &Node, outcome: bool) -> Vec<There> {
    use Function as F;
    match &node.kind {
        Kind::Has(of, field) if outcome => vec![There::Part(format!("{}.{field}", text(of)))],
        Kind::Call(F::In, args) if outcome => match args.as_slice() {
            [
                Node {
                    kind: Kind::Const(Value::Text(key)),
                    ..
                },
                of,
            ] => vec![There::Part(format!("{}.{key}", text(of)))],
            _ => Vec::new(),
        },
        Kind::Call(F::HasValue, args) if outcome => args.iter().map(|of| There::Part(text(of))).collect(),
        Kind::Call(F::Not, args) => args.iter().flat_map(|arg| certain(arg, !outcome)).collect(),
        Kind::Call(function, args) => {
            let not_null = matches!((function, outcome), (F::Unequal, true) | (F::Equal, false));
            let null = not_null.then(|| null_test(args)).flatten();
            null.or_else(|| size_test(*function, args, outcome))
                .into_iter()
                .collect()
        }
        // A conjunction that holds makes each side certain; so does a disjunction that does not.
        Kind::And(sides) if outcome => sides.iter().flat_map(|side| certain(side, true)).collect(),
        Kind::Or(sides) if !outcome => sides.iter().flat_map(|side| certain(side, false)).collect(),
        _ => Vec::new(),
    }
}

fn null_test(args: &[Node]) -> Option<There> {
    let is_null = |node: &Node| matches!(node.kind, Kind::Const(Value::Null));
    match args {
        [of, null] | [null, of] if is_null(null) => Some(There::Part(text(of))),
        _ => None,
    }
}

/// `size(list) > 1` and its like.
fn size_test(function: Function, args: &[Node], outcome: bool) -> Option<There> {
    use Function as F;
    let (of, number, is_first) = match args {
        [size, number] if sized(size).is_some() => (sized(size)?, integer(number)?, true),
        [number, size] => (sized(size)?, integer(number)?, false),
        _ => return None,
    };
    // As if the size stood first, and the comparison held.
    let held = match (function, is_first) {
        (F::Less, false) => F::Greater,
        (F::LessEqual, false) => F::GreaterEqual,
        (F::Greater, false) => F::Less,
        (F::GreaterEqual, false) => F::LessEqual,
        (function, _) => function,
    };
    let least = match (held, outcome) {
        (F::Greater, true) | (F::LessEqual, false) => number.checked_add(1)?,
        (F::GreaterEqual, true) | (F::Less, false) | (F::Equal, true) | (F::Unequal, false) => number,
        (F::Unequal, true) | (F::Equal, false) if number == 0 => 1,
        _ => return None,
    };
    Some(There::Items(of, least))
}

fn sized(node: &Node) -> Option<String> {
    match &node.kind {
        Kind::Call(Function::Size | Function::SizeOf, args) => args.first().map(text),
        _ => None,
    }
}

fn integer(node: &Node) -> Option<i64> {
    match node.kind {
        Kind::Const(Value::Int(number)) => Some(number),
        _ => None,
    }
}

/// Whether a part is an optional value, of which only `value()` fails.
fn is_optional(node: &Node) -> bool {
    use Function as F;
    match &node.kind {
        Kind::Call(
            F::OptSelect
            | F::OptIndex
            | F::OptionalOf
            | F::OptionalOfNonZero
            | F::OptionalNone
            | F::First
            | F::Last
            | F::Or,
            _,
        )
        | Kind::Regex(F::RegexExtract, ..) => true,
        Kind::Call(F::Index, args) => args.first().is_some_and(is_optional),
        Kind::Select(of, _) => is_optional(of),
        _ => false,
    }
}

/// Items that a list has whatever the action: a literal's own, one where a text is split, one value of a header or a
/// parameter that is there.
fn items_min(of: &Node) -> i64 {
    let count = |len: usize| i64::try_from(len).unwrap_or(i64::MAX);
    let is_multi = |map: &Node| matches!(map.kind, Kind::Slot(slot) if slot.kind() == FactKind::MultiMap);
    match &of.kind {
        Kind::Const(value) => value.len().map_or(0, count),
        Kind::List(items) => count(items.len()),
        Kind::Select(map, _) if is_multi(map) => 1,
        Kind::Call(Function::Index, args) if args.first().is_some_and(is_multi) => 1,
        Kind::Call(Function::Split, _) => 1,
        _ => 0,
    }
}

fn walk(node: &Node, known: &[There], found: &mut Vec<Fragile>) {
    match &node.kind {
        // The other sides absorb what one of them would fail with.
        Kind::And(sides) | Kind::Or(sides) => {
            let outcome = matches!(node.kind, Kind::And(_));
            let mut known = known.to_vec();
            known.extend(sides.iter().flat_map(|side| certain(side, outcome)));
            sides.iter().for_each(|side| walk(side, &known, found));
        }
        Kind::If(parts) => {
            let [condition, yes, no] = &**parts;
            walk(condition, known, found);
            for (branch, outcome) in [(yes, true), (no, false)] {
                let mut known = known.to_vec();
                known.extend(certain(condition, outcome));
                walk(branch, &known, found);
            }
        }
        // What is read in an optional value is one.
        Kind::Select(of, _) if is_optional(of) => walk(of, known, found),
        Kind::Select(of, field) => {
            walk(of, known, found);
            let part = format!("{}.{field}", text(of));
            if !is_there(known, &part) {
                let guard = format!("has({part})");
                add(found, Fragile { part, guard });
            }
        }
        Kind::Call(Function::Index, args) => {
            args.iter().for_each(|arg| walk(arg, known, found));
            let [of, key] = args.as_slice() else { return };
            if is_optional(of) {
                return;
            }
            let list = text(of);
            let (is_certain, guard) = match &key.kind {
                Kind::Const(Value::Text(key)) => (
                    is_there(known, &format!("{list}.{key}")),
                    format!("'{key}' in {list}"),
                ),
                // An item of a list that may be shorter. A computed index is its own guard, or none.
                Kind::Const(Value::Int(index)) => {
                    let has = |there: &There| matches!(there, There::Items(own, least) if *own == list && least > index);
                    (
                        *index < items_min(of) || known.iter().any(has),
                        format!("size({list}) > {index}"),
                    )
                }
                _ => return,
            };
            if !is_certain {
                let part = text(node);
                add(found, Fragile { part, guard });
            }
        }
        Kind::Call(function, args) => {
            args.iter().for_each(|arg| walk(arg, known, found));
            use Function as F;
            if let (F::OptionalValue, [of]) = (function, args.as_slice())
                && !is_there(known, &text(of))
            {
                let (part, guard) = (text(node), format!("{}.hasValue()", text(of)));
                add(found, Fragile { part, guard });
            }
            if matches!(function, F::Less | F::LessEqual | F::Greater | F::GreaterEqual) {
                for arg in args {
                    let optional = |slot: Slot| slot.kind() == FactKind::OptionalInt;
                    if let Kind::Slot(slot) = arg.kind
                        && optional(slot)
                        && !is_there(known, &text(arg))
                    {
                        let part = text(arg);
                        let guard = format!("{part} != null");
                        add(found, Fragile { part, guard });
                    }
                }
            }
        }
        _ => super::print::children(node, &mut |child| walk(child, known, found)),
    }
}

fn add(found: &mut Vec<Fragile>, fragile: Fragile) {
    if !found.contains(&fragile) {
        found.push(fragile);
    }
}
