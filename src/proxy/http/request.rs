//! The path of one request.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use http::header::{ALT_SVC, EXPECT, HOST, UPGRADE};
use http::request::Parts;
use http::{Method, Request, Response, StatusCode, Version as HttpVersion};
use http_body::Body as _;
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use tokio::sync::watch;

use super::answer;
use super::body::{Begun, Held, Read, UpBody, hold};
use super::download::{Download, Ending};
use super::judge::Judge;
use super::upgrade::splice;
use super::{Claimed, Connection, Shared};
use crate::credential::{Known, Scrub, inject, select};
use crate::facts::http::{HeldBody, HttpFacts};
use crate::facts::k8s::K8sFacts;
use crate::facts::{FactSet, Facts, Family};
use crate::policy::{Credential, CredentialKind, Endpoint, HostPort, Limits, Protocol};
use crate::protocol::http::{
    Malformed, Upgrade, check_head, detail, digest, strip_hop_by_hop, summary, upgrade,
};
use crate::protocol::kubernetes::check_kubernetes_head;
use crate::tls::ClientIdentity;
use crate::upstream::pool::Sent;
use crate::upstream::{SendError, To, Version};
use crate::verdict::{Action, Cause, Digest, Permit, Refusal, Step};

/// How long an agent that waits for `100 Continue` is left waiting for the upstream's word; then
/// its body is taken, as RFC 9110 §10.1.1 lets a client do by itself.
pub const CONTINUE_WAIT: Duration = Duration::from_secs(1);

/// The fixed answer to a request for an endpoint that a reload took away.
const GONE: &str = "this endpoint is not one of yours";

/// Why a request goes no further.
enum Stop {
    Malformed(Malformed),
    Refused(Refusal),
    Upstream(SendError),
    Body,
    /// The agent left while it waited; nobody reads the answer.
    Gone,
}

/// One request on its way, with what is asked anew for each.
struct Exchange<'a, J> {
    connection: &'a Arc<Connection<J>>,
    endpoint: Arc<Endpoint>,
    limits: Limits,
    began: Instant,
    /// The host that the request names and its upstream is called.
    host: String,
    upgrade: Option<Upgrade>,
    on_upgrade: Option<OnUpgrade>,
    /// For a Kubernetes denial.
    facts: Facts,
    /// What of a body was not taken, to be read out after a denial.
    rest: Option<Incoming>,
    awaits_continue: bool,
}

/// A request's body, before its verdict.
enum Taken {
    Whole(Held),
    Over(Begun),
    Streamed(Begun),
}

/// Serves one request. What it is answered depends on nothing but the policy of now.
pub(crate) async fn serve<J: Judge>(
    connection: &Arc<Connection<J>>,
    mut request: Request<Incoming>,
) -> Response<Download> {
    let open = connection.activity.begin(request.version());
    let asks = request.headers().contains_key(UPGRADE);
    let on_upgrade = asks.then(|| hyper::upgrade::on(&mut request));
    let mut response = match connection.shared.endpoint(&connection.claimed.endpoint) {
        None => gone(connection, &request).await,
        Some((endpoint, limits)) => {
            let mut exchange = Exchange {
                connection,
                endpoint,
                limits,
                began: Instant::now(),
                host: String::new(),
                upgrade: None,
                on_upgrade,
                facts: Facts::None,
                rest: None,
                awaits_continue: false,
            };
            let (parts, incoming) = request.into_parts();
            let line = summary(&parts);
            match exchange.run(parts, incoming).await {
                Ok(response) => response,
                Err(stop) => exchange.stopped(stop, &line).await,
            }
        }
    };
    response.body_mut().keep_open(open);
    response
}

