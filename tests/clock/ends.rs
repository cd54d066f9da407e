//! The two ends of a tunnel, and what lies between them.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use boringtun::noise::{Tunn, TunnResult};
use boringtun::x25519::{PublicKey, StaticSecret};
use tailkeep::client::store::{Assigned, Enrolment};
use tailkeep::client::tunnel::Tunnel;
use tailkeep::ingress::wireguard::{Config, Drop, FLOWS_MAX, Listener, Peer, PeerSet, public_key};
use tailkeep::policy::model::Stack;
use tokio::net::UdpSocket;
use tokio::sync::watch;
use tokio::time::timeout;

const GATEWAY_KEY: [u8; 32] = [7; 32];
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 254);
const AGENT: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);
/// How long anything may take on a busy machine.
pub const SOON: Duration = Duration::from_secs(20);
/// A moment between two looks.
const LOOK: Duration = Duration::from_millis(20);

/// Kinds of WireGuard messages, by their first byte.
pub const INITIATION: u8 = 1;
pub const RESPONSE: u8 = 2;
pub const COOKIE: u8 = 3;
pub const DATA: u8 = 4;
/// A data message with nothing in it, bytes.
pub const KEEPALIVE_BYTES: usize = 32;

/// The gateway's end, which knows the peer of key 1.
pub struct Gateway {
    pub listener: Listener,
    _peers: watch::Sender<Arc<PeerSet>>,
}

impl Gateway {
    pub async fn start() -> Gateway {
        let peer = Peer {
            name: "agent".to_owned(),
            public_key: public_key(&[1; 32]),
            machine: None,
            v4: Some(AGENT),
            v6: None,
        };
        let (change, peers) = watch::channel(Arc::new(PeerSet { peers: vec![peer] }));
        let config = Config {
            listen: "127.0.0.1:0".parse().unwrap(),
            private_key: GATEWAY_KEY.into(),
            gateway_v4: Some(GATEWAY),
            gateway_v6: None,
            mtu: 1420,
            // The kernel's TCP is made in a thread, and a process with two has one clock.
            stack: Stack::Userspace,
            connections_max: 8,
            flows_max: FLOWS_MAX,
            dns: None,
        };
        Gateway {
            listener: Listener::bind(config, peers).await.unwrap(),
            _peers: change,
        }
    }

    pub fn address(&self) -> SocketAddr {
        self.listener.local_addr()
    }

    /// Age of the session with the peer; `None` where there is none.
    pub fn session_age(&self) -> Option<Duration> {
        let status = self.listener.status();
        status.peers.first().and_then(|peer| peer.handshake_age)
    }

    pub fn dropped(&self, cause: Drop) -> u64 {
        self.listener.status().drops.get(&cause).copied().unwrap_or(0)
    }
}

/// Waits for a condition.
pub async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let waited = timeout(SOON, async {
        while !holds() {
            tokio::time::sleep(LOOK).await;
        }
    });
    assert!(waited.await.is_ok(), "not in time: {what}");
}

/// Waits until both ends and the wire have read what was sent to them.
pub async fn all_is_read() {
    until("all is read", || unread() == 0).await;
}

/// Bytes that wait in this process's UDP sockets (the fifth column of the kernel's table, behind the colon).
fn unread() -> u64 {
    let fds = std::fs::read_dir("/proc/self/fd").unwrap();
    let links = fds.filter_map(|fd| std::fs::read_link(fd.ok()?.path()).ok());
    let own: HashSet<String> = links.map(|link| link.display().to_string()).collect();
    let table = std::fs::read_to_string("/proc/self/net/udp").unwrap();
    let rows = table
        .lines()
        .map(|row| row.split_whitespace().collect::<Vec<_>>());
    let queued = rows
        .filter(|row| own.contains(&format!("socket:[{}]", row[9])))
        .map(|row| u64::from_str_radix(row[4].split_once(':').unwrap().1, 16).unwrap());
    queued.sum()
}

/// A wire between an agent and the gateway that counts what passes.
#[derive(Clone, Default)]
pub struct Wire(Arc<Mutex<Vec<(bool, u8, usize)>>>);

impl Wire {
    /// The address that leads to `gateway`.
    pub async fn to(&self, gateway: SocketAddr) -> SocketAddr {
        let near = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let far = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        far.connect(gateway).await.unwrap();
        let address = near.local_addr().unwrap();
        let seen = self.0.clone();
        tokio::spawn(async move {
            let (mut one, mut other) = (vec![0; 2048], vec![0; 2048]);
            let mut agent = None;
            loop {
                tokio::select! {
                    Ok((length, from)) = near.recv_from(&mut one) => {
                        agent = Some(from);
                        seen.lock().unwrap().push((true, one[0], length));
                        let _ = far.send(&one[..length]).await;
                    }
                    Ok(length) = far.recv(&mut other) => {
                        seen.lock().unwrap().push((false, other[0], length));
                        if let Some(agent) = agent {
                            let _ = near.send_to(&other[..length], agent).await;
                        }
                    }
                }
            }
        });
        address
    }

