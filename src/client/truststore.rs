//! A Java truststore out of PEM roots, in the JKS format, which every JVM since 1.2 reads.
//!
//! PKCS #12 without a library is three nested ASN.1 containers and a cipher; JKS is a list
//! (`sun.security.provider.JavaKeyStore`): magic, version, entries, and a SHA-1 that guards against
//! damage, not against people. The file's mode guards it here.

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

/// What JVMs call the password of a store of public certificates.
pub const PASSWORD: &str = "changeit";
const MAGIC: u32 = 0xfeed_feed;
const VERSION: u32 = 2;
const TRUSTED_CERTIFICATE: u32 = 2;
/// Mixed into the sum by every implementation of the format.
const SALT: &[u8] = b"Mighty Aphrodite";

/// The store of every certificate in `pem`, each once. What is no certificate is left out.
pub fn jks(pem: &str) -> Vec<u8> {
    let mut certificates: Vec<CertificateDer<'static>> = Vec::new();
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()).filter_map(Result::ok) {
        if !certificates.contains(&certificate) {
            certificates.push(certificate);
        }
    }
    let mut out = Vec::new();
    let number = |out: &mut Vec<u8>, value: usize| {
        out.extend_from_slice(&u32::try_from(value).unwrap_or(u32::MAX).to_be_bytes());
    };
    let text = |out: &mut Vec<u8>, value: &str| {
        out.extend_from_slice(&u16::try_from(value.len()).unwrap_or(u16::MAX).to_be_bytes());
        out.extend_from_slice(value.as_bytes());
    };
    out.extend_from_slice(&MAGIC.to_be_bytes());
    out.extend_from_slice(&VERSION.to_be_bytes());
    number(&mut out, certificates.len());
    for (index, certificate) in certificates.iter().enumerate() {
        out.extend_from_slice(&TRUSTED_CERTIFICATE.to_be_bytes());
        text(&mut out, &format!("root-{index}"));
        // The entry's date, which nothing reads.
        out.extend_from_slice(&0_u64.to_be_bytes());
        text(&mut out, "X.509");
        number(&mut out, certificate.len());
        out.extend_from_slice(certificate);
    }
    let mut sum = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA1_FOR_LEGACY_USE_ONLY);
    for unit in PASSWORD.encode_utf16() {
        sum.update(&unit.to_be_bytes());
    }
    sum.update(SALT);
    sum.update(&out);
    out.extend_from_slice(sum.finish().as_ref());
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_certificate_stands_once_and_the_rest_is_left_out() {
        let made = rcgen::generate_simple_self_signed(["a.test".to_owned()]).unwrap();
        let pem = made.cert.pem();
        let store = jks(&format!(
            "comments\n{pem}\n{pem}-----BEGIN X-----\nAAAA\n-----END X-----\n"
        ));
        assert_eq!(store[..12], [0xfe, 0xed, 0xfe, 0xed, 0, 0, 0, 2, 0, 0, 0, 1]);
        let der = made.cert.der();
        assert!(store.windows(der.len()).any(|window| window == der.as_ref()));
        assert_eq!(store.len(), 12 + 4 + 2 + 6 + 8 + 2 + 5 + 4 + der.len() + 20);
        assert_eq!(jks("nothing").len(), 32);
    }
}
