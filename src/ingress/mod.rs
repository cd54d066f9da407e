//! Where connections come from.
//!
//! Every ingress ends the agent's transport and hands over a [`Flow`]: a byte stream with the
//! destination that the agent dialled and the identity that the tunnel proved. What happens to
//! it is decided in [`crate::proxy`].

pub mod dns;
pub mod tailnet;
pub mod wireguard;

use std::net::SocketAddr;
use std::pin::Pin;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use crate::identity::Live;
pub use wireguard::KernelStream;

/// A byte stream that is not a kernel socket (the userspace TCP).
pub trait ByteStream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> ByteStream for T {}

/// One accepted connection of an agent.
pub struct Flow {
    pub identity: Live,
    /// The agent's address and port inside the tunnel.
    pub source: SocketAddr,
    /// What the agent dialled.
    pub destination: SocketAddr,
    pub stream: FlowStream,
}

/// The agent's end of a flow.
pub enum FlowStream {
    /// The kernel's TCP; can be spliced.
    Kernel(TcpStream),
    /// The kernel's TCP in the WireGuard listener's own namespace.
    Private(KernelStream),
    /// TCP that ends in this process.
    Userspace(Box<dyn ByteStream>),
}

macro_rules! delegate {
    ($self:ident, $method:ident $(, $arg:expr)*) => {
        match $self.get_mut() {
            FlowStream::Kernel(stream) => Pin::new(stream).$method($($arg),*),
            FlowStream::Private(stream) => Pin::new(stream).$method($($arg),*),
            FlowStream::Userspace(stream) => Pin::new(stream.as_mut()).$method($($arg),*),
        }
    };
}

use std::io;
use std::task::{Context, Poll};
use tokio::io::ReadBuf;

impl AsyncRead for FlowStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        delegate!(self, poll_read, cx, buf)
    }
}

impl AsyncWrite for FlowStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        delegate!(self, poll_write, cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        delegate!(self, poll_write_vectored, cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            FlowStream::Kernel(stream) => stream.is_write_vectored(),
            FlowStream::Private(stream) => stream.is_write_vectored(),
            FlowStream::Userspace(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        delegate!(self, poll_flush, cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        delegate!(self, poll_shutdown, cx)
    }
}
