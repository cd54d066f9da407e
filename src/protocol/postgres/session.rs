//! The session after start-up: what the agent may send, and in which order answers stand.
//!
//! [`super::mod`](super) lists the invariants. The agent's messages are worked off one by one in
//! [`agent`], which leaves Query to [`query`] and the extended protocol to [`extended`]; what names
//! mean is kept in [`names`]; what the server says is followed in [`server`], so that each answer
//! finds the message it belongs to in [`awaited`].
//!
//! A portal is judged once: where its Bind stands alone, then, else at its first Execute. To read on after PortalSuspended
//! is the same action, under the same permit and in the same record, which is finished when the portal is. The digest is
//! over the text and the Bind; how many rows are fetched at a time is not judged.

mod agent;
mod awaited;
mod extended;
mod names;
mod query;
mod server;
mod trial;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use bytes::{Bytes, BytesMut};

use super::statement::{Grammar, Seen, Statement};
use super::wire::{self, WireError};
use crate::audit::RecordId;
use crate::facts::Facts;
use crate::facts::sql::path::SearchPath;
use crate::protocol::{Output, Side};
use crate::verdict::{Action, Cause, Digest, Permit, Refusal, Step};

use awaited::{Awaited, Kind, Open};
pub use extended::DESCRIBES_MAX;
use names::{Kept, Portal, Prepared};
pub use query::REREADS_REASON;
pub use trial::{ANSWER_BYTES_MAX, ROWS_COMPARED_MAX, SAMPLE_COLUMNS_MAX, Shown, VALUE_BYTES_MAX, Wanted};

/// What a session is handed at its start.
#[derive(Clone)]
pub struct Config {
    pub grammar: Arc<dyn Grammar>,
    /// The endpoint's key.
    pub endpoint: Arc<str>,
    pub credential: Option<Arc<str>>,
    /// Bytes of one message of the agent that is not COPY data.
    pub message_bytes_max: usize,
    /// Bytes of one text of SQL.
    pub statement_bytes_max: usize,
    /// Prepared statements that are kept in mind, named and unnamed; as many portals.
    pub statements_max: usize,
    /// Bytes of prepared statements that are kept in mind; as many of portals' parameters.
    pub prepared_bytes_max: usize,
    /// Where a denial says that the agent is told what it may reach.
    pub help: String,
}

/// A Bind that waits for its Execute, with the Describes between.
struct Held {
    name: String,
    portal: Portal,
    bind: Bytes,
    describes: Vec<Bytes>,
}

/// What the gate is being asked.
struct Judging {
    what: What,
    digest: Digest,
    permits: Vec<RecordId>,
}

enum What {
    /// The statements of a Query, and which of them is asked for.
    Query {
        message: Bytes,
        digest: Digest,
        statements: Arc<[Statement]>,
        at: usize,
    },
    /// The held Bind alone.
    Bind,
    /// An Execute of a portal, which may be the held one.
    Execute {
        message: Bytes,
        name: String,
        statement: Option<Arc<Statement>>,
    },
    Function {
        message: Bytes,
    },
}

/// The state machine of one session.
pub struct PgSession {
    config: Config,
    out: VecDeque<Output>,
    now: Instant,
    up: BytesMut,
    /// Bytes of the agent's CopyData that are still to come, and whether they are dropped.
    up_rest: usize,
    up_drop: bool,
    front: Option<Bytes>,
    down: BytesMut,
    down_rest: usize,
    awaited: VecDeque<Awaited>,
    /// The transaction state of the server's last ReadyForQuery.
    status: u8,
    segment: u64,
    /// Whether messages went up since the last Sync, and whether an Execute is among them.
    unsynced: bool,
    executed: bool,
    flushed: bool,
    skipping: bool,
    copy_in: bool,
    statements: Kept<Prepared>,
    portals: Kept<Portal>,
    /// Where names without a schema may be looked up.
    path: SearchPath,
    held: Option<Held>,
    judging: Option<Judging>,
    trial: Option<Box<trial::Trial>>,
    previewed: Option<Shown>,
    /// A trial of what is being judged that was rolled back before its ruling, and its tag.
    tried: Option<(Wanted, trial::Agreed)>,
    /// What is said to go up was sent by the trial already.
    went_up: bool,
    /// Bytes of a long row of a trial that are still to come.
    trial_skip: usize,
    next_id: u64,
    closed: bool,
}

