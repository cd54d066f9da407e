//! One TCP connection in user space: a smoltcp interface of its own, shared by the driver, which
//! moves packets, and the stream, which moves bytes.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};

use smoltcp::iface::{Config, Interface, PollResult, SocketHandle, SocketSet};
use smoltcp::phy::{Checksum, DeviceCapabilities, Medium};
use smoltcp::socket::tcp::{CongestionControl, RecvError, Socket, SocketBuffer, State};
use smoltcp::time::{Duration, Instant};
use smoltcp::wire::{HardwareAddress, IpAddress, IpCidr, IpListenEndpoint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::mpsc;

/// Bytes that wait for the reader; also the window that the peer is offered. Half of what a UDP
/// socket of an ordinary user holds: a larger burst is lost there when the machine is busy, and
/// without SACK a connection may then stand still until its time-out.
pub(super) const RECEIVE_BYTES: usize = 64 << 10;
/// Bytes that wait for the peer's acknowledgment; as few for the same reason at the other end.
pub(super) const SEND_BYTES: usize = 64 << 10;
/// Packets that a flow may have ready at once.
const BURST_PACKETS_MAX: usize = 64;
/// Segments that wait for the flow's turn; more are dropped, and TCP sends them again.
const BACKLOG_PACKETS_MAX: usize = 256;
/// Seconds without an answer after which the connection is given up.
const TIMEOUT_S: u64 = 60;
/// Seconds of silence after which the peer is probed.
const KEEP_ALIVE_S: u64 = 25;
/// Seconds that a closed stream waits for the peer's own end.
pub(super) const LINGER_S: u64 = 30;

pub(super) type FlowId = u64;

/// What identifies a connection within a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Ends {
    pub(super) source: SocketAddr,
    pub(super) destination: SocketAddr,
}

#[derive(Default)]
struct Wire {
    received: VecDeque<Vec<u8>>,
    ready: Vec<Vec<u8>>,
    mtu: usize,
}

struct Received(Vec<u8>);
struct Ready<'a>(&'a mut Vec<Vec<u8>>);

impl smoltcp::phy::RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, read: F) -> R {
        read(&self.0)
    }
}

impl smoltcp::phy::TxToken for Ready<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, write: F) -> R {
        let mut packet = vec![0; length];
        let result = write(&mut packet);
        self.0.push(packet);
        result
    }
}

impl smoltcp::phy::Device for Wire {
    type RxToken<'a> = Received;
    type TxToken<'a> = Ready<'a>;

    fn receive(&mut self, _: Instant) -> Option<(Received, Ready<'_>)> {
        if self.ready.len() >= BURST_PACKETS_MAX {
            return None;
        }
        let packet = self.received.pop_front()?;
        Some((Received(packet), Ready(&mut self.ready)))
    }

    fn transmit(&mut self, _: Instant) -> Option<Ready<'_>> {
        (self.ready.len() < BURST_PACKETS_MAX).then_some(Ready(&mut self.ready))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = self.mtu;
        // Checked once already, before the flow was looked up.
        capabilities.checksum.ipv4 = Checksum::Tx;
        capabilities.checksum.tcp = Checksum::Tx;
        capabilities
    }
}

/// The state that driver and stream share.
pub(super) struct Endpoint {
    wire: Wire,
    interface: Interface,
    sockets: SocketSet<'static>,
    handle: SocketHandle,
    reader: Option<Waker>,
    writer: Option<Waker>,
    /// The stream was dropped; nobody reads any more.
    detached: bool,
    /// Already in the dirty queue.
    queued: bool,
    reset: bool,
}

/// What the driver learns from a turn.
pub(super) struct Turn {
    pub(super) established: bool,
    pub(super) detached: bool,
    /// Nothing is left to send or to wait for.
    pub(super) over: bool,
    /// When the flow wants its next turn, on the flow's own clock.
    pub(super) next: Option<Instant>,
}

pub(super) type Shared = Arc<Mutex<Endpoint>>;

/// The state, whatever a panicking holder left: the flow's own bytes are all that can suffer.
pub(super) fn lock(shared: &Shared) -> MutexGuard<'_, Endpoint> {
    shared.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

