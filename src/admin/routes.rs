//! `/v1/tailnet`: the gateway's node, its routes, and what the tailnet's policy file lacks.

use axum::Json;
use axum::extract::State as Shared;
use schemars::JsonSchema;
use serde_json::Value;

use super::Operator;
use super::api::{Failed, not_found};
use super::openapi::Shown;
use crate::ingress::tailnet::guard::Kernel;
use crate::ingress::tailnet::{Plan, approval, local};

/// What [`approval::report`] gives, and what stands beside it.
#[derive(JsonSchema)]
#[schemars(rename = "Tailnet")]
#[allow(dead_code, reason = "a shape, of which a schema is derived")]
pub(super) struct Report {
    /// Whether tailscaled has said anything; where not, most of the rest is missing.
    heard: bool,
    routes: Vec<Route>,
    /// What cannot be advertised, and why.
    not_advertised: Vec<String>,
    /// The node's own name leads here, for agents; null where it does not.
    asked_at: Option<String>,
    /// Why not.
    not_asked_at: Option<String>,
    /// Whether the gateway runs a node of its own.
    own: bool,
    problem: Option<String>,
    #[schemars(skip_serializing_if = "String::is_empty")]
    state: String,
    #[schemars(skip_serializing_if = "Option::is_none")]
    login_url: Option<String>,
    #[schemars(skip_serializing_if = "String::is_empty")]
    name: String,
    #[schemars(skip_serializing_if = "Option::is_none")]
    addresses: Option<Vec<String>>,
    #[schemars(skip_serializing_if = "Vec::is_empty")]
    tags: Vec<String>,
    #[schemars(skip_serializing_if = "Option::is_none")]
    device: Option<bool>,
    /// Routes that wait to be approved.
    #[schemars(skip_serializing_if = "Vec::is_empty")]
    waiting: Vec<String>,
    /// Lines for the tailnet's policy file.
    #[schemars(skip_serializing_if = "String::is_empty")]
    policy_file: String,
    #[schemars(skip_serializing_if = "Option::is_none")]
    split_dns: Option<SplitDns>,
}

#[derive(JsonSchema)]
#[schemars(rename = "TailnetRoute")]
#[allow(dead_code, reason = "a shape, of which a schema is derived")]
struct Route {
    route: String,
    r#for: String,
    advertised: bool,
    approved: bool,
    primary: bool,
}

#[derive(JsonSchema)]
#[allow(dead_code, reason = "a shape, of which a schema is derived")]
struct SplitDns {
    domains: Vec<String>,
    nameservers: Option<Vec<String>>,
}

pub(super) async fn report(Shared(operator): Shared<Operator>) -> Result<Json<Shown<Report>>, Failed> {
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
    Ok(Json(Shown::new(report)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ingress::tailnet::guard::Guarded;
    use crate::ingress::tailnet::localapi::Status;
    use crate::policy::{Policy, Source};

    /// [`Report`] has every field of the real one, heard and unheard.
    #[test]
    fn the_report_is_as_it_is_described() {
        let source = Source {
            path: "p.hcl".into(),
            text: "gateway {\n  tailscale {\n    socket = \"/s\"\n    routes = [\"10.20.0.0/16\"]\n  }\n}"
                .to_owned(),
        };
        let policy = Policy::load(vec![source], &|_| Err(std::io::ErrorKind::NotFound.into())).unwrap();
        let plan = Plan::of(policy.model());
        let status: Status = serde_json::from_str(r#"{"BackendState":"Running"}"#).unwrap();
        let schema = schemars::schema_for!(Report);
        let described = schema.get("properties").and_then(Value::as_object).unwrap();
        for status in [None, Some(&status)] {
            let report = approval::report(policy.model(), &plan, &Guarded::default(), status);
            for (name, value) in report.as_object().unwrap() {
                assert!(described.contains_key(name), "{name} is not described");
                let Some(first) = value.get(0).and_then(Value::as_object) else {
                    continue;
                };
                let route = schemars::schema_for!(Route);
                let fields: Vec<&String> = route
                    .get("properties")
                    .and_then(Value::as_object)
                    .unwrap()
                    .keys()
                    .collect();
                assert_eq!(first.keys().collect::<Vec<_>>(), fields);
            }
        }
    }
}
