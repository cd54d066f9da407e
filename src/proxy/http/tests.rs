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
use super::body::{AHEAD_BYTES_MAX, Begun, PIECES_MAX};
use super::greeting::{PREFACE, begins_http2};
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
    let task = tokio::spawn(http1().serve_connection(TokioIo::new(own), service));
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
    let task = tokio::spawn(http1().serve_connection(TokioIo::new(own), service));
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
