//! The tailnet as an ingress: a node that a running tailscaled keeps, and connections of its peers
//! to the virtual addresses of the endpoints' names.
//!
//! - [`localapi`] speaks with tailscaled; [`whois`] reads an [`Identity`] out of its answer.
//! - [`directory`] asks who is behind each connection, and says when that changes.
//! - [`door`] takes connections and has them asked for.
//! - [`listener`] has a socket for every virtual address and port that the policy claims.
//! - [`redirect`] accepts connections to real addresses, where tailscaled has a network device.
//! - [`guard`] says what may be advertised without a way round the gateway.
//! - [`routes`] says what is advertised; [`node`] follows tailscaled's bus, and keeps it declared.
//!
//! Invariants: nobody is let in on anything but an answer of tailscaled for this very connection,
//! asked while it is open; what cannot be asked is denied; a connection ends when its peer is not
//! any more who it was.
//!
//! [`Identity`]: crate::identity::Identity

pub mod directory;
pub mod door;
pub mod guard;
pub mod listener;
pub mod localapi;
pub mod node;
pub mod redirect;
pub mod routes;
pub mod whois;

pub use directory::{Directory, Stranger};
pub use door::{Accepted, Door};
pub use listener::Listener;
pub use localapi::{LocalApi, LocalApiError};
pub use node::Node;
pub use redirect::Redirect;
pub use routes::Plan;
pub use whois::{CAPABILITY, Known};
