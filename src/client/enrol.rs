//! The agent's half of enrolment: one POST over TLS that trusts the pinned CA alone.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use boringtun::x25519::{PublicKey, StaticSecret};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, DigitallySignedStruct, SignatureScheme};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use super::invite::Invite;
use super::store::{Assigned, Enrolment};
use crate::identity::cluster::Cluster;

/// For the whole exchange, in seconds.
pub const ENROL_SECONDS_MAX: u64 = 15;
/// Largest accepted answer, in bytes.
pub const ANSWER_BYTES_MAX: usize = 1 << 20;

/// The body of `POST /v1/enrol`. The token rides in `Authorization: Bearer`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// WireGuard public key, base64.
    pub public_key: String,
    /// The name the machine would like to have.
    pub name: String,
    /// The agent's version.
    pub version: String,
}

/// Why a machine could not enrol.
#[derive(Debug, thiserror::Error)]
pub enum EnrolError {
    #[error("the gateway at {0} shows another CA than the URL's pin; ask its operator for a new join URL")]
    Pin(String),
    #[error("the gateway at {0} does not answer: {1}")]
    Unreachable(String, String),
    #[error("the gateway refused: {0}")]
    Refused(String),
    #[error("the gateway's answer could not be read: {0}")]
    Answer(String),
    #[error("no randomness from the system: {0}")]
    Entropy(String),
}

/// Makes a key, redeems the token, and returns what to store.
pub async fn enrol(invite: &Invite, name: &str) -> Result<Enrolment, EnrolError> {
    let mut seed = zeroize::Zeroizing::new([0_u8; 32]);
    getrandom::fill(seed.as_mut()).map_err(|e| EnrolError::Entropy(e.to_string()))?;
    let secret = StaticSecret::from(*seed);
    let request = Request {
        public_key: STANDARD.encode(PublicKey::from(&secret).as_bytes()),
        name: name.to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    let assigned = post(invite, &request).await?;
    check(&assigned, &invite.pin)?;
    Ok(Enrolment {
        private_key: STANDARD.encode(secret.to_bytes()),
        authority: invite.authority.clone(),
        assigned,
    })
}

async fn post(invite: &Invite, request: &Request) -> Result<Assigned, EnrolError> {
    let body = serde_json::to_vec(request).map_err(|e| EnrolError::Answer(e.to_string()))?;
    let token = format!("Bearer {}", invite.token);
    let told = exchange(&invite.authority, invite.pin, "/v1/enrol", (&token, body)).await?;
    serde_json::from_slice(&told).map_err(|e| EnrolError::Answer(e.to_string()))
}

/// Posts JSON to the gateway whose CA is pinned; its answer.
pub(super) async fn exchange(
    authority: &str,
    pin: [u8; 32],
    path: &str,
    (authorization, body): (&str, Vec<u8>),
) -> Result<Vec<u8>, EnrolError> {
    let unreachable = |e: reqwest::Error| {
        let text = chain(&e);
        if text.contains(PIN_MARK) {
            EnrolError::Pin(authority.to_owned())
        } else {
            EnrolError::Unreachable(authority.to_owned(), text)
        }
    };
    let client = reqwest::Client::builder()
        .tls_backend_preconfigured(pinned_tls(pin)?)
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .timeout(Duration::from_secs(ENROL_SECONDS_MAX))
        .build()
        .map_err(unreachable)?;
    let answer = client
        .post(format!("https://{authority}{path}"))
        .header(reqwest::header::AUTHORIZATION, authorization)
        .header(reqwest::header::CONTENT_TYPE, "application/json")
        .body(body)
        .send()
        .await
        .map_err(unreachable)?;
    let status = answer.status();
    let told = whole(answer, unreachable).await?;
    if !status.is_success() {
        let error = serde_json::from_slice::<serde_json::Value>(&told).ok();
        let error = error
            .as_ref()
            .and_then(|v| v.get("error"))
            .and_then(|v| v.as_str());
        let error = error.map_or_else(|| status.to_string(), plain);
        return Err(EnrolError::Refused(error));
    }
    Ok(told)
}

/// An answer's body, up to [`ANSWER_BYTES_MAX`].
async fn whole(
    mut answer: reqwest::Response,
    unreachable: impl Fn(reqwest::Error) -> EnrolError,
) -> Result<Vec<u8>, EnrolError> {
    let mut told = Vec::new();
    while let Some(piece) = answer.chunk().await.map_err(&unreachable)? {
        if told.len() + piece.len() > ANSWER_BYTES_MAX {
            return Err(EnrolError::Answer(format!(
                "longer than {ANSWER_BYTES_MAX} bytes"
            )));
        }
        told.extend_from_slice(&piece);
    }
    Ok(told)
}

/// Control characters could drive the user's terminal.
fn plain(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(300).collect()
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}

/// The stored CA must be the pinned one, or later TLS would trust a stranger.
pub(super) fn check(assigned: &Assigned, pin: &[u8; 32]) -> Result<(), EnrolError> {
    use rustls::pki_types::pem::PemObject as _;
    let bad = |text: &str| EnrolError::Answer(text.to_owned());
    let mut certificates = CertificateDer::pem_slice_iter(assigned.ca_pem.as_bytes());
    let ca = certificates
        .next()
        .and_then(Result::ok)
        .ok_or_else(|| bad("no CA"))?;
    if certificates.next().is_some() || !pinned(&ca, pin) {
        return Err(bad("its CA is not the pinned one"));
    }
    if assigned.address_v4.is_none() && assigned.address_v6.is_none() {
        return Err(bad("no address"));
    }
    if !(1280..=9000).contains(&assigned.mtu) {
        return Err(bad("an MTU outside 1280 to 9000"));
    }
    if assigned
        .placeholders
        .keys()
        .any(|name| !super::environment::may_set(name))
    {
        return Err(bad("a placeholder for a variable that it may not set"));
    }
    // By another name it could stand in for a cluster of the user's own, and be sent their secrets.
    let is_ours = |one: &Cluster| one.name.starts_with("kubernetes.") && one.server.starts_with("https://");
    if !assigned.clusters.iter().all(is_ours) {
        return Err(bad("a cluster that no kubeconfig may have"));
    }
    Ok(())
}

/// The pin of a stored CA.
pub(super) fn pin_of(ca_pem: &str) -> Option<[u8; 32]> {
    use rustls::pki_types::pem::PemObject as _;
    let ca = CertificateDer::from_pem_slice(ca_pem.as_bytes()).ok()?;
    Some(Sha256::digest(ca.as_ref()).into())
}

fn pinned(certificate: &CertificateDer<'_>, pin: &[u8; 32]) -> bool {
    Sha256::digest(certificate.as_ref()).as_slice().ct_eq(pin).into()
}

const PIN_MARK: &str = "no certificate with the pinned fingerprint";

fn pinned_tls(pin: [u8; 32]) -> Result<rustls::ClientConfig, EnrolError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = Arc::new(PinnedCa {
        pin,
        provider: provider.clone(),
    });
    Ok(rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| EnrolError::Answer(e.to_string()))?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth())
}

