//! Whether the queue has a place for one more question: so many in all, of one agent, and of one person's agents.
//!
//! Whose an agent is, is known where its node has a login: a tagged node and a WireGuard peer are nobody's. What is
//! closed takes no place.

use rusqlite::Transaction;

use super::Question;
use super::voter::person_of;
use crate::state::StateError;

/// Pending questions of all agents together.
pub const PENDING_MAX: i64 = 1024;
/// Places of [`PENDING_MAX`] that are kept for agents with few questions, so that no few agents fill the queue.
pub const PENDING_KEPT: i64 = 256;
/// Pending questions of one agent that are few.
pub const PENDING_FEW: i64 = 2;
/// Pending questions of one agent, whatever it calls itself.
pub const PENDING_PER_AGENT_MAX: i64 = 32;
/// Pending questions of all agents whose nodes are of one login, so that one person's many agents leave places to others'.
pub const PENDING_PER_OWNER_MAX: i64 = 128;
/// Pending questions of one login that are few, as [`PENDING_FEW`] are of one agent.
pub const PENDING_OWNER_FEW: i64 = 8;
/// Pending questions of one agent that it does not wait for: they cost it no connection.
pub const LODGED_PER_AGENT_MAX: i64 = 8;
/// Those of all agents together; the rest of [`PENDING_MAX`] is kept for agents that wait.
pub const LODGED_MAX: i64 = 512;

/// What is pending.
#[derive(Default)]
struct Pending {
    all: i64,
    agents: i64,
    owners: i64,
    lodged: i64,
    agents_lodged: i64,
}

/// Whose the agent is, as a person counts; `None` where nobody is known.
pub(super) fn owner(question: &Question) -> Option<String> {
    question.login.as_deref().map(person_of)
}

/// Whether one more may be held beside those that are pending.
///
/// # Errors
/// Which limit is reached.
pub(super) fn check_room(
    transaction: &Transaction<'_>,
    question: &Question,
    is_lodged: bool,
) -> Result<(), StateError> {
    let query = "SELECT agent = ?1, coalesce(owner = ?2, 0), retry IS NOT NULL FROM approval
                 WHERE state = 'pending'";
    let mut rows = transaction.prepare_cached(query)?;
    let mut rows = rows.query((&question.agent, owner(question)))?;
    let mut pending = Pending::default();
    while let Some(row) = rows.next()? {
        let (agents, owners, lodged): (bool, bool, bool) = (row.get(0)?, row.get(1)?, row.get(2)?);
        pending.all += 1;
        pending.agents += i64::from(agents);
        pending.owners += i64::from(owners);
        pending.lodged += i64::from(lodged);
        pending.agents_lodged += i64::from(agents && lodged);
    }
    pending
        .no_room(is_lodged)
        .map_or(Ok(()), |why| Err(StateError::Refused(why)))
}

impl Pending {
    /// Why there is no place for one more.
    fn no_room(&self, is_lodged: bool) -> Option<String> {
        let is_scarce = self.all >= PENDING_MAX - PENDING_KEPT;
        let why = if self.all >= PENDING_MAX {
            format!("{PENDING_MAX} actions are held already")
        } else if is_scarce && self.agents >= PENDING_FEW {
            format!(
                "many actions are held already, and the places that are left are for agents with fewer than {PENDING_FEW}"
            )
        } else if is_scarce && self.owners >= PENDING_OWNER_FEW {
            format!(
                "many actions are held already, and the places that are left are for people whose agents have fewer than \
                 {PENDING_OWNER_FEW}"
            )
        } else if self.agents >= PENDING_PER_AGENT_MAX {
            format!("this agent has {PENDING_PER_AGENT_MAX} actions held already")
        } else if self.owners >= PENDING_PER_OWNER_MAX {
            format!("the agents of this one's owner have {PENDING_PER_OWNER_MAX} actions held already")
        } else if is_lodged && self.lodged >= LODGED_MAX {
            format!("{LODGED_MAX} actions that nobody waits for are held already; this one can be waited for")
        } else if is_lodged && self.agents_lodged >= LODGED_PER_AGENT_MAX {
            format!(
                "this agent has {LODGED_PER_AGENT_MAX} actions held already that it does not wait for; this one can be \
                 waited for"
            )
        } else {
            return None;
        };
        Some(why)
    }
}
