//! Waiting for decisions: who waits for which row, and waking them.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};

use super::before::{self, Before};
use super::decision::{self, Decide, DecideError};
use super::grant::{self, Grant, Which};
use super::revoked::Revoked;
use super::store::{self, Taken};
use super::{Answer, ApprovalDown, Held, Question, row};
use crate::state::{Killed, State, StateError, now_us};
use crate::verdict::Later;

/// Rows that one listing returns at most.
pub const LIST_MAX: u32 = 2048;

/// What became of an agent that was stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, schemars::JsonSchema)]
pub struct Stopped {
    /// Grants that were taken back.
    pub grants: usize,
    /// Held actions that were refused.
    pub held: usize,
}

/// The queue of held actions; cheap to clone.
#[derive(Clone)]
pub struct Queue {
    shared: Arc<Shared>,
}

struct Shared {
    state: State,
    /// Rows that somebody waits for.
    waiting: Mutex<HashMap<i64, Arc<Notify>>>,
    /// Counts changes of the list.
    changes: watch::Sender<u64>,
    revoked: Mutex<Revoked>,
    /// The gateway ends: who leaves now is not an agent that has gone.
    closing: AtomicBool,
}

/// Withdraws the row when the agent goes, unless it was answered.
struct Wait {
    shared: Arc<Shared>,
    question: Arc<Question>,
    id: i64,
    expires_us: i64,
    wake: Arc<Notify>,
    answered: bool,
}

impl Queue {
    /// A queue over the state database. Questions that were pending before a restart are pending still.
    pub fn new(state: State) -> Queue {
        let pruned = state.with(|connection| store::prune(connection, now_us()));
        if let Err(error) = pruned {
            tracing::error!(%error, "old approvals could not be removed");
        }
        Queue {
            shared: Arc::new(Shared {
                state,
                waiting: Mutex::default(),
                changes: watch::channel(0).0,
                revoked: Mutex::default(),
                closing: AtomicBool::new(false),
            }),
        }
    }

    /// The gateway ends. Questions stay as they are: their agents lose the connection for no fault
    /// of theirs, and the identical action finds its question again after a restart.
    pub fn close(&self) {
        self.shared.closing.store(true, Ordering::SeqCst);
    }

    /// Whether [`Queue::close`] was called.
    pub(crate) fn is_closing(&self) -> bool {
        self.shared.closing.load(Ordering::SeqCst)
    }

    /// Holds the question until it is decided or times out. Dropping the future (the agent left)
    /// withdraws the question.
    ///
    /// # Errors
    /// The database cannot be written, or a limit is reached. Either denies.
    pub async fn ask(&self, question: Question) -> Result<Answer, ApprovalDown> {
        let (shared, question) = (self.shared.clone(), Arc::new(question));
        let held = blocking(move || Shared::hold(&shared, question)).await?;
        let mut wait = match held {
            Ok(wait) => wait,
            Err(answer) => return Ok(answer),
        };
        loop {
            // Made before the row is read, so that no decision falls between.
            let wake = wait.wake.clone();
            let woken = wake.notified();
            let left = wait.expires_us.saturating_sub(now_us());
            if let Some(answer) = wait.look().await? {
                return Ok(answer);
            }
            let left = Duration::from_micros(u64::try_from(left).unwrap_or(0)) + Duration::from_millis(1);
            tokio::select! {
                () = woken => {}
                () = tokio::time::sleep(left) => {}
            }
        }
    }

    /// Before anything is done to find out what a question would show; `later` is of one whose agent does not wait.
    ///
    /// # Errors
    /// As of [`Queue::ask`].
    pub async fn before(&self, question: &Question, later: Option<&Later>) -> Result<Before, ApprovalDown> {
        let (shared, question, later) = (self.shared.clone(), question.clone(), later.cloned());
        blocking(move || {
            let waiting = shared.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            let waited_for = |id| waiting.contains_key(&id);
            before::look(&shared.state, &question, later.as_ref(), &waited_for)
        })
        .await
    }

