//! What may stand at a place. *Pure.*

use std::ops::Range;

use lsp_types::{
    CompletionItem, CompletionItemKind, CompletionList, CompletionTextEdit, Documentation, TextEdit,
};

use super::cel;
use super::cursor::{Cursor, File, declared, is_reference, reference};
use super::position::Lines;
use super::scan::is_word;
use crate::policy::guide::{self, Field, Shape};

/// Most items that are offered at once; what is typed on narrows them.
pub(crate) const ITEMS_MAX: usize = 1_000;

/// One thing that may be written.
pub(super) struct Offer {
    pub(super) label: String,
    /// What is written, if that is more than the label.
    pub(super) text: Option<String>,
    pub(super) kind: CompletionItemKind,
    pub(super) detail: String,
    pub(super) doc: String,
}

impl Offer {
    pub(super) fn new(label: impl Into<String>, kind: CompletionItemKind) -> Offer {
        Offer {
            label: label.into(),
            text: None,
            kind,
            detail: String::new(),
            doc: String::new(),
        }
    }
}

/// What may stand at a place of a file of the policy.
pub(super) fn complete(files: &[File], file: &File, offset: usize) -> CompletionList {
    let (offers, word) = match file.cursor(offset) {
        Cursor::Name { block, word } => (names(file, block, &word), word),
        Cursor::Label { block, index, word } => (labels(file, block, index, &word), word),
        Cursor::Value { field } => values(files, file, field, offset),
        Cursor::Condition { block, text } => cel::complete(file, block, &text, offset),
        Cursor::Nothing => (Vec::new(), offset..offset),
    };
    list(file, offers, word, offset)
}

fn list(file: &File, mut offers: Vec<Offer>, word: Range<usize>, offset: usize) -> CompletionList {
    let is_incomplete = offers.len() > ITEMS_MAX;
    if is_incomplete {
        let typed = file.slice(&(word.start..offset)).to_ascii_lowercase();
        offers.retain(|offer| offer.label.to_ascii_lowercase().starts_with(&typed));
        offers.truncate(ITEMS_MAX);
    }
    let range = Lines::new(&file.text).range(word);
    let items = offers.into_iter().map(|offer| CompletionItem {
        kind: Some(offer.kind),
        detail: Some(offer.detail).filter(|text| !text.is_empty()),
        documentation: Some(offer.doc)
            .filter(|text| !text.is_empty())
            .map(Documentation::String),
        text_edit: Some(CompletionTextEdit::Edit(TextEdit {
            range,
            new_text: offer.text.unwrap_or_else(|| offer.label.clone()),
        })),
        label: offer.label,
        ..CompletionItem::default()
    });
    CompletionList {
        is_incomplete,
        items: items.collect(),
    }
}

/// Fields and blocks that a block may have and has not, or the blocks of a file.
fn names(file: &File, block: Option<usize>, word: &Range<usize>) -> Vec<Offer> {
    let Some(index) = block else {
        let blocks = guide::blocks();
        return blocks
            .map(|(name, table)| Offer {
                text: Some(format!("{name} ")),
                doc: table.doc.to_owned(),
                ..Offer::new(name, CompletionItemKind::KEYWORD)
            })
            .collect();
    };
    let Some(table) = file.table(block) else {
        return Vec::new();
    };
    let type_name = file.type_of(index);
    let is_set = |name: &str| {
        let mut own = file.tree.entries.iter().filter(|entry| entry.parent == block);
        own.any(|entry| file.slice(&entry.name) == name && entry.name != *word)
    };
    let is_own = |field: &&Field| {
        let types = field.types;
        types.is_empty() || type_name.is_empty() || types.contains(&type_name)
    };
    let fields = table.fields().filter(is_own);
    let mut offers: Vec<Offer> = fields
        .filter(|field| !matches!(field.shape, Shape::Inert) && !is_set(field.name))
        .map(|field| {
            let is_block = matches!(field.shape, Shape::Block(_));
            let follows = file
                .text
                .get(word.end..)
                .unwrap_or_default()
                .trim_start_matches([' ', '\t']);
            let text = match (follows.starts_with(['=', '{', '"']), is_block) {
                (true, _) => None,
                (_, true) => Some(format!("{} ", field.name)),
                (_, false) => Some(format!("{} = ", field.name)),
            };
            let kind = if is_block {
                CompletionItemKind::STRUCT
            } else {
                CompletionItemKind::FIELD
            };
            Offer {
                text,
                detail: field.shape.name(),
                doc: field.doc.to_owned(),
                ..Offer::new(field.name, kind)
            }
        })
        .collect();
    offers.dedup_by(|a, b| a.label == b.label);
    offers
}

fn labels(file: &File, block: usize, index: usize, word: &Range<usize>) -> Vec<Offer> {
    let top = file
        .tree
        .blocks
        .get(block)
        .is_some_and(|block| block.parent.is_none());
    let Some(kind) = guide::kind(file.keyword(block)).filter(|_| top && index == 0) else {
        return Vec::new();
    };
    let quoted = file
        .text
        .get(..word.start)
        .is_some_and(|before| before.ends_with('"'));
    let types = guide::types(kind).into_iter();
    types
        .map(|(name, doc)| Offer {
            text: (!quoted).then(|| format!("\"{name}\"")),
            doc: doc.to_owned(),
            ..Offer::new(name, CompletionItemKind::CLASS)
        })
        .collect()
}

fn values(files: &[File], file: &File, field: &Field, offset: usize) -> (Vec<Offer>, Range<usize>) {
    let text = file.tree.text_at(offset);
    if let (Shape::OneOf(values), text) = (field.shape, &text) {
        let offers = values.iter().map(|value| Offer {
            text: text.is_none().then(|| format!("\"{value}\"")),
            doc: field.doc.to_owned(),
            ..Offer::new(*value, CompletionItemKind::ENUM_MEMBER)
        });
        let word = text.clone().unwrap_or_else(|| file.word(offset, is_word));
        return (offers.collect(), word);
    }
    if text.is_some() {
        return (Vec::new(), offset..offset);
    }
    let plain = |values: &[&str], kind| values.iter().map(|value| Offer::new(*value, kind)).collect();
    let offers = match (field.shape, reference(field)) {
        (_, Some(kind)) => declared(files, kind)
            .map(|one| Offer {
                detail: kind.name().to_owned(),
                ..Offer::new(one.key, CompletionItemKind::REFERENCE)
            })
            .collect(),
        (Shape::Flag, _) => plain(&["true", "false"], CompletionItemKind::VALUE),
        (Shape::Secret, _) => plain(
            &["env(\"NAME\")", "file(\"path\")", "vault(\"path#field\")"],
            CompletionItemKind::FUNCTION,
        ),
        _ => Vec::new(),
    };
    (offers, file.word(offset, is_reference))
}
