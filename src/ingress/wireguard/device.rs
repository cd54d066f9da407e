//! The peer table over boringtun's `Tunn`: datagrams in, packets of known peers out. No socket.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use boringtun::noise::handshake::parse_handshake_anon;
use boringtun::noise::rate_limiter::RateLimiter;
use boringtun::noise::{Packet, Tunn, TunnResult};
use boringtun::x25519::{PublicKey, StaticSecret};

use super::socket::Datagram;
use super::{Drop, Peer, PeerSet, PeerStatus};
use crate::bad_input;
use crate::identity::{Identity, Transport, key_proof};

/// Handshake messages a second before senders must prove their address with a cookie. Each is
/// counted twice, here and inside its `Tunn`.
const HANDSHAKES_PER_SECOND_MAX: u64 = 200;
/// The largest UDP datagram, with boringtun's overhead.
const SCRATCH_BYTES: usize = (1 << 16) + 64;
const COOKIE_REPLY_BYTES: usize = 64;

/// A peer's place in the table: the upper 24 bits of its receiver indices. Never used again.
pub(super) type PeerIndex = u32;

struct Entry {
    peer: Peer,
    v4: Option<Arc<Identity>>,
    v6: Option<Arc<Identity>>,
    tunn: Tunn,
    endpoint: Option<SocketAddr>,
    rx_bytes: u64,
    tx_bytes: u64,
}

/// What a call wants done.
#[derive(Default)]
pub(super) struct Output {
    /// Datagrams to send.
    pub(super) network: Vec<Datagram>,
    /// Decrypted packets, each with the peer that sent it.
    pub(super) tunnel: Vec<(PeerIndex, Vec<u8>)>,
}

pub(super) struct Device {
    private: StaticSecret,
    public: PublicKey,
    limiter: Arc<RateLimiter>,
    entries: HashMap<PeerIndex, Entry>,
    by_key: HashMap<[u8; 32], PeerIndex>,
    by_address: HashMap<IpAddr, PeerIndex>,
    by_name: HashMap<String, Vec<PeerIndex>>,
    next: PeerIndex,
    scratch: Vec<u8>,
    pub(super) drops: BTreeMap<Drop, u64>,
}

impl Device {
    pub(super) fn new(private_key: &[u8; 32]) -> Self {
        let private = StaticSecret::from(*private_key);
        let public = PublicKey::from(&private);
        Device {
            limiter: Arc::new(RateLimiter::new(&public, HANDSHAKES_PER_SECOND_MAX)),
            private,
            public,
            entries: HashMap::new(),
            by_key: HashMap::new(),
            by_address: HashMap::new(),
            by_name: HashMap::new(),
            next: 1,
            scratch: vec![0; SCRATCH_BYTES],
            drops: BTreeMap::new(),
        }
    }

    pub(super) fn count(&mut self, cause: Drop) {
        bad_input::count(bad_input::Reader::Wireguard, &cause);
        *self.drops.entry(cause).or_default() += 1;
    }

    /// The peers that `set` has no more. One whose name or address changed is gone as well, and
    /// comes back as another.
    pub(super) fn gone(&self, set: &PeerSet) -> Vec<PeerIndex> {
        let kept: HashMap<&[u8; 32], &Peer> = set.peers.iter().map(|peer| (&peer.public_key, peer)).collect();
        let stale = |entry: &Entry| {
            kept.get(&entry.peer.public_key)
                .is_none_or(|peer| **peer != entry.peer)
        };
        let gone = self.entries.iter().filter(|(_, entry)| stale(entry));
        gone.map(|(index, _)| *index).collect()
    }

    /// Forgets the peers that are `gone`, and takes in what `set` has new.
    pub(super) fn apply(&mut self, set: &PeerSet, gone: &[PeerIndex]) {
        for index in gone {
            if let Some(entry) = self.entries.remove(index) {
                self.by_key.remove(&entry.peer.public_key);
                self.by_address.retain(|_, owner| owner != index);
                let name = entry.peer.name;
                let left = self.by_name.get_mut(&name).map_or(0, |keys| {
                    keys.retain(|key| key != index);
                    keys.len()
                });
                if left == 0 {
                    self.by_name.remove(&name);
                }
            }
        }
        for peer in &set.peers {
            if !self.by_key.contains_key(&peer.public_key) {
                self.insert(peer);
            }
        }
    }

