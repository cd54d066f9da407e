//! The OpenAPI document: valid, the same by command and by HTTP, and true of every real answer.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use tailkeep::audit::Outcome;
use tailkeep::identity::{Identity, Transport};
use tailkeep::verdict::Digest;
use tailkeep::verdict::approval::{People, Question, Scope};

use crate::browser::{PASSWORD, hear, own};
use crate::world::{World, question};

const PYTHON: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/target/venv/bin/python");
const CHECK: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/admin/openapi.py");

/// Answers that no gateway gives here: it is on no tailnet.
const NOT_HERE: [(&str, &str); 2] = [("get", "/v1/tailnet"), ("post", "/v1/sign-in/tailnet")];
/// Answers of a gateway whose policy is in files: `crate::editing` has them.
pub const OF_FILES: [(&str, &str); 4] = [
    ("get", "/v1/policy/files"),
    ("post", "/v1/policy/check"),
    ("post", "/v1/policy/rehearse"),
    ("put", "/v1/policy/files/{name}"),
];

/// A method, a path as the document has it, and what was answered.
pub type Answered = Vec<(String, String, Value)>;

struct Asking<'a> {
    world: &'a World,
    answered: Answered,
}

impl Asking<'_> {
    fn keep(&mut self, method: &str, path: &str, answer: Value) {
        self.answered
            .push((method.to_lowercase(), path.to_owned(), answer));
    }

    /// Asks `line`, which is of `path` in the document.
    async fn ask(&mut self, line: &str, path: &str, body: &str) -> Value {
        let line = match body.starts_with('{') {
            true => format!("{line} HTTP/1.1\r\nContent-Type: application/json"),
            false => format!("{line} HTTP/1.1"),
        };
        let (host, token) = (self.world.address, self.world.token());
        let head = format!("{line}\r\nHost: {host}\r\nAuthorization: Bearer {token}");
        let (status, answer) = self.world.tcp(&head, body).await;
        assert_eq!(status, 200, "{line}: {answer}");
        let method = line.split(' ').next().unwrap().to_owned();
        self.keep(&method, path, answer.clone());
        answer
    }

    /// Where the path has nothing to fill in.
    async fn plain(&mut self, line: &str, body: &str) -> Value {
        let path = line.split(' ').nth(1).unwrap().split('?').next().unwrap();
        self.ask(line, path, body).await
    }

    /// The first event of a stream.
    fn first(&mut self, path: &str) {
        let url = format!("http://gateway{path}");
        let curl = Command::new("curl")
            .args(["-sN", "--max-time", "10", "--unix-socket"])
            .arg(self.world.socket())
            .arg(url)
            .stdout(Stdio::piped())
            .spawn();
        let mut curl = curl.unwrap();
        let lines = std::io::BufRead::lines(std::io::BufReader::new(curl.stdout.take().unwrap()));
        let mut data = lines.filter_map(|line| Some(line.unwrap().strip_prefix("data: ")?.to_owned()));
        let event = serde_json::from_str(&data.next().expect("no event")).unwrap();
        curl.kill().unwrap();
        curl.wait().unwrap();
        self.keep("get", path, event);
    }
}

fn grantable(question: Question) -> Question {
    let identity = Identity::new(Transport::Wireguard, [10, 77, 0, 2].into(), "laptop").proved_by("key:a");
    Question {
        scope: Scope::new(&identity, "dev", ("writes", Digest::of(b"v1"))),
        chain: vec![People {
            required: 1,
            eligible: vec![],
            excluded: None,
        }],
        ..question
    }
}

