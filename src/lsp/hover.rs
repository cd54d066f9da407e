//! What the thing at a place is, where it is declared, and what a file declares. *Pure.*

use std::ops::Range;

use lsp_types::{DocumentSymbol, SymbolKind};

use super::cel;
use super::cursor::{Cursor, Declared, File, find, is_reference, reference};
use super::position::Lines;
use crate::policy::guide::{self, Field, Shape};

/// Deepest blocks that are shown in an outline, and most of one file.
const OUTLINE_DEPTH_MAX: usize = 8;
pub(crate) const OUTLINE_MAX: usize = 10_000;

/// Longest value that a hover text shows, bytes.
const VALUE_BYTES_MAX: usize = 400;

/// Markdown on the thing at a place, and its range.
pub(super) fn hover(files: &[File], file: &File, offset: usize) -> Option<(String, Range<usize>)> {
    match file.cursor(offset) {
        Cursor::Name { block, word } => {
            let name = file.slice(&word);
            let top = guide::blocks().find(|(own, _)| block.is_none() && *own == name);
            let said = match (top, file.field(block, name)) {
                (Some((_, table)), _) => format!("`{name}`\n\n{}", table.doc),
                (None, Some(field)) => described(field),
                (None, None) => return None,
            };
            Some((said, word))
        }
        Cursor::Label { block, index, word } => {
            let kind = guide::kind(file.keyword(block)).filter(|_| index == 0)?;
            let name = file.slice(&word);
            let mut types = guide::types(kind).into_iter();
            let (_, doc) = types.find(|(own, _)| *own == name)?;
            Some((format!("{} of type `{name}`\n\n{doc}", kind.name()), word))
        }
        Cursor::Value { field } => {
            let (declared, word) = declaration(files, file, field, offset)?;
            Some((shown(&declared), word))
        }
        Cursor::Condition { block, text } => cel::hover(file, block, &text, offset),
        Cursor::Nothing => None,
    }
}

fn described(field: &Field) -> String {
    format!("`{}`: {}\n\n{}", field.name, field.shape.name(), field.doc)
}

fn declaration<'a>(
    files: &'a [File],
    file: &File,
    field: &Field,
    offset: usize,
) -> Option<(Declared<'a>, Range<usize>)> {
    let kind = reference(field).filter(|_| file.tree.text_at(offset).is_none())?;
    let word = file.word(offset, is_reference);
    Some((find(files, kind, file.slice(&word))?, word))
}

/// The block that the reference at a place means, as its file and the range of its last label.
pub(super) fn definition<'a>(
    files: &'a [File],
    file: &File,
    offset: usize,
) -> Option<(&'a File, Range<usize>)> {
    let Cursor::Value { field } = file.cursor(offset) else {
        return None;
    };
    let (declared, _) = declaration(files, file, field, offset)?;
    let block = declared.file.tree.blocks.get(declared.block)?;
    let range = block.labels.last().unwrap_or(&block.keyword);
    Some((declared.file, range.clone()))
}

/// A declared block with its fields. Where a secret may stand, its source is left out.
fn shown(declared: &Declared<'_>) -> String {
    let file = declared.file;
    let mut out = format!(
        "```hcl\n{} {} {{\n",
        file.keyword(declared.block),
        quoted(file, declared.block)
    );
    let own = |parent: Option<usize>| parent == Some(declared.block);
    for entry in file.tree.entries.iter().filter(|entry| own(entry.parent)) {
        let name = file.slice(&entry.name);
        let field = file.field(Some(declared.block), name);
        if field.is_none_or(|field| matches!(field.shape, Shape::Secret)) {
            continue;
        }
        let value = file.slice(&entry.value).trim();
        let end = (0..=VALUE_BYTES_MAX.min(value.len()))
            .rev()
            .find(|end| value.is_char_boundary(*end));
        let cut = value.get(..end.unwrap_or(0)).unwrap_or_default();
        let more = if cut.len() < value.len() { " …" } else { "" };
        // A fence in a value would end this one.
        out.push_str(&format!("  {name} = {}{more}\n", cut.replace("```", "'''")));
    }
    out.push_str("}\n```");
    out
}

fn quoted(file: &File, block: usize) -> String {
    let labels = file.tree.blocks.get(block).map_or(&[][..], |block| &block.labels);
    let labels: Vec<String> = labels
        .iter()
        .map(|label| format!("\"{}\"", file.slice(label)))
        .collect();
    labels.join(" ")
}

/// The blocks of a file, with those inside them.
pub(super) fn outline(file: &File) -> Vec<DocumentSymbol> {
    let mut children: Vec<Vec<usize>> = vec![Vec::new(); file.tree.blocks.len() + 1];
    for (index, block) in file.tree.blocks.iter().enumerate().take(OUTLINE_MAX) {
        let parent = block.parent.map_or(0, |parent| parent + 1);
        if !block.is_object
            && let Some(own) = children.get_mut(parent)
        {
            own.push(index);
        }
    }
    let lines = Lines::new(&file.text);
    symbols(file, &lines, &children, 0, OUTLINE_DEPTH_MAX)
}

fn symbols(
    file: &File,
    lines: &Lines<'_>,
    children: &[Vec<usize>],
    of: usize,
    depth: usize,
) -> Vec<DocumentSymbol> {
    let own = children.get(of).map_or(&[][..], Vec::as_slice);
    let found = own.iter().filter_map(|&index| {
        let block = file.tree.blocks.get(index)?;
        let keyword = file.keyword(index);
        let labels: Vec<&str> = block.labels.iter().map(|label| file.slice(label)).collect();
        let name = if labels.is_empty() {
            keyword.to_owned()
        } else {
            labels.join(".")
        };
        // Editors refuse a symbol without a name.
        let name = if name.is_empty() { keyword.to_owned() } else { name };
        let below = match depth {
            0 => Vec::new(),
            _ => symbols(file, lines, children, index + 1, depth - 1),
        };
        #[allow(deprecated, reason = "the type has a field that the protocol has given up")]
        Some(DocumentSymbol {
            name,
            detail: Some(keyword.to_owned()),
            kind: symbol(keyword),
            tags: None,
            deprecated: None,
            range: lines.range(block.span.clone()),
            selection_range: lines.range(block.keyword.clone()),
            children: Some(below).filter(|below| !below.is_empty()),
        })
    });
    found.collect()
}

fn symbol(keyword: &str) -> SymbolKind {
    match keyword {
        "rule" => SymbolKind::FUNCTION,
        "profile" => SymbolKind::NAMESPACE,
        "endpoint" => SymbolKind::INTERFACE,
        "credential" => SymbolKind::KEY,
        _ => SymbolKind::OBJECT,
    }
}
