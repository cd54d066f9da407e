use serde_json::json;

use super::*;

fn anthropic(text: &str, stop: &str) -> Vec<u8> {
    json!({
        "id": "m", "type": "message", "role": "assistant", "stop_reason": stop,
        "content": [{ "type": "text", "text": text }],
        "usage": { "input_tokens": 90, "output_tokens": 10 },
    })
    .to_string()
    .into_bytes()
}

fn openai(text: &str, stop: &str) -> Vec<u8> {
    json!({
        "choices": [{ "index": 0, "finish_reason": stop, "message": { "role": "assistant", "content": text } }],
        "usage": { "total_tokens": 100 },
    })
    .to_string()
    .into_bytes()
}

const YES: &str = r#"{"verdict":"allow","reason":"it reads\u001b","confidence":0.9}"#;

#[test]
fn an_answer_of_either_api_is_read() {
    let wanted = Answered {
        opinion: Ok(Opinion {
            allow: true,
            reason: "it reads".to_owned(),
            confidence: 0.9,
        }),
        tokens: Some(100),
    };
    assert_eq!(read(Provider::Anthropic, &anthropic(YES, "end_turn")), wanted);
    assert_eq!(read(Provider::Openai, &openai(YES, "stop")), wanted);
    // What it thought stands in blocks before; what was cached is not among the input's tokens.
    let thought = json!({
        "stop_reason": "end_turn",
        "content": [
            { "type": "thinking", "thinking": "{\"verdict\":\"deny\"}", "signature": "x" },
            { "type": "redacted_thinking", "data": "x" },
            { "type": "text", "text": YES },
        ],
        "usage": {
            "input_tokens": 5, "cache_creation_input_tokens": 50, "cache_read_input_tokens": 35, "output_tokens": 10,
            "service_tier": "standard",
        },
    });
    assert_eq!(read(Provider::Anthropic, thought.to_string().as_bytes()), wanted);
}

#[test]
fn what_was_paid_for_is_told_whatever_was_said() {
    for (body, tokens) in [
        (anthropic("no", "end_turn"), Some(100)),
        (anthropic(YES, "max_tokens"), Some(100)),
        (anthropic(YES, "refusal"), Some(100)),
        (br#"{"content":[],"stop_reason":"end_turn"}"#.to_vec(), None),
    ] {
        let read = read(Provider::Anthropic, &body);
        assert!(read.opinion.is_err());
        assert_eq!(read.tokens, tokens);
    }
    let read = read(Provider::Openai, &openai("", "length"));
    assert_eq!((read.opinion.is_err(), read.tokens), (true, Some(100)));
}

#[test]
fn a_reason_has_a_length() {
    let yes = YES.replace("it reads", &"é".repeat(REASON_BYTES_MAX));
    let read = read(Provider::Openai, &openai(&yes, "stop")).opinion.unwrap();
    assert_eq!(read.reason, "é".repeat(REASON_BYTES_MAX / 2));
}

/// Bodies as the two APIs document them, and those of others.
#[test]
fn what_a_server_calls_its_trouble_is_told_and_nothing_else_of_it() {
    let long = "x".repeat(TROUBLE_CHARS_MAX + 1);
    for (body, name, is_spent) in [
        (
            r#"{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"},"request_id":"req_1"}"#,
            Some("overloaded_error"),
            false,
        ),
        (
            r#"{"type":"error","error":{"type":"rate_limit_error","message":"m","details":{"error_code":"enforced_spend_limit_reached"}}}"#,
            Some("enforced_spend_limit_reached"),
            true,
        ),
        (
            r#"{"error":{"message":"m","type":"requests","param":null,"code":"rate_limit_exceeded"}}"#,
            Some("rate_limit_exceeded"),
            false,
        ),
        (
            r#"{"error":{"message":"m","type":"insufficient_quota","param":null,"code":"project_spend_limit_exceeded"}}"#,
            Some("project_spend_limit_exceeded"),
            true,
        ),
        (
            r#"{"error":{"message":"m","type":"insufficient_quota","code":null}}"#,
            Some("insufficient_quota"),
            true,
        ),
        (r#"{"error":{"code":503,"type":"a word of mine"}}"#, None, false),
        (&format!(r#"{{"error":{{"type":"{long}"}}}}"#), None, false),
        (r#"{"error":"Rate limited"}"#, None, false),
        (r#"[1]"#, None, false),
        ("<html>", None, false),
        ("", None, false),
    ] {
        let told = troubled(body.as_bytes());
        assert_eq!((told.name.as_deref(), told.is_spent), (name, is_spent), "{body}");
        assert!(!told.is_of_limit);
    }
    let forbidden = r#"{"object":"error","message":{"detail":[{"type":"extra_forbidden","loc":["body","max_completion_tokens"]}]}}"#;
    assert!(troubled(forbidden.as_bytes()).is_of_limit);
}

#[test]
fn whatever_is_not_the_whole_object_is_no_answer() {
    let words = [
        "",
        "allow",
        "{\"verdict\":\"allow\"}",
        "{\"verdict\":\"maybe\",\"reason\":\"\",\"confidence\":1}",
        "{\"verdict\":\"allow\",\"reason\":\"\",\"confidence\":1.1}",
        "{\"verdict\":\"allow\",\"reason\":\"\",\"confidence\":1,\"verdict\":\"deny\"}",
        "{\"verdict\":\"deny\",\"reason\":\"\",\"confidence\":1} {\"verdict\":\"allow\"}",
        "{\"verdict\":\"allow\",\"reason\":\"\",\"confidence\":1,\"more\":1}",
    ];
    for text in words {
        let said = read(Provider::Anthropic, &anthropic(text, "end_turn"));
        assert_eq!(said.opinion, Err(NoAnswer::Words), "{text}");
        let said = read(Provider::Openai, &openai(text, "stop"));
        assert_eq!(said.opinion, Err(NoAnswer::Words), "{text}");
    }
    for stop in [
        "max_tokens",
        "model_context_window_exceeded",
        "pause_turn",
        "refusal",
        "stop_sequence",
        "tool_use",
        "",
    ] {
        let cut = read(Provider::Anthropic, &anthropic(YES, stop));
        assert_eq!(cut.opinion, Err(NoAnswer::Ended(stop.to_owned())));
    }
    for stop in ["length", "content_filter", "tool_calls", ""] {
        let cut = read(Provider::Openai, &openai(YES, stop));
        assert_eq!(cut.opinion, Err(NoAnswer::Ended(stop.to_owned())));
    }
    let refused =
        json!({ "choices": [{ "finish_reason": "stop", "message": { "content": YES, "refusal": "no" } }] });
    let refused = read(Provider::Openai, refused.to_string().as_bytes());
    assert_eq!(refused.opinion, Err(NoAnswer::Ended("refusal".to_owned())));
    let twice = json!({ "stop_reason": "end_turn", "content": [
        { "type": "text", "text": YES }, { "type": "text", "text": YES },
    ] });
    let twice = read(Provider::Anthropic, twice.to_string().as_bytes());
    assert_eq!(twice.opinion, Err(NoAnswer::Words));
    let page = read(Provider::Openai, b"<html>");
    assert!(matches!(page.opinion, Err(NoAnswer::Form(_))));
}
