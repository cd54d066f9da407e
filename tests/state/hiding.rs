//! The gate's last lines: no known secret is written, and no record is no permit.

use std::sync::Arc;

use tailkeep::audit::Outcome;
use tailkeep::audit::log::Log;
use tailkeep::audit::read::{Filter, Reader};
use tailkeep::credential::KnownSecrets;
use tailkeep::facts::Facts;
use tailkeep::identity::{Agent, Identity, Transport};
use tailkeep::policy::{Policy, Source};
use tailkeep::verdict::approval::Decision;
use tailkeep::verdict::gate::Gate;
use tailkeep::verdict::{Action, Cause, Digest, Refusal, Step};

use crate::{open, pending, say};

const SECRET: &str = "pa55-of/the+store";

const POLICY: &str = r#"
defaults { unmatched = "allow" }
endpoint "https" "api" { hosts = ["api.test"] }
approver "human_approver" "ops" {}
profile "dev" {
  peers     = ["laptop"]
  endpoints = [https.api]
}
"#;

const ASK: &str = r#"
rule "ask" {
  endpoint = https.api
  approve  = [human_approver.ops]
}
"#;

fn policy(text: &str) -> Arc<Policy> {
    let source = Source {
        path: "policy.hcl".into(),
        text: text.to_owned(),
    };
    match Policy::load(vec![source], &|path| std::fs::read_to_string(path)) {
        Ok(policy) => Arc::new(policy),
        Err(errors) => panic!("{errors}"),
    }
}

fn agent() -> Agent {
    let identity = Identity::new(Transport::Wireguard, "10.55.0.2".parse().unwrap(), "laptop");
    Agent::new(Arc::new(identity), "dev".into())
}

fn action(text: &str) -> Action {
    Action {
        step: Step::Request,
        endpoint: "https.api".into(),
        credential: None,
        facts: Facts::None,
        digest: Digest::of(text.as_bytes()),
        whole: true,
        summary: format!("GET /{text}"),
        detail: format!("GET /{text}\nx: {text}"),
    }
}

