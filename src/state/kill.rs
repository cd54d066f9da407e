//! Agents that a person has stopped, by [`Identity::agent_key`]: nothing of theirs is let through until
//! they are let go again, whatever restarts meanwhile.
//!
//! [`Identity::agent_key`]: crate::identity::Identity::agent_key

use std::collections::HashMap;
use std::sync::Arc;

use rusqlite::{Connection, params};
use tokio::sync::watch;

use super::{State, StateError, now_us};

/// Agents that are stopped at once.
pub const KILLED_MAX: i64 = 4096;

/// That an agent is stopped.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, schemars::JsonSchema)]
pub struct Kill {
    /// As [`Identity::agent_key`](crate::identity::Identity::agent_key).
    pub agent: String,
    /// Who stopped it.
    pub person: String,
    pub reason: Option<String>,
    /// Unix time, microseconds.
    pub at_us: i64,
}

/// All that are stopped, by their agent's key.
pub type Killed = HashMap<String, Kill>;

impl State {
    /// All that are stopped, published anew after each change.
    pub fn watch_killed(&self) -> watch::Receiver<Arc<Killed>> {
        self.inner.killed.subscribe()
    }

    /// Publishes what the database holds; for those who changed it.
    pub(crate) fn publish_killed(&self, connection: &Connection) -> Result<(), StateError> {
        let killed = all(connection)?;
        self.inner.killed.send_replace(Arc::new(killed));
        Ok(())
    }

    /// Lets an agent go again; `false` if it was not stopped.
    ///
    /// # Errors
    /// The database.
    pub fn unkill(&self, agent: &str) -> Result<bool, StateError> {
        self.with(|connection| {
            let gone = connection.execute("DELETE FROM agent_kill WHERE agent = ?", [agent])?;
            self.publish_killed(connection)?;
            Ok(gone > 0)
        })
    }
}

/// Notes that an agent is stopped; one that is already stays as it was noted first.
pub(crate) fn insert(
    connection: &Connection,
    agent: &str,
    person: &str,
    reason: Option<&str>,
) -> Result<(), StateError> {
    let count: i64 = connection.query_row("SELECT count(*) FROM agent_kill", [], |row| row.get(0))?;
    if count >= KILLED_MAX {
        let text = format!("{KILLED_MAX} agents are stopped already; take some out of the policy");
        return Err(StateError::Refused(text));
    }
    connection.execute(
        "INSERT OR IGNORE INTO agent_kill VALUES (?, ?, ?, ?)",
        params![agent, person, reason, now_us()],
    )?;
    Ok(())
}

pub(super) fn all(connection: &Connection) -> Result<Killed, StateError> {
    let mut statement = connection.prepare_cached("SELECT agent, person, reason, at_us FROM agent_kill")?;
    let rows = statement.query_map([], |row| {
        Ok(Kill {
            agent: row.get(0)?,
            person: row.get(1)?,
            reason: row.get(2)?,
            at_us: row.get(3)?,
        })
    })?;
    let kills = rows.map(|row| row.map(|kill| (kill.agent.clone(), kill)));
    Ok(kills.collect::<Result<_, _>>()?)
}
