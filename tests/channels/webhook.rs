//! A webhook, signed both ways as Standard Webhooks 1.0 says.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, Mac as _};
use serde_json::{Value, json};
use tailkeep::channel::webhook::QUESTION_BYTES_MAX;
use tailkeep::channel::{FAILED_AGAIN_S, SENDING_MAX};
use tailkeep::verdict::approval::{Decide, Decision, QuestionState, ToldState};

use crate::server::{Seen, Server};
use crate::{SECRET, World, now_s};

const PEOPLE: &str = "person {\n  id = \"42\"\n  name = \"ann@example.com\"\n}\n\
                      person {\n  id = \"43\"\n  name = \"bob@example.com\"\n}\n\
                      person {\n  id = \"66\"\n  name = \"eve@example.com\"\n}\n";
const APPROVERS: &str = "approvers = [\"ann@example.com\", \"bob@example.com\"]";

async fn world(server: &Server, approver: &str) -> World {
    let channel = format!(
        "url = \"http://{}/hook?key=abc\"\nsecret = file(\"@/secret\")\n{PEOPLE}",
        server.address
    );
    World::new(("webhook", &channel), &format!("{APPROVERS}\n{approver}")).await
}

/// As the specification says, apart from the program's own.
fn signature(secret: &str, id: &str, time: &str, body: &[u8]) -> String {
    let key = STANDARD.decode(secret.strip_prefix("whsec_").unwrap()).unwrap();
    let mut mac = Hmac::<sha2::Sha256>::new_from_slice(&key).unwrap();
    mac.update(format!("{id}.{time}.").as_bytes());
    mac.update(body);
    format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
}

fn check(seen: &Seen) {
    let text = |name: &str| seen.headers[name].to_str().unwrap();
    let (id, time) = (text("webhook-id"), text("webhook-timestamp"));
    assert_eq!(
        text("webhook-signature"),
        signature(SECRET, id, time, &seen.bytes)
    );
    assert!(time.parse::<i64>().unwrap().abs_diff(now_s()) < 60);
}

struct Back<'a> {
    secret: &'a str,
    id: &'a str,
    at_s: i64,
    body: Value,
}

impl Back<'_> {
    async fn send(&self, world: &World) -> (u16, Value) {
        self.send_to("ops", world).await
    }

    async fn send_to(&self, channel: &str, world: &World) -> (u16, Value) {
        let (body, time) = (self.body.to_string(), self.at_s.to_string());
        let answer = reqwest::Client::new()
            .post(format!("http://{}/webhook/{channel}", world.back))
            .header("webhook-id", self.id)
            .header("webhook-timestamp", &time)
            .header(
                "webhook-signature",
                signature(self.secret, self.id, &time, body.as_bytes()),
            )
            .body(body)
            .send()
            .await
            .unwrap();
        (answer.status().as_u16(), answer.json().await.unwrap())
    }
}

