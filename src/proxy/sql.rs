//! What a Postgres connection asks of the gateway around it, and how its SQL is read.

use std::io;
use std::sync::Arc;

use super::Proxy;
use super::postgres::{self, Context, Wait, Wire};
use super::route::leads_to;
use crate::audit::{Outcome, RecordId};
use crate::credential::Secret;
use crate::identity::Agent;
use crate::identity::budget::Room;
use crate::ingress::Flow;
use crate::policy::{CredentialKind, Endpoint, Model};
use crate::protocol::postgres::Grammar;
use crate::protocol::postgres::choice::Candidate;
use crate::protocol::postgres::grammar::Reader;
use crate::tls::{Expected, Offer, accept};
use crate::upstream::Target;
use crate::verdict::{Action, Approved, Cause, Permit, Preview, Refusal};

impl Proxy {
    pub(super) async fn serve_postgres(
        &self,
        flow: Flow,
        agent: Agent,
        endpoint: Arc<Endpoint>,
        name: Option<Arc<str>>,
    ) {
        let policy = self.gate.policy();
        let model = policy.model();
        let host = name
            .as_deref()
            .map_or_else(|| flow.destination.ip().to_string(), str::to_owned);
        let around = Around {
            proxy: self,
            agent: &agent,
            endpoint: &endpoint,
            host: &host,
            name: name.as_deref(),
            destination: flow.destination,
        };
        let context = Context {
            gateway: &around,
            agent: &agent,
            help: self.teller.help(agent.identity.transport),
            endpoint: &endpoint,
            host: &host,
            held: candidates(model, &agent, &endpoint),
            limits: &model.gateway.limits,
            connectors: &self.connectors,
            cancels: &self.cancels,
        };
        if let Err(error) = postgres::serve(Box::new(flow.stream), &context).await {
            tracing::debug!(%error, endpoint = %endpoint.key, "a Postgres connection ended early");
        }
    }
}

/// The Postgres credentials that the agent's profile holds at the endpoint.
fn candidates(model: &Model, agent: &Agent, endpoint: &Endpoint) -> Vec<Candidate> {
    let Some(profile) = model.profile(&agent.profile) else {
        return Vec::new();
    };
    let of = |held: &crate::policy::Held| {
        let credential = model.credential(&held.credential)?;
        let CredentialKind::Postgres { user, database } = &credential.kind else {
            return None;
        };
        credential.endpoints.contains(&endpoint.key).then(|| Candidate {
            key: credential.key.clone(),
            user: user.clone(),
            database: database.clone(),
            placeholders: held.placeholders.clone(),
            fallback: held.fallback,
        })
    };
    profile.credentials.iter().filter_map(of).collect()
}

/// The gateway as one connection sees it.
struct Around<'a> {
    proxy: &'a Proxy,
    agent: &'a Agent,
    endpoint: &'a Endpoint,
    host: &'a str,
    name: Option<&'a str>,
    destination: std::net::SocketAddr,
}

impl postgres::Gateway for Around<'_> {
    fn judge<'a>(&'a self, action: &'a Action) -> Wait<'a, Result<Permit, Refusal>> {
        Box::pin(self.proxy.gate.judge(self.agent, action))
    }

    fn judge_shown<'a>(
        &'a self,
        action: &'a Action,
        preview: &'a dyn Preview,
    ) -> Wait<'a, Result<Permit, Refusal>> {
        Box::pin(self.proxy.gate.judge_shown(self.agent, action, Some(preview)))
    }

    fn asks(&self, action: &Action) -> bool {
        self.proxy.gate.asks(self.agent, action)
    }

    fn reloads(&self) -> tokio::sync::watch::Receiver<u64> {
        self.proxy.gate.reloads()
    }

    fn still(&self, action: &Action, approved_by: Option<&Approved>) -> Result<(), Refusal> {
        self.proxy.gate.still(self.agent, action, approved_by)
    }

    fn room(&self, bytes: usize) -> Option<Room> {
        self.proxy.sessions.take(&self.agent.identity, bytes)
    }

    fn finish(&self, record: RecordId, outcome: Outcome) {
        self.proxy.gate.finish(record, outcome);
    }

    fn refused<'a>(&'a self, summary: &'a str, refusal: Refusal) -> Wait<'a, ()> {
        Box::pin(async move {
            self.proxy
                .gate
                .refuse(self.agent, &self.endpoint.key, summary, refusal)
                .await;
        })
    }

    fn dial<'a>(&'a self, permit: &'a Permit) -> Wait<'a, io::Result<Box<dyn Wire>>> {
        Box::pin(async move {
            let target = Target::of(self.endpoint, self.host, self.destination.port());
            let stream = self.proxy.dialer.dial(permit, self.endpoint, &target).await;
            let stream = stream.map_err(io::Error::other)?;
            stream.set_nodelay(true)?;
            Ok(Box::new(stream) as Box<dyn Wire>)
        })
    }

    fn secret<'a>(&'a self, permit: &'a Permit) -> Wait<'a, Result<Secret, Refusal>> {
        Box::pin(async move {
            let missing = |detail: String| {
                Refusal::new(Cause::Credential, "the credential's secret is missing").with_detail(detail)
            };
            let key = permit
                .credential()
                .ok_or_else(|| missing("no credential".to_owned()))?;
            let policy = self.proxy.gate.policy();
            let credential = policy.model().credential(key);
            let credential = credential.ok_or_else(|| missing(format!("{key} is not in the policy")))?;
            self.proxy
                .secrets
                .get(credential, "")
                .map_err(|error| missing(error.to_string()))
        })
    }

    fn offers_tls(&self) -> bool {
        true
    }

    fn accept_tls<'a>(&'a self, io: Box<dyn Wire>) -> Option<Wait<'a, io::Result<Box<dyn Wire>>>> {
        let handshake =
            std::time::Duration::from_millis(self.proxy.gate.policy().model().gateway.limits.handshake_ms);
        Some(Box::pin(async move {
            let leads = |name: &str| {
                let policy = self.proxy.gate.policy();
                let (profile, port) = (&self.agent.profile, self.destination.port());
                leads_to(policy.model(), profile, (name, port), &self.endpoint.key)
            };
            let expected = Expected {
                leads: &leads,
                name: self.name,
                destination: self.destination,
            };
            let accepted = accept::accept(io, &self.proxy.leaves, expected, Offer::Postgres, handshake).await;
            accepted
                .map(|stream| Box::new(stream) as Box<dyn Wire>)
                .map_err(io::Error::other)
        }))
    }

    fn names_schemas(&self) -> bool {
        self.proxy.gate.policy().names_schemas(&self.endpoint.key)
    }

    fn grammar(&self, database: &str, user: &str) -> Arc<dyn Grammar> {
        Arc::new(Reader {
            cache: self.proxy.statements.clone(),
            bytes_max: self
                .proxy
                .gate
                .policy()
                .model()
                .gateway
                .limits
                .statement_bytes_max,
            database: database.to_owned(),
            user: user.to_owned(),
        })
    }
}
