//! The record judged by another policy: which verdicts would change, before it is in force.
//!
//! Whose an action was is chosen anew by the other policy: a record says all of a WireGuard peer, and
//! of a tailnet's node its tags, grants and capabilities. Records of before they were kept are judged
//! by the profile that was recorded, and counted ([`Replayed::assumed`]). A verdict that hangs on what
//! was not recorded is counted and not guessed.

mod terms;
mod walk;
mod who;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde_json::{Value, json};

use super::read::ReadError;
use crate::facts::{FactSource, Family};
use crate::policy::{Coverage, Judgement, Policy, RecordedFacts, Step};
use crate::verdict::{Cause, Verdict};

use walk::newest;
pub use walk::{Bounds, LeftOut, each};
pub use who::agent;
use who::{identity, profile};

/// A verdict with its rule.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Said {
    /// `allow`, `deny` or `approve`.
    pub verdict: String,
    pub rule: Option<String>,
    /// Who is asked, in their order, where the verdict is `approve`; `None` where a record does not tell.
    pub approvers: Option<Vec<String>>,
    /// By which other terms than in the policy in force it passes or is asked: an approver's own fields, the channels'
    /// people and places, the rule's limit.
    pub asked_otherwise: Vec<String>,
}

impl Said {
    /// Whether it is another verdict, or others are asked, or the same by other terms.
    fn differs(&self, other: &Said) -> bool {
        let asks_others = match (&self.approvers, &other.approvers) {
            (Some(own), Some(others)) => own != others,
            _ => false,
        };
        self.verdict != other.verdict || asks_others || self.asked_otherwise != other.asked_otherwise
    }
}

/// Records whose verdict would change in the same way.
#[derive(Clone, Debug)]
pub struct Change {
    pub endpoint: String,
    pub profile: String,
    pub was: Said,
    pub would: Said,
    pub count: u64,
    /// The first of them: its number and its summary.
    pub record: u64,
    pub summary: String,
}

/// What a replay found.
#[derive(Clone, Debug, Default)]
pub struct Replayed {
    /// Records that were judged anew.
    pub judged: u64,
    /// Of these, how many would come out otherwise.
    pub changed: u64,
    pub changes: Vec<Change>,
    /// Of those that were judged, how many by the profile that was recorded: what the profile would be
    /// now cannot be told, as their agents' tags were not kept.
    pub assumed: u64,
    /// Why others could not be judged, with how many.
    pub not_replayed: BTreeMap<String, u64>,
    /// What was not looked at, as it was over a bound.
    pub left_out: Option<LeftOut>,
}

impl Replayed {
    /// One document: `judged`, `changed`, `assumed`, `changes`, `not_replayed`, `left_out`.
    pub fn to_json(&self) -> Value {
        let said = |said: &Said| {
            let mut object = json!({ "verdict": said.verdict, "rule": said.rule });
            if let Some(approvers) = &said.approvers {
                object["approvers"] = json!(approvers);
            }
            if !said.asked_otherwise.is_empty() {
                object["asked_otherwise"] = json!(said.asked_otherwise);
            }
            object
        };
        let changes = self.changes.iter().map(|change| {
            json!({
                "count": change.count, "endpoint": change.endpoint, "profile": change.profile,
                "was": said(&change.was), "would": said(&change.would),
                "record": change.record, "summary": change.summary,
            })
        });
        json!({
            "judged": self.judged, "changed": self.changed, "assumed": self.assumed, "changes": changes.collect::<Vec<_>>(),
            "not_replayed": self.not_replayed, "left_out": self.left_out,
        })
    }
}

/// Judges every record since a time (Unix, microseconds) by `policy`.
///
/// Whom a rule asks, by which terms and how often it lets pass is compared with what `old`, the policy in force, says; without
/// it, with those who approved, as a record names no others and no terms.
///
/// # Errors
/// The log cannot be read.
pub fn replay(
    log: &Path,
    since_us: i64,
    old: Option<&Policy>,
    policy: &Policy,
) -> Result<Replayed, ReadError> {
    let mut work = Work::default();
    each(log, since_us, |record| work.judge(old, policy, record))?;
    Ok(work.done(None))
}

