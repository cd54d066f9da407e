//! What the session needs to know of SQL: the seam to the grammar. *Pure.*

use std::sync::Arc;

use crate::facts::Facts;

pub use crate::facts::sql::{Effect, Parameters, Seen};

/// One statement of a text, as PostgreSQL's grammar cuts it.
#[derive(Clone, Debug)]
pub struct Statement {
    pub text: String,
    /// Its facts, but for `parameters`.
    pub facts: Facts,
    pub effect: Effect,
    /// The names that EXECUTE in it runs.
    pub executes: Vec<String>,
    /// It could change how the server reads the texts that follow.
    pub rereads: bool,
    /// For PREPARE, what EXECUTE of the name will run.
    pub prepares: Option<Arc<Statement>>,
}

/// Reads SQL as the server does.
pub trait Grammar: Send + Sync {
    /// Every statement of a text in order. A text that does not parse is one statement with
    /// unknown facts; a text without a statement is empty.
    fn read(&self, text: &str) -> Vec<Statement>;

    /// The facts of a statement run with these parameters.
    fn bound(&self, facts: &Facts, parameters: Parameters) -> Facts;

    /// The facts of a statement that EXECUTEs a prepared one, of both together.
    fn executing(&self, outer: &Facts, prepared: &Facts) -> Facts;

    /// The facts of a statement whose parameters are said to be of somebody's own types: what reads them runs.
    fn of_own_types(&self, facts: &Facts) -> Facts;

    /// The facts of code that cannot be read: a function call message.
    fn opaque(&self, text: &str) -> Facts;
}

/// Bytes of a name that the server keeps apart (`NAMEDATALEN` - 1).
pub const NAME_BYTES_MAX: usize = 63;
