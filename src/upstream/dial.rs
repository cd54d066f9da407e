//! Opens TCP to an upstream, with a permit.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::net::{TcpStream, UdpSocket, lookup_host};
use tokio::time::{sleep, timeout};

use super::closed::Closed;
use super::dns;
use crate::policy::{Endpoint, HostPattern};
use crate::verdict::Permit;

/// How long the next address of a name waits for the one before it (RFC 8305 §8).
pub const STAGGER: Duration = Duration::from_millis(250);

/// Addresses of a name that are tried.
pub const ADDRESSES_MAX: usize = 8;

/// How long an address counts as an endpoint's after it was last dialled as one.
pub const DIALLED_FOR: Duration = Duration::from_secs(600);

/// Addresses that are remembered as an endpoint's; at the limit the oldest goes.
pub const DIALLED_MAX: usize = 4096;

/// TCP to an upstream could not be opened. Nothing of it is for the agent's eyes.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    #[error("the permit is for {0}")]
    NotPermitted(String),
    #[error("{address} is closed: {reason}")]
    Closed {
        address: SocketAddr,
        reason: &'static str,
    },
    #[error("{host} cannot be resolved: {reason}")]
    Unresolved { host: String, reason: String },
    #[error("no connection within {0:?}")]
    Late(Duration),
    #[error("{0}")]
    Refused(#[from] io::Error),
}

/// Where to dial.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    /// A name, or an address as text.
    pub host: String,
    pub port: u16,
    /// Whether what [`Closed`] lists is refused: the name stands in no claim itself, a wildcard
    /// or a network covers it, so that its address is not the operator's choice.
    pub guarded: bool,
}

impl Target {
    /// Where a destination of an endpoint leads: its `upstream`, or the destination itself.
    /// `host` is the claimed name, or the dialled address as text.
    pub fn of(endpoint: &Endpoint, host: &str, port: u16) -> Self {
        match &endpoint.upstream {
            Some(upstream) => Target {
                host: upstream.host.clone(),
                port: upstream.port,
                guarded: false,
            },
            None => Target {
                host: host.to_owned(),
                port,
                guarded: !endpoint
                    .claims
                    .iter()
                    .any(|claim| claim.port == port && names(&claim.host, host)),
            },
        }
    }
}

/// Whether a claim is of this host alone.
fn names(claim: &HostPattern, host: &str) -> bool {
    match claim {
        HostPattern::Name(name) => name == host,
        HostPattern::Net(net) => net.prefix_len() == net.max_prefix_len() && host.parse() == Ok(net.addr()),
        HostPattern::Suffix(_) => false,
    }
}

/// The only opener of connections to upstreams.
#[derive(Debug)]
pub struct Dialer {
    resolver: Option<SocketAddr>,
    closed: Closed,
    connect: Duration,
    /// Where endpoints were found to be. Of a wildcard's names nobody knows more.
    dialled: Mutex<HashMap<SocketAddr, Instant>>,
}

impl Dialer {
    /// `resolver` is `gateway.resolver`, `connect_ms` the limit of that name.
    pub fn new(resolver: Option<SocketAddr>, closed: Closed, connect_ms: u64) -> Self {
        Dialer {
            resolver,
            closed,
            connect: Duration::from_millis(connect_ms),
            dialled: Mutex::default(),
        }
    }

    /// Whether an endpoint was dialled at an address, canonical, within [`DIALLED_FOR`].
    pub fn has_dialled(&self, address: SocketAddr) -> bool {
        let at = self.dialled().get(&address).copied();
        at.is_some_and(|at| at.elapsed() < DIALLED_FOR)
    }

    fn dialled(&self) -> MutexGuard<'_, HashMap<SocketAddr, Instant>> {
        self.dialled.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn remember(&self, addresses: &[SocketAddr]) {
        let mut dialled = self.dialled();
        for address in addresses {
            let address = SocketAddr::new(address.ip().to_canonical(), address.port());
            if dialled.len() >= DIALLED_MAX && !dialled.contains_key(&address) {
                let oldest = dialled
                    .iter()
                    .min_by_key(|(_, at)| **at)
                    .map(|(address, _)| *address);
                oldest.map(|oldest| dialled.remove(&oldest));
            }
            dialled.insert(address, Instant::now());
        }
    }

    /// How long a connect, with the TLS handshake that follows it, may take.
    pub fn connect_limit(&self) -> Duration {
        self.connect
    }

    /// Opens TCP to a target of `endpoint`, which the permit must be for. The addresses of a name
    /// are tried in turn, [`STAGGER`] apart; the first that answers wins.
    ///
    /// # Errors
    /// See [`DialError`].
    pub async fn dial(
        &self,
        permit: &Permit,
        endpoint: &Endpoint,
        target: &Target,
    ) -> Result<TcpStream, DialError> {
        if *permit.endpoint() != endpoint.key {
            return Err(DialError::NotPermitted(permit.endpoint().to_string()));
        }
        self.in_time(async {
            let found = self.resolve(&target.host, target.port).await?;
            self.remember(&found);
            let mut open = Vec::with_capacity(found.len());
            let mut shut = None;
            for address in found {
                let checked = match target.guarded {
                    true => self.check(address).await,
                    // Whoever wrote an address meant it.
                    false if target.host.parse::<IpAddr>().is_ok() => Ok(()),
                    false => self.check_named(address).await,
                };
                match checked {
                    Ok(()) => open.push(address),
                    Err(error) => shut = Some(error),
                }
            }
            match shut {
                // Every address must be open: one that is not is a name that someone bends.
                Some(error) => Err(error),
                None => first_of(open).await,
            }
        })
        .await
    }

