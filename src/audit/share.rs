//! What the records of one agent may take of the queue before the log's writer: whoever asks for more than is written
//! waits for its own, and keeps neither others waiting nor the memory.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};

use super::Record;

/// Parts that the waiting records of one agent take at most; a record takes at least one.
pub const PARTS_PER_AGENT_MAX: usize = 1024;
/// Bytes of a record that are a part.
pub const PART_BYTES: usize = 16 << 10;

/// Who has records waiting.
#[derive(Clone, Default)]
pub(super) struct Shares(Arc<Mutex<HashMap<String, Arc<Semaphore>>>>);

/// A record's parts, given back when dropped.
pub(super) struct Share {
    shares: Shares,
    agent: String,
    parts: Option<OwnedSemaphorePermit>,
}

impl Shares {
    /// Waits until the agent's other records leave room for this one.
    pub(super) async fn take(&self, record: &Record) -> Result<Share, AcquireError> {
        let agent = format!("{}/{}", record.transport, record.node);
        let own = {
            let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let new = || Arc::new(Semaphore::new(PARTS_PER_AGENT_MAX));
            all.entry(agent.clone()).or_insert_with(new).clone()
        };
        // Made before the wait, which may end with whoever waits.
        let mut share = Share {
            shares: self.clone(),
            agent,
            parts: None,
        };
        share.parts = Some(own.acquire_many_owned(parts(record)).await?);
        Ok(share)
    }
}

/// How many parts a record takes.
fn parts(record: &Record) -> u32 {
    let detail = record.detail.as_ref().map_or(0, String::len);
    let bytes = record.facts.as_str().len() + record.summary.len() + record.reason.len() + detail;
    u32::try_from((1 + bytes / PART_BYTES).min(PARTS_PER_AGENT_MAX)).unwrap_or(1)
}

impl Drop for Share {
    fn drop(&mut self) {
        self.parts = None;
        let mut all = self.shares.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Nobody has or waits for any of it.
        if all
            .get(&self.agent)
            .is_some_and(|own| Arc::strong_count(own) == 1)
        {
            all.remove(&self.agent);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(node: &str, bytes: usize) -> Record {
        let mut record = Record::note("test", "x".repeat(bytes), serde_json::Value::Null);
        record.node = node.to_owned();
        record
    }

    #[tokio::test]
    async fn an_agents_records_wait_for_its_own() {
        let shares = Shares::default();
        let half = PARTS_PER_AGENT_MAX / 2 * PART_BYTES;
        let one = shares.take(&record("one", half)).await.unwrap();
        let small = shares.take(&record("one", 1)).await.unwrap();
        let large = record("one", half);
        let mut waits = Box::pin(shares.take(&large));
        assert!(futures_util::poll!(&mut waits).is_pending());
        // Another agent's has its place, however large.
        let other = shares.take(&record("two", half * 4)).await.unwrap();
        drop(one);
        let large = waits.await.unwrap();
        drop((small, large, other));
        assert!(shares.0.lock().unwrap().is_empty());
        // Who stops waiting leaves nothing behind.
        let all = shares.take(&record("one", half * 2)).await.unwrap();
        let more = record("one", 1);
        let mut waits = Box::pin(shares.take(&more));
        assert!(futures_util::poll!(&mut waits).is_pending());
        drop(all);
        drop(waits);
        assert!(shares.0.lock().unwrap().is_empty());
    }
}
