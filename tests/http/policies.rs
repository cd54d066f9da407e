//! The policy in force, approvals, and agents that leave.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Request;
use http_body_util::Empty;
use tailkeep::verdict::approval::{Decide, Decision, Held};

use crate::agent::{Raw, http2};
use crate::server::{ALLOW, BOTH, Service};
use crate::world::{API, SOON, World, until};

const ASK: &str = r#"
approver "human_approver" "ops" {}
rule "ask" {
  endpoint = https.api
  approve  = [human_approver.ops]
}"#;

const GET: &str = "GET /1k HTTP/1.1\r\nHost: api.test\r\n\r\n";

/// A rule in shadow mode changes nothing on the wire, and stands in the record with what it would have said.
#[tokio::test]
async fn a_shadow_rule_is_recorded_and_changes_nothing() {
    let service = Service::start(BOTH).await;
    let shadow = "rule \"strict\" {\n  endpoint = https.api\n  condition = \"http.path == '/1k'\"\n  verdict = \"deny\"\n  \
                  mode = \"shadow\"\n  priority = 9\n}\n";
    let world = World::new(&service.policy(&format!("{shadow}{ALLOW}")));
    let gateway = world.listen(API).await;
    let mut raw = Raw::connect(gateway).await;
    raw.say(GET).await;
    assert_eq!(raw.hear().await.unwrap().status, 200);
    raw.say("GET /2k HTTP/1.1\r\nHost: api.test\r\n\r\n").await;
    raw.hear().await.unwrap();
    let records = world.records().await;
    let said = |summary: &str| {
        let mut own = records.iter().filter(|record| record["summary"] == summary);
        own.next().unwrap_or_else(|| panic!("{records:#?}")).clone()
    };
    let (judged, other) = (said("GET /1k"), said("GET /2k"));
    assert_eq!(
        (&judged["verdict"], &judged["shadow"]),
        (&"allow".into(), &serde_json::json!(["strict=deny"]))
    );
    assert_eq!(other["shadow"], serde_json::json!([]));
}

#[tokio::test]
async fn a_reload_applies_to_open_connections() {
    let service = Service::start(BOTH).await;
    let world = World::new(&service.open_policy());
    let gateway = world.listen(API).await;
    let mut raw = Raw::connect(gateway).await;
    let mut sender = http2::<Empty<Bytes>>(gateway).await;
    for (rules, status) in [(ALLOW, 200), ("", 403), (ALLOW, 200)] {
        world.reload(&service.policy(rules));
        raw.say(GET).await;
        assert_eq!(raw.hear().await.unwrap().status, status);
        let request = Request::get("https://api.test/1k").body(Empty::new()).unwrap();
        assert_eq!(sender.send_request(request).await.unwrap().status(), status);
    }
    // An endpoint that is gone, and a profile that no longer holds it.
    let other = service
        .open_policy()
        .replace("\"api\"", "\"other\"")
        .replace("https.api", "https.other");
    world.reload(&other);
    raw.say(GET).await;
    assert_eq!(raw.hear().await.unwrap().status, 403);
    // An endpoint that is still there and no longer claims what was dialled.
    world.reload(
        &service
            .open_policy()
            .replace("\"api.test\"", "\"elsewhere.test\""),
    );
    raw.say(GET).await;
    assert_eq!(raw.hear().await.unwrap().status, 421);
    // An upstream that moved: the kept connection is not used.
    let moved = Service::start(BOTH).await;
    world.reload(&moved.open_policy());
    raw.say(GET).await;
    assert_eq!(raw.hear().await.unwrap().status, 200);
    assert_eq!(moved.seen().len(), 1);
}

