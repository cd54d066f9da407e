//! The audit log in SQLite: one writer thread, group commit, answers when durable.
//!
//! Everything that is queued goes into one transaction; its commit is an fsync
//! (`synchronous = FULL`), and only then is each waiter answered. Every record carries the hash of
//! the one before it, so that a record that was changed or taken out shows in [`verify`].

use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, params};
use serde_json::json;
use sha2::{Digest as _, Sha256};
use tokio::sync::{mpsc, oneshot};

use super::{Outcome, Record, RecordId};

/// Records that may wait for the writer before [`Log::append`] waits too.
pub const QUEUE_RECORDS_MAX: usize = 4096;
/// Records in one transaction.
pub const GROUP_RECORDS_MAX: usize = 256;
/// How long a record may wait for a place in the queue and for the disk.
pub const APPEND_WAIT: Duration = Duration::from_secs(5);

const SCHEMA: &str = "
PRAGMA journal_mode = WAL;
PRAGMA synchronous = FULL;
CREATE TABLE IF NOT EXISTS record (
  id INTEGER PRIMARY KEY,
  at_us INTEGER NOT NULL,
  node TEXT NOT NULL,
  endpoint TEXT NOT NULL,
  verdict TEXT NOT NULL,
  rule TEXT,
  body TEXT NOT NULL,
  hash BLOB NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS record_at ON record (at_us);
CREATE TABLE IF NOT EXISTS outcome (
  record INTEGER PRIMARY KEY,
  status TEXT NOT NULL,
  bytes_up INTEGER NOT NULL,
  bytes_down INTEGER NOT NULL,
  took_us INTEGER NOT NULL
) STRICT;
";

/// The log could not take a record. Whatever was to be recorded must not happen.
#[derive(Clone, Debug, thiserror::Error)]
#[error("the audit log is not writable: {0}")]
pub struct AuditDown(pub String);

enum Entry {
    Record(Box<Record>, oneshot::Sender<Result<RecordId, AuditDown>>),
    Outcome(RecordId, Outcome),
    Flush(oneshot::Sender<()>),
}

/// A handle to the writer; cheap to clone. The writer ends when the last handle is gone.
#[derive(Clone)]
pub struct Log {
    entries: mpsc::Sender<Entry>,
    /// Outcomes never wait and are never dropped: they are few, one for each permitted action.
    outcomes: mpsc::UnboundedSender<Entry>,
}

impl Log {
    /// Opens or creates the database and starts the writer.
    ///
    /// # Errors
    /// The file cannot be opened or is no audit log.
    pub fn open(path: &Path) -> Result<Log, AuditDown> {
        let connection = Connection::open(path).and_then(|connection| {
            connection.execute_batch(SCHEMA)?;
            connection.busy_timeout(APPEND_WAIT)?;
            Ok(connection)
        });
        let connection = connection.map_err(down)?;
        let (entries, entry_queue) = mpsc::channel(QUEUE_RECORDS_MAX);
        let (outcomes, outcome_queue) = mpsc::unbounded_channel();
        std::thread::Builder::new()
            .name("audit".to_owned())
            .spawn(move || write_groups(connection, entry_queue, outcome_queue))
            .map_err(|error| AuditDown(error.to_string()))?;
        Ok(Log { entries, outcomes })
    }

    /// Returns when the record is on disk.
    ///
    /// # Errors
    /// It is not, after [`APPEND_WAIT`] or for the reason given.
    pub async fn append(&self, record: Record) -> Result<RecordId, AuditDown> {
        let (done, durable) = oneshot::channel();
        let send = self
            .entries
            .send_timeout(Entry::Record(Box::new(record), done), APPEND_WAIT);
        send.await
            .map_err(|error| AuditDown(format!("the queue is full or closed: {error}")))?;
        match tokio::time::timeout(APPEND_WAIT, durable).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(AuditDown("the writer ended".to_owned())),
            Err(_) => Err(AuditDown("the disk took too long".to_owned())),
        }
    }

    /// Adds the outcome to a record; not waited for.
    pub fn finish(&self, id: RecordId, outcome: Outcome) {
        if self.outcomes.send(Entry::Outcome(id, outcome)).is_err() {
            tracing::error!(record = id.0, "the audit writer is gone; an outcome is lost");
        }
    }

    /// Returns when everything handed in so far is on disk.
    pub async fn flush(&self) {
        let (done, flushed) = oneshot::channel();
        if self.outcomes.send(Entry::Flush(done)).is_ok() {
            let _ = flushed.await;
        }
    }
}

fn down(error: rusqlite::Error) -> AuditDown {
    AuditDown(error.to_string())
}

