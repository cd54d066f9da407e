//! Agents: curl, and hyper where curl cannot say what is wanted.

use std::net::SocketAddr;
use std::process::Output;

use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::time::timeout;

use crate::world::{SOON, World};

/// What curl printed: the body, then a line of `--write-out`.
pub struct Curl {
    pub body: Vec<u8>,
    pub status: u16,
    pub version: String,
    pub errors: String,
    pub exit: i32,
    /// TCP connections that were made.
    pub connects: u32,
}

impl Curl {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }
}

const MARK: &[u8] = b"\n@@@";

/// Runs curl as an agent that resolves every name to `gateway`.
pub async fn curl(world: &World, gateway: SocketAddr, args: &[&str]) -> Curl {
    let mut all = curls(world, gateway, &[args]).await;
    all.pop().unwrap()
}

/// Runs curl for several requests in one process, over one connection where it can.
pub async fn curls(world: &World, gateway: SocketAddr, requests: &[&[&str]]) -> Vec<Curl> {
    let output = run(world, gateway, requests).await;
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    let mut rest = output.stdout.as_slice();
    let mut all = Vec::new();
    for _ in requests {
        let at = rest.windows(MARK.len()).position(|window| window == MARK);
        let at = at.unwrap_or_else(|| panic!("curl: {errors}"));
        let (body, line) = (&rest[..at], &rest[at + MARK.len()..]);
        let end = line.iter().position(|&byte| byte == b';').unwrap();
        let words = String::from_utf8(line[..end].to_vec()).unwrap();
        let mut words = words.split(' ').map(str::to_owned);
        let mut next = || words.next().unwrap_or_default();
        all.push(Curl {
            body: body.to_vec(),
            status: next().parse().unwrap(),
            version: next(),
            connects: next().parse().unwrap(),
            errors: errors.clone(),
            exit: output.status.code().unwrap_or(-1),
        });
        rest = &line[end + 1..];
    }
    all
}

async fn run(world: &World, gateway: SocketAddr, requests: &[&[&str]]) -> Output {
    let to = format!("::127.0.0.1:{}", gateway.port());
    let ca = world.ca();
    let mut command = Command::new("curl");
    for (number, args) in requests.iter().enumerate() {
        if number > 0 {
            command.arg("--next");
        }
        command
            .args(["-sS", "--max-time", "20", "--cacert", &ca, "--connect-to", &to])
            .args(["-w", "\n@@@%{http_code} %{http_version} %{num_connects};"])
            .args(*args);
    }
    command
        .env_clear()
        .env("PATH", std::env::var("PATH").unwrap_or_default())
        .kill_on_drop(true)
        .output()
        .await
        .unwrap()
}

/// A connection on which a test says exactly what is sent.
pub struct Raw {
    pub stream: TcpStream,
    buffer: Vec<u8>,
}

/// A response as it came.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

impl Raw {
    pub async fn connect(gateway: SocketAddr) -> Raw {
        Raw::over(TcpStream::connect(gateway).await.unwrap())
    }

    pub fn over(stream: TcpStream) -> Raw {
        Raw {
            stream,
            buffer: Vec::new(),
        }
    }

    /// What came and was not taken yet.
    pub fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.buffer)
    }

    pub async fn say(&mut self, bytes: impl AsRef<[u8]>) {
        // The gateway may have hung up already; what it answered is still to be read.
        let _ = self.stream.write_all(bytes.as_ref()).await;
    }

    /// The next response, or `None` where the connection was closed before one.
    pub async fn hear(&mut self) -> Option<Answer> {
        timeout(SOON, self.response()).await.expect("no answer in time")
    }

    async fn response(&mut self) -> Option<Answer> {
        let end = loop {
            if let Some(at) = find(&self.buffer, b"\r\n\r\n") {
                break at + 4;
            }
            self.more().await.then_some(())?;
        };
        let head = String::from_utf8_lossy(&self.buffer[..end]).into_owned();
        self.buffer.drain(..end);
        let status = head.split(' ').nth(1)?.parse().ok()?;
        let length = head.lines().find_map(|line| {
            line.to_ascii_lowercase()
                .strip_prefix("content-length: ")?
                .parse()
                .ok()
        });
        let length: usize = length.unwrap_or(0);
        while self.buffer.len() < length && self.more().await {}
        let body = self.buffer.drain(..length.min(self.buffer.len())).collect();
        Some(Answer { status, head, body })
    }

    /// Whatever else comes until the gateway hangs up.
    pub async fn rest(&mut self) -> Vec<u8> {
        timeout(SOON, async { while self.more().await {} })
            .await
            .expect("the connection was not closed");
        std::mem::take(&mut self.buffer)
    }

    /// Reads until `wanted` has come.
    pub async fn until(&mut self, wanted: &[u8]) -> bool {
        let read = async {
            while find(&self.buffer, wanted).is_none() {
                if !self.more().await {
                    return false;
                }
            }
            true
        };
        timeout(SOON, read).await.expect("it did not come in time")
    }

    async fn more(&mut self) -> bool {
        let mut piece = [0; 16 << 10];
        match self.stream.read(&mut piece).await {
            Ok(0) | Err(_) => false,
            Ok(length) => {
                self.buffer.extend_from_slice(&piece[..length]);
                true
            }
        }
    }
}

pub fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}

/// One request in one connection, and its answer.
pub async fn ask(gateway: SocketAddr, request: &str) -> Option<Answer> {
    let mut raw = Raw::connect(gateway).await;
    raw.say(request).await;
    raw.hear().await
}

/// A connection over TLS to `name`, on which `protocol` is agreed.
pub async fn secured(
    world: &World,
    gateway: SocketAddr,
    name: &'static str,
    protocol: &[u8],
) -> tokio_rustls::client::TlsStream<TcpStream> {
    use rustls::pki_types::pem::PemObject as _;
    let mut roots = rustls::RootCertStore::empty();
    let ca = rustls::pki_types::CertificateDer::from_pem_file(world.ca()).unwrap();
    roots.add(ca).unwrap();
    let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![protocol.to_vec()];
    let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(config));
    let stream = TcpStream::connect(gateway).await.unwrap();
    connector.connect(name.try_into().unwrap(), stream).await.unwrap()
}

/// HTTP/1.1 over TLS, which agrees on `name`.
pub async fn tls<B>(
    world: &World,
    gateway: SocketAddr,
    name: &'static str,
) -> hyper::client::conn::http1::SendRequest<B>
where
    B: http_body::Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let stream = secured(world, gateway, name, b"http/1.1").await;
    let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(async move {
        let _ = connection.await;
    });
    sender
}

/// An HTTP/2 connection in the clear, which the gateway knows by its preface.
pub async fn http2<B>(gateway: SocketAddr) -> SendRequest<B>
where
    B: http_body::Body + Send + Unpin + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let stream = TcpStream::connect(gateway).await.unwrap();
    let builder = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
    let (sender, connection) = builder.handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(async move {
        let _ = connection.await;
    });
    sender
}
