//! The tailnet's part of a gateway.

use std::sync::Arc;

use tokio::sync::{mpsc, watch};

use super::routes;
use crate::identity::Identity;
use crate::ingress::dns::{Answerer, Names};
use crate::ingress::tailnet::{Accepted, Door, Listener, LocalApi, NameServer, Node, Plan, Redirect};
use crate::policy::Tailscale;
use crate::proxy::Proxy;
use crate::upstream::Dialer;
use crate::verdict::gate::Gate;

/// Where a tailnet's split DNS sends queries.
const DNS_PORT: u16 = 53;

/// The node that the block is about.
///
/// # Errors
/// What the block asks for is not there yet: a gateway that left it out would only look as if it
/// guarded what it was told to.
pub(super) fn prepare(block: &Tailscale) -> anyhow::Result<Arc<Node>> {
    let Some(socket) = &block.socket else {
        anyhow::bail!(
            "gateway {{ tailscale {{ … }} }}: this version attaches to a running tailscaled alone; \
             give its socket, most often socket = \"/run/tailscale/tailscaled.sock\""
        );
    };
    let given = [
        ("authkey", block.authkey.is_some()),
        ("control_url", block.control_url.is_some()),
        ("hostname", block.hostname.is_some()),
        ("tags", !block.tags.is_empty()),
    ];
    for (field, is_given) in given {
        anyhow::ensure!(
            !is_given,
            "gateway {{ tailscale {{ {field} = … }} }}: a tailscaled with a socket is logged in by `tailscale up`; \
             give that to it, and leave the field out"
        );
    }
    Ok(Node::new(LocalApi::new(socket)?))
}

/// Follows the node, and serves its peers. Ends with the reason for which the gateway must not go on.
pub(super) async fn serve(
    node: Arc<Node>,
    (names, answerer): (Arc<Names>, Arc<Answerer>),
    (gate, dialer): (Arc<Gate>, Arc<Dialer>),
    proxy: Arc<Proxy>,
) -> anyhow::Error {
    let follower = node.clone();
    tokio::spawn(async move { follower.follow().await });
    let (mut told, told_gate) = (node.directory().told(), gate.clone());
    tokio::spawn(async move {
        while told.changed().await.is_ok() {
            told_gate.peers_changed();
        }
    });
    let asked_gate = gate.clone();
    let has_profile = move |identity: &Identity| asked_gate.policy().profile_for(identity).is_ok();
    let resolver = NameServer::new(node.directory().clone(), answerer, Arc::new(has_profile));
    tokio::spawn(resolver.run(DNS_PORT, node.status()));
    let (door, accepted) = Door::new(node.directory().clone());
    let (plan, plan_changes) = watch::channel(Plan::of(gate.policy().model()));
    let port = redirect_port(&gate);
    tokio::spawn(Redirect::new(door.clone(), port, plan_changes).run(node.status()));
    tokio::spawn(listen(Listener::new(names, door), gate.clone()));
    tokio::spawn(hand_over(accepted, proxy));
    routes::keep(&node, &gate, &dialer, &plan).await
}

/// The port as it was at the start: the table of the kernel's has it too.
pub(super) fn redirect_port(gate: &Gate) -> u16 {
    let tailscale = gate.policy().model().gateway.tailscale.clone();
    tailscale.unwrap_or_default().redirect_port
}

async fn listen(listener: Listener, gate: Arc<Gate>) {
    let model_gate = gate.clone();
    let model = move |read: &mut dyn FnMut(&crate::policy::Model)| read(model_gate.policy().model());
    let changed = || {
        let mut reloads = gate.reloads();
        async move {
            // A gate that is gone changes no more.
            if reloads.changed().await.is_err() {
                std::future::pending().await
            }
        }
    };
    listener.run(model, changed).await;
}

async fn hand_over(mut accepted: mpsc::Receiver<Accepted>, proxy: Arc<Proxy>) {
    while let Some(Accepted { flow, other }) = accepted.recv().await {
        let proxy = proxy.clone();
        tokio::spawn(async move {
            let (node, dialled) = (flow.identity.now().node.clone(), flow.destination);
            tokio::select! {
                () = proxy.serve(flow) => {}
                () = other => tracing::info!(node, %dialled, "a connection ends: its peer has left the tailnet"),
            }
        });
    }
}
