//! Bodies on their way: held whole where a rule reads them, streamed frame by frame else.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use http::header::{
    AUTHORIZATION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, COOKIE, HOST, HeaderMap,
    HeaderName, PROXY_AUTHORIZATION, SET_COOKIE, TE, TRAILER, TRANSFER_ENCODING,
};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;

use super::activity::Reading;
use super::faults;
use crate::credential::PlaceholderScan;
use crate::facts::http::method::MethodScan;
use crate::protocol::http::may_not_trail;

/// The error of a body; it ends the message on both sides.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    #[error(transparent)]
    Peer(#[from] hyper::Error),
    #[error("a placeholder stands in a place that is not its slot")]
    Placeholder,
    #[error("the body names another method than the request")]
    Method,
}

/// Fields that may not stand in a trailer (RFC 9110 §6.5.1): framing, routing, credentials.
const NO_TRAILERS: [HeaderName; 12] = [
    AUTHORIZATION,
    CONTENT_ENCODING,
    CONTENT_LENGTH,
    CONTENT_RANGE,
    CONTENT_TYPE,
    COOKIE,
    HOST,
    PROXY_AUTHORIZATION,
    SET_COOKIE,
    TE,
    TRAILER,
    TRANSFER_ENCODING,
];

/// What is known of a request's body on its way up.
#[derive(Debug, Default)]
pub struct Tally {
    /// Bytes that were handed to the upstream's connection.
    pub bytes: AtomicU64,
    /// Whether the body was handed over to its end.
    pub whole: AtomicBool,
    /// Whether the body was cut off because of a placeholder in it.
    pub refused: AtomicBool,
    /// Whether it was because of another method in it.
    pub remethod: AtomicBool,
}

/// A request's body towards the upstream.
pub struct UpBody {
    from: Source,
    tally: Arc<Tally>,
    /// Headers that hold secrets at this endpoint: none of them may come as a trailer.
    slots: Vec<HeaderName>,
}

enum Source {
    Held {
        data: Option<Bytes>,
        trailers: Option<HeaderMap>,
    },
    Stream(Box<Streamed>),
}

struct Streamed {
    /// What was read of it already.
    prefix: VecDeque<Frame<Bytes>>,
    incoming: Incoming,
    /// Set while the agent waits for `100 Continue`.
    gate: Option<Gate>,
    scan: Option<PlaceholderScan>,
    method: Option<MethodScan>,
    /// Is told when the agent has said all.
    reading: Option<Reading>,
}

/// Ends when the upstream wants the body.
type Gate = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A body that was read to its end, or the fact that it is too long.
pub enum Read {
    Whole(Held),
    /// Over the limit: what was read of it so far, and the rest.
    Over(Begun),
}

/// A body that streams, with what was read of it ahead.
pub struct Begun {
    prefix: VecDeque<Frame<Bytes>>,
    incoming: Incoming,
}

/// A whole body; its bytes are shared by its clones.
#[derive(Clone, Default)]
pub struct Held {
    pub data: Bytes,
    pub trailers: Option<HeaderMap>,
}

/// Reads a body up to `bytes_max`. One that comes in a single piece is not copied.
///
/// # Errors
/// The agent broke off, or its framing is wrong.
pub async fn hold(mut incoming: Incoming, bytes_max: usize) -> Result<Read, hyper::Error> {
    let mut pieces = Vec::new();
    let mut length = 0;
    let mut trailers = None;
    while let Some(frame) = incoming.frame().await {
        match frame.inspect_err(faults::count_body)?.into_data() {
            Ok(data) => {
                length += data.len();
                pieces.push(data);
            }
            Err(frame) => trailers = frame.into_trailers().ok().map(clean_trailers),
        }
        // Pieces may be tiny; what is kept of each must not outweigh the limit.
        if length > bytes_max {
            let prefix = VecDeque::from([Frame::data(join(pieces))]);
            return Ok(Read::Over(Begun { prefix, incoming }));
        }
        if pieces.len() == PIECES_MAX {
            pieces = vec![join(pieces)];
        }
    }
    Ok(Read::Whole(Held {
        data: join(pieces),
        trailers,
    }))
}

