//! The task that moves packets between the UDP socket, the peer table and the flows.

mod dns;
mod kernel;
mod userspace;

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, mpsc, watch};

use super::device::{Device, Output, PeerIndex};
use super::flow::{self, Ends, FlowId, Shared};
use super::kernel::Stack;
use super::packet::{self, Kind, Packet, Segment};
use super::socket::{RECEIVED_BYTES_MAX, Received, Socket};
use super::{Config, Drop, PeerSet, Status};
use crate::identity::Identity;
use crate::ingress::Flow;

/// Datagrams in one go, and those that come with the last of them, before the flows have their turn.
const BATCH_MAX: usize = 64;
/// DNS queries in flight, all peers together.
pub(super) const DNS_IN_FLIGHT_MAX: usize = 256;
/// Shares of `connections_max` that all keys of one peer have together, and of `flows_max` the part
/// that they may fill: a machine has a key for each of its runs.
pub(super) const KEYS_SHARE: usize = 4;
/// DNS queries of one peer in flight, by all its keys: none can take the others' places.
pub(super) const DNS_IN_FLIGHT_PER_PEER_MAX: usize = 32;
/// ICMP errors and resets a peer gets in a second.
pub(super) const REFUSALS_PER_SECOND_MAX: u32 = 200;
/// Microseconds until a flow that rests, and yet says it is due, has its next turn.
const OVERDUE_US: u64 = 1_000;
/// Milliseconds between looks at the WireGuard timers.
const TICK_MS: u64 = 250;

struct Connection {
    peer: PeerIndex,
    ends: Ends,
    shared: Shared,
    identity: Arc<Identity>,
    handed_out: bool,
    next: Option<Instant>,
    /// When a stream that is gone stops to wait for the peer.
    linger: Option<Instant>,
}

struct DnsReply {
    peer: PeerIndex,
    packet: Vec<u8>,
}

pub(super) struct Driver {
    config: Config,
    socket: Socket,
    peers: watch::Receiver<Arc<PeerSet>>,
    accepted: mpsc::Sender<Flow>,
    status: Arc<Mutex<Status>>,
    device: Device,
    /// The kernel's TCP; without it, connections end in `connections`.
    kernel: Option<Stack>,
    output: Output,
    connections: HashMap<FlowId, Connection>,
    by_ends: HashMap<(PeerIndex, Ends), FlowId>,
    per_peer: HashMap<PeerIndex, usize>,
    refusals: HashMap<PeerIndex, u32>,
    deadlines: BTreeSet<(Instant, FlowId)>,
    dirty: (mpsc::UnboundedSender<FlowId>, mpsc::UnboundedReceiver<FlowId>),
    dns: (mpsc::Sender<DnsReply>, mpsc::Receiver<DnsReply>),
    dns_room: Arc<Semaphore>,
    /// By the peer's name; what nobody holds a place in is swept out.
    dns_rooms: HashMap<String, Arc<Semaphore>>,
    next_id: FlowId,
    started: Instant,
    last_second: Instant,
}

impl Driver {
    pub(super) fn new(
        config: Config,
        (socket, kernel): (Socket, Option<Stack>),
        peers: watch::Receiver<Arc<PeerSet>>,
        accepted: mpsc::Sender<Flow>,
        status: Arc<Mutex<Status>>,
    ) -> Self {
        let now = Instant::now();
        Driver {
            kernel,
            device: Device::new(&config.private_key),
            config,
            socket,
            peers,
            accepted,
            status,
            output: Output::default(),
            connections: HashMap::new(),
            by_ends: HashMap::new(),
            per_peer: HashMap::new(),
            refusals: HashMap::new(),
            deadlines: BTreeSet::new(),
            dirty: mpsc::unbounded_channel(),
            dns: mpsc::channel(DNS_IN_FLIGHT_MAX),
            dns_room: Arc::new(Semaphore::new(DNS_IN_FLIGHT_MAX)),
            dns_rooms: HashMap::new(),
            next_id: 0,
            started: now,
            last_second: now,
        }
    }

