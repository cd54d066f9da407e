//! `/v1/approvals` and `/v1/audit`, and how every handler says what is wrong. Every answer is JSON, errors included:
//! `{"error": "…"}`. Within `/v1/` fields and paths are added and never change their meaning.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Extension, Path, Query, State as Shared};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::openapi::Shown;
use super::token::OperatorToken;
use super::{Operator, Person, grants, record};
use crate::audit::read::{Filter, Reader, Verified};
use crate::protocol::http::rendered::rendered;
use crate::state::StateError;
use crate::verdict::approval::grant::GrantError;
use crate::verdict::approval::{Decide, DecideError, Decision, Grant, Held, Terms, Voter};

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
pub(super) struct ListApprovals {
    /// The newest of any state, and not the pending alone.
    #[serde(default)]
    all: bool,
}

pub(super) async fn approvals(
    Shared(operator): Shared<Operator>,
    Query(asked): Query<ListApprovals>,
) -> Result<Json<Vec<Held>>, Failed> {
    operator.queue.list(asked.all).await.map(Json).map_err(broken)
}

/// The body of a held request, as people read it.
#[derive(Serialize, JsonSchema)]
pub(super) struct Body {
    /// `JSON`, `form` (a field a line) or `parts` (of a form, the name of each).
    kind: String,
    text: String,
}

/// A held action, and its body beside it where it has one that can be rendered.
#[derive(Serialize, JsonSchema)]
pub(super) struct Whole {
    #[serde(flatten)]
    held: Held,
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<Body>,
}

impl Whole {
    fn of(held: Held) -> Whole {
        let text = |field: &str| held.question[field].as_str().unwrap_or_default();
        // A statement is no request, whatever it looks like.
        let is_request = !text("endpoint").starts_with("postgres.");
        let found = rendered(text("detail")).filter(|_| is_request);
        let body = found.map(|(kind, text)| Body {
            kind: kind.to_owned(),
            text,
        });
        Whole { held, body }
    }
}

pub(super) async fn approval(
    Shared(operator): Shared<Operator>,
    Path(id): Path<i64>,
) -> Result<Json<Whole>, Failed> {
    match operator.queue.show(id).await.map_err(broken)? {
        Some(held) => Ok(Json(Whole::of(held))),
        None => Err(Failed(
            StatusCode::NOT_FOUND,
            format!("there is no approval {id}"),
        )),
    }
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Said {
    /// The agent reads it.
    reason: Option<String>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Approve {
    /// The agent reads it.
    reason: Option<String>,
    /// With this or `uses`, a grant: seconds that it lasts.
    for_s: Option<u64>,
    /// How often the grant counts.
    uses: Option<u32>,
}

/// The question as it is now, and the grant that was asked for: null while others have to agree.
#[derive(Serialize, JsonSchema)]
pub(super) struct Decided {
    #[serde(flatten)]
    held: Held,
    #[serde(skip_serializing_if = "Option::is_none")]
    grant: Option<Option<Grant>>,
}

pub(super) async fn approve(
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

pub(super) async fn deny(
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
            DecideError::Closed(_) | DecideError::Once(_) | DecideError::Grant(_) => StatusCode::CONFLICT,
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
pub(super) struct Rotated {
    rotated: String,
}

pub(super) async fn rotate_token(
    Extension(token): Extension<Arc<OperatorToken>>,
    Extension(Person(person)): Extension<Person>,
) -> Result<Json<Rotated>, Failed> {
    let path = tokio::task::spawn_blocking(move || token.rotate().map(|path| path.display().to_string()));
    let path = path.await.map_err(broken)?.map_err(broken)?;
    tracing::info!(person, "the operator's token is a new one");
    Ok(Json(Rotated { rotated: path }))
}

pub(super) async fn audit(
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
pub(super) struct Verify {
    /// `NUMBER:HASH`, noted elsewhere.
    noted: Option<String>,
}

pub(super) async fn verify(
    Shared(operator): Shared<Operator>,
    Query(asked): Query<Verify>,
) -> Result<Json<Verified>, Failed> {
    let path = operator.audit().await;
    let read = tokio::task::spawn_blocking(move || Reader::open(&path)?.verify_with(asked.noted.as_deref()));
    read.await.map_err(broken)?.map(Json).map_err(broken)
}
