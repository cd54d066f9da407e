//! HTTP connections to upstreams, kept for reuse.
//!
//! The version mirrors the agent's: an HTTP/1.1 request goes out over HTTP/1.1, an HTTP/2 request
//! over HTTP/2 where the upstream speaks it. A connection belongs to one [`Key`]: one agent, one
//! endpoint as it is configured now, one name, one client certificate. A reload that changes any
//! of them finds no old connection.

use std::collections::HashMap;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::time::{timeout, timeout_at};

use super::dial::{DialError, Dialer, Target};
use super::drive::Drive;
use super::keep::{Http1, Http2, KEYS_MAX, Keep, Kept, Key};
use super::lease::Lease;
use crate::identity::Identity;
use crate::policy::Endpoint;
use crate::proxy::http::UpBody;
use crate::proxy::http::body::Tally;
use crate::proxy::http::form::{as_http1, as_http2};
use crate::tls::client::ConnectError;
use crate::tls::{ClientIdentity, Connectors, Verify, Wanted};
use crate::verdict::Permit;

/// How long it is remembered which protocols an upstream speaks.
pub const ALPN_MAX_AGE: Duration = Duration::from_secs(300);

/// How long a kept connection may take to say that it is ready; it then is, or is dead.
const READY_MAX: Duration = Duration::from_millis(100);

/// Bytes of one response's head.
pub const RESPONSE_HEAD_BYTES_MAX: usize = 64 << 10;
/// Header fields in it; hyper's own number, as [`crate::proxy::http::HEADERS_MAX`] is.
pub const RESPONSE_HEADERS_MAX: usize = 100;

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
    /// Connections are never shared between agents.
    pub agent: &'a Identity,
    pub endpoint: &'a Arc<Endpoint>,
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

/// Which protocols an upstream speaks, as it was seen last.
type Spoken = HashMap<(Target, Arc<str>, String), (Version, Instant)>;

/// The connections to every upstream.
pub struct Pool {
    dialer: Arc<Dialer>,
    connectors: Arc<Connectors>,
    pub(super) keep: Keep,
    spoken: Mutex<Spoken>,
}

/// A response, with what must live as long as its body.
pub struct Sent {
    pub response: Response<Incoming>,
    pub lease: Lease,
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
            keep: Keep::default(),
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
        // A kept connection needs leave as much as a new one.
        if *permit.endpoint() != to.endpoint.key {
            return Err(DialError::NotPermitted(permit.endpoint().to_string()).into());
        }
        let key = Key::of(to);
        if to.version == Version::Http2
            && let Some(sender) = self.keep.http2(&key)
        {
            request = match exchange2(sender, request, to).await? {
                Ok(sent) => return Ok(sent),
                Err(unsent) => unsent,
            };
        }
        while let Some(kept) = self.keep.take_http1(&key) {
            request = match self.exchange1(&key, kept, request, to.answer).await? {
                Ok(sent) => return Ok(sent),
                Err(unsent) => unsent,
            };
        }
        // On the heap, as it is seldom come to: a request's own future has no room for it.
        let sent = match Box::pin(self.open(permit, to, &key)).await? {
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
        Ok(match Box::pin(self.open(permit, to, &key)).await? {
            Fresh::Http1(kept) => {
                // The agent will be offered HTTP/1.1, and ask for that.
                self.keep.keep_http1(key.over(Version::Http1), kept);
                Version::Http1
            }
            Fresh::Http2(_) => Version::Http2,
        })
    }

    /// Idle connections that are kept now.
    pub fn kept(&self) -> usize {
        self.keep.count()
    }

    /// Closes what has been idle too long. The owner of the pool calls it now and then.
    pub fn sweep(&self) {
        self.keep.sweep();
        lock(&self.spoken).retain(|_, (_, at)| at.elapsed() < ALPN_MAX_AGE);
    }

