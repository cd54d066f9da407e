//! The certificate of the admin page on the tailnet: tailscaled's, which every browser knows, or one
//! by the gateway's own CA where the tailnet has none.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError, RwLock, Weak};
use std::time::Duration;

use chrono::{DateTime, Utc};
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
    issued: RwLock<Option<Issued>>,
}

/// What tailscaled gave.
struct Issued {
    config: Arc<ServerConfig>,
    until: DateTime<Utc>,
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
            issued: RwLock::default(),
        });
        if let Some(name) = name {
            let (api, shown) = (tailnet.api.clone(), tailnet.certificate.clone());
            let kept = Arc::downgrade(&certificate);
            tokio::spawn(keep_fresh(kept, (api, name), shown, (REFRESH, AGAIN)));
        }
        certificate
    }

    /// What to answer a handshake with; `None` where even the own CA cannot sign.
    pub(super) fn config(&self) -> Option<Arc<ServerConfig>> {
        let issued = self.issued.read().ok()?;
        let good = issued.as_ref().filter(|issued| issued.is_good(Utc::now()));
        good.map(|issued| issued.config.clone()).or_else(|| {
            let leaf = self.leaves.get(&self.own).ok()?;
            leaf.config(Offer::Http1).ok()
        })
    }

    /// How long the one that tailscaled gave is good, while it is.
    fn until(&self) -> Option<DateTime<Utc>> {
        let issued = self.issued.read().ok()?;
        let good = issued.as_ref().filter(|issued| issued.is_good(Utc::now()))?;
        Some(good.until)
    }

    /// Serves it from the next handshake on.
    fn keep(&self, issued: Issued) {
        if let Ok(mut kept) = self.issued.write() {
            *kept = Some(issued);
        }
    }
}

impl Issued {
    fn is_good(&self, now: DateTime<Utc>) -> bool {
        now < self.until
    }
}

/// Asks for as long as the certificate is used: after `refresh` where there was one, else after `again`.
async fn keep_fresh(
    kept: Weak<Certificate>,
    (api, name): (LocalApi, String),
    shown: Arc<Mutex<Option<String>>>,
    (refresh, again): (Duration, Duration),
) {
    let show = |text: String| *shown.lock().unwrap_or_else(PoisonError::into_inner) = Some(text);
    let mut was_refused = false;
    loop {
        let fetched = fetch(&api, &name).await;
        let Some(certificate) = kept.upgrade() else { return };
        let wait = match fetched {
            Ok(issued) => {
                show(format!(
                    "tailscaled's, until {}",
                    issued.until.format("%F %R UTC")
                ));
                certificate.keep(issued);
                was_refused = false;
                refresh
            }
            Err(why) => {
                let until = certificate
                    .until()
                    .map(|until| until.format("%F %R UTC").to_string());
                match (&until, was_refused) {
                    (Some(until), false) => tracing::warn!(
                        name,
                        why,
                        until,
                        "tailscaled gives no other certificate for the admin page than the one that is served"
                    ),
                    (None, false) => tracing::warn!(
                        name,
                        why,
                        "tailscaled has no certificate for the admin page; until it has, the gateway's own CA \
                         signs, which browsers do not know: turn on HTTPS certificates for the tailnet"
                    ),
                    (_, true) => {}
                }
                show(match until {
                    Some(until) => format!("tailscaled's, until {until}; it gives no other: {why}"),
                    None => format!("signed by the gateway's own CA: {why}"),
                });
                was_refused = true;
                again
            }
        };
        drop(certificate);
        tokio::time::sleep(wait).await;
    }
}

async fn fetch(api: &LocalApi, name: &str) -> Result<Issued, String> {
    let pair = api.certificate(name).await.map_err(|error| error.to_string())?;
    read(&pair, Utc::now())
}

