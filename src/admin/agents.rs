//! `/v1/agents/kill` and `unkill`: the kill switch.

use axum::Json;
use axum::extract::{Extension, State as Shared};
use axum::http::StatusCode;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::api::{Failed, bad, broken, check_reason, not_found, state_failed};
use super::{Operator, Person};
use crate::identity::node_proof;
use crate::verdict::approval::Stopped;

/// Bytes of an agent's key: a node's StableID or a peer's name, with what stands before it.
const AGENT_BYTES_MAX: usize = 128;

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Kill {
    /// `peer:NAME`, `node:STABLEID`, or the name that one of either has now.
    agent: String,
    reason: Option<String>,
    /// Also one that nobody here knows: before it comes.
    #[serde(default)]
    ahead: bool,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Unkill {
    agent: String,
}

/// Who is stopped, and what that ended.
#[derive(Serialize, JsonSchema)]
pub(super) struct Killed {
    /// The agent's key.
    killed: String,
    #[serde(flatten)]
    stopped: Stopped,
}

/// Who may go again.
#[derive(Serialize, JsonSchema)]
pub(super) struct Unkilled {
    /// The agent's key.
    unkilled: String,
}

pub(super) async fn kill(
    Shared(operator): Shared<Operator>,
    Extension(Person(person)): Extension<Person>,
    Json(asked): Json<Kill>,
) -> Result<Json<Killed>, Failed> {
    check_reason(asked.reason.as_deref())?;
    let agent = named(&operator, &asked.agent, asked.ahead).await?;
    let stopped = operator.gate.kill(&agent, &person, asked.reason.as_deref()).await;
    let stopped = stopped.map_err(state_failed)?;
    let killed = agent;
    Ok(Json(Killed { killed, stopped }))
}

pub(super) async fn unkill(
    Shared(operator): Shared<Operator>,
    Extension(Person(person)): Extension<Person>,
    Json(asked): Json<Unkill>,
) -> Result<Json<Unkilled>, Failed> {
    let killed = operator.queue.killed().borrow().clone();
    let agent = match killed.contains_key(&asked.agent) {
        true => asked.agent,
        false => named(&operator, &asked.agent, true).await?,
    };
    if !operator.gate.unkill(&agent, &person).await.map_err(broken)? {
        return Err(not_found(format!("{agent} is not stopped")));
    }
    Ok(Json(Unkilled { unkilled: agent }))
}

/// The key of the one agent that is meant. `ahead`: a key may be of one that is not known here.
async fn named(operator: &Operator, name: &str, ahead: bool) -> Result<String, Failed> {
    if name.is_empty() || name.len() > AGENT_BYTES_MAX || name.chars().any(char::is_control) {
        return Err(bad("an agent is `peer:NAME`, `node:STABLEID` or a name"));
    }
    let is_key = name.starts_with("peer:") || name.starts_with("node:");
    if is_key && ahead {
        return Ok(name.to_owned());
    }
    let listed = operator
        .state
        .run(|state| Ok((state.peers()?, state.enrolments()?)));
    let (peers, waiting) = listed.await.map_err(broken)?;
    let called = name.strip_prefix("peer:").unwrap_or(name);
    let is_peer =
        peers.iter().any(|peer| peer.peer == called) || waiting.iter().any(|one| one.peer == called);
    let mut keys: Vec<String> = is_peer.then(|| format!("peer:{called}")).into_iter().collect();
    let nodes = operator.directory.iter().flat_map(|directory| directory.nodes());
    let nodes = nodes.filter(|known| {
        let of_key = name.strip_prefix("node:");
        known.identity.node == name || known.stable_id == of_key.unwrap_or(name)
    });
    keys.extend(nodes.map(|known| node_proof(&known.stable_id)));
    match keys.as_slice() {
        [one] => Ok(one.clone()),
        [] => Err(not_found(format!(
            "nobody called {name} is known here. One that is not here yet is stopped ahead by its key: \
             peer:NAME or node:STABLEID, with --ahead"
        ))),
        several => Err(Failed(
            StatusCode::CONFLICT,
            format!("several agents are called {name}: {}", several.join(", ")),
        )),
    }
}
