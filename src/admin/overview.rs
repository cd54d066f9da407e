//! `/v1/health`, `/v1/agents`, `/v1/policy`: the gateway as it is.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, PoisonError};

use axum::Json;
use axum::extract::State as Shared;
use axum::http::{HeaderName, header::CONTENT_TYPE};
use ipnet::IpNet;
use schemars::JsonSchema;
use serde::Serialize;

use super::Operator;
use super::api::{Failed, broken};
use super::node::Node;
use super::openapi::Shown;
use super::record::Diagnostic;
use crate::audit::activity::{ACTIVITY_RECORDS_MAX, ActiveAgent};
use crate::audit::read::Reader;
use crate::bad_input;
use crate::ingress::tailnet::login;
use crate::policy::{ApproverKind, HostPattern, ShownRule};
use crate::state::Kill;
use crate::state::peer::{Enrolment, PeerKey};
use crate::verdict::approval::QuestionState;

/// How the gateway is.
#[derive(Serialize, JsonSchema)]
pub(super) struct Health {
    version: &'static str,
    /// The version of the policy in force.
    policy: String,
    /// The fingerprint of the gateway's CA.
    ca: String,
    up_s: u64,
    /// Held actions that wait for people.
    pending: usize,
    /// Where the page is.
    page: Option<SocketAddr>,
    wireguard: Option<SocketAddr>,
    enrolment: Option<SocketAddr>,
    /// Null without a `tailscale` block.
    tailnet: Option<OwnNode>,
    /// What was refused as malformed: by its reader, then by why.
    bad_input: BTreeMap<&'static str, BTreeMap<String, u64>>,
}

/// The gateway's node, as tailscaled says.
#[derive(Serialize, JsonSchema)]
struct OwnNode {
    /// tailscaled's own word, or `unheard`.
    state: String,
    /// Whether the gateway runs it.
    own: bool,
    problem: Option<String>,
    /// Missing while tailscaled has said nothing.
    #[serde(flatten)]
    heard: Option<Heard>,
}

#[derive(Serialize, JsonSchema)]
struct Heard {
    /// Where a person logs the node in, while that is needed.
    login_url: Option<String>,
    /// The same as a QR code.
    login_code: Option<QrCode>,
    /// Who signs the page's certificate, and why no other does.
    certificate: Option<String>,
    addresses: Vec<IpAddr>,
    /// Whether it has a network device.
    has_device: bool,
    name: Option<String>,
    tags: Vec<String>,
    /// The routes that the tailnet approved.
    #[schemars(with = "Vec<String>")]
    approved: Vec<IpNet>,
}

/// A square of `width` modules; `path` is an SVG path over the dark ones, a unit each.
#[derive(Serialize, JsonSchema)]
struct QrCode {
    width: usize,
    path: String,
}

pub(super) async fn health(Shared(operator): Shared<Operator>) -> Result<Json<Health>, Failed> {
    let policy = operator.gate.policy();
    let held = operator.queue.list(false).await.map_err(broken)?;
    let pending = held
        .iter()
        .filter(|held| held.state == QuestionState::Pending)
        .count();
    let gateway = &policy.model().gateway;
    Ok(Json(Health {
        version: env!("CARGO_PKG_VERSION"),
        policy: format!("{:016x}", policy.version()),
        ca: operator.authority.fingerprint(),
        up_s: operator.started.elapsed().as_secs(),
        pending,
        page: operator.page.get().copied(),
        wireguard: gateway.wireguard.as_ref().map(|wireguard| wireguard.listen),
        enrolment: gateway.enrol_listen,
        tailnet: tailnet(&operator),
        bad_input: bad_input(),
    }))
}

fn bad_input() -> BTreeMap<&'static str, BTreeMap<String, u64>> {
    let mut shown: BTreeMap<_, BTreeMap<_, _>> = BTreeMap::new();
    for ((reader, reason), count) in bad_input::counts() {
        shown.entry(reader.name()).or_default().insert(reason, count);
    }
    shown
}

