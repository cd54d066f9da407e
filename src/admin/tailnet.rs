//! `/v1/tailnet`: the gateway's node, as tailscaled has it.

use axum::Json;
use axum::extract::State as Shared;
use serde_json::{Value, json};

use super::Operator;
use super::api::{Failed, not_found};

/// The node's state; `state` is null while tailscaled is not heard. `login_url` is where a person logs it
/// in, while that is needed; `approved` are those of `routes` that lead here.
pub(super) async fn show(Shared(operator): Shared<Operator>) -> Result<Json<Value>, Failed> {
    let Some(node) = &operator.tailnet else {
        return Err(not_found("this gateway has no tailscale block".to_owned()));
    };
    let status = node.status().borrow().clone();
    let own = status.as_ref().and_then(|status| status.own.clone());
    let allowed = own
        .as_ref()
        .and_then(|own| own.allowed.clone())
        .unwrap_or_default();
    let routes = node.routes().await;
    let approved: Vec<_> = routes.iter().filter(|route| allowed.contains(route)).collect();
    let url = status
        .as_ref()
        .map(|status| status.auth_url.as_str())
        .filter(|url| !url.is_empty());
    Ok(Json(json!({
        "state": status.as_ref().map(|status| &status.backend_state),
        "own": node.is_own(),
        "name": own.as_ref().map(|own| own.name.trim_end_matches('.')),
        "addresses": status.as_ref().and_then(|status| status.addresses.as_ref()),
        "tags": own.as_ref().and_then(|own| own.tags.as_ref()),
        "routes": routes,
        "approved": approved,
        "login_url": url,
        "problem": node.problem(),
    })))
}
