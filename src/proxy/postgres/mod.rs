//! Drives one PostgreSQL connection: start-up, login to the server, then the session.
//!
//! Before it stands the ingress; what it needs of the gateway comes through [`Gateway`]. The
//! session itself is `protocol::postgres`, without I/O.
//!
//! Invariants: the server is dialled only with the Connect's permit; every buffer between the two
//! ends is bounded, and reading stops on the side that fills it; a cancel is passed on only for
//! the identity whose session it is; a new policy is the law of what was permitted and is not over.

mod cancel;
mod lasting;
mod path;
mod preview;
mod queue;
mod relay;
mod settings;
mod side;
mod start;

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::audit::{Outcome, RecordId};
use crate::bad_input;
use crate::credential::Secret;
use crate::identity::Agent;
use crate::identity::budget::Room;
use crate::policy::{Endpoint, Limits};
use crate::protocol::postgres::Grammar;
use crate::protocol::postgres::choice::Candidate;
use crate::protocol::postgres::startup::StartupError;
use crate::protocol::postgres::wire::WireError;
use crate::tls::Connectors;
use crate::upstream::postgres::LoginError;
pub use crate::upstream::postgres::Wire;
use crate::verdict::{Action, Approved, Cause, Permit, Preview, Refusal};

pub use cancel::Cancels;
pub use lasting::LASTING_BYTES_MAX;
pub use settings::SETTINGS_MAX;

/// A boxed future, so that [`Gateway`] can be a trait object.
pub type Wait<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// What a connection asks of the gateway around it.
pub trait Gateway: Send + Sync {
    /// The gate. Dropping the future withdraws the question.
    fn judge<'a>(&'a self, action: &'a Action) -> Wait<'a, Result<Permit, Refusal>>;
    /// As [`Gateway::judge`]; people are shown what the action would do.
    fn judge_shown<'a>(
        &'a self,
        action: &'a Action,
        preview: &'a dyn Preview,
    ) -> Wait<'a, Result<Permit, Refusal>>;
    /// Whether approvers will be asked, as far as can be told before.
    fn asks(&self, action: &Action) -> bool;
    /// Changes with every policy that comes into force.
    fn reloads(&self) -> watch::Receiver<u64>;
    /// Whether the policy in force lets an action pass that was permitted before, and that the
    /// approvers of this rule had said yes to.
    ///
    /// # Errors
    /// Why it does not.
    fn still(&self, action: &Action, approved_by: Option<&Approved>) -> Result<(), Refusal>;
    /// Room in memory for this agent's connections; none where they have too much.
    fn room(&self, bytes: usize) -> Option<Room>;
    /// An action has ended.
    fn finish(&self, record: RecordId, outcome: Outcome);
    /// Something was refused by the protocol itself.
    fn refused<'a>(&'a self, summary: &'a str, refusal: Refusal) -> Wait<'a, ()>;
    /// Dials the endpoint's server.
    fn dial<'a>(&'a self, permit: &'a Permit) -> Wait<'a, io::Result<Box<dyn Wire>>>;
    /// The secret of the permit's credential.
    fn secret<'a>(&'a self, permit: &'a Permit) -> Wait<'a, Result<Secret, Refusal>>;
    /// Whether SSLRequest is answered with yes.
    fn offers_tls(&self) -> bool;
    /// Ends the agent's TLS, if there is a leaf for it. ALPN offers `postgresql`.
    fn accept_tls<'a>(&'a self, io: Box<dyn Wire>) -> Option<Wait<'a, io::Result<Box<dyn Wire>>>>;
    /// Whether a rule of now tells SQL names by their schemas.
    fn names_schemas(&self) -> bool;
    /// How SQL is read in a session of this database and role.
    fn grammar(&self, database: &str, user: &str) -> Arc<dyn Grammar>;
}

/// Everything about one connection.
pub struct Context<'a> {
    pub gateway: &'a dyn Gateway,
    pub agent: &'a Agent,
    /// Where it is told what it may reach.
    pub help: String,
    pub endpoint: &'a Endpoint,
    /// The name that the server's certificate must be for.
    pub host: &'a str,
    /// The credentials that the profile holds at the endpoint.
    pub held: Vec<Candidate>,
    pub limits: &'a Limits,
    pub connectors: &'a Connectors,
    pub cancels: &'a Cancels,
}

/// Prepared statements and portals that one session may have.
pub const STATEMENTS_MAX: usize = 4096;
/// Bytes that one session's prepared statements may have together; as many its portals' parameters.
pub const PREPARED_BYTES_MAX: usize = 16 << 20;

/// Bytes that all Postgres connections of one agent may hold in memory, besides
/// [`ROOM_STEP_BYTES`] for each.
pub const AGENT_BYTES_MAX: usize = 256 << 20;
/// Bytes by which a connection takes room.
pub const ROOM_STEP_BYTES: usize = 256 << 10;

/// A connection that ended otherwise than by its agent's or its server's leave.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Startup(#[from] StartupError),
    #[error(transparent)]
    Login(#[from] LoginError),
    #[error(transparent)]
    Wire(#[from] WireError),
    #[error("refused: {}", .0.reason)]
    Refused(Refusal),
    #[error("nothing came in time")]
    Late,
    #[error("your connections hold too much at once")]
    Full,
}

/// Serves one connection of an agent until it ends.
///
/// # Errors
/// Why it ended, for the log; the agent was told what it may know.
pub async fn serve(io: Box<dyn Wire>, context: &Context<'_>) -> Result<(), ServeError> {
    let served = serve_until(io, context).await;
    match &served {
        Err(ServeError::Startup(why)) => bad_input::count(bad_input::Reader::Postgres, why),
        Err(ServeError::Wire(why)) => count_wire(why),
        _ => {}
    }
    served
}

/// Counts what broke the protocol, as that end's who did.
fn count_wire(why: &WireError) {
    use bad_input::Reader::{Postgres, PostgresServer};
    match why {
        WireError::Agent(_) | WireError::Long => bad_input::count(Postgres, why),
        WireError::Upstream(_) => bad_input::count(PostgresServer, &"message"),
        WireError::LongAnswer | WireError::Setting(_) => bad_input::count(PostgresServer, why),
    }
}

async fn serve_until(io: Box<dyn Wire>, context: &Context<'_>) -> Result<(), ServeError> {
    let time = Duration::from_millis(context.limits.handshake_ms);
    let opened = tokio::time::timeout(time, start::open(io, context)).await;
    let (mut agent, startup) = match opened.unwrap_or(Err(ServeError::Late)) {
        Ok(Some(opened)) => opened,
        Ok(None) => return Ok(()),
        Err(error) => return Err(noted(error, context).await),
    };
    match start::connect(&mut agent, startup, context).await {
        Ok(connected) => relay::relay(agent, connected, context).await,
        Err(error) => {
            start::tell(&mut agent, &error, &context.help).await;
            Err(noted(error, context).await)
        }
    }
}

/// Puts a start that is refused before the gate could be asked on record.
async fn noted(error: ServeError, context: &Context<'_>) -> ServeError {
    if let ServeError::Startup(why) = &error {
        let refusal = Refusal::new(Cause::Malformed, why.to_string());
        context.gateway.refused("connect", refusal).await;
    }
    error
}
