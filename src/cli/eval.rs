//! `tailkeep eval`: judges one action that is given on the command line.

use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context as _, bail};

use super::Format;
use super::read::{self, Read};
use crate::facts::http::HeldBody;
use crate::identity::{Agent, Identity, Transport};
use crate::policy::{Endpoint, Judgement, Policy, Protocol, Step, source};
use crate::verdict::Verdict;

#[derive(clap::Args)]
pub struct Args {
    /// A file, or a folder of `*.hcl`.
    path: PathBuf,
    /// The agent: `tag:ci`, or the name of a profile.
    #[arg(long)]
    agent: Option<String>,
    /// The agent's login.
    #[arg(long)]
    login: Option<String>,
    /// The agent's node name.
    #[arg(long)]
    node: Option<String>,
    /// A profile that the tailnet's policy grants to the agent's node.
    #[arg(long)]
    grant: Vec<String>,
    /// The name of another app capability that it grants, for `agent.caps`.
    #[arg(long)]
    cap: Vec<String>,
    /// The agent's WireGuard peer name.
    #[arg(long, conflicts_with_all = ["login", "node", "grant", "cap"])]
    peer: Option<String>,
    /// The agent's address inside the tunnel.
    #[arg(long, default_value = "100.64.0.1")]
    address: IpAddr,
    /// The endpoint, `type.name`; may be left out where the profile has one of the family.
    #[arg(long)]
    endpoint: Option<String>,
    /// The credential that the agent's placeholder selects, `type.name`.
    #[arg(long)]
    credential: Option<String>,
    /// SQL statements of Postgres; each is judged, and all are refused if one is.
    #[arg(long, conflicts_with_all = ["k8s", "http"])]
    sql: Option<String>,
    /// The database of the session; the endpoint's own by default.
    #[arg(long)]
    database: Option<String>,
    /// The role of the session; the credential's own by default.
    #[arg(long)]
    user: Option<String>,
    /// A request, `METHOD /path?query`.
    #[arg(long, conflicts_with = "k8s")]
    http: Option<String>,
    /// A request to a Kubernetes API server, `METHOD /path?query`.
    #[arg(long)]
    k8s: Option<String>,
    /// A header of the request, `name: value`.
    #[arg(long)]
    header: Vec<String>,
    /// The body of the request.
    #[arg(long)]
    body: Option<String>,
    /// The time that `now` means, such as 2026-07-01T09:00:00Z; else the present.
    #[arg(long)]
    at: Option<chrono::DateTime<chrono::Utc>>,
    /// Print why each earlier rule did not match: every part of its condition with its value.
    #[arg(long)]
    explain: bool,
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let policy = match Policy::load(source::read(&args.path)?, &source::read_file) {
        Ok(policy) => policy,
        Err(errors) => {
            super::validate::print_errors(&errors, args.format);
            return Ok(ExitCode::from(1));
        }
    };
    let agent = agent(&policy, &args)?;
    let endpoint = endpoint(&policy, &args, &agent)?;
    let now = args.at.unwrap_or_else(chrono::Utc::now);
    let (credential, all) = match read(&policy, &args, &agent, endpoint)? {
        Ok(read) => read,
        Err(refusal) => {
            let judgement = Judgement::plain(Verdict::Deny(refusal));
            print(
                &args,
                &agent,
                &endpoint.key,
                &judgement,
                &[],
                &serde_json::Value::Null,
            );
            return Ok(ExitCode::from(1));
        }
    };
    let mut denied = false;
    for facts in all {
        let (judgement, steps) = policy.explain(&agent, &endpoint.key, credential.as_deref(), &facts, now);
        let facts = facts.to_json(policy.mask());
        print(&args, &agent, &endpoint.key, &judgement, &steps, &facts);
        denied |= matches!(judgement.verdict, Verdict::Deny(_));
    }
    Ok(ExitCode::from(u8::from(denied)))
}

/// The agent that the flags describe, with the profile that claims it.
fn agent(policy: &Policy, args: &Args) -> anyhow::Result<Agent> {
    let tag = args.agent.as_deref().filter(|agent| agent.starts_with("tag:"));
    let transport = match args.peer {
        Some(_) => Transport::Wireguard,
        None => Transport::Tailnet,
    };
    let node = args.peer.as_ref().or(args.node.as_ref());
    let identity = Arc::new(Identity {
        login: args.login.clone(),
        tags: tag.map(str::to_owned).into_iter().collect(),
        grants: args.grant.clone(),
        caps: [&*args.cap, &*args.grant].concat(),
        ..Identity::new(transport, args.address, node.cloned().unwrap_or_default())
    });
    let profile = match (&args.agent, tag) {
        (Some(name), None) => match policy.model().profile(name) {
            Some(profile) => profile.name.clone(),
            None => bail!("there is no profile `{name}` (a tag is written tag:{name})"),
        },
        _ => policy.profile_for(&identity).map_err(anyhow::Error::msg)?,
    };
    Ok(Agent::new(identity, profile))
}

