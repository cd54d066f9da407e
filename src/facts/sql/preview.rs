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

/// Defaults that draw on nothing: those, `CURRENT_…` and constants.
const PLAIN_DEFAULTS: &str =
    "now|gen_random_uuid|clock_timestamp|statement_timestamp|timezone|md5|lower|upper";

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

impl Trial {
    /// A query of the catalogs, to be run with `search_path = pg_catalog`: one row of two texts. The
    /// first is empty where the tables do nothing of their own, else why the statement is not tried; the
    /// second is the transaction's isolation. `process` is the server process that is expected to answer.
    pub fn look(&self, process: i32) -> String {
        let list = |names: &[String]| {
            let quoted = names.iter().map(|name| format!("'{}'", name.replace('\'', "''")));
            quoted.collect::<Vec<_>>().join(",")
        };
        let defaults = match self.defaults {
            true => DRAWING.replace("{plain}", PLAIN_DEFAULTS),
            false => String::new(),
        };
        // What the agent names comes last: nothing of it is a place for what follows.
        LOOK.replace("{process}", &process.to_string())
            .replace("{defaults}", &defaults)
            .replace("{functions}", &list(&self.functions))
            .replace("{operators}", &list(&self.operators))
            .replace("{types}", &list(&self.types))
            .replace("{names}", &list(&self.tables))
    }
}

