//! HTTP/1.1, HTTP/2 and their upgrades, for the `https`, `http` and `kubernetes` endpoints.
//!
//! hyper parses what the agent sends and writes what the upstream is sent; nothing is parsed
//! twice. In between every request is checked ([`crate::protocol::http`]), read
//! ([`crate::facts`]), judged ([`Judge`]), given its secret ([`crate::credential`]) and sent
//! ([`crate::upstream::Pool`]).
//!
//! - [`request`] is the path of one request up to its verdict, `ask` what is asked on it, [`send`] from there on; [`answer`] what it is answered when it goes nowhere.
//! - `trial` shows people what a held Kubernetes request would do, and looks again before it goes.
//! - `greeting` is what comes before the first: TLS, and which HTTP. `head` checks a request's head against what was dialled.
//! - [`body`] holds and streams bodies, [`download`] is the response's way back.
//! - [`upgrade`] splices what is no longer HTTP. [`activity`] ends who is too slow, [`rest`] lets the buffers of who is idle go, `faults` counts what breaks the protocol.
//!
//! Invariants: policy and endpoint are asked for anew for every request, so that a reload applies
//! to open connections; what a rule could read of a body is exactly what is sent; an agent that
//! leaves drops the future of its request, and with it the question that an approver was asked.

pub mod activity;
pub mod answer;
mod ask;
pub mod body;
pub mod download;
pub(crate) mod faults;
pub mod form;
mod greeting;
mod head;
pub mod judge;
pub mod request;
pub mod rest;
pub mod send;
pub mod trial;
pub mod upgrade;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};

use super::route;
use crate::credential::{KnownSecrets, Secret};
use crate::identity::Agent;
use crate::identity::budget::Budget;
use crate::policy::{Credential, Endpoint, Limits};
use crate::tls::Leaves;
use crate::tls::accept::AcceptError;
use crate::upstream::Pool;

use activity::{Activity, Found, Noted, Patience, Slow};
pub use body::UpBody;
use greeting::{Greeted, Talk, greeted};
pub use judge::Judge;

/// Bytes of one request's head. nginx takes 8 KiB a line, Node 16 KiB in all.
pub const HEAD_BYTES_MAX: usize = 64 << 10;

/// Header fields of one request. It is hyper's own: for another one it makes room on the heap with each head.
pub const HEADERS_MAX: usize = 100;

/// HTTP/2 requests of one connection at a time.
pub const STREAMS_MAX: u32 = 128;

/// HTTP/2 streams that an agent may open and reset before they were looked at (CVE-2023-44487).
pub const RESETS_MAX: usize = 20;

/// HTTP/2 streams that may fail by the agent's fault (CVE-2025-8671) before it is cut off.
pub const STREAM_ERRORS_MAX: usize = 64;

/// Bytes of one HTTP/2 stream, and of a connection, that may arrive before they are read. One stream
/// may have all of its connection's: at 50 ms that is 20 MB/s.
pub const STREAM_WINDOW_BYTES: u32 = 1 << 20;
pub const CONNECTION_WINDOW_BYTES: u32 = 1 << 20;

/// Bytes of HTTP/2 responses that are buffered for each stream.
pub const SEND_BUFFER_BYTES_MAX: usize = 32 << 10;

// A body waits in memory while it is judged, and a person may take minutes; an HTTP/2 connection
// holds a window of what comes and a buffer for each of its streams. Without a bound an agent could
// fill the gateway's memory with them.

/// Bytes of all bodies of one agent that are held for a verdict at once. A body that finds no
/// room is not held; its facts are unknown, and a rule that hangs on them denies.
pub const HELD_BYTES_MAX: usize = 64 << 20;

/// Bytes of the facts of all requests of one agent that are not over, about: what was read of a body takes many times
/// what the body does, and a coded one is small. Where there is no room, a body is not read; its facts are unknown.
pub const FACTS_BYTES_MAX: usize = 256 << 20;

/// HTTP/2 connections of one agent at once; more are offered HTTP/1.1. With what a connection may
/// hold ([`CONNECTION_WINDOW_BYTES`], and [`SEND_BUFFER_BYTES_MAX`] for each of
/// [`STREAMS_MAX`] streams) that is 160 MiB at the worst.
pub const HTTP2_PER_AGENT_MAX: usize = 32;

/// What every HTTP connection shares.
pub struct Shared<J> {
    pub judge: Arc<J>,
    pub leaves: Arc<Leaves>,
    pub pool: Arc<Pool>,
    /// The secret of a credential's slot, or `None` where it is missing.
    pub secrets: Arc<Secrets>,
    /// What was read of them, which no answer to an agent may hold.
    pub known: KnownSecrets,
    /// How much of each agent's bodies is held.
    pub held: Budget,
    /// How much memory the facts of each agent's requests take.
    pub facts: Budget,
    /// How many HTTP/2 connections each agent has.
    pub http2: Budget,
}

/// Where secrets come from: a credential and the name of its slot (`""` for the only one).
pub type Secrets = dyn Fn(&Credential, &str) -> Option<Secret> + Send + Sync;

impl<J: Judge> Shared<J> {
    /// An endpoint as it is configured now, with the gateway's limits.
    fn endpoint(&self, key: &str) -> Option<(Arc<Endpoint>, Limits)> {
        self.judge
            .with_model(|model| Some((model.endpoint(key)?.clone(), model.gateway.limits.clone())))
    }

