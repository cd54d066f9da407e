//! Which statements may be tried before anyone has approved them. *Pure.*
//!
//! A trial is an execution in a transaction that is rolled back unless it is approved. So nothing is
//! tried that a rollback does not undo, or whose effects the text does not show: one INSERT, UPDATE,
//! DELETE or MERGE, of tables alone, calling nothing but the functions of [`HARMLESS`] and naming no
//! type but those of [`TYPES`]. What the text cannot show (triggers, rules, defaults, cascades, types of
//! columns, what else has the names that it uses) the server is asked by [`Trial::look`].
//!
//! It runs twice, once for a sample of its rows: so it must do the same both times. What is another
//! value each time (`clock_timestamp`, a row's `xmax`) would let it show some rows and change others.

mod look;

use std::cell::RefCell;
use std::collections::BTreeSet;

use super::Statement;
use super::look::strings;
use super::tree::Tree;

/// Built-in functions without any effect that lasts, which give the same twice in one transaction. Not
/// here: sequences, `set_config`, notifications, locks, large objects, whatever reaches files or other
/// servers; clocks and random numbers.
const HARMLESS: &[&str] = &[
    "abs",
    "age",
    "array_agg",
    "array_length",
    "array_position",
    "array_remove",
    "avg",
    "btrim",
    "cardinality",
    "ceil",
    "char_length",
    "coalesce",
    "concat",
    "concat_ws",
    "count",
    "date_part",
    "date_trunc",
    "extract",
    "floor",
    "greatest",
    "jsonb_build_object",
    "jsonb_set",
    "least",
    "left",
    "length",
    "lower",
    "lpad",
    "ltrim",
    "make_date",
    "make_interval",
    "max",
    "md5",
    "min",
    "mod",
    "now",
    "nullif",
    "octet_length",
    "position",
    "power",
    "regexp_replace",
    "replace",
    "reverse",
    "right",
    "round",
    "row_number",
    "rpad",
    "rtrim",
    "split_part",
    "string_agg",
    "strpos",
    "substr",
    "substring",
    "sum",
    "to_char",
    "to_date",
    "to_timestamp",
    "transaction_timestamp",
    "trim",
    "trunc",
    "unnest",
    "upper",
];

/// Built-in types: a cast to another may run a CHECK or a cast function of anybody's making.
const TYPES: &[&str] = &[
    "bit",
    "bool",
    "box",
    "bpchar",
    "bytea",
    "char",
    "cidr",
    "circle",
    "date",
    "float4",
    "float8",
    "inet",
    "int2",
    "int4",
    "int8",
    "interval",
    "json",
    "jsonb",
    "jsonpath",
    "line",
    "lseg",
    "macaddr",
    "macaddr8",
    "money",
    "name",
    "numeric",
    "path",
    "point",
    "polygon",
    "text",
    "time",
    "timestamp",
    "timestamptz",
    "timetz",
    "tsquery",
    "tsvector",
    "uuid",
    "varbit",
    "varchar",
    "xml",
];

/// Columns that every table has, and that are others once a change was rolled back.
const SYSTEM_COLUMNS: &[&str] = &["cmax", "cmin", "ctid", "xmax", "xmin"];

/// Operators that are used without being written.
const OPERATORS: &[&str] = &["<", "<=", "<>", "=", ">", ">="];

/// How a statement is tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trial {
    /// The same with `RETURNING` all columns of its table, for a sample of the rows.
    pub sample: Option<String>,
    /// The tables that it names, as the lists of facts name them.
    tables: Vec<String>,
    functions: Vec<String>,
    operators: Vec<String>,
    types: Vec<String>,
    /// Whether defaults of columns are evaluated.
    defaults: bool,
}

