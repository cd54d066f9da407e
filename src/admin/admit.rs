//! Who may ask what: the callers of every listener, before any handler.
//!
//! A program is let in by the Unix socket's account or by the bearer token, and never says `Origin`.
//! A browser is let in by a session: a cookie that no script reads, and a second secret that the page
//! itself keeps and sends in a header. Cookies are shared by every port of a host, and sent along by
//! whoever links here; the page's own storage is neither. `Host` must be the listener's, lest a name
//! that resolves to it lends its pages our origin.
//!
//! Invariants: nothing but the page's own files and the sign-in is answered to nobody; a change wants
//! the listener's own `Origin`; what a revoked session holds open ends.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State as Shared};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use futures_util::StreamExt as _;

use super::api::Failed;
use super::token::OperatorToken;
use super::{Operator, Person};
use crate::identity::Live;
use crate::state::operator::{Session, Via};
use crate::verdict::approval::Voter;

/// The header in which the page sends the session's second secret.
pub const GUARD: &str = "x-tailkeep-guard";
/// Bytes of an answer that [`in_json`] puts into JSON; ours are short.
const PLAIN_BYTES_MAX: usize = 4 << 10;

/// What browsers call a listener.
#[derive(Clone, Debug)]
pub(super) struct Site {
    /// `http` or `https`.
    pub scheme: &'static str,
    /// `Host` as it may be, each with its port unless that is the scheme's own.
    pub hosts: Vec<String>,
}

impl Site {
    /// A listener on loopback.
    pub(super) fn loopback(own: SocketAddr) -> Site {
        Site {
            scheme: "http",
            hosts: vec![own.to_string(), format!("localhost:{}", own.port())],
        }
    }

    fn cookie(&self) -> &'static str {
        match self.scheme {
            // No other host and no page without TLS can set such a one.
            "https" => "__Host-tailkeep",
            _ => "tailkeep",
        }
    }

    /// The cookie that opens a session, or with an empty token forgets it.
    pub(super) fn set_cookie(&self, token: &str, lasts_s: i64) -> Option<HeaderValue> {
        let secure = if self.scheme == "https" { "; Secure" } else { "" };
        let name = self.cookie();
        let text = format!("{name}={token}; Path=/; Max-Age={lasts_s}; HttpOnly; SameSite=Strict{secure}");
        HeaderValue::from_str(&text).ok()
    }
}

/// Who is at the other end, as the transport proved it.
#[derive(Clone, Debug)]
pub(super) enum Caller {
    /// A person by the account of their process.
    Known(Person),
    /// Another account than those that may.
    Stranger(String),
    /// Anybody of this machine: the token or a session says who.
    Loopback(Arc<Site>, SocketAddr),
    /// A person by the tailnet's word.
    Tailnet(Arc<Site>, SocketAddr, Peer),
}

/// An operator's node. The login stays as it is for as long as the connection is open.
#[derive(Clone, Debug)]
pub(super) struct Peer {
    pub login: String,
    pub live: Live,
}

impl Peer {
    /// As who they decide, by what the tailnet grants them now.
    fn voter(&self) -> Voter {
        let identity = self.live.now();
        Voter::Login {
            login: self.login.clone(),
            grants: identity.approves.clone(),
            is_guest: identity.is_guest,
        }
    }
}

impl Caller {
    pub(super) fn site(&self) -> Option<&Arc<Site>> {
        match self {
            Caller::Loopback(site, _) | Caller::Tailnet(site, ..) => Some(site),
            Caller::Known(_) | Caller::Stranger(_) => None,
        }
    }

    /// Where it comes from, for people.
    pub(super) fn address(&self) -> String {
        match self {
            Caller::Loopback(_, address) | Caller::Tailnet(_, address, _) => address.ip().to_string(),
            _ => String::new(),
        }
    }
}

/// A session that a request came by.
#[derive(Clone, Debug)]
pub(super) struct BySession(pub Option<Session>);

