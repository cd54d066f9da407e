//! The gateway's own name: who an agent is, asked over HTTP from inside its tunnel.
//!
//! `http://tailkeep.internal/` answers with the [`Manifest`] of whoever asks, as the tunnel proved it;
//! so do the gateway's own address in the WireGuard tunnel, and its node's name on the tailnet. A peer without a profile gets 403.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HOST as HOST_HEADER, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::HttpService;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::json;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;

use crate::bad_input;
use crate::identity::manifest::{HOST, Manifest, PORT};
use crate::identity::{Live, Transport};
use crate::ingress::Flow;
use crate::ingress::dns::Names;
use crate::ingress::tailnet::Called;
use crate::protocol::http::denial;
use crate::verdict::Refusal;
use crate::verdict::approval::QuestionState;
use crate::verdict::gate::Gate;

/// How long a client may take for a request's head, and may be idle.
const HEAD_TIME: Duration = Duration::from_secs(10);
/// How long one connection may last.
const CONNECTION_TIME: Duration = Duration::from_secs(15);
/// Before the number of a question of the agent's own.
const APPROVALS: &str = "/approvals/";
const NOT_ASKED: &str = "you asked no such thing";
/// Bytes of a request's head.
const HEAD_BYTES_MAX: usize = 16 << 10;

/// Tells agents who they are. Cheap to clone.
#[derive(Clone)]
pub struct Teller {
    gate: Arc<Gate>,
    names: Arc<Names>,
    ca_pem: Arc<str>,
    called: watch::Receiver<Called>,
}

impl Teller {
    /// `called` says how peers of the tailnet call the gateway.
    pub fn new(gate: Arc<Gate>, names: Arc<Names>, ca_pem: &str, called: watch::Receiver<Called>) -> Self {
        Teller {
            called,
            gate,
            names,
            ca_pem: ca_pem.into(),
        }
    }

    /// The manifest of a peer as it is known now.
    ///
    /// # Errors
    /// No profile is for it, or several are. The refusal is recorded.
    pub async fn tell(&self, live: &Live) -> Result<Manifest, Refusal> {
        let agent = self.gate.admit(live, HOST).await?;
        let addresses = |name: &str| -> Vec<IpAddr> {
            let index = self.names.index(name);
            let both = [true, false].map(|v4| self.names.address(index?, v4));
            both.into_iter().flatten().collect()
        };
        let policy = self.gate.policy();
        let called = self.called();
        let told = (&*self.ca_pem, called.answers());
        Ok(Manifest::of(policy.model(), &agent, &addresses, told))
    }

    /// How peers of the tailnet call the gateway now.
    pub fn called(&self) -> Called {
        self.called.borrow().clone()
    }

    /// Where an agent is told what it may reach, as denials name it: a peer of the tailnet knows the gateway
    /// by its MagicDNS name.
    pub fn help(&self, transport: Transport) -> String {
        let called = self.called.borrow();
        let name = called.answers().filter(|_| transport == Transport::Tailnet);
        format!("http://{}/", name.unwrap_or(HOST))
    }

    /// Whether a destination is where agents ask.
    pub(super) fn is_at(&self, destination: SocketAddr, name: Option<&str>) -> bool {
        let own = || {
            let policy = self.gate.policy();
            let wireguard = policy.model().gateway.wireguard.as_ref();
            let nets = wireguard.map(|own| [own.subnet_v4, own.subnet_v6]);
            let mut firsts = nets.into_iter().flatten().filter_map(|net| net.hosts().next());
            firsts.any(|own| own == destination.ip())
                || self.called.borrow().addresses.contains(&destination.ip())
        };
        destination.port() == PORT && (name == Some(HOST) || (name.is_none() && own()))
    }

    /// Answers one connection to its end.
    pub(super) async fn serve(&self, flow: Flow) {
        let (live, own) = (flow.identity.clone(), flow.destination.ip());
        let service = hyper::service::service_fn(|request| {
            let (teller, live) = (self.clone(), live.clone());
            async move { Ok::<_, Infallible>(teller.answer(&request, &live, own).await) }
        });
        answer_within(flow.stream, service).await;
    }

    /// How a question of the agent's own stands; who decides is not the agent's business.
    async fn approval(&self, live: &Live, id: &str) -> Response<Full<Bytes>> {
        let Ok(id) = id.parse::<i64>() else {
            return failed(StatusCode::NOT_FOUND, "not_found", NOT_ASKED);
        };
        let found = self.gate.lodged(&live.now(), id).await;
        match found {
            Ok(Some(held)) => {
                let body = json!({ "approval": {
                    "id": id, "state": stands(held.state), "reason": held.reason,
                } });
                denial::answer(StatusCode::OK, &body).map(Full::new)
            }
            Ok(None) => failed(StatusCode::NOT_FOUND, "not_found", NOT_ASKED),
            Err(error) => {
                tracing::error!(%error, "an agent could not be told how its question stands");
                failed(
                    StatusCode::INTERNAL_SERVER_ERROR,
                    "broken",
                    "this cannot be told right now",
                )
            }
        }
    }

