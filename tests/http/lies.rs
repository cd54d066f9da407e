//! Upstreams that break HTTP or TLS: each kind is counted as its server's, and no other connection is harmed.

use std::net::SocketAddr;

use http_body_util::{BodyExt as _, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tailkeep::bad_input::{Reader, counted, counts};
use tailkeep::upstream::pool::RESPONSE_HEAD_BYTES_MAX;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::agent::{Raw, ask, find};
use crate::server::{BOTH, Service};
use crate::world::{API, Dialled, World, until};

const FINE: &str = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfine";

/// A request of any of the three protocols.
fn post(path: &str) -> String {
    let body = r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;
    format!(
        "POST {path} HTTP/1.1\r\nHost: api.test\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// Speaks HTTP/1.1 without TLS, and lies where it is asked for `?lie`.
async fn liar(lie: Vec<u8>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let lie = lie.clone();
            tokio::spawn(async move {
                let mut raw = Raw::over(stream);
                while raw.until(b"\"ping\"}").await {
                    let asked = raw.take();
                    let said = match find(&asked, b"?lie ") {
                        Some(_) => &lie[..],
                        None => FINE.as_bytes(),
                    };
                    raw.say(said).await;
                }
            });
        }
    });
    address
}

fn policy(kind: &str, upstream: SocketAddr, more: &str) -> String {
    format!(
        "endpoint \"{kind}\" \"api\" {{\nhosts = [\"api.test:443\"]\nupstream = \"{upstream}\"\n{more}\n}}\n\
         profile \"dev\" {{\npeers = [\"laptop\"]\nendpoints = [{kind}.api]\n}}\n\
         rule \"all\" {{\nendpoint = {kind}.api\nverdict = \"allow\"\n}}\n"
    )
}

/// What an upstream says over HTTP/1.1, what the agent gets, and as what it is counted.
fn lies() -> Vec<(Vec<u8>, u16, &'static str)> {
    let head = |text: &str| (text.as_bytes().to_vec(), 502, "head");
    let ok = "HTTP/1.1 200 OK\r\n";
    vec![
        head("HELLO\r\n\r\n"),
        head("\u{16}\u{3}\u{1}\u{0}\u{5}hello\r\n\r\n"),
        head("HTTP/9.9 200 OK\r\n\r\n"),
        head("HTTP/1.1 2x0 OK\r\n\r\n"),
        head("HTTP/1.1 099999 OK\r\n\r\n"),
        head(&format!("{ok}no colon\r\n\r\n")),
        head(&format!("{ok}na me: 1\r\n\r\n")),
        head(&format!("{ok}x: a\0b\r\n\r\n")),
        head(&format!("{ok}content-length: ten\r\n\r\n")),
        head(&format!("{ok}content-length: 1\r\ncontent-length: 2\r\n\r\n")),
        head(&format!("{ok}x: {}\r\n\r\n", "x".repeat(RESPONSE_HEAD_BYTES_MAX))),
        (
            format!("{ok}transfer-encoding: chunked\r\n\r\n4\r\nfine\r\nzz\r\n").into(),
            200,
            "body",
        ),
        (
            format!("{ok}transfer-encoding: chunked\r\n\r\n4\r\nfineXX").into(),
            200,
            "body",
        ),
        (
            format!("{ok}transfer-encoding: chunked\r\n\r\n4\r\nfine\r\nfffffffffffffffff\r\n").into(),
            200,
            "body",
        ),
        (
            format!("{ok}transfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n").into(),
            502,
            "coded",
        ),
        (
            b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n".to_vec(),
            502,
            "unasked",
        ),
    ]
}

#[tokio::test]
async fn an_upstream_that_breaks_http_is_counted_and_harms_no_other_connection() {
    for (kind, reader) in [
        ("https", Reader::HttpServer),
        ("kubernetes", Reader::KubernetesServer),
        ("mcp", Reader::McpServer),
    ] {
        for (lie, status, reason) in lies() {
            let shown = String::from_utf8_lossy(&lie[..lie.len().min(60)]).into_owned();
            let world = World::new(&policy(kind, liar(lie).await, "tls = false"));
            let gateway = world
                .listen(Dialled {
                    endpoint: match kind {
                        "https" => "https.api",
                        "kubernetes" => "kubernetes.api",
                        _ => "mcp.api",
                    },
                    ..API
                })
                .await;
            let mut other = Raw::connect(gateway).await;
            other.say(post("/mcp?fine")).await;
            assert_eq!(other.hear().await.unwrap().text(), "fine", "{kind} {shown:?}");
            let before = counted(reader, reason);
            let answer = ask(gateway, &post("/mcp?lie")).await;
            let answer = answer.unwrap_or_else(|| panic!("{kind} {shown:?}: no answer"));
            assert_eq!(answer.status, status, "{kind} {shown:?}: {}", answer.text());
            until(&format!("{kind} {shown:?} is counted"), || {
                counted(reader, reason) > before
            })
            .await;
            other.say(post("/mcp?fine")).await;
            assert_eq!(other.hear().await.unwrap().text(), "fine", "{kind} {shown:?}");
        }
    }
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A field that no table is asked for (RFC 7541 section 6.2.2).
fn field(name: &str, value: &str) -> Vec<u8> {
    let part = |text: &str| [&[u8::try_from(text.len()).unwrap()], text.as_bytes()].concat();
    [vec![0], part(name), part(value)].concat()
}

/// Speaks HTTP/2 without TLS: the second stream of a connection is answered by `lie`.
async fn liar2(lie: fn(u32) -> Vec<u8>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut io, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut preface = [0; 24];
                io.read_exact(&mut preface).await.ok()?;
                io.write_all(&frame(4, 0, 0, &[])).await.ok()?;
                loop {
                    let mut head = [0; 9];
                    io.read_exact(&mut head).await.ok()?;
                    let [a, b, c, kind, _, stream @ ..] = head;
                    let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
                    io.read_exact(&mut payload).await.ok()?;
                    let stream = u32::from_be_bytes(stream);
                    let said = match (kind, stream) {
                        (1, 3) => lie(stream),
                        (1, _) => frame(1, 5, stream, &field(":status", "204")),
                        (4, _) if head[4] == 0 => frame(4, 1, 0, &[]),
                        _ => continue,
                    };
                    io.write_all(&said).await.ok()?;
                }
                #[allow(unreachable_code, reason = "says what `?` gives")]
                Some(())
            });
        }
    });
    address
}