fn forbidden(text: impl Into<String>) -> Failed {
    Failed(StatusCode::FORBIDDEN, text.into())
}

fn text(headers: &HeaderMap, name: impl header::AsHeaderName) -> Option<&str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

/// Whether a browser's request is one that our own page makes, to this very listener.
fn of_page(site: &Site, request: &Parts) -> Result<(), Failed> {
    let headers = &request.headers;
    let host = text(headers, header::HOST).unwrap_or_default();
    if !site.hosts.iter().any(|own| own.eq_ignore_ascii_case(host)) {
        return Err(forbidden("not for browsers that were led here by another name"));
    }
    let changes = !matches!(request.method, Method::GET | Method::HEAD);
    let own = format!("{}://{host}", site.scheme);
    match headers.get(header::ORIGIN).map(|origin| origin.as_bytes()) {
        Some(origin) if !origin.eq_ignore_ascii_case(own.as_bytes()) => {
            return Err(forbidden("not for browsers on another site"));
        }
        None if changes => return Err(forbidden("a change wants the page's Origin")),
        _ => {}
    }
    match text(headers, "sec-fetch-site") {
        None | Some("same-origin") => Ok(()),
        // A link or a typed address leads to a page, never to a change or an answer of the API.
        Some(_) if !changes && !request.uri.path().starts_with("/v1/") => Ok(()),
        Some(_) => Err(forbidden("not for browsers on another site")),
    }
}

/// Before what needs no sign-in: the page's files, and signing in.
pub(super) async fn greet(request: Request, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    let allowed = match parts.extensions.get::<Caller>() {
        Some(Caller::Known(_)) => Ok(()),
        Some(Caller::Stranger(name)) => Err(forbidden(format!("{name} may not use this socket"))),
        Some(Caller::Loopback(site, _) | Caller::Tailnet(site, ..)) => of_page(site, &parts),
        None => Err(forbidden("nobody")),
    };
    match allowed {
        Ok(()) => in_json(next.run(Request::from_parts(parts, body)).await).await,
        Err(failed) => failed.into_response(),
    }
}

/// Lets a request in, with the [`Person`] who makes it, or says why not.
pub(super) async fn admit(
    Shared((operator, token)): Shared<(Operator, Arc<OperatorToken>)>,
    request: Request,
    next: Next,
) -> Response {
    let (mut parts, body) = request.into_parts();
    let (person, session) = match who(&operator, &token, &parts).await {
        Ok(found) => found,
        Err(failed) => return challenge(failed),
    };
    let stays_open = session.as_ref().map(|session| until_ended(&operator, session));
    if let Some(Caller::Tailnet(_, _, peer)) = parts.extensions.get::<Caller>() {
        let voter = peer.voter();
        parts.extensions.insert(voter);
    }
    parts.extensions.insert(person);
    parts.extensions.insert(BySession(session));
    let answer = in_json(next.run(Request::from_parts(parts, body)).await).await;
    let is_stream = answer
        .headers()
        .get(header::CONTENT_TYPE)
        .is_some_and(|kind| kind == "text/event-stream");
    match stays_open.filter(|_| is_stream) {
        Some(ended) => {
            answer.map(|body| Body::from_stream(body.into_data_stream().take_until(Box::pin(ended))))
        }
        None => answer,
    }
}

