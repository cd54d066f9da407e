//! What waits to be written to one side of a connection.

use std::collections::VecDeque;
use std::future::pending;

use bytes::{Buf as _, Bytes};
use tokio::io::{AsyncWriteExt as _, WriteHalf};

use super::Wire;

/// Bytes that may wait for a side before what fills it is no longer read.
pub const QUEUE_BYTES_MAX: usize = 1 << 20;

/// What waits to be written to a side.
#[derive(Default)]
pub(super) struct Queue {
    pieces: VecDeque<Bytes>,
    pub(super) bytes: usize,
    /// Bytes that were written since the start.
    pub(super) written: u64,
    pub(super) unflushed: bool,
}

impl Queue {
    pub(super) fn push(&mut self, piece: Bytes) {
        self.bytes += piece.len();
        self.pieces.push_back(piece);
    }

    fn wrote(&mut self, count: usize) {
        self.bytes -= count;
        self.written += count as u64;
        self.unflushed = true;
        if let Some(front) = self.pieces.front_mut() {
            front.advance(count);
            if front.is_empty() {
                self.pieces.pop_front();
            }
        }
    }

    fn front(&self) -> &[u8] {
        self.pieces.front().map_or(&[], |piece| piece)
    }

    pub(super) fn is_full(&self) -> bool {
        self.bytes >= QUEUE_BYTES_MAX
    }

    /// Writes some, and flushes when that was all; waits for ever if there is neither to do. May be
    /// dropped at any time.
    pub(super) async fn carry(&mut self, io: &mut WriteHalf<Box<dyn Wire>>) -> std::io::Result<()> {
        if self.bytes > 0 {
            let count = io.write(self.front()).await?;
            self.wrote(count);
        } else if !self.unflushed {
            pending::<()>().await;
        }
        if self.bytes == 0 {
            io.flush().await?;
            self.unflushed = false;
        }
        Ok(())
    }
}
