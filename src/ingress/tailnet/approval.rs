//! What the tailnet lets of the gateway's routes be, and what its policy file lacks. No I/O.
//!
//! The policy file cannot be read from here: which routes were approved is seen of the node itself,
//! and the lines are those that this configuration needs.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use serde_json::{Value, json};

use super::guard::Guarded;
use super::localapi::Status;
use super::routes::{Plan, via_net};
use crate::policy::{Model, Profile};

/// What stands for the gateway's tag while its node has none.
const TAG: &str = "tag:gateway";

/// The node and its routes, for the operator.
pub fn report(model: &Model, plan: &Plan, guarded: &Guarded, status: Option<&Status>) -> Value {
    let missing: Vec<String> = guarded.missing.iter().map(ToString::to_string).collect();
    let Some(status) = status else {
        return json!({ "heard": false, "routes": [], "not_advertised": missing });
    };
    let own = status.own.as_ref();
    let nets = |nets: Option<&Vec<IpNet>>| nets.cloned().unwrap_or_default();
    let allowed = nets(own.and_then(|own| own.allowed.as_ref()));
    let primary = nets(own.and_then(|own| own.primary.as_ref()));
    let tags = own.and_then(|own| own.tags.clone()).unwrap_or_default();
    let advertised = plan.advertised(guarded);
    let routes: Vec<Value> = all_routes(plan)
        .map(|(net, what)| {
            json!({
                "route": net, "for": what, "advertised": advertised.contains(&net),
                "approved": allowed.contains(&net), "primary": primary.contains(&net),
            })
        })
        .collect();
    let waiting: Vec<IpNet> = advertised
        .iter()
        .filter(|net| !allowed.contains(net))
        .copied()
        .collect();
    let name = own.map(|own| own.name.trim_end_matches('.')).unwrap_or_default();
    json!({
        "heard": true, "state": status.backend_state, "login_url": status.auth_url, "name": name,
        "addresses": status.addresses, "tags": tags, "device": status.has_device, "routes": routes,
        "waiting": waiting, "not_advertised": missing,
        "policy_file": policy_lines(model, plan, &tags), "split_dns": split_dns(model, status),
    })
}

fn all_routes(plan: &Plan) -> impl Iterator<Item = (IpNet, &'static str)> {
    let names = plan.names.iter().map(|net| (*net, "names"));
    let real = plan.real.iter().map(|net| (*net, "real addresses"));
    let sites = plan.via.iter().map(|via| (IpNet::V6(via_net(*via)), "a site"));
    names.chain(real).chain(sites)
}

/// The lines of a tailnet policy file that this configuration needs.
pub fn policy_lines(model: &Model, plan: &Plan, tags: &[String]) -> String {
    let tag = tags.first().map_or(TAG, String::as_str);
    let routes: Vec<String> = all_routes(plan).map(|(net, _)| net.to_string()).collect();
    let mut owners: BTreeMap<&str, [&str; 1]> = BTreeMap::from([(tag, ["autogroup:admin"])]);
    let mut grants = Vec::new();
    for profile in &model.profiles {
        let sources: Vec<&str> = profile
            .tags
            .iter()
            .chain(&profile.logins)
            .map(String::as_str)
            .collect();
        owners.extend(profile.tags.iter().map(|tag| (tag.as_str(), ["autogroup:admin"])));
        if sources.is_empty() {
            continue;
        }
        let ports: Vec<String> = ports(model, profile)
            .iter()
            .map(|port| format!("tcp:{port}"))
            .collect();
        if !routes.is_empty() && !ports.is_empty() {
            grants.push(json!({ "src": sources, "dst": routes, "ip": ports }));
        }
        // The gateway's own name over HTTP; and split DNS, over TCP where an answer is long.
        let own: &[&str] = match plan.names.is_empty() {
            true => &["tcp:80"],
            false => &["tcp:80", "udp:53", "tcp:53"],
        };
        grants.push(json!({ "src": sources, "dst": [tag], "ip": own }));
    }
    let approvers: BTreeMap<&str, [&str; 1]> = routes.iter().map(|route| (route.as_str(), [tag])).collect();
    let grants: Vec<String> = grants.iter().map(|grant| format!("  {grant},")).collect();
    format!(
        "\"tagOwners\": {},\n\"autoApprovers\": {{\"routes\": {}}},\n\"grants\": [\n{}\n],",
        json!(owners),
        json!(approvers),
        grants.join("\n")
    )
}