impl Begun {
    pub fn new(incoming: Incoming) -> Self {
        Begun {
            prefix: VecDeque::new(),
            incoming,
        }
    }

    /// Reads ahead while a verdict is waited for: an agent that leaves shows only where its bytes
    /// are read. Never ends but when the agent broke off; drop it when the verdict is there.
    pub async fn read_ahead(&mut self) -> hyper::Error {
        let mut length = 0;
        while length < AHEAD_BYTES_MAX && self.prefix.len() < PIECES_MAX {
            match self.incoming.frame().await {
                Some(Ok(frame)) => {
                    length += frame.data_ref().map_or(0, Bytes::len);
                    self.prefix.push_back(frame);
                }
                Some(Err(error)) => {
                    faults::count_body(&error);
                    return error;
                }
                None => break,
            }
        }
        std::future::pending().await
    }

    /// The rest, for who wants to read it out.
    pub fn into_rest(self) -> Incoming {
        self.incoming
    }
}

/// Bytes of a streamed body that are read while its verdict is waited for.
pub(super) const AHEAD_BYTES_MAX: usize = 64 << 10;

/// Pieces of a body that are kept apart: of a held one they are then joined, of one that streams no more is read ahead.
pub(super) const PIECES_MAX: usize = 1024;

fn join(mut pieces: Vec<Bytes>) -> Bytes {
    if pieces.len() == 1 {
        return pieces.pop().unwrap_or_default();
    }
    let mut joined = BytesMut::with_capacity(pieces.iter().map(Bytes::len).sum());
    for piece in pieces {
        joined.extend_from_slice(&piece);
    }
    joined.freeze()
}

/// Removes what a receiver might merge into the head.
fn clean_trailers(mut trailers: HeaderMap) -> HeaderMap {
    let bad = |name: &&HeaderName| NO_TRAILERS.contains(name) || may_not_trail(name);
    for name in trailers.keys().filter(bad).cloned().collect::<Vec<_>>() {
        trailers.remove(name);
    }
    trailers
}

impl UpBody {
    /// No body at all.
    pub fn empty() -> Self {
        Self::held(Held::default())
    }

    /// Exactly the bytes that were held and judged.
    pub fn held(held: Held) -> Self {
        UpBody {
            from: Source::Held {
                data: Some(held.data).filter(|data| !data.is_empty()),
                trailers: held.trailers,
            },
            tally: Arc::default(),
            slots: Vec::new(),
        }
    }

    /// A body that streams.
    pub fn stream(begun: Begun) -> Self {
        UpBody {
            from: Source::Stream(Box::new(Streamed {
                prefix: begun.prefix,
                incoming: begun.incoming,
                gate: None,
                scan: None,
                method: None,
                reading: None,
            })),
            tally: Arc::default(),
            slots: Vec::new(),
        }
    }

    /// Takes these fields out of the trailers.
    pub fn without(mut self, slots: Vec<HeaderName>) -> Self {
        self.slots = slots;
        self
    }

    /// Looks for placeholders in every piece of a streamed body before it leaves.
    pub fn scanned(mut self, scan: Option<PlaceholderScan>) -> Self {
        if let Source::Stream(streamed) = &mut self.from {
            streamed.scan = scan;
        }
        self
    }

    /// Looks for another method in every piece of a streamed body before it leaves.
    pub fn of_one_method(mut self, scan: Option<MethodScan>) -> Self {
        if let Source::Stream(streamed) = &mut self.from {
            streamed.method = scan;
        }
        self
    }

    /// Tells the agent's connection when the body was read to its end.
    pub fn told(mut self, reading: Reading) -> Self {
        if let Source::Stream(streamed) = &mut self.from {
            streamed.reading = Some(reading);
        }
        self
    }

