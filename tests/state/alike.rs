//! What approvers see beside a question: what its agent did of late, and how its likes were decided.

use tailkeep::audit::activity::{ACTIVITY_RECORDS_MAX, LATEST_ACTIONS_MAX, LATEST_COUNTS_MAX};
use tailkeep::audit::log::Log;
use tailkeep::audit::read::Reader;
use tailkeep::verdict::approval::{Decision, Question, QuestionState, Queue, SHOWN_MAX};

use crate::{LONG, ask, open, pending, question, record, say};

fn of(path: &str, rule: &str) -> Question {
    Question {
        rule: rule.into(),
        facts: serde_json::json!({ "method": "post", "path": path }),
        ..question(path, LONG)
    }
}

/// Asks, and has a person say it.
async fn decided(queue: &Queue, question: Question, decision: Decision) -> i64 {
    let asked = ask(queue, question);
    let id = pending(queue, 1).await[0];
    queue.decide(say(id, "alice", decision)).await.unwrap();
    asked.await.unwrap();
    id
}

#[tokio::test(flavor = "multi_thread")]
async fn questions_of_the_same_rule_and_shape_are_told_with_their_decisions() {
    let (_dir, _state, queue) = open();
    let first = decided(&queue, of("/v1/orders/1/refund", "writes"), Decision::Allow).await;
    let denied = decided(&queue, of("/v1/orders/2/refund", "writes"), Decision::Deny).await;
    decided(&queue, of("/v1/orders/3", "writes"), Decision::Deny).await;
    // Another rule's, and another endpoint's, are none of it.
    decided(&queue, of("/v1/orders/4/refund", "others"), Decision::Allow).await;
    let mut elsewhere = of("/v1/orders/5/refund", "writes");
    elsewhere.endpoint = "https.other".into();
    decided(&queue, elsewhere, Decision::Allow).await;

    let asked = ask(&queue, of("/v1/orders/6/refund", "writes"));
    let id = pending(&queue, 1).await[0];
    let alike = queue.alike(id).await.unwrap().unwrap();
    let stood = |of: &[tailkeep::verdict::approval::Stood]| {
        of.iter()
            .map(|one| (one.state, one.questions))
            .collect::<Vec<_>>()
    };
    let (used, no) = (QuestionState::Used, QuestionState::Denied);
    assert_eq!(stood(&alike.same), [(no, 1), (used, 1)]);
    assert_eq!(stood(&alike.others), [(no, 1)]);
    let newest: Vec<_> = alike.newest.iter().map(|one| (one.id, one.state)).collect();
    assert_eq!(newest, [(denied, no), (first, used)]);
    assert_eq!(alike.newest[0].by, ["alice"]);
    assert_eq!(alike.newest[1].summary, "/v1/orders/1/refund");
    assert_eq!(queue.alike(id + 100).await.unwrap(), None);

    // A few of them are shown, and all are counted.
    asked.abort();
    let _ = asked.await;
    for number in 0..SHOWN_MAX {
        decided(
            &queue,
            of(&format!("/v1/orders/1{number}/refund"), "writes"),
            Decision::Deny,
        )
        .await;
    }
    let alike = queue.alike(id).await.unwrap().unwrap();
    assert_eq!(alike.newest.len(), SHOWN_MAX as usize);
    assert_eq!(stood(&alike.same), [(no, 1 + u64::from(SHOWN_MAX)), (used, 1)]);
}

#[tokio::test]
async fn an_agents_last_hour_is_counted_by_endpoint_and_verdict_within_bounds() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.db");
    let log = Log::open(&path).unwrap();
    let add = async |node: &str, endpoint: &str, verdict: &'static str, at_us: i64| {
        let mut own = record(&format!("{endpoint} {at_us}"));
        (own.node, own.endpoint, own.verdict, own.at_us) = (node.into(), endpoint.into(), verdict, at_us);
        log.append(own).await.unwrap();
    };
    add("laptop", "https.old", "deny", 99).await;
    for at in 100..110 {
        add("laptop", "https.api", "allow", at).await;
    }
    add("laptop", "https.api", "deny", 110).await;
    add("other", "https.api", "deny", 111).await;
    log.flush().await.unwrap();
    let latest =
        |node: &str, transport: &str| Reader::open(&path).unwrap().latest(node, transport, 100).unwrap();
    let did = latest("laptop", "wireguard");
    let counts: Vec<_> = did
        .counts
        .iter()
        .map(|one| (&*one.endpoint, &*one.verdict, one.actions))
        .collect();
    assert_eq!(counts, [("https.api", "allow", 10), ("https.api", "deny", 1)]);
    assert_eq!(did.actions.len(), LATEST_ACTIONS_MAX);
    assert_eq!((did.actions[0].at_us, &*did.actions[0].verdict), (110, "deny"));
    assert!(did.whole);
    // Another agent that has the same name there.
    assert_eq!(latest("laptop", "tailnet").counts, []);

    for number in 0..=LATEST_COUNTS_MAX {
        add("laptop", &format!("https.e{number}"), "allow", 200).await;
    }
    add("other", "https.api", "allow", 300).await;
    log.flush().await.unwrap();
    assert_eq!(latest("laptop", "wireguard").counts.len(), LATEST_COUNTS_MAX);
    drop(log);
    // As where others' records stand between: what was looked at does not reach back, and it says so.
    let database = rusqlite::Connection::open(&path).unwrap();
    let away = "UPDATE record SET id = id + ?1 WHERE id = (SELECT max(id) FROM record)";
    database.execute(away, [ACTIVITY_RECORDS_MAX]).unwrap();
    let did = latest("laptop", "wireguard");
    assert!(did.counts.is_empty() && !did.whole, "{did:?}");
}
