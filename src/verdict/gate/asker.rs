//! What helps people to judge who asks: what the agent of a question did of late, and how questions like it
//! were decided.
//!
//! It stands beside the question: nothing here is bound by a decision, and it is another a moment later.

use std::time::Duration;

use serde::Serialize;

use super::Gate;
use crate::audit::activity::Latest;
use crate::audit::read::{ReadError, Reader};
use crate::state::{StateError, now_us};
use crate::verdict::approval::Alike;

/// How far back an agent's actions are told.
const BACK: Duration = Duration::from_secs(3600);

/// What an agent did, and questions like its own.
#[derive(Clone, Debug, Serialize, schemars::JsonSchema)]
pub struct Asker {
    /// Unix time, microseconds: actions since then are told.
    pub since_us: i64,
    pub did: Latest,
    pub alike: Alike,
}

/// It could not be read.
#[derive(Debug, thiserror::Error)]
pub enum AskerError {
    #[error(transparent)]
    State(#[from] StateError),
    #[error(transparent)]
    Audit(#[from] ReadError),
}

impl Gate {
    /// Of the agent of a question; `None` where there is none with this number.
    ///
    /// # Errors
    /// The state or the audit log cannot be read.
    pub async fn asker(&self, id: i64) -> Result<Option<Asker>, AskerError> {
        let held = self.queue.show(id).await?;
        let alike = self.queue.alike(id).await?;
        let (Some(held), Some(alike)) = (held, alike) else {
            return Ok(None);
        };
        let since_us = now_us().saturating_sub(i64::try_from(BACK.as_micros()).unwrap_or(i64::MAX));
        self.audit_written().await;
        let path = self.log.path().to_owned();
        let read = move || {
            let (node, transport) = held.asker();
            Reader::open(&path)?.latest(node, transport.name(), since_us)
        };
        let read = tokio::task::spawn_blocking(read).await;
        let did = read.map_err(|_| StateError::Cancelled)??;
        Ok(Some(Asker { since_us, did, alike }))
    }
}
