//! What the two APIs document of requests and errors, and what a judge costs that gives no verdict.

use serde_json::json;
use tailkeep::verdict::judge::post::ATTEMPTS_MAX;

use crate::server::Mood;
use crate::{ALONE, CLAUDE, GPT, World};

const BUSY: &str =
    r#"{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"},"request_id":"r"}"#;
const RATE: &str =
    r#"{"type":"error","error":{"type":"rate_limit_error","message":"slower"},"request_id":"r"}"#;
const QUOTA: &str =
    r#"{"error":{"message":"m","type":"insufficient_quota","param":null,"code":"credit_balance_exhausted"}}"#;

/// The fields of a request as each API has them, and no other: some servers refuse what they do not know.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_has_the_documented_fields_and_no_other() {
    let schema = json!({
        "type": "object",
        "properties": {
            "verdict": { "type": "string", "enum": ["allow", "deny"] },
            "reason": { "type": "string" },
            "confidence": { "type": "number" },
        },
        "required": ["verdict", "reason", "confidence"],
        "additionalProperties": false,
    });
    let world = World::new(CLAUDE, ALONE).await;
    world.judge("tea").await.unwrap();
    let seen = world.server.seen().pop().unwrap();
    assert_eq!(seen.headers["anthropic-version"], "2023-06-01");
    let mut body = seen.body;
    for words in ["/system", "/messages/0/content"] {
        *body.pointer_mut(words).unwrap() = json!("words");
    }
    let want = json!({
        "model": "claude-test",
        "max_tokens": 8192,
        "system": "words",
        "messages": [{ "role": "user", "content": "words" }],
        "output_config": { "format": { "type": "json_schema", "schema": schema } },
    });
    assert_eq!(body, want);

    let world = World::new(GPT, ALONE).await;
    world.judge("tea").await.unwrap();
    let mut body = world.server.seen().pop().unwrap().body;
    for words in ["/messages/0/content", "/messages/1/content"] {
        *body.pointer_mut(words).unwrap() = json!("words");
    }
    let want = json!({
        "model": "gpt-test",
        "max_completion_tokens": 8192,
        "messages": [{ "role": "system", "content": "words" }, { "role": "user", "content": "words" }],
        "response_format": {
            "type": "json_schema",
            "json_schema": { "name": "verdict", "strict": true, "schema": schema },
        },
    });
    assert_eq!(body, want);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_busy_is_asked_again_and_who_has_no_money_is_not() {
    let world = World::new(GPT, ALONE).await;
    let always = usize::MAX;
    // What it says how often, how often it is asked, and whether it comes to its verdict.
    for (status, after, body, times, asked, is_allowed) in [
        (529, None, BUSY, 1, 2, true),
        (503, Some("0"), "", 2, 3, true),
        (429, Some("1"), RATE, 1, 2, true),
        (500, Some("0"), "", always, ATTEMPTS_MAX as usize, false),
        // Neither says how long where it is a limit on money.
        (429, None, RATE, 1, 1, false),
        (429, Some("0"), QUOTA, 1, 1, false),
        // Longer than anyone waits here.
        (429, Some("3600"), RATE, 1, 1, false),
        (401, Some("0"), "", 1, 1, false),
        (400, None, "", 1, 1, false),
    ] {
        world.server.mood(Mood::Trouble {
            status,
            after,
            body,
            times,
        });
        let judged = world.judge("tea").await;
        assert_eq!(judged.is_ok(), is_allowed, "{status} {after:?}: {judged:?}");
        assert_eq!(world.server.seen().len(), asked, "{status} {after:?}");
        if let Err(refusal) = judged {
            let detail = refusal.detail.unwrap();
            assert!(detail.contains(&format!("status {status}")), "{detail}");
            for (words, name) in [
                (RATE, "(rate_limit_error)"),
                (QUOTA, "(credit_balance_exhausted)"),
            ] {
                assert_eq!(detail.contains(name), body == words, "{detail}");
            }
        }
    }
    // Each time is one of its requests.
    let world = World::new(&format!("{GPT}\n  requests_per_hour = 2"), ALONE).await;
    world.server.mood(Mood::Trouble {
        status: 503,
        after: Some("0"),
        body: "",
        times: always,
    });
    assert!(world.judge("tea").await.is_err());
    assert_eq!(world.server.seen().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_knows_the_older_limit_alone_is_asked_by_it() {
    let world = World::new(GPT, ALONE).await;
    world.server.mood(Mood::Older);
    world.judge("tea").await.unwrap();
    let seen = world.server.seen();
    assert_eq!(seen.len(), 2);
    assert_eq!(seen[1].body["max_tokens"], 8192);
    assert!(seen[1].body.get("max_completion_tokens").is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_gives_no_verdict_costs_its_tokens_all_the_same() {
    // An answer costs 500.
    for mood in [Mood::CutOff, Mood::Malformed, Mood::Says("allow", 0.1)] {
        let world = World::new(&format!("{CLAUDE}\n  tokens_per_day = 1000"), ALONE).await;
        world.server.mood(mood.clone());
        for text in ["one", "two", "three"] {
            assert!(world.judge(text).await.is_err(), "{mood:?}");
        }
        assert_eq!(world.server.seen().len(), 2, "{mood:?}");
    }
    // Where nobody says what it cost, the bytes do.
    let world = World::new(&format!("{CLAUDE}\n  tokens_per_day = 500"), ALONE).await;
    world.server.mood(Mood::Uncounted);
    world.judge("one").await.unwrap();
    assert!(world.judge(&"two".repeat(1000)).await.is_ok());
    assert!(world.judge("three").await.is_err());
    // So do those of a question whose answer comes too late.
    let world = World::new(&format!("{CLAUDE}\n  tokens_per_day = 100\n  timeout = 1"), ALONE).await;
    world.server.mood(Mood::Slow);
    for text in ["one", "two"] {
        assert!(world.judge(text).await.is_err());
    }
    assert_eq!(world.server.seen().len(), 1);
    // An error costs none.
    let world = World::new(&format!("{CLAUDE}\n  tokens_per_day = 100"), ALONE).await;
    world.server.mood(Mood::Trouble {
        status: 400,
        after: None,
        body: "",
        times: 1,
    });
    assert!(world.judge("one").await.is_err());
    world.judge("two").await.unwrap();
}
