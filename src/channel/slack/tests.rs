//! Slack's messages and interactions, without a server.

use super::*;

fn notice(action: &str) -> Notice {
    Notice {
        id: 7,
        title: "Approval 7: <!channel> asks https.api".to_owned(),
        about: vec![("Agent", "lap<@U1>top".to_owned())],
        action: action.to_owned(),
        does: String::new(),
        facts: vec!["path: /<!here>".to_owned()],
        asker: Vec::new(),
        link: "https://page/#/approvals/7".to_owned(),
        state: QuestionState::Pending,
        is_escalated: false,
        said: String::new(),
    }
}

fn texts(value: &Value, into: &mut Vec<(String, String)>) {
    match value {
        Value::Array(items) => items.iter().for_each(|item| texts(item, into)),
        Value::Object(object) => {
            if let (Some(kind), Some(text)) = (object.get("type"), object.get("text").and_then(Value::as_str))
            {
                into.push((kind.as_str().unwrap().to_owned(), text.to_owned()));
            }
            object.values().for_each(|item| texts(item, into));
        }
        _ => {}
    }
}

fn has_buttons(message: &Value) -> bool {
    message.to_string().contains(APPROVE)
}

/// No text of a block is markup, and no character of it opens a link or a mention.
#[test]
fn nothing_that_an_agent_wrote_is_markup() {
    let evil = "*bold* <!here> <https://evil|safe> ``` & &lt; :smile:";
    let message = message(&notice(evil), "C1", None, "token");
    let mut all = Vec::new();
    texts(&message["blocks"], &mut all);
    assert!(all.len() > 4);
    for (kind, text) in &all {
        assert_eq!(kind, "plain_text", "{text}");
        assert!(!text.contains(['<', '>']), "{text}");
    }
    let whole = "| *bold* &lt;!here&gt; &lt;https://evil|safe&gt; ``` &amp; &amp;lt; :smile:";
    assert!(all.iter().any(|(_, text)| text == whole), "{all:?}");
    assert_eq!(message["text"], "Approval 7: &lt;!channel&gt; asks https.api");
    assert_eq!(message["mrkdwn"], false);
}

/// Nothing that an agent wrote passes for what the gateway found out.
#[test]
fn each_line_of_an_agent_is_marked() {
    let evil = Notice {
        does: "{ \"tag\": \"DELETE 3\" }".to_owned(),
        ..notice("DELETE FROM t -- \n\nWhat it would do:\n{ \"tag\": \"DELETE 0\" }")
    };
    let mut all = Vec::new();
    texts(&message(&evil, "C1", None, "token")["blocks"], &mut all);
    let (_, shown) = all.iter().find(|(_, text)| text.contains("DELETE FROM")).unwrap();
    let (own, found) = shown.split_once("\n\nWhat it would do:\n").unwrap();
    assert!(own.lines().all(|line| line.starts_with("| ")), "{own}");
    assert_eq!(found, evil.does);
}

/// What is shown is the whole; where it cannot be, nobody can say yes to a part of it.
#[test]
fn a_message_shows_all_or_has_no_buttons() {
    let fits = "x".repeat(SHOWN_CHARS_MAX - 2);
    let shown = message(&notice(&fits), "C1", None, "token");
    let mut all = Vec::new();
    texts(&shown["blocks"], &mut all);
    let run: usize = all
        .iter()
        .filter(|(_, text)| text.starts_with("xx") || text.starts_with("| xx"))
        .map(|(_, text)| text.len())
        .sum();
    assert_eq!(run, SHOWN_CHARS_MAX);
    assert!(all.iter().all(|(_, text)| text.chars().count() <= 3000));
    assert!(has_buttons(&shown));
    for long in [
        "x".repeat(SHOWN_CHARS_MAX + 1),
        // Its escapes count.
        "<".repeat(SHOWN_CHARS_MAX / 2),
        "x\n".repeat(SHOWN_LINES_MAX + 1),
    ] {
        let message = message(&notice(&long), "C1", None, "token");
        assert!(!has_buttons(&message), "{} bytes", long.len());
        assert!(message.to_string().contains("https://page/#/approvals/7"));
        assert!(!message.to_string().contains("token\""));
    }
    let closed = Notice {
        state: QuestionState::Allowed,
        ..notice("x")
    };
    assert!(!has_buttons(&message(&closed, "C1", Some("C2/1.5"), "token")));
    let updated = message(&closed, "C1", Some("C2/1.5"), "token");
    assert_eq!(
        (updated["channel"].as_str(), updated["ts"].as_str()),
        (Some("C2"), Some("1.5"))
    );
    assert_eq!(
        pieces(&"&".repeat(BLOCK_CHARS_MAX)).concat(),
        "&amp;".repeat(BLOCK_CHARS_MAX)
    );
}

