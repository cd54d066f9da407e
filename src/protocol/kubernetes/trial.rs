//! A held request tried by the API server itself: which may be, what is asked of the server, and what people
//! are shown of its answers. *Pure.*
//!
//! The object is read ([`Trial::look`]), the agent's very request is sent with `dryRun=All`, and the two states
//! are compared. A [`Stand`] is what was read: it is read again right before the request itself goes.
//!
//! Invariant: nothing is built here that a server could take for the request itself. A server that says that it is of
//! [`SINCE`] or later knows a dry run ([`knows_dry_runs`]), an older one may drop the word and do it; what honours one
//! there is listed, and all else is not tried. A DELETE's options are in its body where it has one, and `dryRun` with them:
//! the server then does not look at the query.

mod shown;

use http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{Method, StatusCode};
use serde_json::{Map, Value, json};

use crate::facts::Fact;
use crate::facts::http::{HeldBody, json as strict, query};
use crate::facts::k8s::{K8sFacts, Resolved};

pub use shown::Hide;

/// Objects of a deletion of many that are shown, and looked at again; with more it is not tried.
pub const OBJECTS_MAX: usize = 200;

/// Where a server says which version it is, to everybody.
pub const VERSION: PathAndQuery = PathAndQuery::from_static("/version");

/// The version from which on all that stores has a dry run (it is not to be switched off from then on).
const SINCE: (u64, u64) = (1, 18);

/// Parts of an object that have a dry run as the object has.
const SUBRESOURCES: &[&str] = &["", "status", "scale"];

/// The groups that an API server serves itself, and stores.
const GROUPS: &[&str] = &[
    "",
    "admissionregistration.k8s.io",
    "apiextensions.k8s.io",
    "apiregistration.k8s.io",
    "apps",
    "autoscaling",
    "batch",
    "certificates.k8s.io",
    "coordination.k8s.io",
    "discovery.k8s.io",
    "events.k8s.io",
    "flowcontrol.apiserver.k8s.io",
    "networking.k8s.io",
    "node.k8s.io",
    "policy",
    "rbac.authorization.k8s.io",
    "resource.k8s.io",
    "scheduling.k8s.io",
    "storage.k8s.io",
];

/// Groups whose objects are questions, and not stored.
const QUESTIONS: &[&str] = &["authentication.k8s.io", "authorization.k8s.io"];

/// Parameters that choose the objects of a deletion of many.
const SELECTORS: &[&str] = &["labelSelector", "fieldSelector"];

/// Parameters of a deletion that choose no object.
const DELETES: &[&str] = &[
    "gracePeriodSeconds",
    "orphanDependents",
    "propagationPolicy",
    "pretty",
];

/// How a request is tried.
#[derive(Debug)]
pub struct Trial {
    own: Resolved,
    verb: String,
    /// Where another server may serve the group: what says whether one does.
    pub served: Option<PathAndQuery>,
    /// What is read before, and again; a creation has nothing.
    pub look: Option<PathAndQuery>,
    /// Where the dry run goes.
    pub run: PathAndQuery,
    /// What it has in the place of the agent's body, as JSON.
    pub body: Option<Vec<u8>>,
}

/// What was read of the object, or of each, that a request changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stand {
    Absent,
    Object(Stamp),
    Objects(Vec<(String, Stamp)>),
}

/// One state of one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stamp {
    uid: String,
    version: String,
}

