//! SHA-256 (FIPS 180-4) of what is recorded: of each action, and of each record's place in the chain. *Pure.*
//!
//! The daemon has it from the library of its TLS, which on processors without instructions for it needs half of the time.

#[cfg(feature = "daemon")]
pub(crate) struct Sha256(aws_lc_rs::digest::Context);

#[cfg(feature = "daemon")]
impl Sha256 {
    pub(crate) fn new() -> Self {
        Sha256(aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256))
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    pub(crate) fn finish(self) -> [u8; 32] {
        let mut hash = [0; 32];
        hash.copy_from_slice(self.0.finish().as_ref());
        hash
    }
}

#[cfg(not(feature = "daemon"))]
pub(crate) struct Sha256(sha2::Sha256);

#[cfg(not(feature = "daemon"))]
impl Sha256 {
    pub(crate) fn new() -> Self {
        Sha256(sha2::Digest::new())
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        sha2::Digest::update(&mut self.0, bytes);
    }

    pub(crate) fn finish(self) -> [u8; 32] {
        sha2::Digest::finalize(self.0).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verdict::Digest;

    #[test]
    fn it_is_sha_256() {
        let mut hash = Sha256::new();
        hash.update(b"ab");
        hash.update(b"c");
        let own = hash.finish();
        assert_eq!(
            own.as_slice(),
            sha2::Digest::finalize(<sha2::Sha256 as sha2::Digest>::new_with_prefix(b"abc")).as_slice()
        );
        assert_eq!(own[..4], [0xba, 0x78, 0x16, 0xbf]);
        assert_eq!(Digest::EMPTY, Digest::of(&[]));
    }
}
