//! HTTP connections to upstreams, kept for reuse.
//!
//! The version mirrors the agent's: an HTTP/1.1 request goes out over HTTP/1.1, an HTTP/2 request
//! over HTTP/2 where the upstream speaks it. A connection belongs to one [`Key`]: one agent, one
//! endpoint as it is configured now, one name, one client certificate. A reload that changes any
//! of them finds no old connection.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use http::{Request, Response};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::task::AbortHandle;
use tokio::time::{timeout, timeout_at};

use super::dial::{DialError, Dialer, Target};
use crate::policy::Endpoint;
use crate::proxy::http::UpBody;
use crate::proxy::http::body::Tally;
use crate::proxy::http::form::{as_http1, as_http2};
use crate::tls::client::ConnectError;
use crate::tls::{ClientIdentity, Connectors, Verify, Wanted};
use crate::verdict::Permit;

/// Idle HTTP/1.1 connections that are kept for one key.
pub const IDLE_PER_KEY_MAX: usize = 16;

/// Keys with kept connections; at the limit, those of no use are swept, then none is kept.
pub const KEYS_MAX: usize = 4096;

/// How long an idle connection is kept. Most servers close theirs after 60 s or more.
pub const IDLE_MAX: Duration = Duration::from_secs(50);

/// How long it is remembered which protocols an upstream speaks.
pub const ALPN_MAX_AGE: Duration = Duration::from_secs(300);

/// How long a kept connection may take to say that it is ready; it then is, or is dead.
const READY_MAX: Duration = Duration::from_millis(100);

/// Bytes of one response's head, and header fields in it.
pub const RESPONSE_HEAD_BYTES_MAX: usize = 64 << 10;
pub const RESPONSE_HEADERS_MAX: usize = 128;

/// Bytes of one HTTP/2 stream that an upstream may send before they are read.
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
/// The same for a whole connection.
const CONNECTION_WINDOW_BYTES: u32 = 4 << 20;

/// How often an HTTP/2 upstream is asked for a sign of life, and how long it has to give one.
const PING_INTERVAL: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(20);

/// A request could not be brought to an upstream, or it did not answer.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error(transparent)]
    Tls(#[from] ConnectError),
    #[error("the upstream took longer than {0:?}")]
    Late(Duration),
    #[error("the upstream upgraded a connection that was not to be")]
    Unasked,
    #[error("the upstream coded a response that has to be searched for a secret")]
    Coded,
    #[error("the connection to the upstream broke: {0}")]
    Broken(#[from] hyper::Error),
}

/// The HTTP version that is wanted of an upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Version {
    Http1,
    Http2,
}

/// Where a request goes.
#[derive(Clone, Copy)]
pub struct To<'a> {
    /// The agent's address: connections are never shared between agents.
    pub agent: IpAddr,
    pub endpoint: &'a Endpoint,
    /// What to dial: the claimed name, or the dialled address as text.
    pub dial: &'a str,
    /// What the upstream is called: for its certificate and SNI.
    pub host: &'a str,
    /// The port that was dialled.
    pub port: u16,
    pub identity: Option<&'a ClientIdentity>,
    pub version: Version,
    /// How long to wait for the head of the response, from the last byte of the request.
    pub answer: Duration,
}

/// What a connection is kept under. Everything that shaped it is in here.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    agent: IpAddr,
    endpoint: Arc<str>,
    host: String,
    target: Target,
    /// `None` without TLS; else the roots' text, which changes when the configuration does.
    tls: Option<Option<String>>,
    identity: Option<[u8; 32]>,
    version: Version,
}

type Http1 = hyper::client::conn::http1::SendRequest<UpBody>;
type Http2 = hyper::client::conn::http2::SendRequest<UpBody>;

/// One kept connection.
struct Kept<S> {
    sender: S,
    task: AbortHandle,
    since: Instant,
}

#[derive(Default)]
struct Slot {
    http1: Vec<Kept<Http1>>,
    http2: Option<Kept<Http2>>,
}

/// Which protocols an upstream speaks, as it was seen last.
type Spoken = HashMap<(Target, Arc<str>, String), (Version, Instant)>;

/// The connections to every upstream.
pub struct Pool {
    dialer: Arc<Dialer>,
    connectors: Arc<Connectors>,
    slots: Mutex<HashMap<Key, Slot>>,
    spoken: Mutex<Spoken>,
}

