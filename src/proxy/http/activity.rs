//! Who on a connection is slow: an agent's stream that notes when bytes move, and the clock that
//! ends it.
//!
//! The data path stores two numbers; one timer a connection looks at them now and then.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::faults::Resets;

/// What a connection is doing. Times are milliseconds since it began.
#[derive(Debug)]
pub struct Activity {
    began: Instant,
    /// When bytes last moved, either way.
    moved: AtomicU64,
    /// When the first byte came after the last request had ended; zero for none.
    head_began: AtomicU64,
    /// How often bytes came, and how often when the last request had been read to its end: what
    /// came in between, behind an open request, is the beginning of the next head.
    reads: AtomicU64,
    reads_of_request: AtomicU64,
    /// Requests that were read and are not answered to the end.
    open: AtomicUsize,
    /// Requests that wait for a verdict: a person may take longer than any time-out here.
    held: AtomicUsize,
    /// Requests that were read at all.
    served: AtomicU64,
    /// Whether the agent speaks HTTP/2, where bytes between requests need not be a head's.
    http2: AtomicBool,
    /// Whether more of the last request's body may come.
    reading: AtomicBool,
    /// Whether all that was written has left.
    flushed: AtomicBool,
}

/// What a look at a connection finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// Nothing is left to do for a request that came, and none begins: what only requests need can go.
    Rest,
    Slow(Slow),
}

/// Why a connection was ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slow {
    /// No first request in time.
    Silent,
    /// A head that was begun and not ended.
    Head,
    /// No byte either way.
    Idle,
}

/// The limits that [`Activity::watch`] keeps.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// For the first request, and for each head once begun.
    pub head: Duration,
    /// For a byte in either direction.
    pub idle: Duration,
    /// For the next request, before the connection rests; `None` where it does already.
    pub rest: Option<Duration>,
}

impl Activity {
    pub fn new() -> Arc<Self> {
        Arc::new(Activity {
            began: Instant::now(),
            moved: AtomicU64::new(0),
            head_began: AtomicU64::new(0),
            reads: AtomicU64::new(0),
            reads_of_request: AtomicU64::new(0),
            open: AtomicUsize::new(0),
            held: AtomicUsize::new(0),
            served: AtomicU64::new(0),
            http2: AtomicBool::new(false),
            reading: AtomicBool::new(false),
            flushed: AtomicBool::new(false),
        })
    }

    /// A request's head was read, with a body or without; it is open until the guard is dropped.
    pub fn begin(self: &Arc<Self>, version: http::Version, has_body: bool) -> Open {
        self.http2
            .store(version == http::Version::HTTP_2, Ordering::Relaxed);
        self.served.fetch_add(1, Ordering::Relaxed);
        self.open.fetch_add(1, Ordering::Relaxed);
        self.head_began.store(0, Ordering::Relaxed);
        self.body_ended();
        self.reading.store(has_body, Ordering::Relaxed);
        Open(self.clone())
    }

    /// The body of the request that was begun last, for whoever reads it.
    pub fn reading(self: &Arc<Self>) -> Reading {
        Reading {
            activity: self.clone(),
            number: self.served.load(Ordering::Relaxed),
        }
    }

    /// The body of the open request was read to its end.
    pub fn body_ended(&self) {
        let reads = self.reads.load(Ordering::Relaxed);
        self.reads_of_request.store(reads, Ordering::Relaxed);
        self.reading.store(false, Ordering::Relaxed);
    }

    /// Bytes came that the next request begins with.
    pub fn head_began(&self) {
        self.head_began.store(self.now().max(1), Ordering::Relaxed);
    }

    /// A verdict is waited for until the guard is dropped.
    pub fn hold(self: &Arc<Self>) -> Waiting {
        self.held.fetch_add(1, Ordering::Relaxed);
        Waiting(self.clone())
    }

    /// Returns when the agent has been too slow, or its connection rests.
    pub async fn watch(&self, patience: Patience) -> Found {
        loop {
            match self.judge(self.now(), patience) {
                Err(found) => return found,
                Ok(wait) => tokio::time::sleep(wait).await,
            }
        }
    }

