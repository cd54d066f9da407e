//! A compiled condition as text, and what its nodes are made of. *Pure.*

use super::function::Function;
use super::node::{Kind, Node};
use super::value::Value;

pub(super) fn children<'a>(node: &'a Node, visit: &mut dyn FnMut(&'a Node)) {
    match &node.kind {
        Kind::Const(_) | Kind::Slot(_) | Kind::Var(_) | Kind::Now => {}
        Kind::Date(_, of, _) => visit(of),
        Kind::Select(of, _) | Kind::Has(of, _) | Kind::NotStrictlyFalse(of) | Kind::Matches(of, _) => {
            visit(of)
        }
        Kind::And(nodes)
        | Kind::Or(nodes)
        | Kind::List(nodes)
        | Kind::Call(_, nodes)
        | Kind::Regex(_, _, nodes) => nodes.iter().for_each(visit),
        Kind::If(parts) => parts.iter().for_each(visit),
        Kind::Map(entries) => entries.iter().for_each(|(key, value)| {
            visit(key);
            visit(value);
        }),
        Kind::Fold(fold) => {
            visit(&fold.range);
            visit(&fold.step);
        }
    }
}

/// The node as CEL, nearly as it was written.
pub(super) fn text(node: &Node) -> String {
    let all = |nodes: &[Node], between: &str| nodes.iter().map(text).collect::<Vec<_>>().join(between);
    match &node.kind {
        Kind::Const(value) => value.show(),
        Kind::Slot(slot) => super::name(*slot),
        Kind::Var(_) => "it".to_owned(),
        Kind::Select(of, field) => format!("{}.{field}", text(of)),
        Kind::Has(of, field) => format!("has({}.{field})", text(of)),
        Kind::And(nodes) => format!("({})", all(nodes, " && ")),
        Kind::Or(nodes) => format!("({})", all(nodes, " || ")),
        Kind::If(parts) => format!(
            "({} ? {} : {})",
            text(&parts[0]),
            text(&parts[1]),
            text(&parts[2])
        ),
        Kind::NotStrictlyFalse(of) => text(of),
        Kind::List(nodes) => format!("[{}]", all(nodes, ", ")),
        Kind::Map(entries) => format!("a map of {}", entries.len()),
        Kind::Matches(of, regex) => format!("{}.matches({})", text(of), Value::text(regex.as_str()).show()),
        Kind::Now => "now".to_owned(),
        Kind::Date(function, of, zone) => format!("{}.{}('{zone}')", text(of), function.name()),
        Kind::Regex(function, regex, nodes) => {
            let pattern = Value::text(regex.as_str()).show();
            format!("{}({pattern}, {})", function.name(), all(nodes, ", "))
        }
        Kind::Call(function, nodes) => call(*function, nodes),
        Kind::Fold(fold) => format!("[over {}: {}]", text(&fold.range), text(&fold.step)),
    }
}

fn call(function: Function, nodes: &[Node]) -> String {
    let name = function.name();
    match (name.trim_matches('_'), nodes) {
        ("@in", [a, b]) => format!("{} in {}", text(a), text(b)),
        ("[_]", [a, b]) => format!("{}[{}]", text(a), text(b)),
        ("[?_]", [a, b]) => format!("{}[?{}]", text(a), text(b)),
        (
            "?.",
            [
                of,
                Node {
                    kind: Kind::Const(Value::Text(field)),
                    ..
                },
            ],
        ) => format!("{}.?{field}", text(of)),
        (symbol, [a, b]) if name.starts_with('_') => format!("{} {symbol} {}", text(a), text(b)),
        (symbol, [a]) if name.ends_with('_') => format!("{symbol}{}", text(a)),
        (_, nodes) => {
            let nodes: Vec<String> = nodes.iter().map(text).collect();
            format!("{name}({})", nodes.join(", "))
        }
    }
}
