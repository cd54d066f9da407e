//! What an agent sends of its own secrets stands in no record and in no question.

use std::time::Duration;

use tailkeep::verdict::approval::{Decide, Decision};

use crate::agent::Raw;
use crate::server::{BOTH, Service};
use crate::world::{API, SOON, World};

/// Reads every fact, so that every fact is recorded.
const READS_ALL: &str = r#"
approver "human_approver" "ops" {}
credential "header_token" "mine" {
  endpoint = https.api
  header   = "X-Mine"
}
credential "query_token" "pin" {
  endpoint  = https.api
  parameter = "pin"
}
rule "ask" {
  endpoint  = https.api
  condition = "size(http.headers) > 0 && size(http.query) > 0 && http.body != '' && http.body_json != null"
  approve   = [human_approver.ops]
}"#;

const REQUEST: &str = "POST /x?pin=R1&access_token=R2&page=2 HTTP/1.1\r\nHost: api.test\r\n\
    Authorization: Bearer R3\r\nProxy-Authorization: Basic UjQ6UjQ=\r\nCookie: sid=R5; plain=R5\r\n\
    X-Api-Key: R6\r\nX-Mine: R7\r\nPrivate-Token: R8\r\nReferer: https://u:R9@h/\r\nAccept: seen-a\r\n\
    Content-Type: application/json\r\nContent-Length: 39\r\n\r\n{\"client_secret\":\"R10\",\"note\":\"seen-b\"}";

#[tokio::test]
async fn an_agents_own_credentials_are_masked_everywhere() {
    let service = Service::start(BOTH).await;
    let world = World::new(&service.policy(READS_ALL));
    let gateway = world.listen(API).await;
    let mut raw = Raw::connect(gateway).await;
    raw.say(REQUEST).await;
    let held = tokio::time::timeout(SOON, async {
        loop {
            if let Some(held) = world.queue.list(false).await.unwrap().pop() {
                return held;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    let held = held.await.expect("nothing was asked");
    let shown = held.question.to_string();
    let decide = Decide {
        id: held.id,
        person: "ann".into(),
        decision: Decision::Deny,
        reason: None,
        grant: None,
    };
    world.queue.decide(decide).await.unwrap();
    assert_eq!(raw.hear().await.unwrap().status, 403);
    let recorded = serde_json::json!(world.records().await).to_string();
    for (what, text) in [("question", shown), ("records", recorded)] {
        for secret in [
            "R1\"", "R2", "R3", "UjQ6UjQ", "R5", "R6", "R7", "R8", "R9", "R10", "pin=R1",
        ] {
            assert!(!text.contains(secret), "{secret} in the {what}: {text}");
        }
        for wanted in ["seen-a", "seen-b", "page", "(masked)", "Bearer (masked)"] {
            assert!(text.contains(wanted), "no {wanted} in the {what}: {text}");
        }
    }
    for file in ["state/state.db", "state/state.db-wal", "audit.db", "audit.db-wal"] {
        let bytes = std::fs::read(world.folder.path().join(file)).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        for secret in ["Bearer R3", "UjQ6UjQ", "sid=R5", "R10"] {
            assert!(!text.contains(secret), "{secret} in {file}");
        }
    }
}

/// Everything that any crate traces, as text.
#[derive(Clone, Default)]
struct Traced(std::sync::Arc<std::sync::Mutex<Vec<u8>>>);

impl std::io::Write for Traced {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn no_secret_is_in_the_logs_at_any_level() {
    let traced = Traced::default();
    let writer = traced.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing_subscriber::filter::LevelFilter::TRACE)
        .with_writer(move || writer.clone())
        .finish();
    // One thread serves this test, so its own subscriber sees everything.
    let _guard = tracing::subscriber::set_default(subscriber);
    let service = Service::start(BOTH).await;
    let credential = "credential \"bearer_token\" \"pat\" { endpoint = https.api }\n";
    let policy = format!("{}{credential}", service.open_policy()).replace(
        "endpoints = [https.api]",
        "endpoints = [https.api]\n  credentials = [bearer_token.pat]",
    );
    let world = World::new(&policy);
    let gateway = world.listen(API).await;
    let requests = [
        "GET /1k HTTP/1.1\r\nHost: api.test\r\nAuthorization: Bearer {{pat}}\r\nX-Api-Key: own-R1\r\n\r\n",
        "GET /1k?token=own-R2 HTTP/1.1\r\nHost: api.test\r\nCookie: sid=own-R3\r\n\r\n",
    ];
    for request in requests {
        let answer = crate::agent::ask(gateway, request).await;
        assert_eq!(answer.unwrap().status, 200, "{request}");
    }
    let mut sender = crate::agent::http2::<http_body_util::Empty<bytes::Bytes>>(gateway).await;
    let request = http::Request::get("https://api.test/1k")
        .header("authorization", "Bearer {{pat}}")
        .header("x-api-key", "own-R4")
        .body(http_body_util::Empty::new())
        .unwrap();
    assert_eq!(sender.send_request(request).await.unwrap().status(), 200);
    let text = String::from_utf8_lossy(&traced.0.lock().unwrap()).into_owned();
    assert!(text.contains("TRACE"), "nothing was traced");
    for secret in ["s3cr3t-of-pat", "own-R"] {
        let line = text.lines().find(|line| line.contains(secret));
        assert!(line.is_none(), "{secret} in the logs: {line:?}");
    }
}