/// Trusts the CA with one fingerprint, which the server sends behind its leaf, and no other.
#[derive(Debug)]
struct PinnedCa {
    pin: [u8; 32],
    provider: Arc<rustls::crypto::CryptoProvider>,
}

impl ServerCertVerifier for PinnedCa {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let ca = intermediates
            .iter()
            .find(|certificate| pinned(certificate, &self.pin))
            .ok_or_else(|| rustls::Error::General(PIN_MARK.to_owned()))?;
        let mut roots = rustls::RootCertStore::empty();
        roots.add(ca.clone().into_owned())?;
        WebPkiServerVerifier::builder_with_provider(Arc::new(roots), self.provider.clone())
            .build()
            .map_err(|_| rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer))?
            .verify_server_cert(leaf, intermediates, name, ocsp, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::tunnel::{Tunnel, TunnelError};
    use crate::client::whoami::{self, WhoamiError};

    #[tokio::test]
    async fn an_answer_has_a_size() {
        let says = |bytes: usize| http::Response::new(vec![b' '; bytes]).into();
        let no = |error: reqwest::Error| EnrolError::Answer(error.to_string());
        assert_eq!(
            whole(says(ANSWER_BYTES_MAX), no).await.unwrap().len(),
            ANSWER_BYTES_MAX
        );
        let long = whole(says(ANSWER_BYTES_MAX + 1), no).await;
        assert!(matches!(long, Err(EnrolError::Answer(text)) if text.contains("longer")));
    }

    /// What a machine without a gateway's answer is stored with.
    fn enrolment(wireguard_endpoint: String) -> Enrolment {
        Enrolment {
            private_key: STANDARD.encode([1; 32]),
            authority: String::new(),
            assigned: Assigned {
                name: "agent".to_owned(),
                address_v4: None,
                address_v6: None,
                gateway_public_key: STANDARD.encode([2; 32]),
                wireguard_endpoint,
                dns: Vec::new(),
                mtu: 1420,
                ca_pem: String::new(),
                placeholders: std::collections::BTreeMap::new(),
                endpoints: Vec::new(),
                clusters: Vec::new(),
            },
        }
    }

    /// Whatever takes connections and datagrams and never says a word.
    #[tokio::test]
    async fn a_gateway_that_says_nothing_is_given_up() {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let authority = silent.local_addr().unwrap().to_string();
        let deaf = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let enrolment = enrolment(deaf.local_addr().unwrap().to_string());
        let all = async {
            tokio::join!(
                exchange(&authority, [0; 32], "/v1/enrol", ("token", Vec::new())),
                whoami::ask(Some(&authority)),
                Tunnel::connect(&enrolment),
            )
        };
        let most = Duration::from_secs(2 * ENROL_SECONDS_MAX);
        let (enrolled, known, tunnel) = tokio::time::timeout(most, all)
            .await
            .expect("it is waited for still");
        assert!(matches!(enrolled, Err(EnrolError::Unreachable(..))));
        assert!(matches!(known, Err(WhoamiError::Unreachable(..))));
        assert!(matches!(tunnel, Err(TunnelError::NoHandshake(_))));
    }
}
