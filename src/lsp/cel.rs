//! Conditions: which facts and functions may stand at a place, and what those there are. *Pure.*

use std::collections::BTreeSet;
use std::ops::Range;

use lsp_types::CompletionItemKind;

use super::complete::Offer;
use super::cursor::File;
use super::scan::is_word;
use crate::facts::{Family, Kind as FactKind, Slot};
use crate::policy::guide::{self, manual};

const FAMILIES: [Family; 5] = [Family::Http, Family::Sql, Family::K8s, Family::Mcp, Family::Agent];

/// What may stand at a place of a rule's condition, and the word there.
pub(super) fn complete(
    file: &File,
    block: usize,
    text: &Range<usize>,
    offset: usize,
) -> (Vec<Offer>, Range<usize>) {
    let before = file.slice(&(text.start..offset));
    if is_quoted(before) {
        return (Vec::new(), offset..offset);
    }
    let chain = file.word(offset, is_chain).start.max(text.start)..offset;
    let written = file.slice(&chain);
    let (base, partial) = match written.rsplit_once('.') {
        Some((base, partial)) => (Some(base), partial),
        None => (None, written),
    };
    let word = offset - partial.len()..file.word(offset, is_name).end.min(text.end);
    let families = families(file, block);
    let offers = match base {
        None => beginnings(&families),
        Some(base) => match facts(base, &families) {
            facts if !facts.is_empty() => facts,
            _ => functions(base, &families),
        },
    };
    (offers, word)
}

/// Markdown on the name at a place of a condition, and the name's range.
pub(super) fn hover(
    file: &File,
    block: usize,
    text: &Range<usize>,
    offset: usize,
) -> Option<(String, Range<usize>)> {
    if is_quoted(file.slice(&(text.start..offset))) {
        return None;
    }
    let name = file.word(offset, is_name);
    let name = name.start.max(text.start)..name.end.min(text.end);
    let start = file.word(name.end, is_chain).start.max(text.start);
    let written = file.slice(&(start..name.end));
    let own = file.slice(&name);
    if own.is_empty() {
        return None;
    }
    let families = families(file, block);
    let said = match slot(written, &families) {
        Some(slot) => fact(slot),
        None => match families.iter().find(|family| family.name() == written) {
            Some(family) => {
                let names: Vec<&str> = Slot::of_family(*family).map(Slot::name).collect();
                format!("`{family}` has the facts: {}", names.join(", "))
            }
            None => {
                let is_member = written.len() > own.len() || before_is_dot(file, start);
                let space = manual::all().find(|entry| !entry.member && entry.name == written);
                let member = || manual::all().find(|entry| entry.member && is_member && entry.name == own);
                let entry = space.or_else(member)?;
                format!("```\n{}\n```\n{}", entry.signature, entry.doc)
            }
        },
    };
    Some((said, name))
}

fn before_is_dot(file: &File, start: usize) -> bool {
    file.text
        .get(..start)
        .is_some_and(|before| before.trim_end().ends_with('.'))
}

fn fact(slot: Slot) -> String {
    format!(
        "`{}.{}`: {}\n\n{}",
        slot.family(),
        slot.name(),
        type_name(slot.kind()),
        slot.doc()
    )
}

fn type_name(kind: FactKind) -> &'static str {
    match kind {
        FactKind::Bool => "bool",
        FactKind::OptionalInt => "int or null",
        FactKind::Int => "int",
        FactKind::Text => "string",
        FactKind::Texts => "list(string)",
        FactKind::Json => "dyn",
        FactKind::Map => "map(string, string)",
        FactKind::MultiMap => "map(string, list(string))",
    }
}

