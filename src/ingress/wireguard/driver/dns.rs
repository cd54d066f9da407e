//! Queries to the gateway's own address, by UDP and TCP.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Semaphore;

use super::super::device::PeerIndex;
use super::super::flow::Ends;
use super::super::{Config, DnsAnswer, Drop, packet};
use super::{DNS_IN_FLIGHT_PER_PEER_MAX, DnsReply, Driver, gateway};
use crate::identity::Identity;
use crate::ingress::ByteStream;

/// Milliseconds a DNS client over TCP may stay silent.
const DNS_IDLE_MS: u64 = 10_000;
const DNS_PORT: u16 = 53;

impl Driver {
    pub(super) fn query(
        &mut self,
        answer: DnsAnswer,
        (peer, identity): (PeerIndex, Arc<Identity>),
        ends: Ends,
        data: &[u8],
    ) -> Result<(), Drop> {
        let own = self.dns_rooms.entry(identity.node.clone());
        let own = own.or_insert_with(|| Arc::new(Semaphore::new(DNS_IN_FLIGHT_PER_PEER_MAX)));
        let place = |room: &Arc<Semaphore>| Arc::clone(room).try_acquire_owned().map_err(|_| Drop::DnsBusy);
        let places = (place(own)?, place(&self.dns_room)?);
        let replies = self.dns.0.clone();
        let query = data.to_vec();
        tokio::spawn(async move {
            if let Some(bytes) = answer(identity, query, false).await {
                let packet = packet::datagram(ends.destination, ends.source, &bytes);
                // A driver that is gone answers nobody.
                let _ = replies.send(DnsReply { peer, packet }).await;
            }
            drop(places);
        });
        Ok(())
    }
}

/// Who answers there, where that is the gateway's name server.
pub(super) fn at(config: &Config, to: SocketAddr) -> Option<DnsAnswer> {
    (to.port() == DNS_PORT && gateway(config, to.ip()))
        .then(|| config.dns.clone())
        .flatten()
}

/// DNS over TCP (RFC 7766): each message behind its length.
pub(super) async fn serve(mut stream: impl ByteStream, answer: DnsAnswer, identity: Arc<Identity>) {
    let idle = Duration::from_millis(DNS_IDLE_MS);
    loop {
        let read = async {
            let length = stream.read_u16().await.ok()?;
            let mut query = vec![0; usize::from(length)];
            stream.read_exact(&mut query).await.ok()?;
            Some(query)
        };
        let Ok(Some(query)) = tokio::time::timeout(idle, read).await else {
            return;
        };
        let Some(bytes) = answer(Arc::clone(&identity), query, true).await else {
            return;
        };
        let Ok(length) = u16::try_from(bytes.len()) else {
            return;
        };
        let mut framed = length.to_be_bytes().to_vec();
        framed.extend_from_slice(&bytes);
        let write = stream.write_all(&framed);
        if !matches!(tokio::time::timeout(idle, write).await, Ok(Ok(()))) {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::Transport;

    fn identity() -> Arc<Identity> {
        let address = std::net::Ipv4Addr::LOCALHOST.into();
        Arc::new(Identity::new(Transport::Wireguard, address, "agent"))
    }

    #[tokio::test]
    async fn queries_are_read_however_they_are_cut() {
        let said = b"\0\x03one\0\0\0\x05three";
        let want = b"\0\x04one!\0\x01!\0\x06three!";
        for at in 0..=said.len() {
            let (mut client, stream) = tokio::io::duplex(64);
            let echo: DnsAnswer =
                Arc::new(|_, query, tcp| Box::pin(async move { tcp.then(|| [&query[..], b"!"].concat()) }));
            let ask = async {
                for piece in [&said[..at], &said[at..]] {
                    client.write_all(piece).await.unwrap();
                    tokio::task::yield_now().await;
                }
                client.shutdown().await.unwrap();
                let mut answers = Vec::new();
                client.read_to_end(&mut answers).await.unwrap();
                answers
            };
            let (answers, ()) = tokio::join!(ask, serve(stream, echo, identity()));
            assert_eq!(answers, want, "cut at {at}");
        }
    }

    #[tokio::test]
    async fn a_silent_client_is_left() {
        let (_silent, stream) = tokio::io::duplex(64);
        let nothing: DnsAnswer = Arc::new(|_, _, _| Box::pin(async { None }));
        let served = serve(stream, nothing, identity());
        let left = tokio::time::timeout(Duration::from_millis(3 * DNS_IDLE_MS), served).await;
        assert!(left.is_ok(), "it is waited for still");
    }
}