    fn count(&self, like: impl Fn(&(bool, u8, usize)) -> bool) -> usize {
        self.0.lock().unwrap().iter().filter(|one| like(one)).count()
    }

    /// Messages of a kind, both ways.
    pub fn messages(&self, kind: u8) -> usize {
        self.count(|(_, own, _)| *own == kind)
    }

    /// Empty data messages of the agent.
    pub fn agents_keepalives(&self) -> usize {
        self.count(|one| *one == (true, DATA, KEEPALIVE_BYTES))
    }

    /// Empty data messages of the gateway.
    pub fn gateways_keepalives(&self) -> usize {
        self.count(|one| *one == (false, DATA, KEEPALIVE_BYTES))
    }
}

/// The agent's end as `tailkeep run` has it; the test holds the other side of its device.
pub struct Agent {
    device: tokio::io::unix::AsyncFd<OwnedFd>,
    sequence: u8,
}

impl Agent {
    pub async fn start(endpoint: SocketAddr) -> Agent {
        let enrolment = Enrolment {
            private_key: STANDARD.encode([1; 32]),
            authority: String::new(),
            assigned: Assigned {
                name: "agent".to_owned(),
                address_v4: Some(AGENT),
                address_v6: None,
                gateway_public_key: STANDARD.encode(public_key(&GATEWAY_KEY)),
                wireguard_endpoint: endpoint.to_string(),
                dns: Vec::new(),
                mtu: 1420,
                ca_pem: String::new(),
                placeholders: Default::default(),
                endpoints: Vec::new(),
                clusters: Vec::new(),
            },
        };
        let tunnel = Tunnel::connect(&enrolment).await.unwrap();
        let (inner, outer) = rustix::net::socketpair(
            rustix::net::AddressFamily::UNIX,
            rustix::net::SocketType::SEQPACKET,
            rustix::net::SocketFlags::NONBLOCK | rustix::net::SocketFlags::CLOEXEC,
            None,
        )
        .unwrap();
        tokio::spawn(tunnel.carry(inner));
        #[allow(deprecated, reason = "the replacement is an unsafe function")]
        let device = tokio::io::unix::AsyncFd::new(outer).unwrap();
        Agent { device, sequence: 0 }
    }

    /// Asks the gateway for an echo until it comes.
    pub async fn is_answered(&mut self) {
        let mut buffer = [0; 2048];
        let answered = timeout(SOON, async {
            loop {
                self.sequence += 1;
                let sent = echo(8, self.sequence);
                rustix::io::write(self.device.get_ref(), &sent).unwrap();
                let answer = async {
                    loop {
                        let mut ready = self.device.readable().await.unwrap();
                        let read = ready.try_io(|fd| Ok(rustix::io::read(fd.as_fd(), &mut buffer)?));
                        if let Ok(read) = read
                            && buffer[..read.unwrap()].ends_with(&sent[24..])
                        {
                            return;
                        }
                    }
                };
                // What was under way when the keys went is lost, as on any network.
                if timeout(Duration::from_secs(1), answer).await.is_ok() {
                    return;
                }
            }
        });
        assert!(answered.await.is_ok(), "the gateway does not answer");
    }

    /// Asks again and again, until a condition holds. Timers are read four times a second: what is sent
    /// before the first look still counts for the time before.
    pub async fn speaks_until(&mut self, what: &str, mut holds: impl FnMut() -> bool) {
        let spoken = timeout(SOON, async {
            while !holds() {
                self.is_answered().await;
                tokio::time::sleep(LOOK).await;
            }
        });
        assert!(spoken.await.is_ok(), "not in time: {what}");
    }

    /// Sends what nobody answers.
    pub fn says_something(&mut self) {
        rustix::io::write(self.device.get_ref(), &echo(0, 0)).unwrap();
    }
}

/// The Internet checksum (RFC 1071).
fn checksum(bytes: &[u8]) -> [u8; 2] {
    let words = bytes
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1]));
    let sum: u32 = words.sum();
    (!((sum & 0xffff) + (sum >> 16)) as u16).to_be_bytes()
}

