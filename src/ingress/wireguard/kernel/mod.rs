//! The kernel's TCP as the end of peers' connections, in a private network namespace.
//!
//! The driver hands over TCP packets whose source it has checked; they go in by a TUN device
//! ([`offload`]), and the kernel's answers come out of it. `sys::private_tcp` makes the namespace.
//! DNS over UDP, refusals and echo never come here.
//!
//! Invariants: a connection belongs to the peer whose SYN opened it, by a table that the driver
//! keeps itself; a socket that the table does not know is reset. Connections are counted from
//! their SYN until the kernel has forgotten them, also after the gateway let go of them. When a
//! peer is removed, all that the kernel holds of it is thrown away first.

mod accept;
mod offload;
mod stream;

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use super::Drop as Cause;
use super::device::PeerIndex;
use super::flow::{Ends, LINGER_S};
use super::packet::{self, Segment};
use crate::sys::private_tcp::{Congestion, PrivateTcp};
use crate::sys::{TcpState, tcp_state};
use offload::Inbound;
use stream::Closed;
pub use stream::KernelStream;

/// Half-open connections of one peer; the next SYN is reset. An eighth of the kernel's own queue.
pub(super) const HALF_OPEN_MAX: usize = 128;
/// Seconds after which a half-open connection is forgotten; the kernel gave up before.
pub(super) const HALF_OPEN_S: u64 = 20;
/// Milliseconds between two looks at what is over, for a peer that is at its limit.
const SWEEP_MS: u64 = 5;
/// Reads of the TUN device in one go, each up to 64 KiB.
const READS_MAX: usize = 8;
/// The same when all is wanted: more than the device's queue of 500 packets.
const READS_ALL_MAX: usize = 1024;
/// Connections accepted in one go.
const ACCEPTS_MAX: usize = 64;

enum State {
    /// The SYN went in.
    Half,
    /// The gateway has the stream.
    Open(Arc<TcpStream>),
    /// The gateway let go; the peer may still take what was sent.
    Lingering(Arc<TcpStream>, Instant),
}

struct Entry {
    peer: PeerIndex,
    id: u64,
    state: State,
}

#[derive(Default)]
struct Count {
    all: usize,
    half: usize,
}

/// What waits to be done.
pub(super) enum Event {
    /// The TUN device has packets.
    Packets,
    /// A listener has connections.
    Connections,
    Closed(Closed),
}

/// A connection whose handshake is done.
pub(super) struct Accepted {
    pub(super) peer: PeerIndex,
    pub(super) ends: Ends,
    pub(super) stream: KernelStream,
}

/// The connections of all peers.
pub(super) struct Stack {
    tun: AsyncFd<OwnedFd>,
    listeners: [AsyncFd<OwnedFd>; 2],
    pub(super) congestion: Congestion,
    flows: HashMap<Ends, Entry>,
    counts: HashMap<PeerIndex, Count>,
    half: VecDeque<(Instant, Ends, u64)>,
    lingering: Vec<(Ends, u64)>,
    inbound: Inbound,
    buffer: Vec<u8>,
    closed: (mpsc::UnboundedSender<Closed>, mpsc::UnboundedReceiver<Closed>),
    next_id: u64,
    swept: Instant,
}

fn watch(descriptor: OwnedFd) -> std::io::Result<AsyncFd<OwnedFd>> {
    // An `OwnedFd` is owned and stays open: what the deprecation warns of cannot happen here.
    #[allow(deprecated, reason = "the replacement is an unsafe function")]
    AsyncFd::with_interest(descriptor, Interest::READABLE)
}

/// Ends a connection with a reset, whoever else holds its socket, and forgets what waits in it.
fn reset(socket: &impl AsFd) {
    // Fails for a socket that is over already.
    let _ = rustix::net::connect_unspec(socket);
}

