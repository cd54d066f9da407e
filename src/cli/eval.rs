//! `tailkeep eval`: judges one action that is given on the command line.

use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context as _, bail};

use super::Format;
use crate::facts::http::{HeldBody, HttpFacts};
use crate::facts::k8s::K8sFacts;
use crate::facts::sql::{self, SqlFacts};
use crate::facts::{FactSet, Facts, Family, mcp};
use crate::identity::{Agent, Identity, Transport};
use crate::policy::{CredentialKind, Judgement, Policy, Protocol, Step, source};
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
    let credential = match &args.credential {
        Some(key) => Some(Arc::from(key.as_str())),
        None => fallback(&policy, &agent, &endpoint),
    };
    let now = args.at.unwrap_or_else(chrono::Utc::now);
    let mut denied = false;
    for facts in facts(&policy, &args, &endpoint, credential.as_deref())? {
        let (judgement, steps) = policy.explain(&agent, &endpoint, credential.as_deref(), &facts, now);
        let facts = facts.to_json(policy.mask());
        print(&args, &agent, &endpoint, &judgement, &steps, &facts);
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
fn endpoint(policy: &Policy, args: &Args, agent: &Agent) -> anyhow::Result<Arc<str>> {
    let model = policy.model();
    if let Some(key) = &args.endpoint {
        let found = model
            .endpoint(key)
            .with_context(|| format!("there is no endpoint `{key}`"))?;
        return Ok(found.key.clone());
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
    let mut fitting = held.iter().filter(|key| {
        model
            .endpoint(key)
            .is_some_and(|endpoint| wanted(endpoint.protocol))
    });
    match (fitting.next(), fitting.next()) {
        (Some(one), None) => Ok(one.clone()),
        _ => bail!(
            "--endpoint type.name is needed; the profile has: {}",
            held.join(", ")
        ),
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

/// The facts of each action: one of a request, one for each statement.
fn facts(
    policy: &Policy,
    args: &Args,
    endpoint: &str,
    credential: Option<&str>,
) -> anyhow::Result<Vec<Facts>> {
    let limits = &policy.model().gateway.limits;
    if let Some(text) = &args.sql {
        let session = session(policy, endpoint, credential);
        let database = args.database.clone().or(session.0).unwrap_or_default();
        let user = args.user.clone().or(session.1).unwrap_or_default();
        return sql_facts(text, limits.statement_bytes_max, &database, &user);
    }
    let held = args
        .body
        .as_deref()
        .map_or(HeldBody::Empty, |body| HeldBody::Whole(body.as_bytes()));
    let (line, k8s) = match (&args.http, &args.k8s) {
        (Some(line), _) => (line, false),
        (None, Some(line)) => (line, true),
        (None, None) => bail!("an action is needed: --sql, --http 'GET /path' or --k8s 'GET /api/…'"),
    };
    let (parts, host) = request(line, &args.header)?;
    if k8s {
        let facts = K8sFacts::read(&parts, &host, held, FactSet::ALL, limits.decoded_bytes_max);
        return Ok(vec![Facts::K8s(Box::new(
            facts.context("the request is refused")?,
        ))]);
    }
    let mcp = policy
        .model()
        .endpoint(endpoint)
        .is_some_and(|own| own.family == Family::Mcp);
    http_facts((&parts, &host), held, mcp, limits.decoded_bytes_max)
}

/// The facts of a request: one set, or one for each message or operation of a batch.
pub(super) fn http_facts(
    (parts, host): (&http::request::Parts, &str),
    held: HeldBody<'_>,
    mcp: bool,
    decoded_bytes_max: usize,
) -> anyhow::Result<Vec<Facts>> {
    let refused = "the request is refused";
    if mcp {
        let read = mcp::read(parts, held, decoded_bytes_max).context(refused)?;
        let each = read.messages.into_iter();
        return Ok(each.map(|one| Facts::Mcp(Box::new(one))).collect());
    }
    let each = HttpFacts::read_each(parts, host, held, FactSet::ALL, decoded_bytes_max).context(refused)?;
    Ok(each.into_iter().map(|one| Facts::Http(Box::new(one))).collect())
}

/// The database of the endpoint and the user of the credential.
pub(super) fn session(
    policy: &Policy,
    endpoint: &str,
    credential: Option<&str>,
) -> (Option<String>, Option<String>) {
    let model = policy.model();
    let own = model
        .endpoint(endpoint)
        .and_then(|endpoint| endpoint.database.clone());
    match credential
        .and_then(|key| model.credential(key))
        .map(|credential| &credential.kind)
    {
        Some(CredentialKind::Postgres { user, database }) => (own.or_else(|| database.clone()), user.clone()),
        _ => (own, None),
    }
}

/// One set of facts for each statement of a text.
pub(super) fn sql_facts(
    text: &str,
    bytes_max: usize,
    database: &str,
    user: &str,
) -> anyhow::Result<Vec<Facts>> {
    let statements = sql::read(text, bytes_max);
    if statements.is_empty() {
        bail!("there is no statement in this text");
    }
    let count = i64::try_from(statements.len()).unwrap_or(i64::MAX);
    let facts = statements.into_iter().map(|statement| {
        let mut facts = SqlFacts::new(statement, database, user);
        facts.statements = count;
        Facts::Sql(Box::new(facts))
    });
    Ok(facts.collect())
}

/// `METHOD /path` and headers as the head of a request, and its host.
pub(super) fn request(line: &str, headers: &[String]) -> anyhow::Result<(http::request::Parts, String)> {
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
    let host = parts.headers.get("host").and_then(|host| host.to_str().ok());
    let host = host
        .or_else(|| parts.uri.host())
        .unwrap_or_default()
        .to_ascii_lowercase();
    Ok((parts, host))
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
