//! The steps of a trial: what is sent for each, and what the server says to it.

use bytes::{Bytes, BytesMut};

use super::super::{PgSession, What};
use super::sampled::Sampled;
use super::{ANSWER_BYTES_MAX, APART, After, SAMPLE_COLUMNS_MAX, Step, Trial, VALUE_BYTES_MAX};
use crate::protocol::postgres::own::{self, Own};
use crate::protocol::postgres::wire::{self, HEADER_BYTES, WireError};
use crate::protocol::{Output, Side};
use crate::verdict::Digest;

/// `serialization_failure`.
const SERIALIZATION_FAILURE: &str = "40001";

impl PgSession {
    /// Reads what the server says to a trial.
    pub(in super::super) fn read_trial(&mut self, bytes: &Bytes) -> Result<(), WireError> {
        self.down.extend_from_slice(bytes);
        loop {
            let skipped = self.trial_skip.min(self.down.len());
            let _ = self.down.split_to(skipped);
            self.trial_skip -= skipped;
            let head = wire::head(&self.down).map_err(|()| WireError::Upstream("length"))?;
            let Some((tag, total)) = head.filter(|(_, total)| self.down.len() >= *total) else {
                match (head, &mut self.trial) {
                    (Some((b'D', total)), Some(trial)) if total > wire::SERVER_MESSAGE_BYTES_MAX => {
                        self.trial_skip = total;
                        trial.failed = Some("its rows are too long to be held back".to_owned());
                        continue;
                    }
                    (Some((_, total)), _) if total > wire::SERVER_MESSAGE_BYTES_MAX => {
                        return Err(WireError::LongAnswer);
                    }
                    _ => return Ok(()),
                }
            };
            let message = self.down.split_to(total).freeze();
            if self.trial.is_none() {
                // What came behind its end is the agent's.
                let rest = std::mem::take(&mut self.down).freeze();
                return self.read_server([message, rest].concat().into());
            }
            self.trial_message(tag, message)?;
        }
    }

    fn trial_message(&mut self, tag: u8, message: Bytes) -> Result<(), WireError> {
        let payload = message.slice(HEADER_BYTES..);
        if tag == b'S' {
            self.setting(&payload)?;
        }
        let Some(trial) = &mut self.trial else {
            return Ok(());
        };
        if tag == b'Z' {
            let [status] = payload[..] else {
                return Err(WireError::Upstream("ready"));
            };
            return self.trial_ready(status);
        }
        if tag == b'A' || trial.step == Step::Held {
            // Notifications and words of the server that belong to no statement.
            return match tag {
                b'A' | b'N' | b'S' | b'E' => {
                    self.out.push_back(Output::Write(Side::Agent, message));
                    Ok(())
                }
                _ => Err(WireError::Upstream("an answer to nothing")),
            };
        }
        trial.take(tag, message, &payload);
        Ok(())
    }

    fn trial_ready(&mut self, status: u8) -> Result<(), WireError> {
        let Some(trial) = &mut self.trial else {
            return Ok(());
        };
        if let Step::End(_) = trial.step {
            self.status = status;
            return self.trial_ended(status);
        }
        if trial.step == Step::Run && trial.failed.is_none() {
            trial.has_run();
        }
        let stopped = trial.stop.clone().or_else(|| trial.failed.clone());
        let next = match trial.step {
            // A sample that fails is none; what fails for good fails again below.
            Step::Sample => Some(Step::Undo),
            _ if stopped.is_some() || status != b'T' => None,
            Step::Open if trial.wanted.look.is_none() => Some(Step::Explain),
            Step::Open if trial.sees_others() && !trial.inside => Some(Step::Anew),
            Step::Open if trial.sees_others() && trial.wanted.sample.is_some() => {
                trial.shown.note = Some(APART);
                Some(Step::Run)
            }
            Step::Open | Step::Anew if trial.wanted.sample.is_some() => Some(Step::Sample),
            Step::Open | Step::Anew | Step::Undo => Some(Step::Run),
            Step::Run => Some(Step::Held),
            _ => None,
        };
        match next {
            Some(Step::Held) => self.trial_held(),
            Some(step) => {
                trial.step = step;
                if trial.failed.take().is_some() {
                    // Half a sample is none.
                    trial.shown.rows.clear();
                    trial.shown.columns.clear();
                    trial.sampled = Sampled::default();
                }
                let bytes = self.step_bytes(step);
                self.send_up(bytes);
            }
            None => {
                if trial.step != Step::Explain {
                    trial.shown.none = stopped.filter(|_| trial.shown.error.is_none());
                }
                trial.after.push_back(After::Wait);
                self.end_trial(false);
            }
        }
        Ok(())
    }

