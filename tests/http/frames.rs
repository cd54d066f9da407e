//! HTTP/2 frame by frame (RFC 9113): what is malformed ends its stream or its connection by the right code, is
//! counted, reaches no upstream and harms nobody else.

use tailkeep::bad_input::{Reader, counted};
use tailkeep::proxy::http::STREAM_ERRORS_MAX;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::agent::{Raw, ask, secured};
use crate::server::{BOTH, ONLY_HTTP1, Service};
use crate::world::{API, SOON, World, until};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PUSH_PROMISE: u8 = 5;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;

const PROTOCOL_ERROR: u32 = 1;
const ENHANCE_YOUR_CALM: u32 = 11;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A field that no table is asked for (RFC 7541 section 6.2.2).
fn field(name: &str, value: &str) -> Vec<u8> {
    let part = |text: &str| [&[u8::try_from(text.len()).unwrap()], text.as_bytes()].concat();
    [vec![0], part(name), part(value)].concat()
}

/// `GET https://api.test/1k`, and more fields.
fn block(more: &[(&str, &str)]) -> Vec<u8> {
    let own = [
        (":method", "GET"),
        (":scheme", "https"),
        (":authority", "api.test"),
        (":path", "/1k"),
    ];
    own.iter()
        .chain(more)
        .flat_map(|(name, value)| field(name, value))
        .collect()
}

fn request(stream: u32, more: &[(&str, &str)]) -> Vec<u8> {
    frame(HEADERS, END_STREAM | END_HEADERS, stream, &block(more))
}

/// A connection of frames.
struct Frames<IO> {
    io: IO,
}

/// How a stream or a connection ended.
#[derive(Debug, PartialEq, Eq)]
enum End {
    /// The stream's answer came whole.
    Answered,
    Reset(u32),
    GoneAway(u32),
    /// Without a word.
    Closed,
}

impl<IO: AsyncRead + AsyncWrite + Unpin> Frames<IO> {
    /// After the preface and empty SETTINGS.
    async fn begin(io: IO) -> Self {
        let mut frames = Frames { io };
        frames.say(PREFACE).await;
        frames.say(&frame(SETTINGS, 0, 0, &[])).await;
        frames
    }

    async fn say(&mut self, bytes: &[u8]) {
        // The gateway may have hung up already; what it answered is still to be read.
        let _ = self.io.write_all(bytes).await;
        let _ = self.io.flush().await;
    }

    async fn next(&mut self) -> Option<(u8, u8, u32, Vec<u8>)> {
        let mut head = [0; 9];
        self.io.read_exact(&mut head).await.ok()?;
        let [a, b, c, kind, flags, stream @ ..] = head;
        let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
        self.io.read_exact(&mut payload).await.ok()?;
        Some((kind, flags, u32::from_be_bytes(stream), payload))
    }

    /// Reads until this stream, or the whole connection, has ended.
    async fn end(&mut self, of: u32) -> End {
        let read = async {
            let code =
                |payload: &[u8], at: usize| u32::from_be_bytes(payload[at..at + 4].try_into().unwrap());
            while let Some((kind, flags, stream, payload)) = self.next().await {
                match kind {
                    GOAWAY => return End::GoneAway(code(&payload, 4)),
                    RST_STREAM if stream == of => return End::Reset(code(&payload, 0)),
                    DATA | HEADERS if stream == of && flags & END_STREAM != 0 => return End::Answered,
                    _ => {}
                }
            }
            End::Closed
        };
        timeout(SOON, read).await.expect("neither answered nor ended")
    }
}

/// What the gateway has counted of frames, and of streams.
fn counts() -> (u64, u64) {
    (counted(Reader::Http, "frame"), counted(Reader::Http, "stream"))
}

