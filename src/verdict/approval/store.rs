//! The updates that move held actions.

use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, Transaction, params};

use super::alike;
use super::grant::{self, Use, Which};
use super::identity::identity;
use super::room::{check_room, owner};
use super::row::{Said, State, voters_through};
use super::{Answer, Question};
use crate::state::{State as Database, StateError, now_us};

/// Bytes of a question as JSON, detail and facts included: what cannot be shown is not asked.
pub const QUESTION_BYTES_MAX: usize = 4 << 20;
/// Seconds in which a decision that nobody waited for can be used by a retry.
pub const DECISION_S: u64 = 600;

/// Days that a closed question is kept.
pub const CLOSED_KEPT_DAYS: u64 = 90;
/// Closed questions that are kept, whatever their age; the oldest go first.
pub const CLOSED_KEPT_MAX: i64 = 4096;
/// Bytes of closed questions that are kept; an agent could fill the disk with large ones.
pub const CLOSED_BYTES_MAX: i64 = 256 << 20;
/// Withdrawn questions that are kept, and their bytes. They are beside the others: an agent makes as many as it likes by
/// asking and leaving, and what people decided is not to go by that.
pub const WITHDRAWN_KEPT_MAX: i64 = 1024;
pub const WITHDRAWN_BYTES_MAX: i64 = 64 << 20;
/// New questions between two looks for closed ones that may go.
const PRUNE_EVERY: i64 = 32;

/// What became of an attempt to hold a question.
pub(super) enum Taken {
    /// A row that is pending, new or taken up again.
    Pending { id: i64, expires_us: i64 },
    /// A decision that was waiting for the retry; it is used up now.
    Answered(Answer),
}

/// Takes up the row of an identical action that nobody waits for, or inserts a new one.
/// `waited_for` says which rows have somebody.
pub(super) fn take(
    database: &Database,
    question: &Question,
    waited_for: &dyn Fn(i64) -> bool,
) -> Result<Taken, StateError> {
    let identity = identity(question);
    database.with(|connection| {
        let now = now_us();
        let transaction = connection.transaction()?;
        expire(&transaction, now)?;
        let fresh = usable_since(now);
        let candidates: Vec<(i64, String, i64)> = transaction
            .prepare_cached(
                "SELECT id, state, expires_us FROM approval WHERE identity = ?1 AND retry IS NULL
                 AND (state = 'pending' OR (state IN ('allowed', 'denied') AND closed_us > ?2)) ORDER BY id",
            )?
            .query_map(params![identity.as_slice(), fresh], |row| {
                Ok((row.get(0)?, row.get(1)?, row.get(2)?))
            })?
            .collect::<Result<_, _>>()?;
        let mut pending = None;
        for (id, state, expires_us) in candidates {
            if waited_for(id) {
                continue;
            }
            if state == "pending" {
                pending = pending.or(Some((id, expires_us)));
            } else if let Some(answer) = use_up(&transaction, id)? {
                transaction.commit()?;
                return Ok(Taken::Answered(answer));
            }
        }
        if let Some(used) = by_grant(&transaction, question, pending.map(|(id, _)| id), now)? {
            transaction.commit()?;
            return Ok(Taken::Answered(Answer::Granted(used)));
        }
        if let Some((id, expires_us)) = pending {
            transaction.commit()?;
            return Ok(Taken::Pending { id, expires_us });
        }
        let (id, expires_us) = insert_new(&transaction, question, None)?;
        transaction.commit()?;
        Ok(Taken::Pending { id, expires_us })
    })
}

/// A new row, if there is room for it: its number, and when its time is over. `retry` is the hash of the token of one
/// that nobody waits for.
pub(super) fn insert_new(
    transaction: &Transaction<'_>,
    question: &Question,
    retry: Option<&[u8; 32]>,
) -> Result<(i64, i64), StateError> {
    let body = question.to_json().to_string();
    if body.len() > QUESTION_BYTES_MAX {
        return Err(StateError::Refused(
            "the action is too large to be shown".to_owned(),
        ));
    }
    check_room(transaction, question, retry.is_some())?;
    let now = now_us();
    let expires_us = now.saturating_add(micros(question.timeout));
    insert(
        transaction,
        question,
        (&identity(question), &body, retry),
        (now, expires_us),
    )?;
    let id = transaction.last_insert_rowid();
    if id % PRUNE_EVERY == 0 {
        prune(transaction, now)?;
    }
    Ok((id, expires_us))
}

