//! Refusals in the middle of things: the server's own place, rollback and transaction state.

use crate::raw::{Raw, bind, execute, parse, query, run, sync};
use crate::world::{both, until};
use tailkeep::protocol::postgres::wire::message;

#[tokio::test]
async fn a_refusal_in_a_pipeline_rolls_back_and_skips() {
    let (server, world) = both().await;
    assert!(server.sql("create table t (x int); grant all on t to app"));
    let mut raw = Raw::enter(world.address).await;
    let came = raw
        .ask(&[
            run("insert into t values (1)"),
            run("drop table t"),
            run("insert into t values (2)"),
            sync(),
            run("insert into t values (3)"),
            sync(),
        ])
        .await;
    assert_eq!(came.tags, "12C1EZ12CZ", "{came:?}");
    assert!(came.text().contains("no drops here"), "{came:?}");
    // An unnamed statement that a skipped Parse did not replace is not run under its new name.
    let came = raw
        .ask(&[
            parse("", "drop table t"),
            sync(),
            parse("x", "select nosuch"),
            parse("", "select 1"),
            sync(),
            bind("", "", &[]),
            execute("", 0),
            sync(),
        ])
        .await;
    assert_eq!(came.tags, "1ZEZEZ", "{came:?}");
    assert!(came.text().contains("26000"), "{came:?}");
    assert_eq!(server.says("select x from t"), "3");
}

#[tokio::test]
async fn a_refusal_tells_the_true_transaction_state() {
    let (server, world) = both().await;
    assert!(server.sql("create table t (x int); grant all on t to app"));
    let mut raw = Raw::enter(world.address).await;
    let state = |came: &crate::raw::Came| came.payloads.last().unwrap()[0];
    for refused in [vec![query("drop table t")], vec![run("drop table t"), sync()]] {
        // Outside a transaction it is idle afterwards; inside the transaction has failed.
        let came = raw.ask(&refused).await;
        assert_eq!(
            (came.tags.ends_with("EZ"), state(&came)),
            (true, b'I'),
            "{came:?}"
        );
        assert_eq!(raw.query("begin").await.tags, "CZ");
        assert_eq!(raw.query("insert into t values (1)").await.tags, "CZ");
        let came = raw.ask(&refused).await;
        assert_eq!(
            (came.tags.ends_with("EZ"), state(&came)),
            (true, b'E'),
            "{came:?}"
        );
        let came = raw.query("select 1").await;
        assert_eq!((came.tags.as_str(), state(&came)), ("EZ", b'E'), "{came:?}");
        assert!(came.text().contains("25P02"), "{came:?}");
        // In a failed transaction a refusal changes nothing.
        let came = raw.ask(&refused).await;
        assert_eq!(state(&came), b'E', "{came:?}");
        let came = raw.query("commit").await;
        assert!(came.text().contains("ROLLBACK"), "{came:?}");
    }
    // A savepoint gets it back, as with any other error.
    for text in ["begin", "insert into t values (2)", "savepoint s"] {
        assert_eq!(raw.query(text).await.tags, "CZ");
    }
    assert_eq!(raw.query("drop table t").await.tags, "EZ");
    assert_eq!(raw.query("rollback to s").await.tags, "CZ");
    assert_eq!(raw.query("commit").await.tags, "CZ");
    assert_eq!(server.says("select x from t"), "2");
}

#[tokio::test]
async fn a_refused_text_runs_none_of_its_statements() {
    let (server, world) = both().await;
    assert!(server.sql("create table t (x int); grant all on t to app"));
    let mut raw = Raw::enter(world.address).await;
    for text in [
        "insert into t values (1); drop table t",
        "insert into t values (1); select hidden; delete from t; select 1",
        r"SELECT E'\''; DROP TABLE t; --'",
        "SELECT 1 AS a$$; DROP TABLE t; --$$",
        "SELECT 1 --\r; DROP TABLE t",
        "with d as (delete from t returning *) select * from d",
        "explain analyze delete from t",
        "copy (delete from t returning *) to stdout",
        "prepare x as delete from t",
    ] {
        let came = raw.query(text).await;
        assert_eq!(came.tags, "EZ", "{text}: {came:?}");
        assert!(came.text().contains("no drops here"), "{text}: {came:?}");
    }
    // Behind other messages as well.
    let came = raw
        .ask(&[
            query("insert into t values (5)"),
            query("insert into t values (6); drop table t"),
            query("select x from t"),
        ])
        .await;
    assert_eq!(came.tags, "CZEZTDCZ", "{came:?}");
    drop(raw);
    let story = world.story().await;
    assert!(
        story.contains(&"insert into t values (6) | allow | NOT SENT".to_owned()),
        "{story:#?}"
    );
    assert_eq!(server.says("select x from t"), "5");
}

