//! What the gateway advertises, and what a destination in it means. No I/O.
//!
//! Invariant: what was declared by us and is not ours any more is withdrawn, and what others declare
//! stays.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use ipnet::{IpNet, Ipv6Net};

use super::guard::Guarded;
use crate::policy::{HostPattern, Model, Via};

/// The range that tailnets read as IPv4 at a site: 64 bits of it, 32 of the site's number, then the
/// address ("4via6").
const VIA: Ipv6Addr = Ipv6Addr::new(0xfd7a, 0x115c, 0xa1e0, 0xb1a, 0, 0, 0, 0);

/// The routes that this gateway advertises beside those that the node has from elsewhere.
#[derive(Clone, Debug, Default)]
pub struct Routes {
    ours: Vec<IpNet>,
    /// Were ours, and are not any more.
    before: Vec<IpNet>,
    /// No others are to stay.
    alone: bool,
    ended: bool,
}

impl Routes {
    /// Those of a node of our own, where nobody else declares any.
    pub fn alone() -> Self {
        Routes {
            alone: true,
            ..Routes::default()
        }
    }

    /// Takes over other routes; false if they are the same, or if it is over.
    pub fn replace(&mut self, routes: Vec<IpNet>) -> bool {
        if self.ended || self.ours == routes {
            return false;
        }
        let old = std::mem::replace(&mut self.ours, routes);
        self.before.extend(old);
        let Routes { ours, before, .. } = self;
        before.retain(|net| !ours.contains(net));
        before.sort();
        before.dedup();
        true
    }

    /// Wants none any more.
    pub fn end(&mut self) {
        self.replace(Vec::new());
        self.ended = true;
    }

    /// Whether a route is ours, or was.
    pub fn are_ours(&self, net: &IpNet) -> bool {
        self.ours.contains(net) || self.before.contains(net)
    }

    /// What is ours, and what was.
    pub fn all(&self) -> Vec<IpNet> {
        self.ours.iter().chain(&self.before).copied().collect()
    }

    pub fn ours(&self) -> &[IpNet] {
        &self.ours
    }

    /// What to declare where `there` is declared; `None` if that is right as it is.
    pub fn over(&self, there: &[IpNet]) -> Option<Vec<IpNet>> {
        let others = there.iter().filter(|net| !self.alone && !self.are_ours(net));
        let mut all: Vec<IpNet> = others.copied().collect();
        all.extend(&self.ours);
        let (mut before, mut after) = (there.to_vec(), all.clone());
        before.sort();
        after.sort();
        (before != after).then_some(all)
    }
}

/// What a policy wants to be reached at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// The names' virtual ranges, where an endpoint has a name.
    pub names: Vec<IpNet>,
    /// Real addresses.
    pub real: Vec<IpNet>,
    pub via: Vec<Via>,
}

impl Plan {
    /// The routes that a policy asks for: the virtual ranges if an endpoint has a name, and real
    /// addresses as `routes` says, or where it does not, those that endpoints have as their hosts.
    pub fn of(model: &Model) -> Plan {
        let gateway = &model.gateway;
        let Some(tailscale) = &gateway.tailscale else {
            return Plan::default();
        };
        let hosts = || {
            let claims = model.endpoints.iter().flat_map(|endpoint| &endpoint.claims);
            claims.map(|claim| &claim.host)
        };
        let has_names = hosts().any(|host| !matches!(host, HostPattern::Net(_)));
        let names = [gateway.virtual_v4, gateway.virtual_v6];
        let real = match &tailscale.routes {
            Some(routes) => routes.clone(),
            None => hosts()
                .filter_map(|host| match host {
                    HostPattern::Net(net) => Some(net.trunc()),
                    _ => None,
                })
                .filter(|net| may_be_route(*net) && !names.iter().any(|own| own.contains(net)))
                // Its plain addresses are another site's too.
                .filter(|net| !tailscale.via.iter().any(|via| IpNet::V4(via.cidr).contains(net)))
                .collect(),
        };
        Plan {
            names: if has_names { names.to_vec() } else { Vec::new() },
            real: IpNet::aggregate(&real),
            via: tailscale.via.clone(),
        }
    }

    /// Whether anything of it is reached at other than a name's virtual address.
    pub fn has_real(&self) -> bool {
        !self.real.is_empty() || !self.via.is_empty()
    }

