//! Where a passthrough, or a name that only a wildcard claims, never leads. No I/O.
//!
//! An agent behind the gateway must not reach through it what the network keeps from the agent:
//! the gateway itself, its loopback, the machine's neighbours on the link, the cloud's metadata
//! service, other agents. IPv6 forms that carry an IPv4 address are judged by that address.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::IpNet;

/// What is closed whatever the configuration says: prefix, length, what it is.
const CLOSED_V4: [([u8; 4], u8, &str); 11] = [
    ([0, 0, 0, 0], 8, "this host (RFC 1122 §3.2.1.3)"),
    ([127, 0, 0, 0], 8, "loopback"),
    ([169, 254, 0, 0], 16, "link-local and cloud metadata"),
    ([100, 100, 100, 100], 32, "tailscaled's own service"),
    ([100, 100, 100, 200], 32, "Alibaba's metadata"),
    ([168, 63, 129, 16], 32, "Azure's host service"),
    ([192, 0, 0, 0], 24, "IETF protocol assignments, Oracle's metadata"),
    ([192, 88, 99, 0], 24, "6to4 relays"),
    ([198, 18, 0, 0], 15, "benchmarking (RFC 2544)"),
    ([224, 0, 0, 0], 4, "multicast"),
    ([240, 0, 0, 0], 4, "reserved and broadcast"),
];

const CLOSED_V6: [([u16; 8], u8, &str); 13] = [
    ([0, 0, 0, 0, 0, 0, 0, 0], 128, "unspecified"),
    ([0, 0, 0, 0, 0, 0, 0, 1], 128, "loopback"),
    (
        [0x64, 0xff9b, 1, 0, 0, 0, 0, 0],
        48,
        "NAT64 of local use (RFC 8215)",
    ),
    ([0x100, 0, 0, 0, 0, 0, 0, 0], 64, "discard (RFC 6666)"),
    ([0x2001, 0, 0, 0, 0, 0, 0, 0], 32, "Teredo"),
    ([0xfd00, 0xec2, 0, 0, 0, 0, 0, 0], 32, "Amazon's metadata"),
    ([0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254], 128, "Google's metadata"),
    (
        [0xfd00, 0xc1, 0, 0, 0, 0, 0xa9fe, 0xa9fe],
        128,
        "Oracle's metadata",
    ),
    (
        [0xfd7a, 0x115c, 0xa1e0, 0, 0, 0, 0, 0x53],
        128,
        "tailscaled's own service",
    ),
    ([0xfe80, 0, 0, 0, 0, 0, 0, 0], 10, "link-local"),
    ([0xfec0, 0, 0, 0, 0, 0, 0, 0], 10, "site-local"),
    ([0xff00, 0, 0, 0, 0, 0, 0, 0], 8, "multicast"),
    ([0x5f00, 0, 0, 0, 0, 0, 0, 0], 16, "segment routing (RFC 9602)"),
];

/// Where clouds tell a machine of itself, of what is closed.
const METADATA: [&str; 8] = [
    "169.254.0.0/16",
    "100.100.100.200/32",
    "168.63.129.16/32",
    "192.0.0.192/32",
    "fe80::/10",
    "fd00:ec2::/32",
    "fd20:ce::254/128",
    "fd00:c1::a9fe:a9fe/128",
];

/// The addresses that are closed: the constant ones, and this gateway's own.
#[derive(Clone, Debug, Default)]
pub struct Closed {
    nets: Vec<IpNet>,
    listeners: Vec<SocketAddr>,
}

impl Closed {
    /// `nets`: the tunnels' subnets, the virtual ranges, the gateway's own addresses.
    /// `listeners`: sockets of its own (admin, enrolment, WireGuard); one on an unspecified
    /// address closes its port on every address, since any of them may be this machine's.
    pub fn new(nets: Vec<IpNet>, listeners: Vec<SocketAddr>) -> Self {
        Closed { nets, listeners }
    }

