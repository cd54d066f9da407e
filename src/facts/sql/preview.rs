//! Which statements may be tried before anyone has approved them. *Pure.*
//!
//! A trial is an execution in a transaction that is rolled back unless it is approved. So nothing is
//! tried that a rollback does not undo, or whose effects the text does not show: one INSERT, UPDATE,
//! DELETE or MERGE, of tables alone, calling nothing but the functions of [`HARMLESS`]. What the text
//! cannot show (triggers, rules, defaults, cascades) the server is asked by [`Trial::look`].

use std::fmt::Write as _;

use super::Statement;
use super::tree::Tree;

/// Built-in functions without any effect that lasts. Not here: sequences, `set_config`, notifications,
/// locks, large objects, whatever reaches files or other servers.
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
    "clock_timestamp",
    "coalesce",
    "concat",
    "concat_ws",
    "count",
    "date_part",
    "date_trunc",
    "extract",
    "floor",
    "gen_random_uuid",
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
    "statement_timestamp",
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
    Ok(Trial {
        sample: sample(&tree, statement),
        tables: statement.tables.clone(),
        defaults: matches!(own, "insert" | "merge") || tree.any(&|node| node.name() == "SetToDefault"),
    })
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
    /// A query of the catalogs, to be run with `search_path = pg_catalog`: one row of one text, empty
    /// where the tables do nothing of their own, else why the statement is not tried. `process` is the
    /// server process that is expected to answer.
    pub fn look(&self, process: i32) -> String {
        let mut names = String::new();
        for (at, name) in self.tables.iter().enumerate() {
            let comma = if at > 0 { "," } else { "" };
            let _ = write!(names, "{comma}'{}'", name.replace('\'', "''"));
        }
        let defaults = match self.defaults {
            true => DRAWING.replace("{plain}", PLAIN_DEFAULTS),
            false => String::new(),
        };
        LOOK.replace("{names}", &names)
            .replace("{process}", &process.to_string())
            .replace("{defaults}", &defaults)
    }
}

/// All tables of these names, whatever their schema, with what inherits from them and what follows
/// them by a foreign key.
const LOOK: &str = "WITH RECURSIVE near(id) AS (
  SELECT c.oid FROM pg_catalog.pg_class c
   WHERE c.relname::text = ANY (ARRAY[{names}]::text[]) AND c.relkind NOT IN ('i','I','S','t','c')
  UNION
  SELECT x.id FROM near n CROSS JOIN LATERAL (
    SELECT i.inhrelid FROM pg_catalog.pg_inherits i WHERE i.inhparent = n.id
    UNION ALL
    SELECT k.conrelid FROM pg_catalog.pg_constraint k WHERE k.confrelid = n.id AND k.contype = 'f'
      AND (k.confdeltype IN ('c','n','d') OR k.confupdtype IN ('c','n','d'))) x(id)
), own(class, id) AS (
  SELECT 'pg_catalog.pg_attrdef'::regclass, d.oid FROM pg_catalog.pg_attrdef d JOIN near n ON d.adrelid = n.id
  UNION ALL
  SELECT 'pg_catalog.pg_constraint'::regclass, k.oid FROM pg_catalog.pg_constraint k JOIN near n ON k.conrelid = n.id
  UNION ALL
  SELECT 'pg_catalog.pg_constraint'::regclass, k.oid FROM pg_catalog.pg_constraint k
    JOIN pg_catalog.pg_attribute a ON a.atttypid = k.contypid JOIN near n ON a.attrelid = n.id WHERE k.contypid <> 0
  UNION ALL
  SELECT 'pg_catalog.pg_policy'::regclass, p.oid FROM pg_catalog.pg_policy p JOIN near n ON p.polrelid = n.id
  UNION ALL
  SELECT 'pg_catalog.pg_class'::regclass, i.indexrelid FROM pg_catalog.pg_index i JOIN near n ON i.indrelid = n.id
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
  {defaults}
  ELSE '' END";

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
