//! Grants: a yes that people give beforehand, for one rule and one agent, for a time and a number of
//! uses.
//!
//! A grant is offered with a yes to a question, and counts when as many people as any approver of the
//! rule's chain asks for have offered the same one: each of them must be one who may decide at every
//! step of the chain. It stands for the people of the chain; judges are asked for each use as before.
//! The action of the question that it was given with is its first use.
//!
//! What it is bound to is its [`Scope`]: by what the tunnel proved the agent, its login and profile,
//! the endpoint, the credential and the rule with all that it says. A rule that says something else is
//! another scope, and the grant is for nothing then.
//!
//! Invariants: a use is taken from the grant, durably, before the action passes, and never given
//! back; a grant that is over never counts again; an agent is told nothing of it.

use std::time::Duration;

use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension, Transaction, params};
use serde::{Deserialize, Serialize};

use super::store::micros;
use super::{Voter, decision};
use crate::state::StateError;
use crate::verdict::Digest;

/// Seconds that a grant lasts at most, and where nothing is said but a number of uses.
pub const GRANT_S_MAX: u64 = 24 * 3600;
/// Uses that a grant has at most, and where nothing is said but a time.
pub const GRANT_USES_MAX: u32 = 10_000;
/// Grants that are in force at once, of all agents together.
pub const GRANTS_MAX: i64 = 1024;
/// Grants of one agent that are in force at once.
pub const GRANTS_PER_AGENT_MAX: i64 = 32;
/// Offers of grants that wait for more people, of all agents together.
pub const OFFERS_MAX: i64 = 256;
/// Seconds in which others can agree to an offer.
pub const OFFER_S: u64 = 600;
/// Grants that are over and kept for people to see; the oldest go first.
pub const ENDED_KEPT_MAX: i64 = 4096;

/// What a grant is bound to, as one digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scope(Digest);

impl Scope {
    /// `None` where no tunnel proved the agent: nothing is bound to that.
    pub fn new(identity: &crate::identity::Identity, profile: &str, rule: (&str, Digest)) -> Option<Scope> {
        if identity.proof.is_empty() {
            return None;
        }
        let login = serde_json::json!(identity.login).to_string();
        let parts = [
            identity.proof.as_bytes(),
            login.as_bytes(),
            profile.as_bytes(),
            rule.0.as_bytes(),
            rule.1.as_bytes().as_slice(),
        ];
        Some(Scope(Digest::of_parts(parts)))
    }

    pub(super) fn bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

/// What people have to say at one step of a chain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct People {
    pub required: u32,
    /// As [`super::Question::eligible`].
    pub eligible: Vec<String>,
    /// As [`super::Question::excluded`].
    pub excluded: Option<String>,
}

/// How long, and how often.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    pub lasts: Duration,
    pub uses: u32,
}

impl Terms {
    /// # Errors
    /// Nothing is said, or it is over [`GRANT_S_MAX`] or [`GRANT_USES_MAX`].
    pub fn new(for_s: Option<u64>, uses: Option<u32>) -> Result<Terms, String> {
        if for_s.is_none() && uses.is_none() {
            return Err("a grant needs a time or a number of uses".to_owned());
        }
        let (seconds, uses) = (for_s.unwrap_or(GRANT_S_MAX), uses.unwrap_or(GRANT_USES_MAX));
        if !(1..=GRANT_S_MAX).contains(&seconds) {
            return Err(format!("a grant lasts 1 to {GRANT_S_MAX} seconds"));
        }
        if !(1..=GRANT_USES_MAX).contains(&uses) {
            return Err(format!("a grant has 1 to {GRANT_USES_MAX} uses"));
        }
        let lasts = Duration::from_secs(seconds);
        Ok(Terms { lasts, uses })
    }
}

