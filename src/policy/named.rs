//! The files that a policy names, such as a judge's prompt: they are a part of it, and so of its version. *Pure*:
//! who reads is passed in.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use super::{ReadFile, Source};
use crate::verdict::Digest;

/// What was read of each; none where it could not be.
#[derive(Debug, Default)]
pub struct Named(RefCell<BTreeMap<PathBuf, Option<String>>>);

impl Named {
    /// These, as `read` finds them now.
    pub fn of(paths: &[PathBuf], read: ReadFile<'_>) -> Named {
        let named = Named::default();
        for path in paths {
            // One that is not there is remembered as that.
            let _ = named.read(path, read);
        }
        named
    }

    /// Reads one, and remembers what came.
    ///
    /// # Errors
    /// Those of `read`.
    pub fn read(&self, path: &Path, read: ReadFile<'_>) -> io::Result<String> {
        let text = read(path);
        let kept = text.as_ref().ok().cloned();
        self.0.borrow_mut().insert(path.to_owned(), kept);
        text
    }

    pub fn paths(&self) -> Vec<PathBuf> {
        self.0.borrow().keys().cloned().collect()
    }

    /// Of these texts, and of those that were read, in the order of their paths.
    pub(super) fn digest(&self, sources: &[Source]) -> Digest {
        let files = self.0.borrow();
        let texts = files.values().map(|text| text.as_deref().unwrap_or_default());
        let parts = sources.iter().map(|source| source.text.as_str()).chain(texts);
        Digest::of_parts(parts.map(str::as_bytes))
    }
}