    pub(super) async fn run(mut self) {
        let mut buffer = vec![0; RECEIVED_BYTES_MAX];
        let mut tick = tokio::time::interval(Duration::from_millis(TICK_MS));
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        self.apply_peers();
        loop {
            let next = self.deadlines.first().map(|(at, _)| *at);
            let far = Instant::now() + Duration::from_secs(3600);
            let touched = tokio::select! {
                received = self.socket.receive(&mut buffer) => match received {
                    Ok(received) => self.take_batch(&received, &mut buffer),
                    // An ICMP error of an earlier send; the socket is still good.
                    Err(_) => Vec::new(),
                },
                event = kernel::event(&mut self.kernel) => { self.take_kernel(&event); Vec::new() }
                Some(id) = self.dirty.1.recv() => self.take_dirty(id),
                Some(reply) = self.dns.1.recv() => {
                    self.device.send(reply.peer, &reply.packet, &mut self.output);
                    Vec::new()
                }
                () = tokio::time::sleep_until(next.unwrap_or(far).into()) => self.take_due(),
                _ = tick.tick() => { self.tick(); Vec::new() }
                changed = self.peers.changed() => {
                    if changed.is_err() {
                        return self.shut().await;
                    }
                    self.apply_peers();
                    Vec::new()
                }
                () = self.accepted.closed() => return self.shut().await,
            };
            for id in touched {
                self.turn(id);
            }
            self.flush().await;
        }
    }

    async fn shut(mut self) {
        let ids: Vec<FlowId> = self.connections.keys().copied().collect();
        self.reset_all(ids);
        self.flush().await;
    }

    fn reset_all(&mut self, ids: Vec<FlowId>) {
        for id in ids {
            if let Some(connection) = self.connections.get(&id) {
                flow::lock(&connection.shared).abort();
            }
            self.turn(id);
        }
    }

    fn apply_peers(&mut self) {
        let set = Arc::clone(&self.peers.borrow_and_update());
        // What a peer opened is its own; it must not wait in a queue until its address is another's.
        self.take_accepted(true);
        let gone = self.device.gone(&set);
        if let Some(kernel) = &mut self.kernel {
            kernel.remove(&gone);
        }
        self.take_packets(true);
        let ids = self
            .connections
            .iter()
            .filter(|(_, connection)| gone.contains(&connection.peer));
        let ids: Vec<FlowId> = ids.map(|(id, _)| *id).collect();
        // While the peer's keys are still there to tell it.
        self.reset_all(ids);
        self.device.apply(&set, &gone);
        for peer in gone {
            self.refusals.remove(&peer);
        }
    }

    fn take_batch(&mut self, first: &Received, buffer: &mut [u8]) -> Vec<FlowId> {
        let mut taken = self.take_received(first, buffer);
        while taken < BATCH_MAX
            && let Ok(received) = self.socket.try_receive(buffer)
        {
            taken += self.take_received(&received, buffer);
        }
        let mut touched = Vec::new();
        for (peer, bytes) in std::mem::take(&mut self.output.tunnel) {
            match self.take_packet(peer, bytes) {
                Ok(Some(id)) if !touched.contains(&id) => touched.push(id),
                Ok(_) => {}
                Err(cause) => self.device.count(cause),
            }
        }
        if let Some(kernel) = &mut self.kernel {
            kernel.flush();
        }
        touched
    }

    /// How many datagrams they were.
    fn take_received(&mut self, received: &Received, buffer: &[u8]) -> usize {
        let datagrams = received.datagrams(buffer);
        datagrams
            .map(|datagram| self.device.receive(received.from, datagram, &mut self.output))
            .count()
    }

    fn take_dirty(&mut self, first: FlowId) -> Vec<FlowId> {
        let mut touched = vec![first];
        while touched.len() < BATCH_MAX
            && let Ok(id) = self.dirty.1.try_recv()
        {
            touched.push(id);
        }
        touched
    }

    fn take_due(&mut self) -> Vec<FlowId> {
        let now = Instant::now();
        self.deadlines
            .iter()
            .take_while(|(at, _)| *at <= now)
            .take(BATCH_MAX)
            .map(|(_, id)| *id)
            .collect()
    }

    fn tick(&mut self) {
        self.device.tick(&mut self.output);
        if let Some(kernel) = &mut self.kernel {
            kernel.tick(Instant::now());
        }
        // What had no descriptor when it came.
        self.take_accepted(true);
        if self.last_second.elapsed() < Duration::from_secs(1) {
            return;
        }
        self.last_second = Instant::now();
        self.refusals.clear();
        self.dns_rooms
            .retain(|_, room| room.available_permits() < DNS_IN_FLIGHT_PER_PEER_MAX);
        let peers = self.device.status(|peer| match &self.kernel {
            Some(kernel) => kernel.connections(peer),
            None => self.per_peer.get(&peer).copied().unwrap_or(0),
        });
        if let Ok(mut status) = self.status.lock() {
            *status = Status {
                peers,
                drops: self.device.drops.clone(),
            };
        }
    }

