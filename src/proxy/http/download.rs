//! The response's way back to the agent.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::{Sleep, sleep};

use super::activity::Open;
use super::body::Tally;
use super::faults::count_answer_part;
use crate::audit::{Outcome, RecordId};
use crate::bad_input::Reader;
use crate::credential::Scrub;
use crate::upstream::lease::Lease;
use crate::verdict::Refusal;

/// Writes the outcome of a request into its record, once, when it is dropped.
pub struct Ending {
    record: RecordId,
    status: String,
    began: Instant,
    tally: Arc<Tally>,
    down: u64,
    whole: bool,
    finish: Box<dyn Fn(RecordId, Outcome) + Send>,
}

/// Why a response was cut off.
#[derive(Debug, thiserror::Error)]
pub enum Cut {
    #[error(transparent)]
    Upstream(#[from] hyper::Error),
    #[error("a new policy does not allow this response any more")]
    Revoked,
    #[error("a secret came in parts, of which one had gone on")]
    Secret,
}

/// Comes when the policy in force does not allow what was permitted.
pub type Revoked = Pin<Box<dyn Future<Output = Refusal> + Send>>;

/// How long the end of what came is held back that may be a part of a secret, where nothing says that more is to
/// come: longer than the way to most upstreams and back, so that an agent gains nothing by having a secret fall
/// on two of their packets.
pub const HOLD: Duration = Duration::from_millis(200);

/// The status of a stream that a secret ended, since it could not be taken out of it.
pub const ENDED_BY_SECRET: &str = "ended: a secret stood in the stream";

/// The status of what a reload ended.
pub const ENDED_BY_POLICY: &str = "ended: a new policy does not allow it";

/// The body of a response to the agent.
pub struct Download {
    from: From,
    revoked: Option<Revoked>,
    ending: Option<Ending>,
    open: Option<Open>,
    /// What broke the upstream's body, once what came before has gone down.
    broken: Option<Cut>,
}

#[allow(
    clippy::large_enum_variant,
    reason = "one a response; a box would be an allocation for each"
)]
enum From {
    Full(Option<Bytes>),
    Upstream {
        incoming: Incoming,
        lease: Option<Lease>,
        scrub: Option<Box<Scrub>>,
        /// Ends when what is held back has waited long enough.
        hold: Option<Pin<Box<Sleep>>>,
        tally: Arc<Tally>,
        /// Trailers that wait behind what a scrubber had held back.
        trailers: Option<http::HeaderMap>,
        over: bool,
        server: Reader,
    },
}

impl Download {
    /// A body that the gateway wrote.
    pub fn full(bytes: Bytes) -> Self {
        Download {
            from: From::Full(Some(bytes).filter(|bytes| !bytes.is_empty())),
            revoked: None,
            ending: None,
            open: None,
            broken: None,
        }
    }

    /// An upstream's body. The lease goes back when it was read to its end.
    /// What of it is no HTTP is counted as `server`'s.
    pub fn upstream(
        incoming: Incoming,
        lease: Lease,
        scrub: Option<Box<Scrub>>,
        ending: Ending,
        server: Reader,
    ) -> Self {
        Download {
            from: From::Upstream {
                incoming,
                lease: Some(lease),
                scrub,
                hold: None,
                tally: ending.tally.clone(),
                trailers: None,
                over: false,
                server,
            },
            revoked: None,
            ending: Some(ending),
            open: None,
            broken: None,
        }
    }

    /// Cuts the response off when `revoked` comes.
    pub fn until(mut self, revoked: Option<Revoked>) -> Self {
        self.revoked = revoked;
        self
    }

    /// Keeps the request open in its connection's [`super::activity`] as long as the body lives.
    pub fn keep_open(&mut self, open: Open) {
        self.open = Some(open);
    }
}

impl Body for Download {
    type Data = Bytes;
    type Error = Cut;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        let this = &mut *self;
        // First, since an upstream that always has more would never let it have its turn.
        if let Some(revoked) = &mut this.revoked
            && revoked.as_mut().poll(cx).is_ready()
        {
            return Poll::Ready(Some(Err(this.cut(Cut::Revoked))));
        }
        if let Some(broken) = this.broken.take() {
            return Poll::Ready(Some(Err(broken)));
        }
        let frame = match &mut this.from {
            From::Full(bytes) => return Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            From::Upstream { .. } => this.from.poll_upstream(cx),
        };
        let frame = match std::task::ready!(frame) {
            Some(Err(Cut::Secret)) => return Poll::Ready(Some(Err(this.cut(Cut::Secret)))),
            // hyper drops what it holds still when a body fails, the head of the answer included.
            Some(Err(broken)) => {
                this.broken = Some(broken);
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            frame => frame,
        };
        match &frame {
            Some(Ok(frame)) => {
                if let (Some(ending), Some(data)) = (&mut this.ending, frame.data_ref()) {
                    ending.down += data.len() as u64;
                }
            }
            Some(Err(_)) => {}
            None => this.end(),
        }
        if this.is_end_stream() {
            this.end();
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match &self.from {
            From::Full(bytes) => bytes.is_none(),
            From::Upstream {
                incoming,
                scrub,
                trailers,
                over,
                ..
            } => *over && trailers.is_none() || scrub.is_none() && incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.from {
            From::Full(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, Bytes::len) as u64),
            // A scrubber changes the length.
            From::Upstream { scrub: Some(_), .. } => SizeHint::default(),
            From::Upstream { incoming, .. } => incoming.size_hint(),
        }
    }
}

impl Download {
    /// Lets go of the upstream, whose connection is not used again.
    fn cut(&mut self, why: Cut) -> Cut {
        self.from = From::Full(None);
        self.revoked = None;
        if let Some(ending) = &mut self.ending {
            ending.status(match why {
                Cut::Secret => ENDED_BY_SECRET,
                _ => ENDED_BY_POLICY,
            });
            ending.whole = true;
        }
        why
    }

