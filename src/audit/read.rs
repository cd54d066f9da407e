//! Reading the audit log: following, filtering, verifying. Never writes.

use std::path::{Path, PathBuf};

use rusqlite::{Connection, OpenFlags, OptionalExtension, params};
use serde::{Deserialize, Serialize};

use super::note::{self, Noted};
use super::retention::{self, Anchor};
use super::row::{Hash, OutcomeRow, Row, chain, hex};

/// Records that one read returns at most.
pub const PAGE_RECORDS_MAX: u32 = 1000;
/// Bytes of facts after which a read returns what it has; the next one goes on.
pub const PAGE_BYTES_MAX: usize = 8 << 20;

/// The log cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("the audit log cannot be read: {0}")]
pub struct ReadError(#[from] rusqlite::Error);

/// Which records are wanted. An empty filter wants all.
#[derive(Clone, Debug, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default)]
pub struct Filter {
    /// Only records after this number.
    pub after: u64,
    /// Only records before this number.
    pub before: Option<u64>,
    /// Unix time in microseconds: only records at or after it.
    pub since_us: Option<i64>,
    /// Unix time in microseconds: only records before it.
    pub until_us: Option<i64>,
    /// Only records that have this text in what was asked, by whom, or why: letter case aside.
    pub text: Option<String>,
    pub node: Option<String>,
    pub endpoint: Option<String>,
    pub verdict: Option<String>,
    pub rule: Option<String>,
    /// At most this many, and never over [`PAGE_RECORDS_MAX`].
    pub limit: Option<u32>,
    /// The newest `limit` records instead of the oldest, still in order.
    pub newest: bool,
}

/// What a check of the chain found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Verified {
    pub records: u64,
    pub outcomes: u64,
    /// Records up to this number were removed by the retention.
    pub removed: u64,
    /// The number of the last record.
    pub last: u64,
    /// The hash of the last record: note it elsewhere, and a rewritten log shows.
    pub head: String,
    /// The first fault, in words; `None` for an intact log.
    pub fault: Option<String>,
}

/// A reader of a log that may be open elsewhere.
pub struct Reader {
    path: PathBuf,
    pub(super) connection: Connection,
}

impl Reader {
    /// # Errors
    /// There is no log at `path`.
    pub fn open(path: &Path) -> Result<Reader, ReadError> {
        // A log in use is read through files beside it, which may have to be made; a copy that
        // cannot be written needs none.
        let open = |access| Connection::open_with_flags(path, access | OpenFlags::SQLITE_OPEN_NO_MUTEX);
        let connection =
            open(OpenFlags::SQLITE_OPEN_READ_WRITE).or_else(|_| open(OpenFlags::SQLITE_OPEN_READ_ONLY))?;
        connection.pragma_update(None, "query_only", "ON")?;
        Ok(Reader {
            path: path.to_owned(),
            connection,
        })
    }

