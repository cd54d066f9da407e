//! Keeps the tailnet's routes as the policy in force asks, as far as nothing can go round the gateway.

use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use tokio::sync::watch;

use super::tailnet::redirect_port;
use crate::ingress::tailnet::guard::{Guarded, Kernel};
use crate::ingress::tailnet::{Node, Plan, local};
use crate::policy::{HostPattern, Model};
use crate::upstream::Dialer;
use crate::verdict::gate::Gate;

/// How often the kernel's settings and the loaded table are looked at: nothing tells of a change.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Ends with the reason for which the gateway must not go on: at its first sight of tailscaled, one
/// without a network device, and real addresses that were asked for or that others declared there.
pub(super) async fn keep(
    node: &Node,
    gate: &Gate,
    dialer: &Dialer,
    published: &watch::Sender<Plan>,
) -> anyhow::Error {
    let (kernel, port) = (Kernel::default(), redirect_port(gate));
    let (mut reloads, mut status) = (gate.reloads(), node.status());
    let (mut attached, mut said) = (false, String::new());
    loop {
        reloads.borrow_and_update();
        let policy = gate.policy();
        let plan = Plan::of(policy.model());
        published.send_if_modified(|now| std::mem::replace(now, plan.clone()) != plan);
        let now = status.borrow_and_update().clone();
        let guarded = match &now {
            Some(status) => kernel.guards(&plan, status, port),
            // A mode that is not known yet.
            None => Guarded::default(),
        };
        let guarded = guarded.but_for(local::elsewhere(&plan.names).await);
        node.advertise(plan.advertised(&guarded)).await;
        if let Some(status) = now {
            let round = match status.has_device {
                true => None,
                false => round_about(node, dialer, policy.model()).await,
            };
            let asked = policy.model().gateway.tailscale.as_ref();
            let asked =
                asked.is_some_and(|own| own.routes.iter().flatten().next().is_some() || !own.via.is_empty());
            let text = guarded
                .missing
                .iter()
                .map(ToString::to_string)
                .chain(round.clone());
            let text = text.collect::<Vec<_>>().join("; ");
            if !attached && !status.has_device && (asked || round.is_some()) {
                return anyhow::anyhow!("gateway {{ tailscale {{ … }} }}: {text}");
            }
            attached = true;
            if text != said && !text.is_empty() {
                tracing::error!("not advertised: {text}");
            }
            said = text;
        }
        tokio::select! {
            changed = reloads.changed() => if changed.is_err() { std::future::pending().await },
            changed = status.changed() => if changed.is_err() { std::future::pending().await },
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }
}

/// The route of others that a tailscaled without a network device would lead round the gateway to an
/// upstream.
async fn round_about(node: &Node, dialer: &Dialer, model: &Model) -> Option<String> {
    let others = node.others().await.ok()?;
    if others.is_empty() {
        return None;
    }
    let (nets, hosts) = upstreams(model);
    let holds = |nets: &[IpNet]| {
        let overlap = |own: &&IpNet| nets.iter().any(|net| net.contains(*own) || own.contains(net));
        others.iter().find(overlap).copied()
    };
    let mut found = holds(&nets).map(|route| (route, "an endpoint's address".to_owned()));
    for host in hosts {
        if found.is_some() {
            break;
        }
        // A name that nobody knows now is dialled by nobody now.
        let addresses: Vec<IpAddr> = dialer.addresses(&host).await.unwrap_or_default();
        let nets: Vec<IpNet> = addresses.into_iter().map(IpNet::from).collect();
        found = holds(&nets).map(|route| (route, host));
    }
    let (route, what) = found?;
    Some(format!(
        "tailscaled advertises {route}, which holds {what}, and has no network device: agents reach it past every rule. \
         Withdraw that route (tailscale set --advertise-routes=), or let tailscaled run without --tun=userspace-networking"
    ))
}

/// What endpoints lead to: addresses, and names.
fn upstreams(model: &Model) -> (Vec<IpNet>, Vec<String>) {
    let (mut nets, mut hosts) = (Vec::new(), Vec::new());
    for endpoint in &model.endpoints {
        match &endpoint.upstream {
            Some(upstream) => match upstream.host.parse::<IpAddr>() {
                Ok(address) => nets.push(address.into()),
                Err(_) => hosts.push(upstream.host.clone()),
            },
            None => {
                for claim in &endpoint.claims {
                    match &claim.host {
                        HostPattern::Net(net) => nets.push(*net),
                        HostPattern::Name(name) => hosts.push(name.clone()),
                        HostPattern::Suffix(_) => {}
                    }
                }
            }
        }
    }
    hosts.sort_unstable();
    hosts.dedup();
    (nets, hosts)
}
