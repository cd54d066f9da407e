//! What judges have cost in the hour and the day that run, in all and by agent. *Pure*: the time is passed in.
//!
//! A judge's budget is of all its agents together. The last quarter of it is for those that took little of it, so that
//! no one agent leaves the others without a judge.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::JudgeDown;
use crate::policy::Judge;

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);
/// Parts of a budget of which the last is kept.
const KEPT_PART: u64 = 4;
/// Parts of a budget of which one is little.
const LITTLE_PART: u64 = 32;

/// By judge.
#[derive(Default)]
pub(super) struct Spending(HashMap<Arc<str>, Spent>);

struct Spent {
    requests: Within,
    tokens: Within,
}

/// Since a moment.
struct Within {
    since: Instant,
    all: u64,
    by_agent: HashMap<String, u64>,
}

impl Within {
    fn new(now: Instant) -> Within {
        Within {
            since: now,
            all: 0,
            by_agent: HashMap::new(),
        }
    }

    fn roll(&mut self, length: Duration, now: Instant) {
        if now - self.since >= length {
            *self = Within::new(now);
        }
    }

    fn has_room(&self, agent: &str, most: u64) -> bool {
        let own = self.by_agent.get(agent).copied().unwrap_or(0);
        let is_kept = self.all >= most - most / KEPT_PART;
        self.all < most && (!is_kept || own < (most / LITTLE_PART).max(1))
    }

    fn add(&mut self, agent: &str, count: u64) {
        self.all = self.all.saturating_add(count);
        let own = self.by_agent.entry(agent.to_owned()).or_default();
        *own = own.saturating_add(count);
    }
}

impl Spending {
    /// Takes one request of a judge's budget for an agent.
    ///
    /// # Errors
    /// There is none left for it.
    pub(super) fn spend(
        &mut self,
        (key, judge): (&Arc<str>, &Judge),
        agent: &str,
        now: Instant,
    ) -> Result<(), JudgeDown> {
        let own = self.0.entry(key.clone()).or_insert_with(|| Spent {
            requests: Within::new(now),
            tokens: Within::new(now),
        });
        own.requests.roll(HOUR, now);
        own.tokens.roll(DAY, now);
        if !own.requests.has_room(agent, judge.requests_per_hour) {
            return Err(JudgeDown::Requests(own.requests.all));
        }
        if !own.tokens.has_room(agent, judge.tokens_per_day) {
            return Err(JudgeDown::Tokens(own.tokens.all));
        }
        own.requests.add(agent, 1);
        Ok(())
    }

    /// Notes what an answer cost.
    pub(super) fn used(&mut self, key: &str, agent: &str, tokens: u64) {
        if let Some(own) = self.0.get_mut(key) {
            own.tokens.add(agent, tokens);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_agent_leaves_the_last_quarter_to_others() {
        let now = Instant::now();
        let mut within = Within::new(now);
        let mut take = |agent: &str| {
            let has = within.has_room(agent, 64);
            if has {
                within.add(agent, 1);
            }
            has
        };
        assert_eq!((0..100).filter(|_| take("greedy")).count(), 48);
        assert!(
            take("other") && take("other") && !take("other"),
            "little is two of 64"
        );
        assert_eq!(
            (0..100).filter(|number| take(&format!("a{number}"))).count(),
            14,
            "and all is all"
        );
        within.roll(HOUR, now + HOUR);
        assert!(within.has_room("greedy", 64));
        // A budget that is small has no quarter.
        for most in 1..4 {
            let mut within = Within::new(now);
            let taken = (0..9).filter(|_| {
                let has = within.has_room("only", most);
                within.add("only", u64::from(has));
                has
            });
            assert_eq!(taken.count() as u64, most);
        }
    }
}
