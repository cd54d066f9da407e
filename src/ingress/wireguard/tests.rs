//! Packets on their own, and the listener against boringtun's client on the loopback.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use boringtun::noise::{Tunn, TunnResult};
use boringtun::x25519::{PublicKey, StaticSecret};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UdpSocket;
use tokio::sync::watch;
use tokio::time::timeout;

mod limits;

use super::packet::{self, ACK, FIN, Kind, Packet, RST, SYN};
use super::*;

const SOON: Duration = Duration::from_secs(10);
/// Silence that shows that nothing comes: many times what an answer takes on the loopback.
const SILENCE: Duration = Duration::from_millis(300);
const GATEWAY_KEY: [u8; 32] = [7; 32];
const GATEWAY_V4: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 254);
const GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfd99, 0, 0, 0, 0, 0, 0, 0xfe);

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// A TCP segment with its checksums.
pub(super) fn tcp(
    from: SocketAddr,
    to: SocketAddr,
    flags: u8,
    sequence: u32,
    acknowledgment: u32,
    data: &[u8],
) -> Vec<u8> {
    let mut payload = Vec::new();
    payload.extend_from_slice(&from.port().to_be_bytes());
    payload.extend_from_slice(&to.port().to_be_bytes());
    payload.extend_from_slice(&sequence.to_be_bytes());
    payload.extend_from_slice(&acknowledgment.to_be_bytes());
    payload.extend_from_slice(&[0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
    payload.extend_from_slice(data);
    packet::assemble(from.ip(), to.ip(), 6, payload, 16)
}

fn echo(from: IpAddr, to: IpAddr, data: &[u8]) -> Vec<u8> {
    let (protocol, kind) = if from.is_ipv4() { (1, 8) } else { (58, 128) };
    let mut message = vec![kind, 0, 0, 0, 1, 2, 3, 4];
    message.extend_from_slice(data);
    packet::assemble(from, to, protocol, message, 2)
}

/// One good packet of every kind.
fn good() -> Vec<Vec<u8>> {
    let (v4, v6) = (at("10.99.0.1:4000"), at("[fd99::1]:4000"));
    let mut all = Vec::new();
    for (from, to) in [(v4, at("192.0.2.1:443")), (v6, at("[2001:db8::1]:443"))] {
        all.push(tcp(from, to, SYN, 7, 0, b""));
        all.push(tcp(from, to, ACK | FIN, 7, 9, b"data"));
        all.push(packet::datagram(from, to, b"a datagram"));
        all.push(packet::datagram(from, to, b""));
        all.push(echo(from.ip(), to.ip(), b"ping"));
    }
    all
}

#[test]
fn good_packets_are_read_as_they_were_made() {
    for bytes in good() {
        let read = packet::parse(&bytes).unwrap();
        assert_eq!(read.bytes, bytes);
        assert!(matches!(
            read.source.to_string().as_str(),
            "10.99.0.1" | "fd99::1"
        ));
        match read.kind {
            Kind::Tcp(segment) => assert_eq!((segment.from, segment.to, segment.sequence), (4000, 443, 7)),
            Kind::Udp { from, to, data } => {
                assert_eq!((from, to), (4000, 443));
                assert!(data.is_empty() || data == b"a datagram");
            }
            Kind::Echo(message) => assert!(message.ends_with(b"ping")),
            Kind::Icmp => panic!("an echo request was read as another message"),
        }
        // What follows the stated length is not part of it.
        let longer = [bytes.as_slice(), b"padding"].concat();
        assert_eq!(packet::parse(&longer).unwrap(), read);
    }
}

#[test]
fn a_packet_cut_anywhere_is_malformed_and_a_flipped_bit_never_passes_for_another_connection() {
    for bytes in good() {
        let whole = packet::parse(&bytes).unwrap();
        for end in 0..bytes.len() {
            assert_eq!(packet::parse(&bytes[..end]), Err(Drop::Malformed));
        }
        for bit in 0..bytes.len() * 8 {
            let mut bent = bytes.clone();
            bent[bit / 8] ^= 1 << (bit % 8);
            if let Ok(read) = packet::parse(&bent) {
                // Fields that no checksum covers: traffic class, flow label, hop limit; and the length
                // of an IPv6 packet cannot be bent without breaking the checksum behind it.
                assert!(bytes[0] >> 4 == 6 && bit < 64, "bit {bit} of {bytes:02x?}");
                assert_eq!((read.source, read.destination), (whole.source, whole.destination));
            }
        }
    }
}

#[test]
fn what_is_not_served_is_dropped_for_its_cause() {
    let (from, to) = (at("10.99.0.1:4000"), at("192.0.2.1:443"));
    let v4 = |change: fn(&mut Vec<u8>)| {
        let mut bytes = tcp(from, to, SYN, 7, 0, b"");
        change(&mut bytes);
        bytes[10..12].fill(0);
        let checksum = !packet::fold(packet::sum(0, &bytes[..20]));
        bytes[10..12].copy_from_slice(&checksum.to_be_bytes());
        bytes
    };
    // A loose source route by way of 10.99.0.2 (RFC 791, 3.1), with a header that is right.
    let mut routed = tcp(from, to, SYN, 7, 0, b"");
    routed.splice(20..20, [131, 7, 4, 10, 99, 0, 2, 0]);
    routed[0] = 0x47;
    routed[3] += 8;
    routed[10..12].fill(0);
    let checksum = !packet::fold(packet::sum(0, &routed[..28]));
    routed[10..12].copy_from_slice(&checksum.to_be_bytes());
    let mut extension = tcp(at("[fd99::1]:1"), at("[2001:db8::1]:2"), SYN, 0, 0, b"");
    extension[6] = 0;
    let mut fragment = extension.clone();
    fragment[6] = 44;
    let mut unchecked = packet::datagram(at("[fd99::1]:1"), at("[2001:db8::1]:2"), b"x");
    unchecked[46..48].fill(0);
    let cases: &[(&str, Vec<u8>, Drop)] = &[
        ("nothing", Vec::new(), Drop::Malformed),
        ("IP version 5", vec![0x50; 40], Drop::Malformed),
        ("a first fragment", v4(|bytes| bytes[6] = 0x20), Drop::Fragment),
        ("a later fragment", v4(|bytes| bytes[7] = 1), Drop::Fragment),
        ("a short header", v4(|bytes| bytes[0] = 0x44), Drop::Malformed),
        (
            "a header longer than the packet",
            v4(|bytes| bytes[0] = 0x4f),
            Drop::Malformed,
        ),
        ("a source route", routed, Drop::Protocol),
        ("SCTP", v4(|bytes| bytes[9] = 132), Drop::Protocol),
        ("ICMPv6 in IPv4", v4(|bytes| bytes[9] = 58), Drop::Protocol),
        (
            "a TCP header longer than the segment",
            v4(|bytes| bytes[32] = 0xf0),
            Drop::Malformed,
        ),
        (
            "a TCP header shorter than a header",
            v4(|bytes| bytes[32] = 0x40),
            Drop::Malformed,
        ),
        ("an IPv6 hop-by-hop header", extension, Drop::Protocol),
        ("an IPv6 fragment", fragment, Drop::Fragment),
        ("UDP over IPv6 without a checksum", unchecked, Drop::Checksum),
    ];
    for (what, bytes, cause) in cases {
        assert_eq!(packet::parse(bytes).map(|_| ()), Err(*cause), "{what}");
    }
}

#[test]
fn a_refusal_quotes_what_it_refuses() {
    for (from, to) in [
        (at("10.99.0.1:4000"), at("192.0.2.1:443")),
        (at("[fd99::1]:4000"), at("[2001:db8::1]:443")),
    ] {
        let sent = packet::datagram(from, to, &[9; 2000]);
        let icmp = packet::unreachable(&packet::parse(&sent).unwrap()).unwrap();
        let read = packet::parse(&icmp).unwrap();
        assert_eq!((read.source, read.destination), (to.ip(), from.ip()));
        assert_eq!(read.kind, Kind::Icmp);
        let header = if from.is_ipv4() { 20 } else { 40 };
        let want: [u8; 2] = if from.is_ipv4() { [3, 3] } else { [1, 4] };
        assert_eq!(icmp[header..header + 2], want);
        let quoted = &icmp[header + 8..];
        assert!(quoted.len() >= header + 8 && sent.starts_with(quoted));
        // RFC 4443 §2.4(c): within the smallest MTU of IPv6.
        assert!(icmp.len() <= 1280);
    }
}

#[test]
fn a_datagram_to_a_group_is_not_answered() {
    for (from, to) in [
        ("10.99.0.1:5353", "224.0.0.251:5353"),
        ("10.99.0.1:68", "255.255.255.255:67"),
        ("[fd99::1]:5353", "[ff02::fb]:5353"),
    ] {
        let sent = packet::datagram(at(from), at(to), b"who is there?");
        assert_eq!(packet::unreachable(&packet::parse(&sent).unwrap()), None);
    }
}

#[test]
fn a_reset_answers_as_the_standard_says() {
    let (from, to) = (at("10.99.0.1:4000"), at("192.0.2.1:443"));
    let answer = |flags: u8, data: &[u8]| {
        let bytes = tcp(from, to, flags, 100, 500, data);
        let read = packet::parse(&bytes).unwrap();
        let Kind::Tcp(segment) = read.kind else { panic!() };
        packet::reset(&read, &segment).map(|bytes| match packet::parse(&bytes).unwrap().kind {
            Kind::Tcp(segment) => (segment.flags, segment.sequence, segment.acknowledgment),
            other => panic!("{other:?}"),
        })
    };
    assert_eq!(answer(SYN, b""), Some((RST | ACK, 0, 101)));
    assert_eq!(answer(FIN, b"abc"), Some((RST | ACK, 0, 104)));
    assert_eq!(answer(ACK, b"abc"), Some((RST, 500, 0)));
    assert_eq!(answer(RST | ACK, b""), None);
}

/// A fuzz target, as those of `tests/fuzz`: bytes, and good packets with bytes changed in them.
#[test]
fn an_inner_packet_of_any_bytes() {
    let good = good();
    bolero::check!()
        .with_iterations(3_000)
        .with_max_len(2_048)
        .with_type::<(Vec<u8>, u8, Vec<(u16, u8)>)>()
        .for_each(move |(raw, number, changes)| {
            let mut bent = good[usize::from(*number) % good.len()].clone();
            for (at, byte) in changes {
                let at = usize::from(*at) % bent.len();
                bent[at] = *byte;
            }
            for bytes in [raw, &bent] {
                let Ok(read) = packet::parse(bytes) else { continue };
                assert!(bytes.starts_with(read.bytes), "what is passed on is what came");
                assert_eq!(packet::parse(read.bytes).as_ref(), Ok(&read));
                let mut answers = packet::unreachable(&read).into_iter().collect::<Vec<_>>();
                if let Kind::Tcp(segment) = &read.kind {
                    answers.extend(packet::reset(&read, segment));
                }
                for answer in answers {
                    let answer = packet::parse(&answer).expect("an answer that cannot be read");
                    assert_eq!(
                        (answer.source, answer.destination),
                        (read.destination, read.source)
                    );
                }
            }
        });
}

/// A peer of the gateway: boringtun's other end, and packets made by hand.
struct Client {
    tunn: Tunn,
    socket: UdpSocket,
    gateway: SocketAddr,
    number: u8,
}

impl Client {
    async fn new(key: u8, number: u8, gateway: SocketAddr) -> Client {
        Client::of_key([key; 32], number, gateway).await
    }

    async fn of_key(key: [u8; 32], number: u8, gateway: SocketAddr) -> Client {
        let public = PublicKey::from(public_key(&GATEWAY_KEY));
        Client {
            tunn: Tunn::new(
                StaticSecret::from(key),
                public,
                None,
                None,
                u32::from(key[0]),
                None,
            ),
            socket: UdpSocket::bind("127.0.0.1:0").await.unwrap(),
            gateway,
            number,
        }
    }

    fn here(&self, port: u16) -> SocketAddr {
        SocketAddr::from(([10, 99, 0, self.number], port))
    }

    async fn send(&mut self, packet: &[u8]) {
        let mut buffer = vec![0; 2048];
        if let TunnResult::WriteToNetwork(datagram) = self.tunn.encapsulate(packet, &mut buffer) {
            self.socket.send_to(datagram, self.gateway).await.unwrap();
        }
    }

    /// The next datagram within `limit`, whatever is in it.
    async fn datagram(&self, limit: Duration) -> Vec<u8> {
        let mut datagram = vec![0; 2048];
        let heard = timeout(limit, self.socket.recv_from(&mut datagram)).await;
        let (length, _) = heard.expect("the gateway is silent").unwrap();
        datagram.truncate(length);
        datagram
    }

    /// The next packet out of the tunnel within `limit`.
    async fn next(&mut self, limit: Duration) -> Option<Vec<u8>> {
        timeout(limit, async {
            let mut datagram = vec![0; 2048];
            loop {
                let (length, _) = self.socket.recv_from(&mut datagram).await.unwrap();
                if let Some(packet) = self.take(&datagram[..length]).await {
                    return packet;
                }
            }
        })
        .await
        .ok()
    }

    async fn take(&mut self, datagram: &[u8]) -> Option<Vec<u8>> {
        let mut buffer = vec![0; 2048];
        let mut input = datagram;
        loop {
            match self.tunn.decapsulate(None, input, &mut buffer) {
                TunnResult::WriteToNetwork(reply) => {
                    self.socket.send_to(reply, self.gateway).await.unwrap();
                    input = &[];
                }
                TunnResult::WriteToTunnelV4(packet, _) | TunnResult::WriteToTunnelV6(packet, _) => {
                    return Some(packet.to_vec());
                }
                _ => return None,
            }
        }
    }

    /// Sends until the answer comes: the first packet may be lost to a handshake.
    async fn ask(&mut self, packet: &[u8]) -> Option<Vec<u8>> {
        for _ in 0..3 {
            self.send(packet).await;
            if let Some(answer) = self.next(Duration::from_secs(2)).await {
                return Some(answer);
            }
        }
        None
    }

    /// A whole handshake with `data` in its last segment; the acknowledgment for what follows.
    async fn dial(&mut self, from: SocketAddr, to: SocketAddr, data: &[u8]) -> u32 {
        let mut answer = self.ask(&tcp(from, to, SYN, 1, 0, b"")).await.unwrap();
        let segment = loop {
            match packet::parse(&answer).unwrap() {
                Packet {
                    source,
                    kind: Kind::Tcp(segment),
                    ..
                } if source == to.ip() && segment.to == from.port() => break segment,
                // What another connection still had to say.
                _ => answer = self.next(SOON).await.unwrap(),
            }
        };
        let acknowledgment = segment.sequence.wrapping_add(1);
        self.send(&tcp(from, to, ACK, 2, acknowledgment, data)).await;
        acknowledgment
    }

    /// The flags that answer a SYN.
    async fn syn(&mut self, from: u16, to: SocketAddr) -> Option<u8> {
        let answer = self.ask(&tcp(self.here(from), to, SYN, 1, 0, b"")).await?;
        match packet::parse(&answer).unwrap().kind {
            Kind::Tcp(segment) => Some(segment.flags),
            other => panic!("{other:?}"),
        }
    }
}

fn peer(key: u8, number: u8) -> Peer {
    Peer {
        name: format!("peer-{number}"),
        public_key: public_key(&[key; 32]),
        machine: None,
        v4: Some(Ipv4Addr::new(10, 99, 0, number)),
        v6: Some(Ipv6Addr::new(0xfd99, 0, 0, 0, 0, 0, 0, number.into())),
    }
}

fn config() -> Config {
    let dns: DnsAnswer = Arc::new(|identity, query, tcp| {
        Box::pin(
            async move { Some([query, identity.node.as_bytes().to_vec(), vec![u8::from(tcp)]].concat()) },
        )
    });
    Config {
        listen: at("127.0.0.1:0"),
        private_key: GATEWAY_KEY.into(),
        gateway_v4: Some(GATEWAY_V4),
        gateway_v6: Some(GATEWAY_V6),
        mtu: 1420,
        stack: Stack::Userspace,
        connections_max: 3,
        flows_max: FLOWS_MAX,
        dns: Some(dns),
    }
}

async fn listener(stack: Stack, peers: &[Peer]) -> (Listener, watch::Sender<Arc<PeerSet>>) {
    let config = Config { stack, ..config() };
    let set = PeerSet {
        peers: peers.to_vec(),
    };
    let (change, peers) = watch::channel(Arc::new(set));
    (Listener::bind(config, peers).await.unwrap(), change)
}

async fn dropped(listener: &Listener, cause: Drop) -> u64 {
    for _ in 0..200 {
        if let Some(count) = listener.status().drops.get(&cause) {
            return *count;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    panic!("{cause:?} was not counted: {:?}", listener.status().drops);
}

async fn any_destination_is_accepted_and_known(stack: Stack) {
    let (mut listener, _change) = listener(stack, &[peer(1, 1)]).await;
    let mut client = Client::new(1, 1, listener.local_addr()).await;
    let v4 = client.here(4001);
    let mut seen = std::collections::HashSet::new();
    for (from, to) in [
        (v4, at("203.0.113.9:4711")),
        (v4, at("169.254.169.254:65535")),
        (at("[fd99::1]:4001"), at("[2001:db8::5]:1")),
    ] {
        client.dial(from, to, b"hello").await;
        let mut flow = timeout(SOON, listener.accept()).await.unwrap().unwrap();
        assert_eq!((flow.source, flow.destination), (from, to));
        assert_eq!(
            (flow.identity.now().node.as_str(), flow.identity.now().address),
            ("peer-1", from.ip())
        );
        assert!(!flow.identity.now().proof.is_empty());
        seen.insert(flow.identity.now().proof.clone());
        let mut said = [0; 5];
        timeout(SOON, flow.stream.read_exact(&mut said))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(&said, b"hello");
    }
    assert_eq!(
        seen.len(),
        1,
        "a peer is known by its key at both of its addresses"
    );
}

async fn a_peer_speaks_from_its_own_address_alone(stack: Stack) {
    let (listener, _change) = listener(stack, &[peer(1, 1), peer(2, 2)]).await;
    let mut client = Client::new(1, 1, listener.local_addr()).await;
    assert_eq!(client.syn(4001, at("203.0.113.9:1")).await, Some(SYN | ACK));
    for source in ["10.99.0.2:1", "192.0.2.1:1", "127.0.0.1:1"] {
        client
            .send(&tcp(at(source), at("203.0.113.9:1"), SYN, 1, 0, b""))
            .await;
    }
    client
        .send(&tcp(at("[fd99::2]:1"), at("[2001:db8::1]:1"), SYN, 1, 0, b""))
        .await;
    assert_eq!(client.next(SILENCE).await, None);
    assert_eq!(dropped(&listener, Drop::SpoofedSource).await, 4);
}

/// Whoever sends and is not answered has to hear that it is heard, or it would shake hands anew: an empty
/// data message, ten seconds later (WireGuard's paper, section 6.5).
async fn a_peer_that_only_sends_hears_that_it_is_heard(stack: Stack) {
    let (listener, _change) = listener(stack, &[peer(1, 1)]).await;
    let mut client = Client::new(1, 1, listener.local_addr()).await;
    let mut buffer = vec![0; 2048];
    let TunnResult::WriteToNetwork(first) = client.tunn.format_handshake_initiation(&mut buffer, false)
    else {
        panic!("no handshake")
    };
    client.socket.send_to(first, client.gateway).await.unwrap();
    let response = client.datagram(SOON).await;
    assert_eq!(response[0], 2);
    assert_eq!(client.take(&response).await, None);
    // Timers go by the listener's last look at them, so the data has to come after one that saw the session.
    let known = async {
        let age = || {
            listener
                .status()
                .peers
                .first()
                .and_then(|peer| peer.handshake_age)
        };
        while age().is_none() {
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
    };
    timeout(SOON, known).await.unwrap();
    // Taken, and answered with nothing: its source is another's.
    client
        .send(&tcp(at("10.99.0.2:1"), at("203.0.113.9:1"), SYN, 1, 0, b""))
        .await;
    assert_eq!(dropped(&listener, Drop::SpoofedSource).await, 1);
    let heard = client.datagram(SOON * 3).await;
    assert_eq!((heard[0], heard.len()), (4, 32), "no empty data message");
    let taken = client.tunn.decapsulate(None, &heard, &mut buffer);
    assert!(matches!(taken, TunnResult::Done), "{taken:?}");
}

async fn an_unknown_key_gets_nothing_and_is_counted(stack: Stack) {
    let counted = || crate::bad_input::counted(crate::bad_input::Reader::Wireguard, "unknown_peer");
    let before = counted();
    let (listener, _change) = listener(stack, &[peer(1, 1)]).await;
    let mut stranger = Client::new(9, 1, listener.local_addr()).await;
    stranger
        .send(&tcp(stranger.here(1), at("203.0.113.9:1"), SYN, 1, 0, b""))
        .await;
    let mut datagram = [0; 2048];
    assert!(
        timeout(SILENCE, stranger.socket.recv_from(&mut datagram))
            .await
            .is_err()
    );
    assert_eq!(dropped(&listener, Drop::UnknownPeer).await, 1);
    assert!(counted() > before);
    for junk in [&[][..], &[1], &[4; 40], &[1, 0, 0, 0, 9], &[0xff; 1500]] {
        stranger
            .socket
            .send_to(junk, listener.local_addr())
            .await
            .unwrap();
    }
    dropped(&listener, Drop::Unauthenticated).await;
    let mut client = Client::new(1, 1, listener.local_addr()).await;
    assert_eq!(client.syn(4001, at("203.0.113.9:1")).await, Some(SYN | ACK));
}

/// Inside the tunnel as outside of it: what is no packet is dropped and counted, and all connections go on.
async fn malformed_packets_are_counted_and_harm_no_connection(stack: Stack) {
    let (mut listener, _change) = listener(stack, &[peer(1, 1), peer(2, 2)]).await;
    let mut client = Client::new(1, 1, listener.local_addr()).await;
    let (from, to) = (client.here(4001), at("203.0.113.9:1"));
    let acknowledgment = client.dial(from, to, b"").await;
    let mut flow = timeout(SOON, listener.accept()).await.unwrap().unwrap();
    type Change = fn(&mut Vec<u8>);
    let cases: [(&str, Change, Drop); 5] = [
        ("checksum", |bytes| bytes[43] ^= 1, Drop::Checksum),
        ("fragment", |bytes| bytes[6] = 0x20, Drop::Fragment),
        ("protocol", |bytes| bytes[9] = 132, Drop::Protocol),
        ("malformed", |bytes| bytes[32] = 0xf0, Drop::Malformed),
        // No packet at all, however well it was sealed.
        ("unauthenticated", |bytes| bytes[0] = 0x55, Drop::Unauthenticated),
    ];
    for (reason, change, cause) in cases {
        let counted = || crate::bad_input::counted(crate::bad_input::Reader::Wireguard, reason);
        let before = counted();
        let mut bytes = tcp(from, to, ACK, 2, acknowledgment, b"evil");
        change(&mut bytes);
        bytes[10..12].fill(0);
        let checksum = !packet::fold(packet::sum(0, &bytes[..20]));
        bytes[10..12].copy_from_slice(&checksum.to_be_bytes());
        client.send(&bytes).await;
        assert_eq!(dropped(&listener, cause).await, 1, "{reason}");
        assert!(counted() > before, "{reason}");
    }
    client.send(&tcp(from, to, ACK, 2, acknowledgment, b"good")).await;
    let mut said = [0; 4];
    timeout(SOON, flow.stream.read_exact(&mut said))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(&said, b"good");
    let mut other = Client::new(2, 2, listener.local_addr()).await;
    assert_eq!(other.syn(4001, to).await, Some(SYN | ACK));
}

async fn what_is_unclaimed_is_refused_at_once(stack: Stack) {
    let (listener, _change) = listener(stack, &[peer(1, 1)]).await;
    let mut client = Client::new(1, 1, listener.local_addr()).await;
    let v6 = at("[fd99::1]:4000");
    for (from, to) in [
        (client.here(4000), at("203.0.113.9:443")),
        (client.here(4000), at("203.0.113.9:53")),
        (v6, at("[2001:db8::1]:443")),
    ] {
        let sent = packet::datagram(from, to, b"quic?");
        let answer = client.ask(&sent).await.unwrap();
        assert_eq!(Some(answer), packet::unreachable(&packet::parse(&sent).unwrap()));
    }
    // A segment of no connection.
    assert_eq!(
        client
            .ask(&tcp(client.here(1), at("203.0.113.9:1"), ACK, 1, 1, b"x"))
            .await
            .map(|answer| answer[33]),
        Some(RST)
    );
    // The gateway itself answers an echo; no one answers for another host.
    let answer = client
        .ask(&echo(client.here(0).ip(), GATEWAY_V4.into(), b"ping"))
        .await
        .unwrap();
    assert_eq!((answer[20], &answer[28..]), (0, &b"ping"[..]));
    let answer = client
        .ask(&echo(v6.ip(), GATEWAY_V6.into(), b"ping"))
        .await
        .unwrap();
    assert_eq!((answer[40], &answer[48..]), (129, &b"ping"[..]));
    let answer = client
        .ask(&echo(client.here(0).ip(), at("192.0.2.1:1").ip(), b"ping"))
        .await
        .unwrap();
    assert_eq!(answer[20], 3);
    // DNS at the gateway's address alone.
    let dns = packet::datagram(client.here(5000), SocketAddr::from((GATEWAY_V4, 53)), b"q");
    let answer = client.ask(&dns).await.unwrap();
    let Kind::Udp { data, .. } = packet::parse(&answer).unwrap().kind else {
        panic!()
    };
    assert_eq!(data, b"qpeer-1\0");
}

async fn refusals_and_connections_are_bounded(stack: Stack) {
    let (listener, _change) = listener(stack, &[peer(1, 1)]).await;
    let mut client = Client::new(1, 1, listener.local_addr()).await;
    for port in 1..=3 {
        assert_eq!(client.syn(port, at("203.0.113.9:1")).await, Some(SYN | ACK));
    }
    assert_eq!(client.syn(4, at("203.0.113.9:1")).await, Some(RST | ACK));
    assert_eq!(dropped(&listener, Drop::ConnectionLimit).await, 1);
    for port in 0..super::driver::REFUSALS_PER_SECOND_MAX * 2 + 2 {
        let to = SocketAddr::from(([203, 0, 113, 9], 1000 + u16::try_from(port).unwrap()));
        client.send(&packet::datagram(client.here(1), to, b"x")).await;
    }
    assert!(dropped(&listener, Drop::RateLimited).await > 0);
}

/// A machine has a key for each of its runs: none of them has a whole peer's share.
async fn the_keys_of_one_peer_share_its_connections(stack: Stack) {
    let keys: Vec<Peer> = (1..=6)
        .map(|number| Peer {
            name: if number < 6 { "machine" } else { "other" }.to_owned(),
            ..peer(number, number)
        })
        .collect();
    let (listener, _change) = listener(stack, &keys).await;
    let to = at("203.0.113.9:1");
    for number in 1..=4 {
        let mut client = Client::new(number, number, listener.local_addr()).await;
        for port in 1..=3 {
            assert_eq!(client.syn(port, to).await, Some(SYN | ACK), "{number}");
        }
    }
    let mut fifth = Client::new(5, 5, listener.local_addr()).await;
    assert_eq!(fifth.syn(1, to).await, Some(RST | ACK));
    let mut other = Client::new(6, 6, listener.local_addr()).await;
    assert_eq!(other.syn(1, to).await, Some(SYN | ACK));
}

async fn a_peer_roams_and_rekeys_while_its_connection_lives(stack: Stack) {
    let (mut listener, _change) = listener(stack, &[peer(1, 1)]).await;
    let mut client = Client::new(1, 1, listener.local_addr()).await;
    let (from, to) = (client.here(4001), at("203.0.113.9:1"));
    let acknowledgment = client.dial(from, to, b"one").await;
    let mut flow = timeout(SOON, listener.accept()).await.unwrap().unwrap();
    // Another UDP port, as behind another NAT.
    client.socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    client.send(&tcp(from, to, ACK, 5, acknowledgment, b"two")).await;
    let mut said = [0; 6];
    timeout(SOON, flow.stream.read_exact(&mut said))
        .await
        .unwrap()
        .unwrap();
    // New session keys, in the middle of it.
    let mut buffer = vec![0; 2048];
    let TunnResult::WriteToNetwork(again) = client.tunn.format_handshake_initiation(&mut buffer, true) else {
        panic!("no handshake")
    };
    client.socket.send_to(again, client.gateway).await.unwrap();
    let mut datagram = [0; 2048];
    loop {
        let (length, _) = timeout(SOON, client.socket.recv_from(&mut datagram))
            .await
            .unwrap()
            .unwrap();
        let is_response = datagram[0] == 2;
        let _ = client.take(&datagram[..length]).await;
        if is_response {
            break;
        }
    }
    client
        .send(&tcp(from, to, ACK, 8, acknowledgment, b"three"))
        .await;
    let mut more = [0; 5];
    timeout(SOON, flow.stream.read_exact(&mut more))
        .await
        .unwrap()
        .unwrap();
    assert_eq!((&said, &more), (b"onetwo", b"three"));
    flow.stream.write_all(b"back").await.unwrap();
    let found = async {
        loop {
            let bytes = client.next(SOON).await.unwrap();
            if bytes.ends_with(b"back") {
                return;
            }
        }
    };
    timeout(SOON, found).await.unwrap();
}

async fn a_flood_of_handshakes_must_prove_its_address_and_locks_nobody_out(stack: Stack) {
    let (listener, _change) = listener(stack, &[peer(1, 1)]).await;
    let mut flood = Client::new(1, 1, listener.local_addr()).await;
    let mut buffer = vec![0; 2048];
    for _ in 0..300 {
        if let TunnResult::WriteToNetwork(init) = flood.tunn.format_handshake_initiation(&mut buffer, true) {
            flood.socket.send_to(init, flood.gateway).await.unwrap();
        }
    }
    let mut cookie = false;
    let mut datagram = [0; 2048];
    while let Ok(Ok((length, _))) =
        timeout(Duration::from_secs(1), flood.socket.recv_from(&mut datagram)).await
    {
        cookie |= datagram[0] == 3 && length == 64;
    }
    assert!(cookie, "no cookie was asked for");
    assert!(dropped(&listener, Drop::RateLimited).await > 0);
    // Another end with the key, from an address that it can prove.
    let mut client = Client::new(1, 1, listener.local_addr()).await;
    assert_eq!(client.syn(4001, at("203.0.113.9:1")).await, Some(SYN | ACK));
}

async fn a_removed_peer_loses_its_connections_and_its_address_may_be_anothers(stack: Stack) {
    let (mut listener, change) = listener(stack, &[peer(1, 1)]).await;
    let mut client = Client::new(1, 1, listener.local_addr()).await;
    let (from, to) = (client.here(4001), at("203.0.113.9:1"));
    let acknowledgment = client.dial(from, to, b"").await;
    let mut flow = timeout(SOON, listener.accept()).await.unwrap().unwrap();
    // The same address with another key: another peer, in one step.
    let other = Peer {
        name: "other".to_owned(),
        ..peer(2, 1)
    };
    change.send(Arc::new(PeerSet { peers: vec![other] })).unwrap();
    let mut byte = [0];
    let ended = timeout(SOON, flow.stream.read(&mut byte)).await.unwrap();
    assert!(!matches!(ended, Ok(1..)), "{ended:?}");
    let told = async {
        loop {
            let bytes = client.next(SOON).await.unwrap();
            if matches!(packet::parse(&bytes).unwrap().kind, Kind::Tcp(segment) if segment.flags & RST != 0) {
                return;
            }
        }
    };
    timeout(SOON, told).await.unwrap();
    client
        .send(&tcp(from, to, ACK, 2, acknowledgment, b"still me"))
        .await;
    dropped(&listener, Drop::UnknownPeer).await;
    let mut next = Client::new(2, 1, listener.local_addr()).await;
    assert_eq!(next.syn(4001, to).await, Some(SYN | ACK));
}

#[tokio::test]
async fn an_mtu_out_of_range_is_refused() {
    for (mtu, fits) in [(1279, false), (1280, true), (9000, true), (9001, false)] {
        let (_change, peers) = watch::channel(Arc::default());
        let bound = Listener::bind(Config { mtu, ..config() }, peers).await;
        assert_eq!(bound.is_ok(), fits, "{mtu}");
    }
}

async fn half_open_connections_are_few(stack: Stack) {
    let (_change, peers) = watch::channel(Arc::new(PeerSet {
        peers: vec![peer(1, 1), peer(2, 2)],
    }));
    let many = Config {
        stack,
        connections_max: 1000,
        ..config()
    };
    let listener = Listener::bind(many, peers).await.unwrap();
    let mut client = Client::new(1, 1, listener.local_addr()).await;
    let to = at("203.0.113.9:1");
    assert_eq!(client.syn(1, to).await, Some(SYN | ACK));
    for port in 2..=u16::try_from(super::kernel::HALF_OPEN_MAX).unwrap() + 1 {
        client.send(&tcp(client.here(port), to, SYN, 1, 0, b"")).await;
    }
    assert_eq!(dropped(&listener, Drop::ConnectionLimit).await, 1);
    // Another peer has its own.
    let mut other = Client::new(2, 2, listener.local_addr()).await;
    assert_eq!(other.syn(1, to).await, Some(SYN | ACK));
}

#[tokio::test]
async fn the_kernel_holds_few_half_open_connections() {
    if able() {
        half_open_connections_are_few(Stack::Kernel).await;
    }
}

async fn what_was_sent_arrives_after_the_gateway_let_go(stack: Stack) {
    let (mut listener, _change) = listener(stack, &[peer(1, 1)]).await;
    let mut client = Client::new(1, 1, listener.local_addr()).await;
    let (from, to) = (client.here(4001), at("203.0.113.9:1"));
    client.dial(from, to, b"").await;
    let mut flow = timeout(SOON, listener.accept()).await.unwrap().unwrap();
    flow.stream.write_all(b"the last words").await.unwrap();
    drop(flow);
    let (mut data, mut finished) = (Vec::new(), false);
    let heard = async {
        while !finished || data.is_empty() {
            let bytes = client.next(SOON).await.unwrap();
            let Kind::Tcp(segment) = packet::parse(&bytes).unwrap().kind else {
                continue;
            };
            finished |= segment.flags & FIN != 0;
            if bytes.ends_with(b"the last words") {
                data = bytes;
            }
        }
    };
    timeout(SOON, heard).await.unwrap();
    // And unread bytes of the peer are answered with a reset: they were lost.
    let from = client.here(4002);
    let acknowledgment = client.dial(from, to, b"unread").await;
    let flow = timeout(SOON, listener.accept()).await.unwrap().unwrap();
    drop(flow);
    client.send(&tcp(from, to, ACK, 8, acknowledgment, b"more")).await;
    let reset = async {
        loop {
            let bytes = client.next(SOON).await.unwrap();
            if matches!(packet::parse(&bytes).unwrap().kind, Kind::Tcp(segment) if segment.to == 4002 && segment.flags & RST != 0)
            {
                return;
            }
        }
    };
    timeout(SOON, reset).await.unwrap();
}

/// Whether this machine lets the kernel's TCP be used.
fn able() -> bool {
    let made = crate::sys::private_tcp::make(crate::sys::private_tcp::Plan { mtu: 1420 });
    if let Err(why) = &made {
        eprintln!("SKIPPED: no kernel TCP here: {why}");
    }
    made.is_ok()
}

/// What both ways of ending TCP must do alike.
macro_rules! over_both {
    ($($name:ident,)*) => {
        mod userspace {
            $(#[tokio::test]
            async fn $name() {
                super::$name(super::Stack::Userspace).await;
            })*
        }
        mod kernel_tcp {
            $(#[tokio::test]
            async fn $name() {
                if super::able() {
                    super::$name(super::Stack::Kernel).await;
                }
            })*
        }
    };
}

use limits::{
    connections_of_all_peers_are_bounded, connections_that_nobody_takes_are_reset, thousands_share_one_port,
};

over_both! {
    connections_of_all_peers_are_bounded,
    connections_that_nobody_takes_are_reset,
    thousands_share_one_port,
    any_destination_is_accepted_and_known,
    a_peer_speaks_from_its_own_address_alone,
    a_peer_that_only_sends_hears_that_it_is_heard,
    an_unknown_key_gets_nothing_and_is_counted,
    malformed_packets_are_counted_and_harm_no_connection,
    what_is_unclaimed_is_refused_at_once,
    refusals_and_connections_are_bounded,
    the_keys_of_one_peer_share_its_connections,
    a_peer_roams_and_rekeys_while_its_connection_lives,
    a_flood_of_handshakes_must_prove_its_address_and_locks_nobody_out,
    a_removed_peer_loses_its_connections_and_its_address_may_be_anothers,
    what_was_sent_arrives_after_the_gateway_let_go,
}
