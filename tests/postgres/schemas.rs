//! Where a session looks names up that have no schema: the server is asked, so that `users` and
//! `public.users` are one table to the rules.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use crate::raw::Raw;
use crate::world::{RULES, SETUP, Setup, World, server};
use tailkeep::protocol::postgres::wire::message;

/// Rules that tell tables by their schemas.
const BY_SCHEMA: &str = r#"
rule "no-users" {
  endpoint  = postgres.orders
  condition = "'public.users' in sql.tables || 'app.users' in sql.tables || 'boss.users' in sql.tables"
  verdict   = "deny"
  reason    = "users are not yours"
  priority  = 10
}
rule "no-catalog" {
  endpoint  = postgres.orders
  condition = "'pg_catalog.pg_authid' in sql.tables"
  verdict   = "deny"
  reason    = "not the roles"
  priority  = 10
}
rule "rest" {
  endpoint = postgres.orders
  verdict  = "allow"
}
"#;

const REFUSED: &str = "users are not yours";

fn setup() -> Setup<'static> {
    Setup {
        rules: BY_SCHEMA,
        ..SETUP
    }
}

async fn asks(raw: &mut Raw, text: &str, says: &str) {
    let came = raw.query(text).await;
    assert!(came.text().contains(says), "{text}: {came:?}");
    assert_eq!(came.text().contains(REFUSED), says == REFUSED, "{text}: {came:?}");
}

#[tokio::test]
async fn a_bare_name_is_known_by_its_schema_in_a_session_that_set_nothing() {
    let server = server(&[]).await;
    assert!(server.sql(
        "create table users (x text); insert into users values ('secret'); create schema other; \
         create table other.users (x text); insert into other.users values ('harmless'); \
         grant usage on schema other to app; grant select on users, other.users to app"
    ));
    let world = World::new(server.port, setup()).await;
    let mut raw = Raw::enter(world.address).await;
    for text in [
        "select x from users",
        "select x from public.users",
        "select x from USERS",
        "select x from \"users\" as t",
        "table users",
        "select 1 where exists (select from users)",
    ] {
        asks(&mut raw, text, REFUSED).await;
    }
    asks(&mut raw, "select x from other.users", "harmless").await;
    asks(&mut raw, "select rolname from pg_authid", "not the roles").await;
    asks(&mut raw, "select 1 as x", "1").await;
    // Whatever it is set to, the first path may come back.
    for text in [
        "set search_path = other",
        "begin; set local search_path = other; rollback",
        "set search_path = other; discard all",
        "set search_path = other; reset search_path",
        "begin; set search_path = other; select 1/0",
    ] {
        let _ = raw.query(text).await;
        let _ = raw.query("rollback").await;
        asks(&mut raw, "select x from users", REFUSED).await;
    }
    // A temporary table stands before it; its rows are the agent's own, and the name stays refused.
    asks(&mut raw, "create temp table other_users (x text)", "CREATE TABLE").await;
    asks(&mut raw, "create temp view v as select x from users", REFUSED).await;
}

#[tokio::test]
async fn the_roles_own_schema_and_that_of_the_role_it_takes_count() {
    let server = server(&[]).await;
    assert!(server.sql(
        "create role boss; grant boss to app; create schema app authorization app; create schema boss authorization boss; \
         create table app.users (x text); create table boss.users (x text); alter table app.users owner to app; \
         alter table boss.users owner to boss; insert into boss.users values ('hidden')"
    ));
    let world = World::new(server.port, setup()).await;
    let mut raw = Raw::enter(world.address).await;
    asks(&mut raw, "select x from users", REFUSED).await;
    asks(&mut raw, "set role boss", "SET").await;
    asks(&mut raw, "select x from users", REFUSED).await;
    drop(raw);
    // Where nothing of the role's own is there, an allow-list that names the schema holds.
    assert!(
        server.sql("drop schema app cascade; create table orders (x int); grant select on orders to app")
    );
    let only = "rule \"orders\" {\n  endpoint = postgres.orders\n  \
        condition = \"sql.tables.all(t, t in ['orders', 'public.orders'])\"\n  verdict = \"allow\"\n}\n";
    world.reload(server.port, Setup { rules: only, ..SETUP });
    let mut raw = Raw::enter(world.address).await;
    asks(&mut raw, "select x from orders", "SELECT 0").await;
    asks(&mut raw, "select x from public.orders", "SELECT 0").await;
    // As boss it could be another's.
    asks(&mut raw, "set role boss", "SET").await;
    let came = raw.query("select x from orders").await;
    assert!(came.text().contains("42501"), "{came:?}");
    let hint = "HWhat you may reach: http://tailkeep.internal/";
    assert!(came.text().contains(hint), "{came:?}");
}

