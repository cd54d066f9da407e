//! HCL in, a compiled policy out, and from it a verdict for every action. *Pure.*
//!
//! A [`Policy`] is an immutable snapshot. Loading either yields one whole policy or every
//! diagnostic that was found. [`Policy::evaluate`] is total: it never panics, and whatever it
//! cannot decide it denies.

pub mod cel;
pub mod diagnostic;
mod hcl;
pub mod model;
#[cfg(feature = "daemon")]
pub mod source;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::facts::{FactSet, Facts};
use crate::identity::{Agent, Identity};
use crate::verdict::Verdict;

pub use diagnostic::{Diagnostic, Diagnostics};
pub use model::*;

/// One configuration file, already read.
#[derive(Clone, Debug)]
pub struct Source {
    pub path: PathBuf,
    pub text: String,
}

/// How the loader reads files that a policy names (`<<file:ca.pem>>`): path in, text out.
pub type ReadFile<'a> = &'a dyn Fn(&Path) -> std::io::Result<String>;

/// A compiled, immutable policy.
pub struct Policy {
    pub(crate) model: Model,
}

/// The verdict on one action, with what shadow rules would have said.
#[derive(Clone, Debug)]
pub struct Judgement {
    pub verdict: Verdict,
    /// Rules in shadow mode that matched before the deciding one, as `rule=verdict`.
    pub shadow: Vec<String>,
}

impl Policy {
    /// Reads, resolves and compiles; all errors at once.
    pub fn load(_sources: Vec<Source>, _read: ReadFile<'_>) -> Result<Policy, Diagnostics> {
        todo!()
    }

    /// The resolved configuration.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// A number that changes whenever the configuration's contents do.
    pub fn version(&self) -> u64 {
        todo!()
    }

    /// The profile that claims an identity.
    ///
    /// # Errors
    /// None or several profiles claim it; the text says which.
    pub fn profile_for(&self, _identity: &Identity) -> Result<Arc<str>, String> {
        todo!()
    }

    /// The facts that any rule reads which may apply to `agent`'s actions on `endpoint`.
    pub fn needs(&self, _agent: &Agent, _endpoint: &str) -> FactSet {
        todo!()
    }

    /// Judges one request. Total: what it cannot decide it denies.
    pub fn evaluate(
        &self,
        _agent: &Agent,
        _endpoint: &str,
        _credential: Option<&str>,
        _facts: &Facts,
    ) -> Judgement {
        todo!()
    }
}
