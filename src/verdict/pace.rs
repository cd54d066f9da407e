//! How fast an agent may ask, where the tailnet's policy file says so. *Pure*: the time is passed in.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::identity::Identity;

/// Agents whose pace is kept; one that has not asked for a minute needs none.
pub const PACES_MAX: usize = 4096;

const MINUTE: Duration = Duration::from_secs(60);

/// A bucket an agent: as many requests at once as it may make in a minute, and each comes back in its
/// part of the minute.
#[derive(Debug, Default)]
pub struct Pace(Mutex<HashMap<String, Instant>>);

impl Pace {
    /// Takes one request. `Err` says how long until the next may come; a limit of 0 never ends.
    ///
    /// # Errors
    /// The agent has made as many as it may, or too many agents are limited.
    pub fn take(&self, identity: &Identity, now: Instant) -> Result<(), Duration> {
        let Some(limit) = identity.limits.requests_per_minute else {
            return Ok(());
        };
        let Some(each) = MINUTE.checked_div(limit) else {
            return Err(MINUTE);
        };
        let mut full = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = identity.agent_key();
        if full.len() >= PACES_MAX && !full.contains_key(&key) {
            full.retain(|_, at| *at > now);
            if full.len() >= PACES_MAX {
                return Err(MINUTE);
            }
        }
        // When the agent's bucket is full again.
        let at = full.entry(key).or_insert(now);
        let next = (*at).max(now) + each;
        match next.saturating_duration_since(now).checked_sub(MINUTE) {
            None | Some(Duration::ZERO) => {
                *at = next;
                Ok(())
            }
            Some(wait) => Err(wait),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use crate::identity::{Limits, Transport};

    fn agent(node: &str, requests_per_minute: Option<u32>) -> Identity {
        Identity {
            limits: Limits {
                requests_per_minute,
                ..Limits::default()
            },
            ..Identity::new(Transport::Tailnet, IpAddr::from([100, 64, 0, 2]), node)
        }
    }

    #[test]
    fn as_many_as_a_minute_has_and_each_comes_back() {
        let (pace, now) = (Pace::default(), Instant::now());
        let few = agent("few", Some(3));
        for _ in 0..3 {
            assert_eq!(pace.take(&few, now), Ok(()));
        }
        assert_eq!(pace.take(&few, now), Err(MINUTE / 3));
        assert_eq!(pace.take(&few, now + MINUTE / 6), Err(MINUTE / 6));
        assert_eq!(pace.take(&few, now + MINUTE / 3), Ok(()));
        assert!(pace.take(&few, now + MINUTE / 3).is_err());
        // Another name makes no other agent of a node.
        let named = |name: &str| agent(name, Some(1)).proved_by("node:n1");
        assert_eq!(pace.take(&named("a"), now), Ok(()));
        assert!(pace.take(&named("b"), now).is_err());
        // A limit that fell counts at once, and another agent is another.
        assert!(pace.take(&agent("few", Some(1)), now + MINUTE / 3).is_err());
        assert_eq!(pace.take(&agent("other", Some(1)), now), Ok(()));
        assert_eq!(pace.take(&agent("none", Some(0)), now), Err(MINUTE));
        for _ in 0..100 {
            assert_eq!(pace.take(&agent("any", None), now), Ok(()));
        }
        assert_eq!(pace.0.lock().unwrap().len(), 3, "who has no limit is not kept");
    }

    #[test]
    fn the_agents_that_are_kept_are_bounded() {
        let (pace, now) = (Pace::default(), Instant::now());
        for number in 0..PACES_MAX {
            assert_eq!(pace.take(&agent(&number.to_string(), Some(1)), now), Ok(()));
        }
        assert!(pace.take(&agent("one more", Some(1)), now).is_err());
        assert_eq!(pace.take(&agent("one more", Some(1)), now + MINUTE), Ok(()));
        assert_eq!(pace.0.lock().unwrap().len(), 1);
    }
}
