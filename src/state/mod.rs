//! What the gateway remembers: one SQLite database, `state.db`, in the state folder.
//!
//! Peers and their keys ([`peer`], [`run`]), enrolment tokens, the admin page's people
//! ([`operator`]), the gateway's own WireGuard key, the
//! versions of the policy, the agents that are stopped ([`kill`]), and the held actions of
//! [`crate::verdict::approval`]. The audit log is
//! a database of its own.
//!
//! One connection behind a mutex: every statement is short, and callers on the runtime go through
//! [`State::run`], which uses a blocking thread.
//!
//! Invariants: the folder is ours alone (0700), the file 0600; tokens are kept as SHA-256;
//! a change is durable (`synchronous = FULL`) before anyone is told of it.

pub mod kill;
pub mod operator;
pub mod peer;
pub mod run;

use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rusqlite::{Connection, OptionalExtension, params};
use tokio::sync::watch;
use zeroize::Zeroizing;

pub use kill::{Kill, Killed};
pub use peer::{PeerKey, Subnets};

/// The schema, by version: entry `n` leads from version `n` to `n + 1`.
const MIGRATIONS: &[&str] = &[
    "
CREATE TABLE peer (name TEXT PRIMARY KEY, created_us INTEGER NOT NULL) STRICT;
CREATE TABLE peer_key (
  public_key BLOB PRIMARY KEY, peer TEXT NOT NULL REFERENCES peer (name) ON DELETE CASCADE,
  v4 TEXT NOT NULL UNIQUE, v6 TEXT NOT NULL UNIQUE,
  created_us INTEGER NOT NULL, seen_us INTEGER) STRICT;
CREATE TABLE enrolment (
  hash BLOB PRIMARY KEY, peer TEXT NOT NULL, created_us INTEGER NOT NULL,
  expires_us INTEGER NOT NULL, used_us INTEGER) STRICT;
CREATE TABLE secret_key (name TEXT PRIMARY KEY, value BLOB NOT NULL) STRICT;
CREATE TABLE policy_version (
  version INTEGER PRIMARY KEY AUTOINCREMENT, digest BLOB NOT NULL, loaded_us INTEGER NOT NULL) STRICT;
CREATE TABLE approval (
  id INTEGER PRIMARY KEY AUTOINCREMENT, identity BLOB NOT NULL, node TEXT NOT NULL,
  question TEXT NOT NULL, required INTEGER NOT NULL, eligible TEXT NOT NULL, state TEXT NOT NULL,
  asked_us INTEGER NOT NULL, expires_us INTEGER NOT NULL, closed_us INTEGER,
  decided_by TEXT, reason TEXT) STRICT;
CREATE INDEX approval_open ON approval (state, identity);
CREATE TABLE approval_vote (
  approval INTEGER NOT NULL REFERENCES approval (id), person TEXT NOT NULL, at_us INTEGER NOT NULL,
  PRIMARY KEY (approval, person)) STRICT;
",
    "
CREATE TABLE peer_hold (peer TEXT PRIMARY KEY) STRICT;
",
    "
ALTER TABLE peer_key ADD COLUMN parent BLOB REFERENCES peer_key (public_key) ON DELETE CASCADE;
",
    "
CREATE TABLE operator (name TEXT PRIMARY KEY, password TEXT NOT NULL, created_us INTEGER NOT NULL) STRICT;
CREATE TABLE operator_invite (hash BLOB PRIMARY KEY, name TEXT NOT NULL, expires_us INTEGER NOT NULL) STRICT;
CREATE TABLE session (
  id INTEGER PRIMARY KEY AUTOINCREMENT, hash BLOB NOT NULL UNIQUE, guard BLOB NOT NULL,
  person TEXT NOT NULL, via TEXT NOT NULL, address TEXT NOT NULL, browser TEXT NOT NULL,
  created_us INTEGER NOT NULL, seen_us INTEGER NOT NULL, expires_us INTEGER NOT NULL) STRICT;
",
    "
ALTER TABLE operator ADD COLUMN login TEXT;
ALTER TABLE operator_invite ADD COLUMN login TEXT;
ALTER TABLE approval_vote ADD COLUMN counts_as TEXT;
CREATE UNIQUE INDEX approval_vote_once ON approval_vote (approval, coalesce(counts_as, person));
",
    "
ALTER TABLE approval ADD COLUMN agent TEXT NOT NULL DEFAULT '';
ALTER TABLE approval ADD COLUMN scope BLOB;
ALTER TABLE approval ADD COLUMN chain TEXT NOT NULL DEFAULT '[]';
ALTER TABLE approval ADD COLUMN grant_id INTEGER;
CREATE INDEX approval_agent ON approval (agent, state);
CREATE TABLE approval_grant (
  id INTEGER PRIMARY KEY AUTOINCREMENT, scope BLOB NOT NULL, agent TEXT NOT NULL, about TEXT NOT NULL,
  state TEXT NOT NULL, lasts_us INTEGER NOT NULL, uses_max INTEGER NOT NULL, uses INTEGER NOT NULL,
  offered_us INTEGER NOT NULL, given_us INTEGER, expires_us INTEGER, ended_us INTEGER, ended_by TEXT,
  used_us INTEGER) STRICT;
CREATE INDEX approval_grant_open ON approval_grant (state, scope);
CREATE TABLE approval_grant_vote (
  id INTEGER NOT NULL REFERENCES approval_grant (id), person TEXT NOT NULL, at_us INTEGER NOT NULL,
  counts_as TEXT, PRIMARY KEY (id, person)) STRICT;
CREATE UNIQUE INDEX approval_grant_vote_once ON approval_grant_vote (id, coalesce(counts_as, person));
CREATE TABLE agent_kill (
  agent TEXT PRIMARY KEY, person TEXT NOT NULL, reason TEXT, at_us INTEGER NOT NULL) STRICT;
",
    "
ALTER TABLE approval ADD COLUMN excluded TEXT;
ALTER TABLE approval ADD COLUMN escalates_us INTEGER;
ALTER TABLE approval ADD COLUMN escalate_to TEXT;
",
    "
CREATE TABLE approval_told (
  approval INTEGER NOT NULL REFERENCES approval (id), channel TEXT NOT NULL, state TEXT NOT NULL,
  problem TEXT, shown TEXT NOT NULL, place TEXT, token BLOB, at_us INTEGER NOT NULL,
  over INTEGER NOT NULL DEFAULT 0, PRIMARY KEY (approval, channel)) STRICT;
CREATE INDEX approval_told_open ON approval_told (over);
",
    "
ALTER TABLE approval ADD COLUMN retry BLOB;
",
    "
ALTER TABLE approval ADD COLUMN endpoint TEXT;
ALTER TABLE approval ADD COLUMN rule TEXT;
ALTER TABLE approval ADD COLUMN shape TEXT;
CREATE INDEX approval_alike ON approval (endpoint, rule, shape, state);
",
    "
ALTER TABLE approval_vote ADD COLUMN through TEXT;
ALTER TABLE approval ADD COLUMN decided_through TEXT;
",
    "
ALTER TABLE approval_told ADD COLUMN called INTEGER NOT NULL DEFAULT 0;
",
    "
ALTER TABLE approval ADD COLUMN owner TEXT;
",
];

