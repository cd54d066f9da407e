//! What became of permitted actions, on its way to the writer: nobody waits for it, so nobody is woken
//! for it while the writer is about to look anyway.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::{Outcome, RecordId};

/// The outcomes that no commit has taken. Their number needs no bound of its own: each belongs to
/// one permitted action.
#[derive(Default)]
pub(super) struct Outcomes(Mutex<Waiting>);

#[derive(Default)]
struct Waiting {
    outcomes: Vec<(RecordId, Outcome)>,
    /// The writer looks without being woken, at its next commit.
    is_awaited: bool,
}

impl Outcomes {
    /// Adds one; whether the writer has to be woken for it.
    #[must_use]
    pub(super) fn add(&self, id: RecordId, outcome: Outcome) -> bool {
        let mut waiting = self.lock();
        waiting.outcomes.push((id, outcome));
        !waiting.is_awaited
    }

    /// The writer is about to rest: whether it has to commit what is here, or, `soon`, will
    /// commit anyway.
    pub(super) fn awaited(&self, soon: bool) -> bool {
        let mut waiting = self.lock();
        waiting.is_awaited = soon || !waiting.outcomes.is_empty();
        waiting.is_awaited
    }

    pub(super) fn take(&self) -> Vec<(RecordId, Outcome)> {
        std::mem::take(&mut self.lock().outcomes)
    }

    /// What could not be committed comes first again.
    pub(super) fn put_back(&self, mut taken: Vec<(RecordId, Outcome)>) {
        let mut waiting = self.lock();
        taken.append(&mut waiting.outcomes);
        waiting.outcomes = taken;
    }

    pub(super) fn len(&self) -> usize {
        self.lock().outcomes.len()
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_writer_that_rests_is_woken_once_and_nothing_is_lost_or_turned_round() {
        let outcomes = Outcomes::default();
        assert!(!outcomes.awaited(false));
        assert!(outcomes.add(RecordId(1), Outcome::default()));
        assert!(outcomes.awaited(false), "what came is waited for");
        assert!(!outcomes.add(RecordId(2), Outcome::default()));
        let taken = outcomes.take();
        assert!(outcomes.awaited(true));
        assert!(!outcomes.add(RecordId(3), Outcome::default()));
        outcomes.put_back(taken);
        let ids: Vec<_> = outcomes.take().iter().map(|(id, _)| id.0).collect();
        assert_eq!(ids, [1, 2, 3]);
        assert!(!outcomes.awaited(false));
    }
}
