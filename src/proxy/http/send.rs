//! The path of a permitted request: its secret, its upstream, its answer.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::{Duration, Instant};

use futures_util::future::select_all;
use http::header::{ALT_SVC, EXPECT, HeaderValue, TRANSFER_ENCODING};
use http::request::Parts;
use http::{Request, Response, StatusCode, Version as HttpVersion};
use http_body::Body as _;
use hyper::body::Incoming;
use tokio::sync::watch;

use super::body::{Tally, UpBody};
use super::download::{Download, ENDED_BY_POLICY, Ending, Revoked};
use super::faults::{count_answer, of_server};
use super::judge::Judge;
use super::request::{Exchange, Granted, Stop, Taken};
use super::upgrade::{Until, splice};
use super::{Claimed, Connection, Shared};
use crate::credential::{Known, Scrub, inject, scrub_all};
use crate::facts::http::method::MethodScan;
use crate::facts::{Facts, Family, Slot};
use crate::policy::{Credential, CredentialKind};
use crate::protocol::http::strip_hop_by_hop;
use crate::tls::ClientIdentity;
use crate::upstream::pool::Sent;
use crate::upstream::{SendError, To, Version};
use crate::verdict::gate::How;
use crate::verdict::{Action, Cause, Digest, Permit, Refusal, Step};

/// How long an agent that waits for `100 Continue` is left waiting for the upstream's word; then
/// its body is taken, as RFC 9110 §10.1.1 lets a client do by itself.
pub const CONTINUE_WAIT: Duration = Duration::from_secs(1);

/// Bytes of a response that is over before a new policy could matter to it.
pub const SHORT_BYTES_MAX: u64 = 1 << 20;

/// What the upstream said about a body that waits.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Word {
    None,
    Go,
    Done,
}

/// Learns which protocols an upstream speaks, with a permit to connect.
pub(super) async fn probe<J: Judge>(shared: &Shared<J>, claimed: &Claimed, to: &To<'_>) -> Option<Version> {
    let began = Instant::now();
    let action = Action {
        step: Step::Connect,
        endpoint: claimed.endpoint.clone(),
        credential: None,
        facts: Facts::None,
        digest: Digest::of(b""),
        whole: true,
        summary: format!("connect {}:{}", to.host, to.port),
        detail: String::new(),
    };
    let permit = shared
        .judge
        .judge(&claimed.agent, &action, How::default())
        .await
        .ok()?;
    let mut ending = ending(shared, &permit, began, Arc::default());
    match shared.pool.probe(&permit, to).await {
        Ok(version) => {
            ending.status(match version {
                Version::Http1 => "HTTP/1.1",
                Version::Http2 => "HTTP/2",
            });
            ending.whole();
            Some(version)
        }
        Err(error) => {
            count_answer(of_server(to.endpoint.protocol), &error);
            tracing::warn!(endpoint = %claimed.endpoint, %error, "the upstream could not be asked for its protocols");
            None
        }
    }
}

pub(super) fn ending<J: Judge>(
    shared: &Shared<J>,
    permit: &Permit,
    began: Instant,
    tally: Arc<Tally>,
) -> Ending {
    let judge = shared.judge.clone();
    let finish = Box::new(move |record, outcome| judge.finish(record, outcome));
    Ending::new(permit.record(), began, tally, finish)
}

