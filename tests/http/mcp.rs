//! The Model Context Protocol through the gateway: the official client against the official server
//! (`mcp` of the Python packages, which `scripts/test` installs in `target/venv`).

use std::process::Stdio;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, ChildStderr, Command};
use tokio::time::timeout;

use crate::agent::curl;
use crate::world::{Dialled, SOON, World};

const PYTHON: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/target/venv/bin/python");
const SERVER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/http/mcp/server.py");
const CLIENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/http/mcp/client.py");

/// `mcp.test:80`, which an agent may call without TLS.
const MCP: Dialled = Dialled {
    endpoint: "mcp.tools",
    name: Some("mcp.test"),
    destination: "10.78.0.9:80",
};

const RULES: &str = r#"
rule "no-delete" {
  endpoint  = mcp.tools
  condition = "mcp.tool == 'delete'"
  verdict   = "deny"
  reason    = "nothing is deleted here"
}
rule "no-secrets" {
  endpoint  = mcp.tools
  condition = "mcp.tool == 'echo' && mcp.arguments.text == 'secret'"
  verdict   = "deny"
  reason    = "this is a secret"
}
rule "open-notes" {
  endpoint  = mcp.tools
  condition = "mcp.resource != '' && mcp.resource != 'note://open'"
  verdict   = "deny"
  reason    = "not this note"
}
rule "rest" {
  endpoint = mcp.tools
  verdict  = "allow"
}"#;

struct Server {
    child: Child,
    port: u16,
    errors: Option<ChildStderr>,
}

impl Server {
    async fn start() -> Server {
        let mut child = Command::new(PYTHON)
            .arg(SERVER)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("python: see scripts/test");
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let line = timeout(SOON * 3, lines.next_line()).await.unwrap().unwrap();
        let errors = child.stderr.take();
        let port = line.and_then(|line| line.parse().ok());
        Server {
            port: port.expect("a port: is `mcp` installed? see scripts/test"),
            child,
            errors,
        }
    }

    /// Ends it, and says what it was called with.
    async fn calls(mut self) -> Vec<String> {
        self.child.kill().await.unwrap();
        let mut lines = BufReader::new(self.errors.take().unwrap()).lines();
        let mut calls = Vec::new();
        while let Some(line) = lines.next_line().await.unwrap() {
            if line.split(' ').count() == 2 {
                calls.push(line);
            }
        }
        calls
    }

    fn policy(&self, more: &str, rules: &str) -> String {
        let port = self.port;
        format!(
            "endpoint \"mcp\" \"tools\" {{\n  hosts = [\"http://mcp.test\"]\n  upstream = \"127.0.0.1:{port}\"\n{more}\n}}\n\
             profile \"dev\" {{\n  peers = [\"laptop\"]\n  endpoints = [mcp.tools]\n}}\n{rules}"
        )
    }
}

/// Posts a body; the status, and what was said.
async fn post(world: &World, gateway: std::net::SocketAddr, url: &str, body: &str) -> (u16, Value) {
    let args = [
        "-H",
        "Content-Type: application/json",
        "-H",
        "Accept: application/json, text/event-stream",
        "-d",
        body,
        url,
    ];
    let got = curl(world, gateway, &args).await;
    (got.status, serde_json::from_slice(&got.body).unwrap_or_default())
}

const URL: &str = "http://mcp.test/mcp";

#[tokio::test]
async fn the_official_client_works_and_shows_why_it_is_refused() {
    let server = Server::start().await;
    let world = World::new(&server.policy("", RULES));
    let gateway = world.listen(MCP).await;
    let run = Command::new(PYTHON)
        .args([CLIENT, &format!("http://{gateway}/mcp")])
        .kill_on_drop(true)
        .output();
    let ran = timeout(SOON * 6, run).await.unwrap().unwrap();
    let errors = String::from_utf8_lossy(&ran.stderr);
    let text = String::from_utf8_lossy(&ran.stdout);
    let steps: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let step = |name: &str| {
        let found = steps.iter().find(|step| step["step"] == name);
        found.unwrap_or_else(|| panic!("{name}: {text} {errors}"))
    };
    assert!(step("initialize")["said"]["server_info"].is_object(), "{text}");
    assert_eq!(step("list")["said"]["tools"].as_array().unwrap().len(), 3);
    assert_eq!(step("echo")["said"]["content"][0]["text"], "hello");
    let refused = |name: &str, reason: &str| {
        let said = step(name)["error"].as_str().unwrap_or_default();
        assert!(said.contains(reason), "{name}: {said} {text}");
    };
    refused("delete", "nothing is deleted here");
    refused("secret", "this is a secret");
    refused("private", "not this note");
    // A response that streams, event by event.
    assert_eq!(step("count")["said"]["content"][0]["text"], "counted to 20");
    assert_eq!(step("progress")["said"], 20);
    assert!(step("note")["said"].to_string().contains("note open"));
    assert!(step("greet")["said"].to_string().contains("greet ann"));
    assert!(step("ping")["said"].is_object());
    assert_eq!(server.calls().await, ["echo hello", "note open"]);
    let story = world.story().await;
    let has = |wanted: &str| story.iter().any(|line| line.starts_with(wanted));
    assert!(has("initialize | allow"), "{story:#?}");
    assert!(has("tools/call echo | allow | rule | HTTP 200"), "{story:#?}");
    assert!(has("tools/call delete | deny | rule"), "{story:#?}");
    assert!(has("stream | allow"), "{story:#?}");
    assert!(has("end | allow"), "{story:#?}");
}

