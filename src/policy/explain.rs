//! Why each rule did or did not match: the walk, followed. *Pure.*

use std::cell::RefCell;

use chrono::{DateTime, Utc};
use serde::Serialize;

use super::cel::trace::Trace;
use super::cel::{Fault, Node, Outcome, Part, Watch};
use super::rule::{Rule, Witness};
use super::{Judgement, Policy};
use crate::facts::{FactSource, Mask};
use crate::identity::Agent;

/// What was found of one rule on the way to the verdict.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, schemars::JsonSchema)]
pub struct Step {
    pub rule: String,
    /// `matched: …`, `not matched`, `not evaluable: denied`, `shadow: would …`.
    pub outcome: String,
    /// Where the rule stands: file, line and column, from 1.
    pub place: Option<String>,
    /// Which credential it wants and the action has not; its condition was not asked then.
    pub credential: Option<String>,
    /// Every part of its condition with its value.
    pub condition: Option<Part>,
}

impl Step {
    /// For people: a line for each part.
    pub fn lines(&self) -> Vec<String> {
        match (&self.credential, &self.condition) {
            (Some(credential), _) => vec![credential.clone()],
            (None, Some(part)) => part.lines(),
            (None, None) => vec!["it has no condition".to_owned()],
        }
    }
}

/// Follows a walk, and keeps what it saw.
struct Explainer<'a> {
    policy: &'a Policy,
    trace: Trace,
    facts: &'a dyn FactSource,
    mask: &'a Mask,
    steps: RefCell<Vec<Step>>,
}

impl Watch for &Explainer<'_> {
    fn enter(&self, node: &Node) {
        (&self.trace).enter(node);
    }

    fn leave(&self, node: &Node, outcome: &Outcome<'_>) {
        (&self.trace).leave(node, outcome);
    }
}

impl Witness for &Explainer<'_> {
    const EVERY: bool = true;

    fn judged(&self, rule: &Rule, credential: Option<&str>, matched: &Result<bool, Fault>) {
        let outcome = match matched {
            Ok(true) if rule.shadow => format!("shadow: would {}", rule.outcome.name()),
            Ok(true) => format!("matched: {}", rule.outcome.name()),
            Ok(false) => "not matched".to_owned(),
            Err(_) if rule.shadow => "shadow: not evaluable".to_owned(),
            Err(_) => "not evaluable: denied".to_owned(),
        };
        let fits = rule.fits(credential);
        let wanted = rule.credential.as_deref().filter(|_| !fits);
        let place = self.policy.notes.place(rule.at);
        self.steps.borrow_mut().push(Step {
            rule: rule.name.to_string(),
            outcome,
            place: place.map(|place| place.to_string()),
            credential: wanted
                .map(|wanted| format!("credential is {} and not {wanted}", credential.unwrap_or("none"))),
            condition: rule
                .condition
                .as_ref()
                .filter(|_| fits)
                .map(|condition| condition.part(&self.trace, self.facts, self.mask)),
        });
    }
}

impl Policy {
    /// As [`Policy::evaluate`], and what was found of each rule on the way, in their order. What the
    /// policy's mask hides in records is hidden here.
    pub fn explain(
        &self,
        agent: &Agent,
        endpoint: &str,
        credential: Option<&str>,
        facts: &dyn FactSource,
        now: DateTime<Utc>,
    ) -> (Judgement, Vec<Step>) {
        let who = (&*agent.profile, agent as &dyn FactSource);
        self.explain_recorded(who, endpoint, credential, facts, now)
    }

    /// As [`Policy::explain`], for an agent of whom there is a record: its profile and its facts.
    pub fn explain_recorded(
        &self,
        agent: (&str, &dyn FactSource),
        endpoint: &str,
        credential: Option<&str>,
        facts: &dyn FactSource,
        now: DateTime<Utc>,
    ) -> (Judgement, Vec<Step>) {
        let explainer = Explainer {
            policy: self,
            trace: Trace::default(),
            facts,
            mask: &self.mask,
            steps: RefCell::default(),
        };
        let judgement = self
            .rules
            .judge(agent, endpoint, credential, (facts, now), &explainer);
        (judgement, explainer.steps.into_inner())
    }
}
