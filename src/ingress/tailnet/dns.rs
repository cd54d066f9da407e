//! The names of endpoints, for a tailnet that sends their domain here (split DNS).
//!
//! Queries come to port 53 of the node's addresses; where tailscaled has no network device, it hands
//! them to the loopback's. Who asks is found out as for a connection, and is answered with the names
//! that its profile holds.
//!
//! Invariants: who is nobody, or has no profile, learns nothing (REFUSED, or a closed connection);
//! no peer takes the places of others; a port that cannot be had takes nothing else away.

use std::collections::BTreeSet;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{Semaphore, watch};
use tokio::task::AbortHandle;

use super::directory::Directory;
use super::localapi::{Protocol, Status};
use super::redirect::Device;
use super::sockets::{RETRY, Sockets, bind};
use crate::bad_input;
use crate::identity::Identity;
use crate::identity::budget::Budget;
use crate::ingress::dns::{Answerer, refused};

/// Queries that are being answered. Those beyond it are dropped; a resolver asks again.
pub const QUERIES_MAX: usize = 256;
/// Of them, one peer's: a resolver that is asked for other names may take its time.
pub const QUERIES_PER_PEER_MAX: usize = 32;
/// Connections for queries.
pub const CONNECTIONS_MAX: usize = 64;
/// Of them, one peer's.
pub const CONNECTIONS_PER_PEER_MAX: usize = 8;
/// How long a connection for queries may last.
pub const CONNECTION_LASTS: Duration = Duration::from_secs(10);
/// Bytes of a query over UDP. Longer ones are dropped: what is left of one that was cut off must not be
/// answered, nor passed on.
pub const QUERY_BYTES_MAX: usize = 4096;

/// Whether a peer has a profile.
pub type HasProfile = Arc<dyn Fn(&Identity) -> bool + Send + Sync>;

/// What answers, for all sockets.
#[derive(Clone)]
pub struct NameServer {
    directory: Arc<Directory>,
    answerer: Arc<Answerer>,
    has_profile: HasProfile,
    queries: Arc<Semaphore>,
    connections: Arc<Semaphore>,
    peers_queries: Budget,
    peers_connections: Budget,
}

type Place = (SocketAddr, Option<Device>);

impl NameServer {
    pub fn new(directory: Arc<Directory>, answerer: Arc<Answerer>, has_profile: HasProfile) -> Self {
        NameServer {
            directory,
            answerer,
            has_profile,
            queries: Arc::new(Semaphore::new(QUERIES_MAX)),
            connections: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
            peers_queries: Budget::new(QUERIES_PER_PEER_MAX),
            peers_connections: Budget::new(CONNECTIONS_PER_PEER_MAX),
        }
    }

    /// Serves `port` of the node's addresses, as they are, for as long as `status` changes.
    pub async fn run(self, port: u16, mut status: watch::Receiver<Option<Status>>) {
        let mut sockets = Sockets::default();
        loop {
            let wanted = status
                .borrow_and_update()
                .as_ref()
                .map(|status| places(status, port));
            // While tailscaled is not heard, nobody can be asked for; the sockets stay as they are.
            if let Some(wanted) = wanted {
                sockets.keep(
                    wanted,
                    |place| self.serve(place),
                    |(address, _), error, is_new| {
                        if is_new {
                            tracing::error!(%address, %error, hint = hint(error), "names are not answered here");
                        }
                    },
                );
            }
            tokio::select! {
                changed = status.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(RETRY), if !sockets.is_whole() => {}
            }
        }
    }

    fn serve(&self, (address, device): &Place) -> io::Result<Vec<AbortHandle>> {
        let udp = socket2::Socket::new(
            socket2::Domain::for_address(*address),
            socket2::Type::DGRAM.nonblocking(),
            None,
        )?;
        if let Some(device) = device {
            udp.bind_device(Some(device.name.as_bytes()))?;
        }
        udp.bind(&(*address).into())?;
        let tcp = bind(*address, device.as_ref())?;
        let udp = Arc::new(UdpSocket::from_std(udp.into())?);
        tracing::info!(%address, "names are answered");
        Ok(vec![
            tokio::spawn(self.clone().datagrams(udp)).abort_handle(),
            tokio::spawn(self.clone().streams(tcp)).abort_handle(),
        ])
    }

