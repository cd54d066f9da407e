//! The policies that an editor has open, and the files beside them.
//!
//! A folder is one policy, as `tailkeep validate FOLDER` reads it; what an editor holds goes before what
//! is on the disk. Nothing is read outside of the opened folders, by no link and by no `file("…")`
//! of a policy, and nothing is ever written.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

use lsp_types::Uri;

use crate::policy::source::{SOURCE_BYTES_MAX, SOURCE_FILES_MAX};
use crate::policy::{Diagnostics, Policy, Source};

/// Most documents that are held open.
pub(crate) const OPEN_MAX: usize = 256;

/// Most bytes that the files of one folder are read of.
pub(crate) const FOLDER_BYTES_MAX: u64 = 64 << 20;

/// Deepest nesting of brackets that a file is loaded with: the parser goes down by recursion.
pub(crate) const NESTING_MAX: usize = 200;

/// What a policy's own reading of a file outside of the folder says.
pub(super) const OUTSIDE: &str = "it is outside of the opened folder, and an editor does not read it";

/// A document that the editor holds.
pub(super) struct Open {
    pub(super) uri: Uri,
    pub(super) text: String,
    /// The last text of it that was HCL, for what else is wrong in the folder while it is written.
    good: Option<String>,
}

/// What is open, and where may be read.
#[derive(Default)]
pub(super) struct Folder {
    roots: Vec<PathBuf>,
    /// The editor named no folder: that of each document that it opens is one.
    own_roots: bool,
    open: BTreeMap<PathBuf, Open>,
}

/// What was found in the files of one folder.
pub(super) struct Found {
    pub(super) sources: Vec<Source>,
    /// Errors and notes; the flag tells errors.
    pub(super) findings: Vec<(Diagnostics, bool)>,
}

impl Folder {
    pub(super) fn new(roots: Vec<PathBuf>) -> Self {
        let roots: Vec<PathBuf> = roots.iter().filter_map(|root| root.canonicalize().ok()).collect();
        Folder {
            own_roots: roots.is_empty(),
            roots,
            open: BTreeMap::new(),
        }
    }

    /// Takes a document's text. `false`: there are too many, or it is too large.
    pub(super) fn put(&mut self, path: &Path, uri: Uri, text: String) -> bool {
        let known = self.open.len() < OPEN_MAX || self.open.contains_key(path);
        if !known || text.len() as u64 > SOURCE_BYTES_MAX {
            self.open.remove(path);
            return false;
        }
        if self.own_roots
            && let Some(root) = path.parent().and_then(|parent| parent.canonicalize().ok())
            && !self.roots.contains(&root)
        {
            self.roots.push(root);
        }
        let is_good = is_hcl(&text);
        let before = self.open.remove(path).and_then(|open| open.good);
        let good = if is_good { Some(text.clone()) } else { before };
        self.open.insert(path.to_owned(), Open { uri, text, good });
        true
    }

    pub(super) fn close(&mut self, path: &Path) {
        self.open.remove(path);
    }

    pub(super) fn get(&self, path: &Path) -> Option<&Open> {
        self.open.get(path)
    }

    /// The files of the policy that a folder is.
    pub(super) fn sources(&self, folder: &Path) -> Vec<Source> {
        let mut paths: BTreeSet<PathBuf> = self.open.keys().cloned().collect();
        paths.retain(|path| path.parent() == Some(folder));
        if self.may_read(folder).is_some() {
            paths.extend(files(folder));
        }
        let mut left = FOLDER_BYTES_MAX;
        let mut sources = Vec::new();
        for path in paths.into_iter().take(SOURCE_FILES_MAX) {
            let text = match self.open.get(&path) {
                Some(open) => Some(open.text.clone()),
                None => self.read(&path).ok(),
            };
            let Some(text) = text.filter(|text| text.len() as u64 <= left) else {
                continue;
            };
            left -= text.len() as u64;
            sources.push(Source { path, text });
        }
        sources
    }

