//! Which rules, and which branches of their conditions, were ever judged either way. *Pure.*

use std::cell::RefCell;
use std::collections::HashMap;

use chrono::{DateTime, Utc};
use serde::Serialize;

use super::cel::coverage::{Seen, Times};
use super::cel::{Fault, Node, Outcome, Watch};
use super::diagnostic::At;
use super::load::raw_offset;
use super::rule::{Rule, Witness};
use super::{Judgement, Policy};
use crate::facts::FactSource;
use crate::identity::Agent;

/// Counts over many actions what each rule, and each operand of its condition, came to.
#[derive(Debug)]
pub struct Coverage<'a> {
    policy: &'a Policy,
    seen: Seen,
    /// By a rule's place in the order of declaration.
    rules: RefCell<HashMap<usize, Times>>,
}

/// One rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, schemars::JsonSchema)]
pub struct CoveredRule {
    pub rule: String,
    /// File, line and column, from 1.
    pub place: Option<String>,
    pub matched: u64,
    pub not_matched: u64,
    /// A fact that mattered was unknown, or the condition failed.
    pub not_evaluable: u64,
    /// Whether it can fail to match: it has a condition or a credential.
    pub is_bound: bool,
    /// The operands of its condition's `&&`, `||` and `?:`.
    pub operands: Vec<CoveredOperand>,
}

/// One operand.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, schemars::JsonSchema)]
pub struct CoveredOperand {
    /// As it was written, each blank space as one.
    pub text: String,
    /// `&&`, `||`, `?:`.
    pub of: &'static str,
    /// File, line and column, from 1.
    pub place: Option<String>,
    pub seen: Times,
    /// A branch of `?:` is covered once it was evaluated; all others by true and by false.
    pub is_branch: bool,
}

/// What was seen of what there is to see.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, schemars::JsonSchema)]
pub struct Share {
    pub seen: u64,
    pub of: u64,
}

impl Share {
    /// In hundredths, rounded down; 100 of nothing.
    pub fn percent(self) -> u64 {
        (self.seen * 100).checked_div(self.of).unwrap_or(100)
    }

    pub fn and(self, other: Share) -> Share {
        Share {
            seen: self.seen + other.seen,
            of: self.of + other.of,
        }
    }

    fn of(each: impl Iterator<Item = bool>) -> Share {
        each.fold(Share::default(), |share, seen| Share {
            seen: share.seen + u64::from(seen),
            of: share.of + 1,
        })
    }
}

impl CoveredRule {
    /// That it matched, and that it did not.
    pub fn share(&self) -> Share {
        let missed = self.is_bound.then_some(self.not_matched > 0);
        Share::of([self.matched > 0].into_iter().chain(missed))
    }

    /// The ways of its operands.
    pub fn branches(&self) -> Share {
        self.operands
            .iter()
            .map(CoveredOperand::share)
            .fold(Share::default(), Share::and)
    }
}

impl CoveredOperand {
    pub fn share(&self) -> Share {
        let Times { yes, no, other, .. } = self.seen;
        match self.is_branch {
            true => Share::of([yes + no + other > 0].into_iter()),
            false => Share::of([yes > 0, no > 0].into_iter()),
        }
    }
}

impl Watch for &Coverage<'_> {
    fn enter(&self, _node: &Node) {}

    fn leave(&self, node: &Node, outcome: &Outcome<'_>) {
        (&self.seen).leave(node, outcome);
    }
}

impl Witness for &Coverage<'_> {
    const EVERY: bool = true;

    fn judged(&self, rule: &Rule, _credential: Option<&str>, matched: &Result<bool, Fault>) {
        let mut rules = self.rules.borrow_mut();
        let times = rules.entry(rule.order).or_default();
        match matched {
            Ok(true) => times.yes += 1,
            Ok(false) => times.no += 1,
            Err(_) => times.none += 1,
        }
    }
}

impl Policy {
    /// Nothing is covered yet.
    pub fn coverage(&self) -> Coverage<'_> {
        Coverage {
            policy: self,
            seen: Seen::default(),
            rules: RefCell::default(),
        }
    }
}

impl Coverage<'_> {
    /// As [`Policy::evaluate`], walking every rule, and counted.
    pub fn judge(
        &self,
        agent: &Agent,
        endpoint: &str,
        credential: Option<&str>,
        facts: &dyn FactSource,
        now: DateTime<Utc>,
    ) -> Judgement {
        let who = (&*agent.profile, agent as &dyn FactSource);
        self.judge_recorded(who, endpoint, credential, facts, now)
    }

    /// As [`Coverage::judge`], for an agent of whom there is a record: its profile and its facts.
    pub fn judge_recorded(
        &self,
        agent: (&str, &dyn FactSource),
        endpoint: &str,
        credential: Option<&str>,
        facts: &dyn FactSource,
        now: DateTime<Utc>,
    ) -> Judgement {
        let rules = &self.policy.rules;
        rules.judge(agent, endpoint, credential, (facts, now), self)
    }

    /// Every rule in the order of declaration.
    pub fn rules(&self) -> Vec<CoveredRule> {
        let all = self.policy.rules.all().into_iter();
        all.map(|rule| self.rule(rule)).collect()
    }

    fn rule(&self, rule: &Rule) -> CoveredRule {
        let notes = &self.policy.notes;
        let times = self.rules.borrow().get(&rule.order).copied().unwrap_or_default();
        let operands = rule.condition.iter().flat_map(|condition| {
            condition.operands().into_iter().map(|operand| CoveredOperand {
                text: operand.text.split_whitespace().collect::<Vec<_>>().join(" "),
                of: operand.of,
                place: self.place(rule, condition.source(), operand.start),
                seen: self.seen.of(operand.node),
                is_branch: operand.is_branch,
            })
        });
        CoveredRule {
            rule: rule.name.to_string(),
            place: notes.place(rule.at).map(|place| place.to_string()),
            matched: times.yes,
            not_matched: times.no,
            not_evaluable: times.none,
            is_bound: rule.credential.is_some() || rule.condition.is_some(),
            operands: operands.collect(),
        }
    }

    /// Where byte `offset` of a rule's condition stands.
    fn place(&self, rule: &Rule, source: &str, offset: usize) -> Option<String> {
        let notes = &self.policy.notes;
        let at = rule.condition_at?;
        let start = at.start + raw_offset(notes.raw(at)?, source, offset);
        let place = notes.place(At { start, ..at })?;
        Some(place.to_string())
    }
}
