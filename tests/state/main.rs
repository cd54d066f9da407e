//! The state database, the approval queue and the audit log, on real files.

#![allow(
    clippy::panic,
    clippy::unwrap_used,
    dead_code,
    reason = "tests say what they expect"
)]

mod alike;
mod audit;
mod bound;
#[path = "../support/folder.rs"]
mod folder;
mod grants;
mod hiding;
mod lodged;
mod people;
mod queue;
mod retention;
mod sources;

use std::time::Duration;

use tailkeep::audit::log::Log;
use tailkeep::audit::read::{Filter, Reader};
use tailkeep::audit::{Outcome, Record};
use tailkeep::identity::Transport;
use tailkeep::state::{State, Subnets};
use tailkeep::verdict::approval::{
    Answer, Decide, DecideError, Decision, Question, QuestionState, Queue, Voter,
};
use tailkeep::verdict::{Digest, Step};

fn record(summary: &str) -> Record {
    Record {
        at_us: 1,
        step: Step::Request,
        transport: "wireguard",
        node: "laptop".into(),
        login: None,
        address: "10.77.0.2".into(),
        agent: None,
        profile: Some("ci".into()),
        endpoint: "https.github".into(),
        credential: None,
        summary: summary.into(),
        facts: serde_json::json!({"method": "get"}).into(),
        digest: Digest::of(summary.as_bytes()),
        verdict: "allow",
        cause: "rule",
        rule: Some("reads".into()),
        reason: String::new(),
        detail: None,
        approvers: vec![],
        shadow: vec![],
        judge_us: 3,
        wait_us: 0,
        policy: 1,
    }
}

fn question(bytes: &str, timeout: Duration) -> Question {
    Question {
        preview: serde_json::Value::Null,
        approver: "human_approver.oncall".into(),
        channel: None,
        rule: "writes".into(),
        reason: "writes are looked at".into(),
        node: "laptop".into(),
        login: None,
        transport: Transport::Wireguard,
        tags: vec![],
        profile: "ci".into(),
        endpoint: "https.github".into(),
        description: None,
        credential: None,
        summary: bytes.into(),
        detail: bytes.into(),
        facts: serde_json::json!({}),
        digest: Digest::of(bytes.as_bytes()),
        required: 1,
        eligible: vec![],
        timeout,
        policy: 1,
        agent: "peer:laptop".into(),
        scope: None,
        excluded: None,
        escalation: None,
        heeds_grants: true,
        chain: vec![],
        earlier: vec![],
    }
}

const LONG: Duration = Duration::from_secs(60);

fn open() -> (tempfile::TempDir, State, Queue) {
    let dir = tempfile::tempdir().unwrap();
    let state = State::open(&dir.path().join("state")).unwrap();
    (dir, state.clone(), Queue::new(state))
}

