//! The certificate of the admin page on the tailnet: tailscaled's, which every browser knows, or one
//! by the gateway's own CA where the tailnet has none.

use std::net::IpAddr;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::tailnet::Tailnet;
use crate::ingress::tailnet::LocalApi;
use crate::tls::{LeafName, Leaves, Offer};

/// How often tailscaled is asked; it renews by itself, long before the end.
const REFRESH: Duration = Duration::from_secs(3600);
/// How long until it is asked again after it had none.
const AGAIN: Duration = Duration::from_secs(600);

/// A certificate that is kept fresh for as long as it is used.
pub(super) struct Certificate {
    leaves: Arc<Leaves>,
    own: LeafName,
    config: RwLock<Option<Arc<ServerConfig>>>,
}

impl Certificate {
    /// For a node called `name`, or where it has no name, its address.
    pub(super) fn start(
        tailnet: &Tailnet,
        name: Option<String>,
        hosts: &[String],
        leaves: Arc<Leaves>,
    ) -> Arc<Certificate> {
        let address = hosts.iter().find_map(|host| host.parse::<IpAddr>().ok());
        let own = match &name {
            Some(name) => LeafName::Name(name.clone()),
            None => LeafName::Address(address.unwrap_or(IpAddr::from([127, 0, 0, 1]))),
        };
        let certificate = Arc::new(Certificate {
            leaves,
            own,
            config: RwLock::default(),
        });
        if let Some(name) = name {
            let kept = Arc::downgrade(&certificate);
            let (api, shown) = (tailnet.api.clone(), tailnet.certificate.clone());
            let show = move |text: String| *shown.lock().unwrap_or_else(PoisonError::into_inner) = Some(text);
            tokio::spawn(async move {
                let mut was_refused = false;
                loop {
                    let fetched = fetch(&api, &name).await;
                    let Some(certificate) = kept.upgrade() else { return };
                    let wait = match fetched {
                        Ok(config) => {
                            certificate.keep(Some(config));
                            show("tailscaled's".to_owned());
                            was_refused = false;
                            REFRESH
                        }
                        // One that is there is good for weeks yet.
                        Err(why) => {
                            if !certificate.is_kept() {
                                show(format!("signed by the gateway's own CA: {why}"));
                            }
                            if !was_refused {
                                tracing::warn!(
                                    name,
                                    why,
                                    "tailscaled has no certificate for the admin page; until it has, the gateway's own CA \
                                     signs, which browsers do not know: turn on HTTPS certificates for the tailnet"
                                );
                            }
                            was_refused = true;
                            AGAIN
                        }
                    };
                    drop(certificate);
                    tokio::time::sleep(wait).await;
                }
            });
        }
        certificate
    }

    /// What to answer a handshake with; `None` where even the own CA cannot sign.
    pub(super) fn config(&self) -> Option<Arc<ServerConfig>> {
        let kept = self.config.read().ok()?.clone();
        kept.or_else(|| {
            let leaf = self.leaves.get(&self.own).ok()?;
            leaf.config(Offer::Http1).ok()
        })
    }

    fn is_kept(&self) -> bool {
        self.config.read().is_ok_and(|kept| kept.is_some())
    }

    fn keep(&self, config: Option<Arc<ServerConfig>>) {
        if let Ok(mut kept) = self.config.write() {
            *kept = config;
        }
    }
}

async fn fetch(api: &LocalApi, name: &str) -> Result<Arc<ServerConfig>, String> {
    let pair = api.certificate(name).await.map_err(|error| error.to_string())?;
    let bad = |error: &dyn std::fmt::Display| format!("its answer is no certificate with a key: {error}");
    let key = PrivateKeyDer::from_pem_slice(&pair).map_err(|error| bad(&error))?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pair).collect();
    let chain = chain.map_err(|error| bad(&error))?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .map_err(|error| bad(&error))?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(|error| bad(&error))?;
    config.alpn_protocols = Offer::Http1.protocols();
    Ok(Arc::new(config))
}
