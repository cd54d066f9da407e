//! The tailnet as an ingress: a node that a tailscaled keeps, one that runs anyhow or our own, and
//! connections of its peers to the virtual addresses of the endpoints' names.
//!
//! - [`localapi`] speaks with tailscaled; [`whois`] reads an [`Identity`] out of its answer.
//! - [`directory`] asks who is behind each connection, and says when that changes; [`memory`] holds
//!   what was answered a moment ago, [`hearing`] whether changes are heard, [`port`] keeps connections from one port apart, [`miss`]
//!   counts questions in vain.
//! - [`door`] takes connections and has them asked for.
//! - [`listener`] has a socket for every virtual address and port that the policy claims;
//!   [`redirect`] those that connections to real addresses are turned to; [`sockets`] keeps them all.
//! - [`dns`] answers the endpoints' names on the node's addresses; [`own`] takes what asks the gateway's
//!   own name over HTTP.
//! - [`guard`] says what may be advertised without a way round the gateway, [`local`] which ranges end
//!   here, [`routes`] what is to be.
//! - [`approval`] says which of them the tailnet approved, and what its policy file lacks.
//! - [`daemon`] runs a tailscaled of our own, [`login`] lets its node in, [`oauth`] gets it a key.
//! - [`node`] follows tailscaled's bus, and keeps the routes declared; [`declared`] writes them down for a crash.
//!
//! Invariants: nobody is let in on anything but an answer of tailscaled for this very connection,
//! or for its node's address a moment before, with nothing changed since; what cannot be asked is
//! denied; what is judged on an open connection reads what is known of its peer then; it ends when
//! its peer's profile is another one, or the peer has left.
//!
//! [`Identity`]: crate::identity::Identity

pub mod approval;
pub mod bus;
pub mod daemon;
pub mod declared;
pub mod directory;
pub mod dns;
pub mod door;
pub mod filter;
pub mod guard;
pub mod hearing;
pub mod listener;
pub mod listeners;
pub mod local;
pub mod localapi;
pub mod login;
pub mod memory;
pub mod miss;
pub mod node;
pub mod oauth;
pub mod own;
pub mod port;
pub mod redirect;
pub mod routes;
pub mod sockets;
pub mod whois;

pub use daemon::{Daemon, DaemonError};
pub use directory::{Directory, Met, Stranger};
pub use dns::NameServer;
pub use door::{Accepted, Door};
pub use listener::Listener;
pub use localapi::{LocalApi, LocalApiError};
pub use login::Login;
pub use node::Node;
pub use own::{Called, Own};
pub use redirect::Redirect;
pub use routes::Plan;
pub use whois::{APPROVER, CAPABILITY, Known};