/// The example of Slack's own documentation ("Verifying requests from Slack").
#[test]
fn a_signature_is_slacks_own() {
    let secret = b"8f742231b10e8888abcd99yyyzzz85a5";
    let body =
        b"token=xyzz0WbapA4vBCDEFasx0q6G&team_id=T1DC2JH3J&team_domain=testteamnow&channel_id=G8PSS9T3V&\
channel_name=foobar&user_id=U2CERLKJA&user_name=roadrunner&command=%2Fwebhook-collect&text=&response_url=\
https%3A%2F%2Fhooks.slack.com%2Fcommands%2FT1DC2JH3J%2F397700885554%2F96rGlfmibIGlgcZRskXaIFfN&\
trigger_id=398738663015.47445629121.803a0bc887a14d10d2c447fce8b6703c";
    let mut headers = HeaderMap::new();
    headers.insert("x-slack-request-timestamp", "1531420618".parse().unwrap());
    assert_eq!(verify(secret, &headers, body), Err(Unsigned::Missing));
    let own = "v0=a2114d57b48eac39b9ad189dd8316235a7b4a8d21a10bd27519666489c69b503";
    headers.insert("x-slack-signature", own.parse().unwrap());
    assert_eq!(verify(secret, &headers, body).unwrap().0, 1_531_420_618);
    assert_eq!(verify(secret, &headers, &body[1..]), Err(Unsigned::Wrong));
    assert_eq!(verify(b"another", &headers, body), Err(Unsigned::Wrong));
    for wrong in [
        "v0=",
        "v0=zz",
        "v1=00",
        &own[..own.len() - 1],
        &own[..own.len() - 2],
    ] {
        headers.insert("x-slack-signature", wrong.parse().unwrap());
        assert_eq!(verify(secret, &headers, body), Err(Unsigned::Wrong), "{wrong}");
    }
    headers.insert("x-slack-signature", own.parse().unwrap());
    headers.insert("x-slack-request-timestamp", "1531420619".parse().unwrap());
    assert_eq!(
        verify(secret, &headers, body),
        Err(Unsigned::Wrong),
        "the time is signed"
    );
}

#[test]
fn what_is_no_interaction_is_refused_and_never_panics() {
    bolero::check!().for_each(|bytes: &[u8]| {
        let _ = pressed(bytes);
        let _ = pressed(&[b"payload=".as_slice(), bytes].concat());
    });
    assert!(pressed(b"payload=%7B%7D").is_err());
    let open = json!({ "type": "block_actions", "user": { "id": "U1" }, "actions": [{ "action_id": "tailkeep_open" }] });
    let body = format!("payload={open}");
    assert_eq!(pressed(body.as_bytes()), Ok(None), "a link is no decision");
}

#[test]
fn members_are_answered_at_slack_alone() {
    let base = "https://slack.com/api";
    assert!(is_response_url("https://hooks.slack.com/actions/T/1/x", base));
    for wrong in [
        "https://hooks.slack.com.evil.test/x",
        "http://hooks.slack.com/x",
        "https://hooks.slack.com@evil.test/",
        "https://ann@hooks.slack.com/x",
        "https://hooks.slack.com:8443/x",
        "file:///etc/passwd",
        "",
    ] {
        assert!(!is_response_url(wrong, base), "{wrong}");
    }
}
