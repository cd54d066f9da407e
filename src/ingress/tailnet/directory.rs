//! Who is behind each connection, asked of tailscaled while the connection is open.
//!
//! With a network device, a connection's source is the node's own address, which the tunnel proved:
//! an answer is kept for the node for a moment ([`Memory`]), and the question goes without a port,
//! so that tailscaled answers at once whatever it is. Without one, tailscaled dials from ports of
//! this machine, and knows for which node only while that connection is open: each is asked for.
//!
//! Invariants: an answer is for this connection, never for another that had its port; what cannot
//! be a connection of tailscaled's is not asked for; questions in vain slow questions down, and
//! deny nobody.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use chrono::Utc;
use tokio::sync::{Mutex as Turn, Semaphore, watch};

use super::hearing::Hearing;
use super::localapi::{LocalApi, LocalApiError, Protocol, Status, WhoIs};
use super::memory::{Memory, Recalled};
use super::miss::{MISS_PAUSE, Misses};
use super::port::{Port, Ports};
use super::whois::{self, Known, Nobody};
use crate::identity::Live;
use crate::policy::TAILNET_RANGES;
use crate::sys::TcpState;

/// Questions to tailscaled at once. It answers one after the other anyway.
pub const ASKED_AT_ONCE_MAX: usize = 8;

/// How long an open connection outlives a tailscaled that does not say who it is after a change.
pub const DOUBT: Duration = Duration::from_secs(10);
/// How long until it is asked again meanwhile.
const ASKED_AGAIN: Duration = Duration::from_millis(250);

/// Whose socket the other end of a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// The peer's, or tailscaled's for it where that has no network device.
    Peer,
    /// tailscaled's for a peer, whether or not it has one.
    Daemon,
}