    fn insert(&mut self, peer: &Peer) {
        let addresses = [peer.v4.map(IpAddr::from), peer.v6.map(IpAddr::from)];
        let taken = addresses
            .iter()
            .flatten()
            .any(|address| self.by_address.contains_key(address));
        if taken || self.next >= 1 << 24 || peer.public_key == self.public.to_bytes() {
            tracing::error!(peer = peer.name, "peer refused: its address or key is taken");
            return;
        }
        let index = self.next;
        self.next += 1;
        let proof: Arc<str> = key_proof(peer.machine.as_ref().unwrap_or(&peer.public_key)).into();
        let identity = |address: IpAddr| {
            let identity = Identity::new(Transport::Wireguard, address, peer.name.clone());
            Arc::new(identity.proved_by(proof.clone()))
        };
        let key = PublicKey::from(peer.public_key);
        let limiter = Some(Arc::clone(&self.limiter));
        let entry = Entry {
            v4: peer.v4.map(|address| identity(address.into())),
            v6: peer.v6.map(|address| identity(address.into())),
            tunn: Tunn::new(self.private.clone(), key, None, None, index, limiter),
            peer: peer.clone(),
            endpoint: None,
            rx_bytes: 0,
            tx_bytes: 0,
        };
        self.by_key.insert(peer.public_key, index);
        self.by_name.entry(peer.name.clone()).or_default().push(index);
        for address in addresses.into_iter().flatten() {
            self.by_address.insert(address, index);
        }
        self.entries.insert(index, entry);
    }

    /// The identity of a peer at one of its own addresses.
    pub(super) fn identity(&self, index: PeerIndex, address: IpAddr) -> Option<&Arc<Identity>> {
        let entry = self.entries.get(&index)?;
        let identity = if address.is_ipv4() { &entry.v4 } else { &entry.v6 };
        identity.as_ref().filter(|identity| identity.address == address)
    }

    /// All keys of the peer that a key is of, itself among them: a machine may have many.
    pub(super) fn siblings(&self, index: PeerIndex) -> &[PeerIndex] {
        let entry = self.entries.get(&index);
        let keys = entry.and_then(|entry| self.by_name.get(&entry.peer.name));
        keys.map_or(&[], Vec::as_slice)
    }

    /// One datagram from the network.
    pub(super) fn receive(&mut self, from: SocketAddr, datagram: &[u8], output: &mut Output) {
        if let Err(cause) = self.try_receive(from, datagram, output) {
            self.count(cause);
        }
    }

    fn try_receive(&mut self, from: SocketAddr, datagram: &[u8], output: &mut Output) -> Result<(), Drop> {
        let mut cookie = [0; COOKIE_REPLY_BYTES];
        let message = match self.limiter.verify_packet(Some(from.ip()), datagram, &mut cookie) {
            Ok(message) => message,
            Err(TunnResult::WriteToNetwork(reply)) => {
                output.network.push((from, reply.to_vec()));
                return Err(Drop::RateLimited);
            }
            Err(_) => return Err(Drop::Unauthenticated),
        };
        let index = match &message {
            Packet::HandshakeInit(init) => {
                let half = parse_handshake_anon(&self.private, &self.public, init)
                    .map_err(|_| Drop::Unauthenticated)?;
                *self
                    .by_key
                    .get(&half.peer_static_public)
                    .ok_or(Drop::UnknownPeer)?
            }
            Packet::HandshakeResponse(response) => response.receiver_idx >> 8,
            Packet::PacketCookieReply(reply) => reply.receiver_idx >> 8,
            Packet::PacketData(data) => data.receiver_idx >> 8,
        };
        let cookie_reply = matches!(message, Packet::PacketCookieReply(_));
        let entry = self.entries.get_mut(&index).ok_or(Drop::UnknownPeer)?;
        match entry
            .tunn
            .decapsulate(Some(from.ip()), datagram, &mut self.scratch)
        {
            TunnResult::Err(_) => return Err(Drop::Unauthenticated),
            TunnResult::Done => {}
            TunnResult::WriteToNetwork(reply) => {
                let limited = reply.len() == COOKIE_REPLY_BYTES && reply.first() == Some(&3);
                output.network.push((from, reply.to_vec()));
                if limited {
                    return Err(Drop::RateLimited);
                }
                entry.endpoint = Some(from);
                entry.flush(&mut self.scratch, output);
            }
            TunnResult::WriteToTunnelV4(packet, source) => {
                entry.endpoint = Some(from);
                entry.deliver(index, source.into(), packet, output)?;
            }
            TunnResult::WriteToTunnelV6(packet, source) => {
                entry.endpoint = Some(from);
                entry.deliver(index, source.into(), packet, output)?;
            }
        }
        if !cookie_reply {
            entry.endpoint = Some(from);
        }
        Ok(())
    }

