//! How a tailscaled that is played answers: as it should, or in one of the ways in which it must not be believed.

use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use serde_json::{Value, json};

/// How it answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mood {
    Honest,
    /// Longer than anyone waits.
    Slow,
    /// It begins at once, and goes on without an end, a little at a time.
    Dripping,
    Malformed,
    CutOff,
    Huge,
    Failing,
    /// JSON of another shape.
    Strange,
}

impl Mood {
    /// Every one that is no answer.
    pub const LIES: [Mood; 7] = [
        Mood::Malformed,
        Mood::CutOff,
        Mood::Huge,
        Mood::Failing,
        Mood::Strange,
        Mood::Slow,
        Mood::Dripping,
    ];
}

/// The real one refuses other names, lest a browser speaks to it.
pub fn is_named(headers: &HeaderMap) -> bool {
    headers
        .get("host")
        .is_some_and(|host| host == "local-tailscaled.sock")
        && !headers.contains_key("origin")
}

pub async fn say(mood: Mood, headers: &HeaderMap, honest: Option<Value>) -> Response {
    if !is_named(headers) {
        return StatusCode::FORBIDDEN.into_response();
    }
    let Some(honest) = honest else {
        return (StatusCode::NOT_FOUND, "no match for IP:port\n").into_response();
    };
    let text = honest.to_string();
    match mood {
        Mood::Honest => text.into_response(),
        Mood::Slow => {
            tokio::time::sleep(Duration::from_secs(60)).await;
            text.into_response()
        }
        Mood::Dripping => {
            let pieces = futures_util::stream::unfold(text, |next| async move {
                tokio::time::sleep(Duration::from_millis(50)).await;
                Some((Ok::<_, std::io::Error>(next), " ".to_owned()))
            });
            Body::from_stream(pieces).into_response()
        }
        Mood::Malformed => text.replace(':', "=").into_response(),
        Mood::CutOff => text[..text.len() - 5].to_owned().into_response(),
        Mood::Huge => format!("{}{text}", " ".repeat(2 << 20)).into_response(),
        Mood::Failing => (StatusCode::INTERNAL_SERVER_ERROR, text).into_response(),
        Mood::Strange => json!({ "Node": { "Tags": ["tag:agent-ci"] } })
            .to_string()
            .into_response(),
    }
}
