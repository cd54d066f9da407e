//! Bodies: streamed without buffering, held exactly, their ends and their trailers.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt as _, Empty, StreamBody};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use sha2::{Digest as _, Sha256};
use tailkeep::proxy::http::body::{Read, hold};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::agent::{Raw, ask, curl, curls, http2};
use crate::server::{BIG_BYTES, BOTH, ONLY_HTTP1, Service};
use crate::world::{API, World, until};

/// A rule that reads bodies, so that they are held.
const HELD: &str = r#"
rule "no-drop" {
  endpoint  = https.api
  condition = "http.body.contains('drop')"
  verdict   = "deny"
}
rule "rest" {
  endpoint = https.api
  verdict  = "allow"
}"#;

#[tokio::test]
async fn the_first_event_comes_before_the_last_is_sent() {
    for speaks in [BOTH, ONLY_HTTP1] {
        let service = Service::start(speaks).await;
        let world = World::new(&service.open_policy());
        let gateway = world.listen(API).await;
        let mut raw = Raw::connect(gateway).await;
        raw.say("GET /events HTTP/1.1\r\nHost: api.test\r\n\r\n").await;
        assert!(raw.until(b"data: first").await);
        service.next_event.notify_one();
        assert!(raw.until(b"data: second").await);
        assert!(raw.until(b"\r\n0\r\n\r\n").await);
    }
}

#[tokio::test]
async fn what_is_large_streams_in_bounded_memory() {
    let service = Service::start(BOTH).await;
    let world = World::new(&service.open_policy());
    let gateway = world.listen(API).await;
    let file = world.folder.path().join("big");
    std::fs::write(&file, vec![b'u'; 128 << 20]).unwrap();
    let from = format!("@{}", file.display());
    let before = resident_bytes();
    for flag in ["--http2", "--http1.1"] {
        let down = curl(
            &world,
            gateway,
            &[
                flag,
                "https://api.test/big",
                "-o",
                "/dev/null",
                "-w",
                "\n@@@%{http_code} %{size_download} 0;",
            ],
        )
        .await;
        assert_eq!(
            (down.status, down.version),
            (200, BIG_BYTES.to_string()),
            "{}",
            down.errors
        );
        let up = curl(
            &world,
            gateway,
            &[flag, "-T", file.to_str().unwrap(), "https://api.test/sink"],
        )
        .await;
        assert_eq!(up.status, 200, "{}", up.errors);
        let chunked = [
            flag,
            "-H",
            "Transfer-Encoding: chunked",
            "-H",
            "Expect:",
            "--data-binary",
            &from,
            "https://api.test/sink",
        ];
        assert_eq!(curl(&world, gateway, &chunked).await.status, 200);
    }
    let grown = resident_bytes().saturating_sub(before);
    assert!(grown < 64 << 20, "{} MiB more", grown >> 20);
    let wanted: [u8; 32] = Sha256::digest(std::fs::read(&file).unwrap()).into();
    let seen = service.seen();
    for one in seen.iter().filter(|one| one.line.contains("/sink")) {
        assert_eq!(
            (one.body_length, one.body_sha256),
            (128 << 20, wanted),
            "{}",
            one.line
        );
    }
}

/// A body may come byte by byte: what is held of it is not a piece of memory for each.
#[test]
fn a_body_in_tiny_pieces_is_held_as_one() {
    const BYTES: usize = 512 << 10;
    const PIECES: usize = 64;
    let story = async {
        let (agent, own) = tokio::io::duplex(64 << 10);
        let service = service_fn(async |request: Request<Incoming>| {
            let Ok(Read::Whole(held)) = hold(request.into_body(), BYTES).await else {
                panic!("not held whole")
            };
            assert!(held.data.len() == BYTES && held.data.iter().all(|byte| *byte == b'x'));
            Ok::<_, std::convert::Infallible>(Response::new(Empty::<Bytes>::new()))
        });
        let serving = http1::Builder::new().serve_connection(TokioIo::new(own), service);
        let asking = async {
            let (mut reads, mut writes) = tokio::io::split(agent);
            let head = b"POST / HTTP/1.1\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n";
            writes.write_all(head).await.unwrap();
            let pieces = b"1\r\nx\r\n".repeat(PIECES);
            for _ in 0..BYTES / PIECES {
                writes.write_all(&pieces).await.unwrap();
            }
            writes.write_all(b"0\r\n\r\n").await.unwrap();
            let mut answer = Vec::new();
            reads.read_to_end(&mut answer).await.unwrap();
            assert!(answer.starts_with(b"HTTP/1.1 200"));
        };
        let (served, ()) = tokio::join!(serving, asking);
        served.unwrap();
    };
    let made = allocation_counter::measure(|| {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.enable_all().build().unwrap().block_on(story);
    });
    assert!(made.bytes_max < 8 * BYTES as u64, "{} at once", made.bytes_max);
}

