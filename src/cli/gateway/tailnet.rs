//! The tailnet's part of a gateway.

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::{mpsc, watch};

use super::routes;
use crate::admin;
use crate::credential::KnownSecrets;
use crate::credential::store::read;
use crate::identity::Identity;
use crate::ingress::dns::{Answerer, Names};
use crate::ingress::tailnet::declared::Declared;
use crate::ingress::tailnet::{
    Accepted, Called, Daemon, Door, Listener, LocalApi, Login, NameServer, Node, Own, Plan, Redirect, daemon,
    login,
};
use crate::policy::{Gateway, Tailscale};
use crate::proxy::Proxy;
use crate::upstream::Dialer;
use crate::verdict::gate::Gate;

/// Where a tailnet's split DNS sends queries.
const DNS_PORT: u16 = 53;

/// The node that the block is about, and what runs its tailscaled where that is our own.
pub(super) struct Tailnet {
    pub node: Arc<Node>,
    socket: PathBuf,
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
    let folder = std::path::absolute(gateway.state_dir.join("tailscale"))?;
    if let Some(socket) = &block.socket {
        refuse_own_fields(block)?;
        let node = Node::new(LocalApi::new(socket)?, None);
        let kept = state_folder().unwrap_or_else(|| gateway.state_dir.clone());
        node.write_down(Declared::new(&kept, &gateway.state_dir, socket)?);
        return Ok(Tailnet {
            node,
            socket: socket.clone(),
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
    let socket = daemon::socket(&folder);
    Ok(Tailnet {
        node: Node::new(LocalApi::new(&socket)?, Some(login)),
        socket,
        program: Some(program),
        folder,
        daemon: None,
    })
}

/// The folder that a service manager gives the gateway (`StateDirectory=`), which no configuration moves.
pub(in crate::cli) fn state_folder() -> Option<PathBuf> {
    let all = std::env::var_os("STATE_DIRECTORY")?;
    std::env::split_paths(&all)
        .next()
        .filter(|path| path.is_absolute())
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

    /// The node as the operator's page needs it.
    pub(super) fn beside(&self) -> anyhow::Result<Arc<admin::tailnet::Tailnet>> {
        let (node, api) = (self.node.clone(), LocalApi::new(&self.socket)?);
        Ok(admin::tailnet::Tailnet::new(node, api, self.socket.clone()))
    }

    /// Withdraws the routes, and ends our own tailscaled.
    pub(super) async fn end(self) {
        let routes = self.node.routes().await;
        self.node.withdraw().await;
        if let Some(daemon) = self.daemon {
            self.node.until_withdrawn(&routes).await;
            // Its end is waited for, for seconds at most.
            let _ = tokio::task::spawn_blocking(move || daemon.stop()).await;
        }
    }
}

/// Follows the node, and serves its peers. Ends with the reason for which the gateway must not go on.
pub(super) async fn serve(
    node: Arc<Node>,
    (names, answerer): (Arc<Names>, Arc<Answerer>),
    (gate, dialer): (Arc<Gate>, Arc<Dialer>),
    (proxy, called): (Arc<Proxy>, watch::Sender<Called>),
) -> anyhow::Error {
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
    let asked_gate = gate.clone();
    let has_profile = move |identity: &Identity| asked_gate.policy().profile_for(identity).is_ok();
    let resolver = NameServer::new(node.directory().clone(), answerer, Arc::new(has_profile));
    tokio::spawn(resolver.run(DNS_PORT, node.status()));
    let (door, accepted) = Door::new(node.directory().clone());
    let (plan, plan_changes) = watch::channel(Plan::of(gate.policy().model()));
    let port = redirect_port(&gate);
    tokio::spawn(Redirect::new(door.clone(), port, plan_changes).run(node.status()));
    tokio::spawn(Own::new(door.clone(), called).run(node.status()));
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
