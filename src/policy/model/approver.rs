//! Who decides when a rule asks. *Pure.*

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, NaiveTime, Utc};
use chrono_tz::Tz;

/// What stands before the name of a grant in a list of approvers.
pub const APPROVER_GRANT: &str = "grant:";

/// Who arbitrates in a chain.
#[derive(Clone, Debug)]
pub struct Approver {
    /// `human_approver.oncall`.
    pub key: Arc<str>,
    pub name: String,
    pub kind: ApproverKind,
}

#[derive(Clone, Debug)]
pub enum ApproverKind {
    Human {
        /// Where its questions belong (`channel`), as free text that goes with each of them: what hands them on
        /// (`tailkeep approvals watch --format json`) reads it. The gateway itself sends to
        /// `channels` alone.
        channel: Option<String>,
        /// Where people are told of its questions, by key (`channels`).
        channels: Vec<Arc<str>>,
        timeout: Option<Duration>,
        /// Distinct people who must allow.
        require_approvers: u32,
        /// Who may decide: accounts, logins, `*@domain`, and [`APPROVER_GRANT`] with a name; empty for
        /// every operator.
        approvers: Vec<String>,
        /// Never the agent's owner: the login of its node's user. A tagged node and a WireGuard peer
        /// have none.
        separation: bool,
        /// What it means that nobody decided in time.
        on_timeout: FailMode,
        /// Who may decide too, once nobody did for so long (`escalate_after`, `escalate_to`).
        escalation: Option<Escalation>,
        /// When nobody is asked (`quiet_hours`, `quiet_zone`): the escalation's people are asked at
        /// once; where there are none, it counts as timed out.
        quiet: Option<Quiet>,
    },
    Llm(Box<Judge>),
}

impl Approver {
    /// The fields of its block in which another of the same key decides otherwise, or is asked otherwise.
    pub fn differences(&self, other: &Approver) -> Vec<&'static str> {
        let fields = match (&self.kind, &other.kind) {
            (ApproverKind::Human { .. }, ApproverKind::Human { .. }) => self.kind.human(&other.kind),
            (ApproverKind::Llm(own), ApproverKind::Llm(others)) => own.fields(others),
            _ => return vec!["type"],
        };
        fields
            .into_iter()
            .filter_map(|(name, is_same)| (!is_same).then_some(name))
            .collect()
    }
}

impl ApproverKind {
    /// Each field of two that are people, and whether it is the same.
    fn human(&self, other: &ApproverKind) -> Vec<(&'static str, bool)> {
        // All are named, so that a new one cannot be forgotten here.
        let (
            ApproverKind::Human {
                channel,
                channels,
                timeout,
                require_approvers,
                approvers,
                separation,
                on_timeout,
                escalation,
                quiet,
            },
            ApproverKind::Human {
                channel: channel2,
                channels: channels2,
                timeout: timeout2,
                require_approvers: require_approvers2,
                approvers: approvers2,
                separation: separation2,
                on_timeout: on_timeout2,
                escalation: escalation2,
                quiet: quiet2,
            },
        ) = (self, other)
        else {
            return Vec::new();
        };
        vec![
            ("channel", channel == channel2),
            ("channels", channels == channels2),
            ("timeout", timeout == timeout2),
            ("require_approvers", require_approvers == require_approvers2),
            ("approvers", approvers == approvers2),
            ("separation", separation == separation2),
            ("on_timeout", on_timeout == on_timeout2),
            ("escalate_after, escalate_to", escalation == escalation2),
            ("quiet_hours, quiet_zone", quiet == quiet2),
        ]
    }
}

