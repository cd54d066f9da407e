//! Recorded actions: their format, and their facts.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use ::http::request::Parts;
use anyhow::{Context as _, bail};
use base64::Engine as _;
use chrono::{DateTime, Utc};
use serde::Deserialize;

use super::subject;
use crate::cli::read::{self, Read};
use crate::facts::http::HeldBody;
use crate::facts::k8s::{K8sFacts, Resolved};
use crate::facts::sql::Statement;
use crate::facts::{Fact, Facts, Family};
use crate::identity::Agent;
use crate::policy::{Endpoint, Policy};
use crate::protocol::http;
use crate::protocol::http::describe::SUMMARY_CHARS_MAX;
use crate::verdict::Digest;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::cli) struct Fixture {
    /// What it shows (ours).
    pub name: Option<String>,
    #[serde(rename = "match")]
    pub wanted: Wanted,
    pub action: Action,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::cli) struct Wanted {
    pub verdict: String,
    #[serde(default)]
    pub rule: String,
    pub endpoint: Option<String>,
    #[serde(rename = "reason")]
    pub _reason: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::cli) struct Action {
    pub host: Option<String>,
    pub credential: Option<String>,
    pub peer_ip: Option<IpAddr>,
    /// When it was done (ours): `now` of conditions; else the time of the test.
    pub at: Option<DateTime<Utc>>,
    pub agent: Option<Who>,
    pub http: Option<Http>,
    pub k8s: Option<K8s>,
    pub sql: Option<Sql>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub(in crate::cli) struct Who {
    pub profile: Option<String>,
    pub tags: Vec<String>,
    pub login: Option<String>,
    pub node: Option<String>,
    pub peer: Option<String>,
    /// Profiles that the tailnet's policy grants.
    pub grants: Vec<String>,
    /// Names of other app capabilities.
    pub caps: Vec<String>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub(in crate::cli) struct Http {
    pub method: Option<String>,
    pub path: Option<String>,
    pub query: BTreeMap<String, Vec<String>>,
    pub headers: BTreeMap<String, Vec<String>>,
    pub body: Option<String>,
    pub body_b64: Option<String>,
}

/// What the request resolved to, or, with `method` or `path`, the request.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub(in crate::cli) struct K8s {
    pub verb: Option<String>,
    pub group: Option<String>,
    pub version: Option<String>,
    pub resource: Option<String>,
    pub namespace: Option<String>,
    pub name: Option<String>,
    pub params: BTreeMap<String, String>,
    pub dry_run: Option<bool>,
    pub body_json: Option<serde_json::Value>,
    pub method: Option<String>,
    pub path: Option<String>,
    pub headers: BTreeMap<String, Vec<String>>,
    pub body: Option<String>,
    pub body_b64: Option<String>,
}

impl K8s {
    /// Whether it says what the request resolved to, in the place of the request.
    fn is_resolved(&self) -> bool {
        self.method.is_none() && self.path.is_none()
    }
}

/// Verbs of statements that change nothing.
const READS: &[&str] = &["select", "show", "explain"];

/// A statement; what is set besides takes the place of what its text says.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::cli) struct Sql {
    pub statement: String,
    pub verb: Option<String>,
    pub tables: Option<Vec<String>>,
    pub function: Option<String>,
    pub database: Option<String>,
    pub user: Option<String>,
}

/// What the gateway would make of a fixture's action.
pub(in crate::cli) fn read(
    policy: &Policy,
    action: &Action,
    agent: &Agent,
    endpoint: &Endpoint,
) -> anyhow::Result<Read> {
    let family = match (&action.http, &action.k8s, &action.sql) {
        (Some(_), None, None) => Family::Http,
        (None, Some(_), None) => Family::K8s,
        (None, None, Some(_)) => Family::Sql,
        _ => bail!("an action has one of `http`, `k8s` and `sql`"),
    };
    let mcp = endpoint.family == Family::Mcp;
    if family != endpoint.family && !(mcp && family == Family::Http) {
        bail!("{} does not take actions of this kind", endpoint.key);
    }
    let named = subject::credential(policy, action);
    let fallback = || read::fallback(policy, agent, &endpoint.key);
    if let Some(sql) = &action.sql {
        let credential = named.or_else(fallback);
        let session = (sql.database.clone(), sql.user.clone());
        let mut read = read::statements(policy, endpoint, credential, &sql.statement, session)?;
        for facts in read.iter_mut().flat_map(|(_, facts)| facts) {
            if let Facts::Sql(facts) = facts {
                replace(Arc::make_mut(&mut facts.statement), sql);
            }
        }
        return Ok(read);
    }
    if let Some(k8s) = action.k8s.as_ref().filter(|k8s| k8s.is_resolved()) {
        return Ok(Ok((named.or_else(fallback), vec![resolved(k8s)])));
    }
    let (parts, host, body) = request_of(action)?;
    read::request(policy, agent, endpoint, named, (parts, host), held(&body))
}

