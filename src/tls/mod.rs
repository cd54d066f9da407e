//! Ends the agent's TLS and speaks TLS to the upstream.
//!
//! Before it stands [`crate::ingress`], which hands over a byte stream; behind it the protocols.
//! [`Authority`] is the gateway's own CA, [`Leaves`] mints the certificates that agents see,
//! [`accept`] reads a ClientHello whole and decides on it, [`client`] is the other side, and
//! [`verify`] is the one place where an upstream's certificate is judged.
//!
//! Invariants: no leaf is minted for a name that the claimed endpoint does not claim; the CA's
//! key never leaves the state folder and this process; no 0-RTT on either side, since early data
//! can be replayed; a certificate that is not verified is so because `sslmode` says it.

pub mod accept;
pub mod authority;
pub mod binding;
pub mod client;
pub mod leaf;
pub mod verify;

use std::sync::{Arc, OnceLock};

use rustls::crypto::CryptoProvider;

pub use accept::{AcceptError, Expected, Greeting, Offer};
pub use authority::{Authority, AuthorityError};
pub use client::{ClientIdentity, Connectors, TlsUpstream, Wanted};
pub use leaf::{Leaf, LeafName, Leaves};
pub use verify::Verify;

/// The first byte of a TLS connection: a handshake record (RFC 8446 §5.1). No HTTP method and no
/// Postgres start-up packet begins with it.
pub const HANDSHAKE_RECORD: u8 = 0x16;

/// The cryptography of every TLS configuration, named so that no process-wide default is needed.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    PROVIDER
        .get_or_init(|| Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .clone()
}

#[cfg(test)]
mod tests;
