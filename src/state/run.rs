//! Keys of single runs: a machine that is enrolled gets one for each command beside its first, since
//! a WireGuard responder keeps one session for a key. They go with the enrolment that they hang on.

use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, params};

use super::peer::{PeerKey, Subnets, all, insert_key, is_held, refused};
use super::{State, StateError, now_us};

/// Seconds without a handshake after which a run's key is forgotten. A live tunnel makes one every
/// two minutes.
pub const RUN_IDLE_S: u64 = 600;
/// Runs at once beside a machine's first. Each key has limits of its own, so they must be few.
pub const RUNS_PER_MACHINE_MAX: i64 = 16;

impl State {
    /// The enrolled key, if a machine has it and is not held.
    ///
    /// # Errors
    /// The database.
    pub fn enrolled(&self, key: &[u8; 32]) -> Result<Option<PeerKey>, StateError> {
        self.with(|connection| enrolled(connection, key))
    }

    /// Adds the key of a run to an enrolled machine, with addresses of its own.
    ///
    /// # Errors
    /// `parent` is not an enrolled machine, or is held; as [`State::enrol`]; the database.
    pub fn add_run(
        &self,
        parent: &[u8; 32],
        key: &[u8; 32],
        subnets: &Subnets,
    ) -> Result<PeerKey, StateError> {
        self.with(|connection| {
            let transaction = connection.transaction()?;
            let Some(machine) = enrolled(&transaction, parent)? else {
                return Err(refused("this machine is not enrolled, or not approved yet"));
            };
            forget(&transaction, Duration::from_secs(RUN_IDLE_S))?;
            let query = "SELECT count(*) FROM peer_key WHERE parent = ?";
            let runs: i64 = transaction.query_row(query, [parent.as_slice()], |row| row.get(0))?;
            if runs >= RUNS_PER_MACHINE_MAX {
                return Err(refused("this machine has too many runs at once"));
            }
            let mut added = insert_key(&transaction, &machine.peer, key, subnets)?;
            added.machine = Some(*parent);
            let update = "UPDATE peer_key SET parent = ? WHERE public_key = ?";
            transaction.execute(update, params![parent.as_slice(), key.as_slice()])?;
            transaction.commit()?;
            self.publish_peers(connection)?;
            Ok(added)
        })
    }

    /// Removes the key of a run of this machine; `false` if it has no such run.
    ///
    /// # Errors
    /// The database.
    pub fn end_run(&self, parent: &[u8; 32], key: &[u8; 32]) -> Result<bool, StateError> {
        self.with(|connection| {
            let delete = "DELETE FROM peer_key WHERE public_key = ? AND parent = ?";
            let gone = connection.execute(delete, params![key.as_slice(), parent.as_slice()])?;
            if gone > 0 {
                self.publish_peers(connection)?;
            }
            Ok(gone > 0)
        })
    }

    /// Forgets runs that made no handshake for so long; how many.
    ///
    /// # Errors
    /// The database.
    pub fn forget_runs(&self, idle: Duration) -> Result<usize, StateError> {
        self.with(|connection| {
            let gone = forget(connection, idle)?;
            if gone > 0 {
                self.publish_peers(connection)?;
            }
            Ok(gone)
        })
    }

    /// Removes a machine's key with those of its runs, and the peer if it was the last; `false` if it
    /// is not enrolled.
    ///
    /// # Errors
    /// The database.
    pub fn leave(&self, key: &[u8; 32]) -> Result<bool, StateError> {
        self.with(|connection| {
            let transaction = connection.transaction()?;
            let Some(machine) = enrolled(&transaction, key)? else {
                return Ok(false);
            };
            transaction.execute("DELETE FROM peer_key WHERE public_key = ?", [key.as_slice()])?;
            transaction.execute(
                "DELETE FROM peer WHERE name = ?1 AND NOT EXISTS (SELECT 1 FROM peer_key WHERE peer = ?1)
                 AND NOT EXISTS (SELECT 1 FROM enrolment WHERE peer = ?1 AND used_us IS NULL AND expires_us > ?2)",
                params![machine.peer, now_us()],
            )?;
            transaction.commit()?;
            self.publish_peers(connection)?;
            Ok(true)
        })
    }
}

fn enrolled(connection: &Connection, key: &[u8; 32]) -> Result<Option<PeerKey>, StateError> {
    let query = "SELECT 1 FROM peer_key WHERE public_key = ? AND parent IS NULL";
    let own = connection
        .query_row(query, [key.as_slice()], |_| Ok(()))
        .optional()?;
    if own.is_none() {
        return Ok(None);
    }
    let found = all(connection)?
        .into_iter()
        .find(|known| known.public_key == *key);
    match found {
        Some(found) if !is_held(connection, &found.peer)? => Ok(Some(found)),
        _ => Ok(None),
    }
}

fn forget(connection: &Connection, idle: Duration) -> Result<usize, StateError> {
    let idle = i64::try_from(idle.as_micros()).unwrap_or(i64::MAX);
    let delete = "DELETE FROM peer_key WHERE parent IS NOT NULL AND coalesce(seen_us, created_us) <= ?";
    Ok(connection.execute(delete, [now_us().saturating_sub(idle)])?)
}
