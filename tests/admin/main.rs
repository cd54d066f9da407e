//! The operator's side: the JSON API by raw HTTP, and by the commands of the real program.

#![allow(
    clippy::panic,
    clippy::unwrap_used,
    dead_code,
    reason = "tests say what they expect"
)]

mod browser;
mod chromium;
mod commands;
mod editing;
#[path = "../support/folder.rs"]
mod folder;
mod gateway;
mod granting;
mod guard;
mod http;
mod login;
#[path = "../tailnet/mood.rs"]
mod mood;
mod openapi;
mod page;
mod places;
mod rewriting;
mod streams;
#[path = "../tailnet/tailscaled.rs"]
mod tailscaled;
mod told;
mod tunnel;
mod watching;
mod world;