/// A response, with what must live as long as its body.
pub struct Sent {
    pub response: Response<Incoming>,
    pub lease: Lease,
}

/// Holds a connection while a response is read from it. [`Lease::done`] gives it back; dropping
/// it undone closes an HTTP/1.1 connection, whose stream then stands at an unknown place.
pub struct Lease(Option<Held>);

struct Held {
    pool: Arc<Pool>,
    key: Key,
    kept: Kept<Http1>,
}

enum Fresh {
    Http1(Kept<Http1>),
    Http2(Kept<Http2>),
}

impl Pool {
    pub fn new(dialer: Arc<Dialer>, connectors: Arc<Connectors>) -> Arc<Self> {
        Arc::new(Pool {
            dialer,
            connectors,
            slots: Mutex::default(),
            spoken: Mutex::default(),
        })
    }

    /// Sends a request and waits for the head of its response.
    ///
    /// A kept connection that turns out closed is passed over only while the request provably was
    /// not written; once any of it may have left, a failure is final.
    ///
    /// # Errors
    /// No connection could be made, or it broke, or the upstream did not answer in time.
    pub async fn send(
        self: &Arc<Self>,
        permit: &Permit,
        to: &To<'_>,
        mut request: Request<UpBody>,
    ) -> Result<Sent, SendError> {
        let key = Key::of(to);
        if to.version == Version::Http2
            && let Some(sender) = self.http2(&key)
        {
            request = match exchange2(sender, request, to).await? {
                Ok(sent) => return Ok(sent),
                Err(unsent) => unsent,
            };
            self.forget_http2(&key);
        }
        while let Some(kept) = self.take_http1(&key) {
            request = match self.exchange1(&key, kept, request, to.answer).await? {
                Ok(sent) => return Ok(sent),
                Err(unsent) => unsent,
            };
        }
        let sent = match self.open(permit, to, &key).await? {
            Fresh::Http1(kept) => self.exchange1(&key, kept, request, to.answer).await?,
            Fresh::Http2(kept) => exchange2(kept.sender, request, to).await?,
        };
        // A connection that was just opened and took nothing: there is no sense in a second one.
        sent.map_err(|_| SendError::Dial(std::io::Error::from(std::io::ErrorKind::ConnectionReset).into()))
    }

    /// Which protocol an upstream was last seen to speak over TLS, if that was not long ago.
    pub fn spoken(&self, to: &To<'_>) -> Option<Version> {
        let spoken = lock(&self.spoken);
        let (version, at) = spoken.get(&spoken_key(to))?;
        (at.elapsed() < ALPN_MAX_AGE).then_some(*version)
    }

    /// Finds out which protocol an upstream speaks over TLS by opening a connection, which is
    /// kept for the first request.
    ///
    /// # Errors
    /// No connection could be made.
    pub async fn probe(self: &Arc<Self>, permit: &Permit, to: &To<'_>) -> Result<Version, SendError> {
        let key = Key::of(to);
        Ok(match self.open(permit, to, &key).await? {
            Fresh::Http1(kept) => {
                // The agent will be offered HTTP/1.1, and ask for that.
                let key = Key {
                    version: Version::Http1,
                    ..key
                };
                self.keep_http1(&key, kept);
                Version::Http1
            }
            Fresh::Http2(_) => Version::Http2,
        })
    }

    /// Idle connections that are kept now.
    pub fn kept(&self) -> usize {
        let slots = lock(&self.slots);
        slots
            .values()
            .map(|slot| slot.http1.len() + usize::from(slot.http2.is_some()))
            .sum()
    }

    /// Closes what has been idle too long. The owner of the pool calls it now and then.
    pub fn sweep(&self) {
        lock(&self.slots).retain(|_, slot| {
            slot.http1
                .retain(|kept| kept.since.elapsed() < IDLE_MAX && !kept.sender.is_closed());
            // HTTP/2 streams in flight hold senders of their own; the connection ends with the last.
            slot.http2 = slot
                .http2
                .take()
                .filter(|kept| kept.since.elapsed() < IDLE_MAX && !kept.sender.is_closed());
            !slot.http1.is_empty() || slot.http2.is_some()
        });
        lock(&self.spoken).retain(|_, (_, at)| at.elapsed() < ALPN_MAX_AGE);
    }

