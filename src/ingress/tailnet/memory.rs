//! What was answered a moment ago, by StableID and by address. No socket and no clock: the time is
//! passed in.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::whois::Known;

/// How long an answer is good for another connection of the same node, where the bus says nothing.
pub const KEPT: Duration = Duration::from_secs(5);

/// Nodes that are remembered; beyond them the one that was asked for longest ago is forgotten.
pub const NODES_MAX: usize = 4096;

/// Addresses that are nobody's and are remembered.
pub const NOBODIES_MAX: usize = 1024;

/// Answers, which count for [`KEPT`] and until anything changes.
#[derive(Debug, Default)]
pub struct Memory {
    nodes: HashMap<String, Kept>,
    by_address: HashMap<IpAddr, String>,
    nobodies: HashMap<IpAddr, Instant>,
    /// Grows with every change; an answer to a question from before one is not kept.
    age: u64,
}

#[derive(Debug)]
struct Kept {
    known: Known,
    asked: Instant,
    fresh: bool,
}

/// What is remembered of an address.
#[derive(Debug, PartialEq, Eq)]
pub enum Recalled {
    Node(Known),
    Nobody,
    /// It has to be asked for.
    Nothing,
}

impl Memory {
    /// To be had before a question is asked, and given with its answer.
    pub fn age(&self) -> u64 {
        self.age
    }

    /// Something changed: no answer counts any more. The nodes stay for the operator to see.
    pub fn forget(&mut self) {
        self.age = self.age.wrapping_add(1);
        self.nobodies.clear();
        for kept in self.nodes.values_mut() {
            kept.fresh = false;
        }
    }

    /// Keeps an answer; whether the node's capabilities hold something strange that is new.
    pub fn keep(&mut self, known: &Known, now: Instant, age: u64) -> bool {
        let before = self.nodes.get(&known.stable_id);
        let is_new = before.is_none_or(|kept| kept.known.strange != known.strange);
        if before.is_none() && self.nodes.len() >= NODES_MAX {
            let oldest = self.nodes.iter().min_by_key(|(_, kept)| kept.asked);
            if let Some(id) = oldest.map(|(id, _)| id.clone()) {
                self.drop_node(&id);
            }
        }
        self.drop_node(&known.stable_id);
        for address in &known.addresses {
            self.by_address.insert(*address, known.stable_id.clone());
        }
        let kept = Kept {
            known: known.clone(),
            asked: now,
            fresh: age == self.age,
        };
        self.nodes.insert(known.stable_id.clone(), kept);
        is_new && !known.strange.is_empty()
    }

    /// Keeps that an address is nobody's.
    pub fn keep_nobody(&mut self, address: IpAddr, now: Instant, age: u64) {
        if let Some(id) = self.by_address.get(&address).cloned() {
            self.drop_node(&id);
        }
        if self.nobodies.len() >= NOBODIES_MAX {
            self.nobodies.retain(|_, asked| is_recent(*asked, now));
        }
        if age == self.age && self.nobodies.len() < NOBODIES_MAX {
            self.nobodies.insert(address, now);
        }
    }

    /// What counts of a node's own address now.
    pub fn recall(&self, address: IpAddr, now: Instant) -> Recalled {
        if self
            .nobodies
            .get(&address)
            .is_some_and(|asked| is_recent(*asked, now))
        {
            return Recalled::Nobody;
        }
        let kept = self.by_address.get(&address).and_then(|id| self.nodes.get(id));
        match kept.filter(|kept| kept.fresh && is_recent(kept.asked, now)) {
            Some(kept) => Recalled::Node(kept.known.clone()),
            None => Recalled::Nothing,
        }
    }

    /// Every node that was asked for, whether or not the answer still counts.
    pub fn nodes(&self) -> impl Iterator<Item = &Known> {
        self.nodes.values().map(|kept| &kept.known)
    }

    fn drop_node(&mut self, id: &str) {
        for address in self
            .nodes
            .remove(id)
            .iter()
            .flat_map(|kept| &kept.known.addresses)
        {
            if self.by_address.get(address).is_some_and(|owner| owner == id) {
                self.by_address.remove(address);
            }
        }
    }
}

