//! The facts of SQL against the server itself: which tables it locks, which command it says it ran,
//! which functions are its own.

use std::collections::BTreeSet;

use tailkeep::facts::sql::{Statement, read};

use crate::raw::{Raw, bind, execute, parse, sync};
use crate::world::{SETUP, Setup, World, server};

pub const TABLES: &str = "
create table t (a int unique, b int, c int[], d jsonb, x xml, s text);
create table u (a int, b int);
create table secrets (a int, b int);
create table parts (a int) partition by list (a);
create table piece (a int);
create materialized view m as select a from u;
create function own() returns int language sql as 'select 1';
create procedure proc(a int) language sql as 'select 1';
create role bob;
insert into t(a, b, c) values (100, 100, '{1, 2}');
insert into u values (8, 8);
insert into secrets values (7, 7);
";

/// Run in a transaction that is rolled back. The tables that the server locks are those that the facts name.
const LOCKING: &[&str] = &[
    "select (select a from secrets)",
    "select 1 from t where exists (select 1 from secrets)",
    "select 1 from t where (a, b) in (select a, b from secrets)",
    "select 1 from t group by grouping sets ((a), ((select a from secrets)), ())",
    "select 1 from t having (select true from secrets)",
    "select 1 from t order by (select a from secrets)",
    "select 1 from t limit (select a from secrets)",
    "select sum(b) over (order by b rows (select 1 from secrets) preceding) from t",
    "select sum(b) filter (where (select true from secrets)) from t",
    "select array_agg(a order by (select b from secrets)) from t",
    "select percentile_cont(0.5) within group (order by (select a from secrets)) from t",
    "select c[(select 1 from secrets):(select b from u)] from t",
    "select array(select a from secrets)",
    "select case when (select true from secrets) then 1 else (select a from u) end",
    "select 1 from t, lateral (select t.a from secrets) x",
    "select 1 from t join u on (select true from secrets)",
    "select 1 from generate_series(1, (select 1 from secrets))",
    "select 1 from t tablesample system ((select 1 from secrets))",
    "select a from t union select a from secrets except select a from u",
    "table secrets",
    "values (1), ((select a from secrets))",
    "with c as (select a from secrets) select 1 from c, t",
    "with secrets as (select 1) select * from secrets",
    "with secrets as (select a from secrets) select * from secrets",
    "with recursive secrets as (select 1 union select 2 from secrets) select * from secrets",
    "select * from (with c as (select a from u) select * from c) secrets",
    "select secrets.a from t as secrets",
    "select * from t as secrets for update of secrets",
    "select xmlelement(name x, xmlattributes((select a from secrets) as y))",
    "select 1 from xmltable('/a' passing (select x from t) columns b int path 'b' default (select 1 from secrets)) z",
    "insert into t(a) values ((select a from secrets))",
    "insert into t(a) select a from secrets",
    "insert into t(c[(select 1 from secrets)]) values (1)",
    "insert into t(a) values (1) on conflict (a) do update set b = (select a from secrets) where (select true from u)",
    "insert into t(a) values (1) returning (select a from secrets)",
    "with d as (delete from u returning a) insert into t(a) select a from d",
    "update t set (a, b) = (select a, b from secrets)",
    "update t set a = 1 from secrets where t.b = secrets.b",
    "update t set c[(select 1 from secrets)] = 1",
    "delete from t using secrets where t.a = secrets.a returning (select b from u)",
    "with d as (delete from t returning a), i as (insert into u(a) select a from d returning a) select * from i",
    "merge into t using secrets s on t.a = s.a when matched and (select true from u) then delete",
    "merge into t using u on t.a = u.a when not matched then insert (a) values ((select a from secrets))",
    "explain analyze delete from t where a in (select a from secrets)",
    "explain select * from secrets",
    "prepare p as select * from secrets",
    "declare cur cursor for select * from secrets",
    "create table n as select * from secrets",
    "select * into n from secrets",
    "create table n (like secrets)",
    "create table n () inherits (secrets)",
    "create table n (a int references t (a))",
    "create view v as select * from secrets",
    "create materialized view v as select * from secrets",
    "create rule r as on insert to t do also insert into u select a, b from secrets",
    "create index i on secrets (a)",
    "create policy p on t using ((select true from secrets))",
    "create statistics st on a, b from secrets",
    "create trigger g before insert on secrets execute function suppress_redundant_updates_trigger()",
    "alter table t add column n int",
    "alter table t rename column b to z",
    "alter table t add foreign key (a) references t (a)",
    "alter table parts attach partition piece for values in (1)",
    "alter table secrets set (fillfactor = 50)",
    "drop table secrets",
    "comment on column secrets.a is 'x'",
    "truncate t, secrets",
    "lock table secrets",
    "analyze secrets (a)",
    "copy (select * from secrets) to stdout",
    "copy secrets to stdout",
    "revoke all on all tables in schema public from bob",
];

