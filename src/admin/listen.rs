//! The API's listeners: who is at the other end, how many at a time, and for how long.
//!
//! On the Unix socket the kernel names the caller: root, or the account that the gateway runs as. On
//! loopback nobody is named yet; who may ask what is said by [`super::admit`].

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State as Shared};
use axum::http::StatusCode;
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;
use tower_service::Service as _;

use super::Person;
use super::admit::{Caller, Site};
use super::api::Failed;
use super::tailnet::Tailnet;
use crate::bad_input;

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

/// A connection that is to be let in, and for how long.
pub(super) struct Opened<I> {
    pub io: I,
    pub caller: Caller,
    /// When this ends, so does the connection.
    pub over: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

/// What is to be done before a connection is served: a handshake, a question who it is. `None` closes it.
pub(super) type Opening<I> = Pin<Box<dyn Future<Output = Option<Opened<I>>> + Send>>;

/// A listener of any kind.
pub(super) trait Listen: Send + 'static {
    type Io: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    fn next(&self) -> impl Future<Output = io::Result<Opening<Self::Io>>> + Send;
}

impl Listen for UnixListener {
    type Io = tokio::net::UnixStream;

    async fn next(&self) -> io::Result<Opening<Self::Io>> {
        let (io, _) = self.accept().await?;
        let uid = io.peer_cred()?.uid();
        let user = nix::unistd::User::from_uid(uid.into()).ok().flatten();
        let name = user.map_or_else(|| format!("uid:{uid}"), |user| user.name);
        let may = uid == 0 || uid == nix::unistd::geteuid().as_raw();
        let caller = if may {
            Caller::Known(Person(name))
        } else {
            Caller::Stranger(name)
        };
        let opened = Opened {
            io,
            caller,
            over: None,
        };
        Ok(Box::pin(async move { Some(opened) }))
    }
}

/// The listener for this machine.
pub(super) struct Loopback {
    pub listener: TcpListener,
    /// Whose forwarding is no reason to be let in.
    pub tailnet: Option<Arc<Tailnet>>,
}

impl Listen for Loopback {
    type Io = tokio::net::TcpStream;

    async fn next(&self) -> io::Result<Opening<Self::Io>> {
        let (io, source) = self.listener.accept().await?;
        let site = Arc::new(Site::loopback(io.local_addr()?));
        io.set_nodelay(true)?;
        let tailnet = self.tailnet.clone();
        let caller = Caller::Loopback(site, source);
        Ok(Box::pin(async move {
            if let Some(tailnet) = tailnet
                && tailnet.forwards(source).await
            {
                return None;
            }
            Some(Opened {
                io,
                caller,
                over: None,
            })
        }))
    }
}

/// Serves `router`, whose guard is [`super::admit`], until the listener fails for good.
pub(super) async fn serve<L: Listen>(listener: L, router: Router, bounds: Bounds) {
    let places = Arc::new(Semaphore::new(bounds.connections_max));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else {
            return;
        };
        let opening = match listener.next().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "a connection to the admin API could not be accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let router = router.clone();
        tokio::spawn(async move {
            let _place = place;
            let opened = tokio::time::timeout(bounds.head, opening).await;
            let Ok(Some(Opened { io, caller, over })) = opened else {
                return;
            };
            let service =
                hyper::service::service_fn(move |mut request: hyper::Request<hyper::body::Incoming>| {
                    request.extensions_mut().insert(caller.clone());
                    router.clone().call(request)
                });
            let mut builder = hyper::server::conn::http1::Builder::new();
            builder
                .timer(TokioTimer::new())
                .header_read_timeout(bounds.head)
                .max_buf_size(HEAD_BYTES_MAX);
            let served = builder.serve_connection(TokioIo::new(io), service);
            let served = tokio::time::timeout(bounds.connection, heard(served, bad_input::Reader::Admin));
            match over {
                Some(over) => tokio::select! { _ = served => {}, () = over => {} },
                None => drop(served.await),
            }
        });
    }
}

/// For everything that changes something: once begun it goes on to its end, whether its caller stays or
/// leaves. What is half done, such as a kill that ended no connection, would be found by nobody.
pub(super) async fn whole(request: Request, next: Next) -> Response {
    if request.method().is_safe() {
        return next.run(request).await;
    }
    match tokio::spawn(next.run(request)).await {
        Ok(answer) => answer,
        Err(error) => super::api::broken(error).into_response(),
    }
}

/// Waits for the end of a connection; a head that cannot be read is counted.
pub(super) async fn heard(served: impl Future<Output = hyper::Result<()>>, reader: bad_input::Reader) {
    if served.await.is_err_and(|error| error.is_parse()) {
        bad_input::count(reader, &"head");
    }
}

/// Counts a request that was refused as malformed, by the status that says so.
pub(super) fn counted(reader: bad_input::Reader, answer: Response) -> Response {
    let status = answer.status();
    let is_bad = matches!(status.as_u16(), 400 | 411 | 413 | 415 | 422 | 431);
    if is_bad && let Some(reason) = status.canonical_reason() {
        bad_input::count(reader, &reason.replace(' ', ""));
    }
    answer
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

    #[tokio::test]
    async fn what_has_begun_goes_on_when_its_caller_leaves() {
        use axum::middleware::{Next, from_fn};
        use tokio::sync::Notify;
        /// Tells when the connection's own future is dropped.
        struct Left(Arc<Notify>);
        impl Drop for Left {
            fn drop(&mut self) {
                self.0.notify_one();
            }
        }
        for method in ["POST", "DELETE"] {
            let (begun, go_on, done) = (
                Arc::new(Notify::new()),
                Arc::new(Notify::new()),
                Arc::new(Notify::new()),
            );
            let work = {
                let (begun, go_on, done) = (begun.clone(), go_on.clone(), done.clone());
                async move || {
                    begun.notify_one();
                    go_on.notified().await;
                    done.notify_one();
                }
            };
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("s");
            let listener = UnixListener::bind(&path).unwrap();
            let gone = Arc::new(Notify::new());
            let told = gone.clone();
            let router = Router::new()
                .route("/", axum::routing::any(work))
                .layer(from_fn(whole))
                .layer(axum::middleware::from_fn_with_state(BOUNDS, in_time))
                .layer(from_fn(move |request: axum::extract::Request, next: Next| {
                    let left = Left(told.clone());
                    async move {
                        let _left = left;
                        next.run(request).await
                    }
                }));
            let served = tokio::spawn(serve(listener, router, BOUNDS));
            let caller = say(&path, &WHOLE.replace("GET", method)).await;
            begun.notified().await;
            // The work has begun and cannot end: its caller is gone before, and that is known.
            drop(caller);
            let known = tokio::time::timeout(SOON, gone.notified()).await;
            assert!(known.is_ok(), "{method}: the caller is not missed");
            go_on.notify_one();
            let ended = tokio::time::timeout(SOON, done.notified()).await;
            assert!(ended.is_ok(), "{method} was cut off");
            served.abort();
        }
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
