//! The note of the chains' ends, beside the database: what a cut-off tail is found by.

use std::io::{Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use super::row::Hash;

/// The ends of both chains.
#[derive(Clone, Copy)]
pub(super) struct Heads {
    pub(super) record: (u64, Hash),
    pub(super) outcome: (u64, Hash),
}

/// The ends of both chains, as the note beside the database has them.
#[derive(Default)]
pub(super) struct Noted {
    pub(super) record: (u64, String),
    pub(super) outcome: (u64, String),
}

impl Heads {
    /// Rows of both kinds that were ever written.
    pub(super) fn count(&self) -> u64 {
        self.record.0 + self.outcome.0
    }
}

/// Where the ends of the chains are noted, beside the database.
pub(super) fn path(path: &Path) -> PathBuf {
    path.with_extension("head")
}

/// Notes the ends beside the database, so that a cut-off tail shows. It is written after every
/// group but not synced on its own: after a power failure it may be behind, never ahead.
pub(super) fn write(path: &Path, heads: &Heads) {
    let line = format!(
        "{:020} {} {:020} {}\n",
        heads.record.0,
        super::row::hex(&heads.record.1),
        heads.outcome.0,
        super::row::hex(&heads.outcome.1)
    );
    let written = std::fs::OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(self::path(path))
        .and_then(|mut file| {
            file.seek(SeekFrom::Start(0))?;
            file.write_all(line.as_bytes())
        });
    if let Err(error) = written {
        tracing::warn!(%error, "the audit log's head could not be noted");
    }
}

/// Reads what [`write`] wrote.
pub(super) fn parse(text: &str) -> Option<Noted> {
    let mut words = text.split_whitespace();
    Some(Noted {
        record: (words.next()?.parse().ok()?, words.next()?.to_owned()),
        outcome: (words.next()?.parse().ok()?, words.next()?.to_owned()),
    })
}
