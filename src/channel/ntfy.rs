//! ntfy: a push that says that somebody is asked, with a link to the page. *Pure.*
//!
//! Whoever knows a topic may read it, so nothing of the action stands in it, and nobody can decide by it:
//! the link leads to the page, which wants a sign-in. It is published as JSON, so nothing is a header.

use serde_json::{Value, json};

use super::notice::Notice;

/// ntfy's number for what is to be seen at once.
const HIGH: u8 = 4;

/// What is sent to the server's own URL.
pub fn message(notice: &Notice, topic: &str) -> Value {
    json!({
        "topic": topic,
        "title": notice.title,
        "message": match notice.is_escalated {
            false => "It is held until people have decided. Open the page to see what it is.",
            true => "Nobody has decided it yet, and others may by now. Open the page to see what it is.",
        },
        "priority": HIGH,
        "tags": ["lock"],
        "click": notice.link,
        "actions": [{ "action": "view", "label": "Open the page", "url": notice.link, "clear": false }],
    })
}
