//! `tailkeep test`: replays recorded actions and reports each verdict that moved.
//!
//! The fixtures are those of Claw Patrol's `test` command: `match` says what is expected,
//! `action` what was done. Ours may have an `agent` in the action: `{"profile": …}`, or `tags`,
//! `login`, `node`, `peer` that a profile must claim; and a `k8s` action may be the request itself,
//! with `method` and `path`, in the place of what it resolves to.
//!
//! Exit status: 1 if a verdict moved; 2 if a fixture or the policy cannot be read.

pub(super) mod fixture;

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context as _, bail};

use super::Format;
use super::eval::{self, summary};
use crate::identity::{Agent, Identity, Transport};
use crate::policy::{Endpoint, Policy, source};
use fixture::{Action, Fixture, Who, facts};

/// The verdicts that can be replayed, strictest last.
const VERDICTS: &[&str] = &["allow", "approve", "deny"];
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

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let policy = match Policy::load(source::read(&args.path)?, &source::read_file) {
        Ok(policy) => policy,
        Err(errors) => {
            super::validate::print_errors(&errors, args.format);
            return Ok(ExitCode::from(2));
        }
    };
    let files = files(&args.fixtures)?;
    let (mut moved, mut bad) = (0, 0);
    for file in &files {
        let problem = match replay(&policy, file) {
            Ok(None) => continue,
            Ok(Some(difference)) => {
                moved += 1;
                difference
            }
            Err(error) => {
                bad += 1;
                format!("not replayed: {error:#}")
            }
        };
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
        let unread = if bad > 0 {
            format!(", {bad} not replayed")
        } else {
            String::new()
        };
        println!(
            "{} actions checked, {moved} mismatches{unread}",
            files.len() - bad
        );
    }
    Ok(ExitCode::from(match (moved, bad) {
        (0, 0) => 0,
        (_, 0) => 1,
        _ => 2,
    }))
}

pub(super) fn files(path: &Path) -> anyhow::Result<Vec<PathBuf>> {
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
    if !VERDICTS.contains(&fixture.wanted.verdict.as_str()) {
        bail!(
            "the verdict `{}` is none of {}",
            fixture.wanted.verdict,
            VERDICTS.join(", ")
        );
    }
    let endpoint = endpoint(policy, &fixture)?;
    let agent = agent(policy, &fixture.action, endpoint)?;
    let credential = credential(policy, &fixture.action, &agent, endpoint);
    let now = fixture.action.at.unwrap_or_else(chrono::Utc::now);
    let mut decided: Option<(&str, String)> = None;
    for facts in facts(policy, &fixture.action, endpoint, credential.as_deref())? {
        let judgement = policy.evaluate(&agent, &endpoint.key, credential.as_deref(), &facts, now);
        let (verdict, rule) = summary(&judgement.verdict);
        // Statements that are sent as one go as far as the strictest of them.
        if decided.as_ref().is_none_or(|own| rank(verdict) > rank(own.0)) {
            decided = Some((verdict, rule.unwrap_or_default().to_owned()));
        }
    }
    let decided = decided.context("there is nothing to judge")?;
    let wanted = (fixture.wanted.verdict.as_str(), fixture.wanted.rule);
    let difference = format!(
        "want {} by `{}`, got {} by `{}`",
        wanted.0, wanted.1, decided.0, decided.1
    );
    Ok((wanted != decided).then_some(difference))
}

/// How strict a verdict is: its place in [`VERDICTS`].
fn rank(verdict: &str) -> Option<usize> {
    VERDICTS.iter().position(|own| *own == verdict)
}

pub(super) fn endpoint<'a>(policy: &'a Policy, fixture: &Fixture) -> anyhow::Result<&'a Arc<Endpoint>> {
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
pub(super) fn agent(policy: &Policy, action: &Action, endpoint: &Endpoint) -> anyhow::Result<Agent> {
    let who = action.agent.as_ref();
    let peer = who.and_then(|who| who.peer.clone());
    let transport = match peer {
        Some(_) => Transport::Wireguard,
        None => Transport::Tailnet,
    };
    let address = action.peer_ip.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
    let node = peer.or_else(|| who.and_then(|who| who.node.clone()));
    let identity = Arc::new(Identity {
        login: who.and_then(|who| who.login.clone()),
        tags: who.map(|who| who.tags.clone()).unwrap_or_default(),
        grants: who.map(|who| who.grants.clone()).unwrap_or_default(),
        caps: who
            .map(|who| [&*who.caps, &*who.grants].concat())
            .unwrap_or_default(),
        ..Identity::new(transport, address, node.unwrap_or_default())
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

pub(super) fn credential(
    policy: &Policy,
    action: &Action,
    agent: &Agent,
    endpoint: &Endpoint,
) -> Option<Arc<str>> {
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
