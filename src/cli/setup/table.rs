//! The nftables table. No I/O.
//!
//! What arrives by tailscaled's device for a real address of ours is turned to the gateway if it is
//! TCP, and refused if it is not: QUIC falls back at once. Nothing of it is led on. What tailscaled
//! dials itself, for the sites' ranges, is told from the gateway's own dials by the account.

use std::fmt::Write as _;

use ipnet::IpNet;

use super::Wanted;
use crate::ingress::tailnet::guard::title;

pub(super) const NAME: &str = "tailkeep";

/// The text for `nft -f`; loading it again replaces what it made.
pub(super) fn text(wanted: &Wanted) -> String {
    let plan = &wanted.plan;
    let real = plan.real.as_slice();
    let taken: Vec<IpNet> = real.iter().chain(&wanted.names).copied().collect();
    let via: Vec<IpNet> = plan.via.iter().map(|via| IpNet::V4(via.cidr)).collect();
    let (device, port) = (&wanted.device, wanted.port);
    let from = format!("iifname \"{device}\"");
    // A packet without a socket of somebody is none of tailscaled's dials.
    let not_ours = format!("meta skuid != \"{}\"", wanted.user);
    let turn = format!("meta l4proto tcp redirect to :{port}");
    let end = "meta l4proto tcp reject with tcp reset";
    let refuse = "meta l4proto != tcp reject with icmpx port-unreachable";
    let mut text = title(plan, port, device, &wanted.user);
    text.push_str("\n# Written by `tailkeep setup`, which also takes it away: `tailkeep setup --remove`.\n");
    let _ = writeln!(
        text,
        "table inet {NAME}\ndelete table inet {NAME}\ntable inet {NAME} {{"
    );
    let chains = [
        ("turn", "nat", "prerouting", -100, rules(&from, real, &turn)),
        // Before the destination is turned.
        (
            "refuse",
            "filter",
            "prerouting",
            -110,
            rules(&from, &taken, refuse),
        ),
        // An open flow that is led on since it is none of the first packets is ended; ICMP would but stall it.
        (
            "keep",
            "filter",
            "forward",
            -10,
            [
                rules(&from, &taken, end),
                rules(&from, &taken, "reject with icmpx admin-prohibited"),
            ]
            .concat(),
        ),
        ("turn_own", "nat", "output", -100, rules(&not_ours, &via, &turn)),
        (
            "refuse_own",
            "filter",
            "output",
            -110,
            rules(&not_ours, &via, refuse),
        ),
        // After it: nat looks at a flow's first packet alone, so one that began while somebody had flushed the
        // table would go on, round the gateway.
        ("keep_own", "filter", "output", 0, rules(&not_ours, &via, end)),
    ];
    for (name, kind, hook, priority, rules) in chains {
        if rules.is_empty() {
            continue;
        }
        let _ = writeln!(
            text,
            "\tchain {name} {{\n\t\ttype {kind} hook {hook} priority {priority}"
        );
        for rule in rules {
            let _ = writeln!(text, "\t\t{rule}");
        }
        text.push_str("\t}\n");
    }
    text.push_str("}\n");
    text
}

fn rules(from: &str, nets: &[IpNet], then: &str) -> Vec<String> {
    let of = |v4: bool| {
        let nets = nets.iter().filter(|net| net.addr().is_ipv4() == v4);
        nets.map(ToString::to_string).collect::<Vec<_>>().join(", ")
    };
    [("ip", of(true)), ("ip6", of(false))]
        .into_iter()
        .filter(|(_, nets)| !nets.is_empty())
        .map(|(family, nets)| format!("{from} {family} daddr {{ {nets} }} {then}"))
        .collect()
}
