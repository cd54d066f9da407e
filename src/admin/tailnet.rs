//! The admin page and the tailnet.
//!
//! A tailscaled without a network device forwards whatever a peer sends to the node's own address to
//! the same port of this machine's loopback. Such a connection looks like one of this machine's, so
//! tailscaled is asked who is behind it, and a peer's is closed before a byte of it is read: peers
//! have the listener on the tailnet, which knows who they are.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::Semaphore;

use crate::ingress::tailnet::LocalApi;
use crate::ingress::tailnet::localapi::Protocol;

/// How long until the next look after one in vain: tailscaled takes 200 ms for each, and the ingress
/// wants it, too.
const PAUSE: Duration = Duration::from_millis(20);

/// Tells tailscaled's forwarding from this machine's own connections.
pub struct Forwarding {
    api: LocalApi,
    socket: PathBuf,
    /// One question at a time.
    turn: Semaphore,
}

impl Forwarding {
    pub fn new(api: LocalApi, socket: PathBuf) -> Self {
        Forwarding {
            api,
            socket,
            turn: Semaphore::new(1),
        }
    }

    /// Whether a loopback connection is, or may be, a peer's.
    pub(super) async fn is_of_peer(&self, source: SocketAddr) -> bool {
        // Never closed.
        let _turn = self.turn.acquire().await;
        match self.api.who_is(source, Protocol::Tcp).await {
            Ok(None) => {
                tokio::time::sleep(PAUSE).await;
                false
            }
            Ok(Some(found)) => {
                let node = found.node.name;
                tracing::warn!(node, "a peer of the tailnet tried the loopback admin listener");
                true
            }
            // Nobody forwards where nobody listens.
            Err(_) if tokio::net::UnixStream::connect(&self.socket).await.is_err() => false,
            Err(error) => {
                tracing::warn!(%error, "tailscaled does not say whether a connection is a peer's; it is closed");
                true
            }
        }
    }
}
