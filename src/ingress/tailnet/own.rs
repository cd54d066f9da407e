//! The gateway's own name on the tailnet: what asks `http://NAME/` is told who it is.
//!
//! Sockets stand at port 80 of the node's addresses; where tailscaled has no network device, it hands
//! what comes there to the loopback's. Their connections go on as connections to the node's address.
//!
//! Invariant: a port that cannot be had takes nothing else away. It is said once, [`Called`] has it,
//! and it is tried again.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::net::TcpStream;
use tokio::sync::watch;

use super::directory::By;
use super::door::Door;
use super::localapi::Status;
use super::redirect::Device;
use super::sockets::{RETRY, Sockets, bind};
use crate::identity::manifest::PORT;

/// How peers of the tailnet call the gateway.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Called {
    /// As [`magic_name`] has it.
    pub name: Option<String>,
    /// The node's addresses.
    pub addresses: Vec<IpAddr>,
    /// Why nobody is told anything at [`Called::name`]; `None` if it is.
    pub silent: Option<String>,
}

impl Called {
    fn of(status: &Status) -> Called {
        Called {
            name: magic_name(status),
            addresses: status.addresses.clone().unwrap_or_default(),
            silent: None,
        }
    }

    /// The name, if what asks there is answered.
    pub fn answers(&self) -> Option<&str> {
        self.name.as_deref().filter(|_| self.silent.is_none())
    }

    /// Whether a request's host means the gateway: its name, whole or its first label, as MagicDNS has both.
    pub fn is(&self, host: &str) -> bool {
        let name = self.name.as_deref().unwrap_or_default();
        let first = name.split('.').next().unwrap_or_default();
        !host.is_empty()
            && [name, first]
                .iter()
                .any(|own| own.eq_ignore_ascii_case(host.trim_end_matches('.')))
    }
}

/// The node's MagicDNS name, in lower case and without a dot at its end.
pub fn magic_name(status: &Status) -> Option<String> {
    let name = status.own.as_ref()?.name.trim_matches('.').to_ascii_lowercase();
    (!name.is_empty()).then_some(name)
}

/// One socket: its address, the device that it hears, and the node's address that it stands for.
type Place = (SocketAddr, Option<Device>, IpAddr);

/// The sockets, and how the node is called.
#[derive(Debug)]
pub struct Own {
    door: Door,
    called: watch::Sender<Called>,
    sockets: Sockets<Place>,
}

impl Own {
    /// `called` is told how the node is called. No socket is made before [`Own::run`].
    pub fn new(door: Door, called: watch::Sender<Called>) -> Self {
        Own {
            door,
            called,
            sockets: Sockets::default(),
        }
    }

    /// Keeps a socket at each of the node's addresses. Ends when nobody takes connections any more.
    pub async fn run(mut self, mut status: watch::Receiver<Option<Status>>) {
        loop {
            let now = status.borrow_and_update().clone();
            // While tailscaled is not heard, nobody can be asked for; the sockets stay as they are.
            let is_whole = now.is_none_or(|status| self.keep(&status));
            tokio::select! {
                changed = status.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(RETRY), if !is_whole => {}
                () = self.door.closed() => return,
            }
        }
    }

    /// Whether there are all sockets that there should be.
    fn keep(&mut self, status: &Status) -> bool {
        let mut called = Called::of(status);
        let door = &self.door;
        let open = |(address, device, ip): &Place| {
            let socket = bind(*address, device.as_ref())?;
            let own = SocketAddr::new(*ip, PORT);
            let served = door.clone().serve(socket, By::Peer, move |_: &TcpStream| Ok(own));
            Ok(vec![tokio::spawn(served).abort_handle()])
        };
        self.sockets.keep(places(status), open, |place, error, _| {
            called.silent = Some(why(place.0, error));
        });
        self.called.send_if_modified(|before| {
            if let Some(why) = called.silent.as_ref().filter(|_| before.silent != called.silent) {
                tracing::info!("agents are not told who they are at the gateway's own name: {why}");
            }
            let is_other = *before != called;
            *before = called;
            is_other
        });
        self.sockets.is_whole()
    }
}

fn places(status: &Status) -> BTreeSet<Place> {
    let own = status.addresses.iter().flatten().copied();
    let place = |ip: IpAddr| match (status.has_device, ip) {
        (true, _) => Some((SocketAddr::new(ip, PORT), Some(Device::of(ip)?), ip)),
        (false, IpAddr::V4(_)) => Some((SocketAddr::new(Ipv4Addr::LOCALHOST.into(), PORT), None, ip)),
        (false, IpAddr::V6(_)) => Some((SocketAddr::new(Ipv6Addr::LOCALHOST.into(), PORT), None, ip)),
    };
    own.filter_map(place).collect()
}

fn why(address: SocketAddr, error: &io::Error) -> String {
    let hint = match error.kind() {
        io::ErrorKind::PermissionDenied => ": ports below 1024 need CAP_NET_BIND_SERVICE",
        io::ErrorKind::AddrInUse => ": another service has the port",
        _ => "",
    };
    format!("{address} cannot be had ({error}){hint}; http://tailkeep.internal/ says the same")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn status(device: bool) -> Status {
        serde_json::from_value(json!({
            "BackendState": "Running", "TUN": device, "TailscaleIPs": ["127.0.0.1", "::1"],
            "Self": { "DNSName": "Gw-1.lab.ts.net." },
        }))
        .unwrap()
    }

    #[test]
    fn it_is_called_by_its_name_and_by_nothing_like_it() {
        let called = Called::of(&status(true));
        assert_eq!(called.answers(), Some("gw-1.lab.ts.net"));
        for host in ["gw-1", "GW-1.lab.ts.net", "gw-1.lab.ts.net."] {
            assert!(called.is(host), "{host}");
        }
        for host in ["", ".", "gw", "gw-1.evil.test", "lab.ts.net", "xgw-1"] {
            assert!(!called.is(host), "{host}");
        }
        assert!(!Called::default().is(""));
        let silent = Called {
            silent: Some("taken".to_owned()),
            ..called
        };
        assert_eq!(silent.answers(), None);
    }

    #[test]
    fn a_socket_stands_for_each_address_of_the_node() {
        let texts = |status: &Status| -> Vec<(String, String)> {
            let all = places(status).into_iter();
            all.map(|(socket, _, own)| (socket.to_string(), own.to_string()))
                .collect()
        };
        let mut node = status(true);
        let v4 = ("127.0.0.1:80".to_owned(), "127.0.0.1".to_owned());
        assert!(texts(&node).contains(&v4));
        node.addresses = Some(vec![
            IpAddr::from([100, 64, 0, 1]),
            "fd7a:115c:a1e0::1".parse().unwrap(),
        ]);
        assert!(places(&node).is_empty(), "of no device here");
        node.has_device = false;
        let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        assert_eq!(
            texts(&node),
            [
                pair("127.0.0.1:80", "100.64.0.1"),
                pair("[::1]:80", "fd7a:115c:a1e0::1")
            ]
        );
    }
}
