use super::*;
use crate::facts::{Blind, Fact, FactSource, View};

const BYTES_MAX: usize = 128 << 10;

fn one(text: &str) -> Arc<Statement> {
    let mut statements = read(text, BYTES_MAX);
    assert_eq!(statements.len(), 1, "{text}");
    statements.remove(0)
}

/// `verbs | reads | writes | functions | flags`, names parted by spaces.
#[track_caller]
fn check(text: &str, want: &str) {
    let statement = one(text);
    let mut flags = Vec::new();
    let mut flag = |on: bool, name: &str| on.then(|| flags.push(name.to_owned()));
    flag(statement.unparseable, "unparseable");
    flag(statement.has_where, "where");
    flag(statement.program, "program");
    flag(statement.role_change, "role");
    flag(statement.opaque, "opaque");
    if let Some(limit) = statement.row_limit {
        flags.push(format!("limit={limit}"));
    }
    let lists = [
        &statement.verbs,
        &statement.reads,
        &statement.writes,
        &statement.functions,
        &flags,
    ];
    let got = lists.map(|list| list.join(" ")).join(" | ");
    let tidy = |text: &str| text.split('|').map(str::trim).collect::<Vec<_>>().join(" | ");
    assert_eq!(tidy(&got), tidy(want), "{text}");
    assert_eq!(
        statement.verb,
        statement.verbs.first().cloned().unwrap_or_default(),
        "{text}"
    );
}

#[test]
fn queries() {
    check("SELECT 1", "select||||");
    check("select a from t where b = 1 limit 5", "select|t|||where limit=5");
    check("TABLE t", "select|t|||");
    check("VALUES (1)", "select||||");
    check(
        "select * from public.t, \"Q\".\"U\" as x",
        "select|public.t t Q.U U|||",
    );
    check(
        "select count(*), pg_catalog.lower(a) from t",
        "select|t||count pg_catalog.lower lower|",
    );
    check("with c as (select * from a) select * from c, b", "select|a b|||");
    check("with c as (select * from c) select * from c", "select|c|||");
    check(
        "with recursive c as (select 1 union select * from c) select * from c",
        "select||||",
    );
    check(
        "select * from (with c as (select 1) select * from c) x, c",
        "select|c|||",
    );
    check(
        "select * from t where a in (select b from u)",
        "select|t u|||where",
    );
    check("select * into n from t", "select create|t|n||");
    check("select extract(year from d) from t", "select|t||extract|");
    check("select a from t fetch first 3 rows only", "select|t|||limit=3");
    check(
        "select * from generate_series(1, 2) g",
        "select|||generate_series|",
    );
    check("select dblink('x', 'drop table t')", "select|||dblink|opaque");
    for name in [
        "table_to_xml",
        "schema_to_xml_and_xmlschema",
        "database_to_xml",
        "crosstab3",
        "xpath_table",
    ] {
        check(
            &format!("select {name}('secrets')"),
            &format!("select|||{name}|opaque"),
        );
    }
    check(
        "select set_config('role', 'admin', false)",
        "select|||set_config|role",
    );
    check(
        "select set_config('work_mem', '1MB', false)",
        "select|||set_config|",
    );
    check(
        "select set_config(a, 'x', false) from t",
        "select|t||set_config|role",
    );
}

#[test]
fn changes_of_rows() {
    check("insert into t(a) values (1)", "insert||t||");
    check("insert into t select * from u", "insert select|u|t||");
    check(
        "insert into t values (1) on conflict (a) do update set a = 2",
        "insert update||t||where",
    );
    check(
        "update s.t set a = f(1) from u where t.id = u.id",
        "update|u|s.t t|f|where opaque",
    );
    check("update t set a = 1", "update||t||");
    check("delete from t", "delete||t||");
    check("delete from t where true", "delete||t||");
    check("delete from t where 1 = 1", "delete||t||");
    check("delete from t where id = id", "delete||t||");
    check("delete from t where id = 1 or true", "delete||t||");
    check("delete from t where id = 1 and true", "delete||t||where");
    check("delete from t using u where t.id = u.id", "delete|u|t||where");
    check(
        "with d as (delete from t returning *) select * from d",
        "select delete||t||",
    );
    check(
        "with d as (delete from t where id = 1 returning *) insert into l select * from d",
        "insert delete select||t l||where",
    );
    check(
        "merge into t using u on t.id = u.id when matched then delete when not matched then insert values (1)",
        "merge delete insert|u|t||where",
    );
}

#[test]
fn what_runs_inside_other_statements() {
    check("explain delete from t", "explain||t||");
    check("explain analyze delete from t", "explain delete||t||");
    check("explain (analyze off) delete from t", "explain||t||");
    check(
        "explain (analyze, verbose) delete from t where a = 1",
        "explain delete||t||where",
    );
    check("prepare p as delete from t", "prepare delete||t||");
    check("copy (delete from t returning *) to stdout", "copy delete||t||");
    check("copy t to stdout", "copy|t|||");
    check("copy t from stdin", "copy||t||");
    check("copy t from program 'id'", "copy||t||program");
    check("declare c cursor for select * from t", "declare select|t|||");
    check("create table n as select * from t", "create select|t|n||");
    check("create view v as select * from t", "create|t|v||");
    check(
        "create rule r as on insert to t do also delete from u",
        "create delete||t u||",
    );
}

