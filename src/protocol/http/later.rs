//! `Tailkeep-Approval: async`: 202 instead of a held request, for clients that cannot wait. *Pure.*
//!
//! The agent sends the header, and is answered 202 with where to ask how it stands, and a token. Once people said
//! yes, it sends the very same request again with `Tailkeep-Retry: TOKEN`. Both headers are the gateway's own: they
//! are taken out before anything is read of the request, so its digest is the same each time, and never go upstream.

use bytes::Bytes;
use http::header::{HeaderMap, HeaderName, HeaderValue, LOCATION, RETRY_AFTER};
use http::{Response, StatusCode};
use serde_json::json;

use super::Malformed;
use super::denial::answer;
use crate::identity::manifest::HOST;
use crate::verdict::{Later, Ticket};

/// By which an agent says that it does not wait.
pub const ASYNC: HeaderName = HeaderName::from_static("tailkeep-approval");
/// By which it comes back.
pub const RETRY: HeaderName = HeaderName::from_static("tailkeep-retry");
/// Characters of a token.
const TOKEN_CHARS: usize = 64;
/// Seconds between two looks, as an agent is asked to keep.
const LOOK_EVERY_S: u64 = 10;

/// Takes both headers out of a request.
///
/// # Errors
/// They stand twice, or are not as the gateway gave them.
pub fn take(headers: &mut HeaderMap) -> Result<Option<Later>, Malformed> {
    let asks = one(headers, ASYNC)?;
    if asks
        .as_ref()
        .is_some_and(|value| !value.as_bytes().eq_ignore_ascii_case(b"async"))
    {
        return Err(Malformed::ForbiddenHeader(
            "Tailkeep-Approval with another word than `async`",
        ));
    }
    let token = match one(headers, RETRY)? {
        None => None,
        Some(value) => {
            let text = value.to_str().unwrap_or_default();
            let is_token = text.len() == TOKEN_CHARS && text.bytes().all(|byte| byte.is_ascii_hexdigit());
            if !is_token {
                return Err(Malformed::ForbiddenHeader("Tailkeep-Retry with what is no token"));
            }
            Some(text.to_owned())
        }
    };
    Ok((asks.is_some() || token.is_some()).then_some(Later { token }))
}

fn one(headers: &mut HeaderMap, name: HeaderName) -> Result<Option<HeaderValue>, Malformed> {
    if headers.get_all(&name).iter().count() > 1 {
        return Err(Malformed::ForbiddenHeader("Tailkeep-* twice"));
    }
    Ok(headers.remove(&name))
}

/// Where an agent asks how its question stands, inside its tunnel.
pub fn status_url(approval: i64) -> String {
    format!("http://{HOST}/approvals/{approval}")
}

/// The answer to a request that waits for people while its client does not.
pub fn held(ticket: &Ticket, reason: &str) -> Response<Bytes> {
    let url = status_url(ticket.approval);
    let expires = chrono::DateTime::from_timestamp_micros(ticket.expires_us);
    let body = json!({ "approval": {
        "id": ticket.approval,
        "state": "pending",
        "status_url": url,
        "retry_token": ticket.token,
        "expires": expires.map(|at| at.to_rfc3339_opts(chrono::SecondsFormat::Secs, true)),
        "reason": reason,
    }});
    let mut response = answer(StatusCode::ACCEPTED, &body);
    let headers = response.headers_mut();
    if let Ok(url) = HeaderValue::from_str(&url) {
        headers.insert(LOCATION, url);
    }
    headers.insert(RETRY_AFTER, HeaderValue::from(LOOK_EVERY_S));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&HeaderName, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn both_headers_are_taken_out_and_are_whole() {
        let token = "0a".repeat(TOKEN_CHARS / 2);
        let plain = HeaderName::from_static("x-plain");
        let mut some = headers(&[(&ASYNC, "Async"), (&plain, "1")]);
        assert_eq!(take(&mut some), Ok(Some(Later::default())));
        assert_eq!(some.keys().collect::<Vec<_>>(), [&plain]);
        let mut back = headers(&[(&RETRY, &token)]);
        assert_eq!(
            take(&mut back),
            Ok(Some(Later {
                token: Some(token.clone())
            }))
        );
        assert!(back.is_empty());
        assert_eq!(take(&mut headers(&[(&plain, "1")])), Ok(None));
        let long = format!("{token}0");
        for wrong in [
            &[(&ASYNC, "sync")][..],
            &[(&ASYNC, "async"), (&ASYNC, "async")],
            &[(&RETRY, "")],
            &[(&RETRY, &token[1..])],
            &[(&RETRY, &long)],
            &[(&RETRY, &token), (&RETRY, &token)],
        ] {
            assert!(take(&mut headers(wrong)).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn an_answer_says_where_and_when_to_ask() {
        let ticket = Ticket {
            approval: 7,
            token: Some("t".to_owned()),
            expires_us: 60_000_000,
        };
        let response = held(&ticket, "a person looks at it");
        assert_eq!(response.status(), StatusCode::ACCEPTED);
        assert_eq!(
            response.headers()[LOCATION],
            "http://tailkeep.internal/approvals/7"
        );
        assert_eq!(response.headers()[RETRY_AFTER], "10");
        let body: serde_json::Value = serde_json::from_slice(response.body()).unwrap();
        assert_eq!(body["approval"]["retry_token"], "t");
        assert_eq!(body["approval"]["expires"], "1970-01-01T00:01:00Z");
    }
}
