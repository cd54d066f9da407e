//! Slack: a message in Block Kit with buttons, and what comes back when one is pressed. *Pure.*
//!
//! What an agent wrote stands in `plain_text` alone, which Slack does not read as markup, with `&`, `<` and
//! `>` escaped as Slack asks for in every text. An action that does not fit whole has no buttons, but a link.
//!
//! A button carries the question's number and its message's token. What comes back is signed by the app's
//! signing secret ([`verify`]), and is of a member whom Slack names; whom that means is the channel's to say.

use http::HeaderMap;
use serde::Deserialize;
use serde_json::{Value, json};

use super::notice::Notice;
use super::post::Failure;
use super::sign::{Unsigned, is_mac};
use super::visible::printable;
use crate::verdict::approval::{Decision, QuestionState};

/// Characters of one text of a block, escapes included: Slack's own limit is 3000.
const BLOCK_CHARS_MAX: usize = 2900;
/// Characters of what is run that a message shows, escapes included; what is longer is on the page alone.
pub const SHOWN_CHARS_MAX: usize = 4 * BLOCK_CHARS_MAX;
/// Lines of what is run that a message shows: nobody scrolls through more of them to a button.
pub const SHOWN_LINES_MAX: usize = 100;
/// Characters of a header: Slack's own limit.
const HEADER_CHARS_MAX: usize = 150;

const APPROVE: &str = "tailkeep_approve";
const DENY: &str = "tailkeep_deny";

/// What is sent to `chat.postMessage`, or with the place of a message to `chat.update`.
pub fn message(notice: &Notice, room: &str, place: Option<&str>, token: &str) -> Value {
    let mut blocks = vec![
        json!({ "type": "header", "text": plain(&cut(&escaped(&notice.title), HEADER_CHARS_MAX)) }),
        section(&cut(&escaped(&notice.about()), BLOCK_CHARS_MAX)),
    ];
    let mut action = notice.quoted();
    if !notice.does.is_empty() {
        action.push_str(&format!("\n\nWhat it would do:\n{}", notice.does));
    }
    let fits =
        escaped(&action).chars().count() <= SHOWN_CHARS_MAX && action.lines().count() <= SHOWN_LINES_MAX;
    if fits {
        blocks.extend(pieces(&action).iter().map(|piece| section(piece)));
    } else {
        blocks.push(section(
            "It is too long to be shown here whole. Decide on the page, which shows all of it.",
        ));
    }
    for lines in [&notice.facts, &notice.asker] {
        if !lines.is_empty() {
            blocks.push(section(&cut(&escaped(&lines.join("\n")), BLOCK_CHARS_MAX)));
        }
    }
    if !notice.said.is_empty() {
        blocks.push(section(&cut(&escaped(&notice.said), BLOCK_CHARS_MAX)));
    }
    let mut elements = Vec::new();
    if notice.state == QuestionState::Pending && fits {
        let value = format!("{}:{token}", notice.id);
        elements.push(button("Approve", APPROVE, "primary", &value));
        elements.push(button("Deny", DENY, "danger", &value));
    }
    elements.push(json!({
        "type": "button", "action_id": "tailkeep_open", "text": plain("Open the page"), "url": notice.link,
    }));
    blocks.push(json!({ "type": "actions", "elements": elements }));
    let mut message = json!({
        "channel": room, "text": escaped(&notice.title), "mrkdwn": false, "blocks": blocks,
        "unfurl_links": false, "unfurl_media": false,
    });
    if let Some((room, ts)) = place.and_then(|place| place.split_once('/')) {
        message["channel"] = room.into();
        message["ts"] = ts.into();
    }
    message
}

/// What calls people to a message that stands already: others may decide too by now.
pub fn reply(notice: &Notice, place: &str) -> Value {
    let text = format!("Nobody has decided {} yet, and others may by now.", notice.title);
    let (room, ts) = place.split_once('/').unwrap_or_default();
    json!({
        "channel": room, "thread_ts": ts, "reply_broadcast": true, "text": escaped(&text), "mrkdwn": false,
        "blocks": [section(&cut(&escaped(&text), BLOCK_CHARS_MAX))], "unfurl_links": false, "unfurl_media": false,
    })
}

fn button(label: &str, action: &str, style: &str, value: &str) -> Value {
    json!({
        "type": "button", "action_id": action, "style": style, "text": plain(label), "value": value,
        "confirm": {
            "title": plain(&format!("{label}?")), "style": style, "confirm": plain(label), "deny": plain("Back"),
            "text": plain("What is shown is exactly what is run, once."),
        },
    })
}

/// `text` is escaped.
fn plain(text: &str) -> Value {
    json!({ "type": "plain_text", "text": text, "emoji": false })
}