async fn pending(queue: &Queue, count: usize) -> Vec<i64> {
    for _ in 0..1000 {
        let ids: Vec<i64> = queue
            .list(false)
            .await
            .unwrap()
            .iter()
            .map(|held| held.id)
            .collect();
        if ids.len() == count {
            return ids;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("never {count} pending");
}

fn say(id: i64, person: &str, decision: Decision) -> Decide {
    Decide {
        id,
        person: person.into(),
        decision,
        reason: None,
        grant: None,
    }
}

fn ask(queue: &Queue, question: Question) -> tokio::task::JoinHandle<Answer> {
    let queue = queue.clone();
    tokio::spawn(async move { queue.ask(question).await.unwrap() })
}

#[tokio::test(flavor = "multi_thread")]
async fn records_are_grouped_chained_and_tampering_shows() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.db");
    let log = Log::open(&path).unwrap();
    let tasks: Vec<_> = (0..200)
        .map(|n| {
            let log = log.clone();
            tokio::spawn(async move { log.append(record(&format!("GET /{n}"))).await.unwrap() })
        })
        .collect();
    for task in tasks {
        let outcome = Outcome {
            status: "HTTP 200".into(),
            ..Outcome::default()
        };
        log.finish(task.await.unwrap(), outcome);
    }
    log.flush().await.unwrap();
    let reader = Reader::open(&path).unwrap();
    let verified = reader.verify().unwrap();
    assert_eq!(
        (verified.records, verified.outcomes, verified.fault),
        (200, 200, None)
    );
    let filter = Filter {
        after: 198,
        node: Some("laptop".into()),
        ..Filter::default()
    };
    let rows = reader.select(&filter).unwrap();
    assert_eq!(rows.len(), 2);
    assert_eq!(rows[0]["outcome"]["status"], "HTTP 200");
    assert_eq!(rows[0]["facts"]["method"], "get");
    drop(log);

    // The chain goes on after a reopening.
    let log = Log::open(&path).unwrap();
    assert_eq!(log.append(record("again")).await.unwrap().0, 201);
    drop(log);
    assert_eq!(reader.verify().unwrap().fault, None);
    // The last connection to go moves the write-ahead log into the file that is copied below.
    drop(reader);

    for change in [
        "UPDATE record SET summary = 'nothing' WHERE id = 100",
        "DELETE FROM record WHERE id = 100",
        "DELETE FROM record WHERE id = 201",
        "UPDATE outcome SET status = 'HTTP 500' WHERE seq = 7",
        "DELETE FROM outcome WHERE seq = 200",
    ] {
        let copy = tempfile::tempdir().unwrap();
        let other = copy.path().join("audit.db");
        std::fs::copy(&path, &other).unwrap();
        std::fs::copy(path.with_extension("head"), other.with_extension("head")).unwrap();
        let connection = rusqlite::Connection::open(&other).unwrap();
        assert_eq!(connection.execute(change, []).unwrap(), 1, "{change}");
        let fault = Reader::open(&other).unwrap().verify().unwrap().fault;
        assert!(fault.is_some(), "unseen: {change}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_cannot_be_written_says_so_and_recovers() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.db");
    let log = Log::open(&path).unwrap();
    let first = log.append(record("one")).await.unwrap();
    // Another writer holds the database for longer than the log waits.
    let other = rusqlite::Connection::open(&path).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    log.finish(first, Outcome::default());
    assert!(log.append(record("two")).await.is_err());
    other.execute_batch("ROLLBACK").unwrap();
    log.append(record("three")).await.unwrap();
    log.flush().await.unwrap();
    let verified = Reader::open(&path).unwrap().verify().unwrap();
    assert_eq!((verified.outcomes, verified.fault), (1, None));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_question_is_allowed_denied_or_times_out() {
    let (_dir, _state, queue) = open();
    let asked = ask(&queue, question("a", LONG));
    let id = pending(&queue, 1).await[0];
    queue.decide(say(id, "alice", Decision::Allow)).await.unwrap();
    assert_eq!(
        asked.await.unwrap(),
        Answer::Allowed {
            by: vec!["alice".into()]
        }
    );
    // Used once; said again it changes nothing; contradicted it is closed.
    queue.decide(say(id, "alice", Decision::Allow)).await.unwrap();
    let closed = queue.decide(say(id, "bob", Decision::Deny)).await;
    assert!(matches!(closed, Err(DecideError::Closed(QuestionState::Used))));

    let asked = ask(&queue, question("a", LONG));
    let id = pending(&queue, 1).await[0];
    queue.decide(say(id, "bob", Decision::Deny)).await.unwrap();
    assert!(matches!(asked.await.unwrap(), Answer::Denied { by, .. } if by == "bob"));

    let answer = queue.ask(question("b", Duration::from_millis(30))).await.unwrap();
    assert_eq!(answer, Answer::TimedOut);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quorum_counts_people_and_only_the_eligible() {
    let (_dir, _state, queue) = open();
    let mut two = question("a", LONG);
    two.required = 2;
    two.eligible = vec!["alice".into(), "bob".into()];
    let asked = ask(&queue, two);
    let id = pending(&queue, 1).await[0];
    for _ in 0..3 {
        let held = queue.decide(say(id, "alice", Decision::Allow)).await.unwrap();
        assert_eq!(held.state, QuestionState::Pending);
    }
    let mallory = queue.decide(say(id, "mallory", Decision::Allow)).await;
    assert!(matches!(mallory, Err(DecideError::NotEligible(_))));
    queue.decide(say(id, "bob", Decision::Allow)).await.unwrap();
    assert!(matches!(asked.await.unwrap(), Answer::Allowed { by } if by.len() == 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quorum_by_grant_counts_people_whatever_they_are_called() {
    let (_dir, _state, queue) = open();
    let mut two = question("a", LONG);
    two.required = 2;
    two.eligible = vec!["grant:oncall".into()];
    let asked = ask(&queue, two);
    let id = pending(&queue, 1).await[0];
    let by = |login: &str, grants: &[&str]| Decide {
        person: Voter::Login {
            login: login.to_owned(),
            grants: grants.iter().map(|&grant| grant.to_owned()).collect(),
            is_guest: false,
        },
        ..say(id, "nobody", Decision::Allow)
    };
    for same in ["alice@example.com", "Alice@Example.com"] {
        let held = queue.decide(by(same, &["oncall"])).await.unwrap();
        assert_eq!(held.state, QuestionState::Pending);
    }
    for stranger in [
        by("bob@example.com", &["other"]),
        by("grant:oncall", &[]),
        say(id, "root", Decision::Allow),
    ] {
        let refused = queue.decide(stranger).await;
        assert!(matches!(refused, Err(DecideError::NotEligible(_))));
    }
    queue.decide(by("bob@example.com", &["oncall"])).await.unwrap();
    let people = ["alice@example.com", "bob@example.com"];
    assert!(matches!(asked.await.unwrap(), Answer::Allowed { by } if by == people));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_person_counts_once_by_account_and_by_login() {
    let (_dir, state, queue) = open();
    let invitation = state
        .invite_operator("ann", Some("Ann@Example.com"), LONG)
        .unwrap();
    state.accept_invitation(&invitation, "hash").unwrap();
    // Another password leaves the login as it is.
    let invitation = state.invite_operator("ann", None, LONG).unwrap();
    state.accept_invitation(&invitation, "hash").unwrap();
    assert_eq!(
        state.operators().unwrap()[0].login.as_deref(),
        Some("ann@example.com")
    );
    let by_login = |id| Decide {
        person: Voter::Login {
            login: "ann@example.com".to_owned(),
            grants: vec![],
            is_guest: false,
        },
        ..say(id, "nobody", Decision::Allow)
    };
    for account_first in [true, false] {
        let mut two = question(if account_first { "a" } else { "b" }, LONG);
        two.required = 2;
        let asked = ask(&queue, two);
        let id = pending(&queue, 1).await[0];
        let mut both = [say(id, "ann", Decision::Allow), by_login(id)];
        if !account_first {
            both.reverse();
        }
        for one in both {
            let held = queue.decide(one).await.unwrap();
            assert_eq!(held.state, QuestionState::Pending, "{:?}", held.by);
        }
        queue.decide(say(id, "bob", Decision::Allow)).await.unwrap();
        // As whom they came is what is recorded.
        let first = if account_first { "ann" } else { "ann@example.com" };
        assert!(matches!(asked.await.unwrap(), Answer::Allowed { by } if by == [first, "bob"]));
    }
    // The login that an account names gives it no right.
    let mut theirs = question("c", LONG);
    theirs.eligible = vec!["ann@example.com".into()];
    let _asked = ask(&queue, theirs);
    let id = pending(&queue, 1).await[0];
    let refused = queue.decide(say(id, "ann", Decision::Allow)).await;
    assert!(matches!(refused, Err(DecideError::NotEligible(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_leaves_withdraws() {
    let (_dir, _state, queue) = open();
    let asked = ask(&queue, question("a", LONG));
    let id = pending(&queue, 1).await[0];
    asked.abort();
    pending(&queue, 0).await;
    let late = queue.decide(say(id, "alice", Decision::Allow)).await;
    assert!(matches!(late, Err(DecideError::Closed(QuestionState::Withdrawn))));
}

#[tokio::test(flavor = "multi_thread")]
async fn identical_actions_at_once_each_need_a_decision() {
    let (_dir, _state, queue) = open();
    let first = ask(&queue, question("a", LONG));
    let one = pending(&queue, 1).await[0];
    let second = ask(&queue, question("a", LONG));
    pending(&queue, 2).await;
    queue.decide(say(one, "alice", Decision::Allow)).await.unwrap();
    first.await.unwrap();
    pending(&queue, 1).await;
    assert!(!second.is_finished());
}

#[tokio::test(flavor = "multi_thread")]
async fn one_agent_cannot_fill_the_queue() {
    let (_dir, _state, queue) = open();
    let asked: Vec<_> = (0..32)
        .map(|n| ask(&queue, question(&n.to_string(), LONG)))
        .collect();
    pending(&queue, 32).await;
    assert!(queue.ask(question("one more", LONG)).await.is_err());
    asked.iter().for_each(|task| task.abort());
}

/// What the killed process runs: it asks and never returns.
#[test]
#[ignore = "run by the test below as a process of its own"]
fn child_that_asks() {
    let dir = std::path::PathBuf::from(std::env::var_os("TAILKEEP_TEST_STATE").unwrap());
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let queue = Queue::new(State::open(&dir).unwrap());
    let answer = runtime.block_on(queue.ask(question("held", LONG)));
    panic!("answered: {answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_held_action_survives_kill_and_its_retry_uses_one_decision_once() {
    let (dir, _state, queue) = open();
    let mut child = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "child_that_asks"])
        .env("TAILKEEP_TEST_STATE", dir.path().join("state"))
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let id = pending(&queue, 1).await[0];
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(pending(&queue, 1).await, [id]);

    // A changed action is another question.
    let other = ask(&queue, question("changed", LONG));
    pending(&queue, 2).await;
    other.abort();
    pending(&queue, 1).await;

    // The decision comes while nobody waits; the identical retry takes it, the next one asks anew.
    queue.decide(say(id, "alice", Decision::Allow)).await.unwrap();
    let answer = queue.ask(question("held", LONG)).await.unwrap();
    assert!(matches!(answer, Answer::Allowed { .. }));
    let again = ask(&queue, question("held", LONG));
    assert_ne!(pending(&queue, 1).await, [id]);
    again.abort();
}

#[test]
fn tokens_enrol_once_and_are_kept_as_hashes() {
    let (dir, state, _queue) = open();
    let subnets = Subnets {
        v4: "10.77.0.0/30".parse().unwrap(),
        v6: "fd00::/64".parse().unwrap(),
    };
    let watch = state.watch_peers();
    let token = state.add_enrolment("laptop", LONG, false).unwrap();
    let key = state.enrol(&token, &[1; 32], &subnets).unwrap();
    assert_eq!(key.v4.to_string(), "10.77.0.2");
    assert_eq!(watch.borrow().len(), 1);
    assert!(state.enrol(&token, &[2; 32], &subnets).is_err(), "used twice");
    let expired = state.add_enrolment("late", Duration::ZERO, false).unwrap();
    assert!(state.enrol(&expired, &[2; 32], &subnets).is_err(), "expired");
    assert!(
        state.add_run(&[1; 32], &[3; 32], &subnets).is_err(),
        "the range is full"
    );
    assert!(state.add_enrolment("a/b", LONG, false).is_err());
    for file in ["state.db", "state.db-wal"] {
        let bytes = std::fs::read(dir.path().join("state").join(file)).unwrap_or_default();
        let found = bytes
            .windows(token.len())
            .any(|window| window == token.as_bytes());
        assert!(!found, "the token is in {file}");
    }
    assert!(state.remove_peer("laptop").unwrap());
    assert!(watch.borrow().is_empty());
}

#[test]
fn runs_hang_on_their_enrolment_and_are_forgotten() {
    use tailkeep::state::run::RUNS_PER_MACHINE_MAX;
    let (_dir, state, _queue) = open();
    let subnets = Subnets {
        v4: "10.77.0.0/24".parse().unwrap(),
        v6: "fd00::/64".parse().unwrap(),
    };
    let enrol = |name: &str, key: u8| {
        let token = state.add_enrolment(name, LONG, false).unwrap();
        state.enrol(&token, &[key; 32], &subnets).unwrap()
    };
    let machine = enrol("laptop", 1);
    enrol("other", 2);
    let run = state.add_run(&[1; 32], &[11; 32], &subnets).unwrap();
    assert_eq!(run.peer, "laptop");
    assert!(run.v4 != machine.v4 && run.v6 != machine.v6);
    // A run is no enrolment: it can neither add nor leave.
    assert!(state.add_run(&[11; 32], &[12; 32], &subnets).is_err());
    assert!(!state.leave(&[11; 32]).unwrap());
    assert!(state.enrolled(&[11; 32]).unwrap().is_none());
    // Another machine ends nothing of this one's.
    assert!(!state.end_run(&[2; 32], &[11; 32]).unwrap());
    assert!(
        !state.end_run(&[1; 32], &[1; 32]).unwrap(),
        "the enrolment itself"
    );
    assert!(state.end_run(&[1; 32], &[11; 32]).unwrap());

    // Idle runs are forgotten, enrolments never; a handshake keeps a run.
    state.add_run(&[1; 32], &[13; 32], &subnets).unwrap();
    state.add_run(&[1; 32], &[14; 32], &subnets).unwrap();
    state.note_seen(&[14; 32], i64::MAX).unwrap();
    assert_eq!(state.forget_runs(LONG).unwrap(), 0);
    assert_eq!(state.forget_runs(Duration::ZERO).unwrap(), 1);
    let keys = || -> Vec<u8> {
        state
            .peers()
            .unwrap()
            .iter()
            .map(|key| key.public_key[0])
            .collect()
    };
    assert_eq!(keys(), [1, 14, 2]);

    for run in 1..RUNS_PER_MACHINE_MAX {
        let run = u8::try_from(100 + run).unwrap();
        state.add_run(&[1; 32], &[run; 32], &subnets).unwrap();
    }
    let over = state.add_run(&[1; 32], &[99; 32], &subnets).unwrap_err();
    assert!(over.to_string().contains("too many runs"), "{over}");
    // One that made no handshake for long gives its place to the next.
    let idle = |age_s: u64| {
        let now = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap();
        let seen = i64::try_from((now - Duration::from_secs(age_s)).as_micros()).unwrap();
        state.note_seen(&[101; 32], seen).unwrap();
        state.add_run(&[1; 32], &[99; 32], &subnets)
    };
    assert!(idle(tailkeep::state::run::RUN_IDLE_S - 60).is_err());
    assert!(idle(tailkeep::state::run::RUN_IDLE_S + 60).is_ok());

    assert!(state.leave(&[1; 32]).unwrap());
    assert_eq!(keys(), [2], "its runs go with it");
    assert!(
        !state.approve_peer("laptop").unwrap(),
        "the peer was its last machine's"
    );
}

#[test]
fn a_folder_that_others_can_read_is_refused() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    assert!(State::open(dir.path()).is_err());
}
