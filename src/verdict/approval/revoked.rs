//! The grants that were taken back, for what they let through. *Pure.*

use std::collections::BTreeSet;

/// Grants that were taken back and are remembered as such for what they let through; beyond them,
/// every older one counts as taken back.
pub const REVOKED_REMEMBERED_MAX: usize = 4096;

/// The numbers of grants that were taken back since the start: what they let through ends.
#[derive(Default)]
pub(super) struct Revoked {
    ids: BTreeSet<i64>,
    /// Up to this all count as taken back.
    floor: i64,
}

impl Revoked {
    pub(super) fn add(&mut self, id: i64) {
        self.ids.insert(id);
        while self.ids.len() > REVOKED_REMEMBERED_MAX {
            self.floor = self.ids.pop_first().unwrap_or(self.floor).max(self.floor);
        }
    }

    pub(super) fn has(&self, id: i64) -> bool {
        id <= self.floor || self.ids.contains(&id)
    }
}