/// How a statement may be tried, or why it never is.
///
/// # Errors
/// The reason, for the approver.
pub fn trial(statement: &Statement) -> Result<Trial, String> {
    if statement.unparseable || statement.opaque {
        return Err("it runs code that cannot be read".to_owned());
    }
    let own = statement.verb.as_str();
    if !matches!(own, "insert" | "update" | "delete" | "merge") {
        return Err(format!(
            "{} is not tried: a data change by INSERT, UPDATE, DELETE or MERGE is",
            if own.is_empty() { "this" } else { own }
        ));
    }
    let several = || "it does several things at once".to_owned();
    let actions = |verb: &str| own == "merge" && matches!(verb, "insert" | "update" | "delete");
    if statement
        .verbs
        .iter()
        .any(|verb| verb != own && verb != "select" && !actions(verb))
    {
        return Err(several());
    }
    let unknown = statement
        .functions
        .iter()
        .find(|name| !HARMLESS.contains(&name.strip_prefix("pg_catalog.").unwrap_or(name)));
    if let Some(name) = unknown {
        return Err(format!("it calls {name}, which may do what no rollback undoes"));
    }
    let tree = parse(&statement.text).ok_or_else(|| "it cannot be read".to_owned())?;
    // A MERGE has its actions' verbs; in a WITH they would be changes beside it, which its count has not.
    if own == "merge" && !tree.get("with_clause").is_none() {
        return Err(several());
    }
    if tree.any(&|node| node.name() == "CurrentOfExpr") {
        return Err("it moves with a cursor".to_owned());
    }
    if tree.any(&|node| node.name() == "RangeTableSample" || takes_some(node)) {
        return Err("which rows it takes may be another matter each time".to_owned());
    }
    let (operators, types) = names(&tree)?;
    Ok(Trial {
        sample: sample(&tree, statement),
        tables: statement.tables.clone(),
        functions: statement
            .functions
            .iter()
            .map(|name| name.rsplit('.').next().unwrap_or(name).to_owned())
            .collect(),
        operators,
        types,
        defaults: matches!(own, "insert" | "merge") || tree.any(&|node| node.name() == "SetToDefault"),
    })
}

/// A query that takes some rows of many, and does not say which.
fn takes_some(node: &Tree) -> bool {
    node.name() == "SelectStmt"
        && !(node.get("limit_count").is_none() && node.get("limit_offset").is_none())
        && node.get("sort_clause").items().is_empty()
}

/// The operators and the types that it uses.
///
/// # Errors
/// It uses a type that is not built in, or reads a column that is another one each time.
fn names(tree: &Tree) -> Result<(Vec<String>, Vec<String>), String> {
    let mut operators: BTreeSet<String> = OPERATORS.iter().map(|&name| name.to_owned()).collect();
    let (named, types, why) = (
        RefCell::new(Vec::new()),
        RefCell::new(BTreeSet::new()),
        RefCell::new(None),
    );
    tree.any(&|node| {
        match node.name() {
            "AExpr" => named.borrow_mut().extend(strings(node.get("name")).pop()),
            "SubLink" => named.borrow_mut().extend(strings(node.get("oper_name")).pop()),
            "SortBy" => named.borrow_mut().extend(strings(node.get("use_op")).pop()),
            "TypeName" => match strings(node.get("names")).as_slice() {
                [name] if TYPES.contains(&name.as_str()) => {
                    types.borrow_mut().insert(name.clone());
                }
                [schema, name] if schema == "pg_catalog" && TYPES.contains(&name.as_str()) => {}
                parts => {
                    let name = parts.join(".");
                    why.replace(Some(format!("it names the type {name}, which may run anything")));
                }
            },
            "ColumnRef" => {
                let last = strings(node.get("fields")).pop().unwrap_or_default();
                if SYSTEM_COLUMNS.contains(&last.as_str()) {
                    why.replace(Some(format!("it reads {last}, which a trial changes")));
                }
            }
            _ => {}
        }
        false
    });
    operators.extend(named.into_inner());
    match why.into_inner() {
        Some(why) => Err(why),
        None => Ok((
            operators.into_iter().collect(),
            types.into_inner().into_iter().collect(),
        )),
    }
}

/// Whether EXPLAIN of it runs nothing but the planner.
pub fn is_explainable(statement: &Statement) -> bool {
    let verbs = ["select", "insert", "update", "delete", "merge"];
    verbs.contains(&statement.verb.as_str()) && !statement.opaque && !statement.unparseable && {
        let tree = parse(&statement.text);
        // Not what EXPLAIN reads otherwise: EXPLAIN itself, SELECT INTO, a COPY.
        tree.is_some_and(|tree| {
            matches!(
                tree.name(),
                "SelectStmt" | "InsertStmt" | "UpdateStmt" | "DeleteStmt" | "MergeStmt"
            ) && tree.get("into_clause").is_none()
        })
    }
}

/// The statement's tree. It was read once already, by [`super::read`].
fn parse(text: &str) -> Option<Tree> {
    let parse = || {
        let parsed = pg_query::parse(text, pg_query::ParserOptions::default()).ok()?;
        match parsed.protobuf.stmts.as_slice() {
            [one] => Tree::of(one.stmt.as_ref()?).ok(),
            _ => None,
        }
    };
    let guarded = || std::panic::catch_unwind(parse).ok().flatten();
    stacker::grow(
        super::STACK_BYTES_MIN + text.len() * super::STACK_BYTES_PER_BYTE,
        guarded,
    )
}

