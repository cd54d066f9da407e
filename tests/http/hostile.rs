//! What a hostile agent tries where the gateway and the server behind it could read one request in two ways.

use bytes::Bytes;
use http::{Request, Version};
use http_body_util::Full;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::agent::{Raw, ask, http2};
use crate::server::{BOTH, ONLY_HTTP1, Service};
use crate::world::{API, Dialled, World};

#[tokio::test]
async fn the_authority_goes_up_as_it_was_judged() {
    let service = Service::start(BOTH).await;
    let world = World::new(&service.open_policy());
    let gateway = world.listen(API).await;
    for host in ["API.Test", "api.test.", "api.test:443", "API.TEST.:443"] {
        let request = format!("GET /1k HTTP/1.1\r\nHost: {host}\r\n\r\n");
        assert_eq!(ask(gateway, &request).await.unwrap().status, 200, "{host}");
        let absolute = format!("GET https://{host}/1k HTTP/1.1\r\nHost: {host}\r\n\r\n");
        assert_eq!(ask(gateway, &absolute).await.unwrap().status, 200, "{host}");
    }
    // Over HTTP/2 to an upstream that speaks HTTP/1.1 alone, whose `Host` is made of the authority.
    let old = Service::start(ONLY_HTTP1).await;
    let behind = World::new(&old.open_policy());
    let mut sender = http2::<Full<Bytes>>(behind.listen(API).await).await;
    for (authority, host) in [("API.Test.", None), ("api.test", Some("API.TEST."))] {
        let mut request = Request::get(format!("https://{authority}/1k")).version(Version::HTTP_2);
        if let Some(host) = host {
            request = request.header("host", host);
        }
        let answer = sender.send_request(request.body(Full::default()).unwrap()).await;
        assert_eq!(answer.unwrap().status(), 200, "{authority} {host:?}");
    }
    for seen in service.seen().into_iter().chain(old.seen()) {
        assert_eq!(seen.headers["host"], "api.test", "{}", seen.line);
    }
    assert_eq!((service.seen().len(), old.seen().len()), (8, 2));
}

#[tokio::test]
async fn what_only_a_trusted_proxy_says_does_not_go_up() {
    let service = Service::start(BOTH).await;
    let world = World::new(&service.open_policy());
    let gateway = world.listen(API).await;
    let own = "X-Request-Id: 7\r\nForwarded-Elsewhere: kept\r\n";
    let claims = "Forwarded: for=127.0.0.1;proto=https\r\nX-Forwarded-For: 127.0.0.1\r\nX-Forwarded-Host: bank.internal\r\n\
        X-Forwarded-Proto: https\r\nX-Forwarded-Prefix: /admin\r\nX-Forwarded-User: root\r\nX-Forwarded-Client-Cert: Subject=\"CN=root\"\r\n\
        X-Real-IP: 127.0.0.1\r\nTrue-Client-IP: 127.0.0.1\r\nX-Client-IP: 127.0.0.1\r\nX-Cluster-Client-IP: 127.0.0.1\r\n\
        CF-Connecting-IP: 127.0.0.1\r\nFastly-Client-IP: 127.0.0.1\r\nX-Original-Forwarded-For: 127.0.0.1\r\nX-Original-Host: bank.internal\r\n\
        X-Host: bank.internal\r\nX-Envoy-External-Address: 127.0.0.1\r\nClient-Cert: :AA==:\r\nX-SSL-Client-Verify: SUCCESS\r\n\
        X-Remote-User: root\r\nRemote-User: root\r\nX-Goog-Authenticated-User-Email: root\r\nX-Amzn-Oidc-Identity: root\r\n";
    let request = format!("GET /headers HTTP/1.1\r\nHost: api.test\r\n{own}{claims}\r\n");
    let answer = ask(gateway, &request).await.unwrap();
    assert_eq!(answer.status, 200);
    let mut names: Vec<String> = service.seen()[0]
        .headers
        .keys()
        .map(|name| name.to_string())
        .collect();
    names.sort();
    assert_eq!(names, ["forwarded-elsewhere", "host", "x-request-id"]);
    // Nor as a trailer, which some servers merge into the head.
    let mut raw = Raw::connect(gateway).await;
    raw.say("POST /echo HTTP/1.1\r\nHost: api.test\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\nX-Real-IP: 127.0.0.1\r\nRemote-User: root\r\nX-Sum: 1\r\n\r\n")
        .await;
    assert_eq!(raw.hear().await.unwrap().status, 200);
    let trailers = service.seen()[1].trailers.clone().unwrap_or_default();
    assert!(
        !trailers.contains_key("x-real-ip") && !trailers.contains_key("remote-user"),
        "{trailers:?}"
    );
}

