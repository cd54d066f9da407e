//! The `tailscale` block. *Pure.*

use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::SecretSource;

/// What tailnets give out as their nodes' addresses.
pub const TAILNET_RANGES: [IpNet; 2] = [
    IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(100, 64, 0, 0), 10)),
    IpNet::V6(Ipv6Net::new_assert(
        Ipv6Addr::new(0xfd7a, 0x115c, 0xa1e0, 0, 0, 0, 0, 0),
        48,
    )),
];

/// The `tailscale` block of the gateway, as written.
#[derive(Clone, Debug)]
pub struct Tailscale {
    /// The tailscaled to attach to; without it the gateway runs its own.
    pub socket: Option<PathBuf>,
    /// Lets our own tailscaled in without a person.
    pub authkey: Option<SecretSource>,
    /// Gets such a key for each login.
    pub oauth_client_secret: Option<SecretSource>,
    /// The control server; without it, Tailscale's.
    pub control_url: Option<String>,
    /// The node's name; without it, the machine's.
    pub hostname: Option<String>,
    /// What the node asks to be.
    pub tags: Vec<String>,
    /// Real addresses to advertise; `None`: those that endpoints have as their hosts. The virtual
    /// ranges are advertised besides.
    pub routes: Option<Vec<IpNet>>,
    /// Ranges of this site to advertise as 4via6, for tailnets whose sites' ranges overlap.
    pub via: Vec<Via>,
    /// Who reaches the admin page on the tailnet: logins in lower case, `*@domain`, `grant:NAME`.
    pub operators: Vec<String>,
    /// Where connections to real addresses are redirected to, on the tailnet's addresses.
    pub redirect_port: u16,
}

/// A range of a site, advertised under the site's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Via {
    pub site: u16,
    pub cidr: Ipv4Net,
}

impl Default for Tailscale {
    fn default() -> Self {
        Tailscale {
            socket: None,
            authkey: None,
            oauth_client_secret: None,
            control_url: None,
            hostname: None,
            tags: Vec::new(),
            routes: None,
            via: Vec::new(),
            operators: Vec::new(),
            redirect_port: 8739,
        }
    }
}
