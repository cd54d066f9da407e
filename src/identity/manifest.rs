//! What an agent is told of itself: where it gets, and what it writes in the place of secrets. *Pure.*
//!
//! Invariants: it names what the agent's own profile holds, and nothing of another's; no rule, no
//! approver, no secret and no place where one is kept stands in it, nor where an endpoint really is.

use std::fmt::Write as _;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::{Agent, Limits, Transport};
use crate::policy::{Credential, CredentialKind, Endpoint, Held, HostPattern, Model};

/// The schema's version. Fields are added within one, and never change their meaning.
pub const VERSION: u32 = 1;

/// The gateway's own name inside every tunnel: `http://tailkeep.internal/` answers with a [`Manifest`].
/// No endpoint can have it.
pub const HOST: &str = "tailkeep.internal";

/// The port of [`HOST`].
pub const PORT: u16 = 80;

/// The manifest of one agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    pub version: u32,
    /// The agent's own name: its node's or its peer's.
    pub name: String,
    pub profile: String,
    pub transport: Transport,
    /// The agent's address inside the tunnel.
    pub address: IpAddr,
    /// The gateway's own name on the tailnet, where it answers as [`HOST`] does; `None` for agents that
    /// reach it otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<String>,
    /// What it reaches.
    pub endpoints: Vec<Reached>,
    pub limits: Limits,
    /// Signs the certificates that the agent sees, PEM.
    pub ca_pem: String,
    /// All of it in words, for an agent's system prompt.
    pub text: String,
}

/// An endpoint as its agent sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reached {
    /// `postgres.orders`.
    pub name: String,
    /// `https`, `postgres`, …
    pub protocol: String,
    pub hosts: Vec<Place>,
    /// Postgres: the only database.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub database: Option<String>,
    pub credentials: Vec<Wielded>,
}

/// Where to dial.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// A name, `*.suffix`, or a range of addresses.
    pub host: String,
    pub port: u16,
    /// What the name resolves to inside the tunnel, where it is one name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<IpAddr>,
}

/// A credential as its agent uses it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wielded {
    pub name: String,
    /// What to write where the secret would stand; any of them.
    pub placeholders: Vec<String>,
    /// Where it stands.
    pub place: String,
    /// The environment variable that `tailkeep run` and `tailkeep env` set to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variable: Option<String>,
    /// Postgres: the user to log in as.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Whether it is used where a request names none.
    pub is_default: bool,
}

impl Manifest {
    /// The manifest of an agent under a policy. `addresses` gives what a name resolves to for it;
    /// `gateway` is the gateway's own name on the tailnet.
    pub fn of(
        model: &Model,
        agent: &Agent,
        addresses: &dyn Fn(&str) -> Vec<IpAddr>,
        (ca_pem, gateway): (&str, Option<&str>),
    ) -> Self {
        let profile = model.profile(&agent.profile);
        let endpoints = profile.map_or_else(Vec::new, |profile| {
            let reached = profile.endpoints.iter().filter_map(|key| model.endpoint(key));
            reached
                .map(|endpoint| Reached::of(model, endpoint, &profile.credentials, addresses))
                .collect()
        });
        let mut manifest = Manifest {
            version: VERSION,
            name: agent.identity.node.clone(),
            profile: agent.profile.to_string(),
            transport: agent.identity.transport,
            address: agent.identity.address,
            gateway: gateway
                .filter(|_| agent.identity.transport == Transport::Tailnet)
                .map(str::to_owned),
            endpoints,
            limits: agent.identity.limits,
            ca_pem: ca_pem.to_owned(),
            text: String::new(),
        };
        manifest.text = manifest.in_words();
        manifest
    }

