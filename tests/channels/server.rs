//! A server that keeps what it is told, and answers as the test wants.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::{IntoResponse as _, Response};
use serde_json::{Value, json};
use tokio::sync::Notify;

use crate::SOON;

#[derive(Clone, Debug)]
pub struct Seen {
    pub path: String,
    pub headers: HeaderMap,
    pub body: Value,
    pub bytes: Vec<u8>,
}

/// One answer: its status, its `Retry-After` and its body.
pub type Answer = (u16, Option<&'static str>, Value);

#[derive(Clone)]
pub struct Server {
    pub address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    /// What is answered first; then what the service says where all is well.
    answers: Mutex<VecDeque<Answer>>,
    seen: Mutex<VecDeque<Seen>>,
    came: Notify,
}

impl Server {
    pub async fn start() -> Server {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = Server {
            address: listener.local_addr().unwrap(),
            shared: Arc::default(),
        };
        let app = Router::new().fallback(take).with_state(server.clone());
        tokio::spawn(async move { axum::serve(listener, app).await });
        server
    }

    pub fn answer(&self, answer: Answer) {
        self.shared.answers.lock().unwrap().push_back(answer);
    }

    /// The next request that came, in order.
    pub async fn next(&self) -> Seen {
        let next = async {
            loop {
                let came = self.shared.came.notified();
                if let Some(seen) = self.shared.seen.lock().unwrap().pop_front() {
                    return seen;
                }
                came.await;
            }
        };
        tokio::time::timeout(SOON, next).await.expect("nothing came")
    }

    /// Whether all that came was looked at.
    pub fn is_done(&self) -> bool {
        self.shared.seen.lock().unwrap().is_empty()
    }
}

async fn take(State(server): State<Server>, uri: Uri, headers: HeaderMap, bytes: Bytes) -> Response {
    let body: Value = serde_json::from_slice(&bytes).unwrap_or_default();
    let answer = server.shared.answers.lock().unwrap().pop_front();
    let own = match uri.path() {
        path if path.starts_with("/api/") => slack(path, &headers, &body),
        _ => json!({}),
    };
    server.shared.seen.lock().unwrap().push_back(Seen {
        path: uri.path().to_owned(),
        headers,
        body,
        bytes: bytes.to_vec(),
    });
    server.shared.came.notify_one();
    let (status, retry_after, body) = answer.unwrap_or((200, None, own));
    let mut response = (StatusCode::from_u16(status).unwrap(), body.to_string()).into_response();
    if let Some(after) = retry_after {
        response
            .headers_mut()
            .insert("retry-after", after.parse().unwrap());
    }
    response
}

/// Slack's Web API, with the limits of its blocks.
fn slack(path: &str, headers: &HeaderMap, body: &Value) -> Value {
    let failed = |error: &str| json!({ "ok": false, "error": error });
    if headers["authorization"].to_str().unwrap() != format!("Bearer {}", crate::TOKEN) {
        return failed("invalid_auth");
    }
    if !headers["content-type"]
        .to_str()
        .unwrap()
        .starts_with("application/json")
    {
        return failed("invalid_arguments");
    }
    let blocks = body["blocks"].as_array().unwrap();
    let length = |text: &Value| text["text"].as_str().unwrap().chars().count();
    let fits = blocks.iter().all(|block| match block["type"].as_str().unwrap() {
        "header" => length(&block["text"]) <= 150 && block["text"]["type"] == "plain_text",
        "section" => (1..=3000).contains(&length(&block["text"])),
        "actions" => block["elements"].as_array().unwrap().iter().all(|element| {
            length(&element["text"]) <= 75
                && element["value"].as_str().is_none_or(|value| value.len() <= 2000)
                && (element["confirm"].is_null() || length(&element["confirm"]["text"]) <= 300)
        }),
        _ => false,
    });
    if !fits || blocks.len() > 50 {
        return failed("invalid_blocks");
    }
    match (path, body["channel"].as_str(), body["ts"].as_str()) {
        ("/api/chat.postMessage", Some("C0OPS"), None) => {
            json!({ "ok": true, "channel": "C0OPS", "ts": "1700000000.000100" })
        }
        ("/api/chat.update", Some("C0OPS"), Some(ts)) => json!({ "ok": true, "channel": "C0OPS", "ts": ts }),
        ("/api/chat.postMessage", Some(_), None) => failed("channel_not_found"),
        _ => failed("invalid_arguments"),
    }
}
