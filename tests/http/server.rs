//! The service behind the gateway: hyper, HTTP/1.1 and HTTP/2, by a CA of its own.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Empty, Full, StreamBody};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::PrivatePkcs8KeyDer;
use sha2::Digest as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::{Notify, mpsc};
use tokio_rustls::TlsAcceptor;

pub type Body = BoxBody<Bytes, Infallible>;

/// One request as the service saw it.
#[derive(Clone, Debug)]
pub struct Seen {
    pub line: String,
    pub query: Option<String>,
    pub headers: HeaderMap,
    pub body_length: usize,
    pub body_sha256: [u8; 32],
    pub body_start: Vec<u8>,
    pub trailers: Option<HeaderMap>,
    pub peer: SocketAddr,
    pub client_certificate: bool,
}

pub struct Service {
    pub address: SocketAddr,
    /// PEM of the CA that signed its certificate.
    pub ca: String,
    seen: Arc<Mutex<Vec<Seen>>>,
    pub connections: Arc<AtomicUsize>,
    /// Lets the second event of `/events` go.
    pub next_event: Arc<Notify>,
}

/// What the service speaks.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Speaks {
    Plain,
    Tls(&'static [&'static [u8]]),
    /// TLS that wants a client certificate by its own CA.
    Mutual,
}

pub const BOTH: Speaks = Speaks::Tls(&[b"h2", b"http/1.1"]);
pub const ONLY_HTTP1: Speaks = Speaks::Tls(&[b"http/1.1"]);

/// A CA and a certificate of it for `api.test` and 127.0.0.1.
pub struct Minted {
    pub ca: String,
    pub chain: String,
    pub key: String,
}

pub fn mint() -> Minted {
    let ca_key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = params.self_signed(&ca_key).unwrap();
    let issuer = Issuer::new(params, ca_key);
    let key = KeyPair::generate().unwrap();
    let names = ["api.test", "grpc.test", "127.0.0.1"].map(str::to_owned);
    let leaf = CertificateParams::new(names)
        .unwrap()
        .signed_by(&key, &issuer)
        .unwrap();
    Minted {
        ca: ca.pem(),
        chain: leaf.pem(),
        key: key.serialize_pem(),
    }
}

fn tls(minted: &Minted, speaks: Speaks) -> TlsAcceptor {
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject as _;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .unwrap();
    let builder = if speaks == Speaks::Mutual {
        let mut roots = rustls::RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_slice(minted.ca.as_bytes()).unwrap())
            .unwrap();
        let roots = Arc::new(roots);
        let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(roots, provider);
        builder.with_client_cert_verifier(verifier.build().unwrap())
    } else {
        builder.with_no_client_auth()
    };
    let chain = vec![CertificateDer::from_pem_slice(minted.chain.as_bytes()).unwrap()];
    let key = PrivatePkcs8KeyDer::from_pem_slice(minted.key.as_bytes()).unwrap();
    let mut config = builder.with_single_cert(chain, key.into()).unwrap();
    if let Speaks::Tls(alpn) = speaks {
        config.alpn_protocols = alpn.iter().map(|one| one.to_vec()).collect();
    }
    TlsAcceptor::from(Arc::new(config))
}

impl Service {
    pub async fn start(speaks: Speaks) -> Service {
        Self::start_with(speaks, &mint()).await
    }

