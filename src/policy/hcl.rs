//! Reads typed fields out of parsed HCL, and points at what does not fit. *Pure.*
//!
//! Every field that a block has is asked for by name, or is declared inert with a note. What is
//! left when [`Fields::finish`] is called is an error, so no field is accepted and ignored.

use std::cell::RefCell;
use std::ops::Range;
use std::path::Path;
use std::time::Duration;

use hcl_edit::Span as _;
use hcl_edit::expr::{Expression, ObjectKey, TraversalOperator};
use hcl_edit::structure::{Block, Body};
use hcl_edit::template::Element;

use super::diagnostic::{At, Diagnostic, nearest};
use super::{ReadFile, Source};

/// What a load shares: the sources, and the errors and notes found so far.
pub(super) struct Findings<'a> {
    pub(super) sources: &'a [Source],
    pub(super) read: ReadFile<'a>,
    pub(super) errors: RefCell<Vec<Diagnostic>>,
    pub(super) notes: RefCell<Vec<Diagnostic>>,
}

impl Findings<'_> {
    pub(super) fn error(&self, diagnostic: Diagnostic) {
        self.errors.borrow_mut().push(diagnostic);
    }

    pub(super) fn note(&self, diagnostic: Diagnostic) {
        self.notes.borrow_mut().push(diagnostic);
    }
}

/// A value and where it stands.
#[derive(Clone, Debug)]
pub(super) struct Spot<T> {
    pub(super) value: T,
    pub(super) at: At,
}

/// `type.name`.
pub(super) type Reference = Spot<String>;

#[derive(Clone, Copy)]
struct Entry<'a> {
    name: &'a str,
    at: At,
    expr: &'a Expression,
}

/// The fields of one block or object.
pub(super) struct Fields<'a> {
    pub(super) findings: &'a Findings<'a>,
    /// What to call the block in a message: `endpoint "https" "github"`.
    pub(super) title: String,
    pub(super) at: At,
    entries: Vec<Entry<'a>>,
    blocks: Vec<&'a Block>,
    known: RefCell<Vec<&'static str>>,
}

pub(super) fn at(file: usize, span: Option<Range<usize>>) -> At {
    let span = span.unwrap_or(0..0);
    At {
        file,
        start: span.start,
        end: span.end,
    }
}

impl<'a> Fields<'a> {
    pub(super) fn of_body(findings: &'a Findings<'a>, title: String, at_: At, body: &'a Body) -> Self {
        let mut fields = Fields {
            findings,
            title,
            at: at_,
            entries: Vec::new(),
            blocks: Vec::new(),
            known: RefCell::default(),
        };
        fields.extend(at_.file, body);
        fields
    }

    /// Adds the fields of a further body (the same block in another file).
    pub(super) fn extend(&mut self, file: usize, body: &'a Body) {
        for attribute in body.attributes() {
            self.entry(
                attribute.key.value().as_str(),
                at(file, attribute.key.span()),
                &attribute.value,
            );
        }
        self.blocks.extend(body.blocks());
    }

    fn entry(&mut self, name: &'a str, at: At, expr: &'a Expression) {
        if let Some(first) = self.entries.iter().find(|entry| entry.name == name) {
            self.findings.error(
                Diagnostic::new(at, format!("`{name}` is set twice in {}", self.title)).other(first.at),
            );
            return;
        }
        self.entries.push(Entry { name, at, expr });
    }

    pub(super) fn of_block(findings: &'a Findings<'a>, file: usize, block: &'a Block) -> Self {
        let mut title = block.ident.value().as_str().to_owned();
        for label in &block.labels {
            title.push_str(&format!(" \"{}\"", label.as_str()));
        }
        let place = at(file, block.ident.span());
        Fields::of_body(findings, title, place, &block.body)
    }

