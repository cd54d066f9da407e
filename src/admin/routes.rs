//! `/v1/tailnet`: the gateway's node, its routes, and what the tailnet's policy file lacks.

use axum::Json;
use axum::extract::State as Shared;
use serde_json::Value;

use super::Operator;
use super::api::{Failed, not_found};
use crate::ingress::tailnet::guard::Kernel;
use crate::ingress::tailnet::{Plan, approval};

pub(super) async fn report(Shared(operator): Shared<Operator>) -> Result<Json<Value>, Failed> {
    let Some(tailnet) = &operator.tailnet else {
        return Err(not_found(
            "this gateway is on no tailnet: it has no gateway { tailscale { … } }".to_owned(),
        ));
    };
    let policy = operator.gate.policy();
    let (model, plan) = (policy.model(), Plan::of(policy.model()));
    let status = tailnet.node.status().borrow().clone();
    let port = model.gateway.tailscale.clone().unwrap_or_default().redirect_port;
    let guarded = match &status {
        Some(status) => Kernel::default().guards(&plan, status, port),
        None => Default::default(),
    };
    let mut report = approval::report(model, &plan, &guarded, status.as_ref());
    report["own"] = Value::from(tailnet.node.is_own());
    report["problem"] = Value::from(tailnet.node.problem());
    Ok(Json(report))
}
