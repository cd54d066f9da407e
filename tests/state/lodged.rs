//! Questions that nobody waits for, and the room that they take.

use tailkeep::verdict::Later;
use tailkeep::verdict::approval::{LODGED_MAX, LODGED_PER_AGENT_MAX, Lodged, Question, Queue};

use super::{LONG, ask, open, pending, question};

async fn lodge(queue: &Queue, text: &str, agent: &str) -> Result<Lodged, String> {
    let question = Question {
        agent: agent.to_owned(),
        ..question(text, LONG)
    };
    let lodged = queue.lodge(question, Later { token: None }).await;
    lodged.map_err(|down| down.to_string())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_waits_for_leaves_room_to_those_who_wait() {
    let (_dir, _state, queue) = open();
    let agents = LODGED_MAX / LODGED_PER_AGENT_MAX;
    for agent in 0..agents {
        for number in 0..LODGED_PER_AGENT_MAX {
            let held = lodge(&queue, &format!("{agent} {number}"), &format!("node:n{agent}")).await;
            assert!(matches!(held, Ok(Lodged::Held(_))), "{held:?}");
        }
        if agent == 0 {
            let over = lodge(&queue, "over", "node:n0").await.unwrap_err();
            assert!(over.contains("this agent has"), "{over}");
            // The very same action is no more than it was.
            let again = lodge(&queue, "0 0", "node:n0").await;
            assert!(matches!(again, Ok(Lodged::Held(_))), "{again:?}");
        }
    }
    let over = lodge(&queue, "over", "node:last").await.unwrap_err();
    assert!(over.contains("nobody waits"), "{over}");
    // Those who wait have the rest of the queue, the first agent too.
    let own = Question {
        agent: "node:n0".to_owned(),
        ..question("waits", LONG)
    };
    let waits = [ask(&queue, own), ask(&queue, question("another's", LONG))];
    pending(&queue, usize::try_from(LODGED_MAX).unwrap() + 2).await;
    waits.iter().for_each(|task| task.abort());
}
