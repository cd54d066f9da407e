//! Which of the node's own ports the tailnet's policy file lets agents reach.
//!
//! A tailscaled without a network device dials at 127.0.0.1 what peers send to its node's own addresses: what listens on
//! this machine's loopback is open to them as far as the policy file goes, and no rule is asked.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use crate::ingress::tailnet::filter::Source;
use crate::ingress::tailnet::localapi::Protocol;
use crate::ingress::tailnet::{Node, Stranger, listeners};
use crate::policy::Policy;

/// What the gateway serves there itself, and knows who asks: names, its own name, the operators' page.
const SERVED_TCP: [u16; 3] = [53, 80, 443];
/// As [`SERVED_TCP`].
const SERVED_UDP: [u16; 1] = [53];

/// Nodes that are asked for, at most, which the policy file lets reach more than what is served. More are taken for agents'.
pub const ASKED_FOR_MAX: usize = 256;

/// Why a policy may not be in force: agents reach what listens on the loopback. `None` as long as the policy file is not
/// known; nobody is let in then.
///
/// # Errors
/// Why it cannot be told, for now.
pub(super) async fn refusal(node: &Node, policy: &Policy) -> Result<Option<String>, String> {
    let status = node.status().borrow().clone();
    let (Some(status), Some(filter)) = (status.filter(|status| !status.has_device), node.filter()) else {
        return Ok(None);
    };
    let own = status.addresses.unwrap_or_default();
    let tags = status.own.and_then(|own| own.tags).unwrap_or_default();
    let enrolment = policy.model().gateway.enrol_listen.map(|listen| listen.port());
    let tcp: Vec<u16> = SERVED_TCP.into_iter().chain(enrolment).collect();
    let mut asked = BTreeSet::new();
    for (protocol, served) in [(Protocol::Tcp, tcp.as_slice()), (Protocol::Udp, &SERVED_UDP)] {
        let rules = filter.to(&own, protocol).ok_or(
            "tailscaled does not say whom the tailnet's policy file lets reach this node's own addresses: whether agents \
             reach this machine's loopback cannot be told",
        )?;
        // What cannot be known is taken for so.
        let anothers: Vec<u16> = served
            .iter()
            .copied()
            .filter(|port| listeners::is_anothers(protocol, *port).unwrap_or(true))
            .collect();
        for (source, ports) in rules {
            let taken = anothers
                .iter()
                .find(|port| (ports.first..=ports.last).contains(port));
            if !ports.exceed(served) && taken.is_none() {
                continue;
            }
            let Some(who) = agent(node, policy, source, &mut asked).await? else {
                continue;
            };
            let kind = match protocol {
                Protocol::Tcp => "TCP",
                Protocol::Udp => "UDP",
            };
            let what = match taken.filter(|_| !ports.exceed(served)) {
                Some(port) => {
                    format!("{kind} port {port} of this node's own addresses, where another service listens")
                }
                None => format!("{ports} of {kind} of this node's own addresses"),
            };
            return Ok(Some(format!(
                "the tailnet's policy file lets {who} reach {what}, and tailscaled has no network device: it leads that to \
                 what listens at 127.0.0.1 on this machine, past every rule. Grant agents no more of it than\n  {}\nor {}",
                grant(policy, &tags),
                super::routes::WAY_OUT
            )));
        }
    }
    Ok(None)
}

/// The agent that a source may be, as the operator knows it; `None` if it is none.
async fn agent(
    node: &Node,
    policy: &Policy,
    source: Source,
    asked: &mut BTreeSet<IpAddr>,
) -> Result<Option<String>, String> {
    let net = match source {
        Source::Net(net) => net,
        Source::Capable(name) => return Ok(Some(format!("every node of the capability {name}"))),
    };
    let Some(addresses) = addresses(net) else {
        return Ok(Some(format!("every node of {net}")));
    };
    for address in addresses {
        if !asked.insert(address) {
            continue;
        }
        if asked.len() > ASKED_FOR_MAX {
            return Ok(Some(format!("more than {ASKED_FOR_MAX} nodes")));
        }
        match node.directory().by_address(address, Protocol::Tcp).await {
            Ok(known) if policy.is_claimed(&known.identity) => {
                let (name, tags) = (&known.identity.node, known.identity.tags.join(", "));
                return Ok(Some(match tags.is_empty() {
                    true => name.clone(),
                    false => format!("{name} ({tags})"),
                }));
            }
            // Nobody that an agent could be.
            Ok(_) => {}
            Err(Stranger::LocalApi(error)) => {
                return Err(format!(
                    "tailscaled does not say who {address} is, which may reach this machine's loopback: {error}"
                ));
            }
            Err(_) => {}
        }
    }
    Ok(None)
}

/// Each of a net's; `None` for one that has more than are asked for.
fn addresses(net: IpNet) -> Option<Vec<IpAddr>> {
    let bits = u32::from(net.max_prefix_len() - net.prefix_len());
    let count = 1_u32
        .checked_shl(bits)
        .filter(|count| *count as usize <= ASKED_FOR_MAX)?;
    let at = |place: u32| match net.network() {
        IpAddr::V4(v4) => IpAddr::V4(Ipv4Addr::from_bits(v4.to_bits() | place)),
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() | u128::from(place))),
    };
    Some((0..count).map(at).collect())
}

/// The grant that agents need, as a line of the policy file.
fn grant(policy: &Policy, tags: &[String]) -> String {
    let profiles = policy.model().profiles.iter();
    let sources: BTreeSet<&str> = profiles
        .flat_map(|profile| profile.tags.iter().chain(&profile.logins))
        .map(String::as_str)
        .collect();
    let own = tags.first().map_or("tag:gateway", String::as_str);
    serde_json::json!({ "src": sources, "dst": [own], "ip": ["tcp:80", "udp:53", "tcp:53"] }).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_address_of_a_small_net_is_asked_for() {
        let all = |net: &str| addresses(net.parse().unwrap()).map(|all| (all.len(), *all.last().unwrap()));
        assert_eq!(all("100.64.0.7/32"), Some((1, IpAddr::from([100, 64, 0, 7]))));
        assert_eq!(all("100.64.0.6/31"), Some((2, IpAddr::from([100, 64, 0, 7]))));
        assert_eq!(
            all("100.64.1.0/24"),
            Some((ASKED_FOR_MAX, IpAddr::from([100, 64, 1, 255])))
        );
        assert_eq!(
            all("fd7a::/120"),
            Some((ASKED_FOR_MAX, "fd7a::ff".parse().unwrap()))
        );
        for wide in ["100.64.0.0/23", "0.0.0.0/0", "::/0", "fd7a:115c:a1e0::/48"] {
            assert_eq!(all(wide), None, "{wide}");
        }
    }
}
