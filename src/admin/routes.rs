//! `/v1/tailnet`: the gateway's node, its routes, and what the tailnet's policy file lacks.

use axum::Json;
use axum::extract::State as Shared;
use serde_json::Value;

use super::Operator;
use super::api::{Failed, not_found};
use crate::ingress::tailnet::guard::Kernel;
use crate::ingress::tailnet::{Plan, approval, local};

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
    let guarded = guarded.but_for(local::elsewhere(&plan.names).await);
    let mut report = approval::report(model, &plan, &guarded, status.as_ref());
    let called = operator
        .teller
        .as_ref()
        .map(|teller| teller.called())
        .unwrap_or_default();
    report["asked_at"] = Value::from(called.answers().map(|name| format!("http://{name}/")));
    report["not_asked_at"] = Value::from(called.silent);
    report["own"] = Value::from(tailnet.node.is_own());
    report["problem"] = Value::from(tailnet.node.problem());
    Ok(Json(report))
}
