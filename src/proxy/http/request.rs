//! The path of one request.

use std::sync::Arc;
use std::time::Instant;

use http::header::{EXPECT, HeaderMap, UPGRADE};
use http::request::Parts;
use http::{Request, Response, Version as HttpVersion};
use http_body::Body as _;
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use tokio::sync::watch;

use super::Connection;
use super::answer::{self, Asked, Own, Voice};
use super::body::{Begun, Held, Read, hold};
use super::download::Download;
use super::judge::Judge;
use crate::bad_input;
use crate::facts::http::{HeldBody, HttpFacts};
use crate::facts::k8s::K8sFacts;
use crate::facts::mcp::Messages;
use crate::facts::{FactSet, Facts, Family};
use crate::identity::budget::Room;
use crate::policy::{Credential, Endpoint, Limits};
use crate::protocol::http::{Malformed, Upgrade, summary};
use crate::upstream::SendError;
use crate::verdict::{Action, Approved, Cause, Later, Refusal};

/// The fixed answer to a request for an endpoint that a reload took away.
pub(super) const GONE: &str = "this endpoint is not one of yours";

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
    /// That the agent does not wait for people.
    pub(super) later: Option<Later>,
    /// For a Kubernetes denial.
    pub(super) facts: Facts,
    /// For a denial of MCP's: the messages, and which of them was refused.
    pub(super) messages: Option<Messages>,
    pub(super) refused: usize,
    /// What of a body was not taken, to be read out after a denial.
    pub(super) rest: Option<Incoming>,
    pub(super) awaits_continue: bool,
    /// What the held body takes of the agent's budget, until it was sent or refused.
    pub(super) room: Option<Room>,
    /// What the facts take of it.
    pub(super) facts_room: Option<Room>,
    /// What was permitted, of a request that lasts: it is judged anew by each policy that came into
    /// force since.
    pub(super) granted: Option<Granted>,
}

