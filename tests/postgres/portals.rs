//! Portals: judged once, read on under the same permit, gone with their transaction.

use crate::raw::{Raw, bind, close, execute, parse, query, run, sync};
use tailkeep::proxy::postgres::LASTING_BYTES_MAX;

use crate::world::{SETUP, Setup, World, both, server};

#[tokio::test]
async fn reading_on_is_the_same_action() {
    let (_server, world) = both().await;
    let mut raw = Raw::enter(world.address).await;
    let came = raw
        .ask(&[
            query("begin"),
            parse("", "select generate_series(1, 5)"),
            bind("c", "", &[]),
            execute("c", 2),
            sync(),
        ])
        .await;
    assert_eq!(came.tags, "CZ12DDsZ", "{came:?}");
    // Read on in the same pipeline and in the next.
    let came = raw.ask(&[execute("c", 1), execute("c", 1), sync()]).await;
    assert_eq!(came.tags, "DsDsZ", "{came:?}");
    let came = raw.ask(&[execute("c", 0), sync()]).await;
    assert_eq!(came.tags, "DCZ", "{came:?}");
    // Another one is closed half way, by name, by its transaction, by the connection.
    for end in [close('P', "d"), query("close d"), query("commit"), query("begin")] {
        let came = raw
            .ask(&[
                parse("", "select generate_series(1, 9)"),
                bind("d", "", &[]),
                execute("d", 1),
                sync(),
            ])
            .await;
        assert!(came.tags.contains("12Ds"), "{came:?}");
        let came = raw.ask(&[end, sync()]).await;
        assert!(!came.tags.contains('E'), "{came:?}");
        if world.open() == 0 {
            break;
        }
    }
    drop(raw);
    let story = world.story().await;
    let series: Vec<_> = story
        .iter()
        .filter(|line| line.contains("generate_series"))
        .collect();
    assert_eq!(series.len(), 5, "{story:#?}");
    assert!(series[0].ends_with("| allow | SELECT 1"), "{story:#?}");
    assert!(
        series[1..]
            .iter()
            .all(|line| line.ends_with("| allow | SUSPENDED")),
        "{story:#?}"
    );
}

#[tokio::test]
async fn a_bind_alone_is_judged_and_its_execute_is_not_judged_again() {
    let (server, world) = both().await;
    assert!(server.sql("create table t (x int); grant all on t to app"));
    let mut raw = Raw::enter(world.address).await;
    assert_eq!(raw.query("begin").await.tags, "CZ");
    let came = raw
        .ask(&[parse("", "insert into t values (1)"), bind("c", "", &[]), sync()])
        .await;
    assert_eq!(came.tags, "12Z", "{came:?}");
    let came = raw.ask(&[execute("c", 0), sync()]).await;
    assert_eq!(came.tags, "CZ", "{came:?}");
    // Once it is over, to execute it is to be judged again; the server has nothing more to run.
    let again = [
        query("savepoint s"),
        execute("c", 0),
        sync(),
        query("rollback to s"),
    ];
    let came = raw.ask(&again).await;
    assert!(came.text().contains("55000"), "{came:?}");
    // One that is never executed.
    let came = raw
        .ask(&[parse("", "insert into t values (2)"), bind("e", "", &[]), sync()])
        .await;
    assert_eq!(came.tags, "12Z", "{came:?}");
    assert_eq!(raw.query("commit").await.tags, "CZ");
    // Refused at the Bind: nothing was planned.
    let came = raw
        .ask(&[parse("", "delete from t"), bind("c", "", &[]), sync()])
        .await;
    assert_eq!(came.tags, "1EZ", "{came:?}");
    drop(raw);
    let story = world.story().await;
    assert_eq!(
        story,
        [
            "begin | allow | BEGIN",
            "insert into t values (1) | allow | INSERT 0 1",
            "savepoint s | allow | SAVEPOINT",
            "insert into t values (1) | allow | ERROR 55000",
            "rollback to s | allow | ROLLBACK",
            "insert into t values (2) | allow | NOT RUN",
            "commit | allow | COMMIT",
            "delete from t | deny | -",
        ]
    );
    assert_eq!(server.says("select x from t"), "1");
}

#[tokio::test]
async fn a_cursor_of_sql_is_not_taken_for_a_portal() {
    let (_server, world) = both().await;
    let mut raw = Raw::enter(world.address).await;
    let start = [
        query("begin"),
        parse("", "select generate_series(1, 5)"),
        bind("c", "", &[]),
        execute("c", 1),
        sync(),
    ];
    assert_eq!(raw.ask(&start).await.tags, "CZ12DsZ");
    let came = raw.query("close c; declare c cursor for select 7").await;
    assert_eq!(came.tags, "CCZ", "{came:?}");
    let came = raw.ask(&[execute("c", 0), sync()]).await;
    assert_eq!(came.tags, "EZ", "{came:?}");
    assert!(came.text().contains("34000"), "{came:?}");
    assert_eq!(raw.query("rollback").await.tags, "CZ");
    // FETCH goes by SQL, as it should.
    let came = raw
        .ask(&[
            query("begin"),
            query("declare c cursor for select 7"),
            query("fetch all from c"),
            query("close all"),
            run("commit"),
            sync(),
        ])
        .await;
    assert_eq!(came.tags, "CZCZTDCZCZ12CZ", "{came:?}");
}

