//! The audit log's writer: groups, their journal, recovery.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::database::Database;
use super::journal::Journal;
use super::log::{AuditDown, Waiter};
use super::note;
use super::outcomes::Outcomes;
use super::{Outcome, Record, RecordId, Retention};

/// Jobs in one group at most.
const GROUP_JOBS_MAX: usize = 1024;
/// Microseconds that a group waits for more records where there is much to write: what a group costs, it costs whatever is in
/// it (a durable write, and threads that are woken).
const GATHER_US: u64 = 400;
/// Records of the last group from which on there is: at half of what a gateway can do there are fewer, and nobody waits.
const GATHER_RECORDS: usize = 4;
/// Milliseconds between two commits of the database while there is much to write: what a reader may
/// lack. A group after such a pause is committed itself, and needs no journal.
pub(super) const COMMIT_EVERY_MS: u64 = 20;
/// Rows after which the database is committed, however soon.
const COMMIT_ROWS_MAX: usize = 4096;
/// Milliseconds between attempts to commit what could not be.
const RETRY_MS: u64 = 500;
/// Seconds between looks for records that may go.
const PRUNE_EVERY_S: u64 = 60;
/// Attempts to write left-over outcomes when the log is closed.
const CLOSING_ATTEMPTS: usize = 5;

/// What the writer's thread is asked to do.
pub(super) enum Job {
    Append(Box<Record>, Waiter),
    /// There are outcomes.
    Look,
    Flush(tokio::sync::oneshot::Sender<Result<(), AuditDown>>),
    Retain(Retention),
}

pub(super) struct Writer {
    path: PathBuf,
    journal: Journal,
    /// Records of the last group.
    last_records: usize,
    /// `None` after a failure, until the next group opens it anew.
    open: Option<Database>,
    outcomes: Arc<Outcomes>,
    committed_at: Instant,
    /// The last commit failed: until one succeeds, a group is committed before it is answered.
    direct: bool,
    retention: Option<Retention>,
    /// When to look for records that may go.
    prune_at: Instant,
    /// Rows of both kinds that were ever committed.
    changes: watch::Sender<u64>,
}

type Error = Box<dyn std::error::Error + Send + Sync>;

impl Writer {
    pub(super) fn open(path: &Path, outcomes: Arc<Outcomes>) -> Result<Writer, Error> {
        let mut open = Database::open(path)?;
        let journal = Journal::open(&path.with_extension("journal"))?;
        let left = journal.read()?;
        open.compare_with_note(path, &left)?;
        let mut writer = Writer {
            path: path.to_owned(),
            journal,
            changes: watch::channel(0).0,
            last_records: 0,
            open: None,
            outcomes,
            committed_at: Instant::now(),
            direct: false,
            retention: None,
            prune_at: Instant::now(),
        };
        open.replay(&left)?;
        writer.commit(&mut open)?;
        writer.open = Some(open);
        Ok(writer)
    }

    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    pub(super) fn run(&mut self, queue: &Receiver<Job>) {
        loop {
            match queue.recv_timeout(self.wait()) {
                Ok(job) => {
                    self.gather(&job);
                    let mut jobs = vec![job];
                    jobs.extend(queue.try_iter().take(GROUP_JOBS_MAX - 1));
                    self.write_group(jobs);
                }
                // What failed is tried again.
                Err(RecvTimeoutError::Timeout) => drop(self.settle()),
                Err(RecvTimeoutError::Disconnected) => break,
            }
            self.rest();
            if Instant::now() >= self.prune_at {
                self.prune();
            }
        }
        for _ in 0..CLOSING_ATTEMPTS {
            if self.settle().is_ok() {
                return;
            }
        }
        tracing::error!(
            outcomes = self.outcomes.len(),
            "the log was not writable at the end: outcomes are lost, and records are in its journal"
        );
    }

    /// Lets others come to a group that has begun.
    fn gather(&self, first: &Job) {
        if matches!(first, Job::Append(..)) && self.last_records >= GATHER_RECORDS && !self.is_pause() {
            std::thread::sleep(Duration::from_micros(GATHER_US));
        }
    }

    /// What nobody waits for, between two groups.
    fn rest(&mut self) {
        let rested = self.open.as_mut().map(Database::rest);
        if let Some(Err(error)) = rested {
            // All is durable where it is.
            tracing::warn!(%error, "the audit log's write-ahead log stays long");
        }
    }

    /// Whether the database has all that there is.
    fn is_settled(&self) -> bool {
        self.outcomes.len() == 0 && !self.is_behind()
    }

    /// Whether the database lacks a record.
    fn is_behind(&self) -> bool {
        self.direct || self.open.as_ref().map_or(1, Database::uncommitted) > 0
    }

