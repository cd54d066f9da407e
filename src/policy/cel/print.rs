//! Why a condition came out as it did: its decisive parts with their values.

use super::eval::Env;
use super::function::Function;
use super::node::{Kind, Node};
use super::value::Value;

/// Most lines of one explanation.
const EXPLAIN_LINES_MAX: usize = 32;

pub(super) fn explain<'a>(node: &'a Node, env: &Env<'a>) -> Vec<String> {
    let mut lines = Vec::new();
    walk(node, env, &mut lines);
    lines
}

fn walk<'a>(node: &'a Node, env: &Env<'a>, lines: &mut Vec<String>) {
    if lines.len() >= EXPLAIN_LINES_MAX {
        return;
    }
    match &node.kind {
        Kind::And(sides) | Kind::Or(sides) => {
            let outcome = env.eval_root(node);
            for side in sides {
                // Only the sides that agree with the outcome made it.
                let own = env.eval_root(side);
                if own.is_err() || outcome.is_err() || own == outcome {
                    walk(side, env, lines);
                }
            }
        }
        _ => {
            let outcome = match env.eval_root(node) {
                Ok(value) => value.show(),
                Err(fault) => format!("not known: {fault}"),
            };
            let mut reads = Vec::new();
            facts(node, env, &mut reads);
            let reads = match reads.is_empty() {
                true => String::new(),
                false => format!(" ({})", reads.join(", ")),
            };
            lines.push(format!("{} is {outcome}{reads}", text(node)));
        }
    }
}

fn facts<'a>(node: &'a Node, env: &Env<'a>, found: &mut Vec<String>) {
    if let Kind::Slot(slot) = node.kind {
        let value = env
            .eval_root(node)
            .map_or_else(|fault| fault.to_string(), |value| value.show());
        let line = format!("{} = {value}", super::name(slot));
        if !found.contains(&line) {
            found.push(line);
        }
    }
    children(node, &mut |child| facts(child, env, found));
}

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
        (symbol, [a, b]) if name.starts_with('_') => format!("{} {symbol} {}", text(a), text(b)),
        (symbol, [a]) if name.ends_with('_') => format!("{symbol}{}", text(a)),
        (_, nodes) => {
            let nodes: Vec<String> = nodes.iter().map(text).collect();
            format!("{name}({})", nodes.join(", "))
        }
    }
}
