//! Any number of WireGuard peers on one UDP port, and the TCP that ends their connections.
//!
//! A datagram goes through [`device`] (boringtun's crypto, the peer table, the check that a
//! packet's source belongs to its peer), then by kind: TCP to the kernel's own in a private network
//! namespace ([`kernel`]) or, where that cannot be had, to [`flow`], one userspace TCP endpoint for
//! each connection, whatever address and port it was dialled to; UDP 53 at the gateway's
//! address to the DNS answerer; all else gets an ICMP refusal at once.
//!
//! Invariants: a packet is handed on only with the peer whose key authenticated it, and only if
//! its source is that peer's own address; there is no default peer. A peer's endpoint follows
//! authenticated packets alone. Removing a peer resets its connections.

mod device;
mod driver;
mod flow;
mod kernel;
mod packet;
mod socket;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::sync::{mpsc, watch};
use zeroize::Zeroizing;

use super::Flow;
use crate::identity::Identity;
use crate::policy::model::Stack;
use crate::sys::private_tcp::{self, Plan, SetUpError};
pub use kernel::KernelStream;

/// TCP connections of all peers together, where the machine allows as many.
pub const FLOWS_MAX: usize = 16_384;
/// Accepted flows that wait for [`Listener::accept`]; the next one is reset.
const ACCEPT_QUEUE_MAX: usize = 1024;

/// A peer that may connect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The name that becomes [`Identity::node`].
    pub name: String,
    /// The X25519 public key.
    pub public_key: [u8; 32],
    /// The key of the machine, where this is the key of one of its runs.
    pub machine: Option<[u8; 32]>,
    /// The only IPv4 source address that its packets may have.
    pub v4: Option<Ipv4Addr>,
    /// The only IPv6 source address that its packets may have.
    pub v6: Option<Ipv6Addr>,
}

/// All peers, swapped as a whole.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerSet {
    pub peers: Vec<Peer>,
}

/// What a listener is told once.
pub struct Config {
    /// UDP address to listen on; port 0 takes a free one.
    pub listen: SocketAddr,
    /// The gateway's X25519 private key.
    pub private_key: Zeroizing<[u8; 32]>,
    /// The gateway's own addresses inside the tunnel: DNS and echo are answered there.
    pub gateway_v4: Option<Ipv4Addr>,
    pub gateway_v6: Option<Ipv6Addr>,
    /// Largest packet inside the tunnel, bytes; 1280 to 9000.
    pub mtu: u16,
    pub stack: Stack,
    /// Open TCP connections of one peer; the next is reset.
    pub connections_max: usize,
    /// Open TCP connections of all peers; the next is reset.
    pub flows_max: usize,
    /// Answers DNS queries; without it port 53 is refused like any other.
    pub dns: Option<DnsAnswer>,
}

/// The bytes of a DNS query to the bytes of its answer. The flag says that it came over TCP.
pub type DnsAnswer = Arc<
    dyn Fn(Arc<Identity>, Vec<u8>, bool) -> Pin<Box<dyn Future<Output = Option<Vec<u8>>> + Send>>
        + Send
        + Sync,
>;

/// Why a packet was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Drop {
    /// Not a WireGuard message, or not for a key of ours.
    Unauthenticated,
    /// The handshake's key is no peer's.
    UnknownPeer,
    /// Refused or answered with a cookie by the rate limiter.
    RateLimited,
    /// The source inside the tunnel is not the peer's own.
    SpoofedSource,
    /// Not an IP packet, or a header that contradicts itself.
    Malformed,
    Checksum,
    Fragment,
    /// An IPv6 extension header or an IP protocol that is not served.
    Protocol,
    /// TCP beyond `connections_max` or the listener's own bounds.
    ConnectionLimit,
    /// No one took the flow in time.
    AcceptQueue,
    /// DNS queries in flight beyond their bound.
    DnsBusy,
    /// The peer's last UDP address could not take a packet.
    Send,
}

/// One peer's state for `status`.
#[derive(Clone, Debug)]
pub struct PeerStatus {
    pub name: String,
    pub public_key: [u8; 32],
    /// Where its last authenticated packet came from.
    pub endpoint: Option<SocketAddr>,
    pub handshake_age: Option<Duration>,
    /// Bytes inside the tunnel.
    pub rx_bytes: u64,
    pub tx_bytes: u64,
    pub connections: usize,
}

