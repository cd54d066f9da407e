//! Rates of rules: how often an action may pass for an agent, a profile, an endpoint, or at all. *Pure.*
//!
//! A window slides: in no stretch of its length do more pass than it says. The times are kept, so
//! there are bounds of memory; where one is reached, the action is denied.
//!
//! A restart forgets them; a reload does not, as long as the rule keeps its name.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::{Cause, Refusal};
use crate::identity::Agent;
use crate::policy::{Judgement, Limit, Per};

/// Times of passes that are kept of all rules together: 16 MiB.
pub const STAMPS_MAX: usize = 1 << 20;
/// Subjects (an agent of a rule, say) that are counted at one time.
pub const SUBJECTS_MAX: usize = 1 << 16;

/// Who is counted.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Subject {
    rule: Box<str>,
    per: Per,
    window_s: u64,
    name: Box<str>,
}

/// The names that a limit may count by.
#[derive(Clone, Copy, Debug)]
pub struct Names<'a> {
    pub rule: &'a str,
    /// One text for each agent, which no other agent has.
    pub agent: &'a str,
    pub profile: &'a str,
    pub endpoint: &'a str,
}

/// An action is one too many.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exceeded {
    /// What the agent is told.
    pub reason: String,
    /// After this an action would pass, if none came before it.
    pub retry_after: Duration,
}

/// The passes of the last windows.
#[derive(Debug)]
pub struct Rates {
    passes: HashMap<Subject, VecDeque<Duration>>,
    stamps: usize,
    stamps_max: usize,
    subjects_max: usize,
}

impl Default for Rates {
    fn default() -> Self {
        Rates::bounded(STAMPS_MAX, SUBJECTS_MAX)
    }
}

impl Rates {
    fn bounded(stamps_max: usize, subjects_max: usize) -> Rates {
        Rates {
            passes: HashMap::new(),
            stamps: 0,
            stamps_max,
            subjects_max,
        }
    }

    /// Counts one action by every limit of its rule, or by none if one of them is reached. `now` is
    /// the time since any fixed moment, and never goes back.
    ///
    /// # Errors
    /// A limit is reached, or there is no room to count it.
    pub fn pass(&mut self, limits: &[Limit], names: Names<'_>, now: Duration) -> Result<(), Exceeded> {
        let subjects: Vec<Subject> = limits.iter().map(|limit| subject(limit, names)).collect();
        for (limit, subject) in limits.iter().zip(&subjects) {
            self.forget(subject, now);
            let Some(passes) = self.passes.get(subject) else {
                continue;
            };
            if passes.len() >= usize::try_from(limit.count).unwrap_or(usize::MAX) {
                let oldest = passes.front().copied().unwrap_or(now);
                return Err(Exceeded {
                    reason: format!("the limit of {limit} is reached"),
                    retry_after: (oldest + limit.window).saturating_sub(now),
                });
            }
        }
        self.make_room(&subjects, now)?;
        for subject in subjects {
            self.passes.entry(subject).or_default().push_back(now);
            self.stamps += 1;
        }
        Ok(())
    }

    /// Drops what has left a subject's window.
    fn forget(&mut self, subject: &Subject, now: Duration) {
        let Some(passes) = self.passes.get_mut(subject) else {
            return;
        };
        let window = Duration::from_secs(subject.window_s);
        while passes.front().is_some_and(|oldest| *oldest + window <= now) {
            passes.pop_front();
            self.stamps -= 1;
        }
        if passes.is_empty() {
            self.passes.remove(subject);
        }
    }

    fn make_room(&mut self, subjects: &[Subject], now: Duration) -> Result<(), Exceeded> {
        let new = |rates: &Rates| {
            subjects
                .iter()
                .filter(|own| !rates.passes.contains_key(own))
                .count()
        };
        let full = |rates: &Rates| {
            rates.stamps + subjects.len() > rates.stamps_max
                || rates.passes.len() + new(rates) > rates.subjects_max
        };
        if !full(self) {
            return Ok(());
        }
        let all: Vec<Subject> = self.passes.keys().cloned().collect();
        for subject in &all {
            self.forget(subject, now);
        }
        match full(self) {
            false => Ok(()),
            true => Err(Exceeded {
                reason: "too much is counted at this time".to_owned(),
                retry_after: Duration::from_secs(60),
            }),
        }
    }
}

/// The rates of one gateway.
#[derive(Debug)]
pub struct Counter {
    rates: Mutex<Rates>,
    since: Instant,
}

impl Default for Counter {
    fn default() -> Self {
        Counter {
            rates: Mutex::default(),
            since: Instant::now(),
        }
    }
}

