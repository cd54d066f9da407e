//! GraphQL over HTTP: which operation runs, and what it selects. *Pure.*
//!
//! An operation comes in a JSON body, in the query of the URL, in a form, or as the body itself; a
//! JSON list of them is a batch, of which each is judged. Where two of these say something, be it the
//! operation's name alone, or the document holds several operations and none is named, no reading is
//! certain.
//!
//! The document is read by `apollo-parser`, which bounds its own recursion and the tokens it takes.

use std::collections::HashSet;

use apollo_parser::Parser;
use apollo_parser::cst::{CstNode as _, Definition, OperationDefinition, Selection, SelectionSet};
use http::HeaderMap;
use sha2::{Digest as _, Sha256};

use super::form::media_type;
use crate::facts::Blind;
use crate::facts::escape;
use crate::facts::json::{Document, Json};

/// Levels of selections in one document.
pub const DEPTH_MAX: usize = 64;

/// Tokens of one document.
pub const TOKENS_MAX: usize = 20_000;

/// Fields of one operation, through its fragments.
pub const FIELDS_MAX: usize = 2_000;

/// Bytes of all paths of one operation: below a long name each field has it again.
pub const PATHS_BYTES_MAX: usize = 1 << 20;

/// Bytes that the body takes in the facts of all operations of one batch: each is judged beside the whole.
pub const BATCH_BYTES_MAX: usize = 32 << 20;

/// Operations in one batch.
pub const OPERATIONS_MAX: usize = 64;

/// Members of a request that are read here.
const KEYS: &[&str] = &["query", NAME, "extensions"];

/// The member that says which operation of a document runs.
const NAME: &str = "operationName";

/// One operation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Operation {
    /// The name; empty for an anonymous one.
    pub name: String,
    /// `query`, `mutation` or `subscription`.
    pub kind: String,
    /// The fields of the operation itself.
    pub fields: Vec<String>,
    /// Every field as a path.
    pub paths: Vec<String>,
}

/// Where an operation may stand in a request, each read already.
pub struct Places<'a> {
    pub headers: &'a HeaderMap,
    pub query: &'a [(String, Vec<String>)],
    pub form: &'a [(String, Vec<String>)],
    /// The names of a multipart body's parts.
    pub parts: &'a [String],
    pub json: Json<'a>,
    pub text: &'a str,
}

/// An operation that was asked for: its document, and its name.
struct Asked<'a> {
    document: &'a str,
    name: Option<&'a str>,
}

/// The operations of a request; empty for one that is no GraphQL.
///
/// # Errors
/// Why they cannot be had: several places, several operations, a stored document, no GraphQL.
pub fn read(places: &Places<'_>) -> Result<Vec<Operation>, Blind> {
    let kind = media_type(places.headers)?;
    // Uploads: the operations stand in a part of a form.
    if places
        .parts
        .iter()
        .any(|name| name == "operations" || name == "query")
    {
        return Err(Blind::Opaque);
    }
    let mut found = Vec::new();
    for pairs in [places.query, places.form] {
        if let Some(asked) = in_pairs(pairs)? {
            found.push(vec![asked]);
        }
    }
    let whole = kind.as_deref() == Some("application/graphql");
    if whole && !places.text.is_empty() {
        found.push(vec![Asked {
            document: places.text,
            name: None,
        }]);
    } else {
        let asked = in_json(places.json)?;
        if !asked.is_empty() {
            found.push(asked);
        }
    }
    let [asked] = found.as_slice() else {
        return match found.is_empty() {
            true => Ok(Vec::new()),
            false => Err(Blind::Ambiguous),
        };
    };
    // Servers differ in which of several names they run, so one beside the document's own place is
    // certain only where it names the same.
    for pairs in [places.query, places.form] {
        for (_, values) in pairs.iter().filter(|(name, _)| name.eq_ignore_ascii_case(NAME)) {
            let same = |one: &Asked<'_>| values.iter().all(|value| one.name == Some(value.as_str()));
            if !asked.iter().all(same) {
                return Err(Blind::Ambiguous);
            }
        }
    }
    if let Some(name) = places.json.get(NAME)
        && !asked
            .iter()
            .all(|one| one.name == name.as_str().filter(|name| !name.is_empty()))
    {
        return Err(Blind::Ambiguous);
    }
    asked.iter().map(operation).collect()
}

