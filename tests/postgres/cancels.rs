//! CancelRequests: the right backend, and no other.

use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::Command;

use crate::clients::psycopg_with;
use crate::raw::{Raw, cancel, query};
use crate::world::{both, said, until};

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

/// Two sessions of libpq's that sleep, one of them cancelled by libpq, then the other.
const CANCELS: &str = "
import os, threading, psycopg
one, other, looks = (psycopg.connect(os.environ['URL'], autocommit=True) for _ in range(3))
assert one.pgconn.ssl_in_use
said = {}
def sleep(name, conn):
    try: said[name] = conn.execute('select pg_sleep(60)').fetchone()
    except psycopg.errors.QueryCanceled: said[name] = 'cancelled'
threads = [threading.Thread(target=sleep, args=args, daemon=True) for args in (('one', one), ('other', other))]
for thread in threads: thread.start()
def running():
    text = \"select count(*) from pg_stat_activity where state = 'active' and query = 'select pg_sleep(60)'\"
    return looks.execute(text).fetchone()[0]
while running() < 2: pass
one.cancel_safe(timeout=10)
threads[0].join()
print(said, running())
other.cancel_safe(timeout=10)
threads[1].join()
print(said['other'], one.execute('select 1').fetchone())
";

#[tokio::test]
async fn libpq_cancels_its_own_session_through_tls() {
    let (_server, world) = both().await;
    // Asked for, and at once: each time the cancel comes as the session did, since libpq 17.
    for negotiation in ["postgres", "direct"] {
        let options = format!("sslmode=require&sslnegotiation={negotiation}");
        let got = psycopg_with(&world, &options, CANCELS).await;
        let want = "{'one': 'cancelled'} 1 cancelled (1,) | ";
        assert_eq!(got, want, "{negotiation}");
    }
}

#[tokio::test]
async fn psql_cancels_what_its_user_interrupts() {
    let (server, world) = both().await;
    let mut other = Raw::enter(world.address).await;
    other.send(&query("select pg_sleep(60)")).await;
    let mut command = Command::new("psql");
    command.args([
        "-XAtq",
        &world.url("sslmode=require"),
        "-c",
        "select pg_sleep(61)",
    ]);
    command.kill_on_drop(true).stderr(std::process::Stdio::piped());
    let psql = command.spawn().unwrap();
    let sleeping =
        || server.says("select count(*) from pg_stat_activity where query like 'select pg_sleep(6%'");
    until("both run", || sleeping() == "2").await;
    kill(
        Pid::from_raw(i32::try_from(psql.id().unwrap()).unwrap()),
        Signal::SIGINT,
    )
    .unwrap();
    let ran = psql.wait_with_output().await.unwrap();
    assert!(
        said(&ran).contains("canceling statement due to user request"),
        "{ran:?}"
    );
    // The other one sleeps on, until its own key comes.
    let active =
        "select count(*) from pg_stat_activity where state = 'active' and query = 'select pg_sleep(60)'";
    assert_eq!(server.says(active), "1");
    cancel(world.address, &other.key).await;
    assert!(other.until_ready(1).await.text().contains("57014"));
}
