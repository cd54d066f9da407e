//! Signatures over requests, both ways: HMAC-SHA256 with a time, and each counts once.
//!
//! What is signed differs by service and stands with it. Common to all is that a time that is too far off
//! is refused, and so is what came before within that time.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use hmac::{Hmac, Mac as _};
use sha2::Sha256;

/// Seconds that the time of a signed request may be off, either way.
pub const SIGNED_OFF_S_MAX: i64 = 300;
/// Signatures that are remembered, of all channels; with more of them within their time the next is refused.
pub const SIGNATURES_MAX: usize = 16_384;

/// Why a signed request does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unsigned {
    #[error("the request is not signed")]
    Missing,
    #[error("the signature is another")]
    Wrong,
    #[error("the time of the signature is more than {SIGNED_OFF_S_MAX} s off")]
    Stale,
    #[error("this request came before")]
    Replayed,
    #[error("too many requests")]
    Full,
}

/// The HMAC of parts, one behind the other.
pub fn mac(secret: &[u8], parts: &[&[u8]]) -> Vec<u8> {
    keyed(secret, parts).finalize().into_bytes().to_vec()
}

/// Whether `given` is the HMAC of parts, in constant time.
pub fn is_mac(secret: &[u8], parts: &[&[u8]], given: &[u8]) -> bool {
    keyed(secret, parts).verify_slice(given).is_ok()
}

fn keyed(secret: &[u8], parts: &[&[u8]]) -> Hmac<Sha256> {
    #[allow(clippy::expect_used, reason = "a key of any length is taken")]
    let mut mac = Hmac::<Sha256>::new_from_slice(secret).expect("any key");
    parts.iter().for_each(|part| mac.update(part));
    mac
}

/// The signatures of the time that counts.
#[derive(Default)]
pub struct Seen {
    /// Until when each would count, Unix seconds.
    until: Mutex<HashMap<Vec<u8>, i64>>,
}

impl Seen {
    /// Lets a signed request count, once, if its time is near enough. To be asked after the signature was
    /// found to be right: others fill no memory.
    ///
    /// # Errors
    /// Why it does not count.
    pub fn once(&self, signature: &[u8], at_s: i64, now_s: i64) -> Result<(), Unsigned> {
        if at_s.abs_diff(now_s) > SIGNED_OFF_S_MAX.unsigned_abs() {
            return Err(Unsigned::Stale);
        }
        let mut until = self.until.lock().unwrap_or_else(PoisonError::into_inner);
        if until.len() >= SIGNATURES_MAX {
            until.retain(|_, until| *until >= now_s);
        }
        if until.contains_key(signature) {
            return Err(Unsigned::Replayed);
        }
        if until.len() >= SIGNATURES_MAX {
            return Err(Unsigned::Full);
        }
        until.insert(signature.to_vec(), at_s.saturating_add(SIGNED_OFF_S_MAX));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_counts_once_and_in_its_time() {
        let seen = Seen::default();
        let now = 1_000_000;
        for (at, counts) in [
            (now - SIGNED_OFF_S_MAX - 1, Err(Unsigned::Stale)),
            (now + SIGNED_OFF_S_MAX + 1, Err(Unsigned::Stale)),
            (i64::MIN, Err(Unsigned::Stale)),
            (now + SIGNED_OFF_S_MAX, Ok(())),
        ] {
            assert_eq!(seen.once(b"a", at, now), counts, "{at}");
        }
        // As long as its time would count, and no entry is dropped before.
        assert_eq!(
            seen.once(b"a", now + SIGNED_OFF_S_MAX, now + 2 * SIGNED_OFF_S_MAX),
            Err(Unsigned::Replayed)
        );
    }

    #[test]
    fn a_full_memory_refuses_and_is_emptied_by_time() {
        let seen = Seen::default();
        for number in 0..SIGNATURES_MAX {
            seen.once(&number.to_be_bytes(), 1000, 1000).unwrap();
        }
        assert_eq!(seen.once(b"more", 1000, 1000), Err(Unsigned::Full));
        assert_eq!(
            seen.once(&0_usize.to_be_bytes(), 1000, 1000),
            Err(Unsigned::Replayed)
        );
        let later = 1000 + SIGNED_OFF_S_MAX + 1;
        assert_eq!(seen.once(b"more", later, later), Ok(()));
    }

    #[test]
    fn a_mac_is_of_all_parts() {
        // RFC 4231, test case 2.
        let own = mac(b"Jefe", &[b"what do ya want ", b"for nothing?"]);
        assert!(own.starts_with(&[0x5b, 0xdc, 0xc1, 0x46]));
        assert!(is_mac(b"Jefe", &[b"what do ya want for nothing?"], &own));
        assert!(!is_mac(b"Jefe", &[b"what do ya want for nothing"], &own));
        assert!(!is_mac(b"jefe", &[b"what do ya want for nothing?"], &own));
        assert!(!is_mac(b"Jefe", &[b"what do ya want for nothing?"], &own[..31]));
    }
}
