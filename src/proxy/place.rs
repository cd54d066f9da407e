//! How many connections each agent has open.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use crate::identity::Identity;

/// Who has how many. An agent's addresses and keys share in one number.
#[derive(Debug, Default)]
pub(super) struct Places(Mutex<HashMap<String, usize>>);

/// One connection's place, given back when dropped.
#[derive(Debug)]
pub(super) struct Place<'a> {
    among: &'a Places,
    holder: String,
}

impl Places {
    /// Takes one of `most` places, or `None` where the agent has as many already.
    pub(super) fn enter(&self, identity: &Identity, most: usize) -> Option<Place<'_>> {
        let holder = identity.agent_key();
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = open.get(&holder).copied().unwrap_or(0);
        if count >= most {
            return None;
        }
        open.insert(holder.clone(), count + 1);
        Some(Place { among: self, holder })
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut open = self.among.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = open.get_mut(&self.holder) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.holder);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::Transport;

    #[test]
    fn both_families_and_all_runs_of_an_agent_share_its_places() {
        let agent =
            |node: &str, address: &str| Identity::new(Transport::Wireguard, address.parse().unwrap(), node);
        let places = Places::default();
        let (v4, v6) = (agent("one", "10.77.0.2"), agent("one", "fd00::2"));
        let run = agent("one", "10.77.0.9");
        let first = places.enter(&v4, 2);
        let second = places.enter(&v6, 2);
        assert!(first.is_some() && second.is_some());
        for again in [&v4, &v6, &run] {
            assert!(places.enter(again, 2).is_none());
        }
        let node = |name: &str, id: &str| {
            Identity::new(Transport::Tailnet, v4.address, name).proved_by(format!("node:{id}"))
        };
        let own = places.enter(&node("one", "n1"), 1);
        assert!(own.is_some(), "another's name of the tailnet");
        assert!(
            places.enter(&node("renamed", "n1"), 1).is_none(),
            "a name makes no other agent"
        );
        assert!(places.enter(&node("one", "n2"), 1).is_some());
        drop(own);
        assert!(places.enter(&agent("two", "10.77.0.4"), 2).is_some());
        drop(first);
        assert!(places.enter(&run, 2).is_some());
        drop(second);
        assert!(places.0.lock().unwrap().is_empty());
        assert!(places.enter(&v4, 0).is_none());
        assert!(places.0.lock().unwrap().is_empty(), "who has none is not kept");
    }
}
