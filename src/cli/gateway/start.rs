//! Puts the parts of a gateway together.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use ipnet::IpNet;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

use super::policy_watch;
use super::{routes, tailnet};
use crate::admin::{self, Operator};
use crate::audit::log::Log;
use crate::channel::Channels;
use crate::credential::store::SecretStore;
use crate::identity::Identity;
use crate::ingress::dns::{Answerer, Names, Resolver, Zone, forward_to};
use crate::ingress::tailnet::Called;
use crate::ingress::wireguard::{Config, FLOWS_MAX, Listener, Peer, PeerSet, Status};
use crate::policy::{Gateway, Policy, TAILNET_RANGES, Wireguard};
use crate::proxy::{Parts, Proxy};
use crate::state::State;
use crate::state::peer::PeerKey;
use crate::state::run::RUN_IDLE_S;
use crate::tls::{Authority, Connectors, Leaves};
use crate::upstream::{Closed, Dialer};
use crate::verdict::approval::Queue;
use crate::verdict::gate::Gate;
use crate::verdict::judge::Judges;

/// How often idle upstream connections are swept.
const SWEEP_EVERY: Duration = Duration::from_secs(15);
/// Descriptors kept for the gateway's own files, listeners and operators.
const DESCRIPTORS_RESERVED: usize = 128;
/// Descriptors that a connection of an agent takes: its own, and those towards upstream.
const DESCRIPTORS_PER_FLOW: usize = 4;
/// How often it is noted when peers were seen.
const SEEN_EVERY: Duration = Duration::from_secs(5);

/// Serves until SIGINT or SIGTERM, then flushes the audit log.
pub(super) async fn serve(path: PathBuf, policy: Policy) -> anyhow::Result<()> {
    // Before all else: one that comes during the start would end the process as it stands.
    let (hangup, terminate) = (signal(SignalKind::hangup())?, signal(SignalKind::terminate())?);
    let gateway = policy.model().gateway.clone();
    let secrets = SecretStore::new(&gateway.state_dir);
    let mut tailnet = gateway
        .tailscale
        .as_ref()
        .map(|own| tailnet::prepare(own, &gateway, secrets.known()))
        .transpose()?;
    let node = tailnet.as_ref().map(|own| own.node.clone());
    let first = (policy.version(), policy.files().to_vec());
    let state = State::open(&gateway.state_dir)?;
    let _lock = admin::Lock::take(&gateway.state_dir)?;
    tailnet.as_mut().map_or(Ok(()), tailnet::Tailnet::start)?;
    let log = Log::open(&gateway.state_dir.join("audit.db"))?;
    log.retain(gateway.audit);
    let queue = Queue::new(state.clone());
    let authority = Arc::new(Authority::open(&gateway.state_dir)?);
    let leaves = Arc::new(Leaves::new(authority.clone())?);
    let names_file = gateway.state_dir.join("names");
    let names = Arc::new(Names::open(
        gateway.virtual_v4,
        gateway.virtual_v6,
        Some(&names_file),
    )?);
    secrets.learn(policy.model());
    let gate = Gate::new(Arc::new(policy), queue.clone(), log.clone())
        .hiding(secrets.known().clone())
        .judging(Judges::new(secrets.clone()).context("the judges' HTTP client")?);
    let gate = Arc::new(gate);
    let dialer = Arc::new(Dialer::new(
        gateway.resolver,
        closed(&gateway),
        gateway.limits.connect_ms,
    ));
    let (called, called_now) = watch::channel(Called::default());
    let proxy = Proxy::new(Parts {
        called: called_now,
        gate: gate.clone(),
        names: names.clone(),
        leaves: leaves.clone(),
        connectors: Arc::new(Connectors::default()),
        dialer: dialer.clone(),
        secrets: secrets.clone(),
    });
    let answerer = Arc::new(Answerer::new(names.clone(), zone(&gate), resolver(&gateway))?);

    let reload_secrets = secrets.clone();
    let channels = Channels::new(queue.clone(), gate.clone(), reload_secrets.known().clone());
    let channels = channels.context("the channels' HTTP client")?;
    tokio::spawn(channels.clone().run());
    let (guard_gate, guard_node, guard_dialer) = (gate.clone(), node.clone(), dialer.clone());
    let runtime = tokio::runtime::Handle::current();
    let guard: admin::Guard = Arc::new(move |new: &Policy| {
        // Called where it may block.
        if let Some(node) = &guard_node
            && let Ok(Some(why)) | Err(why) = runtime.block_on(routes::refusal(node, &guard_dialer, new))
        {
            return Err(admin::HeldBack::Round(why));
        }
        policy_watch::guard(&guard_gate.policy(), new)
    });
    let files = admin::Files {
        path: std::path::absolute(&path)?,
        guard: guard.clone(),
    };
    let mut operator = Operator::new(
        state.clone(),
        queue.clone(),
        gate.clone(),
        secrets,
        authority.clone(),
    )?
    .hearing(channels)
    .writing(files)
    .telling(proxy.teller().clone());
    if let Some(own) = &tailnet {
        operator = operator
            .showing(own.node.directory().clone())
            .beside(own.beside()?);
    }
    admin::serve(operator, &gateway, leaves).await?;
    let wireguard = match &gateway.wireguard {
        Some(config) => Some(listen(config, &gateway, &state, answerer.clone()).await?),
        None => None,
    };
    if let Some(listener) = wireguard {
        tracing::info!(address = %listener.local_addr(), "WireGuard peers are served");
        tokio::spawn(note_handshakes(listener.status_handle(), state.clone()));
        tokio::spawn(accept(listener, proxy.clone()));
    } else if tailnet.is_none() {
        tracing::warn!(
            "the configuration has no ingress: add a wireguard or a tailscale block to the gateway"
        );
    }
    let tailnet_ends = {
        let (node, proxy) = (node.clone(), proxy.clone());
        let (names, parts) = ((names, answerer.clone()), (gate.clone(), dialer.clone()));
        async move {
            match node {
                Some(node) => tailnet::serve(node, names, parts, (proxy, called)).await,
                None => std::future::pending().await,
            }
        }
    };
    tokio::spawn(sweep(proxy.clone()));
    let (reload_gate, reload_log) = (gate.clone(), log.clone());
    tokio::spawn(policy_watch::watch(path, first, (hangup, guard), move |policy| {
        reload_secrets.learn(policy.model());
        reload_log.retain(policy.model().gateway.audit);
        reload_gate.swap(policy);
        if let Err(error) = answerer.swap(zone(&reload_gate)) {
            tracing::error!(%error, "the new policy's names could not all be given an address");
        }
    }));

    let failed = tokio::select! {
        told = until_told(terminate) => told.err().map(anyhow::Error::from),
        error = tailnet_ends => Some(error),
    };
    tracing::info!("ending");
    // Their agents lose the connection, and may come back to the same question after a restart.
    queue.close();
    if let Some(tailnet) = tailnet {
        tailnet.end().await;
    }
    log.flush().await.context("the audit log could not be flushed")?;
    failed.map_or(Ok(()), Err)
}

