//! Clients as people use them: psql, pgbench, psycopg.

use tokio::process::Command;

use crate::world::{both, run, said};

#[tokio::test]
async fn psql_is_served_and_refused() {
    let (server, world) = both().await;
    assert!(server.sql("create table t (x int); grant all on t to app"));
    for (texts, want) in [
        (&["select current_user"][..], "app | "),
        // One refused of several refuses the whole; the connection lives on.
        (
            &[
                "create table a (x int); drop table a",
                "select to_regclass('a') is null",
            ],
            "t | ERROR:  no drops here",
        ),
        // A refusal inside a transaction fails it, as the server would.
        (
            &[
                "begin",
                "insert into t values (1)",
                "drop table t",
                "commit",
                "select count(*) from t",
            ],
            "0 | ERROR:  no drops here",
        ),
        (&["do $$ begin raise notice 'said'; end $$"], " | NOTICE:  said"),
        (
            &["listen a", "notify a, 'b'"],
            "Asynchronous notification \"a\" with payload \"b\" received",
        ),
        (&["copy (select generate_series(1,3)) to stdout"], "1 2 3 | "),
    ] {
        let got = world.said(texts).await;
        assert!(got.contains(want), "{texts:?}: {got}");
    }
    // Rows of many megabytes, and many rows.
    let ran = world
        .psql(&[
            "select repeat('y', 30000000)",
            "select repeat('z', 100) from generate_series(1, 50000)",
        ])
        .await;
    assert_eq!(ran.stdout.len(), 30_000_001 + 101 * 50_000);
}

#[tokio::test]
async fn pgbench_runs_in_every_mode() {
    let (server, world) = both().await;
    server.pgbench_init();
    let port = world.address.port().to_string();
    for (mode, script) in [("simple", "-N"), ("extended", "-S"), ("prepared", "-S")] {
        let mut command = Command::new("pgbench");
        command.args([
            "-n",
            script,
            "-t",
            "20",
            "-c",
            "2",
            "-M",
            mode,
            "-h",
            "127.0.0.1",
            "-p",
            &port,
        ]);
        let ran = run(command.args(["-U", "agent", "postgres"])).await;
        assert!(ran.status.success(), "{mode}: {}", said(&ran));
    }
    // Each Execute was judged, in the prepared mode too.
    let story = world.story().await;
    let selects = story
        .iter()
        .filter(|line| line.starts_with("SELECT abalance") && line.ends_with("SELECT 1"));
    assert_eq!(selects.count(), 3 * 40);
}

/// Runs a script with psycopg, which `scripts/test` installs in `target/venv`.
pub async fn psycopg(world: &crate::world::World, script: &str) -> String {
    psycopg_with(world, "sslmode=disable", script).await
}

/// The same, with other options of libpq's.
pub async fn psycopg_with(world: &crate::world::World, options: &str, script: &str) -> String {
    let python = concat!(env!("CARGO_MANIFEST_DIR"), "/target/venv/bin/python");
    let mut command = Command::new(python);
    command.args(["-c", script]).env("URL", world.url(options));
    said(&run(&mut command).await)
}

const HEAD: &str = "
import os, psycopg
from psycopg import errors
conn = psycopg.connect(os.environ['URL'], autocommit=True)
def refused(run):
    try:
        run()
    except errors.InsufficientPrivilege as error:
        assert 'http://tailkeep.internal/' in error.diag.message_hint
        return error.diag.message_primary
    return 'not refused'
";

