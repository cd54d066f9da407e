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

/// The method and header names are in lower case; a literal that is compared with one may not be.
pub(super) fn fold_case(function: Function, args: &mut [Typed]) {
    let [(first, _), (second, _)] = args else { return };
    let method = |node: &Node| matches!(node.kind, Kind::Slot(Slot::HttpMethod));
    let headers = |node: &Node| matches!(node.kind, Kind::Slot(Slot::HttpHeaders));
    if method(first) || (headers(first) && function == Function::Index) {
        lower(second);
    } else if method(second) || (headers(second) && function == Function::In) {
        lower(first);
    }
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
