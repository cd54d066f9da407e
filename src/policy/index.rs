//! Which rules an action could match, without walking those that it cannot. *Pure.*
//!
//! Each rule is filed under the part of its condition that fewest share ([`super::cel::key`]);
//! a rule that has none is always looked at. The rules that are left out are those whose
//! condition is false for certain; one whose fact is unknown is never left out.

use std::collections::HashMap;
use std::sync::Arc;

use smallvec::SmallVec;

use super::cel::key::{Key, Test};
use super::rule::Rule;
use crate::facts::{Fact, FactSource, Family, Slot, View};

/// Bytes of a prefix that count: a longer one is filed by its beginning.
const PREFIX_BYTES_MAX: usize = 64;

/// Places of rules in their endpoint's order, rising.
type Places = Vec<u32>;

/// The rules of one fact.
#[derive(Debug)]
struct Shelf {
    slot: Slot,
    /// Where the fact is unknown, every rule of it.
    all: Places,
    equal: HashMap<Box<str>, Places>,
    prefix: HashMap<Box<str>, Places>,
    /// Lengths of prefixes that there are, bytes, rising.
    lengths: Vec<usize>,
    has: HashMap<Box<str>, Places>,
}

/// The rules of one endpoint.
#[derive(Debug, Default)]
pub(super) struct Index {
    always: Places,
    profiles: HashMap<Arc<str>, Places>,
    shelves: Vec<Shelf>,
}

/// What a rule is filed under.
enum File {
    Always,
    Profile(Arc<str>),
    Keys(Vec<Key>),
}

impl Index {
    pub(super) fn new(rules: &[Arc<Rule>]) -> Index {
        let parts: Vec<Vec<Vec<Key>>> = rules.iter().map(|rule| parts(rule)).collect();
        let mut shared: HashMap<&Key, usize> = HashMap::new();
        for key in parts.iter().flatten().flatten() {
            *shared.entry(key).or_default() += 1;
        }
        let mut profiles: HashMap<&Arc<str>, usize> = HashMap::new();
        for profile in rules.iter().filter_map(|rule| rule.profile.as_ref()) {
            *profiles.entry(profile).or_default() += 1;
        }
        let files: Vec<File> = rules
            .iter()
            .zip(&parts)
            .map(|(rule, parts)| {
                let weight = |part: &&Vec<Key>| part.iter().filter_map(|key| shared.get(key)).sum::<usize>();
                let best = parts.iter().min_by_key(weight);
                match (best, &rule.profile) {
                    (Some(part), Some(profile))
                        if weight(&part) > profiles.get(profile).copied().unwrap_or(0) =>
                    {
                        File::Profile(profile.clone())
                    }
                    (Some(part), _) => File::Keys(part.clone()),
                    (None, Some(profile)) => File::Profile(profile.clone()),
                    (None, None) => File::Always,
                }
            })
            .collect();
        let mut index = Index::default();
        for (place, file) in files.into_iter().enumerate() {
            let place = u32::try_from(place).unwrap_or(u32::MAX);
            match file {
                File::Always => index.always.push(place),
                File::Profile(profile) => index.profiles.entry(profile).or_default().push(place),
                File::Keys(keys) => keys.into_iter().for_each(|key| index.file(key, place)),
            }
        }
        for shelf in &mut index.shelves {
            shelf.lengths.sort_unstable();
        }
        index
    }

    fn file(&mut self, key: Key, place: u32) {
        let found = self.shelves.iter().position(|shelf| shelf.slot == key.slot);
        let at = found.unwrap_or_else(|| {
            self.shelves.push(Shelf::new(key.slot));
            self.shelves.len() - 1
        });
        let Some(shelf) = self.shelves.get_mut(at) else {
            return;
        };
        push(&mut shelf.all, place);
        let map = match key.test {
            Test::Equal => &mut shelf.equal,
            Test::Prefix => &mut shelf.prefix,
            Test::Has => &mut shelf.has,
        };
        let mut text = key.text;
        if key.test == Test::Prefix {
            let mut end = text.len().min(PREFIX_BYTES_MAX);
            while !text.is_char_boundary(end) {
                end -= 1;
            }
            text.truncate(end);
            if !shelf.lengths.contains(&end) {
                shelf.lengths.push(end);
            }
        }
        push(map.entry(text.into_boxed_str()).or_default(), place);
    }

    /// The rules that this action could match, in their order.
    pub(super) fn candidates<'a>(
        &'a self,
        profile: &str,
        facts: &dyn FactSource,
        agent: &dyn FactSource,
    ) -> Candidates<'a> {
        let mut lists = SmallVec::new();
        let mut add = |places: &'a Places| {
            if !places.is_empty() {
                lists.push(places.as_slice());
            }
        };
        add(&self.always);
        if let Some(places) = self.profiles.get(profile) {
            add(places);
        }
        for shelf in &self.shelves {
            let source = if shelf.slot.family() == Family::Agent {
                agent
            } else {
                facts
            };
            shelf.find(&source.fact(shelf.slot), &mut add);
        }
        Candidates { lists }
    }
}

impl Shelf {
    fn new(slot: Slot) -> Shelf {
        Shelf {
            slot,
            all: Vec::new(),
            equal: HashMap::new(),
            prefix: HashMap::new(),
            lengths: Vec::new(),
            has: HashMap::new(),
        }
    }

    fn find<'a>(&'a self, fact: &Fact<View<'_>>, add: &mut dyn FnMut(&'a Places)) {
        match fact {
            Fact::Known(View::Text(text)) if self.has.is_empty() => {
                if let Some(places) = self.equal.get(*text) {
                    add(places);
                }
                for &length in &self.lengths {
                    let Some(front) = text.get(..length) else { continue };
                    if let Some(places) = self.prefix.get(front) {
                        add(places);
                    }
                }
            }
            Fact::Known(View::Texts(texts)) if self.equal.is_empty() && self.prefix.is_empty() => {
                for text in *texts {
                    if let Some(places) = self.has.get(text.as_str()) {
                        add(places);
                    }
                }
            }
            // Unknown, or of another shape than the table says: the conditions themselves decide.
            _ => add(&self.all),
        }
    }
}

/// Places come in rising order; one rule may have several keys in one list.
fn push(places: &mut Places, place: u32) {
    if places.last() != Some(&place) {
        places.push(place);
    }
}

fn parts(rule: &Rule) -> Vec<Vec<Key>> {
    let condition = rule.condition.as_ref();
    condition.map(super::cel::Condition::required).unwrap_or_default()
}

/// Several rising lists as one, each place once.
pub(super) struct Candidates<'a> {
    lists: SmallVec<[&'a [u32]; 16]>,
}

impl Iterator for Candidates<'_> {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        let least = self.lists.iter().filter_map(|list| list.first()).min().copied()?;
        for list in &mut self.lists {
            if let Some((first, rest)) = list.split_first()
                && *first == least
            {
                *list = rest;
            }
        }
        usize::try_from(least).ok()
    }
}

#[cfg(test)]
mod tests;
