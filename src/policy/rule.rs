//! Compiled rules, and the walk that ends in a verdict. *Pure.*

use std::collections::HashMap;
use std::sync::Arc;

use chrono::{DateTime, Utc};

use super::cel::{Condition, Env, Fault, Watch};
use super::diagnostic::At;
use super::index::Index;
use super::{Judgement, Limit, Model, Protocol, Unmatched};
use crate::facts::{Blind, Fact, FactSet, FactSource, Slot};
use crate::identity::Agent;
use crate::verdict::{Cause, Refusal, Verdict};

/// What a rule says when it matches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Allow,
    Deny,
    Approve(Vec<Arc<str>>),
}

impl Outcome {
    pub(super) fn name(&self) -> &'static str {
        match self {
            Outcome::Allow => "allow",
            Outcome::Deny => "deny",
            Outcome::Approve(_) => "approve",
        }
    }
}

/// A rule, ready to be judged by.
#[derive(Debug)]
pub(crate) struct Rule {
    /// Its name; `profile/name` of one that stands inside a profile.
    pub(crate) name: Arc<str>,
    pub(crate) endpoints: Vec<Arc<str>>,
    /// The only profile that it is for.
    pub(crate) profile: Option<Arc<str>>,
    pub(crate) credential: Option<Arc<str>>,
    pub(crate) condition: Option<Condition>,
    pub(crate) outcome: Outcome,
    pub(crate) reason: Option<String>,
    pub(crate) priority: i64,
    pub(crate) shadow: bool,
    pub(crate) limits: Option<Arc<[Limit]>>,
    /// The place in the order of declaration.
    pub(crate) order: usize,
    /// Where its name stands.
    pub(crate) at: At,
    /// Where the text of its condition stands.
    pub(crate) condition_at: Option<At>,
}

impl Rule {
    fn is_for(&self, profile: &str) -> bool {
        self.profile.as_ref().is_none_or(|own| **own == *profile)
    }

    /// Whether it is for actions with this credential.
    pub(super) fn fits(&self, credential: Option<&str>) -> bool {
        self.credential.is_none() || self.credential.as_deref() == credential
    }

    /// Whether it matches.
    fn matches<'a, W: Watch>(&'a self, credential: Option<&str>, env: &Env<'a, W>) -> Result<bool, Fault> {
        if !self.fits(credential) {
            return Ok(false);
        }
        self.condition
            .as_ref()
            .map_or(Ok(true), |condition| condition.holds(env))
    }
}

/// Who follows a walk, rule by rule. `()` follows nothing: the walk of the data path.
pub(crate) trait Witness: Watch {
    /// Whether the rules that cannot match are walked too.
    const EVERY: bool;
    /// A rule was judged; its condition was evaluated unless it wants another credential.
    fn judged(&self, rule: &Rule, credential: Option<&str>, matched: &Result<bool, Fault>);
}

impl Witness for () {
    const EVERY: bool = false;

    #[inline(always)]
    fn judged(&self, _rule: &Rule, _credential: Option<&str>, _matched: &Result<bool, Fault>) {}
}

/// The rules of one endpoint.
#[derive(Debug, Default)]
struct Shelved {
    /// In the order of the walk.
    rules: Vec<Arc<Rule>>,
    index: Index,
    /// Facts that rules for every profile read.
    reads: FactSet,
    /// Facts that the rules of one profile read besides.
    profile_reads: HashMap<Arc<str>, FactSet>,
    /// Whether a rule tells SQL names by their schemas.
    names_schemas: bool,
}

impl Shelved {
    fn new(mut rules: Vec<Arc<Rule>>) -> Shelved {
        rules.sort_by_key(|rule| (std::cmp::Reverse(rule.priority), rule.order));
        let (mut reads, mut profile_reads) = (FactSet::EMPTY, HashMap::new());
        for rule in &rules {
            let own = rule.condition.as_ref().map_or(FactSet::EMPTY, Condition::reads);
            let place: &mut FactSet = match &rule.profile {
                Some(profile) => profile_reads.entry(profile.clone()).or_default(),
                None => &mut reads,
            };
            *place = place.union(own);
        }
        Shelved {
            index: Index::new(&rules),
            names_schemas: rules
                .iter()
                .any(|rule| rule.condition.as_ref().is_some_and(Condition::names_schemas)),
            rules,
            reads,
            profile_reads,
        }
    }
}

