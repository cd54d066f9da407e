//! The least that a gateway of these parts can be: TLS in from the same tunnel, a pool, TLS out, by hyper and rustls as the
//! gateway uses them. It judges nothing, records nothing, swaps nothing. `scripts/bench` runs it as the leg `bare`, to tell
//! what the libraries and the tunnel cost from what the gateway adds.
//!
//!     bare LISTEN PRIVATE_KEY PEER_KEY PEER_ADDRESS UPSTREAM CERTIFICATE KEY ROOT TOKEN
//!
//! Keys of the tunnel in base64, the others as files of PEM. HTTP/1.1 alone.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use anyhow::{Context as _, Result};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{AUTHORIZATION, HeaderValue};
use http::{Request, Response};
use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tailkeep::ingress::Flow;
use tailkeep::ingress::wireguard::{Config, FLOWS_MAX, Listener, Peer, PeerSet};
use tailkeep::policy::model::Stack;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::{TlsAcceptor, TlsConnector};

type Idle = Mutex<Vec<SendRequest<Incoming>>>;

/// What every connection shares.
struct Bare {
    upstream: SocketAddr,
    accept: TlsAcceptor,
    connect: TlsConnector,
    token: HeaderValue,
    idle: Idle,
}

impl Bare {
    async fn serve(self: Arc<Self>, flow: Flow) -> Result<()> {
        let stream = self.accept.accept(flow.stream).await?;
        let name = stream
            .get_ref()
            .1
            .server_name()
            .unwrap_or("api.bench.test")
            .to_owned();
        let each = service_fn(move |request| self.clone().pass(request, name.clone()));
        Ok(http1::Builder::new()
            .serve_connection(TokioIo::new(stream), each)
            .await?)
    }

    /// Sends a request over a connection of the pool, or a new one.
    async fn pass(self: Arc<Self>, mut request: Request<Incoming>, name: String) -> Result<Response<Back>> {
        request.headers_mut().insert(AUTHORIZATION, self.token.clone());
        let mut sender = match self.take().await {
            Some(sender) => sender,
            None => self.open(name).await?,
        };
        let response = sender.send_request(request).await?;
        Ok(response.map(|incoming| Back {
            incoming,
            lent: Some((self, sender)),
        }))
    }

    async fn open(&self, name: String) -> Result<SendRequest<Incoming>> {
        let stream = TcpStream::connect(self.upstream).await?;
        stream.set_nodelay(true)?;
        let stream = self.connect.connect(ServerName::try_from(name)?, stream).await?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(sender)
    }

    async fn take(&self) -> Option<SendRequest<Incoming>> {
        loop {
            let mut sender = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop()?;
            if sender.ready().await.is_ok() {
                return Some(sender);
            }
        }
    }
}

/// A response's body; the connection goes back to the pool at its end.
struct Back {
    incoming: Incoming,
    lent: Option<(Arc<Bare>, SendRequest<Incoming>)>,
}

impl Body for Back {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        Pin::new(&mut self.incoming).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

impl Drop for Back {
    fn drop(&mut self) {
        if let Some((bare, sender)) = self.lent.take()
            && self.incoming.is_end_stream()
        {
            let mut idle = bare.idle.lock().unwrap_or_else(PoisonError::into_inner);
            idle.push(sender);
        }
    }
}

fn key(text: &str) -> Result<[u8; 32]> {
    let bytes = STANDARD.decode(text.trim())?;
    bytes.try_into().ok().context("a key has 32 bytes")
}

fn acceptor(certificate: &str, key: &str) -> Result<TlsAcceptor> {
    let chain = CertificateDer::pem_file_iter(certificate)?.collect::<Result<Vec<_>, _>>()?;
    let mut config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(chain, PrivateKeyDer::from_pem_file(key)?)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.ticketer = rustls::crypto::aws_lc_rs::Ticketer::new()?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

fn connector(root: &str) -> Result<TlsConnector> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(root)? {
        roots.add(certificate?)?;
    }
    let mut config = ClientConfig::builder()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsConnector::from(Arc::new(config)))
}

async fn run(asked: &[String; 9]) -> Result<()> {
    let [
        listen,
        own,
        peer,
        address,
        upstream,
        certificate,
        leaf,
        root,
        token,
    ] = asked;
    let peer = Peer {
        name: "agent".to_owned(),
        public_key: key(peer)?,
        machine: None,
        v4: Some(address.parse()?),
        v6: None,
    };
    let (_change, peers) = watch::channel(Arc::new(PeerSet { peers: vec![peer] }));
    let config = Config {
        listen: listen.parse()?,
        private_key: key(&std::fs::read_to_string(own)?)?.into(),
        gateway_v4: None,
        gateway_v6: None,
        mtu: 1420,
        stack: Stack::Auto,
        connections_max: FLOWS_MAX,
        flows_max: FLOWS_MAX,
        dns: None,
    };
    let bare = Arc::new(Bare {
        upstream: upstream.parse()?,
        accept: acceptor(certificate, leaf)?,
        connect: connector(root)?,
        token: format!("Bearer {token}").parse()?,
        idle: Idle::default(),
    });
    let mut listener = Listener::bind(config, peers).await?;
    while let Some(flow) = listener.accept().await {
        let bare = bare.clone();
        tokio::spawn(async move {
            // Who leaves in the middle is no fault of a measurement.
            let _ = bare.serve(flow).await;
        });
    }
    Ok(())
}

fn main() -> Result<()> {
    let asked: Vec<String> = std::env::args().skip(1).collect();
    let asked = asked
        .try_into()
        .ok()
        .context("LISTEN PRIVATE_KEY PEER_KEY PEER_ADDRESS UPSTREAM CERTIFICATE KEY ROOT TOKEN")?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(run(&asked))
}
