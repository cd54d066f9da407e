//! Drives one connection of an agent through every stage.
//!
//! [`Proxy::serve`] takes a [`Flow`] from an ingress, finds the agent's profile and the endpoint
//! that claims the destination ([`route`]), and hands the bytes to the driver of the endpoint's
//! protocol. What nothing claims is passed through or closed, as the policy says.
//!
//! The gateway's own name leads to [`whoami`].
//!
//! Invariants: no identity without a profile gets further than a record; a destination is looked
//! up in the policy of now; nothing leaves without a permit.

pub mod http;
mod passthrough;
mod place;
pub mod postgres;
mod replay;
pub mod route;
mod sql;
pub mod whoami;

use std::sync::{Arc, Mutex};

use tokio::sync::watch;

use crate::credential::store::SecretStore;
use crate::identity::{Agent, Identity};
use crate::ingress::Flow;
use crate::ingress::dns::Names;
use crate::ingress::tailnet::Called;
use crate::policy::{Endpoint, Protocol};
use crate::tls::{Connectors, Leaves};
use crate::upstream::{Dialer, Pool};
use crate::verdict::gate::Gate;
use crate::verdict::{Cause, Refusal};

use crate::identity::budget::Budget;
use http::{FACTS_BYTES_MAX, HELD_BYTES_MAX, HTTP2_PER_AGENT_MAX};
use place::{Place, Places};
use route::{Destination, Route};
use whoami::Teller;

/// Everything that connections share.
pub struct Proxy {
    gate: Arc<Gate>,
    names: Arc<Names>,
    leaves: Arc<Leaves>,
    connectors: Arc<Connectors>,
    dialer: Arc<Dialer>,
    secrets: SecretStore,
    http: Arc<http::Shared<Gate>>,
    cancels: postgres::Cancels,
    /// What agents' Postgres connections hold in memory.
    sessions: Budget,
    statements: Arc<Mutex<crate::facts::sql::cache::Cache>>,
    services: passthrough::Services,
    teller: Teller,
    open: Places,
}

/// Texts whose statements are kept parsed, of all sessions together.
const STATEMENTS_KEPT_MAX: usize = 4096;

/// What [`Proxy::new`] is made of.
pub struct Parts {
    pub gate: Arc<Gate>,
    pub names: Arc<Names>,
    pub leaves: Arc<Leaves>,
    pub connectors: Arc<Connectors>,
    pub dialer: Arc<Dialer>,
    pub secrets: SecretStore,
    /// How peers of the tailnet call the gateway.
    pub called: watch::Receiver<Called>,
}

impl Proxy {
    pub fn new(parts: Parts) -> Arc<Proxy> {
        let secrets = parts.secrets.clone();
        let http = http::Shared {
            judge: parts.gate.clone(),
            leaves: parts.leaves.clone(),
            pool: Pool::new(parts.dialer.clone(), parts.connectors.clone()),
            held: Budget::new(HELD_BYTES_MAX),
            facts: Budget::new(FACTS_BYTES_MAX),
            http2: Budget::new(HTTP2_PER_AGENT_MAX),
            known: secrets.known().clone(),
            secrets: Arc::new(move |credential, slot| match secrets.get(credential, slot) {
                Ok(secret) => Some(secret),
                Err(missing) => {
                    tracing::warn!(%missing, "a request is refused");
                    None
                }
            }),
        };
        Arc::new(Proxy {
            teller: Teller::new(
                parts.gate.clone(),
                parts.names.clone(),
                parts.leaves.ca_pem(),
                parts.called,
            ),
            gate: parts.gate,
            names: parts.names,
            leaves: parts.leaves,
            connectors: parts.connectors,
            dialer: parts.dialer,
            secrets: parts.secrets,
            http: Arc::new(http),
            cancels: postgres::Cancels::default(),
            sessions: Budget::new(postgres::AGENT_BYTES_MAX),
            statements: Arc::new(Mutex::new(crate::facts::sql::cache::Cache::new(
                STATEMENTS_KEPT_MAX,
            ))),
            services: passthrough::Services::default(),
            open: Places::default(),
        })
    }

    /// What tells agents who they are.
    pub fn teller(&self) -> &Teller {
        &self.teller
    }

    /// The pool of upstream connections, to be swept now and then.
    pub fn pool(&self) -> &Arc<Pool> {
        &self.http.pool
    }

