//! The API by raw HTTP: who may, what is refused, and that every answer is JSON.

use std::io::{Read as _, Write as _};
use std::process::{Command, Stdio};

use serde_json::json;
use tailkeep::bad_input::{self, Reader};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::world::{SOON, World, mode};

#[tokio::test(flavor = "multi_thread")]
async fn the_tcp_listener_wants_the_token_and_its_own_name() {
    let world = World::new().await;
    let (host, token) = (world.address.to_string(), world.token());
    assert_eq!(mode(&world.dir().join("operator.token")), 0o600);
    let localhost = format!("localhost:{}", world.address.port());
    let (wrong, short) = (format!("{}0", &token[1..]), &token[..10]);
    for (host, auth, more, status) in [
        (host.as_str(), Some(format!("Bearer {token}")), "", 200),
        (&localhost, Some(format!("Bearer {token}")), "", 200),
        (&host, None, "", 401),
        (&host, Some("Bearer ".to_owned()), "", 401),
        (&host, Some(format!("Bearer {wrong}")), "", 401),
        (&host, Some(format!("Bearer {short}")), "", 401),
        (&host, Some(format!("Bearer {token}0")), "", 401),
        (&host, Some(format!("Basic {token}")), "", 401),
        (&host, Some(token.clone()), "", 401),
        ("rebound.example.com", Some(format!("Bearer {token}")), "", 403),
        ("127.0.0.1", Some(format!("Bearer {token}")), "", 403),
        (
            &host,
            Some(format!("Bearer {token}")),
            "\r\nOrigin: https://evil",
            403,
        ),
    ] {
        let auth = auth
            .map(|auth| format!("\r\nAuthorization: {auth}"))
            .unwrap_or_default();
        // Nothing is told apart without a token: neither paths nor methods.
        for path in ["/v1/health", "/v1/none"] {
            let head = format!("GET {path} HTTP/1.1\r\nHost: {host}{auth}{more}");
            let (got, answer) = world.tcp(&head, "").await;
            let want = if status == 200 && path == "/v1/none" {
                404
            } else {
                status
            };
            assert_eq!(got, want, "{head}: {answer}");
            assert_eq!(got == 200, answer["error"].is_null(), "{answer}");
        }
    }
}

