//! TLS to an upstream.
//!
//! A configuration is built once for each set of roots, mode, ALPN and client identity, and kept,
//! so that sessions are resumed. Sessions are never shared between client identities.

use std::io;
use std::sync::{Arc, OnceLock};

use quick_cache::sync::Cache;
use rustls::client::Resumption;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;

use super::provider;
use super::verify::{Verifier, Verify};
use crate::bad_input;
use crate::verdict::Permit;

/// Client configurations that are kept; the least used fall out.
pub const CONFIGS_MAX: usize = 256;

/// TLS sessions that are kept for resumption, for each configuration.
pub const SESSIONS_MAX: usize = 64;

/// The gateway's end of a TLS connection to an upstream.
pub type TlsUpstream<IO> = tokio_rustls::client::TlsStream<IO>;

/// TLS to an upstream failed. Nothing of it is for the agent's eyes.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("`ca_cert` holds no certificate: {0}")]
    Roots(String),
    #[error("the system has no root certificates: {0}")]
    NoRoots(String),
    #[error("the client certificate cannot be used: {0}")]
    Identity(String),
    #[error("`{0}` is no server name")]
    Name(String),
    #[error("TLS cannot be set up: {0}")]
    Tls(#[from] rustls::Error),
    #[error("the TLS handshake failed: {0}")]
    Handshake(#[from] io::Error),
}

/// What is wanted of a TLS connection to an upstream.
#[derive(Clone, Copy)]
pub struct Wanted<'a> {
    /// The name or address that the certificate must be for; SNI too, where it is a name.
    pub host: &'a str,
    /// PEM of the only roots; the system's where `None`.
    pub ca_cert: Option<&'a str>,
    pub verify: Verify,
    /// Application protocols to offer, best first.
    pub alpn: &'a [&'a [u8]],
    pub identity: Option<&'a ClientIdentity>,
}

/// A client certificate with its key, for mTLS. No `Debug` and no `Clone`: it holds a secret.
pub struct ClientIdentity {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    /// The credential's key and a hash of the key material: what separates sessions and pools.
    tag: [u8; 32],
}

impl ClientIdentity {
    /// Reads a certificate chain and its key, both PEM. The permit must be for `credential`.
    ///
    /// # Errors
    /// The permit is for another credential, or the PEM holds no chain or no key.
    pub fn from_pem(
        permit: &Permit,
        credential: &str,
        chain: &[u8],
        key: &[u8],
    ) -> Result<Self, ConnectError> {
        if permit.credential().map(|held| &**held) != Some(credential) {
            return Err(ConnectError::Identity(
                "the permit is for another credential".to_owned(),
            ));
        }
        let identity = |error: rustls::pki_types::pem::Error| ConnectError::Identity(error.to_string());
        let certificates = CertificateDer::pem_slice_iter(chain)
            .collect::<Result<Vec<_>, _>>()
            .map_err(identity)?;
        if certificates.is_empty() {
            return Err(ConnectError::Identity("no certificate in the chain".to_owned()));
        }
        let mut hash = Sha256::new();
        for part in [credential.as_bytes(), chain, key] {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        Ok(ClientIdentity {
            chain: certificates,
            key: PrivateKeyDer::from_pem_slice(key).map_err(identity)?,
            tag: hash.finalize().into(),
        })
    }

    /// What tells this identity from every other, and changes when its secret is rotated.
    pub fn tag(&self) -> &[u8; 32] {
        &self.tag
    }
}

/// The maker of TLS connections to upstreams; one a process.
pub struct Connectors {
    kept: Cache<[u8; 32], Arc<ClientConfig>>,
    system: OnceLock<Result<Arc<RootCertStore>, String>>,
}

impl Default for Connectors {
    fn default() -> Self {
        Connectors {
            kept: Cache::new(CONFIGS_MAX),
            system: OnceLock::new(),
        }
    }
}

impl Connectors {
    /// Speaks TLS over a stream. The caller bounds the time.
    ///
    /// # Errors
    /// The roots or the identity cannot be used, or the handshake failed: the certificate was
    /// refused, or the server shares no version, suite or protocol with us.
    pub async fn connect<IO>(&self, io: IO, wanted: Wanted<'_>) -> Result<TlsUpstream<IO>, ConnectError>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let name = ServerName::try_from(wanted.host.to_owned())
            .map_err(|_| ConnectError::Name(wanted.host.to_owned()))?;
        let connector = TlsConnector::from(self.config(wanted)?);
        let connected = connector.connect(name, io).await;
        Ok(connected.inspect_err(|error| {
            let own = error.get_ref();
            if let Some(own) = own.and_then(|own| own.downcast_ref::<rustls::Error>()) {
                bad_input::count(bad_input::Reader::TlsServer, own);
            }
        })?)
    }

