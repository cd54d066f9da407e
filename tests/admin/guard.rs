//! A rule's limit at the gate, and a reload that waits for its changes to be accepted.

use std::time::Instant;

use serde_json::json;
use tailkeep::audit::log::Log;
use tailkeep::facts::Facts;
use tailkeep::state::State;
use tailkeep::verdict::{Action, Cause, Digest, Step};

use crate::gateway::{Gateway, folder};
use crate::world::{SOON, World, agent, policy, record};

fn action() -> Action {
    Action {
        step: Step::Request,
        endpoint: "https.api".into(),
        credential: None,
        facts: Facts::None,
        digest: Digest::of(b"x"),
        whole: true,
        summary: "GET /".to_owned(),
        detail: String::new(),
    }
}

#[tokio::test]
async fn what_exceeds_a_rules_limit_is_denied_and_recorded() {
    let world = World::new().await;
    let text = crate::world::POLICY.replace(
        "  verdict  = \"allow\"\n",
        "  verdict  = \"allow\"\n  limit {\n    rate = \"2/h\"\n    per = \"agent\"\n  }\n",
    );
    world.gate.swap(policy(&text));
    let agent = agent();
    for _ in 0..2 {
        let _permit = world.gate.judge(&agent, &action()).await.unwrap();
    }
    let refusal = world.gate.judge(&agent, &action()).await.unwrap_err();
    assert_eq!(refusal.reason, "the limit of 2 in 3600 s for an agent is reached");
    let Cause::Limit { rule, retry_after_s } = &refusal.cause else {
        panic!("{refusal:?}");
    };
    assert_eq!(&**rule, "all");
    assert!((3500..=3600).contains(retry_after_s), "{retry_after_s}");
    let answer = tailkeep::protocol::http::denial::deny(&refusal);
    assert_eq!(answer.status(), 429);
    assert_eq!(answer.headers()["retry-after"], retry_after_s.to_string());
    let answer = tailkeep::protocol::kubernetes::deny(&refusal, None);
    let body: serde_json::Value = serde_json::from_slice(answer.body()).unwrap();
    assert_eq!(
        (&body["code"], &body["reason"]),
        (&json!(429), &json!("TooManyRequests"))
    );
    assert_eq!(body["details"]["retryAfterSeconds"], *retry_after_s);
    world.log.flush().await.unwrap();
    let reader = tailkeep::audit::read::Reader::open(&world.dir().join("audit.db")).unwrap();
    let records = reader.select(&tailkeep::audit::read::Filter::default()).unwrap();
    let last = records.last().unwrap();
    assert_eq!(
        (&last["verdict"], &last["cause"], &last["rule"]),
        (&json!("deny"), &json!("limit"), &json!("all"))
    );
    // A reload forgets nothing; another name is another rule.
    world.gate.swap(policy(&text));
    assert!(world.gate.judge(&agent, &action()).await.is_err());
    world
        .gate
        .swap(policy(&text.replace("rule \"all\"", "rule \"other\"")));
    let _permit = world.gate.judge(&agent, &action()).await.unwrap();
}

const RULES: &str = "endpoint \"https\" \"api\" { hosts = [\"api.test\"] }\n\
    profile \"dev\" {\n  peers = [\"laptop\"]\n  endpoints = [https.api]\n}\n\
    rule \"all\" {\n  endpoint = https.api\n  verdict = \"allow\"\n}\n";

