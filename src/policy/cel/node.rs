//! The compiled tree. *Pure.*

use regex::Regex;

use super::function::Function;
use super::time::Zone;
use super::value::Value;
use crate::facts::Slot;

/// A node of the compiled tree, with the bytes of the condition that it came from.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) kind: Kind,
    pub(crate) span: Span,
}

/// Bytes of a condition's text; none of a node that no text stands for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) start: usize,
    pub(crate) end: usize,
}

#[derive(Debug)]
pub(crate) enum Kind {
    Const(Value<'static>),
    Slot(Slot),
    /// A variable, by its place on the stack.
    Var(usize),
    Select(Box<Node>, String),
    Has(Box<Node>, String),
    And(Vec<Node>),
    Or(Vec<Node>),
    If(Box<[Node; 3]>),
    NotStrictlyFalse(Box<Node>),
    List(Vec<Node>),
    Map(Vec<(Node, Node)>),
    Matches(Box<Node>, Regex),
    /// A function with a literal pattern; its other arguments.
    Regex(Function, Box<Regex>, Vec<Node>),
    /// A part of a timestamp in a zone.
    Date(Function, Box<Node>, Zone),
    /// The time of the action.
    Now,
    Call(Function, Vec<Node>),
    Fold(Box<Fold>),
}

/// A comprehension: what `all`, `exists`, `map` and `filter` become.
#[derive(Debug)]
pub(crate) struct Fold {
    pub(crate) range: Node,
    pub(crate) init: Node,
    pub(crate) condition: Node,
    pub(crate) step: Node,
    pub(crate) result: Node,
}