    /// One packet of a peer; the flow that it touched.
    fn take_packet(&mut self, peer: PeerIndex, bytes: Vec<u8>) -> Result<Option<FlowId>, Drop> {
        let packet = packet::parse(&bytes)?;
        // The device checked it as well; the flow's identity hangs on it.
        let identity = self
            .device
            .identity(peer, packet.source)
            .ok_or(Drop::SpoofedSource)?;
        let identity = Arc::clone(identity);
        match packet.kind {
            // No connection goes to such a place, and neither TCP would take it.
            Kind::Tcp(_) if !packet::dialable(packet.destination) => Err(Drop::Malformed),
            Kind::Tcp(segment) if self.kernel.is_some() => {
                self.admit(peer, &packet, &segment)?;
                let (ends, length) = (ends(&packet, &segment), packet.bytes.len());
                let mut bytes = bytes;
                bytes.truncate(length);
                if let Some(kernel) = &mut self.kernel {
                    kernel.push(ends, bytes, &segment);
                }
                Ok(None)
            }
            Kind::Tcp(segment) => {
                let id = self.route_segment(peer, &identity, &packet, &segment)?;
                if let Some(connection) = id.and_then(|id| self.connections.get(&id)) {
                    let length = packet.bytes.len();
                    let mut bytes = bytes;
                    bytes.truncate(length);
                    flow::lock(&connection.shared).push(bytes);
                }
                Ok(id)
            }
            Kind::Udp { from, to, data } => {
                let server = SocketAddr::new(packet.destination, to);
                match dns::at(&self.config, server) {
                    Some(answer) => {
                        let client = SocketAddr::new(packet.source, from);
                        self.query(
                            answer,
                            (peer, identity),
                            Ends {
                                source: client,
                                destination: server,
                            },
                            data,
                        )?;
                    }
                    None => self.refuse(peer, packet::unreachable(&packet))?,
                }
                Ok(None)
            }
            Kind::Echo(message) if gateway(&self.config, packet.destination) => {
                self.refuse(peer, Some(packet::echo_reply(&packet, message)))?;
                Ok(None)
            }
            Kind::Echo(_) => {
                self.refuse(peer, packet::unreachable(&packet))?;
                Ok(None)
            }
            Kind::Icmp => Err(Drop::Protocol),
        }
    }

    /// Connections that a key may have now, where it has `own` of them by `count`: its own limit, and
    /// what is left of what all keys of its peer may have.
    fn connections_max(&self, peer: PeerIndex, count: impl Fn(PeerIndex) -> usize) -> usize {
        let limit = self.config.connections_max;
        let all = limit
            .saturating_mul(KEYS_SHARE)
            .min(self.config.flows_max / KEYS_SHARE)
            .max(limit);
        let held: usize = self.device.siblings(peer).iter().map(|key| count(*key)).sum();
        limit.min(count(peer) + all.saturating_sub(held))
    }

    /// Sends a refusal, within what the peer may have of them.
    fn refuse(&mut self, peer: PeerIndex, packet: Option<Vec<u8>>) -> Result<(), Drop> {
        let Some(packet) = packet else { return Ok(()) };
        let sent = self.refusals.entry(peer).or_default();
        if *sent >= REFUSALS_PER_SECOND_MAX {
            return Err(Drop::RateLimited);
        }
        *sent += 1;
        self.device.send(peer, &packet, &mut self.output);
        Ok(())
    }

    async fn flush(&mut self) {
        let lost = self.socket.send(&self.output.network).await;
        self.output.network.clear();
        for _ in 0..lost {
            self.device.count(Drop::Send);
        }
    }
}

fn ends(packet: &Packet<'_>, segment: &Segment) -> Ends {
    Ends {
        source: SocketAddr::new(packet.source, segment.from),
        destination: SocketAddr::new(packet.destination, segment.to),
    }
}

fn gateway(config: &Config, address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => config.gateway_v4 == Some(address),
        IpAddr::V6(address) => config.gateway_v6 == Some(address),
    }
}
