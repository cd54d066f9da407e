//! How an enrolled machine proves itself to the enrolment listener after its token is used up.
//!
//! Both sides know the X25519 secret of the machine's and the gateway's WireGuard keys; nobody else
//! can make the tag (HMAC-SHA256, RFC 2104) over the request. It goes over TLS by the pinned CA; the
//! time in it bounds what a copy would be good for.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use boringtun::x25519::{PublicKey, StaticSecret};
use hmac::{Hmac, Mac as _};
use sha2::{Digest as _, Sha256};

/// Seconds that the clocks of a machine and its gateway may differ.
pub const SKEW_S_MAX: u64 = 300;
/// The scheme's name in `Authorization`.
const SCHEME: &str = "Tailkeep ";
/// Keeps this key apart from every other use of the same two keys.
const CONTEXT: &[u8] = b"tailkeep enrolled request 1";

/// What is proven: a request at a time.
#[derive(Clone, Copy, Debug)]
pub struct Claim<'a> {
    pub path: &'a str,
    pub body: &'a [u8],
    /// Unix time, seconds.
    pub at_s: u64,
}

fn tag(secret: &[u8; 32], other: &[u8; 32], claim: &Claim<'_>) -> Option<Hmac<Sha256>> {
    let shared = StaticSecret::from(*secret).diffie_hellman(&PublicKey::from(*other));
    // A key of small order gives a secret that everyone knows.
    if !shared.was_contributory() {
        return None;
    }
    let mut hash = Sha256::new();
    hash.update(CONTEXT);
    hash.update(shared.as_bytes());
    let mut mac = Hmac::<Sha256>::new_from_slice(&hash.finalize()).ok()?;
    mac.update(&claim.at_s.to_be_bytes());
    mac.update(&u64::try_from(claim.path.len()).ok()?.to_be_bytes());
    mac.update(claim.path.as_bytes());
    mac.update(claim.body);
    Some(mac)
}

/// The `Authorization` of a request, by the machine's private key and the gateway's public one.
/// `None` for a public key that is none.
pub fn header(private: &[u8; 32], gateway: &[u8; 32], claim: &Claim<'_>) -> Option<String> {
    let mac = tag(private, gateway, claim)?.finalize().into_bytes();
    let public = PublicKey::from(&StaticSecret::from(*private));
    Some(format!(
        "{SCHEME}{} {} {}",
        STANDARD.encode(public.as_bytes()),
        claim.at_s,
        STANDARD.encode(mac)
    ))
}

/// The public key of the machine that made a request, if the header proves it.
pub fn verify(header: &str, gateway: &[u8; 32], path: &str, body: &[u8], now_s: u64) -> Option<[u8; 32]> {
    let mut parts = header.strip_prefix(SCHEME)?.split(' ');
    let (key, at, mac) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() {
        return None;
    }
    let key: [u8; 32] = STANDARD.decode(key).ok()?.try_into().ok()?;
    let at_s: u64 = at.parse().ok()?;
    if at_s.abs_diff(now_s) > SKEW_S_MAX {
        return None;
    }
    let claim = Claim { path, body, at_s };
    let mac = STANDARD.decode(mac).ok()?;
    tag(gateway, &key, &claim)?.verify_slice(&mac).ok()?;
    Some(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_proven_by_its_maker_for_itself_and_for_a_while() {
        let (machine, gateway) = ([3; 32], [7; 32]);
        let public = |key: [u8; 32]| *PublicKey::from(&StaticSecret::from(key)).as_bytes();
        let claim = Claim {
            path: "/v1/run",
            body: b"{}",
            at_s: 1_000_000,
        };
        let made = header(&machine, &public(gateway), &claim).unwrap();
        let check = |header: &str, key: [u8; 32], path: &str, body: &[u8], now: u64| {
            verify(header, &key, path, body, now)
        };
        let now = claim.at_s;
        assert_eq!(
            check(&made, gateway, "/v1/run", b"{}", now),
            Some(public(machine))
        );
        assert!(check(&made, gateway, "/v1/run", b"{}", now + SKEW_S_MAX).is_some());
        assert!(check(&made, gateway, "/v1/run", b"{}", now - SKEW_S_MAX).is_some());
        assert_eq!(
            check(&made, gateway, "/v1/run", b"{}", now + SKEW_S_MAX + 1),
            None
        );
        assert_eq!(
            check(&made, gateway, "/v1/run", b"{}", now - SKEW_S_MAX - 1),
            None
        );
        assert_eq!(check(&made, gateway, "/v1/leave", b"{}", now), None);
        assert_eq!(check(&made, gateway, "/v1/run", b"{ }", now), None);
        assert_eq!(check(&made, [8; 32], "/v1/run", b"{}", now), None);
        // Another's key, another time, cut anywhere.
        let others = STANDARD.encode(public([4; 32]));
        let mine = STANDARD.encode(public(machine));
        assert_eq!(
            check(&made.replace(&mine, &others), gateway, "/v1/run", b"{}", now),
            None
        );
        assert_eq!(
            check(
                &made.replace("1000000", "1000001"),
                gateway,
                "/v1/run",
                b"{}",
                now
            ),
            None
        );
        for end in 0..made.len() {
            assert_eq!(check(&made[..end], gateway, "/v1/run", b"{}", now), None);
        }
        // The key of small order, whose secret with anyone is zero.
        assert_eq!(header(&machine, &[0; 32], &claim), None);
        let zero = made.replace(&mine, &STANDARD.encode([0; 32]));
        assert_eq!(check(&zero, gateway, "/v1/run", b"{}", now), None);
    }
}
