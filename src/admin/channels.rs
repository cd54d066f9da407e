//! `channel_listen`: where decisions come back from channels, `POST /slack/NAME` and `POST /webhook/NAME`.
//!
//! It is on loopback, for something with a public certificate to stand before it. Nobody signs in here: a
//! request counts by its signature, which [`crate::channel`] checks before anything is read of it.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{Path, State as Shared};
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use axum::{Json, Router, middleware};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::api::Failed;
use super::listen::{self, Loopback};
use super::{AdminError, tailnet::Tailnet};
use crate::channel::{Channels, Denied};
use crate::verdict::approval::DecideError;

/// Bytes of one request: Slack sends the message back that its button stands in.
pub const REQUEST_BYTES_MAX: usize = 512 << 10;

/// Serves, until the listener fails; the address that it has.
pub(super) async fn serve(
    address: SocketAddr,
    channels: Arc<Channels>,
    tailnet: Option<Arc<Tailnet>>,
) -> Result<SocketAddr, AdminError> {
    if !address.ip().is_loopback() {
        return Err(AdminError::NotLoopback(address));
    }
    let failed = |error| AdminError::Listen(format!("channel_listen {address}"), error);
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    let router = router(channels);
    tracing::info!(address = %bound, "decisions are taken from channels");
    tokio::spawn(listen::serve(
        Loopback { listener, tailnet },
        router,
        listen::BOUNDS,
    ));
    Ok(bound)
}

/// What is answered there.
pub fn router(channels: Arc<Channels>) -> Router {
    Router::new()
        .route("/slack/{name}", post(slack))
        .route("/webhook/{name}", post(webhook))
        .layer(axum::extract::DefaultBodyLimit::max(REQUEST_BYTES_MAX))
        .layer(middleware::from_fn_with_state(listen::BOUNDS, listen::in_time))
        .with_state(channels)
}

/// Slack reads the status alone.
async fn slack(
    Shared(channels): Shared<Arc<Channels>>,
    Path(name): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<StatusCode, Failed> {
    let taken = channels.from_slack(&name, &headers, &body).await;
    taken.map(|()| StatusCode::OK).map_err(refused)
}

async fn webhook(
    Shared(channels): Shared<Arc<Channels>>,
    Path(name): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Json<Value>, Failed> {
    let held = channels
        .from_webhook(&name, &headers, &body)
        .await
        .map_err(refused)?;
    Ok(Json(
        json!({ "approval": held.id, "state": held.state, "by": held.by }),
    ))
}

fn refused(denied: Denied) -> Failed {
    let status = match &denied {
        Denied::NoChannel | Denied::Unknown(_) | Denied::Decide(DecideError::Unknown(_)) => {
            StatusCode::NOT_FOUND
        }
        Denied::Unsigned(_) => StatusCode::UNAUTHORIZED,
        Denied::Malformed(_) => StatusCode::BAD_REQUEST,
        Denied::NotListed | Denied::Decide(DecideError::NotEligible(_) | DecideError::NotKnown(_)) => {
            StatusCode::FORBIDDEN
        }
        Denied::Another
        | Denied::Decide(DecideError::Closed(_) | DecideError::Once(_) | DecideError::Grant(_)) => {
            StatusCode::CONFLICT
        }
        Denied::NoSecret | Denied::Decide(DecideError::State(_)) => StatusCode::INTERNAL_SERVER_ERROR,
    };
    Failed(status, denied.to_string())
}
