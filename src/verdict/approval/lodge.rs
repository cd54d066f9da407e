//! Questions whose agent does not wait: it comes back with a token, or asks how they stand.
//!
//! A question that is lodged has a token of its own, 256 random bits of which the hash is kept. The same action with
//! that token takes its answer, once; without it, or with another action, nothing does. Nobody waits for it, so
//! nothing withdraws it but its time; and as it costs no connection, an agent has fewer of them, and all agents
//! together leave a share of the queue to those who wait.

use rusqlite::{Connection, OptionalExtension as _, Transaction, params};
use sha2::{Digest as _, Sha256};

use super::identity::identity;
use super::row::State;
use super::store;
use super::{Answer, ApprovalDown, Question, Queue};
use crate::facts::escape;
use crate::state::{StateError, now_us};
use crate::verdict::{Later, Ticket};

/// What became of an action whose agent does not wait.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lodged {
    Answered(Answer),
    /// People have not decided yet.
    Held(Ticket),
    /// The token is not of this action, or was used.
    Spent,
}

/// How a question stands, for its agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stands {
    pub state: State,
    /// What was said of it.
    pub reason: Option<String>,
}

impl Queue {
    /// Asks without waiting, or with the token of an earlier asking takes its answer.
    ///
    /// # Errors
    /// The database cannot be written, or a limit is reached. Either denies.
    pub async fn lodge(&self, question: Question, later: Later) -> Result<Lodged, ApprovalDown> {
        let work = move |connection: &mut Connection| {
            let transaction = connection.transaction()?;
            store::expire(&transaction, now_us())?;
            let lodged = match later.token {
                Some(token) => again(&transaction, &question, &token)?,
                None => anew(&transaction, &question)?,
            };
            transaction.commit()?;
            Ok(lodged)
        };
        let lodged = self.state().run(move |state| state.with(work)).await;
        self.note_change();
        lodged.map_err(|error| ApprovalDown(error.to_string()))
    }

    /// How a question of the agent's own stands, by [`crate::identity::Identity::agent_key`], and what was said of it;
    /// `None` of another's. An agent may ask as often as it likes, so the question itself is not read for it.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn own(&self, id: i64, agent: String) -> Result<Option<Stands>, StateError> {
        let look = move |connection: &mut Connection| {
            store::expire(connection, now_us())?;
            let query = "SELECT state, reason FROM approval WHERE id = ? AND agent = ?";
            let row = connection.query_row(query, params![id, agent], |row| {
                Ok((row.get::<_, String>(0)?, row.get(1)?))
            });
            let Some((state, reason)) = row.optional()? else {
                return Ok(None);
            };
            let state = State::read(&state);
            let state = state.ok_or_else(|| StateError::Refused(format!("approval {id}: unknown state")))?;
            Ok(Some(Stands { state, reason }))
        };
        self.state().run(move |state| state.with(look)).await
    }
}

/// With a token: the answer, if there is one.
fn again(transaction: &Transaction<'_>, question: &Question, token: &str) -> Result<Lodged, StateError> {
    let query = "SELECT id, state, expires_us, closed_us FROM approval WHERE retry = ? AND identity = ?";
    let (hash, identity) = (hash_of(token), identity(question));
    let key = params![hash.as_slice(), identity.as_slice()];
    let row: Option<(i64, String, i64, Option<i64>)> = transaction
        .query_row(query, key, |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
        })
        .optional()?;
    let Some((id, state, expires_us, closed_us)) = row else {
        return Ok(Lodged::Spent);
    };
    if state == "pending" {
        return Ok(
            match store::by_grant(transaction, question, Some(id), now_us())? {
                Some(used) => Lodged::Answered(Answer::Granted(used)),
                None => Lodged::Held(Ticket {
                    approval: id,
                    token: None,
                    expires_us,
                }),
            },
        );
    }
    let fresh = store::usable_since(now_us());
    if closed_us.is_none_or(|closed| closed <= fresh) {
        return Ok(Lodged::Spent);
    }
    let answer = store::use_up(transaction, id)?;
    Ok(answer.map_or(Lodged::Spent, Lodged::Answered))
}

/// Without one: a new question with a new token. An agent that lost the token of the very same action gets
/// another, which ends the first.
fn anew(transaction: &Transaction<'_>, question: &Question) -> Result<Lodged, StateError> {
    if let Some(used) = store::by_grant(transaction, question, None, now_us())? {
        return Ok(Lodged::Answered(Answer::Granted(used)));
    }
    let query = "SELECT id, expires_us FROM approval
                 WHERE identity = ? AND state = 'pending' AND retry IS NOT NULL ORDER BY id LIMIT 1";
    let identity = identity(question);
    let open: Option<(i64, i64)> = transaction
        .query_row(query, [identity.as_slice()], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    let mut secret = [0; 32];
    getrandom::fill(&mut secret).map_err(|error| StateError::Random(error.to_string()))?;
    let token = escape::hex(&secret);
    let hash = hash_of(&token);
    let (approval, expires_us) = match open {
        None => store::insert_new(transaction, question, Some(&hash))?,
        Some((approval, expires_us)) => {
            let update = "UPDATE approval SET retry = ? WHERE id = ?";
            transaction.execute(update, params![hash.as_slice(), approval])?;
            (approval, expires_us)
        }
    };
    Ok(Lodged::Held(Ticket {
        approval,
        token: Some(token),
        expires_us,
    }))
}

pub(super) fn hash_of(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}
