//! The loader's errors and notes, as an editor shows them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use lsp_types::{
    Diagnostic, DiagnosticRelatedInformation, DiagnosticSeverity, Location, PublishDiagnosticsParams, Range,
    Uri,
};

use super::folder::{Folder, NESTING_MAX, OPEN_MAX, OUTSIDE, is_deep, uri_of};
use super::position::Lines;
use crate::policy::diagnostic::At;
use crate::policy::source::SOURCE_BYTES_MAX;
use crate::policy::{Source, diagnostic};

/// Most errors and notes that are shown of one file.
pub(crate) const SHOWN_MAX: usize = 200;

/// What the editor was told last.
#[derive(Default)]
pub(super) struct Published {
    /// By folder, the files that something was said of.
    said: BTreeMap<PathBuf, BTreeSet<PathBuf>>,
    /// Documents that are not held.
    refused: BTreeMap<PathBuf, Uri>,
}

impl Published {
    pub(super) fn folders(&self) -> Vec<PathBuf> {
        self.said.keys().cloned().collect()
    }

    /// Remembers that a document is too large, or one too many.
    pub(super) fn refuse(&mut self, path: &Path, uri: Uri) {
        if self.refused.len() < OPEN_MAX {
            self.refused.insert(path.to_owned(), uri);
        }
    }

    /// What is to be said of a folder's files: of each in which something was found, or was before.
    pub(super) fn of(&mut self, folder: &Folder, path: &Path) -> Vec<PublishDiagnosticsParams> {
        let mut found = diagnostics(folder, path);
        for (refused, uri) in std::mem::take(&mut self.refused) {
            let why = format!(
                "not looked at: a document may have {SOURCE_BYTES_MAX} bytes, and {OPEN_MAX} may be open"
            );
            found.insert(
                refused.clone(),
                (Some(uri), vec![whole(why, DiagnosticSeverity::WARNING)]),
            );
        }
        let now: BTreeSet<PathBuf> = found.keys().cloned().collect();
        for before in self.said.insert(path.to_owned(), now).unwrap_or_default() {
            found.entry(before).or_default();
        }
        let params = found.into_iter().filter_map(|(path, (uri, mut diagnostics))| {
            diagnostics.truncate(SHOWN_MAX);
            let own = || folder.get(&path).map(|open| open.uri.clone());
            Some(PublishDiagnosticsParams {
                uri: uri.or_else(own).or_else(|| uri_of(&path))?,
                diagnostics,
                version: None,
            })
        });
        params.collect()
    }
}

type ByFile = BTreeMap<PathBuf, (Option<Uri>, Vec<Diagnostic>)>;

fn diagnostics(folder: &Folder, path: &Path) -> ByFile {
    let loaded = folder.load(path);
    let mut found = ByFile::new();
    for source in &loaded.sources {
        // An open document hears of it when there is nothing, too.
        if folder.get(&source.path).is_some() {
            found.entry(source.path.clone()).or_default();
        }
        if is_deep(&source.text) {
            let why = format!("brackets nest deeper than {NESTING_MAX}");
            let one = whole(why, DiagnosticSeverity::ERROR);
            found.entry(source.path.clone()).or_default().1.push(one);
        }
    }
    let lines: Vec<Lines<'_>> = loaded
        .sources
        .iter()
        .map(|source| Lines::new(&source.text))
        .collect();
    for (diagnostics, are_errors) in &loaded.findings {
        for item in diagnostics.items() {
            let at = item.at.unwrap_or_default();
            let Some(source) = loaded.sources.get(at.file) else {
                continue;
            };
            let one = shown(item, at, *are_errors, &loaded.sources, &lines);
            found.entry(source.path.clone()).or_default().1.push(one);
        }
    }
    found
}

fn shown(
    item: &diagnostic::Diagnostic,
    at: At,
    is_error: bool,
    sources: &[Source],
    lines: &[Lines<'_>],
) -> Diagnostic {
    let range = |at: At| lines.get(at.file).map(|lines| lines.range(at.start..at.end));
    let severity = match is_error {
        // What the editor may not look at is no error of the policy's.
        true if item.message.contains(OUTSIDE) => DiagnosticSeverity::INFORMATION,
        true => DiagnosticSeverity::ERROR,
        // Said of the policy as a whole: what it does by default.
        false if at == At::default() => DiagnosticSeverity::INFORMATION,
        false => DiagnosticSeverity::WARNING,
    };
    let message = match &item.help {
        Some(help) => format!("{}\n{help}", item.message),
        None => item.message.clone(),
    };
    let other = item.other.and_then(|other| {
        let source = sources.get(other.file)?;
        Some(vec![DiagnosticRelatedInformation {
            location: Location {
                uri: uri_of(&source.path)?,
                range: range(other)?,
            },
            message: "the other".to_owned(),
        }])
    });
    Diagnostic {
        range: range(at).unwrap_or_default(),
        severity: Some(severity),
        source: Some("tailkeep".to_owned()),
        message,
        related_information: other,
        ..Diagnostic::default()
    }
}

/// About a file as a whole.
fn whole(message: String, severity: DiagnosticSeverity) -> Diagnostic {
    Diagnostic {
        range: Range::default(),
        severity: Some(severity),
        source: Some("tailkeep".to_owned()),
        message,
        ..Diagnostic::default()
    }
}
