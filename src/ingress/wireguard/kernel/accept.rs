//! From a listener's queue to the peer whose SYN it was.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::net::SocketFlags;
use tokio::io::Interest;
use tokio::net::TcpStream;

use super::super::flow::Ends;
use super::{
    ACCEPTS_MAX, Accepted, KernelStream, NARROW_BYTES, Stack, State, WIDE_MAX, WIDE_PER_PEER_MAX, reset,
};

/// Keeps the kernel from letting the buffers of a connection grow.
fn narrow(socket: &TcpStream) -> std::io::Result<()> {
    let socket = socket2::SockRef::from(socket);
    socket.set_recv_buffer_size(NARROW_BYTES)?;
    socket.set_send_buffer_size(NARROW_BYTES)
}

impl Stack {
    /// Accepts connections; `all` leaves none behind.
    pub(in super::super) fn accept(&mut self, all: bool) -> Vec<Accepted> {
        let mut accepted = Vec::new();
        for at in 0..self.listeners.len() {
            let mut left = if all { usize::MAX } else { ACCEPTS_MAX };
            while left > 0
                && let Some(socket) = self.accept_one(at, all)
            {
                left -= 1;
                accepted.extend(socket.and_then(|socket| self.claim(socket)));
            }
        }
        accepted
    }

    /// The next socket of a listener; the inner `None` for one that broke at once.
    pub(super) fn accept_one(&self, at: usize, all: bool) -> Option<Option<TcpStream>> {
        let listener = self.listeners.get(at)?;
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        // Without a free descriptor the connection stays in the queue, and would be reported for ever:
        // it is looked at again when another comes, and at every tick.
        let accept = |listener: &OwnedFd| match rustix::net::accept_with(listener, flags) {
            Err(error @ (rustix::io::Errno::MFILE | rustix::io::Errno::NFILE)) => {
                tracing::error!(%error, "cannot accept a connection");
                Err(std::io::ErrorKind::WouldBlock.into())
            }
            result => Ok(result?),
        };
        let result = if all {
            accept(listener.get_ref())
        } else {
            listener.try_io(Interest::READABLE, accept)
        };
        match result {
            Ok(socket) => Some(TcpStream::from_std(socket.into()).ok()),
            Err(error) if error.raw_os_error() == Some(libc::ECONNABORTED) => Some(None),
            Err(error) => {
                if error.kind() != std::io::ErrorKind::WouldBlock {
                    tracing::error!(%error, "cannot accept a connection");
                }
                None
            }
        }
    }

    /// Finds the peer whose SYN opened the connection; resets it where there is none.
    pub(super) fn claim(&mut self, socket: TcpStream) -> Option<Accepted> {
        // Without a scope, which only link-local addresses have.
        let plain = |address: SocketAddr| SocketAddr::new(address.ip(), address.port());
        let (Ok(source), Ok(destination)) = (socket.peer_addr(), socket.local_addr()) else {
            reset(&socket);
            return None;
        };
        let ends = Ends {
            source: plain(source),
            destination: plain(destination),
        };
        let wide = self.wide;
        let Some(entry) = self.flows.get_mut(&ends) else {
            reset(&socket);
            return None;
        };
        match &entry.state {
            State::Half => {
                if let Some(count) = self.counts.get_mut(&entry.peer) {
                    count.half = count.half.saturating_sub(1);
                }
            }
            // The peer came back from the same port sooner than the gateway saw the end.
            State::Lingering(..) => {}
            State::Open(_) => {
                reset(&socket);
                return None;
            }
        }
        let count = self.counts.entry(entry.peer).or_default();
        if !entry.wide && wide < WIDE_MAX && count.wide < WIDE_PER_PEER_MAX {
            entry.wide = true;
            count.wide += 1;
            self.wide += 1;
        }
        if !entry.wide && narrow(&socket).is_err() {
            reset(&socket);
            self.forget(&ends);
            return None;
        }
        entry.id = self.next_id;
        self.next_id += 1;
        let socket = Arc::new(socket);
        entry.state = State::Open(Arc::clone(&socket));
        let stream = KernelStream::new(socket, ends, entry.id, self.closed.0.clone());
        let peer = entry.peer;
        Some(Accepted { peer, ends, stream })
    }
}