#[tokio::test]
async fn parameters_in_binary_form_are_read_by_the_types_that_the_server_says() {
    use tailkeep::protocol::postgres::wire::message;

    let (_server, world) = both().await;
    let mut raw = Raw::enter(world.address).await;
    let mut binary = b"\0s\0\0\x01\0\x01\0\x01\0\0\0\x04".to_vec();
    binary.extend_from_slice(&7_u32.to_be_bytes());
    binary.extend_from_slice(&[0, 0]);
    let bind = message(b'B', &binary).to_vec();
    // Not said by the client, and not asked of the server: unknown.
    let came = raw
        .ask(&[
            parse("s", "select $1::int4"),
            bind.clone(),
            execute("", 0),
            sync(),
        ])
        .await;
    assert_eq!(came.tags, "12DCZ", "{came:?}");
    // Described, as most drivers do before they send binary values.
    let describe = message(b'D', b"Ss\0").to_vec();
    assert_eq!(raw.ask(&[describe, sync()]).await.tags, "tTZ");
    let came = raw.ask(&[bind, execute("", 0), sync()]).await;
    assert_eq!(came.tags, "2DCZ", "{came:?}");
    drop(raw);
    let records = world.records().await;
    let parameters: Vec<_> = records[1..]
        .iter()
        .map(|one| one["facts"]["parameters"].clone())
        .collect();
    assert_eq!(parameters[1], serde_json::json!(["7"]), "{records:#?}");
    assert_ne!(parameters[0], parameters[1]);
}

const NO_SERIES: &str = r#"
rule "no-series" {
  endpoint  = postgres.orders
  condition = "sql.statement.contains('series')"
  verdict   = "deny"
  reason    = "no series any more"
}
rule "rest" {
  endpoint = postgres.orders
  verdict  = "allow"
}
"#;

/// What goes on after its permit is judged by the policies that come after.
#[tokio::test]
async fn a_new_policy_ends_what_it_would_not_let_pass() {
    let (server, world) = both().await;
    assert!(server.sql("create table series (x int); grant all on series to app"));
    let portal = |what: &str| [parse("", what), bind("c", "", &[]), execute("c", 1), sync()].concat();
    for (start, tags, goes) in [
        // Half read.
        (portal("select generate_series(1, 5)"), "12DsZ", true),
        // Planned, and not yet run.
        (
            [
                parse("", "insert into series values (1)"),
                bind("c", "", &[]),
                sync(),
            ]
            .concat(),
            "12Z",
            true,
        ),
        (query("declare c cursor for select * from series"), "CZ", true),
        (query("listen series"), "CZ", true),
        (query("copy series from stdin"), "G", true),
        (portal("select 1 from pg_class"), "12DsZ", false),
        (query("select count(*) from series"), "TDCZ", false),
    ] {
        let mut raw = Raw::enter(world.address).await;
        assert_eq!(raw.query("begin").await.tags, "CZ");
        raw.send(&start).await;
        let last = tags.chars().last().unwrap();
        assert_eq!(raw.until(last, 1).await.tags, tags);
        // A policy that says the same ends nothing.
        world.reload(server.port, SETUP);
        world.reload(
            server.port,
            Setup {
                rules: NO_SERIES,
                ..SETUP
            },
        );
        if goes {
            let came = raw.until_ready(1).await;
            assert_eq!(came.tags, "E", "{came:?}");
            assert!(came.text().contains("no series any more"), "{came:?}");
        } else {
            assert_eq!(raw.ask(&[query("select 1")]).await.tags, "TDCZ");
        }
        world.reload(server.port, SETUP);
    }
    assert_eq!(server.says("select count(*) from series"), "0");
}

#[tokio::test]
async fn what_is_too_large_to_be_remembered_ends_with_any_new_policy() {
    let server = server(&[]).await;
    let setup = Setup {
        limits: "message_bytes_max = 8388608",
        ..SETUP
    };
    let world = World::new(server.port, setup).await;
    for (bytes, goes) in [(LASTING_BYTES_MAX / 2, false), (LASTING_BYTES_MAX, true)] {
        let mut raw = Raw::enter(world.address).await;
        let long = "x".repeat(bytes);
        let start = [
            query("begin"),
            parse("", "select generate_series(1, 5), $1::text is null"),
            bind("c", "", &[&long]),
            execute("c", 1),
            sync(),
        ];
        assert_eq!(raw.ask(&start).await.tags, "CZ12DsZ");
        world.reload(server.port, setup);
        let came = match goes {
            true => raw.until_ready(1).await,
            false => raw.ask(&[execute("c", 1), sync()]).await,
        };
        assert_eq!(came.tags, if goes { "E" } else { "DsZ" }, "{came:?}");
    }
}