/// A new row, pending.
fn insert(
    transaction: &Transaction<'_>,
    question: &Question,
    (identity, body, retry): (&[u8; 32], &str, Option<&[u8; 32]>),
    (now, expires_us): (i64, i64),
) -> Result<(), StateError> {
    let later = question.escalation.as_ref();
    transaction.execute(
        "INSERT INTO approval (identity, node, question, required, eligible, state, asked_us, expires_us,
           agent, scope, chain, excluded, escalates_us, escalate_to, endpoint, rule, shape, retry, owner)
         VALUES (?, ?, ?, ?, ?, 'pending', ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        params![
            identity.as_slice(),
            question.node,
            body,
            question.required.max(1),
            serde_json::json!(question.eligible).to_string(),
            now,
            expires_us,
            question.agent,
            question.scope.as_ref().map(|scope| scope.bytes()),
            serde_json::json!(question.chain).to_string(),
            question.excluded,
            later.map(|later| now.saturating_add(micros(later.after))),
            later.map(|later| serde_json::json!(later.to).to_string()),
            &*question.endpoint,
            &*question.rule,
            alike::shape(&question.facts),
            retry.map(|hash| hash.as_slice()),
            owner(question),
        ],
    )?;
    Ok(())
}

/// A grant's answer to a question, whose row, if it has one, is closed by that.
pub(super) fn by_grant(
    connection: &Connection,
    question: &Question,
    row: Option<i64>,
    now: i64,
) -> Result<Option<Use>, StateError> {
    let Some(scope) = question.scope.as_ref().filter(|_| question.heeds_grants) else {
        return Ok(None);
    };
    let used = grant::take_use_of(connection, scope.bytes(), now)?;
    if let (Some(used), Some(id)) = (&used, row) {
        connection.execute(
            "UPDATE approval SET state = 'used', closed_us = ?2, grant_id = ?3, decided_by = ?4
             WHERE id = ?1 AND state = 'pending'",
            params![id, now, used.grant, format!("grant {}", used.grant)],
        )?;
    }
    Ok(used)
}

/// The answer of a closed row. An allowed one becomes used and a denied one is marked read, so
/// that each answers one action; `None` if the row holds no answer that is still good.
pub(super) fn use_up(connection: &Connection, id: i64) -> Result<Option<Answer>, StateError> {
    type Row = (
        String,
        Option<String>,
        Option<String>,
        Option<i64>,
        Option<String>,
    );
    let row: Option<Row> = connection
        .query_row(
            "SELECT state, decided_by, reason, grant_id, decided_through FROM approval WHERE id = ?",
            [id],
            |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?)),
        )
        .optional()?;
    let Some((state, by, reason, grant, through)) = row else {
        return Ok(None);
    };
    match State::read(&state) {
        Some(State::Allowed) => {
            let update = "UPDATE approval SET state = 'used' WHERE id = ? AND state = 'allowed'";
            if connection.execute(update, [id])? == 0 {
                return Ok(None);
            }
            // What was asked is the grant's first use, taken when it was given.
            if let Some(grant) = grant {
                let used = grant::first_use(connection, grant)?;
                return Ok(Some(used.map_or_else(|| over(grant), Answer::Granted)));
            }
            let by = voters_through(connection, id)?;
            Ok(Some(Answer::Allowed { by }))
        }
        Some(State::Denied) => {
            // Told once: a later retry is a new question, unless this one is still fresh elsewhere.
            let update = "UPDATE approval SET identity = x'' WHERE id = ?";
            connection.execute(update, [id])?;
            Ok(Some(Answer::Denied {
                by: Said {
                    person: by.unwrap_or_default(),
                    through,
                }
                .to_string(),
                reason,
            }))
        }
        Some(State::TimedOut) => Ok(Some(Answer::TimedOut)),
        _ => Ok(None),
    }
}

