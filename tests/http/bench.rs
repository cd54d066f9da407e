//! What the gateway costs: `cargo test --release --test http bench -- --ignored --nocapture`.
//!
//! Agent, gateway and service share this process, so that the difference between its CPU time
//! through the gateway and without it is the gateway's own.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::server::{BOTH, Service};
use crate::world::{API, World};

/// Connections at once (HTTP/1.1) or streams at once on one connection (HTTP/2).
const AT_ONCE: usize = 64;

const LASTS: Duration = Duration::from_secs(5);

#[derive(Clone, Copy)]
struct Cost {
    rate: f64,
    cpu_us: f64,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn bench_keep_alive_get_of_1_kib() {
    let service = Service::start(BOTH).await;
    let world = World::new(&service.open_policy());
    let gateway = world.listen(API).await;
    let gateway_ca = world.authority.ca_pem().to_owned();
    for alpn in ["http/1.1", "h2"] {
        let direct = measure(service.address, &service.ca, alpn).await;
        let through = measure(gateway, &gateway_ca, alpn).await;
        println!(
            "{alpn}: direct {:.0}/s {:.0} µs; through {:.0}/s {:.0} µs; rate x{:.2}, CPU x{:.2}, the gateway's own {:.0} µs a request",
            direct.rate,
            direct.cpu_us,
            through.rate,
            through.cpu_us,
            through.rate / direct.rate,
            through.cpu_us / direct.cpu_us,
            through.cpu_us - direct.cpu_us,
        );
    }
}

async fn measure(to: std::net::SocketAddr, ca: &str, alpn: &'static str) -> Cost {
    let connector = connector(ca, alpn);
    let shared = match alpn {
        "h2" => Some(http2(to, &connector).await),
        _ => None,
    };
    let end = Instant::now() + LASTS;
    let (began, cpu) = (Instant::now(), cpu_us());
    let tasks: Vec<_> = (0..AT_ONCE)
        .map(|_| {
            let (connector, shared) = (connector.clone(), shared.clone());
            tokio::spawn(async move {
                match shared {
                    Some(sender) => over_http2(sender, end).await,
                    None => over_http1(to, connector, end).await,
                }
            })
        })
        .collect();
    let mut count = 0;
    for task in tasks {
        count += task.await.unwrap();
    }
    Cost {
        rate: count as f64 / began.elapsed().as_secs_f64(),
        cpu_us: (cpu_us() - cpu) / count as f64,
    }
}

async fn over_http1(to: std::net::SocketAddr, connector: TlsConnector, end: Instant) -> u64 {
    let io = TokioIo::new(connect(to, &connector).await);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
    tokio::spawn(connection);
    let mut count = 0;
    while Instant::now() < end {
        sender.ready().await.unwrap();
        let request = Request::get("/1k")
            .header("host", "api.test")
            .body(Empty::<Bytes>::new())
            .unwrap();
        let response = sender.send_request(request).await.unwrap();
        assert_eq!(
            response.into_body().collect().await.unwrap().to_bytes().len(),
            1024
        );
        count += 1;
    }
    count
}

type Sender = hyper::client::conn::http2::SendRequest<Empty<Bytes>>;

async fn http2(to: std::net::SocketAddr, connector: &TlsConnector) -> Sender {
    let io = TokioIo::new(connect(to, connector).await);
    let (sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io)
        .await
        .unwrap();
    tokio::spawn(connection);
    sender
}

async fn over_http2(mut sender: Sender, end: Instant) -> u64 {
    let mut count = 0;
    while Instant::now() < end {
        let request = Request::get("https://api.test/1k")
            .body(Empty::<Bytes>::new())
            .unwrap();
        let response = sender.send_request(request).await.unwrap();
        assert_eq!(
            response.into_body().collect().await.unwrap().to_bytes().len(),
            1024
        );
        count += 1;
    }
    count
}

async fn connect(
    to: std::net::SocketAddr,
    connector: &TlsConnector,
) -> tokio_rustls::client::TlsStream<TcpStream> {
    let stream = TcpStream::connect(to).await.unwrap();
    stream.set_nodelay(true).unwrap();
    connector
        .connect(ServerName::try_from("api.test").unwrap(), stream)
        .await
        .unwrap()
}

fn connector(ca: &str, alpn: &str) -> TlsConnector {
    let mut roots = rustls::RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_slice(ca.as_bytes()).unwrap())
        .unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![alpn.as_bytes().to_vec()];
    TlsConnector::from(Arc::new(config))
}

/// CPU time of this process so far, microseconds (clock ticks of 10 ms).
fn cpu_us() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks = |at: usize| fields[at].parse::<f64>().unwrap();
    (ticks(11) + ticks(12)) * 10_000.0
}
