//! The tailnet's part of a gateway.

use std::ffi::OsString;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::credential::KnownSecrets;
use crate::credential::store::read;
use crate::ingress::dns::Names;
use crate::ingress::tailnet::{Accepted, Daemon, Listener, LocalApi, Login, Node, Routes, daemon, login};
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

/// The node that the block is about, and what runs its tailscaled where that is our own.
pub(super) struct Tailnet {
    pub node: Arc<Node>,
    program: Option<PathBuf>,
    folder: PathBuf,
    daemon: Option<Daemon>,
}

/// Reads the block; nothing is started.
///
/// # Errors
/// What the block asks for is not to be had: a gateway that left it out would only look as if it
/// guarded what it was told to.
pub(super) fn prepare(block: &Tailscale, gateway: &Gateway, known: &KnownSecrets) -> anyhow::Result<Tailnet> {
    anyhow::ensure!(
        block.routes.is_empty(),
        "gateway {{ tailscale {{ routes = … }} }}: this version serves the endpoints' virtual addresses alone; \
         leave the field out, and {} and {} are advertised",
        gateway.virtual_v4,
        gateway.virtual_v6
    );
    let routes = Routes(vec![gateway.virtual_v4, gateway.virtual_v6]);
    let folder = std::path::absolute(gateway.state_dir.join("tailscale"))?;
    if let Some(socket) = &block.socket {
        refuse_own_fields(block)?;
        return Ok(Tailnet {
            node: Node::new(LocalApi::new(socket)?, routes, None),
            program: None,
            folder,
            daemon: None,
        });
    }
    let program = daemon::find(std::env::var_os("PATH"))?;
    let secrets = [
        ("oauth_client_secret", &block.oauth_client_secret),
        ("authkey", &block.authkey),
    ];
    let mut given = secrets
        .into_iter()
        .filter_map(|(field, source)| Some((field, source.clone()?)));
    let secret = given.next();
    anyhow::ensure!(
        given.next().is_none(),
        "gateway {{ tailscale {{ … }} }}: give authkey or oauth_client_secret, not both"
    );
    let known = known.clone();
    let login = Login {
        control_url: block.control_url.clone(),
        hostname: block.hostname.clone(),
        tags: block.tags.clone(),
        secret: secret.map(|(field, source)| -> login::Read {
            let of = format!("gateway.tailscale.{field}");
            Box::new(move || read(&of, &source, &known))
        }),
    };
    Ok(Tailnet {
        node: Node::new(LocalApi::new(&daemon::socket(&folder))?, routes, Some(login)),
        program: Some(program),
        folder,
        daemon: None,
    })
}

/// A tailscaled that is not ours has them from whoever set it up.
fn refuse_own_fields(block: &Tailscale) -> anyhow::Result<()> {
    let given = [
        ("authkey", block.authkey.is_some()),
        ("oauth_client_secret", block.oauth_client_secret.is_some()),
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
    Ok(())
}

impl Tailnet {
    /// Starts our own tailscaled, where the block asks for one; the state folder has to be ours.
    pub(super) fn start(&mut self) -> anyhow::Result<()> {
        if let Some(program) = self.program.clone() {
            let tied = ["/proc/self/exe", "tied"].map(OsString::from).to_vec();
            self.daemon = Some(Daemon::start(program, self.folder.clone(), tied)?);
        }
        Ok(())
    }

    /// Withdraws the routes, and ends our own tailscaled.
    pub(super) async fn end(self) {
        self.node.withdraw().await;
        if let Some(daemon) = self.daemon {
            // Its end is waited for, for seconds at most.
            let _ = tokio::task::spawn_blocking(move || daemon.stop()).await;
        }
    }
}

/// Follows the node, and serves its peers.
pub(super) fn serve(node: &Arc<Node>, names: Arc<Names>, gate: Arc<Gate>, proxy: Arc<Proxy>) {
    let follower = node.clone();
    tokio::spawn(async move { follower.follow().await });
    let keeper = node.clone();
    tokio::spawn(async move { keeper.keep_logged_in().await });
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
