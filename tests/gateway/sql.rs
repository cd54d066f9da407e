//! SQL that was read as something else than what the server ran.

use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use crate::postgres::{PASSWORD, Server};
use crate::world::{World, can_run};

fn policy(server: &Server, rules: &str) -> String {
    format!(
        "endpoint \"postgres\" \"orders\" {{\n  host = \"orders.test:5432\"\n  upstream = \"127.0.0.1:{}\"\n  sslmode = \"disable\"\n}}\n\
         credential \"postgres_credential\" \"app\" {{\n  endpoint = postgres.orders\n  user = \"app\"\n  secret = file(\"{}\")\n}}\n\
         profile \"dev\" {{\n  peers = [\"agent\"]\n  credentials = [postgres_credential.app]\n{rules}\n}}\n",
        server.port,
        password_file().display()
    )
}

/// One file for all tests, put there whole: they run at once.
fn password_file() -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let path = folder.join("password-of-app");
    let draft = folder.join(format!("password-of-app.{}", std::process::id()));
    std::fs::write(&draft, PASSWORD).unwrap();
    std::fs::set_permissions(&draft, std::fs::Permissions::from_mode(0o600)).unwrap();
    std::fs::rename(&draft, &path).unwrap();
    path
}

const READS: &str = r#"
  rule "reads" {
    endpoint  = postgres.orders
    condition = "sql.verbs.all(v, v in ['select', 'begin', 'commit', 'rollback', 'prepare', 'execute', 'explain'])"
    verdict   = "allow"
  }"#;

/// Runs SQL through the tunnel by psql.
pub fn psql(world: &World, sql: &str) -> String {
    world.run(&[
        "psql",
        "-XAtq",
        "-v",
        "VERBOSITY=verbose",
        "host=orders.test user=app dbname=postgres sslmode=disable",
        "-c",
        sql,
    ])
}

#[test]
fn a_statement_hidden_behind_another_is_not_run() {
    if !can_run() {
        return;
    }
    let server = Server::start(&[]);
    assert!(server.sql("create table users(id int); insert into users select generate_series(1, 5); grant all on users to app; alter table users owner to app"));
    let world = World::start(&policy(&server, READS));
    assert_eq!(psql(&world, "select count(*) from users"), "5\n");
    for (what, sql) in [
        (
            "a quote behind a backslash",
            "SELECT E'\\''; DROP TABLE users; --'",
        ),
        (
            "a dollar that begins no quote",
            "SELECT 1 AS a$$; DROP TABLE users; --$$",
        ),
        (
            "a carriage return that ends a comment",
            "SELECT 1 --\r; DROP TABLE users",
        ),
        ("EXPLAIN ANALYZE", "EXPLAIN ANALYZE DELETE FROM users"),
        ("PREPARE and EXECUTE", "PREPARE p AS DELETE FROM users; EXECUTE p"),
        (
            "EXECUTE inside EXPLAIN",
            "PREPARE p AS DELETE FROM users; EXPLAIN ANALYZE EXECUTE p",
        ),
        (
            "COPY of a DELETE",
            "COPY (DELETE FROM users RETURNING *) TO STDOUT",
        ),
        (
            "a CTE",
            "WITH gone AS (DELETE FROM users RETURNING *) SELECT * FROM gone",
        ),
        (
            "several, one of them bad",
            "SELECT 1; DELETE FROM users; SELECT 2",
        ),
        ("DO", "DO $$ BEGIN DELETE FROM users; END $$"),
        (
            "a comment inside a comment",
            "SELECT 1 /* /* */ ; DELETE FROM users; */ ; DELETE FROM users",
        ),
        ("Unicode escapes", "SELECT U&'\\0027'; DELETE FROM users; --'"),
    ] {
        let said = psql(&world, sql);
        assert!(said.contains("42501") || said.contains("26000"), "{what}: {said}");
        // Rules stay rules: the evaluator's own words are for the log.
        for word in ["CEL", "unevaluable", "condition", "reads"] {
            assert!(!said.contains(word), "{what}: {said}");
        }
        assert_eq!(server.says("select count(*) from users"), "5", "{what}");
    }
}

#[test]
fn the_transaction_is_shown_as_it_is() {
    if !can_run() {
        return;
    }
    let server = Server::start(&[]);
    assert!(server.sql("create table users(id int); grant all on users to app"));
    let rules = READS.replace("'rollback'", "'rollback', 'insert'");
    let world = World::start(&policy(&server, &rules));
    // A refusal in a block fails the block, as a server's own error does.
    let script = "begin;\ninsert into users values (1);\ndrop table users;\n\\echo :ERROR\nselect 'still here';\ncommit;\nselect count(*) from users;";
    let said = world.run(&[
        "sh",
        "-c",
        "printf '%s' \"$0\" | psql -XAtq 'host=orders.test user=app dbname=postgres sslmode=disable'",
        script,
    ]);
    assert!(said.contains("current transaction is aborted"), "{said}");
    assert!(said.trim_end().ends_with('0') || said.contains("\n0\n"), "{said}");
    assert_eq!(server.says("select count(*) from users"), "0");
}

