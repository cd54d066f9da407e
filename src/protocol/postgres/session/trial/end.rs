//! How a trial ends: held, committed, rolled back, or lost.

use bytes::BytesMut;

use super::super::{Judging, Open, PgSession, What};
use super::{After, Step, Trial};
use crate::protocol::postgres::wire::{self, HEADER_BYTES, WireError};

impl PgSession {
    /// The connection ends: whatever is open at the server ends with it.
    pub(in super::super) fn lose_trial(&mut self) {
        if let Some(trial) = self.trial.take() {
            // Whether a COMMIT that was sent was carried out is not known any more.
            let what = match trial.step {
                Step::End(true) => "LOST",
                _ => "ROLLED BACK",
            };
            self.finish_trial(trial.record, what);
            for after in trial.after {
                match after {
                    After::Release(judging) | After::Again(judging) | After::Refuse(judging, ..) => {
                        self.finish(Open::new(judging.permits, self.now), "LOST");
                    }
                    After::Wait => {}
                }
            }
        }
    }

    pub(super) fn trial_held(&mut self) {
        let Some(trial) = &mut self.trial else {
            return;
        };
        trial.step = Step::Held;
        if let Some((judging, agreed)) = trial.approved.take() {
            let same = (&trial.shown.tag, trial.shown.digest) == (&agreed.0, agreed.1);
            trial.after.push_back(match same {
                true => After::Release(judging),
                false => After::Refuse(
                    judging,
                    "42501",
                    "what it would change is no longer what was approved; send it again".to_owned(),
                ),
            });
            self.end_trial(same);
            return;
        }
        trial.told = true;
        self.previewed = Some(trial.shown.clone());
    }

    /// The transaction is over, one way or the other.
    pub(super) fn trial_ended(&mut self, status: u8) -> Result<(), WireError> {
        let Some(mut trial) = self.trial.take() else {
            return Ok(());
        };
        let for_good = trial.step == Step::End(true) && trial.ended_by.is_none();
        if let Some(error) = &trial.ended_by
            && trial.step == Step::End(false)
        {
            let code = wire::sqlstate(error.get(HEADER_BYTES..).unwrap_or_default());
            tracing::debug!(code, "a trial could not be rolled back in words");
            return Err(WireError::Upstream("a rollback"));
        }
        self.finish_trial(
            trial.record,
            match (for_good, trial.inside) {
                (true, false) => "COMMITTED",
                (true, true) => "LEFT TO ITS TRANSACTION",
                (false, _) => "ROLLED BACK",
            },
        );
        if !trial.told {
            self.previewed = Some(trial.shown.clone());
        }
        if let Some(After::Release(_)) = trial.after.front() {
            let Some(After::Release(judging)) = trial.after.pop_front() else {
                return Ok(());
            };
            return self.release(*trial, judging, status);
        }
        self.follow(*trial);
        Ok(())
    }

    /// What was asked for while the transaction ended.
    pub(super) fn follow(&mut self, mut trial: Trial) {
        // An error that was shown is what was approved, too: what then does something is not.
        let came_out = trial.shown.tag.is_some() || trial.shown.error.is_some();
        if trial.approved.is_none() && came_out && trial.shown.none.is_none() && trial.wanted.look.is_some() {
            let agreed = (trial.shown.tag.clone(), trial.shown.digest);
            self.tried = Some((trial.wanted.clone(), agreed));
        }
        if let Some((judging, _)) = trial.approved.take() {
            let why = "42501";
            let reason = trial
                .shown
                .none
                .or(trial.shown.error.map(|error| error.whole))
                .unwrap_or_default();
            let reason = format!("what was approved can no longer be done as it was tried ({reason})");
            self.refused(judging, why, &reason);
            return;
        }
        for after in trial.after {
            match after {
                After::Wait => {}
                After::Again(judging) => self.try_again(judging),
                After::Refuse(judging, code, reason) => self.refused(judging, code, &reason),
                After::Release(judging) => self.refused(judging, "42501", "it was rolled back"),
            }
        }
    }

    /// Hands the agent the answer that was kept, or the error by which the transaction ended.
    fn release(&mut self, trial: Trial, judging: Judging, status: u8) -> Result<(), WireError> {
        let simple = matches!(judging.what, What::Query { .. });
        self.went_up = true;
        self.permitted(judging);
        self.went_up = false;
        let mut answer = match trial.ended_by {
            Some(error) => BytesMut::from(&error[..]),
            None => trial.kept,
        };
        if simple {
            answer.extend_from_slice(&wire::ready(status));
        }
        // What the server said since stands behind it.
        let rest = std::mem::take(&mut self.down);
        self.read_server(answer.freeze())?;
        self.down = rest;
        Ok(())
    }
}
