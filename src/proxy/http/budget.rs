//! How much of one agent's bodies is held at once.
//!
//! A body waits in memory while it is judged, and a person may take minutes. Without a bound an
//! agent could fill the gateway's memory with requests that need an approval.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

/// Bytes of all bodies of one agent that are held for a verdict at once. A body that finds no
/// room is not held; its facts are unknown, and a rule that hangs on them denies.
pub const HELD_BYTES_MAX: usize = 64 << 20;

/// Who holds how much.
#[derive(Clone, Debug, Default)]
pub struct Budget(Arc<Mutex<HashMap<IpAddr, usize>>>);

/// Room for bytes of one agent, given back when dropped.
#[derive(Debug)]
pub struct Room {
    budget: Budget,
    agent: IpAddr,
    bytes: usize,
}

impl Budget {
    /// Takes room, or `None` where the agent has no more.
    pub fn take(&self, agent: IpAddr, bytes: usize) -> Option<Room> {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let own = held.get(&agent).copied().unwrap_or(0);
        let sum = own.checked_add(bytes).filter(|sum| *sum <= HELD_BYTES_MAX)?;
        held.insert(agent, sum);
        Some(Room {
            budget: self.clone(),
            agent,
            bytes,
        })
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        let mut held = self.budget.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = held.get_mut(&self.agent) {
            *own = own.saturating_sub(self.bytes);
            if *own == 0 {
                held.remove(&self.agent);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_has_its_own_room_and_gets_it_back() {
        let budget = Budget::default();
        let [one, two] = [1, 2].map(|last| IpAddr::from([10, 77, 0, last]));
        let most = budget.take(one, HELD_BYTES_MAX - 1).unwrap();
        assert!(budget.take(one, 2).is_none());
        assert!(budget.take(one, usize::MAX).is_none());
        let last = budget.take(one, 1).unwrap();
        assert!(budget.take(two, HELD_BYTES_MAX).is_some());
        drop(most);
        assert!(budget.take(one, HELD_BYTES_MAX).is_none());
        drop(last);
        assert!(budget.take(one, HELD_BYTES_MAX).is_some());
        assert!(budget.0.lock().unwrap().is_empty());
    }
}
