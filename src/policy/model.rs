//! The resolved configuration: what each stage is handed. *Pure.*
//!
//! The loader turns HCL into these once; nothing behind it reads HCL. Keys are references as
//! they are written in a policy, `type.name`.

mod approver;
mod channel;
mod tailscale;

mod limit;
mod preview;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use crate::audit::Retention;
use crate::facts::Family;

pub use approver::*;
pub use channel::{Channel, ChannelKind, ChannelPerson, Mail};
pub use limit::{LIMIT_COUNT_MAX, Limit, Per};
pub use preview::Previews;

pub use tailscale::{TAILNET_RANGES, Tailscale, Via};

/// Everything a configuration says.
#[derive(Clone, Debug, Default)]
pub struct Model {
    pub gateway: Gateway,
    pub defaults: Defaults,
    pub endpoints: Vec<Arc<Endpoint>>,
    pub credentials: Vec<Arc<Credential>>,
    pub approvers: Vec<Arc<Approver>>,
    pub channels: Vec<Arc<Channel>>,
    pub profiles: Vec<Arc<Profile>>,
}

impl Model {
    pub fn endpoint(&self, key: &str) -> Option<&Arc<Endpoint>> {
        self.endpoints.iter().find(|endpoint| &*endpoint.key == key)
    }

    pub fn credential(&self, key: &str) -> Option<&Arc<Credential>> {
        self.credentials.iter().find(|credential| &*credential.key == key)
    }

    pub fn approver(&self, key: &str) -> Option<&Arc<Approver>> {
        self.approvers.iter().find(|approver| &*approver.key == key)
    }

    pub fn channel(&self, key: &str) -> Option<&Arc<Channel>> {
        self.channels.iter().find(|channel| &*channel.key == key)
    }

    pub fn profile(&self, name: &str) -> Option<&Arc<Profile>> {
        self.profiles.iter().find(|profile| &*profile.name == name)
    }
}

/// The `gateway` block: how the daemon itself runs.
#[derive(Clone, Debug)]
pub struct Gateway {
    /// Where the database, the CA and the sockets live. Created with mode 0700.
    pub state_dir: PathBuf,
    /// Where the admin API listens (`dashboard_listen`); loopback by default.
    pub admin_listen: SocketAddr,
    /// Where `tailkeep join` reaches the gateway (`enrol_listen`), TLS by the gateway's own CA.
    pub enrol_listen: Option<SocketAddr>,
    /// Where decisions come back from channels (`channel_listen`); on loopback.
    pub channel_listen: Option<SocketAddr>,
    /// Where people open the page (`page_url`), for links; its listener's address where `None`.
    pub page_url: Option<String>,
    /// Whether operators may write the policy by the page (`dashboard_config_writes`).
    pub config_writes: bool,
    /// The URL that enrolment links are made from.
    pub public_url: Option<String>,
    pub wireguard: Option<Wireguard>,
    /// The `tailscale` block; issue by issue this grows with the tailnet ingress.
    pub tailscale: Option<Tailscale>,
    /// The ranges that endpoint names get their stable virtual addresses from.
    pub virtual_v4: IpNet,
    pub virtual_v6: IpNet,
    /// The upstream resolver, `ip:port`; the system's where `None`.
    pub resolver: Option<SocketAddr>,
    /// How long audit records are kept (the `audit` block).
    pub audit: Retention,
    /// How far back a reload is replayed before it comes into force (`reload_guard`): one that would
    /// change a verdict waits for `tailkeep replay --accept`. Without it none waits.
    pub reload_guard: Option<Duration>,
    pub limits: Limits,
}

