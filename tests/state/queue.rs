//! Races of decisions, the end of the gateway, and how long closed questions are kept.

use std::time::Duration;

use tailkeep::verdict::approval::{
    Answer, CLOSED_BYTES_MAX, CLOSED_KEPT_DAYS, CLOSED_KEPT_MAX, DECISION_S, DecideError, Decision, LIST_MAX,
    LISTED_BYTES_MAX, PENDING_FEW, PENDING_KEPT, PENDING_MAX, PENDING_OWNER_FEW, PENDING_PER_AGENT_MAX,
    PENDING_PER_OWNER_MAX, Question, QuestionState, Queue, WITHDRAWN_BYTES_MAX, WITHDRAWN_KEPT_MAX,
};

use crate::{LONG, ask, open, pending, question, say};

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_decisions_at_once_exactly_one_wins() {
    let (_dir, _state, queue) = open();
    for round in 0..8 {
        let asked = ask(&queue, question(&round.to_string(), LONG));
        let id = pending(&queue, 1).await[0];
        let people: Vec<_> = (0..16)
            .map(|n| {
                let queue = queue.clone();
                let decision = if n % 2 == 0 {
                    Decision::Allow
                } else {
                    Decision::Deny
                };
                let person = format!("person-{n}");
                tokio::spawn(async move {
                    let decided = queue.decide(say(id, &person, decision)).await;
                    decided.is_ok().then_some((person, decision))
                })
            })
            .collect();
        let mut won = Vec::new();
        for person in people {
            won.extend(person.await.unwrap());
        }
        assert_eq!(won.len(), 1, "{won:?}");
        let (person, decision) = won.remove(0);
        match asked.await.unwrap() {
            Answer::Allowed { by } => {
                assert_eq!((by, decision), (vec![person.as_str().into()], Decision::Allow))
            }
            Answer::Denied { by, .. } => assert_eq!((by, decision), (person, Decision::Deny)),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_decision_after_the_time_is_none() {
    let (_dir, _state, queue) = open();
    let answer = queue.ask(question("a", Duration::from_millis(20))).await.unwrap();
    assert_eq!(answer, Answer::TimedOut);
    for decision in [Decision::Allow, Decision::Deny] {
        let late = queue.decide(say(1, "alice", decision)).await;
        assert!(matches!(late, Err(DecideError::Closed(QuestionState::TimedOut))));
    }
    // Also where nobody waits any more: after a restart.
    let asked = ask(&queue, question("b", Duration::from_millis(200)));
    let id = pending(&queue, 1).await[0];
    queue.close();
    asked.abort();
    tokio::time::sleep(Duration::from_millis(250)).await;
    let late = queue.decide(say(id, "alice", Decision::Allow)).await;
    assert!(matches!(late, Err(DecideError::Closed(QuestionState::TimedOut))));
    assert_eq!(
        queue.show(id).await.unwrap().unwrap().state,
        QuestionState::TimedOut
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn one_decision_answers_one_of_many_retries() {
    let (_dir, state, queue) = open();
    let asked = ask(&queue, question("a", LONG));
    let id = pending(&queue, 1).await[0];
    queue.close();
    asked.abort();
    let _ = asked.await;
    // The next run of the gateway.
    let queue = Queue::new(state);
    queue.decide(say(id, "alice", Decision::Allow)).await.unwrap();
    let retries = (0..8).map(|_| ask(&queue, question("a", LONG)));
    let (first, _, rest) = futures_util::future::select_all(retries).await;
    assert!(matches!(first.unwrap(), Answer::Allowed { by } if by == ["alice"]));
    pending(&queue, 7).await;
    for retry in rest {
        assert!(!retry.is_finished());
        retry.abort();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_the_gateway_withdraws_nothing_and_an_agent_that_leaves_does() {
    let (_dir, state, queue) = open();
    let leaves = ask(&queue, question("leaves", LONG));
    pending(&queue, 1).await;
    leaves.abort();
    pending(&queue, 0).await;
    let stays = ask(&queue, question("stays", LONG));
    let ids = pending(&queue, 1).await;
    assert!(queue.list(false).await.unwrap()[0].waiting);
    queue.close();
    stays.abort();
    let _ = stays.await;
    assert_eq!(pending(&queue, 1).await, ids);
    let next = Queue::new(state);
    assert_eq!(pending(&next, 1).await, ids);
    assert!(
        !next.list(false).await.unwrap()[0].waiting && !next.show(ids[0]).await.unwrap().unwrap().waiting
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn closed_questions_are_kept_within_limits() {
    let (dir, state, queue) = open();
    let held = ask(&queue, question("held", LONG));
    let kept = pending(&queue, 1).await[0];
    let connection = rusqlite::Connection::open(dir.path().join("state/state.db")).unwrap();
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap();
    let now = i64::try_from(now.as_micros()).unwrap();
    let day = 86_400_000_000;
    let closed = |count: i64, bytes: i64, state: &str, closed_us: i64| {
        let insert = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?1)
            INSERT INTO approval (identity, node, question, required, eligible, state, asked_us, expires_us, closed_us)
            SELECT x'', '', CAST(zeroblob(?2) AS TEXT), 1, '[]', ?3, 1, 1, ?4 FROM n";
        connection
            .execute(insert, rusqlite::params![count, bytes, state, closed_us])
            .unwrap();
    };
    let rows = |clause: &str| -> i64 {
        let query = format!("SELECT count(*) FROM approval WHERE {clause}");
        connection.query_row(&query, [], |row| row.get(0)).unwrap()
    };
    let days = i64::try_from(CLOSED_KEPT_DAYS).unwrap();
    // By age; what is pending or can still be used is older than anything and stays.
    closed(3, 10, "denied", now - (days + 1) * day);
    closed(4, 10, "used", now - (days - 1) * day);
    closed(5, 10, "allowed", now);
    drop(Queue::new(state.clone()));
    assert_eq!(
        (
            rows("state = 'denied'"),
            rows("state = 'used'"),
            rows("state = 'allowed'")
        ),
        (0, 4, 5)
    );
    // By number, oldest first.
    closed(CLOSED_KEPT_MAX + 10, 10, "denied", now);
    drop(Queue::new(state.clone()));
    assert_eq!(rows("state IN ('denied', 'used')"), CLOSED_KEPT_MAX);
    assert_eq!(rows("state = 'used'"), 0);
    // What an agent asks and leaves takes the place of nothing that people decided.
    closed(WITHDRAWN_KEPT_MAX + 10, 10, "withdrawn", now);
    drop(Queue::new(state.clone()));
    assert_eq!(
        (rows("state = 'withdrawn'"), rows("state = 'denied'")),
        (WITHDRAWN_KEPT_MAX, CLOSED_KEPT_MAX)
    );
    closed(17, WITHDRAWN_BYTES_MAX / 16, "withdrawn", now);
    drop(Queue::new(state.clone()));
    assert_eq!(
        (rows("state = 'withdrawn'"), rows("state = 'denied'")),
        (16, CLOSED_KEPT_MAX)
    );
    // By bytes, also while the gateway runs: an agent that asks for large things and leaves.
    closed(65, CLOSED_BYTES_MAX / 64, "timed_out", now);
    for n in 0..40 {
        assert_eq!(
            queue.ask(question(&n.to_string(), Duration::ZERO)).await.unwrap(),
            Answer::TimedOut
        );
    }
    let bytes: i64 = connection
        .query_row(
            "SELECT sum(octet_length(question)) FROM approval WHERE state NOT IN ('allowed', 'withdrawn')",
            [],
            |row| row.get(0),
        )
        .unwrap();
    assert!(bytes <= CLOSED_BYTES_MAX + (1 << 20), "{bytes}");
    assert!(rows("state = 'timed_out'") > 60);
    assert_eq!(
        (pending(&queue, 1).await[0], rows("state = 'allowed'")),
        (kept, 5)
    );
    held.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn large_questions_are_listed_without_their_detail() {
    let (_dir, _state, queue) = open();
    let mut large = question("large", LONG);
    large.detail = "x".repeat(usize::try_from(LISTED_BYTES_MAX).unwrap());
    let asked = [ask(&queue, large.clone()), ask(&queue, question("small", LONG))];
    let ids = pending(&queue, 2).await;
    for held in queue.list(false).await.unwrap() {
        let is_large = held.question["summary"] == "large";
        assert_eq!(held.question["cut"] == true, is_large);
        assert_eq!(held.question["detail"].is_null(), is_large);
        assert!(!held.question["rule"].is_null());
    }
    for id in ids {
        assert!(!queue.show(id).await.unwrap().unwrap().question["detail"].is_null());
    }
    asked.iter().for_each(|task| task.abort());
    // What is too large to be shown at all is not asked.
    large.detail = "x".repeat(4 << 20);
    assert!(queue.ask(large).await.is_err());
}

/// Rows of another agent, straight into the database.
fn insert(connection: &rusqlite::Connection, count: i64, state: &str, expires_us: i64) {
    let insert = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?1)
        INSERT INTO approval (identity, node, question, required, eligible, state, asked_us, expires_us, closed_us)
        SELECT x'', 'other', '{}', 1, '[]', ?2, 1, ?3, 9e15 FROM n";
    connection
        .execute(insert, rusqlite::params![count, state, expires_us])
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_queue_and_its_listing_are_bounded() {
    let (dir, _state, queue) = open();
    let connection = rusqlite::Connection::open(dir.path().join("state/state.db")).unwrap();
    insert(&connection, PENDING_MAX - 1, "pending", i64::MAX);
    let last = ask(&queue, question("last", LONG));
    pending(&queue, usize::try_from(PENDING_MAX).unwrap()).await;
    let over = queue.ask(question("over", LONG)).await.unwrap_err().to_string();
    assert!(over.contains("held already"), "{over}");
    last.abort();
    insert(&connection, i64::from(LIST_MAX) + 5, "denied", 1);
    let listed = queue.list(true).await.unwrap().len();
    assert_eq!(listed, usize::try_from(LIST_MAX).unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn no_few_agents_fill_the_queue() {
    let (dir, _state, queue) = open();
    let connection = rusqlite::Connection::open(dir.path().join("state/state.db")).unwrap();
    let fill = |agent: &str, count: i64| {
        insert(&connection, count, "pending", i64::MAX);
        let update = "UPDATE approval SET agent = ? WHERE agent = ''";
        connection.execute(update, [agent]).unwrap();
    };
    let many = (PENDING_MAX - PENDING_KEPT) / PENDING_PER_AGENT_MAX;
    for agent in 0..many - 1 {
        fill(&format!("node:n{agent}"), PENDING_PER_AGENT_MAX);
    }
    fill("node:last", PENDING_PER_AGENT_MAX - 1);
    let of = |agent: &str, text: &str| Question {
        agent: agent.to_owned(),
        ..question(text, LONG)
    };
    let mut held = vec![ask(&queue, of("node:last", "the last of the shared ones"))];
    let full = usize::try_from(PENDING_MAX - PENDING_KEPT).unwrap();
    pending(&queue, full).await;
    for one in 0..PENDING_FEW {
        held.push(ask(&queue, of("node:new", &one.to_string())));
    }
    pending(&queue, full + held.len() - 1).await;
    let over = queue.ask(of("node:new", "over")).await.unwrap_err().to_string();
    assert!(over.contains("for agents with fewer than"), "{over}");
    held.push(ask(&queue, of("node:other", "a")));
    pending(&queue, full + held.len() - 1).await;
    held.iter().for_each(|task| task.abort());
}

/// One person's agents, each within its own share, do not fill the queue together.
#[tokio::test(flavor = "multi_thread")]
async fn the_agents_of_one_person_leave_places_to_others() {
    let (dir, _state, queue) = open();
    let connection = rusqlite::Connection::open(dir.path().join("state/state.db")).unwrap();
    let of = |login: Option<&str>, number: i64| Question {
        agent: format!("node:{}{number}", login.unwrap_or("tagged")),
        login: login.map(str::to_owned),
        ..question(&number.to_string(), LONG)
    };
    let mut held: Vec<_> = (0..PENDING_PER_OWNER_MAX)
        .map(|number| ask(&queue, of(Some("Ann@Example.com"), number)))
        .collect();
    let full = usize::try_from(PENDING_PER_OWNER_MAX).unwrap();
    pending(&queue, full).await;
    // However the control server writes it.
    let over = queue
        .ask(of(Some("ann@example.com"), -1))
        .await
        .unwrap_err()
        .to_string();
    assert!(over.contains("of this one's owner"), "{over}");
    // Others', and those that are nobody's: no login is no person.
    held.push(ask(&queue, of(Some("bob@example.com"), 0)));
    held.extend((0..PENDING_OWNER_FEW + 1).map(|number| ask(&queue, of(None, number))));
    pending(&queue, held.len()).await;

    // Of the last places, a person's agents have few together.
    let rest = PENDING_MAX - PENDING_KEPT - i64::try_from(held.len()).unwrap();
    insert(&connection, rest, "pending", i64::MAX);
    let scarce = usize::try_from(PENDING_MAX - PENDING_KEPT).unwrap();
    held.extend((1..PENDING_OWNER_FEW).map(|number| ask(&queue, of(Some("bob@example.com"), number))));
    let few = usize::try_from(PENDING_OWNER_FEW).unwrap();
    pending(&queue, scarce + few - 1).await;
    let over = queue
        .ask(of(Some("bob@example.com"), -1))
        .await
        .unwrap_err()
        .to_string();
    assert!(over.contains("for people whose agents have fewer than"), "{over}");
    held.push(ask(&queue, of(Some("carol@example.com"), 0)));
    held.push(ask(&queue, of(None, -1)));
    pending(&queue, scarce + few + 1).await;
    held.iter().for_each(|task| task.abort());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_is_renamed_has_no_second_share() {
    let (_dir, _state, queue) = open();
    let named = |number: i64, agent: &str| Question {
        node: format!("name-{number}"),
        agent: agent.to_owned(),
        ..question(&number.to_string(), LONG)
    };
    let held: Vec<_> = (0..PENDING_PER_AGENT_MAX)
        .map(|number| ask(&queue, named(number, "node:n1")))
        .collect();
    let most = usize::try_from(PENDING_PER_AGENT_MAX).unwrap();
    pending(&queue, most).await;
    let over = queue.ask(named(-1, "node:n1")).await.unwrap_err().to_string();
    assert!(over.contains("this agent has"), "{over}");
    let other = ask(&queue, named(0, "node:n2"));
    pending(&queue, most + 1).await;
    held.iter().chain([&other]).for_each(|task| task.abort());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_decision_is_good_for_a_while_only() {
    for (age, is_good) in [(DECISION_S - 60, true), (DECISION_S + 60, false)] {
        let (dir, state, queue) = open();
        let asked = ask(&queue, question("a", LONG));
        let id = pending(&queue, 1).await[0];
        queue.close();
        asked.abort();
        let _ = asked.await;
        let queue = Queue::new(state);
        queue.decide(say(id, "alice", Decision::Allow)).await.unwrap();
        let connection = rusqlite::Connection::open(dir.path().join("state/state.db")).unwrap();
        let age = i64::try_from(age).unwrap() * 1_000_000;
        connection
            .execute("UPDATE approval SET closed_us = closed_us - ?", [age])
            .unwrap();
        let retry = ask(&queue, question("a", LONG));
        if is_good {
            assert!(matches!(retry.await.unwrap(), Answer::Allowed { .. }));
        } else {
            assert_ne!(pending(&queue, 1).await, [id]);
            retry.abort();
        }
    }
}

#[test]
fn peers_names_and_keys_are_bounded() {
    use tailkeep::state::peer::{KEYS_PER_PEER_MAX, NAME_BYTES_MAX};
    let (_dir, state, _queue) = open();
    let subnets = tailkeep::state::Subnets {
        v4: "10.77.0.0/16".parse().unwrap(),
        v6: "fd00::/64".parse().unwrap(),
    };
    let long = "a".repeat(NAME_BYTES_MAX);
    assert!(state.add_enrolment(&format!("{long}a"), LONG, false).is_err());
    let token = state.add_enrolment(&long, LONG, false).unwrap();
    let key = |n: i64| {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&n.to_be_bytes());
        key
    };
    state.enrol(&token, &key(0), &subnets).unwrap();
    let enrol = |n: i64| {
        let token = state.add_enrolment(&long, LONG, false).unwrap();
        state.enrol(&token, &key(n), &subnets)
    };
    for n in 1..KEYS_PER_PEER_MAX {
        enrol(n).unwrap();
    }
    let over = enrol(KEYS_PER_PEER_MAX).unwrap_err();
    assert!(over.to_string().contains("too many keys"), "{over}");
    assert!(enrol(1).is_err(), "enrolled twice");
    assert!(state.remove_key(&key(1)).unwrap());
    enrol(KEYS_PER_PEER_MAX).unwrap();
}
