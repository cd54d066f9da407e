//! Shows approvers what a held data change does: leads the session's trial, and ends it in time.
//!
//! The gate asks through [`Offer`], which the relay answers; the session's state machine does the work
//! (`protocol::postgres::session`). A trial that is open is watched by a session of the gateway's own.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until};

use super::relay::Ends;
use super::side::Side;
use super::{Context, Wait};
use crate::facts::Facts;
use crate::facts::mask::MASKED;
use crate::facts::sql::preview::{Trial, is_explainable, trial};
use crate::protocol::postgres::PgSession;
use crate::protocol::postgres::session::{Shown, Wanted};
use crate::verdict::{Action, Permit, Preview, preview};

/// For the trial itself, from its first step until the statement has run.
pub const RUN_MAX: Duration = Duration::from_secs(10);

/// What the gate wants, and where it waits.
type Asked = (Permit, oneshot::Sender<Shown>);

/// What befalls a preview.
pub(super) enum Event {
    /// The gate wants it, under this permit.
    Begin(Permit),
    Stop(&'static str),
}

/// How what is being judged would be tried.
#[derive(Clone)]
struct Plan {
    trial: Option<Trial>,
    /// Why it is not tried.
    none: Option<String>,
    explain: Option<String>,
    tables: Vec<String>,
}

/// The previews of one connection, one at a time.
pub(super) struct Previews<'a> {
    context: &'a Context<'a>,
    ends: &'a Ends,
    names: (String, String),
    asks: (mpsc::Sender<Asked>, mpsc::Receiver<Asked>),
    plan: Option<Plan>,
    reply: Option<oneshot::Sender<Shown>>,
    /// Of the trial that is about to begin, and the session beside it.
    opening: Option<(Permit, Wait<'a, Option<Side>>)>,
    side: Option<Side>,
    watch: Option<Wait<'static, &'static str>>,
    /// When the trial, or what it holds open, has taken its time.
    deadline: Option<(Instant, &'static str)>,
}

/// What the gate is handed.
pub(super) struct Offer {
    without: Option<Value>,
    asks: mpsc::Sender<Asked>,
    plan: Plan,
    masked: Arc<crate::policy::Previews>,
}

impl Preview for Offer {
    fn without(&self) -> Option<Value> {
        self.without.clone()
    }

    fn run(&self, permit: Permit) -> preview::Wait<'_, Value> {
        Box::pin(async move {
            let (reply, answer) = oneshot::channel();
            if self.asks.send((permit, reply)).await.is_err() {
                return json!({ "none": "the session has ended" });
            }
            match answer.await {
                Ok(shown) => self.told(shown),
                Err(_) => json!({ "none": "the session has ended" }),
            }
        })
    }
}

impl Offer {
    /// What people read.
    fn told(&self, shown: Shown) -> Value {
        if let Some(error) = shown.error {
            // A message may hold the very values that are not to be shown.
            let error = match self.masked.masked.is_empty() {
                true => error.whole,
                false => error.plain,
            };
            return json!({ "does": { "error": error } });
        }
        let none = shown.none.or_else(|| self.plan.none.clone());
        if let Some(none) = none {
            return json!({ "none": none, "plan": shown.plan.as_deref().and_then(plan) });
        }
        let masked: Vec<bool> = shown
            .columns
            .iter()
            .map(|column| self.masked.is_masked(&self.plan.tables, column))
            .collect();
        let mut rows = shown.rows;
        for row in &mut rows {
            for (value, masked) in row.iter_mut().zip(&masked) {
                if *masked && value.is_some() {
                    *value = Some(MASKED.to_owned());
                }
            }
        }
        let count = shown.tag.as_deref().and_then(|tag| tag.rsplit(' ').next());
        json!({
            "does": {
                "tag": shown.tag,
                "rows": count.and_then(|count| count.parse::<u64>().ok()),
                "digest": shown.digest.map(|digest| digest.to_string()),
            },
            "note": shown.note,
            "columns": shown.columns,
            "sample": rows,
            "held_s": self.masked.hold_max.as_secs(),
        })
    }
}

/// The cost and the rows of the plan's top.
fn plan(text: &str) -> Option<Value> {
    let read: Value = serde_json::from_str(text).ok()?;
    let top = read.get(0)?.get("Plan")?;
    // A change has its rows in the node below.
    let rows = match top["Node Type"].as_str() {
        Some("ModifyTable") => &top["Plans"][0]["Plan Rows"],
        _ => &top["Plan Rows"],
    };
    Some(json!({ "cost": top["Total Cost"], "rows": rows }))
}

impl<'a> Previews<'a> {
    pub(super) fn new(context: &'a Context<'a>, ends: &'a Ends, names: (String, String)) -> Previews<'a> {
        Previews {
            context,
            ends,
            names,
            asks: mpsc::channel(1),
            plan: None,
            reply: None,
            opening: None,
            side: None,
            watch: None,
            deadline: None,
        }
    }

    /// What the gate may show of the action that the session has just put before it; nothing where the
    /// endpoint wants none, or nobody will be asked.
    pub(super) fn offer(&mut self, session: &PgSession, action: &Action) -> Option<Offer> {
        self.plan = None;
        let previews = self.context.endpoint.preview.clone()?;
        let Facts::Sql(facts) = &action.facts else {
            return None;
        };
        if !self.context.gateway.asks(action) {
            return None;
        }
        let statement = &facts.statement;
        let stops = session.why_not_tried().map(str::to_owned);
        let (trial, none) = match (stops.clone(), trial(statement)) {
            (None, Ok(trial)) => (Some(trial), None),
            (Some(none), _) | (None, Err(none)) => (None, Some(none)),
        };
        let explains = stops.is_none() && trial.is_none() && is_explainable(statement);
        let plan = Plan {
            trial,
            none,
            explain: explains.then(|| format!("EXPLAIN (FORMAT JSON) {}", statement.text)),
            tables: statement.tables.clone(),
        };
        let without = (plan.trial.is_none() && plan.explain.is_none()).then(|| json!({ "none": plan.none }));
        self.plan = Some(plan.clone());
        Some(Offer {
            without,
            asks: self.asks.0.clone(),
            plan,
            masked: Arc::new(previews),
        })
    }

    /// Waits for what is to be done next; for ever where there is no preview.
    pub(super) async fn event(&mut self) -> Event {
        loop {
            tokio::select! {
                biased;
                opened = opened(&mut self.opening) => {
                    self.side = opened;
                    if let Some((permit, _)) = self.opening.take() {
                        return Event::Begin(permit);
                    }
                }
                why = answer(&mut self.watch) => {
                    self.watch = None;
                    return Event::Stop(why);
                }
                why = late(self.deadline) => {
                    self.deadline = None;
                    return Event::Stop(why);
                }
                Some((permit, reply)) = self.asks.1.recv() => {
                    self.reply = Some(reply);
                    if self.plan.as_ref().is_none_or(|plan| plan.trial.is_none()) {
                        return Event::Begin(permit);
                    }
                    let (context, ends, names) = (self.context, self.ends, self.names.clone());
                    let open = async move {
                        let side = Side::open(context, &ends.permit, &names).await;
                        if let Err(error) = &side {
                            tracing::debug!(%error, "no session beside the agent's for a preview");
                        }
                        side.ok()
                    };
                    self.opening = Some((permit, Box::pin(open)));
                }
            }
        }
    }

    /// Nobody waits for what the gate has asked for: it is not begun. An ask that was left behind would
    /// be taken for one of the next statement's.
    pub(super) fn withdraw(&mut self, session: &mut PgSession) {
        let opening = self.opening.take().map(|(permit, _)| permit);
        let asked = std::iter::from_fn(|| self.asks.1.try_recv().ok()).map(|(permit, _)| permit);
        for permit in opening.into_iter().chain(asked) {
            session.take_back(&permit);
        }
        (self.reply, self.side) = (None, None);
    }

    /// Begins the trial of what is being judged.
    pub(super) fn begin(&mut self, session: &mut PgSession, permit: &Permit) {
        let (Some(plan), Some(previews)) = (&self.plan, &self.context.endpoint.preview) else {
            return;
        };
        let process = self.ends.process;
        let look = plan.trial.as_ref().map(|trial| trial.look(process));
        if look.is_some() && self.side.is_none() {
            session.take_back(permit);
            if let Some(reply) = self.reply.take() {
                let none = Some("nobody would see who waits for its locks".to_owned());
                let _ = reply.send(Shown {
                    none,
                    ..Shown::default()
                });
            }
            return;
        }
        if let Some(side) = self.side.take() {
            self.watch = Some(Box::pin(side.watch(process, previews.lock_max)));
        }
        self.deadline = Some((Instant::now() + RUN_MAX, "it takes too long"));
        let wanted = Wanted {
            look,
            sample: plan.trial.as_ref().and_then(|trial| trial.sample.clone()),
            explain: plan.explain.clone(),
            sample_rows_max: previews.rows,
        };
        session.try_out(wanted, permit);
    }

    /// Hands on what the session found out, and keeps the time of what it holds.
    pub(super) fn follow(&mut self, session: &mut PgSession) {
        if let Some(shown) = session.take_previewed() {
            if let Some(reply) = self.reply.take() {
                // Nobody waits any more where the ruling was given up.
                let _ = reply.send(shown);
            }
            let held = self.context.endpoint.preview.as_ref().map(|own| own.hold_max);
            self.deadline = held.map(|held| (Instant::now() + held, "it was held open long enough"));
        }
        if !session.has_trial() {
            self.watch = None;
            self.deadline = None;
        }
    }
}

async fn answer<T>(wait: &mut Option<Wait<'_, T>>) -> T {
    match wait {
        Some(wait) => wait.await,
        None => pending().await,
    }
}

async fn opened(opening: &mut Option<(Permit, Wait<'_, Option<Side>>)>) -> Option<Side> {
    match opening {
        Some((_, wait)) => wait.await,
        None => pending().await,
    }
}

async fn late(deadline: Option<(Instant, &'static str)>) -> &'static str {
    match deadline {
        Some((at, why)) => {
            sleep_until(at).await;
            why
        }
        None => pending().await,
    }
}