/// All tables of these names, whatever their schema, with what inherits from them and what follows
/// them by a foreign key; `types` are those of their columns, with all that these are made of. A text in
/// it has no backslash: the agent may have said what those mean. Objects from 16384 on are not the
/// server's own.
const LOOK: &str = "WITH RECURSIVE near(id) AS (
  SELECT c.oid FROM pg_catalog.pg_class c
   WHERE c.relname::text = ANY (ARRAY[{names}]::text[]) AND c.relkind NOT IN ('i','I','S','t','c')
  UNION
  SELECT x.id FROM near n CROSS JOIN LATERAL (
    SELECT i.inhrelid FROM pg_catalog.pg_inherits i WHERE i.inhparent = n.id
    UNION ALL
    SELECT k.conrelid FROM pg_catalog.pg_constraint k WHERE k.confrelid = n.id AND k.contype = 'f'
      AND (k.confdeltype IN ('c','n','d') OR k.confupdtype IN ('c','n','d'))) x(id)
), types(id) AS (
  SELECT a.atttypid FROM near n JOIN pg_catalog.pg_attribute a ON a.attrelid = n.id WHERE a.attnum > 0 AND NOT a.attisdropped
  UNION
  SELECT x.id FROM types s JOIN pg_catalog.pg_type t ON t.oid = s.id CROSS JOIN LATERAL (
    VALUES (t.typbasetype), (t.typelem), (t.typarray)
    UNION ALL
    SELECT a.atttypid FROM pg_catalog.pg_attribute a WHERE a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped
    UNION ALL
    SELECT r.rngsubtype FROM pg_catalog.pg_range r WHERE r.rngtypid = t.oid) x(id)
   WHERE t.oid >= 16384 AND x.id <> 0
), own(class, id) AS (
  SELECT 'pg_catalog.pg_attrdef'::regclass, d.oid FROM pg_catalog.pg_attrdef d JOIN near n ON d.adrelid = n.id
  UNION ALL
  SELECT 'pg_catalog.pg_constraint'::regclass, k.oid FROM pg_catalog.pg_constraint k JOIN near n ON k.conrelid = n.id
  UNION ALL
  SELECT 'pg_catalog.pg_constraint'::regclass, k.oid FROM pg_catalog.pg_constraint k
    JOIN types s ON s.id = k.contypid WHERE k.contypid <> 0
  UNION ALL
  SELECT 'pg_catalog.pg_policy'::regclass, p.oid FROM pg_catalog.pg_policy p JOIN near n ON p.polrelid = n.id
  UNION ALL
  SELECT 'pg_catalog.pg_class'::regclass, i.indexrelid FROM pg_catalog.pg_index i JOIN near n ON i.indrelid = n.id
), run(tree) AS (
  SELECT k.conbin::text FROM pg_catalog.pg_constraint k JOIN own o ON o.class = 'pg_catalog.pg_constraint'::regclass AND o.id = k.oid
  UNION ALL
  SELECT x.tree FROM pg_catalog.pg_policy p JOIN near n ON p.polrelid = n.id
    CROSS JOIN LATERAL (VALUES (p.polqual::text), (p.polwithcheck::text)) x(tree)
), foreign_type(id) AS (
  SELECT p.oid FROM pg_catalog.pg_type p WHERE p.oid >= 16384 AND NOT EXISTS (SELECT FROM types s WHERE s.id = p.oid)
)
SELECT CASE
  WHEN pg_catalog.pg_backend_pid() <> {process} THEN 'the session is not the server''s own'
  WHEN NOT EXISTS (SELECT FROM near) THEN 'its table is not there'
  WHEN EXISTS (SELECT FROM near n JOIN pg_catalog.pg_class c ON c.oid = n.id WHERE c.relkind NOT IN ('r','p'))
    THEN 'it names a view or a foreign table'
  WHEN EXISTS (SELECT FROM near n JOIN pg_catalog.pg_trigger t ON t.tgrelid = n.id WHERE NOT t.tgisinternal)
    THEN 'a trigger would run, whose effects are not known'
  WHEN EXISTS (SELECT FROM near n JOIN pg_catalog.pg_rewrite r ON r.ev_class = n.id)
    THEN 'a rule would rewrite it'
  WHEN EXISTS (SELECT FROM own o JOIN pg_catalog.pg_depend d ON d.classid = o.class AND d.objid = o.id
      WHERE d.refclassid = 'pg_catalog.pg_proc'::regclass)
    THEN 'a default, a constraint, a policy or an index calls a function that is not the server''s own'
  WHEN EXISTS (SELECT FROM types s JOIN pg_catalog.pg_type t ON t.oid = s.id WHERE t.oid >= 16384
      AND (t.typinput::oid >= 16384 OR EXISTS (SELECT FROM pg_catalog.pg_cast c
        WHERE (c.castsource = t.oid OR c.casttarget = t.oid) AND c.castfunc >= 16384)))
    THEN 'a column is of a type whose functions are not the server''s own'
  WHEN EXISTS (SELECT FROM run r CROSS JOIN LATERAL
      pg_catalog.regexp_matches(r.tree, ':(funcid|opfuncid|aggfnoid|winfnoid) ([0-9]+)', 'g') m(f)
      JOIN pg_catalog.pg_proc p ON p.oid = m.f[2]::oid WHERE p.provolatile = 'v')
    OR EXISTS (SELECT FROM run r WHERE pg_catalog.strpos(r.tree, 'NEXTVALEXPR') > 0)
    THEN 'a constraint or a policy calls a function that has effects of its own'
  WHEN EXISTS (SELECT FROM pg_catalog.pg_proc p WHERE p.proname::text = ANY (ARRAY[{functions}]::text[])
      AND p.pronamespace <> 'pg_catalog'::regnamespace
      AND NOT EXISTS (SELECT FROM pg_catalog.unnest(p.proargtypes) a(t) JOIN foreign_type f ON f.id = a.t))
    THEN 'a function that is not the server''s own has the name of one that it calls'
  WHEN EXISTS (SELECT FROM pg_catalog.pg_operator p WHERE p.oprname::text = ANY (ARRAY[{operators}]::text[])
      AND p.oprnamespace <> 'pg_catalog'::regnamespace
      AND NOT EXISTS (SELECT FROM foreign_type f WHERE f.id IN (p.oprleft, p.oprright)))
    THEN 'an operator that is not the server''s own has the name of one that it uses'
  WHEN EXISTS (SELECT FROM pg_catalog.pg_type t WHERE t.typname::text = ANY (ARRAY[{types}]::text[])
      AND t.typnamespace <> 'pg_catalog'::regnamespace)
    THEN 'a type that is not the server''s own has the name of one that it uses'
  {defaults}
  ELSE '' END, pg_catalog.current_setting('transaction_isolation')";

const DRAWING: &str = "WHEN EXISTS (SELECT FROM near n JOIN pg_catalog.pg_attribute a ON a.attrelid = n.id WHERE a.attidentity <> '')
    OR EXISTS (SELECT FROM near n JOIN pg_catalog.pg_attrdef d ON d.adrelid = n.id
      WHERE pg_catalog.regexp_replace(pg_catalog.pg_get_expr(d.adbin, d.adrelid), '\\m({plain})\\(', '', 'g') ~ '[[:alnum:]_\"]\\(')
    THEN 'a default draws on what no rollback gives back, such as a sequence'";

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
