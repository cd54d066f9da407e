//! Which strangers hold the connections of the enrolment listener.
//!
//! Anyone may connect there and be silent. So each source has its part, and where all places are taken, who
//! has few gets one from who has most: to keep others out a stranger needs as many sources as there are
//! places.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// Connections at a time.
const CONNECTIONS_MAX: usize = 64;
/// Of them from one address (IPv6: one /64). More are closed at once.
const CONNECTIONS_PER_SOURCE_MAX: usize = 16;

/// Who holds which connections.
#[derive(Default)]
pub(super) struct Sources(Mutex<Held>);

#[derive(Default)]
struct Held {
    /// Of each source, the oldest first.
    by_source: HashMap<IpAddr, VecDeque<Arc<Notify>>>,
    count: usize,
}

/// One connection's place, given back when it is dropped.
pub(super) struct Share {
    of: Arc<Sources>,
    source: IpAddr,
    lost: Arc<Notify>,
}

impl Share {
    /// Waits until another source needs the place more.
    pub(super) async fn lost(&self) {
        self.lost.notified().await;
    }
}

impl Sources {
    /// A place for a connection from `source`, or `None` where it has its part already.
    pub(super) fn take(this: &Arc<Self>, source: IpAddr) -> Option<Share> {
        let source = match source.to_canonical() {
            // Whoever has one address of a /64 has them all.
            IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64)),
            v4 => v4,
        };
        let mut held = this.lock();
        let own = held.by_source.get(&source).map_or(0, VecDeque::len);
        if own >= CONNECTIONS_PER_SOURCE_MAX || (held.count >= CONNECTIONS_MAX && !held.give_up(own)) {
            return None;
        }
        let lost = Arc::new(Notify::new());
        held.by_source.entry(source).or_default().push_back(lost.clone());
        held.count += 1;
        let of = this.clone();
        Some(Share { of, source, lost })
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        // Nothing that holds this lock can panic half way through a change.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    /// Ends the oldest connection of who has most, where that is more than one who has `own` will have.
    fn give_up(&mut self, own: usize) -> bool {
        let most = self.by_source.values_mut().max_by_key(|one| one.len());
        let Some(oldest) = most
            .filter(|most| most.len() > own + 1)
            .and_then(VecDeque::pop_front)
        else {
            return false;
        };
        oldest.notify_one();
        self.count -= 1;
        true
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut held = self.of.lock();
        let Some(own) = held.by_source.get_mut(&self.source) else {
            return;
        };
        let before = own.len();
        own.retain(|one| !Arc::ptr_eq(one, &self.lost));
        let (given_back, is_empty) = (before - own.len(), own.is_empty());
        if is_empty {
            held.by_source.remove(&self.source);
        }
        held.count -= given_back;
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    /// A stranger at one address, or all over one /64, has its share and no more; others are served.
    #[test]
    fn a_source_has_its_share() {
        let sources = Arc::new(Sources::default());
        let take = |text: &str| Sources::take(&sources, text.parse().unwrap());
        let all: Vec<_> = (0..CONNECTIONS_PER_SOURCE_MAX)
            .map(|_| take("192.0.2.1").unwrap())
            .collect();
        assert!(take("192.0.2.1").is_none());
        assert!(take("::ffff:192.0.2.1").is_none());
        assert!(take("192.0.2.2").is_some());
        let spread: Vec<_> = (0..CONNECTIONS_PER_SOURCE_MAX)
            .map(|host| take(&format!("2001:db8::{host:x}")).unwrap())
            .collect();
        assert!(take("2001:db8::ffff:1").is_none());
        assert!(take("2001:db8:0:1::1").is_some());
        drop((all, spread));
        assert!(take("192.0.2.1").is_some() && take("2001:db8::1").is_some());
        assert!(
            sources.lock().by_source.is_empty() && sources.lock().count == 0,
            "nothing stays of who has gone"
        );
    }

    /// Strangers that hold every place lose one to who has none, the oldest first.
    #[test]
    fn who_has_most_makes_room() {
        let sources = Arc::new(Sources::default());
        let take = |host: usize| Sources::take(&sources, IpAddr::from([192, 0, 2, host as u8]));
        let strangers = CONNECTIONS_MAX / CONNECTIONS_PER_SOURCE_MAX;
        let mut held: Vec<_> = (0..CONNECTIONS_MAX)
            .map(|one| take(one % strangers).unwrap())
            .collect();
        let honest = take(100).unwrap();
        assert_eq!(sources.lock().count, CONNECTIONS_MAX);
        let lost: Vec<_> = held
            .iter()
            .filter(|share| share.lost().now_or_never().is_some())
            .collect();
        assert_eq!(lost.len(), 1);
        assert!(honest.lost().now_or_never().is_none());
        // A place that was lost is not given back twice.
        let at = held
            .iter()
            .position(|share| {
                !share.of.lock().by_source[&share.source]
                    .iter()
                    .any(|one| Arc::ptr_eq(one, &share.lost))
            })
            .unwrap();
        assert!(at < strangers, "the oldest of its source");
        held.remove(at);
        assert_eq!(sources.lock().count, CONNECTIONS_MAX);
        // Nobody gains where each has as little as the newcomer would.
        drop((held, honest));
        let _each: Vec<_> = (0..CONNECTIONS_MAX).map(|one| take(one).unwrap()).collect();
        assert!(take(200).is_none());
    }
}
