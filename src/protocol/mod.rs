//! The wire protocols, without I/O. *Pure.*
//!
//! A protocol whose stream this gateway drives itself (Postgres) is a [`Session`]: bytes in,
//! [`Output`]s out, no socket and no clock. HTTP rides hyper from `proxy/`; what is pure of it
//! (checks of heads, denial bodies, Kubernetes' `Status`) stands here.
//!
//! Invariant: no adapter decides anything. What may pass or fail is an [`Output::Decide`].

pub mod admit;
pub mod http;
pub mod kubernetes;
pub mod mcp;
pub mod postgres;

use std::time::Instant;

use bytes::Bytes;

use crate::audit::{Outcome, RecordId};
use crate::verdict::{Action, Permit, Refusal};

/// One end of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Agent,
    Upstream,
}

/// What a session wants done, in order.
#[derive(Debug)]
pub enum Output {
    /// Send these bytes to a side.
    Write(Side, Bytes),
    /// Ask the gate; nothing more of this agent goes up until the ruling is handed in.
    Decide(Box<Action>),
    /// Nothing more will be judged: copy both ways until either side closes.
    Splice,
    /// A permitted action has ended: its outcome is for its record.
    Finish(RecordId, Outcome),
    /// The protocol itself forbids something, shown as one line: it is for the record.
    Refused(String, Refusal),
    /// Flush what was written and close both sides.
    Close,
}

/// A protocol's state machine.
pub trait Session: Send {
    /// The error of bytes that break the protocol; it says whose fault it was.
    type Error: std::error::Error + Send;

    /// Takes bytes that a side sent.
    fn handle_input(&mut self, from: Side, bytes: &[u8], now: Instant) -> Result<(), Self::Error>;

    /// Takes the answer to the last [`Output::Decide`].
    fn handle_ruling(&mut self, ruling: Result<Permit, Refusal>) -> Result<(), Self::Error>;

    /// The next thing to do, or `None` until there is more input.
    fn poll_output(&mut self) -> Option<Output>;

    /// When to call [`Session::handle_timeout`], if nothing happens before.
    fn poll_timeout(&self) -> Option<Instant>;

    /// A deadline from [`Session::poll_timeout`] has passed.
    fn handle_timeout(&mut self, now: Instant);
}