impl Counter {
    /// Counts an action that a rule lets pass, or asks about.
    ///
    /// # Errors
    /// It is one too many.
    pub fn count(&self, judgement: &Judgement, agent: &Agent, endpoint: &str) -> Result<(), Refusal> {
        let (Some(limits), Some(rule)) = (&judgement.limits, judgement.verdict.rule()) else {
            return Ok(());
        };
        let own = agent.identity.agent_key();
        let names = Names {
            rule,
            agent: &own,
            profile: &agent.profile,
            endpoint,
        };
        let mut rates = self.rates.lock().unwrap_or_else(PoisonError::into_inner);
        let passed = rates.pass(limits, names, self.since.elapsed());
        passed.map_err(|exceeded| {
            let retry_after_s =
                exceeded.retry_after.as_secs() + u64::from(exceeded.retry_after.subsec_nanos() > 0);
            let rule = rule.clone();
            Refusal::new(Cause::Limit { rule, retry_after_s }, exceeded.reason)
        })
    }
}

fn subject(limit: &Limit, names: Names<'_>) -> Subject {
    let name = match limit.per {
        Per::Agent => names.agent,
        Per::Profile => names.profile,
        Per::Endpoint => names.endpoint,
        Per::Rule => "",
    };
    Subject {
        rule: names.rule.into(),
        per: limit.per,
        window_s: limit.window.as_secs(),
        name: name.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(agent: &str) -> Names<'_> {
        Names {
            rule: "r",
            agent,
            profile: "p",
            endpoint: "e",
        }
    }

    fn limit(count: u32, per: Per) -> Limit {
        Limit {
            count,
            window: Duration::from_secs(60),
            per,
        }
    }

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn in_no_window_pass_more_than_it_says() {
        let mut rates = Rates::default();
        let own = [limit(3, Per::Agent)];
        for second in [0, 20, 59] {
            assert_eq!(rates.pass(&own, names("a"), at(second)), Ok(()));
        }
        let exceeded = rates.pass(&own, names("a"), at(59)).unwrap_err();
        assert_eq!(exceeded.retry_after, at(1));
        assert_eq!(exceeded.reason, "the limit of 3 in 60 s for an agent is reached");
        assert_eq!(rates.pass(&own, names("b"), at(59)), Ok(()));
        // The first has left the window; what was refused did not count.
        assert_eq!(rates.pass(&own, names("a"), at(60)), Ok(()));
        assert!(rates.pass(&own, names("a"), at(79)).is_err());
        assert_eq!(rates.pass(&own, names("a"), at(80)), Ok(()));
    }

    #[test]
    fn each_limit_counts_by_its_own_name() {
        for (per, other) in [
            (Per::Profile, false),
            (Per::Endpoint, false),
            (Per::Rule, false),
            (Per::Agent, true),
        ] {
            let mut rates = Rates::default();
            let own = [limit(1, per)];
            assert_eq!(rates.pass(&own, names("a"), at(0)), Ok(()));
            assert_eq!(rates.pass(&own, names("b"), at(0)).is_ok(), other, "{per:?}");
        }
        // A limit that is reached takes nothing from the others.
        let mut rates = Rates::default();
        let both = [limit(2, Per::Rule), limit(1, Per::Agent)];
        assert_eq!(rates.pass(&both, names("a"), at(0)), Ok(()));
        assert!(rates.pass(&both, names("a"), at(0)).is_err());
        assert_eq!(rates.pass(&both, names("b"), at(0)), Ok(()));
        assert!(rates.pass(&both, names("c"), at(0)).is_err());
    }

    #[test]
    fn memory_is_bounded_and_what_has_no_room_is_denied() {
        let mut rates = Rates::bounded(4, 100);
        let own = [limit(10, Per::Agent)];
        for _ in 0..4 {
            assert_eq!(rates.pass(&own, names("a"), at(0)), Ok(()));
        }
        assert!(rates.pass(&own, names("b"), at(0)).is_err());
        assert_eq!(rates.pass(&own, names("b"), at(61)), Ok(()));
        assert_eq!((rates.stamps, rates.passes.len()), (1, 1));
        let mut rates = Rates::bounded(100, 2);
        assert_eq!(rates.pass(&own, names("a"), at(0)), Ok(()));
        assert_eq!(rates.pass(&own, names("b"), at(0)), Ok(()));
        assert!(rates.pass(&own, names("c"), at(0)).is_err());
        assert_eq!(rates.pass(&own, names("b"), at(0)), Ok(()));
        assert_eq!(rates.pass(&own, names("c"), at(60)), Ok(()));
    }
}
