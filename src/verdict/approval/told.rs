//! Which channel was told of which question, and how that went, kept beside the question.
//!
//! A telling carries a token if its channel may answer: 256 random bits, of which the hash is kept. It
//! is of one question, whose digest it is so bound to; it counts once, and a newer telling ends it.

use rusqlite::{Connection, OptionalExtension as _, params};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::Queue;
use crate::facts::escape;
use crate::state::{StateError, now_us};

/// How it went to tell a channel, for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Told {
    /// `slack.ops`.
    pub channel: String,
    pub state: ToldState,
    /// Why it could not be told.
    pub problem: Option<String>,
    pub at_us: i64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ToldState {
    Sending,
    Sent,
    Failed,
}

impl ToldState {
    const ALL: [(ToldState, &'static str); 3] = [
        (ToldState::Sending, "sending"),
        (ToldState::Sent, "sent"),
        (ToldState::Failed, "failed"),
    ];

    pub fn name(self) -> &'static str {
        let own = Self::ALL.iter().find(|(state, _)| *state == self);
        own.map_or("", |(_, name)| name)
    }

    fn read(name: &str) -> ToldState {
        let own = Self::ALL.iter().find(|(_, own)| *own == name);
        own.map_or(ToldState::Failed, |(state, _)| *state)
    }
}

/// A telling that may have to be followed by another.
#[derive(Clone, Debug)]
pub struct Telling {
    pub approval: i64,
    pub channel: String,
    /// Whose question it is, as [`crate::identity::Identity::agent_key`].
    pub agent: String,
    pub state: ToldState,
    /// When it was last begun or ended.
    pub at_us: i64,
    /// How the question stood that the channel was told of.
    pub shown: String,
    /// What the channel calls its message, once it has one.
    pub place: Option<String>,
}

/// A telling that begins.
#[derive(Debug)]
pub struct Begun {
    /// What lets the channel answer, once.
    pub token: String,
    pub place: Option<String>,
    /// The channel was told already that others may decide too by now.
    pub called: bool,
}

