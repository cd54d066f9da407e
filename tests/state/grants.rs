//! Grants and the kill switch: counted, bounded, taken back, and still so after a restart.

use std::net::IpAddr;
use std::time::Duration;

use tailkeep::identity::{Identity, Transport};
use tailkeep::state::State;
use tailkeep::state::kill::KILLED_MAX;
use tailkeep::verdict::Digest;
use tailkeep::verdict::approval::grant::{
    ENDED_KEPT_MAX, GRANT_S_MAX, GRANT_USES_MAX, GRANTS_MAX, GRANTS_PER_AGENT_MAX, GrantError, OFFER_S,
    OFFERS_MAX,
};
use tailkeep::verdict::approval::{
    Answer, Decide, DecideError, Decision, People, Question, QuestionState, Queue, REVOKED_REMEMBERED_MAX,
    Scope, Terms,
};

use crate::{LONG, ask, open, pending, question, say};

fn laptop(proof: &str) -> Identity {
    Identity::new(Transport::Wireguard, IpAddr::from([10, 77, 0, 2]), "laptop").proved_by(proof)
}

fn scope(identity: &Identity, profile: &str, rule: &str, says: &str) -> Option<Scope> {
    Scope::new(identity, profile, (rule, Digest::of(says.as_bytes())))
}

fn step(required: u32, eligible: &[&str]) -> People {
    let eligible = eligible.iter().map(|&person| person.to_owned()).collect();
    People {
        required,
        eligible,
        excluded: None,
    }
}

/// A question for which a grant may be given.
fn grantable(bytes: &str, chain: Vec<People>) -> Question {
    Question {
        required: chain[0].required,
        eligible: chain[0].eligible.clone(),
        scope: scope(&laptop("key:a"), "ci", "writes", "v1"),
        chain,
        ..question(bytes, LONG)
    }
}

fn plain(bytes: &str) -> Question {
    grantable(bytes, vec![step(1, &[])])
}

fn terms(uses: u32) -> Terms {
    Terms::new(Some(1800), Some(uses)).unwrap()
}

fn give(id: i64, person: &str, terms: Terms) -> Decide {
    Decide {
        grant: Some(terms),
        ..say(id, person, Decision::Allow)
    }
}

/// Asks one action and gives a grant with the yes to it; the grant's number.
async fn granted(queue: &Queue, bytes: &str, terms: Terms) -> i64 {
    let asked = ask(queue, plain(bytes));
    let id = pending(queue, 1).await[0];
    let (_, grant) = queue.decide_or_grant(give(id, "alice", terms)).await.unwrap();
    let grant = grant.expect("one person is enough");
    assert!(matches!(asked.await.unwrap(), Answer::Granted(used) if used.grant == grant));
    grant
}

fn database(dir: &tempfile::TempDir) -> rusqlite::Connection {
    rusqlite::Connection::open(dir.path().join("state/state.db")).unwrap()
}

