//! The open database: one transaction that grows by groups, and the ends of both chains.

use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension};

use super::journal;
use super::note::{self, Heads};
use super::retention;
use super::row::{Hash, OutcomeRow, Row, chain};
use super::{Outcome, Record, RecordId, Retention};

const SCHEMA_VERSION: i64 = 2;
const SCHEMA: &str = "
CREATE TABLE record (
  id INTEGER PRIMARY KEY, at_us INTEGER NOT NULL, step TEXT NOT NULL, transport TEXT NOT NULL,
  node TEXT NOT NULL, login TEXT, address TEXT NOT NULL, profile TEXT, endpoint TEXT NOT NULL,
  credential TEXT, summary TEXT NOT NULL, facts TEXT NOT NULL, digest TEXT NOT NULL,
  verdict TEXT NOT NULL, cause TEXT NOT NULL, rule TEXT, reason TEXT NOT NULL, detail TEXT,
  approvers TEXT NOT NULL, shadow TEXT NOT NULL, judge_us INTEGER NOT NULL,
  wait_us INTEGER NOT NULL, policy INTEGER NOT NULL, hash BLOB NOT NULL, agent TEXT);
CREATE INDEX record_at ON record (at_us);
CREATE TABLE outcome (
  seq INTEGER PRIMARY KEY, record INTEGER NOT NULL, status TEXT NOT NULL, bytes_up INTEGER NOT NULL,
  bytes_down INTEGER NOT NULL, took_us INTEGER NOT NULL, hash BLOB NOT NULL);
CREATE INDEX outcome_record ON outcome (record);
PRAGMA user_version = 2;";
/// From the first version: the records that are there stay as they are.
const SCHEMA_2: &str = "ALTER TABLE record ADD COLUMN agent TEXT; PRAGMA user_version = 2;";

/// Bytes of a page: a record with a body of a few KiB is in one, and each page costs two writes and a read until it is where
/// it stays.
const PAGE_BYTES: usize = 16 << 10;

/// Bytes of the write-ahead log, about, after which they are moved to where they stay: a little at a time, since all actions
/// wait meanwhile. SQLite's own thousand pages took 15 ms, within a commit that is waited for.
const MOVED_BYTES: usize = 1 << 20;
/// Pages that a commit writes beside what it enters: the ends of two tables and of their indices.
const COMMIT_PAGES: usize = 4;

/// The open database, with the chains' ends as entered.
pub(super) struct Database {
    connection: Connection,
    heads: Heads,
    /// Rows that are entered and not committed; a transaction is open while there are any.
    uncommitted: usize,
    /// Bytes that are in the write-ahead log alone, about.
    unmoved: usize,
}

impl Database {
    pub(super) fn open(path: &Path) -> rusqlite::Result<Database> {
        // Made by us first, so that the mode is right from the first byte.
        let _ = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(path);
        let connection = Connection::open(path)?;
        connection.busy_timeout(Duration::from_secs(2))?;
        // Of a new database; an older one keeps its own.
        connection.pragma_update(None, "page_size", PAGE_BYTES as i64)?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.pragma_update(None, "wal_autocheckpoint", 0)?;
        let version: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
        match version {
            0 => connection.execute_batch(&format!("BEGIN; {SCHEMA} COMMIT;"))?,
            1 => connection.execute_batch(&format!("BEGIN; {SCHEMA_2} COMMIT;"))?,
            SCHEMA_VERSION => {}
            _ => return Err(rusqlite::Error::InvalidQuery),
        }
        let heads = Heads {
            record: head(
                &connection,
                "SELECT id, hash FROM record ORDER BY id DESC LIMIT 1",
            )?,
            outcome: head(
                &connection,
                "SELECT seq, hash FROM outcome ORDER BY seq DESC LIMIT 1",
            )?,
        };
        Ok(Database {
            connection,
            heads,
            uncommitted: 0,
            // What was left there by another process.
            unmoved: MOVED_BYTES,
        })
    }

    pub(super) fn heads(&self) -> &Heads {
        &self.heads
    }

    pub(super) fn uncommitted(&self) -> usize {
        self.uncommitted
    }

    /// Waits for another process's lock, unless the transaction is open already.
    pub(super) fn begin(&mut self) -> rusqlite::Result<()> {
        if self.connection.is_autocommit() {
            self.connection.execute_batch("BEGIN IMMEDIATE")?;
        }
        Ok(())
    }

