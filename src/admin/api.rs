//! `/v1/`: peers, approvals, credentials, the audit log, with the page beside it. Every answer is JSON, errors included:
//! `{"error": "…"}`. Within `/v1/` fields and paths are added and never change their meaning.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Extension, Path, Query, State as Shared};
use axum::http::StatusCode;
use axum::middleware;
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post, put};
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::{Value, json};

use super::token::OperatorToken;
use super::{
    Operator, Person, admit, agents, credentials, enrol, grants, listen, node, overview, page, people,
    routes, stream,
};
use crate::audit::read::{Filter, Reader};
use crate::bad_input;
use crate::credential::store::SECRET_BYTES_MAX;
use crate::state::StateError;
use crate::verdict::approval::grant::GrantError;
use crate::verdict::approval::{Decide, DecideError, Decision, Terms, Voter};

/// How long an enrolment link lasts where nothing is said.
const ENROLMENT_LASTS: Duration = Duration::from_secs(3600);
/// Seconds that an enrolment link lasts at most.
const ENROLMENT_S_MAX: u64 = 30 * 86_400;
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

/// The page and the API, with the guards before them that [`listen::serve`] feeds.
pub(super) fn router(operator: Operator, token: Arc<OperatorToken>) -> Router {
    // Streams, and a walk over a log that may be long.
    let slow = Router::new()
        .route("/v1/audit/verify", get(verify))
        .route("/v1/approvals/watch", get(stream::watch_approvals))
        .route("/v1/audit/follow", get(stream::follow_audit));
    // For those who are not signed in yet.
    let open = page::router()
        .route("/v1/sign-in", get(people::ways).post(people::sign_in))
        .route("/v1/sign-in/tailnet", post(people::sign_in_by_tailnet))
        .route("/v1/sign-in/invitation", post(people::use_invitation))
        .layer(middleware::from_fn(listen::whole))
        .layer(middleware::from_fn_with_state(listen::BOUNDS, listen::in_time))
        .layer(middleware::from_fn(admit::greet));
    let closed = Router::new()
        .route("/v1/health", get(overview::health))
        .route("/v1/metrics", get(overview::metrics))
        .route("/v1/agents", get(overview::agents))
        .route("/v1/agents/kill", post(agents::kill))
        .route("/v1/agents/unkill", post(agents::unkill))
        .route("/v1/policy", get(overview::policy))
        .route("/v1/peers", get(peers).post(add_peer))
        .route("/v1/peers/{name}", delete(remove_peer))
        .route("/v1/peers/{name}/approve", post(approve_peer))
        .route("/v1/approvals", get(approvals))
        .route("/v1/approvals/{id}", get(approval))
        .route("/v1/approvals/{id}/approve", post(approve))
        .route("/v1/approvals/{id}/deny", post(deny))
        .route("/v1/grants", get(grants::list))
        .route("/v1/grants/{id}", delete(grants::revoke))
        .route("/v1/credentials", get(credentials::list))
        .route("/v1/credentials/{name}", put(credentials::set))
        .route("/v1/audit", get(audit))
        .route("/v1/tailnet", get(routes::report))
        .route("/v1/operator-token/rotate", post(rotate_token))
        .route("/v1/session", get(people::session).delete(people::sign_out))
        .route("/v1/sessions", get(people::sessions))
        .route("/v1/sessions/{id}", delete(people::end_session))
        .route("/v1/operators", get(people::operators).post(people::invite))
        .route("/v1/operators/{name}", delete(people::remove_operator))
        .layer(middleware::from_fn(listen::whole))
        .layer(middleware::from_fn_with_state(listen::BOUNDS, listen::in_time))
        .merge(slow)
        .fallback(|| async { not_found("there is no such path".to_owned()) })
        .method_not_allowed_fallback(|| async {
            let text = "this path does not take this method".to_owned();
            Failed(StatusCode::METHOD_NOT_ALLOWED, text)
        })
        .layer(Extension(token.clone()))
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

async fn peers(Shared(operator): Shared<Operator>) -> Result<Json<Value>, Failed> {
    let listed = operator
        .state
        .run(|state| Ok((state.peers()?, state.enrolments()?)))
        .await;
    let (peers, waiting) = listed.map_err(broken)?;
    let nodes = node::nodes(&operator);
    Ok(Json(
        json!({ "peers": peers, "waiting": waiting, "tailnet": nodes }),
    ))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AddPeer {
    name: String,
    expires_s: Option<u64>,
    /// The machine that uses the link, or has the key, reaches nothing until its peer is approved.
    #[serde(default)]
    hold: bool,
    /// Of a machine with a WireGuard of its own, base64: it needs no link.
    public_key: Option<String>,
}

async fn add_peer(
    Shared(operator): Shared<Operator>,
    Json(asked): Json<AddPeer>,
) -> Result<Json<Value>, Failed> {
    if let Some(key) = asked.public_key {
        if asked.expires_s.is_some() {
            return Err(bad("expires_s is of a link, and a key needs none"));
        }
        return enrol::add_key(&operator, asked.name, &key, asked.hold).await;
    }
    let gateway = operator.gate.policy().model().gateway.clone();
    let refused = |text: &str| Failed(StatusCode::CONFLICT, text.to_owned());
    let Some(listen) = gateway.enrol_listen else {
        return Err(refused(
            "the gateway has no enrol_listen; set it in the gateway block",
        ));
    };
    let called = operator.teller.as_ref().map(|teller| teller.called());
    let base = gateway
        .public_url
        .unwrap_or_else(|| enrol::base(listen, &called.unwrap_or_default()));
    let lasts = asked.expires_s.map_or(ENROLMENT_LASTS, Duration::from_secs);
    if lasts.is_zero() || lasts.as_secs() > ENROLMENT_S_MAX {
        return Err(bad(format!("expires_s is between 1 and {ENROLMENT_S_MAX}")));
    }
    let (name, hold) = (asked.name.clone(), asked.hold);
    let token = operator
        .state
        .run(move |state| state.add_enrolment(&name, lasts, hold))
        .await;
    let token = token.map_err(state_failed)?;
    let pin = operator.authority.fingerprint();
    let pin = pin.strip_prefix("sha256:").unwrap_or(&pin);
    let url = format!(
        "{}/join?token={token}&pin=sha256:{pin}",
        base.trim_end_matches('/')
    );
    Ok(Json(
        json!({ "name": asked.name, "url": url, "expires_s": lasts.as_secs(), "hold": hold }),
    ))
}

async fn remove_peer(
    Shared(operator): Shared<Operator>,
    Path(name): Path<String>,
    Extension(Person(person)): Extension<Person>,
) -> Result<Json<Value>, Failed> {
    let gone = name.clone();
    let removed = operator.state.run(move |state| state.remove_peer(&gone)).await;
    if !removed.map_err(broken)? {
        return Err(not_found(format!("there is no peer {name}")));
    }
    tracing::info!(peer = name, person, "a peer is removed");
    Ok(Json(json!({ "removed": name })))
}

async fn approve_peer(
    Shared(operator): Shared<Operator>,
    Path(name): Path<String>,
    Extension(Person(person)): Extension<Person>,
) -> Result<Json<Value>, Failed> {
    let approved = name.clone();
    let known = operator
        .state
        .run(move |state| state.approve_peer(&approved))
        .await;
    if !known.map_err(broken)? {
        return Err(not_found(format!("there is no peer {name}")));
    }
    tracing::info!(peer = name, person, "a peer is approved");
    Ok(Json(json!({ "approved": name })))
}

/// What the state refuses is the caller's doing; the rest is ours.
pub(super) fn state_failed(error: StateError) -> Failed {
    match error {
        StateError::Refused(text) => bad(text),
        error => broken(error),
    }
}

#[derive(Deserialize)]
struct ListApprovals {
    #[serde(default)]
    all: bool,
}

async fn approvals(
    Shared(operator): Shared<Operator>,
    Query(asked): Query<ListApprovals>,
) -> Result<Json<Value>, Failed> {
    operator
        .queue
        .list(asked.all)
        .await
        .map(|held| Json(json!(held)))
        .map_err(broken)
}

async fn approval(Shared(operator): Shared<Operator>, Path(id): Path<i64>) -> Result<Json<Value>, Failed> {
    match operator.queue.show(id).await.map_err(broken)? {
        Some(held) => Ok(Json(json!(held))),
        None => Err(Failed(
            StatusCode::NOT_FOUND,
            format!("there is no approval {id}"),
        )),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Said {
    reason: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Approve {
    reason: Option<String>,
    /// With either, a grant: seconds that it lasts, and how often it counts.
    for_s: Option<u64>,
    uses: Option<u32>,
}

async fn approve(
    operator: Shared<Operator>,
    Path(id): Path<i64>,
    person: Extension<Person>,
    voter: Option<Extension<Voter>>,
    Query(asked): Query<Approve>,
) -> Result<Json<Value>, Failed> {
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
) -> Result<Json<Value>, Failed> {
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
) -> Result<Json<Value>, Failed> {
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
    let mut answer = json!(held);
    if grant.is_some() {
        answer["grant"] = json!(match granted {
            Some(id) => Some(grants::record(&operator, id).await?),
            None => None,
        });
    }
    Ok(Json(answer))
}

async fn rotate_token(
    Extension(token): Extension<Arc<OperatorToken>>,
    Extension(Person(person)): Extension<Person>,
) -> Result<Json<Value>, Failed> {
    let path = tokio::task::spawn_blocking(move || token.rotate().map(|path| path.display().to_string()));
    let path = path.await.map_err(broken)?.map_err(broken)?;
    tracing::info!(person, "the operator's token is a new one");
    Ok(Json(json!({ "rotated": path })))
}

async fn audit(
    Shared(operator): Shared<Operator>,
    Query(filter): Query<Filter>,
) -> Result<Json<Value>, Failed> {
    let path = operator.audit();
    let read = tokio::task::spawn_blocking(move || Reader::open(&path)?.select(&filter)).await;
    read.map_err(broken)?
        .map(|rows| Json(json!(rows)))
        .map_err(broken)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Verify {
    /// `NUMBER:HASH`, noted elsewhere.
    noted: Option<String>,
}

async fn verify(
    Shared(operator): Shared<Operator>,
    Query(asked): Query<Verify>,
) -> Result<Json<Value>, Failed> {
    let path = operator.audit();
    let read = tokio::task::spawn_blocking(move || Reader::open(&path)?.verify_with(asked.noted.as_deref()));
    let read = read.await;
    read.map_err(broken)?
        .map(|verified| Json(json!(verified)))
        .map_err(broken)
}
