//! ntfy: publish as JSON.

use serde_json::{Value, json};
use tailkeep::verdict::approval::ToldState;

use crate::World;
use crate::server::Server;

#[tokio::test(flavor = "multi_thread")]
async fn a_push_leads_to_the_page_and_says_nothing_of_the_action() {
    for token in [false, true] {
        let server = Server::start().await;
        server.answer((503, None, Value::Null));
        let mut channel = format!("url = \"http://{}/\"\ntopic = \"ops-7f\"", server.address);
        if token {
            channel.push_str("\ntoken = file(\"@/token\")");
        }
        let world = World::new(("ntfy", &channel), "").await;
        let asked = world.ask("tea");
        for _ in 0..2 {
            let told = server.next().await;
            let authorization = told
                .headers
                .get("authorization")
                .map(|value| value.to_str().unwrap().to_owned());
            assert_eq!(authorization, token.then(|| format!("Bearer {}", crate::TOKEN)));
            let link = format!("{}/#/approvals/1", crate::PAGE);
            assert_eq!(
                (&told.body["topic"], &told.body["click"]),
                (&json!("ops-7f"), &json!(link))
            );
            assert_eq!(
                told.body["actions"],
                json!([
                    { "action": "view", "label": "Open the page", "url": link, "clear": false },
                ])
            );
            let text = told.body.to_string();
            assert!(text.contains("laptop asks https.api"), "{text}");
            assert!(!text.contains("tea") && !text.contains("orders"), "{text}");
        }
        world
            .held(|held| held.told.iter().any(|told| told.state == ToldState::Sent))
            .await;
        // That others may decide too is a push of its own.
        let passed = "UPDATE approval SET escalates_us = 1";
        world.database().execute(passed, []).unwrap();
        let told = server.next().await;
        assert!(
            told.body["message"].as_str().unwrap().starts_with("Nobody"),
            "{}",
            told.body
        );
        asked.abort();
        // The end is told to nobody: a push is not taken back.
        world.held(|held| held.closed_us.is_some()).await;
        assert!(server.is_done());
    }
}
