//! Keeps the tailnet's routes as the policy in force asks, as far as nothing can go round the gateway.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use ipnet::IpNet;
use tokio::sync::watch;

use super::own_ports;
use super::tailnet::redirect_port;
use crate::ingress::tailnet::guard::{Guarded, Kernel};
use crate::ingress::tailnet::{Node, Plan, listeners, local};
use crate::policy::{HostPattern, HostPort, Model, Policy};
use crate::upstream::Dialer;
use crate::verdict::gate::Gate;

/// How often the kernel's settings and the loaded table are looked at: nothing tells of a change.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Ends with the reason for which the gateway must not go on: a tailscaled without a network device, and real addresses
/// that were asked for or that others declared there, whenever that is found.
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
        if now.is_some() {
            let unsure = match refusal(node, dialer, &policy).await {
                Ok(None) => None,
                // It was sure before; a tailscaled that starts anew is no reason to end.
                Err(why) if attached => Some(why),
                Ok(Some(why)) | Err(why) => return anyhow::anyhow!("gateway {{ tailscale {{ … }} }}: {why}"),
            };
            attached = true;
            let missing = guarded.missing.iter().map(ToString::to_string);
            let text = missing.chain(unsure).collect::<Vec<_>>().join("; ");
            if text != said && !text.is_empty() {
                tracing::error!("not advertised, or open past the gateway: {text}");
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

/// Why a policy may not be in force beside this tailscaled: one without a network device dials by itself what it is sent,
/// past every rule. `None` as long as tailscaled is not heard; nobody is let in then.
///
/// # Errors
/// Why it cannot be told, for now.
pub(super) async fn refusal(node: &Node, dialer: &Dialer, policy: &Policy) -> Result<Option<String>, String> {
    if let Some(why) = own_ports::refusal(node, policy).await? {
        return Ok(Some(why));
    }
    let model = policy.model();
    let status = node.status().borrow().clone();
    let (Some(status), Some(own)) = (
        status.filter(|status| !status.has_device),
        &model.gateway.tailscale,
    ) else {
        return Ok(None);
    };
    if own.routes.iter().flatten().next().is_some() || !own.via.is_empty() {
        let guarded = Kernel::default().guards(&Plan::of(model), &status, own.redirect_port);
        return Ok(guarded.missing.first().map(ToString::to_string));
    }
    let others = node
        .others()
        .await
        .map_err(|error| format!("tailscaled does not say which routes it advertises: {error}"))?;
    let (nets, hosts) = upstreams(model);
    let mut found = any_name(model, &others).or_else(|| {
        nets.iter()
            .find_map(|(net, port)| led_round(&others, *net, *port, &net.to_string()))
    });
    let mut unsure = None;
    for HostPort { host, port } in hosts {
        if found.is_some() {
            break;
        }
        match dialer.addresses(&host).await {
            Ok(addresses) if !addresses.is_empty() => {
                found = addresses
                    .into_iter()
                    .find_map(|address| led_round(&others, address.into(), port, &host));
            }
            // A name that nobody knows now leads somewhere once it is known again.
            Ok(_) | Err(_) => unsure = others.first().map(|route| (*route, host)).or(unsure),
        }
    }
    match (found, unsure) {
        (None, Some((route, host))) => Err(format!(
            "tailscaled advertises {route} and has no network device, and {host} cannot be resolved: whether agents reach \
             it past every rule cannot be told. Withdraw that route (tailscale set --advertise-routes=), or {WAY_OUT}"
        )),
        (found, _) => Ok(found),
    }
}

/// An endpoint of all names under one leads to addresses that nobody knows beforehand: each route could hold them.
fn any_name(model: &Model, others: &[IpNet]) -> Option<String> {
    let route = others.first()?;
    let leads = model
        .endpoints
        .iter()
        .filter(|endpoint| endpoint.upstream.is_none());
    let suffix = leads
        .flat_map(|endpoint| &endpoint.claims)
        .find_map(|claim| match &claim.host {
            HostPattern::Suffix(suffix) => Some(suffix),
            _ => None,
        })?;
    Some(format!(
        "tailscaled advertises {route} and has no network device, and a name under {suffix} may lead there: agents reach \
         it past every rule. Withdraw that route (tailscale set --advertise-routes=), or {WAY_OUT}"
    ))
}

/// How agents reach an upstream past the gateway, if they do: by what others have tailscaled advertise, or where it takes
/// what is sent to the node's own address.
fn led_round(others: &[IpNet], upstream: IpNet, port: u16, called: &str) -> Option<String> {
    let upstream = canonical(upstream);
    let overlaps = |net: &IpNet| {
        let net = canonical(*net);
        net.contains(&upstream) || upstream.contains(&net)
    };
    if let Some(route) = others.iter().find(|net| overlaps(net)) {
        return Some(format!(
            "tailscaled advertises {route}, which holds {called}, and has no network device: agents reach it past every \
             rule. Withdraw that route (tailscale set --advertise-routes=), or {WAY_OUT}"
        ));
    }
    let taken = TAKEN.iter().any(|address| upstream.contains(address))
        || upstream.prefix_len() == upstream.max_prefix_len()
            // What cannot be known is taken for so.
            && listeners::is_at_loopback(upstream.addr(), port).unwrap_or(true);
    taken.then(|| {
        format!(
            "tailscaled has no network device, and dials at 127.0.0.1 and ::1 what is sent to the node's own address: \
             agents reach the upstream {called} past every rule. Let it listen at another address alone (127.0.0.2 will \
             do), or {WAY_OUT}"
        )
    })
}

/// What helps in any case.
pub(super) const WAY_OUT: &str = "let tailscaled run without --tun=userspace-networking";

/// An IPv4 range that is written as an IPv6 one is dialled as the IPv4 one.
fn canonical(net: IpNet) -> IpNet {
    let mapped = net.addr().to_canonical();
    match net.prefix_len().checked_sub(96) {
        Some(prefix) if mapped.is_ipv4() && net.addr().is_ipv6() => IpNet::new(mapped, prefix).unwrap_or(net),
        _ => net,
    }
}

/// Where a tailscaled without a network device dials what peers send to its node's addresses, and what means the same.
const TAKEN: [IpAddr; 4] = [
    IpAddr::V4(Ipv4Addr::LOCALHOST),
    IpAddr::V6(Ipv6Addr::LOCALHOST),
    IpAddr::V4(Ipv4Addr::UNSPECIFIED),
    IpAddr::V6(Ipv6Addr::UNSPECIFIED),
];

/// What endpoints lead to: addresses, and names, each with its port.
fn upstreams(model: &Model) -> (Vec<(IpNet, u16)>, Vec<HostPort>) {
    let (mut nets, mut hosts) = (Vec::new(), Vec::new());
    for endpoint in &model.endpoints {
        match &endpoint.upstream {
            Some(upstream) => match upstream.host.parse::<IpAddr>() {
                Ok(address) => nets.push((address.into(), upstream.port)),
                Err(_) => hosts.push(upstream.clone()),
            },
            None => {
                for claim in &endpoint.claims {
                    match &claim.host {
                        HostPattern::Net(net) => nets.push((*net, claim.port)),
                        HostPattern::Name(name) => hosts.push(HostPort {
                            host: name.clone(),
                            port: claim.port,
                        }),
                        HostPattern::Suffix(_) => {}
                    }
                }
            }
        }
    }
    hosts.sort_unstable_by(|one, other| (&one.host, one.port).cmp(&(&other.host, other.port)));
    hosts.dedup();
    (nets, hosts)
}
