//! An identity cannot be had by taking another node's address, wherever that is tried.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use crate::database::Psql;
use crate::lab::{GATEWAY_ITSELF, Machine, World, until};
use crate::stories::{OPEN, ORDERS, Scene, scene};

/// How long a connection that must not come about may take.
const IN_VAIN: Duration = Duration::from_secs(2);

/// Connects from an address of a machine, which need not be its own; what it is answered, `None` without a
/// connection.
fn dial_from(machine: &Arc<Machine>, from: &str, to: &str) -> Option<Vec<u8>> {
    let net = std::fs::File::open(format!("/proc/{}/ns/net", machine.pid())).unwrap();
    let (from, to): (IpAddr, SocketAddr) = (from.parse().unwrap(), to.parse().unwrap());
    let dialled = std::thread::spawn(move || {
        nix::sched::setns(net.as_fd(), nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
        let socket =
            socket2::Socket::new(socket2::Domain::for_address(to), socket2::Type::STREAM, None).unwrap();
        // Any program may bind an address that is not its machine's.
        let freely = match from {
            IpAddr::V4(_) => socket.set_freebind_v4(true),
            IpAddr::V6(_) => socket.set_freebind_v6(true),
        };
        freely.unwrap();
        socket.bind(&SocketAddr::new(from, 0).into()).unwrap();
        socket.connect_timeout(&to.into(), IN_VAIN).ok()?;
        socket.set_read_timeout(Some(IN_VAIN)).unwrap();
        socket
            .send(b"GET / HTTP/1.0\r\nHost: tailkeep.internal\r\n\r\n")
            .ok();
        let mut stream = std::net::TcpStream::from(socket);
        let mut answer = Vec::new();
        let _ = std::io::Read::read_to_end(&mut stream, &mut answer);
        Some(answer)
    });
    dialled.join().unwrap()
}

/// A DNS query by UDP from an address of a machine, and whether it is answered.
fn query_from(machine: &Arc<Machine>, from: &str, to: &str) -> bool {
    let net = std::fs::File::open(format!("/proc/{}/ns/net", machine.pid())).unwrap();
    let (from, to) = (format!("{from}:0"), to.to_owned());
    let asked = std::thread::spawn(move || {
        nix::sched::setns(net.as_fd(), nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
        let socket = std::net::UdpSocket::bind(from).unwrap();
        socket.set_read_timeout(Some(IN_VAIN)).unwrap();
        let query = b"\0\x07\x01\0\0\x01\0\0\0\0\0\0\x06orders\x04test\0\0\x01\0\x01";
        let _ = socket.send_to(query, to);
        socket.recv(&mut [0; 512]).is_ok()
    });
    asked.join().unwrap()
}

/// The records of connections as this node.
fn records(scene: &Scene, node: &str) -> usize {
    let rows = scene.gateway.audit();
    rows.iter().filter(|row| row["node"] == node).count()
}

#[test]
fn another_nodes_address_leads_nowhere() {
    let Some(world) = World::root(OPEN) else { return };
    let mut scene = scene(world);
    let ci = scene.agent("ci-1", &["tag:agent-ci"]);
    let thief = scene.agent("thief", &[]);
    let told = &*format!("{}:80", GATEWAY_ITSELF[0]);
    let told6 = &*format!("[{}]:80", GATEWAY_ITSELF[1]);
    let server = format!("{}:53", scene.node.address(false));
    let own = dial_from(&ci.machine, &ci.address(false), told).unwrap();
    assert!(String::from_utf8_lossy(&own).contains(r#""name":"ci-1""#));
    assert!(query_from(&ci.machine, &ci.address(false), &server));
    let before = records(&scene, "ci-1");

    // On a node: the tunnel is for its own addresses alone.
    for (v6, to) in [(false, told), (true, told6)] {
        let (address, bits) = (ci.address(v6), if v6 { 128 } else { 32 });
        let kind = if v6 { " nodad" } else { "" };
        for device in ["lo", "tailscale0"] {
            thief
                .machine
                .ip(&format!("addr add {address}/{bits} dev {device}{kind}"));
            assert_eq!(
                dial_from(&thief.machine, &address, to),
                None,
                "{address} on {device}"
            );
            if !v6 {
                assert!(!query_from(&thief.machine, &address, &server));
            }
            thief
                .machine
                .ip(&format!("addr del {address}/{bits} dev {device}"));
        }
    }
    // A route to it, which nobody approved, leads nobody there.
    thief.set(json!({ "AdvertiseRoutes": [format!("{}/32", ci.address(false))] }));
    let psql = Psql::on(&scene.world, &ci, ORDERS[0]);
    assert_eq!(psql.says("select id from orders"), "7\n");

    // On a machine beside the gateway's, which is no node: it sends what it likes to the gateway's card.
    let neighbour = scene.world.machine("neighbour");
    neighbour.ip("route add 10.78.0.0/16 via 192.168.100.11");
    let address = ci.address(false);
    neighbour.ip(&format!("addr add {address}/32 dev lo"));
    assert_eq!(dial_from(&neighbour, &address, told), None, "by the network");
    let unknown = dial_from(&neighbour, "192.168.100.14", told).unwrap_or_default();
    assert!(unknown.is_empty(), "by its own address: {unknown:?}");
    // A program on the gateway's machine, by an address of that or of the node's.
    for (from, to) in [
        ("127.0.0.1".to_owned(), told),
        (GATEWAY_ITSELF[0].to_owned(), told),
        ("192.168.100.11".to_owned(), told),
        (scene.node.address(false), told),
        (ci.address(false), told),
        (ci.address(true), told6),
    ] {
        let answer = dial_from(&scene.node.machine, &from, to).unwrap_or_default();
        assert!(answer.is_empty(), "{from}: {answer:?}");
    }
    assert_eq!(
        records(&scene, "ci-1"),
        before + 2,
        "the session of its own, and nothing else: {:#?}",
        scene.gateway.audit()
    );
    assert_eq!(records(&scene, "thief"), 0);
}

#[test]
fn what_stands_behind_a_node_is_not_the_node() {
    let routed = OPEN.replace(
        r#""routes": {"#,
        r#""routes": {"10.99.0.0/24": ["tag:agent-ci"],"#,
    );
    let Some(world) = World::root(&routed) else { return };
    let mut scene = scene(world);
    // The gateway's node takes others' routes, so that their machines reach it by their own addresses.
    scene.node.set(json!({ "RouteAll": true }));
    let ci = scene.agent("ci-1", &["tag:agent-ci"]);
    ci.machine.ip("addr add 10.99.0.5/32 dev lo");
    ci.set(json!({ "AdvertiseRoutes": ["10.99.0.0/24"], "NoSNAT": true }));
    until("the route is known", || scene.node.has_route("10.99.0.0/24"));
    let told = &*format!("{}:80", GATEWAY_ITSELF[0]);
    let own = dial_from(&ci.machine, &ci.address(false), told).unwrap();
    assert!(String::from_utf8_lossy(&own).contains(r#""name":"ci-1""#));
    until("the connection comes through the tunnel", || {
        dial_from(&ci.machine, "10.99.0.5", told).is_some()
    });
    let behind = dial_from(&ci.machine, "10.99.0.5", told).unwrap_or_default();
    assert!(behind.is_empty(), "{}", String::from_utf8_lossy(&behind));
    scene
        .gateway
        .until_says("10.99.0.5 is no address that a peer of the tailnet can come from");
}