/// The `wireguard` block of the gateway.
#[derive(Clone, Debug)]
pub struct Wireguard {
    /// UDP address to listen on (`listen_port`, `listen`).
    pub listen: SocketAddr,
    /// Where agents reach it, `host:port` (`endpoint`).
    pub endpoint: Option<String>,
    /// The range that peers get addresses from (`subnet_cidr`); the gateway has the first.
    pub subnet_v4: IpNet,
    pub subnet_v6: IpNet,
    /// Which TCP ends the agents' connections: `auto`, `kernel` or `userspace`.
    pub stack: Stack,
    /// Largest packet inside the tunnel, bytes.
    pub mtu: u16,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Stack {
    /// The kernel's where a private network namespace can be made, else the userspace one.
    #[default]
    Auto,
    Kernel,
    Userspace,
}

/// The `limits` block: every bound that an operator may set, with its unit in its name.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Bytes of a request body that are held for a rule; a longer body's facts are unknown.
    pub body_bytes_max: usize,
    /// Bytes of a held body after content decoding.
    pub decoded_bytes_max: usize,
    /// Bytes of one SQL statement text.
    pub statement_bytes_max: usize,
    /// Bytes of one Postgres message from an agent that is not COPY data.
    pub message_bytes_max: usize,
    /// Open connections of one agent.
    pub connections_max: usize,
    /// Milliseconds for a TCP connect and TLS handshake to an upstream.
    pub connect_ms: u64,
    /// Milliseconds an agent has for its TLS handshake and its first request.
    pub handshake_ms: u64,
    /// Seconds that a connection may stand idle.
    pub idle_s: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            body_bytes_max: 1 << 20,
            decoded_bytes_max: 8 << 20,
            statement_bytes_max: 128 << 10,
            message_bytes_max: 16 << 20,
            connections_max: 1024,
            connect_ms: 10_000,
            handshake_ms: 10_000,
            idle_s: 3600,
        }
    }
}

impl Default for Gateway {
    fn default() -> Self {
        Gateway {
            state_dir: PathBuf::from(".tailkeep"),
            admin_listen: SocketAddr::from(([127, 0, 0, 1], 8737)),
            enrol_listen: None,
            channel_listen: None,
            page_url: None,
            config_writes: false,
            public_url: None,
            wireguard: None,
            tailscale: None,
            virtual_v4: "10.78.0.0/16".parse().expect("a constant"),
            virtual_v6: "fd7a:7461:696c:78::/64".parse().expect("a constant"),
            resolver: None,
            audit: Retention::default(),
            reload_guard: None,
            limits: Limits::default(),
        }
    }
}

/// The `defaults` block.
#[derive(Clone, Debug)]
pub struct Defaults {
    /// What a request gets that no rule matched.
    pub unmatched: Unmatched,
    /// What a TCP connection gets to a destination that no endpoint claims. UDP is refused.
    pub unknown_host: UnknownHost,
    /// How long a person has to decide, where the approver does not say.
    pub human_timeout: Duration,
}

impl Default for Defaults {
    fn default() -> Self {
        Defaults {
            unmatched: Unmatched::Deny,
            unknown_host: UnknownHost::Deny,
            human_timeout: Duration::from_secs(600),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unmatched {
    Deny,
    Allow,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnknownHost {
    Deny,
    Passthrough,
}

/// A production service, and which destinations of an agent mean it.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// `https.github`.
    pub key: Arc<str>,
    pub protocol: Protocol,
    pub family: Family,
    /// Destinations that mean this endpoint.
    pub claims: Vec<Claim>,
    /// Where to dial instead of the claimed destination (`upstream`), `host:port`. The name for
    /// SNI, certificate and Host stays the claimed one.
    pub upstream: Option<HostPort>,
    /// Speak TLS to the upstream. For Postgres see `sslmode`.
    pub tls: bool,
    /// PEM of the only roots that the upstream's certificate may chain to; system roots without.
    pub ca_cert: Option<String>,
    /// Postgres: how TLS to the server is negotiated.
    pub sslmode: SslMode,
    /// Postgres: the only database that agents may name.
    pub database: Option<String>,
    /// MCP: the only path that agents may name, without a slash at its end.
    pub path: String,
    /// What is found out of a held action for those who decide (`preview = true`).
    pub preview: Option<Previews>,
    /// Free text for people (`description`): operators and approvers see it, agents do not, since it may say
    /// where the endpoint really is.
    pub description: Option<String>,
}

/// The wire protocol of an endpoint: the first label of its block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP in TLS, upstream over TLS (`https`).
    Https,
    /// HTTP without TLS to the upstream (`http`); an agent may use either.
    Http,
    /// `kubernetes`.
    Kubernetes,
    /// The Model Context Protocol over HTTP (`mcp`).
    Mcp,
    /// `postgres`.
    Postgres,
    /// A type of the grammar whose wire this gateway does not read yet: everything is refused.
    Unread,
}

/// libpq's `sslmode`, without `allow`, which would hand secrets to a plain-text server first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum SslMode {
    Disable,
    #[default]
    Prefer,
    Require,
    VerifyCa,
    VerifyFull,
}

/// One destination that an endpoint claims.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    pub host: HostPattern,
    pub port: u16,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostPattern {
    /// A DNS name in lower case, without a trailing dot.
    Name(String),
    /// `*.example.com`: one or more labels before the suffix; holds `example.com`.
    Suffix(String),
    Net(IpNet),
}

impl HostPattern {
    /// Whether a lower-case name matches.
    pub fn matches_name(&self, name: &str) -> bool {
        match self {
            HostPattern::Name(own) => own == name,
            HostPattern::Suffix(suffix) => name
                .strip_suffix(suffix.as_str())
                .is_some_and(|front| front.len() > 1 && front.ends_with('.')),
            HostPattern::Net(_) => false,
        }
    }

