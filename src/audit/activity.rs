//! What the newest records say of each agent and each rule.

use rusqlite::params;
use serde::Serialize;

use super::read::{ReadError, Reader};

/// Records that are looked at: the newest ones. Reading them takes some tens of milliseconds.
pub const ACTIVITY_RECORDS_MAX: i64 = 20_000;
/// Agents that are told of, the latest first.
pub const ACTIVE_AGENTS_MAX: i64 = 500;

/// What one agent did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, schemars::JsonSchema)]
pub struct ActiveAgent {
    pub node: String,
    pub transport: String,
    pub login: Option<String>,
    pub profile: Option<String>,
    pub address: String,
    /// Unix time, microseconds, of its last action.
    pub seen_us: i64,
    pub actions: u64,
    pub denied: u64,
}

/// What one rule decided.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, schemars::JsonSchema)]
pub struct ActiveRule {
    pub rule: String,
    pub hits: u64,
    pub denied: u64,
    /// Unix time, microseconds.
    pub last_us: i64,
}

impl Reader {
    /// The agents among the newest [`ACTIVITY_RECORDS_MAX`] records, the latest first.
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn active_agents(&self) -> Result<Vec<ActiveAgent>, ReadError> {
        // Of the columns beside max() SQLite takes those of the row that has it.
        let query = "SELECT node, transport, login, profile, address, max(at_us), count(*),
                       sum(verdict = 'deny') FROM record
                     WHERE id > (SELECT max(id) FROM record) - ?1 AND step <> 'gateway'
                     GROUP BY node, transport ORDER BY max(at_us) DESC LIMIT ?2";
        let mut statement = self.connection.prepare_cached(query)?;
        let rows = statement.query_map(params![ACTIVITY_RECORDS_MAX, ACTIVE_AGENTS_MAX], |row| {
            Ok(ActiveAgent {
                node: row.get(0)?,
                transport: row.get(1)?,
                login: row.get(2)?,
                profile: row.get(3)?,
                address: row.get(4)?,
                seen_us: row.get(5)?,
                actions: row.get::<_, i64>(6)? as u64,
                denied: row.get::<_, i64>(7)? as u64,
            })
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// How often each rule decided among the newest [`ACTIVITY_RECORDS_MAX`] records.
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn active_rules(&self) -> Result<Vec<ActiveRule>, ReadError> {
        let query = "SELECT rule, count(*), sum(verdict = 'deny'), max(at_us) FROM record
                     WHERE id > (SELECT max(id) FROM record) - ?1 AND rule IS NOT NULL GROUP BY rule";
        let mut statement = self.connection.prepare_cached(query)?;
        let rows = statement.query_map([ACTIVITY_RECORDS_MAX], |row| {
            Ok(ActiveRule {
                rule: row.get(0)?,
                hits: row.get::<_, i64>(1)? as u64,
                denied: row.get::<_, i64>(2)? as u64,
                last_us: row.get(3)?,
            })
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }
}