/// Shown without a fold.
fn section(text: &str) -> Value {
    json!({ "type": "section", "expand": true, "text": plain(text) })
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

/// What is ours and names, never what is run.
fn cut(text: &str, chars_max: usize) -> String {
    match text.char_indices().nth(chars_max.saturating_sub(1)) {
        Some((end, _)) if text.chars().count() > chars_max => {
            format!("{}…", text.get(..end).unwrap_or_default())
        }
        _ => text.to_owned(),
    }
}

/// The text in blocks, escaped, each as long as it may be and none cut within an escape.
fn pieces(text: &str) -> Vec<String> {
    let (mut pieces, mut piece, mut chars) = (Vec::new(), String::new(), 0);
    for char in text.chars() {
        let own = escaped(char.encode_utf8(&mut [0; 4]));
        let more = own.chars().count();
        if chars + more > BLOCK_CHARS_MAX {
            pieces.push(std::mem::take(&mut piece));
            chars = 0;
        }
        piece.push_str(&own);
        chars += more;
    }
    if !piece.is_empty() {
        pieces.push(piece);
    }
    pieces
}

/// The time and the bytes of the signature of what Slack sends: `v0=` and the HMAC of `v0:TIME:BODY`.
///
/// # Errors
/// It is not signed by this secret. Whether it is of now, and new, is to be asked of [`super::sign::Seen`].
pub fn verify(secret: &[u8], headers: &HeaderMap, body: &[u8]) -> Result<(i64, Vec<u8>), Unsigned> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let time = text("x-slack-request-timestamp").ok_or(Unsigned::Missing)?;
    let signature = text("x-slack-signature").ok_or(Unsigned::Missing)?;
    let signature = signature
        .strip_prefix("v0=")
        .and_then(unhex)
        .ok_or(Unsigned::Wrong)?;
    let at = time.parse().map_err(|_| Unsigned::Wrong)?;
    match is_mac(secret, &[b"v0:", time.as_bytes(), b":", body], &signature) {
        true => Ok((at, signature)),
        false => Err(Unsigned::Wrong),
    }
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u32>> = text.chars().map(|char| char.to_digit(16)).collect();
    let (pairs, []) = digits.as_deref()?.as_chunks::<2>() else {
        return None;
    };
    pairs
        .iter()
        .map(|[high, low]| u8::try_from(high * 16 + low).ok())
        .collect()
}

/// A button was pressed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pressed {
    pub approval: i64,
    pub token: String,
    pub decision: Decision,
    /// The member's ID.
    pub member: String,
    /// The message that it stands in, as [`posted`] names it.
    pub place: String,
    /// Where the member can be answered.
    pub response_url: Option<String>,
}

#[derive(Deserialize)]
struct Payload {
    #[serde(rename = "type")]
    kind: String,
    user: Member,
    #[serde(default)]
    actions: Vec<Press>,
    container: Option<Container>,
    response_url: Option<String>,
}

#[derive(Deserialize)]
struct Member {
    id: String,
}

#[derive(Deserialize)]
struct Press {
    #[serde(default)]
    action_id: String,
    #[serde(default)]
    value: String,
}

#[derive(Deserialize)]
struct Container {
    #[serde(default)]
    channel_id: String,
    #[serde(default)]
    message_ts: String,
}

/// What a signed interaction says; `None` if it is nothing of ours, such as the link that was opened.
///
/// # Errors
/// It is no interaction.
pub fn pressed(body: &[u8]) -> Result<Option<Pressed>, String> {
    let payload = std::str::from_utf8(body)
        .ok()
        .and_then(|text| text.split('&').find_map(|pair| pair.strip_prefix("payload=")))
        .ok_or("no payload")?
        .replace('+', " ");
    let payload = percent_encoding::percent_decode_str(&payload)
        .decode_utf8()
        .map_err(|error| error.to_string())?;
    let payload: Payload = serde_json::from_str(&payload).map_err(|error| error.to_string())?;
    if payload.kind != "block_actions" {
        return Ok(None);
    }
    let [press] = payload.actions.as_slice() else {
        return Ok(None);
    };
    let decision = match press.action_id.as_str() {
        APPROVE => Decision::Allow,
        DENY => Decision::Deny,
        _ => return Ok(None),
    };
    let (id, token) = press
        .value
        .split_once(':')
        .ok_or("the button's value is another")?;
    let container = payload.container.ok_or("no container")?;
    Ok(Some(Pressed {
        approval: id.parse().map_err(|_| "the button's value is another")?,
        token: token.to_owned(),
        decision,
        member: payload.user.id,
        place: format!("{}/{}", container.channel_id, container.message_ts),
        response_url: payload.response_url,
    }))
}

/// Slack's errors that may be over soon; the rest are the configuration's.
const PASSING: [&str; 5] = [
    "fatal_error",
    "internal_error",
    "ratelimited",
    "request_timeout",
    "service_unavailable",
];

/// The place of the message that Slack says it has posted.
///
/// # Errors
/// What Slack says instead.
pub fn posted(answer: &Value) -> Result<String, Failure> {
    match (
        answer["ok"].as_bool(),
        answer["channel"].as_str(),
        answer["ts"].as_str(),
    ) {
        (Some(true), Some(room), Some(ts)) => Ok(format!("{room}/{ts}")),
        (Some(true), ..) => Err(Failure::Final("Slack's answer names no message".to_owned())),
        _ => {
            let error = answer["error"].as_str().unwrap_or("nothing");
            let said = format!("Slack says {}", printable(error));
            Err(match PASSING.contains(&error) {
                true => Failure::Later(said, None),
                false => Failure::Final(said),
            })
        }
    }
}

/// Whether a member may be answered there: Slack's own address, or the configured API's.
pub fn is_response_url(url: &str, base_url: &str) -> bool {
    let origin = |url: &str| {
        let url = reqwest::Url::parse(url).ok()?;
        (url.username().is_empty() && url.password().is_none()).then(|| url.origin())
    };
    let given = origin(url);
    given.is_some() && (given == origin("https://hooks.slack.com") || given == origin(base_url))
}

#[cfg(test)]
mod tests;