/// A grant as an operator sees it.
#[derive(Clone, Debug, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Grant {
    pub id: i64,
    /// `offered`, `active`, `used`, `expired`, `revoked`.
    pub state: String,
    /// What it is for: node, login, profile, endpoint, credential, rule.
    #[schemars(with = "super::shape::About")]
    pub about: serde_json::Value,
    /// The agent's key, as [`crate::identity::Identity::agent_key`].
    pub agent: String,
    pub uses: u32,
    pub uses_max: u32,
    pub lasts_s: u64,
    /// Unix time, microseconds.
    pub offered_us: i64,
    pub given_us: Option<i64>,
    pub expires_us: Option<i64>,
    pub ended_us: Option<i64>,
    pub used_us: Option<i64>,
    pub ended_by: Option<String>,
    /// Who gave it, or has offered it so far.
    pub by: Vec<String>,
}

/// A use that was taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Use {
    pub grant: i64,
    /// Who gave the grant.
    pub by: Vec<String>,
}

/// A person, with what they count as once, as in a vote.
pub(super) type Person<'a> = (&'a Voter, &'a str);

/// What an offer is made of.
pub(super) struct Offer<'a> {
    pub(super) scope: &'a [u8],
    pub(super) agent: &'a str,
    pub(super) about: &'a serde_json::Value,
    pub(super) chain: &'a [People],
    pub(super) terms: Terms,
}

