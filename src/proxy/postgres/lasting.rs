//! Actions that were permitted and are not over, for the policies that come after them.
//!
//! A COPY, a long answer, a portal that is half read, a cursor or a LISTEN goes on for as long as the
//! agent likes. When a policy comes into force that would not let one of them pass, the connection
//! ends; so does it where that cannot be said, since too much would have to be remembered.

use std::collections::HashMap;
use std::sync::Arc;

use crate::audit::RecordId;
use crate::facts::Facts;
use crate::verdict::{Action, Approved, Permit};

/// Bytes of all actions that are remembered for one connection.
pub const LASTING_BYTES_MAX: usize = 4 << 20;
/// Bytes that an action is taken to need besides its texts.
const ACTION_BYTES: usize = 1 << 10;

/// An action as it was permitted; `None` where it is too large to be remembered.
struct Kept {
    action: Option<Arc<Action>>,
    approved_by: Option<Approved>,
    bytes: usize,
}

/// What of one connection would have to be judged anew.
#[derive(Default)]
pub(super) struct Lasting {
    open: HashMap<RecordId, Kept>,
    /// Cursors and LISTENs, whose statement is over and which are not. When they end is not followed.
    pinned: Vec<Kept>,
    bytes: usize,
}

impl Lasting {
    pub(super) fn begin(&mut self, permit: &Permit, action: Arc<Action>) {
        let parameters = match &action.facts {
            Facts::Sql(facts) => {
                let own = &facts.parameters;
                let known = own.fact.known().map(|list| list.bytes());
                known.or(own.apart().map(size)).unwrap_or_default()
            }
            _ => 0,
        };
        let bytes = ACTION_BYTES + action.detail.len() + parameters;
        let fits = self.bytes + bytes <= LASTING_BYTES_MAX;
        let bytes = if fits { bytes } else { 0 };
        self.bytes += bytes;
        let kept = Kept {
            action: fits.then_some(action),
            approved_by: permit.approved_by().cloned(),
            bytes,
        };
        self.open.insert(permit.record(), kept);
    }

    pub(super) fn end(&mut self, record: RecordId) {
        let Some(kept) = self.open.remove(&record) else {
            return;
        };
        let outlives = |action: &Arc<Action>| match &action.facts {
            Facts::Sql(facts) => matches!(facts.statement.verb.as_str(), "declare" | "listen"),
            _ => false,
        };
        match &kept.action {
            Some(action) if outlives(action) => self.pinned.push(kept),
            _ => self.bytes -= kept.bytes,
        }
    }

    /// The first that `still` refuses.
    pub(super) fn refused<R>(
        &self,
        unknown: impl FnOnce() -> R,
        still: impl Fn(&Action, Option<&Approved>) -> Result<(), R>,
    ) -> Option<R> {
        let mut forgotten = false;
        for kept in self.open.values().chain(&self.pinned) {
            match &kept.action {
                None => forgotten = true,
                Some(action) => {
                    if let Err(refusal) = still(action, kept.approved_by.as_ref()) {
                        return Some(refusal);
                    }
                }
            }
        }
        forgotten.then(unknown)
    }
}

/// About how many bytes a list of texts takes.
fn size(value: &serde_json::Value) -> usize {
    match value {
        serde_json::Value::String(text) => text.len() + size_of::<serde_json::Value>(),
        serde_json::Value::Array(values) => values.iter().map(size).sum(),
        _ => size_of::<serde_json::Value>(),
    }
}