/// The rules, by endpoint, in the order in which they are walked.
#[derive(Debug, Default)]
pub(crate) struct Rules {
    by_endpoint: HashMap<Arc<str>, Shelved>,
    held: HashMap<Arc<str>, Vec<Arc<str>>>,
    refused: HashMap<Arc<str>, bool>,
    unmatched_allow: bool,
    count: usize,
}

/// The words an agent reads where the rule gives no reason.
const DENIED: &str = "denied by policy";
const NAMELESS: &str = "denied: what this action does cannot be told";
const UNEVALUABLE: &str = "denied: a rule could not be evaluated for this action";

/// Whether what an action does could not be told. Each rule then says no by another part of its
/// condition at most, and `unmatched = "allow"` would let pass what nobody has read.
fn is_nameless(facts: &dyn FactSource) -> bool {
    [Slot::SqlVerb, Slot::K8sVerb, Slot::HttpMethod, Slot::McpMethod]
        .into_iter()
        .any(|slot| matches!(facts.fact(slot), Fact::Unknown(blind) if blind != Blind::NotRead))
}

impl Rules {
    pub(crate) fn new(model: &Model, rules: Vec<Rule>) -> Self {
        let count = rules.len();
        let mut by_endpoint: HashMap<Arc<str>, Vec<Arc<Rule>>> = HashMap::new();
        for rule in rules.into_iter().map(Arc::new) {
            for endpoint in &rule.endpoints {
                by_endpoint
                    .entry(endpoint.clone())
                    .or_default()
                    .push(rule.clone());
            }
        }
        let by_endpoint = by_endpoint
            .into_iter()
            .map(|(endpoint, rules)| (endpoint, Shelved::new(rules)))
            .collect();
        let held = model
            .profiles
            .iter()
            .map(|profile| (profile.name.clone(), profile.endpoints.clone()));
        let refused = model
            .endpoints
            .iter()
            .map(|endpoint| (endpoint.key.clone(), endpoint.protocol == Protocol::Unread));
        Rules {
            by_endpoint,
            held: held.collect(),
            refused: refused.collect(),
            unmatched_allow: model.defaults.unmatched == Unmatched::Allow,
            count,
        }
    }

    /// Each rule once, in the order of declaration.
    pub(super) fn all(&self) -> Vec<&Arc<Rule>> {
        let mut all: Vec<&Arc<Rule>> = self
            .by_endpoint
            .values()
            .flat_map(|shelved| &shelved.rules)
            .collect();
        all.sort_by_key(|rule| rule.order);
        all.dedup_by_key(|rule| rule.order);
        all
    }

    /// The rule of this name that an endpoint's actions are judged by.
    pub(super) fn find(&self, endpoint: &str, name: &str) -> Option<&Arc<Rule>> {
        let shelved = self.by_endpoint.get(endpoint)?;
        shelved.rules.iter().find(|rule| *rule.name == *name)
    }

    pub(crate) fn len(&self) -> usize {
        self.count
    }

    pub(crate) fn needs(&self, agent: &Agent, endpoint: &str) -> FactSet {
        let Some(own) = self.by_endpoint.get(endpoint) else {
            return FactSet::EMPTY;
        };
        let of_profile = own.profile_reads.get(&agent.profile);
        own.reads.union(of_profile.copied().unwrap_or_default())
    }

    /// Whether a rule of the endpoint tells SQL names by their schemas.
    pub(crate) fn names_schemas(&self, endpoint: &str) -> bool {
        self.by_endpoint
            .get(endpoint)
            .is_some_and(|own| own.names_schemas)
    }