#[tokio::test]
async fn each_statement_has_its_own_outcome() {
    let (server, world) = both().await;
    assert!(server.sql("create table t (x int); grant all on t to app"));
    let mut raw = Raw::enter(world.address).await;
    raw.query("insert into t select generate_series(1, 3); update t set x = 0 where x > 1; select x from t")
        .await;
    raw.query("select 1; select 1/0; select 2").await;
    raw.ask(&[
        run("select repeat('x', 100000)"),
        run("select 1/0"),
        run("select 3"),
        sync(),
    ])
    .await;
    drop(raw);
    let records = world.records().await;
    let status: Vec<_> = records
        .iter()
        .map(|one| one["outcome"]["status"].as_str().unwrap_or("-"))
        .collect();
    let want = [
        "closed",
        "INSERT 0 3",
        "UPDATE 2",
        "SELECT 3",
        "SELECT 1",
        "ERROR 22012",
        "SKIPPED",
        "SELECT 1",
        "ERROR 22012",
        "SKIPPED",
    ];
    // The last one was judged only if the error had not come yet.
    assert!(want.starts_with(&status) && status.len() >= 9, "{status:?}");
    let outcome = |at: usize, field: &str| records[at]["outcome"][field].as_u64().unwrap();
    assert!(outcome(1, "bytes_up") > 90, "{records:#?}");
    assert!(
        outcome(7, "bytes_down") > 100_000 && outcome(7, "bytes_up") < 100,
        "{records:#?}"
    );
    // The connection's own record has the sums.
    assert!(
        outcome(0, "bytes_down") > 100_000 && outcome(0, "bytes_up") > 200,
        "{records:#?}"
    );
    assert!(
        records[0]["summary"]
            .as_str()
            .unwrap()
            .starts_with("connect to postgres as app")
    );
}

#[tokio::test]
async fn a_held_statement_of_an_agent_that_leaves_is_withdrawn() {
    let (server, world) = both().await;
    assert!(server.sql("create table t (x int); grant all on t to app"));
    let mut raw = Raw::enter(world.address).await;
    raw.send(&run("insert into t values (1) /* hold */")).await;
    raw.send(&sync()).await;
    world.held().await;
    drop(raw);
    until("the question is withdrawn", || world.open() == 0).await;
    assert!(world.queue.list(false).await.unwrap().is_empty());
    // Leaving by Terminate while it is held, too.
    let mut raw = Raw::enter(world.address).await;
    raw.send(
        &[
            query("insert into t values (2) /* hold */"),
            message(b'X', &[]).to_vec(),
        ]
        .concat(),
    )
    .await;
    assert!(raw.until_ready(1).await.tags.is_empty());
    until("the question is withdrawn", || world.open() == 0).await;
    assert!(world.queue.list(false).await.unwrap().is_empty());
    assert_eq!(server.says("select count(*) from t"), "0");
}

#[tokio::test]
async fn a_held_statement_is_sent_once_it_is_approved() {
    use tailkeep::verdict::approval::{Decide, Decision};

    let (server, world) = both().await;
    assert!(server.sql("create table t (x int); grant all on t to app"));
    for (decision, tags, says) in [
        (Decision::Allow, "12CZTDCZ", "INSERT"),
        (Decision::Deny, "1EZTDCZ", "not today"),
    ] {
        let mut raw = Raw::enter(world.address).await;
        let behind = [
            run("insert into t values (1) /* hold */"),
            sync(),
            query("select 1"),
        ];
        raw.send(&behind.concat()).await;
        let id = world.held().await;
        let decide = Decide {
            id,
            person: "ann".into(),
            decision,
            reason: Some("not today".to_owned()),
            grant: None,
        };
        world.queue.decide(decide).await.unwrap();
        let came = raw.until_ready(2).await;
        assert_eq!(came.tags, tags, "{came:?}");
        assert!(came.text().contains(says), "{came:?}");
    }
    assert_eq!(server.says("select count(*) from t"), "1");
}

#[tokio::test]
async fn new_rules_apply_to_an_open_connection() {
    let (server, world) = both().await;
    let mut raw = Raw::enter(world.address).await;
    assert_eq!(raw.query("select 1").await.tags, "TDCZ");
    world.reload(
        server.port,
        crate::world::Setup {
            rules: "",
            ..crate::world::SETUP
        },
    );
    let came = raw.query("select 1").await;
    assert_eq!(came.tags, "EZ", "{came:?}");
}
