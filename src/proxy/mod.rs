//! Drives one connection of an agent through every stage.

pub mod postgres;
pub mod http;
pub mod route;
