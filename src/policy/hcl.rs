//! Reads typed fields out of parsed HCL, and points at what does not fit. *Pure.*
//!
//! Every field that a block has is asked for by name, or is declared inert with a note. What is
//! left when [`Fields::finish`] is called is an error, so no field is accepted and ignored.

mod scalar;

use std::cell::RefCell;
use std::ops::Range;

use hcl_edit::Span as _;
use hcl_edit::expr::{Expression, ObjectKey, TraversalOperator};
use hcl_edit::structure::{Block, Body};

use super::diagnostic::{At, Diagnostic, nearest};
use super::{ReadFile, Source};

/// What a load shares: the sources, and the errors and notes found so far.
pub(super) struct Findings<'a> {
    pub(super) sources: &'a [Source],
    pub(super) read: ReadFile<'a>,
    pub(super) errors: RefCell<Vec<Diagnostic>>,
    pub(super) notes: RefCell<Vec<Diagnostic>>,
    /// Block and field of everything that the loader asked for, to be held against its table.
    #[cfg(test)]
    pub(super) asked: RefCell<std::collections::BTreeSet<(String, &'static str)>>,
}

impl<'a> Findings<'a> {
    pub(super) fn new(sources: &'a [Source], read: ReadFile<'a>) -> Self {
        Findings {
            sources,
            read,
            errors: RefCell::default(),
            notes: RefCell::default(),
            #[cfg(test)]
            asked: RefCell::default(),
        }
    }
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
    /// The block's keyword, behind those of the blocks around it: `gateway.limits`.
    #[cfg_attr(
        not(test),
        allow(dead_code, reason = "the table is compared with what was asked in tests")
    )]
    path: String,
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
            path: String::new(),
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
        Fields {
            path: block.ident.value().as_str().to_owned(),
            ..Fields::of_body(findings, title, place, &block.body)
        }
    }

    /// Notes that a block of this kind may have the field.
    fn know(&self, name: &'static str) {
        self.known.borrow_mut().push(name);
        #[cfg(test)]
        self.findings.asked.borrow_mut().insert((self.path.clone(), name));
    }

    fn below(&self, name: &str) -> String {
        format!("{}.{name}", self.path)
    }

    fn find(&self, name: &'static str) -> Option<Entry<'a>> {
        self.know(name);
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
            path: self.below(name),
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
            self.know(name);
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
        self.know(name);
        self.blocks
            .iter()
            .filter(|block| block.ident.value().as_str() == name)
            .map(|block| Fields {
                path: self.below(name),
                ..Fields::of_block(self.findings, self.at.file, block)
            })
            .collect()
    }

    pub(super) fn nested_blocks(&self, name: &'static str) -> Vec<&'a Block> {
        self.know(name);
        let same = |block: &&&Block| block.ident.value().as_str() == name;
        self.blocks.iter().filter(same).copied().collect()
    }

    /// Fields of the grammar that have no effect here: each that is set makes a note.
    pub(super) fn inert(&self, names: &[&'static str], why: &str) {
        for &name in names {
            self.know(name);
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