    fn wait(&self) -> Duration {
        let prune = self.prune_at.saturating_duration_since(Instant::now());
        let settle = match self.direct {
            _ if !self.outcomes.awaited(self.is_behind()) => Duration::MAX,
            true => Duration::from_millis(RETRY_MS),
            false => Duration::from_millis(COMMIT_EVERY_MS).saturating_sub(self.committed_at.elapsed()),
        };
        prune.min(settle)
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
                Job::Look => {}
                Job::Flush(answer) => flushes.push(answer),
                Job::Retain(retention) => {
                    self.retention = Some(retention);
                    self.prune_at = Instant::now();
                }
            }
        }
        match self.enter(&mut records, &waiters) {
            Ok(first) => {
                for ((id, waiter), record) in (first..).zip(waiters).zip(&records) {
                    let told = waiter.answer.send(Ok(RecordId(id)));
                    if told.is_err() && record.verdict == "allow" {
                        // This thread sees it before it rests.
                        let _ = self.outcomes.add(RecordId(id), Outcome::not_done());
                    }
                }
            }
            Err(error) => {
                self.fail(&*error);
                for waiter in waiters {
                    let _ = waiter.answer.send(Err(AuditDown(error.to_string())));
                }
            }
        }
        if flushes.is_empty() && !self.is_due() {
            return;
        }
        let settled = self.settle();
        for answer in flushes {
            let _ = answer.send(settled.clone());
        }
    }

    /// Enters a group and makes it durable; the number of its first record.
    fn enter(&mut self, records: &mut [Box<Record>], waiters: &[Waiter]) -> Result<u64, Error> {
        if records.is_empty() {
            return Ok(0);
        }
        self.last_records = records.len();
        let mut open = self.take()?;
        let alone = open.uncommitted() == 0 && self.is_pause();
        open.begin()?;
        // The wait for another process's lock is over before it is seen who still waits.
        let given_up = records
            .iter_mut()
            .zip(waiters)
            .filter(|(_, waiter)| waiter.answer.is_closed());
        given_up.for_each(|(record, _)| abandon(record));
        let first = open.heads().record.0 + 1;
        let mut frames = Vec::new();
        open.enter(records.iter().map(AsRef::as_ref), &mut frames)?;
        // A journal that takes no more leaves the database, which may.
        if alone || self.direct || self.journal.append(&frames).is_err() {
            self.commit(&mut open)?;
        }
        self.open = Some(open);
        Ok(first)
    }

    /// The database; opened anew, with what the journal has.
    fn take(&mut self) -> Result<Database, Error> {
        if let Some(open) = self.open.take() {
            return Ok(open);
        }
        let mut open = Database::open(&self.path)?;
        open.replay(&self.journal.read()?)?;
        Ok(open)
    }

    fn is_pause(&self) -> bool {
        self.committed_at.elapsed() >= Duration::from_millis(COMMIT_EVERY_MS)
    }

    /// Whether it is time to commit.
    fn is_due(&self) -> bool {
        let Some(open) = &self.open else { return false };
        (open.uncommitted() > 0 || self.outcomes.len() > 0)
            && (self.is_pause() || open.uncommitted() >= COMMIT_ROWS_MAX || self.journal.is_long())
    }

    /// Commits all that there is. Where there is nothing, nobody is woken to read the same again.
    fn settle(&mut self) -> Result<(), AuditDown> {
        if self.is_settled() {
            return Ok(());
        }
        let settled = self.take().and_then(|mut open| {
            self.commit(&mut open)?;
            self.open = Some(open);
            Ok(())
        });
        settled.map_err(|error| {
            self.fail(&*error);
            AuditDown(error.to_string())
        })
    }

    fn commit(&mut self, open: &mut Database) -> Result<(), Error> {
        let outcomes = self.outcomes.take();
        if let Err(error) = open.enter_outcomes(&outcomes).and_then(|()| open.commit()) {
            self.outcomes.put_back(outcomes);
            return Err(error.into());
        }
        self.journal.reset();
        self.direct = false;
        self.committed_at = Instant::now();
        note::write(&self.path, open.heads());
        self.changes.send_replace(open.heads().count());
        Ok(())
    }

    /// Whatever the connection thinks now, the files decide: it is opened anew.
    fn fail(&mut self, error: &(dyn std::error::Error + Send + Sync)) {
        self.open = None;
        self.direct = true;
        tracing::error!(%error, "a group of audit records could not be written");
    }

    /// One step of what the retention wants; the next one soon if there is more.
    fn prune(&mut self) {
        self.prune_at = Instant::now() + Duration::from_secs(PRUNE_EVERY_S);
        let Some(retention) = self.retention else { return };
        if self.settle().is_err() {
            return;
        }
        let Some(mut open) = self.open.take() else { return };
        let pruned = open.prune(retention).map_err(Error::from).and_then(|more| {
            if more.is_some() {
                self.commit(&mut open)?;
            }
            Ok(more)
        });
        match pruned {
            Ok(more) => {
                self.open = Some(open);
                if more == Some(true) {
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
