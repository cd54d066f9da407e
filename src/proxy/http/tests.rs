//! Limits that are hyper's to keep, or that no test from outside could tell from a socket's own buffers. All goes
//! through memory on one thread, so what still moves is done within so many turns.

use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Frame;
use http_body_util::{Empty, StreamBody};
use hyper::body::Incoming;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::super::replay::Replayed;
use super::activity::Slow;
use super::body::{AHEAD_BYTES_MAX, Begun, PIECES_MAX};
use super::greeting::{PREFACE, begins_http2};
use super::rest::{REST_AFTER, builder};
use super::*;

/// Bytes that a stream in memory holds.
const PIPE_BYTES: usize = 1 << 10;

/// Until nothing moves any more.
async fn at_rest() {
    for _ in 0..10_000 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn what_an_agent_does_not_read_is_buffered_up_to_a_limit() {
    let taken = Arc::new(AtomicUsize::new(0));
    let counter = taken.clone();
    let service = service_fn(move |_| {
        let counter = counter.clone();
        let pieces = futures_util::stream::repeat_with(move || {
            counter.fetch_add(PIPE_BYTES, Ordering::SeqCst);
            Ok::<_, Infallible>(Frame::data(Bytes::from_static(&[b'x'; PIPE_BYTES])))
        });
        async { Ok::<_, Infallible>(Response::new(StreamBody::new(pieces))) }
    });
    let (mut agent, own) = tokio::io::duplex(PIPE_BYTES);
    let task = tokio::spawn(http2().serve_connection(TokioIo::new(own), service));
    // Windows as wide as there are: for streams, in SETTINGS, and for the connection.
    let mut said = PREFACE.to_vec();
    said.extend(b"\0\0\x06\x04\0\0\0\0\0\0\x04\x7f\xff\xff\xff");
    said.extend(b"\0\0\x04\x08\0\0\0\0\0\x7f\xff\0\0");
    // GET https://a/ by the static table of HPACK.
    said.extend(b"\0\0\x06\x01\x05\0\0\0\x01\x82\x87\x84\x41\x01a");
    agent.write_all(&said).await.unwrap();
    at_rest().await;
    // What was taken of the answer, and not read, lies in the stream's buffer, hyper's and the pipe.
    let taken = taken.load(Ordering::SeqCst);
    let most = SEND_BUFFER_BYTES_MAX + (32 << 10);
    assert!((SEND_BUFFER_BYTES_MAX..=most).contains(&taken), "{taken}");
    task.abort();
}

#[tokio::test]
async fn so_much_of_a_body_is_read_ahead_of_its_verdict() {
    let service = service_fn(async |request: Request<Incoming>| {
        Begun::new(request.into_body()).read_ahead().await;
        Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
    });
    let (mut agent, own) = tokio::io::duplex(PIPE_BYTES);
    let task = tokio::spawn(builder().serve_connection(TokioIo::new(own), service));
    let written = Arc::new(AtomicUsize::new(0));
    let counter = written.clone();
    let writes = tokio::spawn(async move {
        agent
            .write_all(b"POST / HTTP/1.1\r\nContent-Length: 10000000\r\n\r\n")
            .await
            .unwrap();
        while agent.write_all(&[b'x'; PIPE_BYTES]).await.is_ok() {
            counter.fetch_add(PIPE_BYTES, Ordering::SeqCst);
        }
    });
    at_rest().await;
    let written = written.load(Ordering::SeqCst);
    let most = AHEAD_BYTES_MAX + (16 << 10);
    assert!((AHEAD_BYTES_MAX..=most).contains(&written), "{written}");
    task.abort();
    writes.abort();
}

/// What is kept of a piece is more than a byte, so that pieces have a number of their own.
#[tokio::test]
async fn so_many_pieces_of_a_body_are_read_ahead() {
    const CHUNK: &[u8] = b"1\r\nx\r\n";
    let service = service_fn(async |request: Request<Incoming>| {
        Begun::new(request.into_body()).read_ahead().await;
        Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
    });
    let (mut agent, own) = tokio::io::duplex(PIPE_BYTES);
    let task = tokio::spawn(builder().serve_connection(TokioIo::new(own), service));
    let written = Arc::new(AtomicUsize::new(0));
    let counter = written.clone();
    let writes = tokio::spawn(async move {
        agent
            .write_all(b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n")
            .await
            .unwrap();
        while agent.write_all(CHUNK).await.is_ok() {
            counter.fetch_add(CHUNK.len(), Ordering::SeqCst);
        }
    });
    at_rest().await;
    // Behind them hyper reads until its own buffer is full. Their bytes alone would let much more come.
    let least = PIECES_MAX * CHUNK.len();
    let most = least + HEAD_BYTES_MAX + 2 * PIPE_BYTES;
    const { assert!(PIECES_MAX * 2 + HEAD_BYTES_MAX < AHEAD_BYTES_MAX * 2) };
    let written = written.load(Ordering::SeqCst);
    assert!(
        (least..=most).contains(&written),
        "{written} of {least} to {most}"
    );
    task.abort();
    writes.abort();
}

#[tokio::test]
async fn http2_is_known_by_its_preface_alone_however_it_is_cut() {
    let other = b"PRI * HTTP/1.1\r\nHost: a\r\n\r\n";
    for (bytes, is_http2) in [
        (PREFACE, true),
        (&[PREFACE, b"more"].concat(), true),
        (other, false),
        (b"POST / HTTP/1.1\r\n\r\n", false),
        (PREFACE.split_at(23).0, false),
    ] {
        for at in 1..bytes.len() {
            let mut io = in_two(bytes, at);
            let mut ahead = Vec::new();
            assert_eq!(begins_http2(&mut io, &mut ahead).await.unwrap(), is_http2);
            // Nothing is lost: what was read is given again, and then the rest.
            let mut all = Vec::new();
            Replayed::new(io, ahead).read_to_end(&mut all).await.unwrap();
            assert_eq!(all, bytes, "cut at {at}");
        }
    }
}

/// A stream that gives `bytes` in two reads.
fn in_two(bytes: &[u8], at: usize) -> impl AsyncRead + AsyncWrite + Unpin {
    let (first, rest) = bytes.split_at(at);
    let all = std::io::Cursor::new(first.to_vec()).chain(std::io::Cursor::new(rest.to_vec()));
    tokio::io::join(all, tokio::io::sink())
}

/// A stream in memory that says with how much room it was read last: hyper gives it kilobytes, who waits for a request one
/// byte.
struct Measured(tokio::io::DuplexStream, Arc<AtomicUsize>);

impl AsyncRead for Measured {
    fn poll_read(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        buf: &mut tokio::io::ReadBuf<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        self.1.store(buf.remaining(), Ordering::SeqCst);
        std::pin::Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Measured {
    fn poll_write(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        bytes: &[u8],
    ) -> std::task::Poll<std::io::Result<usize>> {
        std::pin::Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::pin::Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::pin::Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// Serves a connection that rests at once when it can, and answers each request with its length, or leaves its body.
fn resting() -> (
    tokio::io::DuplexStream,
    Arc<AtomicUsize>,
    tokio::task::JoinHandle<Result<(), ServeError>>,
) {
    let (agent, own) = tokio::io::duplex(64 << 10);
    let room = Arc::new(AtomicUsize::new(0));
    let activity = Activity::new();
    let io = Noted::new(Measured(own, room.clone()), activity.clone());
    let patience = Patience {
        head: Duration::from_secs(20),
        idle: Duration::from_secs(20),
        rest: Some(Duration::from_millis(1)),
    };
    let each = activity.clone();
    let service = service_fn(move |request: Request<Incoming>| {
        let activity = each.clone();
        Box::pin(async move {
            let has_body = !http_body::Body::is_end_stream(request.body());
            let open = activity.begin(request.version(), has_body);
            let mut length = 0;
            if request.uri().path() != "/left" {
                length = http_body_util::BodyExt::collect(request.into_body())
                    .await
                    .unwrap()
                    .to_bytes()
                    .len();
                activity.body_ended();
            }
            let mut response = Response::new(download::Download::full(Bytes::from(format!("{length}!"))));
            response.body_mut().keep_open(open);
            Ok::<_, Infallible>(response)
        })
    });
    let task = tokio::spawn(async move { rest::serve(io, service, &activity, patience).await });
    (agent, room, task)
}

async fn answered(agent: &mut tokio::io::DuplexStream, request: &str, ends: &str) {
    agent.write_all(request.as_bytes()).await.unwrap();
    let mut got = Vec::new();
    while !got.ends_with(ends.as_bytes()) {
        assert_ne!(agent.read_buf(&mut got).await.unwrap(), 0);
    }
}

async fn rests(room: &AtomicUsize) {
    while room.load(Ordering::SeqCst) != 1 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test]
async fn a_connection_that_rests_has_no_buffers_and_takes_the_next_request() {
    let (mut agent, room, task) = resting();
    let post = "POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello";
    let chunked = "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
    for (request, ends) in [
        ("GET / HTTP/1.1\r\n\r\n", "0!"),
        (post, "5!"),
        (chunked, "3!"),
        ("HEAD / HTTP/1.1\r\n\r\n", "\r\n\r\n"),
    ] {
        answered(&mut agent, request, ends).await;
        rests(&room).await;
    }
    // One that leaves while it rests ends it without an error.
    drop(agent);
    task.await.unwrap().unwrap();
    assert_eq!(REST_AFTER, Duration::from_secs(2), "the others wait for it");
}

/// Else the rest of it would be read as the next request.
#[tokio::test]
async fn a_connection_in_the_midst_of_a_request_does_not_rest() {
    for midst in [
        "POST /left HTTP/1.1\r\nContent-Length: 9\r\n\r\nhello",
        "GET / HTTP/1.1\r\n\r\nGET / HT",
    ] {
        let (mut agent, room, task) = resting();
        answered(&mut agent, midst, "0!").await;
        let looks = tokio::time::sleep(Duration::from_millis(30));
        looks.await;
        assert_ne!(room.load(Ordering::SeqCst), 1, "{midst}");
        task.abort();
    }
}

#[test]
fn what_rests_is_ended_when_it_was_idle_for_too_long() {
    assert!(Slow::Idle.ends().is_ok());
    assert!(matches!(Slow::Head.ends(), Err(ServeError::Slow(Slow::Head))));
}
