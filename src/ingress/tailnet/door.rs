//! Where every connection of the tailnet comes in: it is taken, asked for, and handed over.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};

use super::directory::{By, Directory};
use crate::ingress::{Flow, FlowStream};
use crate::sys::{TcpState, tcp_state};

/// Connections whose peers are yet to be found out.
pub const ASKING_MAX: usize = 256;

/// A connection of a peer that tailscaled vouches for.
pub struct Accepted {
    pub flow: Flow,
    /// Ends when the peer has left; the connection is then to be closed.
    pub other: Pin<Box<dyn Future<Output = ()> + Send>>,
}

/// Why a connection leads nowhere.
#[derive(Debug, thiserror::Error)]
pub(super) enum Astray {
    #[error(transparent)]
    Gone(#[from] io::Error),
    #[error("it was not redirected: it dialled the listener itself")]
    Direct,
    #[error("{0} is of no route of this gateway")]
    Outside(SocketAddr),
}

/// What all sockets share. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Door {
    directory: Arc<Directory>,
    accepted: mpsc::Sender<Accepted>,
    asking: Arc<Semaphore>,
}

impl Door {
    /// Connections come out of the receiver.
    pub fn new(directory: Arc<Directory>) -> (Self, mpsc::Receiver<Accepted>) {
        let (accepted, receiver) = mpsc::channel(ASKING_MAX);
        let door = Door {
            directory,
            accepted,
            asking: Arc::new(Semaphore::new(ASKING_MAX)),
        };
        (door, receiver)
    }

    /// Ends when nobody takes connections any more.
    pub(super) async fn closed(&self) {
        self.accepted.closed().await;
    }

    /// Takes the connections of one socket; `destination` says where each wanted to go.
    pub(super) async fn serve<D>(self, listener: TcpListener, by: By, destination: D)
    where
        D: Fn(&TcpStream) -> Result<SocketAddr, Astray> + Send + Sync,
    {
        loop {
            let (stream, source) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of descriptors, most likely: others have to end first.
                    tracing::warn!(%error, "a connection of the tailnet could not be taken");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let destination = match destination(&stream) {
                Ok(address) => SocketAddr::new(address.ip().to_canonical(), address.port()),
                Err(error) => {
                    tracing::warn!(%source, %error, "a connection of the tailnet is closed");
                    continue;
                }
            };
            let Ok(place) = Arc::clone(&self.asking).try_acquire_owned() else {
                tracing::warn!(%source, "a connection is closed: too many wait to be asked for");
                continue;
            };
            let door = self.clone();
            tokio::spawn(async move {
                if let Some(one) = door.identify(stream, (source, destination), by).await {
                    // Whoever takes them may have ended.
                    let _ = door.accepted.send(one).await;
                }
                drop(place);
            });
        }
    }

    async fn identify(
        &self,
        stream: TcpStream,
        (source, destination): (SocketAddr, SocketAddr),
        by: By,
    ) -> Option<Accepted> {
        let directory = self.directory.clone();
        let local = stream.local_addr().ok()?.ip();
        let state = || tcp_state(&stream).unwrap_or(TcpState::Closed);
        let met = match directory.meet((source, local), by, &state).await {
            Ok(met) => met,
            Err(error) => {
                tracing::warn!(%source, %error, "a connection is closed: nobody vouches for it");
                return None;
            }
        };
        stream.set_nodelay(true).ok()?;
        let flow = Flow {
            identity: met.live(),
            source,
            destination,
            stream: FlowStream::Kernel(stream),
        };
        let other = async move { directory.until_gone(met).await };
        Some(Accepted {
            flow,
            other: Box::pin(other),
        })
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt as _;

    use super::*;
    use crate::ingress::tailnet::localapi::LocalApi;

    #[tokio::test]
    async fn so_many_connections_wait_to_be_asked_for_and_no_more() {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("s");
        let _silent = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let directory = Directory::new(LocalApi::new(&socket).unwrap());
        let (door, _receiver) = Door::new(directory);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let asking = door.asking.clone();
        tokio::spawn(door.serve(listener, By::Peer, |stream| Ok(stream.local_addr()?)));
        let mut waiting = Vec::new();
        for _ in 0..ASKING_MAX {
            waiting.push(TcpStream::connect(address).await.unwrap());
        }
        let full = async {
            while asking.available_permits() > 0 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), full)
            .await
            .expect("they do not wait");
        let mut more = TcpStream::connect(address).await.unwrap();
        let closed = tokio::time::timeout(Duration::from_secs(20), more.read(&mut [0; 1])).await;
        assert!(matches!(closed, Ok(Ok(0) | Err(_))), "one more waits");
    }
}