#[tokio::test]
async fn a_malformed_frame_ends_its_own_connection_and_is_counted() {
    let service = Service::start(BOTH).await;
    let world = World::new(&service.open_policy());
    let gateway = world.listen(API).await;
    // Somebody else, whose answer is under way all the while.
    let mut other = Raw::connect(gateway).await;
    other.say("GET /events HTTP/1.1\r\nHost: api.test\r\n\r\n").await;
    assert!(other.until(b"data: first").await);
    let half = frame(HEADERS, END_STREAM, 1, &block(&[]));
    let open = frame(HEADERS, END_HEADERS, 1, &block(&[]));
    let cases = [
        ("longer than may be", frame(DATA, 0, 1, &vec![0; 16_385])),
        ("settings of five bytes", frame(SETTINGS, 0, 0, &[0; 5])),
        ("settings of a stream", frame(SETTINGS, 0, 1, &[])),
        (
            "a window too large",
            frame(SETTINGS, 0, 0, &[0, 4, 0xff, 0xff, 0xff, 0xff]),
        ),
        ("a ping of seven bytes", frame(PING, 0, 0, &[0; 7])),
        ("an update of nothing", frame(WINDOW_UPDATE, 0, 0, &[0; 4])),
        (
            "an update too far",
            frame(WINDOW_UPDATE, 0, 0, &[0x7f, 0xff, 0xff, 0xff]),
        ),
        ("data of no stream", frame(DATA, 0, 0, b"x")),
        ("data of an idle stream", frame(DATA, 0, 1, b"x")),
        ("a stream of the server's", request(2, &[])),
        ("a reset of an idle stream", frame(RST_STREAM, 0, 1, &[0; 4])),
        ("a promise", frame(PUSH_PROMISE, END_HEADERS, 1, &[0, 0, 0, 2])),
        ("an index of nothing", frame(HEADERS, 5, 1, &[0x80])),
        ("more padding than there is", frame(DATA, PADDED, 1, &[200, 0])),
        (
            "a continuation of nothing",
            frame(CONTINUATION, END_HEADERS, 1, &[]),
        ),
        (
            "something in between",
            [half, frame(PING, 0, 0, &[0; 8])].concat(),
        ),
        ("a field of no kind", request(1, &[(":kind", "x")])),
        (
            "a reset of three bytes",
            [open, frame(RST_STREAM, 0, 1, &[0; 3])].concat(),
        ),
        ("a name in capitals", request(1, &[("X-A", "b")])),
    ];
    for (name, bytes) in cases {
        let before = counts();
        let mut frames = Frames::begin(TcpStream::connect(gateway).await.unwrap()).await;
        frames.say(&bytes).await;
        let end = frames.end(1).await;
        assert!(matches!(end, End::GoneAway(1..)), "{name}: {end:?}");
        until(name, || world.open() == 1).await;
        assert!(counts().0 > before.0, "{name} is not counted");
    }
    // Agreed on HTTP/2, and no word of it.
    let before = counts();
    let io = secured(&world, gateway, "api.test", b"h2").await;
    let mut frames = Frames { io };
    frames.say(b"GET /1k HTTP/1.1\r\nHost: api.test\r\n\r\n").await;
    assert_eq!(frames.end(1).await, End::Closed);
    until("it ends", || world.open() == 1).await;
    assert!(counts().0 > before.0, "no preface is not counted");

    let lines = || service.lines().iter().filter(|line| line.contains("/1k")).count();
    assert!(lines() <= 1, "{:?}", service.lines());
    service.next_event.notify_one();
    assert!(other.until(b"data: second").await);
}