/// With a log that takes nothing, what the policy allows is denied, and with that cause.
pub async fn deny_when_the_log_is_down(log: &Log) {
    let (_dir, _state, queue) = open();
    let gate = Gate::new(policy(POLICY), queue, log.clone());
    let refusal = gate.judge(&agent(), &action("x")).await.unwrap_err();
    assert_eq!(refusal.cause, Cause::AuditDown);
    assert!(
        !refusal.reason.contains("audit"),
        "the agent learns nothing: {}",
        refusal.reason
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn no_known_secret_is_in_a_record_or_a_question() {
    let (dir, _state, queue) = open();
    let path = dir.path().join("audit.db");
    let log = Log::open(&path).unwrap();
    let known = KnownSecrets::default();
    let gate = Gate::new(policy(&format!("{POLICY}{ASK}")), queue.clone(), log.clone());
    let gate = Arc::new(gate.hiding(known.clone()));
    // Learnt after the gate was made, as a rotation is.
    known.learn("bearer_token.pat", "", SECRET.as_bytes());

    let judged = tokio::spawn({
        let gate = gate.clone();
        async move { gate.judge(&agent(), &action(SECRET)).await }
    });
    let id = pending(&queue, 1).await[0];
    let held = queue.show(id).await.unwrap().unwrap();
    assert!(!held.question.to_string().contains(SECRET), "{}", held.question);
    assert!(
        held.question["detail"]
            .as_str()
            .unwrap()
            .contains("(secret of bearer_token.pat)")
    );
    queue.decide(say(id, "alice", Decision::Allow)).await.unwrap();
    let permit = judged.await.unwrap().unwrap();
    assert!(
        permit.covers(&Digest::of(SECRET.as_bytes())),
        "what is sent is what was held"
    );
    let outcome = Outcome {
        status: format!("ERROR {SECRET}"),
        ..Outcome::default()
    };
    gate.finish(permit.record(), outcome);
    let refusal = Refusal::new(Cause::Malformed, format!("because {SECRET}")).with_detail(SECRET);
    gate.refuse(&agent(), "https.api", &format!("GET /{SECRET}"), refusal)
        .await;
    log.flush().await.unwrap();

    let rows = Reader::open(&path).unwrap().select(&Filter::default()).unwrap();
    let text = serde_json::json!(rows).to_string();
    assert!(!text.contains(SECRET), "{text}");
    assert_eq!(text.matches("(secret of bearer_token.pat)").count(), 5, "{text}");
    assert!(text.contains("human_approver.ops:alice"), "{text}");
    for folder in [dir.path().to_owned(), dir.path().join("state")] {
        for file in std::fs::read_dir(folder).unwrap() {
            let bytes = std::fs::read(file.unwrap().path()).unwrap_or_default();
            let found = bytes
                .windows(SECRET.len())
                .any(|window| window == SECRET.as_bytes());
            assert!(!found, "a file holds it");
        }
    }
}

/// [`POLICY`] whose endpoint and approver have these fields too.
fn written(endpoint: &str, approver: &str) -> String {
    let hosts = "hosts = [\"api.test\"]";
    POLICY
        .replace(&format!("{{ {hosts} }}"), &format!("{{\n{hosts}\n{endpoint}\n}}"))
        .replace("\"ops\" {}", &format!("\"ops\" {{\n{approver}\n}}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_question_says_what_its_endpoint_is_and_where_it_belongs() {
    let all = written("description = \"the shop's API\"", "channel = \"#ops\"");
    for (text, description, channel) in [(POLICY, None, None), (&all, Some("the shop's API"), Some("#ops"))] {
        let (dir, _state, queue) = open();
        let log = Log::open(&dir.path().join("audit.db")).unwrap();
        let gate = Gate::new(policy(&format!("{text}{ASK}")), queue.clone(), log);
        let judged = tokio::spawn(async move { gate.judge(&agent(), &action("x")).await });
        let id = pending(&queue, 1).await[0];
        let held = queue.show(id).await.unwrap().unwrap();
        assert_eq!(held.question["description"].as_str(), description);
        assert_eq!(held.question["channel"].as_str(), channel);
        judged.abort();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_approver_says_how_many_of_whom_must_allow() {
    let text = written("", "require_approvers = 2\napprovers = [\"ann\", \"bob\"]");
    let (dir, _state, queue) = open();
    let log = Log::open(&dir.path().join("audit.db")).unwrap();
    let gate = Gate::new(policy(&format!("{text}{ASK}")), queue.clone(), log);
    let judged = tokio::spawn(async move { gate.judge(&agent(), &action("x")).await });
    let id = pending(&queue, 1).await[0];
    assert!(queue.decide(say(id, "eve", Decision::Allow)).await.is_err());
    queue.decide(say(id, "ann", Decision::Allow)).await.unwrap();
    assert_eq!(pending(&queue, 1).await, [id], "one is not enough");
    queue.decide(say(id, "bob", Decision::Allow)).await.unwrap();
    assert!(judged.await.unwrap().is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn defaults_decide_where_nothing_else_does() {
    let judge = async |defaults: &str, approver: &str, rules: &str, action: &Action| {
        let (dir, _state, queue) = open();
        let log = Log::open(&dir.path().join("audit.db")).unwrap();
        let text = written("", approver).replace(
            "defaults { unmatched = \"allow\" }",
            &format!("defaults {{\n{defaults}\n}}"),
        );
        let gate = Gate::new(policy(&format!("{text}{rules}")), queue, log);
        let agent = agent();
        let judged = tokio::time::timeout(std::time::Duration::from_secs(10), gate.judge(&agent, action));
        match judged.await.expect("it waits too long") {
            Ok(_) => "allow".to_owned(),
            Err(refusal) => refusal.cause.name().to_owned(),
        }
    };
    let request = action("x");
    let mut elsewhere = action("x");
    (elsewhere.step, elsewhere.endpoint) = (Step::Passthrough, "unknown".into());
    for (defaults, approver, rules, action, want) in [
        ("", "", "", &request, "no_rule"),
        ("unmatched = \"deny\"", "", "", &request, "no_rule"),
        ("unmatched = \"allow\"", "", "", &request, "allow"),
        ("", "", "", &elsewhere, "no_endpoint"),
        ("unknown_host = \"deny\"", "", "", &elsewhere, "no_endpoint"),
        ("unknown_host = \"passthrough\"", "", "", &elsewhere, "allow"),
        ("human_timeout = 1", "", ASK, &request, "timed_out"),
        ("human_timeout = 600", "timeout = 1", ASK, &request, "timed_out"),
    ] {
        assert_eq!(
            judge(defaults, approver, rules, action).await,
            want,
            "{defaults} {approver}"
        );
    }
}
