//! What a held action would do, shown to the people who are asked. *Pure.*
//!
//! A protocol that can tell offers a [`Preview`] with the action. The gate runs it once, before the
//! first person of a chain is asked, and writes its record first: bytes leave for upstream.

use std::future::Future;
use std::pin::Pin;

use serde_json::Value;

use super::Permit;

/// A boxed future, so that [`Preview`] can be a trait object.
pub type Wait<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Tells what an action would do, if it can.
///
/// What it gives is an object for people: `does` is what the approvers agree to (a retry that does
/// otherwise is another question), `none` is why there is nothing, and the rest is beside it.
pub trait Preview: Send + Sync {
    /// Where nothing is sent, what is shown instead; `None` where [`Preview::run`] has to be asked.
    fn without(&self) -> Option<Value>;

    /// Finds out, under a permit for the action's bytes that lets nothing of it last.
    fn run(&self, permit: Permit) -> Wait<'_, Value>;
}
