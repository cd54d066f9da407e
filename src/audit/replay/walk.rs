//! The records that are judged anew: all since a time, or the newest of them within bounds.

use std::path::Path;
use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::Value;

use crate::audit::read::{Filter, ReadError, Reader};

/// How much of the log is looked at, where somebody waits for the answer.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    pub records: u64,
    pub time: Duration,
}

/// What is not looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, schemars::JsonSchema)]
pub struct LeftOut {
    /// So many records, the oldest of the time that was asked for.
    pub records: u64,
    /// The oldest that was looked at; null if none was.
    pub oldest: Option<u64>,
    /// `records` or `time`: which bound it was.
    pub bound: &'static str,
}

/// Every record since a time, in order.
///
/// # Errors
/// The log cannot be read.
pub fn each(log: &Path, since_us: i64, mut visit: impl FnMut(&Value)) -> Result<(), ReadError> {
    let reader = Reader::open(log)?;
    let mut filter = Filter {
        since_us: Some(since_us),
        ..Filter::default()
    };
    loop {
        let page = reader.select(&filter)?;
        let Some(last) = page.last().and_then(|record| record["id"].as_u64()) else {
            return Ok(());
        };
        filter.after = last;
        page.iter().for_each(&mut visit);
    }
}

/// The newest records since a time within the bounds, the newest first, and what is left out.
pub(super) fn newest(
    log: &Path,
    since_us: i64,
    bounds: Bounds,
    mut visit: impl FnMut(&Value),
) -> Result<Option<LeftOut>, ReadError> {
    let reader = Reader::open(log)?;
    let begun = Instant::now();
    let mut filter = Filter {
        since_us: Some(since_us),
        newest: true,
        ..Filter::default()
    };
    let mut looked = 0;
    loop {
        let page = reader.select(&filter)?;
        if page.is_empty() {
            return Ok(None);
        }
        for record in page.iter().rev() {
            let bound = match () {
                () if looked >= bounds.records => "records",
                () if begun.elapsed() >= bounds.time => "time",
                () => {
                    visit(record);
                    looked += 1;
                    filter.before = record["id"].as_u64();
                    continue;
                }
            };
            return Ok(Some(LeftOut {
                records: reader.count(since_us, filter.before)?,
                oldest: filter.before,
                bound,
            }));
        }
    }
}