#[tokio::test]
async fn a_header_that_a_credential_fills_is_kept() {
    let service = Service::start(BOTH).await;
    let slot = "credential \"header_token\" \"key\" {\n endpoint = https.api\n header = \"X-Forwarded-Access-Token\"\n}\n";
    let policy = format!("{}{slot}", service.open_policy());
    let world = World::new(&policy.replace(
        "endpoints = [https.api]",
        "endpoints = [https.api]\n credentials = [header_token.key]",
    ));
    let gateway = world.listen(API).await;
    let request = "GET /1k HTTP/1.1\r\nHost: api.test\r\nX-Forwarded-Access-Token: {{key}}\r\n\r\n";
    assert_eq!(ask(gateway, request).await.unwrap().status, 200);
    assert_eq!(
        service.seen()[0].headers["x-forwarded-access-token"],
        "s3cr3t-of-key"
    );
}

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

/// An upstream that shows what it was sent before does so to requests without a credential, too.
#[tokio::test]
async fn no_answer_of_an_endpoint_holds_a_secret_that_it_was_sent() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let upstream = listener.local_addr().unwrap();
    let (heads, mut heard) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = vec![0; 8192];
            let length = stream.read(&mut head).await.unwrap_or(0);
            let _ = heads.send(String::from_utf8_lossy(&head[..length]).into_owned());
            let body = "last: s3cr3t-of-pat, s3cr3t-of-other";
            let head = format!(
                "HTTP/1.1 200 OK\r\nX-Last: s3cr3t-of-pat\r\nContent-Length: {}\r\n\r\n",
                body.len()
            );
            let _ = stream.write_all(format!("{head}{body}").as_bytes()).await;
        }
    });
    let world = World::new(&format!(
        r#"
endpoint "http" "api" {{
  hosts    = ["api.test"]
  upstream = "{upstream}"
}}
credential "bearer_token" "pat" {{
  endpoint = http.api
}}
credential "header_token" "other" {{
  endpoint = http.api
  header   = "X-Other"
}}
profile "dev" {{
  peers       = ["laptop"]
  credentials = [bearer_token.pat]
  rule "all" {{
    endpoint = http.api
    verdict  = "allow"
  }}
}}
"#
    ));
    let dialled = Dialled {
        endpoint: "http.api",
        name: Some("api.test"),
        destination: "10.78.0.9:80",
    };
    let gateway = world.listen(dialled).await;
    for more in ["", "Authorization: Bearer {{pat}}\r\n"] {
        let mut raw = Raw::connect(gateway).await;
        raw.say(format!(
            "GET / HTTP/1.1\r\nHost: api.test\r\nAccept-Encoding: gzip\r\n{more}Connection: close\r\n\r\n"
        ))
        .await;
        let all = String::from_utf8(raw.rest().await).unwrap();
        assert!(all.contains("x-last: {{pat}}"), "{all}");
        assert!(all.contains("last: {{pat}}, (a secret)"), "{all}");
        let head = heard.recv().await.unwrap();
        assert!(!head.contains("gzip"), "{head}");
    }
}