    /// Whether a host, at the port that was dialled, leads to the endpoint that was dialled.
    fn leads(&self, claimed: &Claimed, host: &str) -> bool {
        let at = (host, claimed.destination.port());
        self.judge
            .with_model(|model| route::leads_to(model, &claimed.agent.profile, at, &claimed.endpoint))
    }
}

/// Whose connection this is, and what it dialled.
#[derive(Clone, Debug)]
pub struct Claimed {
    pub agent: Arc<Agent>,
    /// The endpoint that claims the destination, by key: its configuration is read anew for
    /// each request.
    pub endpoint: Arc<str>,
    /// The name that the virtual address stands for; `None` where an address was claimed.
    pub name: Option<String>,
    /// The address and port that were dialled.
    pub destination: SocketAddr,
    /// Where the agent is told what it may reach; a denial's `Link` (RFC 8288) leads there.
    pub help: String,
}

/// One agent's connection, after its TLS.
pub(crate) struct Connection<J> {
    pub shared: Arc<Shared<J>>,
    pub claimed: Claimed,
    /// The name that TLS settled; `None` where the agent speaks in the clear or sent no SNI.
    pub sni: Option<String>,
    pub activity: Arc<Activity>,
    /// The stream that is left when the connection was upgraded.
    pub splice: Mutex<Option<upgrade::Splice>>,
}

/// Why a connection ended other than by its own wish.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error("the endpoint is no longer in the policy")]
    NoEndpoint,
    #[error("the agent sent nothing in time")]
    Silent,
    #[error(transparent)]
    Tls(#[from] AcceptError),
    #[error("the connection broke: {0}")]
    Io(#[from] std::io::Error),
    #[error("HTTP was broken: {0}")]
    Http(#[from] hyper::Error),
    #[error("the agent was too slow: {0:?}")]
    Slow(Slow),
}

/// Serves one connection to its end: TLS where its first byte is TLS's, plain HTTP else.
///
/// What greets it and what serves it are futures of their own, so that an idle connection takes the room of the second
/// alone.
///
/// # Errors
/// Why it ended early. Nothing is left to do for the caller but to log it.
pub async fn serve<J, IO>(io: IO, shared: Arc<Shared<J>>, claimed: Claimed) -> Result<(), ServeError>
where
    J: Judge,
    IO: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (endpoint, limits) = shared.endpoint(&claimed.endpoint).ok_or(ServeError::NoEndpoint)?;
    let greeting = Box::pin(greeted(io, &shared, &claimed, (&endpoint, &limits)));
    let Some((greeted, mut terms)) = greeting.await? else {
        return Ok(());
    };
    let connection = Connection::new(shared, claimed, terms.sni.take());
    match greeted {
        Greeted::Plain(io) => Box::pin(run(io, connection, terms.talk, &limits)).await,
        Greeted::Tls(io) => Box::pin(run(*io, connection, terms.talk, &limits)).await,
    }
}

async fn run<J, IO>(io: IO, connection: Connection<J>, talk: Talk, limits: &Limits) -> Result<(), ServeError>
where
    J: Judge,
    IO: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let activity = connection.activity.clone();
    let io = Noted::new(io, activity.clone());
    let connection = Arc::new(connection);
    let each = connection.clone();
    let service = service_fn(move |request| {
        let connection = each.clone();
        // hyper keeps room for a request's future with each connection, idle or not: here, for a pointer to it.
        Box::pin(async move { Ok::<_, std::convert::Infallible>(request::serve(&connection, request).await) })
    });
    let patience = Patience {
        head: Duration::from_millis(limits.handshake_ms),
        idle: Duration::from_secs(limits.idle_s),
        rest: (talk == Talk::Http1).then_some(rest::REST_AFTER),
    };
    match talk {
        Talk::Http1 => rest::serve(io, service, &activity, patience).await?,
        Talk::Http2 => {
            let serving = Box::pin(http2().serve_connection(TokioIo::new(io), service));
            tokio::select! {
                ended = serving => ended.inspect_err(faults::count_connection)?,
                found = activity.watch(patience) => match found {
                    Found::Slow(slow) => return slow.ends(),
                    // Of HTTP/2, streams would have to rest.
                    Found::Rest => return Ok(()),
                },
            }
        }
    }
    let splice = connection
        .splice
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .take();
    if let Some(splice) = splice {
        splice.await;
    }
    Ok(())
}

fn http2() -> http2::Builder<TokioExecutor> {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .max_pending_accept_reset_streams(RESETS_MAX)
        .max_local_error_reset_streams(STREAM_ERRORS_MAX)
        .max_header_list_size(HEAD_BYTES_MAX as u32)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_send_buf_size(SEND_BUFFER_BYTES_MAX);
    builder
}

impl<J> Connection<J> {
    /// Leaves a stream to be run when HTTP has let go of the connection.
    pub(crate) fn keep_splice(&self, splice: upgrade::Splice) {
        *self.splice.lock().unwrap_or_else(PoisonError::into_inner) = Some(splice);
    }

    fn new(shared: Arc<Shared<J>>, claimed: Claimed, sni: Option<String>) -> Self {
        Connection {
            shared,
            claimed,
            sni,
            activity: Activity::new(),
            splice: Mutex::default(),
        }
    }
}

#[cfg(test)]
mod tests;