    async fn answer<B>(&self, request: &Request<B>, live: &Live, own: IpAddr) -> Response<Full<Bytes>> {
        let host = request
            .headers()
            .get(HOST_HEADER)
            .and_then(|host| host.to_str().ok());
        let host = host.map(|host| host.strip_suffix(":80").unwrap_or(host).trim_matches(['[', ']']));
        let is_ours = host.is_some_and(|host| {
            host.eq_ignore_ascii_case(HOST) || host.parse() == Ok(own) || self.called.borrow().is(host)
        });
        if !is_ours {
            // A page that was led here by another name is to read nothing.
            return failed(
                StatusCode::MISDIRECTED_REQUEST,
                "misdirected",
                "this is tailkeep.internal",
            );
        }
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let mut answer = failed(
                StatusCode::METHOD_NOT_ALLOWED,
                "method",
                "GET and HEAD are answered",
            );
            answer
                .headers_mut()
                .insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return answer;
        }
        if let Some(id) = request.uri().path().strip_prefix(APPROVALS) {
            return self.approval(live, id).await;
        }
        let manifest = match self.tell(live).await {
            Ok(manifest) => manifest,
            Err(refusal) => return denial::deny(&refusal).map(Full::new),
        };
        match request.uri().path() {
            "/" => match serde_json::to_string(&manifest) {
                Ok(text) => said("application/json", format!("{text}\n")),
                Err(error) => failed(StatusCode::INTERNAL_SERVER_ERROR, "broken", &error.to_string()),
            },
            "/text" => said("text/plain; charset=utf-8", manifest.text),
            "/ca.pem" => said("application/x-pem-file", manifest.ca_pem),
            _ => failed(
                StatusCode::NOT_FOUND,
                "not_found",
                "there are /, /text, /ca.pem and /approvals/NUMBER",
            ),
        }
    }
}

/// The state's name as an agent that asked reads it.
fn stands(state: QuestionState) -> &'static str {
    match state {
        QuestionState::Pending => "pending",
        QuestionState::Allowed => "approved",
        QuestionState::Denied => "denied",
        QuestionState::TimedOut => "timed_out",
        QuestionState::Withdrawn => "withdrawn",
        QuestionState::Used => "used",
    }
}

/// Serves a connection to its end, or to that of its time.
async fn answer_within<IO, S>(stream: IO, service: S)
where
    IO: AsyncRead + AsyncWrite + Unpin,
    S: HttpService<Incoming, ResBody = Full<Bytes>>,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let mut builder = hyper::server::conn::http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME)
        .max_buf_size(HEAD_BYTES_MAX);
    let served = builder.serve_connection(TokioIo::new(stream), service);
    // What an agent breaks off is its own affair.
    if let Ok(Err(error)) = tokio::time::timeout(CONNECTION_TIME, served).await
        && error.is_parse()
    {
        bad_input::count(bad_input::Reader::Http, &"head");
    }
}

fn said(kind: &'static str, text: String) -> Response<Full<Bytes>> {
    let mut answer = Response::new(Full::new(Bytes::from(text)));
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}

fn failed(status: StatusCode, code: &str, reason: &str) -> Response<Full<Bytes>> {
    let body = json!({ "error": { "code": code, "cause": code, "rule": null, "reason": reason } });
    denial::answer(status, &body).map(Full::new)
}

#[cfg(test)]
mod tests {
    use hyper::service::service_fn;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};

    use super::*;

    /// More than the pipe to a client holds.
    const LONG: usize = 64 << 10;

    fn serve() -> (DuplexStream, impl Future<Output = ()>) {
        let (client, own) = tokio::io::duplex(1 << 10);
        let long = || async { Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(vec![b'x'; LONG])))) };
        (client, answer_within(own, service_fn(move |_| long())))
    }

    #[tokio::test]
    async fn a_client_that_says_nothing_or_reads_nothing_is_left() {
        let (_silent, unasked) = serve();
        let (mut deaf, unread) = serve();
        deaf.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            .await
            .unwrap();
        // The first goes by its own time: that of all is longer than what it is waited for here.
        let first = tokio::time::timeout((HEAD_TIME + CONNECTION_TIME) / 2, unasked);
        let second = tokio::time::timeout(CONNECTION_TIME * 2, unread);
        let (first, second) = tokio::join!(first, second);
        assert!(first.is_ok(), "one that says nothing is waited for");
        assert!(second.is_ok(), "one that reads nothing is waited for");
    }

    #[tokio::test]
    async fn a_head_has_a_size() {
        for (bytes, status) in [(HEAD_BYTES_MAX - 100, "200"), (HEAD_BYTES_MAX + 1, "431")] {
            let before = bad_input::counted(bad_input::Reader::Http, "head");
            let (client, served) = serve();
            let (mut read, mut write) = tokio::io::split(client);
            let long = "x".repeat(bytes);
            let head = format!("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nX: {long}\r\n\r\n");
            let mut told = String::new();
            let ask = async { write.write_all(head.as_bytes()).await };
            let _ = tokio::join!(served, ask, read.read_to_string(&mut told));
            assert!(told.starts_with(&format!("HTTP/1.1 {status} ")), "{told:.40}");
            let is_counted = bad_input::counted(bad_input::Reader::Http, "head") > before;
            assert!(is_counted || status == "200");
        }
    }
}
