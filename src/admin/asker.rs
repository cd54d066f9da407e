//! `/v1/approvals/{id}/asker`: what the agent of a question did of late, and how questions like it were decided.
//!
//! Beside the question, for people alone: nothing here is bound by a decision, and it is another a moment later.

use std::time::Duration;

use axum::Json;
use axum::extract::{Path, State as Shared};
use serde::Serialize;

use super::Operator;
use super::api::{Failed, broken, not_found};
use crate::audit::activity::Latest;
use crate::audit::read::Reader;
use crate::identity::Transport;
use crate::state::now_us;
use crate::verdict::approval::Alike;

/// How far back an agent's actions are told.
const BACK: Duration = Duration::from_secs(3600);

/// What helps people to judge who asks.
#[derive(Serialize, schemars::JsonSchema)]
pub(super) struct Asker {
    /// Unix time, microseconds: actions since then are told.
    since_us: i64,
    did: Latest,
    alike: Alike,
}

pub(super) async fn asker(
    Shared(operator): Shared<Operator>,
    Path(id): Path<i64>,
) -> Result<Json<Asker>, Failed> {
    let held = operator.queue.show(id).await.map_err(broken)?;
    let alike = operator.queue.alike(id).await.map_err(broken)?;
    let (Some(held), Some(alike)) = (held, alike) else {
        return Err(not_found(format!("there is no approval {id}")));
    };
    let text = |field: &str| held.question[field].as_str().unwrap_or_default().to_owned();
    let node = text("node");
    let transport = match text("agent").starts_with("peer:") {
        true => Transport::Wireguard,
        false => Transport::Tailnet,
    };
    let since_us = now_us().saturating_sub(i64::try_from(BACK.as_micros()).unwrap_or(i64::MAX));
    let path = operator.audit().await;
    let read =
        tokio::task::spawn_blocking(move || Reader::open(&path)?.latest(&node, transport.name(), since_us));
    let did = read.await.map_err(broken)?.map_err(broken)?;
    Ok(Json(Asker { since_us, did, alike }))
}