#[test]
fn definitions_and_rights() {
    check("drop table a, s.b", "drop||a s.b b||");
    check("truncate a, b", "truncate||a b||");
    check("alter table t add column c int", "alter||t||");
    check("alter table t rename to u", "alter||u t||");
    check("create table t (a int references u)", "create||t u||");
    check("create index on t (lower(a))", "create||t|lower|");
    check("grant select on t to bob", "grant||t||");
    check("revoke all on t from bob", "revoke||t||");
    check("grant admin to bob", "grant||||");
    check("create role x", "create||||");
    check("lock table t", "lock||t||");
    check("vacuum t", "vacuum||t||");
    check("comment on table t is 'x'", "comment||t||");
    // The view's own query runs, unseen.
    check("refresh materialized view v", "refresh||v||opaque");
    check("refresh materialized view v with no data", "refresh||v||");
    check("do $$ begin end $$", "do||||opaque");
    check("call p(1)", "call|||p|opaque");
    check("execute p", "execute||||opaque");
    check("set role admin", "set||||role");
    check("reset role", "reset||||role");
    check("set session authorization x", "set||||role");
    check("set work_mem = '1MB'", "set||||");
    check("discard all", "discard||||role");
    check("begin", "begin||||");
    check("rollback to savepoint a", "rollback||||");
    check("show work_mem", "show||||");
}

#[test]
fn a_text_is_cut_where_the_server_cuts_it() {
    #[track_caller]
    fn check(text: &str, want: &[&str]) {
        let verbs: Vec<String> = read(text, BYTES_MAX).iter().map(|one| one.verb.clone()).collect();
        assert_eq!(verbs, want, "{text}");
    }
    check("", &[]);
    check(" ; ; -- nothing", &[]);
    check("select 1; drop table t", &["select", "drop"]);
    // Three that a hand-written reader took for one SELECT.
    check("SELECT E'\\''; DROP TABLE users; --'", &["select", "drop"]);
    check("SELECT 1 AS a$$; DROP TABLE users; --$$", &["select", "drop"]);
    check("SELECT 1 --\r; DROP TABLE users", &["select", "drop"]);
    check(
        "select ';'; select $a$;$a$ /* ; /* ; */ ; */",
        &["select", "select"],
    );
}

#[test]
fn what_the_grammar_refuses_is_unparseable_and_nothing_breaks() {
    for text in ["selec 1", "select 'open", "select 1; selec", "\0", "select \0"] {
        let before = crate::bad_input::counted(crate::bad_input::Reader::Sql, "unparseable");
        let statements = read(text, BYTES_MAX);
        assert!(statements.len() == 1 && statements[0].unparseable, "{text:?}");
        assert!(crate::bad_input::counted(crate::bad_input::Reader::Sql, "unparseable") > before);
    }
    let deep = [
        format!("select 1{}", " + 1".repeat(20_000)),
        format!("select {} true", "not ".repeat(5_000)),
        format!("select {}1{}", "(".repeat(60_000), ")".repeat(60_000)),
        format!("select {}1{}", "(select ".repeat(8_000), ")".repeat(8_000)),
        format!("select a{}", " or a".repeat(20_000)),
    ];
    for text in deep {
        let statements = read(&text, BYTES_MAX);
        assert_eq!(statements.len(), 1);
    }
    assert!(read(&format!("select '{}'", "x".repeat(BYTES_MAX)), BYTES_MAX)[0].unparseable);
}

#[test]
fn unknown_facts_are_never_empty() {
    let facts = SqlFacts::new(one("selec"), "d", "u");
    assert!(matches!(
        facts.fact(Slot::SqlTables),
        Fact::Unknown(Blind::Unparseable)
    ));
    assert!(matches!(
        facts.fact(Slot::SqlUnparseable),
        Fact::Known(View::Bool(true))
    ));
    let facts = SqlFacts::new(Arc::new(Statement::opaque("f")), "d", "u");
    assert!(matches!(facts.fact(Slot::SqlVerbs), Fact::Unknown(Blind::Opaque)));
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(400))]
    #[test]
    fn never_panics(text in "((select|delete|from|where|t|u|with|as|\\(|\\)|;|'|\\$\\$|--|,|1|=|insert|into|values|explain|copy|to)[ \n]){0,24}") {
        let _ = read(&text, BYTES_MAX);
    }
}

#[test]
fn a_value_that_is_longer_than_any_of_the_readings_changes_none() {
    let rereads = |letters: usize| {
        one(&format!(
            "select set_config(name, '{}', false) from t",
            "a".repeat(letters)
        ))
        .rereads
    };
    let most = setting::READING_VALUE_CHARS_MAX;
    assert_eq!((rereads(most), rereads(most + 1)), (true, false));
}

