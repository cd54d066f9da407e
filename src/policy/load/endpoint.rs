//! `endpoint` blocks.

use std::sync::Arc;

use ipnet::IpNet;

use super::super::diagnostic::{At, Diagnostic, nearest};
use super::super::hcl::{Fields, Spot};
use super::super::{Claim, Endpoint, HostPattern, HostPort, Protocol, SslMode};
use super::{Kind, Loader};
use crate::facts::Family;
use crate::facts::http::path::normalize;
use crate::identity::manifest::HOST;

/// Type, protocol, family, port where a claim names none, and one sentence.
pub(super) const TYPES: &[(&str, Protocol, Family, u16, &str)] = &[
    ("https", Protocol::Https, Family::Http, 443, "HTTP over TLS."),
    (
        "http",
        Protocol::Http,
        Family::Http,
        80,
        "HTTP, without TLS to the upstream.",
    ),
    (
        "openai_codex_https",
        Protocol::Https,
        Family::Http,
        443,
        "HTTP over TLS, by another name of the grammar.",
    ),
    (
        "kubernetes",
        Protocol::Kubernetes,
        Family::K8s,
        443,
        "A Kubernetes API server.",
    ),
    (
        "mcp",
        Protocol::Mcp,
        Family::Mcp,
        443,
        "A server of the Model Context Protocol over HTTP.",
    ),
    (
        "postgres",
        Protocol::Postgres,
        Family::Sql,
        5432,
        "A PostgreSQL server.",
    ),
    ("clickhouse_https", Protocol::Unread, Family::Sql, 443, UNREAD),
    ("clickhouse_native", Protocol::Unread, Family::Sql, 9440, UNREAD),
    ("mysql", Protocol::Unread, Family::Sql, 3306, UNREAD),
    // No facts of these are read; their rules may ask who the agent is.
    ("ssh", Protocol::Unread, Family::Agent, 22, UNREAD),
];

const UNREAD: &str = "Its protocol is not read yet: everything that is sent to it is refused.";

/// Where the reference servers of the Model Context Protocol listen.
const MCP_PATH: &str = "/mcp";

impl<'a> Loader<'a> {
    pub(super) fn endpoints(&mut self) {
        for (key, type_name, _, at, placed) in self.of_kind(Kind::Endpoint) {
            let fields = self.fields(placed);
            let Some((_, protocol, family, port, _)) = TYPES.iter().find(|row| row.0 == type_name) else {
                let names = || TYPES.iter().map(|row| row.0);
                let near = nearest(type_name, names())
                    .map_or(String::new(), |near| format!("did you mean `{near}`? "));
                let help = format!("{near}There are: {}", names().collect::<Vec<_>>().join(", "));
                self.findings.error(
                    Diagnostic::new(at, format!("there is no endpoint type `{type_name}`")).help(help),
                );
                continue;
            };
            let endpoint = self.endpoint(key.as_str().into(), (*protocol, *family, *port), &fields);
            if *protocol == Protocol::Unread {
                let message = format!("{}: this gateway does not read {type_name} yet", fields.title);
                let help = "everything that is sent to it is refused";
                self.findings.note(Diagnostic::new(at, message).help(help));
                fields.rest_inert("its wire protocol is not read");
            } else {
                fields.finish();
            }
            self.overlap(&endpoint, at);
            self.beside_the_names(&endpoint, at);
            self.model.endpoints.push(Arc::new(endpoint));
        }
    }

