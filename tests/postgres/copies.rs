//! COPY and function calls on the wire.

use tailkeep::protocol::postgres::wire::message;

use crate::raw::{Raw, execute, query, run, sync};
use crate::world::{World, both};

fn data(text: &str) -> Vec<u8> {
    message(b'd', text.as_bytes()).to_vec()
}

#[tokio::test]
async fn copy_in_ends_by_done_by_fail_and_by_the_server() {
    let (server, world) = both().await;
    assert!(server.sql("create table t (x int); grant all on t to app"));
    let done = message(b'c', &[]).to_vec();
    let fail = message(b'f', b"enough\0").to_vec();
    let mut raw = Raw::enter(world.address).await;
    let copy = query("copy t from stdin");
    for (sent, tags, says) in [
        // Sent ahead of the CopyInResponse: it waits.
        (vec![copy.clone(), data("1\n2\n"), done.clone()], "GCZ", "COPY 2"),
        (vec![copy.clone(), data("3\n"), fail.clone()], "GEZ", "57014"),
        // The server breaks it off; what is under way is dropped up to CopyDone.
        (
            vec![copy.clone(), data("x\n"), data("4\n"), done.clone()],
            "GEZ",
            "22P02",
        ),
        // Data without COPY is dropped, as the server does.
        (vec![data("5\n"), done.clone(), query("select 7")], "TDCZ", "7"),
        // Flush and Sync inside of COPY are dropped.
        (
            vec![
                copy.clone(),
                message(b'H', &[]).to_vec(),
                data("6\n"),
                done.clone(),
            ],
            "GCZ",
            "COPY 1",
        ),
    ] {
        raw.send(&sent.concat()).await;
        let came = raw.until_ready(1).await;
        assert_eq!(came.tags, tags, "{came:?}");
        assert!(came.text().contains(says), "{came:?}");
    }
    // By the extended protocol, with the Sync that libpq sends at once and the one after CopyDone.
    raw.send(&[run("copy t from stdin"), sync()].concat()).await;
    assert_eq!(raw.until('G', 1).await.tags, "12G");
    raw.send(&[data("8\n"), done.clone(), sync()].concat()).await;
    assert_eq!(raw.until_ready(1).await.tags, "CZ");
    // A statement in the middle of COPY breaks the protocol, whatever it is; and so does one that was sent ahead.
    for ahead in [false, true] {
        let mut raw = Raw::enter(world.address).await;
        if ahead {
            raw.send(&[copy.clone(), query("drop table t")].concat()).await;
        } else {
            raw.send(&copy).await;
            assert_eq!(raw.until('G', 1).await.tags, "G");
            raw.send(&query("select 1")).await;
        }
        let came = raw.until_ready(1).await;
        assert!(!came.tags.contains(['Z', 'T', 'D']), "{came:?}");
    }
    assert_eq!(server.says("select array_agg(x) from t"), "{1,2,6,8}");
}

/// Rows stream, so that a person decides on the statement alone; the question says so.
#[tokio::test]
async fn who_approves_copy_is_told_that_its_rows_are_not_shown() {
    let (server, world) = both().await;
    assert!(server.sql("create table t (x int); grant all on t to app"));
    for (text, is_told) in [
        ("copy t from stdin /* hold */", true),
        ("insert into t values (1) /* hold */", false),
    ] {
        let mut raw = Raw::enter(world.address).await;
        raw.send(&query(text)).await;
        let id = world.held().await;
        let held = world.queue.show(id).await.unwrap().unwrap();
        let detail = held.question["detail"].as_str().unwrap();
        assert!(detail.starts_with(text), "{detail}");
        assert_eq!(detail.contains("NOT SHOWN: the rows"), is_told, "{detail}");
        drop(raw);
        until_withdrawn(&world).await;
    }
}