/// The endpoint that was named, or the only one of the profile whose protocol fits.
fn endpoint<'a>(policy: &'a Policy, args: &Args, agent: &Agent) -> anyhow::Result<&'a Endpoint> {
    let model = policy.model();
    if let Some(key) = &args.endpoint {
        let found = model.endpoint(key).map(|own| &**own);
        return found.with_context(|| format!("there is no endpoint `{key}`"));
    }
    let wanted = |protocol: Protocol| match protocol {
        Protocol::Https | Protocol::Http | Protocol::Mcp => args.http.is_some(),
        Protocol::Kubernetes => args.k8s.is_some(),
        Protocol::Postgres => args.sql.is_some(),
        Protocol::Unread => false,
    };
    let held = model
        .profile(&agent.profile)
        .map_or(&[][..], |profile| &profile.endpoints);
    let mut fitting = held
        .iter()
        .filter_map(|key| model.endpoint(key).map(|own| &**own))
        .filter(|endpoint| wanted(endpoint.protocol));
    match (fitting.next(), fitting.next()) {
        (Some(one), None) => Ok(one),
        _ => bail!(
            "--endpoint type.name is needed; the profile has: {}",
            held.join(", ")
        ),
    }
}

/// The action that the flags describe, as the gateway would read it.
fn read(policy: &Policy, args: &Args, agent: &Agent, endpoint: &Endpoint) -> anyhow::Result<Read> {
    let named = args.credential.as_deref().map(Arc::from);
    if let Some(text) = &args.sql {
        let credential = named.or_else(|| read::fallback(policy, agent, &endpoint.key));
        let session = (args.database.clone(), args.user.clone());
        return read::statements(policy, endpoint, credential, text, session);
    }
    let Some(line) = args.http.as_ref().or(args.k8s.as_ref()) else {
        bail!("an action is needed: --sql, --http 'GET /path' or --k8s 'GET /api/…'");
    };
    let body = args
        .body
        .as_deref()
        .map_or(HeldBody::Empty, |body| HeldBody::Whole(body.as_bytes()));
    let head = read::head(line, &args.header)?;
    read::request(policy, agent, endpoint, named, head, body)
}

/// `allow`, `deny` or `approve`, and the rule.
pub(super) fn summary(verdict: &Verdict) -> (&'static str, Option<&str>) {
    match verdict {
        Verdict::Allow { rule } => ("allow", rule.as_deref()),
        Verdict::Deny(refusal) => ("deny", refusal.rule().map(|rule| &**rule)),
        Verdict::Ask { rule, .. } => ("approve", Some(rule)),
    }
}

fn print(
    args: &Args,
    agent: &Agent,
    endpoint: &str,
    judgement: &Judgement,
    steps: &[Step],
    facts: &serde_json::Value,
) {
    let (name, rule) = summary(&judgement.verdict);
    let (cause, reason, detail, chain) = match &judgement.verdict {
        Verdict::Allow { .. } => (None, None, None, Vec::new()),
        Verdict::Deny(refusal) => (
            Some(refusal.cause.name()),
            Some(refusal.reason.as_str()),
            refusal.detail.as_deref(),
            Vec::new(),
        ),
        Verdict::Ask { reason, chain, .. } => (None, Some(reason.as_str()), None, chain.clone()),
    };
    if args.format == Format::Json {
        let chain: Vec<&str> = chain.iter().map(|key| &**key).collect();
        let mut document = serde_json::json!({
            "verdict": name, "rule": rule, "cause": cause, "reason": reason, "detail": detail,
            "approvers": chain, "profile": &*agent.profile, "endpoint": endpoint,
            "shadow": judgement.shadow, "facts": facts,
        });
        if args.explain {
            document["explain"] = serde_json::json!(steps);
        }
        println!("{document}");
        return;
    }
    println!(
        "{name} {}",
        rule.map_or("(no rule)".to_owned(), |rule| format!("by rule {rule}"))
    );
    println!("profile {}, endpoint {endpoint}", agent.profile);
    for (label, text) in [("reason", reason), ("cause", cause), ("detail", detail)] {
        if let Some(text) = text {
            println!("{label}: {text}");
        }
    }
    if !chain.is_empty() {
        println!("approvers: {}", chain.join(", "));
    }
    for shadow in &judgement.shadow {
        println!("shadow: {shadow}");
    }
    println!("facts: {}", facts);
    if args.explain {
        for step in steps {
            let place = step.place.as_deref().unwrap_or_default();
            println!("rule {}: {}  {place}", step.rule, step.outcome);
            for line in step.lines() {
                println!("  {}", super::printable(&line));
            }
        }
    }
}
