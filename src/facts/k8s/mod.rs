//! The facts of the `k8s` family: those of the API server's own request resolver. *Pure.*
//!
//! [`resolve`] says what the API server's `RequestInfo` would say of a path and a query;
//! [`selector`] reads the one selector that names an object. A GET on `pods/exec` has the verb
//! `get`, as in the resolver, though newer API servers authorize it as `create` too: a rule that
//! means exec asks for `k8s.resource == "pods/exec"`, whatever the verb.
//!
//! [`params`] says what it makes of those that are true or false.
//!
//! What the API server and a proxy before it could read differently (empty or dot segments,
//! encoded slashes, methods in lower case, broken queries) is refused.

pub mod params;
pub mod resolve;
pub mod selector;

use http::Method;
use http::request::Parts;
use serde_json::Value;

use super::http::content::Content;
use super::http::{HeldBody, Malformed, path, query};
use crate::facts::json::{Document, Json};
use crate::facts::{Blind, Fact, FactSet, FactSource, Slot, View};
use crate::protocol::http::upgrade;

pub use resolve::Resolved;

/// The facts of one Kubernetes request.
#[derive(Clone, Debug)]
pub struct K8sFacts {
    needs: FactSet,
    resolved: Resolved,
    /// As a condition reads them.
    params: Vec<(String, String)>,
    /// As the request has them.
    written: Vec<(String, String)>,
    label_selector: Fact<String>,
    field_selector: Fact<String>,
    command: Vec<String>,
    body_json: Fact<Document>,
    dry_run: Fact<bool>,
}

/// The methods that an API server routes. Others, and these in lower case, are refused.
const METHODS: &[Method] = &[
    Method::GET,
    Method::HEAD,
    Method::POST,
    Method::PUT,
    Method::PATCH,
    Method::DELETE,
    Method::OPTIONS,
    Method::CONNECT,
];

impl K8sFacts {
    /// Reads the facts that `needs` names; the others are [`Blind::NotRead`]. `_host` is not a
    /// fact of this family.
    ///
    /// # Errors
    /// The request is one that the API server and another server would read differently, or one
    /// that the resolver itself refuses.
    pub fn read(
        parts: &Parts,
        _host: &str,
        body: HeldBody<'_>,
        needs: FactSet,
        decoded_bytes_max: usize,
    ) -> Result<K8sFacts, Malformed> {
        if !METHODS.contains(&parts.method) {
            return Err(Malformed::Method);
        }
        upgrade(parts)?;
        let path = path::normalize(parts.uri.path())?;
        let query = match query::read(parts.uri.query().unwrap_or_default()) {
            Fact::Known(query) => query,
            Fact::Unknown(_) => return Err(Malformed::Query),
        };
        let resolved = resolve::resolve(&parts.method, &path, &query)?;
        let read = [Slot::K8sBodyJson].into_iter().collect();
        let json = if needs.contains(Slot::K8sBodyJson) || needs.contains(Slot::K8sDryRun) {
            // What is no JSON is protobuf, CBOR or YAML to an API server, and not read here.
            match Content::read(parts, body, read, decoded_bytes_max).json {
                Fact::Known(json)
                    if json.is_null() && !matches!(body, HeldBody::Empty | HeldBody::Whole([])) =>
                {
                    Fact::Unknown(Blind::Opaque)
                }
                json => json,
            }
        } else {
            Fact::Unknown(Blind::NotRead)
        };
        let dry_run = if needs.contains(Slot::K8sDryRun) {
            dry_run(&resolved, &query, &json)
        } else {
            Fact::Unknown(Blind::NotRead)
        };
        let label_selector = single(&query, "labelSelector");
        let field_selector = single(&query, "fieldSelector");
        let command = query
            .iter()
            .find(|(name, _)| name == "command")
            .map_or_else(Vec::new, |(_, words)| words.clone());
        let written: Vec<(String, String)> = query
            .into_iter()
            .map(|(name, values)| (name, values.into_iter().next().unwrap_or_default()))
            .collect();
        Ok(K8sFacts {
            needs,
            resolved,
            params: params::canonical(written.clone()),
            written,
            label_selector,
            field_selector,
            command,
            body_json: json,
            dry_run,
        })
    }

