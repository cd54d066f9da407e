//! Connections to the services behind the gateway.
//!
//! Before it stand [`crate::verdict`], which permits, and [`crate::credential`], which injects.
//! [`Dialer`] opens TCP, [`Pool`] keeps HTTP connections over it, [`closed`] lists where a
//! passthrough never leads.
//!
//! Invariants: nothing is dialled without a [`crate::verdict::Permit`] for that endpoint; what
//! is checked against [`closed`] is the resolved address itself, and that address is dialled; a
//! connection is never shared between agents, endpoints or client certificates.

pub mod closed;
pub mod dial;
pub mod dns;
mod drive;
pub mod keep;
pub mod lease;
pub mod pool;
pub mod postgres;

pub use closed::Closed;
pub use dial::{DialError, Dialer, Target};
pub use pool::{Pool, SendError, Sent, To, Version};