    /// Takes a person's decision. Saying the same thing again changes nothing and succeeds.
    ///
    /// # Errors
    /// The question is unknown or closed otherwise, or the person is not eligible.
    pub async fn decide(&self, decision: Decide) -> Result<Held, DecideError> {
        Ok(self.decide_or_grant(decision).await?.0)
    }

    /// [`Queue::decide`], with the number of the grant that came into force by it.
    ///
    /// # Errors
    /// As there; the grant that is asked for may not be given, and then nothing is decided.
    pub async fn decide_or_grant(&self, decision: Decide) -> Result<(Held, Option<i64>), DecideError> {
        let shared = self.shared.clone();
        let task = tokio::task::spawn_blocking(move || {
            let decided = shared
                .state
                .with(|connection| Ok(decision::decide(connection, &decision)))?;
            match &decided {
                // Others may wait for what it is for.
                Ok((_, Some(_))) => shared.all_changed(),
                _ => shared.changed(decision.id),
            }
            decided
        });
        task.await.map_err(|_| StateError::Cancelled)?
    }

    /// One grant, whatever its state.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn grant(&self, id: i64) -> Result<Option<Grant>, StateError> {
        let one = move |state: &State| state.with(|connection| grant::one(connection, id));
        self.shared.state.run(one).await
    }

    /// The grants in force and those that wait for more people; with `all`, those that are over too.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn grants(&self, all: bool) -> Result<Vec<Grant>, StateError> {
        let list = move |state: &State| {
            state.with(|connection| {
                store::expire(connection, now_us())?;
                grant::list(connection, all, LIST_MAX)
            })
        };
        self.shared.state.run(list).await
    }

    /// Takes a grant back, durably: it lets nothing through any more, and what it let through counts
    /// as revoked ([`Queue::is_revoked`]). `None` if there is none; one that was taken back stays so.
    ///
    /// # Errors
    /// The database cannot be written.
    pub async fn revoke(&self, id: i64, person: String) -> Result<Option<Grant>, StateError> {
        let shared = self.shared.clone();
        let revoke = move |state: &State| {
            let grant = state.with(|connection| {
                let transaction = connection.transaction()?;
                store::expire(&transaction, now_us())?;
                grant::revoke(&transaction, Which::One(id), &person, now_us())?;
                let grant = grant::one(&transaction, id)?;
                transaction.commit()?;
                Ok(grant)
            })?;
            if grant.is_some() {
                shared.revoked().add(id);
            }
            shared.all_changed();
            Ok(grant)
        };
        self.shared.state.run(revoke).await
    }

    /// Whether a grant was taken back since this gateway began.
    pub fn is_revoked(&self, grant: i64) -> bool {
        self.shared.revoked().has(grant)
    }

    /// Stops an agent, durably: what it is held for is refused, and its grants are taken back. What it
    /// has open is the gate's to end.
    ///
    /// # Errors
    /// The database cannot be written, or too many are stopped.
    pub async fn kill(
        &self,
        agent: String,
        person: String,
        reason: Option<String>,
    ) -> Result<Stopped, StateError> {
        let shared = self.shared.clone();
        let kill = move |state: &State| {
            let (grants, held) = state.with(|connection| {
                let who = (agent.as_str(), person.as_str(), reason.as_deref());
                let stopped = store::kill(connection, who)?;
                state.publish_killed(connection)?;
                Ok(stopped)
            })?;
            grants.iter().for_each(|id| shared.revoked().add(*id));
            shared.all_changed();
            let grants = grants.len();
            Ok(Stopped { grants, held })
        };
        self.shared.state.run(kill).await
    }

    /// Lets an agent go again; `false` if it was not stopped.
    ///
    /// # Errors
    /// The database cannot be written.
    pub async fn unkill(&self, agent: String) -> Result<bool, StateError> {
        self.shared.state.run(move |state| state.unkill(&agent)).await
    }

    /// The agents that are stopped.
    pub fn killed(&self) -> watch::Receiver<Arc<Killed>> {
        self.shared.state.watch_killed()
    }

    /// The pending questions, oldest first; with `all`, the newest of every state. Large ones are
    /// without their detail and facts ([`super::LISTED_BYTES_MAX`]).
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn list(&self, all: bool) -> Result<Vec<Held>, StateError> {
        let list = move |state: &State| {
            state.with(|connection| {
                store::expire(connection, now_us())?;
                row::list(connection, !all, LIST_MAX)
            })
        };
        let mut listed = self.shared.state.run(list).await?;
        let waiting = self.shared.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        for held in &mut listed {
            held.waiting = waiting.contains_key(&held.id);
        }
        Ok(listed)
    }

    /// One question, whatever its state.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn show(&self, id: i64) -> Result<Option<Held>, StateError> {
        let show = move |state: &State| {
            state.with(|connection| {
                store::expire(connection, now_us())?;
                row::one(connection, id)
            })
        };
        let held = self.shared.state.run(show).await?;
        let waiting = self.shared.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(held.map(|held| Held {
            waiting: waiting.contains_key(&held.id),
            ..held
        }))
    }

    pub(super) fn state(&self) -> &State {
        &self.shared.state
    }

    pub(super) fn note_change(&self) {
        self.shared.changes.send_modify(|count| *count += 1);
    }

    /// A number that changes whenever the list may have changed.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.shared.changes.subscribe()
    }
}

