//! How much of the name service one peer may have, and how much all may.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;
use tailkeep::ingress::tailnet::dns::{
    CONNECTION_LASTS, CONNECTIONS_MAX, CONNECTIONS_PER_PEER_MAX, QUERIES_MAX, QUERIES_PER_PEER_MAX,
    QUERY_BYTES_MAX,
};

use crate::world::{SOON, World, alone, from, until};

const SERVER: &str = "100.64.0.1:53";

/// How long an answer that must not come is waited for.
const IN_VAIN: Duration = Duration::from_secs(1);

/// One more peer than it takes to fill every place.
fn peers(world: &World, many: usize) -> Vec<String> {
    let add = |number: usize| {
        let address = format!("100.64.1.{number}");
        let added = std::process::Command::new("ip")
            .args(["addr", "add", &format!("{address}/32"), "dev", "lo"])
            .status();
        assert!(added.unwrap().success());
        let name = format!("ci-{number}");
        world.daemon.node(&address, &name, &["tag:agent-ci"], json!([]));
        address
    };
    let all = (1..=many).map(add).collect();
    world.change();
    all
}

fn query(id: u16, name: &str) -> Vec<u8> {
    let mut query = id.to_be_bytes().to_vec();
    query.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in name.split('.') {
        query.push(u8::try_from(label.len()).unwrap());
        query.extend(label.bytes());
    }
    query.extend([0, 0, 1, 0, 1]);
    query
}

/// Whether a connection is answered; it stays open.
fn is_answered(stream: &mut TcpStream) -> bool {
    let query = query(7, "api.test");
    let length = u16::try_from(query.len()).unwrap();
    let mut head = [0; 2];
    let asked = stream.write_all(&[&length.to_be_bytes(), &query[..]].concat());
    if asked.is_err() || stream.read_exact(&mut head).is_err() {
        return false;
    }
    let mut answer = vec![0; usize::from(u16::from_be_bytes(head))];
    stream.read_exact(&mut answer).is_ok()
}

#[test]
fn a_peer_has_its_part_of_the_connections_and_they_last_their_time() {
    alone(|| {
        let world = World::start();
        until("names are answered", || world.says("names are answered"));
        let all = peers(&world, CONNECTIONS_MAX / CONNECTIONS_PER_PEER_MAX + 1);
        let (last, full) = all.split_last().unwrap();
        let began = Instant::now();
        let mut open = Vec::new();
        for peer in full {
            for _ in 0..CONNECTIONS_PER_PEER_MAX {
                let mut stream = from(peer, SERVER).unwrap();
                assert!(is_answered(&mut stream), "{peer}");
                open.push(stream);
            }
            if peer == &full[0] {
                assert!(
                    !is_answered(&mut from(peer, SERVER).unwrap()),
                    "one more than its part"
                );
                assert!(
                    is_answered(&mut from(last, SERVER).unwrap()),
                    "another has its own"
                );
            }
        }
        assert_eq!(open.len(), CONNECTIONS_MAX);
        let asked = world.daemon.asked();
        assert!(asked.contains(&format!("tcp {}", full[0])), "{asked:?}");
        assert!(
            !is_answered(&mut from(last, SERVER).unwrap()),
            "every place is taken"
        );
        assert!(began.elapsed() < CONNECTION_LASTS);
        let mut first = open.remove(0);
        first.set_read_timeout(Some(SOON)).unwrap();
        assert_eq!(first.read(&mut [0; 1]).unwrap(), 0, "its time is over");
        assert!(began.elapsed() >= CONNECTION_LASTS);
        until("places are free again", || {
            is_answered(&mut from(last, SERVER).unwrap())
        });
    });
}

/// A resolver that never answers, and how many queries it has got.
fn silent_resolver(address: &str) -> Arc<AtomicUsize> {
    let socket = UdpSocket::bind(address).unwrap();
    let got = Arc::new(AtomicUsize::new(0));
    let count = got.clone();
    std::thread::spawn(move || {
        while socket.recv(&mut [0; 512]).is_ok() {
            count.fetch_add(1, Ordering::SeqCst);
        }
    });
    got
}