/// What this process holds in memory; the server's buffers are in it too.
fn resident_bytes() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

#[tokio::test]
async fn a_held_body_is_judged_and_sent_as_it_was_held() {
    let service = Service::start(BOTH).await;
    let world = World::new(&service.policy(HELD));
    let gateway = world.listen(API).await;
    for flag in ["--http2", "--http1.1"] {
        let got = curl(
            &world,
            gateway,
            &[flag, "-d", "a=drop it", "https://api.test/echo"],
        )
        .await;
        assert_eq!(got.status, 403);
        let got = curl(
            &world,
            gateway,
            &[flag, "-d", "a=keep it", "https://api.test/echo"],
        )
        .await;
        assert_eq!((got.status, got.text().as_str()), (200, "a=keep it"));
        let chunked = [
            flag,
            "-H",
            "Transfer-Encoding: chunked",
            "-d",
            "in chunks",
            "https://api.test/echo",
        ];
        let got = curl(&world, gateway, &chunked).await;
        assert_eq!((got.status, got.text().as_str()), (200, "in chunks"));
        // A request without a body has an empty one.
        assert_eq!(
            curl(&world, gateway, &[flag, "https://api.test/1k"]).await.status,
            200
        );
    }
    // Any method may have a body, and any spelling of it is looked at.
    for method in ["DELETE", "GET", "PATCH"] {
        let request = format!(
            "{method} / HTTP/1.1\r\nHost: api.test\r\nTransfer-Encoding: chunked\r\n\r\n2\r\ndr\r\n2\r\nop\r\n0\r\n\r\n"
        );
        assert_eq!(ask(gateway, &request).await.unwrap().status, 403, "{method}");
    }
    assert!(
        service
            .seen()
            .iter()
            .all(|seen| crate::agent::find(&seen.body_start, b"drop").is_none())
    );
}

#[tokio::test]
async fn a_body_over_the_limit_cannot_be_judged_and_one_that_nobody_reads_passes() {
    let service = Service::start(BOTH).await;
    let limits = "limits {\n body_bytes_max = 1000\n}";
    for (rules, status) in [(HELD, 403), (crate::server::ALLOW, 200)] {
        let policy = service
            .policy(rules)
            .replacen("gateway {\n", &format!("gateway {{\n{limits}\n"), 1);
        let world = World::new(&policy);
        let gateway = world.listen(API).await;
        for length in [1000usize, 1001] {
            let body = "x".repeat(length);
            let plain =
                format!("POST /echo HTTP/1.1\r\nHost: api.test\r\nContent-Length: {length}\r\n\r\n{body}");
            let chunked = format!(
                "POST /echo HTTP/1.1\r\nHost: api.test\r\nTransfer-Encoding: chunked\r\n\r\n{length:x}\r\n{body}\r\n0\r\n\r\n"
            );
            for request in [plain, chunked] {
                let wanted = if length == 1000 { 200 } else { status };
                assert_eq!(ask(gateway, &request).await.unwrap().status, wanted, "{length}");
            }
        }
    }
    assert!(service.seen().iter().any(|seen| seen.body_length == 1001));
}

#[tokio::test]
async fn trailers_pass_both_ways() {
    let service = Service::start(BOTH).await;
    for rules in [crate::server::ALLOW, HELD] {
        let slot = "credential \"header_token\" \"mine\" {\n endpoint = https.api\n header = \"X-Mine\"\n}\n";
        let world = World::new(&service.policy(&format!("{rules}\n{slot}")));
        let gateway = world.listen(API).await;
        let mut trailers = HeaderMap::new();
        trailers.insert("x-checksum", "abc".parse().unwrap());
        let smuggled = [
            "authorization",
            "x-http-method-override",
            "impersonate-user",
            "x-remote-group",
            "x_sum",
            "x-mine",
        ];
        for name in smuggled {
            trailers.insert(name, "smuggled".parse().unwrap());
        }
        let frames = [
            Ok::<_, std::io::Error>(Frame::data(Bytes::from_static(b"grpc"))),
            Ok(Frame::trailers(trailers)),
        ];
        let mut sender = http2(gateway).await;
        let request = Request::post("https://api.test/trailers")
            .header("te", "trailers")
            .header("content-type", "application/grpc")
            .body(StreamBody::new(futures_util::stream::iter(frames)))
            .unwrap();
        let response = sender.send_request(request).await.unwrap();
        assert_eq!(response.status(), 200);
        let collected = response.into_body().collect().await.unwrap();
        assert_eq!(collected.trailers().unwrap()["grpc-status"], "0");
        assert_eq!(collected.to_bytes(), "message");
        let seen = service.seen().pop().unwrap();
        assert_eq!(seen.line, "POST /trailers HTTP/2.0");
        assert_eq!(seen.headers["te"], "trailers");
        let trailers = seen.trailers.unwrap();
        assert_eq!(trailers["x-checksum"], "abc");
        assert_eq!(trailers.len(), 1, "{trailers:?}");
    }
}