    /// The response was read whole: its connection can be used again.
    fn end(&mut self) {
        if let Some(ending) = &mut self.ending {
            ending.whole = true;
        }
        if let From::Upstream { lease, tally, .. } = &mut self.from
            && tally.whole.load(Ordering::Acquire)
            && let Some(lease) = lease.take()
        {
            lease.done();
        }
    }
}

impl From {
    fn poll_upstream(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        let From::Upstream {
            incoming,
            lease,
            scrub,
            hold,
            trailers,
            over,
            server,
            ..
        } = self
        else {
            return Poll::Ready(None);
        };
        loop {
            if *over {
                return Poll::Ready(trailers.take().map(|trailers| Ok(Frame::trailers(trailers))));
            }
            let next = match lease {
                Some(lease) => lease.poll(cx, |cx| Pin::new(&mut *incoming).poll_frame(cx)),
                None => Pin::new(&mut *incoming).poll_frame(cx),
            };
            let frame = match next {
                Poll::Ready(Some(Ok(frame))) => Some(frame),
                Poll::Ready(Some(Err(error))) => {
                    count_answer_part(*server, &error);
                    return Poll::Ready(Some(Err(error.into())));
                }
                Poll::Ready(None) => None,
                Poll::Pending => {
                    // Of a response that says its length more is to come, or its end.
                    let waits =
                        |scrub: &&mut Box<Scrub>| scrub.holds() && incoming.size_hint().upper().is_none();
                    let Some(scrub) = scrub.as_mut().filter(waits) else {
                        return Poll::Pending;
                    };
                    let sleep = hold.get_or_insert_with(|| Box::pin(sleep(HOLD)));
                    std::task::ready!(sleep.as_mut().poll(cx));
                    *hold = None;
                    return Poll::Ready(Some(Ok(Frame::data(scrub.release()))));
                }
            };
            *hold = None;
            let Some(scrub) = scrub else {
                *over = frame.is_none();
                return Poll::Ready(frame.map(Ok));
            };
            let out = match frame.map(Frame::into_data) {
                Some(Ok(data)) => {
                    *over = incoming.is_end_stream();
                    match *over {
                        true => scrub.last(data),
                        false => scrub.push(&data),
                    }
                }
                Some(Err(frame)) => {
                    *trailers = frame.into_trailers().ok();
                    if let Some(trailers) = trailers {
                        scrub.head(trailers);
                    }
                    *over = true;
                    scrub.finish()
                }
                None => {
                    *over = true;
                    scrub.finish()
                }
            };
            if scrub.torn() {
                return Poll::Ready(Some(Err(Cut::Secret)));
            }
            if !out.is_empty() {
                return Poll::Ready(Some(Ok(Frame::data(out))));
            }
        }
    }
}

impl Drop for Download {
    fn drop(&mut self) {
        // hyper does not poll past a known length, so the end may not have been seen.
        if self.is_end_stream() {
            self.end();
        }
    }
}

impl Ending {
    pub fn new(
        record: RecordId,
        began: Instant,
        tally: Arc<Tally>,
        finish: Box<dyn Fn(RecordId, Outcome) + Send>,
    ) -> Self {
        Ending {
            record,
            status: "no answer".to_owned(),
            began,
            tally,
            down: 0,
            whole: false,
            finish,
        }
    }

    /// What the upstream answered.
    pub fn status(&mut self, status: impl Into<String>) {
        self.status = status.into();
    }

    /// Bytes of an upgraded stream that went up and came down.
    pub fn moved(&mut self, up: u64, down: u64) {
        self.tally.bytes.fetch_add(up, Ordering::Relaxed);
        self.down += down;
    }

    /// Another will write it.
    pub fn leave(mut self) {
        self.finish = Box::new(|_, _| ());
    }

    /// The exchange ended as it should.
    pub fn whole(&mut self) {
        self.whole = true;
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        let mut status = std::mem::take(&mut self.status);
        if !self.whole {
            status.push_str(", cut off");
        }
        let outcome = Outcome {
            status,
            bytes_up: self.tally.bytes.load(Ordering::Relaxed),
            bytes_down: self.down,
            took_us: u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX),
        };
        (self.finish)(self.record, outcome);
    }
}
