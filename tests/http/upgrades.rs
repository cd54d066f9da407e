//! WebSocket and SPDY: judged at the upgrade, then bytes both ways.

use bytes::Bytes;
use http::Request;
use http_body_util::Empty;
use tokio::io::AsyncWriteExt as _;

use crate::agent::{Raw, http2};
use crate::server::{BOTH, ONLY_HTTP1, Service, Speaks};
use crate::world::{API, Dialled, World, until};

const WEBSOCKET: &str = "GET /socket HTTP/1.1\r\nHost: api.test\r\nConnection: keep-alive, Upgrade\r\n\
    Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

#[tokio::test]
async fn a_websocket_is_judged_then_spliced_with_half_close() {
    for speaks in [BOTH, ONLY_HTTP1] {
        let service = Service::start(speaks).await;
        let world = World::new(&service.open_policy());
        let gateway = world.listen(API).await;
        let mut raw = Raw::connect(gateway).await;
        // The first frame may ride with the handshake.
        raw.say([WEBSOCKET.as_bytes(), b"early "].concat()).await;
        let answer = raw.hear().await.unwrap();
        assert_eq!(answer.status, 101);
        assert!(
            answer
                .head
                .to_lowercase()
                .contains("sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo=")
        );
        assert!(raw.until(b"early ").await);
        raw.say("hello").await;
        assert!(raw.until(b"early hello").await);
        raw.stream.shutdown().await.unwrap();
        assert_eq!(raw.rest().await, b"early hellobye");
        until("the connection ends", || world.open() == 0).await;
        let records = world.records().await;
        assert_eq!(records.len(), 1);
        assert_eq!(records[0]["outcome"]["status"], "HTTP 101");
        assert_eq!(records[0]["outcome"]["bytes_up"], 11);
        assert_eq!(records[0]["outcome"]["bytes_down"], 14);
    }
}

#[tokio::test]
async fn a_denied_upgrade_is_an_answer_like_any_other() {
    let service = Service::start(BOTH).await;
    let rules = r#"
rule "no-sockets" {
  endpoint  = https.api
  condition = "http.websocket"
  verdict   = "deny"
}
rule "rest" {
  endpoint = https.api
  verdict  = "allow"
}"#;
    let world = World::new(&service.policy(rules));
    let gateway = world.listen(API).await;
    let mut raw = Raw::connect(gateway).await;
    raw.say(WEBSOCKET).await;
    assert_eq!(raw.hear().await.unwrap().status, 403);
    raw.say("GET /1k HTTP/1.1\r\nHost: api.test\r\n\r\n").await;
    assert_eq!(raw.hear().await.unwrap().status, 200);
}

#[tokio::test]
async fn other_upgrades_are_taken_out() {
    let service = Service::start(BOTH).await;
    let world = World::new(&service.open_policy());
    let gateway = world.listen(API).await;
    for kind in ["h2c", "SPDY/3.1", "tcp", "TLS/1.0"] {
        let mut raw = Raw::connect(gateway).await;
        raw.say(format!(
            "GET /1k HTTP/1.1\r\nHost: api.test\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: {kind}\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n"
        ))
        .await;
        assert_eq!(raw.hear().await.unwrap().status, 200, "{kind}");
        let seen = service.seen().pop().unwrap();
        for name in ["upgrade", "http2-settings", "connection"] {
            assert!(!seen.headers.contains_key(name), "{kind}: {name}");
        }
    }
}

#[tokio::test]
async fn a_websocket_does_not_slip_past_rules_on_graphql() {
    let service = Service::start(BOTH).await;
    let rules = r#"
rule "sockets" {
  endpoint  = https.api
  condition = "http.websocket && http.path == '/events'"
  verdict   = "allow"
  priority  = 1
}
rule "no-mutations" {
  endpoint  = https.api
  condition = "http.graphql.kind == 'mutation'"
  verdict   = "deny"
}
rule "rest" {
  endpoint = https.api
  verdict  = "allow"
}"#;
    let world = World::new(&service.policy(rules));
    let gateway = world.listen(API).await;
    let mut raw = Raw::connect(gateway).await;
    raw.say(WEBSOCKET).await;
    assert_eq!(raw.hear().await.unwrap().status, 403);
    // The connection lives on, and a path that is named for it is open.
    raw.say("GET /1k HTTP/1.1\r\nHost: api.test\r\n\r\n").await;
    assert_eq!(raw.hear().await.unwrap().status, 200);
    assert!(!service.lines().iter().any(|line| line.contains("/socket")));
    let mut raw = Raw::connect(gateway).await;
    raw.say(WEBSOCKET.replace("/socket", "/events")).await;
    assert_ne!(raw.hear().await.unwrap().status, 403);
}