impl Shared {
    /// Takes or makes the row. The waiter is entered before another retry can look.
    fn hold(shared: &Arc<Shared>, question: Arc<Question>) -> Result<Result<Wait, Answer>, StateError> {
        let mut waiting = shared.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = store::take(&shared.state, &question, &|id| waiting.contains_key(&id))?;
        let (id, expires_us) = match taken {
            Taken::Answered(answer) => return Ok(Err(answer)),
            Taken::Pending { id, expires_us } => (id, expires_us),
        };
        let wake = Arc::new(Notify::new());
        waiting.insert(id, wake.clone());
        drop(waiting);
        shared.changes.send_modify(|count| *count += 1);
        // If the agent left while this ran, nobody takes the value, and its drop withdraws.
        Ok(Ok(Wait {
            shared: shared.clone(),
            question,
            id,
            expires_us,
            wake,
            answered: false,
        }))
    }

    fn changed(&self, id: i64) {
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.get(&id).into_iter().for_each(|wake| wake.notify_one());
        drop(waiting);
        self.changes.send_modify(|count| *count += 1);
    }

    /// Wakes everybody who waits.
    fn all_changed(&self) {
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.values().for_each(|wake| wake.notify_one());
        drop(waiting);
        self.changes.send_modify(|count| *count += 1);
    }

    fn revoked(&self) -> std::sync::MutexGuard<'_, Revoked> {
        self.revoked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn release(&self, id: i64, withdraw: bool) {
        if withdraw && let Err(error) = self.state.with(|connection| store::withdraw(connection, id)) {
            tracing::error!(%error, id, "a held action whose agent left could not be withdrawn");
        }
        self.waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&id);
        self.changes.send_modify(|count| *count += 1);
    }
}

impl Wait {
    /// The answer, if there is one; an allowed row is used up by this.
    async fn look(&mut self) -> Result<Option<Answer>, ApprovalDown> {
        let (shared, id, question) = (self.shared.clone(), self.id, self.question.clone());
        let answer = blocking(move || {
            shared.state.with(|connection| {
                let transaction = connection.transaction()?;
                store::expire(&transaction, now_us())?;
                let mut answer = store::use_up(&transaction, id)?;
                if answer.is_none() {
                    let used = store::by_grant(&transaction, &question, Some(id), now_us())?;
                    answer = used.map(Answer::Granted);
                }
                transaction.commit()?;
                Ok(answer)
            })
        })
        .await?;
        self.answered = answer.is_some();
        Ok(answer)
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        let withdraw = !self.answered && !self.shared.closing.load(Ordering::SeqCst);
        let (shared, id) = (self.shared.clone(), self.id);
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) if withdraw => {
                runtime.spawn_blocking(move || shared.release(id, true));
            }
            _ => shared.release(id, withdraw),
        }
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StateError> + Send + 'static,
) -> Result<T, ApprovalDown> {
    let done = tokio::task::spawn_blocking(work).await;
    let done = done.map_err(|error| ApprovalDown(error.to_string()))?;
    done.map_err(|error| ApprovalDown(error.to_string()))
}
