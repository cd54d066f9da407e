//! The driver's dealings with the userspace TCP.

use std::ops::ControlFlow;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::super::Drop;
use super::super::device::PeerIndex;
use super::super::flow::{self, Endpoint, FlowId, Stream};
use super::super::packet::{self, Packet, Segment};
use super::{Connection, Driver, FLOWS_MAX, OVERDUE_US, dns, ends};
use crate::identity::Identity;
use crate::ingress::{Flow, FlowStream};

impl Driver {
    /// The flow of a segment; a new one for a SYN; a reset for the rest.
    pub(super) fn route_segment(
        &mut self,
        peer: PeerIndex,
        identity: &Arc<Identity>,
        packet: &Packet<'_>,
        segment: &Segment,
    ) -> Result<Option<FlowId>, Drop> {
        let ends = ends(packet, segment);
        if let Some(id) = self.by_ends.get(&(peer, ends)) {
            return Ok(Some(*id));
        }
        if segment.flags & (packet::SYN | packet::ACK | packet::RST) != packet::SYN {
            self.refuse(peer, packet::reset(packet, segment))?;
            return Ok(None);
        }
        let own = self.per_peer.get(&peer).copied().unwrap_or(0);
        if own >= self.config.connections_max || self.connections.len() >= FLOWS_MAX {
            self.refuse(peer, packet::reset(packet, segment))?;
            return Err(Drop::ConnectionLimit);
        }
        let mut seed = [0; 8];
        let endpoint = getrandom::fill(&mut seed).ok().and_then(|()| {
            Endpoint::listen(
                ends,
                self.config.mtu,
                u64::from_ne_bytes(seed),
                self.clock(Instant::now()),
            )
        });
        let Some(endpoint) = endpoint else {
            self.refuse(peer, packet::reset(packet, segment))?;
            return Ok(None);
        };
        let id = self.next_id;
        self.next_id += 1;
        let connection = Connection {
            peer,
            ends,
            shared: Arc::new(Mutex::new(endpoint)),
            identity: Arc::clone(identity),
            handed_out: false,
            next: None,
            linger: None,
        };
        self.connections.insert(id, connection);
        self.by_ends.insert((peer, ends), id);
        *self.per_peer.entry(peer).or_default() += 1;
        Ok(Some(id))
    }

    /// The flows' clock.
    pub(super) fn clock(&self, now: Instant) -> smoltcp::time::Instant {
        let micros = now.saturating_duration_since(self.started).as_micros();
        smoltcp::time::Instant::from_micros(i64::try_from(micros).unwrap_or(i64::MAX))
    }

    /// Lets one flow's stack work, hands it out when it is established, forgets it when it is over.
    pub(super) fn turn(&mut self, id: FlowId) {
        let now = Instant::now();
        let clock = self.clock(now);
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        let (peer, device, output) = (connection.peer, &mut self.device, &mut self.output);
        let shared = Arc::clone(&connection.shared);
        let turn = flow::lock(&shared).turn(clock, |packet| device.send(peer, packet, output));
        if let Some(at) = connection.next.take() {
            self.deadlines.remove(&(at, id));
        }
        if turn.detached && connection.linger.is_none() {
            connection.linger = Some(now + Duration::from_secs(flow::LINGER_S));
        }
        let expired = connection.linger.is_some_and(|at| at <= now);
        if turn.over || expired {
            return self.forget(id, expired && !turn.over, clock);
        }
        // smoltcp says "now" as a time long past, and its difference of two times has no sign.
        let wait = turn.next.map(|at| match at > clock {
            true => (at - clock).total_micros(),
            false => OVERDUE_US,
        });
        let next = wait.map(|micros| now + Duration::from_micros(micros));
        connection.next = next.into_iter().chain(connection.linger).min();
        if let Some(at) = connection.next {
            self.deadlines.insert((at, id));
        }
        if turn.established && !connection.handed_out {
            connection.handed_out = true;
            if self.hand_out(id).is_break() {
                self.device.count(Drop::AcceptQueue);
                self.reset_all(vec![id]);
            }
        }
    }

    pub(super) fn forget(&mut self, id: FlowId, reset: bool, clock: smoltcp::time::Instant) {
        let Some(connection) = self.connections.remove(&id) else {
            return;
        };
        self.by_ends.remove(&(connection.peer, connection.ends));
        if let Some(count) = self.per_peer.get_mut(&connection.peer) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.per_peer.remove(&connection.peer);
            }
        }
        if reset {
            let (device, output) = (&mut self.device, &mut self.output);
            let mut endpoint = flow::lock(&connection.shared);
            endpoint.abort();
            endpoint.turn(clock, |packet| device.send(connection.peer, packet, output));
        }
    }

    pub(super) fn hand_out(&mut self, id: FlowId) -> ControlFlow<()> {
        let Some(connection) = self.connections.get(&id) else {
            return ControlFlow::Continue(());
        };
        let stream = Stream {
            id,
            shared: Arc::clone(&connection.shared),
            dirty: self.dirty.0.clone(),
        };
        let (identity, ends) = (Arc::clone(&connection.identity), connection.ends);
        if let Some(answer) = dns::at(&self.config, ends.destination) {
            tokio::spawn(dns::serve(stream, answer, identity));
            return ControlFlow::Continue(());
        }
        let flow = Flow {
            identity: identity.into(),
            source: ends.source,
            destination: ends.destination,
            stream: FlowStream::Userspace(Box::new(stream)),
        };
        match self.accepted.try_send(flow) {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        }
    }
}