    pub fn matches_address(&self, address: IpAddr) -> bool {
        matches!(self, HostPattern::Net(net) if net.contains(&address))
    }
}

/// A host, name or address, with a port.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HostPort {
    pub host: String,
    pub port: u16,
}

/// A typed handle to a secret.
#[derive(Clone, Debug)]
pub struct Credential {
    /// `bearer_token.github_pat`.
    pub key: Arc<str>,
    pub name: String,
    /// `{{github_pat}}` of the name `github_pat`.
    pub placeholder: String,
    pub kind: CredentialKind,
    /// The endpoints it may be sent to, by key.
    pub endpoints: Vec<Arc<str>>,
    /// Where the real value comes from, by slot (`""` for the only one; `cert`, `key`).
    pub secrets: Vec<(String, SecretSource)>,
}

/// How a secret is put on the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CredentialKind {
    /// `Authorization: Bearer <secret>`.
    Bearer,
    /// `<header>: <prefix><secret>`.
    Header { header: String, prefix: String },
    /// `Authorization: Basic base64(username:secret)`.
    Basic { username: Option<String> },
    /// `Cookie: <name>=<secret>`.
    Cookie { name: String },
    /// `?<parameter>=<secret>`.
    Query { parameter: String },
    /// A client certificate in the TLS handshake to the upstream.
    Mtls,
    /// The Postgres role and password.
    Postgres {
        user: Option<String>,
        database: Option<String>,
    },
    /// A type of the grammar that this gateway cannot inject yet; its use is refused.
    Unread { type_name: String },
}

/// Where a secret's value is read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretSource {
    Env(String),
    File(PathBuf),
    /// Not asked yet: a credential that comes from there is refused.
    Vault(String),
    /// Set by `tailkeep credentials set`, or the environment variable
    /// `TAILKEEP_SECRET_<NAME>[_<SLOT>]` (`CLAWPATROL_SECRET_…` is read too).
    Store,
}

/// A group of agents, and what they hold.
#[derive(Clone, Debug)]
pub struct Profile {
    pub name: Arc<str>,
    pub tags: Vec<String>,
    /// Logins, or `*@domain`.
    pub logins: Vec<String>,
    pub nodes: Vec<String>,
    /// WireGuard peer names.
    pub peers: Vec<String>,
    /// Names that the tailnet policy hands out by capability.
    pub grants: Vec<String>,
    /// What the profile may wield.
    pub credentials: Vec<Held>,
    /// Every endpoint that the profile may reach: those of its credentials and those it names.
    pub endpoints: Vec<Arc<str>>,
}

/// A credential in a profile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    pub credential: Arc<str>,
    /// What the agent writes in its place: `{{name}}`, the profile's own text, or a look-alike.
    pub placeholders: Vec<String>,
    /// Whether it is used where the agent's request has no placeholder at all. At most one for
    /// each endpoint of a profile.
    pub fallback: bool,
}
