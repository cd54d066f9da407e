//! Where idle connections wait, each under everything that shaped it. No I/O.

use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::drive::Drive;
use super::pool::{To, Version};
use crate::identity::Identity;
use crate::policy::Endpoint;
use crate::proxy::http::UpBody;

/// Idle HTTP/1.1 connections that are kept for one key.
pub const IDLE_PER_KEY_MAX: usize = 16;

/// Keys with kept connections; at the limit no other is taken in until a sweep.
pub const KEYS_MAX: usize = 4096;

/// How long an idle connection is kept. Most servers close theirs after 60 s or more.
pub const IDLE_MAX: Duration = Duration::from_secs(50);

pub(super) type Http1 = hyper::client::conn::http1::SendRequest<UpBody>;
pub(super) type Http2 = hyper::client::conn::http2::SendRequest<UpBody>;

/// What a connection is kept under: one agent, one configuration of one endpoint, one name, one
/// client certificate.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct Key {
    agent: Owner,
    endpoint: Configured,
    dial: String,
    host: String,
    port: u16,
    identity: Option<[u8; 32]>,
    version: Version,
}

/// An agent by all that tells it from others: an address that is given to another peer brings none of
/// the first one's connections.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Owner {
    agent: String,
    proof: Arc<str>,
    address: IpAddr,
}

impl Owner {
    fn of(agent: &Identity) -> Owner {
        Owner {
            agent: agent.agent_key(),
            proof: agent.proof.clone(),
            address: agent.address,
        }
    }
}

/// An endpoint as one policy configures it. Another policy's is another, even if it reads the
/// same: comparing addresses costs nothing, and what is held here cannot be freed and reused.
#[derive(Clone)]
struct Configured(Arc<Endpoint>);

impl PartialEq for Configured {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Configured {}

impl Hash for Configured {
    fn hash<H: Hasher>(&self, state: &mut H) {
        Arc::as_ptr(&self.0).hash(state);
    }
}

impl Key {
    pub(super) fn of(to: &To<'_>) -> Key {
        Key {
            agent: Owner::of(to.agent),
            endpoint: Configured(to.endpoint.clone()),
            dial: to.dial.to_owned(),
            host: to.host.to_owned(),
            port: to.port,
            identity: to.identity.map(|identity| *identity.tag()),
            version: to.version,
        }
    }

    /// The same for requests over another version.
    pub(super) fn over(self, version: Version) -> Key {
        Key { version, ..self }
    }
}

/// One connection.
pub(super) struct Kept<S> {
    pub(super) sender: S,
    pub(super) drive: Drive,
    since: Instant,
}

impl<S> Kept<S> {
    pub(super) fn new(sender: S, drive: Drive) -> Self {
        Kept {
            sender,
            drive,
            since: Instant::now(),
        }
    }

    fn is_young(&self) -> bool {
        self.since.elapsed() < IDLE_MAX
    }
}

#[derive(Default)]
struct Slot {
    http1: Vec<Kept<Http1>>,
    http2: Option<Kept<Http2>>,
}

/// The connections that wait.
#[derive(Default)]
pub(super) struct Keep {
    slots: Mutex<HashMap<Key, Slot>>,
}

impl Keep {
    /// Takes an HTTP/1.1 connection out, the youngest first: it is the least likely to be closed.
    pub(super) fn take_http1(&self, key: &Key) -> Option<Kept<Http1>> {
        let mut slots = self.lock();
        let slot = slots.get_mut(key)?;
        while let Some(kept) = slot.http1.pop() {
            if kept.is_young() && !kept.sender.is_closed() {
                return Some(kept);
            }
        }
        None
    }

    pub(super) fn keep_http1(&self, key: Key, mut kept: Kept<Http1>) {
        kept.since = Instant::now();
        kept.drive.rest();
        if let Some(slot) = room(&mut self.lock(), key)
            && slot.http1.len() < IDLE_PER_KEY_MAX
        {
            slot.http1.push(kept);
        }
    }

    /// A handle to the HTTP/2 connection, which stays for others.
    pub(super) fn http2(&self, key: &Key) -> Option<Http2> {
        let mut slots = self.lock();
        let kept = slots.get_mut(key)?.http2.as_mut()?;
        if kept.sender.is_closed() {
            return None;
        }
        kept.since = Instant::now();
        Some(kept.sender.clone())
    }

    pub(super) fn keep_http2(&self, key: Key, kept: Kept<Http2>) {
        if let Some(slot) = room(&mut self.lock(), key) {
            slot.http2 = Some(kept);
        }
    }

    /// How many wait.
    pub(super) fn count(&self) -> usize {
        let slots = self.lock();
        let of = |slot: &Slot| slot.http1.len() + usize::from(slot.http2.is_some());
        slots.values().map(of).sum()
    }

