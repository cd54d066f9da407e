//! `Tailkeep-Approval: async`: a ticket instead of a held request.

use std::net::SocketAddr;

use serde_json::Value;
use tailkeep::identity::{Identity, Transport};
use tailkeep::verdict::approval::{Decide, Decision, QuestionState};

use crate::agent::{Answer, Raw};
use crate::server::{BOTH, Service};
use crate::world::{API, World, agent};

const ASK: &str = r#"
approver "human_approver" "ops" {}
approver "human_approver" "lead" {}
rule "ask" {
  endpoint = https.api
  approve  = [human_approver.ops]
  reason   = "somebody looks at it"
}"#;
const TWO: &str = r#"
approver "human_approver" "ops" {}
approver "human_approver" "lead" {}
rule "ask" {
  endpoint = https.api
  approve  = [human_approver.ops, human_approver.lead]
}"#;
const ASYNC: &str = "Tailkeep-Approval: async\r\n";

async fn send(gateway: SocketAddr, headers: &str, body: &str) -> Answer {
    let mut raw = Raw::connect(gateway).await;
    let length = body.len();
    raw.say(&format!(
        "POST /orders HTTP/1.1\r\nHost: api.test\r\nX-Own: 1\r\n{headers}Content-Length: {length}\r\n\r\n{body}"
    ))
    .await;
    raw.hear().await.unwrap()
}

/// A ticket's number and token.
fn ticket(answer: &Answer) -> (i64, String) {
    assert_eq!(answer.status, 202, "{}", answer.text());
    let body: Value = serde_json::from_slice(&answer.body).unwrap();
    let own = &body["approval"];
    let id = own["id"].as_i64().unwrap();
    let url = format!("http://tailkeep.internal/approvals/{id}");
    assert_eq!(own["status_url"], url);
    let head = answer.head.to_ascii_lowercase();
    assert!(
        head.contains("retry-after: ") && head.contains(&format!("location: {url}")),
        "{head}"
    );
    (id, own["retry_token"].as_str().unwrap_or_default().to_owned())
}

async fn decide(world: &World, id: i64, decision: Decision) {
    let decide = Decide {
        id,
        person: "ann".into(),
        decision,
        reason: Some("as you like".to_owned()),
        grant: None,
    };
    world.queue.decide(decide).await.unwrap();
}

fn retry(token: &str) -> String {
    format!("Tailkeep-Retry: {token}\r\n")
}

#[tokio::test]
async fn a_client_that_cannot_wait_gets_a_ticket_and_comes_back_with_it() {
    let service = Service::start(BOTH).await;
    let world = World::new(&service.policy(ASK));
    let gateway = world.listen(API).await;
    let (id, token) = ticket(&send(gateway, ASYNC, "tea").await);
    // The client has gone; the question stays.
    let own = agent().identity.clone();
    assert_eq!(
        world.gate.lodged(&own, id).await.unwrap().unwrap().state,
        QuestionState::Pending
    );
    let other = Identity::new(Transport::Wireguard, "10.77.0.3".parse().unwrap(), "other");
    assert!(
        world.gate.lodged(&other, id).await.unwrap().is_none(),
        "it is not another agent's"
    );
    // Too early: the same ticket, whose token it has.
    assert_eq!(
        ticket(&send(gateway, &retry(&token), "tea").await),
        (id, String::new())
    );
    decide(&world, id, Decision::Allow).await;
    // Only the very same request with that token takes the answer; what is not it asks anew, or is refused.
    let spent = send(gateway, &retry(&token), "rice").await;
    assert_eq!(spent.status, 403);
    assert!(spent.text().contains("retry token"), "{}", spent.text());
    assert_eq!(
        send(gateway, &format!("{}X-Own: 2\r\n", retry(&token)), "tea")
            .await
            .status,
        403
    );
    assert_eq!(send(gateway, &retry(&"0".repeat(64)), "tea").await.status, 403);
    let (anew, _) = ticket(&send(gateway, ASYNC, "tea").await);
    assert_ne!(anew, id, "without its token nobody takes it");
    assert!(service.seen().is_empty(), "nothing has gone upstream");
    // Once.
    assert_eq!(send(gateway, &retry(&token), "tea").await.status, 200);
    assert_eq!(send(gateway, &retry(&token), "tea").await.status, 403);
    let seen = service.seen();
    assert_eq!(seen.len(), 1);
    let headers = format!("{:?}", seen[0].headers).to_ascii_lowercase();
    assert!(
        headers.contains("x-own") && !headers.contains("tailkeep"),
        "{headers}"
    );
}

#[tokio::test]
async fn a_no_comes_to_whoever_comes_back_and_what_is_not_asked_of_people_does_not_wait() {
    let service = Service::start(BOTH).await;
    let world = World::new(&service.policy(ASK));
    let gateway = world.listen(API).await;
    let (id, token) = ticket(&send(gateway, ASYNC, "tea").await);
    // An agent that lost its token gets another, and the first is over.
    let (same, second) = ticket(&send(gateway, ASYNC, "tea").await);
    assert_eq!(same, id);
    assert_ne!(second, token);
    assert_eq!(send(gateway, &retry(&token), "tea").await.status, 403);
    decide(&world, id, Decision::Deny).await;
    let denied = send(gateway, &retry(&second), "tea").await;
    assert_eq!(denied.status, 403);
    assert!(denied.text().contains("as you like"), "{}", denied.text());
    for wrong in ["Tailkeep-Approval: soon\r\n", "Tailkeep-Retry: x\r\n"] {
        assert_eq!(send(gateway, wrong, "tea").await.status, 400, "{wrong}");
    }
    // A rule that allows answers at once, and the header goes no further.
    world.reload(&service.policy(crate::server::ALLOW));
    assert_eq!(send(gateway, ASYNC, "tea").await.status, 200);
    assert!(!format!("{:?}", service.seen()[0].headers).contains("tailkeep"));
}

/// A ticket that nobody will look at is none.
#[tokio::test]
async fn in_quiet_hours_it_is_over_at_once() {
    let service = Service::start(BOTH).await;
    let time = |hours: i64| {
        let then = chrono::Utc::now() + chrono::TimeDelta::hours(hours);
        then.format("%H:%M").to_string()
    };
    let quiet = format!("\"ops\" {{ quiet_hours = \"{}-{}\" }}", time(-2), time(2));
    let world = World::new(&service.policy(&ASK.replace("\"ops\" {}", &quiet)));
    let gateway = world.listen(API).await;
    let answer = send(gateway, ASYNC, "tea").await;
    assert_eq!(answer.status, 403, "{}", answer.text());
    assert!(world.queue.list(false).await.unwrap().is_empty());
}

/// The answer of the first step would be used up before that of the second is there.
#[tokio::test]
async fn where_several_steps_are_peoples_it_is_held_all_the_same() {
    let service = Service::start(BOTH).await;
    let world = World::new(&service.policy(TWO));
    let gateway = world.listen(API).await;
    let sent = tokio::spawn(async move { send(gateway, ASYNC, "tea").await });
    for step in 1..=2 {
        let held = tokio::time::timeout(crate::world::SOON, async {
            loop {
                if let Some(held) = world.queue.list(false).await.unwrap().pop() {
                    return held.id;
                }
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
        });
        let id = held.await.unwrap_or_else(|_| panic!("step {step} is not asked"));
        decide(&world, id, Decision::Allow).await;
    }
    assert_eq!(sent.await.unwrap().status, 200);
}
