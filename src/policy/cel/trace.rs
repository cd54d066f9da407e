//! What every part of a condition was in one evaluation: for people, and as JSON. *Pure.*
//!
//! The evaluation is the live one, watched; nothing is evaluated a second time. A value that could
//! hold a credential is not shown: see [`Hidden`].

use std::cell::{Cell, RefCell};

use serde::Serialize;

use super::eval::{Fault, Outcome, Watch};
use super::function::Function;
use super::hidden::Hidden;
use super::node::{Fold, Kind, Node, Span};
use super::print::children;
use super::value::Value;
use crate::facts::mask::MASKED;

/// Most parts of one condition whose values are kept.
pub const EXPLAIN_PARTS_MAX: usize = 2_000;

/// Items of a list that are shown of a macro: the first ones and the last.
pub const EXPLAIN_ITEMS_MAX: usize = 8;

/// A part of a condition, and what it was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, schemars::JsonSchema)]
pub struct Part {
    /// As it was written, each blank space as one.
    pub text: String,
    pub found: Found,
    /// What it is made of, in the order of the text; literals are left out.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub parts: Vec<Part>,
}

/// What a part was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Found {
    /// Its value as CEL writes it, cut where it is long.
    Value(String),
    /// A fact that could not be had, and why.
    Unknown(String),
    /// Why there is no value.
    Error(String),
    /// Another part had decided before.
    NotEvaluated,
    /// It is over [`EXPLAIN_PARTS_MAX`] or [`EXPLAIN_ITEMS_MAX`].
    NotShown,
}

impl Part {
    /// For people: a line for each part, what it is made of set in.
    pub fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        self.write(0, &mut lines);
        lines
    }

    fn write(&self, depth: usize, lines: &mut Vec<String>) {
        let found = match &self.found {
            Found::Value(value) => format!(" = {value}"),
            Found::Unknown(why) | Found::Error(why) => format!(": {why}"),
            Found::NotEvaluated => ": not evaluated".to_owned(),
            Found::NotShown => ": not shown".to_owned(),
        };
        lines.push(format!("{}{}{found}", "  ".repeat(depth), self.text));
        for part in &self.parts {
            part.write(depth + 1, lines);
        }
    }
}

/// One evaluation of one node.
#[derive(Debug)]
struct Frame {
    node: *const Node,
    outcome: Result<Shown, Fault>,
    parts: Vec<Frame>,
}

#[derive(Debug)]
struct Shown {
    text: String,
    /// It says nothing of the text that it came from.
    is_plain: bool,
}

/// Keeps what every part was.
#[derive(Debug, Default)]
pub(crate) struct Trace {
    /// What is being evaluated, outermost first; at its bottom what is done.
    stack: RefCell<Vec<Frame>>,
    done: RefCell<Option<Frame>>,
    count: Cell<usize>,
    /// How deep it is in what is no longer kept.
    skipped: Cell<usize>,
}

impl Watch for &Trace {
    fn enter(&self, node: &Node) {
        if self.skipped.get() > 0 || self.count.get() >= EXPLAIN_PARTS_MAX {
            self.skipped.set(self.skipped.get() + 1);
            return;
        }
        self.count.set(self.count.get() + 1);
        self.stack.borrow_mut().push(Frame {
            node,
            outcome: Err(Fault::Budget),
            parts: Vec::new(),
        });
    }

    fn leave(&self, _node: &Node, outcome: &Outcome<'_>) {
        if self.skipped.get() > 0 {
            self.skipped.set(self.skipped.get() - 1);
            return;
        }
        let mut stack = self.stack.borrow_mut();
        let Some(mut frame) = stack.pop() else { return };
        frame.outcome = outcome.as_ref().map(shown).map_err(Clone::clone);
        match stack.last_mut() {
            Some(outer) => outer.parts.push(frame),
            None => *self.done.borrow_mut() = Some(frame),
        }
    }
}

fn shown(value: &Value<'_>) -> Shown {
    Shown {
        text: value.show(),
        is_plain: matches!(value, Value::Bool(_) | Value::Null),
    }
}

impl Trace {
    /// What the last evaluation of a condition was made of, and makes room for the next.
    pub(crate) fn take(&self, node: &Node, source: &str, hidden: &Hidden) -> Part {
        let frame = self.done.borrow_mut().take();
        let tree = Tree {
            source,
            hidden,
            is_full: self.count.replace(0) >= EXPLAIN_PARTS_MAX,
        };
        tree.part(node, frame.as_ref(), 0)
    }
}

struct Tree<'a> {
    source: &'a str,
    hidden: &'a Hidden,
    is_full: bool,
}

