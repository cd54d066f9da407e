//! `/v1/`: peers, approvals, credentials, the audit log, with the page beside it. Every answer is JSON, errors included:
//! `{"error": "…"}`. Within `/v1/` fields and paths are added and never change their meaning.

use std::sync::Arc;

use axum::extract::{Extension, Path, Query, State as Shared};
use axum::http::StatusCode;
use axum::middleware;
use axum::response::{IntoResponse, Response};
use axum::{Json, Router};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::openapi::{self, Routes, Shown};
use super::token::OperatorToken;
use super::{
    Operator, Person, admit, agents, credentials, grants, listen, overview, page, peers, people, record,
    routes, stream,
};
use crate::audit::read::{Filter, Reader, Verified};
use crate::bad_input;
use crate::credential::store::SECRET_BYTES_MAX;
use crate::state::StateError;
use crate::verdict::approval::grant::GrantError;
use crate::verdict::approval::{Decide, DecideError, Decision, Grant, Held, Terms, Voter};

/// Bytes of a request's body: a secret, and little else.
const REQUEST_BYTES_MAX: usize = SECRET_BYTES_MAX as usize + (4 << 10);
/// Bytes of the reason that a person gives; the agent reads it.
const REASON_BYTES_MAX: usize = 1024;

/// An answer that says what is wrong.
#[derive(Debug)]
pub(super) struct Failed(pub(super) StatusCode, pub(super) String);

impl IntoResponse for Failed {
    fn into_response(self) -> Response {
        (self.0, Json(json!({ "error": self.1 }))).into_response()
    }
}

