//! A webhook that any system can implement, signed both ways as Standard Webhooks 1.0 says. *Pure.*
//!
//! Each request, there and back, has `webhook-id`, `webhook-timestamp` (Unix seconds) and
//! `webhook-signature`: `v1,` and the HMAC-SHA256 of `ID.TIME.BODY` in base64. The key is what stands in
//! base64 behind `whsec_`, or the secret's own bytes.
//!
//! There: how a question stands ([`super::notice::document`]), with a `type` and while it is open with a
//! `token`. Back: [`Said`], to `/webhook/NAME` of `channel_listen`. A token decides once.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderMap;
use serde::Deserialize;
use serde_json::Value;

use super::notice::document;
use super::sign::{Unsigned, is_mac, mac};
use crate::verdict::approval::{Decision, Held, QuestionState};

/// Bytes of a question that is sent whole; of a longer one, what it does is on the page alone, and it
/// cannot be decided from here.
pub const QUESTION_BYTES_MAX: usize = 256 << 10;
const PREFIX: &str = "whsec_";

/// What a system says of a question.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Said {
    pub approval: i64,
    /// The question's own, so that what was decided on is what was shown.
    pub digest: String,
    pub token: String,
    pub decision: Word,
    /// Who decides, as a `person` of the channel is called.
    pub person: String,
    /// For the agent to read.
    #[serde(default)]
    pub reason: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Word {
    Approve,
    Deny,
}

impl From<Word> for Decision {
    fn from(word: Word) -> Self {
        match word {
            Word::Approve => Decision::Allow,
            Word::Deny => Decision::Deny,
        }
    }
}

/// The body that says how a question stands. Without a token where it is closed, or not shown whole.
pub fn body(held: &Held, page: &str, token: &str) -> Value {
    let mut body = document(held, page);
    let kind = match held.state {
        QuestionState::Pending if held.by.is_empty() => "approval.asked",
        QuestionState::Pending => "approval.voted",
        _ => "approval.closed",
    };
    body["type"] = kind.into();
    let cut = body.to_string().len() > QUESTION_BYTES_MAX;
    if cut {
        for field in ["detail", "facts", "preview"] {
            body["question"][field] = Value::Null;
        }
        body["question"]["cut"] = true.into();
    }
    body["token"] = match held.state == QuestionState::Pending && !cut {
        true => token.into(),
        false => Value::Null,
    };
    body
}

/// The three headers of a signed request.
///
/// # Errors
/// The secret is no base64 behind its prefix.
pub fn sign(secret: &[u8], id: &str, at_s: i64, body: &[u8]) -> Result<[(&'static str, String); 3], String> {
    let key = key(secret).ok_or("the secret behind whsec_ is not base64")?;
    let time = at_s.to_string();
    let own = mac(&key, &[id.as_bytes(), b".", time.as_bytes(), b".", body]);
    Ok([
        ("webhook-id", id.to_owned()),
        ("webhook-timestamp", time),
        ("webhook-signature", format!("v1,{}", STANDARD.encode(own))),
    ])
}

/// The time and the bytes of the signature of what came back. Of several signatures one has to be right.
///
/// # Errors
/// It is not signed by this secret. Whether it is of now, and new, is to be asked of [`super::sign::Seen`].
pub fn verify(secret: &[u8], headers: &HeaderMap, body: &[u8]) -> Result<(i64, Vec<u8>), Unsigned> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let id = text("webhook-id").ok_or(Unsigned::Missing)?;
    let time = text("webhook-timestamp").ok_or(Unsigned::Missing)?;
    let signatures = text("webhook-signature").ok_or(Unsigned::Missing)?;
    let key = key(secret).ok_or(Unsigned::Wrong)?;
    let at = time.parse().map_err(|_| Unsigned::Wrong)?;
    let parts = [id.as_bytes(), b".", time.as_bytes(), b".", body];
    let given = signatures
        .split(' ')
        .filter_map(|one| STANDARD.decode(one.strip_prefix("v1,")?).ok());
    let own = given.into_iter().find(|given| is_mac(&key, &parts, given));
    own.map(|own| (at, own)).ok_or(Unsigned::Wrong)
}

/// The key that a secret's text stands for; `None` if it is none.
pub(super) fn key(secret: &[u8]) -> Option<zeroize::Zeroizing<Vec<u8>>> {
    let bytes = match secret.strip_prefix(PREFIX.as_bytes()) {
        Some(text) => STANDARD.decode(text).ok()?,
        None => secret.to_vec(),
    };
    (!bytes.is_empty()).then(|| bytes.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(signed: &[(&'static str, String); 3]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in signed {
            headers.insert(*name, value.parse().unwrap());
        }
        headers
    }

    /// The example of the specification.
    #[test]
    fn a_signature_is_that_of_standard_webhooks() {
        let secret = b"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
        let body = br#"{"test": 2432232314}"#;
        let signed = sign(secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, body).unwrap();
        assert_eq!(signed[2].1, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
        let mut own = headers(&signed);
        assert_eq!(verify(secret, &own, body).unwrap().0, 1_614_265_330);
        assert_eq!(verify(secret, &own, b"{}"), Err(Unsigned::Wrong));
        assert_eq!(
            verify(b"MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", &own, body),
            Err(Unsigned::Wrong)
        );
        // One of several, as while a secret is changed.
        let both = format!("v1,AAAA v1a,xx {}", signed[2].1);
        own.insert("webhook-signature", both.parse().unwrap());
        assert!(verify(secret, &own, body).is_ok());
        for name in ["webhook-id", "webhook-timestamp"] {
            let mut other = own.clone();
            other.insert(name, "1614265331".parse().unwrap());
            assert_eq!(
                verify(secret, &other, body),
                Err(Unsigned::Wrong),
                "{name} is signed"
            );
            other.remove(name);
            assert_eq!(verify(secret, &other, body), Err(Unsigned::Missing));
        }
        assert!(sign(b"whsec_%%", "a", 1, body).is_err());
        assert_eq!(
            verify(b"whsec_", &own, body),
            Err(Unsigned::Wrong),
            "no key at all"
        );
    }

    #[test]
    fn what_is_not_shown_whole_has_no_token() {
        let held = |detail: &str, state: &str| -> Held {
            let question = serde_json::json!({ "detail": detail, "digest": "d" });
            serde_json::from_value(serde_json::json!({
                "id": 1, "state": state, "question": question, "asked_us": 0, "expires_us": 0,
                "closed_us": null, "by": [], "reason": null,
            }))
            .unwrap()
        };
        let whole = body(&held("x", "pending"), "https://page", "t");
        assert_eq!(
            (whole["token"].as_str(), whole["type"].as_str()),
            (Some("t"), Some("approval.asked"))
        );
        assert_eq!(whole["question"]["detail"], "x");
        let long = body(
            &held(&"x".repeat(QUESTION_BYTES_MAX), "pending"),
            "https://page",
            "t",
        );
        assert_eq!(
            (&long["token"], &long["question"]["detail"]),
            (&Value::Null, &Value::Null)
        );
        assert!(long.to_string().len() < QUESTION_BYTES_MAX);
        assert_eq!(
            body(&held("x", "denied"), "https://page", "t")["token"],
            Value::Null
        );
    }
}