    /// Walks the rules that could match, or every one if `witness` wants that.
    pub(crate) fn judge<'a, W: Witness>(
        &'a self,
        (profile, agent): (&'a str, &'a dyn FactSource),
        endpoint: &str,
        credential: Option<&'a str>,
        (facts, now): (&'a dyn FactSource, DateTime<Utc>),
        witness: W,
    ) -> Judgement {
        let mut shadow = Vec::new();
        if let Some(refusal) = self.unreachable(profile, endpoint) {
            return Judgement::plain(Verdict::Deny(refusal));
        }
        let env = Env::new(facts, agent).at(now).watched(witness);
        let walk = Walk {
            profile,
            credential,
            env,
        };
        let decided = self.by_endpoint.get(endpoint).and_then(|own| {
            if W::EVERY {
                return walk.run(own.rules.iter(), &mut shadow);
            }
            let places = own.index.candidates(profile, facts, agent);
            walk.run(places.filter_map(|place| own.rules.get(place)), &mut shadow)
        });
        if let Some((verdict, limits)) = decided {
            return Judgement {
                verdict,
                shadow,
                limits,
            };
        }
        let verdict = match self.unmatched_allow {
            true if is_nameless(facts) => Verdict::Deny(Refusal::new(Cause::NoRule, NAMELESS)),
            true => Verdict::Allow { rule: None },
            false => Verdict::Deny(Refusal::new(Cause::NoRule, "no rule allows this")),
        };
        Judgement {
            verdict,
            shadow,
            limits: None,
        }
    }

    /// Why no action of this agent may reach the endpoint at all.
    fn unreachable(&self, profile: &str, endpoint: &str) -> Option<Refusal> {
        let Some(held) = self.held.get(profile) else {
            return Some(Refusal::new(Cause::NoProfile, "no profile is for this agent"));
        };
        if !held.iter().any(|key| &**key == endpoint) {
            return Some(Refusal::new(
                Cause::NoEndpoint,
                "this destination is not open to the agent",
            ));
        }
        match self.refused.get(endpoint) {
            Some(false) => None,
            _ => Some(Refusal::new(
                Cause::NoEndpoint,
                "this gateway does not read the destination's protocol",
            )),
        }
    }
}

/// One action on its way past the rules.
struct Walk<'a, W> {
    profile: &'a str,
    credential: Option<&'a str>,
    env: Env<'a, W>,
}

impl<'a, W: Witness> Walk<'a, W> {
    fn run(
        &self,
        rules: impl Iterator<Item = &'a Arc<Rule>>,
        shadow: &mut Vec<String>,
    ) -> Option<(Verdict, Option<Arc<[Limit]>>)> {
        for rule in rules.filter(|rule| rule.is_for(self.profile)) {
            let matched = rule.matches(self.credential, &self.env);
            self.env.watch.judged(rule, self.credential, &matched);
            if rule.shadow {
                match matched {
                    Ok(true) => shadow.push(format!("{}={}", rule.name, rule.outcome.name())),
                    Ok(false) => {}
                    Err(_) => shadow.push(format!("{}=unevaluable", rule.name)),
                }
                continue;
            }
            match matched {
                Ok(false) => {}
                Ok(true) => return Some((verdict(rule), rule.limits.clone())),
                Err(fault) => {
                    let cause = Cause::Unevaluable(rule.name.clone());
                    let refusal = Refusal::new(cause, UNEVALUABLE).with_detail(fault.to_string());
                    return Some((Verdict::Deny(refusal), None));
                }
            }
        }
        None
    }
}

fn verdict(rule: &Rule) -> Verdict {
    let reason = || rule.reason.clone().unwrap_or_else(|| DENIED.to_owned());
    match &rule.outcome {
        Outcome::Allow => Verdict::Allow {
            rule: Some(rule.name.clone()),
        },
        Outcome::Deny => Verdict::Deny(Refusal::new(Cause::Rule(rule.name.clone()), reason())),
        Outcome::Approve(chain) => Verdict::Ask {
            rule: rule.name.clone(),
            reason: rule
                .reason
                .clone()
                .unwrap_or_else(|| "this action needs approval".to_owned()),
            chain: chain.clone(),
        },
    }
}