/// What was permitted, each with who approved it, and the policies that come after.
pub(super) struct Granted {
    pub(super) actions: Vec<(Action, Option<Approved>)>,
    pub(super) reloads: watch::Receiver<u64>,
    /// What the actions' facts take of the agent's budget.
    pub(super) room: Option<Room>,
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
    let has_body = !request.body().is_end_stream();
    let open = connection.activity.begin(request.version(), has_body);
    let asks = request.headers().contains_key(UPGRADE);
    let on_upgrade = asks.then(|| hyper::upgrade::on(&mut request));
    let mut response = match connection.shared.endpoint(&connection.claimed.endpoint) {
        None => Box::pin(gone(connection, &request)).await,
        Some((endpoint, limits)) => {
            let mut exchange = Exchange {
                connection,
                endpoint,
                limits,
                began: Instant::now(),
                host: String::new(),
                upgrade: None,
                on_upgrade,
                later: None,
                facts: Facts::None,
                messages: None,
                refused: 0,
                rest: None,
                awaits_continue: false,
                room: None,
                facts_room: None,
                granted: None,
            };
            let (parts, incoming) = request.into_parts();
            let line = summary(&parts);
            let voice = Voice::of(&parts);
            match exchange.run(parts, incoming).await {
                Ok(response) => response,
                Err(stop) => voice.say(Box::pin(exchange.stopped(stop, &line)).await),
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
        let taken = self.take(&parts, incoming, needs).await?;
        let (mut taken, actions, credential) = self.read(&parts, taken, needs).await?;
        let reloads = judge.reloads();
        let about = (&parts, credential.as_ref());
        let permits = match self.judged(about, &actions, &mut taken).await {
            Ok(permits) => permits,
            Err(stop) => {
                if matches!(stop, Stop::Denied(_) | Stop::Refused(_)) {
                    let refused = actions.into_iter().nth(self.refused);
                    self.facts = refused.map_or(Facts::None, |action| action.facts);
                    self.rest = taken.into_rest();
                }
                return Err(stop);
            }
        };
        let approved = permits.iter().map(|permit| permit.approved_by().cloned());
        self.granted = Some(Granted {
            actions: actions.into_iter().zip(approved).collect(),
            reloads,
            room: self.facts_room.take(),
        });
        let mut permits = permits.into_iter();
        let Some(first) = permits.next() else {
            return Err(Stop::Malformed(Malformed::Rpc));
        };
        let answer = self.send(first, parts, taken, credential).await;
        for permit in permits {
            let status = match &answer {
                Ok(response) => format!("HTTP {}", response.status().as_u16()),
                Err(_) => "no answer".to_owned(),
            };
            self.finish(&permit, &status);
        }
        answer
    }

    /// The actions, with the body held where approvers would have to see it.
    async fn read(
        &mut self,
        parts: &Parts,
        mut taken: Taken,
        needs: FactSet,
    ) -> Result<(Taken, Vec<Action>, Option<Arc<Credential>>), Stop> {
        loop {
            let (actions, credential) = match self.actions(parts, &taken, needs) {
                Ok(found) => found,
                Err(stop) => {
                    self.rest = taken.into_rest();
                    return Err(stop);
                }
            };
            let (judge, agent) = (&self.connection.shared.judge, &self.connection.claimed.agent);
            let asks = || actions.iter().any(|action| judge.asks(agent, action));
            taken = match taken {
                Taken::Streamed(begun) if asks() => self.hold(begun.into_rest()).await?,
                taken => return Ok((taken, actions, credential)),
            };
        }
    }

    async fn take(&mut self, parts: &Parts, incoming: Incoming, needs: FactSet) -> Result<Taken, Stop> {
        if incoming.is_end_stream() {
            return Ok(Taken::Whole(Held::default()));
        }
        let wanted = match self.endpoint.family {
            Family::K8s => K8sFacts::wants_body(needs),
            Family::Mcp => true,
            _ => HttpFacts::wants_body(parts, needs),
        };
        if !wanted {
            return Ok(Taken::Streamed(Begun::new(incoming)));
        }
        self.hold(incoming).await
    }

    async fn hold(&mut self, incoming: Incoming) -> Result<Taken, Stop> {
        // A length that says it is too long is not waited for.
        if incoming.size_hint().lower() > self.limits.body_bytes_max as u64 {
            return Ok(Taken::Over(Begun::new(incoming)));
        }
        let most = self.limits.body_bytes_max;
        let upper = incoming
            .size_hint()
            .upper()
            .and_then(|upper| usize::try_from(upper).ok());
        let agent = &self.connection.claimed.agent.identity;
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

    /// The answer to a request that went nowhere. What the gate has not seen is recorded here.
    async fn stopped(&mut self, stop: Stop, line: &str) -> Own {
        let claimed = &self.connection.claimed;
        let judge = &self.connection.shared.judge;
        match stop {
            Stop::Malformed(error) => {
                bad_input::count(answer::reader(&self.endpoint), &error);
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
        let asked = match &self.facts {
            Facts::K8s(facts) => Asked::Kubernetes(facts),
            _ => Asked::Mcp(self.messages.as_ref(), self.refused),
        };
        answer::denial(&self.endpoint, refusal, asked, &self.connection.claimed.help)
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
    pub(super) fn held(&self) -> Option<&Held> {
        match self {
            Taken::Whole(held) => Some(held),
            Taken::Over(_) | Taken::Streamed(_) => None,
        }
    }

    pub(super) fn as_held(&self) -> HeldBody<'_> {
        as_held(self.held(), matches!(self, Taken::Over(_)))
    }

    pub(super) fn trailers(&self) -> Option<&HeaderMap> {
        trailers(self.held())
    }

    pub(super) fn into_rest(self) -> Option<Incoming> {
        match self {
            Taken::Whole(_) => None,
            Taken::Over(begun) | Taken::Streamed(begun) => Some(begun.into_rest()),
        }
    }

    /// Ends only if the agent breaks off while its verdict is waited for. Where it waits for
    /// `100 Continue`, reading would ask it for the body, so nothing is read.
    pub(super) async fn broken(&mut self, awaits_continue: bool) {
        match self {
            Taken::Over(begun) | Taken::Streamed(begun) if !awaits_continue => {
                begun.read_ahead().await;
            }
            _ => std::future::pending().await,
        }
    }
}

/// What is held of a body; one that is not is over the limit, or streams.
pub(super) fn as_held(held: Option<&Held>, is_over: bool) -> HeldBody<'_> {
    match held {
        Some(held) if held.data.is_empty() => HeldBody::Empty,
        Some(held) => HeldBody::Whole(&held.data),
        None if is_over => HeldBody::Over,
        None => HeldBody::NotHeld,
    }
}

pub(super) fn trailers(held: Option<&Held>) -> Option<&HeaderMap> {
    held.and_then(|held| held.trailers.as_ref())
}
