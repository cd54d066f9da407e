//! Statements that were parsed, by their text. *Pure.*

use std::collections::HashMap;
use std::sync::Arc;

use super::Statement;

/// Texts longer than this are not kept, bytes.
const KEPT_TEXT_BYTES_MAX: usize = 4 << 10;

/// A bounded map from text to its statements. When it is full it is emptied by half: what is in
/// use comes back at once, and no list has to be kept in order on every hit.
pub struct Cache {
    entries: HashMap<Box<str>, Arc<[Arc<Statement>]>>,
    entries_max: usize,
}

impl Cache {
    /// Keeps up to `entries_max` texts.
    pub fn new(entries_max: usize) -> Cache {
        Cache {
            entries: HashMap::new(),
            entries_max,
        }
    }

    /// The statements of a text, if they are kept.
    pub fn get(&self, text: &str) -> Option<Arc<[Arc<Statement>]>> {
        self.entries.get(text).cloned()
    }

    /// Keeps the statements of a text, unless it is long.
    pub fn put(&mut self, text: &str, statements: Arc<[Arc<Statement>]>) {
        if text.len() <= KEPT_TEXT_BYTES_MAX && self.entries_max > 0 {
            if self.entries.len() >= self.entries_max {
                let mut keep = false;
                self.entries.retain(|_, _| {
                    keep = !keep;
                    keep && self.entries_max > 1
                });
            }
            self.entries.insert(text.into(), statements);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::sql::read;

    #[test]
    fn the_cache_stays_within_its_bound_and_gives_the_same_answer() {
        let mut cache = Cache::new(4);
        for round in 0..3 {
            for n in 0..10 {
                let text = format!("select {n} from t{n}");
                let statements = cache.get(&text).unwrap_or_else(|| read(&text, 1 << 10).into());
                cache.put(&text, statements.clone());
                assert_eq!(statements[0].tables, [format!("t{n}")], "round {round}");
                assert!(cache.entries.len() <= 4);
            }
        }
        let long = format!("select '{}'", "x".repeat(KEPT_TEXT_BYTES_MAX));
        cache.put(&long, read(&long, 1 << 20).into());
        assert!(!cache.entries.contains_key(long.as_str()));
    }
}
