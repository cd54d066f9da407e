//! What is pure of Kubernetes' HTTP: checks of a head, the `Status` of a denial, and what people are shown of
//! a held request ([`trial`], [`diff`]). *Pure.*
//!
//! A Kubernetes endpoint is HTTP that passes `protocol::http` first; its facts are read by
//! `facts::k8s`. Invariant: the agent never chooses the user that the API server sees.

pub mod diff;
pub mod trial;

use bytes::Bytes;
use http::Response;
use http::request::Parts;
use serde_json::{Value, json};

use super::http::denial::{answer, retry_after, status_of};
use super::http::{Authority, Malformed, check_head, status as http_status};
use crate::facts::k8s::K8sFacts;
use crate::facts::{FactSource, Slot, View};
use crate::policy::HostPort;
use crate::verdict::{Cause, Refusal};

/// The WebSocket subprotocol that carries a bearer token to an API server.
const TOKEN_PROTOCOL: &str = "base64url.bearer.authorization.k8s.io";

/// [`check_head`], and refuses every header by which an agent could act as another user:
/// `Impersonate-*`, `X-Remote-*` (an authenticating proxy's), a token as WebSocket subprotocol.
///
/// # Errors
/// Which header it was, or what [`check_head`] says.
pub fn check_kubernetes_head(parts: &Parts, claimed: &HostPort) -> Result<Authority, Malformed> {
    let authority = check_head(parts, claimed)?;
    for (name, value) in &parts.headers {
        let text = name.as_str();
        if text.starts_with("impersonate-") {
            return Err(Malformed::ForbiddenHeader("Impersonate-*"));
        }
        if text.starts_with("x-remote-") {
            return Err(Malformed::ForbiddenHeader("X-Remote-*"));
        }
        if text == "sec-websocket-protocol"
            && memchr::memmem::find(&value.as_bytes().to_ascii_lowercase(), TOKEN_PROTOCOL.as_bytes())
                .is_some()
        {
            return Err(Malformed::ForbiddenHeader("a token in Sec-WebSocket-Protocol"));
        }
    }
    Ok(authority)
}

/// A denial as kubectl prints it: a `Status` of the API's `meta/v1`.
pub fn deny(refusal: &Refusal, facts: Option<&K8sFacts>) -> Response<Bytes> {
    let code = status_of(&refusal.cause);
    let mut message = refusal.reason.clone();
    if let Some(rule) = refusal.rule() {
        message = format!("{message} (rule {rule})");
    }
    let reason = match code {
        http::StatusCode::FORBIDDEN => "Forbidden",
        http::StatusCode::TOO_MANY_REQUESTS => "TooManyRequests",
        http::StatusCode::CONFLICT => "Conflict",
        _ => "BadRequest",
    };
    let mut details = details(facts, refusal.cause.name(), &refusal.reason);
    if let Cause::Limit { retry_after_s, .. } = refusal.cause {
        details["retryAfterSeconds"] = retry_after_s.into();
    }
    retry_after(
        answer(code, &status(code.as_u16(), reason, &message, details)),
        refusal,
    )
}

/// The `Status` for a request that is refused before any rule. Acting as another user is
/// forbidden, not a mistake in the request.
pub fn malformed(error: Malformed) -> Response<Bytes> {
    let (code, reason) = match error {
        Malformed::ForbiddenHeader(_) => (http::StatusCode::FORBIDDEN, "Forbidden"),
        error => (http_status(error), "BadRequest"),
    };
    let details = details(None, "malformed", &error.to_string());
    answer(code, &status(code.as_u16(), reason, &error.to_string(), details))
}

fn status(code: u16, reason: &str, message: &str, details: Value) -> Value {
    json!({
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": message,
        "reason": reason,
        "details": details,
        "code": code,
    })
}

fn details(facts: Option<&K8sFacts>, cause: &str, text: &str) -> Value {
    let mut details = serde_json::Map::new();
    for (slot, key) in [
        (Slot::K8sName, "name"),
        (Slot::K8sGroup, "group"),
        (Slot::K8sResource, "kind"),
    ] {
        if let Some(View::Text(text)) = facts.and_then(|facts| facts.fact(slot).known().copied())
            && !text.is_empty()
        {
            details.insert(key.to_owned(), json!(text));
        }
    }
    details.insert("causes".to_owned(), json!([{ "reason": cause, "message": text }]));
    Value::Object(details)
}