async fn question(world: &World) -> Held {
    tokio::time::timeout(SOON, async {
        loop {
            if let Some(held) = world.queue.list(false).await.unwrap().pop() {
                return held;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .expect("nothing was asked")
}

#[tokio::test]
async fn a_held_request_is_sent_when_a_person_allows_it() {
    let service = Service::start(BOTH).await;
    let rules = ASK.replace("  approve", "  condition = \"http.method == 'post'\"\n  approve");
    let world = World::new(&service.policy(&rules));
    let gateway = world.listen(API).await;
    let mut waited = Vec::new();
    for (decision, status) in [(Decision::Allow, 200), (Decision::Deny, 403)] {
        let mut raw = Raw::connect(gateway).await;
        raw.say("POST /echo HTTP/1.1\r\nHost: api.test\r\nContent-Length: 5\r\n\r\nhello")
            .await;
        let held = question(&world).await;
        let asked = Instant::now();
        let before = service.seen().len();
        // The time that a person takes, which the record is to have.
        tokio::time::sleep(Duration::from_millis(20)).await;
        let decide = Decide {
            id: held.id,
            person: "ann".into(),
            decision,
            reason: None,
            grant: None,
        };
        let took = asked.elapsed();
        world.queue.decide(decide).await.unwrap();
        let answer = raw.hear().await.unwrap();
        assert_eq!(answer.status, status, "{}", answer.text());
        assert_eq!(service.seen().len() - before, usize::from(status == 200));
        let verdict = if status == 200 { "allow" } else { "deny" };
        waited.push((verdict, took, held.question["digest"].clone()));
    }
    assert_eq!(service.seen()[0].body_start, b"hello");
    let records = world.records().await;
    let posts = || records.iter().filter(|record| record["summary"] == "POST /echo");
    assert_eq!(posts().count(), 2, "one an action: {records:#?}");
    for (verdict, took, digest) in waited {
        let record = posts().find(|record| record["verdict"] == verdict).unwrap();
        assert_eq!((&record["rule"], &record["digest"]), (&"ask".into(), &digest));
        let by = if verdict == "allow" { "approvers" } else { "detail" };
        let by = record[by].to_string();
        assert!(by.contains("human_approver.ops:ann"), "{record:#?}");
        assert_eq!(record["facts"]["method"], "post");
        let outcome = &record["outcome"];
        match verdict {
            "allow" => assert_eq!(
                (&outcome["status"], &outcome["bytes_up"], &outcome["bytes_down"]),
                (&"HTTP 200".into(), &5.into(), &5.into())
            ),
            _ => assert!(outcome.is_null(), "{record:#?}"),
        }
        let times = |name: &str| Duration::from_micros(record[name].as_u64().unwrap());
        assert!(times("wait_us") >= took, "{record:?}");
        let judged = times("judge_us");
        assert!(
            !judged.is_zero() && judged < times("wait_us"),
            "people's time is apart: {record:?}"
        );
    }
}

/// No rule reads the body, and still the approver sees it, and says yes to it alone.
#[tokio::test]
async fn what_is_approved_is_what_is_sent() {
    let service = Service::start(BOTH).await;
    let world = World::new(&service.policy(ASK));
    let gateway = world.listen(API).await;
    let post = |body: &str| {
        let length = body.len();
        format!("POST /merge HTTP/1.1\r\nHost: api.test\r\nContent-Length: {length}\r\n\r\n{body}")
    };
    let mut raw = Raw::connect(gateway).await;
    // Nobody is asked before all of it is there.
    let (first, second) = ("{\"sha\":", "\"good\"}");
    let whole = post(&format!("{first}{second}"));
    let (head, rest) = whole.split_at(whole.len() - second.len());
    raw.say(head).await;
    assert!(world.queue.list(false).await.unwrap().is_empty());
    raw.say(rest).await;
    let held = question(&world).await;
    let detail = held.question["detail"].as_str().unwrap();
    assert!(detail.ends_with("{\"sha\":\"good\"}"), "{detail}");
    drop(raw);
    until("the connection ends", || world.open() == 0).await;
    // Another body is another question, whose answer is not that of the first.
    let mut raw = Raw::connect(gateway).await;
    raw.say(&post("{\"sha\":\"evil\"}")).await;
    let other = tokio::time::timeout(SOON, async {
        loop {
            let other = question(&world).await;
            if other.id != held.id {
                return other;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    let other = other.await.expect("it is asked anew");
    assert_ne!(other.question["digest"], held.question["digest"]);
    drop(raw);
    until("the connection ends", || world.open() == 0).await;
    // What is too large for anyone to see goes nowhere, with and without a length.
    let limit = tailkeep::policy::model::Limits::default().body_bytes_max;
    let mut raw = Raw::connect(gateway).await;
    raw.say(&format!(
        "POST /merge HTTP/1.1\r\nHost: api.test\r\nContent-Length: {}\r\n\r\n",
        limit + 1
    ))
    .await;
    let answer = raw.hear().await.unwrap();
    assert_eq!(answer.status, 403);
    assert!(
        answer.text().contains("too large for anyone to see"),
        "{}",
        answer.text()
    );
    assert!(service.seen().is_empty());
}

#[tokio::test]
async fn an_agent_that_leaves_withdraws_its_question() {
    let service = Service::start(BOTH).await;
    let world = World::new(&service.policy(ASK));
    let gateway = world.listen(API).await;
    // Without a body, with one.
    let requests = [
        GET.to_owned(),
        "POST /1 HTTP/1.1\r\nHost: api.test\r\nContent-Length: 5\r\n\r\nhello".to_owned(),
    ];
    for request in requests {
        let mut raw = Raw::connect(gateway).await;
        raw.say(&request).await;
        let held = question(&world).await;
        drop(raw);
        until("the connection ends", || world.open() == 0).await;
        let gone = tokio::time::timeout(SOON, async {
            while !world.queue.list(false).await.unwrap().is_empty() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
        gone.await.expect("the question is still open");
        let decide = Decide {
            id: held.id,
            person: "ann".into(),
            decision: Decision::Allow,
            reason: None,
            grant: None,
        };
        assert!(world.queue.decide(decide).await.is_err());
    }
    // The same over HTTP/2: a stream that is reset.
    let mut sender = http2::<Empty<Bytes>>(gateway).await;
    let request = Request::get("https://api.test/3").body(Empty::new()).unwrap();
    let waiting = tokio::spawn(sender.send_request(request));
    question(&world).await;
    waiting.abort();
    let gone = tokio::time::timeout(SOON, async {
        while !world.queue.list(false).await.unwrap().is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    gone.await.expect("the question is still open");
    assert_eq!(service.seen().len(), 0);
}

#[tokio::test]
async fn a_reload_ends_what_is_under_way() {
    let service = Service::start(BOTH).await;
    let world = World::new(&service.open_policy());
    let gateway = world.listen(API).await;
    // An upload whose end has not come.
    let mut upload = Raw::connect(gateway).await;
    upload
        .say("POST /echo HTTP/1.1\r\nHost: api.test\r\nContent-Length: 50\r\n\r\nhello")
        .await;
    let asked = || service.connections.load(std::sync::atomic::Ordering::SeqCst) == 1;
    until("the upload is under way", asked).await;
    // Responses that have always more, without a length and with one.
    let mut downloads = Vec::new();
    for path in ["/big", "/long"] {
        let mut raw = Raw::connect(gateway).await;
        raw.say(format!("GET {path} HTTP/1.1\r\nHost: api.test\r\n\r\n"))
            .await;
        assert!(raw.until(b"bbbb").await);
        downloads.push((path, raw));
    }
    world.reload(&service.policy(""));
    let answer = upload.hear().await.unwrap();
    assert_eq!(answer.status, 403, "{}", answer.text());
    for (path, mut raw) in downloads {
        let length = raw.rest().await.len();
        assert!(
            length < crate::server::BIG_BYTES,
            "{path} ran on to {length} bytes"
        );
    }
    until("all is told", || world.open() == 0).await;
    let story = world.story().await.join("\n");
    assert_eq!(story.matches("ended: a new policy").count(), 3, "{story}");
}