const LOCKED: &str = "select 'L:' || c.relname || '/' || l.mode from pg_locks l join pg_class c on c.oid = l.relation \
    where l.pid = pg_backend_pid() and c.relkind in ('r', 'v', 'm', 'p', 'f') and c.relnamespace = 'public'::regnamespace";

fn one(text: &str) -> std::sync::Arc<Statement> {
    let mut statements = read(text, 128 << 10);
    assert_eq!(statements.len(), 1, "{text}");
    let statement = statements.remove(0);
    assert!(!statement.unparseable, "{text}");
    statement
}

#[tokio::test]
async fn the_server_touches_what_the_facts_name() {
    let server = server(&[]).await;
    assert!(server.sql(TABLES));
    let mut wrong = Vec::new();
    for text in LOCKING {
        let said = server.says(&format!("begin; {text}; {LOCKED}; rollback"));
        let locks: Vec<(&str, &str)> = said
            .lines()
            .filter_map(|line| line.strip_prefix("L:")?.split_once('/'))
            .collect();
        let touched: BTreeSet<&str> = locks.iter().map(|(name, _)| *name).collect();
        let changed: BTreeSet<&str> = locks
            .iter()
            .filter(|(_, mode)| !matches!(*mode, "AccessShareLock" | "RowShareLock"))
            .map(|(name, _)| *name)
            .collect();
        let facts = one(text);
        let all = facts.tables.iter().any(|name| name == "*");
        let named: BTreeSet<&str> = facts.tables.iter().map(String::as_str).collect();
        let writes: BTreeSet<&str> = facts.writes.iter().map(String::as_str).collect();
        if !all && (!touched.is_subset(&named) || !changed.is_subset(&writes)) {
            wrong.push(format!("{text}: {locks:?}, facts {named:?}, writes {writes:?}"));
        }
        // A query names nothing that it does not touch.
        let query = matches!(
            facts.verb.as_str(),
            "select" | "insert" | "update" | "delete" | "merge"
        );
        if query && !named.is_subset(&touched) && !facts.verbs.contains(&"create".to_owned()) {
            wrong.push(format!("{text}: {locks:?}, too much in {named:?}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Each is answered by a tag that begins with its verb.
const TAGGED: &[&str] = &[
    "insert into t(a) values (1)",
    "update t set a = 1",
    "delete from t",
    "merge into t using u on t.a = u.a when matched then delete",
    "grant select on t to bob",
    "revoke select on t from bob",
    "grant bob to postgres",
    "revoke bob from postgres",
    "alter default privileges revoke select on tables from bob",
    "create schema n",
    "drop schema if exists n",
    "alter table t add column n int",
    "alter table t rename to n",
    "create role n",
    "drop role n_of_none, bob",
    "drop owned by bob",
    "reassign owned by bob to postgres",
    "truncate t",
    "lock table t",
    "comment on table t is 'x'",
    "refresh materialized view m",
    "set work_mem = '1MB'",
    "reset work_mem",
    "set constraints all deferred",
    "discard plans",
    "listen n",
    "notify n",
    "unlisten n",
    "do 'begin end'",
    "call proc(1)",
    "prepare p as select 1",
    "deallocate all",
    "declare cur cursor for select 1",
    "savepoint n",
    "checkpoint",
    "analyze t",
    "reindex table t",
    "import foreign schema x from server y into z",
    "security label on table t is 'x'",
    "load 'plpgsql'",
];

#[tokio::test]
async fn the_verb_is_what_the_server_calls_the_command() {
    let server = server(&[]).await;
    assert!(server.sql(TABLES));
    let mut wrong = Vec::new();
    for text in TAGGED {
        let Some(tag) = server.tag(&format!("begin; {text}")) else {
            // The server at hand has no label provider and no foreign server.
            assert!(
                text.contains("foreign") || text.contains("label") || text.contains("none"),
                "{text}"
            );
            continue;
        };
        let word = tag.split(' ').next().unwrap_or_default().to_ascii_lowercase();
        let verb = one(text).verb.clone();
        if word != verb {
            wrong.push(format!("{text}: {verb}, {tag}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// What the server's own functions run is what they are given: text, in those whose names have one of these in them;
const RUNS_TEXT: &[&str] = &["_to_xml", "to_xmlschema", "ts_stat", "ts_rewrite"];

/// and the checks of a type, in these.
const MAKES_VALUES: &[&str] = &[
    "array_in",
    "array_recv",
    "domain_in",
    "domain_recv",
    "multirange_in",
    "multirange_recv",
    "pg_input_error_info",
    "pg_input_is_valid",
    "range_in",
    "range_recv",
    "record_in",
    "record_recv",
];

#[tokio::test]
async fn the_servers_own_functions_and_operators_are_not_opaque() {
    let server = server(&[]).await;
    let list = |query: &str| -> Vec<String> { server.says(query).lines().map(str::to_owned).collect() };
    let names = list("select distinct proname from pg_proc where pronamespace = 'pg_catalog'::regnamespace");
    assert!(names.len() > 2000);
    for name in names {
        let quoted = name.replace('"', "\"\"");
        let opaque = one(&format!("select \"{quoted}\"()")).opaque;
        let runs = RUNS_TEXT.iter().any(|part| name.contains(part)) || MAKES_VALUES.contains(&name.as_str());
        assert_eq!(opaque, runs, "{name}");
        assert!(one(&format!("select own.\"{quoted}\"()")).opaque, "{name}");
    }
    for name in
        list("select distinct oprname from pg_operator where oprnamespace = 'pg_catalog'::regnamespace")
    {
        assert!(
            !one(&format!("select a operator(pg_catalog.{name}) b")).opaque,
            "{name}"
        );
        assert!(one(&format!("select a operator(own.{name}) b")).opaque, "{name}");
    }
}

const PATH_RULES: &str = r#"
rule "no-secrets" {
  endpoint  = postgres.orders
  condition = "'secret.users' in sql.tables"
  verdict   = "deny"
  reason    = "these users are secret"
  priority  = 10
}
rule "users" {
  endpoint  = postgres.orders
  condition = "sql.tables.all(t, t in ['users', 'public.users', 'secret.users'])"
  verdict   = "allow"
}
"#;

#[tokio::test]
async fn a_bare_name_is_what_the_sessions_path_makes_of_it() {
    let server = server(&[]).await;
    assert!(server.sql(
        "create schema secret; create schema other; create table users (a text); insert into users values ('open');
         create table secret.users (a text); insert into secret.users values ('hidden');
         create table other.users (a text); insert into other.users values ('other');
         grant usage on schema secret, other to app; grant select on users, secret.users, other.users to app",
    ));
    let setup = Setup {
        rules: PATH_RULES,
        ..SETUP
    };
    let world = World::new(server.port, setup).await;
    let ask = "select a from users";
    let mut raw = Raw::enter(world.address).await;
    assert!(raw.query(ask).await.text().contains("open"));
    assert!(
        raw.query("select a from secret.users")
            .await
            .text()
            .contains("these users are secret")
    );
    for change in [
        "set search_path = secret",
        "set local search_path to secret, public",
        "set schema 'secret'",
        "select set_config('search_path', 'secret', false)",
        "select set_config('SEARCH_PATH', 'public, \"secret\"', false)",
    ] {
        let mut raw = Raw::enter(world.address).await;
        let came = raw.query(change).await;
        assert!(!came.tags.contains('E'), "{change}: {came:?}");
        let came = raw.query(ask).await;
        assert!(
            came.text().contains("these users are secret"),
            "{change}: {came:?}"
        );
        // In one text, and in one pipeline.
        let mut raw = Raw::enter(world.address).await;
        let came = raw.query(&format!("{change}; {ask}")).await;
        assert!(
            came.text().contains("these users are secret"),
            "{change}: {came:?}"
        );
        let mut raw = Raw::enter(world.address).await;
        let pipeline = [
            parse("p", ask),
            parse("", change),
            bind("", "", &[]),
            execute("", 0),
            bind("", "p", &[]),
            execute("", 0),
            sync(),
        ];
        let came = raw.ask(&pipeline).await;
        assert!(
            came.text().contains("these users are secret"),
            "{change}: {came:?}"
        );
    }
    // What is not on the list is not allowed, by whichever name.
    let mut raw = Raw::enter(world.address).await;
    raw.query("set search_path = other").await;
    assert!(raw.query(ask).await.tags.contains('E'));
    // A path that cannot be seen leaves the tables unknown.
    let mut raw = Raw::enter(world.address).await;
    raw.query("select set_config('search_path', lower('SECRET'), false)")
        .await;
    let came = raw.query(ask).await;
    assert!(
        came.tags.contains('E') && !came.text().contains("hidden"),
        "{came:?}"
    );
    // By the start-up packet.
    let ran = world
        .psql_with("sslmode=disable&options=-csearch_path%3Dsecret", &[ask])
        .await;
    let said = String::from_utf8_lossy(&ran.stderr).into_owned();
    assert!(said.contains("these users are secret"), "{said}");
}

#[tokio::test]
async fn a_role_is_not_taken_on_by_the_start_up_packet() {
    let (_server, world) = crate::world::both().await;
    for option in [
        "-crole%3Dpostgres",
        "--role%3Dpostgres",
        "-csession_authorization%3Dpostgres",
    ] {
        let ran = world
            .psql_with(&format!("sslmode=disable&options={option}"), &["select 1"])
            .await;
        assert!(!ran.status.success(), "{option}");
    }
}
