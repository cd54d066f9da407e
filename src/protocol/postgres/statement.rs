//! What the session needs to know of SQL: the seam to the grammar. *Pure.*

use crate::facts::{Fact, Facts};

/// One statement of a text, as PostgreSQL's grammar cuts it.
#[derive(Clone, Debug)]
pub struct Statement {
    pub text: String,
    /// Its facts, but for `parameters`.
    pub facts: Facts,
    pub effect: Effect,
}

/// What a statement does to the session's own state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    None,
    /// SET or RESET of a setting, folded; `None` for RESET ALL.
    Set(Option<String>),
    /// PREPARE name AS the statement whose facts these are.
    Prepare(String),
    /// EXECUTE name.
    Execute(String),
    /// DEALLOCATE name; `None` for ALL and for DISCARD ALL.
    Deallocate(Option<String>),
}

/// Reads SQL as the server does.
pub trait Grammar: Send + Sync {
    /// Every statement of a text in order. A text that does not parse is one statement with
    /// unknown facts; a text without a statement is empty.
    fn read(&self, text: &str) -> Vec<Statement>;

    /// The facts of a statement run with these parameters (a JSON list of texts and nulls).
    fn bound(&self, facts: &Facts, parameters: Fact<serde_json::Value>) -> Facts;

    /// The facts of code that cannot be read: a function call message, EXECUTE of an unknown name.
    fn opaque(&self, text: &str) -> Facts;
}
