//! A grant stands for the people of a chain, not for its judge.

use std::sync::Arc;
use std::time::Duration;

use tailkeep::identity::{Agent, Identity, Transport};
use tailkeep::verdict::approval::{Decide, Decision, Terms};
use tailkeep::verdict::{Cause, Refusal};

use crate::server::Mood;
use crate::{BOTH, GPT, World, action};

fn ask(world: &World, text: &str) -> tokio::task::JoinHandle<Result<(), Refusal>> {
    let identity = Identity::new(Transport::Wireguard, "10.55.0.2".parse().unwrap(), "laptop");
    let agent = Agent::new(Arc::new(identity.proved_by("key:a")), "dev".into());
    let (gate, action) = (world.gate.clone(), action(text));
    tokio::spawn(async move { gate.judge(&agent, &action).await.map(drop) })
}

async fn held(world: &World) -> i64 {
    loop {
        if let Some(held) = world.queue.list(false).await.unwrap().pop() {
            return held.id;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_judge_is_asked_for_each_use_of_a_grant() {
    let world = World::new(&format!("{GPT}\n  fail_mode = \"next\""), BOTH).await;
    let asked = ask(&world, "tea");
    let give = Decide {
        id: held(&world).await,
        person: "ann".into(),
        decision: Decision::Allow,
        reason: None,
        grant: Some(Terms::new(Some(600), Some(20)).unwrap()),
    };
    world.queue.decide(give).await.unwrap();
    asked.await.unwrap().unwrap();
    ask(&world, "more tea").await.unwrap().unwrap();
    assert_eq!(world.server.seen().len(), 2);
    let record = world.record().await;
    assert_eq!(record["cause"], "granted");
    assert!(
        record["approvers"]
            .to_string()
            .contains("human_approver.ops:grant 1 by ann")
    );
    // Its no is a no.
    world.server.mood(Mood::Says("deny", 0.9));
    let refusal = ask(&world, "rice").await.unwrap().unwrap_err();
    assert!(matches!(refusal.cause, Cause::Refused { .. }), "{refusal:?}");
    // Where it says nothing, a person looks.
    world.server.mood(Mood::Failing);
    let asked = ask(&world, "wine");
    held(&world).await;
    asked.abort();
    let grants = world.queue.grants(false).await.unwrap();
    assert_eq!(grants[0].uses, 2);
}
