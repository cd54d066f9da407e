//! The audit log in SQLite: one writer thread, group commit, answers when durable.
//!
//! Callers queue records; the writer takes what is queued (where that is much, a little later, and
//! so more at once), encodes and chains it, enters it into the
//! database's open transaction, writes the group to a journal beside the database, and when that is
//! on disk it answers. The transaction is committed (`synchronous = FULL`) a little later, for many
//! groups at once and with the outcomes that came meanwhile; until then the journal has the records
//! that a crash would lose. A group that fails is rolled
//! back, all its callers get [`AuditDown`], and the next group opens the database anew and is
//! committed before it is answered, so the log recovers by itself when the disk does.
//!
//! A record says what happened, also to a caller that did not wait: what nobody waits for any more
//! when it is written is written as a denial, and what was lost between the disk and its caller
//! gets [`NOT_DONE`] as its outcome.

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch};

use super::outcomes::Outcomes;
use super::share::{Share, Shares};
use super::writer::{Job, Writer};
use super::{Outcome, Record, RecordId, Retention};

/// Records that may wait for the writer; the next append waits for room.
pub const QUEUE_RECORDS_MAX: usize = 8192;
/// Milliseconds that an append may take, the wait for room included.
pub const APPEND_WAIT_MS: u64 = 5_000;
/// The outcome of a record that says `allow` and whose caller had gone before it was told.
pub const NOT_DONE: &str = "not done: nobody waited for the permit";

/// The log could not take a record. Whatever was to be recorded must not happen.
#[derive(Clone, Debug, thiserror::Error)]
#[error("the audit log is not writable: {0}")]
pub struct AuditDown(pub String);

/// A handle to the writer; cheap to clone. The last one to go waits until all is written.
#[derive(Clone)]
pub struct Log {
    path: Arc<Path>,
    room: Arc<Semaphore>,
    shares: Shares,
    changes: watch::Receiver<u64>,
    outcomes: Arc<Outcomes>,
    thread: Arc<WriterThread>,
}

/// Dropped last: closes the queue and joins the writer.
struct WriterThread {
    jobs: Option<Sender<Job>>,
    handle: Option<JoinHandle<()>>,
}

/// Keeps a place in the queue until the writer has taken the record.
pub(super) struct Waiter {
    pub(super) answer: oneshot::Sender<Result<RecordId, AuditDown>>,
    pub(super) _room: (Share, OwnedSemaphorePermit),
}

/// The answer to an append. Dropped before it was taken, it says so in the log.
struct Untaken<'a> {
    log: &'a Log,
    answer: oneshot::Receiver<Result<RecordId, AuditDown>>,
    allows: bool,
    taken: bool,
}

impl Log {
    /// Opens or creates the database and starts the writer.
    ///
    /// # Errors
    /// The file cannot be opened or created, or its schema is newer than this program.
    pub fn open(path: &Path) -> Result<Log, AuditDown> {
        let outcomes = Arc::new(Outcomes::default());
        let mut writer =
            Writer::open(path, outcomes.clone()).map_err(|error| AuditDown(error.to_string()))?;
        let changes = writer.changes();
        let (jobs, queue) = channel();
        let handle = std::thread::Builder::new()
            .name("audit".to_owned())
            .spawn(move || writer.run(&queue))
            .map_err(|error| AuditDown(error.to_string()))?;
        Ok(Log {
            path: Arc::from(path),
            room: Arc::new(Semaphore::new(QUEUE_RECORDS_MAX)),
            shares: Shares::default(),
            changes,
            outcomes,
            thread: Arc::new(WriterThread {
                jobs: Some(jobs),
                handle: Some(handle),
            }),
        })
    }

    /// Returns when the record is on disk. The record of a denial is written even if its caller
    /// goes away; that of an `allow` is then written as a denial, or gets [`NOT_DONE`].
    ///
    /// # Errors
    /// The group could not be committed, or it took longer than [`APPEND_WAIT_MS`].
    pub fn append(&self, record: Record) -> impl Future<Output = Result<RecordId, AuditDown>> + Send {
        // At once to where the writer gets it: a future that held it would be moved with it.
        let record = Box::new(record);
        async move {
            let wait = Duration::from_millis(APPEND_WAIT_MS);
            match tokio::time::timeout(wait, self.append_inner(record)).await {
                Ok(result) => result,
                Err(_) => Err(AuditDown(format!("no room or no answer in {APPEND_WAIT_MS} ms"))),
            }
        }
    }

    async fn append_inner(&self, record: Box<Record>) -> Result<RecordId, AuditDown> {
        let stopped = || AuditDown("the writer has stopped".to_owned());
        let share = self.shares.take(&record).await.map_err(|_| stopped())?;
        let room = self.room.clone().acquire_owned().await.map_err(|_| stopped())?;
        let (answer, answered) = oneshot::channel();
        let waiter = Waiter {
            answer,
            _room: (share, room),
        };
        let mut untaken = Untaken {
            log: self,
            answer: answered,
            allows: record.verdict == "allow",
            taken: false,
        };
        self.send(Job::Append(record, waiter))?;
        let answer = (&mut untaken.answer).await;
        untaken.taken = true;
        answer.map_err(|_| stopped())?
    }

    /// Adds the outcome to a record; not waited for, but never dropped while the log lives.
    pub fn finish(&self, id: RecordId, outcome: Outcome) {
        if self.outcomes.add(id, outcome) && self.send(Job::Look).is_err() {
            tracing::error!(
                record = id.0,
                "the outcome of a record is lost: the writer has stopped"
            );
        }
    }

    /// From now on older records are removed by this rule; the chain stays verifiable.
    pub fn retain(&self, retention: Retention) {
        let _ = self.send(Job::Retain(retention));
    }

    /// The database, for a reader of its own.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A number that grows whenever there is more to read.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.clone()
    }

    /// Returns when everything queued before is written, outcomes included.
    ///
    /// # Errors
    /// The log is not writable.
    pub async fn flush(&self) -> Result<(), AuditDown> {
        let stopped = || AuditDown("the writer has stopped".to_owned());
        let (answer, answered) = oneshot::channel();
        self.send(Job::Flush(answer))?;
        answered.await.map_err(|_| stopped())?
    }

    fn send(&self, job: Job) -> Result<(), AuditDown> {
        let sent = self.thread.jobs.as_ref().map(|jobs| jobs.send(job));
        match sent {
            Some(Ok(())) => Ok(()),
            _ => Err(AuditDown("the writer has stopped".to_owned())),
        }
    }
}

impl Drop for Untaken<'_> {
    fn drop(&mut self) {
        if self.taken || !self.allows {
            return;
        }
        // After this the writer cannot answer any more, and sees that it could not.
        self.answer.close();
        if let Ok(Ok(id)) = self.answer.try_recv() {
            self.log.finish(id, Outcome::not_done());
        }
    }
}

impl Drop for WriterThread {
    fn drop(&mut self) {
        drop(self.jobs.take());
        if let Some(handle) = self.handle.take()
            && handle.join().is_err()
        {
            tracing::error!("the audit writer panicked");
        }
    }
}
