//! The facts of the `http` family. *Pure.*

use crate::facts::{Blind, Fact, FactSource, Slot, View};

/// The facts of one action of the family.
#[derive(Clone, Debug)]
pub struct HttpFacts {}

impl FactSource for HttpFacts {
    fn fact(&self, _slot: Slot) -> Fact<View<'_>> {
        Fact::Unknown(Blind::NotRead)
    }
}

/// What is held of a request's body when its facts are read.
#[derive(Clone, Copy, Debug)]
pub enum HeldBody<'a> {
    /// The request has no body.
    Empty,
    /// The whole body, as it was sent (content coding not undone).
    Whole(&'a [u8]),
    /// The body is longer than `body_bytes_max`; its facts are unknown.
    Over,
    /// No rule reads the body, so it is streamed and not held.
    NotHeld,
}
