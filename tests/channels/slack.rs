//! Slack: chat.postMessage, chat.update, signed interactions, response_url.

use hmac::{Hmac, Mac as _};
use serde_json::{Value, json};
use tailkeep::channel::slack::SHOWN_CHARS_MAX;
use tailkeep::verdict::Cause;
use tailkeep::verdict::approval::{Decide, Decision, QuestionState, ToldState};

use crate::server::Server;
use crate::{SECRET, World, now_s};

const PEOPLE: &str = r#"
person {
  id   = "U0ANN"
  name = "ann@example.com"
}
person {
  id   = "U0BOB"
  name = "bob@example.com"
}
person {
  id   = "U0EVE"
  name = "eve@example.com"
}
"#;
const APPROVERS: &str = "approvers = [\"ann@example.com\", \"bob@example.com\"]";
const PLACE: (&str, &str) = ("C0OPS", "1700000000.000100");

fn channel(server: &Server) -> String {
    format!(
        "base_url = \"http://{}/api\"\nroom = \"C0OPS\"\ntoken = file(\"@/token\")\n\
         signing_secret = file(\"@/secret\")\n{PEOPLE}",
        server.address
    )
}

async fn world(server: &Server, approver: &str) -> World {
    World::new(("slack", &channel(server)), &format!("{APPROVERS}\n{approver}")).await
}

/// The buttons of a message: their `action_id` and `value`.
fn buttons(message: &Value) -> Vec<(String, String)> {
    let blocks = message["blocks"].as_array().unwrap();
    let elements = blocks
        .iter()
        .filter_map(|block| block["elements"].as_array())
        .flatten();
    let valued = elements.filter_map(|one| {
        Some((
            one["action_id"].as_str()?.to_owned(),
            one["value"].as_str()?.to_owned(),
        ))
    });
    valued.collect()
}

struct Press<'a> {
    member: &'a str,
    button: &'a (String, String),
    place: (&'a str, &'a str),
    response_url: String,
    at_s: i64,
    secret: &'a str,
}

