//! A model's server as far as its two documented APIs show; what it says is as the test wants it.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;
use serde_json::{Value, json};

/// How it answers.
#[derive(Clone, Debug)]
pub enum Mood {
    Says(&'static str, f64),
    /// Denies what holds these words, and allows the rest.
    Dislikes(&'static str),
    /// Longer than anyone waits.
    Slow,
    Failing,
    Malformed,
    Huge,
    /// The answer ends in the middle.
    CutOff,
    /// It sends its callers elsewhere.
    Moved(String),
    /// So often it says this, and then `allow`.
    Trouble {
        status: u16,
        after: Option<&'static str>,
        body: &'static str,
        times: usize,
    },
    /// It knows `max_tokens` alone, as servers that followed OpenAI's API before.
    Older,
    /// It does not say what an answer cost.
    Uncounted,
}

#[derive(Clone, Debug)]
pub struct Seen {
    pub headers: HeaderMap,
    pub body: Value,
}

#[derive(Clone)]
pub struct Server {
    pub address: SocketAddr,
    shared: Arc<Mutex<(Mood, Vec<Seen>)>>,
}

impl Server {
    pub async fn start() -> Server {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = Server {
            address: listener.local_addr().unwrap(),
            shared: Arc::new(Mutex::new((Mood::Says("allow", 0.95), Vec::new()))),
        };
        let app = Router::new()
            .route("/v1/messages", post(messages))
            .route("/v1/chat/completions", post(completions))
            .with_state(server.clone());
        tokio::spawn(async move { axum::serve(listener, app).await });
        server
    }

    pub fn mood(&self, mood: Mood) {
        self.shared.lock().unwrap().0 = mood;
    }

    /// What came, and is forgotten by this.
    pub fn seen(&self) -> Vec<Seen> {
        std::mem::take(&mut self.shared.lock().unwrap().1)
    }

    async fn answer(
        &self,
        headers: HeaderMap,
        body: Bytes,
        form: impl Fn(String, bool) -> Value,
    ) -> Response {
        let text = String::from_utf8(body.to_vec()).unwrap();
        let mood = {
            let mut shared = self.shared.lock().unwrap();
            let body = serde_json::from_str(&text).unwrap();
            shared.1.push(Seen { headers, body });
            match &mut shared.0 {
                Mood::Trouble { times: 0, .. } => Mood::Says("allow", 0.95),
                Mood::Trouble { times, .. } => {
                    *times -= 1;
                    shared.0.clone()
                }
                mood => mood.clone(),
            }
        };
        let says = |verdict: &str, confidence: f64| {
            json!({ "verdict": verdict, "reason": "said the judge", "confidence": confidence }).to_string()
        };
        match mood {
            Mood::Says(verdict, confidence) => {
                form(says(verdict, confidence), true).to_string().into_response()
            }
            Mood::Dislikes(words) => {
                let verdict = if text.contains(words) { "deny" } else { "allow" };
                form(says(verdict, 0.9), true).to_string().into_response()
            }
            Mood::Slow => {
                tokio::time::sleep(Duration::from_secs(60)).await;
                StatusCode::OK.into_response()
            }
            Mood::Failing => (
                StatusCode::INTERNAL_SERVER_ERROR,
                form(says("allow", 1.0), true).to_string(),
            )
                .into_response(),
            Mood::Malformed => form("allow".to_owned(), true).to_string().into_response(),
            Mood::Huge => {
                let padding = " ".repeat(tailkeep::verdict::judge::ANSWER_BYTES_MAX);
                format!("{padding}{}", form(says("allow", 1.0), true)).into_response()
            }
            Mood::CutOff => form(says("allow", 1.0), false).to_string().into_response(),
            Mood::Trouble {
                status, after, body, ..
            } => {
                let status = StatusCode::from_u16(status).unwrap();
                let mut answer = (status, body).into_response();
                if let Some(after) = after {
                    answer.headers_mut().insert("retry-after", after.parse().unwrap());
                }
                answer
            }
            Mood::Older if text.contains("max_completion_tokens") => {
                let error = json!({ "object": "error", "message": { "detail": [
                    { "type": "extra_forbidden", "loc": ["body", "max_completion_tokens"] },
                ] } });
                (StatusCode::UNPROCESSABLE_ENTITY, error.to_string()).into_response()
            }
            Mood::Older => form(says("allow", 1.0), true).to_string().into_response(),
            Mood::Uncounted => {
                let mut answer = form(says("allow", 1.0), true);
                answer.as_object_mut().unwrap().remove("usage");
                answer.to_string().into_response()
            }
            Mood::Moved(to) => (StatusCode::TEMPORARY_REDIRECT, [("location", to)]).into_response(),
        }
    }
}

async fn messages(State(server): State<Server>, headers: HeaderMap, body: Bytes) -> Response {
    let form = |text, whole| {
        json!({
            "id": "msg_1", "type": "message", "role": "assistant",
            "content": [
                { "type": "thinking", "thinking": "let me see", "signature": "s" },
                { "type": "text", "text": text },
            ],
            "stop_reason": if whole { "end_turn" } else { "max_tokens" },
            "usage": { "input_tokens": 400, "output_tokens": 100 },
        })
    };
    server.answer(headers, body, form).await
}

async fn completions(State(server): State<Server>, headers: HeaderMap, body: Bytes) -> Response {
    let form = |text, whole| {
        json!({
            "id": "c1", "object": "chat.completion",
            "choices": [{
                "index": 0, "finish_reason": if whole { "stop" } else { "length" },
                "message": { "role": "assistant", "content": text, "refusal": null },
            }],
            "usage": { "prompt_tokens": 400, "completion_tokens": 100, "total_tokens": 500 },
        })
    };
    server.answer(headers, body, form).await
}
