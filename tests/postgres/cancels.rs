//! CancelRequests: the right backend, and no other.

use std::time::Duration;

use crate::raw::{Raw, cancel, query};
use crate::world::{both, until};

#[tokio::test]
async fn a_cancel_reaches_its_own_session_alone() {
    let (server, world) = both().await;
    let mut one = Raw::enter(world.address).await;
    let mut other = Raw::enter(world.address).await;
    for raw in [&mut one, &mut other] {
        raw.send(&query("select pg_sleep(60)")).await;
    }
    let sleeping = || {
        server.says(
            "select count(*) from pg_stat_activity where state = 'active' and query like 'select pg_sleep%'",
        )
    };
    until("both run", || sleeping() == "2").await;
    // Wrong keys: another process, another secret, too short, the server's own.
    let mut wrong = vec![vec![0; 8], one.key[..7].to_vec(), one.key[..4].to_vec()];
    let mut flipped = one.key.clone();
    flipped[7] ^= 1;
    wrong.push(flipped);
    let pid = server.says("select pid from pg_stat_activity where query like 'select pg_sleep%' limit 1");
    wrong.push([&pid.parse::<u32>().unwrap().to_be_bytes()[..], &one.key[4..]].concat());
    for key in &wrong {
        cancel(world.address, key).await;
    }
    cancel(world.address, &one.key).await;
    let came = one.until_ready(1).await;
    assert!(came.text().contains("57014"), "{came:?}");
    assert_eq!(one.query("select 1").await.tags, "TDCZ");
    assert_eq!(sleeping(), "1");
    cancel(world.address, &other.key).await;
    let came = other.until_ready(1).await;
    assert!(came.text().contains("57014"), "{came:?}");
    // Of a session that is idle, and of one that is gone: nothing happens.
    cancel(world.address, &one.key).await;
    assert_eq!(other.query("select 1").await.tags, "TDCZ");
    let key = one.key.clone();
    drop(one);
    until("it is gone", || world.open() == 1).await;
    cancel(world.address, &key).await;
    assert_eq!(other.query("select 1").await.tags, "TDCZ");
}

#[tokio::test]
async fn a_cancel_takes_back_what_is_held() {
    let (_server, world) = both().await;
    let mut raw = Raw::enter(world.address).await;
    raw.send(&query("select 'hold'")).await;
    world.held().await;
    cancel(world.address, &raw.key).await;
    let came = raw.until_ready(1).await;
    assert_eq!(came.tags, "EZ");
    assert!(came.text().contains("57014"), "{came:?}");
    tokio::time::timeout(Duration::from_secs(10), async {
        while !world.queue.list(false).await.unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("still held");
    assert_eq!(raw.query("select 1").await.tags, "TDCZ");
}