/// The families of the endpoints that a rule names, and the agent's; all where none is known.
fn families(file: &File, block: usize) -> Vec<Family> {
    let mut types = BTreeSet::new();
    for entry in file
        .tree
        .entries
        .iter()
        .filter(|entry| entry.parent == Some(block))
    {
        if matches!(file.slice(&entry.name), "endpoint" | "endpoints") {
            let value = file.slice(&entry.value);
            let words = value.split(|char: char| !(is_word(char) || char == '.'));
            types.extend(words.filter_map(|word| Some(word.split_once('.')?.0)));
        }
    }
    let mut families: Vec<Family> = types.iter().filter_map(|name| guide::family(name)).collect();
    if families.is_empty() {
        return FAMILIES.to_vec();
    }
    families.dedup();
    if !families.contains(&Family::Agent) {
        families.push(Family::Agent);
    }
    families
}

fn beginnings(families: &[Family]) -> Vec<Offer> {
    let families = families.iter().map(|family| Offer {
        detail: "facts".to_owned(),
        ..Offer::new(family.name(), CompletionItemKind::MODULE)
    });
    families
        .chain(
            manual::all()
                .filter(|entry| !entry.member)
                .map(|entry| entry_offer(entry, "")),
        )
        .collect()
}

fn entry_offer(entry: &manual::Entry, space: &str) -> Offer {
    let name = entry.name.strip_prefix(space).unwrap_or(entry.name);
    Offer {
        detail: entry.signature.to_owned(),
        doc: entry.doc.to_owned(),
        ..Offer::new(name, CompletionItemKind::FUNCTION)
    }
}

/// The facts behind `family.` or `family.group.`.
fn facts(base: &str, families: &[Family]) -> Vec<Offer> {
    let (family, group) = base.split_once('.').unwrap_or((base, ""));
    let Some(family) = families.iter().find(|own| own.name() == family) else {
        return Vec::new();
    };
    let own = Slot::of_family(*family).filter_map(|slot| {
        let rest = match group {
            "" => slot.name(),
            group => slot.name().strip_prefix(group)?.strip_prefix('.')?,
        };
        Some(Offer {
            detail: type_name(slot.kind()).to_owned(),
            doc: slot.doc().to_owned(),
            ..Offer::new(rest, CompletionItemKind::FIELD)
        })
    });
    own.collect()
}

/// The functions of a namespace, or those that a value may have.
fn functions(base: &str, families: &[Family]) -> Vec<Offer> {
    let space = format!("{base}.");
    let named: Vec<Offer> = manual::all()
        .filter(|entry| !entry.member && entry.name.starts_with(&space))
        .map(|entry| entry_offer(entry, &space))
        .collect();
    if !named.is_empty() {
        return named;
    }
    let receiver = match slot(base, families).map(Slot::kind) {
        Some(FactKind::Text) => "string.",
        Some(FactKind::Texts | FactKind::Map | FactKind::MultiMap) => "list.",
        _ => "",
    };
    let members = manual::all().filter(|entry| entry.member);
    let fits = |entry: &&manual::Entry| {
        entry.signature.starts_with(receiver) || entry.signature.starts_with("value.")
    };
    members.filter(fits).map(|entry| entry_offer(entry, "")).collect()
}

fn slot(written: &str, families: &[Family]) -> Option<Slot> {
    let (family, name) = written.split_once('.')?;
    let family = families.iter().find(|own| own.name() == family)?;
    Slot::find(*family, name)
}

fn is_name(char: char) -> bool {
    char.is_ascii_alphanumeric() || char == '_'
}

fn is_chain(char: char) -> bool {
    is_name(char) || char == '.'
}

/// Whether a text of CEL is open at the end. In a quoted text of HCL, `\"` is a quote of CEL.
fn is_quoted(before: &str) -> bool {
    let mut open = None;
    let mut chars = before.chars().peekable();
    while let Some(char) = chars.next() {
        match (open, char) {
            (_, '\\') if chars.peek() == Some(&'"') => {}
            (_, '\\') => {
                chars.next();
            }
            (None, '"' | '\'') => open = Some(char),
            (Some(own), char) if own == char => open = None,
            (None, '/') if chars.peek() == Some(&'/') => {
                // A comment of CEL, to the end of its line.
                while chars.next_if(|char| *char != '\n').is_some() {}
                if chars.peek().is_none() {
                    return true;
                }
            }
            _ => {}
        }
    }
    open.is_some()
}