/// The state cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    #[error("{0}: {1}")]
    Folder(PathBuf, std::io::Error),
    #[error("{0} belongs to another user")]
    Owner(PathBuf),
    #[error("{path} is open to others (mode {mode:o}); it must be 0700")]
    Mode { path: PathBuf, mode: u32 },
    #[error("the state database is of a newer version ({0})")]
    Newer(i64),
    #[error("state database: {0}")]
    Sql(#[from] rusqlite::Error),
    #[error("the system gave no random bytes: {0}")]
    Random(String),
    #[error("{0}")]
    Refused(String),
    #[error("the state's task was cancelled")]
    Cancelled,
}

/// A handle to the database; cheap to clone.
#[derive(Clone)]
pub struct State {
    inner: Arc<Inner>,
}

struct Inner {
    dir: PathBuf,
    connection: Mutex<Connection>,
    peers: watch::Sender<Arc<Vec<PeerKey>>>,
    killed: watch::Sender<Arc<Killed>>,
}

impl State {
    /// Opens or creates `state.db` in `dir`, which is created with mode 0700.
    ///
    /// # Errors
    /// The folder belongs to someone else or is open to others; the database cannot be opened.
    pub fn open(dir: &Path) -> Result<State, StateError> {
        secure_folder(dir)?;
        let path = dir.join("state.db");
        std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(&path)
            .map_err(|error| StateError::Folder(path.clone(), error))?;
        let mut connection = Connection::open(&path)?;
        connection.busy_timeout(Duration::from_secs(5))?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.pragma_update(None, "foreign_keys", "ON")?;
        migrate(&mut connection)?;
        let peers = peer::active(&connection)?;
        let killed = kill::all(&connection)?;
        Ok(State {
            inner: Arc::new(Inner {
                dir: dir.to_owned(),
                connection: Mutex::new(connection),
                peers: watch::channel(Arc::new(peers)).0,
                killed: watch::channel(Arc::new(killed)).0,
            }),
        })
    }

