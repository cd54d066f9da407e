//! The whole program as a black box: the real gateway, a real agent in its tunnel, real services
//! behind it. Every failure that was shown of such gateways elsewhere has a test here by its name.
//!
//! Needs root or user namespaces, and `/dev/net/tun`; where a machine allows neither, says so.

#![allow(
    clippy::panic,
    clippy::unwrap_used,
    dead_code,
    reason = "tests say what they expect; the service is shared with tests/http"
)]

mod agent;
mod demo;
mod destination;
mod fenced;
mod http;
mod join;
mod kubectl;
mod kubernetes;
mod ordinary;
mod plain;
#[path = "../support/postgres.rs"]
mod postgres;
mod programs;
mod reload;
#[path = "../http/server.rs"]
mod server;
mod sql;
mod stop;
mod terminal;
mod whoami;
mod world;
