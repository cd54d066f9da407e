//! Tailkeep: a firewall for AI agents that works on the wire.
//!
//! The modules stand in the order in which a connection meets them. `src/README.md` is the
//! code map; it lists the invariants and the test that guards each of them.
//!
//! Modules marked *pure* use no socket, clock, task or file. They are all that
//! `cargo check --no-default-features` builds.

#[cfg(feature = "daemon")]
pub mod sys;

#[cfg(feature = "daemon")]
pub mod ingress;

pub mod bad_input;

pub mod identity;

#[cfg(feature = "daemon")]
pub mod tls;

pub mod protocol;

pub mod facts;

pub mod policy;

pub mod verdict;

pub mod credential;

#[cfg(feature = "daemon")]
pub mod upstream;

pub mod audit;

#[cfg(feature = "daemon")]
pub mod state;

#[cfg(feature = "daemon")]
pub mod proxy;

#[cfg(feature = "daemon")]
pub mod admin;

#[cfg(feature = "daemon")]
pub mod client;

#[cfg(feature = "daemon")]
pub mod lsp;

#[cfg(feature = "daemon")]
pub mod cli;
