//! kubectl through the gateway to a real API server with a real etcd and a kubelet's streaming
//! server (`cluster/`, built by `scripts/test`).

#![allow(
    clippy::panic,
    clippy::type_complexity,
    clippy::unwrap_used,
    dead_code,
    reason = "tests say what they expect"
)]

mod cluster;
mod credentials;
#[path = "../support/folder.rs"]
mod folder;
mod previews;
mod slow;
mod streams;
mod verbs;
#[path = "../http/world.rs"]
mod world;