impl Stack {
    /// Must be called within a Tokio runtime.
    pub(super) fn new(private: PrivateTcp) -> std::io::Result<Self> {
        Ok(Stack {
            tun: watch(private.tun)?,
            listeners: [watch(private.v4.into())?, watch(private.v6.into())?],
            congestion: private.congestion,
            flows: HashMap::new(),
            counts: HashMap::new(),
            half: VecDeque::new(),
            lingering: Vec::new(),
            inbound: Inbound::default(),
            buffer: vec![0; offload::PREFIX_BYTES + offload::PACKET_BYTES_MAX],
            closed: mpsc::unbounded_channel(),
            next_id: 0,
            swept: Instant::now(),
        })
    }

    /// Waits for something to do.
    pub(super) async fn event(&mut self) -> Event {
        let [v4, v6] = &self.listeners;
        tokio::select! {
            Some(closed) = self.closed.1.recv() => Event::Closed(closed),
            _ = v4.readable() => Event::Connections,
            _ = v6.readable() => Event::Connections,
            _ = self.tun.readable() => Event::Packets,
        }
    }

    pub(super) fn connections(&self, peer: PeerIndex) -> usize {
        self.counts.get(&peer).map_or(0, |count| count.all)
    }

    /// Whether a segment may go in. `connections_max` is for one peer, `flows_max` for all.
    pub(super) fn admit(
        &mut self,
        peer: PeerIndex,
        ends: Ends,
        flags: u8,
        (connections_max, flows_max): (usize, usize),
    ) -> Result<(), Cause> {
        if flags & (packet::SYN | packet::ACK | packet::RST) == packet::SYN {
            if self.flows.contains_key(&ends) {
                return Ok(());
            }
            let full = |stack: &Self| {
                let (all, half) = stack
                    .counts
                    .get(&peer)
                    .map_or((0, 0), |count| (count.all, count.half));
                all >= connections_max || half >= HALF_OPEN_MAX || stack.flows.len() >= flows_max
            };
            if full(self) && self.swept.elapsed() >= Duration::from_millis(SWEEP_MS) {
                // What came before this SYN may have ended a connection.
                self.flush();
                self.tick();
            }
            if full(self) {
                return Err(Cause::ConnectionLimit);
            }
            let count = self.counts.entry(peer).or_default();
            count.all += 1;
            count.half += 1;
            let id = self.next_id;
            self.next_id += 1;
            let state = State::Half;
            self.flows.insert(ends, Entry { peer, id, state });
            let until = Instant::now() + Duration::from_secs(HALF_OPEN_S);
            self.half.push_back((until, ends, id));
        } else if flags & packet::RST != 0
            && let Some(entry) = self.flows.get(&ends)
            && matches!(entry.state, State::Half)
        {
            // Should the kernel think otherwise, the socket will find no entry.
            self.forget(&ends);
        }
        Ok(())
    }

    /// Queues an admitted packet until [`Stack::flush`].
    pub(super) fn push(&mut self, ends: Ends, bytes: Vec<u8>, segment: &Segment) {
        self.inbound.push(ends, bytes, segment);
    }

    /// Writes what was queued.
    pub(super) fn flush(&mut self) {
        let tun = self.tun.get_ref();
        self.inbound.drain(|slices| {
            // A packet that the kernel has no room for is lost; TCP sends it again.
            let _ = rustix::io::writev(tun, slices);
        });
    }

    /// Reads the kernel's packets, and hands out each with its destination; `all` leaves none behind.
    pub(super) fn read(&mut self, all: bool, mut each: impl FnMut(IpAddr, &[u8])) {
        let mut left = if all { READS_ALL_MAX } else { READS_MAX };
        while left > 0
            && let Ok(length) = self.read_one(all)
        {
            left -= 1;
            let read = self.buffer.get_mut(..length).unwrap_or_default();
            let to = read.get(offload::PREFIX_BYTES..).and_then(offload::destination);
            if let Some(to) = to {
                // What makes no sense is not the kernel's, and is dropped.
                let _ = offload::split(read, |packet| each(to, packet));
            }
        }
    }