/// Reads a key and its certificate's chain, PEM, of which the first is in time.
fn read(pair: &[u8], now: DateTime<Utc>) -> Result<Issued, String> {
    let bad = |error: &dyn std::fmt::Display| format!("its answer is no certificate with a key: {error}");
    let key = PrivateKeyDer::from_pem_slice(pair).map_err(|error| bad(&error))?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pair).collect();
    let chain = chain.map_err(|error| bad(&error))?;
    let first = chain.first().ok_or_else(|| bad(&"there is none"))?;
    let (_, parsed) = x509_parser::parse_x509_certificate(first).map_err(|error| bad(&error))?;
    let until = DateTime::from_timestamp(parsed.validity().not_after.timestamp(), 0);
    let until = until.ok_or_else(|| bad(&"its end is no moment"))?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .map_err(|error| bad(&error))?
        .with_no_client_auth()
        .with_single_cert(chain.clone(), key)
        .map_err(|error| bad(&error))?;
    config.alpn_protocols = Offer::Http1.protocols();
    let issued = Issued {
        config: Arc::new(config),
        until,
    };
    match issued.is_good(now) {
        true => Ok(issued),
        false => Err(format!(
            "its certificate ran out at {}",
            until.format("%F %R UTC")
        )),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::SystemTime;

    use axum::Router;

    use super::*;
    use crate::tls::Authority;

    const NAME: &str = "gw.lab.ts.net";

    /// A key and a certificate, PEM, that is good for so long from now on.
    fn pair(lasts: chrono::Duration) -> (String, String) {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut wanted = rcgen::CertificateParams::new([NAME.to_owned()]).unwrap();
        wanted.not_after = SystemTime::from(Utc::now() + lasts).into();
        let made = wanted.self_signed(&key).unwrap();
        (key.serialize_pem(), made.pem())
    }

    fn refused(pair: &str) -> String {
        read(pair.as_bytes(), Utc::now()).err().unwrap()
    }

    #[test]
    fn what_is_no_good_certificate_is_refused_and_why() {
        let (key, certificate) = pair(chrono::Duration::days(30));
        let issued = read(format!("{key}{certificate}").as_bytes(), Utc::now()).unwrap();
        assert_eq!((issued.until - Utc::now()).num_days(), 29);
        let (old_key, old) = pair(-chrono::Duration::days(1));
        assert!(refused(&format!("{old_key}{old}")).contains("ran out at"));
        let half = &certificate[..certificate.len() / 2];
        let broken = certificate.replacen("MII", "AAA", 1);
        for lie in [
            String::new(),
            key.clone(),
            certificate.clone(),
            format!("{old_key}{certificate}"),
            format!("{key}{half}"),
            format!("{key}{broken}"),
            "<html>no</html>".to_owned(),
        ] {
            assert!(refused(&lie).contains("no certificate with a key"), "{lie}");
        }
    }

    fn none_yet() -> Certificate {
        let leaves = Leaves::new(Arc::new(Authority::ephemeral().unwrap())).unwrap();
        Certificate {
            leaves: Arc::new(leaves),
            own: LeafName::Name(NAME.to_owned()),
            issued: RwLock::default(),
        }
    }

    /// Waits until it holds; what is waited for comes by another task.
    async fn until(what: &str, holds: impl Fn() -> bool) {
        let wait = async {
            while !holds() {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        let came = tokio::time::timeout(Duration::from_secs(20), wait).await;
        assert!(came.is_ok(), "{what}");
    }

    #[tokio::test]
    async fn it_is_asked_for_again_and_what_is_renewed_is_served() {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("s");
        let listener = tokio::net::UnixListener::bind(&socket).unwrap();
        // What tailscaled says, nothing at first, and how often it was asked.
        let (says, asked) = (Arc::new(Mutex::new(None)), Arc::new(AtomicUsize::new(0)));
        let (said, counted) = (says.clone(), asked.clone());
        let answer = move || {
            counted.fetch_add(1, Ordering::Relaxed);
            let said: Option<String> = said.lock().unwrap().clone();
            async move {
                match said {
                    Some(said) => said,
                    None => std::future::pending().await,
                }
            }
        };
        tokio::spawn(async move { axum::serve(listener, Router::new().fallback(answer)).await });
        let say = |lasts| {
            let (key, text) = pair(chrono::Duration::days(lasts));
            *says.lock().unwrap() = Some(format!("{key}{text}"));
        };
        let certificate = Arc::new(none_yet());
        let shown = Arc::new(Mutex::new(None));
        let short = (Duration::from_millis(10), Duration::from_millis(10));
        let asker = (LocalApi::new(&socket).unwrap(), NAME.to_owned());
        say(10);
        tokio::spawn(keep_fresh(
            Arc::downgrade(&certificate),
            asker,
            shown.clone(),
            short,
        ));
        let days = || certificate.until().map(|until| (until - Utc::now()).num_days());
        until("the first", || days() == Some(9)).await;
        say(20);
        until("the renewed one", || days() == Some(19)).await;
        // An answer that is none.
        *says.lock().unwrap() = Some("no".to_owned());
        let told = |what: &str| {
            shown
                .lock()
                .unwrap()
                .as_ref()
                .is_some_and(|text: &String| text.contains(what))
        };
        until("it is said", || told("gives no other")).await;
        assert_eq!(days(), Some(19), "what is good is served on");
        // No answer at all.
        *says.lock().unwrap() = None;
        let before = asked.load(Ordering::Relaxed);
        until("it is asked", || asked.load(Ordering::Relaxed) > before).await;
        assert_eq!(days(), Some(19), "what is good is served on");
    }

    #[test]
    fn one_that_has_run_out_is_served_no_more() {
        let certificate = none_yet();
        let (key, text) = pair(chrono::Duration::days(30));
        let mut issued = read(format!("{key}{text}").as_bytes(), Utc::now()).unwrap();
        let config = issued.config.clone();
        let is_served = |certificate: &Certificate| Arc::ptr_eq(&certificate.config().unwrap(), &config);
        assert!(!is_served(&certificate));
        let again = Issued {
            config: config.clone(),
            until: issued.until,
        };
        certificate.keep(again);
        assert!(is_served(&certificate) && certificate.until().is_some());
        issued.until = Utc::now();
        certificate.keep(issued);
        assert!(!is_served(&certificate) && certificate.until().is_none());
    }
}
