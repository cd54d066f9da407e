//! `gateway { tailscale { … } }`.

use std::net::IpAddr;
use std::path::PathBuf;

use ipnet::{IpNet, Ipv4Net};

use super::super::diagnostic::{At, Diagnostic};
use super::super::hcl::{Fields, Spot};
use super::super::model::TAILNET_RANGES;
use super::super::{Endpoint, HostPattern, Tailscale, Via};
use super::Loader;

/// Ranges of this machine or link alone, which no other node can be led to.
const OWN_RANGES: [&str; 6] = [
    "127.0.0.0/8",
    "169.254.0.0/16",
    "224.0.0.0/4",
    "::1/128",
    "fe80::/10",
    "ff00::/8",
];

impl<'a> Loader<'a> {
    pub(super) fn tailscale(&mut self, gateway: &Fields<'a>) {
        let Some(fields) = gateway.nested("tailscale") else {
            return;
        };
        let text = |name| fields.text(name).map(|text| text.value);
        let mut tailscale = Tailscale {
            socket: text("socket").map(PathBuf::from),
            authkey: self.tailnet_secret(&fields, "authkey"),
            oauth_client_secret: self.tailnet_secret(&fields, "oauth_client_secret"),
            hostname: text("hostname"),
            ..Tailscale::default()
        };
        if let Some(url) = fields.text("control_url") {
            let schemes = ["http://", "https://"];
            if !schemes.iter().any(|scheme| url.value.starts_with(scheme)) {
                self.one_of(&url, "control_url", "a URL, https://control.example.com");
            }
            tailscale.control_url = Some(url.value);
        }
        for tag in fields.texts("tags") {
            if !tag.value.starts_with("tag:") {
                self.one_of(&tag, "tags", "a list of `tag:name`");
            }
            tailscale.tags.push(tag.value);
        }
        if let Some(port) = fields
            .size("redirect_port", 1..=65_535)
            .and_then(|port| u16::try_from(port).ok())
        {
            tailscale.redirect_port = port;
        }
        self.routes(&fields, &mut tailscale);
        self.via(&fields, &mut tailscale);
        tailscale.operators = self.operators(&fields);
        if tailscale.socket.is_some() {
            let own = [
                "authkey",
                "oauth_client_secret",
                "control_url",
                "hostname",
                "tags",
            ];
            fields.inert(
                &own,
                "the tailscaled behind `socket` has its own, and the gateway does not start with both",
            );
        }
        fields.inert(
            &["oauth_client_id"],
            "the client's secret says which client it is",
        );
        fields.inert(
            &["state_dir"],
            match tailscale.socket {
                Some(_) => "the tailscaled behind `socket` keeps its state where it was told to (--statedir)",
                None => "the node's state lies in `tailscale` of the gateway's own state_dir; set that one",
            },
        );
        let at = fields.at;
        fields.finish();
        if tailscale.oauth_client_secret.is_some() && tailscale.tags.is_empty() {
            let message = "an OAuth client lets tagged nodes in alone".to_owned();
            let help = "add tags = [\"tag:gateway\"], one that the client has";
            self.findings.error(Diagnostic::new(at, message).help(help));
        }
        self.model.gateway.tailscale = Some(tailscale);
    }

    /// An endpoint that is dialled inside of what the tailnet leads here for names: a tailscaled without
    /// a network device would dial it itself.
    pub(super) fn beside_the_names(&self, endpoint: &Endpoint, at: At) {
        let gateway = &self.model.gateway;
        if gateway.tailscale.is_none() {
            return;
        }
        let dialled: Vec<IpNet> = match &endpoint.upstream {
            Some(upstream) => upstream
                .host
                .parse::<IpAddr>()
                .map(IpNet::from)
                .into_iter()
                .collect(),
            None => {
                let nets = endpoint.claims.iter().map(|claim| match &claim.host {
                    HostPattern::Net(net) => Some(*net),
                    _ => None,
                });
                nets.flatten().collect()
            }
        };
        let own = [gateway.virtual_v4, gateway.virtual_v6];
        let inside = dialled
            .into_iter()
            .find(|net| own.iter().any(|own| own.contains(net)));
        if let Some(net) = inside {
            let message = format!(
                "`{}` leads to {net}, of the names' virtual addresses",
                endpoint.key
            );
            let help = "the tailnet leads that range here, and what is in it is reached past every rule or not at all: \
                        give virtual_cidr or virtual_cidr6 a range that is nobody's";
            self.findings.error(Diagnostic::new(at, message).help(help));
        }
    }