impl PgSession {
    /// What the gateway itself answers: no, or why it does not read something.
    fn says(&self, code: &str, reason: &str) -> Bytes {
        match code {
            wire::DENIED => wire::denial("ERROR", reason, &self.config.help),
            _ => wire::error("ERROR", code, reason),
        }
    }

    /// A session whose server has said that it is ready.
    pub fn new(config: Config, status: u8, now: Instant) -> Self {
        PgSession {
            config,
            out: VecDeque::new(),
            now,
            up: BytesMut::new(),
            up_rest: 0,
            up_drop: false,
            front: None,
            down: BytesMut::new(),
            down_rest: 0,
            awaited: VecDeque::new(),
            status,
            segment: 0,
            unsynced: false,
            executed: false,
            flushed: false,
            skipping: false,
            copy_in: false,
            statements: Kept::default(),
            portals: Kept::default(),
            path: SearchPath::default(),
            held: None,
            judging: None,
            trial: None,
            previewed: None,
            tried: None,
            went_up: false,
            trial_skip: 0,
            next_id: 0,
            closed: false,
        }
    }

    /// The session, with the `search_path` that it starts with.
    #[must_use]
    pub fn with_path(mut self, path: SearchPath) -> Self {
        self.path = path;
        self
    }

    /// Takes bytes that a side sent. What the agent sent waits for [`PgSession::advance`].
    ///
    /// # Errors
    /// They break the protocol or a limit; the connection must be closed.
    pub fn handle_input(&mut self, from: Side, bytes: Bytes, now: Instant) -> Result<(), WireError> {
        self.now = now;
        match from {
            Side::Agent => self.up.extend_from_slice(&bytes),
            Side::Upstream => self.read_server(bytes)?,
        }
        Ok(())
    }

    /// Works off what the agent has sent, as far as may be now. Says whether more is left only
    /// because there is much to do already: the driver carries that out and calls again, once
    /// there is room for more.
    ///
    /// # Errors
    /// As [`PgSession::handle_input`].
    pub fn advance(&mut self, now: Instant) -> Result<bool, WireError> {
        self.now = now;
        self.pump()
    }

    /// Takes the gate's answer to the last [`Output::Decide`].
    pub fn handle_ruling(&mut self, ruling: Result<Permit, Refusal>, now: Instant) {
        self.now = now;
        let Some(mut judging) = self.judging.take() else {
            return;
        };
        match ruling {
            Ok(permit) => {
                judging.permits.push(permit.record());
                if self.skipping || self.closed {
                    self.finish(Open::new(judging.permits, now), "SKIPPED");
                    self.held = None;
                } else if permit.covers(&judging.digest) {
                    match self.trial.is_some() {
                        true => self.trial_permitted(judging),
                        false => self.try_again(judging),
                    }
                } else {
                    self.refused(judging, "42501", "the permit is for something else");
                }
            }
            Err(refusal) => self.refused(judging, "42501", &refusal.reason),
        }
    }

    /// The agent cancelled what is being judged. Nothing happens if nothing is.
    pub fn cancel_judging(&mut self, now: Instant) {
        self.now = now;
        if let Some(judging) = self.judging.take() {
            self.refused(judging, "57014", "canceling statement due to user request");
        }
    }

    /// The connection has ended: what is still open gets its outcome. Nothing may follow.
    pub fn end(&mut self, now: Instant) {
        self.now = now;
        self.closed = true;
        if let Some(judging) = self.judging.take() {
            self.finish(Open::new(judging.permits, now), "NOT SENT");
        }
        self.lose_trial();
        while let Some(awaited) = self.awaited.pop_front() {
            self.finish(awaited.open, "LOST");
        }
        self.drop_portals(|_, _| true);
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.out.pop_front()
    }

    /// Whether [`PgSession::poll_output`] has something.
    pub fn has_output(&self) -> bool {
        !self.out.is_empty()
    }

    /// Whether more of the agent is wanted now.
    pub fn wants_agent(&self) -> bool {
        !self.closed && self.up.len() <= self.config.message_bytes_max
    }

    /// Bytes that are held in memory for the session, about: what was read and is not worked off, what
    /// is being judged, what names mean.
    pub fn kept_bytes(&self) -> usize {
        let judged = self.judging.as_ref().map_or(0, |judging| match &judging.what {
            What::Query { message, .. } | What::Execute { message, .. } | What::Function { message } => {
                message.len()
            }
            What::Bind => 0,
        });
        let front = self.front.as_ref().map_or(0, Bytes::len);
        let held = self.held.as_ref().map_or(0, |held| held.bind.len());
        let names = FACTS_PER_TEXT * self.statements.bytes() + self.portals.bytes();
        self.up.len() + self.down.len() + front + held + judged + names + self.trial_bytes()
    }