#[tokio::test]
async fn a_malformed_stream_ends_alone_and_is_counted() {
    let service = Service::start(BOTH).await;
    let world = World::new(&service.open_policy());
    let gateway = world.listen(API).await;
    let mut frames = Frames::begin(TcpStream::connect(gateway).await.unwrap()).await;
    let whole = |block: &[u8], stream| frame(HEADERS, END_STREAM | END_HEADERS, stream, block);
    let mut stream = 1;
    for (name, fields) in [
        ("a connection's field", block(&[("connection", "close")])),
        ("an answer's field", block(&[(":status", "200")])),
        (
            "a pseudo-field behind a field",
            [field("x", "y"), block(&[])].concat(),
        ),
        ("one twice", block(&[(":path", "/2")])),
        ("no path", field(":method", "GET")),
        ("a length that is none", block(&[("content-length", "x")])),
        ("a length that lies", block(&[("content-length", "5")])),
    ] {
        let before = counts();
        frames.say(&whole(&fields, stream)).await;
        assert_eq!(frames.end(stream).await, End::Reset(PROTOCOL_ERROR), "{name}");
        assert!(counts().1 > before.1, "{name} is not counted");
        frames.say(&request(stream + 2, &[])).await;
        assert_eq!(
            frames.end(stream + 2).await,
            End::Answered,
            "{name}: the next stream"
        );
        stream += 4;
    }
    // A body longer than it was said to be.
    let before = counts();
    let mut bytes = frame(HEADERS, END_HEADERS, stream, &block(&[("content-length", "1")]));
    bytes.extend(frame(DATA, END_STREAM, stream, b"hello"));
    frames.say(&bytes).await;
    assert_eq!(frames.end(stream).await, End::Reset(PROTOCOL_ERROR));
    assert!(counts().1 > before.1);
    // What was well-formed came.
    let whole = |seen: &crate::server::Seen| seen.body_sha256 != [0xff; 32];
    assert_eq!(service.seen().iter().filter(|seen| whole(seen)).count(), 7);
}

#[tokio::test]
async fn streams_that_fail_by_the_agents_fault_have_a_number() {
    let service = Service::start(BOTH).await;
    let world = World::new(&service.open_policy());
    let gateway = world.listen(API).await;
    let mut frames = Frames::begin(TcpStream::connect(gateway).await.unwrap()).await;
    let mut failed = 0;
    for number in 0.. {
        let stream = 2 * number + 1;
        frames.say(&request(stream, &[("connection", "close")])).await;
        match frames.end(stream).await {
            End::Reset(PROTOCOL_ERROR) => failed += 1,
            end => {
                assert_eq!(end, End::GoneAway(ENHANCE_YOUR_CALM));
                break;
            }
        }
    }
    assert_eq!(failed, STREAM_ERRORS_MAX);
    let request = "GET /1k HTTP/1.1\r\nHost: api.test\r\n\r\n";
    assert_eq!(ask(gateway, request).await.unwrap().status, 200);
}

#[tokio::test]
async fn a_body_whose_chunks_cannot_be_read_is_counted() {
    let service = Service::start(BOTH).await;
    let held =
        "rule \"a\" {\n endpoint = https.api\n condition = \"http.body != 'x'\"\n verdict = \"allow\"\n}\n";
    for rules in [crate::server::ALLOW, held] {
        let world = World::new(&service.policy(rules));
        let gateway = world.listen(API).await;
        let head = "POST /echo HTTP/1.1\r\nHost: api.test\r\nTransfer-Encoding: chunked\r\n\r\n";
        for (chunks, more) in [("5\r\nhello\r\nzz\r\n", 1), ("5\r\nhel", 0)] {
            let before = counted(Reader::Http, "body");
            let mut raw = Raw::connect(gateway).await;
            raw.say(format!("{head}{chunks}")).await;
            raw.stream.shutdown().await.unwrap();
            raw.rest().await;
            until("it ends", || world.open() == 0).await;
            assert_eq!(counted(Reader::Http, "body") - before, more, "{chunks:?}");
        }
    }
}

/// HTTP/2 counts a body by the first length. Written to HTTP/1.1, the next server may go by the second.
#[tokio::test]
async fn a_length_is_said_once() {
    let service = Service::start(ONLY_HTTP1).await;
    let world = World::new(&service.open_policy());
    let gateway = world.listen(API).await;
    for lengths in [["5", "5"], ["5", "50"], ["5", "0"]] {
        let mut frames = Frames::begin(TcpStream::connect(gateway).await.unwrap()).await;
        let more = lengths.map(|length| ("content-length", length));
        let mut bytes = frame(HEADERS, END_HEADERS, 1, &block(&more));
        bytes.extend(frame(DATA, END_STREAM, 1, b"hello"));
        frames.say(&bytes).await;
        frames.end(1).await;
    }
    assert_eq!(service.lines(), [""; 0]);
}