    /// The state folder.
    pub fn dir(&self) -> &Path {
        &self.inner.dir
    }

    /// Runs `work` with the connection, on this thread. A transaction that `work` leaves open is
    /// rolled back by its own drop.
    pub(crate) fn with<T>(
        &self,
        work: impl FnOnce(&mut Connection) -> Result<T, StateError>,
    ) -> Result<T, StateError> {
        let mut connection = self
            .inner
            .connection
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        work(&mut connection)
    }

    /// Runs `work` on a blocking thread.
    ///
    /// # Errors
    /// That of `work`, or the runtime is shutting down.
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&State) -> Result<T, StateError> + Send + 'static,
    ) -> Result<T, StateError> {
        let state = self.clone();
        tokio::task::spawn_blocking(move || work(&state))
            .await
            .map_err(|_| StateError::Cancelled)?
    }

    /// Every peer key that may connect, published anew after each change.
    pub fn watch_peers(&self) -> watch::Receiver<Arc<Vec<PeerKey>>> {
        self.inner.peers.subscribe()
    }

    pub(crate) fn publish_peers(&self, connection: &Connection) -> Result<(), StateError> {
        let peers = peer::active(connection)?;
        self.inner.peers.send_replace(Arc::new(peers));
        Ok(())
    }

    /// The gateway's WireGuard private key, made at the first call.
    ///
    /// # Errors
    /// The database, or no random bytes.
    pub fn gateway_key(&self) -> Result<Zeroizing<[u8; 32]>, StateError> {
        self.with(|connection| {
            let fresh = random()?;
            connection.execute(
                "INSERT OR IGNORE INTO secret_key VALUES ('wireguard', ?)",
                [fresh.as_slice()],
            )?;
            let query = "SELECT value FROM secret_key WHERE name = 'wireguard'";
            Ok(connection.query_row(query, [], |row| row.get(0).map(Zeroizing::new))?)
        })
    }

    /// The version of a policy with this digest: the current one if it has not changed, else a new one.
    ///
    /// # Errors
    /// The database.
    pub fn policy_version(&self, digest: &[u8; 32]) -> Result<u64, StateError> {
        self.with(|connection| {
            let transaction = connection.transaction()?;
            let newest = transaction
                .query_row(
                    "SELECT version, digest FROM policy_version ORDER BY version DESC LIMIT 1",
                    [],
                    |row| Ok((row.get::<_, i64>(0)?, row.get::<_, [u8; 32]>(1)?)),
                )
                .optional()?;
            if let Some((version, held)) = newest
                && held == *digest
            {
                return Ok(version as u64);
            }
            transaction.execute(
                "INSERT INTO policy_version (digest, loaded_us) VALUES (?, ?)",
                params![digest.as_slice(), now_us()],
            )?;
            let version = transaction.last_insert_rowid() as u64;
            transaction.commit()?;
            Ok(version)
        })
    }
}

fn migrate(connection: &mut Connection) -> Result<(), StateError> {
    let version: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let steps = usize::try_from(version)
        .ok()
        .and_then(|version| MIGRATIONS.get(version..))
        .ok_or(StateError::Newer(version))?;
    for (step, next) in steps.iter().zip(version + 1..) {
        let transaction = connection.transaction()?;
        transaction.execute_batch(step)?;
        transaction.pragma_update(None, "user_version", next)?;
        transaction.commit()?;
    }
    Ok(())
}

/// Creates the folder for us alone, or refuses one that is not.
fn secure_folder(dir: &Path) -> Result<(), StateError> {
    let failed = |error| StateError::Folder(dir.to_owned(), error);
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(failed)?;
    let metadata = std::fs::metadata(dir).map_err(failed)?;
    if metadata.uid() != nix::unistd::geteuid().as_raw() {
        return Err(StateError::Owner(dir.to_owned()));
    }
    let mode = metadata.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(StateError::Mode {
            path: dir.to_owned(),
            mode,
        });
    }
    Ok(())
}

/// 32 bytes of the system's randomness.
pub(crate) fn random() -> Result<Zeroizing<[u8; 32]>, StateError> {
    let mut bytes = Zeroizing::new([0; 32]);
    getrandom::fill(bytes.as_mut_slice()).map_err(|error| StateError::Random(error.to_string()))?;
    Ok(bytes)
}

/// Unix time, microseconds.
pub(crate) fn now_us() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
}
