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
        person: "ann".to_owned(),
        decision: Decision::Deny,
        reason: None,
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