    async fn open(self: &Arc<Self>, permit: &Permit, to: &To<'_>, key: &Key) -> Result<Fresh, SendError> {
        let deadline = tokio::time::Instant::now() + self.dialer.connect_limit();
        let stream = self.dialer.dial(permit, to.endpoint, &key.target).await?;
        if !to.endpoint.tls {
            return self.greet(TokioIo::new(stream), to.version, key).await;
        }
        let wanted = Wanted {
            host: to.host,
            ca_cert: to.endpoint.ca_cert.as_deref(),
            verify: Verify::Full,
            alpn: match to.version {
                Version::Http1 => &[b"http/1.1"],
                Version::Http2 => &[b"h2", b"http/1.1"],
            },
            identity: to.identity,
        };
        let stream = timeout_at(deadline, self.connectors.connect(stream, wanted))
            .await
            .map_err(|_| SendError::Late(self.dialer.connect_limit()))??;
        let version = match stream.get_ref().1.alpn_protocol() {
            Some(b"h2") => Version::Http2,
            _ => Version::Http1,
        };
        if to.version == Version::Http2 {
            self.learn(to, version);
        }
        self.greet(TokioIo::new(stream), version, key).await
    }

    async fn greet<IO>(self: &Arc<Self>, io: IO, version: Version, key: &Key) -> Result<Fresh, SendError>
    where
        IO: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
    {
        match version {
            Version::Http1 => {
                let (sender, connection) = hyper::client::conn::http1::Builder::new()
                    .max_headers(RESPONSE_HEADERS_MAX)
                    .max_header_size(RESPONSE_HEAD_BYTES_MAX)
                    .handshake(io)
                    .await?;
                let task = tokio::spawn(async move {
                    // What broke shows at the request; between requests it is nobody's concern.
                    let _ = connection.with_upgrades().await;
                });
                Ok(Fresh::Http1(Kept::new(sender, task.abort_handle())))
            }
            Version::Http2 => {
                let (sender, connection) = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
                    .timer(TokioTimer::new())
                    .initial_stream_window_size(STREAM_WINDOW_BYTES)
                    .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
                    .max_header_list_size(RESPONSE_HEAD_BYTES_MAX as u32)
                    .keep_alive_interval(PING_INTERVAL)
                    .keep_alive_timeout(PING_TIMEOUT)
                    .handshake(io)
                    .await?;
                let task = tokio::spawn(async move {
                    let _ = connection.await;
                });
                let kept = Kept::new(sender.clone(), task.abort_handle());
                self.keep_http2(key, kept);
                Ok(Fresh::Http2(Kept::new(sender, task.abort_handle())))
            }
        }
    }

    /// Sends over HTTP/1.1. The inner error gives back a request that was not written.
    async fn exchange1(
        self: &Arc<Self>,
        key: &Key,
        mut kept: Kept<Http1>,
        request: Request<UpBody>,
        answer: Duration,
    ) -> Result<Result<Sent, Request<UpBody>>, SendError> {
        if !matches!(timeout(READY_MAX, kept.sender.ready()).await, Ok(Ok(()))) {
            kept.task.abort();
            return Ok(Err(request));
        }
        // Held from here: an agent that leaves drops this future, and with it the connection.
        let mut lease = Lease(Some(Held {
            pool: self.clone(),
            key: key.clone(),
            kept,
        }));
        let Some(held) = lease.0.as_mut() else {
            return Ok(Err(request));
        };
        let tally = request.body().tally();
        let sending = held.kept.sender.try_send_request(as_http1(request));
        match in_time(answer, &tally, sending).await {
            Err(late) => Err(late),
            Ok(Ok(response)) => Ok(Ok(Sent { response, lease })),
            Ok(Err(mut error)) => match error.take_message() {
                Some(unsent) => Ok(Err(unsent)),
                None => Err(error.into_error().into()),
            },
        }
    }

    fn take_http1(&self, key: &Key) -> Option<Kept<Http1>> {
        let mut slots = lock(&self.slots);
        let slot = slots.get_mut(key)?;
        // The youngest first: it is the least likely to have been closed.
        while let Some(kept) = slot.http1.pop() {
            if kept.since.elapsed() < IDLE_MAX && !kept.sender.is_closed() {
                return Some(kept);
            }
        }
        None
    }

