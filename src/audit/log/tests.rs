use std::sync::Arc;

use super::*;
use crate::verdict::{Digest, Step};

fn record(summary: &str) -> Record {
    Record {
        at_us: 1,
        step: Step::Request,
        transport: "wireguard",
        node: "agent".to_owned(),
        login: None,
        address: "10.55.0.2".to_owned(),
        profile: Some(Arc::from("ci")),
        endpoint: Arc::from("https.github"),
        credential: None,
        summary: summary.to_owned(),
        facts: json!({"method": "get"}),
        digest: Digest::of(b"x"),
        verdict: "allow",
        cause: "rule",
        rule: Some(Arc::from("reads")),
        reason: String::new(),
        detail: None,
        approvers: vec![],
        shadow: vec![],
        judge_us: 1,
        wait_us: 0,
        policy: 7,
    }
}

fn all(path: &Path, filter: &Filter) -> Vec<serde_json::Value> {
    let mut rows = Vec::new();
    Reader::open(path)
        .unwrap()
        .records(filter, |row| rows.push(row))
        .unwrap();
    rows
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_is_durable_before_append_returns_and_outcomes_follow() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.db");
    let log = Log::open(&path).unwrap();
    let waits: Vec<_> = (0..300)
        .map(|n| {
            let log = log.clone();
            tokio::spawn(async move { log.append(record(&format!("GET /{n}"))).await.unwrap() })
        })
        .collect();
    let mut ids = Vec::new();
    for wait in waits {
        ids.push(wait.await.unwrap().0);
    }
    // Another connection sees them: they were committed, not only queued.
    assert_eq!(all(&path, &Filter::default()).len(), 300);
    ids.sort_unstable();
    assert_eq!(ids, (1..=300).collect::<Vec<u64>>());

    log.finish(
        RecordId(7),
        Outcome {
            status: "HTTP 200".to_owned(),
            bytes_up: 1,
            bytes_down: 2,
            took_us: 3,
        },
    );
    log.flush().await;
    let rows = all(
        &path,
        &Filter {
            after: Some(6),
            last: Some(294),
            ..Filter::default()
        },
    );
    assert_eq!(rows[0]["outcome"]["status"], "HTTP 200");
    assert_eq!(
        all(
            &path,
            &Filter {
                verdict: Some("deny".to_owned()),
                ..Filter::default()
            }
        )
        .len(),
        0
    );
    assert_eq!(
        all(
            &path,
            &Filter {
                rule: Some("reads".to_owned()),
                last: Some(5),
                ..Filter::default()
            }
        )
        .len(),
        5
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_or_missing_record_breaks_the_chain() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.db");
    let log = Log::open(&path).unwrap();
    for n in 0..5 {
        log.append(record(&n.to_string())).await.unwrap();
    }
    let reader = Reader::open(&path).unwrap();
    assert_eq!(reader.verify().unwrap().0, 5);
    let tamper = Connection::open(&path).unwrap();
    tamper
        .execute(
            "UPDATE record SET body = replace(body, '\"2\"', '\"9\"') WHERE id = 3",
            [],
        )
        .unwrap();
    assert!(reader.verify().unwrap_err().0.contains("record 3 was changed"));
    tamper.execute("DELETE FROM record WHERE id = 3", []).unwrap();
    assert!(reader.verify().unwrap_err().0.contains("record 3 is missing"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_chain_goes_on_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.db");
    for n in 0..3 {
        let log = Log::open(&path).unwrap();
        assert_eq!(log.append(record("x")).await.unwrap(), RecordId(n + 1));
    }
    assert_eq!(Reader::open(&path).unwrap().verify().unwrap().0, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_cannot_be_written_says_so_and_recovers() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.db");
    let log = Log::open(&path).unwrap();
    let saboteur = Connection::open(&path).unwrap();
    saboteur
        .execute_batch(
            "CREATE TRIGGER full BEFORE INSERT ON record BEGIN SELECT RAISE(ABORT, 'disk full'); END",
        )
        .unwrap();
    assert!(log.append(record("x")).await.unwrap_err().0.contains("disk full"));
    saboteur.execute_batch("DROP TRIGGER full").unwrap();
    assert_eq!(log.append(record("x")).await.unwrap(), RecordId(1));
}
