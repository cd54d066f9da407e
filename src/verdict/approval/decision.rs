//! A person's decision on a question, and the grant that may come with it.

use rusqlite::{Connection, Transaction, params};

use super::grant::{self, GrantError, Offer, People, Person, Terms};
use super::row::{Held, Said, State, one};
use super::store::expire;
use super::{Voter, voter};
use crate::state::{StateError, now_us, operator};

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
    /// With a yes, a grant for what else the agent asks for by the same rule.
    pub grant: Option<Terms>,
}

/// Why a decision was not taken.
#[derive(Debug, thiserror::Error)]
pub enum DecideError {
    #[error("there is no approval {0}")]
    Unknown(i64),
    #[error("{0} may not decide this one")]
    NotEligible(String),
    #[error(
        "{0} may be the agent's own owner, who may not decide this one: say whose account it is by \
         `tailkeep operators invite {0} --login LOGIN`, or decide from a node of the tailnet"
    )]
    NotKnown(String),
    #[error(
        "{0} has said yes already, and its secret counts once, whoever it names: let another decide \
         elsewhere"
    )]
    Once(String),
    #[error("it is closed already: {}", .0.name())]
    Closed(State),
    #[error(transparent)]
    Grant(#[from] GrantError),
    #[error(transparent)]
    State(#[from] StateError),
}

impl From<rusqlite::Error> for DecideError {
    fn from(error: rusqlite::Error) -> Self {
        DecideError::State(error.into())
    }
}

/// Takes one person's decision; the row after it, and the grant that came into force by it.
pub(super) fn decide(
    connection: &mut Connection,
    decide: &Decide,
) -> Result<(Held, Option<i64>), DecideError> {
    let now = now_us();
    let transaction = connection.transaction()?;
    expire(&transaction, now)?;
    let held = one(&transaction, decide.id)?.ok_or(DecideError::Unknown(decide.id))?;
    let asked = asked(&transaction, decide.id, now)?;
    let person = decide.person.name();
    let counts_as = decide.person.counts_as(operator::login(&transaction, &person)?);
    let Some(eligible) = &asked.eligible else {
        return Err(DecideError::NotEligible(person));
    };
    check(&decide.person, &counts_as, (eligible, asked.excluded.as_deref()))?;
    if held.state != State::Pending {
        let said_before = held.by.contains(&person)
            && match decide.decision {
                Decision::Allow => matches!(held.state, State::Allowed | State::Used),
                Decision::Deny => held.state == State::Denied,
            };
        // The time-out that was just found must last, whatever is answered.
        transaction.commit()?;
        return if said_before && decide.grant.is_none() {
            Ok((held, None))
        } else {
            Err(DecideError::Closed(held.state))
        };
    }
    let mut granted = None;
    match decide.decision {
        Decision::Deny => {
            transaction.execute(
                "UPDATE approval SET state = 'denied', closed_us = ?2, decided_by = ?3, reason = ?4,
                 decided_through = ?5 WHERE id = ?1 AND state = 'pending'",
                params![decide.id, now, person, decide.reason, decide.person.through()],
            )?;
        }
        Decision::Allow => {
            check_once(&transaction, decide, &counts_as, &held.question)?;
            if let Some(terms) = decide.grant {
                let who = (&decide.person, counts_as.as_str());
                granted = offer(&transaction, (decide.id, who), terms, &held.question, now)?;
                // What was looked at is the first use, whoever else waits for one.
                if let Some(id) = granted {
                    grant::take_use(&transaction, id, now)?;
                }
            }
            transaction.execute(
                "INSERT OR IGNORE INTO approval_vote (approval, person, at_us, counts_as, through)
                 VALUES (?, ?, ?, ?, ?)",
                params![decide.id, person, now, counts_as, decide.person.through()],
            )?;
            transaction.execute(
                "UPDATE approval SET state = 'allowed', closed_us = ?2, reason = ?3, grant_id = ?5
                 WHERE id = ?1 AND state = 'pending' AND (?5 IS NOT NULL
                 OR (SELECT count(*) FROM approval_vote WHERE approval = ?1) >= ?4)",
                params![decide.id, now, decide.reason, asked.required, granted],
            )?;
        }
    }
    let held = one(&transaction, decide.id)?.ok_or(DecideError::Unknown(decide.id))?;
    transaction.commit()?;
    Ok((held, granted))
}

/// Whether this person, who counts as `counts_as`, may decide where these are eligible and that one is
/// excluded. Who may be the excluded one, for all that is known, may not.
pub(super) fn check(
    person: &Voter,
    counts_as: &str,
    (eligible, excluded): (&[String], Option<&str>),
) -> Result<(), DecideError> {
    if !person.may_decide(eligible) || excluded == Some(counts_as) {
        return Err(DecideError::NotEligible(person.name()));
    }
    match excluded {
        Some(_) if !voter::is_person(counts_as) => Err(DecideError::NotKnown(person.name())),
        _ => Ok(()),
    }
}

/// One secret that could name anybody is one yes, of this question and of the steps before it. Another person's by it
/// is refused, so that theirs by another way still counts.
fn check_once(
    transaction: &Transaction<'_>,
    decide: &Decide,
    counts_as: &str,
    question: &serde_json::Value,
) -> Result<(), DecideError> {
    let Voter::Through { channel, voices, .. } = &decide.person else {
        return Ok(());
    };
    let query = "SELECT EXISTS (SELECT 1 FROM approval_vote WHERE approval = ?1
                 AND through IN (SELECT value FROM json_each(?2)) AND coalesce(counts_as, person) <> ?3)";
    let of = params![decide.id, serde_json::json!(voices).to_string(), counts_as];
    let here: bool = transaction.query_row(query, of, |row| row.get(0))?;
    // A question of an earlier version has none.
    let earlier: Vec<Said> = serde_json::from_value(question["earlier"].clone()).unwrap_or_default();
    let before = earlier.iter().any(|said| {
        let is_ours = |through: &String| voices.contains(through);
        said.through.as_ref().is_some_and(is_ours) && said.person != decide.person.name()
    });
    match here || before {
        true => Err(DecideError::Once(channel.clone())),
        false => Ok(()),
    }
}

