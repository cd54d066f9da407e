//! Requests that pass, requests that do not, and the connection that lives on.

use crate::agent::{Raw, curl, curls};
use crate::server::{BOTH, ONLY_HTTP1, Service};
use crate::world::{API, World};

#[tokio::test]
async fn a_request_passes_over_the_version_that_both_ends_speak() {
    let cases = [
        (BOTH, "--http2", "2", "HTTP/2.0"),
        (BOTH, "--http1.1", "1.1", "HTTP/1.1"),
        (ONLY_HTTP1, "--http2", "1.1", "HTTP/1.1"),
    ];
    for (speaks, flag, agreed, upstream) in cases {
        let service = Service::start(speaks).await;
        let world = World::new(&service.open_policy());
        let gateway = world.listen(API).await;
        let got = curl(&world, gateway, &[flag, "https://api.test/1k"]).await;
        assert_eq!((got.status, got.body.len()), (200, 1024), "{}", got.errors);
        assert_eq!(got.version, agreed);
        assert_eq!(service.lines(), [format!("GET /1k {upstream}")]);
        let host = service.seen()[0].headers.get("host").cloned();
        assert!(upstream == "HTTP/2.0" || host.unwrap() == "api.test");
    }
}

/// However its bytes are spread over packets, a request is the same.
#[tokio::test]
async fn a_request_is_read_however_it_is_cut() {
    let service = Service::start(BOTH).await;
    let world = World::new(&service.open_policy());
    let gateway = world.listen(API).await;
    let sent = b"POST /echo?a=b HTTP/1.1\r\nHost: api.test\r\nX-A: b\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n\
        3;x=y\r\none\r\n2\r\n, \r\n3\r\ntwo\r\n0\r\nX-Sum: 7\r\n\r\n";
    for at in 0..sent.len() {
        let mut raw = Raw::connect(gateway).await;
        raw.stream.set_nodelay(true).unwrap();
        let (first, rest) = sent.split_at(at);
        raw.say(first).await;
        tokio::task::yield_now().await;
        raw.say(rest).await;
        let answer = raw.hear().await.unwrap();
        assert_eq!((answer.status, answer.text().as_str()), (200, "one, two"), "{at}");
    }
    let mut raw = Raw::connect(gateway).await;
    raw.stream.set_nodelay(true).unwrap();
    for byte in sent {
        raw.say([*byte]).await;
        tokio::task::yield_now().await;
    }
    assert_eq!(raw.hear().await.unwrap().text(), "one, two");
    let seen = service.seen();
    assert_eq!(seen.len(), sent.len() + 1);
    for one in seen {
        let trailers = one.trailers.unwrap_or_default();
        assert_eq!(
            (one.line.as_str(), &trailers["x-sum"]),
            ("POST /echo HTTP/1.1", &"7".parse().unwrap())
        );
        assert_eq!(
            (one.query.as_deref(), &one.headers["x-a"]),
            (Some("a=b"), &"b".parse().unwrap())
        );
    }
}

#[tokio::test]
async fn a_denial_says_why_and_the_connection_lives_on() {
    let rules = r#"
rule "no-delete" {
  endpoint  = https.api
  condition = "http.method == 'DELETE'"
  verdict   = "deny"
  reason    = "nothing is deleted here"
}
rule "rest" {
  endpoint = https.api
  verdict  = "allow"
}"#;
    let service = Service::start(BOTH).await;
    let world = World::new(&service.policy(rules));
    let gateway = world.listen(API).await;
    for flag in ["--http2", "--http1.1"] {
        let url = "https://api.test/1k";
        let args = [flag, "-X", "DELETE", "-d", "some body", url];
        let both = curls(&world, gateway, &[&args, &[flag, url]]).await;
        let (denied, after) = (&both[0], &both[1]);
        assert_eq!(denied.status, 403, "{}", denied.errors);
        let error = &denied.json()["error"];
        assert_eq!(error["reason"], "nothing is deleted here");
        assert_eq!(error["rule"], "no-delete");
        assert_eq!((after.status, after.connects), (200, 0), "{}", after.errors);
    }
    assert!(service.lines().iter().all(|line| line.starts_with("GET")));
    let story = world.story().await;
    assert!(
        story.contains(&"DELETE /1k | deny | rule | -".to_owned()),
        "{story:#?}"
    );
    assert!(
        story.contains(&"GET /1k | allow | rule | HTTP 200".to_owned()),
        "{story:#?}"
    );
}

#[tokio::test]
async fn a_denial_is_put_as_the_client_reads_it() {
    let service = Service::start(BOTH).await;
    let world = World::new(&service.policy(""));
    let gateway = world.listen(API).await;
    for flag in ["--http2", "--http1.1"] {
        let url = "https://api.test/1k";
        let both = curls(&world, gateway, &[&[flag, "-I", url], &[flag, "-I", url]]).await;
        let seen: Vec<_> = both.iter().map(|got| (got.status, got.connects)).collect();
        assert_eq!(seen, [(403, 1), (403, 0)], "{flag}: {}", both[0].errors);
        let help = "<http://tailkeep.internal/>; rel=\"help\"";
        assert!(both[0].text().contains(help), "{flag}: {}", both[0].text());
    }
    let grpc = [
        "--http2",
        "-i",
        "-H",
        "Content-Type: application/grpc",
        "-d",
        "x",
        "https://grpc.test/a.B/C",
    ];
    let mut dialled = API;
    dialled.name = Some("grpc.test");
    let gateway = world.listen(dialled).await;
    let got = curl(&world, gateway, &grpc).await;
    assert_eq!(got.status, 200, "{}", got.errors);
    assert!(got.text().contains("grpc-status: 7"), "{}", got.text());
    let told = "grpc-message: no rule";
    assert!(got.text().contains(told), "{}", got.text());
    let help = "(what you may reach: http://tailkeep.internal/)";
    assert!(got.text().contains(help), "{}", got.text());
}