    /// Everything that is to be advertised: what of the virtual ranges ends here, and what of the rest
    /// is guarded.
    pub fn advertised(&self, guarded: &Guarded) -> Vec<IpNet> {
        let mut all = self.names.clone();
        all.retain(|net| !guarded.elsewhere.contains(net));
        if guarded.real {
            all.extend(&self.real);
        }
        if guarded.via {
            all.extend(self.via.iter().map(|via| IpNet::V6(via_net(*via))));
        }
        all
    }

    /// Where an agent wanted to go that dialled `dialled`, or `None` if that is of no route. What
    /// tailscaled dialled itself (`by_daemon`) is of a site's range, which it has read as IPv4.
    pub fn destination(&self, dialled: SocketAddr, by_daemon: bool) -> Option<SocketAddr> {
        let ip = dialled.ip().to_canonical();
        let is_in = match by_daemon {
            true => self.via.iter().any(|via| IpNet::V4(via.cidr).contains(&ip)),
            false => self.real.iter().any(|net| net.contains(&ip)),
        };
        is_in.then(|| SocketAddr::new(ip, dialled.port()))
    }
}

/// A site's range as the tailnet routes it.
pub fn via_net(via: Via) -> Ipv6Net {
    let site = u128::from(via.site) << 32;
    let v4 = u128::from(via.cidr.network().to_bits());
    let address = Ipv6Addr::from_bits(VIA.to_bits() | site | v4);
    // 96 and at most 32 are a length of IPv6.
    Ipv6Net::new(address, 96 + via.cidr.prefix_len()).unwrap_or_else(|_| Ipv6Net::from(address))
}

