//! A held data change, tried in a transaction of the agent's own session before anyone approved it.
//!
//! The server is led by steps, each of which ends with a ReadyForQuery that the agent never sees: a
//! transaction (or a savepoint, where the agent has one open) is begun, the catalogs are asked whether
//! anything would run that a rollback does not undo, a variant with RETURNING gives a sample and is
//! rolled back, and then the agent's exact message runs. Its answer is kept here. It is released only
//! after the COMMIT (or the RELEASE) that follows the permit; without, the transaction is rolled back.
//!
//! The sample and the agent's message must see the same rows: a transaction of the gateway's is at
//! REPEATABLE READ at least, and in one of the agent's at READ COMMITTED no sample is taken. All rows of
//! a sample are in one digest, which is shown, and so agreed to.
//!
//! Invariants: nothing of a trial is committed without a permit for the same bytes; the agent sees no
//! byte of it before; an early rollback leaves the question as it is, and its yes tries once more and
//! commits only what has the same tag and the same rows.

mod end;
mod sampled;
mod steps;

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

pub use self::sampled::ROWS_COMPARED_MAX;
use self::sampled::Sampled;
use super::{Judging, Kind, PgSession, What};
use crate::audit::{Outcome, RecordId};
use crate::protocol::Output;
use crate::protocol::postgres::own::{self, Own, ServerError};
use crate::protocol::postgres::wire::{self, HEADER_BYTES};
use crate::verdict::{Digest, Permit};

/// Bytes of an answer that are kept for the agent while its statement is held; a longer one is not tried.
pub const ANSWER_BYTES_MAX: usize = 1 << 20;
/// Bytes of a value in a sample.
pub const VALUE_BYTES_MAX: usize = 200;
/// Columns in a sample.
pub const SAMPLE_COLUMNS_MAX: usize = 100;
/// Shown in the place of rows that could not be read as the change sees them.
const APART: &str =
    "in a transaction at READ COMMITTED the rows may be others by the time of the change; none are shown";

/// What is wanted of a trial.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// The query of the catalogs; without it, nothing but `explain` is run.
    pub look: Option<String>,
    /// The statement with its rows returned.
    pub sample: Option<String>,
    /// The statement behind EXPLAIN.
    pub explain: Option<String>,
    pub sample_rows_max: usize,
}

/// What a trial showed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Shown {
    /// Why nothing was tried, or why it was rolled back at once.
    pub none: Option<String>,
    /// The server's word for what was done: `DELETE 3`.
    pub tag: Option<String>,
    /// Of all rows that are changed, in any order; none where that is not known.
    pub digest: Option<Digest>,
    /// The server's error, if the statement fails.
    pub error: Option<ServerError>,
    /// What people should know beside it.
    pub note: Option<&'static str>,
    pub columns: Vec<String>,
    pub rows: Vec<Vec<Option<String>>>,
    /// The plan, as EXPLAIN (FORMAT JSON) says it.
    pub plan: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Open,
    /// Begun anew, so that what follows sees the same rows.
    Anew,
    Explain,
    Sample,
    Undo,
    Run,
    /// Nothing goes on; the statement has run.
    Held,
    /// The transaction ends; `true` is for good.
    End(bool),
}