    /// Why a resolved address may not be dialled, or `None` if it may.
    pub fn reason(&self, address: SocketAddr) -> Option<&'static str> {
        let ip = address.ip().to_canonical();
        if let Some(reason) = self.reason_of(ip, address.port()) {
            return Some(reason);
        }
        match ip {
            IpAddr::V4(_) => None,
            IpAddr::V6(v6) => embedded_v4(v6).and_then(|v4| self.reason_of(v4.into(), address.port())),
        }
    }

    /// Why even a name that the operator wrote may not lead to an address, since whoever answers for the name would
    /// choose it: what clouds tell a machine of itself, whose keys are there for the asking, and whatever `Host` says;
    /// and the gateway's own listeners. `is_own` says whether an address is this machine's.
    ///
    /// Who means such an address writes it as an address.
    pub fn bent(&self, address: SocketAddr, is_own: bool) -> Option<&'static str> {
        let ip = address.ip().to_canonical();
        let embedded = match ip {
            IpAddr::V4(_) => None,
            IpAddr::V6(v6) => embedded_v4(v6).map(IpAddr::V4),
        };
        let own = |listener: &SocketAddr| {
            let listening = listener.ip().to_canonical();
            let here = match listening.is_unspecified() {
                true => is_own,
                false => listening == ip || Some(listening) == embedded,
            };
            listener.port() == address.port() && here
        };
        if self.listeners.iter().any(own) {
            return Some("one of the gateway's own listeners");
        }
        let tells = |ip: &IpAddr| {
            METADATA
                .iter()
                .any(|net| net.parse::<IpNet>().is_ok_and(|net| net.contains(ip)))
        };
        let tells = tells(&ip) || embedded.is_some_and(|ip| tells(&ip));
        tells.then_some("what a cloud tells a machine of itself")
    }

    fn reason_of(&self, ip: IpAddr, port: u16) -> Option<&'static str> {
        let constant = match ip {
            IpAddr::V4(v4) => closed_v4(v4),
            IpAddr::V6(v6) => closed_v6(v6),
        };
        if constant.is_some() {
            return constant;
        }
        if self.nets.iter().any(|net| net.contains(&ip)) {
            return Some("the gateway's own networks");
        }
        let own = |listener: &SocketAddr| {
            let listening = listener.ip().to_canonical();
            listener.port() == port && (listening == ip || listening.is_unspecified())
        };
        self.listeners
            .iter()
            .any(own)
            .then_some("one of the gateway's own listeners")
    }
}

fn closed_v4(address: Ipv4Addr) -> Option<&'static str> {
    let bits = address.to_bits();
    CLOSED_V4.iter().find_map(|(prefix, length, reason)| {
        let differ = bits ^ u32::from_be_bytes(*prefix);
        (differ.leading_zeros() >= u32::from(*length)).then_some(*reason)
    })
}

fn closed_v6(address: Ipv6Addr) -> Option<&'static str> {
    let bits = address.to_bits();
    CLOSED_V6.iter().find_map(|(prefix, length, reason)| {
        let differ = bits ^ Ipv6Addr::from(*prefix).to_bits();
        (differ.leading_zeros() >= u32::from(*length)).then_some(*reason)
    })
}