    async fn open(self: &Arc<Self>, permit: &Permit, to: &To<'_>, key: &Key) -> Result<Fresh, SendError> {
        let deadline = tokio::time::Instant::now() + self.dialer.connect_limit();
        let stream = self
            .dialer
            .dial(permit, to.endpoint, &Target::of(to.endpoint, to.dial, to.port))
            .await?;
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
                let (sender, connection) = http1::Builder::new()
                    .max_header_size(RESPONSE_HEAD_BYTES_MAX)
                    .handshake(io)
                    .await?;
                let drive = Drive::new(Box::pin(async move {
                    // What broke shows at the request; between requests it is nobody's concern.
                    let _ = connection.with_upgrades().await;
                }));
                Ok(Fresh::Http1(Kept::new(sender, drive)))
            }
            Version::Http2 => {
                let (sender, connection) = http2(TokioTimer::new()).handshake(io).await?;
                let task = tokio::spawn(async move {
                    let _ = connection.await;
                });
                let kept = Kept::new(sender.clone(), Drive::by(task.abort_handle()));
                self.keep.keep_http2(key.clone(), kept);
                Ok(Fresh::Http2(Kept::new(sender, Drive::by(task.abort_handle()))))
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
        let ready = poll_fn(|cx| kept.drive.poll(cx, |cx| kept.sender.poll_ready(cx)));
        if !matches!(timeout(READY_MAX, ready).await, Ok(Ok(()))) {
            kept.drive.end();
            return Ok(Err(request));
        }
        // Held from here: an agent that leaves drops this future, and with it the connection.
        let mut lease = Lease::of(self, key, kept);
        let Some(kept) = lease.kept() else {
            return Ok(Err(request));
        };
        let tally = request.body().tally();
        let mut sending = pin!(kept.sender.try_send_request(as_http1(request)));
        let sending = poll_fn(|cx| kept.drive.poll(cx, |cx| sending.as_mut().poll(cx)));
        match in_time(answer, &tally, sending).await {
            Err(late) => Err(late),
            Ok(Ok(response)) => {
                // An agent that does not read its answer must not keep its own body from going up.
                let goes_up = !tally.whole.load(Ordering::Acquire);
                if goes_up || response.status() == StatusCode::SWITCHING_PROTOCOLS {
                    kept.drive.let_go();
                }
                Ok(Ok(Sent { response, lease }))
            }
            Ok(Err(mut error)) => match error.take_message() {
                Some(unsent) => Ok(Err(unsent)),
                None => Err(error.into_error().into()),
            },
        }
    }

    fn learn(&self, to: &To<'_>, version: Version) {
        let mut spoken = lock(&self.spoken);
        if spoken.len() < KEYS_MAX {
            spoken.insert(spoken_key(to), (version, Instant::now()));
        }
    }
}

/// How HTTP/2 is spoken to an upstream, by this clock.
fn http2(timer: impl hyper::rt::Timer + Send + Sync + 'static) -> http2::Builder<TokioExecutor> {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(timer)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_header_list_size(RESPONSE_HEAD_BYTES_MAX as u32)
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT);
    builder
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
            lease: Lease::default(),
        })),
        Ok(Err(mut error)) => match error.take_message() {
            Some(unsent) => Ok(Err(unsent)),
            None => Err(error.into_error().into()),
        },
    }
}

