//! Every limit of the HTTP path, reached.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Empty};
use tailkeep::facts::http::json;
use tailkeep::proxy::http::answer::DRAIN_BYTES_MAX;
use tailkeep::proxy::http::{CONNECTION_WINDOW_BYTES, STREAM_WINDOW_BYTES};
use tailkeep::proxy::http::{FACTS_BYTES_MAX, HELD_BYTES_MAX, HTTP2_PER_AGENT_MAX};
use tailkeep::proxy::http::{HEAD_BYTES_MAX, HEADERS_MAX, STREAMS_MAX};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::agent::{Raw, ask, http2, secured};
use crate::server::{BOTH, Service};
use crate::shown::gzip;
use crate::world::{API, World, until};

fn limited(service: &Service, limits: &str) -> String {
    let limits = format!("gateway {{\n limits {{\n{limits}\n }}\n");
    service.open_policy().replacen("gateway {\n", &limits, 1)
}

#[tokio::test]
async fn a_head_that_is_too_large_is_431() {
    let service = Service::start(BOTH).await;
    let world = World::new(&service.open_policy());
    let gateway = world.listen(API).await;
    let fields = |count: usize| -> String {
        let more: String = (0..count).map(|number| format!("X-{number}: y\r\n")).collect();
        format!("GET /1k HTTP/1.1\r\nHost: api.test\r\n{more}\r\n")
    };
    assert_eq!(ask(gateway, &fields(HEADERS_MAX - 1)).await.unwrap().status, 200);
    assert_eq!(ask(gateway, &fields(HEADERS_MAX)).await.unwrap().status, 431);
    let long = |length: usize| {
        format!(
            "GET /1k HTTP/1.1\r\nHost: api.test\r\nX: {}\r\n\r\n",
            "y".repeat(length)
        )
    };
    assert_eq!(ask(gateway, &long(HEAD_BYTES_MAX / 2)).await.unwrap().status, 200);
    let answer = ask(gateway, &long(HEAD_BYTES_MAX * 2)).await;
    assert!(answer.is_none_or(|answer| answer.status == 431));
    let mut sender = http2::<Empty<Bytes>>(gateway).await;
    let mut request = Request::get("https://api.test/1k").body(Empty::new()).unwrap();
    let big = "y".repeat(HEAD_BYTES_MAX);
    request.headers_mut().insert("x", big.parse().unwrap());
    if let Ok(answer) = sender.send_request(request).await {
        assert_eq!(answer.status(), 431);
    }
    assert_eq!(service.seen().len(), 2);
}

#[tokio::test]
async fn who_says_nothing_or_half_a_head_is_cut_off() {
    let service = Service::start(BOTH).await;
    let world = World::new(&limited(&service, "handshake_ms = 200"));
    let gateway = world.listen(API).await;
    let request = "GET /1k HTTP/1.1\r\nHost: api.test\r\n\r\n";
    // Nothing; one byte; half a ClientHello; half a head; half of a second head.
    for (first, then) in [
        ("", ""),
        ("G", ""),
        ("\x16\x03\x01\x02\x00", ""),
        ("GET / HTTP", ""),
        (request, "GET / HTTP"),
    ] {
        let mut raw = Raw::connect(gateway).await;
        raw.say(first).await;
        if !then.is_empty() {
            assert_eq!(raw.hear().await.unwrap().status, 200);
        }
        let began = Instant::now();
        raw.say(then).await;
        let rest = raw.rest().await;
        let took = began.elapsed();
        assert!(rest.is_empty() || rest[0] == 0x15, "{first:?} {then:?}: {rest:?}");
        assert!(
            took > Duration::from_millis(100) && took < Duration::from_secs(5),
            "{first:?} {then:?}: {took:?}"
        );
    }
    // A head that trickles: each byte moves, the whole is too slow.
    let mut raw = Raw::connect(gateway).await;
    let began = Instant::now();
    for byte in request.bytes().cycle().take(60) {
        raw.say([byte]).await;
        tokio::time::sleep(Duration::from_millis(10)).await;
        if began.elapsed() > Duration::from_secs(2) {
            break;
        }
    }
    until("the connections end", || world.open() == 0).await;
    assert_eq!(service.seen().len(), 1);
}

#[tokio::test]
async fn an_idle_connection_is_closed_and_a_waiting_one_is_not() {
    let service = Service::start(BOTH).await;
    let world = World::new(&limited(&service, "idle_s = 1\n handshake_ms = 300"));
    let gateway = world.listen(API).await;
    let mut raw = Raw::connect(gateway).await;
    let request = "GET /1k HTTP/1.1\r\nHost: api.test\r\n\r\n";
    raw.say(request).await;
    assert_eq!(raw.hear().await.unwrap().status, 200);
    // Idle for longer than a head may take, shorter than a connection may be.
    tokio::time::sleep(Duration::from_millis(600)).await;
    raw.say(request).await;
    assert_eq!(raw.hear().await.unwrap().status, 200);
    let began = Instant::now();
    assert!(raw.rest().await.is_empty());
    assert!(
        began.elapsed() > Duration::from_millis(800),
        "{:?}",
        began.elapsed()
    );
}

