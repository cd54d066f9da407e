//! The agent's TLS handshake: the ClientHello read whole, judged, then answered.
//!
//! rustls joins a hello that comes in many records or many small writes; what is added here is a
//! bound on its bytes and on its time, and the check that its SNI names what was dialled.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use rustls::server::Acceptor;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::time::{Instant, timeout_at};
use tokio_rustls::{LazyConfigAcceptor, StartHandshake};

use super::leaf::{Leaf, LeafError, LeafName, Leaves};
use crate::bad_input;

/// Bytes on the wire until the ClientHello is whole. Real ones stay under 4 KiB, post-quantum
/// key shares and tickets included; in records of a byte each, which is the worst there is, that is
/// 24 KiB.
pub const HELLO_BYTES_MAX: usize = 32 << 10;

/// `decode_error` (RFC 8446 §6.2).
const DECODE_ERROR: u8 = 50;
/// `unrecognized_name` (RFC 6066 §3, RFC 8446 §6.2).
const UNRECOGNIZED_NAME: u8 = 112;
/// `internal_error` (RFC 8446 §6.2).
const INTERNAL_ERROR: u8 = 80;

/// The agent's handshake failed. An alert was sent where one could be.
#[derive(Debug, thiserror::Error)]
pub enum AcceptError {
    #[error("the handshake took longer than {0:?}")]
    Late(Duration),
    #[error("the ClientHello is longer than {HELLO_BYTES_MAX} bytes")]
    Long,
    #[error("the SNI does not name what was dialled")]
    Name,
    #[error("the handshake broke: {0}")]
    Broken(#[from] io::Error),
    #[error(transparent)]
    Leaf(#[from] LeafError),
}

/// Which application protocols a server offers by ALPN (RFC 7301), best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(usize)]
pub enum Offer {
    /// None; an agent's ALPN is ignored.
    Nothing,
    /// `http/1.1`.
    Http1,
    /// `h2`, `http/1.1`.
    Http2,
    /// `postgresql` (direct TLS).
    Postgres,
}

impl Offer {
    pub(super) const COUNT: usize = 4;

    /// The protocol names, best first.
    pub fn protocols(self) -> Vec<Vec<u8>> {
        match self {
            Offer::Nothing => vec![],
            Offer::Http1 => vec![b"http/1.1".to_vec()],
            Offer::Http2 => vec![b"h2".to_vec(), b"http/1.1".to_vec()],
            Offer::Postgres => vec![b"postgresql".to_vec()],
        }
    }
}

/// What the agent dialled, against which its SNI is read.
#[derive(Clone, Copy)]
pub struct Expected<'a> {
    /// Whether a name, at the dialled port, leads where the destination does: to the same endpoint.
    pub leads: &'a (dyn Fn(&str) -> bool + Sync),
    /// The name that the virtual address stands for; `None` where an address was claimed.
    pub name: Option<&'a str>,
    /// The address and port that were dialled.
    pub destination: SocketAddr,
}

impl Expected<'_> {
    /// The name to mint a leaf for, or `None` if the SNI names something else.
    ///
    /// Without SNI the name is the virtual address's, or the dialled address itself. With one, it
    /// must be the dialled name or lead to the same endpoint.
    pub fn leaf_name(&self, sni: Option<&str>) -> Option<LeafName> {
        let Some(sni) = sni else {
            return Some(match self.name {
                Some(name) => LeafName::Name(name.to_owned()),
                None => LeafName::Address(self.destination.ip()),
            });
        };
        let sni = sni.strip_suffix('.').unwrap_or(sni).to_ascii_lowercase();
        let named = self.name == Some(sni.as_str());
        (named || (self.leads)(&sni)).then_some(LeafName::Name(sni))
    }
}

/// A connection whose ClientHello was read and not yet answered.
pub struct Greeting<IO> {
    start: StartHandshake<Bounded<IO>>,
    deadline: Instant,
    limit: Duration,
}

/// The agent's end, after the handshake.
pub type AgentTls<IO> = tokio_rustls::server::TlsStream<Bounded<IO>>;

/// Reads a ClientHello whole; `handshake` is the time for the whole handshake.
///
/// # Errors
/// It came late, is too long, or is no ClientHello (an alert was sent).
pub async fn greet<IO>(io: IO, handshake: Duration) -> Result<Greeting<IO>, AcceptError>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let deadline = Instant::now() + handshake;
    let bounded = Bounded {
        io,
        left: Some(HELLO_BYTES_MAX),
        answered: false,
    };
    let mut hello = LazyConfigAcceptor::new(Acceptor::default(), bounded);
    let error = match timeout_at(deadline, &mut hello).await {
        Err(_) => return Err(counted(AcceptError::Late(handshake))),
        Ok(Ok(mut start)) => {
            start.io.left = None;
            return Ok(Greeting {
                start,
                deadline,
                limit: handshake,
            });
        }
        Ok(Err(error)) => error,
    };
    // rustls sends an alert for most that it refuses, not for all.
    if let Some(io) = hello.take_io()
        && !io.answered
        && error.kind() != io::ErrorKind::UnexpectedEof
    {
        alert(io, DECODE_ERROR, deadline).await;
    }
    Err(counted(match error.kind() {
        io::ErrorKind::QuotaExceeded => AcceptError::Long,
        _ => error.into(),
    }))
}

