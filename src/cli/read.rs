//! An action from the command line or from a fixture, as the gateway would read it from the wire.
//!
//! What is refused there before any rule is refused here, by the same code and for the same reason.

use std::net::IpAddr;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use http::HeaderValue;
use http::header::HOST;
use http::request::Parts;

use crate::credential::select;
use crate::facts::http::HeldBody;
use crate::facts::sql::{self, SqlFacts};
use crate::facts::{FactSet, Facts, Family};
use crate::identity::Agent;
use crate::policy::{Claim, CredentialKind, Endpoint, HostPattern, HostPort, Policy};
use crate::protocol::admit;
use crate::protocol::http::Malformed;
use crate::protocol::postgres::session::REREADS_REASON;
use crate::verdict::{Cause, Refusal};

/// What goes on to the rules: the credential that it is sent with, and the facts of each action. Or why nothing does.
pub(super) type Read = Result<(Option<Arc<str>>, Vec<Facts>), Refusal>;

/// A request to an endpoint; `named` is the credential that the agent is said to use, else its placeholders tell.
pub(super) fn request(
    policy: &Policy,
    agent: &Agent,
    endpoint: &Endpoint,
    named: Option<Arc<str>>,
    (mut parts, host): (Parts, String),
    body: HeldBody<'_>,
) -> anyhow::Result<Read> {
    if endpoint.family == Family::Sql {
        bail!("{} takes statements, no requests", endpoint.key);
    }
    let model = policy.model();
    let malformed = |error: Malformed| Refusal::new(Cause::Malformed, error.to_string());
    let Some(claimed) = dialled(endpoint, &host)? else {
        return Ok(Err(malformed(Malformed::Misdirected)));
    };
    if !parts.headers.contains_key(HOST) && parts.uri.authority().is_none() {
        parts.headers.insert(HOST, host_header(&claimed.host)?);
    }
    let admitted = match admit::admit(&mut parts, endpoint, &claimed, model) {
        Ok(admitted) => admitted,
        Err(error) => return Ok(Err(malformed(error))),
    };
    let credential = match (named, model.profile(&agent.profile)) {
        (Some(named), _) => Some(named),
        (None, None) => None,
        (None, Some(profile)) => match select(model, profile, endpoint, &parts, body) {
            Ok(credential) => credential.map(|own| own.key.clone()),
            Err(refusal) => return Ok(Err(refusal)),
        },
    };
    let decoded_max = model.gateway.limits.decoded_bytes_max;
    let read = admit::facts(&parts, &admitted.host, body, endpoint, FactSet::ALL, decoded_max);
    Ok(match read {
        Ok((facts, _)) => Ok((credential, facts)),
        Err(error) => Err(malformed(error)),
    })
}

/// What was dialled where `host` was called; `None` if the endpoint does not claim that.
fn dialled(endpoint: &Endpoint, host: &str) -> anyhow::Result<Option<HostPort>> {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or(rest),
        None => host.split(':').next().unwrap_or(host),
    };
    let address = name.parse::<IpAddr>().ok();
    let of = |claim: &Claim| match &claim.host {
        HostPattern::Name(own) if name.is_empty() => Some(own.clone()),
        HostPattern::Net(net) if name.is_empty() && net.prefix_len() == net.max_prefix_len() => {
            Some(net.addr().to_string())
        }
        own => {
            let leads = own.matches_name(name) || address.is_some_and(|ip| own.matches_address(ip));
            leads.then(|| name.to_owned())
        }
    };
    let port = host
        .rsplit_once(':')
        .and_then(|(_, port)| port.parse::<u16>().ok());
    let mut claims = endpoint.claims.iter();
    let found = claims.find_map(|claim| {
        let host = of(claim).filter(|_| port.is_none_or(|port| port == claim.port) || name.contains(':'))?;
        Some(HostPort {
            host,
            port: claim.port,
        })
    });
    if found.is_none() && name.is_empty() {
        bail!(
            "{} claims many hosts: a `host` has to say which is meant",
            endpoint.key
        );
    }
    Ok(found)
}

fn host_header(host: &str) -> anyhow::Result<HeaderValue> {
    let is_v6 = host.parse::<std::net::Ipv6Addr>().is_ok();
    let text = if is_v6 {
        format!("[{host}]")
    } else {
        host.to_owned()
    };
    HeaderValue::from_str(&text).context("no host")
}

/// `METHOD /path` and headers as the head of a request, and the host that it names, if it does.
pub(super) fn head(line: &str, headers: &[String]) -> anyhow::Result<(Parts, String)> {
    let (method, target) = line
        .split_once(' ')
        .context("a request is written 'METHOD /path'")?;
    let mut builder = http::Request::builder().method(method).uri(target.trim());
    for header in headers {
        let (name, value) = header
            .split_once(':')
            .context("a header is written 'name: value'")?;
        builder = builder.header(name.trim(), value.trim());
    }
    let (parts, ()) = builder.body(()).context("not a request")?.into_parts();
    let host = parts.headers.get(HOST).and_then(|host| host.to_str().ok());
    let host = host
        .or_else(|| parts.uri.authority().map(|own| own.as_str()))
        .unwrap_or_default()
        .to_ascii_lowercase();
    Ok((parts, host))
}

/// A text of SQL: the facts of each statement in it.
pub(super) fn statements(
    policy: &Policy,
    endpoint: &Endpoint,
    credential: Option<Arc<str>>,
    text: &str,
    (database, user): (Option<String>, Option<String>),
) -> anyhow::Result<Read> {
    if endpoint.family != Family::Sql {
        bail!("{} takes requests, no statements", endpoint.key);
    }
    let own = session(policy, endpoint, credential.as_deref());
    let database = database.or(own.0).unwrap_or_default();
    let user = user.or(own.1).unwrap_or_default();
    let statements = sql::read(text, policy.model().gateway.limits.statement_bytes_max);
    if statements.is_empty() {
        bail!("there is no statement in this text");
    }
    if statements.iter().any(|statement| statement.rereads) {
        return Ok(Err(Refusal::new(Cause::Malformed, REREADS_REASON)));
    }
    let count = i64::try_from(statements.len()).unwrap_or(i64::MAX);
    let facts = statements.into_iter().map(|statement| {
        let mut facts = SqlFacts::new(statement, &database, &user);
        facts.statements = count;
        Facts::Sql(Box::new(facts))
    });
    Ok(Ok((credential, facts.collect())))
}

/// The database of the endpoint and the user of the credential.
fn session(
    policy: &Policy,
    endpoint: &Endpoint,
    credential: Option<&str>,
) -> (Option<String>, Option<String>) {
    let own = endpoint.database.clone();
    match credential
        .and_then(|key| policy.model().credential(key))
        .map(|credential| &credential.kind)
    {
        Some(CredentialKind::Postgres { user, database }) => (own.or_else(|| database.clone()), user.clone()),
        _ => (own, None),
    }
}

/// The credential that is used where the agent names none.
pub(super) fn fallback(policy: &Policy, agent: &Agent, endpoint: &str) -> Option<Arc<str>> {
    let profile = policy.model().profile(&agent.profile)?;
    let held = profile.credentials.iter().filter(|held| held.fallback);
    let mut bound = held.filter(|held| {
        let credential = policy.model().credential(&held.credential);
        credential.is_some_and(|credential| credential.endpoints.iter().any(|key| &**key == endpoint))
    });
    bound.next().map(|held| held.credential.clone())
}
