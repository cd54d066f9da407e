//! Answers that the gateway gives in the upstream's place.

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HeaderValue, LINK};
use http::request::Parts;
use http::{Method, Response, StatusCode};
use hyper::body::Incoming;
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

use super::download::Download;
use crate::bad_input::Reader;
use crate::facts::k8s::K8sFacts;
use crate::facts::mcp::Messages;
use crate::policy::{Endpoint, Protocol};
use crate::protocol::{http as plain, kubernetes, mcp};
use crate::upstream::{DialError, SendError};
use crate::verdict::Refusal;

/// Bytes of an unread request body that are read after a denial, so that the connection can live
/// on. The body of a longer one is cut off with its connection.
pub const DRAIN_BYTES_MAX: u64 = 256 << 10;

/// An answer of the gateway's own, before it is put as the agent's client expects it.
pub struct Own {
    response: Response<Bytes>,
    reason: String,
}

/// What was asked, as far as the words of its denial hang on it.
#[derive(Clone, Copy)]
pub enum Asked<'a> {
    Kubernetes(&'a K8sFacts),
    /// The messages, if they were read, and which of them was refused.
    Mcp(Option<&'a Messages>, usize),
}

/// A denial, in the words of the endpoint's protocol. `help` leads to what the agent may reach.
pub fn denial(endpoint: &Endpoint, refusal: &Refusal, asked: Asked<'_>, help: &str) -> Own {
    let mut response = match (endpoint.protocol, asked) {
        // Whoever asks for this form reads it, whatever protocol it speaks otherwise.
        _ if refusal.ticket().is_some() => plain::deny(refusal),
        (Protocol::Kubernetes, Asked::Kubernetes(facts)) => kubernetes::deny(refusal, Some(facts)),
        (Protocol::Kubernetes, _) => kubernetes::deny(refusal, None),
        (Protocol::Mcp, Asked::Mcp(messages, refused)) => mcp::deny(refusal, messages, refused),
        _ => plain::deny(refusal),
    };
    if let Ok(link) = HeaderValue::try_from(format!("<{help}>; rel=\"help\"")) {
        response.headers_mut().insert(LINK, link);
    }
    Own {
        response,
        reason: format!("{} (what you may reach: {help})", refusal.reason),
    }
}

/// By which name what is malformed is counted.
pub fn reader(endpoint: &Endpoint) -> Reader {
    match endpoint.protocol {
        Protocol::Kubernetes => Reader::Kubernetes,
        Protocol::Mcp => Reader::Mcp,
        _ => Reader::Http,
    }
}

/// A request that was refused before any rule: 400, or 421 for another host.
pub fn malformed(endpoint: &Endpoint, error: plain::Malformed) -> Own {
    let response = match endpoint.protocol {
        Protocol::Kubernetes => kubernetes::malformed(error),
        Protocol::Mcp => mcp::malformed(error),
        _ => plain::malformed(error),
    };
    Own {
        response,
        reason: error.to_string(),
    }
}

/// An upstream that could not be reached (502) or was too slow (504). What went wrong goes to
/// the log: names, addresses and certificates behind the gateway are not the agent's business.
pub fn unreachable(endpoint: &Endpoint, error: &SendError) -> Own {
    tracing::warn!(endpoint = %endpoint.key, %error, "the upstream failed");
    match error {
        SendError::Late(_) | SendError::Dial(DialError::Late(_)) => {
            let reason = "the service behind the gateway is too slow";
            plain_error(endpoint, StatusCode::GATEWAY_TIMEOUT, reason)
        }
        _ => plain_error(
            endpoint,
            StatusCode::BAD_GATEWAY,
            "the service behind the gateway failed",
        ),
    }
}

/// A body that broke off before it could be judged.
pub fn broken_body(endpoint: &Endpoint) -> Own {
    let reason = "the request's body broke off";
    let mut own = plain_error(endpoint, StatusCode::BAD_REQUEST, reason);
    let close = HeaderValue::from_static("close");
    own.response.headers_mut().insert(CONNECTION, close);
    own
}

fn plain_error(endpoint: &Endpoint, status: StatusCode, reason: &str) -> Own {
    let body = match endpoint.protocol {
        Protocol::Kubernetes => serde_json::json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": reason, "code": status.as_u16(),
        }),
        Protocol::Mcp => mcp::failed(reason),
        _ => serde_json::json!({ "error": { "code": "upstream", "reason": reason } }),
    };
    let body = Bytes::from(format!("{body}\n"));
    let length = HeaderValue::from(body.len());
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(CONTENT_LENGTH, length);
    Own {
        response,
        reason: reason.to_owned(),
    }
}

/// How the client of a request reads an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Voice {
    Plain,
    /// `HEAD`: headers alone (RFC 9110 §9.3.2).
    Head,
    /// gRPC: a status in trailers, in a response that is nothing else.
    Grpc,
}

/// Bytes of a reason in a `grpc-message`.
const GRPC_MESSAGE: &AsciiSet = &CONTROLS.add(b'%');

impl Voice {
    pub fn of(request: &Parts) -> Voice {
        let grpc = |kind: &HeaderValue| kind.as_bytes().starts_with(b"application/grpc");
        if request.method == Method::HEAD {
            Voice::Head
        } else if request.headers.get(CONTENT_TYPE).is_some_and(grpc) {
            Voice::Grpc
        } else {
            Voice::Plain
        }
    }

    /// The answer as that client reads it.
    pub fn say(self, own: Own) -> Response<Download> {
        match self {
            Voice::Plain => own.response.map(Download::full),
            Voice::Head => own.response.map(|_| Download::full(Bytes::new())),
            Voice::Grpc => grpc(&own),
        }
    }
}

/// "Trailers-Only" of gRPC over HTTP/2, with the codes of its status table.
fn grpc(own: &Own) -> Response<Download> {
    let code = match own.response.status() {
        StatusCode::FORBIDDEN => 7,
        StatusCode::BAD_GATEWAY | StatusCode::GATEWAY_TIMEOUT => 14,
        _ => 3,
    };
    let message = utf8_percent_encode(&own.reason, GRPC_MESSAGE).to_string();
    let mut response = Response::new(Download::full(Bytes::new()));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert("grpc-status", HeaderValue::from(code));
    if let Ok(message) = HeaderValue::try_from(message) {
        headers.insert("grpc-message", message);
    }
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
