//! PostgreSQL's protocol 3.0, agent's side and server's side, without I/O. *Pure.*
//!
//! [`wire`] cuts and builds messages, [`startup`] reads what a connection begins with, [`choice`]
//! which credential it means, [`session`] is the state machine of what follows. The driver is
//! `proxy::postgres`; the login to the server is `upstream::postgres`.
//!
//! Invariants:
//! - Nothing that plans or runs is sent before it was judged: a Bind is held until its Execute, a
//!   Query until each of its statements has a permit. A prepared statement is judged at each Execute.
//! - What a name means is taken from the server's own confirmation, or from the same segment (the
//!   messages between two Syncs), in which the server skips a use whose definition failed.
//! - A refusal behind earlier messages is a message that must fail at the server (a Parse that
//!   its grammar refuses), whose error is replaced. So the place in the stream, the
//!   rollback, the skip up to Sync and the transaction state are the server's own.
//! - Text is read as UTF-8 with standard strings. Both are pinned at the start-up; a statement that
//!   would change them is refused, a change that was hidden in a function closes the connection.
//! - Parse and Describe are not judged: they run nothing, but they tell whether a table is there and
//!   which columns it has. Who must not learn that needs a role that may not see it.
//! - EXECUTE is judged as what was prepared, and refused where that is not known. What functions do
//!   to names (a DO that runs PREPARE) is not seen: it could run the same without a name.

pub mod bind;
pub mod choice;
pub mod grammar;
pub mod own;
pub mod session;
pub mod startup;
pub mod statement;
pub mod wire;

#[cfg(test)]
mod tests;

pub use session::PgSession;
pub use statement::{Effect, Grammar, Statement};
