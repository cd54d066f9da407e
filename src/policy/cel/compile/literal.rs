//! Literals as the facts they are compared with are kept. *Pure.*

use std::sync::Arc;

use super::{Typed, node};
use crate::facts::Slot;
use crate::policy::cel::function::Function;
use crate::policy::cel::node::{Kind, Node};
use crate::policy::cel::value::Value;

/// Header names are kept in lower case, so a literal one is too.
pub(super) fn header_name(of: &Node, field: &str) -> String {
    match of.kind {
        Kind::Slot(Slot::HttpHeaders) => field.to_ascii_lowercase(),
        _ => field.to_owned(),
    }
}

/// A list of constants is a constant.
pub(super) fn list_node(items: Vec<Node>) -> Node {
    if items.iter().all(|item| matches!(item.kind, Kind::Const(_))) {
        let values = items.into_iter().filter_map(|item| match item.kind {
            Kind::Const(value) => Some(value),
            _ => None,
        });
        return node(Kind::Const(Value::List(Arc::new(values.collect()))));
    }
    node(Kind::List(items))
}

/// A list of parts, of which some are lists of what there is of an optional value.
pub(super) fn joined(parts: Vec<(Node, bool)>) -> Node {
    let call = |function, args| node(Kind::Call(function, args));
    let parts = parts.into_iter().map(|(part, is_optional)| match is_optional {
        true => call(Function::Some, vec![part]),
        false => list_node(vec![part]),
    });
    let whole = parts.reduce(|whole, part| call(Function::Add, vec![whole, part]));
    whole.unwrap_or_else(|| list_node(Vec::new()))
}

/// A map of entries, of which some are there if their value is.
pub(super) fn map_node(entries: Vec<(Node, Node, bool)>) -> Node {
    let call = |function, args| node(Kind::Call(function, args));
    if entries.iter().all(|(_, _, is_optional)| !is_optional) {
        let entries = entries.into_iter().map(|(key, value, _)| (key, value));
        return node(Kind::Map(entries.collect()));
    }
    let entries = entries
        .into_iter()
        .map(|(key, value, is_optional)| match is_optional {
            true => call(Function::SomeEntry, vec![key, value]),
            false => node(Kind::Map(vec![(key, value)])),
        });
    let whole = entries.reduce(|whole, entry| call(Function::Merge, vec![whole, entry]));
    whole.unwrap_or_else(|| node(Kind::Map(Vec::new())))
}

/// The method and header names are in lower case; a literal that is compared with one may not be.
pub(super) fn fold_case(function: Function, args: &mut [Typed]) {
    let [(first, _), (second, _)] = args else { return };
    let method = |node: &Node| matches!(node.kind, Kind::Slot(Slot::HttpMethod));
    let headers = |node: &Node| matches!(node.kind, Kind::Slot(Slot::HttpHeaders));
    if method(first) || (headers(first) && reads_key(function)) {
        lower(second);
    } else if method(second) || (headers(second) && function == Function::In) {
        lower(first);
    }
}

fn reads_key(function: Function) -> bool {
    matches!(
        function,
        Function::Index | Function::OptIndex | Function::OptSelect
    )
}

fn lower(node: &mut Node) {
    match &mut node.kind {
        Kind::Const(value) => lower_value(value),
        Kind::List(items) => items.iter_mut().for_each(lower),
        _ => {}
    }
}

fn lower_value(value: &mut Value<'static>) {
    match value {
        Value::Text(text) => *text = text.to_ascii_lowercase().into(),
        Value::List(items) => {
            for item in Arc::make_mut(items) {
                lower_value(item);
            }
        }
        _ => {}
    }
}
