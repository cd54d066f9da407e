//! Who may decide, when, and what it means that nobody does: `separation`, `escalate_after`,
//! `on_timeout`, `quiet_hours`, by the gate.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::Utc;
use tailkeep::audit::log::Log;
use tailkeep::audit::read::{Filter, Reader};
use tailkeep::facts::Facts;
use tailkeep::identity::{Agent, Identity, Transport};
use tailkeep::policy::{Policy, Source};
use tailkeep::state::State;
use tailkeep::verdict::approval::grant::GrantError;
use tailkeep::verdict::approval::{Decide, DecideError, Decision, Queue, Terms, Voter};
use tailkeep::verdict::gate::Gate;
use tailkeep::verdict::{Action, Cause, Digest, Refusal, Step};

use crate::folder::Folder;
use crate::pending;

struct World {
    folder: Folder,
    state: State,
    queue: Queue,
    gate: Arc<Gate>,
    log: Log,
}

fn load(first: &str, second: &str, chain: &str) -> Result<Policy, String> {
    let text = format!(
        "endpoint \"https\" \"api\" {{\n  hosts = [\"api.test\"]\n}}\n\
         approver \"human_approver\" \"first\" {{\n{first}\n}}\n\
         approver \"human_approver\" \"second\" {{\n{second}\n}}\n\
         rule \"writes\" {{\n  endpoint = https.api\n  approve = [{chain}]\n}}\n\
         profile \"dev\" {{\n  logins = [\"ann@example.com\"]\n  endpoints = [https.api]\n}}\n"
    );
    let path = "p.hcl".into();
    let read = |_: &std::path::Path| Err(std::io::ErrorKind::NotFound.into());
    Policy::load(vec![Source { path, text }], &read).map_err(|errors| errors.render())
}

const FIRST: &str = "human_approver.first";
const BOTH: &str = "human_approver.first, human_approver.second";

impl World {
    fn new(first: &str, second: &str, chain: &str) -> World {
        let folder = Folder::new();
        let state = State::open(&folder.path().join("state")).unwrap();
        let queue = Queue::new(state.clone());
        let log = Log::open(&folder.path().join("audit.db")).unwrap();
        let policy = load(first, second, chain).unwrap_or_else(|errors| panic!("{errors}"));
        let gate = Arc::new(Gate::new(Arc::new(policy), queue.clone(), log.clone()));
        World {
            folder,
            state,
            queue,
            gate,
            log,
        }
    }

    fn ask(&self, what: &str) -> tokio::task::JoinHandle<Result<(), Refusal>> {
        let identity = Identity {
            login: Some("ann@example.com".to_owned()),
            tags: vec!["tag:ci".to_owned()],
            ..Identity::new(Transport::Tailnet, IpAddr::from([100, 64, 0, 2]), "laptop").proved_by("node:n1")
        };
        let agent = Agent::new(Arc::new(identity), "dev".into());
        let action = Action {
            step: Step::Request,
            endpoint: "https.api".into(),
            credential: None,
            facts: Facts::None,
            digest: Digest::of(what.as_bytes()),
            whole: true,
            summary: what.to_owned(),
            detail: what.to_owned(),
        };
        let gate = self.gate.clone();
        tokio::spawn(async move { gate.judge(&agent, &action).await.map(drop) })
    }

    async fn decide(&self, id: i64, person: &Voter, grant: Option<Terms>) -> Result<(), DecideError> {
        let decide = Decide {
            id,
            person: person.clone(),
            decision: Decision::Allow,
            reason: None,
            grant,
        };
        self.queue.decide(decide).await.map(drop)
    }

    async fn last_approvers(&self) -> String {
        self.log.flush().await.unwrap();
        let reader = Reader::open(&self.folder.path().join("audit.db")).unwrap();
        let records = reader.select(&Filter::default()).unwrap();
        records.last().unwrap()["approvers"].to_string()
    }
}

