//! What stands in every clause, in every definition, and under every name.

use std::sync::Arc;

use super::path::{PathChange, SearchPath};
use super::*;
use crate::facts::{Blind, Fact, FactSource, View};

fn one(text: &str) -> Arc<Statement> {
    let mut statements = read(text, 128 << 10);
    assert_eq!(statements.len(), 1, "{text}");
    let statement = statements.remove(0);
    assert!(!statement.unparseable, "{text}");
    statement
}

/// A sub-select of `secrets` in each clause where the grammar takes an expression or a query.
const CLAUSES: &[&str] = &[
    "select (select a from secrets)",
    "select distinct on ((select a from secrets)) b from t",
    "select 1 from t where exists (select 1 from secrets)",
    "select 1 from t where a = any (select a from secrets)",
    "select 1 from t where (a, b) in (select a, b from secrets)",
    "select 1 from t group by (select a from secrets)",
    "select 1 from t group by grouping sets ((a), ((select a from secrets)), ())",
    "select 1 from t group by rollup (a, (select a from secrets))",
    "select 1 from t group by cube (a, (select a from secrets))",
    "select 1 from t having (select true from secrets)",
    "select 1 from t order by (select a from secrets)",
    "select 1 from t limit (select a from secrets)",
    "select 1 from t offset (select a from secrets)",
    "select 1 from t fetch first (select 1 from secrets) rows only",
    "select sum(a) over (partition by (select a from secrets)) from t",
    "select sum(a) over (order by (select a from secrets)) from t",
    "select sum(a) over (order by b rows (select 1 from secrets) preceding) from t",
    "select sum(a) over (order by b range between (select 1 from secrets) preceding and current row) from t",
    "select sum(a) over w from t window w as (partition by (select a from secrets))",
    "select sum(a) filter (where (select true from secrets)) from t",
    "select array_agg(a order by (select b from secrets)) from t",
    "select percentile_cont((select 0.5 from secrets)) within group (order by a) from t",
    "select percentile_cont(0.5) within group (order by (select a from secrets)) from t",
    "select (array[1, 2])[(select 1 from secrets)]",
    "select a[(select 1 from secrets):(select 2 from secrets)] from t",
    "select array(select a from secrets)",
    "select row((select a from secrets), 1)",
    "select case when (select true from secrets) then 1 end",
    "select case (select 1 from secrets) when 1 then 1 else 2 end",
    "select case 1 when 1 then (select a from secrets) else 2 end",
    "select case 1 when 1 then 1 else (select a from secrets) end",
    "select coalesce(null, (select a from secrets))",
    "select greatest(1, (select a from secrets))",
    "select nullif(1, (select a from secrets))",
    "select (select a from secrets)::text",
    "select (select a from secrets) collate \"C\"",
    "select (select a from secrets) is null",
    "select (select true from secrets) is true",
    "select a between 1 and (select b from secrets) from t",
    "select a like (select b from secrets) from t",
    "select ((select s from secrets s)).a",
    "select 1 from t, lateral (select a from secrets) x",
    "select 1 from t join u on (select true from secrets)",
    "select 1 from generate_series(1, (select 1 from secrets))",
    "select 1 from rows from (generate_series(1, 2), generate_series(1, (select 1 from secrets))) x",
    "select 1 from t tablesample system ((select 1 from secrets))",
    "select 1 from t tablesample bernoulli (10) repeatable ((select 1 from secrets))",
    "select 1 union select a from secrets",
    "(select 1) except (select a from secrets)",
    "values (1), ((select a from secrets))",
    "select 1 from (values ((select a from secrets))) v",
    "select 1 from (table secrets) v",
    "with c as (select a from secrets) select * from c",
    "with c as materialized (select a from secrets) select 1",
    "with recursive c as (select 1 union all select a from secrets) search depth first by a set o select 1",
    "select xmlelement(name x, (select a from secrets))",
    "select xmlelement(name x, xmlattributes((select a from secrets) as y))",
    "select xmlforest((select a from secrets) as y)",
    "select xmlparse(document (select a from secrets))",
    "select xmlroot((select a from secrets), version '1.0')",
    "select xmlserialize(content (select a from secrets) as text)",
    "select xmlexists('//x' passing (select a from secrets))",
    "select 1 from xmltable('/a' passing (select a from secrets) columns b int) x",
    "select 1 from xmltable((select a from secrets) passing '<a/>' columns b int) x",
    "select 1 from xmltable('/a' passing '<a/>' columns b int path 'b' default (select 1 from secrets)) x",
    "select 1 from xmltable(xmlnamespaces((select a from secrets) as n), '/a' passing '<a/>' columns b int) x",
    "select 1 from json_table((select a from secrets), '$' columns (b int path '$.b')) x",
    "select 1 from json_table('{}', '$' passing (select a from secrets) as p columns (b int path '$.b')) x",
    "select 1 from json_table('{}', '$' columns (b int path '$.b' default (select 1 from secrets) on error)) x",
    "select json_object('a': (select a from secrets))",
    "select json_object((select a from secrets) value 1)",
    "select json_array((select a from secrets), 1)",
    "select json_array(select a from secrets)",
    "select json_arrayagg((select a from secrets) order by b) from t",
    "select json_objectagg('k': (select a from secrets)) from t",
    "select json_objectagg('k': a) filter (where (select true from secrets)) from t",
    "select json_value((select a from secrets), '$.x')",
    "select json_value('{}', '$.x' passing (select a from secrets) as p)",
    "select json_value('{}', '$.x' default (select a from secrets) on empty)",
    "select json_query((select a from secrets), '$.x')",
    "select json_exists((select a from secrets), '$.x')",
    "select json((select a from secrets))",
    "select json_scalar((select a from secrets))",
    "select json_serialize((select a from secrets))",
    "select (select a from secrets) is json object",
    "insert into t values ((select a from secrets))",
    "insert into t select * from secrets",
    "insert into t table secrets",
    "insert into t(a[(select 1 from secrets)]) values (1)",
    "insert into t values (1) on conflict ((a + (select 1 from secrets))) do nothing",
    "insert into t values (1) on conflict (a) where (select true from secrets) do nothing",
    "insert into t values (1) on conflict (a) do update set b = (select a from secrets)",
    "insert into t values (1) on conflict (a) do update set b = 1 where (select true from secrets)",
    "insert into t values (1) returning (select a from secrets)",
    "with c as (select a from secrets) insert into t select * from c",
    "update t set a = (select a from secrets)",
    "update t set (a, b) = (select a, b from secrets)",
    "update t set a[(select 1 from secrets)] = 1",
    "update t set a = 1 from secrets",
    "update t set a = 1 where b in (select a from secrets)",
    "update t set a = 1 returning (select a from secrets)",
    "delete from t using secrets",
    "delete from t where a = (select a from secrets)",
    "delete from t returning (select a from secrets)",
    "merge into t using secrets s on true when matched then do nothing",
    "merge into t using (select a from secrets) s on true when matched then do nothing",
    "merge into t using u on (select true from secrets) when matched then do nothing",
    "merge into t using u on true when matched and (select true from secrets) then delete",
    "merge into t using u on true when matched then update set a = (select a from secrets)",
    "merge into t using u on true when not matched then insert values ((select a from secrets))",
    "merge into t using u on true when matched then delete returning (select a from secrets)",
    "with c as (select a from secrets) merge into t using c on true when matched then do nothing",
    "explain select * from secrets",
    "explain analyze select * from secrets",
    "copy (select * from secrets) to stdout",
    "copy t from stdin where (select true from secrets)",
    "copy secrets to stdout",
    "prepare p as select * from secrets",
    "execute p((select a from secrets))",
    "call p((select a from secrets))",
    "declare c cursor for select * from secrets",
    "create table n as select * from secrets",
    "create table n as table secrets",
    "select * into n from secrets",
    "create materialized view v as select * from secrets",
    "create view v as select * from secrets",
    "create recursive view v(a) as select a from secrets",
    "create rule r as on insert to t do also insert into u select * from secrets",
    "create rule r as on insert to t where (select true from secrets) do instead nothing",
    "create table n (like secrets)",
    "create table n () inherits (secrets)",
    "create table n partition of secrets for values in (1)",
    "create table n (a int references secrets)",
    "create table n (a int default ((select 1 from secrets)))",
    "create table n (a int check ((select true from secrets)))",
    "create index i on secrets (a)",
    "create index i on t ((a + (select 1 from secrets)))",
    "create index i on t (a) where (select true from secrets)",
    "create trigger g before insert on secrets execute function f()",
    "create trigger g before insert on t for each row when ((select true from secrets)) execute function f()",
    "create policy p on secrets using (true)",
    "create policy p on t using ((select true from secrets))",
    "create policy p on t with check ((select true from secrets))",
    "create statistics s on a, b from secrets",
    "create publication p for table secrets",
    "create publication p for table t where ((select true from secrets))",
    "create schema s create view v as select * from secrets",
    "create function f() returns int begin atomic select a from secrets; end",
    "create function f(a int default (select 1 from secrets)) returns int language sql as ''",
    "create domain d as int check ((select true from secrets))",
    "create sequence q owned by secrets.a",
    "create foreign table secrets (a int) server s",
    "import foreign schema x limit to (secrets) from server s into y",
    "alter table secrets add column c int",
    "alter table t add column c int default ((select 1 from secrets))",
    "alter table t alter column c type int using (select 1 from secrets)",
    "alter table t add foreign key (a) references secrets",
    "alter table t attach partition secrets for values in (1)",
    "alter table t inherit secrets",
    "alter table secrets rename to x",
    "alter table secrets set schema x",
    "alter table secrets owner to bob",
    "alter view secrets rename to x",
    "alter sequence secrets restart",
    "alter publication p add table secrets",
    "alter extension e add table secrets",
    "alter default privileges in schema x grant select on tables to bob",
    "drop table secrets",
    "drop view if exists x, secrets cascade",
    "drop trigger g on secrets",
    "drop policy p on secrets",
    "drop rule r on secrets",
    "alter trigger g on secrets rename to h",
    "comment on column secrets.a is 'x'",
    "comment on trigger g on secrets is 'x'",
    "security label on table secrets is 'x'",
    "grant select on secrets to bob",
    "grant select (a) on secrets to bob",
    "revoke all on table secrets from bob",
    "truncate t, secrets",
    "lock table secrets in access exclusive mode",
    "vacuum full secrets",
    "analyze secrets (a)",
    "cluster secrets using i",
    "reindex table secrets",
    "refresh materialized view secrets",
];