/// An IPv4 packet of the agent to the gateway.
fn packet(protocol: u8, message: &[u8]) -> Vec<u8> {
    let length = 20 + u8::try_from(message.len()).unwrap();
    let mut packet = vec![0x45, 0, 0, length, 0, 0, 0, 0, 64, protocol, 0, 0];
    packet.extend(AGENT.octets());
    packet.extend(GATEWAY.octets());
    let sum = checksum(&packet);
    packet[10..12].copy_from_slice(&sum);
    packet.extend(message);
    packet
}

/// An ICMP message of the agent to the gateway (RFC 792).
pub fn echo(kind: u8, sequence: u8) -> Vec<u8> {
    let mut message = [kind, 0, 0, 0, 0, 1, 0, sequence];
    let sum = checksum(&message);
    message[2..4].copy_from_slice(&sum);
    packet(1, &message)
}

/// The first segment of a TCP connection of the agent's, from port 4000 to 80 (RFC 9293).
pub fn syn() -> Vec<u8> {
    let mut segment = [
        0x0f, 0xa0, 0, 80, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 0xff, 0xff, 0, 0, 0, 0,
    ];
    let pseudo = [&AGENT.octets()[..], &GATEWAY.octets(), &[0, 6, 0, 20]].concat();
    let sum = checksum(&[&pseudo[..], &segment].concat());
    segment[16..18].copy_from_slice(&sum);
    packet(6, &segment)
}

/// An end that does only what a story tells it.
pub struct Hand {
    pub tunn: Tunn,
    pub socket: UdpSocket,
    gateway: SocketAddr,
}

impl Hand {
    /// With the private key of `key` bytes, at an address of the loopback.
    pub async fn new(key: u8, from: IpAddr, gateway: SocketAddr) -> Hand {
        let public = PublicKey::from(public_key(&GATEWAY_KEY));
        let socket = UdpSocket::bind((from, 0)).await.unwrap();
        Hand {
            tunn: Tunn::new(
                StaticSecret::from([key; 32]),
                public,
                None,
                None,
                u32::from(key),
                None,
            ),
            socket,
            gateway,
        }
    }

    /// The bytes of a handshake's beginning.
    pub fn initiation(&mut self) -> Vec<u8> {
        let mut buffer = vec![0; 2048];
        match self.tunn.format_handshake_initiation(&mut buffer, true) {
            TunnResult::WriteToNetwork(message) => message.to_vec(),
            other => panic!("{other:?}"),
        }
    }

    /// The datagram of a packet.
    pub fn seal(&mut self, packet: &[u8]) -> Vec<u8> {
        let mut buffer = vec![0; 2048];
        match self.tunn.encapsulate(packet, &mut buffer) {
            TunnResult::WriteToNetwork(message) => message.to_vec(),
            other => panic!("{other:?}"),
        }
    }

    pub async fn send(&self, datagram: &[u8]) {
        self.socket.send_to(datagram, self.gateway).await.unwrap();
    }

    /// The next datagram of the gateway.
    pub async fn hears(&self) -> Vec<u8> {
        timeout(SOON, self.hear()).await.expect("the gateway is silent")
    }

    /// Takes in what comes up to the first datagram that is wanted, and gives that.
    pub async fn hears_until(&mut self, wanted: impl Fn(&[u8]) -> bool) -> Vec<u8> {
        loop {
            let heard = self.hears().await;
            if wanted(&heard) {
                return heard;
            }
            let _ = self.takes(&heard);
        }
    }

    /// The next datagram, if there is one in a moment.
    pub async fn hears_soon(&self) -> Option<Vec<u8>> {
        timeout(Duration::from_secs(1), self.hear()).await.ok()
    }

    async fn hear(&self) -> Vec<u8> {
        let mut buffer = vec![0; 2048];
        let (length, _) = self.socket.recv_from(&mut buffer).await.unwrap();
        buffer.truncate(length);
        buffer
    }

    /// Sends until the first datagram that comes back.
    pub async fn asks(&self, datagram: &[u8]) -> Vec<u8> {
        self.send(datagram).await;
        self.hears().await
    }

    /// Takes a datagram in; what it says in return.
    pub fn takes(&mut self, datagram: &[u8]) -> Option<Vec<u8>> {
        let mut buffer = vec![0; 2048];
        match self.tunn.decapsulate(None, datagram, &mut buffer) {
            TunnResult::WriteToNetwork(reply) => Some(reply.to_vec()),
            TunnResult::WriteToTunnelV4(packet, _) => Some(packet.to_vec()),
            TunnResult::Done => None,
            other => panic!("{other:?}"),
        }
    }

    /// A whole handshake.
    pub async fn shakes_hands(&mut self) {
        let initiation = self.initiation();
        let response = self.asks(&initiation).await;
        assert_eq!(response[0], RESPONSE);
        let confirmation = self.takes(&response).unwrap();
        self.send(&confirmation).await;
    }
}