    pub async fn start_with(speaks: Speaks, minted: &Minted) -> Service {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let service = Service {
            address: listener.local_addr().unwrap(),
            ca: minted.ca.clone(),
            seen: Arc::default(),
            connections: Arc::default(),
            next_event: Arc::default(),
        };
        let acceptor = (speaks != Speaks::Plain).then(|| tls(minted, speaks));
        let (seen, connections) = (service.seen.clone(), service.connections.clone());
        let next_event = service.next_event.clone();
        tokio::spawn(async move {
            while let Ok((stream, peer)) = listener.accept().await {
                connections.fetch_add(1, Ordering::SeqCst);
                let (seen, next_event) = (seen.clone(), next_event.clone());
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    let mut certified = false;
                    let answer = |certified| {
                        service_fn(move |request| {
                            let (seen, next_event) = (seen.clone(), next_event.clone());
                            async move {
                                Ok::<_, Infallible>(serve(request, seen, next_event, (peer, certified)).await)
                            }
                        })
                    };
                    let mut builder = auto::Builder::new(TokioExecutor::new());
                    builder.http1().max_headers(256);
                    let _ = match acceptor {
                        None => {
                            let io = TokioIo::new(stream);
                            builder
                                .serve_connection_with_upgrades(io, answer(certified))
                                .await
                        }
                        Some(acceptor) => {
                            let Ok(stream) = acceptor.accept(stream).await else {
                                return;
                            };
                            certified |= stream.get_ref().1.peer_certificates().is_some();
                            let io = TokioIo::new(stream);
                            builder
                                .serve_connection_with_upgrades(io, answer(certified))
                                .await
                        }
                    };
                });
            }
        });
        service
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    pub fn lines(&self) -> Vec<String> {
        self.seen().into_iter().map(|seen| seen.line).collect()
    }

    /// A policy with one endpoint `https.api` at this service, and `rules`.
    pub fn policy(&self, rules: &str) -> String {
        format!(
            "gateway {{\n{LIMITS}\n}}\nendpoint \"https\" \"api\" {{\n  hosts = [\"api.test\", \"*.cdn.test\", \"grpc.test\"]\n  \
             upstream = \"{}\"\n  ca_cert = <<EOT\n{}EOT\n}}\n\
             profile \"dev\" {{\n  peers = [\"laptop\"]\n  endpoints = [https.api]\n}}\n{rules}",
            self.address, self.ca
        )
    }

    /// [`Service::policy`] that allows everything.
    pub fn open_policy(&self) -> String {
        self.policy(ALLOW)
    }
}

const LIMITS: &str = "";

pub const ALLOW: &str = "rule \"all\" {\n  endpoint = https.api\n  verdict = \"allow\"\n}\n";

async fn serve(
    mut request: Request<Incoming>,
    seen: Arc<Mutex<Vec<Seen>>>,
    next_event: Arc<Notify>,
    (peer, client_certificate): (SocketAddr, bool),
) -> Response<Body> {
    let line = format!(
        "{} {} {:?}",
        request.method(),
        request.uri().path(),
        request.version()
    );
    let headers = request.headers().clone();
    let query = request.uri().query().map(str::to_owned);
    let path = request.uri().path().to_owned();
    let note = |length, sha256, start, trailers| {
        seen.lock().unwrap().push(Seen {
            line: line.clone(),
            query: query.clone(),
            headers: headers.clone(),
            body_length: length,
            body_sha256: sha256,
            body_start: start,
            trailers,
            peer,
            client_certificate,
        });
    };
    if headers.contains_key(http::header::UPGRADE) {
        note(0, [0; 32], Vec::new(), None);
        return upgrade(request, &headers);
    }
    if path == "/early" {
        note(0, [0; 32], Vec::new(), None);
        return text(StatusCode::PAYLOAD_TOO_LARGE, "no body wanted");
    }
    let (mut length, mut hash, mut start, mut trailers) = (0, sha2::Sha256::new(), Vec::new(), None);
    while let Some(frame) = request.body_mut().frame().await {
        let Ok(frame) = frame else {
            note(length, [0xff; 32], start, None);
            return text(StatusCode::BAD_REQUEST, "cut off");
        };
        if let Some(data) = frame.data_ref() {
            length += data.len();
            hash.update(data);
            start.extend_from_slice(&data[..data.len().min(4096usize.saturating_sub(start.len()))]);
        }
        if let Ok(found) = frame.into_trailers() {
            trailers = Some(found);
        }
    }
    note(length, hash.finalize().into(), start.clone(), trailers);
    let response = respond(&path, &headers, start, next_event).await;
    if request.method() != http::Method::HEAD {
        return response;
    }
    // hyper leaves this to the service over HTTP/2.
    let length = http_body::Body::size_hint(response.body())
        .exact()
        .unwrap_or_default();
    let mut response = response.map(|_| Empty::new().boxed());
    response
        .headers_mut()
        .insert("content-length", HeaderValue::from(length));
    response
}