fn ports(model: &Model, profile: &Profile) -> BTreeSet<u16> {
    let endpoints = profile.endpoints.iter().filter_map(|key| model.endpoint(key));
    endpoints
        .flat_map(|endpoint| endpoint.claims.iter().map(|claim| claim.port))
        .collect()
}

/// Which domains are to be sent where.
fn split_dns(model: &Model, status: &Status) -> Value {
    use crate::policy::HostPattern;
    let claims = model.endpoints.iter().flat_map(|endpoint| &endpoint.claims);
    let domains: BTreeSet<&str> = claims
        .filter_map(|claim| match &claim.host {
            HostPattern::Name(name) => Some(name.as_str()),
            HostPattern::Suffix(suffix) => Some(suffix.trim_start_matches('.')),
            HostPattern::Net(_) => None,
        })
        .collect();
    json!({ "domains": domains, "nameservers": status.addresses })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{Policy, Source};

    const TEXT: &str = r#"
gateway {
  tailscale {
    socket = "/s"
    routes = ["10.20.0.0/16"]
  }
}
endpoint "postgres" "pg" { hosts = ["pg.internal:5432", "10.20.0.5:5433"] }
endpoint "https" "other" { hosts = ["other.test"] }
profile "ci" {
  tags      = ["tag:agent-ci"]
  endpoints = [postgres.pg]
}
profile "laptop" {
  peers     = ["laptop"]
  endpoints = [https.other]
}
"#;

    #[test]
    fn what_is_not_approved_waits_and_the_lines_are_those_that_it_needs() {
        let source = Source {
            path: "a.hcl".into(),
            text: TEXT.to_owned(),
        };
        let policy = Policy::load(vec![source], &|_| unreachable!())
            .unwrap_or_else(|errors| panic!("{}", errors.render()));
        let status: Status = serde_json::from_value(json!({
            "BackendState": "Running", "TUN": true, "TailscaleIPs": ["100.64.0.1"],
            "Self": {
                "DNSName": "gw.lab.ts.net.", "Tags": ["tag:keep"], "AllowedIPs": ["100.64.0.1/32", "10.78.0.0/16"],
                "PrimaryRoutes": ["10.78.0.0/16"],
            },
        }))
        .unwrap();
        let plan = Plan::of(policy.model());
        let guarded = Guarded {
            real: true,
            ..Guarded::default()
        };
        let report = report(policy.model(), &plan, &guarded, Some(&status));
        assert_eq!(
            report["waiting"],
            json!(["fd7a:7461:696c:78::/64", "10.20.0.0/16"])
        );
        assert_eq!(report["routes"][0]["primary"], true);
        assert_eq!(report["routes"][2]["approved"], false);
        assert_eq!(
            report["split_dns"]["domains"],
            json!(["other.test", "pg.internal"])
        );
        let lines = format!(
            "{{{}}}",
            report["policy_file"].as_str().unwrap().trim_end_matches(',')
        );
        let lines: Value = serde_json::from_str(&lines.replace("},\n]", "}\n]")).unwrap();
        assert_eq!(
            lines["autoApprovers"]["routes"]["10.20.0.0/16"],
            json!(["tag:keep"])
        );
        assert_eq!(lines["tagOwners"].as_object().unwrap().len(), 2);
        assert_eq!(
            lines["grants"].as_array().unwrap().len(),
            2,
            "WireGuard peers need none"
        );
        assert_eq!(lines["grants"][0]["ip"], json!(["tcp:5432", "tcp:5433"]));
        assert_eq!(lines["grants"][1]["dst"], json!(["tag:keep"]));
        let silent = super::report(policy.model(), &plan, &Guarded::default(), None);
        assert_eq!(silent["heard"], false);
    }
}