#[tokio::test]
async fn psycopg_in_all_its_ways() {
    let (server, world) = both().await;
    assert!(server.sql("create table t (x int, s text); grant all on t to app"));
    for (script, want) in [
        // Prepared after five uses, with parameters of many types.
        (
            "for i in range(12): conn.execute('insert into t values (%s, %s)', (i, 'é' * i), prepare=i > 2)
print(conn.execute('select count(*), max(length(s)) from t where x = any(%s)', ([1, 11],)).fetchone())
print(refused(lambda: conn.execute('delete from t where x = %s', (1,), prepare=True)))
print(conn.execute('select count(*) from t').fetchone(), conn.info.transaction_status.name)",
            "(2, 11) no drops here (12,) IDLE | ",
        ),
        // libpq's pipeline mode, with a refusal in its middle.
        (
            "with conn.pipeline() as p:
    got = [conn.execute('select %s::int', (i,)) for i in range(50)]
    p.sync()
print(sum(one.fetchone()[0] for one in got))
def pipeline():
    with conn.pipeline() as p:
        conn.execute('insert into t values (100)')
        conn.execute('delete from t')
        conn.execute('insert into t values (101)')
        p.sync()
print(refused(pipeline))
print(conn.execute('select count(*) from t where x >= 100').fetchone())",
            "1225 no drops here (0,) | ",
        ),
        // A cursor of the server, and rows one at a time.
        (
            "with conn.transaction():
    cursor = conn.cursor('c')
    cursor.execute('select generate_series(1, 1000)')
    print(len(cursor.fetchmany(10)), len(cursor.fetchall()))
    cursor.close()
cursor = conn.cursor()
print(sum(row[0] for row in cursor.stream('select generate_series(1, 100)')))",
            "10 990 5050 | ",
        ),
        // Transactions, savepoints, and what a refusal does to them.
        (
            "def inside():
    with conn.transaction():
        conn.execute('insert into t values (200)')
        conn.execute('delete from t')
print(refused(inside))
with conn.transaction():
    conn.execute('insert into t values (201)')
    def saved():
        with conn.transaction(): conn.execute('delete from t')
    print(refused(saved))
print(conn.execute('select array_agg(x) from t where x >= 200').fetchone())",
            "no drops here no drops here ([201],) | ",
        ),
        // Binary both ways, and notifications.
        (
            "cursor = conn.cursor(binary=True)
print(cursor.execute('select %b::int8 + 1, %b::text', (41, 'b')).fetchone())
conn.execute('listen a')
conn.execute(\"notify a, 'x'\")
print(next(conn.notifies(timeout=5, stop_after=1)).payload)",
            "(42, 'b') x | ",
        ),
    ] {
        let got = psycopg(&world, &format!("{HEAD}{script}")).await;
        assert_eq!(got, want, "{script}");
    }
}

#[tokio::test]
async fn psycopg_copies() {
    let (server, world) = both().await;
    assert!(server.sql("create table t (x int, s text); grant all on t to app"));
    let script = "
with conn.cursor().copy('copy t from stdin') as copy:
    for i in range(100000): copy.write_row((i, 'x' * 100))
print(conn.execute('select count(*), sum(x) from t').fetchone())
with conn.cursor().copy('copy t to stdout') as copy:
    print(sum(len(block) for block in copy))
# Broken off by the client half way.
try:
    with conn.cursor().copy('copy t from stdin') as copy:
        for i in range(50000): copy.write_row((i, 'y' * 100))
        raise KeyError('enough')
except KeyError: pass
# Broken off by the server half way.
try:
    with conn.cursor().copy('copy t from stdin') as copy:
        copy.write('no number\\tx\\n')
        for i in range(50000): copy.write_row((i, 'y' * 100))
except errors.InvalidTextRepresentation as error: print('bad')
# Cancelled half way.
import threading
try:
    with conn.cursor().copy('copy (select generate_series(1, 1000000000)) to stdout') as copy:
        for at, row in enumerate(copy):
            if at == 1000: conn.cancel_safe()
except errors.QueryCanceled: print('cancelled')
print(refused(lambda: conn.execute('copy (delete from t returning x) to stdout')))
print(conn.execute('select count(*) from t').fetchone(), conn.info.transaction_status.name)
";
    let got = psycopg(&world, &format!("{HEAD}{script}")).await;
    assert_eq!(
        got,
        "(100000, 4999950000) 10688890 bad cancelled no drops here (100000,) IDLE | "
    );
    let records = world.records().await;
    let of = |prefix: &str| {
        let found = records.iter().find(|one| {
            one["summary"].as_str().unwrap() == prefix && one["outcome"]["status"] == "COPY 100000"
        });
        found.unwrap_or_else(|| panic!("{prefix}: {records:#?}"))["outcome"].clone()
    };
    assert!(of("copy t from stdin")["bytes_up"].as_u64().unwrap() >= 10_688_890);
    assert!(of("copy t to stdout")["bytes_down"].as_u64().unwrap() >= 10_688_890);
}

#[tokio::test]
async fn a_database_is_dumped_and_restored() {
    let (server, world) = both().await;
    // A database cannot be created among other statements; its schemas are its owner's.
    assert!(server.sql("create database copy owner app"));
    assert!(server.sql(
        "create schema s authorization app; set role app;
         create table s.t (x int primary key, s text default 'é\\n'); create view s.v as select x from s.t;
         create function s.f(a int) returns int language sql as $$ select a + 1 $$;
         insert into s.t select i, E'a\\\\b' || i from generate_series(1, 1000) i",
    ));
    let dump = tempfile::NamedTempFile::new().unwrap();
    let path = dump.path().to_str().unwrap();
    let mut command = Command::new("pg_dump");
    command.args(["-n", "s", "-f", path, "-d", &world.url("sslmode=disable")]);
    assert_eq!(said(&run(&mut command).await), " | ");
    let copy = world.url("sslmode=disable").replace("/postgres?", "/copy?");
    let mut command = Command::new("psql");
    command.args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-f", path, &copy]);
    let ran = run(&mut command).await;
    assert!(ran.status.success(), "{}", said(&ran));
    let mut command = Command::new("psql");
    command.args(["-XAtq", &copy, "-c", "select count(*), max(s), s.f(1) from s.t"]);
    assert_eq!(said(&run(&mut command).await), "1000|a\\b999|2 | ");
    // What pg_dump prepares and executes by name was judged as what it is.
    let story = world.story().await;
    let executed = story.iter().filter(|line| line.starts_with("EXECUTE")).count();
    assert!(executed > 0, "{story:#?}");
    assert!(story.iter().all(|line| line.contains("| allow |")), "{story:#?}");
}