/// A snapshot of the listener, refreshed every second.
#[derive(Clone, Debug, Default)]
pub struct Status {
    pub peers: Vec<PeerStatus>,
    /// Packets dropped, by cause.
    pub drops: BTreeMap<Drop, u64>,
}

/// What keeps a listener from starting.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    #[error("cannot listen on UDP {address}: {source}")]
    Socket { address: SocketAddr, source: io::Error },
    #[error("the MTU {0} is not within 1280 and 9000")]
    Mtu(u16),
    #[error("`stack = \"kernel\"`: {0}; `stack = \"auto\"` does without it")]
    KernelStack(SetUpError),
    #[error("cannot watch the kernel's TCP: {0}")]
    Watch(io::Error),
}

/// A running WireGuard ingress. Dropping it closes the socket and resets every flow.
pub struct Listener {
    flows: mpsc::Receiver<Flow>,
    status: Arc<Mutex<Status>>,
    address: SocketAddr,
    driver: tokio::task::JoinHandle<()>,
}

impl Listener {
    /// Binds the socket and starts to serve the peers of `peers`.
    pub async fn bind(config: Config, peers: watch::Receiver<Arc<PeerSet>>) -> Result<Listener, BindError> {
        if !(1280..=9000).contains(&config.mtu) {
            return Err(BindError::Mtu(config.mtu));
        }
        let kernel = kernel_stack(config.stack, config.mtu).await?;
        let refused = |source| BindError::Socket {
            address: config.listen,
            source,
        };
        let socket = UdpSocket::bind(config.listen).await.map_err(refused)?;
        let reference = socket2::SockRef::from(&socket);
        // Best effort: the kernel caps both at its own limits.
        let _ = reference.set_recv_buffer_size(4 << 20);
        let _ = reference.set_send_buffer_size(4 << 20);
        let address = socket.local_addr().map_err(refused)?;
        let (accepted, flows) = mpsc::channel(ACCEPT_QUEUE_MAX);
        let status = Arc::new(Mutex::new(Status::default()));
        let socket = socket::Socket::new(socket);
        let driver = driver::Driver::new(config, (socket, kernel), peers, accepted, Arc::clone(&status));
        Ok(Listener {
            flows,
            status,
            address,
            driver: tokio::spawn(driver.run()),
        })
    }

    /// The next established connection; `None` once the listener has failed.
    pub async fn accept(&mut self) -> Option<Flow> {
        self.flows.recv().await
    }

    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    pub fn status(&self) -> Status {
        self.status
            .lock()
            .map(|status| status.clone())
            .unwrap_or_default()
    }

    /// A handle that outlives moves of the listener, for the admin API.
    pub fn status_handle(&self) -> Arc<Mutex<Status>> {
        Arc::clone(&self.status)
    }
}

/// The kernel's TCP where it is wanted and can be had; says which TCP it is.
async fn kernel_stack(stack: Stack, mtu: u16) -> Result<Option<kernel::Stack>, BindError> {
    if stack == Stack::Userspace {
        tracing::info!(stack = "userspace", why = "configured", "TCP of WireGuard peers");
        return Ok(None);
    }
    let made = tokio::task::spawn_blocking(move || private_tcp::make(Plan { mtu })).await;
    let made = made.map_err(|error| BindError::Watch(io::Error::other(error)))?;
    match made {
        Ok(private) => {
            let kernel = kernel::Stack::new(private).map_err(BindError::Watch)?;
            tracing::info!(stack = "kernel", congestion = %kernel.congestion, "TCP of WireGuard peers");
            Ok(Some(kernel))
        }
        Err(why) if stack == Stack::Auto => {
            tracing::info!(stack = "userspace", %why, "TCP of WireGuard peers");
            Ok(None)
        }
        Err(why) => Err(BindError::KernelStack(why)),
    }
}

impl std::ops::Drop for Listener {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// The public key of a private one.
pub fn public_key(private_key: &[u8; 32]) -> [u8; 32] {
    let secret = boringtun::x25519::StaticSecret::from(*private_key);
    boringtun::x25519::PublicKey::from(&secret).to_bytes()
}
