//! Tricks by which a statement hides what it does (`evasions.jsonl`), each run by a real server: what that locked, read
//! and wrote is in the facts, or the facts say that it cannot be told.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::Value;
use tailkeep::facts::Facts;
use tailkeep::facts::sql::{SqlFacts, Statement, read};
use tailkeep::policy::{Policy, Source};
use tailkeep::verdict::Verdict;

use crate::facts::TABLES;
use crate::raw::Raw;
use crate::world::{SETUP, Setup, both, server};

/// What the tricks call beside the tables.
const MORE: &str = "
create function ends() returns boolean language sql as 'select pg_terminate_backend(0)';
create function runs(text) returns void language plpgsql as 'begin execute $1; end';
create function wipe(t) returns int language sql as 'delete from secrets returning 1';
create function fits(int) returns boolean language sql as 'select count(*) >= 0 from secrets';
create domain guarded as int check (fits(value));
create function same(int, int) returns boolean language sql as 'select count(*) >= 0 from secrets';
create operator public.@@@ (leftarg = int, rightarg = int, function = same);
create schema kept;
create table hoard (a int);
create materialized view kept.seen as select a from hoard;
create table kept.names as select oid, relname from pg_class
  where relnamespace = 'public'::regnamespace and relkind in ('r', 'v', 'm', 'p');
";

/// By the names that were kept: a table that the text drops has none any more.
const LOCKED: &str = "select 'L:' || n.relname || '/' || l.mode from pg_locks l join kept.names n on n.oid = l.relation \
    where l.pid = pg_backend_pid()";

/// Why the facts are not held against the server: what they say instead.
fn blind(all: &[std::sync::Arc<Statement>]) -> Option<&'static str> {
    let any = |says: fn(&Statement) -> bool| all.iter().any(|one| says(one));
    match (
        any(|one| one.unparseable),
        any(|one| one.opaque),
        any(|one| one.wide),
    ) {
        (true, ..) => Some("unparseable"),
        (_, true, _) => Some("opaque"),
        (.., true) => Some("wide"),
        _ => None,
    }
}

/// What hides a part of itself meets none of these by what its text alone shows.
const CLEAN: &[&str] = &[
    "sql.tables.all(t, t in ['t', 'seen', 'kept.seen'])",
    "!sql.reads.exists(t, t == 'secrets')",
    "!('secrets' in sql.writes)",
    "sql.objects.all(o, o != 'secrets')",
];
/// Nor one of these, if it is code that is hidden.
const CLEAN_CODE: &[&str] = &[
    "sql.verbs.all(v, v in ['select', 'update'])",
    "!sql.functions.exists(f, f == 'pg_terminate_backend')",
    "sql.functions.all(f, f != 'pg_terminate_backend')",
    "!('a' in sql.columns) && !('*' in sql.columns)",
    "sql.has_where",
    "sql.row_limit == 1",
];

/// A policy that allows what meets a condition.
fn allowing(condition: &str) -> Policy {
    let text = format!(
        "endpoint \"postgres\" \"e\" {{ host = \"e.test\" }}\n\
         profile \"ci\" {{\n  tags = [\"tag:ci\"]\n  endpoints = [postgres.e]\n}}\n\
         rule \"r\" {{\n  endpoint = postgres.e\n  condition = \"{condition}\"\n  verdict = \"allow\"\n}}\n"
    );
    let path = "policy.hcl".into();
    let none = |_: &std::path::Path| Err(std::io::ErrorKind::NotFound.into());
    Policy::load(vec![Source { path, text }], &none).unwrap_or_else(|errors| panic!("{errors}"))
}

fn meets(policy: &Policy, one: &Arc<Statement>) -> bool {
    let facts = SqlFacts::new(one.clone(), "d", "ann");
    let said = policy.evaluate_recorded(
        ("ci", &Facts::None),
        "postgres.e",
        None,
        &facts,
        chrono::Utc::now(),
    );
    matches!(said.verdict, Verdict::Allow { .. })
}