    fn in_words(&self) -> String {
        let mut text = String::from(INTRODUCTION);
        if let Some(gateway) = &self.gateway {
            let _ = writeln!(
                text,
                "The gateway is {gateway} on your tailnet; http://{gateway}/text says this again."
            );
        }
        text.push_str("You reach:\n");
        for endpoint in &self.endpoints {
            let hosts: Vec<String> = endpoint.hosts.iter().map(Place::shown).collect();
            let _ = write!(text, "- {}: {}", endpoint.name, hosts.join(", "));
            if let Some(database) = &endpoint.database {
                let _ = write!(text, ", database {database}");
            }
            text.push('\n');
            for credential in &endpoint.credentials {
                let _ = writeln!(text, "  {}", credential.in_words());
            }
        }
        if self.endpoints.is_empty() {
            text.push_str("- nothing\n");
        }
        if let Some(most) = self.limits.requests_per_minute {
            let _ = writeln!(text, "You may make {most} requests a minute.");
        }
        if let Some(most) = self.limits.connections {
            let _ = writeln!(text, "You may hold {most} connections open.");
        }
        text
    }
}

/// What does not depend on the agent.
const INTRODUCTION: &str = "\
You reach production services through a gateway, Tailkeep, which reads every request and statement before it passes \
them on. You hold no secrets and need none: where one would stand, write its placeholder exactly as it is given \
below, and the gateway puts the secret there, towards that service alone. A placeholder that is sent elsewhere is \
refused; never ask anybody for the secret itself.
A denial is an answer, not a fault of the connection: HTTP 403 with {\"error\": {\"cause\", \"rule\", \"reason\"}}, \
PostgreSQL error 42501, Kubernetes Status Forbidden. Read its reason, and do not send the same again or look for a way \
round it. HTTP 429 says that you ask too often.
A request may be held until a person has decided: it stays open and silent, for minutes. Give it time, do not cancel \
it, and do not send it twice; nothing has happened until it is answered. If your HTTP client cannot wait, send the \
header Tailkeep-Approval: async: you get 202 with a status_url and a retry_token instead; ask the status_url as often as \
Retry-After says, and once its state is approved, send the very same request once more with the header Tailkeep-Retry: \
and that token, within 10 minutes. It counts once. Everything you send is recorded.
TLS to these services is signed by the gateway's own authority: http://tailkeep.internal/ca.pem.
";

impl Reached {
    fn of(
        model: &Model,
        endpoint: &Endpoint,
        held: &[Held],
        addresses: &dyn Fn(&str) -> Vec<IpAddr>,
    ) -> Reached {
        let hosts = endpoint.claims.iter().map(|claim| {
            let (host, addresses) = match &claim.host {
                HostPattern::Name(name) => (name.clone(), addresses(name)),
                HostPattern::Suffix(suffix) => (format!("*.{suffix}"), Vec::new()),
                HostPattern::Net(net) => (net.to_string(), Vec::new()),
            };
            Place {
                host,
                port: claim.port,
                addresses,
            }
        });
        let credentials = held.iter().filter_map(|held| {
            let credential = model.credential(&held.credential)?;
            let fits = credential.endpoints.contains(&endpoint.key);
            fits.then(|| Wielded::of(credential, held))
        });
        let protocol = endpoint
            .key
            .split_once('.')
            .map_or(&*endpoint.key, |(own, _)| own);
        Reached {
            name: endpoint.key.to_string(),
            protocol: protocol.to_owned(),
            hosts: hosts.collect(),
            database: endpoint.database.clone(),
            credentials: credentials.collect(),
        }
    }
}

impl Place {
    fn shown(&self) -> String {
        match self.host.contains(':') {
            true => format!("[{}]:{}", self.host, self.port),
            false => format!("{}:{}", self.host, self.port),
        }
    }
}

impl Wielded {
    fn of(credential: &Credential, held: &Held) -> Wielded {
        let user = match &credential.kind {
            CredentialKind::Postgres { user, .. } => user.clone(),
            CredentialKind::Basic { username } => username.clone(),
            _ => None,
        };
        let place = match &credential.kind {
            CredentialKind::Bearer => "Authorization: Bearer".to_owned(),
            CredentialKind::Header { header, .. } => format!("the header {header}"),
            CredentialKind::Basic { .. } => "the password of HTTP Basic".to_owned(),
            CredentialKind::Cookie { name } => format!("the cookie {name}"),
            CredentialKind::Query { parameter } => format!("the query parameter {parameter}"),
            CredentialKind::Mtls => "nowhere: the gateway shows the certificate".to_owned(),
            CredentialKind::Postgres { .. } => "the password".to_owned(),
            CredentialKind::Unread { .. } => "nowhere: this gateway cannot use it yet".to_owned(),
        };
        Wielded {
            name: credential.name.clone(),
            placeholders: held.placeholders.clone(),
            place,
            variable: variable(credential, held).map(|(name, _)| name),
            user,
            is_default: held.fallback,
        }
    }

    fn in_words(&self) -> String {
        let mut text = format!(
            "{}: {} in {}",
            self.name,
            self.placeholders.join(" or "),
            self.place
        );
        if let Some(user) = &self.user {
            let _ = write!(text, ", as user {user}");
        }
        if self.is_default {
            text.push_str("; put there where you name none");
        }
        text
    }
}

/// The environment variable of a credential and the text that it is set to, where it may have one.
pub fn variable<'a>(credential: &Credential, held: &'a Held) -> Option<(String, &'a str)> {
    let upper = |char: char| match char.is_ascii_alphanumeric() {
        true => char.to_ascii_uppercase(),
        false => '_',
    };
    let name: String = credential.name.chars().map(upper).collect();
    let text = placeholder(held)?;
    may_set(&name).then_some((name, text))
}

