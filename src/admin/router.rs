//! Which path leads where, and what stands before it.

use std::sync::Arc;

use axum::extract::Extension;
use axum::http::StatusCode;
use axum::response::Response;
use axum::{Router, middleware};
use serde_json::Value;

use super::api::{self, Failed, not_found};
use super::openapi::{self, Routes};
use super::token::OperatorToken;
use super::{
    Operator, admit, agents, asker, credentials, grants, listen, overview, page, peers, people, policy,
    routes, stream,
};
use crate::bad_input;
use crate::credential::store::SECRET_BYTES_MAX;

/// Bytes of a request's body: a secret, and little else.
const REQUEST_BYTES_MAX: usize = SECRET_BYTES_MAX as usize + (4 << 10);

/// Streams, and a walk over a log that may be long.
fn slow() -> Routes {
    Routes::default()
        .get(
            "/v1/audit/verify",
            "Checks the audit log's chain, the whole of it",
            api::verify,
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

/// Drafts of the policy, which may take a core for a while.
fn drafts() -> Routes {
    Routes::default()
        .get(
            "/v1/policy/coverage",
            "What the rules in force came to lately",
            policy::coverage,
        )
        .post("/v1/policy/check", "What is wrong in a draft", policy::check)
        .post(
            "/v1/policy/rehearse",
            "What a draft would change of what was recorded",
            policy::rehearse,
        )
        .put(
            "/v1/policy/files/{name}",
            "Writes a file of the policy, and puts it in force",
            policy::write,
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
        .get(
            "/v1/audit/{id}/explain",
            "Why each rule does or does not match what was recorded",
            policy::explain,
        )
        .get("/v1/policy/files", "The policy's files", policy::read)
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
            api::approvals,
        )
        .get("/v1/approvals/{id}", "One held action, whole", api::approval)
        .get(
            "/v1/approvals/{id}/asker",
            "What the agent of a held action did of late, and how its likes were decided",
            asker::asker,
        )
        .post(
            "/v1/approvals/{id}/approve",
            "Says yes, once or for a time",
            api::approve,
        )
        .post("/v1/approvals/{id}/deny", "Says no", api::deny)
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
        .get("/v1/audit", "Records of the audit log", api::audit)
        .get(
            "/v1/tailnet",
            "The gateway's node of the tailnet and its routes",
            routes::report,
        )
        .post(
            "/v1/operator-token/rotate",
            "Makes a new operator's token",
            api::rotate_token,
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
    let all = [open(), closed(), drafts(), slow()].into_iter();
    openapi::document(&all.flat_map(|routes| routes.into_parts().1).collect::<Vec<_>>())
}

/// The page and the API, with the guards before them that [`listen::serve`] feeds.
pub(super) fn router(operator: Operator, token: Arc<OperatorToken>) -> Router {
    let all = [open(), closed(), drafts(), slow()].map(|routes| routes.into_parts().0);
    let [open, closed, drafts, slow] = all;
    let drafts = drafts.layer(middleware::from_fn(listen::whole));
    let open = page::router()
        .merge(open)
        .layer(middleware::from_fn(listen::whole))
        .layer(middleware::from_fn_with_state(listen::BOUNDS, listen::in_time))
        .layer(middleware::from_fn(admit::greet));
    let closed = closed
        .layer(middleware::from_fn(listen::whole))
        .layer(middleware::from_fn_with_state(listen::BOUNDS, listen::in_time))
        .merge(drafts)
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
