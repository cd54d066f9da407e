//! The admin page and the tailnet: served there for operators, closed to peers everywhere else.
//!
//! A tailscaled without a network device forwards whatever a peer sends to the node's own address to
//! the same port of this machine's loopback. Such a connection looks like one of this machine's, so
//! tailscaled is asked who is behind it, and a peer's is closed before a byte of it is read: peers
//! have the listener on the tailnet, which knows who they are.
//!
//! On the tailnet tailscaled says who connects, before the handshake. An operator is a person by
//! login or by grant; a tagged node is nobody's, and a node that a profile claims is an agent's, so
//! neither gets as far as TLS. When any of that changes, the connection ends.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::Operator;
use super::admit::{Caller, Peer, Site};
use super::certificate::Certificate;
use super::listen::{self, Listen, Opened, Opening};
use crate::identity::{Identity, Live};
use crate::ingress::tailnet::directory::By;
use crate::ingress::tailnet::localapi::{Protocol, Status};
use crate::ingress::tailnet::own::magic_name;
use crate::ingress::tailnet::sockets::{RETRY, Sockets, bind};
use crate::ingress::tailnet::{LocalApi, Node};
use crate::policy::Policy;
use crate::sys::{TcpState, tcp_state};
use crate::tls::Leaves;
use crate::verdict::gate::Gate;

/// Where browsers expect it.
pub const PORT: u16 = 443;
/// How long until the next look after one in vain: tailscaled takes 200 ms for each, and the ingress
/// wants it, too.
const PAUSE: Duration = Duration::from_millis(20);

/// The node of this gateway, as the page needs it.
pub struct Tailnet {
    pub(super) node: Arc<Node>,
    pub(super) api: LocalApi,
    socket: PathBuf,
    /// Who signs the page's certificate, and why no other does.
    pub(super) certificate: Arc<Mutex<Option<String>>>,
    /// One question about forwarding at a time.
    turn: Semaphore,
}

impl Tailnet {
    /// `socket` is where `api` speaks to.
    pub fn new(node: Arc<Node>, api: LocalApi, socket: PathBuf) -> Arc<Self> {
        Arc::new(Tailnet {
            node,
            api,
            socket,
            certificate: Arc::default(),
            turn: Semaphore::new(1),
        })
    }

    /// Whether a loopback connection is, or may be, a peer's that tailscaled forwards.
    pub(super) async fn forwards(&self, source: SocketAddr) -> bool {
        let has_device = |status: &Option<Status>| status.as_ref().map(|status| status.has_device);
        if has_device(&self.node.status().borrow()) == Some(true) {
            return false;
        }
        // Never closed.
        let _turn = self.turn.acquire().await;
        match self.api.who_is(source, Protocol::Tcp).await {
            Ok(None) => {
                tokio::time::sleep(PAUSE).await;
                false
            }
            Ok(Some(found)) => {
                let node = found.node.name;
                tracing::warn!(node, "a peer of the tailnet tried the loopback admin listener");
                true
            }
            // Nobody forwards where nobody listens.
            Err(_) if tokio::net::UnixStream::connect(&self.socket).await.is_err() => false,
            Err(error) => {
                tracing::warn!(%error, "tailscaled does not say whether a connection is a peer's; it is closed");
                true
            }
        }
    }
}

/// Why a peer is no operator, or the login of one who is.
fn operator(policy: &Policy, identity: &Identity) -> Result<String, String> {
    let named = match &policy.model().gateway.tailscale {
        Some(tailscale) => tailscale.is_operator(identity),
        None => false,
    };
    match &identity.login {
        Some(login) if identity.tags.is_empty() => {
            // What runs as an agent does not decide for itself.
            if let Ok(profile) = policy.profile_for(identity) {
                return Err(format!("this node is an agent's, of profile {profile}"));
            }
            named
                .then(|| login.to_ascii_lowercase())
                .ok_or_else(|| format!("{login} is not among the gateway's operators"))
        }
        _ => Err("a tagged node is no person's".to_owned()),
    }
}

/// One listener on the tailnet.
struct Door {
    listener: TcpListener,
    site: Arc<Site>,
    tailnet: Arc<Tailnet>,
    gate: Arc<Gate>,
    certificate: Arc<Certificate>,
}

impl Listen for Door {
    type Io = TlsStream<tokio::net::TcpStream>;

    async fn next(&self) -> std::io::Result<Opening<Self::Io>> {
        let (io, source) = self.listener.accept().await?;
        io.set_nodelay(true)?;
        let (tailnet, gate) = (self.tailnet.clone(), self.gate.clone());
        let (site, certificate) = (self.site.clone(), self.certificate.clone());
        Ok(Box::pin(async move {
            let directory = tailnet.node.directory().clone();
            let (told, reloads) = (directory.told(), gate.reloads());
            let local = io.local_addr().ok()?.ip();
            let state = || tcp_state(&io).unwrap_or(TcpState::Closed);
            let met = match directory.meet((source, local), By::Peer, &state).await {
                Ok(met) => met,
                Err(error) => {
                    tracing::debug!(%source, %error, "nobody is let in to the admin page");
                    return None;
                }
            };
            let live = met.live();
            let person = match operator(&gate.policy(), &live.now()) {
                Ok(login) => login,
                Err(why) => {
                    let node = &live.now().node;
                    tracing::warn!(node, why, "a peer that is no operator tried the admin page");
                    return None;
                }
            };
            let io = TlsAcceptor::from(certificate.config()?).accept(io).await.ok()?;
            let peer = Peer {
                login: person.clone(),
                live: live.clone(),
            };
            let gate_then = gate.clone();
            let over = async move {
                tokio::select! {
                    () = directory.until_gone(met) => {}
                    () = until_no_operator(gate_then, (told, reloads), live, person) => {}
                }
            };
            Some(Opened {
                io,
                caller: Caller::Tailnet(site, source, peer),
                over: Some(Box::pin(over)),
            })
        }))
    }
}

