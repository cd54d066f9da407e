//! What people are shown of a held request, and that it goes up as it came.

use std::io::Write as _;
use std::time::Duration;

use flate2::Compression;
use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};
use tailkeep::protocol::http::rendered::rendered;
use tailkeep::verdict::approval::{Decide, Decision};

use crate::agent::Raw;
use crate::server::{BOTH, Service};
use crate::world::{API, SOON, World};

/// No rule reads a body, and approvers see it all the same.
const ASK: &str = r#"
approver "human_approver" "ops" {}
rule "ask" {
  endpoint = https.api
  approve  = [human_approver.ops]
}"#;

const JSON: &str = r#"{"a":1}"#;
/// The same by the reference encoders of brotli and zstd.
const BROTLI: &[u8] = &[0x0b, 0x03, 0x80, 0x7b, 0x22, 0x61, 0x22, 0x3a, 0x31, 0x7d, 0x03];
const ZSTD: &[u8] = &[
    0x28, 0xb5, 0x2f, 0xfd, 0x20, 0x07, 0x39, 0x00, 0x00, 0x7b, 0x22, 0x61, 0x22, 0x3a, 0x31, 0x7d,
];

pub fn gzip(bytes: impl AsRef<[u8]>) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes.as_ref()).unwrap();
    encoder.finish().unwrap()
}

#[tokio::test]
async fn a_compressed_body_is_shown_decoded_and_goes_up_as_it_came() {
    let service = Service::start(BOTH).await;
    let world = World::new(&service.policy(ASK));
    let gateway = world.listen(API).await;
    let mut zlib = ZlibEncoder::new(Vec::new(), Compression::best());
    zlib.write_all(JSON.as_bytes()).unwrap();
    let zlib = zlib.finish().unwrap();
    let mut deflated = DeflateEncoder::new(Vec::new(), Compression::best());
    deflated.write_all(JSON.as_bytes()).unwrap();
    let deflated = deflated.finish().unwrap();
    let json = ("application/json", JSON, "{\n  \"a\": 1\n}");
    let form = (
        "application/x-www-form-urlencoded",
        "amount=7&to=ann",
        "\"amount\" = \"7\"\n\"to\" = \"ann\"",
    );
    for (coding, body, (kind, text, lines)) in [
        ("gzip", gzip(JSON), json),
        ("x-gzip", gzip(form.1), form),
        ("deflate", zlib.clone(), json),
        ("deflate", deflated, json),
        ("br", BROTLI.to_vec(), json),
        ("zstd", ZSTD.to_vec(), json),
        (
            "deflate, gzip",
            {
                let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
                encoder.write_all(&zlib).unwrap();
                encoder.finish().unwrap()
            },
            json,
        ),
    ] {
        let mut raw = Raw::connect(gateway).await;
        let head = format!(
            "POST /orders HTTP/1.1\r\nHost: api.test\r\nContent-Type: {kind}\r\nContent-Encoding: {coding}\r\n\
             Content-Length: {}\r\n\r\n",
            body.len()
        );
        raw.say([head.as_bytes(), &body].concat()).await;
        let held = world.question(0).await;
        let detail = held.question["detail"].as_str().unwrap().to_owned();
        let want = format!("\n\n(decoded; {} bytes as sent)\n{text}", body.len());
        assert!(detail.ends_with(&want), "{coding}: {detail}");
        assert_eq!(rendered(&detail).unwrap().1, lines, "{coding}");
        let decide = Decide {
            id: held.id,
            person: "ann".into(),
            decision: Decision::Allow,
            reason: None,
            grant: None,
        };
        world.queue.decide(decide).await.unwrap();
        assert_eq!(raw.hear().await.unwrap().status, 200, "{coding}");
        let seen = service.seen().pop().unwrap();
        assert_eq!(
            (seen.body_length, seen.body_start),
            (body.len(), body),
            "{coding}"
        );
        assert_eq!(seen.headers["content-encoding"], coding);
    }
}

/// Nobody approves what they cannot see: what is small as it is sent may be large.
#[tokio::test]
async fn what_is_larger_than_people_see_when_it_is_decoded_is_refused() {
    let service = Service::start(BOTH).await;
    let world = World::new(&service.policy(ASK));
    let gateway = world.listen(API).await;
    let body = gzip("x".repeat((64 << 10) + 1));
    let mut raw = Raw::connect(gateway).await;
    let head = format!(
        "POST /orders HTTP/1.1\r\nHost: api.test\r\nContent-Encoding: gzip\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    raw.say([head.as_bytes(), &body].concat()).await;
    let answer = raw.hear().await.unwrap();
    assert_eq!(answer.status, 403);
    assert!(
        answer.text().contains("too large for anyone to see"),
        "{}",
        answer.text()
    );
    assert!(service.seen().is_empty());
}

/// Who is asked, and where, is the operator's to say: nothing that an agent writes is read for it.
#[tokio::test]
async fn nothing_that_an_agent_writes_chooses_who_is_asked() {
    const WHO: &str = r#"
approver "human_approver" "ops" {
  channel           = "ops-room"
  approvers         = ["ann@example.com", "bob@example.com"]
  require_approvers = 2
}
approver "human_approver" "self" {
  channel = "agents-room"
}
rule "ask" {
  endpoint = https.api
  approve  = [human_approver.ops]
}
rule "never_reached" {
  endpoint = https.api
  approve  = [human_approver.self]
}"#;
    let service = Service::start(BOTH).await;
    let world = World::new(&service.policy(WHO));
    let gateway = world.listen(API).await;
    let body = r#"{"approver":"human_approver.self","approvers":["me"],"channel":"agents-room","require_approvers":1}"#;
    for headers in [
        "X-Approver: human_approver.self\r\nX-Channel: agents-room\r\nX-Slack-Channel: agents-room\r\n",
        "Tailkeep-Approver: human_approver.self\r\nTailkeep-Channel: agents-room\r\nTailkeep-Rule: never_reached\r\n",
        "X-Tailkeep-Approvals: 1\r\nX-Remote-User: ann@example.com\r\nTailscale-User-Login: ann@example.com\r\n",
    ] {
        let mut raw = Raw::connect(gateway).await;
        let head = format!(
            "POST /orders?approver=human_approver.self&channel=agents-room HTTP/1.1\r\nHost: api.test\r\n\
             Content-Type: application/json\r\n{headers}Content-Length: {}\r\n\r\n",
            body.len()
        );
        raw.say(format!("{head}{body}")).await;
        let question = world.question(0).await.question;
        assert_eq!(question["approver"], "human_approver.ops", "{headers}");
        assert_eq!(question["channel"], "ops-room", "{headers}");
        assert_eq!(question["required"], 2, "{headers}");
        let eligible = serde_json::json!(["ann@example.com", "bob@example.com"]);
        assert_eq!(question["eligible"], eligible, "{headers}");
        drop(raw);
        let gone = async {
            while !world.queue.list(false).await.unwrap().is_empty() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(SOON, gone).await.unwrap();
    }
    assert!(service.seen().is_empty());
}
