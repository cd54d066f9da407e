use super::*;
use serde_json::json;

fn parts(method: &str, headers: &[(&str, &str)]) -> Parts {
    let mut builder = http::Request::builder().method(method).uri("/mcp");
    for (name, value) in headers {
        builder = builder.header(*name, *value);
    }
    builder.body(()).unwrap().into_parts().0
}

fn post(body: &str) -> Result<Messages, Malformed> {
    read(&parts("POST", &[]), HeldBody::Whole(body.as_bytes()), 1 << 20)
}

fn one(body: &str) -> Vec<Value> {
    let messages = post(body).unwrap();
    assert!(!messages.batch && messages.messages.len() == 1);
    let slots = [
        Slot::McpKind,
        Slot::McpMethod,
        Slot::McpTool,
        Slot::McpArguments,
        Slot::McpResource,
        Slot::McpPrompt,
    ];
    slots
        .iter()
        .map(|slot| match messages.messages[0].fact(*slot) {
            Fact::Known(view) => view.to_json(),
            Fact::Unknown(blind) => json!(format!("{blind:?}")),
        })
        .collect()
}

#[test]
fn each_kind_of_message_has_its_facts() {
    let call =
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"rm","arguments":{"path":"/"}}}"#;
    assert_eq!(
        json!(one(call)),
        json!(["request", "tools/call", "rm", {"path": "/"}, "", ""])
    );
    let call = r#"{"jsonrpc":"2.0","id":"a","method":"tools/call","params":{"name":"rm"}}"#;
    assert_eq!(
        json!(one(call)),
        json!(["request", "tools/call", "rm", null, "", ""])
    );
    let resource = r#"{"jsonrpc":"2.0","id":1,"method":"resources/read","params":{"uri":"file:///x"}}"#;
    assert_eq!(
        json!(one(resource)),
        json!(["request", "resources/read", "", null, "file:///x", ""])
    );
    let get =
        r#"{"jsonrpc":"2.0","id":1,"method":"prompts/get","params":{"name":"p","arguments":{"a":"b"}}}"#;
    assert_eq!(
        json!(one(get)),
        json!(["request", "prompts/get", "", {"a": "b"}, "", "p"])
    );
    let complete = r#"{"jsonrpc":"2.0","id":1,"method":"completion/complete","params":{"ref":{"type":"ref/prompt","name":"p"}}}"#;
    assert_eq!(
        json!(one(complete)),
        json!(["request", "completion/complete", "", null, "", "p"])
    );
    let note = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;
    assert_eq!(
        json!(one(note)),
        json!(["notification", "notifications/initialized", "", null, "", ""])
    );
    let answer = r#"{"jsonrpc":"2.0","id":1,"result":{}}"#;
    assert_eq!(json!(one(answer)), json!(["response", "", "", null, "", ""]));
    let kinds = |method: &str| read(&parts(method, &[]), HeldBody::Empty, 0).map(|all| all.messages[0].kind);
    assert_eq!(kinds("GET"), Ok(Kind::Stream));
    assert_eq!(kinds("DELETE"), Ok(Kind::End));
    assert_eq!(kinds("PUT"), Err(Malformed::Method));
    assert_eq!(kinds("HEAD"), Err(Malformed::Method));
}

#[test]
fn what_could_be_two_messages_is_none() {
    for body in [
        "",
        "{}",
        "1",
        "\"x\"",
        r#"{"id":1,"method":"ping"}"#,
        r#"{"jsonrpc":"1.0","id":1,"method":"ping"}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"ping","method":"tools/call"}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"ping","Method":"tools/call"}"#,
        r#"{"jsonrpc":"2.0","id":1,"METHOD":"tools/call"}"#,
        r#"{"jsonrpc":"2.0","method":"ping","Id":1}"#,
        r#"{"jsonrpc":"2.0","id":null,"method":"ping"}"#,
        r#"{"jsonrpc":"2.0","id":1.5,"method":"ping"}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":7}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":""}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"ping","params":[1]}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"ping","result":{}}"#,
        r#"{"jsonrpc":"2.0","id":1,"result":{},"error":{}}"#,
        r#"{"jsonrpc":"2.0","result":{}}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call"}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":1}}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"Name":"x"}}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"x","Arguments":{}}}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"resources/read","params":{"URI":"x"}}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"ping"} {"jsonrpc":"2.0","id":1,"method":"ping"}"#,
        r#"[1]"#,
    ] {
        assert_eq!(post(body), Err(Malformed::Rpc), "{body}");
    }
}

#[test]
fn a_batch_is_bounded_and_its_ids_are_unique() {
    let ping = |id: usize| json!({"jsonrpc": "2.0", "id": id, "method": "ping"});
    let batch = |count: usize| json!((0..count).map(ping).collect::<Vec<_>>()).to_string();
    let whole = post(&batch(MESSAGES_MAX)).unwrap();
    assert!(whole.batch && whole.messages.len() == MESSAGES_MAX);
    assert_eq!(post(&batch(MESSAGES_MAX + 1)), Err(Malformed::RpcBatch));
    assert_eq!(post("[]"), Err(Malformed::RpcBatch));
    assert_eq!(
        post(&json!([ping(1), ping(1)]).to_string()),
        Err(Malformed::RpcBatch)
    );
}

#[test]
fn what_is_not_held_or_says_something_else_is_refused() {
    let long = |held| read(&parts("POST", &[]), held, 1 << 20);
    assert_eq!(long(HeldBody::Over), Err(Malformed::RpcTooLong));
    assert_eq!(long(HeldBody::Empty), Err(Malformed::Rpc));
    let body = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"rm"}}"#;
    let held = HeldBody::Whole(body.as_bytes());
    assert_eq!(read(&parts("POST", &[]), held, 8), Err(Malformed::RpcTooLong));
    for (headers, good) in [
        (&[("mcp-method", "tools/call"), ("mcp-name", "rm")][..], true),
        (&[("mcp-method", "tools/list")], false),
        (&[("mcp-name", "ls")], false),
        (&[("mcp-name", "rm"), ("mcp-name", "rm")], false),
        (&[("content-encoding", "gzip")], false),
        (&[("content-type", "application/json; charset=utf-7")], false),
    ] {
        assert_eq!(
            read(&parts("POST", headers), held, 1 << 20).is_ok(),
            good,
            "{headers:?}"
        );
    }
}

proptest::proptest! {
    #[test]
    fn never_panics(body in "[\\[{]?(\"(jsonrpc|id|method|params|name|2.0|ping|tools/call)\"[:,{}\\]]?){0,12}") {
        let _ = post(&body);
    }
}
