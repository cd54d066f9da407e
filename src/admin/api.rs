//! `/v1/`: peers, approvals, credentials, the audit log.

use std::net::SocketAddr;
use std::time::Duration;

use axum::extract::{ConnectInfo, Extension, Path, Query, Request, State as Shared};
use axum::http::{StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post, put};
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::{Value, json};
use subtle::ConstantTimeEq as _;

use super::{Operator, Person};
use crate::audit::read::{Filter, Reader};
use crate::verdict::approval::{Decide, DecideError, Decision};

/// How long an enrolment link lasts where nothing is said.
const ENROLMENT_LASTS: Duration = Duration::from_secs(3600);
/// Bytes of a request to this API.
const REQUEST_BYTES_MAX: usize = 2 << 20;

/// An answer that says what is wrong.
struct Failed(StatusCode, String);

impl IntoResponse for Failed {
    fn into_response(self) -> Response {
        (self.0, Json(json!({ "error": self.1 }))).into_response()
    }
}

fn broken(error: impl std::fmt::Display) -> Failed {
    Failed(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
}

fn routes(operator: Operator) -> Router {
    Router::new()
        .route("/v1/health", get(health))
        .route("/v1/peers", get(peers).post(add_peer))
        .route("/v1/peers/{name}", delete(remove_peer))
        .route("/v1/approvals", get(approvals))
        .route("/v1/approvals/{id}", get(approval))
        .route("/v1/approvals/{id}/{decision}", post(decide))
        .route("/v1/credentials", get(credentials))
        .route("/v1/credentials/{name}", put(set_credential))
        .route("/v1/audit", get(audit))
        .route("/v1/audit/verify", get(verify))
        .layer(axum::extract::DefaultBodyLimit::max(REQUEST_BYTES_MAX))
        .with_state(operator)
}

/// For the Unix socket: the kernel names the person.
pub(super) fn router(operator: Operator) -> Router {
    async fn named(ConnectInfo(person): ConnectInfo<Person>, mut request: Request, next: Next) -> Response {
        request.extensions_mut().insert(person);
        next.run(request).await
    }
    routes(operator).layer(middleware::from_fn(named))
}

/// For TCP: a token, and a Host that is this listener, since a page in a browser can be led here by
/// a name that resolves to loopback.
pub(super) fn guarded(operator: Operator, token: String, bound: SocketAddr) -> Router {
    let check = move |mut request: Request, next: Next| {
        let hosts = [bound.to_string(), format!("localhost:{}", bound.port())];
        let text = |name| request.headers().get(name).and_then(|value| value.to_str().ok());
        let host_is_ours = text(header::HOST).is_some_and(|host| hosts.iter().any(|own| own == host));
        let given = text(header::AUTHORIZATION).and_then(|value| value.strip_prefix("Bearer "));
        let known = given.is_some_and(|given| bool::from(given.as_bytes().ct_eq(token.as_bytes())));
        async move {
            if !host_is_ours || request.headers().contains_key(header::ORIGIN) {
                return Failed(StatusCode::FORBIDDEN, "not for browsers".to_owned()).into_response();
            }
            if !known {
                return Failed(
                    StatusCode::UNAUTHORIZED,
                    "the operator's token is needed".to_owned(),
                )
                .into_response();
            }
            request.extensions_mut().insert(Person("operator".to_owned()));
            next.run(request).await
        }
    };
    routes(operator).layer(middleware::from_fn(check))
}

async fn health(Shared(operator): Shared<Operator>) -> Json<Value> {
    let policy = operator.gate.policy();
    Json(json!({
        "version": env!("CARGO_PKG_VERSION"),
        "policy": format!("{:016x}", policy.version()),
        "ca": operator.authority.fingerprint(),
    }))
}

async fn peers(Shared(operator): Shared<Operator>) -> Result<Json<Value>, Failed> {
    let listed = operator
        .state
        .run(|state| Ok((state.peers()?, state.enrolments()?)))
        .await;
    let (peers, waiting) = listed.map_err(broken)?;
    Ok(Json(json!({ "peers": peers, "waiting": waiting })))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AddPeer {
    name: String,
    expires_s: Option<u64>,
}

async fn add_peer(
    Shared(operator): Shared<Operator>,
    Json(asked): Json<AddPeer>,
) -> Result<Json<Value>, Failed> {
    let gateway = operator.gate.policy().model().gateway.clone();
    let refused = |text: &str| Failed(StatusCode::CONFLICT, text.to_owned());
    let Some(listen) = gateway.enrol_listen else {
        return Err(refused(
            "the gateway has no enrol_listen; set it in the gateway block",
        ));
    };
    let base = gateway.public_url.unwrap_or_else(|| format!("https://{listen}"));
    let lasts = asked.expires_s.map_or(ENROLMENT_LASTS, Duration::from_secs);
    let name = asked.name.clone();
    let token = operator
        .state
        .run(move |state| state.add_enrolment(&name, lasts))
        .await;
    let token = token.map_err(|error| Failed(StatusCode::BAD_REQUEST, error.to_string()))?;
    let pin = operator.authority.fingerprint();
    let pin = pin.strip_prefix("sha256:").unwrap_or(&pin);
    let url = format!(
        "{}/join?token={token}&pin=sha256:{pin}",
        base.trim_end_matches('/')
    );
    Ok(Json(
        json!({ "name": asked.name, "url": url, "expires_s": lasts.as_secs() }),
    ))
}

async fn remove_peer(
    Shared(operator): Shared<Operator>,
    Path(name): Path<String>,
) -> Result<Json<Value>, Failed> {
    let gone = name.clone();
    let removed = operator
        .state
        .run(move |state| state.remove_peer(&gone))
        .await
        .map_err(broken)?;
    if removed {
        Ok(Json(json!({ "removed": name })))
    } else {
        Err(Failed(StatusCode::NOT_FOUND, format!("there is no peer {name}")))
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

async fn decide(
    Shared(operator): Shared<Operator>,
    Path((id, decision)): Path<(i64, String)>,
    Extension(Person(person)): Extension<Person>,
    Query(said): Query<std::collections::HashMap<String, String>>,
) -> Result<Json<Value>, Failed> {
    let decision = match decision.as_str() {
        "approve" => Decision::Allow,
        "deny" => Decision::Deny,
        _ => return Err(Failed(StatusCode::NOT_FOUND, "approve or deny".to_owned())),
    };
    let decide = Decide {
        id,
        person,
        decision,
        reason: said.get("reason").cloned(),
    };
    operator
        .queue
        .decide(decide)
        .await
        .map(|held| Json(json!(held)))
        .map_err(|error| {
            let status = match &error {
                DecideError::Unknown(_) => StatusCode::NOT_FOUND,
                DecideError::NotEligible(_) => StatusCode::FORBIDDEN,
                DecideError::Closed(_) => StatusCode::CONFLICT,
                DecideError::State(_) => StatusCode::INTERNAL_SERVER_ERROR,
            };
            Failed(status, error.to_string())
        })
}

async fn credentials(Shared(operator): Shared<Operator>) -> Json<Value> {
    let policy = operator.gate.policy();
    let rows = policy.model().credentials.iter().map(|credential| {
        let missing = credential
            .secrets
            .iter()
            .filter_map(|(slot, _)| operator.secrets.get(credential, slot).err())
            .map(|missing| missing.cause)
            .collect::<Vec<_>>();
        json!({ "credential": &*credential.key, "ready": missing.is_empty(), "missing": missing })
    });
    Json(rows.collect())
}

#[derive(Deserialize)]
struct SetCredential {
    #[serde(default)]
    slot: String,
}

async fn set_credential(
    Shared(operator): Shared<Operator>,
    Path(name): Path<String>,
    Query(asked): Query<SetCredential>,
    value: axum::body::Bytes,
) -> Result<Json<Value>, Failed> {
    let known = operator
        .gate
        .policy()
        .model()
        .credentials
        .iter()
        .any(|credential| credential.name == name);
    if !known {
        return Err(Failed(
            StatusCode::NOT_FOUND,
            format!("the policy has no credential {name}"),
        ));
    }
    let set = operator.secrets.set(&name, &asked.slot, &value);
    set.map_err(|error| Failed(StatusCode::BAD_REQUEST, error.to_string()))?;
    Ok(Json(json!({ "set": name, "slot": asked.slot })))
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

async fn verify(Shared(operator): Shared<Operator>) -> Result<Json<Value>, Failed> {
    let path = operator.audit();
    let read = tokio::task::spawn_blocking(move || Reader::open(&path)?.verify()).await;
    read.map_err(broken)?
        .map(|verified| Json(json!(verified)))
        .map_err(broken)
}