/// As [`replay`], of the newest records within some bounds.
///
/// # Errors
/// The log cannot be read.
pub fn rehearse(
    log: &Path,
    since_us: i64,
    bounds: Bounds,
    old: &Policy,
    policy: &Policy,
) -> Result<Replayed, ReadError> {
    let mut work = Work::default();
    let left_out = newest(log, since_us, bounds, |record| {
        work.judge(Some(old), policy, record)
    })?;
    Ok(work.done(left_out))
}

/// A replay that is under way.
#[derive(Default)]
struct Work {
    found: Replayed,
    groups: BTreeMap<(String, String, Said, Said), Change>,
}

impl Work {
    fn judge(&mut self, old: Option<&Policy>, policy: &Policy, record: &Value) {
        let found = &mut self.found;
        let (mut was, mut would) = match (was(record), judge(policy, record)) {
            (Some(was), Ok(would)) => (was, would),
            (None, _) => {
                let cause = text(record, "cause").unwrap_or("unknown");
                *found
                    .not_replayed
                    .entry(format!("no verdict of a policy: {cause}"))
                    .or_default() += 1;
                return;
            }
            (_, Err(why)) => {
                *found.not_replayed.entry(why).or_default() += 1;
                return;
            }
        };
        found.judged += 1;
        found.assumed += u64::from(identity(record).is_none());
        if let Some(old) = old.filter(|_| was.verdict == would.verdict)
            && let Ok(in_force) = judge(old, record)
            && in_force.verdict == was.verdict
        {
            was.approvers = in_force.approvers;
            let rules = [in_force.rule.as_deref(), would.rule.as_deref()];
            let endpoint = text(record, "endpoint").unwrap_or_default();
            let chain = would.approvers.as_deref().unwrap_or_default();
            would.asked_otherwise = terms::changed((old, policy), endpoint, rules, chain);
        }
        if !was.differs(&would) {
            return;
        }
        found.changed += 1;
        let own = |name| text(record, name).unwrap_or_default().to_owned();
        let key = (own("endpoint"), own("profile"), was.clone(), would.clone());
        let number = record["id"].as_u64().unwrap_or_default();
        let group = self.groups.entry(key).or_insert_with(|| Change {
            endpoint: own("endpoint"),
            profile: own("profile"),
            was,
            would,
            count: 0,
            record: number,
            summary: own("summary"),
        });
        group.count += 1;
        if number < group.record {
            (group.record, group.summary) = (number, own("summary"));
        }
    }

    fn done(mut self, left_out: Option<LeftOut>) -> Replayed {
        let changes = &mut self.found.changes;
        *changes = self.groups.into_values().collect();
        changes.sort_by_key(|change| std::cmp::Reverse(change.count));
        self.found.left_out = left_out;
        self.found
    }
}

fn text<'a>(record: &'a Value, name: &str) -> Option<&'a str> {
    record[name].as_str()
}

/// What the policy of then said, apart from what people said to it.
fn was(record: &Value) -> Option<Said> {
    let verdict = match (text(record, "step")?, text(record, "cause")?) {
        ("request" | "connect", "rule" | "unmatched" | "connect") => text(record, "verdict")?,
        ("request", "approved" | "refused" | "timed_out" | "held" | "approval_down" | "granted") => "approve",
        ("request" | "connect", "no_rule" | "unevaluable" | "no_profile" | "no_endpoint") => "deny",
        ("request", "limit") => "allow",
        _ => return None,
    };
    Some(Said {
        verdict: verdict.to_owned(),
        rule: text(record, "rule").map(str::to_owned),
        approvers: approved(record),
        asked_otherwise: Vec::new(),
    })
}

/// The approvers of what was approved: each said yes, as `approver:person`. Of what was refused, those
/// who come after are not known.
fn approved(record: &Value) -> Option<Vec<String>> {
    if !matches!(text(record, "cause")?, "approved" | "granted") {
        return None;
    }
    let said = record["approvers"].as_array()?.iter();
    let keys = said.map(|one| Some(one.as_str()?.split_once(':')?.0.to_owned()));
    let mut keys: Vec<String> = keys.collect::<Option<_>>()?;
    keys.dedup();
    Some(keys)
}

/// A request as it was recorded, for a policy that may be another.
struct Recorded<'a> {
    profile: Arc<str>,
    endpoint: &'a str,
    credential: Option<&'a str>,
    facts: RecordedFacts,
    agent: RecordedFacts,
    at: DateTime<Utc>,
}

