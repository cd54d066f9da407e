//! What the database has not committed yet, on disk: a group is durable by one write here.
//!
//! A frame is a length, the record's JSON and its link in the chain, which is its checksum as
//! well: a frame that does not follow the chain's end is an older one's remains, and ends the
//! journal. Outcomes are not waited for, and come with a commit alone. Each commit of the database makes the whole
//! journal needless, so the next group is written over it from the start, where the file has its blocks already. A start
//! after a crash, and a database that was opened anew, get from it what they lack.
//!
//! The note of the chain's head is of what is committed: who can stop the gateway and write its
//! folder can take away the last [`super::writer::COMMIT_EVERY_MS`] unseen.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;

use super::row::Hash;

/// Bytes after which the database is to be committed, and that the file keeps at most.
pub(super) const JOURNAL_BYTES_MAX: u64 = 8 << 20;

/// Length of the text; no text has none.
const HEAD_BYTES: usize = 4;

/// A record as its link was computed from it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Frame<'a> {
    pub(super) text: &'a [u8],
    pub(super) hash: Hash,
}

/// The open file; what is before `end` counts.
pub(super) struct Journal {
    file: File,
    end: u64,
}

impl Journal {
    /// Opens or creates it. All that is in the file counts, until the chain says where it ends.
    pub(super) fn open(path: &Path) -> io::Result<Journal> {
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .mode(0o600)
            // A write returns when it is on disk.
            .custom_flags(libc::O_DSYNC)
            .open(path)?;
        // That there is such a file must outlast a power failure, too.
        if let Some(folder) = path.parent() {
            File::open(folder)?.sync_all()?;
        }
        let end = file.metadata()?.len();
        Ok(Journal { file, end })
    }

    /// Returns when the frames are on disk.
    pub(super) fn append(&mut self, frames: &[u8]) -> io::Result<()> {
        let written = self.file.write_all_at(frames, self.end);
        if written.is_err() {
            // Nobody is told of this group: as far as it got there, it must not be found.
            let _ = self.file.write_all_at(&[0; HEAD_BYTES], self.end);
            return written;
        }
        self.end += frames.len() as u64;
        Ok(())
    }

    /// All that counts, to be taken apart by [`frames`].
    pub(super) fn read(&self) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; usize::try_from(self.end).map_err(io::Error::other)?];
        self.file.read_exact_at(&mut bytes, 0)?;
        Ok(bytes)
    }

    /// Whether the database is to be committed soon.
    pub(super) fn is_long(&self) -> bool {
        self.end > JOURNAL_BYTES_MAX
    }

    /// The database has it all.
    pub(super) fn reset(&mut self) {
        if self.is_long()
            && let Err(error) = self.file.set_len(JOURNAL_BYTES_MAX)
        {
            tracing::warn!(%error, "the audit log's journal stays long");
        }
        self.end = 0;
    }
}

/// Adds a frame.
pub(super) fn put(to: &mut Vec<u8>, text: &[u8], hash: &Hash) {
    // A record's facts are bounded, each: it is far from 4 GiB.
    let length = u32::try_from(text.len()).unwrap_or(u32::MAX);
    to.extend_from_slice(&length.to_be_bytes());
    to.extend_from_slice(text);
    to.extend_from_slice(hash);
}

/// The frames up to the first that is none.
pub(super) fn frames(mut bytes: &[u8]) -> impl Iterator<Item = Frame<'_>> {
    std::iter::from_fn(move || {
        let (head, rest) = bytes.split_first_chunk::<HEAD_BYTES>()?;
        let length = usize::try_from(u32::from_be_bytes(*head)).ok()?;
        let (text, rest) = rest.split_at_checked(length).filter(|_| length > 0)?;
        let (hash, rest) = rest.split_first_chunk()?;
        bytes = rest;
        Some(Frame { text, hash: *hash })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_journal_cut_anywhere_gives_whole_frames_alone() {
        let mut bytes = Vec::new();
        put(&mut bytes, b"{\"id\":1}", &[1; 32]);
        let first = bytes.len();
        put(&mut bytes, b"[]", &[2; 32]);
        for cut in 0..=bytes.len() {
            let whole = usize::from(cut >= first) + usize::from(cut == bytes.len());
            assert_eq!(frames(&bytes[..cut]).count(), whole, "{cut}");
        }
        let last = frames(&bytes).last().unwrap();
        assert_eq!((last.text, last.hash), (&b"[]"[..], [2; 32]));
        bytes.extend_from_slice(&[0; 64]);
        assert_eq!(frames(&bytes).count(), 2);
    }

    #[test]
    fn any_bytes_are_read() {
        bolero::check!().for_each(|bytes: &[u8]| {
            let length: usize = frames(bytes).map(|frame| frame.text.len() + 36).sum();
            assert!(length <= bytes.len());
        });
    }

    #[test]
    fn what_a_commit_made_needless_is_written_over_and_a_long_one_is_cut() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        let mut journal = Journal::open(&path).unwrap();
        journal.append(b"first").unwrap();
        journal.append(b"second").unwrap();
        assert_eq!(journal.read().unwrap(), b"firstsecond");
        journal.reset();
        assert_eq!(journal.read().unwrap(), b"");
        journal.append(b"third").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"thirdsecond");

        let large = vec![1; usize::try_from(JOURNAL_BYTES_MAX).unwrap()];
        journal.append(&large).unwrap();
        assert!(journal.is_long());
        journal.reset();
        assert_eq!(std::fs::metadata(&path).unwrap().len(), JOURNAL_BYTES_MAX);
    }
}