impl Tree<'_> {
    fn text(&self, span: Span) -> String {
        let text = self.source.get(span.start..span.end).unwrap_or_default();
        text.split_whitespace().collect::<Vec<_>>().join(" ")
    }

    /// `depth` is the number of variables that are bound round the node.
    fn part(&self, node: &Node, frame: Option<&Frame>, depth: usize) -> Part {
        let mut parts = Vec::new();
        if let Some(frame) = frame {
            match &node.kind {
                Kind::Fold(fold) => self.fold(fold, frame, depth, &mut parts),
                _ => {
                    let mut all = Vec::new();
                    children(node, &mut |child| all.push(child));
                    all.sort_by_key(|child| child.span.start);
                    for child in all {
                        self.add(child, frame, depth, &mut parts);
                    }
                }
            }
        }
        let found = match frame {
            Some(frame) => self.found(node, &frame.outcome),
            None if self.is_full => Found::NotShown,
            None => Found::NotEvaluated,
        };
        let text = self.text(node.span);
        Part { text, found, parts }
    }

    fn add(&self, child: &Node, frame: &Frame, depth: usize, parts: &mut Vec<Part>) {
        if matches!(child.kind, Kind::Const(_)) {
            return;
        }
        let own = frame.parts.iter().find(|own| std::ptr::eq(own.node, child));
        parts.push(self.part(child, own, depth));
    }

    fn found(&self, node: &Node, outcome: &Result<Shown, Fault>) -> Found {
        match outcome {
            Ok(shown) if shown.is_plain || self.hidden.is_clean(node) => Found::Value(shown.text.clone()),
            Ok(_) => Found::Value(MASKED.to_owned()),
            Err(fault @ Fault::Unknown(..)) => Found::Unknown(fault.to_string()),
            Err(Fault::Error(text)) if !self.hidden.may_tell(node) && text.contains(':') => {
                let head = text.split(':').next().unwrap_or_default();
                Found::Error(format!("{head}: {MASKED}"))
            }
            Err(fault) => Found::Error(fault.to_string()),
        }
    }

    /// What is walked, and what the macro's own expression was for the items of it.
    fn fold(&self, fold: &Fold, frame: &Frame, depth: usize, parts: &mut Vec<Part>) {
        self.add(&fold.range, frame, depth, parts);
        let steps: Vec<&Frame> = frame
            .parts
            .iter()
            .filter(|own| std::ptr::eq(own.node, &fold.step))
            .collect();
        let last = steps.len().saturating_sub(1);
        for (index, step) in steps.iter().enumerate() {
            if index >= EXPLAIN_ITEMS_MAX - 1 && index < last {
                if index == last - 1 {
                    let left = last - (EXPLAIN_ITEMS_MAX - 1);
                    parts.push(Part {
                        text: format!("{left} more items"),
                        found: Found::NotShown,
                        parts: Vec::new(),
                    });
                }
                continue;
            }
            self.step(fold, step, depth, parts);
        }
    }

    fn step(&self, fold: &Fold, step: &Frame, depth: usize, parts: &mut Vec<Part>) {
        let own = bodies(fold, depth);
        for body in own {
            let frame = find(step, body);
            parts.push(self.part(body, frame, depth + 2));
        }
    }
}

/// The frame of a node that is the step itself or stands in it.
fn find<'a>(frame: &'a Frame, node: &Node) -> Option<&'a Frame> {
    if std::ptr::eq(frame.node, node) {
        return Some(frame);
    }
    frame.parts.iter().find_map(|own| find(own, node))
}

/// What the writer of a macro wrote to be done with each item; the rest of its step is the macro's.
pub(super) fn bodies(fold: &Fold, depth: usize) -> Vec<&Node> {
    let is_result = |node: &&Node| matches!(node.kind, Kind::Var(index) if index == depth);
    match &fold.step.kind {
        Kind::And(sides) | Kind::Or(sides) => {
            let mut own: Vec<&Node> = sides.iter().filter(|side| !is_result(side)).collect();
            own.sort_by_key(|side| side.span.start);
            own
        }
        Kind::If(parts) => {
            let [condition, yes, _] = &**parts;
            let mut own = vec![condition];
            own.extend(added(yes, depth));
            own
        }
        _ => added(&fold.step, depth).into_iter().collect(),
    }
}

/// `x` of `result + [x]`, unless it is the item itself.
fn added(node: &Node, depth: usize) -> Option<&Node> {
    let Kind::Call(Function::Add, args) = &node.kind else {
        return None;
    };
    let [_, list] = args.as_slice() else { return None };
    let Kind::List(items) = &list.kind else {
        return None;
    };
    let own = items.first()?;
    (!matches!(own.kind, Kind::Var(index) if index == depth + 1)).then_some(own)
}

#[cfg(test)]
mod tests;