impl Trial {
    /// How a request would be tried.
    ///
    /// # Errors
    /// Why it is not, for people.
    pub fn of(facts: &K8sFacts, parts: &Parts, body: HeldBody<'_>) -> Result<Trial, String> {
        let own = facts.resolved().clone();
        let (Fact::Known(verb), Fact::Known(_)) = (&own.verb, &own.name) else {
            return Err("it is not plain what it does".to_owned());
        };
        let verb = verb.clone();
        let changes = ["create", "update", "patch", "delete", "deletecollection"];
        if !own.is_resource || !changes.contains(&verb.as_str()) {
            return Err("it changes no object of the API by itself".to_owned());
        }
        if !SUBRESOURCES.contains(&own.subresource.as_str())
            || verb == "create" && !own.subresource.is_empty()
        {
            return Err(format!(
                "the API server has no dry run of {} of {}",
                verb, own.resource
            ));
        }
        if QUESTIONS.contains(&own.group.as_str()) {
            return Err(format!("{} are not stored", own.resource));
        }
        let deletes = verb.starts_with("delete");
        let options = match body {
            HeldBody::Whole(bytes) if deletes => Some(options(parts, bytes)?),
            HeldBody::Empty | HeldBody::Whole(_) => None,
            HeldBody::Over | HeldBody::NotHeld => return Err("its body is not held".to_owned()),
        };
        let named = match &options {
            Some(options) => options.get("dryRun").map(|own| *own == json!(["All"])),
            None => dry_run_of(parts)?,
        };
        match named {
            None => {}
            Some(true) => return Err("it is a dry run itself, and changes nothing".to_owned()),
            Some(false) => return Err("it says something of its own about a dry run".to_owned()),
        }
        let path = parts.uri.path();
        let query = parts.uri.query().unwrap_or_default();
        let look = match verb.as_str() {
            "create" => None,
            "deletecollection" => Some(target(path, &selectors(facts, query)?)?),
            _ => Some(target(path, "")?),
        };
        let (run, body) = match options {
            Some(mut options) => {
                options.insert("dryRun".to_owned(), json!(["All"]));
                let body = Value::Object(options).to_string().into_bytes();
                (target(path, query)?, Some(body))
            }
            // First, so that nothing that stands before it keeps a server from reading it.
            None if query.is_empty() => (target(path, "dryRun=All")?, None),
            None => (target(path, &format!("dryRun=All&{query}"))?, None),
        };
        Ok(Trial {
            served: served(&own)?,
            look,
            run,
            body,
            own,
            verb,
        })
    }

    /// Whether it is about all objects that a selection finds.
    pub fn is_of_many(&self) -> bool {
        self.verb == "deletecollection"
    }

    /// Whether the API server serves the group itself, by the answer of [`Trial::served`].
    pub fn is_served_here(status: StatusCode, answer: &Value) -> bool {
        let spec = answer.get("spec").filter(|_| status == StatusCode::OK);
        spec.is_some_and(|spec| spec.is_object() && spec.get("service").is_none_or(Value::is_null))
    }

    /// What an answer of [`Trial::look`] says there is.
    ///
    /// # Errors
    /// Why it does not say.
    pub fn stand(&self, status: StatusCode, answer: &Value) -> Result<Stand, String> {
        match status {
            StatusCode::NOT_FOUND if !self.is_of_many() => return Ok(Stand::Absent),
            StatusCode::OK => {}
            status => {
                return Err(format!(
                    "what it changes cannot be read: {}",
                    said(status, answer)
                ));
            }
        }
        let unread = || "what the API server says of what it changes cannot be read".to_owned();
        if !self.is_of_many() {
            return Ok(Stand::Object(stamp(answer).ok_or_else(unread)?));
        }
        let more = answer.pointer("/metadata/continue").and_then(Value::as_str);
        let items = answer.get("items").and_then(Value::as_array).ok_or_else(unread)?;
        if more.is_some_and(|more| !more.is_empty()) || items.len() > OBJECTS_MAX {
            return Err(format!(
                "it is about more than {OBJECTS_MAX} objects, which nobody could look through"
            ));
        }
        let objects = items.iter().map(|one| {
            let text = |pointer: &str| one.pointer(pointer).and_then(Value::as_str);
            let name = text("/metadata/name")?;
            let name = match text("/metadata/namespace") {
                Some(namespace) => format!("{namespace}/{name}"),
                None => name.to_owned(),
            };
            Some((name, stamp(one)?))
        });
        let mut objects: Vec<_> = objects.collect::<Option<_>>().ok_or_else(unread)?;
        objects.sort_by(|(one, _), (other, _)| one.cmp(other));
        Ok(Stand::Objects(objects))
    }
}

