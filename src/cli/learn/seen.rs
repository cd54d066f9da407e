//! What of a record is learned from: nothing of which the facts leave open what was done. *Pure.*

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::Value;

use crate::facts::Family;

/// One action that was seen.
pub(super) struct Seen {
    pub(super) family: Family,
    pub(super) endpoint: Arc<str>,
    pub(super) credential: Option<Arc<str>>,
    pub(super) record: Value,
    pub(super) action: Action,
}

pub(super) enum Action {
    /// The method, and the path.
    Http(String, String),
    /// What it does and to what, which is learned as a whole; and what it reads.
    Sql(Change, Reads),
    /// The verb; group, resource and namespace.
    K8s(String, [String; 3]),
    /// The path; query, mutation or subscription; the operation's own fields.
    Graphql(String, String, BTreeSet<String>),
    /// The message's kind and method; which fact names what it is about, and that name.
    Mcp(String, String, Option<(&'static str, String)>),
}

/// What a statement does but read.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Change {
    pub(super) verbs: BTreeSet<String>,
    pub(super) writes: BTreeSet<String>,
    pub(super) objects: BTreeSet<String>,
    pub(super) functions: BTreeSet<String>,
    pub(super) has_where: bool,
}

/// What statements that do the same may differ in.
#[derive(Default)]
pub(super) struct Reads {
    pub(super) tables: BTreeSet<String>,
    pub(super) columns: BTreeSet<String>,
    /// The texts themselves, where the other facts leave open what is done.
    pub(super) texts: BTreeSet<String>,
}

/// The verbs of statements whose other facts say what is done. Of the rest, one is not like the other: SET has one
/// verb for every setting, ALTER one for every change.
const TOLD: &[&str] = &[
    "select",
    "insert",
    "update",
    "delete",
    "merge",
    "copy",
    "explain",
    "prepare",
    "deallocate",
    "declare",
    "fetch",
    "move",
    "close",
    "begin",
    "commit",
    "rollback",
    "savepoint",
    "release",
];

/// What is never learned of a statement, so that a rule says that it is not so.
pub(super) const PLAIN: &[&str] = &[
    "opaque",
    "program",
    "server_file",
    "role_change",
    "locks",
    "unparseable",
];

/// Subresources by which a command is run or a connection is made inside the cluster.
const THROUGH: &[&str] = &["/exec", "/attach", "/portforward", "/proxy"];

impl Seen {
    /// `None` if a fact that is learned from was not recorded.
    pub(super) fn read(family: Family, endpoint: &Arc<str>, record: &Value) -> Option<Seen> {
        let facts = &record["facts"];
        let text = |name: &str| {
            facts[name]
                .as_str()
                .filter(|text| !text.contains("(masked"))
                .map(str::to_owned)
        };
        let texts = |name: &str| {
            let items = facts[name].as_array()?;
            items
                .iter()
                .map(|item| item.as_str().map(str::to_owned))
                .collect::<Option<BTreeSet<String>>>()
        };
        let action = match family {
            Family::Http => {
                let (method, path) = (text("method")?, text("path")?);
                match facts.get("graphql.kind").map(|kind| kind.as_str()) {
                    Some(Some("")) => Action::Http(method, path),
                    Some(Some(kind)) => Action::Graphql(path, kind.to_owned(), texts("graphql.fields")?),
                    // It could not be had.
                    Some(None) => return None,
                    // What is sent to such a path reads or changes by its body or its query alone.
                    None if path.to_ascii_lowercase().contains("graphql") => return None,
                    None => Action::Http(method, path),
                }
            }
            Family::Sql => {
                if PLAIN.iter().any(|name| facts[*name].as_bool() != Some(false)) {
                    return None;
                }
                let change = Change {
                    verbs: texts("verbs")?,
                    writes: texts("writes")?,
                    objects: texts("objects")?,
                    functions: texts("functions")?,
                    has_where: facts["has_where"].as_bool()?,
                };
                let mut reads = Reads {
                    tables: texts("reads")?,
                    columns: texts("columns")?,
                    texts: BTreeSet::new(),
                };
                if !change.verbs.iter().all(|verb| TOLD.contains(&verb.as_str())) {
                    reads.texts.insert(text("statement")?);
                }
                Action::Sql(change, reads)
            }
            Family::K8s => {
                let resource = text("resource")?;
                // What goes through is said by no fact that is learned.
                if THROUGH.iter().any(|own| resource.ends_with(own)) {
                    return None;
                }
                Action::K8s(text("verb")?, [text("group")?, resource, text("namespace")?])
            }
            Family::Mcp => {
                let method = text("method")?;
                let fact = match method.as_str() {
                    "tools/call" => Some("tool"),
                    "prompts/get" => Some("prompt"),
                    "resources/read" | "resources/subscribe" | "resources/unsubscribe" => Some("resource"),
                    _ => None,
                };
                let named = match fact {
                    Some(fact) => Some((fact, text(fact)?)),
                    None => None,
                };
                Action::Mcp(text("kind")?, method, named)
            }
            Family::Agent => return None,
        };
        Some(Seen {
            family,
            endpoint: endpoint.clone(),
            credential: record["credential"].as_str().map(Arc::from),
            record: record.clone(),
            action,
        })
    }
}
