//! What SCRAM-SHA-256-PLUS binds to: `tls-server-end-point` (RFC 5929 §4).

use sha2::{Digest as _, Sha256, Sha384, Sha512};
use x509_parser::oid_registry as oid;

/// The hash of a server's certificate, or `None` where RFC 5929 defines none: the certificate
/// does not parse, or its signature has no single hash (Ed25519).
///
/// The hash is that of the certificate's signature, and SHA-256 in place of MD5 and SHA-1.
pub fn server_end_point(der: &[u8]) -> Option<Vec<u8>> {
    let (_, parsed) = x509_parser::parse_x509_certificate(der).ok()?;
    let algorithm = &parsed.signature_algorithm.algorithm;
    let sha256 = [
        oid::OID_PKCS1_MD5WITHRSAENC,
        oid::OID_PKCS1_SHA1WITHRSA,
        oid::OID_PKCS1_SHA256WITHRSA,
        oid::OID_SIG_ECDSA_WITH_SHA256,
    ];
    let sha384 = [oid::OID_PKCS1_SHA384WITHRSA, oid::OID_SIG_ECDSA_WITH_SHA384];
    let sha512 = [oid::OID_PKCS1_SHA512WITHRSA, oid::OID_SIG_ECDSA_WITH_SHA512];
    if sha256.contains(algorithm) {
        Some(Sha256::digest(der).to_vec())
    } else if sha384.contains(algorithm) {
        Some(Sha384::digest(der).to_vec())
    } else if sha512.contains(algorithm) {
        Some(Sha512::digest(der).to_vec())
    } else {
        None
    }
}
