//! Destinations that no endpoint claims, where `unknown_host = "passthrough"`.

mod opening;

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use tokio::io::copy_bidirectional_with_sizes;

use self::opening::Watched;
use super::Proxy;
use crate::audit::Outcome;
use crate::facts::Facts;
use crate::identity::Agent;
use crate::ingress::Flow;
use crate::policy::{HostPattern, Model};
use crate::upstream::Dialer;
use crate::upstream::dial::DialError;
use crate::verdict::{Action, Cause, Digest, Refusal, Step};

/// Bytes of each direction's buffer. A copy costs half of one through tokio's 8 KiB.
const COPY_BYTES: usize = 64 << 10;

impl Proxy {
    pub(super) async fn pass(&self, flow: Flow, agent: Agent, dialled: &str) {
        let summary = format!("connect {dialled}");
        // An endpoint's own address must not be a way round its rules.
        let generation = *self.gate.reloads().borrow();
        let policy = self.gate.policy();
        let known = self
            .services
            .has((policy.model(), generation), &self.dialer, flow.destination);
        let refusal = match known.await {
            Ok(false) => None,
            Ok(true) => Some(Refusal::new(Cause::NoEndpoint, "reach this service by its name")),
            Err(error) => {
                tracing::warn!(%error, "nothing passes through while an endpoint's address is not known");
                let refusal = Refusal::new(Cause::NoEndpoint, "this cannot be judged right now");
                Some(refusal.with_detail(error.to_string()))
            }
        };
        if let Some(refusal) = refusal {
            self.gate.refuse(&agent, "unknown", &summary, refusal).await;
            return;
        }
        let action = Action {
            step: Step::Passthrough,
            endpoint: "unknown".into(),
            credential: None,
            facts: Facts::None,
            digest: Digest::of(dialled.as_bytes()),
            whole: true,
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
                let limit = Duration::from_millis(policy.model().gateway.limits.handshake_ms);
                let mut agents = Watched::new(flow.stream, policy.model(), limit);
                let copied =
                    copy_bidirectional_with_sizes(&mut agents, &mut upstream, COPY_BYTES, COPY_BYTES).await;
                if let Ok((up, down)) = copied {
                    (outcome.bytes_up, outcome.bytes_down) = (up, down);
                }
                outcome.status = "closed".to_owned();
                if let Some(why) = agents.refused() {
                    outcome.status = format!("ended: {why}");
                    let refusal = Refusal::new(Cause::NoEndpoint, "reach this service by its name");
                    let refusal = refusal.with_detail(why.to_owned());
                    self.gate
                        .refuse(&agent, "unknown", &action.summary, refusal)
                        .await;
                }
            }
            Err(error) => outcome.status = format!("not dialled: {error}"),
        }
        outcome.took_us = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.gate.finish(permit.record(), outcome);
    }
}

/// Where the policy's endpoints really are. What is known is asked for anew every
/// [`ASKED_ANEW_AFTER`]; an address that a name had before is kept for [`KEPT_FOR`], since names take
/// turns with their addresses.
#[derive(Default)]
pub(super) struct Services(tokio::sync::Mutex<Found>);

#[derive(Default)]
struct Found {
    /// When, and of which policy.
    asked: Option<(Instant, u64)>,
    addresses: HashMap<SocketAddr, Instant>,
}

/// How old the addresses of endpoints may be.
const ASKED_ANEW_AFTER: Duration = Duration::from_secs(5);
/// How long an address counts after it was last seen.
const KEPT_FOR: Duration = Duration::from_secs(600);
/// Names that are asked for at once.
const ASKED_AT_ONCE_MAX: usize = 16;

impl Services {
    /// Whether an endpoint is at `address`.
    ///
    /// # Errors
    /// The address of some endpoint cannot be found out. The name that only stands for an `upstream`
    /// need not exist.
    async fn has(
        &self,
        (model, generation): (&Model, u64),
        dialer: &Dialer,
        address: SocketAddr,
    ) -> Result<bool, DialError> {
        let mut found = self.0.lock().await;
        let now = Instant::now();
        let is_new = |(at, of): (Instant, u64)| of == generation && now - at < ASKED_ANEW_AFTER;
        if !found.asked.is_some_and(is_new) {
            let asked = stream::iter(hosts(model)).map(async |(host, port, must)| {
                match dialer.addresses(&host).await {
                    Ok(addresses) => Ok((addresses, port)),
                    Err(_) if !must => Ok((Vec::new(), port)),
                    Err(error) => Err(error),
                }
            });
            let asked: Vec<_> = asked.buffer_unordered(ASKED_AT_ONCE_MAX).try_collect().await?;
            found.addresses.retain(|_, seen| now - *seen < KEPT_FOR);
            for (addresses, port) in asked {
                let all = addresses.into_iter().map(|ip| (SocketAddr::new(ip, port), now));
                found.addresses.extend(all);
            }
            found.asked = Some((now, generation));
        }
        let canonical = SocketAddr::new(address.ip().to_canonical(), address.port());
        Ok(found.addresses.contains_key(&canonical) || dialer.has_dialled(canonical))
    }
}