    /// The records that a filter wants, in order, each with its outcome where there is one. A page
    /// may be short ([`PAGE_BYTES_MAX`]): the last one is that which is empty.
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn select(&self, filter: &Filter) -> Result<Vec<serde_json::Value>, ReadError> {
        let order = if filter.newest { "DESC" } else { "ASC" };
        let query = format!(
            "SELECT record.*, o.status, o.bytes_up, o.bytes_down, o.took_us FROM record
             LEFT JOIN outcome o ON o.seq = (SELECT max(seq) FROM outcome WHERE record = record.id)
             WHERE id > ?1 AND (?2 IS NULL OR at_us >= ?2) AND (?3 IS NULL OR node = ?3)
             AND (?4 IS NULL OR endpoint = ?4) AND (?5 IS NULL OR verdict = ?5)
             AND (?6 IS NULL OR rule = ?6) AND (?8 IS NULL OR id < ?8) AND (?9 IS NULL OR at_us < ?9)
             AND (?10 IS NULL OR instr(lower(concat_ws(' ', summary, node, login, endpoint, rule, cause, reason)), lower(?10)) > 0)
             ORDER BY id {order} LIMIT ?7"
        )
        .replace("WHERE record = record.id", "WHERE outcome.record = record.id");
        let limit = filter.limit.unwrap_or(PAGE_RECORDS_MAX).min(PAGE_RECORDS_MAX);
        let mut statement = self.connection.prepare_cached(&query)?;
        let mut rows = statement.query(params![
            i64::try_from(filter.after).unwrap_or(i64::MAX),
            filter.since_us,
            filter.node,
            filter.endpoint,
            filter.verdict,
            filter.rule,
            limit,
            filter
                .before
                .map(|before| i64::try_from(before).unwrap_or(i64::MAX)),
            filter.until_us,
            filter.text,
        ])?;
        let (mut values, mut bytes) = (Vec::new(), 0);
        while bytes < PAGE_BYTES_MAX
            && let Some(row) = rows.next()?
        {
            let (record, hash) = Row::read(row)?;
            bytes += record.facts.len();
            let mut value = record.to_json();
            value["hash"] = hex(&hash).into();
            if let Some(status) = row.get::<_, Option<String>>("status")? {
                value["outcome"] = serde_json::json!({
                    "status": status,
                    "bytes_up": row.get::<_, i64>("bytes_up")?,
                    "bytes_down": row.get::<_, i64>("bytes_down")?,
                    "took_us": row.get::<_, i64>("took_us")?,
                });
            }
            values.push(value);
        }
        if filter.newest {
            values.reverse();
        }
        Ok(values)
    }

    /// How many records there are since a time, before a number.
    pub(super) fn count(&self, since_us: i64, before: Option<u64>) -> Result<u64, ReadError> {
        let before = before.and_then(|before| i64::try_from(before).ok());
        let count: i64 = self.connection.query_row(
            "SELECT count(*) FROM record WHERE at_us >= ?1 AND (?2 IS NULL OR id < ?2)",
            params![since_us, before],
            |row| row.get(0),
        )?;
        Ok(u64::try_from(count).unwrap_or_default())
    }

    /// Walks both chains, and compares their ends with the note beside the database.
    ///
    /// Detects an edited, removed or inserted row and a cut-off tail. It cannot detect that
    /// someone who can write the whole state folder rewrote the log and the note together: for
    /// that, keep [`Verified::head`] on another machine.
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn verify(&self) -> Result<Verified, ReadError> {
        self.verify_with(None)
    }

    /// [`Reader::verify`], and whether the record is still there that was noted elsewhere:
    /// `NUMBER:HASH`, from [`Verified::last`] and [`Verified::head`] of an earlier check.
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn verify_with(&self, elsewhere: Option<&str>) -> Result<Verified, ReadError> {
        let noted = std::fs::read_to_string(note::path(&self.path));
        let transaction = self.connection.unchecked_transaction()?;
        let mut found = Verified {
            records: 0,
            outcomes: 0,
            removed: 0,
            last: 0,
            head: String::new(),
            fault: None,
        };
        let noted = match noted.ok().as_deref().and_then(note::parse) {
            Some(noted) => noted,
            None => {
                found.fault = Some("the note of the log's head is missing or unreadable".to_owned());
                Noted::default()
            }
        };
        // The chain begins where the newest removal ended; the chain itself vouches for that.
        let anchor = retention::newest_anchor(&transaction)?.unwrap_or_default();
        found.removed = anchor.record;
        let faults = [
            verify_records(&transaction, &noted, &anchor, &mut found)?,
            verify_outcomes(&transaction, &noted, &anchor, &mut found)?,
        ];
        let gone = elsewhere.and_then(|noted| not_there(&transaction, noted, found.removed).transpose());
        let faults = faults.into_iter().chain([gone.transpose()?]);
        found.fault = found.fault.take().or_else(|| faults.flatten().next());
        Ok(found)
    }
}

