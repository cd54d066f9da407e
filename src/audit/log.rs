//! The audit log in SQLite: one writer thread, group commit, answers when durable.

use std::path::Path;

use super::{Outcome, Record, RecordId};

/// The log could not take a record. Whatever was to be recorded must not happen.
#[derive(Debug, thiserror::Error)]
#[error("the audit log is not writable: {0}")]
pub struct AuditDown(pub String);

/// A handle to the writer; cheap to clone.
#[derive(Clone)]
pub struct Log {}

impl Log {
    /// Opens or creates the database and starts the writer.
    pub fn open(_path: &Path) -> Result<Log, AuditDown> {
        todo!()
    }

    /// Returns when the record is on disk.
    pub async fn append(&self, _record: Record) -> Result<RecordId, AuditDown> {
        todo!()
    }

    /// Adds the outcome to a record; not waited for, but never dropped while the log lives.
    pub fn finish(&self, _id: RecordId, _outcome: Outcome) {
        todo!()
    }
}
