//! What a policy that loads says in vain, or does not say: notes. *Pure.*
//!
//! Each is certain: a rule that is called unreachable is one that no action can reach.

mod contentions;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use super::cel::key::contradiction;
use super::cel::{Env, Fault, name};
use super::diagnostic::{At, Diagnostic};
use super::load::Kind;
use super::rule::Rule;
use super::{Model, Profile, Unmatched};
use crate::facts::{Blind, Fact, FactSource, Slot, View};

/// Names that one message lists at most.
const LISTED_MAX: usize = 8;
/// Earlier rules that share a part of its condition, and with which a rule is compared.
const COMPARED_MAX: usize = 2_000;

/// Where a name is declared.
type Place<'a> = &'a dyn Fn(Kind, &str) -> At;

/// Every note on a policy as a whole.
pub(super) fn notes(model: &Model, rules: &[Rule], place: Place<'_>) -> Vec<Diagnostic> {
    let mut notes = Vec::new();
    for rule in rules {
        notes.extend(never_matches(model, rule));
    }
    unreached(model, rules, &mut notes);
    unread(model, rules, &mut notes);
    for endpoint in &model.endpoints {
        notes.extend(no_default(model, rules, &endpoint.key, place));
    }
    for credential in &model.credentials {
        let held = |profile: &Arc<Profile>| {
            profile
                .credentials
                .iter()
                .any(|held| held.credential == credential.key)
        };
        if !model.profiles.iter().any(held) {
            let message = format!("no profile holds `{}`", credential.key);
            let help = format!(
                "write credentials = [{}] in the profile whose agents use it",
                credential.key
            );
            notes.push(Diagnostic::new(place(Kind::Credential, &credential.key), message).help(help));
        }
    }
    notes.extend(overlaps(model, place));
    notes.extend(contentions::notes(model, place));
    notes
}

/// Facts of which nothing is known.
struct Nothing;

impl FactSource for Nothing {
    fn fact(&self, _: Slot) -> Fact<View<'_>> {
        Fact::Unknown(Blind::NotRead)
    }
}

/// Whether a rule's condition holds whatever the action is.
fn holds_always(rule: &Rule) -> bool {
    let condition = rule.condition.as_ref();
    rule.credential.is_none()
        && condition.is_none_or(|condition| condition.holds(&Env::new(&Nothing, &Nothing)) == Ok(true))
}

fn never_matches(model: &Model, rule: &Rule) -> Option<Diagnostic> {
    let note = |message: String, help: &str| {
        let message = format!("rule `{}` can never match: {message}", rule.name);
        Some(Diagnostic::new(rule.at, message).help(help))
    };
    if let Some(condition) = &rule.condition {
        match condition.holds(&Env::new(&Nothing, &Nothing)) {
            Ok(false) => {
                return note(
                    "its condition is false whatever the action is".to_owned(),
                    "take it out",
                );
            }
            Err(Fault::Error(_))
                if condition.reads() == crate::facts::FactSet::EMPTY && !condition.reads_now() =>
            {
                let message = format!(
                    "the condition of rule `{}` always fails, and so denies",
                    rule.name
                );
                return Some(Diagnostic::new(rule.at, message).help("correct its condition"));
            }
            _ => {}
        }
        if let Some(slot) = contradiction(&condition.required()) {
            let help = "`||` holds where one side does; `&&` wants both";
            return note(format!("`{}` cannot be all that it asks for", name(slot)), help);
        }
    }
    let holders: Vec<&Arc<Profile>> = model
        .profiles
        .iter()
        .filter(|profile| rule.profile.as_ref().is_none_or(|own| *own == profile.name))
        .filter(|profile| {
            rule.endpoints
                .iter()
                .any(|endpoint| profile.endpoints.contains(endpoint))
        })
        .collect();
    if holders.is_empty() {
        let listed = rule.endpoints.join("`, `");
        return note(
            format!("no profile reaches `{listed}`"),
            "name the endpoint, or a credential for it, in a profile",
        );
    }
    let credential = rule.credential.as_ref()?;
    let bound = model.credential(credential).is_some_and(|own| {
        rule.endpoints
            .iter()
            .any(|endpoint| own.endpoints.contains(endpoint))
    });
    if !bound {
        let help = "bind the credential to the rule's endpoint, or take it out of the rule";
        return note(format!("`{credential}` is for none of its endpoints"), help);
    }
    let held = holders.iter().any(|profile| {
        profile
            .credentials
            .iter()
            .any(|held| held.credential == *credential)
    });
    match held {
        true => None,
        false => note(
            format!("no profile that reaches its endpoints holds `{credential}`"),
            "add it to a profile",
        ),
    }
}