#[tokio::test]
async fn kubernetes_streams_pass_by_spdy_and_websocket() {
    let service = Service::start(Speaks::Tls(&[b"h2", b"http/1.1"])).await;
    let policy = format!(
        "endpoint \"kubernetes\" \"prod\" {{\n server = \"https://api.test:6443\"\n upstream = \"{}\"\n ca_cert = <<EOT\n{}EOT\n}}\n\
         profile \"dev\" {{\n peers = [\"laptop\"]\n endpoints = [kubernetes.prod]\n}}\n\
         rule \"exec\" {{\n endpoint = kubernetes.prod\n condition = \"k8s.resource == 'pods/exec' && k8s.namespace == 'dev'\"\n verdict = \"allow\"\n}}",
        service.address, service.ca
    );
    let world = World::new(&policy);
    let gateway = world
        .listen(Dialled {
            endpoint: "kubernetes.prod",
            name: Some("api.test"),
            destination: "10.78.0.9:6443",
        })
        .await;
    let head = "GET /api/v1/namespaces/dev/../pods HTTP/1.1\r\nHost: api.test:6443\r\n\r\n";
    let mut bad = crate::agent::Raw::connect(gateway).await;
    bad.say(head).await;
    assert_eq!(bad.hear().await.unwrap().status, 400);
    assert!(tailkeep::bad_input::counted(tailkeep::bad_input::Reader::Kubernetes, "dot_segment") >= 1);
    for (kind, method) in [("SPDY/3.1", "POST"), ("websocket", "GET")] {
        let request = |namespace: &str| {
            format!(
                "{method} /api/v1/namespaces/{namespace}/pods/web/exec?command=id HTTP/1.1\r\nHost: api.test:6443\r\nConnection: Upgrade\r\n\
                 Upgrade: {kind}\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\nX-Stream-Protocol-Version: v4.channel.k8s.io\r\n\r\n"
            )
        };
        let mut raw = Raw::connect(gateway).await;
        raw.say(request("dev")).await;
        assert_eq!(raw.hear().await.unwrap().status, 101, "{kind}");
        raw.say("ping").await;
        assert!(raw.until(b"ping").await);
        let mut raw = Raw::connect(gateway).await;
        raw.say(request("prod")).await;
        let answer = raw.hear().await.unwrap();
        assert_eq!(answer.status, 403, "{kind}");
        let status: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
        assert_eq!(
            (&status["kind"], &status["code"]),
            (&"Status".into(), &403.into())
        );
    }
    let mut raw = Raw::connect(gateway).await;
    raw.say("GET /api/v1/pods HTTP/1.1\r\nHost: api.test:6443\r\nImpersonate-User: admin\r\n\r\n")
        .await;
    assert_eq!(raw.hear().await.unwrap().status, 403);
}

#[tokio::test]
async fn an_extended_connect_over_http2_is_refused_and_harms_nothing() {
    let service = Service::start(BOTH).await;
    let world = World::new(&service.open_policy());
    let gateway = world.listen(API).await;
    let mut sender = http2::<Empty<Bytes>>(gateway).await;
    // The gateway does not announce extended CONNECT (RFC 8441), so clients open WebSockets by HTTP/1.1. Who
    // sends it all the same has that one stream reset.
    let mut websocket = Request::connect("https://api.test/").body(Empty::new()).unwrap();
    websocket
        .extensions_mut()
        .insert(hyper::ext::Protocol::from_static("websocket"));
    let refused = sender.send_request(websocket).await.unwrap_err();
    assert!(!refused.is_closed(), "{refused:?}");
    // One without is no way round.
    let request = Request::connect("https://api.test/").body(Empty::new()).unwrap();
    match sender.send_request(request).await {
        Ok(answer) => assert_eq!(answer.status(), 400),
        Err(error) => assert!(!error.is_closed(), "{error}"),
    }
    let request = Request::get("https://api.test/1k").body(Empty::new()).unwrap();
    assert_eq!(sender.send_request(request).await.unwrap().status(), 200);
}