impl Judge {
    fn fields(&self, other: &Judge) -> Vec<(&'static str, bool)> {
        let Judge {
            provider,
            base_url,
            model,
            credential,
            policy,
            timeout,
            fail_mode,
            confidence_min,
            cache,
            request_bytes_max,
            answer_tokens_max,
            requests_per_hour,
            tokens_per_day,
        } = self;
        vec![
            ("provider", *provider == other.provider),
            ("base_url", *base_url == other.base_url),
            ("model", *model == other.model),
            ("credential", *credential == other.credential),
            ("policy", *policy == other.policy),
            ("timeout", *timeout == other.timeout),
            ("fail_mode", *fail_mode == other.fail_mode),
            (
                "confidence_min",
                confidence_min.to_bits() == other.confidence_min.to_bits(),
            ),
            ("cache", *cache == other.cache),
            ("request_bytes_max", *request_bytes_max == other.request_bytes_max),
            ("answer_tokens_max", *answer_tokens_max == other.answer_tokens_max),
            ("requests_per_hour", *requests_per_hour == other.requests_per_hour),
            ("tokens_per_day", *tokens_per_day == other.tokens_per_day),
        ]
    }
}

/// More people, later.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Escalation {
    pub after: Duration,
    /// As the `approvers` of [`ApproverKind::Human`].
    pub to: Vec<String>,
}

/// Hours of each day in which nobody is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quiet {
    pub from: NaiveTime,
    /// Not a part of it; before `from`, it is one of the next day.
    pub to: NaiveTime,
    pub zone: Tz,
}

impl Quiet {
    /// `22:00-07:00`; `None` if it is no span of hours.
    pub fn parse(text: &str, zone: Tz) -> Option<Quiet> {
        let (from, to) = text.split_once('-')?;
        let time = |text: &str| NaiveTime::parse_from_str(text.trim(), "%H:%M").ok();
        let (from, to) = (time(from)?, time(to)?);
        (from != to).then_some(Quiet { from, to, zone })
    }

    pub fn holds(&self, now: DateTime<Utc>) -> bool {
        let time = now.with_timezone(&self.zone).time();
        match self.from < self.to {
            true => self.from <= time && time < self.to,
            false => self.from <= time || time < self.to,
        }
    }
}

/// An LLM judge (`llm_approver`).
#[derive(Clone, Debug)]
pub struct Judge {
    /// Which API it speaks (`provider`); from the model's name where it is not said.
    pub provider: Provider,
    /// Where it is (`base_url`), with the API's version or without.
    pub base_url: String,
    pub model: String,
    /// What holds its key.
    pub credential: Option<Arc<str>>,
    /// The operator's words to it.
    pub policy: String,
    /// For one question, its wait for a place included.
    pub timeout: Duration,
    pub fail_mode: FailMode,
    /// From 0 to 1: a less certain `allow` is a failure (`confidence_min`, in percent).
    pub confidence_min: f64,
    /// How long an opinion counts for the identical action (`cache`); zero is not at all.
    pub cache: Duration,
    /// Bytes of an action, facts and all, that it is sent.
    pub request_bytes_max: usize,
    /// Tokens of an answer, what the model thinks before it among them.
    pub answer_tokens_max: u32,
    pub requests_per_hour: u64,
    pub tokens_per_day: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Provider {
    /// Anthropic's Messages API.
    Anthropic,
    /// OpenAI's Chat Completions, which many servers speak.
    Openai,
}

/// What it means that an approver gave no verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailMode {
    Deny,
    /// The people behind it in the chain decide without it; where there are none, it denies.
    Next,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quiet_hours_are_of_their_zone_and_go_over_midnight() {
        let night = Quiet::parse("22:00-07:00", Tz::Europe__Berlin).unwrap();
        for (at, quiet) in [
            ("2026-07-01T19:59:00Z", false),
            ("2026-07-01T20:00:00Z", true),
            ("2026-07-01T22:30:00Z", true),
            ("2026-07-02T04:59:59Z", true),
            ("2026-07-02T05:00:00Z", false),
            // In winter an hour later.
            ("2026-12-01T20:30:00Z", false),
        ] {
            assert_eq!(night.holds(at.parse().unwrap()), quiet, "{at}");
        }
        let noon = Quiet::parse("12:00-13:30", Tz::UTC).unwrap();
        assert!(noon.holds("2026-07-01T13:29:00Z".parse().unwrap()));
        assert!(!noon.holds("2026-07-01T13:30:00Z".parse().unwrap()));
        for wrong in ["", "22:00", "7-8", "25:00-07:00", "07:00-07:00"] {
            assert_eq!(Quiet::parse(wrong, Tz::UTC), None, "{wrong}");
        }
    }
}
