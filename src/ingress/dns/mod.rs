//! Answers for the names of endpoints, with stable virtual addresses.
//!
//! An agent that asks for an endpoint's name gets an address out of `gateway.virtual_v4` or
//! `virtual_v6`; when it dials that address, [`Names::lookup`] gives the name back. Neighbours: the
//! WireGuard ingress carries the queries, `proxy` looks addresses up.
//!
//! Invariants: an address never means two names, and a name never moves, across reloads and
//! restarts; an agent learns nothing of names that its profile does not hold; no query panics.
//!
//! Other names get NXDOMAIN under `unknown_host = "deny"`, not REFUSED: on REFUSED the common stub
//! resolvers try the next server and retry for seconds, on NXDOMAIN they fail at once, and the
//! SOA lets them remember it (RFC 2308).

mod names;
#[cfg(test)]
mod tests;
mod wire;

use std::collections::HashMap;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

pub use names::{Names, NamesError};

use crate::bad_input;
use crate::identity::Identity;
use crate::identity::manifest::HOST;
use crate::policy::model::{HostPattern, Model, UnknownHost};
use wire::{Code, Query};

/// Names that one agent may make out of `*.suffix` patterns.
pub const SUFFIX_NAMES_PER_AGENT_MAX: usize = 256;
/// Milliseconds that a forwarded query may take.
const FORWARD_MS: u64 = 4_000;

/// Whether an agent's profile holds an endpoint of that name.
pub type Visible = Arc<dyn Fn(&Identity, &str) -> bool + Send + Sync>;
/// A query's bytes to the answer of another resolver; the flag asks for TCP.
pub type Resolver =
    Arc<dyn Fn(Vec<u8>, bool) -> Pin<Box<dyn Future<Output = Option<Vec<u8>>> + Send>> + Send + Sync>;

/// The names that a policy serves: an immutable snapshot.
pub struct Zone {
    exact: Vec<String>,
    suffixes: Vec<HostPattern>,
    unknown: UnknownHost,
    visible: Visible,
}

impl Zone {
    /// The zone of a policy's endpoints.
    pub fn new(model: &Model, visible: Visible) -> Self {
        let (mut exact, mut suffixes) = (Vec::new(), Vec::new());
        for claim in model.endpoints.iter().flat_map(|endpoint| &endpoint.claims) {
            match &claim.host {
                HostPattern::Name(name) => exact.push(name.clone()),
                HostPattern::Suffix(_) => suffixes.push(claim.host.clone()),
                HostPattern::Net(_) => {}
            }
        }
        exact.sort_unstable();
        exact.dedup();
        Zone {
            exact,
            suffixes,
            unknown: model.defaults.unknown_host,
            visible,
        }
    }

    fn holds_exactly(&self, name: &str) -> bool {
        self.exact.binary_search_by(|own| own.as_str().cmp(name)).is_ok()
    }

    /// Whether a visible name lies below this one, which then exists without data (RFC 8020).
    fn is_above(&self, identity: &Identity, name: &str) -> bool {
        let below = |own: &str| own.strip_suffix(name).is_some_and(|front| front.ends_with('.'));
        self.exact
            .iter()
            .any(|own| below(own) && (self.visible)(identity, own))
    }
}

/// Answers queries.
pub struct Answerer {
    names: Arc<Names>,
    zone: ArcSwap<Zone>,
    resolver: Resolver,
    /// How many names each agent, by whatever name it goes, has made out of suffixes.
    made: Mutex<HashMap<String, usize>>,
}

impl Answerer {
    /// Gives every exact name of the zone its address, and the gateway its own, and starts to answer.
    pub fn new(names: Arc<Names>, zone: Zone, resolver: Resolver) -> Result<Self, NamesError> {
        for name in &zone.exact {
            names.assign(name)?;
        }
        if let Err(error) = names.assign(HOST) {
            tracing::warn!(%error, "agents cannot ask {HOST} what they reach");
        }
        Ok(Answerer {
            names,
            zone: ArcSwap::from_pointee(zone),
            resolver,
            made: Mutex::new(HashMap::new()),
        })
    }

    /// Takes over another policy's zone. Names keep their addresses.
    pub fn swap(&self, zone: Zone) -> Result<(), NamesError> {
        for name in &zone.exact {
            self.names.assign(name)?;
        }
        self.zone.store(Arc::new(zone));
        Ok(())
    }

    /// This answerer as the WireGuard ingress wants it.
    pub fn handler(self: Arc<Self>) -> super::wireguard::DnsAnswer {
        Arc::new(move |identity, query, tcp| {
            let answerer = Arc::clone(&self);
            Box::pin(async move { answerer.answer(&identity, query, tcp).await })
        })
    }