fn spoken_key(to: &To<'_>) -> (Target, Arc<str>, String) {
    let target = Target::of(to.endpoint, to.dial, to.port);
    (target, to.endpoint.key.clone(), to.host.to_owned())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing that holds these locks can panic half way through a change.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use super::*;
    use crate::identity::Transport;
    use crate::policy::{Policy, Source};
    use crate::upstream::Closed;

    /// A pool, and what is asked of it.
    fn pool() -> (Arc<Pool>, Arc<Policy>, Identity) {
        let source = Source {
            path: "policy.hcl".into(),
            text: "endpoint \"https\" \"a\" { hosts = [\"a.test\"] }\n".to_owned(),
        };
        let policy = Policy::load(vec![source], &|path| std::fs::read_to_string(path)).unwrap();
        let agent = Identity::new(Transport::Wireguard, [10, 77, 0, 2].into(), "laptop");
        let dialer = Dialer::new(None, Closed::default(), 1000);
        let pool = Pool::new(Arc::new(dialer), Arc::new(Connectors::default()));
        (pool, Arc::new(policy), agent)
    }

    fn to<'a>(policy: &'a Policy, agent: &'a Identity) -> To<'a> {
        To {
            agent,
            endpoint: &policy.model().endpoints[0],
            dial: "a.test",
            host: "a.test",
            port: 443,
            identity: None,
            version: Version::Http1,
            answer: Duration::from_secs(30),
        }
    }

    #[tokio::test]
    async fn a_kept_connection_that_does_not_become_ready_is_passed_over_and_closed() {
        let (pool, policy, agent) = pool();
        let to = to(&policy, &agent);
        let (_upstream, own) = tokio::io::duplex(1024);
        // The task that would say so never runs.
        let (sender, _connection) = http1::Builder::new().handshake(TokioIo::new(own)).await.unwrap();
        let task = tokio::spawn(std::future::pending::<()>());
        let kept = Kept::new(sender, Drive::by(task.abort_handle()));
        let key = Key::of(&to);
        let request = Request::get("/once").body(UpBody::empty()).unwrap();
        let sent = pool.exchange1(&key, kept, request, to.answer);
        let sent = timeout(to.answer, sent).await.expect("it waits for ever");
        let unsent = sent.unwrap().map(|_| ()).unwrap_err();
        assert_eq!(unsent.uri(), "/once", "given back whole, to be sent elsewhere");
        assert!(task.await.unwrap_err().is_cancelled());
    }

    /// A clock on which every sleep is over at once, and puts it forward.
    #[derive(Clone)]
    struct Hasty(Arc<Mutex<Instant>>);

    struct Nap(Hasty, Instant);

    impl Future for Nap {
        type Output = ();

        fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<()> {
            let mut now = lock(&self.0.0);
            *now = self.1.max(*now);
            Poll::Ready(())
        }
    }

    impl hyper::rt::Sleep for Nap {}

    impl hyper::rt::Timer for Hasty {
        fn sleep(&self, duration: Duration) -> Pin<Box<dyn hyper::rt::Sleep>> {
            self.sleep_until(self.now() + duration)
        }

        fn sleep_until(&self, deadline: Instant) -> Pin<Box<dyn hyper::rt::Sleep>> {
            Box::pin(Nap(self.clone(), deadline))
        }

        fn reset(&self, sleep: &mut Pin<Box<dyn hyper::rt::Sleep>>, deadline: Instant) {
            *sleep = self.sleep_until(deadline);
        }

        fn now(&self) -> Instant {
            *lock(&self.0)
        }
    }

    #[tokio::test]
    async fn an_upstream_that_answers_no_ping_is_given_up_in_time() {
        let began = Instant::now();
        let clock = Hasty(Arc::new(Mutex::new(began)));
        // Bytes are taken, and nothing is ever said.
        let (_upstream, own) = tokio::io::duplex(64 << 10);
        let (mut sender, connection) = http2(clock.clone()).handshake(TokioIo::new(own)).await.unwrap();
        tokio::spawn(connection);
        let request = Request::get("https://a.test/").body(UpBody::empty()).unwrap();
        let answer = timeout(Duration::from_secs(30), sender.send_request(request)).await;
        let error = answer.expect("it waits for ever").map(|_| ()).unwrap_err();
        assert!(error.is_timeout(), "{error:?}");
        let took = hyper::rt::Timer::now(&clock) - began;
        assert_eq!(took, PING_INTERVAL + PING_TIMEOUT);
    }

    #[test]
    fn what_an_upstream_speaks_is_remembered_for_a_while() {
        let (pool, policy, agent) = pool();
        let to = to(&policy, &agent);
        pool.learn(&to, Version::Http2);
        let ages = |age| lock(&pool.spoken).get_mut(&spoken_key(&to)).unwrap().1 -= age;
        ages(ALPN_MAX_AGE / 2);
        assert_eq!(pool.spoken(&to), Some(Version::Http2));
        ages(ALPN_MAX_AGE / 2);
        assert_eq!(pool.spoken(&to), None);
    }
}