    fn find(&self, name: &'static str) -> Option<Entry<'a>> {
        self.known.borrow_mut().push(name);
        let entry = self.entries.iter().find(|entry| entry.name == name).copied();
        entry.filter(|entry| !entry.expr.is_null())
    }

    fn wrong(&self, entry: Entry<'_>, wanted: &str) {
        let place = self.place(entry.expr, entry.at);
        self.findings.error(
            Diagnostic::new(
                place,
                format!("`{}` of {} is not {wanted}", entry.name, self.title),
            )
            .help(format!("write {wanted}")),
        );
    }

    fn place(&self, expr: &Expression, or: At) -> At {
        match expr.span() {
            Some(span) => at(or.file, Some(span)),
            None => or,
        }
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.entries.iter().any(|entry| entry.name == name)
    }

    /// The name's own place, or the block's.
    pub(super) fn at_of(&self, name: &str) -> At {
        let entry = self.entries.iter().find(|entry| entry.name == name);
        entry.map_or(self.at, |entry| entry.at)
    }

    pub(super) fn text(&self, name: &'static str) -> Option<Spot<String>> {
        let entry = self.find(name)?;
        match self.as_text(entry.expr, entry.at) {
            Some(text) => Some(text),
            None => {
                self.wrong(entry, "a string in quotes (without `${…}`)");
                None
            }
        }
    }

    fn as_text(&self, expr: &Expression, or: At) -> Option<Spot<String>> {
        let place = self.place(expr, or);
        let value = match expr {
            Expression::String(text) => text.value().clone(),
            Expression::Parenthesis(inner) => return self.as_text(inner.inner(), or),
            other => plain(other)?,
        };
        let value = match value
            .trim()
            .strip_prefix("<<file:")
            .and_then(|rest| rest.strip_suffix(">>"))
        {
            Some(path) => self.read(path.trim(), place)?,
            None => value,
        };
        Some(Spot { value, at: place })
    }

    /// Reads a file that the policy names, relative to the file that names it.
    fn read(&self, path: &str, place: At) -> Option<String> {
        let from = self.findings.sources.get(place.file)?;
        let path = from.path.parent().unwrap_or(Path::new("")).join(path);
        match (self.findings.read)(&path) {
            Ok(text) => Some(text),
            Err(error) => {
                self.findings.error(Diagnostic::new(
                    place,
                    format!("{} cannot be read: {error}", path.display()),
                ));
                Some(String::new())
            }
        }
    }

    /// A text, or the contents of `file("…")`.
    pub(super) fn text_or_file(&self, name: &'static str) -> Option<Spot<String>> {
        let entry = self.find(name)?;
        match call(entry.expr) {
            Some(("file", path)) => {
                let place = self.place(entry.expr, entry.at);
                Some(Spot {
                    value: self.read(path, place)?,
                    at: place,
                })
            }
            _ => self.text(name),
        }
    }

    /// `function("argument")`, or why not: `Err` with the place of what stands there instead.
    pub(super) fn call(&self, name: &'static str) -> Option<Result<Spot<(String, String)>, At>> {
        let entry = self.find(name)?;
        let place = self.place(entry.expr, entry.at);
        Some(match call(entry.expr) {
            Some((function, argument)) => Ok(Spot {
                value: (function.to_owned(), argument.to_owned()),
                at: place,
            }),
            None => Err(place),
        })
    }

    pub(super) fn texts(&self, name: &'static str) -> Vec<Spot<String>> {
        let Some(entry) = self.find(name) else {
            return Vec::new();
        };
        let items: Option<Vec<_>> = match entry.expr {
            Expression::Array(array) => array.iter().map(|item| self.as_text(item, entry.at)).collect(),
            other => self.as_text(other, entry.at).map(|text| vec![text]),
        };
        items.unwrap_or_else(|| {
            self.wrong(entry, "a list of strings");
            Vec::new()
        })
    }

    pub(super) fn flag(&self, name: &'static str) -> Option<bool> {
        let entry = self.find(name)?;
        let value = entry.expr.as_bool();
        if value.is_none() {
            self.wrong(entry, "true or false");
        }
        value
    }

    pub(super) fn int(&self, name: &'static str) -> Option<Spot<i64>> {
        let entry = self.find(name)?;
        let value = match entry.expr {
            Expression::UnaryOp(op) => number(&op.expr).and_then(|value| match op.operator.value() {
                hcl_edit::expr::UnaryOperator::Neg => value.checked_neg(),
                hcl_edit::expr::UnaryOperator::Not => None,
            }),
            expr => number(expr),
        };
        let Some(value) = value else {
            self.wrong(entry, "a whole number");
            return None;
        };
        Some(Spot {
            value,
            at: self.place(entry.expr, entry.at),
        })
    }

    /// A number between bounds.
    pub(super) fn size(&self, name: &'static str, range: std::ops::RangeInclusive<i64>) -> Option<i64> {
        let spot = self.int(name)?;
        if range.contains(&spot.value) {
            return Some(spot.value);
        }
        self.findings.error(Diagnostic::new(
            spot.at,
            format!("`{name}` must be between {} and {}", range.start(), range.end()),
        ));
        None
    }

    /// Seconds as a number, or a text such as `90s`, `5m`, `24h`.
    pub(super) fn duration(&self, name: &'static str) -> Option<Duration> {
        let entry = self.find(name)?;
        let seconds = match number(entry.expr) {
            Some(seconds) => u64::try_from(seconds).ok(),
            None => self
                .as_text(entry.expr, entry.at)
                .and_then(|text| seconds(&text.value)),
        };
        if seconds.is_none() {
            self.wrong(entry, "a time: seconds, or \"90s\", \"5m\", \"24h\"");
        }
        seconds.map(Duration::from_secs)
    }

    pub(super) fn reference(&self, name: &'static str) -> Option<Reference> {
        let entry = self.find(name)?;
        let reference = self.as_reference(entry.expr, entry.at);
        if reference.is_none() {
            self.wrong(entry, "a reference, type.name");
        }
        reference
    }

    /// Whether the field is a reference and not a text.
    pub(super) fn is_reference(&self, name: &str) -> bool {
        let entry = self.entries.iter().find(|entry| entry.name == name);
        entry.is_some_and(|entry| matches!(entry.expr, Expression::Traversal(_) | Expression::Variable(_)))
    }

    fn as_reference(&self, expr: &Expression, or: At) -> Option<Reference> {
        let place = self.place(expr, or);
        let value = match expr {
            Expression::Traversal(traversal) => {
                let Expression::Variable(first) = &traversal.expr else {
                    return None;
                };
                let mut text = first.value().as_str().to_owned();
                for operator in &traversal.operators {
                    let TraversalOperator::GetAttr(part) = operator.value() else {
                        return None;
                    };
                    text.push('.');
                    text.push_str(part.value().as_str());
                }
                text
            }
            Expression::Variable(name) => name.value().as_str().to_owned(),
            _ => return None,
        };
        Some(Spot { value, at: place })
    }

    /// A list of references; one alone may stand without brackets.
    pub(super) fn references(&self, name: &'static str) -> Vec<Reference> {
        let Some(entry) = self.find(name) else {
            return Vec::new();
        };
        let items: Option<Vec<_>> = match entry.expr {
            Expression::Array(array) => array
                .iter()
                .map(|item| self.as_reference(item, entry.at))
                .collect(),
            other => self.as_reference(other, entry.at).map(|one| vec![one]),
        };
        items.unwrap_or_else(|| {
            self.wrong(entry, "a list of references, [type.name, …]");
            Vec::new()
        })
    }

    /// A list whose items are references or objects.
    pub(super) fn mixed(&self, name: &'static str) -> Vec<Result<Reference, Fields<'a>>> {
        let Some(entry) = self.find(name) else {
            return Vec::new();
        };
        let Expression::Array(array) = entry.expr else {
            self.wrong(entry, "a list, [type.name, …]");
            return Vec::new();
        };
        let mut items = Vec::new();
        for item in array {
            if let Some(reference) = self.as_reference(item, entry.at) {
                items.push(Ok(reference));
            } else if let Expression::Object(object) = item {
                let place = self.place(item, entry.at);
                items.push(Err(self.of_object(entry.name, place, object)));
            } else {
                self.wrong(entry, "a list of references or objects");
            }
        }
        items
    }

    fn of_object(&self, name: &str, place: At, object: &'a hcl_edit::expr::Object) -> Fields<'a> {
        let mut fields = Fields {
            findings: self.findings,
            title: format!("an entry of `{name}`"),
            at: place,
            entries: Vec::new(),
            blocks: Vec::new(),
            known: RefCell::default(),
        };
        for (key, value) in object.iter() {
            let name = match key {
                ObjectKey::Ident(ident) => ident.value().as_str(),
                ObjectKey::Expression(Expression::String(text)) => text.value().as_str(),
                ObjectKey::Expression(Expression::Variable(name)) => name.value().as_str(),
                ObjectKey::Expression(_) => continue,
            };
            fields.entry(name, self.place(value.expr(), place), value.expr());
        }
        fields
    }

    /// A nested block, or an object of the same name; at most one.
    pub(super) fn nested(&self, name: &'static str) -> Option<Fields<'a>> {
        if let Some(Expression::Object(object)) = self
            .entries
            .iter()
            .find(|entry| entry.name == name)
            .map(|entry| entry.expr)
        {
            self.known.borrow_mut().push(name);
            return Some(self.of_object(name, self.at_of(name), object));
        }
        let mut found = self.nested_all(name).into_iter();
        let first = found.next()?;
        for second in found {
            self.findings.error(
                Diagnostic::new(second.at, format!("`{name}` stands twice in {}", self.title))
                    .other(first.at),
            );
        }
        Some(first)
    }

    pub(super) fn nested_all(&self, name: &'static str) -> Vec<Fields<'a>> {
        self.known.borrow_mut().push(name);
        self.blocks
            .iter()
            .filter(|block| block.ident.value().as_str() == name)
            .map(|block| Fields::of_block(self.findings, self.at.file, block))
            .collect()
    }

    pub(super) fn nested_blocks(&self, name: &'static str) -> Vec<&'a Block> {
        self.known.borrow_mut().push(name);
        let same = |block: &&&Block| block.ident.value().as_str() == name;
        self.blocks.iter().filter(same).copied().collect()
    }

    /// Fields of the grammar that have no effect here: each that is set makes a note.
    pub(super) fn inert(&self, names: &[&'static str], why: &str) {
        for &name in names {
            self.known.borrow_mut().push(name);
            let block = self
                .blocks
                .iter()
                .find(|block| block.ident.value().as_str() == name);
            let place = match block {
                Some(block) => at(self.at.file, block.ident.span()),
                None if self.has(name) => self.at_of(name),
                None => continue,
            };
            self.findings.note(
                Diagnostic::new(place, format!("`{name}` of {} has no effect here", self.title))
                    .help(why.to_owned()),
            );
        }
    }

    /// As [`Fields::inert`], for whatever was not asked for.
    pub(super) fn rest_inert(&self, why: &str) {
        let known = self.known.borrow().clone();
        let rest = self.entries.iter().map(|entry| (entry.name, entry.at));
        let blocks = self.blocks.iter().map(|block| {
            let ident = &block.ident;
            (ident.value().as_str(), at(self.at.file, ident.span()))
        });
        for (name, place) in rest.chain(blocks).filter(|(name, _)| !known.contains(name)) {
            self.findings.note(
                Diagnostic::new(place, format!("`{name}` of {} has no effect here", self.title))
                    .help(why.to_owned()),
            );
        }
    }

    /// Reports every field that was not asked for.
    pub(super) fn finish(self) {
        self.finish_but(&|_| false);
    }

    /// As [`Fields::finish`], but for names that others read.
    pub(super) fn finish_but(self, others: &dyn Fn(&str) -> bool) {
        let known = self.known.borrow();
        let entries = self.entries.iter().map(|entry| (entry.name, entry.at));
        let blocks = self.blocks.iter().map(|block| {
            let ident = &block.ident;
            (ident.value().as_str(), at(self.at.file, ident.span()))
        });
        for (name, place) in entries.chain(blocks) {
            if known.contains(&name) || others(name) {
                continue;
            }
            let mut names = known.clone();
            names.sort_unstable();
            names.dedup();
            let help = match nearest(name, names.iter().copied()) {
                Some(near) => format!("did you mean `{near}`? It may have: {}", names.join(", ")),
                None => format!("it may have: {}", names.join(", ")),
            };
            self.findings
                .error(Diagnostic::new(place, format!("{} has no `{name}`", self.title)).help(help));
        }
    }
}

/// The text of a template that interpolates nothing.
fn plain(expr: &Expression) -> Option<String> {
    let mut text = String::new();
    for element in expr.as_template()?.iter() {
        match element {
            Element::Literal(literal) => text.push_str(literal.as_str()),
            Element::Interpolation(_) | Element::Directive(_) => return None,
        }
    }
    Some(text)
}

fn number(expr: &Expression) -> Option<i64> {
    let number = expr.as_number()?;
    number.as_i64()
}

fn call(expr: &Expression) -> Option<(&str, &str)> {
    let Expression::FuncCall(call) = expr else {
        return None;
    };
    if call.name.is_namespaced() || call.args.len() != 1 {
        return None;
    }
    let argument = call.args.get(0)?.as_str()?;
    Some((call.name.name.value().as_str(), argument))
}

fn seconds(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let scale = match unit {
        "" | "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(scale)
}
