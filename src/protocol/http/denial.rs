//! What a denied request is answered with. *Pure.*

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use http::{Response, StatusCode};
use serde_json::json;

use super::Malformed;
use super::later::held;
use crate::verdict::{Cause, Refusal};

/// The answer to a refused request: 202 with a ticket where people are to decide and its client does not wait, 403, 400 where it was malformed, 409 where what it changes is not as people saw it, 429 where it was one too many. The rule's reason stands
/// in it; an evaluator's detail does not.
pub fn deny(refusal: &Refusal) -> Response<Bytes> {
    if let Some(ticket) = refusal.ticket() {
        return held(ticket, &refusal.reason);
    }
    let status = status_of(&refusal.cause);
    let body = json!({ "error": {
        "code": if status == StatusCode::BAD_REQUEST { "malformed" } else { "denied" },
        "cause": refusal.cause.name(),
        "rule": refusal.rule().map(|rule| &**rule),
        "reason": refusal.reason,
    }});
    retry_after(answer(status, &body), refusal)
}

/// Says when a request would pass that is one too many.
pub(crate) fn retry_after(mut response: Response<Bytes>, refusal: &Refusal) -> Response<Bytes> {
    if let Cause::Limit { retry_after_s, .. } = refusal.cause {
        response
            .headers_mut()
            .insert(RETRY_AFTER, HeaderValue::from(retry_after_s));
    }
    response
}

/// The answer to a request that is refused before any rule: 400 or 421.
pub fn malformed(error: Malformed) -> Response<Bytes> {
    let body = json!({ "error": {
        "code": if error == Malformed::Misdirected { "misdirected" } else { "malformed" },
        "cause": Cause::Malformed.name(),
        "rule": null,
        "reason": error.to_string(),
    }});
    answer(super::status(error), &body)
}

pub(crate) fn status_of(cause: &Cause) -> StatusCode {
    match cause {
        Cause::Malformed => StatusCode::BAD_REQUEST,
        Cause::TooMany => StatusCode::TOO_MANY_REQUESTS,
        Cause::Limit { .. } => StatusCode::TOO_MANY_REQUESTS,
        Cause::Changed(_) => StatusCode::CONFLICT,
        _ => StatusCode::FORBIDDEN,
    }
}

pub(crate) fn answer(status: StatusCode, body: &serde_json::Value) -> Response<Bytes> {
    let body = Bytes::from(format!("{body}\n"));
    let length = HeaderValue::from(body.len());
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(CONTENT_LENGTH, length);
    response
}