fn is_recent(asked: Instant, now: Instant) -> bool {
    now.saturating_duration_since(asked) < KEPT
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::identity::{Identity, Transport};

    fn known(id: &str, address: [u8; 4]) -> Known {
        let address = IpAddr::from(address);
        Known {
            stable_id: id.to_owned(),
            identity: Arc::new(Identity::new(Transport::Tailnet, address, id)),
            expires: None,
            addresses: vec![address],
            strange: Vec::new(),
        }
    }

    const A: [u8; 4] = [100, 64, 0, 2];

    #[test]
    fn an_answer_counts_for_a_while_and_until_something_changes() {
        let (mut memory, now) = (Memory::default(), Instant::now());
        let recall = |memory: &Memory, after| memory.recall(A.into(), now + after);
        assert_eq!(recall(&memory, Duration::ZERO), Recalled::Nothing);
        memory.keep(&known("a", A), now, 0);
        assert_eq!(recall(&memory, KEPT / 2), Recalled::Node(known("a", A)));
        assert_eq!(recall(&memory, KEPT), Recalled::Nothing);
        memory.forget();
        assert_eq!(recall(&memory, Duration::ZERO), Recalled::Nothing);
        // Asked before the change, answered after it.
        memory.keep(&known("a", A), now, 0);
        assert_eq!(recall(&memory, Duration::ZERO), Recalled::Nothing);
        memory.keep(&known("a", A), now, memory.age());
        assert_eq!(recall(&memory, Duration::ZERO), Recalled::Node(known("a", A)));
        // The address went to another node.
        memory.keep(&known("b", A), now, memory.age());
        assert_eq!(recall(&memory, Duration::ZERO), Recalled::Node(known("b", A)));
        memory.keep(&known("a", [100, 64, 0, 3]), now, memory.age());
        assert_eq!(recall(&memory, Duration::ZERO), Recalled::Node(known("b", A)));
    }

    #[test]
    fn nobodies_are_remembered_as_long() {
        let (mut memory, now) = (Memory::default(), Instant::now());
        memory.keep(&known("a", A), now, 0);
        memory.keep_nobody(A.into(), now, 0);
        assert_eq!(memory.recall(A.into(), now), Recalled::Nobody);
        assert_eq!(memory.nodes().count(), 0, "it has left");
        assert_eq!(memory.recall(A.into(), now + KEPT), Recalled::Nothing);
        memory.forget();
        assert_eq!(memory.recall(A.into(), now), Recalled::Nothing);
        memory.keep_nobody(A.into(), now, 0);
        assert_eq!(
            memory.recall(A.into(), now),
            Recalled::Nothing,
            "asked before the change"
        );
    }

    #[test]
    fn the_memory_is_bounded() {
        let (mut memory, now) = (Memory::default(), Instant::now());
        let address = |number: usize| {
            let [high, low] = u16::try_from(number).unwrap().to_be_bytes();
            [100, 64, high, low]
        };
        for number in 0..=NODES_MAX {
            let at = now + Duration::from_micros(number as u64);
            memory.keep(&known(&number.to_string(), address(number)), at, 0);
        }
        assert_eq!(
            (memory.nodes.len(), memory.by_address.len()),
            (NODES_MAX, NODES_MAX)
        );
        assert_eq!(
            memory.recall(address(0).into(), now),
            Recalled::Nothing,
            "the oldest went"
        );
        for number in 0..=NOBODIES_MAX {
            memory.keep_nobody(
                [&[10, 0][..], &address(number)[2..]]
                    .concat()
                    .try_into()
                    .map(|own: [u8; 4]| own.into())
                    .unwrap(),
                now,
                0,
            );
        }
        assert_eq!(memory.nobodies.len(), NOBODIES_MAX);
        memory.keep_nobody(IpAddr::from([10, 1, 0, 0]), now + KEPT, 0);
        assert_eq!(memory.nobodies.len(), 1, "those of before are over");
    }

    #[test]
    fn what_is_strange_is_told_once() {
        let (mut memory, now) = (Memory::default(), Instant::now());
        let strange = Known {
            strange: vec!["x".to_owned()],
            ..known("a", A)
        };
        assert!(memory.keep(&strange, now, 0));
        assert!(!memory.keep(&strange, now, 0));
        assert!(!memory.keep(&known("a", A), now, 0));
        assert!(memory.keep(&strange, now, 0));
    }
}