async fn gone<J: Judge>(connection: &Connection<J>, request: &Request<Incoming>) -> Response<Download> {
    let claimed = &connection.claimed;
    let line = format!("{} {}", request.method(), request.uri().path());
    let refusal = Refusal::new(Cause::NoEndpoint, GONE);
    let judge = &connection.shared.judge;
    let refusal = judge
        .refuse(&claimed.agent, &claimed.endpoint, &line, refusal)
        .await;
    crate::protocol::http::deny(&refusal).map(Download::full)
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
        summary: format!("connect {}:{}", to.host, to.port),
        detail: String::new(),
    };
    let permit = shared.judge.judge(&claimed.agent, &action).await.ok()?;
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
            tracing::warn!(endpoint = %claimed.endpoint, %error, "the upstream could not be asked for its protocols");
            None
        }
    }
}

fn ending<J: Judge>(
    shared: &Shared<J>,
    permit: &Permit,
    began: Instant,
    tally: Arc<super::body::Tally>,
) -> Ending {
    let judge = shared.judge.clone();
    let finish = Box::new(move |record, outcome| judge.finish(record, outcome));
    Ending::new(permit.record(), began, tally, finish)
}

impl<J: Judge> Exchange<'_, J> {
    async fn run(&mut self, mut parts: Parts, incoming: Incoming) -> Result<Response<Download>, Stop> {
        self.awaits_continue = parts.version >= HttpVersion::HTTP_11 && parts.headers.contains_key(EXPECT);
        if let Err(error) = self.check(&mut parts) {
            self.rest = Some(incoming);
            return Err(Stop::Malformed(error));
        }
        let claimed = &self.connection.claimed;
        let judge = self.connection.shared.judge.clone();
        let needs = judge.needs(&claimed.agent, &claimed.endpoint);
        let mut taken = self.take(incoming, needs).await?;
        let (action, credential) = match self.action(&parts, &taken, needs) {
            Ok(found) => found,
            Err(stop) => {
                self.rest = taken.into_rest();
                return Err(stop);
            }
        };
        let waiting = self.connection.activity.hold();
        let ruling = tokio::select! {
            biased;
            ruling = judge.judge(&claimed.agent, &action) => ruling,
            () = taken.broken(self.awaits_continue) => return Err(Stop::Gone),
        };
        drop(waiting);
        let permit = match ruling {
            Ok(permit) if permit.covers(&action.digest) => permit,
            Ok(_) => {
                return Err(Stop::Refused(Refusal::new(
                    Cause::Malformed,
                    "the request changed",
                )));
            }
            Err(refusal) => {
                self.facts = action.facts;
                self.rest = taken.into_rest();
                // The gate has recorded it.
                return Ok(self.denied(&refusal));
            }
        };
        self.send(permit, parts, taken, credential).await
    }

    /// Checks the head against what was dialled, and takes out what belongs to this hop.
    fn check(&mut self, parts: &mut Parts) -> Result<(), Malformed> {
        if matches!(parts.method, Method::TRACE | Method::CONNECT) {
            return Err(Malformed::Method);
        }
        let claimed = HostPort {
            host: self.called(parts),
            port: self.connection.claimed.destination.port(),
        };
        let authority = match self.endpoint.protocol {
            Protocol::Kubernetes => check_kubernetes_head(parts, &claimed)?,
            _ => check_head(parts, &claimed)?,
        };
        self.host = authority.host;
        self.upgrade = upgrade(parts)?.filter(|kind| match kind {
            Upgrade::WebSocket => true,
            Upgrade::Spdy => self.endpoint.protocol == Protocol::Kubernetes,
        });
        strip_hop_by_hop(&mut parts.headers, self.upgrade);
        Ok(())
    }

    /// The host that a request must name: what TLS settled, or the dialled name. Where only an
    /// address was dialled, any name that the endpoint claims, or the address.
    fn called(&self, parts: &Parts) -> String {
        let claimed = &self.connection.claimed;
        if let Some(name) = self.connection.sni.as_ref().or(claimed.name.as_ref()) {
            return name.clone();
        }
        let named = parts
            .headers
            .get(HOST)
            .and_then(|host| host.to_str().ok())
            .or_else(|| parts.uri.authority().map(|authority| authority.as_str()));
        let port = claimed.destination.port();
        let named = named.map(|host| host.split(':').next().unwrap_or(host).to_ascii_lowercase());
        let is_claimed = |host: &String| {
            let mut claims = self.endpoint.claims.iter();
            claims.any(|claim| claim.port == port && claim.host.matches_name(host))
        };
        named
            .filter(is_claimed)
            .unwrap_or_else(|| claimed.destination.ip().to_string())
    }

    async fn take(&self, incoming: Incoming, needs: FactSet) -> Result<Taken, Stop> {
        if incoming.is_end_stream() {
            return Ok(Taken::Whole(Held::default()));
        }
        let wanted = match self.endpoint.family {
            Family::K8s => K8sFacts::wants_body(needs),
            _ => HttpFacts::wants_body(needs),
        };
        if !wanted {
            return Ok(Taken::Streamed(Begun::new(incoming)));
        }
        // A length that says it is too long is not waited for.
        if incoming.size_hint().lower() > self.limits.body_bytes_max as u64 {
            return Ok(Taken::Over(Begun::new(incoming)));
        }
        match hold(incoming, self.limits.body_bytes_max).await {
            Ok(Read::Whole(held)) => {
                self.connection.activity.body_ended();
                Ok(Taken::Whole(held))
            }
            Ok(Read::Over(begun)) => Ok(Taken::Over(begun)),
            Err(_) => Err(Stop::Body),
        }
    }

    fn action(
        &self,
        parts: &Parts,
        taken: &Taken,
        needs: FactSet,
    ) -> Result<(Action, Option<Arc<Credential>>), Stop> {
        let body = taken.as_held();
        let claimed = &self.connection.claimed;
        let credential = self
            .connection
            .shared
            .judge
            .with_model(|model| match model.profile(&claimed.agent.profile) {
                Some(profile) => select(model, profile, &self.endpoint, parts, body),
                None => Err(Refusal::new(Cause::NoProfile, GONE)),
            })
            .map_err(Stop::Refused)?;
        let decoded_max = self.limits.decoded_bytes_max;
        let facts = match self.endpoint.family {
            Family::K8s => K8sFacts::read(parts, &self.host, body, needs, decoded_max)
                .map(|facts| Facts::K8s(Box::new(facts))),
            _ => HttpFacts::read(parts, &self.host, body, needs, decoded_max)
                .map(|facts| Facts::Http(Box::new(facts))),
        };
        let action = Action {
            step: Step::Request,
            endpoint: claimed.endpoint.clone(),
            credential: credential.as_ref().map(|own| own.key.clone()),
            facts: facts.map_err(Stop::Malformed)?,
            digest: digest(parts, body),
            summary: summary(parts),
            detail: detail(parts, body),
        };
        Ok((action, credential))
    }

    /// Injects, sends, and begins the answer. From here on the permit is spent.
    async fn send(
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
            Ok(done) => done,
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
        let (body, word) = self.body(&mut parts, taken, version);
        let tally = body.tally();
        let mut ending = ending(shared, &permit, self.began, tally.clone());
        let dialled = connection.claimed.destination.ip().to_string();
        let to = To {
            agent: connection.claimed.agent.identity.address,
            endpoint: &self.endpoint,
            dial: match connection.claimed.name {
                Some(_) => &self.host,
                None => &dialled,
            },
            host: &self.host,
            port: connection.claimed.destination.port(),
            identity: identity.as_ref(),
            version,
            answer: Duration::from_secs(self.limits.idle_s),
        };
        let mut request = Request::new(body);
        *request.method_mut() = parts.method;
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
        let sent = shared.pool.send(&permit, &to, request).await;
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
            Ok(sent) => self.answer(sent, scrub, ending).map_err(Stop::Upstream),
            Err(_) if tally.refused.load(Ordering::Acquire) => {
                ending.status("refused: a placeholder in the body");
                ending.whole();
                let reason = "a placeholder stands in the body";
                Err(Stop::Refused(Refusal::new(Cause::Credential, reason)))
            }
            Err(error) => {
                ending.status("no answer");
                Err(Stop::Upstream(error))
            }
        }
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
            .told(self.connection.activity.clone());
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
        mut ending: Ending,
    ) -> Result<Response<Download>, SendError> {
        let Sent { mut response, lease } = sent;
        let status = response.status();
        ending.status(format!("HTTP {}", status.as_u16()));
        let headers = response.headers_mut();
        if status == StatusCode::SWITCHING_PROTOCOLS {
            strip_hop_by_hop(headers, self.upgrade);
            let upstream = hyper::upgrade::on(&mut response);
            let (Some(agent), Some(_)) = (self.on_upgrade.take(), self.upgrade) else {
                return Err(SendError::Unasked);
            };
            let idle = Duration::from_secs(self.limits.idle_s);
            self.connection
                .keep_splice(Box::pin(splice(agent, upstream, lease, ending, idle)));
            return Ok(response.map(|_| Download::full(bytes::Bytes::new())));
        }
        strip_hop_by_hop(headers, None);
        // Other ways to the service would lead round the gateway.
        headers.remove(ALT_SVC);
        let scrub = match scrub.map(Box::new) {
            None => None,
            Some(mut scrub) => match scrub.head(headers) {
                true => Some(scrub),
                false => return Err(SendError::Coded),
            },
        };
        Ok(response.map(|incoming| Download::upstream(incoming, lease, scrub, ending)))
    }

    /// The answer to a request that went nowhere. What the gate has not seen is recorded here.
    async fn stopped(&mut self, stop: Stop, line: &str) -> Response<Download> {
        let claimed = &self.connection.claimed;
        let judge = &self.connection.shared.judge;
        match stop {
            Stop::Malformed(error) => {
                let refusal = Refusal::new(Cause::Malformed, error.to_string());
                judge
                    .refuse(&claimed.agent, &claimed.endpoint, line, refusal)
                    .await;
                self.drain();
                answer::malformed(&self.endpoint, error)
            }
            Stop::Refused(refusal) => {
                let refusal = judge
                    .refuse(&claimed.agent, &claimed.endpoint, line, refusal)
                    .await;
                self.denied(&refusal)
            }
            Stop::Upstream(error) => answer::unreachable(&self.endpoint, &error),
            Stop::Body | Stop::Gone => answer::broken_body(&self.endpoint),
        }
    }

    fn denied(&mut self, refusal: &Refusal) -> Response<Download> {
        self.drain();
        let facts = match &self.facts {
            Facts::K8s(facts) => Some(&**facts),
            _ => None,
        };
        answer::denial(&self.endpoint, refusal, facts)
    }

    /// An agent that waits for `100 Continue` keeps its body; hyper then closes the connection.
    fn drain(&mut self) {
        if let Some(rest) = self.rest.take()
            && !self.awaits_continue
        {
            answer::drain(rest);
        }
    }
}

/// What the upstream said about a body that waits.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Word {
    None,
    Go,
    Done,
}

impl Taken {
    fn as_held(&self) -> HeldBody<'_> {
        match self {
            Taken::Whole(held) if held.data.is_empty() => HeldBody::Empty,
            Taken::Whole(held) => HeldBody::Whole(&held.data),
            Taken::Over(_) => HeldBody::Over,
            Taken::Streamed(_) => HeldBody::NotHeld,
        }
    }

    fn into_rest(self) -> Option<Incoming> {
        match self {
            Taken::Whole(_) => None,
            Taken::Over(begun) | Taken::Streamed(begun) => Some(begun.into_rest()),
        }
    }

    /// Ends only if the agent breaks off while its verdict is waited for. Where it waits for
    /// `100 Continue`, reading would ask it for the body, so nothing is read.
    async fn broken(&mut self, awaits_continue: bool) {
        match self {
            Taken::Over(begun) | Taken::Streamed(begun) if !awaits_continue => {
                begun.read_ahead().await;
            }
            _ => std::future::pending().await,
        }
    }
}

/// Puts the secret into the request, or makes the client certificate of it.
fn inject_all<J>(
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