impl Endpoint {
    /// An endpoint that waits for the SYN of `ends`; `None` for a port or address TCP has not.
    pub(super) fn listen(ends: Ends, mtu: u16, seed: u64, now: Instant) -> Option<Self> {
        let mut wire = Wire {
            mtu: usize::from(mtu),
            ..Wire::default()
        };
        let mut config = Config::new(HardwareAddress::Ip);
        config.random_seed = seed;
        let mut interface = Interface::new(config, &mut wire, now);
        let local = IpAddress::from(ends.destination.ip());
        let bits = if ends.destination.is_ipv4() { 32 } else { 128 };
        interface.update_ip_addrs(|addresses| {
            let _ = addresses.push(IpCidr::new(local, bits));
        });
        match ends.destination.ip() {
            IpAddr::V4(own) => interface
                .routes_mut()
                .add_default_ipv4_route(own)
                .ok()
                .map(drop)?,
            IpAddr::V6(own) => interface
                .routes_mut()
                .add_default_ipv6_route(own)
                .ok()
                .map(drop)?,
        }
        let buffer = |bytes| SocketBuffer::new(vec![0; bytes]);
        let mut socket = Socket::new(buffer(RECEIVE_BYTES), buffer(SEND_BYTES));
        socket.set_congestion_control(CongestionControl::Cubic);
        socket.set_nagle_enabled(false);
        socket.set_timeout(Some(Duration::from_secs(TIMEOUT_S)));
        socket.set_keep_alive(Some(Duration::from_secs(KEEP_ALIVE_S)));
        let endpoint = IpListenEndpoint {
            addr: Some(local),
            port: ends.destination.port(),
        };
        socket.listen(endpoint).ok()?;
        let mut sockets = SocketSet::new(Vec::with_capacity(1));
        let handle = sockets.add(socket);
        Some(Endpoint {
            wire,
            interface,
            sockets,
            handle,
            reader: None,
            writer: None,
            detached: false,
            queued: false,
            reset: false,
        })
    }

    fn socket(&mut self) -> &mut Socket<'static> {
        self.sockets.get_mut(self.handle)
    }

    /// Queues a packet of the peer for the next turn. False when it was dropped.
    pub(super) fn push(&mut self, packet: Vec<u8>) -> bool {
        let room = self.wire.received.len() < BACKLOG_PACKETS_MAX;
        if room {
            self.wire.received.push_back(packet);
        }
        room
    }

    /// Runs the stack until it rests; hands each packet for the peer to `send`.
    pub(super) fn turn(&mut self, now: Instant, mut send: impl FnMut(&[u8])) -> Turn {
        self.queued = false;
        loop {
            let changed = self.interface.poll(now, &mut self.wire, &mut self.sockets);
            let sent = !self.wire.ready.is_empty();
            for packet in self.wire.ready.drain(..) {
                send(&packet);
            }
            if !sent && self.wire.received.is_empty() && changed == PollResult::None {
                break;
            }
        }
        self.wake();
        let detached = self.detached;
        let socket = self.socket();
        let state = socket.state();
        // Bytes for a reader that is gone: the peer must learn that they were lost.
        if detached && socket.recv_queue() > 0 {
            socket.abort();
            let _ = self.interface.poll(now, &mut self.wire, &mut self.sockets);
            for packet in self.wire.ready.drain(..) {
                send(&packet);
            }
        }
        let state = if detached { self.socket().state() } else { state };
        Turn {
            established: !matches!(state, State::Listen | State::SynReceived | State::Closed),
            detached,
            over: state == State::Closed || (detached && state == State::TimeWait),
            next: self.interface.poll_at(now, &self.sockets),
        }
    }

    fn wake(&mut self) {
        let socket = self.socket();
        let readable = socket.can_recv() || !socket.may_recv();
        let writable = socket.can_send() || !socket.may_send();
        if readable && let Some(reader) = self.reader.take() {
            reader.wake();
        }
        if writable && let Some(writer) = self.writer.take() {
            writer.wake();
        }
    }

    /// Ends the connection with a reset; the next turn sends it.
    pub(super) fn abort(&mut self) {
        self.reset = true;
        self.socket().abort();
        self.wake();
    }
}

/// The stream of an established connection.
pub(super) struct Stream {
    pub(super) id: FlowId,
    pub(super) shared: Shared,
    /// Tells the driver that a flow has something to send. One entry a flow at most.
    pub(super) dirty: mpsc::UnboundedSender<FlowId>,
}

