//! What enrolled machines ask at the enrolment listener, proven by their WireGuard key
//! ([`crate::client::proof`]): their manifest, keys for further runs, their leave.
//!
//! Invariants: a machine speaks for itself alone; a held or removed one is refused; a manifest names
//! endpoints and placeholders, never rules or values.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use axum::body::Bytes;
use axum::extract::State as Shared;
use axum::http::{HeaderMap, StatusCode, header};
use axum::routing::post;
use axum::{Json, Router};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::Operator;
use super::enrol::{Answer, assigned, refused, subnets};
use crate::client::proof;
use crate::client::signed::{LEAVE, MANIFEST, RUN, RUN_END, RunKey, WHOAMI};
use crate::identity::manifest::Manifest;
use crate::identity::{Identity, Live, Transport};
use crate::ingress::wireguard::public_key;
use crate::state::PeerKey;

type Refused = (StatusCode, Json<Value>);

pub(super) fn routes() -> Router<Operator> {
    Router::new()
        .route(MANIFEST, post(manifest))
        .route(WHOAMI, post(whoami))
        .route(RUN, post(begin_run))
        .route(RUN_END, post(end_run))
        .route(LEAVE, post(leave))
}

fn broken(error: &impl std::fmt::Display) -> Refused {
    refused(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string())
}

/// The machine whose key signed the request.
async fn machine(
    operator: &Operator,
    headers: &HeaderMap,
    path: &'static str,
    body: &Bytes,
) -> Result<PeerKey, Refused> {
    let nobody = || {
        refused(
            StatusCode::UNAUTHORIZED,
            "this machine is not enrolled, or its clock is wrong",
        )
    };
    let header = headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok());
    let (header, body) = (header.ok_or_else(nobody)?.to_owned(), body.clone());
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_err(|error| broken(&error))?;
    let found = operator.state.run(move |state| {
        let private = state.gateway_key()?;
        match proof::verify(&header, &private, path, &body, now.as_secs()) {
            Some(key) => state.enrolled(&key),
            None => Ok(None),
        }
    });
    found.await.map_err(|error| broken(&error))?.ok_or_else(nobody)
}

fn answer(operator: &Operator, peer: &PeerKey) -> Answer {
    let policy = operator.gate.policy();
    let wireguard = policy.model().gateway.wireguard.as_ref();
    let wireguard =
        wireguard.ok_or_else(|| refused(StatusCode::CONFLICT, "the gateway has no WireGuard listener"))?;
    let private = operator.state.gateway_key().map_err(|error| broken(&error))?;
    Ok(Json(assigned(
        operator,
        policy.model(),
        wireguard,
        peer,
        public_key(&private),
    )))
}

async fn manifest(Shared(operator): Shared<Operator>, headers: HeaderMap, body: Bytes) -> Answer {
    let peer = machine(&operator, &headers, MANIFEST, &body).await?;
    answer(&operator, &peer)
}

/// What the machine's agents are told, whichever of its keys they use.
async fn whoami(
    Shared(operator): Shared<Operator>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Json<Manifest>, Refused> {
    let peer = machine(&operator, &headers, WHOAMI, &body).await?;
    let teller = operator.teller.as_ref();
    let teller = teller.ok_or_else(|| refused(StatusCode::CONFLICT, "this gateway serves no agents"))?;
    let identity = Identity::new(Transport::Wireguard, IpAddr::V4(peer.v4), peer.peer);
    let told = teller.tell(&Live::from(Arc::new(identity))).await;
    told.map(Json)
        .map_err(|refusal| refused(StatusCode::FORBIDDEN, &refusal.reason))
}

fn run_key(body: &Bytes) -> Result<[u8; 32], Refused> {
    let asked = serde_json::from_slice::<RunKey>(body).ok();
    let key = asked.and_then(|asked| STANDARD.decode(asked.public_key).ok());
    let key = key.and_then(|key| <[u8; 32]>::try_from(key).ok());
    key.ok_or_else(|| {
        refused(
            StatusCode::BAD_REQUEST,
            "the public key is not 32 bytes in base64",
        )
    })
}

async fn begin_run(Shared(operator): Shared<Operator>, headers: HeaderMap, body: Bytes) -> Answer {
    let peer = machine(&operator, &headers, RUN, &body).await?;
    let key = run_key(&body)?;
    let policy = operator.gate.policy();
    let wireguard = policy.model().gateway.wireguard.as_ref();
    let subnets = wireguard
        .and_then(subnets)
        .ok_or_else(|| refused(StatusCode::CONFLICT, "the gateway has no WireGuard listener"))?;
    let added = operator
        .state
        .run(move |state| state.add_run(&peer.public_key, &key, &subnets))
        .await;
    let added = added.map_err(|error| refused(StatusCode::FORBIDDEN, &error.to_string()))?;
    answer(&operator, &added)
}

async fn end_run(
    Shared(operator): Shared<Operator>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Json<Value>, Refused> {
    let peer = machine(&operator, &headers, RUN_END, &body).await?;
    let key = run_key(&body)?;
    let ended = operator
        .state
        .run(move |state| state.end_run(&peer.public_key, &key))
        .await;
    Ok(Json(json!({ "ended": ended.map_err(|error| broken(&error))? })))
}

async fn leave(
    Shared(operator): Shared<Operator>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Json<Value>, Refused> {
    let peer = machine(&operator, &headers, LEAVE, &body).await?;
    let name = peer.peer.clone();
    let left = operator
        .state
        .run(move |state| state.leave(&peer.public_key))
        .await;
    let left = left.map_err(|error| broken(&error))?;
    tracing::info!(peer = name, "a machine has left");
    Ok(Json(json!({ "left": left })))
}