#[tokio::test]
async fn the_body_of_a_denied_request_is_read_out_up_to_a_limit() {
    let service = Service::start(BOTH).await;
    let world = World::new(&service.policy(""));
    let gateway = world.listen(API).await;
    let head =
        |length: u64| format!("POST /x HTTP/1.1\r\nHost: api.test\r\nContent-Length: {length}\r\n\r\n");
    let mut raw = Raw::connect(gateway).await;
    for _ in 0..3 {
        let mut bytes = head(DRAIN_BYTES_MAX).into_bytes();
        bytes.resize(bytes.len() + DRAIN_BYTES_MAX as usize, b'x');
        raw.say(bytes).await;
        assert_eq!(raw.hear().await.unwrap().status, 403);
    }
    raw.say(head(DRAIN_BYTES_MAX + 1)).await;
    assert_eq!(raw.hear().await.unwrap().status, 403);
    assert!(raw.rest().await.is_empty(), "closed");
    // In chunks, no length says so before.
    for (length, is_read) in [(DRAIN_BYTES_MAX / 2, true), (DRAIN_BYTES_MAX * 4, false)] {
        let body = "x".repeat(length as usize);
        let chunked = format!(
            "POST /x HTTP/1.1\r\nHost: api.test\r\nTransfer-Encoding: chunked\r\n\r\n{length:x}\r\n{body}\r\n0\r\n\r\n"
        );
        let mut raw = Raw::connect(gateway).await;
        raw.say(chunked + "GET /x HTTP/1.1\r\nHost: api.test\r\n\r\n")
            .await;
        assert_eq!(raw.hear().await.unwrap().status, 403);
        let next = raw.hear().await.map(|answer| answer.status);
        assert_eq!(next, is_read.then_some(403), "{length}");
    }
}

#[tokio::test]
async fn streams_at_once_are_bounded() {
    let service = Service::start(BOTH).await;
    let world = World::new(&service.open_policy());
    let gateway = world.listen(API).await;
    let sender = http2::<Empty<Bytes>>(gateway).await;
    let waiting: Vec<_> = (0..STREAMS_MAX + 20)
        .map(|_| {
            let mut sender = sender.clone();
            tokio::spawn(async move {
                let request = Request::get("https://api.test/events")
                    .body(Empty::new())
                    .unwrap();
                let mut response = sender.send_request(request).await.unwrap();
                response.frame().await.unwrap().unwrap();
                response
            })
        })
        .collect();
    until("as many as may", || service.seen().len() == STREAMS_MAX as usize).await;
    tokio::time::sleep(crate::server::A_MOMENT).await;
    assert_eq!(service.seen().len(), STREAMS_MAX as usize);
    waiting.iter().for_each(|task| task.abort());
    until("the rest", || waiting.iter().all(|task| task.is_finished())).await;
}

#[tokio::test]
async fn rapid_resets_end_the_connection_and_harm_no_other() {
    let service = Service::start(BOTH).await;
    let world = World::new(&service.open_policy());
    let gateway = world.listen(API).await;
    let mut raw = Raw::connect(gateway).await;
    // A preface, empty SETTINGS, then HEADERS and RST_STREAM over and over (CVE-2023-44487).
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec();
    // :method GET, :scheme https, :path /, :authority api.test, as literals and from the table.
    let block = [&[0x82, 0x87, 0x84, 0x41, 8][..], b"api.test"].concat();
    for number in 0..2000u32 {
        let stream = (number * 2 + 1).to_be_bytes();
        bytes.extend([0, 0, block.len() as u8, 1, 5]);
        bytes.extend(stream);
        bytes.extend(&block);
        bytes.extend([0, 0, 4, 3, 0]);
        bytes.extend(stream);
        bytes.extend([0, 0, 0, 8]);
    }
    raw.say(bytes).await;
    raw.rest().await;
    until("the connection ends", || world.open() == 0).await;
    assert_eq!(
        ask(gateway, "GET /1k HTTP/1.1\r\nHost: api.test\r\n\r\n")
            .await
            .unwrap()
            .status,
        200
    );
}