#[test]
fn what_execute_runs_and_what_changes_the_reading() {
    let facts = |text: &str| {
        let one = one(text);
        (one.executes.join(" "), one.opaque, one.opaque_itself, one.rereads)
    };
    let name = |name: &str| (name.to_owned(), true, false, false);
    let plain = |opaque: bool, rereads: bool| (String::new(), opaque, opaque, rereads);
    for (text, want) in [
        ("execute p", name("p")),
        ("EXPLAIN ANALYZE EXECUTE \"P\"(1)", name("P")),
        ("create table t as execute p", name("p")),
        ("explain execute p", name("p")),
        ("select 1", plain(false, false)),
        ("do $$ begin end $$", plain(true, false)),
        ("set \"CLIENT_ENCODING\" = 'sjis'", plain(false, true)),
        ("set client_encoding = 'UTF8'", plain(false, false)),
        ("set client_encoding from current", plain(false, false)),
        ("set standard_conforming_strings = 1", plain(false, false)),
        ("set standard_conforming_strings = 0", plain(false, true)),
        ("reset client_encoding", plain(false, false)),
        (
            "select set_config('work_mem'::text, '1', false)",
            plain(false, false),
        ),
        (
            "select set_config('work_mem'::own.text, '1', false)",
            plain(true, true),
        ),
        ("select set_config(b'1', '1', false)", plain(false, true)),
        // pg_dump.
        (
            "select set_config(name, 'view, foreign-table', false) from pg_settings",
            plain(false, false),
        ),
        (
            "select set_config(name, 's-j-i-s--------------', false) from pg_settings",
            plain(false, true),
        ),
        (
            "select set_config(name, '123456789012345', false) from pg_settings",
            plain(false, true),
        ),
        (
            "select set_config(name, '1234567890123456', false) from pg_settings",
            plain(false, false),
        ),
        ("select set_config(name, value, false) from t", plain(false, true)),
        (
            "select set_config('client_encoding', '1234567890123456', false)",
            plain(false, true),
        ),
        (
            "select set_config(name, is_local => false, new_value => 'sjis') from t",
            plain(false, true),
        ),
        ("update pg_settings set setting = 'x'", plain(false, true)),
        ("update settings set setting = 'x'", plain(false, false)),
    ] {
        assert_eq!(facts(text), want, "{text}");
    }
    assert!(one("set \"ROLE\" = admin").role_change);
    assert!(one("update pg_settings set setting = 'x'").role_change);
}

#[test]
fn execute_takes_the_facts_of_what_it_runs() {
    let delete = &one("prepare p as delete from secrets where id = $1 and lower(b) = c").prepares;
    let delete = delete.as_deref().unwrap();
    for (text, verb, verbs, writes) in [
        ("execute p", "delete", "delete", "secrets"),
        (
            "explain analyze execute p",
            "explain",
            "explain delete",
            "secrets",
        ),
        ("explain execute p", "explain", "explain", "secrets"),
        (
            "create table c as execute p",
            "create",
            "create delete",
            "c secrets",
        ),
    ] {
        let whole = one(text).executing(delete);
        assert_eq!(whole.verb, verb, "{text}");
        assert_eq!(whole.verbs.join(" "), verbs, "{text}");
        assert_eq!(whole.writes.join(" "), writes, "{text}");
        assert!(
            whole.functions.contains(&"lower".to_owned()) && !whole.opaque,
            "{text}"
        );
        assert_eq!(whole.text, format!("{text}\n{}", delete.text));
    }
    assert!(one("execute p(dblink('x', 'y'))").executing(delete).opaque);
    let copy = &one("prepare p as select 1 limit 3").prepares;
    assert_eq!(
        one("execute p").executing(copy.as_deref().unwrap()).row_limit,
        Some(3)
    );
}

#[test]
fn a_text_of_nothing_but_names_has_each_of_them_once() {
    let names: Vec<String> = (0..8_000).map(|number| format!("c{number}")).collect();
    let statement = one(&format!("select {}, {0} from t", names.join(",")));
    assert_eq!(statement.columns, names);
    let prepared = one(&format!("select c0, d, {} from t", names.join(",")));
    let whole = one("execute p").executing(&prepared);
    assert_eq!(whole.columns.len(), names.len() + 1);
    assert_eq!(whole.columns.iter().filter(|name| *name == "c0").count(), 1);
}

#[test]
fn many_tables_and_columns_are_each_named_once() {
    let names = |letter: &str| {
        (0..4_000)
            .map(|number| format!("{letter}{number}"))
            .collect::<Vec<_>>()
    };
    let (columns, tables) = (names("c"), names("t"));
    let text = format!("select {} from {}, t0, t1", columns.join(","), tables.join(","));
    let statement = one(&text);
    assert_eq!(statement.columns, columns);
    assert_eq!(statement.bare.reads, tables);
    // The row of the last one.
    let text = format!("select t3999, {} from {}", columns.join(","), tables.join(","));
    assert!(one(&text).columns.contains(&"*".to_owned()));
}
