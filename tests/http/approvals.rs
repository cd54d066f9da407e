//! What happens to a held request while people think.

use tailkeep::verdict::approval::{Decide, Decision};

use crate::agent::{Raw, curl};
use crate::server::{BOTH, Service};
use crate::world::{API, SOON, World, until};

/// A batch of GraphQL whose operations are each asked of people.
const EACH: &str = r#"
approver "human_approver" "ops" {}
rule "first" {
  endpoint  = https.api
  condition = "'first' in http.graphql.fields"
  approve   = [human_approver.ops]
}
rule "second" {
  endpoint  = https.api
  condition = "'second' in http.graphql.fields"
  approve   = [human_approver.ops]
}"#;
const ASK: &str = r#"
approver "human_approver" "ops" {}
rule "ask" {
  endpoint = https.api
  approve  = [human_approver.ops]
}"#;

async fn approve(world: &World, id: i64) {
    let decide = Decide {
        id,
        person: "ann".into(),
        decision: Decision::Allow,
        reason: None,
        grant: None,
    };
    world.queue.decide(decide).await.unwrap();
}

/// The first operation of a batch was permitted, and is forbidden before people decide on the second.
#[tokio::test]
async fn what_is_forbidden_while_the_rest_of_a_batch_is_held_is_not_sent() {
    let service = Service::start(BOTH).await;
    let forbids = EACH.replacen("approve   = [human_approver.ops]", "verdict = \"deny\"", 1);
    for (after, want, sent) in [(EACH, 200, 1), (forbids.as_str(), 403, 0)] {
        let world = World::new(&service.policy(EACH));
        let gateway = world.listen(API).await;
        let before = service.seen().len();
        let batch = r#"[{"query":"mutation{first}"},{"query":"mutation{second}"}]"#;
        let args = [
            "-H",
            "Content-Type: application/json",
            "-d",
            batch,
            "https://api.test/echo",
        ];
        let decided = async {
            let first = world.question(0).await.id;
            approve(&world, first).await;
            let second = world.question(first).await.id;
            world.reload(&service.policy(after));
            approve(&world, second).await;
        };
        let (got, ()) = tokio::join!(curl(&world, gateway, &args), decided);
        assert_eq!(got.status, want, "{}", got.text());
        assert_eq!(service.seen().len() - before, sent);
        let story = world.story().await;
        let not_sent = story.iter().filter(|line| line.ends_with("| NOT SENT")).count();
        assert_eq!(not_sent, if sent == 1 { 0 } else { 2 }, "{story:#?}");
    }
}

/// An agent that asks and leaves has asked: the log says so, whatever becomes of the queue.
#[tokio::test]
async fn an_agent_that_leaves_is_on_record() {
    let service = Service::start(BOTH).await;
    let world = World::new(&service.policy(ASK));
    let gateway = world.listen(API).await;
    let mut raw = Raw::connect(gateway).await;
    raw.say("DELETE /everything HTTP/1.1\r\nHost: api.test\r\n\r\n")
        .await;
    let id = world.question(0).await.id;
    drop(raw);
    until("the connection is over", || world.open() == 0).await;
    let recorded = async {
        loop {
            let records = world.records().await;
            if let Some(record) = records.iter().find(|record| record["cause"] == "withdrawn") {
                return record.clone();
            }
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    let record = tokio::time::timeout(SOON, recorded).await.expect("a record");
    assert_eq!(record["summary"], "DELETE /everything");
    assert_eq!(
        (&record["verdict"], &record["rule"]),
        (&"deny".into(), &"ask".into())
    );
    // Of one that stays, and of the end of the gateway, there is no such record.
    let mut raw = Raw::connect(gateway).await;
    raw.say("DELETE /one HTTP/1.1\r\nHost: api.test\r\n\r\n").await;
    approve(&world, world.question(id).await.id).await;
    assert_eq!(raw.hear().await.unwrap().status, 200);
    drop(raw);
    let mut raw = Raw::connect(gateway).await;
    raw.say("DELETE /two HTTP/1.1\r\nHost: api.test\r\n\r\n").await;
    world.question(id).await;
    world.queue.close();
    drop(raw);
    until("the connection is over", || world.open() == 0).await;
    let story = world.story().await;
    assert_eq!(
        story.iter().filter(|line| line.contains("withdrawn")).count(),
        1,
        "{story:#?}"
    );
}

/// A server may read as Latin-1 what is no UTF-8: nobody says yes to what they do not see.
#[tokio::test]
async fn a_header_that_is_no_text_is_shown() {
    let service = Service::start(BOTH).await;
    let world = World::new(&service.policy(ASK));
    let gateway = world.listen(API).await;
    let mut raw = Raw::connect(gateway).await;
    raw.say(b"GET /a HTTP/1.1\r\nHost: api.test\r\nX-Then: \xfc; drop=all\r\nX-Token: \xfcsecret\r\n\r\n")
        .await;
    let held = world.question(0).await;
    let detail = held.question["detail"].as_str().unwrap();
    assert!(detail.contains(r"x-then: (not text) \xfc; drop=all"), "{detail}");
    assert!(!detail.contains("secret"), "{detail}");
}
