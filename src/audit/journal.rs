//! What the database has not committed yet, on disk: a group is durable by one write here.
//!
//! A frame is a length, the record's JSON and its link in the chain, which is its checksum as
//! well: a frame that does not follow the chain's end is an older one's remains, and ends the
//! journal. Outcomes are not waited for, and come with a commit alone. Each commit of the database makes the whole
//! journal needless, so the next group is written over it from the start, where the file has its blocks already. A start
//! after a crash, and a database that was opened anew, get from it what they lack.
//!
//! Whole blocks go to the disk past the page cache (`O_DIRECT`), which costs a quarter less than to have the kernel look
//! for what it has to write. The last block is written again with the next group, and is filled up with zeros until then.
//! Where a file system has no such way, the same blocks go through the cache.
//!
//! The note of the chain's head is of what is committed: who can stop the gateway and write its
//! folder can take away the last [`super::writer::COMMIT_EVERY_MS`] unseen.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};

use super::row::Hash;

/// Bytes after which the database is to be committed, and that the file keeps at most.
pub(super) const JOURNAL_BYTES_MAX: u64 = 8 << 20;

/// Length of the text; no text has none.
const HEAD_BYTES: usize = 4;

/// Bytes of a block: what is written past the page cache begins and ends at a multiple, in memory as in the file.
const BLOCK_BYTES: usize = 4096;

/// A record as its link was computed from it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Frame<'a> {
    pub(super) text: &'a [u8],
    pub(super) hash: Hash,
}

/// The open file; what is before `end` counts.
pub(super) struct Journal {
    file: File,
    path: PathBuf,
    end: u64,
    /// What of the last block counts, and room for a group behind it.
    blocks: Blocks,
}

/// Bytes that begin at a multiple of [`BLOCK_BYTES`] in memory.
#[derive(Default)]
struct Blocks {
    bytes: Vec<u8>,
    /// Where the first block begins.
    start: usize,
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
        let mut journal = Journal {
            file,
            path: path.to_owned(),
            end,
            blocks: Blocks::default(),
        };
        let there = journal.read()?;
        let rest = there.get(there.len() - journal.rest()..).unwrap_or_default();
        journal.blocks.fill(0, rest);
        // A file system that cannot says so here or at the first write.
        let _ = journal.write_past_cache(true);
        Ok(journal)
    }

    /// Returns when the frames are on disk.
    pub(super) fn append(&mut self, frames: &[u8]) -> io::Result<()> {
        let rest = self.rest();
        let from = self.end - rest as u64;
        let blocks = self.blocks.fill(rest, frames);
        let mut written = self.file.write_all_at(blocks, from);
        if let Err(error) = &written
            && error.kind() == io::ErrorKind::InvalidInput
            && self.write_past_cache(false).is_ok()
        {
            let blocks = self.blocks.fill(rest, frames);
            written = self.file.write_all_at(blocks, from);
        }
        if written.is_err() {
            // Nobody is told of this group: as far as it got there, it must not be found.
            let blocks = self.blocks.fill(rest, &[0; HEAD_BYTES]);
            let _ = self.file.write_all_at(blocks, from);
            return written;
        }
        self.end += frames.len() as u64;
        let whole = rest + frames.len() - self.rest();
        self.blocks.keep_from(whole);
        Ok(())
    }

    /// All that counts, to be taken apart by [`frames`].
    pub(super) fn read(&self) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; usize::try_from(self.end).map_err(io::Error::other)?];
        // Through the cache, which asks for no blocks.
        File::open(&self.path)?.read_exact_at(&mut bytes, 0)?;
        Ok(bytes)
    }

    /// Whether the database is to be committed soon.
    pub(super) fn is_long(&self) -> bool {
        self.end > JOURNAL_BYTES_MAX
    }

    /// The database has it all.
    pub(super) fn reset(&mut self) {
        if self.is_long() {
            if let Err(error) = self.file.set_len(JOURNAL_BYTES_MAX) {
                tracing::warn!(%error, "the audit log's journal stays long");
            }
            self.blocks = Blocks::default();
        }
        self.end = 0;
    }

    /// Bytes of the last block that count.
    fn rest(&self) -> usize {
        // Less than a block.
        (self.end % BLOCK_BYTES as u64) as usize
    }

    fn write_past_cache(&self, past: bool) -> io::Result<()> {
        let mut flags = fcntl_getfl(&self.file)?;
        flags.set(OFlags::DIRECT, past);
        Ok(fcntl_setfl(&self.file, flags)?)
    }
}