#[tokio::test]
async fn a_placeholder_in_a_trailer_is_refused() {
    let service = Service::start(BOTH).await;
    for rules in [crate::server::ALLOW, HELD] {
        let slot = "credential \"bearer_token\" \"pat\" {\n endpoint = https.api\n}\n";
        let world = World::new(&service.policy(&format!("{rules}\n{slot}")));
        let gateway = world.listen(API).await;
        let mut raw = Raw::connect(gateway).await;
        raw.say("POST /echo HTTP/1.1\r\nHost: api.test\r\nTransfer-Encoding: chunked\r\nTrailer: x-a\r\n\r\n2\r\nhi\r\n0\r\nx-a: {{pat}}\r\n\r\n")
            .await;
        assert_eq!(raw.hear().await.unwrap().status, 403);
    }
    let whole = |seen: &crate::server::Seen| seen.trailers.is_some();
    assert!(!service.seen().iter().any(whole));
}

#[tokio::test]
async fn continue_is_said_only_when_the_body_is_wanted() {
    let service = Service::start(BOTH).await;
    let head = |path: &str| {
        format!("POST {path} HTTP/1.1\r\nHost: api.test\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n")
    };
    // Streamed: the upstream's word is passed on; it answers `/early` without the body.
    let world = World::new(&service.open_policy());
    let gateway = world.listen(API).await;
    let mut raw = Raw::connect(gateway).await;
    raw.say(head("/echo")).await;
    assert_eq!(raw.hear().await.unwrap().status, 100);
    raw.say("hello").await;
    let answer = raw.hear().await.unwrap();
    assert_eq!((answer.status, answer.text().as_str()), (200, "hello"));
    let mut raw = Raw::connect(gateway).await;
    raw.say(head("/early")).await;
    assert_eq!(raw.hear().await.unwrap().status, 413);
    // Held: the gateway says it itself, and the upstream is not asked.
    world.reload(&service.policy(HELD));
    let mut raw = Raw::connect(gateway).await;
    raw.say(head("/echo")).await;
    assert_eq!(raw.hear().await.unwrap().status, 100);
    raw.say("hello").await;
    assert_eq!(raw.hear().await.unwrap().text(), "hello");
    assert!(!service.seen().last().unwrap().headers.contains_key("expect"));
    // Denied: it is never said.
    world.reload(&service.policy(""));
    let mut raw = Raw::connect(gateway).await;
    raw.say(head("/echo")).await;
    assert_eq!(raw.hear().await.unwrap().status, 403);
}

#[tokio::test]
async fn an_upstream_that_does_not_say_continue_gets_the_body_all_the_same() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let policy = format!(
        "endpoint \"http\" \"plain\" {{\n hosts = [\"plain.test\"]\n upstream = \"{}\"\n}}\n\
         profile \"dev\" {{\n peers = [\"laptop\"]\n endpoints = [http.plain]\n}}\n\
         rule \"all\" {{\n endpoint = http.plain\n verdict = \"allow\"\n}}\n",
        listener.local_addr().unwrap()
    );
    let world = World::new(&policy);
    let plain = crate::world::Dialled {
        endpoint: "http.plain",
        name: Some("plain.test"),
        destination: "10.78.0.9:80",
    };
    let mut raw = Raw::connect(world.listen(plain).await).await;
    raw.say("POST / HTTP/1.1\r\nHost: plain.test\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n")
        .await;
    let (mut upstream, _) = listener.accept().await.unwrap();
    // Not a word of the upstream, and yet its patience ends.
    assert_eq!(raw.hear().await.unwrap().status, 100);
    raw.say("hello").await;
    let mut got = Vec::new();
    while !got.ends_with(b"hello") {
        assert_ne!(upstream.read_buf(&mut got).await.unwrap(), 0);
    }
    let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
    upstream.write_all(answer).await.unwrap();
    assert_eq!(raw.hear().await.unwrap().status, 200);
}

#[tokio::test]
async fn an_upload_with_curls_own_expect_header_goes_through() {
    let service = Service::start(ONLY_HTTP1).await;
    let world = World::new(&service.open_policy());
    let gateway = world.listen(API).await;
    let file = world.folder.path().join("upload");
    std::fs::write(&file, vec![b'u'; 3 << 20]).unwrap();
    let path = file.to_str().unwrap();
    let got = curls(
        &world,
        gateway,
        &[
            &["-H", "Expect: 100-continue", "-T", path, "https://api.test/sink"],
            &["-T", path, "https://api.test/sink"],
        ],
    )
    .await;
    assert!(got.iter().all(|got| got.status == 200), "{}", got[0].errors);
    assert!(service.seen().iter().all(|seen| seen.body_length == 3 << 20));
}