/// A rule with the conditions that must all hold for it.
struct Asked<'a> {
    rule: &'a Rule,
    sides: HashSet<String>,
}

/// Earlier rules of an endpoint, filed so that a later one is compared with few: under its profile and credential, where
/// it has any, and under the one of its sides that fewest rules have, where it does not take everything.
#[derive(Default)]
struct Earlier<'a, 'r> {
    filed: HashMap<Drawer<'a>, Vec<(usize, &'a Asked<'r>)>>,
}

type Drawer<'a> = (Option<&'a str>, Option<&'a str>, Option<&'a str>);

impl<'a, 'r> Earlier<'a, 'r> {
    fn file(&mut self, at: usize, asked: &'a Asked<'r>, shared: &HashMap<&str, usize>) {
        let mut sides: Vec<&str> = match holds_always(asked.rule) {
            true => Vec::new(),
            false => asked.sides.iter().map(String::as_str).collect(),
        };
        sides.sort_unstable_by_key(|side| (shared.get(side), *side));
        let drawer = (
            asked.rule.profile.as_deref(),
            asked.rule.credential.as_deref(),
            sides.first().copied(),
        );
        self.filed.entry(drawer).or_default().push((at, asked));
    }

    /// The first that takes all that `asked` would take.
    fn before(&self, asked: &'a Asked<'r>) -> Option<&'r Rule> {
        let either = |own: Option<&'a str>| [None, own].into_iter().take(1 + usize::from(own.is_some()));
        let (profile, credential) = (asked.rule.profile.as_deref(), asked.rule.credential.as_deref());
        let mut first: Option<(usize, &'r Rule)> = None;
        for profile in either(profile) {
            for credential in either(credential) {
                for side in std::iter::once(None).chain(asked.sides.iter().map(|side| Some(side.as_str()))) {
                    let filed = self.filed.get(&(profile, credential, side));
                    let mut filed = filed.into_iter().flatten().take(COMPARED_MAX);
                    let found = filed.find(|(_, own)| side.is_none() || own.sides.is_subset(&asked.sides));
                    if let Some((at, own)) = found
                        && first.is_none_or(|(before, _)| *at < before)
                    {
                        first = Some((*at, own.rule));
                    }
                }
            }
        }
        first.map(|(_, rule)| rule)
    }
}

/// The rules of an endpoint in the order in which they are walked.
fn walked<'r>(rules: &'r [Rule], endpoint: &Arc<str>) -> Vec<Asked<'r>> {
    let asked = |rule: &'r Rule| Asked {
        rule,
        sides: rule.condition.iter().flat_map(|own| own.sides()).collect(),
    };
    let own = rules.iter().filter(|rule| rule.endpoints.contains(endpoint));
    let mut own: Vec<Asked<'r>> = own.map(asked).collect();
    own.sort_by_key(|asked| (std::cmp::Reverse(asked.rule.priority), asked.rule.order));
    own
}