    fn routes(&self, fields: &Fields<'a>, tailscale: &mut Tailscale) {
        let written = fields.texts("routes");
        if !fields.has("routes") {
            return;
        }
        let gateway = &self.model.gateway;
        let mut routes = Vec::new();
        for route in written {
            let Ok(net) = route.value.parse::<IpNet>() else {
                self.one_of(&route, "routes", "a list of ranges, 10.20.0.0/16");
                continue;
            };
            let net = net.trunc();
            if [gateway.virtual_v4, gateway.virtual_v6]
                .iter()
                .any(|own| own.contains(&net))
            {
                // Advertised whole already, and served by other means.
                continue;
            }
            if let Some(why) = unfit(net) {
                self.findings
                    .error(Diagnostic::new(route.at, format!("`{net}` cannot be a route")).help(why));
            } else if overlaps(net, gateway.virtual_v4) || overlaps(net, gateway.virtual_v6) {
                let message = format!("`{net}` holds the range of the names' virtual addresses");
                let help = "give virtual_cidr or virtual_cidr6 a range that is nobody's";
                self.findings.error(Diagnostic::new(route.at, message).help(help));
            } else if tailscale.socket.is_none() {
                self.findings.error(
                    Diagnostic::new(route.at, format!("`{net}` would go round the gateway")).help(ROUND),
                );
            } else {
                routes.push(net);
            }
        }
        tailscale.routes = Some(routes);
    }

    fn via(&self, fields: &Fields<'a>, tailscale: &mut Tailscale) {
        for block in fields.nested_all("via") {
            let (site, cidr) = (block.size("site", 0..=65_535), block.text("cidr"));
            let at = block.at;
            block.finish();
            let (Some(site), Some(cidr)) = (site.and_then(|site| u16::try_from(site).ok()), cidr) else {
                let message = "`via` needs a `site` and a `cidr`";
                let help = "write site = 7 and cidr = \"10.1.0.0/16\" into it, a line each";
                self.findings.error(Diagnostic::new(at, message).help(help));
                continue;
            };
            if let Some(via) = self.one_via(site, &cidr, tailscale) {
                tailscale.via.push(via);
            }
        }
    }

    fn one_via(&self, site: u16, cidr: &Spot<String>, tailscale: &Tailscale) -> Option<Via> {
        let Ok(net) = cidr.value.parse::<Ipv4Net>() else {
            self.one_of(cidr, "cidr", "an IPv4 range, 10.1.0.0/16");
            return None;
        };
        let net = net.trunc();
        let wrong = |message: String, help: &str| {
            self.findings
                .error(Diagnostic::new(cidr.at, message).help(help.to_owned()));
            None
        };
        if let Some(why) = unfit(net.into()) {
            return wrong(format!("`{net}` cannot be a route"), why);
        }
        if tailscale.socket.is_none() {
            return wrong(format!("`{net}` would go round the gateway"), ROUND);
        }
        let other = tailscale
            .via
            .iter()
            .find(|other| overlaps(other.cidr.into(), net.into()));
        if let Some(other) = other {
            let message = format!(
                "`{net}` at site {site} overlaps {} at site {}",
                other.cidr, other.site
            );
            return wrong(
                message,
                "one gateway reaches one of them: run a gateway at each site, with its own `via`",
            );
        }
        Some(Via { site, cidr: net })
    }
}

/// Why real addresses are not for a tailscaled of the gateway's own.
const ROUND: &str = "the gateway's own tailscaled has no network device: it dials what it advertises itself, past every rule; \
     attach to the machine's tailscaled (socket = …), or give the endpoints names, which need no route";

fn unfit(net: IpNet) -> Option<&'static str> {
    if TAILNET_RANGES.iter().any(|own| overlaps(*own, net)) {
        return Some(
            "it holds addresses of the tailnet's own nodes; a site's range as 4via6 is written via { … }",
        );
    }
    let is_own = |own: &str| own.parse::<IpNet>().is_ok_and(|own| overlaps(own, net));
    let own = OWN_RANGES.into_iter().find(|own| is_own(own));
    own.map(|_| "it holds addresses that mean each machine itself, or its link")
}

fn overlaps(one: IpNet, other: IpNet) -> bool {
    one.contains(&other) || other.contains(&one)
}
