//! The driver's dealings with the kernel's TCP, where that ends the connections.

use std::sync::Arc;

use super::super::Drop;
use super::super::device::PeerIndex;
use super::super::kernel::{Event, Stack};
use super::super::packet::{self, Packet, Segment};
use super::{Driver, FLOWS_MAX, dns, ends};
use crate::ingress::{Flow, FlowStream};

impl Driver {
    pub(super) fn take_kernel(&mut self, event: &Event) {
        match event {
            Event::Connections => self.take_accepted(false),
            Event::Packets => self.take_packets(false),
            Event::Closed(closed) => {
                if let Some(kernel) = &mut self.kernel {
                    kernel.closed(closed);
                }
            }
        }
    }

    /// Sends on what the kernel has for the peers; `all` leaves nothing behind.
    pub(super) fn take_packets(&mut self, all: bool) {
        let (device, output) = (&mut self.device, &mut self.output);
        if let Some(kernel) = &mut self.kernel {
            kernel.read(all, |to, packet| device.send_to(to, packet, output));
        }
    }

    /// Hands out what the kernel accepted; `all` leaves nothing behind.
    pub(super) fn take_accepted(&mut self, all: bool) {
        let Some(kernel) = &mut self.kernel else { return };
        for accepted in kernel.accept(all) {
            let ends = accepted.ends;
            let Some(identity) = self.device.identity(accepted.peer, ends.source.ip()) else {
                kernel.abort(&ends);
                continue;
            };
            let identity = Arc::clone(identity);
            if let Some(answer) = dns::at(&self.config, ends.destination) {
                tokio::spawn(dns::serve(accepted.stream, answer, identity));
                continue;
            }
            let flow = Flow {
                identity: identity.into(),
                source: ends.source,
                destination: ends.destination,
                stream: FlowStream::Private(accepted.stream),
            };
            if self.accepted.try_send(flow).is_err() {
                self.device.count(Drop::AcceptQueue);
                kernel.abort(&ends);
            }
        }
    }

    /// Lets a segment into the kernel, or answers it with a reset.
    pub(super) fn admit(
        &mut self,
        peer: PeerIndex,
        packet: &Packet<'_>,
        segment: &Segment,
    ) -> Result<(), Drop> {
        let limits = (self.config.connections_max, FLOWS_MAX);
        let Some(kernel) = &mut self.kernel else {
            return Ok(());
        };
        let admitted = kernel.admit(peer, ends(packet, segment), segment.flags, limits);
        if admitted.is_err() {
            self.refuse(peer, packet::reset(packet, segment))?;
        }
        admitted
    }
}

/// What the kernel's TCP wants next; never, where there is none.
pub(super) async fn event(kernel: &mut Option<Stack>) -> Event {
    match kernel {
        Some(kernel) => kernel.event().await,
        None => std::future::pending().await,
    }
}