    #[cfg(test)]
    pub(super) fn kept(&self) -> usize {
        self.kept.len()
    }

    pub(super) fn config(&self, wanted: Wanted<'_>) -> Result<Arc<ClientConfig>, ConnectError> {
        let key = wanted.cache_key();
        if let Some(config) = self.kept.get(&key) {
            return Ok(config);
        }
        let config = Arc::new(self.build(wanted)?);
        self.kept.insert(key, config.clone());
        Ok(config)
    }

    fn build(&self, wanted: Wanted<'_>) -> Result<ClientConfig, ConnectError> {
        let (roots, pinned) = match (wanted.ca_cert, wanted.verify) {
            (Some(pem), _) => read_roots(pem)?,
            (None, Verify::Nothing) => (Arc::new(RootCertStore::empty()), Vec::new()),
            (None, _) => (self.system_roots()?, Vec::new()),
        };
        let verifier = Arc::new(Verifier::new(roots, pinned, wanted.verify));
        let builder = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
            .dangerous()
            .with_custom_certificate_verifier(verifier);
        let mut config = match wanted.identity {
            None => builder.with_no_client_auth(),
            Some(identity) => {
                builder.with_client_auth_cert(identity.chain.clone(), identity.key.clone_key())?
            }
        };
        config.alpn_protocols = wanted.alpn.iter().map(|name| name.to_vec()).collect();
        config.resumption = Resumption::in_memory_sessions(SESSIONS_MAX);
        Ok(config)
    }

    fn system_roots(&self) -> Result<Arc<RootCertStore>, ConnectError> {
        let loaded = self.system.get_or_init(|| {
            let found = rustls_native_certs::load_native_certs();
            let mut store = RootCertStore::empty();
            let (added, _) = store.add_parsable_certificates(found.certs);
            if added == 0 {
                return Err(found
                    .errors
                    .first()
                    .map_or("none found".to_owned(), ToString::to_string));
            }
            Ok(Arc::new(store))
        });
        loaded.clone().map_err(ConnectError::NoRoots)
    }
}

impl Wanted<'_> {
    /// Everything that shapes the configuration; the host does not.
    fn cache_key(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        let mut part = |bytes: &[u8]| {
            hash.update((bytes.len() as u64).to_be_bytes());
            hash.update(bytes);
        };
        part(&[self.verify as u8, u8::from(self.ca_cert.is_some())]);
        part(self.ca_cert.unwrap_or_default().as_bytes());
        part(self.identity.map_or(&[][..], |identity| &identity.tag));
        for protocol in self.alpn {
            part(protocol);
        }
        hash.finalize().into()
    }
}

/// The certificates of a `ca_cert`: as roots, and as they stand, for pinning.
fn read_roots(pem: &str) -> Result<(Arc<RootCertStore>, Vec<CertificateDer<'static>>), ConnectError> {
    let pinned = CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| ConnectError::Roots(error.to_string()))?;
    if pinned.is_empty() {
        return Err(ConnectError::Roots("no PEM block".to_owned()));
    }
    let mut store = RootCertStore::empty();
    for certificate in &pinned {
        store
            .add(certificate.clone())
            .map_err(|error| ConnectError::Roots(error.to_string()))?;
    }
    Ok((Arc::new(store), pinned))
}