/// Why somebody is nobody to us.
#[derive(Debug, thiserror::Error)]
pub enum Stranger {
    #[error("{0} is no address that a peer of the tailnet can come from")]
    Elsewhere(IpAddr),
    #[error("{0} is this machine")]
    Own(IpAddr),
    #[error("no peer of the tailnet is behind {0}")]
    NoPeer(SocketAddr),
    #[error("tailscaled says of {0} who another node is")]
    Other(IpAddr),
    #[error("it has gone before it was asked for")]
    Gone,
    #[error("another connection has the same port, {0}")]
    SamePort(SocketAddr),
    #[error(transparent)]
    LocalApi(#[from] LocalApiError),
    #[error(transparent)]
    Nobody(#[from] Nobody),
}

/// What is known of our own node now.
#[derive(Clone, Debug, Default)]
struct Own {
    /// The MagicDNS suffix, without dots at its ends.
    suffix: String,
    /// Whether peers' own addresses are seen; else tailscaled dials from this machine.
    has_device: bool,
    stable_id: String,
    addresses: Vec<IpAddr>,
}

impl From<&Status> for Own {
    fn from(status: &Status) -> Self {
        let own = status.own.as_ref();
        let name = own.map(|own| own.name.trim_matches('.')).unwrap_or_default();
        let suffix = name.split_once('.').map_or("", |(_, suffix)| suffix);
        Own {
            suffix: suffix.to_owned(),
            has_device: status.has_device,
            stable_id: own.map(|own| own.stable_id.clone()).unwrap_or_default(),
            addresses: status.addresses.clone().unwrap_or_default(),
        }
    }
}

/// Asks who connects. Shared by all connections.
#[derive(Debug)]
pub struct Directory {
    api: LocalApi,
    /// Nothing is kept while changes are not heard.
    hearing: Hearing,
    own: RwLock<Own>,
    memory: Mutex<Memory>,
    /// How often the tailnet changed.
    changes: watch::Sender<u64>,
    /// How often a peer with an open connection became known as something else.
    told: watch::Sender<u64>,
    places: Semaphore,
    /// Whose turn it is to be asked for by port.
    turn: Arc<Turn<()>>,
    misses: Misses,
    ports: Arc<Ports>,
}

/// What is asked for.
#[derive(Clone, Copy)]
struct Asked {
    source: SocketAddr,
    /// The address of our own socket.
    local: IpAddr,
    by: By,
    protocol: Protocol,
}

/// The peer of an open connection; to be held for as long as that is open.
#[derive(Debug)]
pub struct Met {
    known: Known,
    live: Live,
    changes: watch::Receiver<u64>,
    /// Other connections from the same port are not taken meanwhile.
    _port: Option<Port>,
}

impl Met {
    /// Who it is, as later answers have it.
    pub fn live(&self) -> Live {
        self.live.clone()
    }
}

impl Directory {
    pub fn new(api: LocalApi) -> Arc<Self> {
        Directory::with(api, Hearing::default())
    }

    pub(super) fn with(api: LocalApi, hearing: Hearing) -> Arc<Self> {
        Arc::new(Directory {
            api,
            hearing,
            own: RwLock::default(),
            memory: Mutex::default(),
            changes: watch::Sender::new(0),
            told: watch::Sender::new(0),
            places: Semaphore::new(ASKED_AT_ONCE_MAX),
            turn: Arc::default(),
            misses: Misses::default(),
            ports: Arc::default(),
        })
    }

    /// Takes note of a change: every open connection is asked for anew.
    pub fn changed(&self, status: &Status) {
        *self.own.write().unwrap_or_else(PoisonError::into_inner) = Own::from(status);
        self.memory().forget();
        self.hearing.set(true);
        self.changes.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// Something changes: no answer from before counts for a new connection. Cheap;
    /// [`Directory::changed`] is to follow soon.
    pub fn changing(&self) {
        self.memory().forget();
    }

    /// Changes are not heard any more: nothing is kept until they are.
    pub fn lost(&self) {
        self.hearing.set(false);
        self.memory().forget();
    }

    /// Who sent a datagram, or is behind a connection that ends by itself soon.
    ///
    /// # Errors
    /// Nobody that may be let in; see [`Stranger`].
    pub async fn who(&self, source: SocketAddr, protocol: Protocol) -> Result<Known, Stranger> {
        let asked = Asked {
            source,
            local: source.ip(),
            by: By::Peer,
            protocol,
        };
        self.ask(asked, &|| TcpState::Alive).await
    }

    /// Who is behind an open connection to our socket at `local`. `state` says whether it still is open.
    ///
    /// # Errors
    /// Nobody that may be let in; see [`Stranger`].
    pub async fn meet(
        &self,
        (source, local): (SocketAddr, IpAddr),
        by: By,
        state: &(dyn Fn() -> TcpState + Sync),
    ) -> Result<Met, Stranger> {
        // From before the question, so that a change during it is not missed.
        let changes = self.changes.subscribe();
        let port = match self.own().has_device && by == By::Peer {
            true => None,
            false => Some(
                Ports::take(&self.ports, source)
                    .await
                    .ok_or(Stranger::SamePort(source))?,
            ),
        };
        let asked = Asked {
            source,
            local,
            by,
            protocol: Protocol::Tcp,
        };
        let known = self.ask(asked, state).await?;
        Ok(Met {
            live: Live::from(known.identity.clone()),
            known,
            changes,
            _port: port,
        })
    }

    /// Ends when the node of an open connection has left the tailnet, or tailscaled has not said
    /// for [`DOUBT`] after a change, or is not heard for long ([`Hearing::lost`]). What else changes, an expired grant included, is told to
    /// [`Met::live`] and [`Directory::told`].
    pub async fn until_gone(&self, mut met: Met) {
        loop {
            tokio::select! {
                changed = met.changes.changed() => if changed.is_err() { return },
                () = expired(&met.known) => {}
                () = self.hearing.lost() => return,
            }
            let began = Instant::now();
            loop {
                match self.again(&met.known).await {
                    Ok(known) => {
                        if met.live.set(known.identity.clone()) {
                            self.told.send_modify(|count| *count = count.wrapping_add(1));
                        }
                        met.known = known;
                        break;
                    }
                    Err(Stranger::LocalApi(_)) if began.elapsed() < DOUBT => {
                        tokio::time::sleep(ASKED_AGAIN).await;
                    }
                    Err(_) => return,
                }
            }
        }
    }

    /// Changes when a peer with an open connection became known as something else.
    pub fn told(&self) -> watch::Receiver<u64> {
        self.told.subscribe()
    }

    /// Every node that was asked for lately, as it was known then, by name.
    pub fn nodes(&self) -> Vec<Known> {
        let mut nodes: Vec<Known> = self.memory().nodes().cloned().collect();
        nodes.sort_by(|one, two| one.identity.node.cmp(&two.identity.node));
        nodes
    }

    async fn ask(&self, asked: Asked, state: &(dyn Fn() -> TcpState + Sync)) -> Result<Known, Stranger> {
        let own = self.own();
        let (source, local) = (asked.source, asked.local.to_canonical());
        let source = SocketAddr::new(source.ip().to_canonical(), source.port());
        let ip = source.ip();
        if own.addresses.contains(&ip) {
            return Err(Stranger::Own(ip));
        }
        let may_be_peer = TAILNET_RANGES.iter().any(|range| range.contains(&ip));
        let known = match (asked.by, own.has_device) {
            (By::Peer, true) if may_be_peer => self.by_address(ip, asked.protocol).await?,
            // A peer's address on this machine is somebody's who borrows it: tailscaled would say
            // whose it is, and not who came.
            _ if may_be_peer => return Err(Stranger::Elsewhere(ip)),
            // To an address that is local by a route alone, the kernel dials from that one itself.
            (By::Peer, false) if !(ip.is_loopback() || ip == local) => return Err(Stranger::Elsewhere(ip)),
            (By::Peer, true) => return Err(Stranger::Elsewhere(ip)),
            (By::Peer, false) | (By::Daemon, _) => self.by_port(source, asked.protocol, state).await?,
        };
        match known.stable_id == own.stable_id {
            true => Err(Stranger::Own(ip)),
            false => Ok(known),
        }
    }

    /// The node that has an address, whether or not it connects.
    ///
    /// # Errors
    /// Nobody that may be let in; see [`Stranger`].
    pub async fn by_address(&self, ip: IpAddr, protocol: Protocol) -> Result<Known, Stranger> {
        let nobody = Stranger::NoPeer(SocketAddr::new(ip, 0));
        let recall = || match self.hearing.is_heard() {
            true => self.memory().recall(ip, Instant::now()),
            false => Recalled::Nothing,
        };
        let still = |known: &Known| known.expires.is_none_or(|at| at > Utc::now());
        // Looked for again once there is a place: who held it may have asked for the same node.
        let mut place = None;
        loop {
            match recall() {
                Recalled::Node(known) if still(&known) => return Ok(known),
                Recalled::Nobody => return Err(nobody),
                _ if place.is_some() => break,
                // Never closed.
                _ => place = Some(self.places.acquire().await),
            }
        }
        let age = self.memory().age();
        let Some(found) = self.api.who_is(SocketAddr::new(ip, 0), protocol).await? else {
            self.memory().keep_nobody(ip, Instant::now(), age);
            return Err(nobody);
        };
        let known = self.read(&found, age)?;
        match known.addresses.contains(&ip) {
            true => Ok(known),
            false => Err(Stranger::Other(ip)),
        }
    }

    /// The node that tailscaled dials for from a port of this machine.
    async fn by_port(
        &self,
        source: SocketAddr,
        protocol: Protocol,
        state: &(dyn Fn() -> TcpState + Sync),
    ) -> Result<Known, Stranger> {
        let wait = self.misses.wait(Instant::now());
        if let Some(wait) = wait {
            tokio::time::sleep(wait).await;
        }
        let turn = self.turn.clone().lock_owned().await;
        match state() {
            TcpState::Alive => {}
            // Most likely closed, not half-closed; in doubt while nobody does harm.
            TcpState::Ending if wait.is_none() => {}
            TcpState::Ending | TcpState::Closed => return Err(Stranger::Gone),
        }
        let age = self.memory().age();
        let Some(found) = self.api.who_is(source, protocol).await? else {
            self.misses.count();
            tokio::spawn(async move {
                tokio::time::sleep(MISS_PAUSE).await;
                drop(turn);
            });
            return Err(Stranger::NoPeer(source));
        };
        drop(turn);
        self.read(&found, age)
    }

    /// What is known now of a node that has an open connection. It is asked for by its address,
    /// which tailscaled answers at once, with a device or without.
    async fn again(&self, before: &Known) -> Result<Known, Stranger> {
        let ip = before.identity.address;
        let known = self.by_address(ip, Protocol::Tcp).await?;
        match known.stable_id == before.stable_id {
            true => Ok(known),
            false => Err(Stranger::Other(ip)),
        }
    }

    fn read(&self, found: &WhoIs, age: u64) -> Result<Known, Stranger> {
        let known = whois::read(found, &self.own().suffix, Utc::now())?;
        if self.memory().keep(&known, Instant::now(), age) {
            let (node, strange) = (&known.identity.node, &known.strange);
            tracing::warn!(
                node,
                ?strange,
                "a grant of the tailnet's policy is not understood"
            );
        }
        Ok(known)
    }

    fn own(&self) -> Own {
        self.own.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn expired(known: &Known) {
    match known.expires {
        None => std::future::pending().await,
        // A grant that has expired is not among those of the next answer.
        Some(at) => tokio::time::sleep((at - Utc::now()).to_std().unwrap_or_default()).await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn so_many_questions_are_put_to_tailscaled_at_once() {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("s");
        let listener = tokio::net::UnixListener::bind(&socket).unwrap();
        let directory = Directory::new(LocalApi::new(&socket).unwrap());
        directory.own.write().unwrap().has_device = true;
        let asking: Vec<_> = (1..=2 * ASKED_AT_ONCE_MAX as u8)
            .map(|last| {
                let directory = directory.clone();
                let who = async move { directory.who(([100, 64, 0, last], 1).into(), Protocol::Udp).await };
                tokio::spawn(who)
            })
            .collect();
        // Each question is a connection of its own while none is answered.
        let mut asked = Vec::new();
        let more = tokio::time::timeout(super::super::localapi::ANSWER_WAIT / 4, async {
            while asked.len() <= ASKED_AT_ONCE_MAX {
                asked.push(listener.accept().await.unwrap());
            }
        });
        assert!(more.await.is_err(), "all ask at once");
        assert_eq!(asked.len(), ASKED_AT_ONCE_MAX);
        asking.iter().for_each(tokio::task::JoinHandle::abort);
    }
}
