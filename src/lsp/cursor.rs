//! What a place in a file is: a field's name, a label, a value, a condition. *Pure.*

use std::ops::Range;
use std::path::PathBuf;

use super::scan::{Tree, is_word};
use crate::policy::guide::{self, Field, Kind, Shape, Table};

/// A file of the policy, read.
pub(super) struct File {
    pub(super) path: PathBuf,
    pub(super) text: String,
    pub(super) tree: Tree,
}

/// A block that a reference may name.
pub(super) struct Declared<'a> {
    pub(super) file: &'a File,
    pub(super) block: usize,
    /// As a reference writes it: `https.github`, `policy.reads`.
    pub(super) key: String,
}

/// What stands at a place.
pub(super) enum Cursor {
    /// A field's or a block's name, in this block or at the top.
    Name {
        block: Option<usize>,
        word: Range<usize>,
    },
    /// A label of a block, by its index.
    Label {
        block: usize,
        index: usize,
        word: Range<usize>,
    },
    /// A field's value.
    Value {
        field: &'static Field,
    },
    /// CEL; the text without its quotes.
    Condition {
        block: usize,
        text: Range<usize>,
    },
    Nothing,
}

impl File {
    pub(super) fn new(path: PathBuf, text: String) -> File {
        let tree = Tree::of(&text);
        File { path, text, tree }
    }

    pub(super) fn slice(&self, range: &Range<usize>) -> &str {
        self.text.get(range.clone()).unwrap_or_default()
    }

    pub(super) fn keyword(&self, block: usize) -> &str {
        let block = self.tree.blocks.get(block);
        block.map_or("", |block| self.slice(&block.keyword))
    }

    /// The first label of a block whose kind has types.
    pub(super) fn type_of(&self, block: usize) -> &str {
        let typed = guide::kind(self.keyword(block)).is_some_and(|kind| kind.labels() == 2);
        let label = self.tree.blocks.get(block).and_then(|block| block.labels.first());
        label.filter(|_| typed).map_or("", |label| self.slice(label))
    }

    /// The fields of a block, or those at the top.
    pub(super) fn table(&self, block: Option<usize>) -> Option<&'static Table> {
        let Some(index) = block else {
            return Some(guide::FILE);
        };
        let own = self.tree.blocks.get(index)?;
        let keyword = self.slice(&own.keyword);
        let Some(parent) = own.parent else {
            let found = guide::blocks().find(|(name, _)| *name == keyword);
            return found.filter(|_| !own.is_object).map(|(_, table)| table);
        };
        match self
            .table(Some(parent))?
            .field(keyword, self.type_of(parent))?
            .shape
        {
            Shape::Block(table) => Some(table),
            Shape::References(Kind::Credential) if own.is_object => Some(guide::HELD),
            _ => None,
        }
    }

    pub(super) fn field(&self, block: Option<usize>, name: &str) -> Option<&'static Field> {
        self.table(block)?
            .field(name, block.map_or("", |block| self.type_of(block)))
    }

    /// The word round a place, of these characters.
    pub(super) fn word(&self, offset: usize, within: impl Fn(char) -> bool) -> Range<usize> {
        let before = self.text.get(..offset).unwrap_or_default();
        let start = before.rfind(|char| !within(char)).map_or(0, |index| {
            index
                + before
                    .get(index..)
                    .and_then(|rest| rest.chars().next())
                    .map_or(1, char::len_utf8)
        });
        let after = self.text.get(offset..).unwrap_or_default();
        let end = offset + after.find(|char| !within(char)).unwrap_or(after.len());
        start..end
    }

    pub(super) fn cursor(&self, offset: usize) -> Cursor {
        let in_comment = |comment: &Range<usize>| comment.start < offset && offset <= comment.end;
        if self.tree.comments.iter().any(in_comment) {
            return Cursor::Nothing;
        }
        let block = self.tree.block_at(offset);
        let mut entries = self.tree.entries.iter().rev();
        let entry = entries
            .find(|entry| entry.parent == block && entry.value.start <= offset && offset <= entry.value.end);
        if let Some(entry) = entry {
            let Some(field) = self.field(block, self.slice(&entry.name)) else {
                return Cursor::Nothing;
            };
            return match (field.shape, block, self.tree.text_at(offset)) {
                (Shape::Condition, Some(block), Some(text)) => Cursor::Condition { block, text },
                (Shape::Condition, _, _) => Cursor::Nothing,
                _ => Cursor::Value { field },
            };
        }
        let header = self.tree.blocks.iter().rposition(|own| {
            let end = own
                .body
                .as_ref()
                .map_or(own.span.end, |body| body.start.saturating_sub(1));
            own.parent == block && !own.is_object && own.keyword.end < offset && offset <= end
        });
        if let Some(header) = header
            && let Some(own) = self.tree.blocks.get(header)
        {
            let index = own.labels.iter().filter(|label| label.end < offset).count();
            let label = own.labels.get(index).filter(|label| label.start <= offset);
            let word = label.cloned().unwrap_or(offset..offset);
            return Cursor::Label {
                block: header,
                index,
                word,
            };
        }
        if self.tree.text_at(offset).is_some() {
            return Cursor::Nothing;
        }
        Cursor::Name {
            block,
            word: self.word(offset, is_word),
        }
    }
}

/// Every block of a kind.
pub(super) fn declared(files: &[File], kind: Kind) -> impl Iterator<Item = Declared<'_>> {
    let all = files.iter().flat_map(|file| {
        let blocks = file.tree.blocks.iter().enumerate();
        blocks.map(move |(index, block)| (file, index, block))
    });
    all.filter_map(move |(file, index, block)| {
        let labels: Vec<&str> = block.labels.iter().map(|label| file.slice(label)).collect();
        let key = match (kind.labels(), labels.as_slice()) {
            (1, [name]) => format!("{}.{name}", kind.name()),
            (2, [type_name, name]) => format!("{type_name}.{name}"),
            _ => return None,
        };
        let of_kind = block.parent.is_none() && !block.is_object && file.keyword(index) == kind.name();
        of_kind.then_some(Declared {
            file,
            block: index,
            key,
        })
    })
}

/// The block that a reference means; one of a single label may be named by it alone.
pub(super) fn find<'a>(files: &'a [File], kind: Kind, written: &str) -> Option<Declared<'a>> {
    let short = format!("{}.{written}", kind.name());
    declared(files, kind).find(|one| one.key == written || (kind.labels() == 1 && one.key == short))
}

/// The kind that a field's references are of.
pub(super) fn reference(field: &Field) -> Option<Kind> {
    match field.shape {
        Shape::Reference(kind) | Shape::References(kind) => Some(kind),
        _ => None,
    }
}

pub(super) fn is_reference(char: char) -> bool {
    is_word(char) || char == '.'
}
