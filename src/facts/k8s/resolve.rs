//! What the API server's resolver reads of a method, a path and a query. *Pure.*
//!
//! Follows the documented behaviour of `k8s.io/apiserver`'s `RequestInfo`: `/api/v1/…` for the
//! core group, `/apis/<group>/<version>/…` for the others, the legacy `watch` and `proxy` verbs
//! in the path, `namespaces` as a scope and as a resource, list and deletecollection where no name
//! is given. Everything else is a request for a path and not for a resource.

use http::Method;

use super::{params, selector};
use crate::facts::http::Malformed;
use crate::facts::{Blind, Fact};

/// A request as the API server's authorizer sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    pub is_resource: bool,
    pub path: String,
    pub verb: Fact<String>,
    pub group: String,
    pub version: String,
    pub namespace: String,
    /// `pods`, or `pods/exec` with its subresource.
    pub resource: String,
    pub subresource: String,
    pub name: Fact<String>,
}

/// Subresources of a namespace itself; any other third part is a resource in the namespace.
const NAMESPACE_SUBRESOURCES: &[&str] = &["status", "finalize"];

/// Resolves a request whose path is decoded ([`crate::facts::http::path`]) and whose query is a
/// map of lists.
///
/// # Errors
/// The resolver itself refuses the path: `watch` or `proxy` without anything behind it.
pub fn resolve(method: &Method, path: &str, query: &[(String, Vec<String>)]) -> Result<Resolved, Malformed> {
    let mut out = Resolved {
        is_resource: false,
        path: path.to_owned(),
        verb: Fact::Known(method.as_str().to_ascii_lowercase()),
        group: String::new(),
        version: String::new(),
        namespace: String::new(),
        resource: String::new(),
        subresource: String::new(),
        name: Fact::Known(String::new()),
    };
    let trimmed = path.trim_matches('/');
    let parts: Vec<&str> = if trimmed.is_empty() {
        Vec::new()
    } else {
        trimmed.split('/').collect()
    };
    let rest = match parts.as_slice() {
        ["api", version, rest @ ..] if !rest.is_empty() => {
            out.version = (*version).to_owned();
            rest
        }
        ["apis", group, version, rest @ ..] if !rest.is_empty() => {
            out.group = (*group).to_owned();
            out.version = (*version).to_owned();
            rest
        }
        _ => return Ok(out),
    };
    out.is_resource = true;
    let (verb, rest) = match rest {
        ["watch" | "proxy"] => return Err(Malformed::NoObject),
        [verb @ ("watch" | "proxy"), rest @ ..] => (*verb, rest),
        rest => (verb_of(method), rest),
    };
    let rest = match rest {
        ["namespaces", namespace, inner @ ..] => {
            out.namespace = (*namespace).to_owned();
            match inner {
                [] => rest,
                [first, ..] if NAMESPACE_SUBRESOURCES.contains(first) => rest,
                inner => inner,
            }
        }
        rest => rest,
    };
    let name = rest.get(1).copied().unwrap_or_default();
    out.resource = rest.first().copied().unwrap_or_default().to_owned();
    if verb != "proxy"
        && let Some(subresource) = rest.get(2)
    {
        out.subresource = (*subresource).to_owned();
        out.resource = format!("{}/{subresource}", out.resource);
    }
    out.verb = Fact::Known(verb.to_owned());
    out.name = Fact::Known(name.to_owned());
    if name.is_empty() {
        collection(&mut out, verb, query);
    }
    Ok(out)
}

fn verb_of(method: &Method) -> &'static str {
    match method.as_str() {
        "POST" => "create",
        "GET" | "HEAD" => "get",
        "PUT" => "update",
        "PATCH" => "patch",
        "DELETE" => "delete",
        _ => "",
    }
}

/// Without a name a `get` is a `list` or a `watch` and a `delete` a `deletecollection`; a `list`
/// may still name one object by its field selector.
fn collection(out: &mut Resolved, verb: &str, query: &[(String, Vec<String>)]) {
    let first = |name: &str| {
        query
            .iter()
            .find(|(own, _)| own == name)
            .and_then(|(_, values)| values.first())
    };
    match verb {
        "delete" => out.verb = Fact::Known("deletecollection".to_owned()),
        "get" => {
            let watch = first("watch").is_some_and(|value| params::is_true(value));
            out.verb = Fact::Known(if watch { "watch" } else { "list" }.to_owned());
            let integer = |name: &str| first(name).is_none_or(|value| value.parse::<i64>().is_ok());
            let Some(fields) = first("fieldSelector") else {
                return;
            };
            // Options that do not parse make the resolver forget the selector.
            if !integer("limit") || !integer("timeoutSeconds") {
                return;
            }
            out.name = match selector::name(fields) {
                Some(name) if name.is_empty() => Fact::Known(name),
                Some(name) if first("labelSelector").is_none_or(|text| selector::is_plain(text)) => {
                    Fact::Known(name)
                }
                Some(_) => Fact::Unknown(Blind::Ambiguous),
                None => Fact::Known(String::new()),
            };
        }
        _ => {}
    }
}
