//! A held action as it is stored and shown.

use std::fmt;

use rusqlite::{Connection, OptionalExtension, params};
use serde::{Deserialize, Serialize};

use super::told::{self, Told};
use crate::identity::Transport;
use crate::state::{StateError, now_us};

/// Where a question stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "QuestionState")]
pub enum State {
    Pending,
    Allowed,
    Denied,
    TimedOut,
    /// The agent left.
    Withdrawn,
    /// Allowed, and the one action it was for has been let through.
    Used,
}

impl State {
    pub fn name(self) -> &'static str {
        match self {
            State::Pending => "pending",
            State::Allowed => "allowed",
            State::Denied => "denied",
            State::TimedOut => "timed_out",
            State::Withdrawn => "withdrawn",
            State::Used => "used",
        }
    }

    pub(super) fn read(name: &str) -> Option<State> {
        [
            State::Pending,
            State::Allowed,
            State::Denied,
            State::TimedOut,
            State::Withdrawn,
            State::Used,
        ]
        .into_iter()
        .find(|state| state.name() == name)
    }
}

/// Bytes of a question, above which a listing leaves out its detail and its facts: `cut` is true
/// then, and the whole is had one by one.
pub const LISTED_BYTES_MAX: i64 = 64 << 10;

/// A held action as an operator sees it.
#[derive(Clone, Debug, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Held {
    pub id: i64,
    pub state: State,
    /// The question, as JSON.
    #[schemars(with = "super::shape::Asked")]
    pub question: serde_json::Value,
    /// Unix time, microseconds.
    pub asked_us: i64,
    pub expires_us: i64,
    pub closed_us: Option<i64>,
    /// Who has allowed it so far, or who refused it.
    pub by: Vec<String>,
    pub reason: Option<String>,
    /// Whether its agent is there and waits; one that lost its gateway may come back.
    #[serde(default)]
    pub waiting: bool,
    /// It is not decided for so long that others may decide it too, or was not when it was closed.
    #[serde(default)]
    pub escalated: bool,
    /// The channels that were told of it.
    #[serde(default)]
    pub told: Vec<Told>,
}

impl Held {
    /// Whose it is, as the audit log knows agents: by name, and how they came.
    pub fn asker(&self) -> (&str, Transport) {
        let text = |field: &str| self.question[field].as_str().unwrap_or_default();
        // A question of an earlier version does not say how its agent came; its key does.
        let transport = match text("agent").starts_with("peer:") {
            true => Transport::Wireguard,
            false => Transport::Tailnet,
        };
        (text("node"), transport)
    }
}

/// Who decided, and the channel that says that it was them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[schemars(rename = "QuestionSaid")]
pub struct Said {
    pub person: String,
    pub through: Option<String>,
}

/// As it stands in the record.
impl fmt::Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.through {
            Some(channel) => write!(f, "{} through {channel}", self.person),
            None => f.write_str(&self.person),
        }
    }
}

impl PartialEq<&str> for Said {
    /// The person alone, by no channel.
    fn eq(&self, person: &&str) -> bool {
        self.through.is_none() && self.person == *person
    }
}

impl From<&str> for Said {
    /// By no channel.
    fn from(person: &str) -> Self {
        Said {
            person: person.to_owned(),
            through: None,
        }
    }
}

/// One row, whatever its state.
pub(super) fn one(connection: &Connection, id: i64) -> Result<Option<Held>, StateError> {
    let query =
        "SELECT id, state, question, asked_us, expires_us, closed_us, decided_by, reason, escalates_us
                 FROM approval WHERE id = ?";
    let row = connection.query_row(query, [id], read).optional()?;
    row.map(|row| complete(connection, row)).transpose()
}

/// The pending rows, oldest first, or the newest `limit` of any state.
pub(super) fn list(connection: &Connection, pending_only: bool, limit: u32) -> Result<Vec<Held>, StateError> {
    let clause = if pending_only {
        "WHERE state = 'pending' ORDER BY id"
    } else {
        "ORDER BY id DESC"
    };
    let query = format!(
        "SELECT id, state, CASE WHEN octet_length(question) <= ?1 THEN question ELSE
           json_set(question, '$.detail', NULL, '$.facts', NULL, '$.cut', json('true')) END,
           asked_us, expires_us, closed_us, decided_by, reason, escalates_us FROM approval {clause} LIMIT ?2"
    );
    let mut statement = connection.prepare_cached(&query)?;
    let rows: Vec<Raw> = statement
        .query_map(params![LISTED_BYTES_MAX, limit], read)?
        .collect::<Result<_, _>>()?;
    rows.into_iter().map(|row| complete(connection, row)).collect()
}

/// A row before its votes are read.
struct Raw {
    state: String,
    question: String,
    decided_by: Option<String>,
    held: Held,
}

fn read(row: &rusqlite::Row<'_>) -> rusqlite::Result<Raw> {
    let closed_us: Option<i64> = row.get(5)?;
    Ok(Raw {
        state: row.get(1)?,
        question: row.get(2)?,
        decided_by: row.get(6)?,
        held: Held {
            id: row.get(0)?,
            state: State::Pending,
            question: serde_json::Value::Null,
            asked_us: row.get(3)?,
            expires_us: row.get(4)?,
            closed_us,
            by: Vec::new(),
            reason: row.get(7)?,
            waiting: false,
            escalated: row
                .get::<_, Option<i64>>(8)?
                .is_some_and(|at| at <= closed_us.unwrap_or_else(now_us)),
            told: Vec::new(),
        },
    })
}

fn complete(connection: &Connection, raw: Raw) -> Result<Held, StateError> {
    let mut held = raw.held;
    held.state = State::read(&raw.state)
        .ok_or_else(|| StateError::Refused(format!("approval {}: unknown state {}", held.id, raw.state)))?;
    held.question = serde_json::from_str(&raw.question).unwrap_or_default();
    held.told = told::of(connection, held.id)?;
    held.by = match raw.decided_by {
        Some(person) => vec![person],
        None => voters(connection, held.id)?,
    };
    Ok(held)
}

/// Who has allowed it, in order, each with the channel that said so.
pub(super) fn voters_through(connection: &Connection, id: i64) -> Result<Vec<Said>, StateError> {
    let query = "SELECT person, through FROM approval_vote WHERE approval = ? ORDER BY at_us";
    let mut statement = connection.prepare_cached(query)?;
    let people = statement.query_map([id], |row| {
        Ok(Said {
            person: row.get(0)?,
            through: row.get(1)?,
        })
    })?;
    Ok(people.collect::<Result<_, _>>()?)
}

/// Who has allowed it, in order.
pub(super) fn voters(connection: &Connection, id: i64) -> Result<Vec<String>, StateError> {
    let mut statement =
        connection.prepare_cached("SELECT person FROM approval_vote WHERE approval = ? ORDER BY at_us")?;
    let people = statement.query_map([id], |row| row.get(0))?;
    Ok(people.collect::<Result<_, _>>()?)
}
