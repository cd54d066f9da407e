//! How often a rule lets actions pass. *Pure.*

use std::time::Duration;

/// How often a rule lets actions pass (`limit { rate = "30/m" per = "agent" }`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limit {
    /// Actions in any stretch of the window's length; at most [`LIMIT_COUNT_MAX`].
    pub count: u32,
    /// Whole seconds.
    pub window: Duration,
    pub per: Per,
}

/// Actions that a limit may count to: the time of each is kept.
pub const LIMIT_COUNT_MAX: u32 = 10_000;

impl Limit {
    /// `30/m`, `5/10s`, `1000/d`.
    pub(in crate::policy) fn rate(text: &str) -> Option<(u32, Duration)> {
        let (count, window) = text.split_once('/')?;
        let count = count
            .trim()
            .parse()
            .ok()
            .filter(|count| (1..=LIMIT_COUNT_MAX).contains(count))?;
        let window = window.trim();
        let unit = match window.chars().last()? {
            's' => 1,
            'm' => 60,
            'h' => 3600,
            'd' => 86_400,
            _ => return None,
        };
        let number = match window.get(..window.len() - 1)? {
            "" => 1,
            number => number.parse::<u64>().ok().filter(|number| *number > 0)?,
        };
        let seconds = number
            .checked_mul(unit)
            .filter(|seconds| *seconds <= 31 * 86_400)?;
        Some((count, Duration::from_secs(seconds)))
    }
}

impl std::fmt::Display for Limit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let per = match self.per {
            Per::Agent => "for an agent",
            Per::Profile => "for a profile",
            Per::Endpoint => "for an endpoint",
            Per::Rule => "for all together",
        };
        write!(f, "{} in {} s {per}", self.count, self.window.as_secs())
    }
}

/// By what a [`Limit`] counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Per {
    #[default]
    Agent,
    Profile,
    Endpoint,
    Rule,
}
