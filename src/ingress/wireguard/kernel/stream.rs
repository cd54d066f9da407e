//! An accepted socket of the private namespace, watched by the listener.

use std::io::{self, IoSlice};
use std::net::Shutdown;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use super::super::flow::Ends;

/// A stream that its owner let go.
#[derive(Debug)]
pub(in crate::ingress::wireguard) struct Closed {
    pub(super) ends: Ends,
    pub(super) id: u64,
}

/// The agent's end of a connection in the kernel. The listener shares it: it resets the connection
/// when its peer is removed, and sees it to its end after it is dropped.
#[derive(Debug)]
pub struct KernelStream {
    socket: Arc<TcpStream>,
    ends: Ends,
    id: u64,
    closed: mpsc::UnboundedSender<Closed>,
}

impl KernelStream {
    pub(super) fn new(
        socket: Arc<TcpStream>,
        ends: Ends,
        id: u64,
        closed: mpsc::UnboundedSender<Closed>,
    ) -> Self {
        KernelStream {
            socket,
            ends,
            id,
            closed,
        }
    }

    /// The socket, to be spliced. Not to be shut or reconnected.
    pub fn socket(&self) -> &TcpStream {
        &self.socket
    }
}

impl Drop for KernelStream {
    fn drop(&mut self) {
        let (ends, id) = (self.ends, self.id);
        // A listener that is gone has reset the connection.
        let _ = self.closed.send(Closed { ends, id });
    }
}

impl AsyncRead for KernelStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            ready!(self.socket.poll_read_ready(cx))?;
            let (room, mut is_read) = (buffer.remaining(), false);
            let tried = self.socket.try_io(Interest::READABLE, || {
                // Not by a slice, for which all the room would be zeroed at each turn.
                let read = self.socket.try_read_buf(buffer)?;
                is_read = true;
                // Less than there was room for is all that there is: the next turn waits, and does not ask the kernel for it.
                match 0 < read && read < room {
                    true => Err(io::ErrorKind::WouldBlock.into()),
                    false => Ok(()),
                }
            });
            match tried {
                _ if is_read => return Poll::Ready(Ok(())),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                tried => return Poll::Ready(tried),
            }
        }
    }
}

impl KernelStream {
    fn poll_with(
        &self,
        cx: &mut Context<'_>,
        write: impl Fn(&TcpStream) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.socket.poll_write_ready(cx))?;
            match write(&self.socket) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return Poll::Ready(result),
            }
        }
    }
}

impl AsyncWrite for KernelStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_with(cx, |socket| socket.try_write(bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_with(cx, |socket| socket.try_write_vectored(slices))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = socket2::SockRef::from(&*self.socket).shutdown(Shutdown::Write);
        match result {
            // Over already, by either side.
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Poll::Ready(Ok(())),
            result => Poll::Ready(result),
        }
    }
}