impl Queue {
    /// The tellings whose question is not over for their channel.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn tellings(&self) -> Result<Vec<Telling>, StateError> {
        let all = |connection: &mut Connection| {
            let query = "SELECT approval, channel, told.state, shown, place, agent, at_us
                         FROM approval_told AS told JOIN approval ON approval.id = approval WHERE over = 0";
            let mut statement = connection.prepare_cached(query)?;
            let rows = statement.query_map([], |row| {
                Ok(Telling {
                    approval: row.get(0)?,
                    channel: row.get(1)?,
                    state: ToldState::read(&row.get::<_, String>(2)?),
                    shown: row.get(3)?,
                    place: row.get(4)?,
                    agent: row.get(5)?,
                    at_us: row.get(6)?,
                })
            })?;
            Ok(rows.collect::<Result<_, _>>()?)
        };
        self.state().run(move |state| state.with(all)).await
    }

    /// Notes, before it is done, that a channel is told how a question stands. Its earlier token ends.
    ///
    /// # Errors
    /// The database cannot be written, or there is no randomness.
    pub async fn begin_telling(&self, id: i64, channel: String, shown: String) -> Result<Begun, StateError> {
        let mut secret = [0; 32];
        getrandom::fill(&mut secret).map_err(|error| StateError::Random(error.to_string()))?;
        let token = escape::hex(&secret);
        let hash = hash_of(&token);
        let begin = move |connection: &mut Connection| {
            let begun = connection.query_row(
                "INSERT INTO approval_told (approval, channel, state, shown, token, at_us)
                 VALUES (?1, ?2, 'sending', ?3, ?4, ?5) ON CONFLICT (approval, channel) DO UPDATE
                 SET state = 'sending', problem = NULL, shown = ?3, token = ?4, at_us = ?5 RETURNING place, called",
                params![id, channel, shown, hash.as_slice(), now_us()],
                |row| Ok((row.get(0)?, row.get(1)?)),
            )?;
            Ok(begun)
        };
        let (place, called) = self.state().run(move |state| state.with(begin)).await?;
        Ok(Begun { token, place, called })
    }

    /// Notes how it went: the channel's name for its message, or why there is none. With `called`, it was told
    /// that others may decide too; with `over`, it is told no more of this question.
    ///
    /// # Errors
    /// The database cannot be written.
    pub async fn end_telling(
        &self,
        (id, channel): (i64, String),
        went: Result<Option<String>, String>,
        (called, over): (bool, bool),
    ) -> Result<(), StateError> {
        let end = move |connection: &mut Connection| {
            let (state, place, problem) = match went {
                Ok(place) => (ToldState::Sent, place, None),
                Err(problem) => (ToldState::Failed, None, Some(problem)),
            };
            connection.execute(
                "UPDATE approval_told SET state = ?3, problem = ?4, place = coalesce(?5, place), at_us = ?6,
                 token = iif(?3 = 'failed' OR ?7, NULL, token), over = ?7, called = called OR (?3 = 'sent' AND ?8)
                 WHERE approval = ?1 AND channel = ?2",
                params![id, channel, state.name(), problem, place, now_us(), over, called],
            )?;
            Ok(())
        };
        self.state().run(move |state| state.with(end)).await?;
        self.note_change();
        Ok(())
    }

    /// Nothing more is told of this question to a channel, and it may say nothing.
    ///
    /// # Errors
    /// The database cannot be written.
    pub async fn close_telling(&self, id: i64, channel: String) -> Result<(), StateError> {
        let close = move |connection: &mut Connection| {
            let update = "UPDATE approval_told SET over = 1, token = NULL WHERE approval = ? AND channel = ?";
            connection.execute(update, params![id, channel])?;
            Ok(())
        };
        self.state().run(move |state| state.with(close)).await
    }

    /// Takes a telling's token, which then counts no more. `false` if it is not that telling's, or was
    /// taken before.
    ///
    /// # Errors
    /// The database cannot be written.
    pub async fn take_token(&self, id: i64, channel: String, token: &str) -> Result<bool, StateError> {
        let hash = hash_of(token);
        let take = move |connection: &mut Connection| {
            let update =
                "UPDATE approval_told SET token = NULL WHERE approval = ? AND channel = ? AND token = ?";
            Ok(connection.execute(update, params![id, channel, hash.as_slice()])? == 1)
        };
        self.state().run(move |state| state.with(take)).await
    }

    /// Gives back a token that was taken and decided nothing, unless a newer telling has its own.
    ///
    /// # Errors
    /// The database cannot be written.
    pub async fn return_token(&self, id: i64, channel: String, token: &str) -> Result<(), StateError> {
        let hash = hash_of(token);
        let give = move |connection: &mut Connection| {
            let update = "UPDATE approval_told SET token = ?3
                          WHERE approval = ?1 AND channel = ?2 AND token IS NULL AND over = 0";
            connection.execute(update, params![id, channel, hash.as_slice()])?;
            Ok(())
        };
        self.state().run(move |state| state.with(give)).await
    }

    /// What a channel calls its message of a question.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn place_of(&self, id: i64, channel: String) -> Result<Option<String>, StateError> {
        let find = move |connection: &mut Connection| {
            let query = "SELECT place FROM approval_told WHERE approval = ? AND channel = ?";
            let place: Option<Option<String>> = connection
                .query_row(query, params![id, channel], |row| row.get(0))
                .optional()?;
            Ok(place.flatten())
        };
        self.state().run(move |state| state.with(find)).await
    }
}

/// How the channels of one question were told.
pub(super) fn of(connection: &Connection, id: i64) -> Result<Vec<Told>, StateError> {
    let query =
        "SELECT channel, state, problem, at_us FROM approval_told WHERE approval = ? ORDER BY channel";
    let mut statement = connection.prepare_cached(query)?;
    let rows = statement.query_map([id], |row| {
        Ok(Told {
            channel: row.get(0)?,
            state: ToldState::read(&row.get::<_, String>(1)?),
            problem: row.get(2)?,
            at_us: row.get(3)?,
        })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

fn hash_of(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}
