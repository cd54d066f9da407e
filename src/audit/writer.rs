//! The audit log's writer: groups, the chain, recovery.

use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use rusqlite::{Connection, params};

use super::log::{AuditDown, Waiter};
use super::row::{Hash, Row, chain_outcome};
use super::{Outcome, Record, RecordId};

/// Jobs in one transaction at most.
const GROUP_JOBS_MAX: usize = 1024;
/// Milliseconds between attempts to write outcomes that are left over from a failed group.
const RETRY_MS: u64 = 500;
/// Attempts to write left-over outcomes when the log is closed.
const CLOSING_ATTEMPTS: usize = 5;

const SCHEMA_VERSION: i64 = 1;
const SCHEMA: &str = "
CREATE TABLE record (
  id INTEGER PRIMARY KEY, at_us INTEGER NOT NULL, step TEXT NOT NULL, transport TEXT NOT NULL,
  node TEXT NOT NULL, login TEXT, address TEXT NOT NULL, profile TEXT, endpoint TEXT NOT NULL,
  credential TEXT, summary TEXT NOT NULL, facts TEXT NOT NULL, digest TEXT NOT NULL,
  verdict TEXT NOT NULL, cause TEXT NOT NULL, rule TEXT, reason TEXT NOT NULL, detail TEXT,
  approvers TEXT NOT NULL, shadow TEXT NOT NULL, judge_us INTEGER NOT NULL,
  wait_us INTEGER NOT NULL, policy INTEGER NOT NULL, hash BLOB NOT NULL);
CREATE INDEX record_at ON record (at_us);
CREATE TABLE outcome (
  seq INTEGER PRIMARY KEY, record INTEGER NOT NULL, status TEXT NOT NULL, bytes_up INTEGER NOT NULL,
  bytes_down INTEGER NOT NULL, took_us INTEGER NOT NULL, hash BLOB NOT NULL);
CREATE INDEX outcome_record ON outcome (record);
PRAGMA user_version = 1;";

/// What the writer's thread is asked to do.
pub(super) enum Job {
    Append(Box<Record>, Waiter),
    Finish(RecordId, Outcome),
    Flush(tokio::sync::oneshot::Sender<Result<(), AuditDown>>),
}

/// The ends of both chains.
#[derive(Clone, Copy)]
struct Heads {
    record: (u64, Hash),
    outcome: (u64, Hash),
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
}

impl Writer {
    pub(super) fn open(path: &Path) -> rusqlite::Result<Writer> {
        let open = Open::new(path)?;
        write_head(path, &open.heads);
        Ok(Writer {
            path: path.to_owned(),
            open: Some(open),
            outcomes: Vec::new(),
        })
    }

    pub(super) fn run(&mut self, queue: &Receiver<Job>) {
        loop {
            let first = if self.outcomes.is_empty() {
                queue.recv().map_err(|_| RecvTimeoutError::Disconnected)
            } else {
                queue.recv_timeout(Duration::from_millis(RETRY_MS))
            };
            match first {
                Ok(job) => {
                    let mut jobs = vec![job];
                    jobs.extend(queue.try_iter().take(GROUP_JOBS_MAX - 1));
                    self.write_group(jobs);
                }
                Err(RecvTimeoutError::Timeout) => self.write_group(Vec::new()),
                Err(RecvTimeoutError::Disconnected) => break,
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
            }
        }
        match self.commit(&records) {
            Ok(first) => {
                for (id, waiter) in (first..).zip(waiters) {
                    let _ = waiter.answer.send(Ok(RecordId(id)));
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
    fn commit(&mut self, records: &[Box<Record>]) -> rusqlite::Result<u64> {
        let mut open = match self.open.take() {
            Some(open) => open,
            None => Open::new(&self.path)?,
        };
        let first = open.heads.record.0 + 1;
        open.write(records, &self.outcomes)?;
        self.outcomes.clear();
        write_head(&self.path, &open.heads);
        self.open = Some(open);
        Ok(first)
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

    fn write(&mut self, records: &[Box<Record>], outcomes: &[(RecordId, Outcome)]) -> rusqlite::Result<()> {
        let mut heads = self.heads;
        let transaction = self.connection.transaction()?;
        {
            let mut insert = transaction.prepare_cached(Row::INSERT)?;
            for record in records {
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

fn head(connection: &Connection, query: &str) -> rusqlite::Result<(u64, Hash)> {
    let found = connection.query_row(query, [], |row| {
        Ok((row.get::<_, i64>(0)? as u64, row.get::<_, Hash>(1)?))
    });
    match found {
        Err(rusqlite::Error::QueryReturnedNoRows) => Ok((0, [0; 32])),
        other => other,
    }
}

/// Where the ends of the chains are noted, beside the database.
pub(super) fn head_path(path: &Path) -> PathBuf {
    path.with_extension("head")
}

/// Notes the ends beside the database, so that a cut-off tail shows. It is written after every
/// group but not synced on its own: after a power failure it may be behind, never ahead.
fn write_head(path: &Path, heads: &Heads) {
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
        .open(head_path(path))
        .and_then(|mut file| {
            file.seek(SeekFrom::Start(0))?;
            file.write_all(line.as_bytes())
        });
    if let Err(error) = written {
        tracing::warn!(%error, "the audit log's head could not be noted");
    }
}
