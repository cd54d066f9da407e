//! The updates that move held actions.

use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, Transaction, params};

use super::row::{Held, State, one, voters};
use super::{Answer, Question, Voter};
use crate::state::{State as Database, StateError, now_us, operator};
use crate::verdict::Digest;

/// Pending questions of all agents together.
pub const PENDING_MAX: i64 = 1024;
/// Pending questions of one agent (its node and login).
pub const PENDING_PER_AGENT_MAX: i64 = 32;
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
/// New questions between two looks for closed ones that may go.
const PRUNE_EVERY: i64 = 32;

/// What a person says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    Allow,
    Deny,
}

/// One person's decision on one question.
#[derive(Clone, Debug)]
pub struct Decide {
    pub id: i64,
    /// The operator as the API authenticated them, never as a body says it.
    pub person: Voter,
    pub decision: Decision,
    pub reason: Option<String>,
}

/// Why a decision was not taken.
#[derive(Debug, thiserror::Error)]
pub enum DecideError {
    #[error("there is no approval {0}")]
    Unknown(i64),
    #[error("{0} may not decide this one")]
    NotEligible(String),
    #[error("it is closed already: {}", .0.name())]
    Closed(State),
    #[error(transparent)]
    State(#[from] StateError),
}

impl From<rusqlite::Error> for DecideError {
    fn from(error: rusqlite::Error) -> Self {
        DecideError::State(error.into())
    }
}

/// What identifies an action across retries. Whatever a person was shown is in it.
pub(super) fn identity(question: &Question) -> [u8; 32] {
    let required = question.required.to_be_bytes();
    let policy = question.policy.to_be_bytes();
    let facts = question.facts.to_string();
    let does = question.preview["does"].to_string();
    let eligible = serde_json::json!(question.eligible).to_string();
    *Digest::of_parts([
        question.digest.as_bytes().as_slice(),
        question.node.as_bytes(),
        serde_json::json!(question.login).to_string().as_bytes(),
        question.profile.as_bytes(),
        question.endpoint.as_bytes(),
        serde_json::json!(question.credential.as_deref())
            .to_string()
            .as_bytes(),
        question.rule.as_bytes(),
        question.approver.as_bytes(),
        question.summary.as_bytes(),
        question.detail.as_bytes(),
        facts.as_bytes(),
        does.as_bytes(),
        eligible.as_bytes(),
        &required,
        &policy,
    ])
    .as_bytes()
}

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
    let body = question.to_json().to_string();
    if body.len() > QUESTION_BYTES_MAX {
        return Err(StateError::Refused(
            "the action is too large to be shown".to_owned(),
        ));
    }
    database.with(|connection| {
        let now = now_us();
        let transaction = connection.transaction()?;
        expire(&transaction, now)?;
        let fresh = now.saturating_sub(micros(Duration::from_secs(DECISION_S)));
        let candidates: Vec<(i64, String, i64)> = transaction
            .prepare_cached(
                "SELECT id, state, expires_us FROM approval WHERE identity = ?1
                 AND (state = 'pending' OR (state IN ('allowed', 'denied') AND closed_us > ?2)) ORDER BY id",
            )?
            .query_map(params![identity.as_slice(), fresh], |row| {
                Ok((row.get(0)?, row.get(1)?, row.get(2)?))
            })?
            .collect::<Result<_, _>>()?;
        for (id, state, expires_us) in candidates {
            if waited_for(id) {
                continue;
            }
            if state == "pending" {
                transaction.commit()?;
                return Ok(Taken::Pending { id, expires_us });
            }
            if let Some(answer) = use_up(&transaction, id)? {
                transaction.commit()?;
                return Ok(Taken::Answered(answer));
            }
        }
        check_room(&transaction, question)?;
        let expires_us = now.saturating_add(micros(question.timeout));
        let agent = agent(question);
        transaction.execute(
            "INSERT INTO approval (identity, node, question, required, eligible, state, asked_us, expires_us)
             VALUES (?, ?, ?, ?, ?, 'pending', ?, ?)",
            params![
                identity.as_slice(),
                agent,
                body,
                question.required.max(1),
                serde_json::json!(question.eligible).to_string(),
                now,
                expires_us
            ],
        )?;
        let id = transaction.last_insert_rowid();
        if id % PRUNE_EVERY == 0 {
            prune(&transaction, now)?;
        }
        transaction.commit()?;
        Ok(Taken::Pending { id, expires_us })
    })
}

fn check_room(transaction: &Transaction<'_>, question: &Question) -> Result<(), StateError> {
    let (all, own): (i64, i64) = transaction.query_row(
        "SELECT count(*), count(CASE WHEN node = ? THEN 1 END) FROM approval WHERE state = 'pending'",
        [agent(question)],
        |row| Ok((row.get(0)?, row.get(1)?)),
    )?;
    if all >= PENDING_MAX {
        return Err(StateError::Refused(format!(
            "{PENDING_MAX} actions are held already"
        )));
    }
    if own >= PENDING_PER_AGENT_MAX {
        let text = format!("this agent has {PENDING_PER_AGENT_MAX} actions held already");
        return Err(StateError::Refused(text));
    }
    Ok(())
}