/// Closes every pending row whose time is over.
pub(super) fn expire(connection: &Connection, now: i64) -> Result<(), StateError> {
    connection
        .prepare_cached(
            "UPDATE approval SET state = 'timed_out', closed_us = ?1
             WHERE state = 'pending' AND expires_us <= ?1",
        )?
        .execute([now])?;
    grant::expire(connection, now)
}

/// Since when a decision must have been taken that can be used now, in microseconds.
pub(super) fn usable_since(now: i64) -> i64 {
    now.saturating_sub(micros(Duration::from_secs(DECISION_S)))
}

/// Removes closed questions over the limits of age, number and bytes, oldest first. What was
/// allowed and may still be used by a retry stays.
pub(super) fn prune(connection: &Connection, now: i64) -> Result<(), StateError> {
    let old = now.saturating_sub(micros(Duration::from_secs(CLOSED_KEPT_DAYS * 86_400)));
    let usable = usable_since(now);
    grant::prune(connection)?;
    connection.execute_batch("CREATE TEMP TABLE IF NOT EXISTS approval_gone (id INTEGER PRIMARY KEY)")?;
    connection.execute("DELETE FROM approval_gone", [])?;
    connection.execute(
        "INSERT INTO approval_gone SELECT id FROM (
           SELECT id, closed_us, state = 'withdrawn' AS left, count(*) OVER newest AS number,
             sum(octet_length(question)) OVER newest AS bytes
           FROM approval WHERE state <> 'pending' AND NOT (state = 'allowed' AND closed_us > ?2)
           WINDOW newest AS (PARTITION BY state = 'withdrawn' ORDER BY id DESC ROWS UNBOUNDED PRECEDING))
         WHERE closed_us < ?1 OR number > iif(left, ?5, ?3) OR bytes > iif(left, ?6, ?4)",
        params![
            old,
            usable,
            CLOSED_KEPT_MAX,
            CLOSED_BYTES_MAX,
            WITHDRAWN_KEPT_MAX,
            WITHDRAWN_BYTES_MAX
        ],
    )?;
    for table in [
        "approval_vote WHERE approval",
        "approval_told WHERE approval",
        "approval WHERE id",
    ] {
        connection.execute(
            &format!("DELETE FROM {table} IN (SELECT id FROM approval_gone)"),
            [],
        )?;
    }
    Ok(())
}

/// The agent left: what is not used yet never will be.
pub(super) fn withdraw(connection: &Connection, id: i64) -> Result<(), StateError> {
    connection.execute(
        "UPDATE approval SET state = 'withdrawn', closed_us = ?2
         WHERE id = ?1 AND state IN ('pending', 'allowed')",
        params![id, now_us()],
    )?;
    Ok(())
}

/// The answer where the grant that it came with is over.
fn over(grant: i64) -> Answer {
    Answer::Denied {
        by: format!("grant {grant}"),
        reason: Some("the approval of this is over; send it again".to_owned()),
    }
}

/// Stops an agent: what it is held for is refused, its grants are taken back. The grants' numbers, and
/// how many actions were held.
pub(super) fn kill(
    connection: &mut Connection,
    (agent, person, reason): (&str, &str, Option<&str>),
) -> Result<(Vec<i64>, usize), StateError> {
    let now = now_us();
    let transaction = connection.transaction()?;
    expire(&transaction, now)?;
    crate::state::kill::insert(&transaction, agent, person, reason)?;
    let grants = grant::revoke(&transaction, Which::Of(agent), person, now)?;
    let held = transaction.execute(
        "UPDATE approval SET state = 'denied', closed_us = ?2, decided_by = ?3, reason = 'its agent was stopped'
         WHERE agent = ?1 AND state IN ('pending', 'allowed')",
        params![agent, now, person],
    )?;
    transaction.commit()?;
    Ok((grants, held))
}

pub(super) fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}