#[test]
fn a_statement_parsed_once_is_judged_at_every_execution() {
    if !can_run() {
        return;
    }
    let server = Server::start(&[]);
    assert!(server.sql(
        "create table users(id int); insert into users values (1), (2), (3); grant all on users to app"
    ));
    let rules = r#"
  rule "one" {
    endpoint  = postgres.orders
    condition = "sql.verb == 'delete' && sql.parameters == ['1']"
    verdict   = "allow"
  }"#;
    let world = World::start(&policy(&server, rules));
    let python = concat!(env!("CARGO_MANIFEST_DIR"), "/target/venv/bin/python");
    let program = r#"
import psycopg
c = psycopg.connect("host=orders.test user=app dbname=postgres sslmode=disable", autocommit=True)
for id in ("1", "2", "3", "1"):
    try:
        print(id, c.execute("delete from users where id = %s::int", (id,), prepare=True).rowcount)
    except psycopg.Error as error:
        print(id, error.sqlstate)
"#;
    assert_eq!(
        world.run(&[python, "-c", program]),
        "1 1\n2 42501\n3 42501\n1 0\n"
    );
    assert_eq!(server.says("select count(*) from users"), "2");
}

#[test]
fn a_reload_is_the_law_of_an_open_session() {
    if !can_run() {
        return;
    }
    let server = Server::start(&[]);
    let world = World::start(&policy(&server, READS));
    let folder = world.folder.path();
    let program = r#"
import os, sys, time
import psycopg
c = psycopg.connect("host=orders.test user=app dbname=postgres sslmode=disable", autocommit=True)
for step in ("one", "two", "three"):
    while not os.path.exists(step): time.sleep(0.02)
    try: print(c.execute("select 1").fetchone()[0], flush=True)
    except psycopg.Error as error: print(error.sqlstate or "closed", flush=True)
"#;
    let python = concat!(env!("CARGO_MANIFEST_DIR"), "/target/venv/bin/python");
    let child = world
        .agent("agent", &[python, "-c", program])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let step = |name: &str| std::fs::write(folder.join(name), "").unwrap();
    step("one");
    crate::world::until("the first statement", || {
        world.audit().iter().any(|row| row["summary"] == "select 1")
    });
    world.rewrite(
        &policy(&server, &READS.replace("'select', ", "")),
        "a new policy is in force",
    );
    step("two");
    crate::world::until("the second statement", || !world.denials("select 1").is_empty());
    world.rewrite(
        &policy(&server, READS).replace("peers = [\"agent\"]", "peers = [\"another\"]"),
        "a new policy is in force",
    );
    step("three");
    let output = child.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "1\n42501\nclosed\n");
}

/// What the server says by itself reaches an agent that is idle, and one that waits for nothing.
#[test]
fn a_session_hears_the_server_while_it_is_idle() {
    if !can_run() {
        return;
    }
    let server = Server::start(&[]);
    assert!(server.sql(
        "create function speaks() returns int language plpgsql as $$ begin raise notice 'said'; return 1; end $$"
    ));
    let rules = r#"
  rule "all" {
    endpoint = postgres.orders
    verdict  = "allow"
  }"#;
    let world = World::start(&policy(&server, rules));
    let program = r#"
import psycopg
c = psycopg.connect("host=orders.test user=app dbname=postgres sslmode=disable", autocommit=True)
c.add_notice_handler(lambda notice: print("notice", notice.message_primary, flush=True))
c.execute("listen news")
print("listens", flush=True)
for told in c.notifies(timeout=60, stop_after=2): print(told.channel, told.payload, flush=True)
print(c.execute("select speaks()").fetchone()[0], flush=True)
try:
    for told in c.notifies(timeout=60): print("?", told)
except psycopg.Error as error: print(error.sqlstate, flush=True)
"#;
    let python = concat!(env!("CARGO_MANIFEST_DIR"), "/target/venv/bin/python");
    let mut child = world
        .agent("agent", &[python, "-c", program])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut line = || lines.next().unwrap().unwrap();
    assert_eq!(line(), "listens");
    for news in ["one", "two"] {
        assert!(server.sql(&format!("notify news, '{news}'")));
        assert_eq!(line(), format!("news {news}"));
    }
    assert_eq!([line(), line()], ["notice said", "1"]);
    assert!(server.sql("select pg_terminate_backend(pid) from pg_stat_activity where usename = 'app'"));
    assert_eq!(
        line(),
        "notice terminating connection due to administrator command"
    );
    assert!(child.wait().unwrap().success());
}