/// What follows the end of the transaction.
enum After {
    /// The question is still open.
    Wait,
    Release(Judging),
    Refuse(Judging, &'static str, String),
    /// It is tried once more.
    Again(Judging),
}

pub(super) struct Trial {
    wanted: Wanted,
    /// The record of the trial, until its outcome is known; none of its own for a second run.
    record: Option<RecordId>,
    step: Step,
    /// The answer to [`Step::Open`] failed, or something in it did.
    failed: Option<String>,
    /// The agent waits for answers to what it sent before.
    waits: bool,
    began: bool,
    /// Whether the agent had a transaction open.
    inside: bool,
    /// Why it is to end as soon as the step does.
    stop: Option<String>,
    shown: Shown,
    /// What the look says of the transaction.
    isolation: String,
    sampled: Sampled,
    kept: BytesMut,
    /// The error of a COMMIT.
    ended_by: Option<Bytes>,
    after: VecDeque<After>,
    /// What was approved, for a second run.
    approved: Option<(Judging, Agreed)>,
    told: bool,
}

/// What people agree to: the tag, and the digest of the rows.
pub(super) type Agreed = (Option<String>, Option<Digest>);

impl PgSession {
    /// Why what is being judged is never tried, as far as the session knows.
    pub fn why_not_tried(&self) -> Option<&'static str> {
        let judging = self.judging.as_ref()?;
        if !matches!(self.status, b'I' | b'T') {
            return Some("its transaction has failed");
        }
        if self.down_rest > 0 || !self.down.is_empty() {
            return Some("the server was speaking");
        }
        match &judging.what {
            What::Query { statements, .. } if statements.len() == 1 => {
                (!self.awaited.is_empty() || self.unsynced).then_some("it stands behind others in a pipeline")
            }
            What::Query { .. } => Some("several statements are sent as one"),
            What::Execute { message, .. } => {
                let whole = message.ends_with(&[0, 0, 0, 0]);
                let alone = !self.executed && wire::head(&self.up) == Ok(Some((b'S', HEADER_BYTES)));
                let waits =
                    |one: &super::Awaited| matches!(one.kind, Kind::Parse | Kind::Describe | Kind::Close);
                match () {
                    () if self.held.is_none() => Some("its portal was made before"),
                    () if !whole => Some("its rows are fetched in parts"),
                    () if !alone || !self.awaited.iter().all(waits) => Some("it is sent in a pipeline"),
                    () => None,
                }
            }
            _ => Some("it is no statement alone"),
        }
    }

    /// Begins a trial of what is being judged. `permit` is the trial's own.
    pub fn try_out(&mut self, wanted: Wanted, permit: &Permit) {
        let covered = self
            .judging
            .as_ref()
            .is_some_and(|own| permit.covers(&own.digest));
        let mut trial = Trial::new(wanted, Some(permit.record()), self.status == b'T');
        if !covered || self.why_not_tried().is_some() || self.trial.is_some() {
            trial.shown.none = Some("it was taken back".to_owned());
            self.previewed = Some(trial.shown);
            self.finish_trial(trial.record, "NOT SENT");
            return;
        }
        trial.waits = !self.awaited.is_empty();
        if trial.waits {
            self.send_up(wire::message(b'H', &[]));
        }
        self.trial = Some(Box::new(trial));
        self.go_on();
    }

    /// A trial that was permitted is not begun.
    pub fn take_back(&mut self, permit: &Permit) {
        self.finish_trial(Some(permit.record()), "NOT SENT");
    }

    /// What the trial showed, once.
    pub fn take_previewed(&mut self) -> Option<Shown> {
        self.previewed.take()
    }

    /// Whether the server works for a trial, so that it can be cancelled there.
    pub fn is_trying(&self) -> bool {
        self.trial.as_ref().is_some_and(|trial| trial.step != Step::Held)
    }

    /// Whether a trial holds a transaction, or is about to.
    pub fn has_trial(&self) -> bool {
        self.trial.is_some()
    }

    /// Ends a trial early: it is rolled back, and the question stays.
    pub fn stop_trial(&mut self, why: &str) {
        let Some(trial) = &mut self.trial else {
            return;
        };
        match trial.step {
            Step::Held => {
                trial.after.push_back(After::Wait);
                self.end_trial(false);
            }
            _ => {
                trial.stop.get_or_insert_with(|| why.to_owned());
            }
        }
    }

    /// The ruling of what is being tried.
    pub(super) fn trial_permitted(&mut self, judging: Judging) {
        let Some(trial) = &mut self.trial else {
            return;
        };
        match trial.step {
            Step::Held => {
                trial.after.push_back(After::Release(judging));
                self.end_trial(true);
            }
            // It is being rolled back, or was never held.
            _ => trial.after.push_back(After::Again(judging)),
        }
    }

    pub(super) fn trial_refused(&mut self, judging: Judging, code: &'static str, reason: &str) {
        let Some(trial) = &mut self.trial else {
            return;
        };
        trial
            .after
            .push_back(After::Refuse(judging, code, reason.to_owned()));
        match trial.step {
            Step::Held => self.end_trial(false),
            _ => {
                trial.stop.get_or_insert_with(String::new);
            }
        }
    }

