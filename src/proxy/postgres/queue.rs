//! What waits to be written to one side of a connection.

use std::collections::VecDeque;
use std::future::pending;
use std::io::IoSlice;

use bytes::{Buf as _, Bytes};
use tokio::io::{AsyncWriteExt as _, WriteHalf};

use super::Wire;

/// Bytes that may wait for a side before what fills it is no longer read.
pub const QUEUE_BYTES_MAX: usize = 1 << 20;

/// Pieces that are written by one call, at most: a run of a prepared statement is four messages.
const PIECES_AT_ONCE_MAX: usize = 16;

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

    fn wrote(&mut self, mut count: usize) {
        self.bytes -= count;
        self.written += count as u64;
        self.unflushed = true;
        while let Some(front) = self.pieces.front_mut() {
            let here = count.min(front.len());
            front.advance(here);
            count -= here;
            if !front.is_empty() {
                break;
            }
            self.pieces.pop_front();
        }
    }

    async fn write(&self, io: &mut WriteHalf<Box<dyn Wire>>) -> std::io::Result<usize> {
        let mut slices = [IoSlice::new(&[]); PIECES_AT_ONCE_MAX];
        let pieces = slices.iter_mut().zip(&self.pieces);
        let count = pieces.map(|(slice, piece)| *slice = IoSlice::new(piece)).count();
        io.write_vectored(slices.get(..count).unwrap_or_default()).await
    }

    pub(super) fn is_full(&self) -> bool {
        self.bytes >= QUEUE_BYTES_MAX
    }

    /// Writes some, and flushes when that was all; waits for ever if there is neither to do. May be
    /// dropped at any time.
    pub(super) async fn carry(&mut self, io: &mut WriteHalf<Box<dyn Wire>>) -> std::io::Result<()> {
        if self.bytes > 0 {
            let count = self.write(io).await?;
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

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, split};
    use tokio::net::UnixStream;

    use super::*;

    #[tokio::test]
    async fn pieces_go_by_few_writes_and_in_their_order() {
        let (near, mut far) = UnixStream::pair().unwrap();
        let near: Box<dyn Wire> = Box::new(near);
        let (_reads, mut writes) = split(near);
        let mut queue = Queue::default();
        let mut all = Vec::new();
        for number in 0..2 * PIECES_AT_ONCE_MAX + 1 {
            let piece = vec![u8::try_from(number).unwrap(); number + 1];
            all.extend_from_slice(&piece);
            queue.push(piece.into());
        }
        let mut times = 0;
        while queue.bytes > 0 {
            queue.carry(&mut writes).await.unwrap();
            times += 1;
        }
        assert_eq!(times, 3);
        assert_eq!((queue.written, queue.unflushed), (all.len() as u64, false));
        let mut came = vec![0; all.len()];
        far.read_exact(&mut came).await.unwrap();
        assert_eq!(came, all);
    }

    #[test]
    fn a_write_may_end_anywhere() {
        for cut in 0..=6 {
            let mut queue = Queue::default();
            for piece in ["ab", "", "c", "def"] {
                queue.push(piece.into());
            }
            queue.wrote(cut);
            let left: Vec<u8> = queue.pieces.iter().flatten().copied().collect();
            assert_eq!((left.as_slice(), queue.bytes), (&b"abcdef"[cut..], 6 - cut));
        }
    }
}