fn write_groups(
    mut connection: Connection,
    mut entries: mpsc::Receiver<Entry>,
    mut outcomes: mpsc::UnboundedReceiver<Entry>,
) {
    let runtime = match tokio::runtime::Builder::new_current_thread().build() {
        Ok(runtime) => runtime,
        Err(error) => return tracing::error!(%error, "the audit writer could not start"),
    };
    let mut group = Vec::with_capacity(GROUP_RECORDS_MAX);
    loop {
        let first = runtime.block_on(async {
            tokio::select! {
                Some(entry) = entries.recv() => Some(entry),
                Some(entry) = outcomes.recv() => Some(entry),
                else => None,
            }
        });
        let Some(first) = first else { return };
        group.push(first);
        while group.len() < GROUP_RECORDS_MAX {
            match entries.try_recv().or_else(|_| outcomes.try_recv()) {
                Ok(entry) => group.push(entry),
                Err(_) => break,
            }
        }
        let written = write_group(&mut connection, &group);
        answer(&mut group, written);
    }
}

/// One transaction; the ids of its records in order.
fn write_group(connection: &mut Connection, group: &[Entry]) -> Result<Vec<RecordId>, AuditDown> {
    let transaction = connection.transaction().map_err(down)?;
    let (mut id, mut hash) = head(&transaction).map_err(down)?;
    let mut ids = Vec::new();
    for entry in group {
        match entry {
            Entry::Record(record, _) => {
                id += 1;
                let body = body_of(record);
                hash = chain(&hash, id, &body);
                transaction
                    .prepare_cached("INSERT INTO record VALUES (?1,?2,?3,?4,?5,?6,?7,?8)")
                    .and_then(|mut insert| {
                        insert.execute(params![
                            id,
                            record.at_us,
                            record.node,
                            &*record.endpoint,
                            record.verdict,
                            record.rule.as_deref(),
                            body,
                            &hash[..]
                        ])
                    })
                    .map_err(down)?;
                ids.push(RecordId(id.unsigned_abs()));
            }
            Entry::Outcome(record, outcome) => {
                transaction
                    .prepare_cached("INSERT OR REPLACE INTO outcome VALUES (?1,?2,?3,?4,?5)")
                    .and_then(|mut insert| {
                        insert.execute(params![
                            clamp(record.0),
                            outcome.status,
                            clamp(outcome.bytes_up),
                            clamp(outcome.bytes_down),
                            clamp(outcome.took_us)
                        ])
                    })
                    .map_err(down)?;
            }
            Entry::Flush(_) => {}
        }
    }
    transaction.commit().map_err(down)?;
    Ok(ids)
}

fn answer(group: &mut Vec<Entry>, written: Result<Vec<RecordId>, AuditDown>) {
    let mut ids = written.as_ref().map(|ids| ids.iter()).ok();
    if let Err(error) = &written {
        tracing::error!(%error, "a group of audit records was not written");
    }
    for entry in group.drain(..) {
        match entry {
            Entry::Record(_, done) => {
                let id = ids.as_mut().and_then(|ids| ids.next()).copied();
                let gone = || {
                    written
                        .clone()
                        .err()
                        .unwrap_or_else(|| AuditDown("not written".to_owned()))
                };
                // A waiter that left (its agent is gone) has a record all the same.
                let _ = done.send(id.ok_or_else(gone));
            }
            Entry::Flush(done) => {
                let _ = done.send(());
            }
            Entry::Outcome(..) => {}
        }
    }
}

fn head(connection: &Connection) -> rusqlite::Result<(i64, [u8; 32])> {
    let mut last = connection.prepare_cached("SELECT id, hash FROM record ORDER BY id DESC LIMIT 1")?;
    let mut rows = last.query([])?;
    match rows.next()? {
        Some(row) => Ok((row.get(0)?, row.get(1)?)),
        None => Ok((0, [0; 32])),
    }
}

/// `SHA-256(previous hash ‖ id, big-endian ‖ body)`.
fn chain(previous: &[u8; 32], id: i64, body: &str) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(previous);
    hash.update(id.to_be_bytes());
    hash.update(body);
    hash.finalize().into()
}

fn body_of(record: &Record) -> String {
    json!({
        "at_us": record.at_us,
        "step": record.step,
        "transport": record.transport,
        "node": record.node,
        "login": record.login,
        "address": record.address,
        "profile": record.profile.as_deref(),
        "endpoint": &*record.endpoint,
        "credential": record.credential.as_deref(),
        "summary": record.summary,
        "facts": record.facts,
        "digest": record.digest.to_string(),
        "verdict": record.verdict,
        "cause": record.cause,
        "rule": record.rule.as_deref(),
        "reason": record.reason,
        "detail": record.detail,
        "approvers": record.approvers,
        "shadow": record.shadow,
        "judge_us": record.judge_us,
        "wait_us": record.wait_us,
        "policy": format!("{:016x}", record.policy),
    })
    .to_string()
}

