//! `tailkeep test`: replays recorded actions and reports each verdict that moved.
//!
//! The fixtures are those of Claw Patrol's `test` command: `match` says what is expected,
//! `action` what was done. Ours may have an `agent` in the action: `{"profile": …}`, or `tags`,
//! `login`, `node`, `peer` that a profile must claim.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use base64::Engine as _;
use serde::Deserialize;

use super::Format;
use super::eval::{self, request, summary};
use crate::facts::http::{HeldBody, HttpFacts};
use crate::facts::{FactSet, Facts};
use crate::identity::{Agent, Identity, Transport};
use crate::policy::{Endpoint, Policy, source};
use crate::verdict::Verdict;

/// Most fixtures of a folder.
const FIXTURES_MAX: usize = 100_000;

#[derive(clap::Args)]
pub struct Args {
    /// A file, or a folder of `*.hcl`.
    path: PathBuf,
    /// A fixture, or a folder of `*.json`.
    fixtures: PathBuf,
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fixture {
    #[serde(rename = "match")]
    wanted: Wanted,
    action: Action,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    verdict: String,
    #[serde(default)]
    rule: String,
    endpoint: Option<String>,
    #[serde(rename = "reason")]
    _reason: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Action {
    host: Option<String>,
    credential: Option<String>,
    peer_ip: Option<IpAddr>,
    agent: Option<Who>,
    http: Option<Http>,
    sql: Option<Sql>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct Who {
    profile: Option<String>,
    tags: Vec<String>,
    login: Option<String>,
    node: Option<String>,
    peer: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct Http {
    method: Option<String>,
    path: Option<String>,
    query: BTreeMap<String, Vec<String>>,
    headers: BTreeMap<String, Vec<String>>,
    body: Option<String>,
    body_b64: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Sql {
    statement: String,
    database: Option<String>,
    user: Option<String>,
}

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let policy = match Policy::load(source::read(&args.path)?, &source::read_file) {
        Ok(policy) => policy,
        Err(errors) => {
            super::validate::print_errors(&errors, args.format);
            return Ok(ExitCode::from(2));
        }
    };
    let files = files(&args.fixtures)?;
    let mut moved = 0;
    for file in &files {
        let outcome = replay(&policy, file);
        let problem = match &outcome {
            Ok(None) => continue,
            Ok(Some(difference)) => difference.clone(),
            Err(error) => format!("not replayed: {error:#}"),
        };
        moved += 1;
        match args.format {
            Format::Text => println!("{}: {problem}", file.display()),
            Format::Json => {
                println!(
                    "{}",
                    serde_json::json!({ "fixture": file.display().to_string(), "problem": problem })
                );
            }
        }
    }
    if args.format == Format::Text {
        println!("{} actions checked, {moved} mismatches", files.len());
    }
    Ok(ExitCode::from(u8::from(moved > 0)))
}

fn files(path: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let context = || path.display().to_string();
    if !std::fs::metadata(path).with_context(context)?.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut files = Vec::new();
    for entry in std::fs::read_dir(path).with_context(context)? {
        let file = entry?.path();
        if file.extension().is_some_and(|extension| extension == "json") {
            files.push(file);
        }
        if files.len() > FIXTURES_MAX {
            bail!("more than {FIXTURES_MAX} fixtures");
        }
    }
    if files.is_empty() {
        bail!("{}: no *.json in this folder", path.display());
    }
    files.sort();
    Ok(files)
}

/// `None` if the verdict is the recorded one, else how it moved.
fn replay(policy: &Policy, file: &Path) -> anyhow::Result<Option<String>> {
    let fixture: Fixture = serde_json::from_str(&source::read_file(file)?)?;
    let endpoint = endpoint(policy, &fixture)?;
    let agent = agent(policy, &fixture.action, endpoint)?;
    let credential = credential(policy, &fixture.action, &agent, endpoint);
    let mut decided = ("allow", String::new());
    for facts in facts(policy, &fixture.action, endpoint, credential.as_deref())? {
        let judgement = policy.evaluate(&agent, &endpoint.key, credential.as_deref(), &facts);
        let (verdict, rule) = summary(&judgement.verdict);
        decided = (verdict, rule.unwrap_or_default().to_owned());
        if matches!(judgement.verdict, Verdict::Deny(_)) {
            break;
        }
    }
    let wanted = (fixture.wanted.verdict.as_str(), fixture.wanted.rule);
    let difference = format!(
        "want {} by `{}`, got {} by `{}`",
        wanted.0, wanted.1, decided.0, decided.1
    );
    Ok((wanted != decided).then_some(difference))
}

fn endpoint<'a>(policy: &'a Policy, fixture: &Fixture) -> anyhow::Result<&'a Arc<Endpoint>> {
    let endpoints = &policy.model().endpoints;
    if let Some(name) = fixture.wanted.endpoint.as_deref().filter(|name| !name.is_empty()) {
        let same = |key: &str| key == name || key.split_once('.').is_some_and(|(_, own)| own == name);
        let found = endpoints.iter().find(|endpoint| same(&endpoint.key));
        return found.with_context(|| format!("there is no endpoint `{name}`"));
    }
    let host = fixture
        .action
        .host
        .as_deref()
        .context("neither `match.endpoint` nor `action.host` is set")?;
    let name = host
        .rsplit_once(':')
        .map_or(host, |(name, _)| name)
        .to_ascii_lowercase();
    let claims = |endpoint: &Endpoint| {
        let address = name.parse::<IpAddr>().ok();
        let own = |claim: &crate::policy::Claim| {
            claim.host.matches_name(&name) || address.is_some_and(|ip| claim.host.matches_address(ip))
        };
        endpoint.claims.iter().any(own)
    };
    let found = endpoints.iter().find(|endpoint| claims(endpoint));
    found.with_context(|| format!("no endpoint claims {host}"))
}

/// The agent of the fixture, or, where none is named, any that holds the endpoint: the published
/// fixtures know no agents.
fn agent(policy: &Policy, action: &Action, endpoint: &Endpoint) -> anyhow::Result<Agent> {
    let who = action.agent.as_ref();
    let peer = who.and_then(|who| who.peer.clone());
    let identity = Arc::new(Identity {
        transport: if peer.is_some() {
            Transport::Wireguard
        } else {
            Transport::Tailnet
        },
        address: action.peer_ip.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        node: peer
            .or_else(|| who.and_then(|who| who.node.clone()))
            .unwrap_or_default(),
        login: who.and_then(|who| who.login.clone()),
        tags: who.map(|who| who.tags.clone()).unwrap_or_default(),
        grants: Vec::new(),
    });
    let profile = match who {
        Some(Who {
            profile: Some(name), ..
        }) => {
            let found = policy
                .model()
                .profile(name)
                .with_context(|| format!("there is no profile `{name}`"))?;
            found.name.clone()
        }
        Some(_) => policy.profile_for(&identity).map_err(anyhow::Error::msg)?,
        None => {
            let mut holding = policy
                .model()
                .profiles
                .iter()
                .filter(|own| own.endpoints.contains(&endpoint.key));
            holding
                .next()
                .with_context(|| format!("no profile holds {}", endpoint.key))?
                .name
                .clone()
        }
    };
    Ok(Agent::new(identity, profile))
}

fn credential(policy: &Policy, action: &Action, agent: &Agent, endpoint: &Endpoint) -> Option<Arc<str>> {
    let Some(name) = &action.credential else {
        return eval::fallback(policy, agent, &endpoint.key);
    };
    let found = policy
        .model()
        .credentials
        .iter()
        .find(|own| own.name == *name || *own.key == **name);
    Some(found.map_or_else(|| Arc::from(name.as_str()), |own| own.key.clone()))
}

fn facts(
    policy: &Policy,
    action: &Action,
    endpoint: &Endpoint,
    credential: Option<&str>,
) -> anyhow::Result<Vec<Facts>> {
    let limits = &policy.model().gateway.limits;
    match (&action.http, &action.sql) {
        (Some(http), None) => Ok(vec![http_facts(http, action, limits.decoded_bytes_max)?]),
        (None, Some(sql)) => {
            let session = eval::session(policy, &endpoint.key, credential);
            let database = sql.database.clone().or(session.0).unwrap_or_default();
            let user = sql.user.clone().or(session.1).unwrap_or_default();
            eval::sql_facts(&sql.statement, limits.statement_bytes_max, &database, &user)
        }
        _ => bail!("an action has one of `http` and `sql`"),
    }
}

fn http_facts(recorded: &Http, action: &Action, decoded_bytes_max: usize) -> anyhow::Result<Facts> {
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
    let headers: Vec<String> = recorded
        .headers
        .iter()
        .flat_map(|(name, values)| values.iter().map(move |value| format!("{name}: {value}")))
        .collect();
    let (parts, own) = request(&line, &headers)?;
    let host = action.host.as_deref().map_or(own, |host| {
        host.rsplit_once(':').map_or(host, |(name, _)| name).to_owned()
    });
    let body = match (&recorded.body, &recorded.body_b64) {
        (Some(_), Some(_)) => bail!("`body` and `body_b64` are both set"),
        (Some(text), None) => text.as_bytes().to_vec(),
        (None, Some(text)) => base64::engine::general_purpose::STANDARD.decode(text)?,
        (None, None) => Vec::new(),
    };
    let held = if body.is_empty() {
        HeldBody::Empty
    } else {
        HeldBody::Whole(&body)
    };
    let facts = HttpFacts::read(&parts, &host, held, FactSet::ALL, decoded_bytes_max)?;
    Ok(Facts::Http(Box::new(facts)))
}
