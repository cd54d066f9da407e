//! The gateway's certificate authority.
//!
//! It carries no name constraints: the names it signs are those of the policy, which changes
//! while the certificate stands on agents' machines for years. What bounds it instead is that its
//! path length is zero, that it signs only through [`super::Leaves`], and that agents trust it
//! inside `tailkeep run` alone.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls::pki_types::CertificateDer;
use sha2::{Digest as _, Sha256};

use crate::facts::escape;

/// How long the CA certificate is valid.
pub const AUTHORITY_LIFETIME: Duration = Duration::from_secs(10 * 365 * 86_400);

/// How far before its making a certificate begins to be valid, for agents whose clocks are slow.
pub const BACKDATE: Duration = Duration::from_secs(3600);

/// The certificate, in the state folder.
pub const CERTIFICATE_FILE: &str = "ca.pem";

/// The private key, in the state folder, mode 0600.
pub const KEY_FILE: &str = "ca.key";

/// The CA could not be made or loaded.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    #[error("{}: {source}", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("{}: others may read this key; run `chmod 600` on it", .0.display())]
    Exposed(PathBuf),
    #[error("{}: the key of this certificate is missing", .0.display())]
    KeyMissing(PathBuf),
    #[error("{}: {reason}", path.display())]
    Unusable { path: PathBuf, reason: String },
    #[error("no certificate could be made: {0}")]
    Mint(#[from] rcgen::Error),
}

/// The CA that signs every leaf.
pub struct Authority {
    pub(super) issuer: Issuer<'static, KeyPair>,
    der: CertificateDer<'static>,
    pem: String,
}

impl Authority {
    /// Loads the CA from `state_dir`, or makes it there (ECDSA P-256).
    ///
    /// # Errors
    /// A file that cannot be read or written, a key that others may read, a certificate that is
    /// not a CA's, is not this key's or has run out. A broken CA is never replaced in silence:
    /// agents have pinned it.
    pub fn open(state_dir: &Path) -> Result<Self, AuthorityError> {
        let certificate = state_dir.join(CERTIFICATE_FILE);
        let key = state_dir.join(KEY_FILE);
        match (exists(&certificate)?, exists(&key)?) {
            (true, true) => Self::load(&certificate, &key),
            (true, false) => Err(AuthorityError::KeyMissing(certificate)),
            // The certificate is written last, so a key alone is a first start that was cut off.
            (false, _) => Self::create(&certificate, &key),
        }
    }

    /// A CA that lives in memory only.
    ///
    /// # Errors
    /// The key or the certificate could not be made.
    pub fn ephemeral() -> Result<Self, AuthorityError> {
        Self::from_key(KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?)
    }

    /// The certificate as PEM, for the agent's trust stores.
    pub fn ca_pem(&self) -> &str {
        &self.pem
    }

    /// The certificate as DER.
    pub fn der(&self) -> &CertificateDer<'static> {
        &self.der
    }

    /// SHA-256 of the certificate's DER in lower-case hex, which a join link pins.
    pub fn fingerprint(&self) -> String {
        fingerprint(&self.der)
    }

    fn from_key(key: KeyPair) -> Result<Self, AuthorityError> {
        let now = SystemTime::now();
        let mut params = CertificateParams::default();
        set_validity(&mut params, now - BACKDATE, now + AUTHORITY_LIFETIME);
        params.distinguished_name = rcgen::DistinguishedName::new();
        params
            .distinguished_name
            .push(DnType::CommonName, "Tailkeep gateway CA");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key)?;
        Ok(Authority {
            der: certificate.der().clone(),
            pem: certificate.pem(),
            issuer: Issuer::new(params, key),
        })
    }

    fn create(certificate: &Path, key: &Path) -> Result<Self, AuthorityError> {
        let made = Self::ephemeral()?;
        let private = zeroize::Zeroizing::new(made.issuer.key().serialize_pem());
        write_new(key, private.as_bytes(), 0o600)?;
        write_new(certificate, made.pem.as_bytes(), 0o644)?;
        Ok(made)
    }

    fn load(certificate: &Path, key: &Path) -> Result<Self, AuthorityError> {
        let mode = fs::metadata(key).map_err(at(key))?.permissions().mode();
        if mode & 0o077 != 0 {
            return Err(AuthorityError::Exposed(key.to_owned()));
        }
        let private = zeroize::Zeroizing::new(fs::read_to_string(key).map_err(at(key))?);
        let pair = KeyPair::from_pem(&private).map_err(|error| unusable(key, error))?;
        let pem = fs::read_to_string(certificate).map_err(at(certificate))?;
        let der = only_certificate(&pem).map_err(|reason| unusable(certificate, reason))?;
        check(&der, &pair).map_err(|reason| unusable(certificate, reason))?;
        let issuer = Issuer::from_ca_cert_der(&der, pair).map_err(|error| unusable(certificate, error))?;
        Ok(Authority { issuer, der, pem })
    }
}

/// SHA-256 of a certificate's DER, in lower-case hex.
pub fn fingerprint(der: &[u8]) -> String {
    escape::hex(&Sha256::digest(der))
}

/// Sets a certificate's validity. (The type of its moments belongs to a crate we do not name.)
pub(super) fn set_validity(params: &mut CertificateParams, from: SystemTime, until: SystemTime) {
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    params.not_before = epoch + from.duration_since(UNIX_EPOCH).unwrap_or_default();
    params.not_after = epoch + until.duration_since(UNIX_EPOCH).unwrap_or_default();
}

fn check(der: &CertificateDer<'_>, pair: &KeyPair) -> Result<(), String> {
    let (_, parsed) = x509_parser::parse_x509_certificate(der).map_err(|error| error.to_string())?;
    if !parsed.is_ca() {
        return Err("this is not a CA's certificate".to_owned());
    }
    if !parsed.validity().is_valid() {
        return Err("the certificate has run out, or is not valid yet".to_owned());
    }
    if parsed.public_key().subject_public_key.data.as_ref() != pair.public_key_raw() {
        return Err(format!("the certificate is not of the key in {KEY_FILE}"));
    }
    Ok(())
}

fn only_certificate(pem: &str) -> Result<CertificateDer<'static>, String> {
    use rustls::pki_types::pem::PemObject as _;
    CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|error| format!("no certificate in PEM: {error}"))
}

fn exists(path: &Path) -> Result<bool, AuthorityError> {
    path.try_exists().map_err(at(path))
}

fn write_new(path: &Path, bytes: &[u8], mode: u32) -> Result<(), AuthorityError> {
    crate::sys::file::replace(path, bytes, mode).map_err(at(path))
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> AuthorityError {
    let path = path.to_owned();
    move |source| AuthorityError::File { path, source }
}

fn unusable(path: &Path, reason: impl ToString) -> AuthorityError {
    AuthorityError::Unusable {
        path: path.to_owned(),
        reason: reason.to_string(),
    }
}