/// [`greet`]s, checks the SNI, and answers with a leaf and an ALPN offer.
///
/// # Errors
/// As [`greet`]; the SNI names something else; the agent broke off or shares no protocol.
pub async fn accept<IO>(
    io: IO,
    leaves: &Leaves,
    expected: Expected<'_>,
    offer: Offer,
    handshake: Duration,
) -> Result<AgentTls<IO>, AcceptError>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    greet(io, handshake).await?.answer(leaves, expected, offer).await
}

impl<IO> Greeting<IO>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    /// The server name that the agent asks for, as it wrote it.
    pub fn sni(&self) -> Option<String> {
        self.start.client_hello().server_name().map(str::to_owned)
    }

    /// Whether the agent offers an application protocol.
    pub fn offers(&self, protocol: &[u8]) -> bool {
        let hello = self.start.client_hello();
        hello
            .alpn()
            .is_some_and(|mut offered| offered.any(|one| one == protocol))
    }

    /// Checks the SNI and finishes the handshake with the leaf of that name.
    ///
    /// # Errors
    /// The SNI names something else (alert `unrecognized_name`), no leaf could be minted
    /// (`internal_error`), or the handshake failed.
    pub async fn answer(
        self,
        leaves: &Leaves,
        expected: Expected<'_>,
        offer: Offer,
    ) -> Result<AgentTls<IO>, AcceptError> {
        let Some(name) = expected.leaf_name(self.sni().as_deref()) else {
            alert(self.start.io, UNRECOGNIZED_NAME, self.deadline).await;
            return Err(counted(AcceptError::Name));
        };
        match leaves.get(&name) {
            Ok(leaf) => self.finish(&leaf, offer).await,
            Err(error) => {
                alert(self.start.io, INTERNAL_ERROR, self.deadline).await;
                Err(counted(error.into()))
            }
        }
    }

    /// Finishes the handshake with a leaf that the caller chose.
    ///
    /// # Errors
    /// The agent broke off, is late, or shares no version, suite or protocol with us.
    pub async fn finish(self, leaf: &Leaf, offer: Offer) -> Result<AgentTls<IO>, AcceptError> {
        let config = leaf.config(offer)?;
        let handshake = self.start.into_stream(Arc::clone(&config));
        match timeout_at(self.deadline, handshake).await {
            Err(_) => Err(counted(AcceptError::Late(self.limit))),
            Ok(Err(error)) => Err(counted(error.into())),
            Ok(Ok(stream)) => Ok(stream),
        }
    }
}

/// Sends a fatal alert in the clear, as is right before a ServerHello, and closes.
async fn alert<IO: AsyncWrite + Unpin>(mut io: IO, description: u8, deadline: Instant) {
    let record = [0x15, 3, 3, 0, 2, 2, description];
    // The agent is being refused; whether it reads why is its own affair.
    let send = async {
        let _ = io.write_all(&record).await;
        let _ = io.shutdown().await;
    };
    let _ = timeout_at(deadline, send).await;
}

fn counted(error: AcceptError) -> AcceptError {
    bad_input::count(bad_input::Reader::Tls, &error);
    error
}

/// A stream that fails once it gave more than a number of bytes, while a bound is set.
#[derive(Debug)]
pub struct Bounded<IO> {
    io: IO,
    left: Option<usize>,
    /// Whether anything was written: before the handshake goes on, only an alert can be.
    answered: bool,
}

impl<IO> Bounded<IO> {
    /// The stream beneath.
    pub fn get_ref(&self) -> &IO {
        &self.io
    }

    /// The stream beneath.
    pub fn into_inner(self) -> IO {
        self.io
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Bounded<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Some(left) = self.left else {
            return Pin::new(&mut self.io).poll_read(cx, buf);
        };
        let before = buf.filled().len();
        let result = Pin::new(&mut self.io).poll_read(cx, buf);
        let Some(left) = left.checked_sub(buf.filled().len() - before) else {
            return Poll::Ready(Err(io::ErrorKind::QuotaExceeded.into()));
        };
        self.left = Some(left);
        result
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Bounded<IO> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.answered = true;
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.answered = true;
        Pin::new(&mut self.io).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