async fn respond(path: &str, headers: &HeaderMap, start: Vec<u8>, next_event: Arc<Notify>) -> Response<Body> {
    match path {
        "/echo" => Response::new(Full::from(start).boxed()),
        "/headers" => {
            let mut lines: Vec<String> = headers
                .iter()
                .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap_or("?")))
                .collect();
            lines.sort();
            let mut response = text(StatusCode::OK, &lines.join("\n"));
            if let Some(value) = headers.get(http::header::AUTHORIZATION) {
                response.headers_mut().insert("x-reflected", value.clone());
            }
            response
        }
        "/1k" => Response::new(Full::from(vec![b'x'; 1024]).boxed()),
        "/none" => status(StatusCode::NO_CONTENT),
        "/unchanged" => status(StatusCode::NOT_MODIFIED),
        "/redirect" => {
            let mut response = text(StatusCode::FOUND, "elsewhere");
            let headers = response.headers_mut();
            headers.insert("location", HeaderValue::from_static("https://api.test/1k"));
            headers.insert("alt-svc", HeaderValue::from_static("h3=\":443\""));
            response
        }
        "/events" => events(next_event),
        "/trailers" => {
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", HeaderValue::from_static("0"));
            let frames = [
                Ok(Frame::data(Bytes::from_static(b"message"))),
                Ok(Frame::trailers(trailers)),
            ];
            let mut response = Response::new(StreamBody::new(futures_util::stream::iter(frames)).boxed());
            response
                .headers_mut()
                .insert("trailer", HeaderValue::from_static("grpc-status"));
            response
        }
        "/big" => big(),
        "/long" => {
            let mut response = big();
            response
                .headers_mut()
                .insert("content-length", HeaderValue::from(BIG_BYTES));
            response
        }
        _ => text(StatusCode::OK, path),
    }
}

/// The bytes of `/big`.
pub const BIG_BYTES: usize = 256 << 20;

fn big() -> Response<Body> {
    let piece = Bytes::from(vec![b'b'; 1 << 20]);
    let frames = (0..BIG_BYTES >> 20).map(move |_| Ok(Frame::data(piece.clone())));
    Response::new(StreamBody::new(futures_util::stream::iter(frames)).boxed())
}

fn events(next_event: Arc<Notify>) -> Response<Body> {
    let (send, mut receive) = mpsc::channel::<Bytes>(1);
    tokio::spawn(async move {
        let _ = send.send(Bytes::from_static(b"data: first\n\n")).await;
        // The second goes when the test has read the first.
        next_event.notified().await;
        let _ = send.send(Bytes::from_static(b"data: second\n\n")).await;
    });
    let stream = futures_util::stream::poll_fn(move |cx| {
        receive
            .poll_recv(cx)
            .map(|bytes| bytes.map(|bytes| Ok(Frame::data(bytes))))
    });
    let mut response = Response::new(StreamBody::new(stream).boxed());
    response
        .headers_mut()
        .insert("content-type", HeaderValue::from_static("text/event-stream"));
    response
}

/// Accepts any upgrade, then echoes until the agent is done, and says `bye`.
fn upgrade(mut request: Request<Incoming>, headers: &HeaderMap) -> Response<Body> {
    let upgraded = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let Ok(upgraded) = upgraded.await else { return };
        let mut io = TokioIo::new(upgraded);
        let mut buffer = [0; 4096];
        while let Ok(length @ 1..) = io.read(&mut buffer).await {
            if io.write_all(&buffer[..length]).await.is_err() || io.flush().await.is_err() {
                return;
            }
        }
        let _ = io.write_all(b"bye").await;
        let _ = io.shutdown().await;
    });
    let mut response = status(StatusCode::SWITCHING_PROTOCOLS);
    let own = response.headers_mut();
    own.insert("connection", HeaderValue::from_static("Upgrade"));
    if let Some(kind) = headers.get("upgrade") {
        own.insert("upgrade", kind.clone());
    }
    own.insert(
        "sec-websocket-accept",
        HeaderValue::from_static("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="),
    );
    response
}

fn text(status: StatusCode, text: &str) -> Response<Body> {
    let mut response = Response::new(Full::from(text.to_owned()).boxed());
    *response.status_mut() = status;
    response
}

fn status(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Empty::new().boxed());
    *response.status_mut() = status;
    response
}

/// A moment in which nothing may happen.
pub const A_MOMENT: Duration = Duration::from_millis(200);