/// A peer's socket for queries.
fn asking(peer: &str) -> UdpSocket {
    let socket = UdpSocket::bind(SocketAddr::new(peer.parse().unwrap(), 0)).unwrap();
    socket.connect(SERVER).unwrap();
    socket
}

fn is_answered_within(socket: &UdpSocket, time: Duration) -> bool {
    socket.send(&query(9, "api.test")).unwrap();
    socket.set_read_timeout(Some(time)).unwrap();
    socket.recv(&mut [0; 512]).is_ok()
}

#[test]
fn a_query_over_udp_has_a_length() {
    alone(|| {
        let world = World::start();
        until("names are answered", || world.says("names are answered"));
        let all = peers(&world, 1);
        let socket = asking(&all[0]);
        let sends = |id: u16, bytes: usize| {
            let mut query = query(id, "api.test");
            query.resize(bytes, 0);
            socket.send(&query).unwrap();
        };
        // In the order in which they came; the longer one has none.
        sends(1, QUERY_BYTES_MAX + 1);
        sends(2, QUERY_BYTES_MAX);
        socket.set_read_timeout(Some(SOON)).unwrap();
        let mut answer = [0; 512];
        socket.recv(&mut answer).unwrap();
        assert_eq!(answer[..2], [0, 2]);
        socket.set_read_timeout(Some(IN_VAIN)).unwrap();
        assert!(socket.recv(&mut answer).is_err(), "{:?}", &answer[..2]);
        let curl = std::process::Command::new("curl")
            .args(["-sS", "http://gateway/v1/metrics", "--unix-socket"])
            .arg(world.socket())
            .output();
        let metrics = String::from_utf8(curl.unwrap().stdout).unwrap();
        let line = "tailkeep_bad_input_total{reader=\"dns\",reason=\"long\"} 1";
        assert!(metrics.contains(line), "{metrics}");
    });
}

#[test]
fn a_peer_has_its_part_of_the_queries_that_are_being_answered() {
    alone(|| {
        let got = silent_resolver("127.0.0.1:5399");
        let world = World::with("resolver = \"127.0.0.1:5399\"");
        until("names are answered", || world.says("names are answered"));
        let all = peers(&world, QUERIES_MAX / QUERIES_PER_PEER_MAX + 2);
        world.rewrite(
            "rule \"frozen\"",
            "defaults {\n unknown_host = \"passthrough\"\n}\nrule \"frozen\"",
        );
        let probe = asking(&all[0]);
        until("other names are passed on", || {
            probe.send(&query(1, "other.test")).unwrap();
            got.load(Ordering::SeqCst) > 0
        });
        // A datagram's sender is asked for as one.
        let asked = world.daemon.asked();
        assert!(asked.contains(&format!("udp {}", all[0])), "{asked:?}");
        // What the probe asked is over.
        std::thread::sleep(Duration::from_secs(5));
        let before = got.load(Ordering::SeqCst);
        let (last, full) = all[1..].split_last().unwrap();
        let sockets: Vec<UdpSocket> = full.iter().map(|peer| asking(peer)).collect();
        let many = |socket: &UdpSocket, count: usize| {
            for id in 0..count {
                socket
                    .send(&query(u16::try_from(id).unwrap(), "other.test"))
                    .unwrap();
            }
        };
        let last = asking(last);
        many(&sockets[0], QUERIES_PER_PEER_MAX + 8);
        until("its part is asked", || {
            got.load(Ordering::SeqCst) == before + QUERIES_PER_PEER_MAX
        });
        assert!(
            !is_answered_within(&sockets[0], IN_VAIN),
            "one more than its part"
        );
        assert!(is_answered_within(&last, IN_VAIN), "another has its own");
        assert_eq!(got.load(Ordering::SeqCst), before + QUERIES_PER_PEER_MAX);
        // Once those are over, every place is taken, a part by each.
        std::thread::sleep(Duration::from_secs(4));
        let before = got.load(Ordering::SeqCst);
        sockets
            .iter()
            .for_each(|socket| many(socket, QUERIES_PER_PEER_MAX));
        until("all are asked", || {
            got.load(Ordering::SeqCst) == before + QUERIES_MAX
        });
        assert!(!is_answered_within(&last, IN_VAIN), "every place is taken");
        until("places are free again", || is_answered_within(&last, IN_VAIN));
    });
}