    /// Sends a packet into a peer's tunnel; starts a handshake where there is no session.
    pub(super) fn send(&mut self, index: PeerIndex, packet: &[u8], output: &mut Output) {
        let Some(entry) = self.entries.get_mut(&index) else {
            return;
        };
        if packet.len() + 64 > SCRATCH_BYTES {
            return;
        }
        entry.tx_bytes += packet.len() as u64;
        if let TunnResult::WriteToNetwork(datagram) = entry.tunn.encapsulate(packet, &mut self.scratch)
            && let Some(endpoint) = entry.endpoint
        {
            output.network.push((endpoint, datagram.to_vec()));
        }
    }

    /// Sends a packet to the peer whose address is `to`; nowhere, where it is nobody's.
    pub(super) fn send_to(&mut self, to: IpAddr, packet: &[u8], output: &mut Output) {
        if let Some(index) = self.by_address.get(&to).copied() {
            self.send(index, packet, output);
        }
    }

    /// Rekeys, keepalives and expiry; call a few times a second.
    pub(super) fn tick(&mut self, output: &mut Output) {
        self.limiter.reset_count();
        for entry in self.entries.values_mut() {
            if let TunnResult::WriteToNetwork(datagram) = entry.tunn.update_timers(&mut self.scratch)
                && let Some(endpoint) = entry.endpoint
            {
                output.network.push((endpoint, datagram.to_vec()));
            }
        }
    }

    pub(super) fn status(&self, connections: impl Fn(PeerIndex) -> usize) -> Vec<PeerStatus> {
        let mut peers: Vec<PeerStatus> = self
            .entries
            .iter()
            .map(|(index, entry)| PeerStatus {
                public_key: entry.peer.public_key,
                name: entry.peer.name.clone(),
                endpoint: entry.endpoint,
                handshake_age: entry.tunn.time_since_last_handshake(),
                rx_bytes: entry.rx_bytes,
                tx_bytes: entry.tx_bytes,
                connections: connections(*index),
            })
            .collect();
        peers.sort_by(|left, right| left.name.cmp(&right.name));
        peers
    }
}

impl Entry {
    fn deliver(
        &mut self,
        index: PeerIndex,
        source: IpAddr,
        packet: &[u8],
        output: &mut Output,
    ) -> Result<(), Drop> {
        let own = match source {
            IpAddr::V4(source) => self.peer.v4 == Some(source),
            IpAddr::V6(source) => self.peer.v6 == Some(source),
        };
        if !own {
            return Err(Drop::SpoofedSource);
        }
        self.rx_bytes += packet.len() as u64;
        output.tunnel.push((index, packet.to_vec()));
        Ok(())
    }

    /// Sends what waited for a session.
    fn flush(&mut self, scratch: &mut [u8], output: &mut Output) {
        while let TunnResult::WriteToNetwork(datagram) = self.tunn.decapsulate(None, &[], scratch) {
            let Some(endpoint) = self.endpoint else { return };
            output.network.push((endpoint, datagram.to_vec()));
        }
    }
}