    fn endpoint(&self, key: Arc<str>, kind: (Protocol, Family, u16), fields: &Fields<'a>) -> Endpoint {
        let (protocol, family, usual) = kind;
        let own = fields.size("port", 1..=65_535);
        let ports = Ports {
            own: own.and_then(|port| u16::try_from(port).ok()),
            usual,
        };
        let mut claimed = fields.texts("hosts");
        if let Some(host) = fields.text("host") {
            claimed.push(host);
        }
        if let Some(server) = fields.text("server") {
            claimed.push(server);
        }
        let claims: Vec<Claim> = claimed
            .iter()
            .filter_map(|text| self.claim(text, ports))
            .collect();
        if claimed.is_empty() {
            let wanted = match protocol {
                Protocol::Postgres => "host = \"db.internal:5432\"",
                Protocol::Kubernetes => "server = \"https://10.0.0.7:6443\"",
                _ => "hosts = [\"api.example.com\"]",
            };
            let message = format!("{} claims no destination", fields.title);
            self.findings
                .error(Diagnostic::new(fields.at, message).help(format!("write {wanted}")));
        }
        let upstream = fields.text("upstream");
        let mut places = claimed.iter().chain(&upstream);
        if ports.own.is_some() && places.all(|text| Place::of(&text.value).port.is_some()) {
            fields.inert(&["port"], "every host names its own");
        }
        let plain = |text: &Spot<String>| text.value.starts_with("http://");
        let tls = fields.flag("tls");
        let sslmode = self.sslmode(fields, protocol);
        let tls = match protocol {
            Protocol::Http => tls.unwrap_or(false),
            Protocol::Postgres => {
                fields.inert(&["tls"], "postgres endpoints say it with `sslmode`");
                sslmode != SslMode::Disable
            }
            _ => tls.unwrap_or(!claimed.iter().any(plain)),
        };
        let endpoint = Endpoint {
            key,
            protocol,
            family,
            claims,
            upstream: upstream.and_then(|text| self.host_port(&text, ports)),
            tls,
            ca_cert: fields.text_or_file("ca_cert").map(|text| self.pem(text)),
            sslmode,
            database: fields.text("database").map(|text| text.value),
            path: self.path(fields, protocol),
            preview: self.previews(fields, protocol),
            description: fields.text("description").map(|text| text.value),
        };
        if protocol != Protocol::Postgres && endpoint.database.is_some() {
            let place = fields.at_of("database");
            self.findings.note(Diagnostic::new(
                place,
                format!("`database` of {} has no effect here", fields.title),
            ));
        }
        // Read with the credentials, which it binds.
        let _ = fields.reference("credential");
        fields.inert(
            &["credentials"],
            "bind each credential by its own `endpoint`, and hold it in a profile",
        );
        self.tunnel(fields);
        let eks = "signing for EKS is not built here";
        fields.inert(&["cluster_name", "region"], eks);
        fields.inert(
            &["accept_invalid_certificate"],
            "certificates are always checked; name the roots with `ca_cert`",
        );
        endpoint
    }

    /// The path of an MCP server. What stands beside it at the same host is another service.
    fn path(&self, fields: &Fields<'a>, protocol: Protocol) -> String {
        if protocol != Protocol::Mcp {
            return String::new();
        }
        let Some(text) = fields.text("path") else {
            return MCP_PATH.to_owned();
        };
        if normalize(&text.value).as_deref() != Ok(text.value.as_str()) {
            self.one_of(&text, "path", "an absolute path as it is sent, such as `/mcp`");
        }
        text.value.trim_end_matches('/').to_owned()
    }

    fn tunnel(&self, fields: &Fields<'a>) {
        let Some(tunnel) = fields.reference("tunnel") else {
            return;
        };
        if self.resolve(Kind::Tunnel, &tunnel).is_some() {
            let message = format!("`tunnel` of {} has no effect here", fields.title);
            let help = "the endpoint is dialled directly; `upstream = \"host:port\"` names where";
            self.findings.note(Diagnostic::new(tunnel.at, message).help(help));
        }
    }

    fn sslmode(&self, fields: &Fields<'a>, protocol: Protocol) -> SslMode {
        let Some(text) = fields.text("sslmode") else {
            return SslMode::default();
        };
        if protocol != Protocol::Postgres {
            let message = format!("`sslmode` of {} has no effect here", fields.title);
            self.findings
                .note(Diagnostic::new(text.at, message).help("it is for postgres endpoints"));
        }
        match text.value.as_str() {
            "disable" => SslMode::Disable,
            "prefer" => SslMode::Prefer,
            "require" => SslMode::Require,
            "verify-ca" => SslMode::VerifyCa,
            "verify-full" => SslMode::VerifyFull,
            _ => {
                self.one_of(
                    &text,
                    "sslmode",
                    "`disable`, `prefer`, `require`, `verify-ca` or `verify-full`",
                );
                SslMode::VerifyFull
            }
        }
    }

