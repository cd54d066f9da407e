//! A socket for every virtual address and port that the policy claims.
//!
//! The virtual ranges are local to this machine (`ip route add local RANGE dev lo`), so that a
//! connection to any of their addresses ends here, and sockets stand on those that mean something;
//! every other is refused by the kernel. A socket on the wildcard address would take the ports of
//! the machine's other services.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use tokio::net::{TcpListener, TcpSocket, TcpStream};

use super::directory::By;
use super::door::Door;
use super::sockets::{BACKLOG, RETRY, Sockets};
use crate::identity::manifest::{HOST, PORT};
use crate::ingress::dns::Names;
use crate::policy::{HostPattern, Model};

/// Sockets at most; each is a file descriptor.
pub const SOCKETS_MAX: usize = 4096;

/// The sockets, and who waits at them.
pub struct Listener {
    names: Arc<Names>,
    door: Door,
    sockets: Sockets<SocketAddr>,
}

impl Listener {
    /// No socket is made before [`Listener::run`].
    pub fn new(names: Arc<Names>, door: Door) -> Self {
        Listener {
            names,
            door,
            sockets: Sockets::default(),
        }
    }

    /// Keeps the sockets that `model` and the names ask for; `changed` ends when the policy was
    /// replaced. Ends when nobody takes connections any more.
    pub async fn run<F>(mut self, model: impl Fn(&mut dyn FnMut(&Model)), changed: impl Fn() -> F)
    where
        F: Future<Output = ()>,
    {
        let mut names = self.names.changes();
        loop {
            // From before the look, so that a change during it is not missed.
            let policy_changed = changed();
            names.borrow_and_update();
            let mut wanted = BTreeSet::new();
            model(&mut |model| wanted = self.wanted(model));
            self.keep(wanted);
            tokio::select! {
                () = policy_changed => {}
                changed = names.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(RETRY), if !self.sockets.is_whole() => {}
                () = self.door.closed() => return,
            }
        }
    }

    /// The addresses and ports of every name that a claim is about, and of the gateway's own.
    fn wanted(&self, model: &Model) -> BTreeSet<SocketAddr> {
        let claims = || model.endpoints.iter().flat_map(|endpoint| &endpoint.claims);
        let (mut wanted, mut left) = (BTreeSet::new(), 0usize);
        // Those that the policy writes out first, whenever they came: agents make the others.
        let is_written = |name: &str| {
            let mut hosts = claims().map(|claim| &claim.host);
            name == HOST || hosts.any(|host| matches!(host, HostPattern::Name(own) if own == name))
        };
        let (written, made): (Vec<_>, Vec<_>) = self
            .names
            .all()
            .into_iter()
            .partition(|(_, name)| is_written(name));
        for (index, name) in written.into_iter().chain(made) {
            let ports = claims()
                .filter(|claim| claim.host.matches_name(&name))
                .map(|claim| claim.port)
                .chain((*name == *HOST).then_some(PORT));
            for port in ports {
                let both = [true, false].map(|v4| self.names.address(index, v4));
                for ip in both.into_iter().flatten() {
                    let address = SocketAddr::new(ip, port);
                    if wanted.len() < SOCKETS_MAX {
                        wanted.insert(address);
                    } else {
                        left += usize::from(!wanted.contains(&address));
                    }
                }
            }
        }
        if left > 0 {
            tracing::error!(
                left,
                SOCKETS_MAX,
                "more addresses are claimed than sockets may be; the last names are not served"
            );
        }
        wanted
    }

    fn keep(&mut self, wanted: BTreeSet<SocketAddr>) {
        let door = &self.door;
        let open = |address: &SocketAddr| {
            // Who dialled a virtual address wanted it.
            let dialled = |stream: &TcpStream| Ok(stream.local_addr()?);
            let served = door.clone().serve(bind(*address)?, By::Peer, dialled);
            Ok(vec![tokio::spawn(served).abort_handle()])
        };
        self.sockets.keep(wanted, open, |address, error, is_new| {
            // Said once for each address, since most are not there for one reason.
            if is_new {
                tracing::error!(%address, %error, hint = hint(error), "peers of the tailnet cannot be served here");
            }
        });
    }
}

fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = match address.ip() {
        IpAddr::V4(_) => TcpSocket::new_v4()?,
        IpAddr::V6(_) => {
            let socket = TcpSocket::new_v6()?;
            // A local route alone makes no address of this machine for IPv6's bind, as it does for
            // IPv4's; where the route is missing, IPv4's socket says so.
            socket2::SockRef::from(&socket).set_freebind_v6(true)?;
            socket
        }
    };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrNotAvailable => "make the virtual range local: ip route add local RANGE dev lo",
        io::ErrorKind::PermissionDenied => "ports below 1024 need CAP_NET_BIND_SERVICE",
        io::ErrorKind::AddrInUse => "another service has this port on every address",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ingress::tailnet::directory::Directory;
    use crate::ingress::tailnet::localapi::LocalApi;
    use crate::policy::{Policy, Source};

    #[test]
    fn sockets_have_a_number() {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let names = Names::open(
            "10.78.0.0/16".parse().unwrap(),
            "fd78::/64".parse().unwrap(),
            None,
        )
        .unwrap();
        let hosts: Vec<String> = (0..=SOCKETS_MAX / 2)
            .map(|number| format!("\"a{number}.test\""))
            .collect();
        for number in 0..hosts.len() {
            names.assign(&format!("a{number}.test")).unwrap();
        }
        let text = format!("endpoint \"https\" \"a\" {{ hosts = [{}] }}\n", hosts.join(", "));
        let path = "policy.hcl".into();
        let policy = Policy::load(vec![Source { path, text }], &|path| std::fs::read_to_string(path));
        let policy = policy.unwrap_or_else(|errors| panic!("{errors}"));
        let directory = Directory::new(LocalApi::new("nowhere".as_ref()).unwrap());
        let listener = Listener::new(Arc::new(names), Door::new(directory).0);
        assert_eq!(listener.wanted(policy.model()).len(), SOCKETS_MAX);
    }
}