/// Every route that there is, by the document that the router itself writes: nobody is answered without the token, by
/// another site's page, or by a cookie that anybody could plant.
#[tokio::test(flavor = "multi_thread")]
async fn every_route_wants_to_know_who_asks() {
    let world = World::new().await;
    let (host, token) = (world.address.to_string(), world.token());
    let document = tailkeep::admin::described();
    let paths = document["paths"].as_object().unwrap();
    let mut seen = 0;
    for (path, methods) in paths {
        let at = path.replace("{id}", "1").replace("{name}", "a");
        for method in methods.as_object().unwrap().keys() {
            let is_open = path.starts_with("/v1/sign-in");
            let line = format!("{} {at} HTTP/1.1\r\nHost: {host}", method.to_uppercase());
            let own = format!("Origin: http://{host}");
            let guard = "X-Tailkeep-Guard: x";
            for (more, is_page) in [
                (String::new(), true),
                (own.clone(), true),
                ("Cookie: tailkeep=x".to_owned(), true),
                (format!("Cookie: tailkeep=x\r\n{guard}\r\n{own}"), true),
                ("Authorization: Bearer x".to_owned(), true),
                (
                    format!("Authorization: Bearer {token}\r\nOrigin: http://evil.test"),
                    false,
                ),
                (format!("Authorization: Bearer {token}\r\nOrigin: null"), false),
                (
                    format!("Authorization: Bearer {token}\r\nCookie: tailkeep=x"),
                    true,
                ),
                (
                    format!("Sec-Fetch-Site: cross-site\r\nCookie: tailkeep=x\r\n{guard}"),
                    false,
                ),
            ] {
                let more = if more.is_empty() {
                    more
                } else {
                    format!("\r\n{more}")
                };
                let (status, answer) = world.tcp(&format!("{line}{more}"), "").await;
                let refused = matches!(status, 401 | 403);
                // Whoever comes by the page itself may ask how to sign in, and try.
                let may = is_open && is_page && (200..500).contains(&status);
                assert!(refused || may, "{method} {path} {more}: {status} {answer}");
                seen += 1;
            }
            // Another name for this listener is another site's.
            let line = line.replace(&host, "rebound.test");
            let (status, _) = world
                .tcp(&format!("{line}\r\nAuthorization: Bearer {token}"), "")
                .await;
            assert_eq!(status, 403, "{method} {path}");
        }
    }
    assert!(seen > 300, "{seen}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_rotated_at_once() {
    let world = World::new().await;
    let old = world.token();
    let ask = |token: &str| {
        format!(
            "GET /v1/health HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {token}",
            world.address
        )
    };
    assert_eq!(world.tcp(&ask(&old), "").await.0, 200);
    let said = world.run(&["credentials", "rotate-token"]);
    let new = world.token();
    assert!(said.contains("operator.token") && !said.contains(&new), "{said}");
    assert_ne!(old, new);
    assert_eq!(mode(&world.dir().join("operator.token")), 0o600);
    assert_eq!(world.tcp(&ask(&old), "").await.0, 401);
    assert_eq!(world.tcp(&ask(&new), "").await.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_is_said_in_json() {
    let world = World::new().await;
    let long_reason = format!("POST /v1/approvals/1/deny?reason={}", "x".repeat(2000));
    let long_name = format!(r#"{{"agent":"peer:{}"}}"#, "x".repeat(124));
    let large = "x".repeat((1 << 20) + (5 << 10));
    for (line, body, status, error) in [
        ("GET /none", "", 404, "no such path"),
        ("GET /v2/peers", "", 404, "no such path"),
        ("GET /v1/peers/", "", 404, "no such path"),
        ("PUT /v1/peers", "", 405, "method"),
        ("GET /v1/peers/laptop", "", 405, "method"),
        ("GET /v1/approvals/1/approve", "", 405, "method"),
        ("POST /v1/audit", "", 405, "method"),
        ("GET /v1/approvals/abc", "", 400, "parse"),
        ("GET /v1/approvals/99999999999999999999", "", 400, "parse"),
        ("GET /v1/approvals/7", "", 404, "no approval 7"),
        ("POST /v1/approvals/7/approve", "", 404, "no approval 7"),
        ("POST /v1/approvals/7/maybe", "", 404, "no such path"),
        ("POST /v1/approvals/7/deny?person=bob", "", 400, "person"),
        (&long_reason, "", 400, "at most 1024"),
        ("POST /v1/approvals/1/deny?reason=a%00b", "", 400, "control"),
        ("GET /v1/approvals?all=perhaps", "", 400, "all"),
        ("DELETE /v1/peers/none", "", 404, "no peer none"),
        ("POST /v1/peers/none/approve", "", 404, "no peer none"),
        ("POST /v1/peers", "", 400, "JSON"),
        ("POST /v1/peers", "{", 400, "JSON"),
        ("POST /v1/peers", "{}", 422, "name"),
        ("POST /v1/peers", r#"{"name":"a","person":"b"}"#, 422, "person"),
        ("POST /v1/peers", r#"{"name":"a b"}"#, 400, "63"),
        (
            "POST /v1/peers",
            r#"{"name":"a","expires_s":0}"#,
            400,
            "expires_s",
        ),
        (
            "POST /v1/peers",
            r#"{"name":"a","expires_s":9999999}"#,
            400,
            "expires_s",
        ),
        ("POST /v1/agents/kill", &long_name, 400, "an agent is"),
        ("PUT /v1/credentials/none", "x", 404, "no credential none"),
        ("PUT /v1/credentials/pat", "", 400, "1 byte"),
        ("PUT /v1/credentials/pat?slot=key", "x", 400, "no slot"),
        ("PUT /v1/credentials/pat?slot=..", "x", 400, "no slot"),
        ("PUT /v1/credentials/client", "x", 400, "no slot"),
        (
            "PUT /v1/credentials/from_env",
            "x",
            409,
            "env(\"TAILKEEP_TEST_UNSET\")",
        ),
        ("PUT /v1/credentials/pat?replace=true", "x", 409, "not set"),
        ("PUT /v1/credentials/pat", &large, 413, "limit"),
        ("GET /v1/audit?limit=-1", "", 400, "limit"),
        ("GET /v1/audit?after=x", "", 400, "after"),
        ("GET /v1/audit/verify?noted=x", "", 200, ""),
    ] {
        let body_kind = if body.starts_with('{') || line == "POST /v1/peers" {
            format!("{line} HTTP/1.1\r\nContent-Type: application/json")
        } else {
            format!("{line} HTTP/1.1")
        };
        let head = format!(
            "{body_kind}\r\nHost: {}\r\nAuthorization: Bearer {}",
            world.address,
            world.token()
        );
        let (got, answer) = world.tcp(&head, body).await;
        assert_eq!(got, status, "{line}: {answer}");
        let text = answer["error"].as_str().unwrap_or_default();
        assert!(text.contains(error), "{line}: {answer}");
    }
    let (_, health) = world.unix("GET /v1/health", "").await;
    let of = |reason: &str| health["bad_input"]["admin"][reason].as_u64().unwrap_or(0);
    assert!(
        of("bad_request") >= 10 && of("unprocessable_entity") >= 2 && of("payload_too_large") >= 1,
        "{health}"
    );
    let curl = Command::new("curl")
        .args(["-sS", "--max-time", "5", "--unix-socket"])
        .arg(world.socket())
        .arg("http://gateway/v1/metrics")
        .output()
        .unwrap();
    let metrics = String::from_utf8(curl.stdout).unwrap();
    let line = "tailkeep_bad_input_total{reader=\"admin\",reason=\"payload_too_large\"} 1";
    assert!(metrics.lines().any(|own| own == line), "{metrics}");
    let (_, verified) = world.unix("GET /v1/audit/verify?noted=x", "").await;
    assert!(
        verified["fault"].as_str().unwrap().contains("NUMBER:HASH"),
        "{verified}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn another_account_may_not_use_the_socket() {
    use std::os::unix::fs::PermissionsExt as _;
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIPPED: only root can become another account");
        return;
    }
    let world = World::new().await;
    let ask = |uid: &str| {
        let output = Command::new("setpriv")
            .args([
                "--reuid",
                uid,
                "--regid",
                uid,
                "--clear-groups",
                "curl",
                "-s",
                "--max-time",
                "5",
            ])
            .args(["--unix-socket".as_ref(), world.socket().as_os_str()])
            .arg("http://gateway/v1/health")
            .output()
            .unwrap();
        (output.status.success(), String::from_utf8(output.stdout).unwrap())
    };
    // The folder and the file keep it out already; the kernel's word does so where they are open.
    assert_eq!(ask("65534"), (false, String::new()));
    for path in [world.folder.path(), &world.dir(), &world.socket()] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777)).unwrap();
    }
    let (reached, answer) = ask("65534");
    assert!(reached && answer.contains("may not use this socket"), "{answer}");
    let (reached, answer) = ask("0");
    assert!(reached && answer.contains("version"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_person_is_whom_the_transport_proved() {
    let world = World::new().await;
    let own = nix::unistd::User::from_uid(nix::unistd::geteuid())
        .unwrap()
        .unwrap()
        .name;
    let asked = world.ask("a");
    let id = world.pending(1).await[0].id;
    let (status, held) = world.unix(&format!("POST /v1/approvals/{id}/approve"), "").await;
    assert_eq!((status, &held["by"]), (200, &json!([own])));
    asked.await.unwrap();
    let asked = world.ask("b");
    let id = world.pending(1).await[0].id;
    let head = format!(
        "POST /v1/approvals/{id}/deny?reason=no HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {}\r\nX-Person: bob",
        world.address,
        world.token()
    );
    let (status, held) = world.tcp(&head, "").await;
    assert_eq!((status, &held["by"]), (200, &json!(["operator"])));
    let (status, _) = world.unix(&format!("POST /v1/approvals/{id}/approve"), "").await;
    assert_eq!(status, 409, "a closed question was decided again");
    asked.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_are_no_request_harm_nobody() {
    let world = World::new().await;
    let junk: [&[u8]; 5] = [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET / HTTP/9.9\r\n\r\n",
        b"\r\n\r\n\r\n\r\n",
        b"POST /v1/peers HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET /v1/health HTTP/1.1\r\n\r\n",
    ];
    for bytes in junk {
        let mut stream = tokio::net::TcpStream::connect(world.address).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        let _ = stream.shutdown().await;
        let mut answer = Vec::new();
        let read = tokio::time::timeout(SOON, stream.read_to_end(&mut answer)).await;
        let _ = read.expect("it is not closed");
        let text = String::from_utf8_lossy(&answer);
        assert!(text.is_empty() || text.starts_with("HTTP/1.1 4"), "{text}");
    }
    let (_, health) = world.unix("GET /v1/health", "").await;
    assert!(
        health["bad_input"]["admin"]["head"].as_u64() >= Some(2),
        "{health}"
    );
}

/// What a machine sends that enrols, without TLS's sake for verifying: nothing secret is sent here.
fn enrols(to: std::net::SocketAddr, body: &str) -> String {
    let mut curl = Command::new("curl");
    curl.args([
        "-sk",
        "--http1.1",
        "-H",
        "Content-Type: application/json",
        "-H",
        "Authorization: Bearer x",
    ]);
    curl.args([
        "-w",
        " %{http_code}",
        "--data-binary",
        body,
        &format!("https://{to}/v1/enrol"),
    ]);
    String::from_utf8(curl.output().unwrap().stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_enrols_is_bounded_and_counted() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let to = free.local_addr().unwrap();
    drop(free);
    let own = format!("enrol_listen     = \"{to}\"");
    let world = World::with(&crate::world::POLICY.replace("enrol_listen     = \"127.0.0.1:0\"", &own)).await;
    let mut silent = tokio::net::TcpStream::connect(to).await.unwrap();
    let count = |reason| bad_input::counted(Reader::Enrolment, reason);
    let before = [count("bad_request"), count("payload_too_large"), count("head")];
    let told = enrols(
        to,
        &json!({ "public_key": "no key", "name": "a", "version": "1" }).to_string(),
    );
    assert!(
        told.ends_with(" 400") && told.starts_with("{\"error\":"),
        "{told}"
    );
    for (bytes, status) in [(4 << 10, "403"), ((4 << 10) + 1, "413")] {
        let mut body =
            json!({ "public_key": "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=", "name": "a", "version": "1" }).to_string();
        body.push_str(&" ".repeat(bytes - body.len()));
        let told = enrols(to, &body);
        assert!(told.ends_with(status), "{bytes} bytes: {told}");
    }
    assert_eq!(count("bad_request"), before[0] + 1);
    assert_eq!(count("payload_too_large"), before[1] + 1);
    let shown = bad_input::metrics();
    assert!(
        shown.contains("{reader=\"enrolment\",reason=\"payload_too_large\"}"),
        "{shown}"
    );
    // HTTP/2 is not to be had by its preface either: it would be answered by SETTINGS, whose length begins with a zero.
    let mut openssl = Command::new("openssl");
    openssl.args([
        "s_client",
        "-quiet",
        "-alpn",
        "http/1.1",
        "-connect",
        &to.to_string(),
    ]);
    openssl
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let mut openssl = openssl.spawn().unwrap();
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    openssl.stdin.as_mut().unwrap().write_all(preface).unwrap();
    let mut first = [0; 1];
    let read = openssl.stdout.as_mut().unwrap().read(&mut first).unwrap();
    openssl.kill().unwrap();
    openssl.wait().unwrap();
    assert!(read == 0 || first == *b"H", "{first:?}");
    let counted = async {
        while count("head") == before[2] {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(SOON, counted)
        .await
        .expect("the preface is not counted");
    // One that says nothing has its time, and no more.
    let closed = tokio::time::timeout(4 * SOON, silent.read(&mut [0; 1])).await;
    assert!(matches!(closed, Ok(Ok(0) | Err(_))), "it is waited for still");
    drop(world);
}