/// What a question asks of people.
struct Asked {
    /// How many must allow.
    required: i64,
    /// Who may by now; `None` where the list cannot be read, so that nobody may.
    eligible: Option<Vec<String>>,
    excluded: Option<String>,
}

fn asked(connection: &Connection, id: i64, now: i64) -> Result<Asked, DecideError> {
    let query = "SELECT required, eligible, excluded, escalates_us, escalate_to FROM approval WHERE id = ?";
    let read = |row: &rusqlite::Row<'_>| {
        let listed: String = row.get(1)?;
        let (escalates_us, to): (Option<i64>, Option<String>) = (row.get(3)?, row.get(4)?);
        let mut eligible: Option<Vec<String>> = serde_json::from_str(&listed).ok();
        if let Some(eligible) = &mut eligible
            && escalates_us.is_some_and(|at| at <= now)
        {
            let to: Option<Vec<String>> = to.and_then(|to| serde_json::from_str(&to).ok());
            eligible.extend(to.unwrap_or_default());
        }
        Ok(Asked {
            required: row.get(0)?,
            eligible,
            excluded: row.get(2)?,
        })
    };
    Ok(connection.query_row(query, [id], read)?)
}

/// Notes that one person would give a grant; its number if it is in force by that.
fn offer(
    transaction: &Transaction<'_>,
    (id, person): (i64, Person<'_>),
    terms: Terms,
    question: &serde_json::Value,
    now: i64,
) -> Result<Option<i64>, DecideError> {
    let query = "SELECT scope, agent, chain FROM approval WHERE id = ?";
    let row: (Option<Vec<u8>>, String, String) =
        transaction.query_row(query, [id], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
    let (Some(scope), agent, chain) = row else {
        return Err(GrantError::None("nothing proves who its agent is").into());
    };
    // A chain that cannot be read is nobody's to speak for.
    let chain: Vec<People> = serde_json::from_str(&chain).unwrap_or_default();
    let about = ["node", "login", "profile", "endpoint", "credential", "rule"];
    let about = about.map(|field| (field.to_owned(), question[field].clone()));
    let offer = Offer {
        scope: &scope,
        agent: &agent,
        about: &serde_json::Value::Object(about.into_iter().collect()),
        chain: &chain,
        terms,
    };
    Ok(grant::offer(transaction, person, &offer, now)??)
}