/// As many rows as a limit lets there be, of other agents.
fn fill(dir: &tempfile::TempDir, count: i64, state: &str, agent: &str) {
    let insert = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?1)
        INSERT INTO approval_grant (scope, agent, about, state, lasts_us, uses_max, uses, offered_us, expires_us)
        SELECT x'00', ?3, '{}', ?2, i, 1, 0, 9000000000000000, 9000000000000000 FROM n";
    database(dir)
        .execute(insert, rusqlite::params![count, state, agent])
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grant_counts_as_often_as_it_says_also_over_a_restart() {
    let (dir, state, queue) = open();
    let grant = granted(&queue, "a", terms(3)).await;
    let answer = queue.ask(plain("b")).await.unwrap();
    assert!(matches!(&answer, Answer::Granted(used) if used.by == ["alice"] && used.grant == grant));
    // What is not bound to the same is asked: another rule's text, another machine, another profile.
    for other in [
        scope(&laptop("key:a"), "ci", "writes", "v2"),
        scope(&laptop("key:a"), "ci", "other", "v1"),
        scope(&laptop("key:b"), "ci", "writes", "v1"),
        scope(&laptop("key:a"), "dev", "writes", "v1"),
        None,
    ] {
        let asked = Question {
            scope: other,
            ..plain("c")
        };
        let asked = ask(&queue, asked);
        pending(&queue, 1).await;
        asked.abort();
        pending(&queue, 0).await;
    }
    let login = Identity {
        login: Some("ann@example.com".into()),
        ..laptop("key:a")
    };
    assert_ne!(
        scope(&login, "ci", "writes", "v1"),
        scope(&laptop("key:a"), "ci", "writes", "v1")
    );
    assert_eq!(scope(&laptop(""), "ci", "writes", "v1"), None);
    // A judge gave no verdict: people look.
    let asked = Question {
        heeds_grants: false,
        ..plain("d")
    };
    let asked = ask(&queue, asked);
    pending(&queue, 1).await;
    asked.abort();
    pending(&queue, 0).await;
    drop((state, queue));
    let queue = Queue::new(State::open(&dir.path().join("state")).unwrap());
    let answer = queue.ask(plain("e")).await.unwrap();
    assert!(matches!(answer, Answer::Granted(used) if used.grant == grant));
    let listed = queue.grants(true).await.unwrap();
    assert_eq!(
        (listed[0].state.as_str(), listed[0].uses, listed[0].uses_max),
        ("used", 3, 3)
    );
    let last = ask(&queue, plain("f"));
    pending(&queue, 1).await;
    last.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_many_at_once_as_many_pass_as_the_grant_has_uses() {
    let (_dir, _state, queue) = open();
    let first = ask(&queue, plain("first"));
    let id = pending(&queue, 1).await[0];
    // These wait already when it is given, and are let go by it.
    let waiting: Vec<_> = (0..9).map(|n| ask(&queue, plain(&format!("w{n}")))).collect();
    pending(&queue, 10).await;
    queue.decide_or_grant(give(id, "alice", terms(20))).await.unwrap();
    assert!(matches!(first.await.unwrap(), Answer::Granted(_)));
    for asked in waiting {
        assert!(matches!(asked.await.unwrap(), Answer::Granted(_)));
    }
    let late: Vec<_> = (0..25).map(|n| ask(&queue, plain(&format!("l{n}")))).collect();
    pending(&queue, 15).await;
    let passed = late.iter().filter(|asked| asked.is_finished()).count();
    assert_eq!(passed, 10);
    late.iter().for_each(|asked| asked.abort());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grant_ends_by_its_time() {
    let (_dir, _state, queue) = open();
    let short = Terms {
        lasts: Duration::from_millis(300),
        uses: 20,
    };
    granted(&queue, "a", short).await;
    tokio::time::sleep(Duration::from_millis(320)).await;
    let asked = ask(&queue, plain("b"));
    pending(&queue, 1).await;
    assert_eq!(queue.grants(true).await.unwrap()[0].state, "expired");
    asked.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn all_who_must_agree_must_agree_to_the_same_grant() {
    let (_dir, _state, queue) = open();
    let chain = || vec![step(1, &["alice", "bob", "carol"]), step(2, &["alice", "bob"])];
    let asked = ask(&queue, grantable("a", chain()));
    let id = pending(&queue, 1).await[0];
    // Carol may decide here, and not at the chain's other step: nothing is decided by her try.
    let carol = queue.decide_or_grant(give(id, "carol", terms(5))).await;
    assert!(matches!(
        carol,
        Err(DecideError::Grant(GrantError::NotGrantor(_)))
    ));
    pending(&queue, 1).await;
    // One of two: the action passes, once, and the grant is an offer.
    let (held, grant) = queue.decide_or_grant(give(id, "alice", terms(5))).await.unwrap();
    assert_eq!((held.state, grant), (QuestionState::Allowed, None));
    assert!(matches!(asked.await.unwrap(), Answer::Allowed { .. }));
    let mut at = Vec::new();
    for (bytes, person, own, want) in [
        ("b", "alice", terms(5), false),
        ("c", "bob", terms(6), false),
        ("d", "bob", terms(5), true),
    ] {
        let asked = ask(&queue, grantable(bytes, chain()));
        let id = pending(&queue, 1).await[0];
        let (_, grant) = queue.decide_or_grant(give(id, person, own)).await.unwrap();
        assert_eq!(grant.is_some(), want, "{bytes}");
        at.push(asked.await.unwrap());
    }
    assert!(matches!(&at[2], Answer::Granted(used) if used.by == ["alice", "bob"]));
    let offered = queue.grants(false).await.unwrap();
    let states: Vec<&str> = offered.iter().map(|grant| grant.state.as_str()).collect();
    assert_eq!(states, ["offered", "active"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_offer_that_nobody_joins_ends() {
    let (dir, _state, queue) = open();
    let chain = || vec![step(2, &[])];
    let asked = ask(&queue, grantable("a", chain()));
    let id = pending(&queue, 1).await[0];
    queue.decide_or_grant(give(id, "alice", terms(5))).await.unwrap();
    let before = i64::try_from(OFFER_S).unwrap() * 1_000_000;
    let update = "UPDATE approval_grant SET offered_us = offered_us - ?";
    database(&dir).execute(update, [before]).unwrap();
    let (_, grant) = queue.decide_or_grant(give(id, "bob", terms(5))).await.unwrap();
    assert_eq!(grant, None);
    assert!(matches!(asked.await.unwrap(), Answer::Allowed { by } if by == ["alice", "bob"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grant_that_is_taken_back_lets_nothing_through() {
    let (_dir, state, queue) = open();
    let grant = granted(&queue, "a", terms(20)).await;
    assert!(!queue.is_revoked(grant));
    let gone = queue.revoke(grant, "bob".to_owned()).await.unwrap().unwrap();
    assert_eq!(
        (gone.state.as_str(), gone.ended_by.as_deref()),
        ("revoked", Some("bob"))
    );
    assert!(queue.is_revoked(grant) && queue.revoke(99, "bob".to_owned()).await.unwrap().is_none());
    let asked = ask(&queue, plain("b"));
    let id = pending(&queue, 1).await[0];
    // Given while its agent is away, and taken back before it is there again: the yes is void too.
    queue.close();
    asked.abort();
    let _ = asked.await;
    let queue = Queue::new(state);
    let (_, grant) = queue.decide_or_grant(give(id, "alice", terms(20))).await.unwrap();
    queue.revoke(grant.unwrap(), "bob".to_owned()).await.unwrap();
    let answer = queue.ask(plain("b")).await.unwrap();
    assert!(
        matches!(&answer, Answer::Denied { by, .. } if by == "bob"),
        "{answer:?}"
    );
}

#[test]
fn terms_have_bounds() {
    assert!(Terms::new(None, None).is_err());
    assert_eq!(Terms::new(Some(60), None).unwrap().uses, GRANT_USES_MAX);
    assert_eq!(Terms::new(None, Some(1)).unwrap().lasts.as_secs(), GRANT_S_MAX);
    for (for_s, uses, fits) in [
        (Some(GRANT_S_MAX), Some(GRANT_USES_MAX), true),
        (Some(GRANT_S_MAX + 1), None, false),
        (None, Some(GRANT_USES_MAX + 1), false),
        (Some(0), None, false),
        (None, Some(0), false),
    ] {
        assert_eq!(Terms::new(for_s, uses).is_ok(), fits, "{for_s:?} {uses:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn grants_are_bounded_in_number() {
    for (count, state, agent, want) in [
        (GRANTS_MAX, "active", "peer:other", "grants are in force"),
        (GRANTS_PER_AGENT_MAX, "active", "peer:laptop", "this agent has"),
        (OFFERS_MAX, "offered", "peer:other", "wait for more people"),
    ] {
        let (dir, _state, queue) = open();
        fill(&dir, count, state, agent);
        let asked = ask(&queue, plain("a"));
        let id = pending(&queue, 1).await[0];
        let full = queue.decide_or_grant(give(id, "alice", terms(5))).await;
        assert!(full.unwrap_err().to_string().contains(want), "{want}");
        // Nothing was decided by it; one fewer, and there is room.
        pending(&queue, 1).await;
        database(&dir)
            .execute("DELETE FROM approval_grant WHERE id = 1", [])
            .unwrap();
        queue.decide_or_grant(give(id, "alice", terms(5))).await.unwrap();
        assert!(matches!(asked.await.unwrap(), Answer::Granted(_)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_remembered_of_grants_that_are_over_is_bounded() {
    let (dir, state, queue) = open();
    fill(&dir, ENDED_KEPT_MAX + 7, "used", "peer:other");
    let grant = granted(&queue, "a", terms(2)).await;
    // What it let through is ended by its number: past the bound all older ones count as taken back.
    let most = i64::try_from(REVOKED_REMEMBERED_MAX).unwrap();
    for id in 3..=most + 3 {
        queue.revoke(id, "bob".to_owned()).await.unwrap();
    }
    assert!(queue.is_revoked(1) && queue.is_revoked(3) && !queue.is_revoked(grant));
    drop(Queue::new(state));
    let kept: i64 = database(&dir)
        .query_row("SELECT count(*) FROM approval_grant", [], |row| row.get(0))
        .unwrap();
    assert_eq!(kept, ENDED_KEPT_MAX + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_is_stopped_stays_so_until_it_is_let_go() {
    let (dir, state, queue) = open();
    let grant = granted(&queue, "a", terms(20)).await;
    let asked = ask(&queue, question("b", LONG));
    let other = Question {
        agent: "peer:other".into(),
        node: "other".into(),
        ..question("c", LONG)
    };
    let other = ask(&queue, other);
    pending(&queue, 2).await;
    let killed = queue.killed();
    let stopped = queue
        .kill("peer:laptop".into(), "ann".into(), Some("it deletes".into()))
        .await
        .unwrap();
    assert_eq!((stopped.grants, stopped.held), (1, 1));
    assert!(matches!(asked.await.unwrap(), Answer::Denied { by, .. } if by == "ann"));
    assert!(queue.is_revoked(grant));
    assert_eq!(pending(&queue, 1).await.len(), 1);
    other.abort();
    assert_eq!(
        killed.borrow()["peer:laptop"].reason.as_deref(),
        Some("it deletes")
    );
    drop((state, queue));
    let queue = Queue::new(State::open(&dir.path().join("state")).unwrap());
    assert_eq!(queue.killed().borrow()["peer:laptop"].person, "ann");
    assert!(queue.unkill("peer:laptop".into()).await.unwrap());
    assert!(!queue.unkill("peer:laptop".into()).await.unwrap());
    assert!(queue.killed().borrow().is_empty());
    // Its grant stays taken back.
    let asked = ask(&queue, plain("d"));
    pending(&queue, 1).await;
    asked.abort();
    let many = format!(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {KILLED_MAX})
         INSERT INTO agent_kill SELECT 'node:' || i, 'ann', NULL, 0 FROM n"
    );
    database(&dir).execute(&many, []).unwrap();
    let full = queue.kill("peer:laptop".into(), "ann".into(), None).await;
    assert!(full.is_err() && queue.killed().borrow().is_empty());
}
