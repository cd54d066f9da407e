//! Which operands of a condition were ever true and ever false. *Pure.*

use std::cell::RefCell;
use std::collections::HashMap;

use super::eval::{Outcome, Watch};
use super::node::{Kind, Node};
use super::print::children;
use super::trace::bodies;
use super::value::Value;

/// How often a part was what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, schemars::JsonSchema)]
pub struct Times {
    #[serde(rename = "true")]
    pub yes: u64,
    #[serde(rename = "false")]
    pub no: u64,
    /// A value that is no bool.
    pub other: u64,
    /// Unknown, or an error.
    pub none: u64,
}

/// Counts what every part was, over many evaluations.
#[derive(Debug, Default)]
pub(crate) struct Seen(RefCell<HashMap<*const Node, Times>>);

impl Seen {
    pub(crate) fn of(&self, node: &Node) -> Times {
        self.0
            .borrow()
            .get(&std::ptr::from_ref(node))
            .copied()
            .unwrap_or_default()
    }
}

impl Watch for &Seen {
    fn enter(&self, _node: &Node) {}

    fn leave(&self, node: &Node, outcome: &Outcome<'_>) {
        let mut seen = self.0.borrow_mut();
        let times = seen.entry(std::ptr::from_ref(node)).or_default();
        match outcome {
            Ok(Value::Bool(true)) => times.yes += 1,
            Ok(Value::Bool(false)) => times.no += 1,
            Ok(_) => times.other += 1,
            Err(_) => times.none += 1,
        }
    }
}

/// One operand of `&&`, `||` or `?:`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Operand<'a> {
    pub(crate) node: &'a Node,
    /// What it is an operand of.
    pub(crate) of: &'static str,
    /// Its first byte in the condition.
    pub(crate) start: usize,
    pub(crate) text: &'a str,
    /// It is what `?:` comes to, and not what it asks.
    pub(crate) is_branch: bool,
}

/// See [`super::Condition::operands`].
pub(super) fn operands<'a>(node: &'a Node, source: &'a str) -> Vec<Operand<'a>> {
    let mut walk = Walk {
        source,
        found: Vec::new(),
    };
    walk.node(node, 0);
    walk.found.sort_by_key(|operand| operand.start);
    walk.found
}

struct Walk<'a> {
    source: &'a str,
    found: Vec<Operand<'a>>,
}

impl<'a> Walk<'a> {
    /// `depth` is the number of variables that are bound round the node.
    fn node(&mut self, node: &'a Node, depth: usize) {
        match &node.kind {
            Kind::And(sides) => sides.iter().for_each(|side| self.add(side, "&&", false, depth)),
            Kind::Or(sides) => sides.iter().for_each(|side| self.add(side, "||", false, depth)),
            Kind::If(parts) => {
                let [condition, yes, no] = &**parts;
                self.add(condition, "?:", false, depth);
                self.add(yes, "?:", true, depth);
                self.add(no, "?:", true, depth);
            }
            Kind::Fold(fold) => {
                self.node(&fold.range, depth);
                let own = bodies(fold, depth);
                let of = match &fold.step.kind {
                    Kind::And(_) => "&&",
                    _ => "||",
                };
                for body in &own {
                    match own.len() {
                        // `all` and `exists` join what they are given to their result.
                        2.. if matches!(fold.step.kind, Kind::And(_) | Kind::Or(_)) => {
                            self.add(body, of, false, depth + 2);
                        }
                        _ => self.node(body, depth + 2),
                    }
                }
            }
            _ => {
                let mut all = Vec::new();
                children(node, &mut |child| all.push(child));
                all.into_iter().for_each(|child| self.node(child, depth));
            }
        }
    }

    fn add(&mut self, node: &'a Node, of: &'static str, is_branch: bool, depth: usize) {
        if !matches!(node.kind, Kind::Const(_)) {
            self.found.push(Operand {
                node,
                of,
                start: node.span.start,
                text: self
                    .source
                    .get(node.span.start..node.span.end)
                    .unwrap_or_default(),
                is_branch,
            });
        }
        self.node(node, depth);
    }
}