/// What the checker finds wrong.
pub fn faults(document: &Value, answers: &Answered) -> String {
    let mut python = Command::new(PYTHON)
        .arg(CHECK)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("target/venv is missing: scripts/test makes it");
    let asked = json!({ "document": document, "answers": answers }).to_string();
    python.stdin.take().unwrap().write_all(asked.as_bytes()).unwrap();
    let output = python.wait_with_output().unwrap();
    assert!(output.status.success(), "the checker failed");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// Questions, decisions and grants.
async fn approvals(asking: &mut Asking<'_>) {
    let held = asking.world.ask("a");
    let id = asking.world.pending(1).await[0].id;
    asking.plain("GET /v1/approvals", "").await;
    asking.first("/v1/approvals/watch");
    asking
        .ask(&format!("GET /v1/approvals/{id}"), "/v1/approvals/{id}", "")
        .await;
    let path = "/v1/approvals/{id}/asker";
    asking
        .ask(&format!("GET /v1/approvals/{id}/asker"), path, "")
        .await;
    let path = "/v1/approvals/{id}/approve";
    asking
        .ask(&format!("POST /v1/approvals/{id}/approve?reason=yes"), path, "")
        .await;
    held.await.unwrap();
    let refused = asking.world.ask("b");
    let id = asking.world.pending(1).await[0].id;
    asking
        .ask(
            &format!("POST /v1/approvals/{id}/deny"),
            "/v1/approvals/{id}/deny",
            "",
        )
        .await;
    refused.await.unwrap();
    let granted = asking.world.hold(grantable(question("c")));
    let id = asking.world.pending(1).await[0].id;
    let answer = asking
        .ask(&format!("POST /v1/approvals/{id}/approve?uses=3"), path, "")
        .await;
    granted.await.unwrap();
    asking.plain("GET /v1/grants?all=true", "").await;
    let grant = &answer["grant"]["id"];
    asking
        .ask(&format!("DELETE /v1/grants/{grant}"), "/v1/grants/{id}", "")
        .await;
    asking.plain("GET /v1/approvals?all=true", "").await;
}

/// Machines and agents.
async fn agents(asking: &mut Asking<'_>) {
    asking
        .plain("POST /v1/peers", r#"{"name":"laptop","hold":true}"#)
        .await;
    let key = r#"{"name":"own","public_key":"AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=","hold":true}"#;
    asking.plain("POST /v1/peers", key).await;
    asking.plain("GET /v1/peers", "").await;
    asking
        .ask("POST /v1/peers/own/approve", "/v1/peers/{name}/approve", "")
        .await;
    asking
        .plain("POST /v1/agents/kill", r#"{"agent":"peer:own","reason":"odd"}"#)
        .await;
    asking.plain("GET /v1/agents", "").await;
    asking
        .plain("POST /v1/agents/unkill", r#"{"agent":"peer:own"}"#)
        .await;
    asking.ask("DELETE /v1/peers/own", "/v1/peers/{name}", "").await;
}

/// The page's people, as a browser asks.
async fn people(asking: &mut Asking<'_>) {
    let world = asking.world;
    let invited = asking
        .plain(
            "POST /v1/operators",
            r#"{"name":"ann","login":"ann@example.com"}"#,
        )
        .await;
    asking.plain("GET /v1/operators", "").await;
    let invitation = invited["url"].as_str().unwrap().rsplit('/').next().unwrap();
    let path = "/v1/sign-in/invitation";
    let mut session = Value::Null;
    for body in [
        json!({ "invitation": invitation }),
        json!({ "invitation": invitation, "password": PASSWORD }),
    ] {
        let said = hear(world, &format!("POST {path}"), &own(world), &body.to_string()).await;
        session = said.json();
        asking.keep("post", path, said.json());
    }
    let said = hear(world, "GET /v1/sign-in", &own(world), "").await;
    asking.keep("get", "/v1/sign-in", said.json());
    let body = json!({ "name": "ann", "password": PASSWORD }).to_string();
    let said = hear(world, "POST /v1/sign-in", &own(world), &body).await;
    asking.keep("post", "/v1/sign-in", said.json());
    let cookie = said.header("set-cookie").unwrap().split(';').next().unwrap();
    let guard = said.json()["guard"].as_str().unwrap().to_owned();
    let headers = format!("{}Cookie: {cookie}\r\nX-Tailkeep-Guard: {guard}\r\n", own(world));
    asking.plain("GET /v1/sessions", "").await;
    for method in ["GET", "DELETE"] {
        let said = hear(world, &format!("{method} /v1/session"), &headers, "").await;
        asking.keep(method, "/v1/session", said.json());
    }
    let first = &session["session"];
    asking
        .ask(&format!("DELETE /v1/sessions/{first}"), "/v1/sessions/{id}", "")
        .await;
    asking
        .ask("DELETE /v1/operators/ann", "/v1/operators/{name}", "")
        .await;
}

/// The gateway, its policy, its secrets, its log.
async fn gateway(asking: &mut Asking<'_>) {
    asking.plain("GET /v1/health", "").await;
    asking.plain("GET /v1/session", "").await;
    asking.plain("GET /v1/policy", "").await;
    asking.plain("GET /v1/credentials", "").await;
    asking
        .ask("PUT /v1/credentials/pat", "/v1/credentials/{name}", "secret")
        .await;
    asking.plain("GET /v1/audit", "").await;
    asking.plain("GET /v1/audit/verify", "").await;
    asking
        .ask("GET /v1/audit/1/explain", "/v1/audit/{id}/explain", "")
        .await;
    asking.plain("GET /v1/policy/coverage", "").await;
    asking.first("/v1/audit/follow");
    asking.keep("get", "/v1/metrics", json!("text"));
    asking.plain("POST /v1/operator-token/rotate", "").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_is_as_the_document_says() {
    let world = World::new().await;
    let permit = world.judge("GET /orders").await.unwrap();
    let outcome = Outcome {
        status: "200".to_owned(),
        bytes_up: 1,
        bytes_down: 2,
        took_us: 3,
    };
    world.gate.finish(permit.record(), outcome);
    world.log.flush().await.unwrap();
    let mut asking = Asking {
        world: &world,
        answered: Vec::new(),
    };
    let document = asking.plain("GET /v1/openapi.json", "").await;
    assert_eq!(document, world.json(&["openapi"]), "the command prints another");
    gateway(&mut asking).await;
    approvals(&mut asking).await;
    agents(&mut asking).await;
    people(&mut asking).await;
    assert_eq!(faults(&document, &asking.answered), "");
    let asked: BTreeSet<(&str, &str)> = asking
        .answered
        .iter()
        .map(|(method, path, _)| (method.as_str(), path.as_str()))
        .chain(NOT_HERE)
        .chain(OF_FILES)
        .collect();
    for (path, methods) in document["paths"].as_object().unwrap() {
        for method in methods.as_object().unwrap().keys() {
            assert!(asked.contains(&(method, path)), "{method} {path} was never asked");
        }
    }
    let served = include_str!("../../src/admin/router.rs");
    assert!(!served.contains(".route("), "a route beside those of `Routes`");
    // What the checker is worth: a field that nobody described.
    let health = json!({ "version": "1" });
    let odd = vec![("get".to_owned(), "/v1/health".to_owned(), health)];
    assert!(faults(&document, &odd).contains("'policy' is a required property"));
    let mut more = asking.answered.remove(1);
    more.2["surprise"] = json!(1);
    assert!(faults(&document, &vec![more]).contains("surprise"));
}

/// What is read is described from the types that read it, so it is enough that the document has it.
#[test]
fn what_is_taken_is_described() {
    let document = tailkeep::admin::described();
    let names = |method: &str, path: &str| -> Vec<String> {
        let own = document["paths"][path][method]["parameters"].as_array().unwrap();
        own.iter()
            .map(|one| one["name"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(
        names("post", "/v1/approvals/{id}/approve"),
        ["id", "reason", "for_s", "uses"]
    );
    assert_eq!(
        names("put", "/v1/credentials/{name}"),
        ["name", "slot", "replace"]
    );
    assert_eq!(names("get", "/v1/audit").len(), 11);
    let body = &document["paths"]["/v1/agents/kill"]["post"]["requestBody"]["content"]["application/json"];
    let fields: Vec<&String> = body["schema"]["properties"].as_object().unwrap().keys().collect();
    assert_eq!(fields, ["agent", "reason", "ahead"]);
    assert_eq!(document["paths"]["/v1/sign-in"]["post"]["security"], json!([]));
    assert!(document["paths"]["/v1/health"]["get"]["security"].is_null());
}