impl<'a> Recorded<'a> {
    fn read(policy: &Policy, record: &'a Value, profile: Arc<str>) -> Result<Self, String> {
        let endpoint = text(record, "endpoint").ok_or_else(broken)?;
        let Some(own) = policy.model().endpoint(endpoint) else {
            return Err("the endpoint is not in this policy".to_owned());
        };
        let at = record["at_us"].as_i64().and_then(DateTime::from_timestamp_micros);
        Ok(Recorded {
            endpoint,
            credential: text(record, "credential"),
            facts: RecordedFacts::read(own.family, &record["facts"]),
            agent: RecordedFacts::read(Family::Agent, &agent(record, &profile)),
            at: at.ok_or_else(broken)?,
            profile,
        })
    }

    /// Which fact a verdict hung on that was not recorded, as why there is none.
    fn missed(&self) -> Option<String> {
        let slot = self.facts.missed().or(self.agent.missed())?;
        Some(format!("{}.{} was not recorded", slot.family(), slot.name()))
    }
}

fn broken() -> String {
    "the record is not readable".to_owned()
}

/// Why each rule of `policy` does or does not match what was recorded: the judgement, and every rule on the way.
///
/// # Errors
/// That it cannot be told, and why.
pub fn explain(policy: &Policy, record: &Value) -> Result<(Judgement, Vec<Step>), String> {
    let own = asked(policy, record)?;
    let who = (&*own.profile, &own.agent as &dyn FactSource);
    let (judgement, steps) = policy.explain_recorded(who, own.endpoint, own.credential, &own.facts, own.at);
    match (&judgement.verdict, own.missed()) {
        (Verdict::Deny(refusal), Some(missed)) if matches!(refusal.cause, Cause::Unevaluable(_)) => {
            Err(missed)
        }
        _ => Ok((judgement, steps)),
    }
}

/// What the policy came to on the newest requests since a time, within some bounds; and on how many.
///
/// # Errors
/// The log cannot be read.
pub fn cover<'a>(
    log: &Path,
    since_us: i64,
    bounds: Bounds,
    policy: &'a Policy,
) -> Result<(Coverage<'a>, u64, Option<LeftOut>), ReadError> {
    let coverage = policy.coverage();
    let mut judged = 0;
    let left_out = newest(log, since_us, bounds, |record| {
        if let Ok(own) = asked(policy, record) {
            let who = (&*own.profile, &own.agent as &dyn FactSource);
            coverage.judge_recorded(who, own.endpoint, own.credential, &own.facts, own.at);
            judged += 1;
        }
    })?;
    Ok((coverage, judged, left_out))
}

/// A request of which rules are asked.
fn asked<'a>(policy: &Policy, record: &'a Value) -> Result<Recorded<'a>, String> {
    if text(record, "step") != Some("request") || text(record, "verdict") == Some("note") {
        return Err("rules are asked of requests alone".to_owned());
    }
    let profile = profile(policy, record).ok_or("no profile of this policy is for its agent")?;
    Recorded::read(policy, record, profile)
}

/// What `policy` says of a record, or why that cannot be told.
fn judge(policy: &Policy, record: &Value) -> Result<Said, String> {
    let said = |verdict: &str, rule: Option<&str>| Said {
        verdict: verdict.to_owned(),
        rule: rule.map(str::to_owned),
        approvers: None,
        asked_otherwise: Vec::new(),
    };
    let Some(profile) = profile(policy, record) else {
        return Ok(said("deny", None));
    };
    let own = Recorded::read(policy, record, profile)?;
    if text(record, "step") == Some("connect") {
        let held = policy
            .model()
            .profile(&own.profile)
            .is_some_and(|held| held.endpoints.iter().any(|key| **key == *own.endpoint));
        return Ok(said(if held { "allow" } else { "deny" }, None));
    }
    let who = (&*own.profile, &own.agent as &dyn FactSource);
    let judgement = policy.evaluate_recorded(who, own.endpoint, own.credential, &own.facts, own.at);
    Ok(match &judgement.verdict {
        Verdict::Allow { rule } => said("allow", rule.as_deref()),
        Verdict::Ask { rule, chain, .. } => Said {
            approvers: Some(chain.iter().map(|key| (**key).to_owned()).collect()),
            ..said("approve", Some(&**rule))
        },
        Verdict::Deny(refusal) => {
            if let (Cause::Unevaluable(_), Some(missed)) = (&refusal.cause, own.missed()) {
                return Err(missed);
            }
            said("deny", refusal.rule().map(|rule| &**rule))
        }
    })
}
