//! The API's listeners: who may speak, how many at a time, and for how long.
//!
//! On the Unix socket the kernel names the caller: root, or the account that the gateway runs as.
//! On TCP a bearer token does, and a `Host` that is this listener, since a page in a browser can be
//! led here by a name that resolves to loopback.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State as Shared};
use axum::http::{StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;
use tower_service::Service as _;

use super::Person;
use super::api::Failed;
use super::token::OperatorToken;

/// What one caller may take of a listener.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Connections at a time; the next waits to be accepted.
    pub connections_max: usize,
    /// For the head of a request, and that a kept connection may be idle.
    pub head: Duration,
    /// For a request's body and the work on it.
    pub request: Duration,
    /// That a connection may live; a longer stream is taken up anew by its client.
    pub connection: Duration,
}

/// The bounds of both listeners.
pub const BOUNDS: Bounds = Bounds {
    connections_max: 64,
    head: Duration::from_secs(5),
    request: Duration::from_secs(15),
    connection: Duration::from_secs(3600),
};
/// Bytes of a request's head.
pub const HEAD_BYTES_MAX: usize = 16 << 10;
/// Bytes of an answer that [`in_json`] puts into JSON; ours are short.
const PLAIN_BYTES_MAX: usize = 4 << 10;

/// Who is at the other end, as the transport proved it.
#[derive(Clone, Debug)]
enum Caller {
    /// A person by the account of their process.
    Known(Person),
    /// Another account than those that may.
    Stranger(String),
    /// Whoever has the token, on a listener with this address.
    Token(SocketAddr),
}

/// A listener of either kind.
pub(super) trait Listen: Send + 'static {
    type Io: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    fn next(&self) -> impl Future<Output = io::Result<(Self::Io, Peer)>> + Send;
}

/// What a listener knows of a connection.
pub(super) struct Peer(Caller);

impl Listen for UnixListener {
    type Io = tokio::net::UnixStream;

    async fn next(&self) -> io::Result<(Self::Io, Peer)> {
        let (stream, _) = self.accept().await?;
        let uid = stream.peer_cred()?.uid();
        let user = nix::unistd::User::from_uid(uid.into()).ok().flatten();
        let name = user.map_or_else(|| format!("uid:{uid}"), |user| user.name);
        let may = uid == 0 || uid == nix::unistd::geteuid().as_raw();
        let caller = if may {
            Caller::Known(Person(name))
        } else {
            Caller::Stranger(name)
        };
        Ok((stream, Peer(caller)))
    }
}

impl Listen for TcpListener {
    type Io = tokio::net::TcpStream;

    async fn next(&self) -> io::Result<(Self::Io, Peer)> {
        let (stream, _) = self.accept().await?;
        let own = stream.local_addr()?;
        stream.set_nodelay(true)?;
        Ok((stream, Peer(Caller::Token(own))))
    }
}

/// Serves `router`, with [`admit`] before it, until the listener fails for good.
pub(super) async fn serve<L: Listen>(listener: L, router: Router, bounds: Bounds) {
    let places = Arc::new(Semaphore::new(bounds.connections_max));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else {
            return;
        };
        let (stream, Peer(caller)) = match listener.next().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "a connection to the admin API could not be accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let router = router.clone();
        let service =
            hyper::service::service_fn(move |mut request: hyper::Request<hyper::body::Incoming>| {
                request.extensions_mut().insert(caller.clone());
                router.clone().call(request)
            });
        tokio::spawn(async move {
            let _place = place;
            let mut builder = hyper::server::conn::http1::Builder::new();
            builder
                .timer(TokioTimer::new())
                .header_read_timeout(bounds.head)
                .max_buf_size(HEAD_BYTES_MAX);
            let served = builder.serve_connection(TokioIo::new(stream), service);
            let _ = tokio::time::timeout(bounds.connection, served).await;
        });
    }
}

/// Lets a request in, with the [`Person`] who makes it, or says why not.
pub(super) async fn admit(
    Shared(token): Shared<Arc<OperatorToken>>,
    mut request: Request,
    next: Next,
) -> Response {
    let forbidden = |text: String| Failed(StatusCode::FORBIDDEN, text).into_response();
    let person = match request.extensions().get::<Caller>() {
        Some(Caller::Known(person)) => person.clone(),
        Some(Caller::Stranger(name)) => {
            tracing::warn!(name, "an account that may not use the admin socket tried to");
            return forbidden(format!("{name} may not use this socket"));
        }
        Some(Caller::Token(own)) => {
            let text = |name| request.headers().get(name).and_then(|value| value.to_str().ok());
            let hosts = [own.to_string(), format!("localhost:{}", own.port())];
            let host_is_ours = text(header::HOST).is_some_and(|host| hosts.iter().any(|own| own == host));
            if !host_is_ours || request.headers().contains_key(header::ORIGIN) {
                return forbidden("not for browsers".to_owned());
            }
            let given = text(header::AUTHORIZATION).and_then(|value| value.strip_prefix("Bearer "));
            if !given.is_some_and(|given| token.is(given)) {
                let text = "the operator's token is needed".to_owned();
                let mut answer = Failed(StatusCode::UNAUTHORIZED, text).into_response();
                let scheme = axum::http::HeaderValue::from_static("Bearer");
                answer.headers_mut().insert(header::WWW_AUTHENTICATE, scheme);
                return answer;
            }
            Person("operator".to_owned())
        }
        None => return forbidden("nobody".to_owned()),
    };
    request.extensions_mut().insert(person);
    in_json(next.run(request).await).await
}