#[tokio::test]
async fn the_servers_default_of_the_role_or_the_database_is_what_counts() {
    let server = server(&[]).await;
    assert!(server.sql(
        "create schema hidden; create table hidden.users (x text); grant usage on schema hidden to app; \
         grant select on hidden.users to app; alter role app set search_path = hidden"
    ));
    let rules = BY_SCHEMA.replace("public.users", "hidden.users");
    let world = World::new(
        server.port,
        Setup {
            rules: &rules,
            ..SETUP
        },
    )
    .await;
    let mut raw = Raw::enter(world.address).await;
    asks(&mut raw, "select x from users", REFUSED).await;
    drop(raw);
    // Functions of the server's own names that stand before them run what cannot be read.
    assert!(server.sql("alter role app set search_path = hidden, pg_catalog"));
    let opaque = "rule \"o\" {\n  endpoint = postgres.orders\n  condition = \"sql.opaque || 'a.b' in sql.tables\"\n  \
        verdict = \"deny\"\n  reason = \"users are not yours\"\n}\nrule \"r\" {\n  endpoint = postgres.orders\n  \
        verdict = \"allow\"\n}\n";
    world.reload(
        server.port,
        Setup {
            rules: opaque,
            ..SETUP
        },
    );
    let mut raw = Raw::enter(world.address).await;
    asks(&mut raw, "select lower('A')", REFUSED).await;
    asks(&mut raw, "select 7 as x", "7").await;
}

#[tokio::test]
async fn nothing_is_asked_where_no_rule_tells_schemas_and_a_reload_that_does_ends_the_session() {
    let server = server(&[]).await;
    let asked = || {
        server.says(
            "select count(*) from pg_stat_activity where usename = 'app' and query like '%search_path%'",
        )
    };
    let world = World::new(server.port, SETUP).await;
    let mut raw = Raw::enter(world.address).await;
    assert_eq!(asked(), "0");
    asks(&mut raw, "select 1 as x", "1").await;
    world.reload(server.port, setup());
    // Either the next statement is refused, or the connection has ended by then.
    let ended = async {
        raw.send(&crate::raw::query("select 2")).await;
        let mut said = String::new();
        while let Some((_, bytes)) = raw.next().await {
            said.push_str(&String::from_utf8_lossy(&bytes));
        }
        said
    };
    let said = tokio::time::timeout(crate::world::SOON, ended).await.unwrap();
    assert!(said.contains("the policy has changed"), "{said}");
    let mut raw = Raw::enter(world.address).await;
    assert_eq!(asked(), "1");
    asks(&mut raw, "select x from users", REFUSED).await;
    // A session that was asked lives on under rules that ask no more.
    world.reload(
        server.port,
        Setup {
            rules: RULES,
            ..SETUP
        },
    );
    asks(&mut raw, "select 3 as x", "3").await;
}

/// A server that lets everybody in by any password and answers every question with these messages.
async fn answering(answer: Vec<u8>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut io, _)) = listener.accept().await {
            let answer = answer.clone();
            tokio::spawn(async move {
                let mut bytes = vec![0; 4096];
                let _ = io.read(&mut bytes).await;
                let ready = message(b'Z', b"I");
                let _ = io.write_all(&message(b'R', &[0, 0, 0, 5, 1, 2, 3, 4])).await;
                let _ = io.read(&mut bytes).await;
                let hello = [
                    &message(b'R', &[0; 4])[..],
                    &message(b'S', b"standard_conforming_strings\0on\0"),
                    &message(b'S', b"client_encoding\0UTF8\0"),
                    &ready,
                ]
                .concat();
                let _ = io.write_all(&hello).await;
                while io.read(&mut bytes).await.is_ok_and(|count| count > 0) {
                    if io.write_all(&answer).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    port
}

#[tokio::test]
async fn a_server_that_does_not_say_leaves_names_unknown_which_denies() {
    let row = |columns: &[&[u8]]| {
        let mut body = u16::try_from(columns.len()).unwrap().to_be_bytes().to_vec();
        for column in columns {
            body.extend(u32::try_from(column.len()).unwrap().to_be_bytes());
            body.extend_from_slice(column);
        }
        message(b'D', &body).to_vec()
    };
    let end = [&message(b'C', b"SELECT 1\0")[..], &message(b'Z', b"I")].concat();
    let whole = |rows: Vec<u8>| [rows, end.clone()].concat();
    let failed = [
        &message(b'E', b"SERROR\0C42883\0Mno\0\0")[..],
        &message(b'Z', b"I"),
    ]
    .concat();
    let good = row(&[b"public", b"f"]);
    for (answer, what) in [
        (failed, "an error"),
        (whole(Vec::new()), "no row"),
        (whole([good.clone(), good.clone()].concat()), "two rows"),
        (whole(row(&[b"public"])), "one column"),
        (whole(row(&[b"public", b"maybe"])), "no truth"),
        (whole(row(&[b"a b", b"t"])), "no path"),
        (whole(row(&[b"\xff", b"t"])), "no text"),
        (
            whole(message(b'D', &[0, 2, 0xff, 0xff, 0xff, 0xff]).to_vec()),
            "null",
        ),
    ] {
        let port = answering(answer).await;
        let world = World::new(port, setup()).await;
        let mut raw = Raw::enter(world.address).await;
        let came = raw.query("select x from things").await;
        assert!(came.text().contains("42501"), "{what}: {came:?}");
    }
}
