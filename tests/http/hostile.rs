//! What a hostile agent tries where the gateway and the server behind it could read one request in two ways.

use crate::agent::Raw;
use crate::server::{BOTH, Service};
use crate::world::{API, World};

const POSTS: &str = r#"
rule "posts" {
  endpoint  = https.api
  condition = "http.method == 'POST' && http.path == '/echo'"
  verdict   = "allow"
}"#;

/// A server that takes `_method` for the method would delete what a rule let the agent post.
#[tokio::test]
async fn a_second_method_does_not_pass_a_rule_on_the_method() {
    let service = Service::start(BOTH).await;
    let world = World::new(&service.policy(POSTS));
    let gateway = world.listen(API).await;
    let form = "application/x-www-form-urlencoded";
    let parts = "multipart/form-data; boundary=XX";
    let part = "--XX\r\nContent-Disposition: form-data; name=\"_method\"\r\n\r\nDELETE\r\n--XX--\r\n";
    let padded = format!("{{\"a\":\"{}\",\"_method\":\"DELETE\"}}", "x".repeat(2 << 20));
    for (target, kind, body, status) in [
        ("/echo", form, "a=1", 200),
        ("/echo?_method=DELETE", form, "a=1", 403),
        ("/echo", form, "a=1&_method=DELETE", 403),
        ("/echo", form, "a=1&%5Fmethod=DELETE", 403),
        ("/echo", parts, part, 400),
        ("/echo", parts, &part.replace("_method", "file"), 200),
        ("/echo", "application/json", "{\"_method\":\"DELETE\"}", 400),
        ("/echo", "application/json", &padded, 400),
        (
            "/echo",
            "application/json",
            &padded.replace("_method", "method"),
            200,
        ),
    ] {
        let before = service.seen().len();
        let mut raw = Raw::connect(gateway).await;
        let length = body.len();
        raw.say(format!("POST {target} HTTP/1.1\r\nHost: api.test\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\r\n{body}"))
            .await;
        let answer = raw.hear().await.unwrap();
        let shown = &body[..body.len().min(80)];
        assert_eq!(
            answer.status,
            status,
            "{target} {kind} {shown}: {}",
            answer.text()
        );
        drop(raw);
        // What was cut off may have been begun, and was never whole.
        let whole = |seen: &crate::server::Seen| seen.body_length == length && seen.body_sha256 != [0xff; 32];
        let seen = service.seen();
        assert_eq!(
            seen[before..].iter().any(whole),
            status == 200,
            "{target} {kind} {shown}"
        );
    }
}