    /// Lets go of what is closed or old. HTTP/2 streams in flight hold handles of their own, so
    /// that their connection ends with the last of them.
    pub(super) fn sweep(&self) {
        self.lock().retain(|_, slot| {
            slot.http1
                .retain(|kept| kept.is_young() && !kept.sender.is_closed());
            if slot
                .http2
                .as_ref()
                .is_some_and(|kept| !kept.is_young() || kept.sender.is_closed())
            {
                slot.http2 = None;
            }
            !slot.http1.is_empty() || slot.http2.is_some()
        });
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Slot>> {
        // Nothing that holds this lock can panic half way through a change.
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn room(slots: &mut HashMap<Key, Slot>, key: Key) -> Option<&mut Slot> {
    if slots.len() >= KEYS_MAX && !slots.contains_key(&key) {
        return None;
    }
    Some(slots.entry(key).or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::Transport;
    use crate::policy::{Policy, Source};

    #[test]
    fn a_peer_that_is_given_anothers_address_has_none_of_its_connections() {
        let source = Source {
            path: "policy.hcl".into(),
            text: "endpoint \"https\" \"a\" { hosts = [\"a.test\"] }\n".to_owned(),
        };
        let policy = Policy::load(vec![source], &|path| std::fs::read_to_string(path)).unwrap();
        let endpoint = &policy.model().endpoints[0];
        let key = |node: &str, key: &str, address: [u8; 4]| {
            let agent = Identity::new(Transport::Wireguard, address.into(), node).proved_by(key);
            Key::of(&To {
                agent: &agent,
                endpoint,
                dial: "a.test",
                host: "a.test",
                port: 443,
                identity: None,
                version: Version::Http1,
                answer: IDLE_MAX,
            })
        };
        let own = [10, 77, 0, 2];
        let first = key("laptop", "AAA=", own);
        assert!(first == key("laptop", "AAA=", own));
        assert!(first != key("laptop", "BBB=", own), "enrolled anew by that name");
        assert!(first != key("desktop", "AAA=", own));
        assert!(first != key("laptop", "AAA=", [10, 77, 0, 3]));
    }

    fn keys() -> impl Fn(&str) -> Key {
        let source = Source {
            path: "policy.hcl".into(),
            text: "endpoint \"https\" \"a\" { hosts = [\"a.test\"] }\n".to_owned(),
        };
        let policy = Policy::load(vec![source], &|path| std::fs::read_to_string(path)).unwrap();
        let agent = Identity::new(Transport::Wireguard, [10, 77, 0, 2].into(), "laptop");
        move |host| {
            Key::of(&To {
                agent: &agent,
                endpoint: &policy.model().endpoints[0],
                dial: host,
                host,
                port: 443,
                identity: None,
                version: Version::Http1,
                answer: IDLE_MAX,
            })
        }
    }

    /// A connection to a server that says nothing; it is open as long as the other end.
    async fn connection() -> (Kept<Http1>, tokio::io::DuplexStream) {
        let (near, far) = tokio::io::duplex(64);
        let io = hyper_util::rt::TokioIo::new(near);
        let (sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
        let task = tokio::spawn(async move { drop(connection.await) });
        (Kept::new(sender, Drive::by(task.abort_handle())), far)
    }

    #[tokio::test]
    async fn so_many_connections_of_a_key_are_kept() {
        let (keep, key) = (Keep::default(), keys());
        let mut open = Vec::new();
        for _ in 0..=IDLE_PER_KEY_MAX {
            let (kept, far) = connection().await;
            open.push(far);
            keep.keep_http1(key("a.test"), kept);
        }
        assert_eq!(keep.count(), IDLE_PER_KEY_MAX);
        assert!(keep.take_http1(&key("a.test")).is_some());
        let (kept, far) = connection().await;
        open.push(far);
        keep.keep_http1(key("a.test"), kept);
        assert_eq!(keep.count(), IDLE_PER_KEY_MAX);
    }

    #[tokio::test]
    async fn connections_are_kept_under_so_many_keys() {
        let (keep, key) = (Keep::default(), keys());
        let mut open = Vec::new();
        for number in 0..=KEYS_MAX {
            let (kept, far) = connection().await;
            open.push(far);
            keep.keep_http1(key(&number.to_string()), kept);
        }
        assert_eq!(keep.count(), KEYS_MAX);
        // A key that is known has room, and another where one is gone.
        let (kept, far) = connection().await;
        open.push(far);
        keep.keep_http1(key("0"), kept);
        assert_eq!(keep.count(), KEYS_MAX + 1);
        keep.lock().remove(&key("1"));
        let (kept, _far) = connection().await;
        keep.keep_http1(key("another"), kept);
        assert!(keep.take_http1(&key("another")).is_some());
    }

    #[tokio::test]
    async fn a_connection_is_kept_for_a_while() {
        let (keep, key) = (Keep::default(), keys());
        let mut open = Vec::new();
        for (host, age) in [("young", IDLE_MAX / 2), ("old", IDLE_MAX), ("swept", IDLE_MAX)] {
            let (kept, far) = connection().await;
            open.push(far);
            keep.keep_http1(key(host), kept);
            let mut slots = keep.lock();
            slots.get_mut(&key(host)).unwrap().http1[0].since -= age;
        }
        assert!(keep.take_http1(&key("old")).is_none() && keep.take_http1(&key("young")).is_some());
        assert_eq!(keep.count(), 1);
        keep.sweep();
        assert_eq!(keep.count(), 0);
    }
}