fn agent(question: &Question) -> String {
    serde_json::json!([question.node, question.login]).to_string()
}

/// The answer of a closed row. An allowed one becomes used and a denied one is marked read, so
/// that each answers one action; `None` if the row holds no answer that is still good.
pub(super) fn use_up(connection: &Connection, id: i64) -> Result<Option<Answer>, StateError> {
    let row: Option<(String, Option<String>, Option<String>)> = connection
        .query_row(
            "SELECT state, decided_by, reason FROM approval WHERE id = ?",
            [id],
            |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
        )
        .optional()?;
    let Some((state, by, reason)) = row else {
        return Ok(None);
    };
    match State::read(&state) {
        Some(State::Allowed) => {
            let update = "UPDATE approval SET state = 'used' WHERE id = ? AND state = 'allowed'";
            if connection.execute(update, [id])? == 0 {
                return Ok(None);
            }
            let by = voters(connection, id)?;
            Ok(Some(Answer::Allowed { by }))
        }
        Some(State::Denied) => {
            // Told once: a later retry is a new question, unless this one is still fresh elsewhere.
            let update = "UPDATE approval SET identity = x'' WHERE id = ?";
            connection.execute(update, [id])?;
            Ok(Some(Answer::Denied {
                by: by.unwrap_or_default(),
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
    Ok(())
}

/// Removes closed questions over the limits of age, number and bytes, oldest first. What was
/// allowed and may still be used by a retry stays.
pub(super) fn prune(connection: &Connection, now: i64) -> Result<(), StateError> {
    let old = now.saturating_sub(micros(Duration::from_secs(CLOSED_KEPT_DAYS * 86_400)));
    let usable = now.saturating_sub(micros(Duration::from_secs(DECISION_S)));
    connection.execute_batch("CREATE TEMP TABLE IF NOT EXISTS approval_gone (id INTEGER PRIMARY KEY)")?;
    connection.execute("DELETE FROM approval_gone", [])?;
    connection.execute(
        "INSERT INTO approval_gone SELECT id FROM (
           SELECT id, closed_us, count(*) OVER newest AS number, sum(octet_length(question)) OVER newest AS bytes
           FROM approval WHERE state <> 'pending' AND NOT (state = 'allowed' AND closed_us > ?2)
           WINDOW newest AS (ORDER BY id DESC ROWS UNBOUNDED PRECEDING))
         WHERE closed_us < ?1 OR number > ?3 OR bytes > ?4",
        params![old, usable, CLOSED_KEPT_MAX, CLOSED_BYTES_MAX],
    )?;
    for table in ["approval_vote WHERE approval", "approval WHERE id"] {
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

/// Takes one person's decision; the row after it.
pub(super) fn decide(connection: &mut Connection, decide: &Decide) -> Result<Held, DecideError> {
    let now = now_us();
    let transaction = connection.transaction()?;
    expire(&transaction, now)?;
    let held = one(&transaction, decide.id)?.ok_or(DecideError::Unknown(decide.id))?;
    let (required, eligible): (i64, String) = transaction.query_row(
        "SELECT required, eligible FROM approval WHERE id = ?",
        [decide.id],
        |row| Ok((row.get(0)?, row.get(1)?)),
    )?;
    // A list that cannot be read lets nobody decide.
    let eligible: Option<Vec<String>> = serde_json::from_str(&eligible).ok();
    let person = decide.person.name();
    if !eligible.is_some_and(|eligible| decide.person.may_decide(&eligible)) {
        return Err(DecideError::NotEligible(person));
    }
    if held.state != State::Pending {
        let said_before = held.by.contains(&person)
            && match decide.decision {
                Decision::Allow => matches!(held.state, State::Allowed | State::Used),
                Decision::Deny => held.state == State::Denied,
            };
        // The time-out that was just found must last, whatever is answered.
        transaction.commit()?;
        return if said_before {
            Ok(held)
        } else {
            Err(DecideError::Closed(held.state))
        };
    }
    match decide.decision {
        Decision::Deny => {
            transaction.execute(
                "UPDATE approval SET state = 'denied', closed_us = ?2, decided_by = ?3, reason = ?4
                 WHERE id = ?1 AND state = 'pending'",
                params![decide.id, now, person, decide.reason],
            )?;
        }
        Decision::Allow => {
            let counts_as = decide.person.counts_as(operator::login(&transaction, &person)?);
            transaction.execute(
                "INSERT OR IGNORE INTO approval_vote (approval, person, at_us, counts_as) VALUES (?, ?, ?, ?)",
                params![decide.id, person, now, counts_as],
            )?;
            transaction.execute(
                "UPDATE approval SET state = 'allowed', closed_us = ?2, reason = ?3
                 WHERE id = ?1 AND state = 'pending'
                 AND (SELECT count(*) FROM approval_vote WHERE approval = ?1) >= ?4",
                params![decide.id, now, decide.reason, required],
            )?;
        }
    }
    let held = one(&transaction, decide.id)?.ok_or(DecideError::Unknown(decide.id))?;
    transaction.commit()?;
    Ok(held)
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}