impl<J: Judge> Exchange<'_, J> {
    /// Injects, sends, and begins the answer. From here on the permit is spent.
    pub(super) async fn send(
        &mut self,
        permit: Permit,
        mut parts: Parts,
        taken: Taken,
        credential: Option<Arc<Credential>>,
    ) -> Result<Response<Download>, Stop> {
        let connection = self.connection;
        let shared = &connection.shared;
        // A person may have taken minutes: where it goes is what the configuration says now.
        if let Some((endpoint, limits)) = shared.endpoint(&connection.claimed.endpoint) {
            (self.endpoint, self.limits) = (endpoint, limits);
        }
        let (scrub, identity) = match inject_all(shared, &permit, &mut parts, credential.as_deref()) {
            Ok((own, identity)) => (self.scrub(&mut parts, own), identity),
            Err(refusal) => {
                self.rest = taken.into_rest();
                let mut ending = ending(shared, &permit, self.began, Arc::default());
                ending.status("refused: no secret");
                ending.whole();
                return Err(Stop::Refused(refusal));
            }
        };
        let version = match parts.version {
            HttpVersion::HTTP_2 => Version::Http2,
            _ => Version::Http1,
        };
        let streams = !matches!(taken, Taken::Whole(_));
        let (body, word) = self.body(&mut parts, taken, version);
        let body = body.without(self.slots());
        let tally = body.tally();
        let mut ending = ending(shared, &permit, self.began, tally.clone());
        let by_name = connection.claimed.name.is_some();
        let dialled = (!by_name).then(|| connection.claimed.destination.ip().to_string());
        let to = To {
            agent: &connection.claimed.agent.identity,
            endpoint: &self.endpoint,
            dial: dialled.as_deref().unwrap_or(&self.host),
            host: &self.host,
            port: connection.claimed.destination.port(),
            identity: identity.as_ref(),
            version,
            answer: Duration::from_secs(self.limits.idle_s),
        };
        let mut request = Request::new(body);
        *request.method_mut() = parts.method;
        *request.version_mut() = parts.version;
        *request.uri_mut() = parts.uri;
        *request.headers_mut() = parts.headers;
        if let Some(word) = &word {
            let word = word.clone();
            hyper::ext::on_informational(&mut request, move |response| {
                if response.status() == StatusCode::CONTINUE {
                    word.send_replace(Word::Go);
                }
            });
        }
        // The pool times the upstream; the agent's own silence is no fault meanwhile.
        let waiting = connection.activity.hold();
        let mut granted = self.granted.take();
        let watch = |granted: Option<_>| Some(revoked(connection, granted?));
        let mut ended = match streams {
            true => watch(granted.take()),
            false => None,
        };
        let sent = tokio::select! {
            biased;
            refusal = poll_fn(|cx| match &mut ended {
                Some(ended) => ended.as_mut().poll(cx),
                None => Poll::Pending,
            }) => {
                ending.status(ENDED_BY_POLICY);
                ending.whole();
                return Err(Stop::Refused(refusal));
            }
            sent = shared.pool.send(&permit, &to, request) => sent,
        };
        drop(waiting);
        if let Some(word) = word {
            word.send_if_modified(|word| {
                *word == Word::None && {
                    *word = Word::Done;
                    true
                }
            });
        }
        match sent {
            Ok(sent) => {
                let ended = ended.or_else(|| match lasts(&sent.response) {
                    true => watch(granted),
                    false => None,
                });
                self.answer(sent, scrub, ended, ending)
                    .map_err(|error| self.failed(error))
            }
            Err(_) if tally.refused.load(Ordering::Acquire) => {
                ending.status("refused: a placeholder in the body");
                ending.whole();
                let reason = "a placeholder stands in the body";
                Err(Stop::Refused(Refusal::new(Cause::Credential, reason)))
            }
            Err(_) if tally.remethod.load(Ordering::Acquire) => {
                ending.status("refused: another method in the body");
                ending.whole();
                let reason = "the body names another method than the request, and a rule reads the method";
                Err(Stop::Refused(Refusal::new(Cause::Malformed, reason)))
            }
            Err(error) => {
                ending.status("no answer");
                Err(self.failed(error))
            }
        }
    }

    fn failed(&self, error: SendError) -> Stop {
        count_answer(of_server(self.endpoint.protocol), &error);
        Stop::Upstream(error)
    }

    /// What looks for another method in a body that streams, where a rule reads the method.
    fn other_method(&self, parts: &Parts) -> Option<MethodScan> {
        let claimed = &self.connection.claimed;
        let judge = &self.connection.shared.judge;
        let needs = judge.needs(&claimed.agent, &claimed.endpoint);
        let reads = self.endpoint.family == Family::Http && needs.contains(Slot::HttpMethod);
        reads.then(|| MethodScan::new(parts)).flatten()
    }

    /// What looks for every secret that this endpoint may have been sent.
    fn scrub(&self, parts: &mut Parts, own: Option<Scrub>) -> Option<Scrub> {
        let claimed = &self.connection.claimed;
        let shared = &self.connection.shared;
        shared.judge.with_model(|model| {
            let who = (model, &*claimed.agent.profile);
            scrub_all(who, &claimed.endpoint, &shared.known, parts, own)
        })
    }

    /// The body as it goes up. What was held is sent as it was held.
    fn body(
        &self,
        parts: &mut Parts,
        taken: Taken,
        version: Version,
    ) -> (UpBody, Option<Arc<watch::Sender<Word>>>) {
        let begun = match taken {
            Taken::Whole(held) => {
                parts.headers.remove(EXPECT);
                return (UpBody::held(held), None);
            }
            Taken::Over(begun) | Taken::Streamed(begun) => begun,
        };
        let profile = &self.connection.claimed.agent.profile;
        let scan = self.connection.shared.judge.with_model(|model| {
            model
                .profile(profile)
                .map(|profile| Known::new(model, profile).scan())
        });
        let body = UpBody::stream(begun)
            .scanned(scan)
            .of_one_method(self.other_method(parts))
            .told(self.connection.activity.reading());
        if !self.awaits_continue || version == Version::Http2 {
            parts.headers.remove(EXPECT);
            return (body, None);
        }
        let (word, mut heard) = watch::channel(Word::None);
        let gate = async move {
            let spoken = async { heard.wait_for(|word| *word != Word::None).await.map(|word| *word) };
            let wanted = match tokio::time::timeout(CONTINUE_WAIT, spoken).await {
                Ok(word) => matches!(word, Ok(Word::Go)),
                // Nobody spoke in time.
                Err(_) => true,
            };
            // Answered without the body, which now stays where it is.
            if !wanted {
                std::future::pending::<()>().await;
            }
        };
        (body.behind(gate), Some(Arc::new(word)))
    }

    fn answer(
        &mut self,
        sent: Sent,
        scrub: Option<Scrub>,
        revoked: Option<Revoked>,
        mut ending: Ending,
    ) -> Result<Response<Download>, SendError> {
        let Sent { mut response, lease } = sent;
        let status = response.status();
        ending.status(format!("HTTP {}", status.as_u16()));
        let switched = status == StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        // Chunks are taken off by hyper; another coding below them would hide a secret, and be lost.
        if headers
            .get_all(TRANSFER_ENCODING)
            .iter()
            .any(|coding| !is_chunked(coding))
        {
            return Err(SendError::Coded);
        }
        strip_hop_by_hop(headers, self.upgrade.filter(|_| switched));
        // Other ways to the service would lead round the gateway.
        headers.remove(ALT_SVC);
        // hyper would write an upstream's own reason phrase, in which anything may stand.
        response.extensions_mut().remove::<hyper::ext::ReasonPhrase>();
        let headers = response.headers_mut();
        let scrub = match scrub.map(Box::new) {
            None => None,
            Some(mut scrub) => match scrub.head(headers) {
                true => Some(scrub),
                false => return Err(SendError::Coded),
            },
        };
        if switched {
            let upstream = hyper::upgrade::on(&mut response);
            let (Some(agent), Some(_)) = (self.on_upgrade.take(), self.upgrade) else {
                return Err(SendError::Unasked);
            };
            let idle = Duration::from_secs(self.limits.idle_s);
            let Some(revoked) = revoked else {
                return Err(SendError::Unasked);
            };
            self.connection.keep_splice(Box::pin(async move {
                let limits = Until { idle, revoked };
                splice((agent, upstream), scrub, lease, ending, limits).await;
            }));
            return Ok(response.map(|_| Download::full(bytes::Bytes::new())));
        }
        Ok(response.map(|incoming| {
            let server = of_server(self.endpoint.protocol);
            Download::upstream(incoming, lease, scrub, ending, server).until(revoked)
        }))
    }
}

