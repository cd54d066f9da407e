//! PREPARE, EXECUTE, DEALLOCATE: what a name stands for is what is judged.

use crate::raw::{Raw, bind, close, execute, parse, query, run, sync};
use crate::world::both;

#[tokio::test]
async fn execute_is_judged_as_what_was_prepared() {
    let (server, world) = both().await;
    assert!(server.sql("create table t (x int); insert into t values (1); grant all on t to app"));
    let mut raw = Raw::enter(world.address).await;
    // By Parse, which is not judged: only what runs is.
    let came = raw
        .ask(&[parse("p", "delete from t"), parse("q", "select x from t"), sync()])
        .await;
    assert_eq!(came.tags, "11Z");
    // In both protocols; the tags without those of Parse, Bind and the rows' description.
    let check = async |raw: &mut Raw, text: &str, tags: &str, says: &str| {
        for came in [raw.query(text).await, raw.ask(&[run(text), sync()]).await] {
            assert_eq!(came.tags.replace(['1', '2', 'T'], ""), tags, "{text}: {came:?}");
            assert!(came.text().contains(says), "{text}: {came:?}");
        }
    };
    let refused = "no drops here";
    for text in [
        "execute p",
        "EXECUTE \"p\"",
        "explain analyze execute p",
        "create table c1 as execute p",
        "create temp table c2 as execute p with no data",
        "explain (analyze) create table c3 as execute p",
    ] {
        check(&mut raw, text, "EZ", refused).await;
    }
    check(&mut raw, "execute q", "DCZ", "1").await;
    check(&mut raw, "explain analyze execute q", "DDDCZ", "Seq Scan").await;
    check(&mut raw, "execute nosuch", "EZ", "26000").await;
    // What stands in the arguments is judged too.
    check(
        &mut raw,
        "execute q(set_config('client_encoding', 'SJIS', false))",
        "EZ",
        "may not be changed",
    )
    .await;
    drop(raw);
    assert!(server.says("select count(*) from t") == "1");
}

#[tokio::test]
async fn names_follow_what_the_server_keeps() {
    let (server, world) = both().await;
    assert!(server.sql("create table t (x int); insert into t values (1); grant all on t to app"));
    let mut raw = Raw::enter(world.address).await;
    let check = |came: crate::raw::Came, tags: &str, says: &str| {
        assert_eq!(came.tags, tags, "{came:?}");
        assert!(came.text().contains(says), "{came:?}");
    };
    // A refused PREPARE defines nothing.
    check(
        raw.query("prepare a as delete from t").await,
        "EZ",
        "no drops here",
    );
    check(raw.query("execute a").await, "EZ", "26000");
    // Prepared and run in one text; the first of them is not mistaken for the second.
    check(
        raw.query("prepare a as select 1; execute a; deallocate a; prepare a as select 2; execute a")
            .await,
        "CTDCCCTDCZ",
        "2",
    );
    check(raw.query("execute a").await, "TDCZ", "2");
    check(raw.query("deallocate a; execute a").await, "EZ", "26000");
    // Nothing of a refused text ran.
    check(raw.query("execute a").await, "TDCZ", "2");
    check(
        raw.query("deallocate a; prepare a as select 3; select 1/0").await,
        "CCEZ",
        "22012",
    );
    check(raw.query("execute a").await, "EZ", "26000");
    check(raw.query("deallocate a").await, "CZ", "DEALLOCATE");
    for gone in ["deallocate all", "deallocate prepare all", "discard all"] {
        check(raw.ask(&[parse("s", "select 4"), sync()]).await, "1Z", "");
        check(raw.query(gone).await, "CZ", "");
        check(
            raw.ask(&[bind("", "s", &[]), execute("", 0), sync()]).await,
            "EZ",
            "26000",
        );
    }
    check(raw.ask(&[parse("s", "select 5"), sync()]).await, "1Z", "");
    check(raw.query("discard plans; discard temp").await, "CCZ", "");
    check(
        raw.ask(&[bind("", "s", &[]), execute("", 0), sync()]).await,
        "2DCZ",
        "5",
    );
    check(raw.query("execute s").await, "TDCZ", "5");
    check(raw.ask(&[close('S', "s"), sync()]).await, "3Z", "");
    check(raw.query("execute s").await, "EZ", "26000");
    // A statement that touches names itself is not run by name.
    check(raw.ask(&[parse("e", "deallocate all"), sync()]).await, "1Z", "");
    check(raw.query("execute e").await, "EZ", "0A000");
    check(raw.ask(&[parse("f", "execute e"), sync()]).await, "1Z", "");
    check(raw.query("execute f").await, "EZ", "0A000");
    // Sent ahead: the name is waited for, not guessed.
    check(
        raw.ask(&[
            run("prepare z as select 6"),
            run("execute z"),
            run("deallocate z"),
            run("execute z"),
            sync(),
        ])
        .await,
        "12C12DC12C1EZ",
        "26000",
    );
    drop(raw);
    assert_eq!(server.says("select count(*) from t"), "1");
}

#[tokio::test]
async fn a_portal_of_execute_runs_what_the_name_means_when_it_runs() {
    let (server, world) = both().await;
    assert!(server.sql("create table t (x int); insert into t values (1); grant all on t to app"));
    let mut raw = Raw::enter(world.address).await;
    let came = raw
        .ask(&[
            query("begin"),
            query("prepare p as select 1"),
            parse("x", "execute p"),
            bind("c", "x", &[]),
            sync(),
        ])
        .await;
    assert_eq!(came.tags, "CZCZ12Z", "{came:?}");
    let came = raw
        .ask(&[query("deallocate p"), parse("p", "delete from t"), sync()])
        .await;
    assert_eq!(came.tags, "CZ1Z", "{came:?}");
    let came = raw.ask(&[execute("c", 0), sync()]).await;
    assert_eq!(came.tags, "EZ", "{came:?}");
    assert!(came.text().contains("no drops here"), "{came:?}");
    drop(raw);
    assert_eq!(server.says("select count(*) from t"), "1");
}