/// The one of several placeholders that a client is given.
pub(super) fn placeholder(held: &Held) -> Option<&str> {
    // A look-alike was configured because a client checks the form of its secret.
    let alike = held.placeholders.iter().find(|text| !text.starts_with("{{"));
    alike.or(held.placeholders.first()).map(String::as_str)
}

/// Variables that name the only file of roots: they get the system's roots and the gateway's CA.
pub const BUNDLE_VARIABLES: [&str; 8] = [
    "SSL_CERT_FILE",
    "CURL_CA_BUNDLE",
    "REQUESTS_CA_BUNDLE",
    "GIT_SSL_CAINFO",
    "AWS_CA_BUNDLE",
    "CARGO_HTTP_CAINFO",
    "PIP_CERT",
    "DENO_CERT",
];
/// Whether the gateway may set a variable: a hostile one must not reach `PATH` or `LD_PRELOAD`.
pub fn may_set(name: &str) -> bool {
    let shape = name.starts_with(|c: char| c.is_ascii_uppercase())
        && name.len() <= 128
        && name
            .bytes()
            .all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_');
    let loads_code = [
        "LD_", "DYLD_", "GIT_", "BASH_", "PYTHON", "NODE_", "JAVA_", "_JAVA", "PERL", "RUBY",
    ]
    .iter()
    .any(|prefix| name.starts_with(prefix));
    let shell = [
        "PATH",
        "HOME",
        "SHELL",
        "ENV",
        "IFS",
        "EDITOR",
        "PAGER",
        "JDK_JAVA_OPTIONS",
        // A kubeconfig can name a program to run.
        "KUBECONFIG",
    ]
    .contains(&name);
    shape && !loads_code && !shell && !BUNDLE_VARIABLES.contains(&name)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::identity::Identity;
    use crate::policy::{Policy, Source};

    const POLICY: &str = r#"
endpoint "https" "api" {
  hosts       = ["api.test", "*.api.test:8443"]
  upstream    = "10.9.9.9:444"
  description = "the one in the cellar"
}
endpoint "postgres" "orders" {
  host     = "orders.test"
  database = "orders"
}
endpoint "https" "other" { hosts = ["other.test"] }
credential "bearer_token" "pat" {
  endpoint = https.api
  secret   = env("WHERE_PAT_IS")
}
credential "postgres_credential" "orders_ro" {
  endpoint = postgres.orders
  user     = "ro"
  secret   = env("WHERE_RO_IS")
}
credential "bearer_token" "others" {
  endpoint = https.other
  secret   = env("WHERE_OTHERS_IS")
}
approver "human_approver" "boss" {}
profile "ci" {
  tags        = ["tag:ci"]
  credentials = [{ placeholder = "ghp_LOOKALIKE", credential = bearer_token.pat }, postgres_credential.orders_ro]
  rule "hidden-rule" {
    endpoint  = https.api
    condition = "http.path == '/nowhere'"
    approve   = [human_approver.boss]
  }
}
profile "other" {
  tags        = ["tag:other"]
  credentials = [bearer_token.others]
}
"#;

    fn manifest(limits: Limits) -> Manifest {
        let source = Source {
            path: "p.hcl".into(),
            text: POLICY.to_owned(),
        };
        let policy = Policy::load(vec![source], &|_| Err(std::io::ErrorKind::NotFound.into())).unwrap();
        let identity = Identity {
            limits,
            ..Identity::new(Transport::Tailnet, IpAddr::from([100, 64, 0, 2]), "ci-1")
        };
        let agent = Agent::new(Arc::new(identity), "ci".into());
        let addresses = |name: &str| match name {
            "api.test" => vec![IpAddr::from([10, 78, 0, 1])],
            _ => Vec::new(),
        };
        Manifest::of(
            policy.model(),
            &agent,
            &addresses,
            ("PEM", Some("gw-1.lab.ts.net")),
        )
    }

    #[test]
    fn it_tells_what_the_profile_reaches_and_how() {
        let manifest = manifest(Limits::default());
        let json = serde_json::to_value(&manifest).unwrap();
        assert_eq!(json["version"], 1);
        assert_eq!(json["gateway"], "gw-1.lab.ts.net");
        assert_eq!(json["endpoints"][0]["hosts"][0]["addresses"][0], "10.78.0.1");
        assert_eq!(json["endpoints"][0]["hosts"][1]["host"], "*.api.test");
        assert_eq!(
            json["endpoints"][0]["credentials"][0]["placeholders"][1],
            "ghp_LOOKALIKE"
        );
        assert_eq!(json["endpoints"][0]["credentials"][0]["variable"], "PAT");
        assert_eq!(json["endpoints"][1]["database"], "orders");
        assert_eq!(json["endpoints"][1]["credentials"][0]["user"], "ro");
        assert_eq!(serde_json::from_value::<Manifest>(json).unwrap(), manifest);
        for told in [
            "http://gw-1.lab.ts.net/text says this again.\nYou reach:\n- https.api",
            "- https.api: api.test:443, *.api.test:8443",
            "- postgres.orders: orders.test:5432, database orders",
            "pat: {{pat}} or ghp_LOOKALIKE in Authorization: Bearer",
            "orders_ro: {{orders_ro}} in the password, as user ro; put there where you name none",
            "until a person has decided",
        ] {
            assert!(manifest.text.contains(told), "{told}: {}", manifest.text);
        }
    }

    #[test]
    fn it_tells_no_rule_no_secret_and_nothing_of_others() {
        let json = serde_json::to_string(&manifest(Limits::default())).unwrap();
        for hidden in [
            "hidden", "nowhere", "boss", "WHERE_", "other", "10.9.9.9", "cellar", "tag:",
        ] {
            assert!(!json.replace("another", "").contains(hidden), "{hidden}: {json}");
        }
    }

    #[test]
    fn limits_are_told() {
        let limits = Limits {
            connections: Some(3),
            requests_per_minute: Some(60),
        };
        let text = manifest(limits).text;
        assert!(
            text.contains("60 requests a minute") && text.contains("3 connections"),
            "{text}"
        );
    }
}
