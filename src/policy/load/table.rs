//! The table of what a configuration may hold: every block with its types, every field with its
//! shape and one sentence. *Pure.*
//!
//! The loader asks for each field by name. A test loads a policy that has every block and compares
//! what was asked for with this table, both ways, so an editor cannot say otherwise than the loader.

#![cfg_attr(not(feature = "daemon"), allow(dead_code, reason = "editors read it"))]

mod block;
mod channel;
mod gateway;
#[cfg(test)]
mod tests;

use super::{KINDS, Kind, approver, channel as channels, credential, endpoint};
use crate::facts::Family;

/// What may stand behind a field's `=`, or that it is a block.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Shape {
    Text,
    Texts,
    Flag,
    Whole,
    /// Seconds, or `90s`, `5m`, `24h`.
    Time,
    /// One of these texts.
    OneOf(&'static [&'static str]),
    Reference(Kind),
    References(Kind),
    /// `env("…")`, `file("…")`, `vault("…")`; never the secret itself.
    Secret,
    /// CEL over the facts of the rule's endpoints.
    Condition,
    /// A nested block.
    Block(&'static Table),
    /// Read, and without effect here.
    Inert,
}

impl Shape {
    /// How a person reads it.
    pub(crate) fn name(self) -> String {
        match self {
            Shape::Text => "string".to_owned(),
            Shape::Texts => "list of strings".to_owned(),
            Shape::Flag => "true or false".to_owned(),
            Shape::Whole => "whole number".to_owned(),
            Shape::Time => "time: seconds, or \"90s\", \"5m\", \"24h\"".to_owned(),
            Shape::OneOf(values) => {
                let quoted: Vec<String> = values.iter().map(|value| format!("\"{value}\"")).collect();
                quoted.join(" | ")
            }
            Shape::Reference(kind) => format!("reference to a block `{}`", kind.name()),
            Shape::References(kind) => format!("list of references to blocks `{}`", kind.name()),
            Shape::Secret => "env(\"NAME\"), file(\"path\") or vault(\"path#field\")".to_owned(),
            Shape::Condition => "condition in CEL".to_owned(),
            Shape::Block(_) => "block".to_owned(),
            Shape::Inert => "no effect here".to_owned(),
        }
    }
}

/// One field of a block.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Field {
    pub(crate) name: &'static str,
    pub(crate) shape: Shape,
    /// One sentence.
    pub(crate) doc: &'static str,
    /// The types of the block that have it; all if empty.
    pub(crate) types: &'static [&'static str],
}

impl Field {
    const fn new(name: &'static str, shape: Shape, doc: &'static str) -> Field {
        Field {
            name,
            shape,
            doc,
            types: &[],
        }
    }

    const fn inert(name: &'static str, doc: &'static str) -> Field {
        Field::new(name, Shape::Inert, doc)
    }

    const fn of(self, types: &'static [&'static str]) -> Field {
        Field { types, ..self }
    }
}

/// A block, or the top of a file.
#[derive(Debug)]
pub(crate) struct Table {
    /// One sentence.
    pub(crate) doc: &'static str,
    groups: &'static [&'static [Field]],
}

impl Table {
    pub(crate) fn fields(&self) -> impl Iterator<Item = &'static Field> {
        self.groups.iter().flat_map(|group| group.iter())
    }

    /// The field that a block of this type means; the first of its name if the type is not known.
    pub(crate) fn field(&self, name: &str, type_name: &str) -> Option<&'static Field> {
        let of_type = |field: &&Field| field.types.is_empty() || field.types.contains(&type_name);
        let named = || self.fields().filter(|field| field.name == name);
        named().find(of_type).or_else(|| named().next())
    }
}

/// The fields of older files that stand outside of every block.
pub(crate) static FILE: &Table = &gateway::FILE;

/// The objects among a profile's `credentials`.
pub(crate) static HELD: &Table = &block::HELD;

/// Every block that may stand at the top of a file.
pub(crate) fn blocks() -> impl Iterator<Item = (&'static str, &'static Table)> {
    let kinds = KINDS.iter().map(|kind| (kind.name(), of_kind(*kind)));
    kinds.chain(gateway::SINGLES.iter().map(|(name, table)| (*name, *table)))
}

fn of_kind(kind: Kind) -> &'static Table {
    match kind {
        Kind::Endpoint => &block::ENDPOINT,
        Kind::Credential => &block::CREDENTIAL,
        Kind::Approver => &block::APPROVER,
        Kind::Channel => &channel::CHANNEL,
        Kind::Tunnel => &block::TUNNEL,
        Kind::Policy => &block::POLICY,
        Kind::Environment => &block::ENVIRONMENT,
        Kind::Profile => &block::PROFILE,
        Kind::Rule => &block::RULE,
    }
}

/// The kind of labelled block that a word begins.
pub(crate) fn kind(name: &str) -> Option<Kind> {
    KINDS.iter().copied().find(|kind| kind.name() == name)
}

/// The types that a block may name in its first label, each with one sentence.
pub(crate) fn types(kind: Kind) -> Vec<(&'static str, &'static str)> {
    match kind {
        Kind::Endpoint => endpoint::TYPES.iter().map(|row| (row.0, row.4)).collect(),
        Kind::Credential => credential::TYPES
            .iter()
            .copied()
            .chain(
                credential::UNREAD
                    .iter()
                    .map(|name| (*name, "Bound and never sent: its use is refused.")),
            )
            .collect(),
        Kind::Approver => approver::TYPES.to_vec(),
        Kind::Channel => channels::TYPES.to_vec(),
        _ => Vec::new(),
    }
}

/// The family whose facts the rules of an endpoint of this type read.
pub(crate) fn family(endpoint_type: &str) -> Option<Family> {
    let row = endpoint::TYPES.iter().find(|row| row.0 == endpoint_type);
    row.map(|row| row.2)
}
