//! The audit log's writer: groups, the chain, recovery.

use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use rusqlite::{Connection, OptionalExtension, TransactionBehavior, params};
use tokio::sync::watch;

use super::log::{AuditDown, Waiter};
use super::note::{self, Heads};
use super::retention;
use super::row::{Hash, Row, chain_outcome};
use super::{Outcome, Record, RecordId, Retention};

/// Jobs in one transaction at most.
const GROUP_JOBS_MAX: usize = 1024;
/// Milliseconds between attempts to write outcomes that are left over from a failed group.
const RETRY_MS: u64 = 500;
/// Seconds between looks for records that may go.
const PRUNE_EVERY_S: u64 = 60;
/// Attempts to write left-over outcomes when the log is closed.
const CLOSING_ATTEMPTS: usize = 5;

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

/// What the writer's thread is asked to do.
pub(super) enum Job {
    Append(Box<Record>, Waiter),
    Finish(RecordId, Outcome),
    Flush(tokio::sync::oneshot::Sender<Result<(), AuditDown>>),
    Retain(Retention),
}

/// The open database with the chains' ends as committed.
struct Open {
    connection: Connection,
    heads: Heads,
}

pub(super) struct Writer {
    path: PathBuf,
    /// `None` after a failed group, until the next one opens it anew.
    open: Option<Open>,
    /// Outcomes that no committed group holds yet.
    outcomes: Vec<(RecordId, Outcome)>,
    retention: Option<Retention>,
    /// When to look for records that may go.
    prune_at: Instant,
    /// Rows of both kinds that were ever written.
    changes: watch::Sender<u64>,
}

impl Writer {
    pub(super) fn open(path: &Path) -> rusqlite::Result<Writer> {
        let mut open = Open::new(path)?;
        open.compare_with_note(path)?;
        note::write(path, &open.heads);
        Ok(Writer {
            path: path.to_owned(),
            changes: watch::channel(open.heads.count()).0,
            open: Some(open),
            outcomes: Vec::new(),
            retention: None,
            prune_at: Instant::now(),
        })
    }

    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    pub(super) fn run(&mut self, queue: &Receiver<Job>) {
        loop {
            let mut wait = self.prune_at.saturating_duration_since(Instant::now());
            if !self.outcomes.is_empty() {
                wait = wait.min(Duration::from_millis(RETRY_MS));
            }
            match queue.recv_timeout(wait) {
                Ok(job) => {
                    let mut jobs = vec![job];
                    jobs.extend(queue.try_iter().take(GROUP_JOBS_MAX - 1));
                    self.write_group(jobs);
                }
                Err(RecvTimeoutError::Timeout) if self.outcomes.is_empty() => {}
                Err(RecvTimeoutError::Timeout) => self.write_group(Vec::new()),
                Err(RecvTimeoutError::Disconnected) => break,
            }
            if Instant::now() >= self.prune_at {
                self.prune();
            }
        }
        for _ in 0..CLOSING_ATTEMPTS {
            if self.outcomes.is_empty() {
                return;
            }
            self.write_group(Vec::new());
        }
        if !self.outcomes.is_empty() {
            tracing::error!(
                count = self.outcomes.len(),
                "outcomes are lost: the log is not writable"
            );
        }
    }

    fn write_group(&mut self, jobs: Vec<Job>) {
        let mut records = Vec::new();
        let mut waiters = Vec::new();
        let mut flushes = Vec::new();
        for job in jobs {
            match job {
                Job::Append(record, waiter) => {
                    records.push(record);
                    waiters.push(waiter);
                }
                Job::Finish(id, outcome) => self.outcomes.push((id, outcome)),
                Job::Flush(answer) => flushes.push(answer),
                Job::Retain(retention) => {
                    self.retention = Some(retention);
                    self.prune_at = Instant::now();
                }
            }
        }
        match self.commit(&mut records, &waiters) {
            Ok(first) => {
                for ((id, waiter), record) in (first..).zip(waiters).zip(&records) {
                    let told = waiter.answer.send(Ok(RecordId(id)));
                    if told.is_err() && record.verdict == "allow" {
                        self.outcomes.push((RecordId(id), Outcome::not_done()));
                    }
                }
                for answer in flushes {
                    let _ = answer.send(Ok(()));
                }
            }
            Err(error) => {
                // Whatever the connection thinks now, the file decides: open it anew.
                self.open = None;
                tracing::error!(%error, "a group of audit records could not be written");
                for waiter in waiters {
                    let _ = waiter.answer.send(Err(AuditDown(error.to_string())));
                }
                for answer in flushes {
                    let _ = answer.send(Err(AuditDown(error.to_string())));
                }
            }
        }
    }

