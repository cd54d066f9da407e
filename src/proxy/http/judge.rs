//! Who decides, as the HTTP path sees it.

use tokio::sync::watch;

use crate::audit::{Outcome, RecordId};
use crate::facts::{FactSet, Mask};
use crate::identity::Agent;
use crate::policy::Model;
use crate::verdict::gate::{Gate, How};
use crate::verdict::{Action, Approved, Permit, Refusal};

/// The gate, and what of the policy in force a request needs. Every call is answered by the
/// newest policy.
pub trait Judge: Send + Sync + 'static {
    /// Reads the configuration in force.
    fn with_model<T>(&self, read: impl FnOnce(&Model) -> T) -> T;

    /// What hides credentials from people.
    fn mask(&self) -> Mask;

    /// The facts that rules read for this agent and endpoint.
    fn needs(&self, agent: &Agent, endpoint: &str) -> FactSet;

    /// Whether approvers would have to see all of it; see [`Gate::asks`].
    fn asks(&self, agent: &Agent, action: &Action) -> bool;

    /// Judges one action; see [`Gate::judge_as`].
    fn judge(
        &self,
        agent: &Agent,
        action: &Action,
        how: How<'_>,
    ) -> impl Future<Output = Result<Permit, Refusal>> + Send;

    /// Records a refusal that was found before an action could be read.
    fn refuse(
        &self,
        agent: &Agent,
        endpoint: &str,
        summary: &str,
        refusal: Refusal,
    ) -> impl Future<Output = Refusal> + Send;

    /// Adds what became of a permitted action to its record.
    fn finish(&self, record: RecordId, outcome: Outcome);

    /// Changes with every policy; see [`Gate::reloads`].
    fn reloads(&self) -> watch::Receiver<u64>;

    /// Whether a permitted action would pass still; see [`Gate::still`].
    ///
    /// # Errors
    /// Why it would not.
    fn still(&self, agent: &Agent, action: &Action, approved_by: Option<&Approved>) -> Result<(), Refusal>;

    /// Waits until a permitted action that lasts would not pass any more; see [`Gate::revoked`].
    fn revoked(
        &self,
        agent: &Agent,
        action: &Action,
        approved_by: Option<&Approved>,
        reloads: watch::Receiver<u64>,
    ) -> impl Future<Output = Refusal> + Send;
}

impl Judge for Gate {
    fn with_model<T>(&self, read: impl FnOnce(&Model) -> T) -> T {
        read(self.policy().model())
    }

    fn mask(&self) -> Mask {
        self.policy().mask().clone()
    }

    fn needs(&self, agent: &Agent, endpoint: &str) -> FactSet {
        Gate::needs(self, agent, endpoint)
    }

    fn asks(&self, agent: &Agent, action: &Action) -> bool {
        Gate::asks(self, agent, action)
    }

    async fn judge(&self, agent: &Agent, action: &Action, how: How<'_>) -> Result<Permit, Refusal> {
        Gate::judge_as(self, agent, action, how).await
    }

    async fn refuse(&self, agent: &Agent, endpoint: &str, summary: &str, refusal: Refusal) -> Refusal {
        Gate::refuse(self, agent, endpoint, summary, refusal).await
    }

    fn finish(&self, record: RecordId, outcome: Outcome) {
        Gate::finish(self, record, outcome);
    }

    fn reloads(&self) -> watch::Receiver<u64> {
        Gate::reloads(self)
    }

    fn still(&self, agent: &Agent, action: &Action, approved_by: Option<&Approved>) -> Result<(), Refusal> {
        Gate::still(self, agent, action, approved_by)
    }

    async fn revoked(
        &self,
        agent: &Agent,
        action: &Action,
        approved_by: Option<&Approved>,
        reloads: watch::Receiver<u64>,
    ) -> Refusal {
        Gate::revoked(self, agent, action, approved_by, reloads).await
    }
}