    /// Serves one connection to its end. Never panics; what goes wrong is logged and recorded.
    pub async fn serve(self: Arc<Self>, flow: Flow) {
        let (live, address) = (flow.identity.clone(), flow.destination);
        let identity = live.now();
        let Some(_place) = self.enter(&identity) else {
            tracing::warn!(
                node = identity.node,
                "a connection over connections_max, or over the agent's own limit, is closed"
            );
            return;
        };
        let name = self.names.lookup(address.ip());
        let dialled = match &name {
            Some(name) => format!("{name}:{}", address.port()),
            None => address.to_string(),
        };
        let is_stopped = self.gate.is_stopped(&identity);
        if self.teller.is_at(address, name.as_deref()) && !is_stopped {
            return Box::pin(self.teller.serve(flow)).await;
        }
        let mut reloads = self.gate.reloads();
        let Ok(agent) = self.gate.admit(&live, &dialled).await else {
            return;
        };
        let destination = Destination {
            address,
            name: name.as_deref(),
        };
        let route = route::route(self.gate.policy().model(), &agent.profile, destination);
        let claimed = (agent.clone(), route.clone());
        let served = self.serve_route(flow, agent, route, (&name, &dialled));
        tokio::select! {
            () = served => {}
            () = self.lost(&mut reloads, claimed, destination) => {
                tracing::info!(node = identity.node, %dialled, "a connection ends: the policy leads elsewhere now");
            }
        }
    }

    /// Waits until the policy in force leads the agent's destination elsewhere, or nowhere, or its
    /// peer is known as one that another profile is for.
    async fn lost(
        &self,
        reloads: &mut watch::Receiver<u64>,
        (agent, route): (Agent, Route),
        destination: Destination<'_>,
    ) {
        while reloads.changed().await.is_ok() {
            let policy = self.gate.policy();
            let same = !self.gate.is_stopped(&agent.now().identity)
                && policy
                    .profile_for(&agent.now().identity)
                    .is_ok_and(|own| own == agent.profile)
                && route::route(policy.model(), &agent.profile, destination).is_as(&route);
            if !same {
                return;
            }
        }
    }

    /// Each way is a future of its own: an idle connection takes the room of the one that it went, not of the largest.
    async fn serve_route(
        &self,
        flow: Flow,
        agent: Agent,
        route: Route,
        (name, dialled): (&Option<Arc<str>>, &str),
    ) {
        match route {
            Route::Endpoint(endpoint) => self.serve_endpoint(flow, agent, endpoint, name.clone()).await,
            Route::Passthrough => Box::pin(self.pass(flow, agent, dialled)).await,
            Route::Closed(why) => {
                let refusal =
                    Refusal::new(Cause::NoEndpoint, "no endpoint of yours is there").with_detail(why);
                self.gate
                    .refuse(&agent, "unknown", &format!("connect {dialled}"), refusal)
                    .await;
            }
        }
    }

    async fn serve_endpoint(
        &self,
        flow: Flow,
        agent: Agent,
        endpoint: Arc<Endpoint>,
        name: Option<Arc<str>>,
    ) {
        match endpoint.protocol {
            Protocol::Https | Protocol::Http | Protocol::Kubernetes | Protocol::Mcp => {
                let claimed = http::Claimed {
                    help: self.teller.help(agent.identity.transport),
                    agent: Arc::new(agent),
                    endpoint: endpoint.key.clone(),
                    name: name.map(|name| name.to_string()),
                    destination: flow.destination,
                };
                let serving = http::serve(flow.stream, self.http.clone(), claimed);
                if let Err(error) = Box::pin(serving).await {
                    tracing::debug!(%error, endpoint = %endpoint.key, "an HTTP connection ended early");
                }
            }
            Protocol::Postgres => Box::pin(self.serve_postgres(flow, agent, endpoint, name)).await,
            Protocol::Unread => {
                let reason = "this gateway does not read the endpoint's protocol";
                let refusal = Refusal::new(Cause::NoEndpoint, reason);
                self.gate.refuse(&agent, &endpoint.key, "connect", refusal).await;
            }
        }
    }

    /// Takes a place among the agent's connections; given back when the value is dropped.
    fn enter(&self, identity: &Identity) -> Option<Place<'_>> {
        let limit = self.gate.policy().model().gateway.limits.connections_max;
        let own = identity.limits.connections;
        let limit = own.map_or(limit, |own| limit.min(usize::try_from(own).unwrap_or(limit)));
        self.open.enter(identity, limit)
    }
}
