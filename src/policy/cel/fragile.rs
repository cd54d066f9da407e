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

/// What is certain where `node` is `outcome`: the names of parts that are there.
fn certain(node: &Node, outcome: bool) -> Vec<String> {
    match &node.kind {
        Kind::Has(of, field) if outcome => vec![format!("{}.{field}", text(of))],
        Kind::Call(Function::In, args) if outcome => match args.as_slice() {
            [
                Node {
                    kind: Kind::Const(Value::Text(key)),
                    ..
                },
                of,
            ] => vec![format!("{}.{key}", text(of))],
            _ => Vec::new(),
        },
        Kind::Call(Function::Not, args) => args.iter().flat_map(|arg| certain(arg, !outcome)).collect(),
        Kind::Call(Function::Unequal, args) if outcome => null_test(args),
        Kind::Call(Function::Equal, args) if !outcome => null_test(args),
        // A conjunction that holds makes each side certain; so does a disjunction that does not.
        Kind::And(sides) if outcome => sides.iter().flat_map(|side| certain(side, true)).collect(),
        Kind::Or(sides) if !outcome => sides.iter().flat_map(|side| certain(side, false)).collect(),
        _ => Vec::new(),
    }
}

fn null_test(args: &[Node]) -> Vec<String> {
    match args {
        [
            of,
            Node {
                kind: Kind::Const(Value::Null),
                ..
            },
        ]
        | [
            Node {
                kind: Kind::Const(Value::Null),
                ..
            },
            of,
        ] => {
            vec![text(of)]
        }
        _ => Vec::new(),
    }
}

fn walk(node: &Node, known: &[String], found: &mut Vec<Fragile>) {
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
        Kind::Select(of, field) => {
            walk(of, known, found);
            let part = format!("{}.{field}", text(of));
            if !known.contains(&part) {
                let guard = format!("has({part})");
                add(found, Fragile { part, guard });
            }
        }
        Kind::Call(Function::Index, args) => {
            args.iter().for_each(|arg| walk(arg, known, found));
            if let [
                of,
                Node {
                    kind: Kind::Const(Value::Text(key)),
                    ..
                },
            ] = args.as_slice()
                && !known.contains(&format!("{}.{key}", text(of)))
            {
                let part = text(node);
                let guard = format!("'{key}' in {}", text(of));
                add(found, Fragile { part, guard });
            }
        }
        Kind::Call(function, args) => {
            args.iter().for_each(|arg| walk(arg, known, found));
            use Function as F;
            if matches!(function, F::Less | F::LessEqual | F::Greater | F::GreaterEqual) {
                for arg in args {
                    let optional = |slot: Slot| slot.kind() == FactKind::OptionalInt;
                    if let Kind::Slot(slot) = arg.kind
                        && optional(slot)
                        && !known.contains(&text(arg))
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
