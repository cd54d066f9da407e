//! `/v1/peers`: WireGuard peers, and links for machines to enrol by.

use std::time::Duration;

use axum::Json;
use axum::extract::{Extension, Path, State as Shared};
use axum::http::StatusCode;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::api::{Failed, Removed, bad, broken, not_found, state_failed};
use super::{Operator, Person, enrol, node};
use crate::client::store::Assigned;
use crate::state::peer::{Enrolment, PeerKey};

/// How long an enrolment link lasts where nothing is said.
const ENROLMENT_LASTS: Duration = Duration::from_secs(3600);
/// Seconds that an enrolment link lasts at most.
const ENROLMENT_S_MAX: u64 = 30 * 86_400;
/// WireGuard peers, links that wait to be used, and the tailnet's nodes.
#[derive(Serialize, JsonSchema)]
pub(super) struct Peers {
    peers: Vec<PeerKey>,
    waiting: Vec<Enrolment>,
    tailnet: Vec<node::Node>,
}

pub(super) async fn list(Shared(operator): Shared<Operator>) -> Result<Json<Peers>, Failed> {
    let listed = operator
        .state
        .run(|state| Ok((state.peers()?, state.enrolments()?)))
        .await;
    let (peers, waiting) = listed.map_err(broken)?;
    let tailnet = node::nodes(&operator);
    Ok(Json(Peers {
        peers,
        waiting,
        tailnet,
    }))
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct AddPeer {
    name: String,
    expires_s: Option<u64>,
    /// The machine that uses the link, or has the key, reaches nothing until its peer is approved.
    #[serde(default)]
    hold: bool,
    /// Of a machine with a WireGuard of its own, base64: it needs no link.
    public_key: Option<String>,
}

/// How the machine gets in.
#[derive(Serialize, JsonSchema)]
#[serde(untagged)]
pub(super) enum Added {
    Link {
        name: String,
        /// For `tailkeep join`, once.
        url: String,
        expires_s: u64,
        hold: bool,
    },
    Key {
        #[serde(flatten)]
        assigned: Box<Assigned>,
        hold: bool,
    },
}

pub(super) async fn add(
    Shared(operator): Shared<Operator>,
    Json(asked): Json<AddPeer>,
) -> Result<Json<Added>, Failed> {
    if let Some(key) = asked.public_key {
        if asked.expires_s.is_some() {
            return Err(bad("expires_s is of a link, and a key needs none"));
        }
        let assigned = Box::new(enrol::add_key(&operator, asked.name, &key, asked.hold).await?);
        let hold = asked.hold;
        return Ok(Json(Added::Key { assigned, hold }));
    }
    let gateway = operator.gate.policy().model().gateway.clone();
    let refused = |text: &str| Failed(StatusCode::CONFLICT, text.to_owned());
    let Some(listen) = gateway.enrol_listen else {
        return Err(refused(
            "the gateway has no enrol_listen; set it in the gateway block",
        ));
    };
    let called = operator.teller.as_ref().map(|teller| teller.called());
    let base = gateway
        .public_url
        .unwrap_or_else(|| enrol::base(listen, &called.unwrap_or_default()));
    let lasts = asked.expires_s.map_or(ENROLMENT_LASTS, Duration::from_secs);
    if lasts.is_zero() || lasts.as_secs() > ENROLMENT_S_MAX {
        return Err(bad(format!("expires_s is between 1 and {ENROLMENT_S_MAX}")));
    }
    let (name, hold) = (asked.name.clone(), asked.hold);
    let token = operator
        .state
        .run(move |state| state.add_enrolment(&name, lasts, hold))
        .await;
    let token = token.map_err(state_failed)?;
    let pin = operator.authority.fingerprint();
    let pin = pin.strip_prefix("sha256:").unwrap_or(&pin);
    let url = format!(
        "{}/join?token={token}&pin=sha256:{pin}",
        base.trim_end_matches('/')
    );
    Ok(Json(Added::Link {
        name: asked.name,
        url,
        expires_s: lasts.as_secs(),
        hold,
    }))
}

/// What is let in.
#[derive(Serialize, JsonSchema)]
pub(super) struct Approved {
    approved: String,
}

pub(super) async fn remove(
    Shared(operator): Shared<Operator>,
    Path(name): Path<String>,
    Extension(Person(person)): Extension<Person>,
) -> Result<Json<Removed<String>>, Failed> {
    let gone = name.clone();
    let removed = operator.state.run(move |state| state.remove_peer(&gone)).await;
    if !removed.map_err(broken)? {
        return Err(not_found(format!("there is no peer {name}")));
    }
    tracing::info!(peer = name, person, "a peer is removed");
    Ok(Json(Removed { removed: name }))
}

pub(super) async fn approve(
    Shared(operator): Shared<Operator>,
    Path(name): Path<String>,
    Extension(Person(person)): Extension<Person>,
) -> Result<Json<Approved>, Failed> {
    let approved = name.clone();
    let known = operator
        .state
        .run(move |state| state.approve_peer(&approved))
        .await;
    if !known.map_err(broken)? {
        return Err(not_found(format!("there is no peer {name}")));
    }
    tracing::info!(peer = name, person, "a peer is approved");
    Ok(Json(Approved { approved: name }))
}