async fn until_told(mut terminate: Signal) -> std::io::Result<()> {
    tokio::select! {
        _ = terminate.recv() => Ok(()),
        end = tokio::signal::ctrl_c() => end,
    }
}

async fn accept(mut listener: Listener, proxy: Arc<Proxy>) {
    while let Some(flow) = listener.accept().await {
        tokio::spawn(proxy.clone().serve(flow));
    }
    tracing::error!("the WireGuard listener has ended");
}

/// Keeps in the database when each key was last seen, and forgets the keys of runs that are over.
async fn note_handshakes(status: Arc<Mutex<Status>>, state: State) {
    let mut ticks = tokio::time::interval(SEEN_EVERY);
    let mut noted: HashMap<[u8; 32], i64> = HashMap::new();
    loop {
        ticks.tick().await;
        let now = crate::state::now_us();
        let peers = status
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .peers
            .clone();
        let seen = peers.into_iter().filter_map(|peer| {
            let age = i64::try_from(peer.handshake_age?.as_micros()).ok()?;
            Some((peer.public_key, now.saturating_sub(age)))
        });
        let seen: HashMap<_, _> = seen.collect();
        // The age is that of a moment ago: a handshake is the same one within the period.
        let period = i64::try_from(SEEN_EVERY.as_micros()).unwrap_or(i64::MAX);
        let new: Vec<_> = seen
            .iter()
            .filter(|(key, at)| noted.get(*key).is_none_or(|before| *at - before > period))
            .map(|(key, at)| (*key, *at))
            .collect();
        noted.retain(|key, _| seen.contains_key(key));
        noted.extend(new.iter().copied());
        let done = state.run(move |state| {
            for (key, at) in new {
                state.note_seen(&key, at)?;
            }
            state.forget_runs(Duration::from_secs(RUN_IDLE_S))
        });
        if let Err(error) = done.await {
            tracing::warn!(%error, "when peers were seen could not be noted");
        }
    }
}

async fn sweep(proxy: Arc<Proxy>) {
    let mut ticks = tokio::time::interval(SWEEP_EVERY);
    loop {
        ticks.tick().await;
        proxy.pool().sweep();
    }
}

async fn listen(
    config: &Wireguard,
    gateway: &Gateway,
    state: &State,
    answerer: Arc<Answerer>,
) -> anyhow::Result<Listener> {
    let listener = Config {
        listen: config.listen,
        private_key: state.gateway_key()?,
        gateway_v4: first_host_v4(config.subnet_v4),
        gateway_v6: first_host_v6(config.subnet_v6),
        mtu: config.mtu,
        stack: config.stack,
        connections_max: gateway.limits.connections_max,
        flows_max: flows_that_fit(),
        dns: Some(answerer.handler()),
    };
    Ok(Listener::bind(listener, peers(state)).await?)
}