    fn read_one(&mut self, all: bool) -> std::io::Result<usize> {
        let (tun, buffer) = (&self.tun, &mut self.buffer);
        let mut read = |tun: &OwnedFd| Ok(rustix::io::read(tun, &mut **buffer)?);
        match all {
            // What the runtime has not heard of yet counts as well.
            true => read(tun.get_ref()),
            false => tun.try_io(Interest::READABLE, read),
        }
    }

    fn forget(&mut self, ends: &Ends) {
        let Some(entry) = self.flows.remove(ends) else {
            return;
        };
        if let Some(count) = self.counts.get_mut(&entry.peer) {
            count.all = count.all.saturating_sub(1);
            if matches!(entry.state, State::Half) {
                count.half = count.half.saturating_sub(1);
            }
            if count.all == 0 {
                self.counts.remove(&entry.peer);
            }
        }
    }

    /// A stream was dropped: what was written still goes out, within [`LINGER_S`].
    pub(super) fn closed(&mut self, closed: &Closed) {
        let Some(entry) = self.flows.get_mut(&closed.ends) else {
            return;
        };
        let State::Open(socket) = &entry.state else {
            return;
        };
        if entry.id != closed.id {
            return;
        }
        let socket = Arc::clone(socket);
        let _ = socket2::SockRef::from(&*socket).shutdown(std::net::Shutdown::Write);
        let now = Instant::now();
        let until = now + Duration::from_secs(LINGER_S);
        entry.state = State::Lingering(socket, until);
        if self.over(&closed.ends, closed.id, now) {
            return;
        }
        self.lingering.push((closed.ends, closed.id));
    }

    /// Whether nothing is left to wait for in a connection that the gateway let go.
    fn over(&mut self, ends: &Ends, id: u64, now: Instant) -> bool {
        let Some(entry) = self.flows.get(ends) else {
            return true;
        };
        let State::Lingering(socket, until) = &entry.state else {
            return true;
        };
        if entry.id != id {
            return true;
        }
        let closed = matches!(tcp_state(&**socket), Ok(TcpState::Closed) | Err(_));
        if !closed {
            // Bytes for a reader that is gone: the peer must learn that they were lost.
            let unread = rustix::io::ioctl_fionread(&**socket).unwrap_or(1) > 0;
            if !unread && *until > now {
                return false;
            }
            reset(&**socket);
        }
        self.forget(ends);
        true
    }

    /// Sees lingering and half-open connections to their end; call a few times a second.
    pub(super) fn tick(&mut self) {
        let now = Instant::now();
        self.swept = now;
        let lingering = std::mem::take(&mut self.lingering);
        self.lingering = lingering
            .into_iter()
            .filter(|(ends, id)| !self.over(ends, *id, now))
            .collect();
        while let Some((until, ends, id)) = self.half.front().copied()
            && until <= now
        {
            self.half.pop_front();
            let entry = self.flows.get(&ends);
            if entry.is_some_and(|entry| entry.id == id && matches!(entry.state, State::Half)) {
                self.forget(&ends);
            }
        }
    }

    /// Resets all that is left of removed peers. Whoever held a stream reads an error.
    pub(super) fn remove(&mut self, gone: &[PeerIndex]) {
        self.flows.retain(|_, entry| {
            let keep = !gone.contains(&entry.peer);
            if !keep && let State::Open(socket) | State::Lingering(socket, _) = &entry.state {
                reset(&**socket);
            }
            keep
        });
        self.counts.retain(|peer, _| !gone.contains(peer));
    }

    /// Resets one connection.
    pub(super) fn abort(&mut self, ends: &Ends) {
        if let Some(entry) = self.flows.get(ends)
            && let State::Open(socket) | State::Lingering(socket, _) = &entry.state
        {
            reset(&**socket);
        }
        self.forget(ends);
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        for entry in self.flows.values() {
            if let State::Open(socket) | State::Lingering(socket, _) = &entry.state {
                reset(&**socket);
            }
        }
    }
}
