//! What people are shown of a held action before they decide. *Pure.*

use std::time::Duration;

/// The `preview…` fields of an endpoint. Without `preview = true` nothing is tried.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Previews {
    /// Postgres: how long anyone may wait for locks of a held change before it is rolled back (`preview_lock_max`).
    pub lock_max: Duration,
    /// Postgres: how long a change is held open (`preview_hold_max`).
    pub hold_max: Duration,
    /// Postgres: rows of the sample (`preview_rows`).
    pub rows: usize,
    /// What is not shown (`preview_masked`). Postgres: columns, `column` or `table.column`. Kubernetes: members of an
    /// object with all that is in them, `member` or `resource.member`.
    pub masked: Vec<String>,
}

impl Previews {
    /// Whether the values of a column, or of a member, are not shown; `tables` are its tables, or its resource.
    pub fn is_masked(&self, tables: &[String], column: &str) -> bool {
        self.masked.iter().any(|name| match name.rsplit_once('.') {
            Some((table, own)) => own == column && tables.iter().any(|one| one == table),
            None => name == column,
        })
    }
}