    /// Loads the folder's policy. Where files are no HCL yet, their last good texts stand for them, so
    /// that the others are not full of errors that are none.
    pub(super) fn load(&self, folder: &Path) -> Found {
        let sources = self.sources(folder);
        let broken: Vec<bool> = sources.iter().map(|source| !is_hcl(&source.text)).collect();
        let mut findings = Vec::new();
        if broken.contains(&true) {
            let only: Vec<Source> = sources
                .iter()
                .zip(&broken)
                .map(|(source, broken)| Source {
                    path: source.path.clone(),
                    text: if *broken {
                        source.text.clone()
                    } else {
                        String::new()
                    },
                })
                .collect();
            findings.extend(self.errors_in(only, &|file| broken.get(file) == Some(&true)));
            let good = |source: &Source| self.open.get(&source.path).and_then(|open| open.good.clone());
            let whole: Option<Vec<Source>> = sources
                .iter()
                .zip(&broken)
                .map(|(source, broken)| {
                    let text = if *broken {
                        good(source)?
                    } else {
                        source.text.clone()
                    };
                    Some(Source {
                        path: source.path.clone(),
                        text,
                    })
                })
                .collect();
            // What was never whole could hold anything that the others mean.
            if let Some(whole) = whole {
                findings.extend(self.errors_in(whole, &|file| broken.get(file) == Some(&false)));
            }
        } else if !sources.is_empty() {
            match self.policy(sources.clone()) {
                Ok(policy) => findings.push((policy.notes().clone(), false)),
                Err(errors) => findings.push((errors, true)),
            }
        }
        Found { sources, findings }
    }

    fn errors_in(&self, sources: Vec<Source>, file: &dyn Fn(usize) -> bool) -> Option<(Diagnostics, bool)> {
        let errors = self.policy(sources).err()?;
        Some((errors.only(file), true))
    }

    fn policy(&self, sources: Vec<Source>) -> Result<Policy, Diagnostics> {
        Policy::load(sources, &|path| self.read(path))
    }

    /// Reads a file of the opened folders.
    fn read(&self, path: &Path) -> io::Result<String> {
        let real = path.canonicalize()?;
        if !self.roots.iter().any(|root| real.starts_with(root)) {
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, OUTSIDE));
        }
        // A pipe or a device would be waited for.
        if !std::fs::metadata(&real)?.is_file() {
            return Err(io::Error::other("it is no file"));
        }
        crate::policy::source::read_file(&real)
    }

    fn may_read(&self, path: &Path) -> Option<PathBuf> {
        let real = path.canonicalize().ok()?;
        self.roots
            .iter()
            .any(|root| real.starts_with(root))
            .then_some(real)
    }
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return Vec::new();
    };
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let mut paths: Vec<PathBuf> = paths
        .filter(|path| path.extension().is_some_and(|extension| extension == "hcl"))
        .take(SOURCE_FILES_MAX)
        .collect();
    paths.sort();
    paths
}

fn is_hcl(text: &str) -> bool {
    !is_deep(text) && hcl_edit::parser::parse_body(text).is_ok()
}

/// Whether more brackets may stand open than the parser is given. Those in texts are counted too.
pub(super) fn is_deep(text: &str) -> bool {
    let mut open = 0usize;
    text.bytes().any(|byte| {
        match byte {
            b'{' | b'[' | b'(' => open += 1,
            b'}' | b']' | b')' => open = open.saturating_sub(1),
            _ => {}
        }
        open > NESTING_MAX
    })
}

/// The file that a document is; `None` for one that is not on this machine's disk.
pub(super) fn path_of(uri: &Uri) -> Option<PathBuf> {
    let rest = uri.as_str().strip_prefix("file://")?;
    let rest = rest.strip_prefix("localhost").unwrap_or(rest);
    let text = percent_encoding::percent_decode_str(rest).decode_utf8().ok()?;
    let path = PathBuf::from(&*text);
    let plain = path
        .components()
        .all(|part| !matches!(part, std::path::Component::ParentDir));
    (path.is_absolute() && plain).then_some(path)
}

pub(super) fn uri_of(path: &Path) -> Option<Uri> {
    const SEGMENT: &percent_encoding::AsciiSet = &percent_encoding::NON_ALPHANUMERIC
        .remove(b'/')
        .remove(b'-')
        .remove(b'_')
        .remove(b'.')
        .remove(b'~');
    let text = percent_encoding::utf8_percent_encode(path.to_str()?, SEGMENT).to_string();
    format!("file://{text}").parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_much_of_a_folder_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let count = FOLDER_BYTES_MAX / SOURCE_BYTES_MAX;
        let text = vec![b'#'; SOURCE_BYTES_MAX as usize];
        for number in 0..=count {
            std::fs::write(folder.path().join(format!("{number:02}.hcl")), &text).unwrap();
        }
        let path = folder.path().canonicalize().unwrap();
        let read = Folder::new(vec![path.clone()]).sources(&path);
        assert_eq!(read.len() as u64, count);
    }
}