fn clamp(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// Which records a reader wants.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Only records behind this one.
    pub after: Option<u64>,
    /// Only records of this Unix time or later, microseconds.
    pub since_us: Option<i64>,
    pub node: Option<String>,
    pub endpoint: Option<String>,
    pub verdict: Option<String>,
    pub rule: Option<String>,
    /// The last so many; all where `None`.
    pub last: Option<u32>,
}

/// Reads the log without the writer; works while a gateway runs and while none does.
pub struct Reader(Connection);

impl Reader {
    /// # Errors
    /// The file is not there or is no audit log.
    pub fn open(path: &Path) -> Result<Reader, AuditDown> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(path, flags).map_err(down)?;
        connection.pragma_update(None, "query_only", true).map_err(down)?;
        connection.busy_timeout(APPEND_WAIT).map_err(down)?;
        Ok(Reader(connection))
    }

    /// The records of a filter, oldest first, each as a JSON object with `id`, `hash`, `outcome`.
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn records(&self, filter: &Filter, mut each: impl FnMut(serde_json::Value)) -> Result<(), AuditDown> {
        let sql = "SELECT * FROM (
              SELECT r.id, r.body, hex(r.hash), o.status, o.bytes_up, o.bytes_down, o.took_us
              FROM record r LEFT JOIN outcome o ON o.record = r.id
              WHERE (?1 IS NULL OR r.id > ?1) AND (?2 IS NULL OR r.at_us >= ?2) AND (?3 IS NULL OR r.node = ?3)
                AND (?4 IS NULL OR r.endpoint = ?4) AND (?5 IS NULL OR r.verdict = ?5) AND (?6 IS NULL OR r.rule = ?6)
              ORDER BY r.id DESC LIMIT ?7) ORDER BY id";
        let mut statement = self.0.prepare_cached(sql).map_err(down)?;
        let wanted = params![
            filter.after.map(clamp),
            filter.since_us,
            filter.node,
            filter.endpoint,
            filter.verdict,
            filter.rule,
            filter.last.map_or(-1, i64::from),
        ];
        let mut rows = statement.query(wanted).map_err(down)?;
        while let Some(row) = rows.next().map_err(down)? {
            each(row_json(row).map_err(down)?);
        }
        Ok(())
    }

    /// Walks the chain of hashes from the first record. The number of records that hold.
    ///
    /// What this cannot see: records cut off at the end, and a log that was rewritten whole by
    /// someone who can write the file. Keep the last hash elsewhere to see those.
    ///
    /// # Errors
    /// The first record that does not follow from the one before it.
    pub fn verify(&self) -> Result<(u64, String), AuditDown> {
        let mut statement = self
            .0
            .prepare("SELECT id, body, hash FROM record ORDER BY id")
            .map_err(down)?;
        let mut rows = statement.query([]).map_err(down)?;
        let (mut count, mut previous) = (0_i64, [0_u8; 32]);
        while let Some(row) = rows.next().map_err(down)? {
            let (id, body, hash): (i64, String, [u8; 32]) = row
                .get(0)
                .and_then(|id| Ok((id, row.get(1)?, row.get(2)?)))
                .map_err(down)?;
            if id != count + 1 {
                return Err(AuditDown(format!("record {} is missing", count + 1)));
            }
            if chain(&previous, id, &body) != hash {
                return Err(AuditDown(format!("record {id} was changed")));
            }
            (count, previous) = (id, hash);
        }
        Ok((
            count.unsigned_abs(),
            previous.iter().map(|byte| format!("{byte:02x}")).collect(),
        ))
    }
}

fn row_json(row: &rusqlite::Row<'_>) -> rusqlite::Result<serde_json::Value> {
    let body: String = row.get(1)?;
    let mut value: serde_json::Value = serde_json::from_str(&body).unwrap_or_default();
    value["id"] = json!(row.get::<_, i64>(0)?);
    value["hash"] = json!(row.get::<_, String>(2)?.to_ascii_lowercase());
    if let Some(status) = row.get::<_, Option<String>>(3)? {
        value["outcome"] = json!({
            "status": status,
            "bytes_up": row.get::<_, i64>(4)?,
            "bytes_down": row.get::<_, i64>(5)?,
            "took_us": row.get::<_, i64>(6)?,
        });
    }
    Ok(value)
}

#[cfg(test)]
mod tests;