/// For everything but streams: a request that takes too long is given up.
pub(super) async fn in_time(Shared(bounds): Shared<Bounds>, request: Request, next: Next) -> Response {
    match tokio::time::timeout(bounds.request, next.run(request)).await {
        Ok(answer) => answer,
        Err(_) => {
            let text = format!("not done in {} s", bounds.request.as_secs());
            Failed(StatusCode::REQUEST_TIMEOUT, text).into_response()
        }
    }
}

/// The framework's own errors are plain text; here they are like ours.
async fn in_json(answer: Response) -> Response {
    let status = answer.status();
    let is_json = answer
        .headers()
        .get(header::CONTENT_TYPE)
        .is_some_and(|kind| kind == "application/json");
    if is_json || !(status.is_client_error() || status.is_server_error()) {
        return answer;
    }
    let (mut parts, body) = answer.into_parts();
    let text = axum::body::to_bytes(body, PLAIN_BYTES_MAX)
        .await
        .unwrap_or_default();
    let text = String::from_utf8_lossy(&text).into_owned();
    parts.headers.remove(header::CONTENT_LENGTH);
    let text = if text.is_empty() { status.to_string() } else { text };
    let failed = Failed(status, text).into_response();
    parts.headers.extend(failed.headers().clone());
    Response::from_parts(parts, Body::new(failed.into_body()))
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::UnixStream;

    use super::*;

    const SHORT: Duration = Duration::from_millis(150);
    const SOON: Duration = Duration::from_secs(10);

    /// A listener whose one path reads a body; `bounds` are those under test.
    fn start(bounds: Bounds) -> (tempfile::TempDir, std::path::PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let listener = UnixListener::bind(&path).unwrap();
        let router = Router::new()
            .route("/", axum::routing::any(|body: String| async move { body }))
            .layer(axum::middleware::from_fn_with_state(bounds, in_time));
        tokio::spawn(serve(listener, router, bounds));
        (folder, path)
    }

    async fn say(path: &std::path::Path, text: &str) -> UnixStream {
        let mut stream = UnixStream::connect(path).await.unwrap();
        stream.write_all(text.as_bytes()).await.unwrap();
        stream
    }

    /// What comes until the other side closes.
    async fn hear(mut stream: UnixStream) -> String {
        let mut text = String::new();
        let read = tokio::time::timeout(SOON, stream.read_to_string(&mut text)).await;
        read.expect("it is not closed").unwrap();
        text
    }

    const WHOLE: &str = "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";

    #[tokio::test]
    async fn slow_clients_are_closed() {
        let (_folder, path) = start(Bounds {
            head: SHORT,
            request: SHORT,
            ..BOUNDS
        });
        assert_eq!(hear(say(&path, "GET / HTT").await).await, "");
        let slow_body = say(&path, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nx").await;
        let answer = hear(slow_body).await;
        assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
        // Kept alive and idle.
        let idle = say(&path, &WHOLE.replace("close", "keep-alive")).await;
        assert!(hear(idle).await.starts_with("HTTP/1.1 200"));
    }

    #[tokio::test]
    async fn a_connection_has_an_end() {
        let (_folder, path) = start(Bounds {
            connection: SHORT,
            ..BOUNDS
        });
        let endless = say(&path, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nx").await;
        assert_eq!(hear(endless).await, "");
    }

    #[tokio::test]
    async fn a_head_is_bounded() {
        let (_folder, path) = start(BOUNDS);
        let long = format!(
            "GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n",
            "x".repeat(HEAD_BYTES_MAX)
        );
        let mut stream = say(&path, &long).await;
        let mut answer = Vec::new();
        // What was not read may end the connection before the answer is.
        let read = tokio::time::timeout(SOON, stream.read_to_end(&mut answer)).await;
        let _ = read.expect("it is not closed");
        let answer = String::from_utf8_lossy(&answer);
        assert!(
            answer.is_empty() || answer.starts_with("HTTP/1.1 431"),
            "{answer}"
        );
    }

    #[tokio::test]
    async fn connections_are_bounded_and_the_next_waits() {
        let bounds = Bounds {
            connections_max: 2,
            head: Duration::from_secs(60),
            ..BOUNDS
        };
        let (_folder, path) = start(bounds);
        let (one, _two) = (say(&path, "G").await, say(&path, "G").await);
        let mut third = say(&path, WHOLE).await;
        let mut byte = [0];
        assert!(
            tokio::time::timeout(SHORT, third.read(&mut byte)).await.is_err(),
            "served"
        );
        drop(one);
        assert!(hear(third).await.starts_with("HTTP/1.1 200"));
    }
}