/// What the gateway says of a policy that it holds back.
const WAITS: &str = "the new policy would change verdicts and waits";

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_that_would_change_verdicts_waits_until_it_is_accepted() {
    let folder = folder("  dashboard_listen = \"127.0.0.1:0\"\n  reload_guard = \"24h\"");
    let state = folder.path().join("state");
    drop(State::open(&state).unwrap());
    let log = Log::open(&state.join("audit.db")).unwrap();
    let mut seen = record("GET /");
    seen.at_us = chrono::Utc::now().timestamp_micros();
    log.append(seen).await.unwrap();
    log.flush().await.unwrap();
    drop(log);
    let policies = folder.path().join("policies");
    std::fs::write(policies.join("rules.hcl"), RULES).unwrap();
    let gateway = Gateway::start(folder.path());
    let tailkeep = |args: &[&str]| {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_tailkeep"))
            .args(args)
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let path = policies.to_str().unwrap();
    let version = || {
        let valid: serde_json::Value =
            serde_json::from_str(&tailkeep(&["validate", path, "--format", "json"])).unwrap();
        valid["version"].as_str().unwrap().to_owned()
    };
    // One that changes nothing of what was seen comes into force by itself.
    std::fs::write(policies.join("rules.hcl"), format!("{RULES}# a remark\n")).unwrap();
    let harmless = version();
    until("the harmless one", &state, &|own| own == harmless);
    // One that would deny what was allowed waits, and a harmless one after it does not.
    std::fs::write(policies.join("rules.hcl"), RULES.replace("\"allow\"", "\"deny\"")).unwrap();
    let strict = version();
    gateway.says(WAITS);
    assert!(tailkeep(&["replay", path, "--since", "24h"]).contains("1 would change"));
    std::fs::write(policies.join("more.hcl"), "# another remark\n").unwrap();
    let stricter = version();
    assert_ne!(strict, stricter);
    gateway.says(WAITS);
    assert_eq!(in_force(&state), harmless);
    tailkeep(&["replay", path, "--since", "24h", "--accept"]);
    until("the accepted one", &state, &|own| own == stricter);
    // One that does not load changes nothing, and is counted once.
    assert_eq!(health(&state)["bad_input"]["policy"], json!(null));
    std::fs::write(policies.join("more.hcl"), "rule {\n").unwrap();
    gateway.says("the new policy does not load");
    assert_eq!(in_force(&state), stricter);
    assert_eq!(health(&state)["bad_input"]["policy"], json!({ "invalid": 1 }));
    // Nor does one that is no text.
    std::fs::write(policies.join("more.hcl"), b"# \xff\xfe\n").unwrap();
    gateway.says("the configuration cannot be read");
    assert_eq!(in_force(&state), stricter);
    let counted = &health(&state)["bad_input"]["policy"];
    assert_eq!(*counted, json!({ "invalid": 1, "unread": 1 }));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_that_would_ask_others_waits() {
    let folder = folder("  dashboard_listen = \"127.0.0.1:0\"\n  reload_guard = \"24h\"");
    let state = folder.path().join("state");
    drop(State::open(&state).unwrap());
    let log = Log::open(&state.join("audit.db")).unwrap();
    let mut seen = record("GET /");
    seen.at_us = chrono::Utc::now().timestamp_micros();
    // Refused by the first of two: the record does not name the second.
    (seen.verdict, seen.cause) = ("deny", "refused");
    seen.approvers = vec!["human_approver.one:ann".to_owned()];
    log.append(seen).await.unwrap();
    log.flush().await.unwrap();
    drop(log);
    let two = "approver \"human_approver\" \"one\" {}\napprover \"human_approver\" \"two\" {}\n";
    let asks = |chain: &str| {
        let rules = RULES.replace("verdict = \"allow\"", &format!("approve = [{chain}]"));
        format!("{two}{rules}")
    };
    let path = folder.path().join("policies/rules.hcl");
    std::fs::write(&path, asks("human_approver.one, human_approver.two")).unwrap();
    let gateway = Gateway::start(folder.path());
    let first = in_force(&state);
    std::fs::write(&path, asks("human_approver.one")).unwrap();
    gateway.says(WAITS);
    assert_eq!(in_force(&state), first);
    // The same two, one of whom may be somebody else.
    let both = asks("human_approver.one, human_approver.two");
    let fewer = both.replace("\"two\" {}", "\"two\" { approvers = [\"eve@example.com\"] }");
    std::fs::write(&path, fewer).unwrap();
    gateway.says("(otherwise: human_approver.two: approvers)");
    assert_eq!(in_force(&state), first);
    // What no verdict and no question hangs on comes into force.
    std::fs::write(
        &path,
        format!("{both}approver \"human_approver\" \"three\" {{}}\n"),
    )
    .unwrap();
    until("the harmless one", &state, &|own| own != first);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_a_policy_names_is_a_part_of_it() {
    let folder = folder("  dashboard_listen = \"127.0.0.1:0\"");
    let (state, policies) = (folder.path().join("state"), folder.path().join("policies"));
    let judge = "policy \"careful\" { text = file(\"careful.md\") }\n";
    std::fs::write(policies.join("judge.hcl"), judge).unwrap();
    std::fs::write(policies.join("careful.md"), "Only reads.").unwrap();
    let gateway = Gateway::start(folder.path());
    let first = in_force(&state);
    std::fs::write(policies.join("careful.md"), "Only reads, and tea.").unwrap();
    until("the new prompt", &state, &|own| own != first);
    let second = in_force(&state);
    // Without it there is no policy; the old one stays until it is back, as it was or otherwise.
    std::fs::remove_file(policies.join("careful.md")).unwrap();
    gateway.says("does not load");
    assert_eq!(in_force(&state), second);
    std::fs::write(policies.join("careful.md"), "Only reads.").unwrap();
    until("the first again", &state, &|own| own == first);
}

/// Waits for the policy that is wanted in force.
#[track_caller]
fn until(why: &str, state: &std::path::Path, wanted: &dyn Fn(&str) -> bool) {
    let began = Instant::now();
    loop {
        let own = in_force(state);
        if wanted(&own) {
            return;
        }
        assert!(began.elapsed() < SOON, "{why}: {own}");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

/// The version of the policy in force, as the API says it.
fn in_force(state: &std::path::Path) -> String {
    health(state)["policy"].as_str().unwrap().to_owned()
}

fn health(state: &std::path::Path) -> serde_json::Value {
    use std::io::{Read as _, Write as _};
    let mut stream = std::os::unix::net::UnixStream::connect(state.join("admin.sock")).unwrap();
    stream
        .write_all(b"GET /v1/health HTTP/1.1\r\nHost: gateway\r\nConnection: close\r\n\r\n")
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let body = answer.split_once("\r\n\r\n").unwrap().1;
    serde_json::from_str(body).unwrap()
}