impl Stream {
    fn mark(&self, endpoint: &mut Endpoint) {
        if !endpoint.queued {
            endpoint.queued = true;
            // Without a driver there is nobody to send for.
            let _ = self.dirty.send(self.id);
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let endpoint = &mut *lock(&self.shared);
        let reset = endpoint.reset;
        let socket = endpoint.socket();
        if !socket.can_recv() && socket.may_recv() {
            endpoint.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let taken = socket.recv(|held| {
            let held = held.get(..buffer.remaining()).unwrap_or(held);
            buffer.put_slice(held);
            (held.len(), ())
        });
        match taken {
            Ok(()) => {
                self.mark(endpoint);
                Poll::Ready(Ok(()))
            }
            Err(RecvError::Finished) if !reset => Poll::Ready(Ok(())),
            Err(_) => Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let endpoint = &mut *lock(&self.shared);
        let socket = endpoint.socket();
        if !socket.may_send() {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if !socket.can_send() {
            endpoint.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        match socket.send_slice(bytes) {
            Ok(written) => {
                self.mark(endpoint);
                Poll::Ready(Ok(written))
            }
            Err(_) => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let endpoint = &mut *lock(&self.shared);
        endpoint.socket().close();
        self.mark(endpoint);
        Poll::Ready(Ok(()))
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let endpoint = &mut *lock(&self.shared);
        endpoint.detached = true;
        if endpoint.socket().recv_queue() > 0 {
            endpoint.abort();
        } else {
            endpoint.socket().close();
        }
        self.mark(endpoint);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ingress::wireguard::packet::{ACK, SYN};
    use crate::ingress::wireguard::tests::tcp;

    fn endpoint() -> (Endpoint, Vec<u8>) {
        let (source, destination) = (
            "10.99.0.1:4000".parse().unwrap(),
            "192.0.2.1:443".parse().unwrap(),
        );
        let ends = Ends { source, destination };
        let endpoint = Endpoint::listen(ends, 1420, 1, Instant::ZERO).unwrap();
        (endpoint, tcp(source, destination, SYN, 7, 0, b""))
    }

    #[test]
    fn so_many_packets_wait_for_a_turn_and_no_more() {
        let (mut endpoint, packet) = endpoint();
        assert!((0..BACKLOG_PACKETS_MAX).all(|_| endpoint.push(packet.clone())));
        assert!(!endpoint.push(packet.clone()));
        endpoint.turn(Instant::ZERO, |_| {});
        assert!(endpoint.push(packet));
    }

    #[test]
    fn a_peer_that_answers_nothing_is_given_up() {
        let (mut endpoint, packet) = endpoint();
        endpoint.push(packet);
        let mut sent = 0;
        assert!(!endpoint.turn(Instant::ZERO, |_| sent += 1).over);
        assert!(sent > 0, "no SYN with ACK");
        let after = |seconds: u64| Instant::ZERO + Duration::from_secs(seconds);
        assert!(!endpoint.turn(after(TIMEOUT_S - 1), |_| {}).over);
        assert!(endpoint.turn(after(TIMEOUT_S + 1), |_| {}).over);
    }
    /// The numbers and the payload of a TCP packet over IPv4.
    fn read(packet: &[u8]) -> (u32, usize) {
        let number = u32::from_be_bytes(packet[24..28].try_into().unwrap());
        (number, packet.len() - 20 - usize::from(packet[32] >> 4) * 4)
    }

    #[test]
    fn a_flow_holds_so_much_either_way() {
        let (mut endpoint, syn) = endpoint();
        let (source, destination) = (
            "10.99.0.1:4000".parse().unwrap(),
            "192.0.2.1:443".parse().unwrap(),
        );
        endpoint.push(syn);
        let mut own = 0;
        endpoint.turn(Instant::ZERO, |packet| own = read(packet).0 + 1);
        let data = vec![b'x'; 1000];
        endpoint.push(tcp(source, destination, ACK, 8, own, b""));
        endpoint.turn(Instant::ZERO, |_| {});
        // Nobody reads: what comes after is not taken.
        for at in 0..2 * RECEIVE_BYTES / data.len() {
            endpoint.push(tcp(
                source,
                destination,
                ACK,
                8 + (at * data.len()) as u32,
                own,
                &data,
            ));
            endpoint.turn(Instant::ZERO, |_| {});
        }
        assert_eq!(endpoint.socket().recv_queue(), RECEIVE_BYTES);
        // Nobody acknowledges: what is to be sent after is not taken.
        let socket = endpoint.socket();
        while socket.can_send() {
            socket.send_slice(&data).unwrap();
        }
        assert_eq!(socket.send_queue(), SEND_BYTES);
    }
}
