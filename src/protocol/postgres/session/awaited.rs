//! What went up and is not answered in full, and the outcomes of what was permitted.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;

use super::PgSession;
use crate::audit::{Outcome, RecordId};
use crate::protocol::Output;
use crate::protocol::postgres::statement::Statement;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Parse,
    Bind,
    Describe,
    Close,
    Execute,
    /// A message that must fail, in the place of what was refused.
    Refused,
    Sync,
    Query,
    Function,
}

/// Permits whose outcome is still to come, and what went over the wire for them.
pub(super) struct Open {
    pub(super) permits: VecDeque<RecordId>,
    pub(super) up: u64,
    pub(super) down: u64,
    pub(super) since: Instant,
    /// Whether the server has begun to run it.
    pub(super) begun: bool,
}

impl Open {
    pub(super) fn new(permits: Vec<RecordId>, since: Instant) -> Open {
        Open {
            permits: permits.into(),
            up: 0,
            down: 0,
            since,
            begun: false,
        }
    }
}

/// A message that went up and was not answered in full.
pub(super) struct Awaited {
    pub(super) kind: Kind,
    pub(super) id: u64,
    pub(super) segment: u64,
    pub(super) open: Open,
    /// The portal of an Execute.
    pub(super) portal: Option<String>,
    /// The definition that a Describe is of.
    pub(super) describes: Option<u64>,
    /// What a PREPARE defines once it is done.
    pub(super) prepares: Vec<(String, Arc<Statement>)>,
    /// The last error.
    pub(super) status: String,
    pub(super) failed: bool,
    /// What the agent is told in place of the server's error.
    pub(super) error: Option<Bytes>,
}

impl PgSession {
    pub(super) fn await_answer(&mut self, kind: Kind) -> &mut Awaited {
        let id = self.next_id;
        self.next_id += 1;
        self.awaited.push_back(Awaited {
            kind,
            id,
            segment: self.segment,
            open: Open::new(Vec::new(), self.now),
            portal: None,
            describes: None,
            prepares: Vec::new(),
            status: String::new(),
            failed: false,
            error: None,
        });
        match kind {
            Kind::Sync | Kind::Query | Kind::Function => {
                self.segment += 1;
                self.unsynced = false;
                self.executed = false;
            }
            Kind::Execute => {
                self.unsynced = true;
                self.executed = true;
            }
            _ => self.unsynced = true,
        }
        let last = self.awaited.len() - 1;
        &mut self.awaited[last]
    }

    /// The outcome of everything that is open. The bytes are the first one's.
    pub(super) fn finish(&mut self, mut open: Open, status: &str) {
        while !open.permits.is_empty() {
            self.finish_first(&mut open, status);
        }
    }

    pub(super) fn finish_first(&mut self, open: &mut Open, status: &str) {
        let Some(record) = open.permits.pop_front() else {
            return;
        };
        let took = self.now.saturating_duration_since(open.since);
        let outcome = Outcome {
            status: status.to_owned(),
            bytes_up: std::mem::take(&mut open.up),
            bytes_down: std::mem::take(&mut open.down),
            took_us: u64::try_from(took.as_micros()).unwrap_or(u64::MAX),
        };
        self.out.push_back(Output::Finish(record, outcome));
    }
}
