//! Destinations that no endpoint claims, where `unknown_host = "passthrough"`.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::time::Instant;

use tokio::io::copy_bidirectional_with_sizes;

use super::Proxy;
use crate::audit::Outcome;
use crate::facts::Facts;
use crate::identity::Agent;
use crate::ingress::Flow;
use crate::policy::{HostPattern, Model};
use crate::verdict::{Action, Cause, Digest, Refusal, Step};

/// Bytes of each direction's buffer. A copy costs half of one through tokio's 8 KiB.
const COPY_BYTES: usize = 64 << 10;

impl Proxy {
    pub(super) async fn pass(&self, mut flow: Flow, agent: Agent, dialled: &str) {
        let summary = format!("connect {dialled}");
        // An endpoint's own address must not be a way round its rules.
        if upstream_addresses(self.gate.policy().model())
            .await
            .contains(&flow.destination)
        {
            let refusal = Refusal::new(Cause::NoEndpoint, "reach this service by its name");
            self.gate.refuse(&agent, "unknown", &summary, refusal).await;
            return;
        }
        let action = Action {
            step: Step::Passthrough,
            endpoint: "unknown".into(),
            credential: None,
            facts: Facts::None,
            digest: Digest::of(dialled.as_bytes()),
            detail: summary.clone(),
            summary,
        };
        let Ok(permit) = self.gate.judge(&agent, &action).await else {
            return;
        };
        let started = Instant::now();
        let mut outcome = Outcome::default();
        match self.dialer.pass(&permit, flow.destination).await {
            Ok(mut upstream) => {
                let copied =
                    copy_bidirectional_with_sizes(&mut flow.stream, &mut upstream, COPY_BYTES, COPY_BYTES)
                        .await;
                if let Ok((up, down)) = copied {
                    (outcome.bytes_up, outcome.bytes_down) = (up, down);
                }
                outcome.status = "closed".to_owned();
            }
            Err(error) => outcome.status = format!("not dialled: {error}"),
        }
        outcome.took_us = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.gate.finish(permit.record(), outcome);
    }
}

/// Where the policy's endpoints really are, as far as their names resolve now.
async fn upstream_addresses(model: &Model) -> HashSet<SocketAddr> {
    let mut hosts: HashSet<(String, u16)> = HashSet::new();
    for endpoint in &model.endpoints {
        if let Some(upstream) = &endpoint.upstream {
            hosts.insert((upstream.host.clone(), upstream.port));
        }
        for claim in &endpoint.claims {
            if let HostPattern::Name(name) = &claim.host {
                hosts.insert((name.clone(), claim.port));
            }
        }
    }
    let mut addresses = HashSet::new();
    for (host, port) in hosts {
        if let Ok(found) = tokio::net::lookup_host((host.as_str(), port)).await {
            addresses.extend(found);
        }
    }
    addresses
}
