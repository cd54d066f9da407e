//! The Kubernetes clusters that a profile reaches, as an agent's kubeconfig names them. *Pure.*
//!
//! Invariant: a placeholder stands where a kubeconfig has a secret, and nothing in it runs a program.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::manifest::placeholder;
use crate::policy::{Claim, CredentialKind, Endpoint, Held, HostPattern, Model, Profile, Protocol};

/// One cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Cluster {
    /// The endpoint's reference, `kubernetes.prod`: the name of cluster, user and context.
    pub name: String,
    /// `https://host:port`.
    pub server: String,
    /// What stands for the bearer token, where the profile holds one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// What stands for the password of HTTP Basic, and whose it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub basic: Option<(String, String)>,
}

impl Cluster {
    /// Those of a profile, in its order.
    pub fn of(model: &Model, profile: &Profile) -> Vec<Cluster> {
        let endpoints = profile.endpoints.iter().filter_map(|key| model.endpoint(key));
        endpoints
            .filter(|endpoint| endpoint.protocol == Protocol::Kubernetes)
            .filter_map(|endpoint| Cluster::one(model, endpoint, &profile.credentials))
            .collect()
    }

    fn one(model: &Model, endpoint: &Endpoint, held: &[Held]) -> Option<Cluster> {
        let mut cluster = Cluster {
            name: endpoint.key.to_string(),
            server: endpoint.claims.iter().find_map(server)?,
            token: None,
            basic: None,
        };
        for held in held {
            let Some(credential) = model.credential(&held.credential) else {
                continue;
            };
            let Some(text) = placeholder(held).filter(|_| credential.endpoints.contains(&endpoint.key))
            else {
                continue;
            };
            match &credential.kind {
                CredentialKind::Bearer => cluster.token = Some(text.to_owned()),
                CredentialKind::Basic { username } => {
                    let user = username.clone().unwrap_or_else(|| credential.name.clone());
                    cluster.basic = Some((user, text.to_owned()));
                }
                _ => continue,
            }
            break;
        }
        Some(cluster)
    }
}

/// The URL of a claim, where it is of one host.
fn server(claim: &Claim) -> Option<String> {
    let host = match &claim.host {
        HostPattern::Name(name) => name.clone(),
        HostPattern::Net(net) if net.prefix_len() == net.max_prefix_len() => match net.addr() {
            std::net::IpAddr::V4(v4) => v4.to_string(),
            std::net::IpAddr::V6(v6) => format!("[{v6}]"),
        },
        HostPattern::Net(_) | HostPattern::Suffix(_) => return None,
    };
    Some(format!("https://{host}:{}", claim.port))
}

/// A kubeconfig with a context of each cluster, of which the first is the current one. `roots` is the file
/// of the roots that the clusters' certificates chain to.
pub fn kubeconfig(clusters: &[Cluster], roots: &str) -> Value {
    let user = |cluster: &Cluster| match (&cluster.token, &cluster.basic) {
        (Some(token), _) => json!({ "token": token }),
        (None, Some((name, password))) => json!({ "username": name, "password": password }),
        (None, None) => json!({}),
    };
    let all = |value: &dyn Fn(&Cluster) -> Value| clusters.iter().map(value).collect::<Vec<_>>();
    json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": all(&|one| json!({
            "name": one.name, "cluster": { "server": one.server, "certificate-authority": roots },
        })),
        "users": all(&|one| json!({ "name": one.name, "user": user(one) })),
        "contexts": all(&|one| json!({
            "name": one.name, "context": { "cluster": one.name, "user": one.name },
        })),
        "current-context": clusters.first().map(|one| &one.name),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{Policy, Source};

    const POLICY: &str = r#"
endpoint "kubernetes" "prod" { server = "https://prod.test:6443" }
endpoint "kubernetes" "six" { server = "https://[fd00::7]" }
endpoint "kubernetes" "wild" { hosts = ["*.wild.test"] }
endpoint "kubernetes" "others" { server = "https://others.test" }
endpoint "https" "api" { hosts = ["api.test"] }
credential "bearer_token" "prod" {
  endpoint = kubernetes.prod
  secret   = env("X")
}
credential "bearer_token" "api" {
  endpoint = https.api
  secret   = env("X")
}
credential "basic_auth" "six" {
  endpoint = kubernetes.six
  username = "ann"
  secret   = env("X")
}
profile "ci" {
  peers       = ["a"]
  endpoints   = [kubernetes.wild]
  credentials = [bearer_token.api, { placeholder = "sha256~LOOKALIKE", credential = bearer_token.prod }, basic_auth.six]
}
"#;

    #[test]
    fn the_profiles_own_clusters_with_placeholders() {
        let source = Source {
            path: "p.hcl".into(),
            text: POLICY.to_owned(),
        };
        let policy = Policy::load(vec![source], &|_| Err(std::io::ErrorKind::NotFound.into())).unwrap();
        let mut clusters = Cluster::of(policy.model(), policy.model().profile("ci").unwrap());
        clusters.sort_by(|one, two| one.name.cmp(&two.name));
        let config = kubeconfig(&clusters, "/roots.pem");
        assert_eq!(config["current-context"], "kubernetes.prod");
        assert_eq!(
            config["clusters"][0]["cluster"],
            json!({ "server": "https://prod.test:6443", "certificate-authority": "/roots.pem" })
        );
        assert_eq!(config["users"][0]["user"], json!({ "token": "sha256~LOOKALIKE" }));
        assert_eq!(
            config["clusters"][1]["cluster"]["server"],
            "https://[fd00::7]:443"
        );
        assert_eq!(
            config["users"][1]["user"],
            json!({ "username": "ann", "password": "{{six}}" })
        );
        assert_eq!(config["contexts"].as_array().unwrap().len(), 2, "{config}");
    }
}