async fn who(
    operator: &Operator,
    token: &OperatorToken,
    request: &Parts,
) -> Result<(Person, Option<Session>), Failed> {
    let headers = &request.headers;
    let (site, login) = match request.extensions.get::<Caller>() {
        Some(Caller::Known(person)) => return Ok((person.clone(), None)),
        Some(Caller::Stranger(name)) => {
            tracing::warn!(name, "an account that may not use the admin socket tried to");
            return Err(forbidden(format!("{name} may not use this socket")));
        }
        Some(Caller::Loopback(site, _)) => (site, None),
        Some(Caller::Tailnet(site, _, peer)) => (site, Some(&peer.login)),
        None => return Err(forbidden("nobody")),
    };
    if login.is_none() && !headers.contains_key(header::COOKIE) {
        let host = text(headers, header::HOST).unwrap_or_default();
        let host_is_ours = site.hosts.iter().any(|own| own == host);
        if !host_is_ours || headers.contains_key(header::ORIGIN) {
            return Err(forbidden("not for browsers"));
        }
        let given = text(headers, header::AUTHORIZATION).and_then(|value| value.strip_prefix("Bearer "));
        return match given {
            Some(given) if token.is(given) => Ok((Person("operator".to_owned()), None)),
            _ => {
                let text = "the operator's token is needed, or to sign in at the page";
                Err(Failed(StatusCode::UNAUTHORIZED, text.to_owned()))
            }
        };
    }
    of_page(site, request)?;
    let session = session(operator, site, headers).await?;
    // The session of another person, or one that a password opened elsewhere, opens nothing here.
    let fits = session.as_ref().filter(|session| match login {
        Some(login) => session.via == Via::Tailnet && session.person == *login,
        None => session.via == Via::Password,
    });
    match fits {
        Some(session) => Ok((Person(session.person.clone()), Some(session.clone()))),
        None => Err(Failed(StatusCode::UNAUTHORIZED, "sign in".to_owned())),
    }
}

/// The session that a request's two secrets open.
async fn session(operator: &Operator, site: &Site, headers: &HeaderMap) -> Result<Option<Session>, Failed> {
    let cookies = headers.get_all(header::COOKIE).iter();
    let cookies = cookies.filter_map(|value| value.to_str().ok());
    let own = cookies
        .flat_map(|cookies| cookies.split(';'))
        .filter_map(|cookie| cookie.trim().split_once('='))
        .find(|(name, _)| *name == site.cookie());
    let (Some((_, token)), Some(guard)) = (own, text(headers, GUARD)) else {
        return Ok(None);
    };
    let (token, guard) = (token.to_owned(), guard.to_owned());
    let found = operator
        .state
        .run(move |state| state.session(&token, &guard))
        .await;
    found.map_err(super::api::broken)
}

/// Ends when a session does.
fn until_ended(operator: &Operator, session: &Session) -> impl Future<Output = ()> + Send + 'static {
    let (state, id) = (operator.state.clone(), session.id);
    let mut changes = operator.people.ended();
    async move {
        // The stream itself ends with its connection, long before a session's time is over.
        while changes.changed().await.is_ok() {
            if !matches!(state.run(move |state| state.is_open_session(id)).await, Ok(true)) {
                return;
            }
        }
    }
}

fn challenge(failed: Failed) -> Response {
    let is_unknown = failed.0 == StatusCode::UNAUTHORIZED;
    let mut answer = failed.into_response();
    if is_unknown {
        let scheme = HeaderValue::from_static("Bearer");
        answer.headers_mut().insert(header::WWW_AUTHENTICATE, scheme);
    }
    answer
}

/// The framework's own errors are plain text; here they are like ours.
async fn in_json(answer: Response) -> Response {
    let status = answer.status();
    let is_json = answer
        .headers()
        .get(header::CONTENT_TYPE)
        .is_some_and(|kind| kind == "application/json");
    if is_json || !(status.is_client_error() || status.is_server_error()) {
        return answer;
    }
    let (mut parts, body) = answer.into_parts();
    let text = axum::body::to_bytes(body, PLAIN_BYTES_MAX)
        .await
        .unwrap_or_default();
    let text = String::from_utf8_lossy(&text).into_owned();
    parts.headers.remove(header::CONTENT_LENGTH);
    let text = if text.is_empty() { status.to_string() } else { text };
    let failed = Failed(status, text).into_response();
    parts.headers.extend(failed.headers().clone());
    Response::from_parts(parts, Body::new(failed.into_body()))
}