/// What a fixture says of a statement goes before what its text says.
fn replace(statement: &mut Statement, recorded: &Sql) {
    if let Some(verb) = &recorded.verb {
        statement.verb = verb.to_lowercase();
        statement.verbs = vec![statement.verb.clone()];
    }
    if let Some(tables) = &recorded.tables {
        replace_tables(statement, tables);
    }
    if let Some(function) = &recorded.function {
        statement.functions = vec![function.clone()];
    }
}

/// Recorded tables are read and written as the text says; what it does not name is read, and written too unless the
/// statement only reads.
fn replace_tables(statement: &mut Statement, tables: &[String]) {
    let changes = !statement.verbs.iter().all(|verb| READS.contains(&verb.as_str()));
    statement.tables = tables.to_vec();
    statement.reads.retain(|own| tables.contains(own));
    statement.writes.retain(|own| tables.contains(own));
    for table in tables {
        if statement.reads.contains(table) || statement.writes.contains(table) {
            continue;
        }
        statement.reads.push(table.clone());
        if changes {
            statement.writes.push(table.clone());
        }
    }
}

/// The facts of a request that is recorded by what it resolved to.
fn resolved(recorded: &K8s) -> Facts {
    let text = |field: &Option<String>| field.clone().unwrap_or_default();
    let resolved = Resolved {
        is_resource: true,
        path: String::new(),
        verb: Fact::Known(text(&recorded.verb)),
        group: text(&recorded.group),
        version: text(&recorded.version),
        namespace: text(&recorded.namespace),
        resource: text(&recorded.resource),
        subresource: String::new(),
        name: Fact::Known(text(&recorded.name)),
    };
    let body = recorded.body_json.clone().unwrap_or_default();
    let params = recorded.params.clone().into_iter().collect();
    let facts = K8sFacts::recorded(resolved, params, &body, recorded.dry_run.unwrap_or(false));
    Facts::K8s(Box::new(facts))
}

fn held(body: &[u8]) -> HeldBody<'_> {
    if body.is_empty() {
        HeldBody::Empty
    } else {
        HeldBody::Whole(body)
    }
}

fn body(text: &Option<String>, encoded: &Option<String>) -> anyhow::Result<Vec<u8>> {
    match (text, encoded) {
        (Some(_), Some(_)) => bail!("`body` and `body_b64` are both set"),
        (Some(text), None) => Ok(text.as_bytes().to_vec()),
        (None, Some(text)) => Ok(base64::engine::general_purpose::STANDARD.decode(text)?),
        (None, None) => Ok(Vec::new()),
    }
}

/// Headers as lines.
fn lines(headers: &BTreeMap<String, Vec<String>>) -> Vec<String> {
    let each = headers
        .iter()
        .flat_map(|(name, values)| values.iter().map(move |value| format!("{name}: {value}")));
    each.collect()
}

/// The head of a recorded request, its host, and its body.
fn request_of(action: &Action) -> anyhow::Result<(Parts, String, Vec<u8>)> {
    let (line, headers, body) = match (&action.http, &action.k8s) {
        (Some(http), _) => (line(http), &http.headers, body(&http.body, &http.body_b64)?),
        (None, Some(k8s)) => {
            let path = k8s.path.as_deref();
            let path = path.context("the request itself is needed: `method` and `path`")?;
            let line = format!("{} {path}", k8s.method.as_deref().unwrap_or("GET"));
            (line, &k8s.headers, body(&k8s.body, &k8s.body_b64)?)
        }
        (None, None) => bail!("an action has one of `http`, `k8s` and `sql`"),
    };
    let (parts, own) = read::head(&line, &lines(headers))?;
    let host = action.host.as_ref().map_or(own, |host| host.to_ascii_lowercase());
    Ok((parts, host, body))
}

/// `METHOD /path?query`.
fn line(recorded: &Http) -> String {
    let mut line = format!(
        "{} {}",
        recorded.method.as_deref().unwrap_or("GET"),
        recorded.path.as_deref().unwrap_or("/")
    );
    let encode = |text: &str| {
        percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
    };
    let pairs = recorded
        .query
        .iter()
        .flat_map(|(name, values)| values.iter().map(move |value| (name, value)));
    for (index, (name, value)) in pairs.enumerate() {
        line.push(if index == 0 { '?' } else { '&' });
        line.push_str(&format!("{}={}", encode(name), encode(value)));
    }
    line
}

/// The action as approvers would see it: a line, the whole, and the digest.
pub(in crate::cli) fn described(action: &Action) -> anyhow::Result<(String, String, Digest)> {
    if let Some(sql) = &action.sql {
        let text = &sql.statement;
        let line: String = text.chars().take(SUMMARY_CHARS_MAX).collect();
        return Ok((line, text.clone(), Digest::of(text.as_bytes())));
    }
    let (parts, _, body) = request_of(action)?;
    let body = held(&body);
    Ok((
        http::summary(&parts),
        http::detail(&parts, body, None),
        http::digest(&parts, body, None),
    ))
}
