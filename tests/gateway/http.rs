//! HTTP requests that were read as something else than what the server did.

use crate::server::{BOTH, Service};
use crate::world::{Sent, TOKEN, World, can_run};

/// `https.api` at a service, one credential, and rules.
pub fn policy(service: &Service, rules: &str) -> String {
    format!(
        "endpoint \"https\" \"api\" {{\n  hosts = [\"api.test\"]\n  upstream = \"{}\"\n  ca_cert = <<EOT\n{}EOT\n}}\n\
         credential \"bearer_token\" \"pat\" {{\n  endpoint = https.api\n  secret = env(\"TEST_TOKEN\")\n}}\n\
         profile \"dev\" {{\n  peers = [\"agent\"]\n  endpoints = [https.api]\n  credentials = [bearer_token.pat]\n{rules}\n}}\n",
        service.address, service.ca
    )
}

/// A request to the service with its end told.
pub fn request(line: &str, more: &str, body: &[u8]) -> Sent {
    let mut bytes = format!("{line} HTTP/1.1\r\nHost: api.test\r\nConnection: close\r\n{more}").into_bytes();
    if !body.is_empty() {
        bytes.extend_from_slice(format!("Content-Length: {}\r\n", body.len()).as_bytes());
    }
    bytes.extend_from_slice(b"\r\n");
    bytes.extend_from_slice(body);
    Sent {
        host: "api.test",
        port: 443,
        tls: true,
        bytes,
    }
}