fn back<'a>(id: &'a str, told: &Value, person: &str, decision: &str) -> Back<'a> {
    Back {
        secret: SECRET,
        id,
        at_s: now_s(),
        body: json!({
            "approval": told["approval"], "digest": told["digest"], "token": told["token"],
            "decision": decision, "person": person, "reason": "no tea today",
        }),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_system_is_told_and_decides_by_a_signed_request() {
    let server = Server::start().await;
    let world = world(&server, "").await;
    let asked = world.ask("tea");
    let seen = server.next().await;
    check(&seen);
    let told = &seen.body;
    assert_eq!(
        (told["type"].as_str(), told["state"].as_str()),
        (Some("approval.asked"), Some("pending"))
    );
    assert_eq!(told["question"]["detail"], "POST /orders\n\ntea");
    assert_eq!(
        told["page"],
        format!("{}/#/approvals/{}", crate::PAGE, told["approval"])
    );
    let (status, answer) = back("a", told, "42", "deny").send(&world).await;
    assert_eq!(
        (status, answer["state"].as_str()),
        (200, Some("denied")),
        "{answer}"
    );
    let refusal = asked.await.unwrap().unwrap_err();
    assert_eq!(refusal.reason, "no tea today");
    let detail = refusal.detail.unwrap();
    assert_eq!(detail, "human_approver.ops:ann@example.com through webhook.ops");
    let closed = server.next().await;
    check(&closed);
    assert_eq!(
        (closed.body["type"].as_str(), &closed.body["token"]),
        (Some("approval.closed"), &Value::Null)
    );
    assert_ne!(closed.headers["webhook-id"], seen.headers["webhook-id"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_signed_whole_and_of_now_decides_nothing() {
    let server = Server::start().await;
    let world = world(&server, "require_approvers = 2").await;
    let asked = world.ask("tea");
    let told = server.next().await.body;
    world
        .held(|held| held.told.iter().any(|told| told.state == ToldState::Sent))
        .await;
    let with = |name: &str, value: Value| {
        let mut other = told.clone();
        other[name] = value;
        other
    };
    let own = |id| back(id, &told, "42", "approve");
    for (wrong, status) in [
        (
            Back {
                secret: OTHER,
                ..own("a")
            },
            401,
        ),
        (
            Back {
                at_s: now_s() - 301,
                ..own("b")
            },
            401,
        ),
        (
            Back {
                // A second more may have passed when it is looked at.
                at_s: now_s() + 310,
                ..own("c")
            },
            401,
        ),
        (
            back("d", &with("digest", json!("sha256:00")), "42", "approve"),
            409,
        ),
        (back("e", &with("token", json!("00")), "42", "approve"), 409),
        (back("f", &with("token", Value::Null), "42", "approve"), 400),
        (back("g", &with("approval", json!(77)), "42", "approve"), 404),
        (back("h", &told, "ann@example.com", "approve"), 403),
        (back("i", &told, "66", "approve"), 403),
        (back("j", &told, "42", "perhaps"), 400),
        // What the gateway itself signed, sent back.
        (
            Back {
                body: told.clone(),
                ..own("k")
            },
            400,
        ),
    ] {
        let (got, answer) = wrong.send(&world).await;
        assert_eq!(got, status, "{}: {answer}", wrong.id);
    }
    assert!(world.held(|_| true).await.by.is_empty());
    // Once, by two at the same time; and no second time.
    let (one, two) = (
        back("l", &told, "42", "approve"),
        back("m", &told, "43", "approve"),
    );
    let (first, second) = tokio::join!(one.send(&world), two.send(&world));
    let mut both = [first.0, second.0];
    both.sort_unstable();
    assert_eq!(both, [200, 409], "one token is one decision");
    let voted = server.next().await.body;
    assert_eq!(voted["type"], "approval.voted");
    assert_eq!(world.held(|_| true).await.state, QuestionState::Pending);
    let replayed = if first.0 == 200 { &one } else { &two };
    assert_eq!(replayed.send(&world).await.0, 401, "a replay");
    let person = if first.0 == 200 { "43" } else { "42" };
    assert_eq!(
        back("n", &told, person, "approve").send(&world).await.0,
        409,
        "the token is over"
    );
    // One secret is one yes, whoever it names; the other person's is taken elsewhere.
    let (status, answer) = back("o", &voted, person, "approve").send(&world).await;
    assert_eq!(status, 409, "{answer}");
    assert!(answer.to_string().contains("counts once"), "{answer}");
    assert_eq!(world.held(|_| true).await.state, QuestionState::Pending);
    let other = if person == "43" {
        "bob@example.com"
    } else {
        "ann@example.com"
    };
    let decide = Decide {
        id: told["approval"].as_i64().unwrap(),
        person: other.into(),
        decision: Decision::Allow,
        reason: None,
        grant: None,
    };
    world.queue.decide(decide).await.unwrap();
    asked.await.unwrap().unwrap();
    let said = world.approvers().await;
    assert!(said.contains("@example.com through webhook.ops"), "{said}");
    assert!(!said.contains(&format!("{other} through")), "{said}");
    let closed = server.next().await.body;
    assert_eq!(
        back("p", &with("token", closed["token"].clone()), "42", "deny")
            .send(&world)
            .await
            .0,
        400
    );
}

/// Two webhooks, the second of this secret, asked by two steps or by one.
async fn two_webhooks(secret: &str, approver: &str, chain: &str) -> (World, [Server; 2]) {
    let servers = [Server::start().await, Server::start().await];
    let channel = |server: &Server, secret: &str| {
        let address = server.address;
        format!("url = \"http://{address}/\"\nsecret = file(\"@/{secret}\")\n{PEOPLE}")
    };
    let [first, second] = [channel(&servers[0], "secret"), channel(&servers[1], secret)];
    let more = format!(
        "channel \"webhook\" \"two\" {{\n{second}\n}}\n\
         approver \"human_approver\" \"next\" {{\n  channels = [webhook.ops]\n  approvers = [\"bob@example.com\"]\n}}\n"
    );
    let folder = crate::folder::Folder::new();
    std::fs::write(folder.path().join("secret"), SECRET).unwrap();
    std::fs::write(folder.path().join("same"), SECRET).unwrap();
    std::fs::write(folder.path().join("other"), OTHER).unwrap();
    let world = World::with_more(folder, ("webhook", &first), approver, (&more, chain)).await;
    (world, servers)
}

const OTHER: &str = "whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

#[tokio::test(flavor = "multi_thread")]
async fn two_webhooks_of_one_secret_are_one_voice() {
    for (secret, is_one) in [("same", true), ("other", false)] {
        let approver =
            format!("{APPROVERS}\n  require_approvers = 2\n  channels = [webhook.ops, webhook.two]");
        let (world, servers) = two_webhooks(secret, &approver, "human_approver.ops").await;
        let asked = world.ask("tea");
        let told = servers[0].next().await.body;
        assert_eq!(back("a", &told, "42", "approve").send(&world).await.0, 200);
        // The second is told anew, of the vote.
        let told = loop {
            let told = servers[1].next().await.body;
            if told["type"] == "approval.voted" {
                break told;
            }
        };
        let other = Back {
            secret: if is_one { SECRET } else { OTHER },
            ..back("b", &told, "43", "approve")
        };
        let (status, answer) = other.send_to("two", &world).await;
        assert_eq!(status, if is_one { 409 } else { 200 }, "{answer}");
        match is_one {
            true => asked.abort(),
            false => asked.await.unwrap().unwrap(),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_webhook_is_one_voice_in_a_chain() {
    let chain = "human_approver.ops, human_approver.next";
    let (world, [server, _]) = two_webhooks("other", APPROVERS, chain).await;
    let asked = world.ask("tea");
    let told = server.next().await.body;
    assert_eq!(told["question"]["earlier"], json!([]));
    assert_eq!(back("a", &told, "42", "approve").send(&world).await.0, 200);
    let told = loop {
        let told = server.next().await.body;
        if told["question"]["approver"] == "human_approver.next" {
            break told;
        }
    };
    let earlier = json!([{ "person": "ann@example.com", "through": "webhook.ops" }]);
    assert_eq!(told["question"]["earlier"], earlier);
    let (status, answer) = back("b", &told, "43", "approve").send(&world).await;
    assert_eq!(status, 409, "{answer}");
    assert!(answer.to_string().contains("counts once"), "{answer}");
    // No is taken from whoever has the secret, and yes elsewhere.
    let decide = Decide {
        id: told["approval"].as_i64().unwrap(),
        person: "bob@example.com".into(),
        decision: Decision::Allow,
        reason: None,
        grant: None,
    };
    world.queue.decide(decide).await.unwrap();
    asked.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_failed_is_told_while_the_question_is_open() {
    let server = Server::start().await;
    server.answer((404, None, Value::Null));
    let world = world(&server, "").await;
    let asked = world.ask("tea");
    server.next().await;
    let failed = |held: &tailkeep::verdict::approval::Held| {
        held.told.iter().any(|told| told.state == ToldState::Failed)
    };
    world.held(failed).await;
    let earlier = "UPDATE approval_told SET at_us = at_us - ?";
    world
        .database()
        .execute(earlier, [FAILED_AGAIN_S * 1_000_000])
        .unwrap();
    let told = server.next().await.body;
    assert_eq!(back("a", &told, "42", "approve").send(&world).await.0, 200);
    asked.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_for_a_service_keeps_nobody_from_being_told() {
    let server = Server::start().await;
    for _ in 0..SENDING_MAX {
        server.answer((429, Some("60"), Value::Null));
    }
    let world = world(&server, "").await;
    let mut asked = Vec::new();
    for number in 0..SENDING_MAX {
        asked.push(world.ask_as(&format!("node-{number}"), "tea"));
        server.next().await;
    }
    let another = format!("node-{SENDING_MAX}");
    let last = world.ask_as(&another, "tea");
    let told = server.next().await.body;
    assert_eq!(told["question"]["node"], another);
    asked.iter().chain([&last]).for_each(|task| task.abort());
}

#[tokio::test(flavor = "multi_thread")]
async fn that_others_may_decide_by_now_is_told() {
    let server = Server::start().await;
    let world = world(
        &server,
        "escalate_after = \"1h\"\n  escalate_to = [\"eve@example.com\"]",
    )
    .await;
    let asked = world.ask("tea");
    let told = server.next().await.body;
    assert_eq!(told["escalated"], false);
    assert_eq!(back("a", &told, "66", "approve").send(&world).await.0, 403);
    let passed = "UPDATE approval SET escalates_us = escalates_us - 3600000000";
    world.database().execute(passed, []).unwrap();
    let told = server.next().await.body;
    assert_eq!(
        (&told["escalated"], told["type"].as_str()),
        (&json!(true), Some("approval.asked"))
    );
    assert_eq!(back("b", &told, "66", "approve").send(&world).await.0, 200);
    asked.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_large_question_there_is_a_link_and_no_token() {
    let server = Server::start().await;
    let world = world(&server, "").await;
    let asked = world.ask(&"x".repeat(QUESTION_BYTES_MAX));
    let told = server.next().await.body;
    assert_eq!(
        (&told["token"], &told["question"]["detail"]),
        (&Value::Null, &Value::Null)
    );
    assert_eq!(told["question"]["cut"], true);
    asked.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_is_bounded_and_of_a_channel_that_there_is() {
    let server = Server::start().await;
    let world = world(&server, "").await;
    let post = async |path: &str, bytes: usize| {
        let request = reqwest::Client::new().post(format!("http://{}{path}", world.back));
        request
            .body("x".repeat(bytes))
            .send()
            .await
            .unwrap()
            .status()
            .as_u16()
    };
    assert_eq!(post("/webhook/other", 1).await, 404);
    assert_eq!(post("/slack/ops", 1).await, 404, "of another kind");
    assert_eq!(post("/webhook/ops", 1).await, 401);
    assert_eq!(
        post("/webhook/ops", tailkeep::admin::channels::REQUEST_BYTES_MAX + 1).await,
        413
    );
    // A secret that is gone refuses.
    std::fs::remove_file(world.folder.path().join("secret")).unwrap();
    assert_eq!(post("/webhook/ops", 1).await, 500);
}