/// Ends when the policy or the tailnet takes the right away.
async fn until_no_operator(
    gate: Arc<Gate>,
    (mut told, mut reloads): (watch::Receiver<u64>, watch::Receiver<u64>),
    live: Live,
    person: String,
) {
    loop {
        if operator(&gate.policy(), &live.now()).as_ref() != Ok(&person) {
            return;
        }
        let changed = tokio::select! {
            changed = told.changed() => changed,
            changed = reloads.changed() => changed,
        };
        if changed.is_err() {
            return;
        }
    }
}

/// What a status says of where to listen, and how browsers call it.
fn doors(status: Option<&Status>) -> (Vec<SocketAddr>, Option<String>, Vec<String>) {
    let Some(status) = status.filter(|status| status.backend_state == "Running") else {
        return (Vec::new(), None, Vec::new());
    };
    let own = status.addresses.iter().flatten().copied();
    let addresses: Vec<IpAddr> = match status.has_device {
        true => own.collect(),
        // tailscaled forwards to loopback, of the same family.
        false => own
            .map(|address| match address {
                IpAddr::V4(_) => IpAddr::from(Ipv4Addr::LOCALHOST),
                IpAddr::V6(_) => IpAddr::from(Ipv6Addr::LOCALHOST),
            })
            .collect(),
    };
    let name = magic_name(status);
    let called = status.addresses.iter().flatten().map(|address| match address {
        IpAddr::V4(v4) => v4.to_string(),
        IpAddr::V6(v6) => format!("[{v6}]"),
    });
    let hosts = name.iter().cloned().chain(called).collect();
    (
        addresses
            .into_iter()
            .map(|ip| SocketAddr::new(ip, PORT))
            .collect(),
        name,
        hosts,
    )
}

/// Serves the page on the tailnet for as long as the gateway runs: wherever the node is, whenever the
/// policy names operators.
pub(super) fn serve(operator: &Operator, router: Router, leaves: Arc<Leaves>) {
    let Some(tailnet) = operator.tailnet.clone() else {
        return;
    };
    let gate = operator.gate.clone();
    tokio::spawn(async move {
        let (mut status, mut reloads) = (tailnet.node.status(), gate.reloads());
        // By the hosts as well: what stands for others is opened anew, with a certificate for these.
        let mut sockets: Sockets<(SocketAddr, Vec<String>)> = Sockets::default();
        let mut served: Vec<String> = Vec::new();
        let mut certificate: Option<Arc<Certificate>> = None;
        loop {
            let (mut wanted, name, hosts) = doors(status.borrow_and_update().as_ref());
            let model = gate.policy();
            let tailscale = model.model().gateway.tailscale.as_ref();
            if tailscale.is_none_or(|tailscale| tailscale.operators.is_empty()) {
                wanted.clear();
            }
            if hosts != served {
                certificate = None;
                served.clone_from(&hosts);
            }
            let wanted = wanted.into_iter().map(|address| (address, hosts.clone()));
            let open = |(address, hosts): &(SocketAddr, Vec<String>)| {
                let listener = bind(*address, None)?;
                let own = certificate
                    .get_or_insert_with(|| Certificate::start(&tailnet, name.clone(), hosts, leaves.clone()));
                let door = Door {
                    listener,
                    site: Arc::new(Site {
                        scheme: "https",
                        hosts: hosts.clone(),
                    }),
                    tailnet: tailnet.clone(),
                    gate: gate.clone(),
                    certificate: own.clone(),
                };
                let page = format!("https://{}/", hosts.first().map_or("", String::as_str));
                tracing::info!(%address, page, "the admin page is served on the tailnet, for operators");
                let served = listen::serve(door, router.clone(), listen::BOUNDS);
                Ok(vec![tokio::spawn(served).abort_handle()])
            };
            sockets.keep(wanted.collect(), open, |(address, _), error, is_new| {
                if is_new {
                    tracing::warn!(%address, %error, "the admin page cannot be served on the tailnet");
                }
            });
            tokio::select! {
                changed = status.changed() => if changed.is_err() { return },
                changed = reloads.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(RETRY), if !sockets.is_whole() => {}
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_listener_stands_where_the_node_is() {
        let status = |state: &str, device: bool| -> Status {
            serde_json::from_value(json!({
                "BackendState": state, "TUN": device, "TailscaleIPs": ["100.64.0.1", "fd7a:115c:a1e0::1"],
                "Self": { "DNSName": "Gw.lab.ts.net." },
            }))
            .unwrap()
        };
        let (addresses, name, hosts) = doors(Some(&status("Running", true)));
        let texts: Vec<String> = addresses.iter().map(SocketAddr::to_string).collect();
        assert_eq!(texts, ["100.64.0.1:443", "[fd7a:115c:a1e0::1]:443"]);
        assert_eq!(name.as_deref(), Some("gw.lab.ts.net"));
        assert_eq!(hosts, ["gw.lab.ts.net", "100.64.0.1", "[fd7a:115c:a1e0::1]"]);
        let (addresses, ..) = doors(Some(&status("Running", false)));
        let texts: Vec<String> = addresses.iter().map(SocketAddr::to_string).collect();
        assert_eq!(texts, ["127.0.0.1:443", "[::1]:443"]);
        assert!(doors(Some(&status("NeedsLogin", true))).0.is_empty() && doors(None).0.is_empty());
    }
}