#[test]
fn a_table_shows_in_whichever_clause_it_stands() {
    let mut wrong = Vec::new();
    for text in CLAUSES {
        let facts = one(text);
        let shows = facts.tables.iter().any(|name| name == "secrets");
        let lists: Vec<&String> = facts.reads.iter().chain(&facts.writes).collect();
        if shows != text.contains("secrets") || !facts.tables.iter().all(|name| lists.contains(&name)) {
            wrong.push(format!("{text}: {:?}", facts.tables));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn the_commands_own_verb() {
    let mut wrong = Vec::new();
    for (text, verb) in [
        ("grant a to b", "grant"),
        ("revoke a from b", "revoke"),
        ("revoke grant option for select on t from b", "revoke"),
        ("grant usage on schema s to b", "grant"),
        ("alter default privileges revoke select on tables from b", "alter"),
        ("create user x", "create"),
        ("drop owned by x", "drop"),
        ("reassign owned by x to y", "reassign"),
        ("security label on table t is 'x'", "security"),
        ("import foreign schema s from server v into y", "import"),
        ("refresh materialized view v", "refresh"),
        ("reindex index i", "reindex"),
        ("listen x", "listen"),
        ("notify x", "notify"),
        ("unlisten *", "unlisten"),
        ("load 'x'", "load"),
        ("checkpoint", "checkpoint"),
        ("discard plans", "discard"),
        ("start transaction", "start"),
        ("abort", "rollback"),
        ("end", "commit"),
        ("prepare transaction 'x'", "prepare_transaction"),
        ("commit prepared 'x'", "commit_prepared"),
        ("rollback prepared 'x'", "rollback_prepared"),
        ("fetch 1 from c", "fetch"),
        ("move 1 from c", "move"),
        ("close c", "close"),
        ("set constraints all deferred", "set"),
        ("alter system set work_mem = 1", "alter"),
    ] {
        let got = &one(text).verb;
        if got != verb {
            wrong.push(format!("{text}: {got}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    let revoked = one("alter default privileges revoke select on tables from b");
    assert_eq!(revoked.verbs, ["alter", "revoke"]);
}

#[test]
fn objects_that_are_no_tables() {
    let mut wrong = Vec::new();
    let mut check = |text: &str, objects: &str, tables: &str| {
        let facts = one(text);
        let got = (facts.objects.join(" "), facts.tables.join(" "));
        if got != (objects.to_owned(), tables.to_owned()) {
            wrong.push(format!("{text}: {got:?}"));
        }
    };
    check("create role x in role admin", "x admin", "");
    check("alter role x superuser", "x", "");
    check("drop role x, y", "x y", "");
    check("grant admin to bob", "bob", "");
    check("grant usage on schema s to bob", "s bob", "");
    check("grant execute on function s.f(int) to bob", "s.f bob", "");
    check(
        "grant select on all tables in schema s to bob",
        "s s.* bob",
        "s.* *",
    );
    check("create schema s", "s", "");
    check("create schema s create table t (a int)", "s", "t s.t");
    check("create extension e", "e", "");
    check("create database d", "d", "");
    check("drop database d", "d", "");
    check("create function s.f() returns int language sql as ''", "s.f", "");
    check("create server v foreign data wrapper w", "v w", "");
    check("create subscription u connection 'c' publication p", "u", "");
    check("reassign owned by x to y", "x y", "");
    check("comment on column t.a is 'x'", "t", "t");
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn columns_that_are_named_or_meant() {
    let mut wrong = Vec::new();
    let mut check = |text: &str, want: &str| {
        let mut columns = one(text).columns.clone();
        columns.sort();
        if columns.join(" ") != want {
            wrong.push(format!("{text}: {}", columns.join(" ")));
        }
    };
    check("select a, t.b from t where c = 1 order by d", "a b c d");
    check("select * from t", "*");
    check("table t", "*");
    check("select t.* from t", "*");
    check("select t from t", "* t");
    check("select row_to_json(x) from t x", "* x");
    check("select (t).a from t", "* a t");
    check("select (f(1)).*", "*");
    check("select b from t as x(a, b)", "* b");
    check("select b from (t join u using (k)) as x(a, b)", "* b k");
    check("select 1 from t natural join u", "*");
    check("insert into t(a, b) values (1, 2)", "a b");
    check("insert into t values (1, 2)", "*");
    check(
        "insert into t(a) values (1) on conflict (b) do update set c = 1",
        "a b c",
    );
    check("update t set a = 1 where b = 2 returning c", "a b c");
    check(
        "merge into t using u on t.k = u.k when matched then update set a = 1",
        "a k",
    );
    check("copy t(a, b) to stdout", "a b");
    check("copy t to stdout", "*");
    check("grant select (a) on t to bob", "a");
    check(
        "create table t (a int, b int, foreign key (a) references u (c))",
        "a b c",
    );
    check("alter table t drop column a", "a");
    check("alter table t rename column a to b", "a b");
    check("create index on t (a) include (b)", "a b");
    check("comment on column t.a is 'x'", "a");
    check("analyze t(a)", "a");
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn what_cannot_be_read_is_opaque() {
    let mut wrong = Vec::new();
    for (text, opaque) in [
        ("select lower(a), pg_catalog.upper(b), count(*) from t", false),
        (
            "select extract(year from a), position('a' in b), trim(c) from t",
            false,
        ),
        (
            "select a + b, a operator(pg_catalog.+) b from t order by a",
            false,
        ),
        (
            "select a from t where b in (1, 2) and c between 1 and 2 and d ~~ 'x'",
            false,
        ),
        ("select own(a) from t", true),
        ("select public.lower(a) from t", true),
        ("select a operator(own.+) b from t", true),
        ("select a <=> b from t", true),
        ("select a from t order by a using operator(own.<)", true),
        ("select a from t where b operator(own.=) any (select 1)", true),
        ("select 1 from t tablesample own(1)", true),
        ("select query_to_xml('drop table t', true, true, '')", true),
        ("select table_to_xml('secrets', true, true, '')", true),
        ("select * from ts_stat('select v from secrets')", true),
        ("create function f() returns int language sql as ''", true),
        ("create extension e", true),
        ("do ''", true),
        ("load 'x'", true),
        ("call p()", true),
        ("create aggregate g (int) (sfunc = own, stype = int)", true),
        ("create table t (a int default own())", true),
        ("create trigger g before insert on t execute function own()", true),
    ] {
        if one(text).opaque != opaque {
            wrong.push(text);
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn a_role_is_changed_in_whichever_clause_it_stands() {
    let mut wrong = Vec::new();
    for text in [
        "set local role x",
        "set session authorization default",
        "select 1 from t where set_config('role', 'x', true) = 'x'",
        "select 1 from set_config('ROLE', 'x', true)",
        "select 1 order by pg_catalog.set_config('ro' || 'le', 'x', true)",
        "insert into t values (1) returning set_config(U&'\\0072ole', 'x', false)",
        "select set_config(new_value => 'x', setting_name => 'role', is_local => false)",
        "execute p(set_config('session_authorization', 'x', false))",
        "create view v as select set_config('role', 'x', false)",
        "create table t (a text default set_config('role', 'x', false))",
        "copy (select set_config('role', 'x', false)) to stdout",
        "alter role y set role = x",
        "alter database d set role = x",
    ] {
        if !one(text).role_change {
            wrong.push(text);
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(!one("select set_config('work_mem', '1MB', false)").role_change);
}

#[test]
fn a_limit_that_gives_more_is_none() {
    assert_eq!(
        one("select a from t order by a fetch first 3 rows with ties").row_limit,
        None
    );
    assert_eq!(
        one("select a from t order by a fetch first 3 rows only").row_limit,
        Some(3)
    );
    assert_eq!(one("select a from t limit all").row_limit, None);
}

#[test]
fn aliases_are_no_tables() {
    assert_eq!(one("select * from t as x for update of x").tables, ["t"]);
}

#[test]
fn bare_names_are_looked_up_where_the_session_said() {
    let seen = |text: &str, path: &SearchPath, slot| {
        let facts = SqlFacts::new(one(text), "d", "ann").looked_up(path);
        match facts.fact(slot) {
            Fact::Known(View::Texts(names) | View::Named(names)) => names.join(" "),
            Fact::Known(other) => format!("{other:?}"),
            Fact::Unknown(blind) => format!("{blind:?}"),
        }
    };
    let mut path = SearchPath::default();
    let text = "select a from users, other.users, public.t";
    let calls = "select own(a)";
    assert_eq!(seen(text, &path, Slot::SqlTables), "users other.users public.t t");
    assert_eq!(seen(text, &path, Slot::SqlSearchPath), "Opaque");
    let set = |path: &mut SearchPath, text: &str| path.apply(&one(text).path, "ann");
    set(&mut path, "set search_path = secret, \"$user\"");
    assert_eq!(
        seen(text, &path, Slot::SqlTables),
        "users other.users public.t t secret.users ann.users"
    );
    assert_eq!(seen(calls, &path, Slot::SqlFunctions), "own secret.own ann.own");
    assert_eq!(seen(text, &path, Slot::SqlSearchPath), "secret ann");
    assert_eq!(
        seen("delete from users", &path, Slot::SqlWrites),
        "users secret.users ann.users"
    );
    let mut path = SearchPath::default();
    for (text, want) in [
        ("set schema 'one'", "one"),
        (
            "select set_config('search_path', 'two, \"Three\"', false)",
            "one two Three",
        ),
        ("set local search_path to four", "one two Three four"),
        ("set search_path to default", "one two Three four"),
        (
            "select set_config(name, 'five', false) from t",
            "one two Three four five",
        ),
    ] {
        set(&mut path, text);
        assert_eq!(path.known().unwrap().join(" "), want, "{text}");
    }
    set(&mut path, "select set_config('search_path', a, false) from t");
    assert_eq!(seen("select 1 from users", &path, Slot::SqlTables), "Ambiguous");
    assert_eq!(
        seen("select 1 from a.users", &path, Slot::SqlTables),
        "a.users users"
    );
    assert_eq!(seen("select lower(a)", &path, Slot::SqlFunctions), "Opaque");
    let roles = |text: &str| one(text).roles.clone();
    let to = |role: &str| PathChange::To(vec![role.to_owned()]);
    assert_eq!(roles("set role x"), to("x"));
    assert_eq!(roles("set session authorization 'X'"), to("X"));
    assert_eq!(roles("select set_config('role', 'y', false)"), to("y"));
    assert_eq!(
        roles("select set_config('role', a, false) from t"),
        PathChange::Unseen
    );
    assert_eq!(roles("update pg_settings set setting = 'x'"), PathChange::Unseen);
    assert_eq!(roles("set search_path = x"), PathChange::None);
    let mut path = SearchPath::default();
    path.apply(&PathChange::to_list("public"), "ann");
    assert_eq!(
        seen("select 1 from pg_class", &path, Slot::SqlTables),
        "pg_class public.pg_class pg_catalog.pg_class"
    );
    let mut path = SearchPath::default();
    path.apply(&PathChange::to_list("evil, pg_catalog"), "ann");
    assert_eq!(seen("select lower(a)", &path, Slot::SqlOpaque), "Bool(true)");
    assert_eq!(
        seen("select a from t where b in (1)", &path, Slot::SqlOpaque),
        "Bool(true)",
        "`=` may be evil's, too"
    );
    assert_eq!(
        seen("select a::text from t", &path, Slot::SqlOpaque),
        "Bool(true)"
    );
    assert_eq!(seen("select a from t", &path, Slot::SqlOpaque), "Bool(false)");
}

#[test]
fn files_and_programs_of_the_server() {
    for (text, file, program, rows) in [
        ("copy t from '/etc/passwd'", true, false, false),
        ("copy (select 1) to '/tmp/x'", true, false, false),
        ("copy t to program 'id'", false, true, false),
        ("copy t from program 'id'", false, true, false),
        ("copy t from stdin", false, false, true),
        ("copy t to stdout", false, false, false),
    ] {
        let facts = one(text);
        let got = (facts.server_file, facts.program, facts.takes_rows);
        assert_eq!(got, (file, program, rows), "{text}");
    }
}

/// What code that cannot be read does is neither empty nor `false`; what the text itself says stays.
#[test]
fn what_unread_code_does_is_unknown() {
    const HIDDEN: [Slot; 10] = [
        Slot::SqlVerbs,
        Slot::SqlTables,
        Slot::SqlReads,
        Slot::SqlWrites,
        Slot::SqlColumns,
        Slot::SqlObjects,
        Slot::SqlProgram,
        Slot::SqlServerFile,
        Slot::SqlRoleChange,
        Slot::SqlLocks,
    ];
    let unknown = |text: &str| -> Vec<&str> {
        let facts = SqlFacts::new(one(text), "db", "ann");
        let blind = |slot: &Slot| matches!(facts.fact(*slot), Fact::Unknown(Blind::Opaque));
        assert!(!blind(&Slot::SqlVerb), "{text}");
        HIDDEN.into_iter().filter(blind).map(Slot::name).collect()
    };
    let all = HIDDEN.map(Slot::name);
    for text in [
        "do $$ begin delete from t; end $$",
        "call p()",
        "select own(a) from t",
        "select a::own from t",
        "explain analyze execute nobody_knows(1)",
        "create table t as execute nobody_knows",
        "create view v as select own(1)",
        "refresh materialized view v",
        "select query_to_xml('delete from t', true, true, '')",
    ] {
        assert_eq!(unknown(text), all, "{text}");
    }
    assert_eq!(unknown("select own(a) from t for update"), all[..9]);
    assert_eq!(
        unknown("copy (select own(1)) to program 'id'"),
        [&all[..6], &all[7..]].concat()
    );
    let json = |text: &str, slot| {
        let facts = SqlFacts::new(one(text), "db", "ann");
        match facts.fact(slot) {
            Fact::Known(view) => view.to_json(),
            Fact::Unknown(blind) => serde_json::json!({ "unknown": blind }),
        }
    };
    // What the text itself says to the worse stays said.
    let unread = serde_json::json!({ "unknown": "opaque" });
    for (text, has_where, row_limit) in [
        (
            "delete from t where a = own(1)",
            unread.clone(),
            serde_json::Value::Null,
        ),
        (
            "delete from t returning own(a)",
            false.into(),
            serde_json::Value::Null,
        ),
        (
            "select own(a) from t where a = 1 limit 5",
            unread.clone(),
            unread.clone(),
        ),
        ("select a from t where a = 1 limit 5", true.into(), 5.into()),
        // A thing that is compared with itself, wherever it stands.
        (
            "delete from t where (a in (1)) = (a in (1))",
            false.into(),
            serde_json::Value::Null,
        ),
        (
            "delete from t where array[a] = array[a]",
            false.into(),
            serde_json::Value::Null,
        ),
    ] {
        assert_eq!(json(text, Slot::SqlHasWhere), has_where, "{text}");
        assert_eq!(json(text, Slot::SqlRowLimit), row_limit, "{text}");
    }
    for text in [
        "select 1",
        "select count(a) from t",
        "delete from t",
        "explain select 1",
    ] {
        assert_eq!(unknown(text), [""; 0], "{text}");
    }
}

/// A function of somebody's own is named, and is more than its name; code without a name leaves the list unknown.
#[test]
fn functions_are_known_as_far_as_what_runs_has_a_name() {
    let functions = |text: &str| {
        let facts = SqlFacts::new(one(text), "db", "ann");
        match facts.fact(Slot::SqlFunctions) {
            Fact::Known(View::Texts(names)) => format!("just {}", names.join(" ")),
            Fact::Known(View::Named(names)) => format!("named {}", names.join(" ")),
            Fact::Known(_) => panic!("{text}"),
            Fact::Unknown(blind) => format!("{blind:?}"),
        }
    };
    for (text, wanted) in [
        ("select count(a) from t", "just count"),
        ("select 1", "just "),
        ("select count(app.own(a)) from t", "named count app.own own"),
        ("call app.refresh()", "named app.refresh refresh"),
        (
            "create trigger x before update on t execute function app.own()",
            "named app.own own",
        ),
        // A procedure that is called as one of the server's functions is none of them.
        ("call lower()", "Opaque"),
        (
            "select pg_catalog.query_to_xml('select own()', true, true, '')",
            "Opaque",
        ),
        ("select own(), table_to_xml('t', true, true, '')", "Opaque"),
        ("do $$ begin perform pg_terminate_backend(1); end $$", "Opaque"),
        ("select own(1) operator(public.@@@) 2", "Opaque"),
        ("select own(1)::guarded", "Opaque"),
        ("execute nobody_knows", "Opaque"),
        (
            "create function f() returns int language sql as 'select pg_terminate_backend(1)'",
            "Opaque",
        ),
        ("create extension dblink", "Opaque"),
    ] {
        assert_eq!(functions(text), wanted, "{text}");
    }
    let prepared = one("do $$ begin end $$");
    let whole = one("execute p(count(1))").executing(&prepared);
    let facts = SqlFacts::new(std::sync::Arc::new(whole), "db", "ann");
    assert!(matches!(
        facts.fact(Slot::SqlFunctions),
        Fact::Unknown(Blind::Opaque)
    ));
}

#[test]
fn what_reaches_unnamed_tables_has_no_known_lists() {
    let unknown = |text: &str| {
        let facts = SqlFacts::new(one(text), "db", "ann");
        [Slot::SqlTables, Slot::SqlReads, Slot::SqlWrites, Slot::SqlObjects]
            .map(|slot| matches!(facts.fact(slot), Fact::Unknown(Blind::Opaque)))
    };
    for text in [
        "drop owned by ann",
        "reassign owned by ann to bob",
        "create publication p for all tables",
        "create publication p for tables in schema s",
        "alter publication p add tables in schema s",
        "alter table all in tablespace a set tablespace b",
        "alter index all in tablespace a set tablespace b",
        "drop schema s cascade",
        "drop table t cascade",
        "drop type t cascade",
        "truncate t cascade",
        "alter table t drop column c cascade",
        "alter domain d drop constraint c cascade",
        "revoke select on t from ann cascade",
        "grant select on all tables in schema s to ann",
        "import foreign schema s from server f into public",
        "alter schema s rename to z",
    ] {
        assert_eq!(unknown(text), [true; 4], "{text}");
    }
    for text in [
        "drop table t",
        "truncate t restrict",
        "create publication p for table t",
        "alter role a rename to b",
        "select 1 from t",
    ] {
        assert_eq!(unknown(text), [false; 4], "{text}");
    }
}

#[test]
fn what_is_renamed_or_moved_has_both_its_names() {
    for (text, writes) in [
        ("alter table a rename to b", "a b"),
        ("alter view s.a rename to b", "s.a a s.b b"),
        ("alter table a set schema s", "a s.a"),
        ("alter table r.a set schema s", "r.a a s.a"),
    ] {
        let mut got = one(text).writes.clone();
        let mut want: Vec<String> = writes.split(' ').map(str::to_owned).collect();
        got.sort();
        want.sort();
        assert_eq!(got, want, "{text}");
    }
    assert_eq!(one("alter role a rename to b").objects, ["a", "b"]);
    assert_eq!(one("alter table a rename column c to d").writes, ["a"]);
}

#[test]
fn casts_to_types_that_are_not_the_servers_own_are_opaque() {
    for (text, opaque) in [
        (
            "select a::text, b::int[], cast(c as pg_catalog.numeric(3, 1))",
            false,
        ),
        (
            "select interval '1 day', date '2020-01-01', 'x'::varchar(3), '{}'::_text",
            false,
        ),
        ("prepare p(int, text) as select $1, $2", false),
        ("select a::checked", true),
        ("select a::checked[]", true),
        ("select checked '1'", true),
        ("select cast(a as s.text)", true),
        ("select \"Text\" '1'", true),
        ("select xmlserialize(content x as checked)", true),
        ("select json_value(x, '$' returning checked)", true),
        ("select * from xmltable('/r' passing x columns a checked)", true),
        (
            "select * from json_table(x, '$' columns (a checked path '$'))",
            true,
        ),
        ("prepare p(checked) as select $1", true),
        ("update t set a = b::checked", true),
    ] {
        assert_eq!(one(text).opaque, opaque, "{text}");
    }
}

#[test]
fn locks_are_a_fact() {
    for (text, locks) in [
        ("select 1 from t for update", true),
        ("select 1 from t for /* */ no key update skip locked", true),
        ("select 1 from (select 1 from t for share) x", true),
        ("with x as (select 1 from t for key share) select 1 from x", true),
        ("lock table t", true),
        ("select 'for update' from t", false),
        ("select substring(a for 2) from share", false),
    ] {
        assert_eq!(one(text).locks, locks, "{text}");
    }
}

#[test]
fn what_may_be_a_call_in_the_notation_of_a_field_is_one() {
    for (text, functions, opaque) in [
        ("select ('/etc/passwd'::text).pg_read_file", "pg_read_file", false),
        (
            "select (4242).pg_terminate_backend",
            "pg_terminate_backend",
            false,
        ),
        ("select ('select 1 from t'::text).ts_stat", "ts_stat", true),
        ("select ($1).lo_import", "lo_import", false),
        ("select (p).evil from people p", "evil", true),
        (
            "delete from orders where (1).pg_advisory_lock is null",
            "pg_advisory_lock",
            false,
        ),
        (
            "select (array[4242])[1].pg_cancel_backend",
            "pg_cancel_backend",
            false,
        ),
        ("select p.row_to_json from people p", "row_to_json", false),
        ("select public.people.to_jsonb from people", "to_jsonb", false),
        ("select p.name, (p).* from people p", "", false),
    ] {
        let found = one(text);
        assert_eq!(found.functions.join(" "), functions, "{text}");
        assert_eq!(found.opaque, opaque, "{text}");
    }
    let whole = one("select p.row_to_json from people p");
    assert!(
        whole.columns.iter().any(|name| name == "*"),
        "{:?}",
        whole.columns
    );
}