    /// Holds a streamed body back until `open` ends. Only then does hyper send the agent its own
    /// `100 Continue`, since it does so when the body is first polled.
    pub fn behind(mut self, open: impl Future<Output = ()> + Send + 'static) -> Self {
        if let Source::Stream(streamed) = &mut self.from {
            streamed.gate = Some(Box::pin(open));
        }
        self
    }

    pub fn tally(&self) -> Arc<Tally> {
        if self.is_end_stream() {
            self.tally.whole.store(true, Ordering::Release);
        }
        self.tally.clone()
    }
}

impl Body for UpBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        let mut frame = match &mut this.from {
            Source::Held { data, trailers } => match data.take() {
                Some(data) => Some(Frame::data(data)),
                None => trailers.take().map(Frame::trailers),
            },
            Source::Stream(streamed) => match std::task::ready!(streamed.poll_next(cx)) {
                Some(Ok(frame)) => Some(frame),
                Some(Err(error)) => {
                    let refused = matches!(error, BodyError::Placeholder);
                    this.tally.refused.store(refused, Ordering::Release);
                    let remethod = matches!(error, BodyError::Method);
                    this.tally.remethod.store(remethod, Ordering::Release);
                    return Poll::Ready(Some(Err(error)));
                }
                None => None,
            },
        };
        if let Some(trailers) = frame.as_mut().and_then(Frame::trailers_mut) {
            for name in &this.slots {
                trailers.remove(name);
            }
        }
        if let Some(data) = frame.as_ref().and_then(Frame::data_ref) {
            this.tally.bytes.fetch_add(data.len() as u64, Ordering::Relaxed);
        }
        if frame.is_none() || self.is_end_stream() {
            self.tally.whole.store(true, Ordering::Release);
            if let Source::Stream(streamed) = &mut self.from
                && let Some(reading) = streamed.reading.take()
            {
                reading.ended();
            }
        }
        Poll::Ready(frame.map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        match &self.from {
            Source::Held { data, trailers } => data.is_none() && trailers.is_none(),
            Source::Stream(streamed) => streamed.prefix.is_empty() && streamed.incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.from {
            Source::Held { data, .. } => SizeHint::with_exact(data.as_ref().map_or(0, Bytes::len) as u64),
            Source::Stream(streamed) => {
                let ahead = streamed.prefix.iter().filter_map(Frame::data_ref);
                let prefix = ahead.map(Bytes::len).sum::<usize>() as u64;
                let rest = streamed.incoming.size_hint();
                let mut hint = SizeHint::new();
                if let Some(upper) = rest.upper() {
                    hint.set_upper(upper.saturating_add(prefix));
                }
                hint.set_lower(rest.lower().saturating_add(prefix));
                hint
            }
        }
    }
}

impl Streamed {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some(gate) = &mut self.gate {
            std::task::ready!(gate.as_mut().poll(cx));
            self.gate = None;
        }
        let frame = match self.prefix.pop_front() {
            Some(frame) => frame,
            None => match std::task::ready!(Pin::new(&mut self.incoming).poll_frame(cx)) {
                None => return Poll::Ready(None),
                Some(Err(error)) => {
                    faults::count_body(&error);
                    return Poll::Ready(Some(Err(error.into())));
                }
                Some(Ok(frame)) => frame,
            },
        };
        let frame = match frame.into_trailers() {
            Ok(trailers) => {
                let trailers = clean_trailers(trailers);
                let scan = self.scan.as_ref();
                if scan.is_some_and(|scan| trailers.values().any(|value| scan.stands_in(value.as_bytes()))) {
                    return Poll::Ready(Some(Err(BodyError::Placeholder)));
                }
                return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
            }
            Err(frame) => frame,
        };
        if let (Some(scan), Some(data)) = (&mut self.scan, frame.data_ref())
            && scan.push(data)
        {
            return Poll::Ready(Some(Err(BodyError::Placeholder)));
        }
        if let (Some(scan), Some(data)) = (&mut self.method, frame.data_ref())
            && scan.push(data)
        {
            return Poll::Ready(Some(Err(BodyError::Method)));
        }
        Poll::Ready(Some(Ok(frame)))
    }
}