    /// Facts that were recorded, where the request is no longer there.
    pub fn recorded(
        resolved: Resolved,
        written: Vec<(String, String)>,
        body_json: &Value,
        dry_run: bool,
    ) -> K8sFacts {
        let of = |wanted: &str| {
            let found = written.iter().find(|(name, _)| name == wanted);
            found.map(|(_, value)| value.clone())
        };
        K8sFacts {
            needs: FactSet::ALL,
            resolved,
            label_selector: Fact::Known(of("labelSelector").unwrap_or_default()),
            field_selector: Fact::Known(of("fieldSelector").unwrap_or_default()),
            command: of("command").into_iter().collect(),
            params: params::canonical(written.clone()),
            written,
            body_json: Fact::Known(body_json.into()),
            dry_run: Fact::Known(dry_run),
        }
    }

    /// What the API server's resolver makes of it.
    pub fn resolved(&self) -> &Resolved {
        &self.resolved
    }

    /// The parameters as the request has them, the first value of each.
    pub fn written_params(&self) -> &[(String, String)] {
        &self.written
    }

    /// Whether a rule set that reads `needs` has to have the body held. `dry_run` does: the body
    /// of a DELETE, where there is one, replaces its query parameters.
    pub fn wants_body(needs: FactSet) -> bool {
        needs.contains(Slot::K8sBodyJson) || needs.contains(Slot::K8sDryRun)
    }
}

/// A parameter that is given once at most; which of several is meant hangs on the reader.
fn single(query: &[(String, Vec<String>)], wanted: &str) -> Fact<String> {
    match query
        .iter()
        .find(|(name, _)| name == wanted)
        .map(|(_, values)| values.as_slice())
    {
        None => Fact::Known(String::new()),
        Some([one]) => Fact::Known(one.clone()),
        Some(_) => Fact::Unknown(Blind::Ambiguous),
    }
}

/// Whether the API server changes nothing. Only where it is certain: the API server reads
/// `dryRun` from a DELETE's body instead of the query, and connect-like subresources ignore it.
fn dry_run(resolved: &Resolved, query: &[(String, Vec<String>)], body: &Fact<Document>) -> Fact<bool> {
    let verb = match &resolved.verb {
        Fact::Known(verb) => verb.as_str(),
        Fact::Unknown(blind) => return Fact::Unknown(*blind),
    };
    let named = query
        .iter()
        .find(|(name, _)| name == "dryRun")
        .map(|(_, values)| values.iter().all(|value| value == "All"));
    let by_query = named.unwrap_or(false);
    if !resolved.is_resource {
        return Fact::Known(false);
    }
    match verb {
        "delete" | "deletecollection" => body.as_ref().map(|body| match body.root() {
            Json::Null => by_query,
            options => match options.get("dryRun") {
                Some(Json::List(all)) => !all.is_empty() && all.iter().all(|one| one.as_str() == Some("All")),
                _ => false,
            },
        }),
        "create" | "update" | "patch" => match resolved.subresource.as_str() {
            "" | "status" | "scale" => Fact::Known(by_query),
            _ if named.is_none() => Fact::Known(false),
            _ => Fact::Unknown(Blind::Opaque),
        },
        _ => Fact::Known(false),
    }
}

impl FactSource for K8sFacts {
    fn fact(&self, slot: Slot) -> Fact<View<'_>> {
        if !self.needs.contains(slot) {
            return Fact::Unknown(Blind::NotRead);
        }
        let own = &self.resolved;
        Fact::Known(match slot {
            Slot::K8sVerb => return own.verb.as_ref().map(|text| View::Text(text)),
            Slot::K8sName => return own.name.as_ref().map(|text| View::Text(text)),
            Slot::K8sBodyJson => return self.body_json.as_ref().map(Document::view),
            Slot::K8sDryRun => return self.dry_run.as_ref().map(|yes| View::Bool(*yes)),
            Slot::K8sGroup => View::Text(&own.group),
            Slot::K8sVersion => View::Text(&own.version),
            Slot::K8sResource => View::Text(&own.resource),
            Slot::K8sNamespace => View::Text(&own.namespace),
            Slot::K8sParams => View::Map(&self.params),
            Slot::K8sLabelSelector => return self.label_selector.as_ref().map(|text| View::Text(text)),
            Slot::K8sFieldSelector => return self.field_selector.as_ref().map(|text| View::Text(text)),
            Slot::K8sCommand => View::Texts(&self.command),
            Slot::K8sIsResource => View::Bool(own.is_resource),
            Slot::K8sPath => View::Text(&own.path),
            _ => return Fact::Unknown(Blind::NotRead),
        })
    }
}

#[cfg(test)]
mod tests;
