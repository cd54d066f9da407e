//! Certificates that agents see, minted per name.
//!
//! All leaves of one process share one P-256 key, made at start: minting is then a signature and
//! nothing more (14 µs against 30), and the key is never written anywhere.

use std::net::IpAddr;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use quick_cache::sync::{Cache, EntryAction, EntryResult};
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose, SanType};
use rustls::ServerConfig;
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::server::{ClientHello, ProducesTickets, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::authority::{Authority, AuthorityError, BACKDATE, set_validity};
use super::{Offer, provider};

/// How long a leaf is valid after it was minted. Short, since there is no revocation.
pub const LEAF_LIFETIME: Duration = Duration::from_secs(24 * 3600);

/// A leaf is minted anew when less than this is left of its life.
pub const LEAF_RENEW_BEFORE: Duration = Duration::from_secs(6 * 3600);

/// Leaves that are kept; the least used fall out. One takes about 2 KiB.
pub const LEAVES_MAX: usize = 4096;

/// What a leaf is for: the only subject alternative name in it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum LeafName {
    /// A DNS name in lower case, without a trailing dot.
    Name(String),
    Address(IpAddr),
}

/// A minted certificate with the TLS configurations that serve it.
pub struct Leaf {
    certified: Arc<CertifiedKey>,
    /// When to mint anew, on the monotonic clock.
    pub(super) renew_at: Instant,
    configs: [OnceLock<Arc<ServerConfig>>; Offer::COUNT],
    tickets: Arc<dyn ProducesTickets>,
}

/// The minter and its cache.
pub struct Leaves {
    authority: Arc<Authority>,
    key: KeyPair,
    signer: Arc<dyn rustls::sign::SigningKey>,
    cache: Cache<LeafName, Arc<Leaf>>,
    tickets: Arc<dyn ProducesTickets>,
    lifetime: Duration,
}

/// A leaf could not be minted.
#[derive(Debug, thiserror::Error)]
pub enum LeafError {
    #[error("the name does not fit a certificate")]
    Name,
    #[error("no certificate could be minted: {0}")]
    Mint(#[from] rcgen::Error),
    #[error("TLS cannot be set up: {0}")]
    Tls(#[from] rustls::Error),
}

impl Leaves {
    /// The certificate of the authority that signs them, PEM.
    pub fn ca_pem(&self) -> &str {
        self.authority.ca_pem()
    }

    /// A minter that signs with `authority`.
    ///
    /// # Errors
    /// No key could be made.
    pub fn new(authority: Arc<Authority>) -> Result<Self, AuthorityError> {
        Self::with_bounds(authority, LEAVES_MAX, LEAF_LIFETIME)
    }

    /// As [`Leaves::new`], with another cache size and lifetime.
    ///
    /// # Errors
    /// No key could be made.
    pub fn with_bounds(
        authority: Arc<Authority>,
        leaves_max: usize,
        lifetime: Duration,
    ) -> Result<Self, AuthorityError> {
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
        let der = PrivatePkcs8KeyDer::from(key.serialize_der());
        let signer = rustls::crypto::aws_lc_rs::sign::any_ecdsa_type(&der.into())
            .map_err(|_| rcgen::Error::CouldNotParseKeyPair)?;
        let tickets =
            rustls::crypto::aws_lc_rs::Ticketer::new().map_err(|_| rcgen::Error::RingUnspecified)?;
        Ok(Leaves {
            authority,
            key,
            signer,
            cache: Cache::new(leaves_max),
            tickets,
            lifetime,
        })
    }

    /// The leaf of a name, from the cache or new. Callers that ask for the same name at once
    /// wait for one minting (tens of microseconds).
    ///
    /// # Errors
    /// The name does not fit a certificate, or signing failed.
    pub fn get(&self, name: &LeafName) -> Result<Arc<Leaf>, LeafError> {
        if let Some(leaf) = self.cache.get(name)
            && Instant::now() < leaf.renew_at
        {
            return Ok(leaf);
        }
        let entry = self.cache.entry(name, None, |_, leaf| {
            if Instant::now() < leaf.renew_at {
                EntryAction::Retain(leaf.clone())
            } else {
                EntryAction::ReplaceWithGuard
            }
        });
        match entry {
            EntryResult::Retained(leaf) => Ok(leaf),
            EntryResult::Vacant(guard) | EntryResult::Replaced(guard, _) => {
                let leaf = Arc::new(self.mint(name)?);
                // A full cache may refuse to keep it; the leaf is good all the same.
                let _ = guard.insert(leaf.clone());
                Ok(leaf)
            }
            EntryResult::Removed(..) | EntryResult::Timeout => Ok(Arc::new(self.mint(name)?)),
        }
    }

    /// Leaves in the cache now.
    pub fn cached(&self) -> usize {
        self.cache.len()
    }

    fn mint(&self, name: &LeafName) -> Result<Leaf, LeafError> {
        let now = SystemTime::now();
        let mut params = CertificateParams::default();
        set_validity(&mut params, now - BACKDATE, now + self.lifetime);
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.subject_alt_names = vec![match name {
            LeafName::Name(name) => SanType::DnsName(name.as_str().try_into().map_err(|_| LeafError::Name)?),
            LeafName::Address(address) => SanType::IpAddress(*address),
        }];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(&self.key, &self.authority.issuer)?;
        let renew_in = self
            .lifetime
            .saturating_sub(LEAF_RENEW_BEFORE.min(self.lifetime / 4));
        Ok(Leaf {
            certified: Arc::new(CertifiedKey::new(
                // The CA rides along for machines that enrol: they know it by its fingerprint alone.
                vec![certificate.der().clone(), self.authority.der().clone()],
                self.signer.clone(),
            )),
            renew_at: Instant::now() + renew_in,
            configs: Default::default(),
            tickets: self.tickets.clone(),
        })
    }
}

impl Leaf {
    /// The configuration that serves this leaf with an ALPN offer, built once.
    ///
    /// # Errors
    /// rustls refuses the configuration.
    pub fn config(&self, offer: Offer) -> Result<Arc<ServerConfig>, LeafError> {
        let Some(kept) = self.configs.get(offer as usize) else {
            return self.build(offer);
        };
        if let Some(config) = kept.get() {
            return Ok(config.clone());
        }
        let config = self.build(offer)?;
        Ok(kept.get_or_init(|| config).clone())
    }

    /// The certificate as DER.
    pub fn der(&self) -> &[u8] {
        self.certified.cert.first().map_or(&[], |der| der.as_ref())
    }

    fn build(&self, offer: Offer) -> Result<Arc<ServerConfig>, LeafError> {
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(Only(self.certified.clone())));
        config.alpn_protocols = offer.protocols();
        // Stateless tickets, so that sessions cost no memory. rustls resumes one under its own
        // SNI only. `max_early_data_size` stays 0: early data could be replayed.
        config.ticketer = self.tickets.clone();
        config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
        Ok(Arc::new(config))
    }
}

/// Serves one certificate, whatever the ClientHello says: [`super::accept`] has judged it.
#[derive(Debug)]
struct Only(Arc<CertifiedKey>);

impl ResolvesServerCert for Only {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }
}