/// Connections of all peers for which there are descriptors, after asking for all that may be had.
fn flows_that_fit() -> usize {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let most = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    let current = match setrlimit(Resource::Nofile, most) {
        Ok(()) => limit.maximum,
        Err(_) => limit.current,
    };
    let descriptors = current.map_or(usize::MAX, |own| usize::try_from(own).unwrap_or(usize::MAX));
    let fit = fit(descriptors);
    if fit < FLOWS_MAX {
        tracing::warn!(
            descriptors,
            connections = fit,
            "few open files are allowed, so connections are few"
        );
    }
    fit.min(FLOWS_MAX)
}

/// Connections that so many descriptors are enough for.
fn fit(descriptors: usize) -> usize {
    descriptors.saturating_sub(DESCRIPTORS_RESERVED) / DESCRIPTORS_PER_FLOW
}

/// The peers of the state database, as the ingress wants them, after every change.
fn peers(state: &State) -> watch::Receiver<Arc<PeerSet>> {
    let as_set = |keys: &[PeerKey]| {
        let peer = |key: &PeerKey| Peer {
            name: key.peer.clone(),
            public_key: key.public_key,
            machine: key.machine,
            v4: Some(key.v4),
            v6: Some(key.v6),
        };
        Arc::new(PeerSet {
            peers: keys.iter().map(peer).collect(),
        })
    };
    let mut keys = state.watch_peers();
    let (sender, receiver) = watch::channel(as_set(&keys.borrow_and_update().clone()));
    tokio::spawn(async move {
        while keys.changed().await.is_ok() {
            let set = as_set(&keys.borrow_and_update().clone());
            if sender.send(set).is_err() {
                return;
            }
        }
    });
    receiver
}

/// The names of the policy in force; an agent sees those of endpoints that its profile holds.
fn zone(gate: &Arc<Gate>) -> Zone {
    let policy = gate.policy();
    let gate = gate.clone();
    let visible = move |identity: &Identity, name: &str| {
        let policy = gate.policy();
        let Ok(profile) = policy.profile_for(identity) else {
            return false;
        };
        let model = policy.model();
        let Some(profile) = model.profile(&profile) else {
            return false;
        };
        profile
            .endpoints
            .iter()
            .filter_map(|key| model.endpoint(key))
            .any(|endpoint| endpoint.claims.iter().any(|claim| claim.host.matches_name(name)))
    };
    Zone::new(policy.model(), Arc::new(visible))
}

/// The resolver for names that no endpoint has; asked only with `unknown_host = "passthrough"`.
fn resolver(gateway: &Gateway) -> Resolver {
    let system = || {
        let text = std::fs::read_to_string("/etc/resolv.conf").ok()?;
        let first = text
            .lines()
            .find_map(|line| line.strip_prefix("nameserver")?.trim().parse::<IpAddr>().ok())?;
        Some(SocketAddr::new(first, 53))
    };
    forward_to(
        gateway
            .resolver
            .or_else(system)
            .unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 53))),
    )
}

/// What a passthrough never leads to: the tunnels' ranges, the virtual ones, our own listeners.
fn closed(gateway: &Gateway) -> Closed {
    let mut nets = vec![gateway.virtual_v4, gateway.virtual_v6];
    let mut listeners = vec![gateway.admin_listen];
    listeners.extend(gateway.enrol_listen);
    listeners.extend(gateway.channel_listen);
    if let Some(tailscale) = &gateway.tailscale {
        nets.extend(TAILNET_RANGES);
        listeners.push(SocketAddr::from(([0, 0, 0, 0], tailscale.redirect_port)));
    }
    if let Some(wireguard) = &gateway.wireguard {
        nets.extend([wireguard.subnet_v4, wireguard.subnet_v6]);
        listeners.push(wireguard.listen);
    }
    Closed::new(nets, listeners)
}

fn first_host_v4(net: IpNet) -> Option<std::net::Ipv4Addr> {
    match net {
        IpNet::V4(net) => net.hosts().next(),
        IpNet::V6(_) => None,
    }
}

fn first_host_v6(net: IpNet) -> Option<std::net::Ipv6Addr> {
    match net {
        IpNet::V6(net) => net.hosts().next(),
        IpNet::V4(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_descriptors_for_the_gateway_itself() {
        for (descriptors, connections) in [(0, 0), (131, 0), (132, 1), (1024, 224), (65_664, FLOWS_MAX)] {
            assert_eq!(fit(descriptors), connections, "{descriptors}");
        }
    }
}
