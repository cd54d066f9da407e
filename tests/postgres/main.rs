//! Postgres through the gateway: real clients (psql, pgbench, psycopg, raw streams) on one side, a
//! real PostgreSQL on the other, the whole proxy with its gate and audit log in between.

#![allow(
    clippy::panic,
    clippy::unwrap_used,
    dead_code,
    reason = "tests say what they expect"
)]

mod cancels;
mod clients;
mod copies;
mod evasions;
mod facts;
#[path = "../support/folder.rs"]
mod folder;
mod liars;
mod logins;
mod names;
mod pipelines;
mod portals;
mod previews;
mod raw;
mod schemas;
#[path = "../support/postgres.rs"]
mod server;
mod settings;
mod starts;
mod world;