/// Why no grant was given.
#[derive(Debug, thiserror::Error)]
pub enum GrantError {
    #[error("{0} may not decide at every step of this rule's chain, and so cannot give a grant")]
    NotGrantor(String),
    #[error("this action cannot have a grant: {0}")]
    None(&'static str),
    #[error("{GRANTS_MAX} grants are in force already")]
    Full,
    #[error("this agent has {GRANTS_PER_AGENT_MAX} grants already")]
    AgentFull,
    #[error("{OFFERS_MAX} grants wait for more people already")]
    OffersFull,
}

/// Notes one person's offer; the number of the grant if it is in force by that.
pub(super) fn offer(
    transaction: &Transaction<'_>,
    (person, counts_as): Person<'_>,
    offer: &Offer<'_>,
    now: i64,
) -> Result<Result<Option<i64>, GrantError>, StateError> {
    if offer.chain.is_empty() {
        return Ok(Err(GrantError::None(
            "nothing proves its agent, or nobody is asked",
        )));
    }
    let may = |step: &People| {
        let who = (step.eligible.as_slice(), step.excluded.as_deref());
        decision::check(person, counts_as, who).is_ok()
    };
    if !offer.chain.iter().all(may) {
        return Ok(Err(GrantError::NotGrantor(person.name())));
    }
    let required = offer
        .chain
        .iter()
        .map(|step| step.required.max(1))
        .max()
        .unwrap_or(1);
    let (lasts, uses) = (micros(offer.terms.lasts), offer.terms.uses);
    let query = "SELECT id FROM approval_grant WHERE state = 'offered' AND scope = ? AND lasts_us = ? AND uses_max = ?";
    let same: Option<i64> = transaction
        .query_row(query, params![offer.scope, lasts, uses], |row| row.get(0))
        .optional()?;
    let id = match same {
        Some(id) => id,
        None => {
            if count(transaction, "state = 'offered'", [])? >= OFFERS_MAX {
                return Ok(Err(GrantError::OffersFull));
            }
            transaction.execute(
                "INSERT INTO approval_grant (scope, agent, about, state, lasts_us, uses_max, uses, offered_us)
                 VALUES (?, ?, ?, 'offered', ?, ?, 0, ?)",
                params![offer.scope, offer.agent, offer.about.to_string(), lasts, uses, now],
            )?;
            transaction.last_insert_rowid()
        }
    };
    transaction.execute(
        "INSERT OR IGNORE INTO approval_grant_vote (id, person, at_us, counts_as) VALUES (?, ?, ?, ?)",
        params![id, person.name(), now, counts_as],
    )?;
    let query = "SELECT count(*) FROM approval_grant_vote WHERE id = ?";
    let agreed: u32 = transaction.query_row(query, [id], |row| row.get(0))?;
    if agreed < required {
        return Ok(Ok(None));
    }
    if count(transaction, "state = 'active'", [])? >= GRANTS_MAX {
        return Ok(Err(GrantError::Full));
    }
    if count(transaction, "state = 'active' AND agent = ?", [offer.agent])? >= GRANTS_PER_AGENT_MAX {
        return Ok(Err(GrantError::AgentFull));
    }
    transaction.execute(
        "UPDATE approval_grant SET state = 'active', given_us = ?2, expires_us = ?3 WHERE id = ?1",
        params![id, now, now.saturating_add(lasts)],
    )?;
    Ok(Ok(Some(id)))
}

fn count<P: rusqlite::Params>(connection: &Connection, clause: &str, values: P) -> Result<i64, StateError> {
    let query = format!("SELECT count(*) FROM approval_grant WHERE {clause}");
    Ok(connection.query_row(&query, values, |row| row.get(0))?)
}

/// Takes one use of this grant, if it is in force.
pub(super) fn take_use(connection: &Connection, id: i64, now: i64) -> Result<Option<Use>, StateError> {
    let taken = connection.execute(
        "UPDATE approval_grant SET uses = uses + 1, used_us = ?2,
           state = CASE WHEN uses + 1 >= uses_max THEN 'used' ELSE state END,
           ended_us = CASE WHEN uses + 1 >= uses_max THEN ?2 END
         WHERE id = ?1 AND state = 'active' AND expires_us > ?2 AND uses < uses_max",
        params![id, now],
    )?;
    if taken == 0 {
        return Ok(None);
    }
    let by = givers(connection, id)?;
    Ok(Some(Use { grant: id, by }))
}

/// The use that was taken when the grant was given, unless it was taken back since.
pub(super) fn first_use(connection: &Connection, id: i64) -> Result<Option<Use>, StateError> {
    let query = "SELECT state <> 'revoked' FROM approval_grant WHERE id = ?";
    let stands: Option<bool> = connection.query_row(query, [id], |row| row.get(0)).optional()?;
    if stands != Some(true) {
        return Ok(None);
    }
    let by = givers(connection, id)?;
    Ok(Some(Use { grant: id, by }))
}

/// Takes one use of a grant that is for this, of several the one that ends first.
pub(super) fn take_use_of(
    connection: &Connection,
    scope: &[u8],
    now: i64,
) -> Result<Option<Use>, StateError> {
    let query = "SELECT id FROM approval_grant WHERE state = 'active' AND scope = ? AND expires_us > ?
                 ORDER BY expires_us LIMIT 1";
    let found = connection.query_row(query, params![scope, now], |row| row.get(0));
    match found.optional()? {
        Some(id) => take_use(connection, id, now),
        None => Ok(None),
    }
}

/// Ends what is over by its time.
pub(super) fn expire(connection: &Connection, now: i64) -> Result<(), StateError> {
    let offers = now.saturating_sub(micros(Duration::from_secs(OFFER_S)));
    connection.execute(
        "UPDATE approval_grant SET state = 'expired', ended_us = ?1
         WHERE (state = 'active' AND expires_us <= ?1) OR (state = 'offered' AND offered_us <= ?2)",
        params![now, offers],
    )?;
    Ok(())
}

/// Removes the oldest that are over.
pub(super) fn prune(connection: &Connection) -> Result<(), StateError> {
    connection.execute_batch(&format!(
        "CREATE TEMP TABLE IF NOT EXISTS grant_gone (id INTEGER PRIMARY KEY);
         DELETE FROM grant_gone;
         INSERT INTO grant_gone SELECT id FROM approval_grant WHERE state NOT IN ('offered', 'active')
           ORDER BY id DESC LIMIT -1 OFFSET {ENDED_KEPT_MAX};
         DELETE FROM approval_grant_vote WHERE id IN (SELECT id FROM grant_gone);
         DELETE FROM approval_grant WHERE id IN (SELECT id FROM grant_gone);"
    ))?;
    Ok(())
}

/// Which grants are taken back.
#[derive(Clone, Copy, Debug)]
pub(super) enum Which<'a> {
    /// One; what it let through may go on though it is used up or its time is over.
    One(i64),
    /// All of an agent that count.
    Of(&'a str),
}

/// Takes grants back, with the decisions that were given with them and not used; their numbers.
pub(super) fn revoke(
    connection: &Connection,
    which: Which<'_>,
    person: &str,
    now: i64,
) -> Result<Vec<i64>, StateError> {
    let (clause, value) = match which {
        Which::One(id) => ("id = ?3 AND state <> 'revoked'", Value::from(id)),
        Which::Of(agent) => (
            "agent = ?3 AND state IN ('offered', 'active')",
            Value::from(agent.to_owned()),
        ),
    };
    let update = format!(
        "UPDATE approval_grant SET state = 'revoked', ended_us = ?1, ended_by = ?2 WHERE {clause} RETURNING id"
    );
    let mut statement = connection.prepare(&update)?;
    let rows = statement.query_map(params![now, person, value], |row| row.get(0))?;
    let gone: Vec<i64> = rows.collect::<Result<_, _>>()?;
    for id in &gone {
        connection.execute(
            "UPDATE approval SET state = 'denied', closed_us = ?2, decided_by = ?3,
               reason = 'the grant was taken back' WHERE grant_id = ?1 AND state = 'allowed'",
            params![id, now, person],
        )?;
    }
    Ok(gone)
}

/// Those in force and offered first, then the newest of those that are over.
pub(super) fn list(connection: &Connection, all: bool, limit: u32) -> Result<Vec<Grant>, StateError> {
    select(
        connection,
        "WHERE ?1 OR state IN ('offered', 'active') ORDER BY state NOT IN ('offered', 'active'), id DESC LIMIT ?2",
        params![all, limit],
    )
}

/// One, whatever its state.
pub(super) fn one(connection: &Connection, id: i64) -> Result<Option<Grant>, StateError> {
    Ok(select(connection, "WHERE id = ?1", [id])?.pop())
}

fn select<P: rusqlite::Params>(
    connection: &Connection,
    clause: &str,
    values: P,
) -> Result<Vec<Grant>, StateError> {
    let query = format!(
        "SELECT id, state, about, agent, uses, uses_max, lasts_us, offered_us, given_us, expires_us, ended_us,
           used_us, ended_by FROM approval_grant {clause}"
    );
    let mut statement = connection.prepare_cached(&query)?;
    let rows = statement.query_map(values, |row| {
        Ok(Grant {
            id: row.get(0)?,
            state: row.get(1)?,
            about: serde_json::from_str(&row.get::<_, String>(2)?).unwrap_or_default(),
            agent: row.get(3)?,
            uses: row.get(4)?,
            uses_max: row.get(5)?,
            lasts_s: u64::try_from(row.get::<_, i64>(6)? / 1_000_000).unwrap_or_default(),
            offered_us: row.get(7)?,
            given_us: row.get(8)?,
            expires_us: row.get(9)?,
            ended_us: row.get(10)?,
            used_us: row.get(11)?,
            ended_by: row.get(12)?,
            by: Vec::new(),
        })
    })?;
    let mut grants: Vec<Grant> = rows.collect::<Result<_, _>>()?;
    for grant in &mut grants {
        grant.by = givers(connection, grant.id)?;
    }
    Ok(grants)
}

fn givers(connection: &Connection, id: i64) -> Result<Vec<String>, StateError> {
    let query = "SELECT person FROM approval_grant_vote WHERE id = ? ORDER BY at_us";
    let mut statement = connection.prepare_cached(query)?;
    let people = statement.query_map([id], |row| row.get(0))?;
    Ok(people.collect::<Result<_, _>>()?)
}