/// Whether a server knows dry runs, by its answer to [`VERSION`].
///
/// # Errors
/// It may not: why, for people.
pub fn knows_dry_runs(status: StatusCode, answer: &Value) -> Result<(), String> {
    // Providers write `28+` of their own builds.
    let number = |name: &str| -> Option<u64> {
        let text = answer.get(name)?.as_str()?;
        text.strip_suffix('+').unwrap_or(text).parse().ok()
    };
    let version = match status {
        StatusCode::OK => number("major").zip(number("minor")),
        _ => None,
    };
    match version {
        Some(version) if version >= SINCE => Ok(()),
        Some((major, minor)) => Err(format!(
            "the API server is of Kubernetes {major}.{minor}, and may do it where a dry run is asked for"
        )),
        None => Err(
            "the API server does not say which version it is, and may do it where a dry run is asked for"
                .to_owned(),
        ),
    }
}

fn stamp(object: &Value) -> Option<Stamp> {
    let text = |pointer: &str| object.pointer(pointer)?.as_str().map(str::to_owned);
    Some(Stamp {
        uid: text("/metadata/uid")?,
        version: text("/metadata/resourceVersion")?,
    })
}

fn said(status: StatusCode, answer: &Value) -> String {
    let message = answer["message"].as_str().unwrap_or("nothing that can be read");
    format!("the API server said {}: {message}", status.as_u16())
}

/// Whether the query makes it a dry run; `None` where it does not speak of one.
fn dry_run_of(parts: &Parts) -> Result<Option<bool>, String> {
    let pairs = pairs(parts.uri.query().unwrap_or_default())?;
    let named = pairs.iter().find(|(name, _)| name == "dryRun");
    Ok(named.map(|(_, values)| values.iter().all(|value| value == "All")))
}

fn pairs(raw: &str) -> Result<Vec<(String, Vec<String>)>, String> {
    match query::read(raw) {
        Fact::Known(pairs) => Ok(pairs),
        Fact::Unknown(_) => Err("its query can be read in several ways".to_owned()),
    }
}

/// The options of a DELETE, of its body.
fn options(parts: &Parts, body: &[u8]) -> Result<Map<String, Value>, String> {
    let kind = parts.headers.get(CONTENT_TYPE).map(|kind| kind.as_bytes());
    let is_json = kind.is_none_or(|kind| {
        let kind = kind.split(|byte| *byte == b';').next().unwrap_or_default();
        kind.trim_ascii().eq_ignore_ascii_case(b"application/json")
    });
    if !is_json || parts.headers.contains_key(CONTENT_ENCODING) || parts.method != Method::DELETE {
        return Err("its options are not JSON".to_owned());
    }
    let options = std::str::from_utf8(body)
        .ok()
        .and_then(|text| strict::parse(text).ok());
    match options.map(|options| options.root().to_value()) {
        Some(Value::Object(options)) => Ok(options),
        _ => Err("its options can be read in several ways".to_owned()),
    }
}

/// The query that lists what a deletion of many would delete.
fn selectors(facts: &K8sFacts, raw: &str) -> Result<String, String> {
    for (name, values) in pairs(raw)? {
        let known = SELECTORS.contains(&name.as_str()) && values.len() == 1;
        if !known && !DELETES.contains(&name.as_str()) {
            return Err(format!(
                "its parameter {} may choose among the objects",
                Value::from(name)
            ));
        }
    }
    let mut out = format!("limit={OBJECTS_MAX}");
    for (name, value) in facts.written_params() {
        if SELECTORS.contains(&name.as_str()) {
            let coded = percent_encoding::utf8_percent_encode(value, percent_encoding::NON_ALPHANUMERIC);
            out.push_str(&format!("&{name}={coded}"));
        }
    }
    Ok(out)
}

/// What says who serves a group that the API server may not serve itself.
fn served(own: &Resolved) -> Result<Option<PathAndQuery>, String> {
    if GROUPS.contains(&own.group.as_str()) {
        return Ok(None);
    }
    let plain = |text: &str| {
        text.bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-.".contains(&byte))
    };
    if !plain(&own.group) || !plain(&own.version) {
        return Err("its group is not one of an API server".to_owned());
    }
    let path = format!(
        "/apis/apiregistration.k8s.io/v1/apiservices/{}.{}",
        own.version, own.group
    );
    target(&path, "").map(Some)
}

fn target(path: &str, query: &str) -> Result<PathAndQuery, String> {
    let whole = match query {
        "" => path.to_owned(),
        query => format!("{path}?{query}"),
    };
    PathAndQuery::try_from(whole).map_err(|_| "its target cannot be written anew".to_owned())
}

#[cfg(test)]
mod tests;