#[tokio::test]
async fn responses_without_a_body_end_at_once() {
    let service = Service::start(BOTH).await;
    let world = World::new(&service.open_policy());
    let gateway = world.listen(API).await;
    for flag in ["--http2", "--http1.1"] {
        let got = curls(
            &world,
            gateway,
            &[
                &[flag, "-I", "https://api.test/1k"],
                &[flag, "https://api.test/none"],
                &[flag, "https://api.test/unchanged"],
                &[flag, "https://api.test/redirect", "-D", "-"],
                &[flag, "https://api.test/1k"],
            ],
        )
        .await;
        let seen: Vec<_> = got.iter().map(|got| (got.status, got.connects)).collect();
        assert_eq!(
            seen,
            [(200, 1), (204, 0), (304, 0), (302, 0), (200, 0)],
            "{flag} {}",
            got[0].errors
        );
        assert!(
            got[0].text().to_lowercase().contains("content-length: 1024"),
            "{}",
            got[0].text()
        );
        assert!(
            !got[3].text().to_lowercase().contains("alt-svc"),
            "{}",
            got[3].text()
        );
    }
    let old = ask(gateway, "GET /1k HTTP/1.0\r\nHost: api.test\r\n\r\n")
        .await
        .unwrap();
    assert_eq!((old.status, old.body.len()), (200, 1024));
    let mut old = Raw::connect(gateway).await;
    old.say("GET /trailers HTTP/1.0\r\nHost: api.test\r\n\r\n").await;
    let all = old.rest().await;
    assert!(
        all.ends_with(b"\r\n\r\nmessage"),
        "{}",
        String::from_utf8_lossy(&all)
    );
}

/// The answer's way down drives the upstream's connection, and must not be what its body's way up hangs on.
#[tokio::test]
async fn a_body_goes_up_while_its_answer_is_not_read() {
    const UP: usize = 16 << 20;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let policy = format!(
        "endpoint \"http\" \"plain\" {{\n hosts = [\"plain.test\"]\n upstream = \"{}\"\n}}\n\
         profile \"dev\" {{\n peers = [\"laptop\"]\n endpoints = [http.plain]\n}}\n\
         rule \"all\" {{\n endpoint = http.plain\n verdict = \"allow\"\n}}\n",
        listener.local_addr().unwrap()
    );
    let world = World::new(&policy);
    let plain = crate::world::Dialled {
        endpoint: "http.plain",
        name: Some("plain.test"),
        destination: "10.78.0.9:80",
    };
    let mut raw = Raw::connect(world.listen(plain).await).await;
    raw.say(format!(
        "POST / HTTP/1.1\r\nHost: plain.test\r\nContent-Length: {UP}\r\n\r\nbegun"
    ))
    .await;
    let (upstream, _) = listener.accept().await.unwrap();
    let (mut reader, mut writer) = upstream.into_split();
    let mut got = Vec::new();
    while !got.ends_with(b"begun") {
        assert_ne!(reader.read_buf(&mut got).await.unwrap(), 0);
    }
    // More than all that lies between can hold.
    let answering = tokio::spawn(async move {
        let down = 1_u64 << 30;
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {down}\r\n\r\n");
        writer.write_all(head.as_bytes()).await.unwrap();
        while writer.write_all(&[7; 1 << 16]).await.is_ok() {}
    });
    let saying = raw.say(vec![b'u'; UP - 5]);
    let reading = async {
        let (mut left, mut buffer) = (UP - 5, vec![0; 1 << 16]);
        while left > 0 {
            let length = reader.read(&mut buffer).await.unwrap();
            assert_ne!(length, 0);
            left -= length;
        }
    };
    let both = async { tokio::join!(saying, reading) };
    let came = tokio::time::timeout(Duration::from_secs(60), both).await;
    came.expect("the body stops while nobody reads the answer");
    answering.abort();
}

#[tokio::test]
async fn an_agent_that_leaves_takes_its_upstream_stream_with_it() {
    let service = Service::start(BOTH).await;
    let world = World::new(&service.open_policy());
    let gateway = world.listen(API).await;
    let mut raw = Raw::connect(gateway).await;
    raw.say("GET /events HTTP/1.1\r\nHost: api.test\r\n\r\n").await;
    assert!(raw.until(b"data: first").await);
    drop(raw);
    until("the connection ends", || world.open() == 0).await;
    assert_eq!(world.shared.pool.kept(), 0);
    let story = world.story().await;
    assert_eq!(story, ["GET /events | allow | rule | HTTP 200, cut off"]);
    tokio::time::sleep(Duration::ZERO).await;
}
