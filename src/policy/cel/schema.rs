//! Whether a condition may tell an SQL name by its schema, so that it matters where a session looks
//! names up. *Pure.*
//!
//! A condition that holds bare names against bare names means tables of any schema, and is served by the lists
//! as they are. One that names a schema (`'public.users' in sql.tables`), or looks into the names by a
//! pattern, needs the session's `search_path`.

use super::function::Function;
use super::node::{Kind, Node};
use super::value::Value;
use crate::facts::Slot;

/// Whether the condition could be decided by the schema of a name.
pub(super) fn matters(node: &Node) -> bool {
    match &node.kind {
        Kind::Const(value) => is_qualified(value),
        Kind::Slot(slot) => *slot == Slot::SqlSearchPath,
        Kind::Var(_) | Kind::Now => false,
        // A pattern may look at the part before the dot.
        Kind::Matches(of, _) => touches(of),
        Kind::Regex(_, _, of) => of.iter().any(touches),
        Kind::Call(function, args) => {
            let compares = args.iter().any(touches) && (!is_plain(*function) || args.iter().any(qualified));
            compares || args.iter().any(|arg| !is_const(arg) && matters(arg))
        }
        Kind::Fold(fold) => {
            // What the variable is held against stands inside; a list of names may be what is walked.
            let parts = [&fold.range, &fold.init, &fold.condition, &fold.step, &fold.result];
            parts.into_iter().any(matters)
        }
        Kind::Select(of, _) | Kind::Has(of, _) | Kind::NotStrictlyFalse(of) | Kind::Date(_, of, _) => {
            matters(of)
        }
        Kind::And(parts) | Kind::Or(parts) | Kind::List(parts) => parts.iter().any(matters),
        Kind::If(parts) => parts.iter().any(matters),
        Kind::Map(entries) => entries.iter().any(|(key, value)| matters(key) || matters(value)),
    }
}

/// Whether a part reads names of tables or functions, or a variable, which may hold one.
fn touches(node: &Node) -> bool {
    match &node.kind {
        Kind::Slot(slot) => matches!(
            slot,
            Slot::SqlTables | Slot::SqlReads | Slot::SqlWrites | Slot::SqlFunctions | Slot::SqlSearchPath
        ),
        Kind::Var(_) => true,
        Kind::Const(_) | Kind::Now => false,
        Kind::Matches(of, _)
        | Kind::Select(of, _)
        | Kind::Has(of, _)
        | Kind::NotStrictlyFalse(of)
        | Kind::Date(_, of, _) => touches(of),
        Kind::Regex(_, _, parts)
        | Kind::Call(_, parts)
        | Kind::And(parts)
        | Kind::Or(parts)
        | Kind::List(parts) => parts.iter().any(touches),
        Kind::If(parts) => parts.iter().any(touches),
        Kind::Map(entries) => entries.iter().any(|(key, value)| touches(key) || touches(value)),
        Kind::Fold(fold) => touches(&fold.range) || touches(&fold.step),
    }
}

/// Functions that hold whole names against whole names, or look at none.
fn is_plain(function: Function) -> bool {
    use Function as F;
    matches!(
        function,
        F::Not
            | F::Equal
            | F::Unequal
            | F::In
            | F::SetsContains
            | F::SetsEquivalent
            | F::SetsIntersects
            | F::Size
            | F::SizeOf
            | F::ToDyn
            | F::Add
    )
}

fn is_const(node: &Node) -> bool {
    matches!(node.kind, Kind::Const(_))
}

/// Whether a text with a dot stands in a part.
fn qualified(node: &Node) -> bool {
    match &node.kind {
        Kind::Const(value) => is_qualified(value),
        Kind::List(parts) | Kind::Call(_, parts) => parts.iter().any(qualified),
        Kind::Map(entries) => entries
            .iter()
            .any(|(key, value)| qualified(key) || qualified(value)),
        Kind::If(parts) => parts.iter().any(qualified),
        _ => false,
    }
}

fn is_qualified(value: &Value<'_>) -> bool {
    match value {
        Value::Text(text) => text.contains('.'),
        Value::List(items) => items.iter().any(is_qualified),
        Value::Map(entries) => entries
            .iter()
            .any(|(key, value)| is_qualified(key) || is_qualified(value)),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::super::Condition;
    use crate::facts::Family;

    #[test]
    fn bare_names_do_not_ask_for_the_path() {
        let check = |text: &str, want: bool| {
            let condition = Condition::compile(text, Family::Sql).unwrap();
            assert_eq!(condition.names_schemas(), want, "{text}");
        };
        check("'users' in sql.tables", false);
        check("sql.tables.all(t, t in ['orders', 'items'])", false);
        check("sql.verbs == ['select'] && size(sql.writes) == 0", false);
        check(
            "sql.database == 'a.b' && sql.statement.contains('.') && 'users' in sql.tables",
            false,
        );
        check("sets.intersects(sql.tables, ['users'])", false);
        check("'public.users' in sql.tables", true);
        check("sql.reads.exists(t, t == 'public.users')", true);
        check("sql.tables.all(t, t in ['orders', 'public.orders'])", true);
        check("sql.tables.exists(t, t.startsWith('secret'))", true);
        check("sql.writes.exists(t, t.matches('^secret'))", true);
        check("sql.tables.exists(t, ['public', 'users'].join('.') == t)", true);
        check("sql.functions.exists(f, f == 'app.' + 'f')", true);
        check("sets.intersects(['public.users'], sql.tables)", true);
        check("sql.search_path == ['public']", true);
        check("sql.tables.exists(t, t < 'q')", true);
        check("['public.users'].exists(t, t in sql.tables)", true);
        check("{'public.users': true}.exists(t, t in sql.tables)", true);
        check("sql.tables.exists(t, t in {'public.users': true})", true);
    }
}