/// The IPv4 address that an IPv6 address leads to: mapped and compatible (RFC 4291 §2.5.5),
/// translated (RFC 2765), NAT64 (RFC 6052 §2.1), 6to4 (RFC 3056), ISATAP (RFC 5214).
fn embedded_v4(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let low = |high: u16, low: u16| Some(Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low)));
    match address.segments() {
        [0, 0, 0, 0, 0, 0 | 0xffff, a, b] => low(a, b),
        [0, 0, 0, 0, 0xffff, 0, a, b] => low(a, b),
        [0x64, 0xff9b, 0, 0, 0, 0, a, b] => low(a, b),
        [0x2002, a, b, ..] => low(a, b),
        [_, _, _, _, 0 | 0x200, 0x5efe, a, b] => low(a, b),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn closed() -> Closed {
        Closed::new(
            vec!["10.77.0.0/16".parse().unwrap(), "fd00:77::/64".parse().unwrap()],
            vec![
                "0.0.0.0:8737".parse().unwrap(),
                "203.0.113.9:8443".parse().unwrap(),
            ],
        )
    }

    #[test]
    fn the_table() {
        let shut = [
            "0.0.0.0:80",
            "0.1.2.3:80",
            "127.0.0.1:80",
            "127.255.255.254:80",
            "169.254.169.254:80",
            "169.254.170.2:80",
            "100.100.100.200:80",
            "100.100.100.100:53",
            "168.63.129.16:80",
            "192.0.0.192:80",
            "192.88.99.1:80",
            "198.18.0.1:80",
            "198.19.255.255:80",
            "224.0.0.1:80",
            "239.255.255.255:80",
            "240.0.0.1:80",
            "255.255.255.255:80",
            "10.77.3.4:443",
            "8.8.8.8:8737",
            "203.0.113.9:8443",
            "[::]:80",
            "[::1]:80",
            "[fe80::1]:80",
            "[febf::1]:80",
            "[fec0::1]:80",
            "[ff02::1]:80",
            "[fd00:ec2::254]:80",
            "[fd00:ec2::23]:80",
            "[fd20:ce::254]:80",
            "[fd00:c1::a9fe:a9fe]:80",
            "[fd7a:115c:a1e0::53]:80",
            "[fd00:77::5]:443",
            "[2001::1]:80",
            "[64:ff9b:1::1]:80",
            "[100::1]:80",
            // The same in IPv6's clothes.
            "[::ffff:127.0.0.1]:80",
            "[::127.0.0.1]:80",
            "[::ffff:0:127.0.0.1]:80",
            "[::ffff:169.254.169.254]:80",
            "[64:ff9b::169.254.169.254]:80",
            "[64:ff9b::10.77.3.4]:443",
            "[2002:7f00:1::]:80",
            "[2002:a9fe:a9fe::1]:80",
            "[2002:a4d:304::]:443",
            "[2a00::5efe:127.0.0.1]:80",
            "[2a00::200:5efe:169.254.169.254]:80",
            "[::ffff:203.0.113.9]:8443",
            "[2a00::1]:8737",
        ];
        let open = [
            "1.1.1.1:443",
            "10.20.0.5:5432",
            "192.168.1.1:80",
            "172.16.0.1:80",
            "100.64.0.1:80",
            "203.0.113.9:443",
            "126.255.255.255:80",
            "128.0.0.1:80",
            "169.253.255.255:80",
            "223.255.255.255:80",
            "[2606:4700::1111]:443",
            "[64:ff9b::1.1.1.1]:443",
            "[2002:101:101::]:443",
            "[fd00::1]:80",
            "[fd00:78::1]:80",
            "[::ffff:1.1.1.1]:443",
        ];
        let closed = closed();
        for (addresses, want) in [(&shut[..], true), (&open[..], false)] {
            for text in addresses {
                let found = closed.reason(text.parse().unwrap());
                assert_eq!(found.is_some(), want, "{text}: {found:?}");
            }
        }
    }

    #[test]
    fn not_even_a_name_that_was_written_leads_there() {
        let closed = closed();
        for (text, is_own, bent) in [
            ("169.254.169.254:80", false, true),
            ("[::ffff:169.254.169.254]:80", false, true),
            ("[64:ff9b::169.254.169.254]:80", false, true),
            ("[fd00:ec2::254]:80", false, true),
            ("203.0.113.9:8443", true, true),
            ("[::ffff:203.0.113.9]:8443", false, true),
            ("127.0.0.1:8737", true, true),
            ("[::1]:8737", true, true),
            // Another machine's port of the same number, and services beside the gateway.
            ("198.51.100.7:8737", false, false),
            ("127.0.0.1:5432", true, false),
            ("10.77.3.4:443", false, false),
            ("8.8.8.8:443", false, false),
        ] {
            let found = closed.bent(text.parse().unwrap(), is_own);
            assert_eq!(found.is_some(), bent, "{text}: {found:?}");
        }
    }

    #[test]
    fn the_configuration_adds_to_the_table() {
        let bare = Closed::default();
        for text in [
            "10.77.3.4:443",
            "[fd00:77::5]:443",
            "8.8.8.8:8737",
            "203.0.113.9:8443",
        ] {
            assert_eq!(bare.reason(text.parse().unwrap()), None, "{text}");
        }
    }
}
