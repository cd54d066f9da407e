//! A connection that is no longer HTTP: bytes both ways until both sides are done.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::download::Ending;
use crate::upstream::pool::Lease;

/// Bytes that are moved at once in each direction.
pub const COPY_BYTES: usize = 64 << 10;

/// A spliced stream, to be run once its HTTP connection has let go of it.
pub type Splice = Pin<Box<dyn Future<Output = ()> + Send>>;

/// What ends a stream, other than its sides.
pub struct Until<F> {
    /// Nothing moved for so long.
    pub idle: Duration,
    /// Ready when the policy in force would not let the stream pass any more.
    pub revoked: F,
}

/// Copies both ways until both sides have ended, one broke, or `until` ends it. A side that has no
/// more to say is told to the other, which may go on (half-close).
pub async fn splice<F: Future<Output = ()>>(
    agent: OnUpgrade,
    upstream: OnUpgrade,
    lease: Lease,
    mut ending: Ending,
    until: Until<F>,
) {
    let (Ok(agent), Ok(upstream)) = tokio::join!(agent, upstream) else {
        return;
    };
    // The upstream's connection belongs to its upgraded stream now.
    lease.upgraded();
    let (mut from_agent, mut to_agent) = tokio::io::split(TokioIo::new(agent));
    let (mut from_upstream, mut to_upstream) = tokio::io::split(TokioIo::new(upstream));
    let clock = Clock::new();
    let (up, down) = (AtomicU64::new(0), AtomicU64::new(0));
    let both = async {
        tokio::try_join!(
            pump(&mut from_agent, &mut to_upstream, &up, &clock),
            pump(&mut from_upstream, &mut to_agent, &down, &clock),
        )
    };
    tokio::select! {
        done = both => if done.is_ok() { ending.whole() },
        () = clock.idle(until.idle) => {}
        () = until.revoked => ending.status("ended: a new policy does not allow it"),
    }
    ending.moved(up.load(Ordering::Relaxed), down.load(Ordering::Relaxed));
}

async fn pump<R, W>(from: &mut R, to: &mut W, count: &AtomicU64, clock: &Clock) -> io::Result<()>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let mut buffer = vec![0; COPY_BYTES];
    loop {
        let length = from.read(&mut buffer).await?;
        if length == 0 {
            return to.shutdown().await;
        }
        clock.moved();
        to.write_all(buffer.get(..length).unwrap_or_default()).await?;
        to.flush().await?;
        clock.moved();
        count.fetch_add(length as u64, Ordering::Relaxed);
    }
}

/// When bytes last moved, in milliseconds since the beginning.
struct Clock {
    began: Instant,
    moved: AtomicU64,
}

impl Clock {
    fn new() -> Self {
        Clock {
            began: Instant::now(),
            moved: AtomicU64::new(0),
        }
    }

    fn moved(&self) {
        self.moved.store(self.now(), Ordering::Relaxed);
    }

    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    async fn idle(&self, limit: Duration) {
        loop {
            let since = Duration::from_millis(self.now().saturating_sub(self.moved.load(Ordering::Relaxed)));
            match limit.checked_sub(since).filter(|left| !left.is_zero()) {
                Some(left) => tokio::time::sleep(left).await,
                None => return,
            }
        }
    }
}