#[tokio::test]
async fn what_is_held_of_one_agents_bodies_is_bounded() {
    let service = Service::start(BOTH).await;
    let rules = r#"
rule "read" {
  endpoint  = https.api
  condition = "http.body.contains('x')"
  verdict   = "allow"
}"#;
    let most = HELD_BYTES_MAX / 2 + 1;
    let limits =
        format!("gateway {{\n limits {{\n body_bytes_max = {most}\n decoded_bytes_max = {most}\n }}\n");
    let world = World::new(&service.policy(rules).replacen("gateway {\n", &limits, 1));
    let gateway = world.listen(API).await;
    let head =
        |more: &str| format!("POST / HTTP/1.1\r\nHost: api.test\r\n{more}Content-Length: {most}\r\n\r\n");
    let mut first = Raw::connect(gateway).await;
    first.say(head("Expect: 100-continue\r\n")).await;
    assert_eq!(first.hear().await.unwrap().status, 100);
    // Its room is taken. There is none for a second: its body is unknown, and the rule hangs on it.
    let mut request = head("").into_bytes();
    request.resize(request.len() + most, b'x');
    let mut second = Raw::connect(gateway).await;
    second.say(&request).await;
    let answer = second.hear().await.unwrap();
    assert_eq!(answer.status, 403, "{}", answer.text());
    assert!(answer.text().contains("unevaluable"), "{}", answer.text());
    drop((first, second));
    until("the room is given back", || world.open() == 0).await;
    let mut third = Raw::connect(gateway).await;
    third.say(&request).await;
    assert_eq!(third.hear().await.unwrap().status, 200);
}

/// A coded body is small, and what is read of it is not; it is there for as long as its answer lasts.
#[tokio::test]
async fn what_the_facts_of_one_agents_requests_take_is_bounded() {
    let service = Service::start(BOTH).await;
    let rules = r#"
rule "read" {
  endpoint  = https.api
  condition = "size(http.body_json) > 1"
  verdict   = "allow"
}"#;
    let world = World::new(&service.policy(rules));
    let gateway = world.listen(API).await;
    let values = 1 << 17;
    let text = format!("[{}0]", "0,".repeat(values));
    let each = json::parse(&text).unwrap().bytes();
    let body = gzip(text);
    assert!(body.len() < 8 << 10, "{}", body.len());
    let post = async || {
        let mut raw = Raw::connect(gateway).await;
        raw.say(format!(
            "POST /big HTTP/1.1\r\nHost: api.test\r\nContent-Type: application/json\r\nContent-Encoding: gzip\r\nContent-Length: {}\r\n\r\n",
            body.len()
        ))
        .await;
        raw.say(&body).await;
        raw
    };
    // Requests beside these have the rest of the room.
    let fit = 2;
    let _others = world.room_for_facts(FACTS_BYTES_MAX - (fit + 1) * each + 1);
    let mut lasting = Vec::new();
    for _ in 0..fit {
        let mut raw = post().await;
        assert!(raw.until(b"bbbb").await);
        lasting.push(raw);
    }
    let answer = post().await.hear().await.unwrap();
    assert_eq!(answer.status, 403, "{}", answer.text());
    assert!(answer.text().contains("unevaluable"), "{}", answer.text());
    // What is over gives its room back.
    lasting.pop();
    until("a place is given back", || world.open() < fit).await;
    assert!(post().await.until(b"bbbb").await);
}