    /// Enters records behind the chain's end, and adds their frames to `frames`.
    pub(super) fn enter<'a>(
        &mut self,
        records: impl Iterator<Item = &'a Record>,
        frames: &mut Vec<u8>,
    ) -> rusqlite::Result<()> {
        let mut insert = self.connection.prepare_cached(Row::INSERT)?;
        for record in records {
            let row = Row::new(self.heads.record.0 + 1, record);
            let text = row.text();
            let hash = chain(&self.heads.record.1, &text);
            row.insert(&mut insert, &hash)?;
            journal::put(frames, &text, &hash);
            self.heads.record = (row.id, hash);
            self.uncommitted += 1;
            self.unmoved += text.len();
        }
        Ok(())
    }

    /// Enters outcomes behind their chain's end.
    pub(super) fn enter_outcomes(&mut self, outcomes: &[(RecordId, Outcome)]) -> rusqlite::Result<()> {
        if outcomes.is_empty() {
            return Ok(());
        }
        self.begin()?;
        let mut insert = self.connection.prepare_cached(OutcomeRow::INSERT)?;
        for (record, outcome) in outcomes {
            let row = OutcomeRow {
                seq: self.heads.outcome.0 + 1,
                record: record.0,
                outcome: outcome.clone(),
            };
            let hash = chain(&self.heads.outcome.1, &row.text());
            row.insert(&mut insert, &hash)?;
            self.heads.outcome = (row.seq, hash);
            self.uncommitted += 1;
        }
        Ok(())
    }

    /// Enters what the journal has and the database lacks: the frames that follow the chain's end.
    pub(super) fn replay(&mut self, bytes: &[u8]) -> rusqlite::Result<()> {
        for frame in journal::frames(bytes) {
            if !self.replay_record(frame.text, &frame.hash)? {
                break;
            }
            self.uncommitted += 1;
        }
        Ok(())
    }

    fn replay_record(&mut self, text: &[u8], hash: &Hash) -> rusqlite::Result<bool> {
        let (last, before) = &self.heads.record;
        let row = match serde_json::from_slice::<Row<'_>>(text) {
            Ok(row) if row.id == last + 1 && chain(before, text) == *hash => row,
            _ => return Ok(false),
        };
        self.begin()?;
        row.insert(&mut *self.connection.prepare_cached(Row::INSERT)?, hash)?;
        self.heads.record = (row.id, *hash);
        Ok(true)
    }

    /// Returns when all that was entered is durable here.
    pub(super) fn commit(&mut self) -> rusqlite::Result<()> {
        if !self.connection.is_autocommit() {
            self.connection.execute_batch("COMMIT")?;
            self.unmoved += COMMIT_PAGES * PAGE_BYTES;
        }
        self.uncommitted = 0;
        Ok(())
    }

    /// Moves what was committed to where it stays, once it is much; for when nobody waits. A reader that holds it up does so
    /// until the next time.
    pub(super) fn rest(&mut self) -> rusqlite::Result<()> {
        if self.unmoved < MOVED_BYTES || !self.connection.is_autocommit() {
            return Ok(());
        }
        self.unmoved = 0;
        self.connection
            .query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()))
    }

    /// Removes one step of old records, with nothing uncommitted; whether there is more, or `None` if nothing was removed.
    pub(super) fn prune(&mut self, retention: Retention) -> rusqlite::Result<Option<bool>> {
        let (now, mut heads) = (crate::state::now_us(), self.heads);
        let transaction = self.connection.transaction()?;
        let Some(cut) = retention::next(&transaction, retention, heads.record.0, now)? else {
            return Ok(None);
        };
        if cut.why == retention::BY_SIZE {
            tracing::warn!(
                to = cut.record,
                "the audit log is over bytes_max: its oldest records are removed"
            );
        }
        let anchor = retention::remove(&transaction, &cut)?;
        let row = retention::anchor_row(heads.record.0 + 1, now, &cut, &anchor);
        heads.record = append(&transaction, &row, &heads)?;
        transaction.commit()?;
        self.heads = heads;
        Ok(Some(cut.more))
    }

    /// At the start: whether the database still ends where the note beside it says. What is
    /// missing cannot be brought back, but that it is missing goes into the chain; and the journal, of which nothing
    /// follows the chain any more, is kept in a file of its own.
    pub(super) fn compare_with_note(&mut self, path: &Path, journal: &[u8]) -> rusqlite::Result<()> {
        let note = std::fs::read_to_string(note::path(path)).ok();
        let Some(noted) = note.as_deref().and_then(note::parse) else {
            return Ok(());
        };
        let (last, _) = self.heads.record;
        let hash: Option<Hash> = self
            .connection
            .query_row(
                "SELECT hash FROM record WHERE id = ?",
                [noted.record.0 as i64],
                |row| row.get(0),
            )
            .optional()?;
        let same = match hash {
            Some(hash) => super::row::hex(&hash) == noted.record.1,
            None => noted.record.0 == 0,
        };
        if same {
            return Ok(());
        }
        tracing::error!(
            noted = noted.record.0,
            last,
            "the audit log was cut off or changed while the gateway was not running"
        );
        let summary = format!(
            "record {} was noted, and the log ends at {last} without it",
            noted.record.0
        );
        let mut facts = serde_json::json!({ "noted": noted.record.0, "hash": noted.record.1 });
        if journal::frames(journal).next().is_some() {
            let kept = path.with_extension(format!("journal-{last}"));
            crate::sys::file::replace(&kept, journal, 0o600)
                .map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))?;
            facts["journal"] = kept.file_name().map(|name| name.to_string_lossy()).into();
        }
        let facts = facts.to_string();
        let row = Row::of_gateway(last + 1, crate::state::now_us(), "log_damaged", summary, facts);
        let transaction = self.connection.transaction()?;
        let head = append(&transaction, &row, &self.heads)?;
        transaction.commit()?;
        self.heads.record = head;
        Ok(())
    }
}

/// Adds the gateway's own record; the new head.
fn append(connection: &Connection, row: &Row<'_>, heads: &Heads) -> rusqlite::Result<(u64, Hash)> {
    let hash = chain(&heads.record.1, &row.text());
    row.insert(&mut *connection.prepare_cached(Row::INSERT)?, &hash)?;
    Ok((row.id, hash))
}

fn head(connection: &Connection, query: &str) -> rusqlite::Result<(u64, Hash)> {
    let found = connection.query_row(query, [], |row| {
        Ok((row.get::<_, i64>(0)? as u64, row.get::<_, Hash>(1)?))
    });
    match found {
        Err(rusqlite::Error::QueryReturnedNoRows) => Ok((0, [0; 32])),
        other => other,
    }
}