fn login(login: &str) -> Voter {
    Voter::Login {
        login: login.to_owned(),
        grants: vec![],
        is_guest: false,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_owner_of_an_agent_does_not_decide_for_it() {
    let owner = login("Ann@example.com");
    let account = Voter::from("ann@example.com");
    let world = World::new("separation = true", "", FIRST);
    let asked = world.ask("a");
    let id = pending(&world.queue, 1).await[0];
    for own in [&owner, &account] {
        let refused = world.decide(id, own, None).await;
        assert!(matches!(refused, Err(DecideError::NotEligible(_))));
    }
    // Whose account it is cannot be known: it may be hers.
    let refused = world.decide(id, &Voter::from("root"), None).await;
    assert!(matches!(refused, Err(DecideError::NotKnown(_))), "{refused:?}");
    assert!(refused.unwrap_err().to_string().contains("--login LOGIN"));
    for (login, may) in [("Ann@example.com", false), ("bob@example.com", true)] {
        let invitation = world
            .state
            .invite_operator("root", Some(login), Duration::from_secs(60))
            .unwrap();
        world.state.accept_invitation(&invitation, "hash").unwrap();
        assert_eq!(world.decide(id, &Voter::from("root"), None).await.is_ok(), may);
    }
    asked.await.unwrap().unwrap();
    // Where it is not asked for, they may; but not beforehand for a step where it is.
    let world = World::new("", "separation = true", BOTH);
    let asked = world.ask("b");
    let id = pending(&world.queue, 1).await[0];
    let terms = Terms::new(Some(60), None).unwrap();
    let refused = world.decide(id, &owner, Some(terms)).await;
    assert!(matches!(
        refused,
        Err(DecideError::Grant(GrantError::NotGrantor(_)))
    ));
    world.decide(id, &owner, None).await.unwrap();
    let second = loop {
        if let [second] = pending(&world.queue, 1).await.as_slice()
            && *second != id
        {
            break *second;
        }
    };
    assert!(world.decide(second, &owner, None).await.is_err());
    world
        .decide(second, &login("bob@example.com"), None)
        .await
        .unwrap();
    asked.await.unwrap().unwrap();
}

/// People said yes as the policy of then asked; the one in force asks others, or more of them.
#[tokio::test(flavor = "multi_thread")]
async fn a_yes_is_none_where_another_policy_asks_otherwise() {
    let was = "  approvers = [\"bob\", \"carol\"]\n  timeout = \"1h\"";
    for (first, chain, passes) in [
        (was, FIRST, true),
        (
            "  approvers = [\"bob\", \"carol\"]\n  timeout = \"2h\"",
            FIRST,
            true,
        ),
        ("  approvers = [\"carol\"]\n  timeout = \"1h\"", FIRST, false),
        (
            "  approvers = [\"bob\", \"carol\"]\n  require_approvers = 2\n  timeout = \"1h\"",
            FIRST,
            false,
        ),
        (
            "  approvers = [\"bob\", \"carol\"]\n  separation = true\n  timeout = \"1h\"",
            FIRST,
            false,
        ),
        (was, BOTH, false),
        (was, "human_approver.second", false),
    ] {
        let world = World::new(was, "", FIRST);
        let asked = world.ask("a");
        let id = pending(&world.queue, 1).await[0];
        world.gate.swap(Arc::new(load(first, "", chain).unwrap()));
        world.decide(id, &"bob".into(), None).await.unwrap();
        let came = asked.await.unwrap();
        assert_eq!(came.is_ok(), passes, "{first} {chain}: {came:?}");
        if let Err(refusal) = came {
            assert!(matches!(refusal.cause, Cause::ApprovalDown(_)), "{refusal:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_decides_in_time_is_denied_or_left_to_the_next() {
    for (mode, chain, is_left) in [
        ("deny", BOTH, false),
        ("next", FIRST, false),
        ("next", BOTH, true),
    ] {
        let first = format!("  timeout = \"1s\"\n  on_timeout = \"{mode}\"");
        let world = World::new(&first, "", chain);
        let asked = world.ask("a");
        let id = pending(&world.queue, 1).await[0];
        if is_left {
            let second = loop {
                match world.queue.list(false).await.unwrap().as_slice() {
                    [held] if held.id != id => break held.id,
                    _ => tokio::time::sleep(Duration::from_millis(5)).await,
                }
            };
            world.decide(second, &"bob".into(), None).await.unwrap();
            asked.await.unwrap().unwrap();
            let approvers = world.last_approvers().await;
            assert!(
                approvers.contains("first:nobody in time") && approvers.contains("second:bob"),
                "{approvers}"
            );
        } else {
            let refusal = asked.await.unwrap().unwrap_err();
            assert!(matches!(refusal.cause, Cause::TimedOut { .. }), "{refusal:?}");
            assert_eq!(world.queue.list(true).await.unwrap().len(), 1);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn others_may_decide_once_nobody_did_for_so_long() {
    let first = "  approvers = [\"bob\"]\n  escalate_after = \"1s\"\n  escalate_to = [\"carol\"]";
    let world = World::new(first, "", FIRST);
    let began = Instant::now();
    let asked = world.ask("a");
    let id = pending(&world.queue, 1).await[0];
    let mut refused = 0;
    while let Err(error) = world.decide(id, &"carol".into(), None).await {
        assert!(matches!(error, DecideError::NotEligible(_)), "{error}");
        refused += 1;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(refused > 0 && began.elapsed() >= Duration::from_secs(1));
    asked.await.unwrap().unwrap();
    assert!(world.queue.show(id).await.unwrap().unwrap().escalated);
    // What was decided before never comes to be so.
    let asked = world.ask("b");
    let id = pending(&world.queue, 1).await[0];
    world.decide(id, &"bob".into(), None).await.unwrap();
    asked.await.unwrap().unwrap();
    let database = rusqlite::Connection::open(world.folder.path().join("state/state.db")).unwrap();
    let passed = "UPDATE approval SET closed_us = closed_us - 9000000, escalates_us = escalates_us - 8000000";
    database.execute(passed, []).unwrap();
    assert!(!world.queue.show(id).await.unwrap().unwrap().escalated);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_question_says_how_its_agent_came_and_its_tags() {
    let world = World::new("", "", FIRST);
    let asked = world.ask("a");
    let id = pending(&world.queue, 1).await[0];
    let question = world.queue.show(id).await.unwrap().unwrap().question;
    assert_eq!(question["transport"], "tailnet");
    assert_eq!(question["tags"], serde_json::json!(["tag:ci"]));
    asked.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_asked_in_quiet_hours_but_those_of_the_escalation() {
    let time = |hours: i64| {
        (Utc::now() + chrono::TimeDelta::hours(hours))
            .format("%H:%M")
            .to_string()
    };
    let (quiet, loud) = (
        format!("{}-{}", time(-2), time(2)),
        format!("{}-{}", time(2), time(4)),
    );
    let world = World::new(&format!("  quiet_hours = \"{quiet}\""), "", FIRST);
    let refusal = world.ask("a").await.unwrap().unwrap_err();
    assert!(matches!(refusal.cause, Cause::TimedOut { .. }), "{refusal:?}");
    // Others' hours, by the same clock in another zone or later.
    for hours in [
        format!("  quiet_hours = \"{loud}\""),
        format!("  quiet_hours = \"{quiet}\"\n  quiet_zone = \"Asia/Tokyo\""),
    ] {
        let world = World::new(&hours, "", FIRST);
        let asked = world.ask("b");
        let id = pending(&world.queue, 1).await[0];
        world.decide(id, &"bob".into(), None).await.unwrap();
        asked.await.unwrap().unwrap();
    }
    let later = "  approvers = [\"bob\"]\n  escalate_after = \"9h\"\n  escalate_to = [\"carol\"]";
    let world = World::new(&format!("  quiet_hours = \"{quiet}\"\n{later}"), "", FIRST);
    let asked = world.ask("c");
    let id = pending(&world.queue, 1).await[0];
    world.decide(id, &"carol".into(), None).await.unwrap();
    asked.await.unwrap().unwrap();
}

#[test]
fn what_makes_no_sense_does_not_load() {
    for (first, want) in [
        ("on_timeout = \"allow\"", "nothing is allowed by a time-out"),
        ("separation = \"yes\"", "separation"),
        ("escalate_after = \"5m\"", "nobody to escalate to"),
        ("escalate_to = [\"carol\"]", "they are never asked"),
        (
            "escalate_after = \"5m\"\n escalate_to = [\"carol\"]",
            "everybody may decide already",
        ),
        (
            "approvers = [\"bob\"]\n escalate_after = \"5m\"\n escalate_to = [\"tag:ci\"]",
            "cannot decide",
        ),
        ("quiet_hours = \"night\"", "a span of hours"),
        (
            "quiet_hours = \"22:00-07:00\"\n quiet_zone = \"Mars/Base\"",
            "a zone's name",
        ),
        ("quiet_zone = \"Europe/Berlin\"", "without `quiet_hours`"),
    ] {
        let errors = load(first, "", FIRST).err().unwrap_or_default();
        assert!(errors.contains(want), "{first}: {errors}");
    }
}
