//! Recorded actions: their format, and their facts.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use ::http::request::Parts;
use anyhow::{Context as _, bail};
use base64::Engine as _;
use chrono::{DateTime, Utc};
use serde::Deserialize;

use crate::cli::eval::{self, request};
use crate::facts::http::HeldBody;
use crate::facts::k8s::{K8sFacts, Resolved};
use crate::facts::sql::Statement;
use crate::facts::{Fact, FactSet, Facts, Family};
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

/// The facts of each action of a fixture: one of a request, one for each statement.
pub(in crate::cli) fn facts(
    policy: &Policy,
    action: &Action,
    endpoint: &Endpoint,
    credential: Option<&str>,
) -> anyhow::Result<Vec<Facts>> {
    let limits = &policy.model().gateway.limits;
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
    if let Some(http) = &action.http {
        return http_facts(http, action, mcp, limits.decoded_bytes_max);
    }
    if let Some(k8s) = &action.k8s {
        return Ok(vec![k8s_facts(k8s, limits.decoded_bytes_max)?]);
    }
    let sql = action.sql.as_ref().context("there is no `sql`")?;
    let session = eval::session(policy, &endpoint.key, credential);
    let database = sql.database.clone().or(session.0).unwrap_or_default();
    let user = sql.user.clone().or(session.1).unwrap_or_default();
    let mut facts = eval::sql_facts(&sql.statement, limits.statement_bytes_max, &database, &user)?;
    for facts in &mut facts {
        if let Facts::Sql(facts) = facts {
            replace(Arc::make_mut(&mut facts.statement), sql);
        }
    }
    Ok(facts)
}

/// What a fixture says of a statement goes before what its text says.
fn replace(statement: &mut Statement, recorded: &Sql) {
    if let Some(verb) = &recorded.verb {
        statement.verb = verb.to_lowercase();
        statement.verbs = vec![statement.verb.clone()];
    }
    if let Some(tables) = &recorded.tables {
        statement.tables = tables.clone();
    }
    if let Some(function) = &recorded.function {
        statement.functions = vec![function.clone()];
    }
}

fn k8s_facts(recorded: &K8s, decoded_bytes_max: usize) -> anyhow::Result<Facts> {
    if recorded.method.is_none() && recorded.path.is_none() {
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
        let facts = K8sFacts::recorded(resolved, params, body, recorded.dry_run.unwrap_or(false));
        return Ok(Facts::K8s(Box::new(facts)));
    }
    let method = recorded.method.as_deref().unwrap_or("GET");
    let path = recorded.path.as_deref().context("`path` is missing")?;
    let (parts, host) = request(&format!("{method} {path}"), &lines(&recorded.headers))?;
    let body = body(&recorded.body, &recorded.body_b64)?;
    let facts = K8sFacts::read(&parts, &host, held(&body), FactSet::ALL, decoded_bytes_max)?;
    Ok(Facts::K8s(Box::new(facts)))
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

fn http_facts(
    recorded: &Http,
    action: &Action,
    mcp: bool,
    decoded_bytes_max: usize,
) -> anyhow::Result<Vec<Facts>> {
    let (parts, host, body) = http_request(recorded, action.host.as_deref())?;
    eval::http_facts((&parts, &host), held(&body), mcp, decoded_bytes_max)
}

/// The head of a recorded request, its host, and its body.
fn http_request(recorded: &Http, host: Option<&str>) -> anyhow::Result<(Parts, String, Vec<u8>)> {
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
    let (parts, own) = request(&line, &lines(&recorded.headers))?;
    let host = host.map_or(own, |host| {
        host.rsplit_once(':').map_or(host, |(name, _)| name).to_owned()
    });
    let body = body(&recorded.body, &recorded.body_b64)?;
    Ok((parts, host, body))
}

/// The action as approvers would see it: a line, the whole, and the digest.
pub(in crate::cli) fn described(action: &Action) -> anyhow::Result<(String, String, Digest)> {
    let (parts, body) = match (&action.http, &action.k8s, &action.sql) {
        (Some(http), _, _) => {
            let (parts, _, body) = http_request(http, action.host.as_deref())?;
            (parts, body)
        }
        (_, Some(k8s), _) => {
            let path = k8s
                .path
                .as_deref()
                .context("the request itself is needed: `method` and `path`")?;
            let method = k8s.method.as_deref().unwrap_or("GET");
            let (parts, _) = request(&format!("{method} {path}"), &lines(&k8s.headers))?;
            (parts, body(&k8s.body, &k8s.body_b64)?)
        }
        (_, _, Some(sql)) => {
            let text = &sql.statement;
            let line: String = text.chars().take(SUMMARY_CHARS_MAX).collect();
            return Ok((line, text.clone(), Digest::of(text.as_bytes())));
        }
        _ => bail!("an action has one of `http`, `k8s` and `sql`"),
    };
    let body = held(&body);
    Ok((
        http::summary(&parts),
        http::detail(&parts, body, None),
        http::digest(&parts, body, None),
    ))
}