#[tokio::test]
async fn a_body_that_decodes_to_more_than_the_limit_cannot_be_judged() {
    use std::io::Write as _;
    let service = Service::start(BOTH).await;
    let rule = "rule \"all\" {\n  endpoint = https.api\n  condition = \"http.body.matches('^x+$')\"\n  verdict = \"allow\"\n}\n";
    let limits = "gateway {\n limits {\n decoded_bytes_max = 1000\n }\n";
    let world = World::new(&service.policy(rule).replacen("gateway {\n", limits, 1));
    let gateway = world.listen(API).await;
    let best = flate2::Compression::best;
    let zlib = |body: &[u8]| {
        let mut coder = flate2::write::ZlibEncoder::new(Vec::new(), best());
        coder.write_all(body).unwrap();
        coder.finish().unwrap()
    };
    let raw_deflate = |body: &[u8]| {
        let mut coder = flate2::write::DeflateEncoder::new(Vec::new(), best());
        coder.write_all(body).unwrap();
        coder.finish().unwrap()
    };
    type Coder<'a> = &'a dyn Fn(&[u8]) -> Vec<u8>;
    let coders: [(&str, Coder<'_>); 5] = [
        ("gzip", &|body| gzip(body)),
        ("deflate", &zlib),
        ("deflate", &raw_deflate),
        ("br", &brotli),
        ("zstd", &zstd),
    ];
    for (coding, coder) in coders {
        for (length, status) in [(1000, 200), (1001, 403), (60_000, 403)] {
            let body = coder(&vec![b'x'; length]);
            let mut raw = Raw::connect(gateway).await;
            raw.say(format!(
                "POST /echo HTTP/1.1\r\nHost: api.test\r\nContent-Encoding: {coding}\r\nContent-Length: {}\r\n\r\n",
                body.len()
            ))
            .await;
            raw.say(&body).await;
            let answer = raw.hear().await.unwrap();
            assert_eq!(answer.status, status, "{coding} {length}");
            // What was read decoded goes up as it came.
            assert!(status != 200 || answer.body == body, "{coding}");
        }
    }
}

/// A body as brotli that packs nothing (RFC 7932 section 9.2): a window of 64 KiB, one uncompressed meta-block, and
/// the empty last one.
fn brotli(body: &[u8]) -> Vec<u8> {
    let header = (u32::try_from(body.len() - 1).unwrap() << 4 | 1 << 20).to_le_bytes();
    [&header[..3], body, &[3]].concat()
}

/// A body of one byte again and again as zstd (RFC 8878 section 3.1.1): its size in two bytes, and one block, the last,
/// that says what is repeated.
fn zstd(body: &[u8]) -> Vec<u8> {
    let size = u16::try_from(body.len() - 256).unwrap().to_le_bytes();
    let block = (u32::try_from(body.len()).unwrap() << 3 | 1 << 1 | 1).to_le_bytes();
    [b"\x28\xb5\x2f\xfd\x60", &size[..], &block[..3], &body[..1]].concat()
}

#[tokio::test]
async fn an_agent_has_so_many_http2_connections_and_more_of_http1() {
    let service = Service::start(BOTH).await;
    let world = World::new(&service.open_policy());
    let gateway = world.listen(API).await;
    // The last one's stream is open, so that its connection is.
    let mut held = Vec::new();
    for _ in 0..HTTP2_PER_AGENT_MAX {
        let mut sender = http2::<Empty<Bytes>>(gateway).await;
        let request = Request::get("https://api.test/1k").body(Empty::new()).unwrap();
        assert_eq!(sender.send_request(request).await.unwrap().status(), 200);
        held.push(sender);
    }
    let version = async || {
        let got = crate::agent::curl(&world, gateway, &["--http2", "https://api.test/1k"]).await;
        (got.status, got.version)
    };
    assert_eq!(version().await, (200, "1.1".to_owned()));
    // Nor is HTTP/2 to be had unasked: in the clear, or where HTTP/1.1 was agreed.
    let io = secured(&world, gateway, "api.test", b"http/1.1").await;
    assert!(!answers_http2(io).await);
    assert!(!answers_http2(TcpStream::connect(gateway).await.unwrap()).await);
    held.clear();
    until("they are closed", || world.open() == 0).await;
    assert_eq!(version().await, (200, "2".to_owned()));
    assert!(answers_http2(TcpStream::connect(gateway).await.unwrap()).await);
    // What was agreed is what is spoken.
    let io = secured(&world, gateway, "api.test", b"http/1.1").await;
    assert!(!answers_http2(io).await);
}

/// Whether the other side answers HTTP/2's preface with its own SETTINGS.
async fn answers_http2(mut io: impl AsyncRead + AsyncWrite + Unpin) -> bool {
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    io.write_all(preface).await.unwrap();
    io.flush().await.unwrap();
    let mut head = [0; 9];
    io.read_exact(&mut head).await.is_ok() && head[3] == 4 && head[5..] == [0; 4]
}

#[tokio::test]
async fn http2_windows_are_bounded() {
    let service = Service::start(BOTH).await;
    let world = World::new(&service.open_policy());
    let gateway = world.listen(API).await;
    let mut stream = TcpStream::connect(gateway).await.unwrap();
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    stream.write_all(preface).await.unwrap();
    let (mut stream_window, mut more) = (None, None);
    // RFC 9113 §6.5 and §6.9: the settings, and what the connection's window grows by.
    while stream_window.is_none() || more.is_none() {
        let mut head = [0; 9];
        stream.read_exact(&mut head).await.unwrap();
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let mut payload = vec![0; length];
        stream.read_exact(&mut payload).await.unwrap();
        let number = |bytes: &[u8]| u32::from_be_bytes(bytes.try_into().unwrap());
        match head[3] {
            4 => {
                let own = payload.chunks(6).find(|entry| entry[..2] == [0, 4]);
                stream_window = stream_window.or(own.map(|entry| number(&entry[2..])));
            }
            8 => more = Some(number(&payload)),
            _ => {}
        }
    }
    assert_eq!(stream_window, Some(STREAM_WINDOW_BYTES));
    assert_eq!(more, Some(CONNECTION_WINDOW_BYTES - 65_535));
}
