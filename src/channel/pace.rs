//! How much of telling one agent's questions may take, so that they never keep those of others from people. *Pure.*

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::Duration;

/// Tellings of one agent's questions that are on their way to one channel at once, its waits between tries included.
pub const SENDING_PER_AGENT_MAX: usize = 4;
/// Questions of one agent that one channel is newly told of within [`NEW_PER_AGENT_S`]; services take about one message
/// a second of a whole gateway.
pub const NEW_PER_AGENT_MAX: usize = 10;
/// Seconds of [`NEW_PER_AGENT_MAX`].
pub const NEW_PER_AGENT_S: u64 = 60;

/// One question for one channel.
pub type Key = (i64, String);

/// What is on its way, and what one agent was given of late.
#[derive(Default)]
pub struct Pace {
    /// With the agent whose question it is.
    sending: HashMap<Key, String>,
    /// Agent and channel, and when each new telling began, oldest first.
    begun_us: HashMap<(String, String), VecDeque<i64>>,
}

impl Pace {
    pub fn sending(&self) -> HashSet<Key> {
        self.sending.keys().cloned().collect()
    }

    /// Whether a telling may begin now, which is noted; the next look asks again for one that may not.
    pub fn begin(&mut self, key: &Key, agent: &str, is_new: bool, now_us: i64) -> bool {
        let own = |(sent, of): (&Key, &String)| sent.1 == key.1 && of == agent;
        let at_once = self.sending.iter().filter(|sent| own(*sent)).count();
        if at_once >= SENDING_PER_AGENT_MAX || self.sending.contains_key(key) {
            return false;
        }
        if is_new {
            let within = i64::try_from(Duration::from_secs(NEW_PER_AGENT_S).as_micros()).unwrap_or(i64::MAX);
            self.begun_us.retain(|_, begun| {
                begun.retain(|at| now_us.saturating_sub(*at) < within);
                !begun.is_empty()
            });
            let begun = self
                .begun_us
                .entry((agent.to_owned(), key.1.clone()))
                .or_default();
            if begun.len() >= NEW_PER_AGENT_MAX {
                return false;
            }
            begun.push_back(now_us);
        }
        self.sending.insert(key.clone(), agent.to_owned());
        true
    }

    pub fn end(&mut self, key: &Key) {
        self.sending.remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(id: usize, channel: &str) -> Key {
        (i64::try_from(id).unwrap(), channel.to_owned())
    }

    #[test]
    fn one_agent_has_a_share_of_each_channel_at_once() {
        let mut pace = Pace::default();
        for id in 0..SENDING_PER_AGENT_MAX {
            assert!(pace.begin(&key(id, "slack.ops"), "a", false, 0));
        }
        assert!(
            !pace.begin(&key(90, "slack.ops"), "a", false, 0),
            "its share is used"
        );
        assert!(
            pace.begin(&key(91, "slack.ops"), "b", false, 0),
            "another's is not"
        );
        assert!(
            pace.begin(&key(90, "ntfy.ops"), "a", false, 0),
            "nor that of another channel"
        );
        pace.end(&key(0, "slack.ops"));
        assert!(pace.begin(&key(90, "slack.ops"), "a", false, 0));
        assert!(
            !pace.begin(&key(91, "slack.ops"), "b", false, 0),
            "it is on its way"
        );
    }

    #[test]
    fn one_agent_has_so_many_new_tellings_in_a_while() {
        let mut pace = Pace::default();
        let mut new = |id: usize, agent: &str, at_us: i64| {
            let key = key(id, "slack.ops");
            let begins = pace.begin(&key, agent, true, at_us);
            pace.end(&key);
            begins
        };
        for id in 0..NEW_PER_AGENT_MAX {
            assert!(new(id, "a", 0));
        }
        let end_us = i64::try_from(NEW_PER_AGENT_S).unwrap() * 1_000_000;
        assert!(!new(50, "a", end_us - 1));
        assert!(new(51, "b", end_us - 1));
        assert!(new(50, "a", end_us));
    }
}