/// What is wrong with a record that was noted elsewhere.
fn not_there(connection: &Connection, noted: &str, removed: u64) -> Result<Option<String>, ReadError> {
    let parsed = noted
        .split_once(':')
        .and_then(|(number, hash)| Some((number.parse::<u64>().ok()?, hash)));
    let Some((number, hash)) = parsed else {
        return Ok(Some(format!("`{noted}` is not NUMBER:HASH")));
    };
    if number == 0 {
        return Ok(None);
    }
    if number <= removed {
        return Ok(Some(format!(
            "record {number} was removed by the retention: note a newer one"
        )));
    }
    let found: Option<Hash> = connection
        .query_row(
            "SELECT hash FROM record WHERE id = ?",
            [i64::try_from(number).unwrap_or(i64::MAX)],
            |row| row.get(0),
        )
        .optional()?;
    Ok(match found {
        Some(own) if hex(&own).eq_ignore_ascii_case(hash) => None,
        Some(_) => Some(format!("record {number} is not the one that was noted elsewhere")),
        None => Some(format!("record {number}, which was noted elsewhere, is missing")),
    })
}

fn verify_records(
    connection: &Connection,
    noted: &Noted,
    anchor: &Anchor,
    found: &mut Verified,
) -> Result<Option<String>, ReadError> {
    let Some(mut head) = start(&anchor.record_hash) else {
        return Ok(Some("the anchor of the records is unreadable".to_owned()));
    };
    let mut last = anchor.record;
    let mut fault: Option<String> = None;
    let mut statement = connection.prepare("SELECT * FROM record ORDER BY id")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let Ok((record, hash)) = Row::read(row) else {
            return Ok(fault.or_else(|| Some(format!("record {} is unreadable", last + 1))));
        };
        if record.id != last + 1 {
            fault.get_or_insert(format!("record {} is missing", last + 1));
        }
        if chain(&head, &record.text()) != hash {
            fault.get_or_insert(format!(
                "record {} was changed, or the one before it was",
                record.id
            ));
        }
        if record.id == noted.record.0 && hex(&hash) != noted.record.1 {
            fault.get_or_insert(format!("record {} is not the one that was noted", record.id));
        }
        if record.step == retention::GATEWAY && record.cause == "log_damaged" {
            fault.get_or_insert(format!("record {}: {}", record.id, record.summary));
        }
        (last, head) = (record.id, hash);
        found.records += 1;
    }
    if last < noted.record.0 {
        fault.get_or_insert(format!(
            "records after {last} are cut off; {} were noted",
            noted.record.0
        ));
    }
    found.last = last;
    found.head = hex(&head);
    Ok(fault)
}

fn verify_outcomes(
    connection: &Connection,
    noted: &Noted,
    anchor: &Anchor,
    found: &mut Verified,
) -> Result<Option<String>, ReadError> {
    let Some(mut head) = start(&anchor.outcome_hash) else {
        return Ok(Some("the anchor of the outcomes is unreadable".to_owned()));
    };
    let mut last = anchor.outcome;
    let mut statement = connection.prepare("SELECT * FROM outcome ORDER BY seq")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let Ok((outcome, hash)) = OutcomeRow::read(row) else {
            return Ok(Some(format!("outcome {} is unreadable", last + 1)));
        };
        let seq = outcome.seq;
        if seq != last + 1 || chain(&head, &outcome.text()) != hash {
            return Ok(Some(format!("outcome {} was changed or removed", last + 1)));
        }
        if seq == noted.outcome.0 && hex(&hash) != noted.outcome.1 {
            return Ok(Some(format!("outcome {seq} is not the one that was noted")));
        }
        (last, head) = (seq, hash);
        found.outcomes += 1;
    }
    Ok((last < noted.outcome.0).then(|| format!("outcomes after {last} are cut off")))
}

/// The hash that a chain begins with: an anchor's, or zeros where nothing was removed.
fn start(hash: &str) -> Option<Hash> {
    let mut start = [0; 32];
    if hash.is_empty() {
        return Some(start);
    }
    if hash.len() != 64 {
        return None;
    }
    for (index, byte) in start.iter_mut().enumerate() {
        *byte = u8::from_str_radix(hash.get(index * 2..index * 2 + 2)?, 16).ok()?;
    }
    Some(start)
}
