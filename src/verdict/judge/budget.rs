//! What judges may cost: requests an hour, and tokens a day.
//!
//! A question's tokens are known when it is answered. Until then, and where nobody says, they are taken to be
//! as many as its bytes are likely to be, so that neither questions that are out at once nor a server that does
//! not count goes over.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::JudgeDown;
use crate::policy::Judge;

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);

/// Bytes of one token, about, in both APIs.
const BYTES_PER_TOKEN: usize = 4;

/// What each judge has cost, by its key.
#[derive(Default)]
pub(super) struct Budget(Mutex<HashMap<Arc<str>, Spent>>);

/// What a judge has cost in the hour and in the day that run.
struct Spent {
    hour: Instant,
    requests: u64,
    day: Instant,
    tokens: u64,
}

/// As many tokens as so many bytes are likely to be.
pub(super) fn likely(bytes: usize) -> u64 {
    u64::try_from(bytes.div_ceil(BYTES_PER_TOKEN)).unwrap_or(u64::MAX)
}

impl Budget {
    /// Takes one request, and the tokens that it is likely to cost.
    pub fn take(&self, key: &Arc<str>, judge: &Judge, tokens: u64) -> Result<(), JudgeDown> {
        let now = Instant::now();
        let mut spent = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let own = spent.entry(key.clone()).or_insert(Spent {
            hour: now,
            requests: 0,
            day: now,
            tokens: 0,
        });
        if now - own.hour >= HOUR {
            (own.hour, own.requests) = (now, 0);
        }
        if now - own.day >= DAY {
            (own.day, own.tokens) = (now, 0);
        }
        if own.requests >= judge.requests_per_hour {
            return Err(JudgeDown::Requests(own.requests));
        }
        if own.tokens >= judge.tokens_per_day {
            return Err(JudgeDown::Tokens(own.tokens));
        }
        own.requests += 1;
        own.tokens = own.tokens.saturating_add(tokens);
        Ok(())
    }

    /// What was taken as `likely` has cost `tokens`.
    pub fn settle(&self, key: &Arc<str>, likely: u64, tokens: u64) {
        let mut spent = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = spent.get_mut(key) {
            own.tokens = own.tokens.saturating_sub(likely).saturating_add(tokens);
        }
    }
}