    /// How long nothing needs to be looked at, or what was found.
    fn judge(&self, now: u64, patience: Patience) -> Result<Duration, Found> {
        let left = |since: u64, limit: Duration, found: Found| {
            let spent = Duration::from_millis(now.saturating_sub(since));
            limit
                .checked_sub(spent)
                .filter(|left| !left.is_zero())
                .ok_or(found)
        };
        let moved = self.moved.load(Ordering::Relaxed);
        let mut next = match self.held.load(Ordering::Relaxed) {
            0 => left(moved, patience.idle, Found::Slow(Slow::Idle))?,
            _ => patience.idle,
        };
        if self.served.load(Ordering::Relaxed) == 0 {
            next = next.min(left(0, patience.head, Found::Slow(Slow::Silent))?);
        } else if !self.http2.load(Ordering::Relaxed) && self.open.load(Ordering::Relaxed) == 0 {
            match (self.head_began.load(Ordering::Relaxed), patience.rest) {
                (since @ 1.., _) => next = next.min(left(since, patience.head, Found::Slow(Slow::Head))?),
                (0, Some(rest)) if self.is_done() => next = next.min(left(moved, rest, Found::Rest)?),
                _ => {}
            }
        }
        // A head may begin right after this look, or a request end, so one looks again within its time.
        Ok(next.min(patience.head).min(patience.rest.unwrap_or(next)))
    }

    /// Whether the last request came to its end, and its answer left.
    fn is_done(&self) -> bool {
        self.flushed.load(Ordering::Relaxed) && !self.reading.load(Ordering::Relaxed)
    }

    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn read(&self) {
        let now = self.now();
        self.moved.store(now, Ordering::Relaxed);
        self.reads.fetch_add(1, Ordering::Relaxed);
        if self.open.load(Ordering::Relaxed) == 0 && self.head_began.load(Ordering::Relaxed) == 0 {
            self.head_began.store(now.max(1), Ordering::Relaxed);
        }
    }

    fn wrote(&self) {
        self.moved.store(self.now(), Ordering::Relaxed);
    }

    /// Whether what was written has left.
    fn flushed(&self, flushed: bool) {
        self.flushed.store(flushed, Ordering::Relaxed);
    }
}

/// A request's body that is read by another task, which may come to its end when the next request has begun.
pub struct Reading {
    activity: Arc<Activity>,
    number: u64,
}

impl Reading {
    /// It was read to its end.
    pub fn ended(self) {
        if self.activity.served.load(Ordering::Relaxed) == self.number {
            self.activity.body_ended();
        }
    }
}

/// An open request.
pub struct Open(Arc<Activity>);

impl Drop for Open {
    fn drop(&mut self) {
        let activity = &*self.0;
        let last = activity.open.fetch_sub(1, Ordering::Relaxed) == 1;
        let more = activity.reads.load(Ordering::Relaxed) > activity.reads_of_request.load(Ordering::Relaxed);
        if last && more {
            activity.head_began();
        }
    }
}

/// A request that waits for its verdict.
pub struct Waiting(Arc<Activity>);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.held.fetch_sub(1, Ordering::Relaxed);
        // What a person took is not the agent's silence.
        self.0.wrote();
    }
}

/// A stream that notes when bytes move, and which HTTP/2 streams the agent is told it broke.
pub struct Noted<IO> {
    io: IO,
    activity: Arc<Activity>,
    resets: Resets,
    /// What was read of it, and is to be read again.
    unread: Bytes,
}

impl<IO> Noted<IO> {
    pub fn new(io: IO, activity: Arc<Activity>) -> Self {
        Noted {
            io,
            activity,
            resets: Resets::default(),
            unread: Bytes::new(),
        }
    }

    /// Puts back what was read last.
    pub(super) fn unread(&mut self, bytes: Bytes) {
        debug_assert!(self.unread.is_empty(), "who puts back has read it all");
        self.unread = bytes;
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Noted<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.unread.is_empty() {
            let most = buf.remaining().min(self.unread.len());
            buf.put_slice(&self.unread.split_to(most));
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        let result = Pin::new(&mut self.io).poll_read(cx, buf);
        if buf.filled().len() > before {
            self.activity.read();
        }
        result
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Noted<IO> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.activity.flushed(false);
        let result = Pin::new(&mut self.io).poll_write(cx, bytes);
        if let Poll::Ready(written) = &result {
            self.activity.wrote();
            let written = *written.as_ref().unwrap_or(&0);
            self.resets.look(bytes.get(..written).unwrap_or_default());
        }
        result
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.activity.flushed(false);
        let result = Pin::new(&mut self.io).poll_write_vectored(cx, slices);
        if let Poll::Ready(written) = &result {
            self.activity.wrote();
            let mut left = *written.as_ref().unwrap_or(&0);
            for slice in slices {
                let (written, _) = slice.split_at(left.min(slice.len()));
                left -= written.len();
                self.resets.look(written);
            }
        }
        result
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.io).poll_flush(cx);
        self.activity.flushed(matches!(result, Poll::Ready(Ok(()))));
        result
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Whoever closes it is not done before it is closed.
        self.activity.flushed(false);
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
