//! `/v1/agents/kill` and `unkill`: the kill switch.

use axum::Json;
use axum::extract::{Extension, State as Shared};
use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use super::api::{Failed, bad, broken, check_reason, not_found, state_failed};
use super::{Operator, Person};
use crate::identity::node_proof;

/// Bytes of an agent's key: a node's StableID or a peer's name, with what stands before it.
const AGENT_BYTES_MAX: usize = 128;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Kill {
    /// `peer:NAME`, `node:STABLEID`, or the name that one of either has now.
    agent: String,
    reason: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Unkill {
    agent: String,
}

pub(super) async fn kill(
    Shared(operator): Shared<Operator>,
    Extension(Person(person)): Extension<Person>,
    Json(asked): Json<Kill>,
) -> Result<Json<Value>, Failed> {
    check_reason(asked.reason.as_deref())?;
    let agent = named(&operator, &asked.agent).await?;
    let stopped = operator.gate.kill(&agent, &person, asked.reason.as_deref()).await;
    let stopped = stopped.map_err(state_failed)?;
    Ok(Json(
        json!({ "killed": agent, "grants": stopped.grants, "held": stopped.held }),
    ))
}

pub(super) async fn unkill(
    Shared(operator): Shared<Operator>,
    Extension(Person(person)): Extension<Person>,
    Json(asked): Json<Unkill>,
) -> Result<Json<Value>, Failed> {
    let killed = operator.queue.killed().borrow().clone();
    let agent = match killed.contains_key(&asked.agent) {
        true => asked.agent,
        false => named(&operator, &asked.agent).await?,
    };
    if !operator.gate.unkill(&agent, &person).await.map_err(broken)? {
        return Err(not_found(format!("{agent} is not stopped")));
    }
    Ok(Json(json!({ "unkilled": agent })))
}

/// The key of the one agent that is meant. A key may be of one that is not here now.
async fn named(operator: &Operator, name: &str) -> Result<String, Failed> {
    if name.is_empty() || name.len() > AGENT_BYTES_MAX || name.chars().any(char::is_control) {
        return Err(bad("an agent is `peer:NAME`, `node:STABLEID` or a name"));
    }
    if name.starts_with("peer:") || name.starts_with("node:") {
        return Ok(name.to_owned());
    }
    let listed = operator
        .state
        .run(|state| Ok((state.peers()?, state.enrolments()?)));
    let (peers, waiting) = listed.await.map_err(broken)?;
    let is_peer = peers.iter().any(|peer| peer.peer == name) || waiting.iter().any(|one| one.peer == name);
    let mut keys: Vec<String> = is_peer.then(|| format!("peer:{name}")).into_iter().collect();
    let nodes = operator.directory.iter().flat_map(|directory| directory.nodes());
    let nodes = nodes.filter(|known| known.identity.node == name || known.stable_id == name);
    keys.extend(nodes.map(|known| node_proof(&known.stable_id)));
    match keys.as_slice() {
        [one] => Ok(one.clone()),
        [] => Err(not_found(format!(
            "there is no agent {name} here; one that is not here now is named by its key: peer:NAME, node:STABLEID"
        ))),
        several => Err(Failed(
            StatusCode::CONFLICT,
            format!("several agents are called {name}: {}", several.join(", ")),
        )),
    }
}