/// The hosts and ports of all endpoints, and whether each must have an address.
fn hosts(model: &Model) -> HashSet<(String, u16, bool)> {
    let mut hosts = HashSet::new();
    for endpoint in &model.endpoints {
        if let Some(upstream) = &endpoint.upstream {
            hosts.insert((upstream.host.clone(), upstream.port, true));
        }
        for claim in &endpoint.claims {
            if let HostPattern::Name(name) = &claim.host {
                hosts.insert((name.clone(), claim.port, endpoint.upstream.is_none()));
            }
        }
    }
    hosts
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU8, Ordering};

    use tokio::net::UdpSocket;

    use super::*;
    use crate::policy::{Policy, Source};
    use crate::upstream::Closed;

    /// A resolver on loopback: for every name 198.51.100.n; with n = 0 it fails.
    async fn resolver() -> (SocketAddr, Arc<AtomicU8>) {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let (own, last) = (socket.local_addr().unwrap(), Arc::new(AtomicU8::new(1)));
        let shared = last.clone();
        tokio::spawn(async move {
            let mut buffer = [0; 512];
            while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
                let mut answer = buffer[..length].to_vec();
                answer[2] = 0x80;
                match (shared.load(Ordering::SeqCst), answer[length - 3]) {
                    (0, _) => answer[3] = 2,
                    (last, 1) => {
                        answer[7] = 1;
                        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 198, 51, 100, last]);
                    }
                    _ => {}
                }
                let _ = socket.send_to(&answer, from).await;
            }
        });
        (own, last)
    }

    fn policy() -> Arc<Policy> {
        let text = "endpoint \"https\" \"a\" { hosts = [\"a.test\"] }\n\
                    endpoint \"https\" \"b\" {\n hosts = [\"b.test\"]\n upstream = \"203.0.113.5:8443\"\n}\n";
        let source = Source {
            path: "policy.hcl".into(),
            text: text.to_owned(),
        };
        match Policy::load(vec![source], &|path| std::fs::read_to_string(path)) {
            Ok(policy) => Arc::new(policy),
            Err(errors) => panic!("{errors}"),
        }
    }

    #[tokio::test]
    async fn endpoints_are_known_by_the_gateways_own_resolver_and_remembered() {
        let (server, last) = resolver().await;
        let dialer = Dialer::new(Some(server), Closed::default(), 2000);
        let (policy, services) = (policy(), Services::default());
        let has = async |generation, address: &str| {
            let address = address.parse().unwrap();
            services.has((policy.model(), generation), &dialer, address).await
        };
        assert!(has(1, "198.51.100.1:443").await.unwrap());
        assert!(
            has(1, "[::ffff:198.51.100.1]:443").await.unwrap(),
            "the same address"
        );
        assert!(!has(1, "198.51.100.1:80").await.unwrap(), "another port");
        assert!(has(1, "203.0.113.5:8443").await.unwrap(), "the upstream");
        // Within a while nobody is asked; for a new policy they are, and the old address counts still.
        last.store(2, Ordering::SeqCst);
        assert!(!has(1, "198.51.100.2:443").await.unwrap());
        assert!(has(2, "198.51.100.2:443").await.unwrap());
        assert!(has(2, "198.51.100.1:443").await.unwrap());
        // One that was not seen for long counts no more.
        let age = async |by: Duration| {
            let mut found = services.0.lock().await;
            found.addresses.values_mut().for_each(|seen| *seen -= by);
        };
        age(KEPT_FOR / 2).await;
        assert!(has(3, "198.51.100.1:443").await.unwrap());
        age(KEPT_FOR / 2).await;
        assert!(!has(4, "198.51.100.1:443").await.unwrap());
        last.store(0, Ordering::SeqCst);
        assert!(has(5, "192.0.2.1:443").await.is_err(), "not knowing is no leave");
    }
    #[tokio::test]
    async fn so_many_names_are_asked_for_at_once() {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let dialer = Dialer::new(Some(socket.local_addr().unwrap()), Closed::default(), 2000);
        let names = 2 * ASKED_AT_ONCE_MAX;
        let hosts: Vec<String> = (0..names).map(|number| format!("\"n{number}.test\"")).collect();
        let text = format!("endpoint \"https\" \"a\" {{ hosts = [{}] }}\n", hosts.join(", "));
        let source = Source {
            path: "policy.hcl".into(),
            text,
        };
        let policy = Policy::load(vec![source], &|path| std::fs::read_to_string(path)).unwrap();
        let (mut most, mut whole) = (0, 0);
        let answers = async {
            // How many of a name's two questions are answered, and what waits.
            let mut answered: HashMap<Vec<u8>, usize> = HashMap::new();
            let mut waiting = Vec::new();
            let mut buffer = [0; 512];
            while whole < names {
                socket.readable().await.unwrap();
                while let Ok((length, from)) = socket.try_recv_from(&mut buffer) {
                    answered.entry(buffer[12..length - 4].to_vec()).or_default();
                    waiting.push((buffer[..length].to_vec(), from));
                }
                let begun = answered.values().filter(|count| **count < 2).count();
                most = most.max(begun);
                // Nobody is answered before as many as may have asked.
                if begun < ASKED_AT_ONCE_MAX.min(names - whole) {
                    continue;
                }
                for (mut answer, from) in waiting.drain(..) {
                    *answered.get_mut(&answer[12..answer.len() - 4]).unwrap() += 1;
                    answer[2] = 0x80;
                    socket.send_to(&answer, from).await.unwrap();
                }
                whole = answered.values().filter(|count| **count == 2).count();
            }
        };
        let services = Services::default();
        let asks = services.has((policy.model(), 1), &dialer, "192.0.2.1:443".parse().unwrap());
        let (found, ()) = tokio::join!(asks, answers);
        assert!(!found.unwrap());
        assert_eq!(most, ASKED_AT_ONCE_MAX);
    }
}
