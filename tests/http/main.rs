//! HTTP through the gateway: real agents (curl, kubectl's protocols, hyper) on one side, a real
//! server on the other, the real gate with its audit log in between.

#![allow(clippy::type_complexity, reason = "a test world")]
#![allow(
    clippy::panic,
    clippy::unwrap_used,
    dead_code,
    reason = "tests say what they expect"
)]

mod agent;
mod approvals;
mod basics;
mod bench;
mod credentials;
mod echoes;
#[path = "../support/folder.rs"]
mod folder;
mod foreign;
mod frames;
mod graphql;
mod hostile;
mod later;
mod lies;
mod limits;
mod mcp;
mod names;
mod policies;
mod secrecy;
mod server;
mod shown;
mod streams;
mod upgrades;
mod upstreams;
mod world;