    async fn datagrams(self, socket: Arc<UdpSocket>) {
        let mut bytes = vec![0; QUERY_BYTES_MAX + 1];
        loop {
            let (length, source) = match socket.recv_from(&mut bytes).await {
                Ok(received) => received,
                Err(error) => {
                    // Most likely that of an answer whose asker had gone.
                    tracing::debug!(%error, "a query could not be received");
                    tokio::task::yield_now().await;
                    continue;
                }
            };
            if length > QUERY_BYTES_MAX {
                bad_input::count(bad_input::Reader::Dns, &"long");
                continue;
            }
            let Ok(place) = Arc::clone(&self.queries).try_acquire_owned() else {
                continue;
            };
            let query = bytes.get(..length).unwrap_or_default().to_vec();
            let (own, socket) = (self.clone(), socket.clone());
            tokio::spawn(async move {
                if let Some(answer) = own.answer(source, Protocol::Udp, query).await {
                    let _ = socket.send_to(&answer, source).await;
                }
                drop(place);
            });
        }
    }

    async fn streams(self, listener: TcpListener) {
        loop {
            let (stream, source) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "a connection for queries could not be taken");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let Ok(place) = Arc::clone(&self.connections).try_acquire_owned() else {
                continue;
            };
            let own = self.clone();
            tokio::spawn(async move {
                let _ = tokio::time::timeout(CONNECTION_LASTS, own.stream(stream, source)).await;
                drop(place);
            });
        }
    }

    async fn stream(&self, mut stream: TcpStream, source: SocketAddr) -> io::Result<()> {
        // Before its first query: a place is not for whoever has nothing to ask.
        let known = match self.directory.who(source, Protocol::Tcp).await {
            Ok(known) => known,
            Err(error) => {
                tracing::debug!(%source, %error, "a connection for queries is closed: nobody vouches for it");
                return Ok(());
            }
        };
        let Some(_place) = self.peers_connections.take(&known.identity, 1) else {
            tracing::debug!(
                node = known.identity.node,
                "a connection for queries is closed: it has many"
            );
            return Ok(());
        };
        loop {
            let mut query = vec![0; usize::from(stream.read_u16().await?)];
            stream.read_exact(&mut query).await?;
            let Some(answer) = self.answer(source, Protocol::Tcp, query).await else {
                return Ok(());
            };
            let length = u16::try_from(answer.len()).map_err(|_| io::ErrorKind::InvalidData)?;
            stream
                .write_all(&[&length.to_be_bytes(), &answer[..]].concat())
                .await?;
        }
    }

    async fn answer(&self, source: SocketAddr, protocol: Protocol, query: Vec<u8>) -> Option<Vec<u8>> {
        match self.directory.who(source, protocol).await {
            Ok(known) if (self.has_profile)(&known.identity) => {
                let Some(_place) = self.peers_queries.take(&known.identity, 1) else {
                    tracing::debug!(
                        node = known.identity.node,
                        "a query is dropped: many are being answered"
                    );
                    return None;
                };
                self.answerer
                    .answer(&known.identity, query, protocol == Protocol::Tcp)
                    .await
            }
            Ok(known) => {
                tracing::debug!(
                    node = known.identity.node,
                    "a query of a peer without a profile is refused"
                );
                refused(&query)
            }
            Err(error) => {
                tracing::debug!(%source, %error, "a query is refused: nobody vouches for it");
                refused(&query)
            }
        }
    }
}

fn places(status: &Status, port: u16) -> BTreeSet<Place> {
    if !status.has_device {
        return BTreeSet::from([(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port), None)]);
    }
    let own = status.addresses.iter().flatten().copied();
    own.filter_map(|ip| Some((SocketAddr::new(ip, port), Some(Device::of(ip)?))))
        .collect()
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => {
            "ports below 1024 need CAP_NET_BIND_SERVICE; agents can be given the virtual addresses otherwise"
        }
        io::ErrorKind::AddrInUse => "another resolver has the port on every address, or here",
        _ => "",
    }
}