fn status(answer: &str) -> &str {
    answer.split(' ').nth(1).unwrap_or(answer)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_written_otherwise_gets_round_no_rule() {
    if !can_run() {
        return;
    }
    let service = Service::start(BOTH).await;
    let rules = r#"
  rule "admin" {
    endpoint  = https.api
    priority  = 10
    condition = "http.path.startsWith('/admin')"
    verdict   = "deny"
    reason    = "not yours"
  }
  rule "v1" {
    endpoint  = https.api
    condition = "http.path.startsWith('/v1/')"
    verdict   = "allow"
  }"#;
    let world = World::start(&policy(&service, rules));
    let paths = [
        "/v1/../admin",
        "//admin",
        "/./admin",
        "/v1/%2e%2e/admin",
        "/v1/.%2E/admin",
        "/v1/..%2fadmin",
        "/v1/%2e%2e%2fadmin",
        "/v1/..;/admin",
        "/v1/;/../admin",
        "/v1\\..\\admin",
        "/v1/..%5cadmin",
        "/%61dmin",
        "/Admin",
        "/admin",
        "/admin;x",
        "/v1/%00/../admin",
        "/v1/%252e%252e/%2e%2e/admin",
        "/v1//..//admin",
    ];
    let sent: Vec<Sent> = paths
        .iter()
        .map(|path| request(&format!("GET {path}"), "", b""))
        .collect();
    for (path, answer) in paths.iter().zip(world.exchange(&sent)) {
        assert!(matches!(status(&answer), "400" | "403"), "{path}: {answer}");
        for word in ["CEL", "condition", "startsWith", "priority"] {
            assert!(!answer.contains(word), "{path}: {answer}");
        }
    }
    assert_eq!(service.lines(), [""; 0]);
    let [fine] = &world.exchange(&[request("GET /v1/x", "", b"")])[..] else {
        panic!()
    };
    assert_eq!(status(fine), "200");
    assert!(world.denials("/admin").contains(&"rule".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_or_body_written_otherwise_gets_round_no_rule() {
    if !can_run() {
        return;
    }
    let service = Service::start(BOTH).await;
    let rules = r#"
  rule "no-force" {
    endpoint  = https.api
    priority  = 10
    condition = "'force' in http.query"
    verdict   = "deny"
  }
  rule "no-deleting" {
    endpoint  = https.api
    priority  = 10
    condition = "http.path == '/do' && http.body_json.action == 'delete'"
    verdict   = "deny"
  }
  rule "rest" {
    endpoint = https.api
    verdict  = "allow"
  }"#;
    let world = World::start(&policy(&service, rules));
    let gzip = |text: &str| {
        use std::io::Write as _;
        let mut coder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        coder.write_all(text.as_bytes()).unwrap();
        coder.finish().unwrap()
    };
    let json = "Content-Type: application/json\r\n";
    let bad = br#"{"action":"delete"}"#;
    let coded = "Content-Type: application/json\r\nContent-Encoding: gzip\r\n";
    let cases = [
        ("a query", request("GET /q?force=true", "", b"")),
        ("a semicolon", request("GET /q?a=1;force=true", "", b"")),
        ("a coded name", request("GET /q?%66orce=true", "", b"")),
        ("a name without a value", request("GET /q?a=1&force", "", b"")),
        ("POST", request("POST /do", json, bad)),
        ("DELETE with a body", request("DELETE /do", json, bad)),
        ("GET with a body", request("GET /do", json, bad)),
        ("a method in lower case", request("post /do", json, bad)),
        (
            "a coded body",
            request("POST /do", coded, &gzip(r#"{"action":"delete"}"#)),
        ),
        (
            "coded twice",
            request(
                "POST /do",
                &coded.replace("gzip", "gzip, gzip"),
                &gzip(r#"{"action":"delete"}"#),
            ),
        ),
        (
            "a byte-order mark",
            request("POST /do", json, "\u{feff}{\"action\":\"delete\"}".as_bytes()),
        ),
        (
            "a duplicate key",
            request("POST /do", json, br#"{"action":"read","action":"delete"}"#),
        ),
        (
            "an escaped key",
            request("POST /do", json, br#"{"\u0061ction":"delete"}"#),
        ),
        (
            "UTF-16",
            request(
                "POST /do",
                json,
                &"{\"action\":\"delete\"}"
                    .encode_utf16()
                    .flat_map(u16::to_le_bytes)
                    .collect::<Vec<_>>(),
            ),
        ),
        ("no JSON", request("POST /do", json, b"action=delete")),
        (
            "another type",
            request("POST /do", "Content-Type: text/plain\r\n", bad),
        ),
        ("chunks", {
            let mut sent = request("POST /do", &format!("{json}Transfer-Encoding: chunked\r\n"), b"");
            sent.bytes
                .extend_from_slice(b"9\r\n{\"action\"\r\na\r\n:\"delete\"}\r\n0\r\n\r\n");
            sent
        }),
        ("over the limit", {
            let long = format!("{{\"pad\":\"{}\",\"action\":\"delete\"}}", "x".repeat(2 << 20));
            request("POST /do", json, long.as_bytes())
        }),
    ];
    let (names, sent): (Vec<_>, Vec<_>) = cases.into_iter().unzip();
    for (name, answer) in names.iter().zip(world.exchange(&sent)) {
        let cut = ["ConnectionReset", "BrokenPipe", "SSLEOFError"];
        let cut = cut.iter().any(|error| answer.starts_with(error));
        assert!(
            matches!(status(&answer), "400" | "403" | "413") || cut,
            "{name}: {answer}"
        );
    }
    assert_eq!(service.lines(), [""; 0]);
    let fine = [
        request("POST /do", json, br#"{"action":"read"}"#),
        request("POST /do", coded, &gzip(r#"{"action":"read"}"#)),
        request("GET /q?a=1", "", b""),
    ];
    for answer in world.exchange(&fine) {
        assert_eq!(status(&answer), "200", "{answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_goes_into_its_slot_alone_and_does_not_come_back() {
    if !can_run() {
        return;
    }
    let service = Service::start(BOTH).await;
    let rules = "rule \"all\" {\n endpoint = https.api\n verdict = \"allow\"\n}";
    let missing = policy(&service, rules).replace("TEST_TOKEN", "TEST_MISSING");
    let world = World::start(&policy(&service, rules));
    let bearer = "Authorization: Bearer {{pat}}\r\n";
    let answers = world.exchange(&[
        // The service says the header back in its own headers and its body.
        request("GET /headers", bearer, b""),
        request("POST /echo", bearer, b"keep {{pat}} for me"),
        request("GET /x", "X-Note: {{pat}}\r\n", b""),
        request("GET /{{pat}}", bearer, b""),
    ]);
    assert_eq!(status(&answers[0]), "200");
    assert!(
        answers[0].contains("authorization: Bearer {{pat}}"),
        "{}",
        answers[0]
    );
    for answer in &answers {
        assert!(!answer.contains(TOKEN), "{answer}");
    }
    for answer in &answers[1..] {
        assert!(matches!(status(answer), "400" | "403"), "{answer}");
    }
    let seen = service.seen();
    assert_eq!(service.lines(), ["GET /headers HTTP/1.1"]);
    assert_eq!(seen[0].headers["authorization"], format!("Bearer {TOKEN}"));
    // Neither the log, nor any file of the gateway's, has it.
    assert!(!world.operator(&["audit", "export"]).contains(TOKEN));
    for entry in std::fs::read_dir(world.folder.path().join("state"))
        .unwrap()
        .flatten()
    {
        let bytes = std::fs::read(entry.path()).unwrap_or_default();
        assert_eq!(
            memchr::memmem::find(&bytes, TOKEN.as_bytes()),
            None,
            "{:?}",
            entry.path()
        );
    }

    // A secret that is not there: the request is refused, never forwarded bare.
    world.rewrite(&missing, "a new policy is in force");
    let answers = world.exchange(&[request("GET /1k", bearer, b"")]);
    assert_eq!(status(&answers[0]), "403", "{}", answers[0]);
    assert_eq!(service.lines().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_that_two_servers_would_read_differently_goes_nowhere() {
    if !can_run() {
        return;
    }
    let service = Service::start(BOTH).await;
    let world = World::start(&policy(
        &service,
        "rule \"all\" {\n endpoint = https.api\n verdict = \"allow\"\n}",
    ));
    let raw = |text: &str| Sent {
        host: "api.test",
        port: 443,
        tls: true,
        bytes: text.as_bytes().to_vec(),
    };
    let cases = [
        (
            "two hosts",
            "GET /x HTTP/1.1\r\nHost: api.test\r\nHost: evil.test\r\nConnection: close\r\n\r\n",
        ),
        ("no host", "GET /x HTTP/1.1\r\nConnection: close\r\n\r\n"),
        (
            "another host",
            "GET /x HTTP/1.1\r\nHost: evil.test\r\nConnection: close\r\n\r\n",
        ),
        (
            "an absolute form",
            "GET http://evil.test/x HTTP/1.1\r\nHost: api.test\r\nConnection: close\r\n\r\n",
        ),
        (
            "a method override",
            "GET /x HTTP/1.1\r\nHost: api.test\r\nX-HTTP-Method-Override: DELETE\r\nConnection: close\r\n\r\n",
        ),
        (
            "CONNECT",
            "CONNECT api.test:443 HTTP/1.1\r\nHost: api.test\r\nConnection: close\r\n\r\n",
        ),
        (
            "a bad chunk",
            "POST /x HTTP/1.1\r\nHost: api.test\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\nzz\r\n",
        ),
        (
            "a coding that is not known",
            "POST /x HTTP/1.1\r\nHost: api.test\r\nTransfer-Encoding: xchunked\r\nConnection: close\r\n\r\n",
        ),
        (
            "two lengths",
            "POST /x HTTP/1.1\r\nHost: api.test\r\nContent-Length: 1\r\nContent-Length: 2\r\nConnection: close\r\n\r\nab",
        ),
    ];
    let sent: Vec<Sent> = cases.iter().map(|(_, text)| raw(text)).collect();
    for ((what, _), answer) in cases.iter().zip(world.exchange(&sent)) {
        assert!(!answer.contains(" 200 "), "{what}: {answer}");
    }
    assert!(
        service.lines().iter().all(|line| line.starts_with("POST /x")),
        "{:?}",
        service.lines()
    );
    assert!(
        service.seen().iter().all(|seen| seen.body_length == 0),
        "{:?}",
        service.seen()
    );
}