/// People decide on what is run: on the values, too, in whatever form they come.
#[tokio::test]
async fn who_approves_a_statement_sees_its_parameters() {
    let (server, world) = both().await;
    assert!(server.sql("create table t (x int); grant all on t to app"));
    let of_type = |oid: u32, text: &str| {
        let mut payload = format!("\0{text}\0\0\x01").into_bytes();
        payload.extend_from_slice(&oid.to_be_bytes());
        message(b'P', &payload).to_vec()
    };
    let bound = |format: u8, value: &[u8]| {
        let mut payload = vec![0, 0, 0, 1, 0, format, 0, 1];
        payload.extend_from_slice(&u32::try_from(value.len()).unwrap().to_be_bytes());
        payload.extend_from_slice(value);
        payload.extend_from_slice(&[0, 0]);
        message(b'B', &payload).to_vec()
    };
    let named = "delete from t where x::text = $1 /* hold */";
    let listed = "select $1::int4[] /* hold */";
    let list = [
        0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 23, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 4, 0, 0, 0, 9,
    ];
    let inner = "prepare q(text) as select x from t where x::text = $1";
    let outer = "execute q($1) /* hold */";
    for (before, text, pipeline, shown) in [
        (
            "",
            named,
            [of_type(25, named), bound(0, b"5' or")],
            "$1 = \"5' or\"\n",
        ),
        (
            "",
            listed,
            [of_type(1007, listed), bound(1, &list)],
            "$1 = in binary, type 1007: \\x00000001",
        ),
        (inner, outer, [of_type(25, outer), bound(0, b"77")], "$1 = 77\n"),
    ] {
        let mut raw = Raw::enter(world.address).await;
        if !before.is_empty() {
            assert_eq!(raw.query(before).await.tags, "CZ");
        }
        raw.send(&[pipeline.concat(), execute("", 0), sync()].concat())
            .await;
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
        if world.queue.list(false).await.unwrap().is_empty() { panic!("{text}: {:?}", raw.until_ready(1).await.text()); }
        let id = world.held().await;
        let held = world.queue.show(id).await.unwrap().unwrap();
        let detail = held.question["detail"].as_str().unwrap();
        assert!(detail.starts_with(shown), "{text}: {detail}");
        drop(raw);
        until_withdrawn(&world).await;
    }
}

async fn until_withdrawn(world: &World) {
    while !world.queue.list(false).await.unwrap().is_empty() {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_function_call_message_is_opaque() {
    let (server, world) = both().await;
    let oid: u32 = server
        .says("select 'pg_catalog.int4pl'::regproc::oid")
        .parse()
        .unwrap();
    let mut payload = oid.to_be_bytes().to_vec();
    payload.extend_from_slice(&[0, 0, 0, 2, 0, 0, 0, 1, b'3', 0, 0, 0, 1, b'4', 0, 0]);
    let call = message(b'F', &payload).to_vec();
    // A rule reads `sql.verbs`, which is unknown of it.
    let rules = "rule \"reads\" {\n  endpoint = postgres.orders\n  condition = \"!('drop' in sql.verbs)\"\n  verdict = \"allow\"\n}";
    let setup = crate::world::Setup {
        rules,
        ..crate::world::SETUP
    };
    world.reload(server.port, setup);
    let mut raw = Raw::enter(world.address).await;
    let came = raw.ask(std::slice::from_ref(&call)).await;
    assert_eq!(came.tags, "EZ", "{came:?}");
    assert_eq!(raw.query("select 1").await.tags, "TDCZ");
    let rules = "rule \"calls\" {\n  endpoint = postgres.orders\n  condition = \"sql.opaque\"\n  verdict = \"allow\"\n}";
    world.reload(
        server.port,
        crate::world::Setup {
            rules,
            ..crate::world::SETUP
        },
    );
    let came = raw.ask(&[call]).await;
    assert_eq!(came.tags, "VZ", "{came:?}");
    assert!(came.text().contains('7'), "{came:?}");
}

/// Bytes that the sockets and queues between the two ends may take up, and no more.
const UNDER_WAY_MAX: usize = 48 << 20;

#[tokio::test]
async fn a_side_that_does_not_read_stops_the_other() {
    use tokio::io::AsyncWriteExt as _;

    let server = crate::world::server(&[]).await;
    let limits = "message_bytes_max = 1048576";
    let setup = crate::world::Setup {
        limits,
        ..crate::world::SETUP
    };
    let world = crate::world::World::new(server.port, setup).await;
    assert!(server.sql("create table t (x text); grant all on t to app"));
    // The server does not read: the table is locked.
    let mut locker = Raw::enter(world.address).await;
    assert_eq!(
        locker.ask(&[query("begin"), query("lock table t")]).await.tags,
        "CZCZ"
    );
    let mut raw = Raw::enter(world.address).await;
    raw.send(&query("insert into t select 'x'")).await;
    let piece = query(&format!("insert into t values ('{}')", "y".repeat(100_000)));
    let mut sent = 0;
    let full = async {
        while sent < 2 * UNDER_WAY_MAX {
            raw.io.write_all(&piece).await.unwrap();
            sent += piece.len();
        }
    };
    assert!(
        tokio::time::timeout(std::time::Duration::from_secs(3), full)
            .await
            .is_err()
    );
    assert!((1 << 20..UNDER_WAY_MAX).contains(&sent), "{sent}");
    drop((raw, locker));
    // The agent does not read: the server stops sending.
    let mut raw = Raw::enter(world.address).await;
    raw.send(&query("select repeat('z', 1000000) from generate_series(1, 200)"))
        .await;
    let blocked = || {
        server.says("select count(*) from pg_stat_activity where wait_event = 'ClientWrite' and query like '%repeat(''z''%'") == "1"
    };
    crate::world::until("the server waits", blocked).await;
    let came = raw.until_ready(1).await;
    assert_eq!(came.tags, format!("T{}CZ", "D".repeat(200)));
}
