//! A connection that is no longer HTTP: bytes both ways until both sides are done.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::time::timeout;

use super::download::{ENDED_BY_POLICY, ENDED_BY_SECRET, Ending, HOLD};
use crate::credential::Scrub;
use crate::upstream::lease::Lease;

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
/// more to say is told to the other, which may go on (half-close). A secret that `scrub` finds on
/// its way to the agent ends the stream: within frames that count their bytes it cannot be replaced.
pub async fn splice<F: Future>(
    (agent, upstream): (OnUpgrade, OnUpgrade),
    scrub: Option<Box<Scrub>>,
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
            pump(&mut from_agent, &mut to_upstream, None, &up, &clock),
            pump(&mut from_upstream, &mut to_agent, scrub, &down, &clock),
        )
    };
    tokio::select! {
        done = both => match done {
            Ok(_) => ending.whole(),
            Err(Broken::Secret) => ending.status(ENDED_BY_SECRET),
            Err(Broken::Io) => {}
        },
        () = clock.idle(until.idle) => {}
        _ = until.revoked => ending.status(ENDED_BY_POLICY),
    }
    ending.moved(up.load(Ordering::Relaxed), down.load(Ordering::Relaxed));
}

/// Why a direction ended before its end.
enum Broken {
    Io,
    /// The secret was found; nothing of the piece that it was in went on.
    Secret,
}

impl From<io::Error> for Broken {
    fn from(_: io::Error) -> Self {
        Broken::Io
    }
}

async fn pump<R, W>(
    from: &mut R,
    to: &mut W,
    mut scrub: Option<Box<Scrub>>,
    count: &AtomicU64,
    clock: &Clock,
) -> Result<(), Broken>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let mut buffer = vec![0; COPY_BYTES];
    loop {
        let read = from.read(&mut buffer);
        let length = match scrub.as_mut().filter(|scrub| scrub.holds()) {
            None => read.await?,
            Some(scrub) => match timeout(HOLD, read).await {
                Ok(read) => read?,
                Err(_) => {
                    write(to, &scrub.release(), count).await?;
                    continue;
                }
            },
        };
        clock.moved();
        let piece = buffer.get(..length).unwrap_or_default();
        match &mut scrub {
            None => write(to, piece, count).await?,
            Some(scrub) => {
                let clean = if length == 0 {
                    scrub.finish()
                } else {
                    scrub.push(piece)
                };
                if scrub.hits() > 0 {
                    return Err(Broken::Secret);
                }
                write(to, &clean, count).await?;
            }
        }
        if length == 0 {
            return Ok(to.shutdown().await?);
        }
        clock.moved();
    }
}

async fn write<W: AsyncWrite + Unpin>(to: &mut W, piece: &[u8], count: &AtomicU64) -> io::Result<()> {
    if !piece.is_empty() {
        to.write_all(piece).await?;
        to.flush().await?;
        count.fetch_add(piece.len() as u64, Ordering::Relaxed);
    }
    Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::credential::Secret;

    #[tokio::test]
    async fn what_is_held_back_goes_on_after_a_while_and_is_looked_at_still() {
        let secret = Secret::new(b"correct-horse-battery".to_vec());
        let scrub = Some(Box::new(Scrub::new(&secret, b"correct-horse-battery", "{{pat}}")));
        let (mut upstream, mut from) = tokio::io::duplex(1 << 10);
        let (mut to, mut agent) = tokio::io::duplex(1 << 10);
        let (count, clock) = (AtomicU64::new(0), Clock::new());
        let pumped = pump(&mut from, &mut to, scrub, &count, &clock);
        let story = async {
            for text in ["x", "correct-h", "correct-horse-batter", "x}"] {
                upstream.write_all(text.as_bytes()).await.unwrap();
                let mut came = vec![0; text.len()];
                agent.read_exact(&mut came).await.unwrap();
                assert_eq!(came, text.as_bytes());
            }
            // A secret that comes in two parts ends the stream at its last byte.
            upstream.write_all(b"correct-horse-").await.unwrap();
            let mut came = [0; 14];
            agent.read_exact(&mut came).await.unwrap();
            upstream.write_all(b"battery; more").await.unwrap();
        };
        let (ended, ()) = tokio::join!(pumped, story);
        assert!(matches!(ended, Err(Broken::Secret)));
        drop(to);
        let mut rest = Vec::new();
        agent.read_to_end(&mut rest).await.unwrap();
        assert_eq!(rest, b"", "nothing more went on");
    }
}
