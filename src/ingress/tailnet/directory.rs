//! Who is behind each connection, asked of tailscaled while the connection is open.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use chrono::Utc;
use tokio::sync::{Semaphore, watch};

use super::localapi::{LocalApi, LocalApiError, Protocol};
use super::whois::{self, Known, Nobody};

/// Questions to tailscaled at once. It answers one after the other anyway.
pub const ASKED_AT_ONCE_MAX: usize = 8;

/// Addresses that turned out to be nobody's, in [`MISSES_WINDOW`]: each costs tailscaled 200 ms in
/// which it answers nobody else. Beyond them everybody is denied until the window is over.
pub const MISSES_MAX: u32 = 16;
/// See [`MISSES_MAX`].
pub const MISSES_WINDOW: Duration = Duration::from_secs(10);

/// How long an open connection outlives a tailscaled that does not say who it is after a change.
pub const DOUBT: Duration = Duration::from_secs(10);
/// How long until it is asked again meanwhile.
const ASKED_AGAIN: Duration = Duration::from_millis(250);

/// Why somebody is nobody to us.
#[derive(Debug, thiserror::Error)]
pub enum Stranger {
    #[error("{0} is no address that a peer of the tailnet can have")]
    Elsewhere(IpAddr),
    #[error("no peer of the tailnet is behind {0}")]
    NoPeer(SocketAddr),
    #[error("too many addresses were nobody's")]
    Misses,
    #[error(transparent)]
    LocalApi(#[from] LocalApiError),
    #[error(transparent)]
    Nobody(#[from] Nobody),
}

/// What is known of the tailnet now.
#[derive(Clone, Debug, Default)]
pub struct Own {
    /// The MagicDNS suffix, without dots at its ends.
    pub suffix: String,
    /// Whether peers' own addresses are seen; else tailscaled dials from this machine.
    pub has_device: bool,
}

/// Asks who connects. Shared by all connections.
#[derive(Debug)]
pub struct Directory {
    api: LocalApi,
    own: RwLock<Own>,
    /// How often the tailnet changed.
    changes: watch::Sender<u64>,
    places: Semaphore,
    misses: Mutex<(Instant, u32)>,
}

impl Directory {
    pub fn new(api: LocalApi) -> Arc<Self> {
        Arc::new(Directory {
            api,
            own: RwLock::default(),
            changes: watch::Sender::new(0),
            places: Semaphore::new(ASKED_AT_ONCE_MAX),
            misses: Mutex::new((Instant::now(), 0)),
        })
    }

    /// Takes note of a change: every open connection is asked for anew.
    pub fn changed(&self, own: Own) {
        *self.own.write().unwrap_or_else(PoisonError::into_inner) = own;
        self.changes.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// Who is behind an open connection, or who sent a datagram.
    ///
    /// # Errors
    /// Nobody that may be let in; see [`Stranger`].
    pub async fn who(&self, source: SocketAddr, protocol: Protocol) -> Result<Known, Stranger> {
        let has_device = self.own.read().unwrap_or_else(PoisonError::into_inner).has_device;
        let source = SocketAddr::new(source.ip().to_canonical(), source.port());
        if has_device && !may_be_peer(source.ip()) {
            return Err(Stranger::Elsewhere(source.ip()));
        }
        self.who_dialled(source, protocol).await
    }

    /// As [`Directory::who`], where `source` may be a port of this machine that tailscaled dialled
    /// from for a peer, whether or not it has a network device.
    ///
    /// # Errors
    /// Nobody that may be let in; see [`Stranger`].
    pub async fn who_dialled(&self, source: SocketAddr, protocol: Protocol) -> Result<Known, Stranger> {
        let own = self.own.read().unwrap_or_else(PoisonError::into_inner).clone();
        let source = SocketAddr::new(source.ip().to_canonical(), source.port());
        self.may_miss()?;
        // Never closed.
        let place = self.places.acquire().await;
        let found = self.api.who_is(source, protocol).await?;
        drop(place);
        let Some(found) = found else {
            self.missed();
            return Err(Stranger::NoPeer(source));
        };
        let (known, strange) = whois::read(&found, &own.suffix, Utc::now())?;
        for what in strange {
            tracing::warn!(
                node = known.identity.node,
                what,
                "a grant of the tailnet's policy is not understood"
            );
        }
        Ok(known)
    }

    /// Ends when the peer of an open connection is not who it was: its node changed or left, a grant
    /// expired, or tailscaled has not said for [`DOUBT`] after a change. `changes` is
    /// [`Directory::changes`] from before the peer was asked for.
    pub async fn until_other(
        &self,
        known: Known,
        (source, protocol): (SocketAddr, Protocol),
        mut changes: watch::Receiver<u64>,
    ) {
        loop {
            tokio::select! {
                changed = changes.changed() => if changed.is_err() { return },
                () = expired(&known) => {}
            }
            let began = Instant::now();
            loop {
                match self.who_dialled(source, protocol).await {
                    Ok(now) if now == known => break,
                    Err(Stranger::LocalApi(_) | Stranger::Misses) if began.elapsed() < DOUBT => {
                        tokio::time::sleep(ASKED_AGAIN).await;
                    }
                    _ => return,
                }
            }
        }
    }

    /// Changes when the tailnet does.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    fn may_miss(&self) -> Result<(), Stranger> {
        let mut misses = self.misses.lock().unwrap_or_else(PoisonError::into_inner);
        if misses.0.elapsed() > MISSES_WINDOW {
            *misses = (Instant::now(), 0);
        }
        match misses.1 < MISSES_MAX {
            true => Ok(()),
            false => Err(Stranger::Misses),
        }
    }

    fn missed(&self) {
        let mut misses = self.misses.lock().unwrap_or_else(PoisonError::into_inner);
        misses.1 = misses.1.saturating_add(1);
    }
}

async fn expired(known: &Known) {
    match known.expires {
        None => std::future::pending().await,
        // A grant that has expired is not among those of the next answer.
        Some(at) => tokio::time::sleep((at - Utc::now()).to_std().unwrap_or_default()).await,
    }
}

/// Whether tailnets give out such addresses: 100.64.0.0/10 (RFC 6598) and fd7a:115c:a1e0::/48.
fn may_be_peer(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.octets()[0] == 100 && v4.octets()[1] & 0xc0 == 64,
        IpAddr::V6(v6) => v6.segments()[..3] == [0xfd7a, 0x115c, 0xa1e0],
    }
}
