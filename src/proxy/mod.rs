//! Drives one connection of an agent through every stage.

pub mod http;
pub mod postgres;
pub mod route;
