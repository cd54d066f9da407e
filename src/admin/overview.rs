//! `/v1/health`, `/v1/agents`, `/v1/policy`: the gateway as it is.

use std::sync::PoisonError;

use axum::Json;
use axum::extract::State as Shared;
use axum::http::{HeaderName, header::CONTENT_TYPE};
use ipnet::IpNet;
use serde_json::{Value, json};

use super::Operator;
use super::api::{Failed, broken};
use crate::audit::activity::ACTIVITY_RECORDS_MAX;
use crate::audit::read::Reader;
use crate::bad_input;
use crate::policy::{ApproverKind, HostPattern};
use crate::verdict::approval::QuestionState;

pub(super) async fn health(Shared(operator): Shared<Operator>) -> Result<Json<Value>, Failed> {
    let policy = operator.gate.policy();
    let held = operator.queue.list(false).await.map_err(broken)?;
    let pending = held
        .iter()
        .filter(|held| held.state == QuestionState::Pending)
        .count();
    let gateway = &policy.model().gateway;
    Ok(Json(json!({
        "version": env!("CARGO_PKG_VERSION"),
        "policy": format!("{:016x}", policy.version()),
        "ca": operator.authority.fingerprint(),
        "up_s": operator.started.elapsed().as_secs(),
        "pending": pending,
        "page": operator.page.get(),
        "wireguard": gateway.wireguard.as_ref().map(|wireguard| wireguard.listen),
        "enrolment": gateway.enrol_listen,
        "tailnet": tailnet(&operator),
        "bad_input": bad_input(),
    })))
}

/// What was refused as malformed, by what read it and why.
fn bad_input() -> Value {
    let mut shown = json!({});
    for ((reader, reason), count) in bad_input::counts() {
        shown[reader.name()][reason] = json!(count);
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

/// The node, as tailscaled says; `null` without a `tailscale` block.
fn tailnet(operator: &Operator) -> Value {
    let Some(tailnet) = &operator.tailnet else {
        return Value::Null;
    };
    let status = tailnet.node.status().borrow().clone();
    match status {
        None => {
            json!({ "state": "unheard", "own": tailnet.node.is_own(), "problem": tailnet.node.problem() })
        }
        Some(status) => {
            // A link for a person, so it must be one.
            let is_link = |url: &String| url.starts_with("https://") || url.starts_with("http://");
            let login = Some(status.auth_url).filter(is_link);
            json!({
                "state": status.backend_state,
                "login_url": login,
                "own": tailnet.node.is_own(),
                "problem": tailnet.node.problem(),
                "certificate": *tailnet.certificate.lock().unwrap_or_else(PoisonError::into_inner),
                "addresses": status.addresses.unwrap_or_default(),
                "has_device": status.has_device,
                "name": status.own.as_ref().map(|own| own.name.trim_matches('.')),
                "tags": status.own.as_ref().and_then(|own| own.tags.clone()).unwrap_or_default(),
                "approved": status.own.and_then(|own| own.allowed).unwrap_or_default(),
            })
        }
    }
}

async fn read<T: Send + 'static>(
    operator: &Operator,
    what: impl FnOnce(&Reader) -> Result<T, crate::audit::read::ReadError> + Send + 'static,
) -> Result<T, Failed> {
    let path = operator.audit();
    let read = tokio::task::spawn_blocking(move || what(&Reader::open(&path)?)).await;
    read.map_err(broken)?.map_err(broken)
}

pub(super) async fn agents(Shared(operator): Shared<Operator>) -> Result<Json<Value>, Failed> {
    let listed = operator
        .state
        .run(|state| Ok((state.peers()?, state.enrolments()?)))
        .await;
    let (peers, waiting) = listed.map_err(broken)?;
    let active = read(&operator, Reader::active_agents).await?;
    let killed = operator.queue.killed().borrow().clone();
    let mut killed: Vec<_> = killed.values().collect();
    killed.sort_by_key(|kill| std::cmp::Reverse(kill.at_us));
    Ok(Json(json!({
        "active": active, "peers": peers, "waiting": waiting, "records": ACTIVITY_RECORDS_MAX,
        "killed": killed, "nodes": super::node::nodes(&operator),
    })))
}

pub(super) async fn policy(Shared(operator): Shared<Operator>) -> Result<Json<Value>, Failed> {
    let active = read(&operator, Reader::active_rules).await?;
    let policy = operator.gate.policy();
    let model = policy.model();
    let rules = policy.shown_rules().into_iter().map(|rule| {
        let own = active.iter().find(|active| active.rule == rule.name);
        let mut shown = json!(rule);
        shown["hits"] = json!(own.map_or(0, |own| own.hits));
        shown["last_us"] = json!(own.map(|own| own.last_us));
        shown
    });
    let endpoints = model.endpoints.iter().map(|endpoint| {
        let claims = endpoint.claims.iter().map(|claim| match &claim.host {
            HostPattern::Name(name) => format!("{name}:{}", claim.port),
            HostPattern::Suffix(suffix) => format!("*.{suffix}:{}", claim.port),
            HostPattern::Net(IpNet::V6(net)) => format!("[{net}]:{}", claim.port),
            HostPattern::Net(net) => format!("{net}:{}", claim.port),
        });
        json!({ "key": &*endpoint.key, "hosts": claims.collect::<Vec<_>>(),
            "description": endpoint.description })
    });
    let profiles = model.profiles.iter().map(|profile| {
        json!({
            "name": &*profile.name, "tags": profile.tags, "logins": profile.logins, "nodes": profile.nodes,
            "peers": profile.peers, "grants": profile.grants,
            "endpoints": profile.endpoints.iter().map(|key| &**key).collect::<Vec<_>>(),
            "credentials": profile.credentials.iter().map(|held| &*held.credential).collect::<Vec<_>>(),
        })
    });
    let approvers = model.approvers.iter().map(|approver| match &approver.kind {
        ApproverKind::Human {
            channel,
            require_approvers,
            approvers,
            ..
        } => json!({
            "key": &*approver.key, "kind": "human", "required": require_approvers, "people": approvers,
            "channel": channel,
        }),
        ApproverKind::Llm(llm) => json!({ "key": &*approver.key, "kind": "llm", "model": llm.model }),
    });
    Ok(Json(json!({
        "version": format!("{:016x}", policy.version()),
        "rules": rules.collect::<Vec<_>>(),
        "endpoints": endpoints.collect::<Vec<_>>(),
        "profiles": profiles.collect::<Vec<_>>(),
        "approvers": approvers.collect::<Vec<_>>(),
        "notes": policy.notes().to_json(),
        "records": ACTIVITY_RECORDS_MAX,
    })))
}
