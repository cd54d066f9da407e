//! What one agent may have of something that all agents share: the gateway's memory, connections, questions
//! that are being answered.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::Identity;

/// Who holds how much of what every agent may have an equal part of.
#[derive(Clone, Debug)]
pub struct Budget {
    most: usize,
    taken: Arc<Mutex<HashMap<String, usize>>>,
}

/// What one agent took, given back when dropped.
#[derive(Debug)]
pub struct Room {
    budget: Budget,
    agent: String,
    amount: usize,
}

impl Budget {
    /// `most` is what each agent may take.
    pub fn new(most: usize) -> Self {
        Budget {
            most,
            taken: Arc::default(),
        }
    }

    /// Takes room, or `None` where the agent has no more.
    pub fn take(&self, agent: &Identity, amount: usize) -> Option<Room> {
        let agent = agent.agent_key();
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let own = taken.get(&agent).copied().unwrap_or(0);
        let sum = own.checked_add(amount).filter(|sum| *sum <= self.most)?;
        taken.insert(agent.clone(), sum);
        Some(Room {
            budget: self.clone(),
            agent,
            amount,
        })
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        let mut taken = self.budget.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = taken.get_mut(&self.agent) {
            *own = own.saturating_sub(self.amount);
            if *own == 0 {
                taken.remove(&self.agent);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::Transport;

    const MOST: usize = 64 << 20;

    #[test]
    fn an_agent_has_its_own_room_and_gets_it_back() {
        let budget = Budget::new(MOST);
        let agent =
            |node: &str, address: &str| Identity::new(Transport::Wireguard, address.parse().unwrap(), node);
        let (one, two) = (&agent("one", "10.77.0.2"), &agent("two", "10.77.0.4"));
        let again = &agent("one", "fd00::7");
        let most = budget.take(one, MOST - 1).unwrap();
        assert!(budget.take(one, 2).is_none());
        assert!(
            budget.take(again, 2).is_none(),
            "another address has no share of its own"
        );
        assert!(budget.take(one, usize::MAX).is_none());
        let last = budget.take(one, 1).unwrap();
        assert!(budget.take(two, MOST).is_some());
        drop(most);
        assert!(budget.take(one, MOST).is_none());
        drop(last);
        assert!(budget.take(one, MOST).is_some());
        assert!(budget.taken.lock().unwrap().is_empty());
    }
}