    /// Opens TCP to an address that no endpoint claims. Closed addresses, and those of this
    /// machine, are refused.
    ///
    /// # Errors
    /// See [`DialError`].
    pub async fn pass(&self, _permit: &Permit, address: SocketAddr) -> Result<TcpStream, DialError> {
        self.check(address).await?;
        self.in_time(first_of(vec![address])).await
    }

    /// Refuses what [`Closed`] lists, and every address of this machine.
    async fn check(&self, address: SocketAddr) -> Result<(), DialError> {
        let reason = match self.closed.reason(address) {
            Some(reason) => reason,
            None if is_own(address.ip()).await => "an address of the gateway's machine",
            None => return Ok(()),
        };
        Err(DialError::Closed { address, reason })
    }

    /// Refuses where not even a name of the operator's leads; see [`Closed::bent`].
    async fn check_named(&self, address: SocketAddr) -> Result<(), DialError> {
        match self.closed.bent(address, is_own(address.ip()).await) {
            Some(reason) => Err(DialError::Closed { address, reason }),
            None => Ok(()),
        }
    }

    /// Every address of a host, canonical, as [`Dialer::dial`] would find them and without its limit
    /// on their number.
    ///
    /// # Errors
    /// Not all could be asked for.
    pub async fn addresses(&self, host: &str) -> Result<Vec<IpAddr>, DialError> {
        if let Ok(address) = host.parse::<IpAddr>() {
            return Ok(vec![address.to_canonical()]);
        }
        let unresolved = |reason: String| DialError::Unresolved {
            host: host.to_owned(),
            reason,
        };
        self.in_time(async {
            let found: Vec<IpAddr> = match self.resolver {
                Some(server) => dns::resolve_all(server, host)
                    .await
                    .map_err(|error| unresolved(error.to_string()))?,
                None => lookup_host((host, 0))
                    .await
                    .map_err(|error| unresolved(error.to_string()))?
                    .map(|address| address.ip())
                    .collect(),
            };
            Ok(found.iter().map(IpAddr::to_canonical).collect())
        })
        .await
    }

    async fn resolve(&self, host: &str, port: u16) -> Result<Vec<SocketAddr>, DialError> {
        if let Ok(address) = host.parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(address, port)]);
        }
        let unresolved = |reason: String| DialError::Unresolved {
            host: host.to_owned(),
            reason,
        };
        let found: Vec<SocketAddr> = match self.resolver {
            Some(server) => dns::resolve(server, host)
                .await
                .map_err(|error| unresolved(error.to_string()))?
                .into_iter()
                .map(|address| SocketAddr::new(address, port))
                .collect(),
            None => lookup_host((host, port))
                .await
                .map_err(|error| unresolved(error.to_string()))?
                .collect(),
        };
        if found.is_empty() {
            return Err(unresolved("it has no address".to_owned()));
        }
        Ok(in_turns(found))
    }

    async fn in_time<T>(&self, dial: impl Future<Output = Result<T, DialError>>) -> Result<T, DialError> {
        match timeout(self.connect, dial).await {
            Ok(result) => result,
            Err(_) => Err(DialError::Late(self.connect)),
        }
    }
}

/// The families in turns, beginning with that of the first address (RFC 8305 §4).
fn in_turns(found: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let first_v6 = found.first().is_some_and(SocketAddr::is_ipv6);
    let (mut ones, mut others): (Vec<_>, Vec<_>) = found
        .into_iter()
        .partition(|address| address.is_ipv6() == first_v6);
    ones.dedup();
    others.dedup();
    let mut others = others.into_iter();
    let mut turns = Vec::new();
    for one in ones {
        turns.push(one);
        turns.extend(others.next());
    }
    turns.extend(others);
    turns.truncate(ADDRESSES_MAX);
    turns
}

async fn first_of(addresses: Vec<SocketAddr>) -> Result<TcpStream, DialError> {
    let mut waiting = addresses.into_iter();
    let mut racing = FuturesUnordered::new();
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    loop {
        match waiting.next() {
            Some(address) => racing.push(TcpStream::connect(address)),
            None if racing.is_empty() => return Err(last.into()),
            None => {}
        }
        let more = waiting.len() > 0;
        tokio::select! {
            Some(result) = racing.next() => match result {
                Ok(stream) => {
                    // Small writes of one protocol message must not wait for the last one's ACK.
                    stream.set_nodelay(true)?;
                    return Ok(stream);
                }
                Err(error) => last = error,
            },
            () = sleep(STAGGER), if more => {}
        }
    }
}

/// Whether an address is this machine's: the kernel binds no other.
async fn is_own(address: IpAddr) -> bool {
    UdpSocket::bind(SocketAddr::new(address, 0)).await.is_ok()
}

#[cfg(test)]
mod tests;