impl Blocks {
    /// Puts bytes behind the first `kept` ones, and zeros up to a block's end; all the blocks.
    fn fill(&mut self, kept: usize, bytes: &[u8]) -> &[u8] {
        let end = kept + bytes.len();
        let whole = end.next_multiple_of(BLOCK_BYTES);
        if self.bytes.len() < self.start + whole {
            let mut more = Blocks::new(whole.next_power_of_two());
            more.put(
                0,
                self.bytes.get(self.start..self.start + kept).unwrap_or_default(),
            );
            *self = more;
        }
        self.put(kept, bytes);
        self.bytes[self.start + end..self.start + whole].fill(0);
        &self.bytes[self.start..self.start + whole]
    }

    /// What begins there becomes the first block.
    fn keep_from(&mut self, whole: usize) {
        let from = self.start + whole;
        let to = self.bytes.len().min(from + BLOCK_BYTES);
        self.bytes.copy_within(from..to, self.start);
    }

    fn new(room: usize) -> Blocks {
        let bytes = vec![0; room + BLOCK_BYTES];
        let start = bytes.as_ptr().align_offset(BLOCK_BYTES).min(BLOCK_BYTES);
        Blocks { bytes, start }
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        let from = self.start + at;
        self.bytes[from..from + bytes.len()].copy_from_slice(bytes);
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
        assert_eq!(journal.read().unwrap(), b"third");
        let mut file = b"third".to_vec();
        file.resize(BLOCK_BYTES, 0);
        assert_eq!(std::fs::read(&path).unwrap(), file);

        let large = vec![1; usize::try_from(JOURNAL_BYTES_MAX).unwrap()];
        journal.append(&large).unwrap();
        assert!(journal.is_long());
        journal.reset();
        assert_eq!(std::fs::metadata(&path).unwrap().len(), JOURNAL_BYTES_MAX);
    }

    #[test]
    fn groups_of_any_length_stand_one_behind_another_and_are_found_by_the_next_opening() {
        // On a disk, and where the page cache is all there is.
        for memory in [false, Path::new("/dev/shm").is_dir()] {
            let folder = match memory {
                true => tempfile::tempdir_in("/dev/shm").unwrap(),
                false => tempfile::tempdir().unwrap(),
            };
            let path = folder.path().join("journal");
            let mut all = Vec::new();
            let mut journal = Journal::open(&path).unwrap();
            for (number, length) in [1, 4094, 1, 1, 4096, 9000, 3286, 70_000, 2]
                .into_iter()
                .enumerate()
            {
                let group = vec![u8::try_from(number).unwrap() + 1; length];
                journal.append(&group).unwrap();
                all.extend_from_slice(&group);
                assert_eq!(journal.read().unwrap(), all, "{number}");
            }
            let mut journal = Journal::open(&path).unwrap();
            let length = usize::try_from(journal.end).unwrap();
            assert!(length >= all.len() && length.is_multiple_of(BLOCK_BYTES));
            all.resize(length, 0);
            assert_eq!(journal.read().unwrap(), all);
            journal.append(b"more").unwrap();
            all.extend_from_slice(b"more");
            assert_eq!(journal.read().unwrap(), all);
            // A file that a gateway before this one wrote ends anywhere.
            std::fs::write(&path, &all[..5000]).unwrap();
            let mut journal = Journal::open(&path).unwrap();
            journal.append(b"more").unwrap();
            assert_eq!(journal.read().unwrap(), [&all[..5000], b"more"].concat());
        }
    }

    #[test]
    fn a_group_that_cannot_be_written_is_not_found() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        let mut journal = Journal::open(&path).unwrap();
        journal.append(b"first").unwrap();
        // What cannot be written to.
        journal.file = File::open(&path).unwrap();
        journal.append(b"second").unwrap_err();
        assert_eq!(journal.read().unwrap(), b"first");
        journal.file = OpenOptions::new().write(true).open(&path).unwrap();
        journal.append(b"third").unwrap();
        assert_eq!(journal.read().unwrap(), b"firstthird");
    }

    #[test]
    fn what_is_not_taken_past_the_cache_goes_through_it() {
        let folder = tempfile::tempdir().unwrap();
        let mut journal = Journal::open(&folder.path().join("journal")).unwrap();
        // Such a write is refused where it goes past the cache.
        journal.blocks = Blocks::new(2 * BLOCK_BYTES);
        journal.blocks.start += 1;
        journal.append(b"first").unwrap();
        journal.append(b"second").unwrap();
        assert_eq!(journal.read().unwrap(), b"firstsecond");
    }
}