    fn step_bytes(&self, step: Step) -> Bytes {
        let Some(trial) = &self.trial else {
            return Bytes::new();
        };
        let variant = |text: &str| match &self.held {
            Some(held) => {
                let named = own::statement_name(&held.bind);
                let prepared = named.and_then(|name| self.statements.get(&name));
                let types = prepared.map_or(&[][..], |prepared| &prepared.types);
                own::variant(text, &held.bind, types)
            }
            None => Own::Simple.texts(&[text]),
        };
        match step {
            Step::Sample => variant(trial.wanted.sample.as_deref().unwrap_or_default()),
            Step::Explain => variant(trial.wanted.explain.as_deref().unwrap_or_default()),
            Step::Anew => self.own().texts(&["ROLLBACK", own::BEGIN_FIXED, own::SAVEPOINT]),
            Step::Undo => self.own().texts(&[own::UNDO]),
            _ => self.exact(),
        }
    }

    /// The agent's own messages.
    fn exact(&self) -> Bytes {
        let approved = self.trial.as_ref().and_then(|trial| trial.approved.as_ref());
        let judging = self.judging.as_ref().or(approved.map(|(judging, _)| judging));
        match (judging.map(|judging| &judging.what), &self.held) {
            (Some(What::Query { message, .. }), _) => message.clone(),
            (Some(What::Execute { message, .. }), Some(held)) => {
                let sync = wire::message(b'S', &[]);
                let parts = std::iter::once(&held.bind).chain(&held.describes);
                parts
                    .chain([message, &sync])
                    .fold(BytesMut::new(), |mut all, part| {
                        all.extend_from_slice(part);
                        all
                    })
                    .freeze()
            }
            _ => Bytes::new(),
        }
    }
}

impl Trial {
    /// Whether each statement of the transaction sees what others have committed by then.
    fn sees_others(&self) -> bool {
        !matches!(self.isolation.as_str(), "repeatable read" | "serializable")
    }

    /// The statement itself has run.
    fn has_run(&mut self) {
        if self.kept.len() > ANSWER_BYTES_MAX {
            self.failed = Some("its answer is too long to be held back".to_owned());
        } else if self.sampled.tag.is_some() && self.sampled.tag != self.shown.tag {
            self.failed = Some("it does not do the same twice".to_owned());
        } else {
            self.shown.digest = self.sampled.digest();
        }
    }

    /// One message of a step, but for its end.
    fn take(&mut self, tag: u8, message: Bytes, payload: &Bytes) {
        if tag == b'E' {
            let said = own::said(payload);
            match self.step {
                Step::End(_) => self.ended_by = Some(message),
                // By the isolation that is the gateway's, not the agent's.
                Step::Run if said.code == SERIALIZATION_FAILURE && self.sees_others() && !self.inside => {
                    self.failed = Some("others change the same rows at this time".to_owned());
                }
                Step::Run => {
                    self.failed = Some(said.whole.clone());
                    self.shown.error = Some(said);
                }
                _ => self.failed = Some(said.whole),
            }
            return;
        }
        match (self.step, tag) {
            (Step::Open, b'D') => {
                // The look's one row; the other statements have none.
                let mut said = own::row(payload, 2, VALUE_BYTES_MAX).into_iter().flatten();
                self.failed = said.next().filter(|why| !why.is_empty());
                self.isolation = said.next().unwrap_or_default();
            }
            (Step::Explain, b'D') => {
                let plan = own::row(payload, 1, ANSWER_BYTES_MAX).pop().flatten();
                self.shown.plan = plan;
            }
            (Step::Sample, b'T') => {
                self.shown.columns = own::columns(payload, SAMPLE_COLUMNS_MAX);
                self.sampled.columns = Some(Digest::of(payload));
            }
            (Step::Sample, b'D') => {
                self.sampled.row(payload);
                if self.shown.rows.len() < self.wanted.sample_rows_max {
                    let row = own::row(payload, SAMPLE_COLUMNS_MAX, VALUE_BYTES_MAX);
                    self.shown.rows.push(row);
                }
            }
            (Step::Sample, b'C') => self.sampled.tag = Some(own::tag(payload)),
            (Step::Run, tag) => {
                if tag == b'C' {
                    self.shown.tag = Some(own::tag(payload));
                }
                if self.kept.len() <= ANSWER_BYTES_MAX {
                    self.kept.extend_from_slice(&message);
                }
            }
            _ => {}
        }
    }
}