    fn keep_http1(&self, key: &Key, mut kept: Kept<Http1>) {
        kept.since = Instant::now();
        let mut slots = lock(&self.slots);
        if let Some(slot) = slot_of(&mut slots, key)
            && slot.http1.len() < IDLE_PER_KEY_MAX
        {
            slot.http1.push(kept);
        }
    }

    fn http2(&self, key: &Key) -> Option<Http2> {
        let mut slots = lock(&self.slots);
        let slot = slots.get_mut(key)?;
        let kept = slot.http2.as_mut().filter(|kept| !kept.sender.is_closed())?;
        kept.since = Instant::now();
        Some(kept.sender.clone())
    }

    fn keep_http2(&self, key: &Key, kept: Kept<Http2>) {
        let mut slots = lock(&self.slots);
        if let Some(slot) = slot_of(&mut slots, key) {
            slot.http2 = Some(kept);
        }
    }

    fn forget_http2(&self, key: &Key) {
        if let Some(slot) = lock(&self.slots).get_mut(key)
            && slot.http2.as_ref().is_some_and(|kept| kept.sender.is_closed())
        {
            slot.http2 = None;
        }
    }

    fn learn(&self, to: &To<'_>, version: Version) {
        let mut spoken = lock(&self.spoken);
        if spoken.len() < KEYS_MAX {
            spoken.insert(spoken_key(to), (version, Instant::now()));
        }
    }
}

/// Waits for the head of a response as long as the request's body still moves, and then `answer`.
async fn in_time<T>(
    answer: Duration,
    tally: &Tally,
    sending: impl Future<Output = T>,
) -> Result<T, SendError> {
    tokio::pin!(sending);
    let mut moved = 0;
    loop {
        if let Ok(done) = timeout(answer, &mut sending).await {
            return Ok(done);
        }
        let now = tally.bytes.load(Ordering::Relaxed);
        if now == moved {
            return Err(SendError::Late(answer));
        }
        moved = now;
    }
}

async fn exchange2(
    mut sender: Http2,
    request: Request<UpBody>,
    to: &To<'_>,
) -> Result<Result<Sent, Request<UpBody>>, SendError> {
    let answer = to.answer;
    let request = as_http2(request, to.endpoint.tls);
    if sender.ready().await.is_err() {
        return Ok(Err(request));
    }
    let tally = request.body().tally();
    match in_time(answer, &tally, sender.try_send_request(request)).await {
        Err(late) => Err(late),
        Ok(Ok(response)) => Ok(Ok(Sent {
            response,
            lease: Lease(None),
        })),
        Ok(Err(mut error)) => match error.take_message() {
            Some(unsent) => Ok(Err(unsent)),
            None => Err(error.into_error().into()),
        },
    }
}

impl Key {
    fn of(to: &To<'_>) -> Key {
        let tls = to.endpoint.tls.then(|| to.endpoint.ca_cert.clone());
        Key {
            agent: to.agent,
            endpoint: to.endpoint.key.clone(),
            host: to.host.to_owned(),
            target: Target::of(to.endpoint, to.dial, to.port),
            tls,
            identity: to.identity.map(|identity| *identity.tag()),
            version: to.version,
        }
    }
}

impl<S> Kept<S> {
    fn new(sender: S, task: AbortHandle) -> Self {
        Kept {
            sender,
            task,
            since: Instant::now(),
        }
    }
}

impl Lease {
    /// The response was read to its end and the request was sent to its end: the connection can
    /// carry the next one.
    pub fn done(mut self) {
        if let Some(held) = self.0.take() {
            held.pool.keep_http1(&held.key, held.kept);
        }
    }

    /// The connection is no longer HTTP: it lives as long as its upgraded stream.
    pub fn upgraded(mut self) {
        self.0 = None;
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(held) = self.0.take() {
            held.kept.task.abort();
        }
    }
}

fn spoken_key(to: &To<'_>) -> (Target, Arc<str>, String) {
    let target = Target::of(to.endpoint, to.dial, to.port);
    (target, to.endpoint.key.clone(), to.host.to_owned())
}

fn slot_of<'a>(slots: &'a mut HashMap<Key, Slot>, key: &Key) -> Option<&'a mut Slot> {
    if slots.len() >= KEYS_MAX && !slots.contains_key(key) {
        return None;
    }
    Some(slots.entry(key.clone()).or_default())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing that holds these locks can panic half way through a change.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