fn in_pairs(pairs: &[(String, Vec<String>)]) -> Result<Option<Asked<'_>>, Blind> {
    let one = |wanted: &str| match pairs.iter().find(|(name, _)| name == wanted) {
        None => Ok(None),
        Some((_, values)) => match values.as_slice() {
            [one] => Ok(Some(one.as_str())),
            _ => Err(Blind::Ambiguous),
        },
    };
    let extensions = one("extensions")?.and_then(|text| super::json::parse(text).ok());
    let stored = persisted(extensions.as_ref().map(Document::root));
    // Many requests have a `query` that is no GraphQL: one that has no selection is none.
    let document = one("query")?.filter(|text| text.contains('{'));
    asked(document, one(NAME)?, stored.as_deref())
}

fn in_json(json: Json<'_>) -> Result<Vec<Asked<'_>>, Blind> {
    match json {
        Json::List(items) => {
            let mut all = Vec::new();
            for item in items.iter() {
                if let Some(asked) = in_object(item)? {
                    if all.len() == OPERATIONS_MAX {
                        return Err(Blind::Truncated);
                    }
                    all.push(asked);
                }
            }
            match all.is_empty() || all.len() == items.len() {
                true => Ok(all),
                false => Err(Blind::Ambiguous),
            }
        }
        one => Ok(in_object(one)?.into_iter().collect()),
    }
}

fn in_object(value: Json<'_>) -> Result<Option<Asked<'_>>, Blind> {
    let Json::Map(object) = value else {
        return Ok(None);
    };
    let text = |key: &str| match object.get(key) {
        None | Some(Json::Null) => Ok(None),
        Some(Json::Text(text)) => Ok(Some(text)),
        Some(_) => Err(Blind::Ambiguous),
    };
    // Some readers do not tell case apart, and would find these.
    let other = |key: &str| {
        KEYS.iter()
            .any(|known| known != &key && known.eq_ignore_ascii_case(key))
    };
    let hides = |(key, value): (&str, Json<'_>)| {
        other(key) && (object.get("query").is_some() || value.as_str().is_some_and(|text| text.contains('{')))
    };
    if object.iter().any(hides) {
        return Err(Blind::Ambiguous);
    }
    // A `query` that is no text, or has no selection, belongs to another API.
    let document = object
        .get("query")
        .and_then(Json::as_str)
        .filter(|text| text.contains('{'));
    let stored = persisted(object.get("extensions"));
    if document.is_none() && stored.is_none() {
        return Ok(None);
    }
    asked(document, text(NAME)?, stored.as_deref())
}

/// The hash of a document that the server has stored.
fn persisted(extensions: Option<Json<'_>>) -> Option<String> {
    let stored = extensions?.get("persistedQuery")?;
    Some(
        stored
            .get("sha256Hash")
            .and_then(Json::as_str)
            .unwrap_or_default()
            .to_owned(),
    )
}

fn asked<'a>(
    document: Option<&'a str>,
    name: Option<&'a str>,
    stored: Option<&str>,
) -> Result<Option<Asked<'a>>, Blind> {
    let Some(document) = document else {
        // What a stored document does is not on the wire.
        return stored.map_or(Ok(None), |_| Err(Blind::Opaque));
    };
    if let Some(stored) = stored {
        let own = Sha256::digest(document.as_bytes());
        if !escape::hex(&own).eq_ignore_ascii_case(stored) {
            return Err(Blind::Ambiguous);
        }
    }
    let name = name.filter(|name| !name.is_empty());
    Ok(Some(Asked { document, name }))
}

