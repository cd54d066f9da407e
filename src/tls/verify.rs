//! How an upstream's certificate is judged. The only place that may accept less than everything.
//!
//! HTTP always verifies in full. The weaker modes are those that libpq's `sslmode` names
//! (PostgreSQL manual, "SSL Support", table 32.1), and are used for Postgres alone.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

use super::provider;
use crate::policy::SslMode;

/// How much of a server's certificate is verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verify {
    /// Chain and name: HTTP, and `verify-full`.
    Full,
    /// The chain, not the name: `verify-ca`.
    Chain,
    /// Nothing but that the server holds the key of the certificate it shows: `require` and
    /// `prefer` without roots. It keeps out who only listens, nobody else.
    Nothing,
}

impl Verify {
    /// What libpq verifies under an `sslmode`, or `None` where it speaks no TLS. As with libpq,
    /// `require` verifies the chain when roots are given.
    pub fn for_sslmode(mode: SslMode, has_ca_cert: bool) -> Option<Verify> {
        match mode {
            SslMode::Disable => None,
            SslMode::Require if has_ca_cert => Some(Verify::Chain),
            SslMode::Prefer | SslMode::Require => Some(Verify::Nothing),
            SslMode::VerifyCa => Some(Verify::Chain),
            SslMode::VerifyFull => Some(Verify::Full),
        }
    }
}

/// A verifier over one set of roots.
///
/// Beside a chain to a root it takes a certificate that stands among `pinned` itself, byte for
/// byte, and is in its time: a self-signed server certificate given as `ca_cert`, which webpki
/// otherwise refuses to see as a server's.
#[derive(Debug)]
pub struct Verifier {
    roots: Arc<RootCertStore>,
    pinned: Vec<CertificateDer<'static>>,
    verify: Verify,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Verifier {
    pub fn new(roots: Arc<RootCertStore>, pinned: Vec<CertificateDer<'static>>, verify: Verify) -> Self {
        Verifier {
            roots,
            pinned,
            verify,
            algorithms: provider().signature_verification_algorithms,
        }
    }

    fn verify_chain(
        &self,
        parsed: &ParsedCertificate<'_>,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Error> {
        if self.pinned.iter().any(|pin| pin.as_ref() == end_entity.as_ref()) {
            return in_time(end_entity, now);
        }
        verify_server_cert_signed_by_trust_anchor(
            parsed,
            &self.roots,
            intermediates,
            now,
            self.algorithms.all,
        )
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if self.verify == Verify::Nothing {
            return Ok(ServerCertVerified::assertion());
        }
        let parsed = ParsedCertificate::try_from(end_entity)?;
        self.verify_chain(&parsed, end_entity, intermediates, now)?;
        if self.verify == Verify::Full {
            verify_server_name(&parsed, server_name)?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, signed, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// A pinned certificate has no chain, but it still runs out.
fn in_time(der: &CertificateDer<'_>, now: UnixTime) -> Result<(), Error> {
    let (_, parsed) =
        x509_parser::parse_x509_certificate(der).map_err(|_| Error::from(CertificateError::BadEncoding))?;
    let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    let validity = parsed.validity();
    if now < validity.not_before.timestamp() {
        return Err(CertificateError::NotValidYet.into());
    }
    if now > validity.not_after.timestamp() {
        return Err(CertificateError::Expired.into());
    }
    Ok(())
}