/// Whether a host of an endpoint can be led to by a route: no node of the tailnet, not each machine
/// itself, not everything.
fn may_be_route(net: IpNet) -> bool {
    let ip = net.addr();
    let is_own = ip.is_loopback() || ip.is_multicast() || ip.is_unspecified();
    let is_link = match ip {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    let overlaps = |own: &IpNet| own.contains(&net) || net.contains(own);
    !is_own && !is_link && !crate::policy::TAILNET_RANGES.iter().any(overlaps)
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::ingress::tailnet::guard::Unguarded;
    use crate::policy::{Policy, Source};

    fn all() -> Guarded {
        Guarded {
            real: true,
            via: true,
            ..Guarded::default()
        }
    }

    #[test]
    fn what_others_declare_stays_but_at_a_node_of_our_own() {
        let net = |text: &str| -> IpNet { text.parse().unwrap() };
        let (ours, other) = (net("10.78.0.0/16"), net("10.20.0.0/16"));
        let over = |mut routes: Routes, there: &[IpNet]| {
            routes.replace(vec![ours]);
            routes.over(there)
        };
        assert_eq!(over(Routes::default(), &[other]), Some(vec![other, ours]));
        assert_eq!(over(Routes::default(), &[other, ours]), None);
        assert_eq!(over(Routes::alone(), &[other, ours]), Some(vec![ours]));
    }

    #[test]
    fn a_virtual_range_that_does_not_end_here_is_not_advertised() {
        let nets: Vec<IpNet> = ["10.78.0.0/16", "fd7a:7461:696c:78::/64"]
            .map(|text| text.parse().unwrap())
            .to_vec();
        let plan = Plan {
            names: nets.clone(),
            ..Plan::default()
        };
        let guarded = Guarded::default().but_for(vec![(nets[0], Unguarded::NotLocal(nets[0]))]);
        assert_eq!(plan.advertised(&guarded), [nets[1]]);
        assert!(
            guarded.missing[0]
                .to_string()
                .contains("ip route add local 10.78.0.0/16 dev lo")
        );
        assert_eq!(plan.advertised(&Guarded::default()), nets);
    }

    fn nets(texts: &[&str]) -> Vec<IpNet> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn plan(tailscale: &str, hosts: &str) -> Plan {
        let text = format!(
            r#"
gateway {{
  tailscale {{
  socket = "/s"
  {tailscale}
  }}
}}
endpoint "postgres" "one" {{ hosts = [{hosts}] }}
"#
        );
        let source = Source {
            path: "a.hcl".into(),
            text,
        };
        let loaded = Policy::load(vec![source], &|_| unreachable!());
        Plan::of(
            loaded
                .unwrap_or_else(|errors| panic!("{}", errors.render()))
                .model(),
        )
    }

    #[test]
    fn our_routes_come_and_go_beside_others() {
        let mut routes = Routes::default();
        assert!(routes.replace(nets(&["10.78.0.0/16", "fd78::/64"])));
        assert!(!routes.replace(nets(&["10.78.0.0/16", "fd78::/64"])), "the same");
        let both = nets(&["192.0.2.0/24", "10.78.0.0/16", "fd78::/64"]);
        assert_eq!(routes.over(&nets(&["192.0.2.0/24"])), Some(both.clone()));
        assert_eq!(
            routes.over(&nets(&["192.0.2.0/24", "10.78.0.0/16"])),
            Some(both.clone())
        );
        assert_eq!(routes.over(&both), None);
        assert!(routes.replace(nets(&["10.78.0.0/16", "10.20.0.0/16"])));
        let other = nets(&["192.0.2.0/24", "10.78.0.0/16", "10.20.0.0/16"]);
        assert_eq!(routes.over(&both), Some(other.clone()));
        routes.end();
        assert_eq!(routes.over(&other), Some(nets(&["192.0.2.0/24"])));
        assert_eq!(
            routes.over(&both),
            Some(nets(&["192.0.2.0/24"])),
            "as it was once"
        );
        assert_eq!(routes.over(&nets(&["192.0.2.0/24"])), None);
        assert!(!routes.replace(nets(&["10.78.0.0/16"])), "it is over");
    }

    #[test]
    fn what_is_advertised_is_what_endpoints_need_or_what_routes_say() {
        let names = nets(&["10.78.0.0/16", "fd7a:7461:696c:78::/64"]);
        let by_name = plan("", r#""pg.test:5432""#);
        assert_eq!(by_name.advertised(&all()), names);
        let by_address = plan(
            "",
            r#""10.20.0.5:5432", "10.20.0.4:5432", "[fd20::5]:5432", "127.0.0.1:1""#,
        );
        assert_eq!(
            by_address.advertised(&all()),
            nets(&["10.20.0.4/31", "fd20::5/128"])
        );
        assert!(by_address.advertised(&Guarded::default()).is_empty());
        let said = plan(
            r#"routes = ["10.20.0.7/16", "10.78.1.0/24"]"#,
            r#""pg.test:5432""#,
        );
        assert_eq!(said.real, nets(&["10.20.0.0/16"]));
        assert_eq!(said.advertised(&all()), [names, nets(&["10.20.0.0/16"])].concat());
        assert!(!plan("routes = []", r#""10.20.0.5:5432""#).has_real());
    }

    #[test]
    fn a_site_is_advertised_by_its_number_and_read_as_ipv4() {
        let block = "via {\n site = 7\n cidr = \"10.1.0.0/16\"\n}";
        let plan = plan(block, r#""10.1.0.5:5432""#);
        let net = nets(&["fd7a:115c:a1e0:b1a:0:7:a01:0/112"]);
        assert_eq!(plan.advertised(&all()), net, "not by its plain addresses");
        let at = |text: &str| text.parse::<SocketAddr>().unwrap();
        for inside in ["10.1.0.5:5432", "10.1.255.1:22"] {
            assert_eq!(plan.destination(at(inside), true), Some(at(inside)));
            assert_eq!(plan.destination(at(inside), false), None);
        }
        for outside in ["10.2.0.5:5432", "100.64.0.1:8739", "127.0.0.1:8739"] {
            assert_eq!(plan.destination(at(outside), true), None);
        }
    }

    #[test]
    fn a_redirected_destination_is_of_a_route_or_nowhere() {
        let plan = plan(r#"routes = ["10.20.0.0/16", "fd20::/64"]"#, r#""10.20.0.5:5432""#);
        for (dialled, wanted) in [
            ("10.20.0.5:5432", true),
            ("[::ffff:10.20.0.5]:5432", true),
            ("[fd20::5]:443", true),
            ("10.21.0.5:5432", false),
            ("100.64.0.1:8739", false),
            ("127.0.0.1:8739", false),
            ("[::1]:8739", false),
        ] {
            let found = plan.destination(dialled.parse().unwrap(), false);
            assert_eq!(found.is_some(), wanted, "{dialled}");
        }
        assert_eq!(plan.destination("10.20.0.5:5432".parse().unwrap(), true), None);
    }
}