    /// The answer to one message; `None` where none is due (RFC 1035: not a query at all).
    pub async fn answer(&self, identity: &Identity, message: Vec<u8>, tcp: bool) -> Option<Vec<u8>> {
        let query = match wire::parse(&message) {
            Ok(query) => query,
            Err(reply) => return malformed(reply),
        };
        match self.judge(identity, &query) {
            Answer::Reply(bytes) => Some(bytes),
            Answer::Forward => match (self.resolver)(message.clone(), tcp).await {
                Some(bytes) => Some(query.fit(bytes, tcp)),
                None => Some(query.reply(Code::ServerFailure, None)),
            },
        }
    }

    fn judge(&self, identity: &Identity, query: &Query) -> Answer {
        if !query.internet_class {
            return Answer::Reply(query.reply(Code::Refused, None));
        }
        let zone = self.zone.load();
        let name = query.name.as_str();
        // The gateway itself is there for everybody.
        let is_own = name == HOST;
        let exact = is_own || zone.holds_exactly(name);
        let claimed = exact || zone.suffixes.iter().any(|suffix| suffix.matches_name(name));
        if !claimed {
            if zone.is_above(identity, name) {
                return Answer::Reply(query.reply(Code::NoError, None));
            }
            return match zone.unknown {
                UnknownHost::Passthrough => Answer::Forward,
                UnknownHost::Deny => Answer::Reply(query.reply(Code::NoSuchName, None)),
            };
        }
        // To an agent without it, the name does not exist.
        if !is_own && !(zone.visible)(identity, name) {
            return Answer::Reply(query.reply(Code::NoSuchName, None));
        }
        if !query.wants_address() {
            return Answer::Reply(query.reply(Code::NoError, None));
        }
        let index = match self.names.index(name) {
            Some(index) => Some(index),
            None if exact => self.names.assign(name).ok(),
            None if self.may_make(identity) => self.names.assign_made(name).ok(),
            None => None,
        };
        let address = index.and_then(|index| self.names.address(index, query.wants_v4()));
        Answer::Reply(match address {
            Some(address) => query.reply(Code::NoError, Some(address)),
            None => query.reply(Code::Refused, None),
        })
    }

    fn may_make(&self, identity: &Identity) -> bool {
        let Ok(mut made) = self.made.lock() else {
            return false;
        };
        let count = made.entry(identity.agent_key()).or_default();
        let room = *count < SUFFIX_NAMES_PER_AGENT_MAX;
        *count += usize::from(room);
        room
    }
}

/// The answer to a message of somebody who is to learn nothing; `None` where none is due.
pub fn refused(message: &[u8]) -> Option<Vec<u8>> {
    match wire::parse(message) {
        Ok(query) => Some(query.reply(Code::Refused, None)),
        Err(reply) => malformed(reply),
    }
}

/// Counts a message that is no query that can be answered, and passes on what is due to it.
fn malformed(reply: Option<Vec<u8>>) -> Option<Vec<u8>> {
    bad_input::count(bad_input::Reader::Dns, &"malformed");
    reply
}

enum Answer {
    Reply(Vec<u8>),
    Forward,
}

/// A resolver that asks one server, over UDP or TCP as it was asked itself.
pub fn forward_to(server: SocketAddr) -> Resolver {
    Arc::new(move |query, tcp| {
        Box::pin(async move {
            let exchange = async {
                if tcp {
                    over_tcp(server, &query).await
                } else {
                    over_udp(server, &query).await
                }
            };
            tokio::time::timeout(Duration::from_millis(FORWARD_MS), exchange)
                .await
                .ok()?
                .ok()
        })
    })
}

async fn over_udp(server: SocketAddr, query: &[u8]) -> std::io::Result<Vec<u8>> {
    let any: std::net::IpAddr = match server {
        SocketAddr::V4(_) => std::net::Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = tokio::net::UdpSocket::bind((any, 0)).await?;
    socket.connect(server).await?;
    socket.send(query).await?;
    let mut buffer = vec![0; 1 << 16];
    loop {
        let length = socket.recv(&mut buffer).await?;
        let answer = buffer.get(..length).unwrap_or_default();
        // Another id is somebody's guess.
        if answer.len() >= 12 && answer.get(..2) == query.get(..2) {
            return Ok(answer.to_vec());
        }
        bad_input::count(bad_input::Reader::DnsServer, &"unasked");
    }
}

async fn over_tcp(server: SocketAddr, query: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut stream = tokio::net::TcpStream::connect(server).await?;
    let length = u16::try_from(query.len()).map_err(|_| std::io::ErrorKind::InvalidInput)?;
    stream.write_all(&[&length.to_be_bytes(), query].concat()).await?;
    let mut answer = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut answer).await?;
    // As over UDP; the header is all that is read of it.
    if answer.len() < 12 || answer.get(..2) != query.get(..2) {
        bad_input::count(bad_input::Reader::DnsServer, &"malformed");
        return Err(std::io::ErrorKind::InvalidData.into());
    }
    Ok(answer)
}