pub(super) fn broken(error: impl std::fmt::Display) -> Failed {
    Failed(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
}

pub(super) fn not_found(text: String) -> Failed {
    Failed(StatusCode::NOT_FOUND, text)
}

pub(super) fn bad(text: impl Into<String>) -> Failed {
    Failed(StatusCode::BAD_REQUEST, text.into())
}

/// Streams, and a walk over a log that may be long.
fn slow() -> Routes {
    Routes::default()
        .get(
            "/v1/audit/verify",
            "Checks the audit log's chain, the whole of it",
            verify,
        )
        .get(
            "/v1/approvals/watch",
            "Held actions as they come and change: events `approval`",
            stream::watch_approvals,
        )
        .get(
            "/v1/audit/follow",
            "Records as they are written: events `record`",
            stream::follow_audit,
        )
}

/// For those who are not signed in yet.
fn open() -> Routes {
    Routes::default()
        .get("/v1/sign-in", "How one may sign in here", people::ways)
        .post("/v1/sign-in", "Signs in by a password", people::sign_in)
        .post(
            "/v1/sign-in/tailnet",
            "Signs in as whom the tailnet proves",
            people::sign_in_by_tailnet,
        )
        .post(
            "/v1/sign-in/invitation",
            "Whom an invitation is for, or with a password uses it",
            people::use_invitation,
        )
        .open()
}

fn closed() -> Routes {
    Routes::default()
        .get("/v1/openapi.json", "This document", openapi::serve)
        .get("/v1/health", "How the gateway is", overview::health)
        .get(
            "/v1/metrics",
            "What was refused as malformed, for Prometheus",
            overview::metrics,
        )
        .get("/v1/agents", "Agents: seen, enrolled, stopped", overview::agents)
        .post("/v1/agents/kill", "Stops an agent at once", agents::kill)
        .post(
            "/v1/agents/unkill",
            "Lets a stopped agent go again",
            agents::unkill,
        )
        .get(
            "/v1/policy",
            "The policy in force, with what its rules decided",
            overview::policy,
        )
        .get(
            "/v1/peers",
            "WireGuard peers, and links that wait to be used",
            peers::list,
        )
        .post(
            "/v1/peers",
            "Makes a link for a machine to enrol by, or adds a key",
            peers::add,
        )
        .delete("/v1/peers/{name}", "Removes a peer", peers::remove)
        .post(
            "/v1/peers/{name}/approve",
            "Lets a held peer connect",
            peers::approve,
        )
        .get(
            "/v1/approvals",
            "Held actions: the pending, or the newest of all",
            approvals,
        )
        .get("/v1/approvals/{id}", "One held action, whole", approval)
        .post(
            "/v1/approvals/{id}/approve",
            "Says yes, once or for a time",
            approve,
        )
        .post("/v1/approvals/{id}/deny", "Says no", deny)
        .get("/v1/grants", "Approvals that were given beforehand", grants::list)
        .delete("/v1/grants/{id}", "Takes a grant back", grants::revoke)
        .get(
            "/v1/credentials",
            "Credentials and which of their secrets are there",
            credentials::list,
        )
        .put(
            "/v1/credentials/{name}",
            "Sets a secret: the body is its value",
            credentials::set,
        )
        .get("/v1/audit", "Records of the audit log", audit)
        .get(
            "/v1/tailnet",
            "The gateway's node of the tailnet and its routes",
            routes::report,
        )
        .post(
            "/v1/operator-token/rotate",
            "Makes a new operator's token",
            rotate_token,
        )
        .get("/v1/session", "Who asks", people::session)
        .delete("/v1/session", "Signs out", people::sign_out)
        .get("/v1/sessions", "Sessions that are open", people::sessions)
        .delete("/v1/sessions/{id}", "Ends a session", people::end_session)
        .get("/v1/operators", "The page's people", people::operators)
        .post("/v1/operators", "Invites a person", people::invite)
        .delete(
            "/v1/operators/{name}",
            "Removes a person",
            people::remove_operator,
        )
}

/// The API in OpenAPI's words.
pub fn described() -> Value {
    let all = [open(), closed(), slow()].into_iter();
    openapi::document(&all.flat_map(|routes| routes.into_parts().1).collect::<Vec<_>>())
}

/// The page and the API, with the guards before them that [`listen::serve`] feeds.
pub(super) fn router(operator: Operator, token: Arc<OperatorToken>) -> Router {
    let [(open, _), (closed, _), (slow, _)] = [open(), closed(), slow()].map(Routes::into_parts);
    let open = page::router()
        .merge(open)
        .layer(middleware::from_fn(listen::whole))
        .layer(middleware::from_fn_with_state(listen::BOUNDS, listen::in_time))
        .layer(middleware::from_fn(admit::greet));
    let closed = closed
        .layer(middleware::from_fn(listen::whole))
        .layer(middleware::from_fn_with_state(listen::BOUNDS, listen::in_time))
        .merge(slow)
        .fallback(|| async { not_found("there is no such path".to_owned()) })
        .method_not_allowed_fallback(|| async {
            let text = "this path does not take this method".to_owned();
            Failed(StatusCode::METHOD_NOT_ALLOWED, text)
        })
        .layer(Extension(token.clone()))
        .layer(Extension(Arc::new(described())))
        .layer(middleware::from_fn_with_state(
            (operator.clone(), token),
            admit::admit,
        ));
    page::guard(open.merge(closed))
        .layer(axum::extract::DefaultBodyLimit::max(REQUEST_BYTES_MAX))
        .layer(middleware::map_response(async |answer: Response| {
            listen::counted(bad_input::Reader::Admin, answer)
        }))
        .with_state(operator)
}

/// What is removed.
#[derive(Serialize, JsonSchema)]
pub(super) struct Removed<T> {
    pub(super) removed: T,
}

/// What the state refuses is the caller's doing; the rest is ours.
pub(super) fn state_failed(error: StateError) -> Failed {
    match error {
        StateError::Refused(text) => bad(text),
        error => broken(error),
    }
}

#[derive(Deserialize, JsonSchema)]
struct ListApprovals {
    /// The newest of any state, and not the pending alone.
    #[serde(default)]
    all: bool,
}

async fn approvals(
    Shared(operator): Shared<Operator>,
    Query(asked): Query<ListApprovals>,
) -> Result<Json<Vec<Held>>, Failed> {
    operator.queue.list(asked.all).await.map(Json).map_err(broken)
}

async fn approval(Shared(operator): Shared<Operator>, Path(id): Path<i64>) -> Result<Json<Held>, Failed> {
    match operator.queue.show(id).await.map_err(broken)? {
        Some(held) => Ok(Json(held)),
        None => Err(Failed(
            StatusCode::NOT_FOUND,
            format!("there is no approval {id}"),
        )),
    }
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Said {
    /// The agent reads it.
    reason: Option<String>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Approve {
    /// The agent reads it.
    reason: Option<String>,
    /// With this or `uses`, a grant: seconds that it lasts.
    for_s: Option<u64>,
    /// How often the grant counts.
    uses: Option<u32>,
}

/// The question as it is now, and the grant that was asked for: null while others have to agree.
#[derive(Serialize, JsonSchema)]
struct Decided {
    #[serde(flatten)]
    held: Held,
    #[serde(skip_serializing_if = "Option::is_none")]
    grant: Option<Option<Grant>>,
}

async fn approve(
    operator: Shared<Operator>,
    Path(id): Path<i64>,
    person: Extension<Person>,
    voter: Option<Extension<Voter>>,
    Query(asked): Query<Approve>,
) -> Result<Json<Decided>, Failed> {
    let terms = match (asked.for_s, asked.uses) {
        (None, None) => None,
        (for_s, uses) => Some(Terms::new(for_s, uses).map_err(bad)?),
    };
    let said = (Decision::Allow, asked.reason, terms);
    decide(operator, id, (person, voter), said).await
}

async fn deny(
    operator: Shared<Operator>,
    Path(id): Path<i64>,
    person: Extension<Person>,
    voter: Option<Extension<Voter>>,
    Query(Said { reason }): Query<Said>,
) -> Result<Json<Decided>, Failed> {
    decide(operator, id, (person, voter), (Decision::Deny, reason, None)).await
}

/// What a person writes for an agent to read.
pub(super) fn check_reason(reason: Option<&str>) -> Result<(), Failed> {
    let reason = reason.unwrap_or_default();
    if reason.len() > REASON_BYTES_MAX {
        return Err(bad(format!("a reason has at most {REASON_BYTES_MAX} bytes")));
    }
    // The agent's protocol carries it: no byte of it may end a field or a line there.
    if reason.chars().any(char::is_control) {
        return Err(bad("a reason has no control characters"));
    }
    Ok(())
}

async fn decide(
    Shared(operator): Shared<Operator>,
    id: i64,
    (Extension(Person(person)), voter): (Extension<Person>, Option<Extension<Voter>>),
    (decision, reason, grant): (Decision, Option<String>, Option<Terms>),
) -> Result<Json<Decided>, Failed> {
    check_reason(reason.as_deref())?;
    let decide = Decide {
        id,
        // Whom the tailnet proved, where it did; else the account or the token.
        person: voter.map_or_else(|| Voter::Account(person), |Extension(voter)| voter),
        decision,
        reason: reason.map(|reason| operator.secrets.known().scrub(&reason).into_owned()),
        grant,
    };
    let decided = operator.queue.decide_or_grant(decide).await;
    let (held, granted) = decided.map_err(|error| {
        let status = match &error {
            DecideError::Unknown(_) => StatusCode::NOT_FOUND,
            DecideError::NotEligible(_)
            | DecideError::NotKnown(_)
            | DecideError::Grant(GrantError::NotGrantor(_)) => StatusCode::FORBIDDEN,
            DecideError::Closed(_) | DecideError::Grant(_) => StatusCode::CONFLICT,
            DecideError::State(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Failed(status, error.to_string())
    })?;
    let grant = match (grant, granted) {
        (None, _) => None,
        (Some(_), Some(id)) => Some(Some(grants::record(&operator, id).await?)),
        (Some(_), None) => Some(None),
    };
    Ok(Json(Decided { held, grant }))
}

/// Where the new token is.
#[derive(Serialize, JsonSchema)]
struct Rotated {
    rotated: String,
}

async fn rotate_token(
    Extension(token): Extension<Arc<OperatorToken>>,
    Extension(Person(person)): Extension<Person>,
) -> Result<Json<Rotated>, Failed> {
    let path = tokio::task::spawn_blocking(move || token.rotate().map(|path| path.display().to_string()));
    let path = path.await.map_err(broken)?.map_err(broken)?;
    tracing::info!(person, "the operator's token is a new one");
    Ok(Json(Rotated { rotated: path }))
}

async fn audit(
    Shared(operator): Shared<Operator>,
    Query(filter): Query<Filter>,
) -> Result<Json<Shown<Vec<record::Record>>>, Failed> {
    let path = operator.audit().await;
    let read = tokio::task::spawn_blocking(move || Reader::open(&path)?.select(&filter)).await;
    read.map_err(broken)?
        .map(|rows| Json(Shown::new(Value::Array(rows))))
        .map_err(broken)
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Verify {
    /// `NUMBER:HASH`, noted elsewhere.
    noted: Option<String>,
}

async fn verify(
    Shared(operator): Shared<Operator>,
    Query(asked): Query<Verify>,
) -> Result<Json<Verified>, Failed> {
    let path = operator.audit().await;
    let read = tokio::task::spawn_blocking(move || Reader::open(&path)?.verify_with(asked.noted.as_deref()));
    read.await.map_err(broken)?.map(Json).map_err(broken)
}
