//! What people are shown of a held action before they decide. *Pure.*

use std::time::Duration;

/// The `preview…` fields of an endpoint. Without `preview = true` nothing is tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Previews {
    /// Postgres: how long anyone may wait for locks of a held change before it is rolled back (`preview_lock_max`).
    pub lock_max: Duration,
    /// Postgres: how long a change is held open (`preview_hold_max`).
    pub hold_max: Duration,
    /// Rows of the sample (`preview_rows`).
    pub rows: usize,
    /// Columns whose values are not shown, `column` or `table.column` (`preview_masked`).
    pub masked: Vec<String>,
}

impl Previews {
    /// Whether a column's values are not shown.
    pub fn is_masked(&self, tables: &[String], column: &str) -> bool {
        self.masked.iter().any(|name| match name.rsplit_once('.') {
            Some((table, own)) => own == column && tables.iter().any(|one| one == table),
            None => name == column,
        })
    }
}
