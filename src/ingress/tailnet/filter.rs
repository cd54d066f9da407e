//! What the tailnet's policy file lets through to this node, as tailscaled has it. No I/O.
//!
//! Names and forms are those of `wgengine/filter/filtertype` at 1.96, as the netmap on the bus has them.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::localapi::Protocol;

/// Who may send what to which addresses: `PacketFilter` of a netmap.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(from = "Form")]
pub enum Filter {
    Rules(Vec<Rule>),
    /// Not there, or not of the form that is known here.
    #[default]
    Unknown,
}

/// Null are no rules.
#[derive(Deserialize)]
#[serde(untagged)]
enum Form {
    Rules(Option<Vec<Rule>>),
    Other(IgnoredAny),
}

impl From<Form> for Filter {
    fn from(form: Form) -> Self {
        match form {
            Form::Rules(rules) => Filter::Rules(rules.unwrap_or_default()),
            Form::Other(_) => Filter::Unknown,
        }
    }
}

/// `filtertype.Match`: one of the protocols, from one of the sources, to one of the destinations.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Rule {
    #[serde(rename = "IPProto")]
    protocols: Option<Vec<u8>>,
    srcs: Option<Vec<IpNet>>,
    /// Whoever has one of these capabilities.
    #[serde(default)]
    src_caps: Option<Vec<String>>,
    dsts: Option<Vec<Destination>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Destination {
    net: IpNet,
    ports: Ports,
}

/// Ports from one to another, both of them among them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Ports {
    pub first: u16,
    pub last: u16,
}

impl std::fmt::Display for Ports {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.first, self.last) {
            (0, u16::MAX) => f.write_str("every port"),
            (first, last) if first == last => write!(f, "port {first}"),
            (first, last) => write!(f, "the ports {first} to {last}"),
        }
    }
}

impl Ports {
    /// Whether it has a port that is not among these.
    pub fn exceed(&self, these: &[u16]) -> bool {
        (self.first..=self.last).any(|port| !these.contains(&port))
    }
}

/// Who may send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    Net(IpNet),
    /// Every node of this capability.
    Capable(String),
}

impl Filter {
    /// Who may send to which ports of these addresses; `None` where that is not known.
    pub fn to(&self, addresses: &[IpAddr], protocol: Protocol) -> Option<Vec<(Source, Ports)>> {
        let Filter::Rules(rules) = self else { return None };
        // The numbers of RFC 790.
        let number = match protocol {
            Protocol::Tcp => 6,
            Protocol::Udp => 17,
        };
        let mut found = Vec::new();
        for rule in rules {
            if !rule.protocols.iter().flatten().any(|of| *of == number) {
                continue;
            }
            let nets = rule.srcs.iter().flatten().copied().map(Source::Net);
            let capable = rule.src_caps.iter().flatten().cloned().map(Source::Capable);
            let sources: Vec<Source> = nets.chain(capable).collect();
            let reached = |to: &&Destination| addresses.iter().any(|own| to.net.contains(own));
            for to in rule.dsts.iter().flatten().filter(reached) {
                found.extend(sources.iter().map(|source| (source.clone(), to.ports)));
            }
        }
        Some(found)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(value: serde_json::Value) -> Filter {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn who_may_send_where_is_read() {
        let rule = |protocols: &[u8], net: &str, first: u16, last: u16| {
            json!({
                "IPProto": protocols, "Srcs": ["100.64.0.2/32"], "SrcCaps": ["a"], "Caps": [],
                "Dsts": [{ "Net": net, "Ports": { "First": first, "Last": last } }],
            })
        };
        let filter = read(json!([
            rule(&[6, 17], "100.64.0.1/32", 53, 53),
            rule(&[6], "100.64.0.0/10", 0, 65535),
            rule(&[6], "100.64.0.3/32", 1, 9),
            rule(&[], "100.64.0.1/32", 1, 9),
            { "IPProto": null, "Srcs": null, "Dsts": null, "Caps": null },
        ]));
        let own = [IpAddr::from([100, 64, 0, 1])];
        let all = |protocol| -> Vec<String> {
            let found = filter.to(&own, protocol).unwrap().into_iter();
            found
                .map(|(source, ports)| format!("{source:?} {ports}"))
                .collect()
        };
        let net = "Net(100.64.0.2/32)";
        assert_eq!(
            all(Protocol::Udp),
            [format!("{net} port 53"), "Capable(\"a\") port 53".to_owned()]
        );
        assert_eq!(all(Protocol::Tcp).len(), 4);
        assert!(all(Protocol::Tcp).contains(&format!("{net} every port")));
        // No rules are known to be none; another form is not known at all.
        assert_eq!(read(json!(null)).to(&own, Protocol::Tcp), Some(vec![]));
        for other in [json!([{ "IPProto": ["tcp"] }]), json!("all"), json!([[]])] {
            assert_eq!(read(other).to(&own, Protocol::Tcp), None);
        }
    }

    #[test]
    fn ports_that_are_served_exceed_nothing() {
        let ports = |first, last| Ports { first, last };
        assert!(!ports(53, 53).exceed(&[53, 80]));
        assert!(ports(53, 54).exceed(&[53, 80]));
        assert!(ports(0, u16::MAX).exceed(&[53, 80]));
        assert_eq!(ports(1, 9).to_string(), "the ports 1 to 9");
    }
}
