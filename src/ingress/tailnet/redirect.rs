//! Connections to real addresses, which the kernel redirects to one port of this machine.
//!
//! Where tailscaled has a network device, a rule of the kernel's (`tailkeep setup` writes it) turns
//! what arrives there for a route of ours to `redirect_port` on the tailnet's addresses of this
//! machine; the kernel says what was dialled. The gateway's own dials do not arrive there, so that
//! none comes back. What is advertised as 4via6 tailscaled dials itself, with or without a device:
//! those dials are turned, by the account that they are not the gateway's of, to the same port of
//! the loopback.
//!
//! Invariants: the sockets hear the tailnet's device, or the loopback, alone; a connection that was
//! not redirected, or whose destination is of no route of ours, is closed.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use tokio::net::TcpStream;
use tokio::sync::watch;

use super::directory::By;
use super::door::{Astray, Door};
use super::localapi::Status;
use super::routes::Plan;
use super::sockets::{RETRY, Sockets, bind};

/// One socket: its address, and the device that it hears.
type Place = (SocketAddr, Device);

/// A network device of this machine, by name and number; one that was made anew has another number.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Device {
    pub name: String,
    number: u32,
}

impl Device {
    /// The device that has this address, if it is of this network namespace.
    pub fn of(address: IpAddr) -> Option<Device> {
        let devices = nix::ifaddrs::getifaddrs().ok()?;
        let has = |device: &nix::ifaddrs::InterfaceAddress| {
            let found = device.address?;
            let ip: IpAddr = match (found.as_sockaddr_in(), found.as_sockaddr_in6()) {
                (Some(v4), _) => v4.ip().into(),
                (_, Some(v6)) => v6.ip().into(),
                _ => return None,
            };
            (ip == address).then(|| device.interface_name.clone())
        };
        let name = devices.into_iter().find_map(|device| has(&device))?;
        let number = nix::net::if_::if_nametoindex(name.as_str()).ok()?;
        Some(Device { name, number })
    }
}

/// The sockets that redirected connections arrive at.
#[derive(Debug)]
pub struct Redirect {
    door: Door,
    port: u16,
    plan: watch::Receiver<Plan>,
    sockets: Sockets<Place>,
}

impl Redirect {
    /// No socket is made before [`Redirect::run`]. `port` is `redirect_port`.
    pub fn new(door: Door, port: u16, plan: watch::Receiver<Plan>) -> Self {
        Redirect {
            door,
            port,
            plan,
            sockets: Sockets::default(),
        }
    }

    /// Keeps the sockets that the routes and tailscaled's addresses ask for. Ends when nobody takes
    /// connections any more.
    pub async fn run(mut self, mut status: watch::Receiver<Option<Status>>) {
        loop {
            let wanted = {
                let plan = self.plan.borrow_and_update();
                places(&plan, status.borrow_and_update().as_ref(), self.port)
            };
            // While tailscaled is not heard, nobody can be asked for; the sockets stay as they are.
            if let Some(wanted) = wanted {
                self.keep(wanted);
            }
            tokio::select! {
                changed = self.plan.changed() => if changed.is_err() { return },
                changed = status.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(RETRY), if !self.sockets.is_whole() => {}
                () = self.door.closed() => return,
            }
        }
    }

    fn keep(&mut self, wanted: BTreeSet<Place>) {
        let (door, plan) = (&self.door, &self.plan);
        let open = |(address, device): &Place| {
            let socket = bind(*address, Some(device))?;
            tracing::info!(%address, device = device.name, "redirected connections are served");
            let by = match address.ip().is_loopback() {
                true => By::Daemon,
                false => By::Peer,
            };
            let plan = plan.clone();
            let wanted = move |stream: &TcpStream| original(stream, &plan.borrow(), by);
            let served = door.clone().serve(socket, by, wanted);
            Ok(vec![tokio::spawn(served).abort_handle()])
        };
        self.sockets.keep(wanted, open, |(address, device), error, is_new| {
            if is_new {
                let hint = "another service may have the port: gateway { tailscale { redirect_port = … } }";
                tracing::error!(%address, device = device.name, %error, hint, "redirected connections cannot be served");
            }
        });
    }
}

/// The sockets that there should be, or `None` while that is not known.
fn places(plan: &Plan, status: Option<&Status>, port: u16) -> Option<BTreeSet<Place>> {
    let status = status?;
    let mut all: Vec<IpAddr> = Vec::new();
    if status.has_device && !plan.real.is_empty() {
        all.extend(status.addresses.iter().flatten());
    }
    if status.has_device && !plan.via.is_empty() {
        all.push(Ipv4Addr::LOCALHOST.into());
    }
    let place = |ip: IpAddr| Some((SocketAddr::new(ip, port), Device::of(ip)?));
    Some(all.into_iter().filter_map(place).collect())
}

/// What a redirected connection was to reach.
fn original(stream: &TcpStream, plan: &Plan, by: By) -> Result<SocketAddr, Astray> {
    let socket = socket2::SockRef::from(stream);
    let own = stream.local_addr()?;
    let found = match own {
        SocketAddr::V4(_) => socket.original_dst_v4(),
        SocketAddr::V6(_) => socket.original_dst_v6(),
    };
    // The kernel knows of no connection that was turned.
    let dialled = found.map_err(|_| Astray::Direct)?;
    let dialled = dialled.as_socket().ok_or(Astray::Direct)?;
    if dialled == own {
        return Err(Astray::Direct);
    }
    plan.destination(dialled, by == By::Daemon)
        .ok_or(Astray::Outside(dialled))
}