    /// One transaction; the number of the first record.
    fn commit(&mut self, records: &mut [Box<Record>], waiters: &[Waiter]) -> rusqlite::Result<u64> {
        let mut open = match self.open.take() {
            Some(open) => open,
            None => Open::new(&self.path)?,
        };
        let first = open.heads.record.0 + 1;
        open.write(records, waiters, &self.outcomes)?;
        self.outcomes.clear();
        self.keep(open);
        Ok(first)
    }

    fn keep(&mut self, open: Open) {
        note::write(&self.path, &open.heads);
        self.changes.send_replace(open.heads.count());
        self.open = Some(open);
    }

    /// One step of what the retention wants; the next one soon if there is more.
    fn prune(&mut self) {
        self.prune_at = Instant::now() + Duration::from_secs(PRUNE_EVERY_S);
        let Some(retention) = self.retention else { return };
        let Some(mut open) = self.open.take() else { return };
        match open.prune(retention) {
            Ok(None) => self.open = Some(open),
            Ok(Some(more)) => {
                self.keep(open);
                if more {
                    self.prune_at = Instant::now();
                }
            }
            Err(error) => tracing::error!(%error, "old audit records could not be removed"),
        }
    }
}

/// A permit that nobody waits for any more is not given: the record says so.
fn abandon(record: &mut Record) {
    if record.verdict == "allow" {
        record.verdict = "deny";
        record.cause = "abandoned";
        record.reason = "nobody waited for the permit any more".to_owned();
    }
}

impl Open {
    fn new(path: &Path) -> rusqlite::Result<Open> {
        // Made by us first, so that the mode is right from the first byte.
        let _ = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(path);
        let connection = Connection::open(path)?;
        connection.busy_timeout(Duration::from_secs(2))?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "FULL")?;
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
        Ok(Open { connection, heads })
    }

    /// Removes one step of old records; whether there is more, or `None` if nothing was removed.
    fn prune(&mut self, retention: Retention) -> rusqlite::Result<Option<bool>> {
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
    /// missing cannot be brought back, but that it is missing goes into the chain.
    fn compare_with_note(&mut self, path: &Path) -> rusqlite::Result<()> {
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
        let facts = serde_json::json!({ "noted": noted.record.0, "hash": noted.record.1 }).to_string();
        let row = Row::of_gateway(last + 1, crate::state::now_us(), "log_damaged", summary, facts);
        let transaction = self.connection.transaction()?;
        let head = append(&transaction, &row, &self.heads)?;
        transaction.commit()?;
        self.heads.record = head;
        Ok(())
    }

    fn write(
        &mut self,
        records: &mut [Box<Record>],
        waiters: &[Waiter],
        outcomes: &[(RecordId, Outcome)],
    ) -> rusqlite::Result<()> {
        let mut heads = self.heads;
        // The wait for another process's lock is over before it is seen who still waits.
        let transaction = self
            .connection
            .transaction_with_behavior(TransactionBehavior::Immediate)?;
        let given_up = records
            .iter_mut()
            .zip(waiters)
            .filter(|(_, waiter)| waiter.answer.is_closed());
        given_up.for_each(|(record, _)| abandon(record));
        {
            let mut insert = transaction.prepare_cached(Row::INSERT)?;
            for record in records.iter() {
                let row = Row::new(heads.record.0 + 1, record);
                let hash = row.chain(&heads.record.1);
                row.insert(&mut insert, &hash)?;
                heads.record = (row.id, hash);
            }
            let mut insert = transaction.prepare_cached("INSERT INTO outcome VALUES (?,?,?,?,?,?,?)")?;
            for (id, outcome) in outcomes {
                let seq = heads.outcome.0 + 1;
                let hash = chain_outcome(&heads.outcome.1, seq, id.0, outcome);
                insert.execute(params![
                    seq as i64,
                    id.0 as i64,
                    outcome.status,
                    outcome.bytes_up as i64,
                    outcome.bytes_down as i64,
                    outcome.took_us as i64,
                    hash.as_slice(),
                ])?;
                heads.outcome = (seq, hash);
            }
        }
        transaction.commit()?;
        self.heads = heads;
        Ok(())
    }
}

/// Adds the gateway's own record; the new head.
fn append(connection: &Connection, row: &Row, heads: &Heads) -> rusqlite::Result<(u64, Hash)> {
    let hash = row.chain(&heads.record.1);
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
