//! CancelRequests: the keys that agents were given, and whom they may cancel.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

use crate::identity::Agent;

/// Sessions that can be cancelled at a time; later ones get a key that cancels nothing.
const CANCELS_MAX: usize = 65_536;

type Key = (i32, [u8; 4]);

/// The keys of all open sessions; one a process.
#[derive(Default)]
pub struct Cancels {
    open: Arc<Mutex<HashMap<Key, Entry>>>,
}

struct Entry {
    agent: String,
    endpoint: Arc<str>,
    wake: Arc<Notify>,
}

/// A session's place in the table; dropped with it.
pub(super) struct Ticket {
    open: Arc<Mutex<HashMap<Key, Entry>>>,
    key: Key,
    pub(super) wake: Arc<Notify>,
}

impl Ticket {
    pub(super) fn process(&self) -> i32 {
        self.key.0
    }

    pub(super) fn secret(&self) -> [u8; 4] {
        self.key.1
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open
            .get(&self.key)
            .is_some_and(|entry| Arc::ptr_eq(&entry.wake, &self.wake))
        {
            open.remove(&self.key);
        }
    }
}

impl Cancels {
    pub(super) fn enter(&self, agent: &Agent, endpoint: &Arc<str>) -> std::io::Result<Ticket> {
        let mut random = [0; 8];
        getrandom::fill(&mut random).map_err(|error| std::io::Error::other(error.to_string()))?;
        let [a, b, c, d, secret @ ..] = random;
        let key = (i32::from_be_bytes([a & 0x7f, b, c, d]), secret);
        let wake = Arc::new(Notify::new());
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.len() < CANCELS_MAX {
            open.entry(key).or_insert_with(|| Entry {
                agent: agent.identity.agent_key(),
                endpoint: endpoint.clone(),
                wake: wake.clone(),
            });
        }
        Ok(Ticket {
            open: self.open.clone(),
            key,
            wake,
        })
    }

    /// Wakes the session of a key, if it is this agent's, at this endpoint.
    pub(super) fn cancel(&self, agent: &Agent, endpoint: &str, process: i32, secret: &[u8]) {
        let Ok(secret) = secret.try_into() else {
            return;
        };
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = open.get(&(process, secret));
        let key = agent.identity.agent_key();
        if let Some(entry) = entry.filter(|entry| entry.agent == key && *entry.endpoint == *endpoint) {
            entry.wake.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::{Identity, Transport};

    fn agent(node: &str) -> Agent {
        let identity = Identity::new(Transport::Wireguard, std::net::IpAddr::from([10, 77, 0, 2]), node);
        Agent::new(Arc::new(identity), Arc::from("ci"))
    }

    /// Whether a cancel of this ticket wakes its session.
    fn wakes(cancels: &Cancels, ticket: &Ticket, node: &str, endpoint: &str) -> bool {
        use futures_util::FutureExt as _;
        cancels.cancel(&agent(node), endpoint, ticket.process(), &ticket.secret());
        ticket.wake.notified().now_or_never().is_some()
    }

    #[test]
    fn a_key_is_of_one_node_at_one_endpoint() {
        let cancels = Cancels::default();
        let orders: Arc<str> = Arc::from("postgres.orders");
        let ticket = cancels.enter(&agent("laptop"), &orders).unwrap();
        assert!(!wakes(&cancels, &ticket, "other", "postgres.orders"));
        assert!(!wakes(&cancels, &ticket, "laptop", "postgres.other"));
        assert!(wakes(&cancels, &ticket, "laptop", "postgres.orders"));
        drop(ticket);
        assert!(cancels.open.lock().unwrap().is_empty());
    }

    #[test]
    fn the_table_has_an_end() {
        let cancels = Cancels::default();
        let orders: Arc<str> = Arc::from("postgres.orders");
        let enter = || cancels.enter(&agent("laptop"), &orders).unwrap();
        let tickets: Vec<_> = (0..CANCELS_MAX).map(|_| enter()).collect();
        // Two random keys may be one; then there is room for another.
        let room = CANCELS_MAX - cancels.open.lock().unwrap().len();
        let more: Vec<_> = (0..room + 2).map(|_| enter()).collect();
        let woken = |ticket: &&Ticket| wakes(&cancels, ticket, "laptop", "postgres.orders");
        assert!(more.iter().filter(woken).count() <= room);
        drop(more);
        assert!(
            tickets
                .first()
                .is_some_and(|ticket| wakes(&cancels, ticket, "laptop", "postgres.orders"))
        );
    }
}
