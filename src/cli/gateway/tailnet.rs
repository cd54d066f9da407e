//! The tailnet's part of a gateway.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::ingress::dns::Names;
use crate::ingress::tailnet::{Accepted, Listener, LocalApi, Node, Routes};
use crate::policy::{Gateway, Tailscale};
use crate::proxy::Proxy;
use crate::verdict::gate::Gate;

/// What tailnets give out as addresses: other nodes, which the gateway leads nobody to.
pub(super) const RANGES: [IpNet; 2] = [
    IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(100, 64, 0, 0), 10)),
    IpNet::V6(Ipv6Net::new_assert(
        Ipv6Addr::new(0xfd7a, 0x115c, 0xa1e0, 0, 0, 0, 0, 0),
        48,
    )),
];

/// The node that the block is about.
///
/// # Errors
/// What the block asks for is not there yet: a gateway that left it out would only look as if it
/// guarded what it was told to.
pub(super) fn prepare(block: &Tailscale, gateway: &Gateway) -> anyhow::Result<Arc<Node>> {
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
    anyhow::ensure!(
        block.routes.is_empty(),
        "gateway {{ tailscale {{ routes = … }} }}: this version serves the endpoints' virtual addresses alone; \
         leave the field out, and {} and {} are advertised",
        gateway.virtual_v4,
        gateway.virtual_v6
    );
    let routes = Routes(vec![gateway.virtual_v4, gateway.virtual_v6]);
    Ok(Node::new(LocalApi::new(socket)?, routes))
}

/// Follows the node, and serves its peers.
pub(super) fn serve(node: &Arc<Node>, names: Arc<Names>, gate: Arc<Gate>, proxy: Arc<Proxy>) {
    let follower = node.clone();
    tokio::spawn(async move { follower.follow().await });
    let (mut told, told_gate) = (node.directory().told(), gate.clone());
    tokio::spawn(async move {
        while told.changed().await.is_ok() {
            told_gate.peers_changed();
        }
    });
    let (listener, mut accepted) = Listener::new(names, node.directory().clone());
    tokio::spawn(async move {
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
    });
    tokio::spawn(async move {
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
    });
}
