//! An agent's HTTP/1.1 connection, whose buffers go while it rests.
//!
//! hyper keeps 8 KiB to read into and 8 KiB to write from for as long as it serves a connection, and an agent may keep
//! thousands open that it has no use for at the moment. So hyper serves a connection for as long as requests come; one
//! that rests is a stream whose next byte is waited for.

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use hyper::body::Incoming;
use hyper::service::HttpService;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::activity::{Activity, Found, Noted, Patience, Slow};
use super::download::Download;
use super::{HEAD_BYTES_MAX, ServeError, faults};

/// How long nothing moves before a connection rests. To serve it again costs some microseconds.
pub const REST_AFTER: Duration = Duration::from_secs(2);

/// What answers requests.
pub(super) trait Answers:
    HttpService<Incoming, ResBody = Download, Error = Infallible, Future: Send + Unpin> + Send
{
}

impl<S> Answers for S where
    S: HttpService<Incoming, ResBody = Download, Error = Infallible, Future: Send + Unpin> + Send
{
}

/// Serves one connection to its end.
///
/// # Errors
/// HTTP was broken, or the agent was too slow.
pub(super) async fn serve<IO, S>(
    mut io: Noted<IO>,
    mut service: S,
    activity: &Activity,
    patience: Patience,
) -> Result<(), ServeError>
where
    IO: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    S: Answers,
{
    loop {
        let mut serving = Box::new(
            builder()
                .serve_connection(TokioIo::new(io), service)
                .with_upgrades(),
        );
        let found = tokio::select! {
            ended = &mut *serving => return Ok(ended.inspect_err(faults::count_connection)?),
            found = activity.watch(patience) => found,
        };
        if let Found::Slow(slow) = found {
            return slow.ends();
        }
        let Some(parts) = serving.into_parts() else {
            return Ok(());
        };
        (io, service) = (parts.io.into_inner(), parts.service);
        // Empty lines before a request are nothing (RFC 9112 section 2.2).
        let begun = parts.read_buf.iter().any(|byte| !matches!(byte, b'\r' | b'\n'));
        let ahead = match begun {
            true => {
                activity.head_began();
                parts.read_buf
            }
            false => match next(&mut io, activity, patience).await? {
                Some(first) => first,
                None => return Ok(()),
            },
        };
        io.unread(ahead);
    }
}

/// What the next request begins with, where one comes.
async fn next<IO>(
    io: &mut Noted<IO>,
    activity: &Activity,
    patience: Patience,
) -> Result<Option<Bytes>, ServeError>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let resting = Patience {
        rest: None,
        ..patience
    };
    let read = async {
        let mut first = [0; 1];
        // One that breaks while it rests ends as one that is closed.
        if io.read(&mut first).await.unwrap_or(0) > 0 {
            return Some(Bytes::copy_from_slice(&first));
        }
        let _ = io.shutdown().await;
        None
    };
    tokio::select! {
        first = read => Ok(first),
        found = activity.watch(resting) => match found {
            Found::Slow(slow) => slow.ends().map(|()| None),
            Found::Rest => Ok(None),
        },
    }
}

impl Slow {
    /// What a connection ends with.
    pub(super) fn ends(self) -> Result<(), ServeError> {
        match self {
            // An idle connection that is closed is no fault of anyone's.
            Slow::Idle => Ok(()),
            slow => Err(ServeError::Slow(slow)),
        }
    }
}

/// hyper's, within our limits.
pub(super) fn builder() -> hyper::server::conn::http1::Builder {
    let mut builder = hyper::server::conn::http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        // `activity` times heads: hyper's own clock would cut idle connections too.
        .header_read_timeout(None)
        .max_buf_size(HEAD_BYTES_MAX);
    builder
}
