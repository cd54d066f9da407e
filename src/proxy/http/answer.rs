//! Answers that the gateway gives in the upstream's place.

use bytes::Bytes;
use http::header::{CONNECTION, HeaderValue};
use http::{Response, StatusCode};
use hyper::body::Incoming;

use super::download::Download;
use crate::facts::k8s::K8sFacts;
use crate::policy::{Endpoint, Protocol};
use crate::protocol::{http as plain, kubernetes};
use crate::upstream::{DialError, SendError};
use crate::verdict::Refusal;

/// Bytes of an unread request body that are read after a denial, so that the connection can live
/// on. The body of a longer one is cut off with its connection.
pub const DRAIN_BYTES_MAX: u64 = 256 << 10;

/// A denial, in the words of the endpoint's protocol.
pub fn denial(endpoint: &Endpoint, refusal: &Refusal, facts: Option<&K8sFacts>) -> Response<Download> {
    let response = match endpoint.protocol {
        Protocol::Kubernetes => kubernetes::deny(refusal, facts),
        _ => plain::deny(refusal),
    };
    response.map(Download::full)
}

/// A request that was refused before any rule: 400, or 421 for another host.
pub fn malformed(endpoint: &Endpoint, error: plain::Malformed) -> Response<Download> {
    let response = match endpoint.protocol {
        Protocol::Kubernetes => kubernetes::malformed(error),
        _ => plain::malformed(error),
    };
    response.map(Download::full)
}

/// An upstream that could not be reached (502) or was too slow (504). What went wrong goes to
/// the log: names, addresses and certificates behind the gateway are not the agent's business.
pub fn unreachable(endpoint: &Endpoint, error: &SendError) -> Response<Download> {
    tracing::warn!(endpoint = %endpoint.key, %error, "the upstream failed");
    match error {
        SendError::Late(_) | SendError::Dial(DialError::Late(_)) => plain_error(
            endpoint,
            StatusCode::GATEWAY_TIMEOUT,
            "the service behind the gateway is too slow",
        ),
        _ => plain_error(
            endpoint,
            StatusCode::BAD_GATEWAY,
            "the service behind the gateway failed",
        ),
    }
}

/// A body that broke off before it could be judged.
pub fn broken_body(endpoint: &Endpoint) -> Response<Download> {
    let mut response = plain_error(endpoint, StatusCode::BAD_REQUEST, "the request's body broke off");
    response
        .headers_mut()
        .insert(CONNECTION, HeaderValue::from_static("close"));
    response
}

fn plain_error(endpoint: &Endpoint, status: StatusCode, reason: &str) -> Response<Download> {
    let body = match endpoint.protocol {
        Protocol::Kubernetes => serde_json::json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": reason, "code": status.as_u16(),
        }),
        _ => serde_json::json!({ "error": { "code": "upstream", "reason": reason } }),
    };
    let mut response = Response::new(Download::full(Bytes::from(format!("{body}\n"))));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(
        http::header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    headers.insert(http::header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// Reads what is left of a refused request's body, so that the next request can be read.
pub fn drain(mut incoming: Incoming) {
    use http_body::Body as _;
    use http_body_util::BodyExt as _;
    if incoming.is_end_stream() || incoming.size_hint().lower() > DRAIN_BYTES_MAX {
        return;
    }
    tokio::spawn(async move {
        let mut left = DRAIN_BYTES_MAX;
        // Ends with the connection at the latest; `activity` bounds that.
        while let Some(Ok(frame)) = incoming.frame().await {
            let length = frame.data_ref().map_or(0, Bytes::len) as u64;
            match left.checked_sub(length) {
                Some(rest) => left = rest,
                None => return,
            }
        }
    });
}
