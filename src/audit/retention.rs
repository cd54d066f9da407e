//! Removing the oldest records, with an anchor for what stays.
//!
//! Records go in order from the oldest, never from the middle. In the same transaction a record of
//! the gateway's own joins the chain: up to which number, the hash of the last one removed, and
//! the same for outcomes. [`super::read::Reader::verify`] begins at the newest such anchor, which
//! the chain itself vouches for; an anchor is never removed before a newer one stands.

use rusqlite::{Connection, OptionalExtension, params};
use serde::{Deserialize, Serialize};

use super::Retention;
use super::row::{Hash, Row};

/// Records that one step removes at most, so that the writer is never away for long.
pub(super) const STEP_RECORDS_MAX: u64 = 2048;
/// The newest records, which no limit of bytes removes.
pub(super) const KEPT_RECORDS_MIN: u64 = 256;
/// `cause` of an anchor's record.
pub(super) const PRUNED: &str = "pruned";
/// Why records go, in an anchor's summary.
pub(super) const BY_SIZE: &str = "bytes_max";
const BY_AGE: &str = "keep_days";
/// `step` of a record of the gateway itself.
pub(super) const GATEWAY: &str = "gateway";

const DAY_US: i64 = 86_400_000_000;
/// Once over the limit of bytes, a tenth is made free, so that not every record removes one.
const FREE_TENTHS: u64 = 1;

/// Where both chains begin after records were removed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Anchor {
    /// The last record removed, and its hash in hex.
    pub(super) record: u64,
    pub(super) record_hash: String,
    /// The last outcome removed, and its hash in hex.
    pub(super) outcome: u64,
    pub(super) outcome_hash: String,
}

/// How far the next step goes, and why.
pub(super) struct Cut {
    pub(super) record: u64,
    pub(super) why: &'static str,
    /// Whether there may be more for another step.
    pub(super) more: bool,
}

/// What the rule wants removed next; `None` where all may stay.
pub(super) fn next(
    connection: &Connection,
    retention: Retention,
    last: u64,
    now_us: i64,
) -> rusqlite::Result<Option<Cut>> {
    let old = by_age(connection, retention, now_us)?;
    let cut = match old {
        Some(cut) => Some(cut),
        None => by_size(connection, retention)?,
    };
    // Whatever the clock says, what was just written stays.
    let ceiling = last.saturating_sub(KEPT_RECORDS_MIN);
    Ok(cut.and_then(|cut| {
        let record = cut.record.min(ceiling);
        let more = cut.more && record == cut.record;
        let first_there = first(connection).ok().flatten()?;
        (record >= first_there).then_some(Cut { record, more, ..cut })
    }))
}

/// Removes records up to the cut inside the caller's transaction; the anchor to be recorded.
pub(super) fn remove(connection: &Connection, cut: &Cut) -> rusqlite::Result<Anchor> {
    let hash_of = |query: &str, number: i64| -> rusqlite::Result<Option<Hash>> {
        connection.query_row(query, [number], |row| row.get(0)).optional()
    };
    let mut anchor = newest_anchor(connection)?.unwrap_or_default();
    let record = as_i64(cut.record);
    if let Some(hash) = hash_of("SELECT hash FROM record WHERE id = ?", record)? {
        (anchor.record, anchor.record_hash) = (cut.record, super::row::hex(&hash));
    }
    // Outcomes are in the order in which actions ended: a later action's may stand first.
    let kept: Option<i64> = connection
        .query_row(
            "SELECT seq FROM outcome WHERE record > ? ORDER BY seq LIMIT 1",
            [record],
            |row| row.get(0),
        )
        .optional()?;
    let newest: Option<i64> = connection.query_row("SELECT max(seq) FROM outcome", [], |row| row.get(0))?;
    if let Some(outcome) = kept.map(|seq| seq - 1).or(newest)
        && let Some(hash) = hash_of("SELECT hash FROM outcome WHERE seq = ?", outcome)?
    {
        (anchor.outcome, anchor.outcome_hash) = (outcome as u64, super::row::hex(&hash));
        connection.execute("DELETE FROM outcome WHERE seq <= ?", [outcome])?;
    }
    connection.execute("DELETE FROM record WHERE id <= ?", [record])?;
    Ok(anchor)
}

/// The newest anchor that stands in the log, as its record says it.
pub(super) fn newest_anchor(connection: &Connection) -> rusqlite::Result<Option<Anchor>> {
    let facts: Option<String> = connection
        .query_row(
            "SELECT facts FROM record WHERE step = ? AND cause = ? ORDER BY id DESC LIMIT 1",
            params![GATEWAY, PRUNED],
            |row| row.get(0),
        )
        .optional()?;
    Ok(facts.and_then(|facts| serde_json::from_str(&facts).ok()))
}

/// The record that carries an anchor.
pub(super) fn anchor_row(id: u64, at_us: i64, cut: &Cut, anchor: &Anchor) -> Row<'static> {
    let summary = format!("records up to {} were removed by {}", anchor.record, cut.why);
    let facts = serde_json::to_string(anchor).unwrap_or_default();
    Row::of_gateway(id, at_us, PRUNED, summary, facts)
}

fn first(connection: &Connection) -> rusqlite::Result<Option<u64>> {
    let first: Option<i64> = connection.query_row("SELECT min(id) FROM record", [], |row| row.get(0))?;
    Ok(first.map(|first| first as u64))
}

fn by_age(connection: &Connection, retention: Retention, now_us: i64) -> rusqlite::Result<Option<Cut>> {
    if retention.keep_days == 0 {
        return Ok(None);
    }
    let days = as_i64(retention.keep_days);
    let limit = now_us.saturating_sub(days.saturating_mul(DAY_US));
    let mut statement = connection.prepare_cached("SELECT id, at_us FROM record ORDER BY id LIMIT ?")?;
    let mut rows = statement.query([as_i64(STEP_RECORDS_MAX)])?;
    let (mut last, mut count) = (None, 0);
    while let Some(row) = rows.next()? {
        if row.get::<_, i64>(1)? >= limit {
            break;
        }
        last = Some(row.get::<_, i64>(0)? as u64);
        count += 1;
    }
    Ok(last.map(|record| Cut {
        record,
        why: BY_AGE,
        more: count == STEP_RECORDS_MAX,
    }))
}

fn by_size(connection: &Connection, retention: Retention) -> rusqlite::Result<Option<Cut>> {
    if retention.bytes_max == 0 {
        return Ok(None);
    }
    let number = |name| connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    let pages = number("page_count")?.saturating_sub(number("freelist_count")?);
    let used = (pages as u64).saturating_mul(number("page_size")? as u64);
    if used <= retention.bytes_max {
        return Ok(None);
    }
    let (first, count): (Option<i64>, i64) =
        connection.query_row("SELECT min(id), count(*) FROM record", [], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })?;
    let Some(first) = first else { return Ok(None) };
    let wanted = retention.bytes_max / 10 * (10 - FREE_TENTHS);
    let share = u128::from(used - wanted) * count as u128 / u128::from(used);
    let share = u64::try_from(share).unwrap_or(u64::MAX).max(1);
    Ok(Some(Cut {
        record: first as u64 + share.min(STEP_RECORDS_MAX) - 1,
        why: BY_SIZE,
        more: share > STEP_RECORDS_MAX,
    }))
}

fn as_i64(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