/// The same as Prometheus reads it.
pub(super) async fn metrics() -> ([(HeaderName, &'static str); 1], String) {
    (
        [(CONTENT_TYPE, "text/plain; version=0.0.4")],
        bad_input::metrics(),
    )
}

fn tailnet(operator: &Operator) -> Option<OwnNode> {
    let tailnet = operator.tailnet.as_ref()?;
    let status = tailnet.node.status().borrow().clone();
    let state = status.as_ref().map(|status| status.backend_state.clone());
    let heard = status.map(|status| {
        // A link for a person, so it must be one.
        let is_link = |url: &String| url.starts_with("https://") || url.starts_with("http://");
        let own = status.own.as_ref();
        let login_url = Some(status.auth_url).filter(is_link);
        Heard {
            login_code: login_url
                .as_deref()
                .and_then(login::qr_path)
                .map(|(width, path)| QrCode { width, path }),
            login_url,
            certificate: tailnet
                .certificate
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .clone(),
            addresses: status.addresses.unwrap_or_default(),
            has_device: status.has_device,
            name: own.map(|own| own.name.trim_matches('.').to_owned()),
            tags: own.and_then(|own| own.tags.clone()).unwrap_or_default(),
            approved: own.and_then(|own| own.allowed.clone()).unwrap_or_default(),
        }
    });
    Some(OwnNode {
        state: state.unwrap_or_else(|| "unheard".to_owned()),
        own: tailnet.node.is_own(),
        problem: tailnet.node.problem(),
        heard,
    })
}

async fn read<T: Send + 'static>(
    operator: &Operator,
    what: impl FnOnce(&Reader) -> Result<T, crate::audit::read::ReadError> + Send + 'static,
) -> Result<T, Failed> {
    let path = operator.audit().await;
    let read = tokio::task::spawn_blocking(move || what(&Reader::open(&path)?)).await;
    read.map_err(broken)?.map_err(broken)
}

/// Agents: seen, enrolled, stopped.
#[derive(Serialize, JsonSchema)]
pub(super) struct Agents {
    /// Among the newest `records`, the latest first.
    active: Vec<ActiveAgent>,
    peers: Vec<PeerKey>,
    /// Links that wait to be used.
    waiting: Vec<Enrolment>,
    records: i64,
    killed: Vec<Kill>,
    /// Of the tailnet.
    nodes: Vec<Node>,
}

pub(super) async fn agents(Shared(operator): Shared<Operator>) -> Result<Json<Agents>, Failed> {
    let listed = operator
        .state
        .run(|state| Ok((state.peers()?, state.enrolments()?)))
        .await;
    let (peers, waiting) = listed.map_err(broken)?;
    let active = read(&operator, Reader::active_agents).await?;
    let killed = operator.queue.killed().borrow().clone();
    let mut killed: Vec<Kill> = killed.values().cloned().collect();
    killed.sort_by_key(|kill| std::cmp::Reverse(kill.at_us));
    Ok(Json(Agents {
        active,
        peers,
        waiting,
        records: ACTIVITY_RECORDS_MAX,
        killed,
        nodes: super::node::nodes(&operator),
    }))
}

/// The policy in force.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Policy")]
pub(super) struct InForce {
    version: String,
    rules: Vec<Rule>,
    endpoints: Vec<Endpoint>,
    profiles: Vec<Profile>,
    approvers: Vec<Approver>,
    notes: Shown<Vec<Diagnostic>>,
    /// How many of the newest records the hits are counted in.
    records: i64,
}

/// A rule, with what it decided lately.
#[derive(Serialize, JsonSchema)]
struct Rule {
    #[serde(flatten)]
    rule: ShownRule,
    hits: u64,
    /// Unix time, microseconds.
    last_us: Option<i64>,
}

#[derive(Serialize, JsonSchema)]
struct Endpoint {
    key: String,
    hosts: Vec<String>,
    description: Option<String>,
}

#[derive(Serialize, JsonSchema)]
struct Profile {
    name: String,
    tags: Vec<String>,
    logins: Vec<String>,
    nodes: Vec<String>,
    peers: Vec<String>,
    grants: Vec<String>,
    endpoints: Vec<String>,
    credentials: Vec<String>,
}

#[derive(Serialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "lowercase")]
enum Approver {
    Human {
        key: String,
        required: u32,
        people: Vec<String>,
        channel: Option<String>,
        channels: Vec<String>,
    },
    Llm {
        key: String,
        model: String,
    },
}

pub(super) async fn policy(Shared(operator): Shared<Operator>) -> Result<Json<InForce>, Failed> {
    let active = read(&operator, Reader::active_rules).await?;
    let policy = operator.gate.policy();
    let model = policy.model();
    let rules = policy.shown_rules().into_iter().map(|rule| {
        let own = active.iter().find(|active| active.rule == rule.name);
        Rule {
            hits: own.map_or(0, |own| own.hits),
            last_us: own.map(|own| own.last_us),
            rule,
        }
    });
    let endpoints = model.endpoints.iter().map(|endpoint| {
        let claims = endpoint.claims.iter().map(|claim| match &claim.host {
            HostPattern::Name(name) => format!("{name}:{}", claim.port),
            HostPattern::Suffix(suffix) => format!("*.{suffix}:{}", claim.port),
            HostPattern::Net(IpNet::V6(net)) => format!("[{net}]:{}", claim.port),
            HostPattern::Net(net) => format!("{net}:{}", claim.port),
        });
        Endpoint {
            key: endpoint.key.to_string(),
            hosts: claims.collect(),
            description: endpoint.description.clone(),
        }
    });
    let profiles = model.profiles.iter().map(|profile| Profile {
        name: profile.name.to_string(),
        tags: profile.tags.clone(),
        logins: profile.logins.clone(),
        nodes: profile.nodes.clone(),
        peers: profile.peers.clone(),
        grants: profile.grants.clone(),
        endpoints: texts(&profile.endpoints),
        credentials: profile
            .credentials
            .iter()
            .map(|held| held.credential.to_string())
            .collect(),
    });
    let approvers = model.approvers.iter().map(|approver| match &approver.kind {
        ApproverKind::Human {
            channel,
            channels,
            require_approvers,
            approvers,
            ..
        } => Approver::Human {
            key: approver.key.to_string(),
            required: *require_approvers,
            people: approvers.clone(),
            channel: channel.clone(),
            channels: texts(channels),
        },
        ApproverKind::Llm(llm) => Approver::Llm {
            key: approver.key.to_string(),
            model: llm.model.clone(),
        },
    });
    Ok(Json(InForce {
        version: format!("{:016x}", policy.version()),
        rules: rules.collect(),
        endpoints: endpoints.collect(),
        profiles: profiles.collect(),
        approvers: approvers.collect(),
        notes: Shown::new(policy.notes().to_json()),
        records: ACTIVITY_RECORDS_MAX,
    }))
}

fn texts(keys: &[Arc<str>]) -> Vec<String> {
    keys.iter().map(ToString::to_string).collect()
}