    /// Whether the gate is being asked.
    pub fn is_judging(&self) -> bool {
        self.judging.is_some()
    }

    /// Whether a Terminate stands behind what is being judged: the agent does not wait for it.
    pub fn is_abandoned(&self) -> bool {
        let mut rest: &[u8] = &self.up;
        while let Ok(Some((tag, total))) = wire::head(rest) {
            if tag == b'X' {
                return true;
            }
            let Some(behind) = rest.get(total..) else {
                return false;
            };
            rest = behind;
        }
        false
    }

    /// The transaction state that the server said last.
    pub fn status(&self) -> u8 {
        self.status
    }

    fn send_up(&mut self, bytes: Bytes) {
        if self.went_up {
            return;
        }
        self.flushed = false;
        self.out.push_back(Output::Write(Side::Upstream, bytes));
    }

    /// Asks the gate about one statement. The digest is over the messages that will be sent.
    fn decide(&mut self, what: What, permits: Vec<RecordId>, text: &str, facts: Facts, digest: Digest) {
        let mut detail = text.to_owned();
        if let Facts::Sql(facts) = &facts {
            if facts.statement.takes_rows {
                detail.push_str(ROWS_UNSEEN);
            }
            // Whether or not it is permitted and succeeds: the lists say what names may mean.
            self.path.apply(&facts.statement.path, &facts.user);
            self.path.apply_roles(&facts.statement.roles);
        }
        let mut summary: String = text.chars().take(SUMMARY_CHARS_MAX).collect();
        if text.chars().nth(SUMMARY_CHARS_MAX).is_some() {
            // What is decided on may stand behind a long comment.
            summary.push_str(&format!(" … (of {} characters)", text.chars().count()));
        }
        self.tried = None;
        self.judging = Some(Judging {
            what,
            digest,
            permits,
        });
        self.out.push_back(Output::Decide(Box::new(Action {
            step: Step::Request,
            endpoint: self.config.endpoint.clone(),
            credential: self.config.credential.clone(),
            whole: !matches!(&facts, Facts::Sql(own) if own.parameters.seen == Seen::Nowhere),
            facts,
            digest,
            summary: summary.split_whitespace().collect::<Vec<_>>().join(" "),
            detail,
        })));
    }

    /// Something that the protocol itself forbids; it is recorded by the driver.
    fn note_refusal(&mut self, text: &str, reason: &str) {
        let refusal = Refusal::new(Cause::Malformed, reason);
        self.out.push_back(Output::Refused(query::begins(text), refusal));
    }

    /// Makes the server fail here, with our error in the place of its own.
    fn fail_segment(&mut self, error: Bytes) {
        self.held = None;
        self.send_up(wire::failing_parse());
        self.await_answer(Kind::Refused).error = Some(error);
        self.skipping = true;
    }

    /// Refuses a Query or a function call. With nothing before it and no transaction open the
    /// server need not know; else it fails there, as it would have on its own.
    fn fail_query(&mut self, error: Bytes) {
        if self.awaited.is_empty() && !self.unsynced && self.status != b'T' {
            self.out.push_back(Output::Write(Side::Agent, error));
            self.out
                .push_back(Output::Write(Side::Agent, wire::ready(self.status)));
            return;
        }
        self.fail_segment(error);
        self.skipping = false;
        self.send_up(wire::message(b'S', &[]));
        self.await_answer(Kind::Sync);
    }
}

/// Messages that may be sent ahead of the server's answers; then the agent has to wait.
pub const AWAITED_MAX: usize = 4096;

/// Things to do at a time, before the driver does them.
pub const OUTPUTS_MAX: usize = 1024;

/// Bytes that a prepared statement's facts are taken to need for each byte of its text: every name is
/// a text of its own.
const FACTS_PER_TEXT: usize = 8;

/// What an approver is told of COPY … FROM STDIN: they decide on the statement alone.
const ROWS_UNSEEN: &str =
    "\n-- NOT SHOWN: the rows that follow. Whoever approves this approves whatever rows are sent.";

/// Characters of a statement in the one-line summary.
pub const SUMMARY_CHARS_MAX: usize = 200;
