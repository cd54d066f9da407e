//! What a client of the Model Context Protocol is answered where its message goes nowhere. *Pure.*
//!
//! A refused request is answered by a JSON-RPC error with its id, which the client shows; a batch by
//! a list of them. What has no id is answered by the status alone, with the reason beside it. The
//! stream of the server's events is answered by 405, which says to a client that there is none.

use bytes::Bytes;
use http::header::{ALLOW, HeaderValue};
use http::{Response, StatusCode};
use serde_json::{Value, json};

use crate::facts::mcp::{Kind, Messages};
use crate::protocol::http::{Malformed, answer, status};
use crate::verdict::{Cause, Refusal};

/// The code of a denial, of those that JSON-RPC leaves to servers.
pub const DENIED_CODE: i64 = -32_011;

/// JSON-RPC's "Invalid Request".
const INVALID_CODE: i64 = -32_600;

/// JSON-RPC's "Internal error".
const FAILED_CODE: i64 = -32_603;

/// The answer to refused messages. `refused` is the one by which the whole was refused.
pub fn deny(refusal: &Refusal, messages: Option<&Messages>, refused: usize) -> Response<Bytes> {
    let data = json!({
        "code": "denied",
        "cause": refusal.cause.name(),
        "rule": refusal.rule().map(|rule| &**rule),
    });
    let error = |id: Value, reason: &str| {
        json!({ "jsonrpc": "2.0", "id": id, "error": {
            "code": DENIED_CODE, "message": reason, "data": data,
        }})
    };
    let Some(own) = messages else {
        return answer(StatusCode::FORBIDDEN, &error(Value::Null, &refusal.reason));
    };
    if own.messages.iter().any(|one| one.kind() == Kind::Stream) {
        let whole = error(Value::Null, &refusal.reason);
        let mut response = answer(StatusCode::METHOD_NOT_ALLOWED, &whole);
        response
            .headers_mut()
            .insert(ALLOW, HeaderValue::from_static("POST"));
        return response;
    }
    let mut errors: Vec<Value> = own
        .messages
        .iter()
        .enumerate()
        .filter_map(|(at, message)| {
            let id = message.id()?.clone();
            Some(match at == refused {
                true => error(id, &refusal.reason),
                false => error(id, &format!("its batch was refused: {}", refusal.reason)),
            })
        })
        .collect();
    match (own.batch, errors.len()) {
        (_, 0) => answer(StatusCode::FORBIDDEN, &error(Value::Null, &refusal.reason)),
        (true, _) => answer(StatusCode::OK, &Value::Array(errors)),
        (false, _) => answer(StatusCode::OK, &errors.remove(0)),
    }
}

/// The answer to what is no message: 400, or 421 for another host.
pub fn malformed(error: Malformed) -> Response<Bytes> {
    let status = match error {
        // A client looks for what a server says of its log-in; there is none here.
        Malformed::OtherPath => StatusCode::NOT_FOUND,
        error => status(error),
    };
    let body = json!({ "jsonrpc": "2.0", "id": null, "error": {
        "code": INVALID_CODE,
        "message": error.to_string(),
        "data": { "code": "malformed", "cause": Cause::Malformed.name() },
    }});
    answer(status, &body)
}

/// The body where the server failed.
pub fn failed(reason: &str) -> Value {
    json!({ "jsonrpc": "2.0", "id": null, "error": { "code": FAILED_CODE, "message": reason } })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::http::HeldBody;
    use crate::facts::mcp::read;

    fn messages(method: &str, body: &str) -> Messages {
        let request = http::Request::builder().method(method).body(()).unwrap();
        let held = match body {
            "" => HeldBody::Empty,
            body => HeldBody::Whole(body.as_bytes()),
        };
        read(&request.into_parts().0, held, 1 << 20).unwrap()
    }

    fn said(method: &str, body: &str, refused: usize) -> (u16, Value) {
        let refusal = Refusal::new(Cause::NoRule, "not here").with_detail("secret");
        let response = deny(&refusal, Some(&messages(method, body)), refused);
        let body = serde_json::from_slice(response.body()).unwrap();
        (response.status().as_u16(), body)
    }

    #[test]
    fn a_refusal_is_what_a_client_shows() {
        let (status, body) = said("POST", r#"{"jsonrpc":"2.0","id":"a","method":"ping"}"#, 0);
        assert_eq!((status, &body["id"]), (200, &json!("a")));
        assert_eq!(body["error"]["message"], "not here");
        assert!(!body.to_string().contains("secret"));
        let batch = r#"[{"jsonrpc":"2.0","id":1,"method":"ping"},{"jsonrpc":"2.0","method":"x"},{"jsonrpc":"2.0","id":2,"method":"y"}]"#;
        let (status, body) = said("POST", batch, 2);
        assert_eq!(status, 200);
        assert_eq!(
            (&body[0]["id"], &body[1]["id"], body.as_array().unwrap().len()),
            (&json!(1), &json!(2), 2)
        );
        assert_eq!(body[0]["error"]["message"], "its batch was refused: not here");
        assert_eq!(body[1]["error"]["message"], "not here");
        let (status, body) = said("POST", r#"{"jsonrpc":"2.0","method":"x"}"#, 0);
        assert_eq!((status, &body["id"]), (403, &Value::Null));
        assert_eq!(said("GET", "", 0).0, 405);
        assert_eq!(said("DELETE", "", 0).0, 403);
        assert_eq!(malformed(Malformed::Rpc).status(), 400);
        assert_eq!(malformed(Malformed::OtherPath).status(), 404);
    }
}