/// How many rules have each side.
fn shared<'a>(own: &'a [Asked<'_>]) -> HashMap<&'a str, usize> {
    let mut shared = HashMap::new();
    for side in own.iter().flat_map(|asked| &asked.sides) {
        *shared.entry(side.as_str()).or_default() += 1;
    }
    shared
}

/// Rules behind one that takes everything they would take.
fn unreached(model: &Model, rules: &[Rule], notes: &mut Vec<Diagnostic>) {
    // By a rule's order: at how many of its endpoints it is dead, and the rule that stands before it at
    // the first of them.
    let mut dead: BTreeMap<usize, (usize, &Rule, &Rule)> = BTreeMap::new();
    for endpoint in &model.endpoints {
        let own = walked(rules, &endpoint.key);
        let shared = shared(&own);
        let mut earlier = Earlier::default();
        for (at, asked) in own.iter().enumerate() {
            if let Some(first) = earlier.before(asked) {
                dead.entry(asked.rule.order).or_insert((0, asked.rule, first)).0 += 1;
            }
            if !asked.rule.shadow {
                earlier.file(at, asked, &shared);
            }
        }
    }
    for (count, rule, first) in dead.into_values() {
        if count < rule.endpoints.len() {
            continue;
        }
        let message = format!(
            "rule `{}` is never reached: `{}` stands before it",
            rule.name, first.name
        );
        let help = "give it a higher `priority`, or take one of them out";
        notes.push(Diagnostic::new(rule.at, message).help(help).other(first.at));
    }
}

/// Facts that code which cannot be read leaves unknown, all or in part.
const HIDDEN: &[Slot] = &[
    Slot::SqlVerbs,
    Slot::SqlTables,
    Slot::SqlReads,
    Slot::SqlWrites,
    Slot::SqlFunctions,
    Slot::SqlColumns,
    Slot::SqlObjects,
    Slot::SqlHasWhere,
    Slot::SqlRowLimit,
    Slot::SqlProgram,
    Slot::SqlServerFile,
    Slot::SqlRoleChange,
    Slot::SqlLocks,
];

/// The rule of an endpoint that denies what is `sql.opaque` where no rule says so: the reference implementation takes
/// what the text shows for all that there is, and goes on.
fn unread(model: &Model, rules: &[Rule], notes: &mut Vec<Diagnostic>) {
    let mut told = HashSet::new();
    for endpoint in &model.endpoints {
        for asked in walked(rules, &endpoint.key) {
            let rule = asked.rule;
            let Some(condition) = rule.condition.as_ref().filter(|_| !rule.shadow) else {
                continue;
            };
            if condition.reads().contains(Slot::SqlOpaque) {
                break;
            }
            let Some(slot) = HIDDEN.iter().find(|slot| condition.reads().contains(**slot)) else {
                continue;
            };
            if told.insert(rule.order) {
                let message = format!(
                    "rule `{}` denies a statement that runs code which cannot be read (`sql.opaque`): `{}` is unknown of it",
                    rule.name,
                    name(*slot)
                );
                let help = "`!sql.opaque && …` leaves it to the rules behind, as the reference implementation does; \
                            a rule with `sql.opaque` before this one says what becomes of it";
                notes.push(Diagnostic::new(rule.at, message).help(help));
            }
            break;
        }
    }
}

/// An endpoint of which no rule says what happens to the rest.
fn no_default(model: &Model, rules: &[Rule], key: &Arc<str>, place: Place<'_>) -> Option<Diagnostic> {
    let holders = model
        .profiles
        .iter()
        .filter(|profile| profile.endpoints.contains(key));
    let open: Vec<&str> = holders
        .filter(|profile| {
            let own = |rule: &&Rule| {
                !rule.shadow
                    && rule.endpoints.contains(key)
                    && rule.profile.as_ref().is_none_or(|own| *own == profile.name)
            };
            !rules.iter().filter(own).any(holds_always)
        })
        .map(|profile| &*profile.name)
        .collect();
    if open.is_empty() {
        return None;
    }
    let verdict = match model.defaults.unmatched {
        Unmatched::Deny => "denied",
        Unmatched::Allow => "ALLOWED",
    };
    let message = format!(
        "`{key}` has no rule without a condition for {}: what no rule matched is {verdict}",
        listed(&open)
    );
    let help =
        format!("write rule \"rest\" {{ endpoint = {key}, verdict = \"deny\", priority = -1000 }} to say so");
    Some(Diagnostic::new(place(Kind::Endpoint, key), message).help(help))
}

fn listed(names: &[&str]) -> String {
    let shown: Vec<String> = names
        .iter()
        .take(LISTED_MAX)
        .map(|name| format!("`{name}`"))
        .collect();
    let more = names.len().saturating_sub(LISTED_MAX);
    match more {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

/// Profiles that one tailnet node could be claimed by together: by two tags, or a tag and a name. An
/// agent that is, is refused, and which tags a node has shows only when it comes.
fn overlaps(model: &Model, place: Place<'_>) -> Vec<Diagnostic> {
    let mut notes = Vec::new();
    for (index, one) in model.profiles.iter().enumerate() {
        let before = model.profiles.iter().take(index);
        let shared: Vec<&str> = before
            .filter(|other| overlap(one, other))
            .map(|other| &*other.name)
            .collect();
        if shared.is_empty() {
            continue;
        }
        let message = format!(
            "profile `{}` and {} could claim one agent together",
            one.name,
            listed(&shared)
        );
        let help = "an agent that two profiles claim is refused; see that no node has the marks of both";
        notes.push(Diagnostic::new(place(Kind::Profile, &one.name), message).help(help));
    }
    notes
}

fn overlap(a: &Profile, b: &Profile) -> bool {
    // A tagged node has no login; a node has one name and one login; a peer is its name alone.
    let tagged = |profile: &Profile| !profile.tags.is_empty() || !profile.nodes.is_empty();
    let owned = |profile: &Profile| !profile.logins.is_empty() || !profile.nodes.is_empty();
    let granted = |profile: &Profile| !profile.grants.is_empty();
    let marked = |profile: &Profile| tagged(profile) || owned(profile) || granted(profile);
    let names = |profile: &Profile| !profile.nodes.is_empty();
    let pair = |a: &Profile, b: &Profile| {
        (!a.tags.is_empty() && tagged(b)) || (!a.logins.is_empty() && names(b)) || (granted(a) && marked(b))
    };
    pair(a, b) || pair(b, a)
}

#[cfg(test)]
mod tests;