#[tokio::test]
async fn no_trick_hides_what_the_server_does() {
    let server = server(&[]).await;
    assert!(server.sql(TABLES) && server.sql(MORE));
    let clean = [CLEAN, CLEAN_CODE].concat();
    let clean: Vec<_> = clean.into_iter().map(|one| (one, allowing(one))).collect();
    // What hides nothing meets them.
    let plain = &read("select b from t where b = 1 limit 1", 1 << 10)[0];
    assert!(clean.iter().all(|(_, policy)| meets(policy, plain)));
    let mut wrong = Vec::new();
    let mut seen = 0;
    for line in include_str!("evasions.jsonl").lines() {
        let case: Value = serde_json::from_str(line).unwrap();
        let (trick, text) = (case["trick"].as_str().unwrap(), case["sql"].as_str().unwrap());
        let said = server.says(&format!("begin;\n{text}\n;{LOCKED}; rollback"));
        let locks: Vec<(&str, &str)> = said
            .lines()
            .filter_map(|line| line.strip_prefix("L:")?.split_once('/'))
            .collect();
        seen += usize::from(!locks.is_empty());
        let all = read(text, 128 << 10);
        let expected = case["blind"].as_str().filter(|blind| *blind != "named");
        if blind(&all) != expected {
            wrong.push(format!("{trick}: {:?}, and not {expected:?}", blind(&all)));
            continue;
        }
        if expected.is_some() {
            for one in all.iter().filter(|one| one.opaque || one.wide) {
                let asked = clean
                    .iter()
                    .take(if one.opaque { clean.len() } else { CLEAN.len() });
                for (condition, _) in asked.filter(|(_, policy)| meets(policy, one)) {
                    wrong.push(format!("{trick}: it meets {condition}"));
                }
            }
            continue;
        }
        if case["blind"] == "named" {
            let named = all.iter().any(|one| {
                one.functions.contains(&"wipe".to_owned()) || one.columns.contains(&"wipe".to_owned())
            });
            if !named {
                wrong.push(format!("{trick}: nothing names the function"));
            }
            continue;
        }
        let names = |list: fn(&Statement) -> &Vec<String>| -> BTreeSet<&str> {
            all.iter().flat_map(|one| list(one)).map(String::as_str).collect()
        };
        let (tables, writes) = (names(|one| &one.tables), names(|one| &one.writes));
        for (name, mode) in &locks {
            let changes = !matches!(*mode, "AccessShareLock" | "RowShareLock");
            if !tables.contains(name)
                || (changes && !writes.contains(name) && !all.iter().any(|one| one.locks))
            {
                wrong.push(format!(
                    "{trick}: {name} {mode}, facts {tables:?}, writes {writes:?}"
                ));
            }
            if *mode == "RowShareLock" && !all.iter().any(|one| one.locks) {
                wrong.push(format!("{trick}: {name} is locked, and sql.locks is false"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(seen > 80, "{seen}");
}

/// On the wire: a list of forbidden functions is not got round by a text that another runs, nor by somebody's own
/// function; and who lists a function of their own has it.
#[tokio::test]
async fn a_list_of_forbidden_functions_holds_on_the_wire() {
    let (server, world) = both().await;
    assert!(server.sql("create function own() returns int language sql as 'select 7'"));
    let rules = |first: &str| {
        format!(
            "rule \"first\" {{\n  endpoint = postgres.orders\n  priority = 10\n  {first}\n}}\n\
             rule \"selects\" {{\n  endpoint = postgres.orders\n  condition = \"sql.verb == 'select'\"\n  verdict = \"allow\"\n}}\n"
        )
    };
    let banned = rules("condition = \"'pg_sleep' in sql.functions\"\n  verdict = \"deny\"");
    let listed = rules("condition = \"sql.functions.all(f, f in ['own', 'lower'])\"\n  verdict = \"allow\"");
    let mut raw = Raw::enter(world.address).await;
    let by_text = "select query_to_xml('select pg_sleep(0)', true, true, '')";
    for (rules, text, tags) in [
        (&banned, "select lower('A')", "TDCZ"),
        (&banned, "select pg_sleep(0)", "EZ"),
        (&banned, by_text, "EZ"),
        (&banned, "select own()", "EZ"),
        (&listed, "select own(), lower('A')", "TDCZ"),
        (&listed, by_text, "EZ"),
        (&listed, "select own(), pg_sleep(0)", "EZ"),
        (&listed, "select 1", "TDCZ"),
    ] {
        world.reload(server.port, Setup { rules, ..SETUP });
        let came = raw.query(text).await;
        assert_eq!(came.tags, tags, "{text}: {came:?}");
        assert!(tags != "EZ" || came.text().contains("42501"), "{text}: {came:?}");
    }
}

/// Whoever may select no column but those that the facts name may run it: the server looks at no other.
#[tokio::test]
async fn the_server_looks_at_no_column_that_the_facts_do_not_name() {
    let server = server(&[]).await;
    assert!(server.sql(
        "create table wide (a int, b int, c int, d int, secret int); insert into wide values (1, 2, 3, 4, 5); \
         create table far (a int, e int); insert into far values (1, 2); create role bob"
    ));
    for text in [
        "select a from wide",
        "select w.a as x from wide w",
        "select public.wide.a from wide",
        "select 1 from wide where b = 1",
        "select count(*) from wide group by c having max(d) > 1",
        "select 1 from wide order by d",
        "select a from wide w join far f using (a)",
        "select e from far natural join (select a from wide) w",
        "select (select max(b) from wide where wide.a = far.a) from far",
        "select sum(a) over (partition by b order by c) from wide",
        "select count(a) filter (where b > 1) from wide",
        "select x.q from (select b as q from wide) x",
        "with x as (select c from wide) select * from (select c from x) y",
    ] {
        let statement = read(text, 1 << 10).remove(0);
        assert!(!statement.columns.contains(&"secret".to_owned()), "{text}");
        let of = |own: &[&str]| {
            let named = own
                .iter()
                .filter(|own| statement.columns.iter().any(|name| name == *own));
            named.copied().collect::<Vec<_>>().join(", ")
        };
        let (wide, far) = (of(&["a", "b", "c", "d"]), of(&["a", "e"]));
        let grant = |table: &str, columns: &str| match columns {
            "" => String::new(),
            columns => format!("grant select ({columns}) on {table} to bob; "),
        };
        let grants = format!("{}{}", grant("wide", &wide), grant("far", &far));
        let run = |text: &str| server.sql(&format!("begin; {grants} set local role bob; {text}; rollback"));
        assert!(
            run(text),
            "{text}: the server asks for more than {:?}",
            statement.columns
        );
        assert!(!run("select secret from wide"), "the role may read all");
    }
}

/// No more rows come than the limit that the facts have.
#[tokio::test]
async fn no_more_rows_come_than_the_limit_says() {
    let server = server(&[]).await;
    for text in [
        "select g from generate_series(1, 50) g limit 3",
        "select g from generate_series(1, 50) g fetch first 3 rows only",
        "(select g from generate_series(1, 50) g) limit 3",
        "select g from generate_series(1, 50) g union all select 1 limit 3",
        "with x as (select g from generate_series(1, 50) g) select * from x limit 3",
        "(select g from generate_series(1, 50) g limit 3) union all select g from generate_series(1, 50) g",
        "select g from (select g from generate_series(1, 50) g limit 3) x, generate_series(1, 9)",
        "select g from generate_series(1, 50) g limit all",
        "select g from generate_series(1, 50) g limit null",
        "select g from generate_series(1, 50) g order by g fetch first 3 rows with ties",
        "select 1 from generate_series(1, 50) g order by 1 fetch first 3 rows with ties",
        "select g from generate_series(1, 50) g limit 1 + 2",
    ] {
        let rows = i64::try_from(server.says(text).lines().count()).unwrap();
        let limit = read(text, 1 << 10).remove(0).row_limit;
        assert!(
            limit.is_none_or(|limit| rows <= limit),
            "{text}: {rows} rows, limit {limit:?}"
        );
    }
    let plain = read("select g from t g limit 3", 1 << 10).remove(0);
    assert_eq!(plain.row_limit, Some(3));
}