/// The text with its table's columns returned, where it returns nothing itself. RETURNING is the last
/// clause of each of the three.
fn sample(tree: &Tree, statement: &Statement) -> Option<String> {
    if !matches!(tree.name(), "InsertStmt" | "UpdateStmt" | "DeleteStmt")
        || !tree.get("returning_clause").is_none()
    {
        return None;
    }
    let relation = tree.get("relation");
    let alias = relation.get("alias").get("aliasname").text();
    let name = match alias {
        "" => relation.get("relname").text(),
        alias => alias,
    };
    let name = name.replace('"', "\"\"");
    let text = format!("{}\nRETURNING \"{name}\".*", statement.text);
    // The grammar must agree that nothing else was added.
    let read = parse(&text)?;
    let same = read.name() == tree.name() && !read.get("returning_clause").is_none();
    same.then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Result<Trial, String> {
        let read = super::super::read(text, 1 << 16);
        trial(read.first().unwrap())
    }

    #[test]
    fn what_a_rollback_undoes_is_tried() {
        for text in [
            "delete from orders where id = 1",
            "update orders set paid = true, at = now() where id in (select id from late)",
            "update orders set a = '1'::int4, b = '1'::text, c = cast(d as numeric(10, 2)), e = f::pg_catalog.int8[]",
            "insert into orders (id) values (1) on conflict do nothing",
            "with gone as (select id from late) delete from orders using gone where orders.id = gone.id",
        ] {
            let trial = of(text).unwrap();
            let sample = trial.sample.unwrap();
            assert!(sample.ends_with("RETURNING \"orders\".*"), "{sample}");
            assert!(trial.tables.iter().any(|name| name == "orders"));
        }
        let aliased = of("update s.\"Or\"\"ders\" as \"o\"\"x\" set a = 1 -- all").unwrap();
        assert!(aliased.sample.unwrap().ends_with("\nRETURNING \"o\"\"x\".*"));
        assert_eq!(of("delete from orders returning id as x").unwrap().sample, None);
        let merge = "merge into orders o using late l on o.id = l.id when matched then delete";
        assert_eq!(of(merge).unwrap().sample, None);
    }

    #[test]
    fn nothing_else_is() {
        for text in [
            "select 1",
            "truncate orders",
            "drop table orders",
            "copy orders from program 'id'",
            "do $$ begin end $$",
            "notify news",
            "create index concurrently i on orders (id)",
            "delete from orders where nextval('s') = 1",
            "insert into orders select setval('s', 1)",
            "update orders set a = evil(a)",
            "update orders set a = public.now()",
            "update orders set a = pg_notify('a', 'b')::text",
            "delete from orders where current of c",
            "delete from orders where id in (select id from orders tablesample bernoulli(50))",
            "delete from orders where id in (select id from orders limit 1)",
            "delete from orders where id in (select id from orders offset 1)",
            "delete from orders where (4242).pg_terminate_backend",
            "insert into orders values ('x'::mood)",
            "insert into orders values (cast('x' as own.text))",
            "update orders set a = 'x'::own.text[]",
            "delete from orders where clock_timestamp() < now()",
            "delete from orders where id = 1 and gen_random_uuid()::text < '8'",
            "delete from orders where (xmax = 0) = (id = 1)",
            "delete from orders o where o.ctid = '(0,1)'",
            "with gone as (delete from late returning id) update orders set a = 1",
            "with gone as (delete from late returning id) merge into orders o using gone g on o.id = g.id \
             when matched then delete",
            "explain analyze delete from orders",
            "delete from",
            "vacuum orders",
            "call proc()",
        ] {
            assert!(of(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_planner_alone_runs_for_explain() {
        let explainable = |text: &str| is_explainable(super::super::read(text, 1 << 16).first().unwrap());
        assert!(explainable("select * from orders"));
        assert!(explainable("delete from orders where nextval('s') = 1"));
        for text in [
            "select * into o2 from orders",
            "explain analyze delete from orders",
            "drop table orders",
            "select evil()",
            "create table o2 as select 1",
        ] {
            assert!(!explainable(text), "{text}");
        }
    }

    #[test]
    fn names_stay_texts_in_the_look() {
        let look = of("delete from \"a'); drop table b; --\"").unwrap().look(7);
        assert!(look.contains("'a''); drop table b; --'"), "{look}");
        assert!(!look.contains('\\'), "{look}");
        assert!(look.contains("<> 7"));
        assert!(!look.contains('{'), "{look}");
        assert!(!look.contains("attidentity"));
        assert!(
            of("insert into orders values (default)")
                .unwrap()
                .look(7)
                .contains("attidentity")
        );
    }
}