/// Comes when a policy is in force that would not permit this request, or one of its actions.
fn revoked<J: Judge>(connection: &Connection<J>, granted: Granted) -> Revoked {
    let judge = connection.shared.judge.clone();
    let agent = connection.claimed.agent.clone();
    Box::pin(async move {
        let Granted {
            actions,
            reloads,
            room: _room,
        } = granted;
        let each = actions.iter().map(|(action, approved_by)| {
            Box::pin(judge.revoked(&agent, action, approved_by.as_ref(), reloads.clone()))
        });
        let (refusal, _, _) = select_all(each).await;
        refusal
    })
}

fn is_chunked(coding: &HeaderValue) -> bool {
    coding.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked")
}

/// Whether a response may still run when a new policy comes: a stream, or what says no length, such
/// as events, a watch or a log that is followed, or is long.
fn lasts(response: &Response<Incoming>) -> bool {
    response.status() == StatusCode::SWITCHING_PROTOCOLS
        || response
            .body()
            .size_hint()
            .exact()
            .is_none_or(|length| length > SHORT_BYTES_MAX)
}

/// Puts the secret into the request, or makes the client certificate of it.
pub(super) fn inject_all<J>(
    shared: &Shared<J>,
    permit: &Permit,
    parts: &mut Parts,
    credential: Option<&Credential>,
) -> Result<(Option<Scrub>, Option<ClientIdentity>), Refusal> {
    let Some(credential) = credential else {
        return Ok((None, None));
    };
    let scrub = inject(permit, parts, credential, &*shared.secrets)?;
    if credential.kind != CredentialKind::Mtls {
        return Ok((scrub, None));
    }
    let refusal =
        |reason: &str| Refusal::new(Cause::Credential, reason).with_detail(credential.key.to_string());
    let (Some(chain), Some(key)) = (
        (shared.secrets)(credential, "cert"),
        (shared.secrets)(credential, "key"),
    ) else {
        return Err(refusal("the credential has no secret set"));
    };
    let identity = ClientIdentity::from_pem(permit, &credential.key, chain.expose(), key.expose());
    identity
        .map(|identity| (scrub, Some(identity)))
        .map_err(|error| refusal("the client certificate cannot be used").with_detail(error.to_string()))
}
