//! What can be said of a question before anything is tried to find out what it would do.
//!
//! Nothing is tried for what a grant lets pass, for what there is no room to hold, and for a token that is no good:
//! whoever has one, and all who send the same again and again, could else have it tried as often as they like.

use rusqlite::{OptionalExtension as _, Transaction, params};

use super::lodge::hash_of;
use super::room::check_room;
use super::store;
use super::{Question, Use};
use crate::state::{State as Database, StateError, now_us};
use crate::verdict::Later;

/// What is to be done with a question that is not whole yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Before {
    /// Ask it: there is room, or a row of its own.
    Ask,
    /// A grant lets it pass; a use of it is taken.
    Granted(Use),
    /// Its token is not of this action, or was used.
    Spent,
}

/// `waited_for` says which rows have somebody.
pub(super) fn look(
    database: &Database,
    question: &Question,
    later: Option<&Later>,
    waited_for: &dyn Fn(i64) -> bool,
) -> Result<Before, StateError> {
    database.with(|connection| {
        let transaction = connection.transaction()?;
        store::expire(&transaction, now_us())?;
        let before = match later.and_then(|later| later.token.as_deref()) {
            Some(token) => of_token(&transaction, question, token)?,
            None => of_none(&transaction, question, later.is_some(), waited_for)?,
        };
        transaction.commit()?;
        Ok(before)
    })
}

/// Whether the token is of this action, as far as that can be said without what it does.
fn of_token(transaction: &Transaction<'_>, question: &Question, token: &str) -> Result<Before, StateError> {
    let query = "SELECT id, state, closed_us FROM approval
                 WHERE retry = ? AND agent = ? AND identity <> x'' AND json_extract(question, '$.digest') = ?";
    let hash = hash_of(token);
    let key = params![hash.as_slice(), question.agent, question.digest.to_string()];
    let row: Option<(i64, String, Option<i64>)> = transaction
        .query_row(query, key, |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
        .optional()?;
    let fresh = store::usable_since(now_us());
    Ok(match row {
        Some((id, state, _)) if state == "pending" => {
            let used = store::by_grant(transaction, question, Some(id), now_us())?;
            used.map_or(Before::Ask, Before::Granted)
        }
        Some((_, state, Some(closed)))
            if closed > fresh && ["allowed", "denied", "timed_out"].contains(&state.as_str()) =>
        {
            Before::Ask
        }
        _ => Before::Spent,
    })
}

fn of_none(
    transaction: &Transaction<'_>,
    question: &Question,
    is_lodged: bool,
    waited_for: &dyn Fn(i64) -> bool,
) -> Result<Before, StateError> {
    if let Some(used) = store::by_grant(transaction, question, None, now_us())? {
        return Ok(Before::Granted(used));
    }
    // A row of the same bytes that nobody waits for may be its own: then it needs no other.
    let query = "SELECT id FROM approval
                 WHERE (state = 'pending' OR (retry IS NULL AND state IN ('allowed', 'denied') AND closed_us > ?4))
                 AND agent = ?1 AND (retry IS NOT NULL) = ?2 AND identity <> x''
                 AND json_extract(question, '$.digest') = ?3";
    let fresh = store::usable_since(now_us());
    let digest = question.digest.to_string();
    let mut own = transaction.prepare_cached(query)?;
    let mut own = own.query(params![question.agent, is_lodged, digest, fresh])?;
    while let Some(row) = own.next()? {
        if !waited_for(row.get(0)?) {
            return Ok(Before::Ask);
        }
    }
    check_room(transaction, question, is_lodged)?;
    Ok(Before::Ask)
}