impl Press<'_> {
    fn new<'a>(server: &Server, member: &'a str, button: &'a (String, String)) -> Press<'a> {
        Press {
            member,
            button,
            place: PLACE,
            response_url: format!("http://{}/response", server.address),
            at_s: now_s(),
            secret: SECRET,
        }
    }

    /// As Slack sends it, signed as its documentation says.
    fn request(&self, world: &World) -> reqwest::RequestBuilder {
        let payload = json!({
            "type": "block_actions", "user": { "id": self.member, "team_id": "T1" }, "api_app_id": "A1",
            "container": { "type": "message", "channel_id": self.place.0, "message_ts": self.place.1 },
            "actions": [{ "type": "button", "action_id": self.button.0, "value": self.button.1, "action_ts": "1.0" }],
            "response_url": self.response_url,
        });
        let payload =
            percent_encoding::utf8_percent_encode(&payload.to_string(), percent_encoding::NON_ALPHANUMERIC)
                .to_string();
        let body = format!("payload={payload}");
        let mut mac = Hmac::<sha2::Sha256>::new_from_slice(self.secret.as_bytes()).unwrap();
        mac.update(format!("v0:{}:{body}", self.at_s).as_bytes());
        let signature: String = mac
            .finalize()
            .into_bytes()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        reqwest::Client::new()
            .post(format!("http://{}/slack/ops", world.back))
            .header("content-type", "application/x-www-form-urlencoded")
            .header("x-slack-request-timestamp", self.at_s.to_string())
            .header("x-slack-signature", format!("v0={signature}"))
            .body(body)
    }

    async fn send(&self, world: &World) -> u16 {
        self.request(world).send().await.unwrap().status().as_u16()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listed_person_decides_by_a_button_and_the_message_says_so() {
    for (at, want) in [(0, "approved"), (1, "denied")] {
        let server = Server::start().await;
        let world = world(&server, "").await;
        let asked = world.ask("tea & <@U0EVE> *x*");
        let posted = server.next().await;
        assert_eq!(posted.path, "/api/chat.postMessage");
        let text = posted.body.to_string();
        for part in [
            "tea &amp; &lt;@U0EVE&gt; *x*",
            "laptop",
            "https.api",
            "Rule: ask",
            "Digest: ",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(text.contains(&format!("{}/#/approvals/", crate::PAGE)), "{text}");
        let buttons = buttons(&posted.body);
        assert_eq!(buttons.len(), 2);
        world
            .held(|held| held.told.iter().any(|told| told.state == ToldState::Sent))
            .await;
        assert_eq!(Press::new(&server, "U0ANN", &buttons[at]).send(&world).await, 200);
        match at {
            0 => asked.await.unwrap().unwrap(),
            _ => assert!(matches!(
                asked.await.unwrap().unwrap_err().cause,
                Cause::Refused { .. }
            )),
        }
        let updated = server.next().await;
        assert_eq!(updated.path, "/api/chat.update");
        assert_eq!(updated.body["ts"], PLACE.1);
        let text = updated.body.to_string();
        assert!(text.contains(&format!("{want} by ann@example.com")), "{text}");
        assert!(self::buttons(&updated.body).is_empty(), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_else_decides_and_nothing_counts_twice() {
    let server = Server::start().await;
    let world = world(&server, "require_approvers = 2").await;
    let asked = world.ask("tea");
    let first = buttons(&server.next().await.body);
    world
        .held(|held| held.told.iter().any(|told| told.state == ToldState::Sent))
        .await;
    let press = |member| Press::new(&server, member, &first[0]);
    // Not Slack's, or not of now.
    let unsigned = reqwest::Client::new()
        .post(format!("http://{}/slack/ops", world.back))
        .body("payload={}");
    assert_eq!(unsigned.send().await.unwrap().status(), 401);
    let wrong = Press {
        secret: "another",
        ..press("U0ANN")
    };
    assert_eq!(wrong.send(&world).await, 401);
    // The clock goes on while it is sent.
    for off in [-301, 330] {
        let stale = Press {
            at_s: now_s() + off,
            ..press("U0ANN")
        };
        assert_eq!(stale.send(&world).await, 401, "{off}");
    }
    // Signed, by somebody who may not, of another message, or with another token: the member is told.
    let other = (first[0].0.clone(), format!("{}0", first[0].1));
    for (refused, why) in [
        (press("U0MALLORY"), "not among those"),
        (press("U0EVE"), "may not decide"),
        (
            Press {
                place: ("C0EVIL", PLACE.1),
                ..press("U0ANN")
            },
            "another action",
        ),
        (
            Press {
                place: ("C0OPS", "1.1"),
                ..press("U0ANN")
            },
            "another action",
        ),
        (
            Press {
                button: &other,
                ..press("U0ANN")
            },
            "another action",
        ),
    ] {
        assert_eq!(refused.send(&world).await, 200, "{why}");
        let told = server.next().await;
        assert_eq!(told.path, "/response");
        assert_eq!(told.body["response_type"], "ephemeral");
        assert!(told.body["text"].as_str().unwrap().contains(why), "{}", told.body);
    }
    // No answer goes elsewhere.
    let elsewhere = Server::start().await;
    let away = Press {
        response_url: format!("http://{}/x", elsewhere.address),
        ..press("U0MALLORY")
    };
    assert_eq!(away.send(&world).await, 200);
    assert!(elsewhere.is_done());
    assert!(
        world.held(|_| true).await.by.is_empty(),
        "nobody has said anything yet"
    );
    // The same request again, and the same person again.
    let once = press("U0ANN");
    assert_eq!(once.send(&world).await, 200);
    assert_eq!(once.send(&world).await, 401, "a replay");
    let updated = server.next().await;
    assert_eq!(updated.path, "/api/chat.update");
    assert!(
        updated
            .body
            .to_string()
            .contains("approved so far by ann@example.com")
    );
    let second = buttons(&updated.body);
    assert_eq!(world.held(|_| true).await.state, QuestionState::Pending);
    // The first message's token is over.
    assert_eq!(press("U0BOB").send(&world).await, 200);
    assert!(
        server.next().await.body["text"]
            .as_str()
            .unwrap()
            .contains("another action")
    );
    assert_eq!(Press::new(&server, "U0BOB", &second[0]).send(&world).await, 200);
    asked.await.unwrap().unwrap();
    assert!(
        server
            .next()
            .await
            .body
            .to_string()
            .contains("approved by ann@example.com, bob@example.com")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_shown_whole_has_a_link_and_no_button() {
    let server = Server::start().await;
    let world = world(&server, "").await;
    let asked = world.ask(&"x".repeat(SHOWN_CHARS_MAX));
    let posted = server.next().await;
    assert!(buttons(&posted.body).is_empty());
    assert!(posted.body.to_string().contains("too long to be shown"));
    asked.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_is_tried_again_within_bounds_and_allows_nothing() {
    let server = Server::start().await;
    server.answer((429, Some("1"), json!({ "ok": false, "error": "ratelimited" })));
    server.answer((503, None, Value::Null));
    server.answer((200, None, json!({ "ok": false, "error": "internal_error" })));
    let world = world(&server, "").await;
    let asked = world.ask("tea");
    for _ in 0..4 {
        assert_eq!(server.next().await.path, "/api/chat.postMessage");
    }
    world
        .held(|held| held.told.iter().any(|told| told.state == ToldState::Sent))
        .await;
    asked.abort();
    // What cannot be mended by waiting is not tried again; it is said, and the page decides.
    for answer in [
        (200, None, json!({ "ok": false, "error": "not_in_channel" })),
        (403, None, Value::Null),
        (429, Some("3600"), Value::Null),
        (200, None, json!({ "ok": true })),
        (
            200,
            None,
            json!("x".repeat(tailkeep::channel::post::ANSWER_BYTES_MAX)),
        ),
    ] {
        let server = Server::start().await;
        server.answer(answer.clone());
        let world = self::world(&server, "").await;
        let asked = world.ask("tea");
        let failed = world
            .held(|held| held.told.iter().any(|told| told.state == ToldState::Failed))
            .await;
        assert_eq!(failed.state, QuestionState::Pending);
        let problem = failed.told[0].problem.clone().unwrap();
        assert!(
            !problem.is_empty() && !problem.contains(crate::TOKEN),
            "{problem}"
        );
        assert_eq!(failed.told[0].channel, "slack.ops");
        server.next().await;
        assert!(server.is_done(), "{answer:?}");
        let decide = Decide {
            id: failed.id,
            person: "ann@example.com".into(),
            decision: Decision::Deny,
            reason: None,
            grant: None,
        };
        world.queue.decide(decide).await.unwrap();
        asked.await.unwrap().unwrap_err();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn that_others_may_decide_by_now_is_posted_once() {
    let server = Server::start().await;
    let more = "require_approvers = 2\n  escalate_after = \"1h\"\n  escalate_to = [\"eve@example.com\"]";
    let world = world(&server, more).await;
    let asked = world.ask("tea");
    assert_eq!(server.next().await.path, "/api/chat.postMessage");
    world
        .held(|held| held.told.iter().any(|told| told.state == ToldState::Sent))
        .await;
    let passed = "UPDATE approval SET escalates_us = escalates_us - 3600000000";
    world.database().execute(passed, []).unwrap();
    let mut updated = server.next().await;
    assert_eq!(updated.path, "/api/chat.update");
    let called = server.next().await;
    assert_eq!(
        (called.path.as_str(), &called.body["reply_broadcast"]),
        ("/api/chat.postMessage", &json!(true))
    );
    // Each vote changes the message, and calls nobody.
    for member in ["U0ANN", "U0EVE"] {
        let button = buttons(&updated.body).remove(0);
        assert_eq!(Press::new(&server, member, &button).send(&world).await, 200);
        updated = server.next().await;
        assert_eq!(updated.path, "/api/chat.update", "{}", updated.body);
    }
    asked.await.unwrap().unwrap();
    assert!(server.is_done());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_it_is_read_as_and_who_asks_stand_beside_it() {
    let server = Server::start().await;
    let world = world(&server, "").await;
    let first = world.ask("tea");
    let posted = server.next().await.body.to_string();
    for part in [
        "method: post",
        "path: /orders",
        "query: {\\\"dry\\\":[\\\"&lt;no&gt;\\\"]}",
        "Its last hour: nothing else",
    ] {
        assert!(posted.contains(part), "{part}: {posted}");
    }
    let decide = Decide {
        id: 1,
        person: "ann@example.com".into(),
        decision: Decision::Deny,
        reason: None,
        grant: None,
    };
    world.queue.decide(decide).await.unwrap();
    first.await.unwrap().unwrap_err();
    let second = world.ask("more tea");
    let posted = loop {
        let seen = server.next().await;
        if seen.path == "/api/chat.postMessage" {
            break seen.body.to_string();
        }
    };
    for part in [
        "Its last hour: 1 deny at https.api",
        "like this: 1 denied",
        "others: none",
    ] {
        assert!(posted.contains(part), "{part}: {posted}");
    }
    second.abort();
}

/// A webhook's system that has Slack's secret could sign as Slack, for any member.
#[tokio::test(flavor = "multi_thread")]
async fn slack_is_one_voice_with_a_webhook_of_its_secret() {
    let coded = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, SECRET);
    for (secret, is_one) in [
        (SECRET.to_owned(), true),
        // The same key, as a webhook writes it.
        (format!("whsec_{coded}"), true),
        ("whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA".to_owned(), false),
    ] {
        let (server, hook) = (Server::start().await, Server::start().await);
        let folder = crate::folder::Folder::new();
        for (name, text) in [("token", crate::TOKEN), ("secret", SECRET), ("other", &secret)] {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        let more = format!(
            "channel \"webhook\" \"two\" {{\n  url = \"http://{}/\"\n  secret = file(\"@/other\")\n{PEOPLE}\n}}\n",
            hook.address
        );
        let approver = format!("{APPROVERS}\n  require_approvers = 2\n  channels = [slack.ops, webhook.two]");
        let more = (more.as_str(), "human_approver.ops");
        let world = World::with_more(folder, ("slack", &channel(&server)), &approver, more).await;
        let asked = world.ask("tea");
        let first = buttons(&server.next().await.body);
        world
            .held(|held| {
                held.told
                    .iter()
                    .any(|told| told.channel == "slack.ops" && told.state == ToldState::Sent)
            })
            .await;
        assert_eq!(Press::new(&server, "U0ANN", &first[0]).send(&world).await, 200);
        let second = buttons(&server.next().await.body);
        assert_eq!(Press::new(&server, "U0BOB", &second[0]).send(&world).await, 200);
        let next = server.next().await;
        match is_one {
            true => {
                assert_eq!(next.path, "/response");
                let text = next.body["text"].as_str().unwrap();
                assert!(text.contains("slack.ops has said yes already"), "{text}");
                assert_eq!(world.held(|_| true).await.by, ["ann@example.com"]);
                asked.abort();
            }
            false => asked.await.unwrap().unwrap(),
        }
    }
}

/// A message that was posted before a restart is updated after it, and its buttons still count.
#[tokio::test(flavor = "multi_thread")]
async fn a_restart_goes_on_with_the_same_message() {
    let server = Server::start().await;
    let world = world(&server, "require_approvers = 2").await;
    let asked = world.ask("tea");
    let first = buttons(&server.next().await.body);
    world
        .held(|held| held.told.iter().any(|told| told.state == ToldState::Sent))
        .await;
    let folder = world.end();
    asked.abort();
    let approver = format!("{APPROVERS}\nrequire_approvers = 2");
    let world = World::in_folder(folder, ("slack", &channel(&server)), &approver).await;
    assert_eq!(Press::new(&server, "U0ANN", &first[0]).send(&world).await, 200);
    let updated = server.next().await;
    assert_eq!(
        (updated.path.as_str(), updated.body["ts"].as_str()),
        ("/api/chat.update", Some(PLACE.1))
    );
    assert!(
        updated
            .body
            .to_string()
            .contains("approved so far by ann@example.com")
    );
}
