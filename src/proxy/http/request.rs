//! The path of one request.

use std::sync::Arc;
use std::time::Instant;

use http::header::{EXPECT, HOST, UPGRADE};
use http::request::Parts;
use http::{Method, Request, Response, Version as HttpVersion};
use http_body::Body as _;
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;

use super::answer::{self, Own, Voice};
use super::body::{Begun, Held, Read, hold};
use super::budget::Room;
use super::download::Download;
use super::judge::Judge;
use super::{Claimed, Connection};
use crate::credential::select;
use crate::facts::http::{HeldBody, HttpFacts};
use crate::facts::k8s::K8sFacts;
use crate::facts::{FactSet, Facts, Family};
use crate::policy::{Credential, Endpoint, HostPort, Limits, Protocol};
use crate::protocol::http::{
    Malformed, Upgrade, check_head, detail, digest, strip_hop_by_hop, summary, upgrade,
};
use crate::protocol::kubernetes::check_kubernetes_head;
use crate::upstream::SendError;
use crate::verdict::{Action, Cause, Refusal, Step};

/// The fixed answer to a request for an endpoint that a reload took away.
const GONE: &str = "this endpoint is not one of yours";

/// Why a request goes no further.
pub(super) enum Stop {
    Malformed(Malformed),
    /// By the gate, which has recorded it.
    Denied(Refusal),
    /// On the way to or from the gate; yet to be recorded.
    Refused(Refusal),
    Upstream(SendError),
    Body,
    /// The agent left while it waited; nobody reads the answer.
    Gone,
}

/// One request on its way, with what is asked anew for each.
pub(super) struct Exchange<'a, J> {
    pub(super) connection: &'a Arc<Connection<J>>,
    pub(super) endpoint: Arc<Endpoint>,
    pub(super) limits: Limits,
    pub(super) began: Instant,
    /// The host that the request names and its upstream is called.
    pub(super) host: String,
    pub(super) upgrade: Option<Upgrade>,
    pub(super) on_upgrade: Option<OnUpgrade>,
    /// For a Kubernetes denial.
    pub(super) facts: Facts,
    /// What of a body was not taken, to be read out after a denial.
    pub(super) rest: Option<Incoming>,
    pub(super) awaits_continue: bool,
    /// What the held body takes of the agent's budget, until it was sent or refused.
    pub(super) room: Option<Room>,
    /// What was permitted, of a request that becomes a stream: it is judged anew by each policy.
    pub(super) granted: Option<Action>,
}

/// A request's body, before its verdict.
pub(super) enum Taken {
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
                room: None,
                granted: None,
            };
            let (parts, incoming) = request.into_parts();
            let line = summary(&parts);
            let voice = Voice::of(&parts);
            match exchange.run(parts, incoming).await {
                Ok(response) => response,
                Err(stop) => voice.say(exchange.stopped(stop, &line).await),
            }
        }
    };
    response.body_mut().keep_open(open);
    response
}

/// What was dialled: the name behind the virtual address, or the address.
fn claimed_host(claimed: &Claimed) -> String {
    let address = || claimed.destination.ip().to_string();
    claimed.name.clone().unwrap_or_else(address)
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
                return Err(Stop::Denied(refusal));
            }
        };
        self.granted = Some(action);
        self.send(permit, parts, taken, credential).await
    }

    /// Checks the head against what was dialled, and takes out what belongs to this hop.
    fn check(&mut self, parts: &mut Parts) -> Result<(), Malformed> {
        if matches!(parts.method, Method::TRACE | Method::CONNECT) {
            return Err(Malformed::Method);
        }
        if !self.is_claimed() {
            return Err(Malformed::Misdirected);
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
        // What TLS settled, or a Host by which an address was called, may have come to lead
        // elsewhere by a reload; what was dialled is looked after where connections are served.
        let own = claimed_host(&self.connection.claimed);
        if self.host != own && !self.connection.shared.leads(&self.connection.claimed, &self.host) {
            return Err(Malformed::Misdirected);
        }
        self.upgrade = upgrade(parts)?.filter(|kind| match kind {
            Upgrade::WebSocket => true,
            Upgrade::Spdy => self.endpoint.protocol == Protocol::Kubernetes,
        });
        strip_hop_by_hop(&mut parts.headers, self.upgrade);
        Ok(())
    }

    /// Whether the endpoint still claims what this connection dialled: a reload may have taken
    /// the destination away and left the endpoint.
    fn is_claimed(&self) -> bool {
        let claimed = &self.connection.claimed;
        let port = claimed.destination.port();
        self.endpoint.claims.iter().any(|claim| {
            claim.port == port
                && match &claimed.name {
                    Some(name) => claim.host.matches_name(name),
                    None => claim.host.matches_address(claimed.destination.ip()),
                }
        })
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
        let named = named.map(|host| host.split(':').next().unwrap_or(host).to_ascii_lowercase());
        named
            .filter(|host| self.connection.shared.leads(claimed, host))
            .unwrap_or_else(|| claimed.destination.ip().to_string())
    }

    async fn take(&mut self, incoming: Incoming, needs: FactSet) -> Result<Taken, Stop> {
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
        let most = self.limits.body_bytes_max;
        let upper = incoming
            .size_hint()
            .upper()
            .and_then(|upper| usize::try_from(upper).ok());
        let agent = self.connection.claimed.agent.identity.address;
        let wanted = upper.map_or(most, |upper| upper.min(most));
        let Some(room) = self.connection.shared.held.take(agent, wanted) else {
            return Ok(Taken::Over(Begun::new(incoming)));
        };
        self.room = Some(room);
        match hold(incoming, most).await {
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

    /// The answer to a request that went nowhere. What the gate has not seen is recorded here.
    async fn stopped(&mut self, stop: Stop, line: &str) -> Own {
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
            Stop::Denied(refusal) => self.denied(&refusal),
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

    fn denied(&mut self, refusal: &Refusal) -> Own {
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

impl Taken {
    fn as_held(&self) -> HeldBody<'_> {
        match self {
            Taken::Whole(held) if held.data.is_empty() => HeldBody::Empty,
            Taken::Whole(held) => HeldBody::Whole(&held.data),
            Taken::Over(_) => HeldBody::Over,
            Taken::Streamed(_) => HeldBody::NotHeld,
        }
    }

    pub(super) fn into_rest(self) -> Option<Incoming> {
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