#[tokio::test]
async fn an_upstream_that_breaks_http2_is_counted_and_harms_no_other_connection() {
    let lies: [(&str, &str, fn(u32) -> Vec<u8>); 9] = [
        ("DATA of no stream", "frame", |_| frame(0, 1, 0, b"x")),
        ("SETTINGS of five bytes", "frame", |_| frame(4, 0, 0, &[0; 5])),
        ("PING of a stream", "frame", |stream| frame(6, 0, stream, &[0; 8])),
        ("fields that no table has", "frame", |stream| {
            frame(1, 5, stream, &[0xff; 8])
        }),
        ("a frame that is too long", "frame", |stream| {
            frame(0, 0, stream, &vec![0; 1 << 20])
        }),
        ("no status", "stream", |stream| {
            frame(1, 5, stream, &field("x", "y"))
        }),
        ("a name in capitals", "frame", |stream| {
            frame(
                1,
                5,
                stream,
                &[field(":status", "200"), field("X-Y", "z")].concat(),
            )
        }),
        ("a connection's own field", "stream", |stream| {
            let fields = [field(":status", "200"), field("connection", "close")].concat();
            frame(1, 5, stream, &fields)
        }),
        ("more than was said", "stream", |stream| {
            let fields = [field(":status", "200"), field("content-length", "1")].concat();
            [frame(1, 4, stream, &fields), frame(0, 1, stream, b"xyz")].concat()
        }),
    ];
    for (shown, reason, lie) in lies {
        let world = World::new(&policy("https", liar2(lie).await, "tls = false"));
        let gateway = world.listen(API).await;
        let service = Service::start(BOTH).await;
        let fine = World::new(&service.open_policy());
        let mut other = Raw::connect(fine.listen(API).await).await;
        let stream = TcpStream::connect(gateway).await.unwrap();
        let builder = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
        let (mut agent, connection) = builder.handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let request = || {
            let request = http::Request::get("https://api.test/");
            request.body(Empty::<bytes::Bytes>::new()).unwrap()
        };
        let first = agent.send_request(request()).await.unwrap();
        assert_eq!(first.status(), 204, "{shown}");
        let before = counted(Reader::HttpServer, reason);
        // What began well may be reset before it is seen.
        if let Ok(answer) = agent.send_request(request()).await {
            match answer.status().as_u16() {
                200 => assert!(answer.into_body().collect().await.is_err(), "{shown}"),
                status => assert_eq!(status, 502, "{shown}"),
            }
        }
        until(&format!("{shown} is counted: {:?}", counts()), || {
            counted(Reader::HttpServer, reason) > before
        })
        .await;
        // The agent's own connection, by a new one to the upstream where that had to end, and another's.
        let again = agent.send_request(request()).await.unwrap();
        assert_eq!(again.status(), 204, "{shown}");
        other.say("GET /1k HTTP/1.1\r\nHost: api.test\r\n\r\n").await;
        assert_eq!(other.hear().await.unwrap().status, 200, "{shown}");
    }
}

#[tokio::test]
async fn an_upstream_that_breaks_tls_is_counted_and_harms_no_other_connection() {
    let service = Service::start(BOTH).await;
    let fine = World::new(&service.open_policy());
    let mut other = Raw::connect(fine.listen(API).await).await;
    let of_tls = || -> u64 {
        let all = counts();
        let own = all.iter().filter(|((reader, _), _)| *reader == Reader::TlsServer);
        own.map(|(_, count)| count).sum()
    };
    let ca = format!("ca_cert = <<EOT\n{}EOT", service.ca);
    for lie in [
        &b"HTTP/1.1 400 Bad Request\r\n\r\n"[..],
        // A record of no kind, one that is longer than may be, a ServerHello that is cut short, and one of garbage.
        &[99, 3, 3, 0, 1, 0],
        &[22, 3, 3, 0xff, 0xff, 0],
        &[22, 3, 3, 0, 6, 2, 0, 0, 2, 3, 3],
        &[22, 3, 3, 0, 8, 2, 0, 0, 4, 9, 9, 9, 9],
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let (mut io, _) = listener.accept().await.unwrap();
            let mut hello = [0; 4096];
            let _ = io.read(&mut hello).await;
            let _ = io.write_all(lie).await;
            let _ = io.read(&mut hello).await;
        });
        let world = World::new(&policy("https", address, &ca));
        let before = of_tls();
        let answer = ask(world.listen(API).await, &post("/x")).await.unwrap();
        assert_eq!(answer.status, 502, "{lie:?}");
        assert!(of_tls() > before, "{lie:?} {:?}", counts());
        other.say("GET /1k HTTP/1.1\r\nHost: api.test\r\n\r\n").await;
        assert_eq!(other.hear().await.unwrap().status, 200, "{lie:?}");
    }
}