    /// A trial ended early and was approved: once more, and for good if it does the same.
    pub(super) fn try_again(&mut self, judging: Judging) {
        let Some((wanted, agreed)) = self.tried.take() else {
            self.permitted(judging);
            return;
        };
        if let (Some(_), None) = &agreed {
            // It was done, and whether the same would be done again cannot be told.
            let reason =
                "it was not held open until it was approved, and its rows cannot be compared; send it again";
            self.refused(judging, "42501", reason);
            return;
        }
        let mut trial = Trial::new(wanted, None, self.status == b'T');
        trial.told = true;
        trial.approved = Some((judging, agreed));
        self.trial = Some(Box::new(trial));
        self.go_on();
    }

    /// Bytes that a trial keeps.
    pub(super) fn trial_bytes(&self) -> usize {
        let bytes = |trial: &Trial| trial.kept.len() + trial.sampled.bytes();
        self.trial.as_deref().map_or(0, bytes)
    }

    /// Whether what the server says now belongs to a trial.
    pub(super) fn is_led_by_trial(&self) -> bool {
        self.trial.as_ref().is_some_and(|trial| !trial.waits)
    }

    fn finish_trial(&mut self, record: Option<RecordId>, status: &str) {
        let Some(record) = record else {
            return;
        };
        let outcome = Outcome {
            status: status.to_owned(),
            ..Outcome::default()
        };
        self.out.push_back(Output::Finish(record, outcome));
    }

    /// Sends the first step, once nothing that the agent sent is unanswered.
    pub(super) fn go_on(&mut self) {
        let Some(trial) = &mut self.trial else {
            return;
        };
        let clear = self.down_rest == 0 && self.down.is_empty();
        if trial.step != Step::Open || trial.began || trial.waits && !(self.awaited.is_empty() && clear) {
            return;
        }
        trial.began = true;
        if self.skipping {
            let shown = Shown {
                none: Some("the server refused what stands before it".to_owned()),
                ..Shown::default()
            };
            self.previewed = Some(shown);
            if let Some(trial) = self.trial.take() {
                self.finish_trial(trial.record, "NOT SENT");
                self.follow(*trial);
            }
            return;
        }
        trial.waits = false;
        let begin = match (trial.inside, trial.wanted.look.is_some()) {
            (true, _) => None,
            (false, true) => Some("BEGIN"),
            (false, false) => Some("BEGIN READ ONLY"),
        };
        let look = trial.wanted.look.clone();
        let mut texts: Vec<&str> = begin.into_iter().collect();
        texts.push(own::SAVEPOINT);
        if let Some(look) = &look {
            texts.extend([own::CATALOG_ONLY, look, own::UNDO]);
        }
        let bytes = self.own().texts(&texts);
        self.send_up(bytes);
    }

    /// How the gateway's own statements are sent beside the agent's.
    fn own(&self) -> Own {
        match &self.held {
            Some(_) => Own::Extended,
            None => Own::Simple,
        }
    }

    fn end_trial(&mut self, for_good: bool) {
        let Some(trial) = &mut self.trial else {
            return;
        };
        trial.step = Step::End(for_good);
        let texts: &[&str] = match (trial.inside, for_good) {
            (false, true) => &["COMMIT"],
            (false, false) => &["ROLLBACK"],
            (true, true) => &[own::RELEASE],
            (true, false) => &[own::UNDO, own::RELEASE],
        };
        let bytes = self.own().texts(texts);
        self.send_up(bytes);
    }
}

impl Trial {
    fn new(wanted: Wanted, record: Option<RecordId>, inside: bool) -> Trial {
        Trial {
            wanted,
            record,
            step: Step::Open,
            failed: None,
            waits: false,
            began: false,
            inside,
            stop: None,
            shown: Shown::default(),
            isolation: String::new(),
            sampled: Sampled::default(),
            kept: BytesMut::new(),
            ended_by: None,
            after: VecDeque::new(),
            approved: None,
            told: false,
        }
    }
}
