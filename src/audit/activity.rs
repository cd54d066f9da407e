//! What the newest records say of each agent and each rule.

use rusqlite::{OptionalExtension, params};
use serde::Serialize;

use super::read::{ReadError, Reader};

/// Records that are looked at: the newest ones. Reading them takes some tens of milliseconds.
pub const ACTIVITY_RECORDS_MAX: i64 = 20_000;
/// Agents that are told of, the latest first.
pub const ACTIVE_AGENTS_MAX: i64 = 500;

/// Actions of one agent that [`Reader::latest`] returns.
pub const LATEST_ACTIONS_MAX: usize = 8;
/// Endpoints with a verdict that [`Reader::latest`] counts by, those with most actions first.
pub const LATEST_COUNTS_MAX: usize = 32;

/// What one agent did of late.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, schemars::JsonSchema)]
pub struct Latest {
    /// By endpoint and verdict.
    pub counts: Vec<Count>,
    /// The newest actions, the newest first.
    pub actions: Vec<Action>,
    /// Whether the records that are looked at reach back to the time that was asked for: where there is much
    /// traffic, the newest [`ACTIVITY_RECORDS_MAX`] do not.
    pub whole: bool,
}

/// How many of an agent's actions had a verdict at an endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, schemars::JsonSchema)]
pub struct Count {
    pub endpoint: String,
    pub verdict: String,
    pub actions: u64,
}

/// One action, in short.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, schemars::JsonSchema)]
pub struct Action {
    /// The record's number in the log.
    pub id: u64,
    /// Unix time, microseconds.
    pub at_us: i64,
    pub endpoint: String,
    pub summary: String,
    pub verdict: String,
    pub rule: Option<String>,
}

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

    /// What the agent that has this name did since then, as far as the newest [`ACTIVITY_RECORDS_MAX`] records
    /// tell. The log knows agents by their names: of a node that was renamed, what it did since.
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn latest(&self, node: &str, transport: &str, since_us: i64) -> Result<Latest, ReadError> {
        let among = "id > (SELECT max(id) FROM record) - ?1 AND at_us >= ?2 AND node = ?3 AND transport = ?4
                     AND step <> 'gateway'";
        let bounds = params![ACTIVITY_RECORDS_MAX, since_us, node, transport];
        let mut statement = self.connection.prepare_cached(&format!(
            "SELECT endpoint, verdict, count(*) FROM record WHERE {among}
             GROUP BY endpoint, verdict ORDER BY count(*) DESC, endpoint, verdict LIMIT {LATEST_COUNTS_MAX}"
        ))?;
        let counts = statement.query_map(bounds, |row| {
            Ok(Count {
                endpoint: row.get(0)?,
                verdict: row.get(1)?,
                actions: row.get::<_, i64>(2)? as u64,
            })
        })?;
        let counts = counts.collect::<Result<_, _>>()?;
        let mut statement = self.connection.prepare_cached(&format!(
            "SELECT id, at_us, endpoint, summary, verdict, rule FROM record WHERE {among}
             ORDER BY id DESC LIMIT {LATEST_ACTIONS_MAX}"
        ))?;
        let actions = statement.query_map(bounds, |row| {
            Ok(Action {
                id: row.get::<_, i64>(0)? as u64,
                at_us: row.get(1)?,
                endpoint: row.get(2)?,
                summary: row.get(3)?,
                verdict: row.get(4)?,
                rule: row.get(5)?,
            })
        })?;
        let actions = actions.collect::<Result<_, _>>()?;
        let beyond = "SELECT at_us FROM record WHERE id <= (SELECT max(id) FROM record) - ?1
                      ORDER BY id DESC LIMIT 1";
        let beyond: Option<i64> = self
            .connection
            .query_row(beyond, [ACTIVITY_RECORDS_MAX], |row| row.get(0))
            .optional()?;
        Ok(Latest {
            counts,
            actions,
            whole: beyond.is_none_or(|at_us| at_us < since_us),
        })
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