#[tokio::test]
async fn each_message_of_a_batch_is_judged_and_all_are_refused_with_one() {
    let server = Server::start().await;
    let world = World::new(&server.policy("", RULES));
    let gateway = world.listen(MCP).await;
    let call = |id: i64, tool: &str| {
        json!({"jsonrpc": "2.0", "id": id, "method": "tools/call",
            "params": {"name": tool, "arguments": {"text": "x", "path": "/"}}})
    };
    let note = json!({"jsonrpc": "2.0", "method": "notifications/initialized"});
    let batch = json!([call(1, "echo"), note, call(2, "delete"), call(3, "echo")]).to_string();
    let (status, said) = post(&world, gateway, URL, &batch).await;
    assert_eq!(status, 200);
    let ids: Vec<&Value> = said.as_array().unwrap().iter().map(|one| &one["id"]).collect();
    assert_eq!(ids, [1, 2, 3]);
    assert_eq!(said[1]["error"]["message"], "nothing is deleted here");
    assert_eq!(
        said[0]["error"]["message"],
        "its batch was refused: nothing is deleted here"
    );
    assert_eq!(said[1]["error"]["data"]["rule"], "no-delete");
    let story = world.story().await;
    assert!(
        story.contains(&"tools/call echo | allow | rule | NOT SENT".to_owned()),
        "{story:#?}"
    );
    assert!(
        story
            .iter()
            .any(|line| line.starts_with("tools/call delete | deny")),
        "{story:#?}"
    );
    // A batch that may pass goes up whole; this server takes none.
    let batch = json!([call(1, "echo"), call(2, "echo")]).to_string();
    let (status, _) = post(&world, gateway, URL, &batch).await;
    assert_eq!(status, 400);
    let story = world.story().await;
    let sent = story
        .iter()
        .filter(|line| *line == "tools/call echo | allow | rule | HTTP 400");
    assert_eq!(sent.count(), 2, "{story:#?}");
    assert!(server.calls().await.is_empty());
}

#[tokio::test]
async fn what_is_no_message_or_goes_elsewhere_is_refused() {
    let server = Server::start().await;
    let world = World::new(&server.policy("", RULES));
    let gateway = world.listen(MCP).await;
    let ping = r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;
    for body in [
        "{}",
        "not json",
        r#"{"jsonrpc":"2.0","id":1,"method":"ping","Method":"tools/call","params":{"name":"delete"}}"#,
    ] {
        let (status, said) = post(&world, gateway, URL, body).await;
        assert_eq!((status, &said["error"]["code"]), (400, &json!(-32600)), "{body}");
    }
    assert!(tailkeep::bad_input::counted(tailkeep::bad_input::Reader::Mcp, "rpc") >= 3);
    // What else the host serves is not this endpoint's.
    let (status, said) = post(&world, gateway, "http://mcp.test/admin", ping).await;
    assert_eq!(status, 404);
    assert!(
        said["error"]["message"].as_str().unwrap().contains("`path`"),
        "{said}"
    );
    let long = format!(
        r#"{{"jsonrpc":"2.0","id":1,"method":"ping","params":{{"x":"{}"}}}}"#,
        "x".repeat(1 << 20)
    );
    let file = world.folder.path().join("long.json");
    std::fs::write(&file, long).unwrap();
    let (status, said) = post(&world, gateway, URL, &format!("@{}", file.display())).await;
    assert_eq!(status, 400, "{said}");
    assert!(
        said["error"]["message"]
            .as_str()
            .unwrap()
            .contains("body_bytes_max"),
        "{said}"
    );
    // A notification has no answer that could hold an error.
    world.reload(&server.policy("", ""));
    let note = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;
    assert_eq!(post(&world, gateway, URL, note).await.0, 403);
    let got = curl(&world, gateway, &["-H", "Accept: text/event-stream", URL]).await;
    assert_eq!(got.status, 405);
    // The path is what the endpoint says.
    world.reload(&server.policy("  path = \"/tools/mcp\"", RULES));
    assert_eq!(post(&world, gateway, URL, ping).await.0, 404);
    assert_ne!(
        post(&world, gateway, "http://mcp.test/tools/mcp", ping).await.1["error"]["code"],
        -32600
    );
    assert!(server.calls().await.is_empty());
}
