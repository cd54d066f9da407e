//! Errors and notes that point into the configuration. *Pure.*

use std::fmt;
use std::path::Path;

use miette::{GraphicalReportHandler, GraphicalTheme, LabeledSpan, SourceSpan};

use super::Source;

/// A range of bytes in one source.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct At {
    /// Index of the source.
    pub file: usize,
    /// First byte.
    pub start: usize,
    /// Byte behind the last.
    pub end: usize,
}

/// One error or note.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// What is wrong.
    pub message: String,
    pub at: Option<At>,
    /// What would have been right.
    pub help: Option<String>,
    /// The other place that belongs to it, such as the first of two declarations.
    pub other: Option<At>,
    /// The line holds what must not be repeated, so it is not shown.
    pub hidden: bool,
}

impl Diagnostic {
    pub fn new(at: At, message: impl Into<String>) -> Self {
        Diagnostic {
            message: message.into(),
            at: Some(at),
            help: None,
            other: None,
            hidden: false,
        }
    }

    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    pub fn hidden(mut self) -> Self {
        self.hidden = true;
        self
    }

    pub fn other(mut self, other: At) -> Self {
        self.other = Some(other);
        self
    }
}

/// Every error of a policy that does not load, or every note on one that does.
#[derive(Clone, Default)]
pub struct Diagnostics {
    sources: Vec<(std::path::PathBuf, String)>,
    items: Vec<Diagnostic>,
}

/// A place as people read it: counted from 1, columns in characters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place<'a> {
    pub path: &'a Path,
    pub line: usize,
    pub column: usize,
    pub text: &'a str,
}

impl Diagnostics {
    pub(crate) fn new(sources: &[Source], mut items: Vec<Diagnostic>) -> Self {
        items.sort_by_key(|item| item.at.map(|at| (at.file, at.start)));
        items.dedup();
        Diagnostics {
            sources: sources
                .iter()
                .map(|source| (source.path.clone(), source.text.clone()))
                .collect(),
            items,
        }
    }

    pub fn items(&self) -> &[Diagnostic] {
        &self.items
    }

    /// Those that point into the sources that are asked for.
    #[cfg(feature = "daemon")]
    pub(crate) fn only(mut self, file: &dyn Fn(usize) -> bool) -> Self {
        self.items.retain(|item| item.at.is_none_or(|at| file(at.file)));
        self
    }

    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// The text of a range.
    pub(crate) fn raw(&self, at: At) -> Option<&str> {
        let (_, text) = self.sources.get(at.file)?;
        text.get(at.start..at.end)
    }

    /// Where a range begins.
    pub fn place(&self, at: At) -> Option<Place<'_>> {
        let (path, text) = self.sources.get(at.file)?;
        let before = text.get(..at.start)?;
        let start = before.rfind('\n').map_or(0, |index| index + 1);
        let line = text.get(start..)?.lines().next().unwrap_or_default();
        Some(Place {
            path,
            line: before.matches('\n').count() + 1,
            column: text.get(start..at.start)?.chars().count() + 1,
            text: line,
        })
    }

    /// For people: each with its file, line, column, the line itself and the help.
    pub fn render(&self) -> String {
        let handler = GraphicalReportHandler::new_themed(GraphicalTheme::unicode_nocolor());
        let mut out = String::new();
        for item in &self.items {
            let report = Report { all: self, item };
            if handler.render_report(&mut out, &report).is_err() {
                out.push_str(&item.message);
            }
            out.push('\n');
        }
        out
    }

    /// For machines: a list of objects with `file`, `line`, `column`, `text`, `message`, `help`.
    pub fn to_json(&self) -> serde_json::Value {
        self.items
            .iter()
            .map(|item| {
                let place = item.at.and_then(|at| self.place(at));
                let other = item.other.and_then(|at| self.place(at));
                serde_json::json!({
                    "message": item.message,
                    "help": item.help,
                    "file": place.as_ref().map(|place| place.path.display().to_string()),
                    "line": place.as_ref().map(|place| place.line),
                    "column": place.as_ref().map(|place| place.column),
                    "text": place.as_ref().filter(|_| !item.hidden).map(|place| place.text),
                    "other": other.map(|place| place.to_string()),
                })
            })
            .collect()
    }
}

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.path.display(), self.line, self.column)
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render())
    }
}

impl fmt::Debug for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render())
    }
}

impl std::error::Error for Diagnostics {}

/// One item with its source, as miette renders it.
struct Report<'a> {
    all: &'a Diagnostics,
    item: &'a Diagnostic,
}

impl fmt::Debug for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.item.message)
    }
}

impl fmt::Display for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.item.message)?;
        match self.item.at.and_then(|at| self.all.place(at)) {
            Some(place) => write!(f, " ({place})"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Report<'_> {}

impl miette::Diagnostic for Report<'_> {
    fn help<'b>(&'b self) -> Option<Box<dyn fmt::Display + 'b>> {
        let other = self.item.other.and_then(|at| self.all.place(at));
        match (&self.item.help, other) {
            (Some(help), Some(place)) => Some(Box::new(format!("{help}\nthe other is at {place}"))),
            (None, Some(place)) => Some(Box::new(format!("the other is at {place}"))),
            (Some(help), None) => Some(Box::new(help)),
            (None, None) => None,
        }
    }

    fn source_code(&self) -> Option<&dyn miette::SourceCode> {
        let (_, text) = self.all.sources.get(self.item.at?.file)?;
        (!self.item.hidden).then_some(text as &dyn miette::SourceCode)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        let at = self.item.at.filter(|_| !self.item.hidden)?;
        let span = SourceSpan::from((at.start, at.end.saturating_sub(at.start)));
        Some(Box::new(std::iter::once(LabeledSpan::new_with_span(None, span))))
    }
}

/// The name nearest to `wanted`, if one is near enough to be meant.
pub(crate) fn nearest<'a>(wanted: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    names
        .into_iter()
        .map(|name| (strsim::damerau_levenshtein(wanted, name), name))
        .filter(|(distance, name)| *distance <= name.len().max(3) / 2)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}
