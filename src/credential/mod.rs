//! Secrets: where they are kept, how a placeholder becomes one, how they are kept from leaking.
//!
//! [`Secret`] and the rewriting of requests are *pure*; the store that reads secrets is not.
//!
//! [`KnownSecrets`] keeps them out of records and of what approvers read.
//!
//! Invariants: a secret has no `Debug` and no `Clone`, and is zeroed when dropped; it is written
//! only into the slot that its credential's type names, and only with a permit.

mod filter;
pub mod forms;
mod known;
pub mod placeholder;
pub mod rewrite;
pub mod scrub;
#[cfg(feature = "daemon")]
pub mod store;

use zeroize::Zeroizing;

pub use known::KnownSecrets;
pub use placeholder::{Known, PlaceholderScan, in_trailers, select};
pub use rewrite::{Secrets, inject, scrub_all};
pub use scrub::Scrub;

/// The real value of a credential.
pub struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    pub fn new(bytes: Vec<u8>) -> Self {
        Secret(Zeroizing::new(bytes))
    }

    /// The bytes, for the slot of the credential's type and nothing else.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

#[cfg(test)]
mod tests;
