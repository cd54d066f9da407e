//! `/v1/approvals/watch` and `/v1/audit/follow`: server-sent events (WHATWG HTML, section 9.2).

use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::marker::PhantomData;
use std::path::PathBuf;
use std::time::Duration;

use axum::extract::{Query, State as Shared};
use axum::http::StatusCode;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream::{Stream, unfold};
use schemars::{JsonSchema, SchemaGenerator};
use serde_json::{Value, json};
use tokio::sync::{OwnedSemaphorePermit, watch};

use super::Operator;
use super::api::Failed;
use super::openapi;
use super::record::Record;
use crate::audit::read::{Filter, Reader};
use crate::verdict::approval::{Held, QuestionState, Queue, Told};

/// Streams at a time, of both kinds.
pub const WATCHERS_MAX: usize = 16;
/// Seconds between comments that show the client that the gateway is there.
pub const ALIVE_S: u64 = 15;
/// Seconds after which a list is looked at though nothing said that it changed: time-outs of
/// questions that nobody waits for.
const LOOK_EVERY_S: u64 = 5;
/// Milliseconds between a change of the audit log and the next read: records come in groups, and
/// most outcomes soon after.
const SETTLE_MS: u64 = 250;

/// An answer of server-sent events whose data has what `T` has.
pub(super) struct Events<T>(Response, PhantomData<T>);

impl<T> IntoResponse for Events<T> {
    fn into_response(self) -> Response {
        self.0
    }
}

impl<T: JsonSchema> openapi::Answer for Events<T> {
    fn content(writes: &mut SchemaGenerator) -> Value {
        json!({ "text/event-stream": { "schema": writes.subschema_for::<T>() } })
    }
}

/// Takes a place among the watchers for as long as `stream` lives.
fn streamed<S, T>(stream: S) -> Events<T>
where
    S: Stream<Item = Result<Event, Infallible>> + Send + 'static,
{
    let alive = KeepAlive::new().interval(Duration::from_secs(ALIVE_S));
    Events(Sse::new(stream).keep_alive(alive).into_response(), PhantomData)
}

fn place(operator: &Operator) -> Result<OwnedSemaphorePermit, Failed> {
    operator.watchers.clone().try_acquire_owned().map_err(|_| {
        let text = format!("{WATCHERS_MAX} streams are open already");
        Failed(StatusCode::SERVICE_UNAVAILABLE, text)
    })
}

fn event(name: &str, data: &Value) -> Result<Event, Infallible> {
    Ok(Event::default().event(name).data(data.to_string()))
}

/// Every held action: those that are there, each that comes, each vote, and how it ended.
pub(super) async fn watch_approvals(Shared(operator): Shared<Operator>) -> Result<Events<Held>, Failed> {
    let watch = Approvals {
        _place: place(&operator)?,
        changes: operator.queue.changes(),
        queue: operator.queue.clone(),
        shown: HashMap::new(),
        ready: VecDeque::new(),
        broken: false,
        started: false,
    };
    Ok(streamed(unfold(watch, |mut watch| async move {
        let next = watch.next().await?;
        Some((next, watch))
    })))
}

struct Approvals {
    _place: OwnedSemaphorePermit,
    queue: Queue,
    changes: watch::Receiver<u64>,
    /// Open questions that the client knows, with the number of votes it knows of, whether the agent
    /// waits, and which channels were told.
    shown: HashMap<i64, (usize, bool, Vec<Told>)>,
    ready: VecDeque<Value>,
    broken: bool,
    started: bool,
}

impl Approvals {
    async fn next(&mut self) -> Option<Result<Event, Infallible>> {
        while !self.broken {
            if let Some(held) = self.ready.pop_front() {
                return Some(event("approval", &held));
            }
            if self.started {
                let look = Duration::from_secs(LOOK_EVERY_S);
                if let Ok(Err(_)) = tokio::time::timeout(look, self.changes.changed()).await {
                    return None;
                }
            }
            self.started = true;
            self.changes.borrow_and_update();
            if let Err(text) = self.look().await {
                self.broken = true;
                return Some(event("error", &json!({ "error": text })));
            }
        }
        None
    }

    async fn look(&mut self) -> Result<(), String> {
        let open = self.queue.list(false).await.map_err(|error| error.to_string())?;
        let mut gone: Vec<i64> = self.shown.keys().copied().collect();
        gone.retain(|id| !open.iter().any(|held| held.id == *id));
        gone.sort_unstable();
        for id in gone {
            self.shown.remove(&id);
            let held = self.queue.show(id).await.map_err(|error| error.to_string())?;
            if let Some(held) = held.filter(|held| held.state != QuestionState::Pending) {
                self.ready.push_back(json!(held));
            }
        }
        for held in open {
            let now = (held.by.len(), held.waiting, held.told.clone());
            if self.shown.insert(held.id, now.clone()) != Some(now) {
                self.ready.push_back(json!(held));
            }
        }
        Ok(())
    }
}

/// Records after `after` that the filter wants, and each that comes.
pub(super) async fn follow_audit(
    Shared(operator): Shared<Operator>,
    Query(filter): Query<Filter>,
) -> Result<Events<Record>, Failed> {
    let follow = Follow {
        _place: place(&operator)?,
        changes: operator.gate.audit_changes(),
        path: operator.audit(),
        filter: Filter {
            newest: false,
            limit: None,
            ..filter
        },
        ready: VecDeque::new(),
        broken: false,
        started: false,
    };
    Ok(streamed(unfold(follow, |mut follow| async move {
        let next = follow.next().await?;
        Some((next, follow))
    })))
}

struct Follow {
    _place: OwnedSemaphorePermit,
    changes: watch::Receiver<u64>,
    path: PathBuf,
    filter: Filter,
    ready: VecDeque<Value>,
    broken: bool,
    started: bool,
}

impl Follow {
    async fn next(&mut self) -> Option<Result<Event, Infallible>> {
        while !self.broken {
            if let Some(record) = self.ready.pop_front() {
                self.filter.after = record["id"].as_u64().unwrap_or(self.filter.after);
                return Some(event("record", &record));
            }
            if self.started {
                self.changes.changed().await.ok()?;
                tokio::time::sleep(Duration::from_millis(SETTLE_MS)).await;
            }
            self.changes.borrow_and_update();
            let (path, filter) = (self.path.clone(), self.filter.clone());
            let read = tokio::task::spawn_blocking(move || Reader::open(&path)?.select(&filter)).await;
            match read {
                // A whole page may have another behind it.
                Ok(Ok(rows)) => {
                    self.started = rows.is_empty();
                    self.ready = rows.into();
                }
                Ok(Err(error)) => {
                    self.broken = true;
                    return Some(event("error", &json!({ "error": error.to_string() })));
                }
                Err(_) => return None,
            }
        }
        None
    }
}
