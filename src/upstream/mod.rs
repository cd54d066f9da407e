//! The gateway's side of a connection to an upstream.

pub mod postgres;