/// The operation that a server runs of a document.
fn operation(asked: &Asked<'_>) -> Result<Operation, Blind> {
    let parse = || {
        Parser::new(asked.document)
            .recursion_limit(DEPTH_MAX)
            .token_limit(TOKENS_MAX)
            .parse()
    };
    let tree = std::panic::catch_unwind(parse).map_err(|_| Blind::Unparseable)?;
    if tree.errors().len() > 0 {
        return Err(Blind::Unparseable);
    }
    let mut operations = Vec::new();
    let mut fragments: Vec<(String, SelectionSet)> = Vec::new();
    for definition in tree.document().definitions() {
        match definition {
            Definition::OperationDefinition(one) => operations.push(one),
            Definition::FragmentDefinition(one) => {
                let name = one.fragment_name().and_then(|name| name.name());
                let name = name.ok_or(Blind::Unparseable)?.text().to_string();
                if fragments.iter().any(|(known, _)| *known == name) {
                    return Err(Blind::Ambiguous);
                }
                fragments.push((name, one.selection_set().ok_or(Blind::Unparseable)?));
            }
            // A schema is nothing that runs.
            _ => return Err(Blind::Ambiguous),
        }
    }
    let named = |one: &OperationDefinition| one.name().map(|name| name.text().to_string());
    let mut chosen = operations
        .iter()
        .filter(|one| asked.name.is_none() || named(one).as_deref() == asked.name);
    let (Some(one), None) = (chosen.next(), chosen.next()) else {
        return Err(Blind::Ambiguous);
    };
    let mut walk = Walk {
        fragments: &fragments,
        within: Vec::new(),
        seen: HashSet::new(),
        bytes: 0,
        taken: 0,
        out: Operation {
            name: named(one).unwrap_or_default(),
            kind: kind_of(one),
            ..Operation::default()
        },
    };
    walk.selections(&one.selection_set().ok_or(Blind::Unparseable)?, "", 0)?;
    Ok(walk.out)
}

fn kind_of(operation: &OperationDefinition) -> String {
    let Some(kind) = operation.operation_type() else {
        return "query".to_owned();
    };
    kind.syntax().text().to_string().trim().to_owned()
}

struct Walk<'a> {
    fragments: &'a [(String, SelectionSet)],
    /// The fragments that are being walked.
    within: Vec<String>,
    seen: HashSet<String>,
    taken: usize,
    /// Bytes of the paths.
    bytes: usize,
    out: Operation,
}

impl Walk<'_> {
    fn selections(&mut self, set: &SelectionSet, path: &str, depth: usize) -> Result<(), Blind> {
        if depth > DEPTH_MAX {
            return Err(Blind::Truncated);
        }
        for selection in set.selections() {
            self.taken += 1;
            if self.taken > FIELDS_MAX {
                return Err(Blind::Truncated);
            }
            match selection {
                Selection::Field(field) => {
                    let name = field.name().ok_or(Blind::Unparseable)?.text().to_string();
                    self.bytes = self.bytes.saturating_add(path.len() + name.len());
                    if self.bytes > PATHS_BYTES_MAX {
                        return Err(Blind::Truncated);
                    }
                    let own = match path {
                        "" => name.clone(),
                        path => format!("{path}.{name}"),
                    };
                    if path.is_empty() && !self.out.fields.contains(&name) {
                        self.out.fields.push(name);
                    }
                    if self.seen.insert(own.clone()) {
                        self.out.paths.push(own.clone());
                    }
                    if let Some(inner) = field.selection_set() {
                        self.selections(&inner, &own, depth + 1)?;
                    }
                }
                Selection::InlineFragment(fragment) => {
                    let inner = fragment.selection_set().ok_or(Blind::Unparseable)?;
                    self.selections(&inner, path, depth + 1)?;
                }
                Selection::FragmentSpread(spread) => {
                    let name = spread.fragment_name().and_then(|name| name.name());
                    let name = name.ok_or(Blind::Unparseable)?.text().to_string();
                    // One that leads back to itself is refused by every server.
                    if self.within.contains(&name) {
                        return Err(Blind::Ambiguous);
                    }
                    let fragments = self.fragments;
                    let found = fragments.iter().find(|(known, _)| *known == name);
                    let (_, inner) = found.ok_or(Blind::Ambiguous)?;
                    self.within.push(name);
                    self.selections(inner, path, depth + 1)?;
                    self.within.pop();
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "graphql_tests.rs"]
mod tests;
