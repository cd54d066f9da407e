//! The agent's machine: enrolment, the tunnel and the environment of one command.
//!
//! Neighbours: `cli::{join, run, env, status, leave}` call in here; `admin::enrol` is the other end.
//!
//! Invariants: the WireGuard private key is made here and never sent; TLS to the gateway trusts the
//! pinned CA alone; the command's network namespace has no route besides the tunnel; a live
//! key has one tunnel at a time, because a WireGuard responder keeps one session for it: a second run
//! gets a key of its own, which ends with it.

pub mod enrol;
pub mod environment;
pub mod invite;
mod kubeconfig;
pub mod namespace;
pub mod proof;
pub mod signed;
pub mod store;
pub mod truststore;
pub mod tunnel;
pub mod whoami;