    fn pem(&self, text: Spot<String>) -> String {
        if !text.value.contains("-----BEGIN CERTIFICATE-----") {
            let message = "`ca_cert` holds no certificate, so the upstream will not be trusted";
            let help = "give PEM text, file(\"ca.pem\") or \"<<file:ca.pem>>\"";
            self.findings.note(Diagnostic::new(text.at, message).help(help));
        }
        text.value
    }

    /// `host`, `host:port`, `*.suffix`, a range, or a URL without a path.
    fn claim(&self, text: &Spot<String>, ports: Ports) -> Option<Claim> {
        let (host, port) = ports.split(&text.value);
        let pattern = match (host.parse::<IpNet>(), host.parse::<std::net::IpAddr>()) {
            (Ok(net), _) => HostPattern::Net(net.trunc()),
            (_, Ok(ip)) => HostPattern::Net(IpNet::from(ip)),
            _ => match host.strip_prefix("*.") {
                Some(suffix) if is_name(suffix) => HostPattern::Suffix(suffix.to_owned()),
                None if host == HOST => {
                    self.one_of(text, "a host", "another name: this one is the gateway's own");
                    return None;
                }
                None if is_name(&host) => HostPattern::Name(host),
                _ => {
                    self.one_of(
                        text,
                        "a host",
                        "a name, `*.suffix`, an address or a range, with or without `:port`",
                    );
                    return None;
                }
            },
        };
        Some(Claim { host: pattern, port })
    }

    fn host_port(&self, text: &Spot<String>, ports: Ports) -> Option<HostPort> {
        let (host, port) = ports.split(&text.value);
        if !is_name(&host) && host.parse::<std::net::IpAddr>().is_err() {
            self.one_of(text, "upstream", "`host:port`");
            return None;
        }
        Some(HostPort { host, port })
    }

    /// Two endpoints that claim the same destination: which is meant could not be told.
    fn overlap(&self, endpoint: &Endpoint, at: At) {
        for other in &self.model.endpoints {
            let Some(claim) = endpoint.claims.iter().find(|claim| other.claims.contains(claim)) else {
                continue;
            };
            let message = format!(
                "`{}` and `{}` both claim {:?}",
                endpoint.key, other.key, claim.host
            );
            let first = self
                .names
                .get(&(Kind::Endpoint, other.key.to_string()))
                .copied()
                .unwrap_or(at);
            let help = "a profile that holds both cannot be told which is meant";
            self.findings
                .note(Diagnostic::new(at, message).help(help).other(first));
        }
    }
}

/// The ports of what names none.
#[derive(Clone, Copy)]
struct Ports {
    /// The block's `port`, which goes before what a URL's scheme means.
    own: Option<u16>,
    /// Its type's.
    usual: u16,
}

impl Ports {
    /// Host and port. What cannot be one has an empty host, which is reported as a bad one.
    fn split(self, text: &str) -> (String, u16) {
        let place = Place::of(text);
        let port = place.port.or(self.own).or(place.scheme).unwrap_or(self.usual);
        match port {
            0 => (String::new(), 0),
            _ => (place.host.trim_end_matches('.').to_ascii_lowercase(), port),
        }
    }
}

/// What a text says of a destination.
struct Place<'a> {
    host: &'a str,
    /// The port behind the host; 0 where that is none.
    port: Option<u16>,
    /// The port that its scheme means.
    scheme: Option<u16>,
}

impl Place<'_> {
    fn of(text: &str) -> Place<'_> {
        let (rest, scheme) = match (text.strip_prefix("https://"), text.strip_prefix("http://")) {
            (Some(rest), _) => (rest, Some(443)),
            (_, Some(rest)) => (rest, Some(80)),
            _ => (text, None),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let number = |port: &str| Some(port.parse().unwrap_or(0));
        let (host, port) = match rest.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((host, "")) => (host, None),
            Some((host, tail)) => (host, number(tail.strip_prefix(':').unwrap_or_default())),
            None => match rest.rsplit_once(':') {
                // More than one colon without brackets is an IPv6 address.
                Some((host, _)) if host.contains(':') => (rest, None),
                Some((host, port)) => (host, number(port)),
                None => (rest, None),
            },
        };
        Place { host, port, scheme }
    }
}

fn is_name(host: &str) -> bool {
    !host.is_empty()
        && host.len() <= 253
        && host.split('.').all(|label| {
            !label.is_empty()
                && label
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
        })
}
