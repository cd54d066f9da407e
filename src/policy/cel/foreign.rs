//! Literals in a condition that the fact beside them never is. *Pure.*
//!
//! `sql.verb == 'DROP'` is valid CEL and false of every statement, as verbs are in lower case. Such a
//! rule says nothing, and where it was to deny, that goes unseen: these places make a note at load.

use super::function::Function;
use super::node::{Kind, Node};
use super::value::Value;
use crate::facts::Slot;
use crate::facts::k8s::params;

/// A literal, what it is compared with, and how that is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Foreign {
    pub(crate) of: String,
    pub(crate) literal: String,
    pub(crate) why: &'static str,
}

/// The verbs of requests for resources, and the methods of others, as the API server calls them.
const K8S_VERBS: &[&str] = &[
    "",
    "get",
    "list",
    "watch",
    "create",
    "update",
    "patch",
    "delete",
    "deletecollection",
    "proxy",
    "head",
    "post",
    "put",
    "options",
    "connect",
];

pub(crate) fn find(node: &Node) -> Vec<Foreign> {
    let mut found = Vec::new();
    walk(node, &mut found);
    found
}

fn walk(node: &Node, found: &mut Vec<Foreign>) {
    if let Kind::Call(Function::Equal | Function::Unequal | Function::In | Function::StartsWith, args) =
        &node.kind
        && let [first, second] = args.as_slice()
    {
        match (&first.kind, &second.kind) {
            (Kind::Const(value), _) => literals(second, value, found),
            (_, Kind::Const(value)) => literals(first, value, found),
            _ => {}
        }
    }
    super::print::children(node, &mut |child| walk(child, found));
}

fn literals(of: &Node, value: &Value<'static>, found: &mut Vec<Foreign>) {
    match value {
        Value::List(items) => items.iter().for_each(|item| literals(of, item, found)),
        Value::Text(text) => {
            if let Some(why) = why(of, text) {
                found.push(Foreign {
                    of: super::print::text(of),
                    literal: value.show(),
                    why,
                });
            }
        }
        _ => {}
    }
}

/// Why a fact is never this text.
fn why(of: &Node, text: &str) -> Option<&'static str> {
    let upper = || text.bytes().any(|byte| byte.is_ascii_uppercase());
    match &of.kind {
        Kind::Slot(Slot::SqlVerb | Slot::SqlVerbs) if upper() => Some("verbs are in lower case"),
        Kind::Slot(Slot::K8sVerb) if !K8S_VERBS.contains(&text) => Some("no request has this verb"),
        Kind::Slot(Slot::K8sResource) if upper() => Some("no resource has upper case in its name"),
        Kind::Slot(Slot::HttpPath | Slot::K8sPath) if is_refused(text) => {
            Some("a path with empty or dot segments is refused")
        }
        Kind::Select(map, name) if is_params(map) && is_unread(name, text) => {
            Some("it is 'true' or 'false', however it was written")
        }
        Kind::Call(Function::Index, args) => match args.as_slice() {
            [map, key] => match &key.kind {
                Kind::Const(Value::Text(name)) if is_params(map) && is_unread(name, text) => {
                    Some("it is 'true' or 'false', however it was written")
                }
                _ => None,
            },
            _ => None,
        },
        _ => None,
    }
}

fn is_params(map: &Node) -> bool {
    matches!(map.kind, Kind::Slot(Slot::K8sParams))
}

fn is_unread(name: &str, text: &str) -> bool {
    params::is_boolean(name) && !matches!(text, "true" | "false")
}

fn is_refused(path: &str) -> bool {
    path.contains("//") || path.contains("/./") || path.contains("/../")
}
