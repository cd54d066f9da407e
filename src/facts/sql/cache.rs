//! Statements that were parsed, by their text. *Pure.*

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;

use super::shape::{Pattern, Shape};
use super::{Read, Statement};

/// Texts longer than this are not kept, bytes.
pub(super) const KEPT_TEXT_BYTES_MAX: usize = 4 << 10;

/// The statements of one text.
pub type Statements = Arc<[Arc<Statement>]>;

/// A bounded map from text to its statements, and one from the [`Shape`] of texts to what they have in common. When one
/// is full it is emptied by half: what is in use comes back at once, and no list has to be kept in order on every hit.
pub struct Cache {
    texts: HashMap<Box<str>, Statements>,
    shapes: HashMap<Box<[u8]>, Arc<Pattern>>,
    entries_max: usize,
}

impl Cache {
    /// Keeps up to `entries_max` texts, and as many shapes.
    pub fn new(entries_max: usize) -> Cache {
        Cache {
            texts: HashMap::new(),
            shapes: HashMap::new(),
            entries_max,
        }
    }

    /// The statements of a text, if they are kept.
    pub fn get(&self, text: &str) -> Option<Statements> {
        self.texts.get(text).cloned()
    }

    /// What was read of a text of this shape.
    pub fn shaped(&self, shape: &Shape) -> Option<Arc<Pattern>> {
        self.shapes.get(shape.key.as_slice()).cloned()
    }

    /// Keeps what was read of a text, unless it is long: for all texts of its shape, where it speaks for them.
    pub fn put(&mut self, text: &str, shape: Option<Shape>, read: &Read) {
        // That a text could not be parsed may have been for want of a descriptor.
        let refused = read.statements.iter().any(|statement| statement.unparseable);
        if text.len() > KEPT_TEXT_BYTES_MAX || self.entries_max == 0 || refused {
            return;
        }
        let pattern = shape
            .as_ref()
            .zip(read.place.as_ref())
            .zip(read.statements.first());
        let pattern =
            pattern.and_then(|((shape, place), statement)| Pattern::new(text, shape, place, statement));
        match (shape, pattern) {
            (Some(shape), Some(pattern)) => {
                make_room(&mut self.shapes, self.entries_max);
                self.shapes.insert(shape.key.into(), Arc::new(pattern));
            }
            _ => {
                make_room(&mut self.texts, self.entries_max);
                self.texts.insert(text.into(), read.statements.clone());
            }
        }
    }
}

fn make_room<K: Eq + Hash, V>(entries: &mut HashMap<K, V>, most: usize) {
    if entries.len() >= most {
        let mut keep = false;
        entries.retain(|_, _| {
            keep = !keep;
            keep && most > 1
        });
    }
}

#[cfg(test)]
impl Cache {
    pub(super) fn read(&mut self, text: &str, bytes_max: usize) -> Statements {
        let read = super::read_whole(text, bytes_max);
        self.put(text, Shape::of(text), &read);
        read.statements
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cache_stays_within_its_bound_and_gives_the_same_answer() {
        let mut cache = Cache::new(4);
        for round in 0..3 {
            for n in 0..10 {
                let text = format!("select {n} from t{n}");
                let statements = cache.get(&text).unwrap_or_else(|| cache.read(&text, 1 << 10));
                assert_eq!(statements[0].tables, [format!("t{n}")], "round {round}");
                cache.read(&format!("select a from t{n} where id = 1"), 1 << 10);
                assert!(cache.texts.len() <= 4 && (1..=4).contains(&cache.shapes.len()));
            }
        }
        let long = format!("select '{}'", "x".repeat(KEPT_TEXT_BYTES_MAX));
        cache.read(&long, 1 << 20);
        assert!(!cache.texts.contains_key(long.as_str()));
        cache.read("select from where", 1 << 10);
        assert!(cache.get("select from where").is_none());
        let mut none = Cache::new(0);
        none.read("select 1", 1 << 10);
        assert_eq!(none.texts.len(), 0);
    }
}
