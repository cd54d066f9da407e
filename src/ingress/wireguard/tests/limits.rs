//! How many connections, and how much of each.

use super::*;
use crate::ingress::FlowStream;
use crate::sys::buffers_are_fixed;

/// Behind it come keys that are nobody else's.
const FIRST_KEY: u8 = 100;

async fn bounded(stack: Stack, connections_max: usize, flows_max: usize) -> Listener {
    let (change, peers) = watch::channel(Arc::new(PeerSet {
        peers: vec![peer(1, 1), peer(2, 2)],
    }));
    let bounds = Config {
        stack,
        connections_max,
        flows_max,
        ..config()
    };
    let listener = Listener::bind(bounds, peers).await.unwrap();
    // The peers stay.
    std::mem::forget(change);
    listener
}

pub(super) async fn connections_of_all_peers_are_bounded(stack: Stack) {
    let mut listener = bounded(stack, 3, 4).await;
    let mut one = Client::new(1, 1, listener.local_addr()).await;
    let mut other = Client::new(2, 2, listener.local_addr()).await;
    let to = at("203.0.113.9:1");
    let mut flows = Vec::new();
    for port in 1..=3 {
        one.dial(one.here(port), to, b"").await;
        flows.push(timeout(SOON, listener.accept()).await.unwrap().unwrap());
    }
    assert_eq!(other.syn(1, to).await, Some(SYN | ACK));
    assert_eq!(other.syn(2, to).await, Some(RST | ACK));
    assert_eq!(dropped(&listener, Drop::ConnectionLimit).await, 1);
}

pub(super) async fn connections_that_nobody_takes_are_reset(stack: Stack) {
    let most = ACCEPT_QUEUE_MAX + 100;
    let mut listener = bounded(stack, most, most).await;
    let mut client = Client::new(1, 1, listener.local_addr()).await;
    let to = at("203.0.113.9:1");
    for port in 1..=ACCEPT_QUEUE_MAX + 1 {
        client
            .dial(client.here(u16::try_from(port).unwrap()), to, b"")
            .await;
    }
    assert_eq!(dropped(&listener, Drop::AcceptQueue).await, 1);
    // Who takes them finds as many as there was room for, and there is room again.
    for _ in 0..ACCEPT_QUEUE_MAX {
        timeout(SOON, listener.accept()).await.unwrap().unwrap();
    }
    let last = client.here(u16::try_from(most).unwrap());
    client.dial(last, to, b"").await;
    let flow = timeout(SOON, listener.accept()).await.unwrap().unwrap();
    assert_eq!(flow.source, last);
}

/// Peers on one port have no number of their own: each is told by its key, and by its key alone.
pub(super) async fn thousands_share_one_port(stack: Stack) {
    const PEERS: u16 = 2_000;
    let key = |number: u16| {
        let mut key = [FIRST_KEY; 32];
        // Of the first byte and the last, X25519 does not take all bits.
        key[1..3].copy_from_slice(&number.to_be_bytes());
        key
    };
    let v4 = |number: u16| Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 100, 0, 0)) + u32::from(number));
    let peers: Vec<Peer> = (0..PEERS)
        .map(|number| Peer {
            name: format!("peer-{number}"),
            public_key: public_key(&key(number)),
            machine: None,
            v4: Some(v4(number)),
            v6: None,
        })
        .collect();
    let (mut listener, _change) = listener(stack, &peers).await;
    let known = async {
        while listener.status().peers.len() < usize::from(PEERS) {
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
    };
    timeout(SOON, known).await.unwrap();
    let to = at("203.0.113.9:1");
    for number in [0, 1, PEERS / 2, PEERS - 1] {
        let mut client = Client::of_key(key(number), 0, listener.local_addr()).await;
        let own = SocketAddr::from((v4(number), 4001));
        client.dial(own, to, b"").await;
        let flow = timeout(SOON, listener.accept()).await.unwrap().unwrap();
        let identity = flow.identity.now();
        assert_eq!(
            (flow.source, identity.node.as_str()),
            (own, format!("peer-{number}").as_str())
        );
        let other = SocketAddr::from((v4((number + 1) % PEERS), 4001));
        client.send(&tcp(other, to, SYN, 1, 0, b"")).await;
    }
    let spoofed = async {
        while listener.status().drops.get(&Drop::SpoofedSource) != Some(&4) {
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
    };
    timeout(SOON, spoofed).await.unwrap();
}

#[tokio::test]
async fn few_connections_of_a_peer_may_hold_much() {
    if !able() {
        return;
    }
    let mut listener = bounded(Stack::Kernel, 1000, 1000).await;
    let mut client = Client::new(1, 1, listener.local_addr()).await;
    let to = at("203.0.113.9:1");
    let fixed = |flow: &Flow| {
        let FlowStream::Private(stream) = &flow.stream else {
            panic!("not the kernel's")
        };
        buffers_are_fixed(stream.socket()).unwrap()
    };
    let wide = crate::ingress::wireguard::kernel::WIDE_PER_PEER_MAX;
    let mut flows = Vec::new();
    for port in 1..=wide + 1 {
        client
            .dial(client.here(u16::try_from(port).unwrap()), to, b"")
            .await;
        flows.push(timeout(SOON, listener.accept()).await.unwrap().unwrap());
    }
    let narrow = flows.iter().filter(|flow| fixed(flow)).count();
    assert_eq!((narrow, fixed(&flows[wide])), (1, true));
    // Another peer has its own.
    let mut other = Client::new(2, 2, listener.local_addr()).await;
    other.dial(other.here(1), to, b"").await;
    assert!(!fixed(&timeout(SOON, listener.accept()).await.unwrap().unwrap()));
    // The place of one that ended is free. It ends at both sides: a reset says so.
    drop(flows.remove(0));
    client.send(&tcp(client.here(1), to, RST, 2, 0, b"")).await;
    let free = async {
        for port in 1000.. {
            client.dial(client.here(port), to, b"").await;
            let flow = listener.accept().await.unwrap();
            if !fixed(&flow) {
                return;
            }
        }
    };
    timeout(SOON, free).await.unwrap();
}

#[tokio::test]
async fn queries_in_flight_have_a_number_for_each_peer_and_for_all() {
    use crate::ingress::wireguard::driver::{DNS_IN_FLIGHT_MAX, DNS_IN_FLIGHT_PER_PEER_MAX};
    let many = u8::try_from(DNS_IN_FLIGHT_MAX / DNS_IN_FLIGHT_PER_PEER_MAX).unwrap() + 1;
    let (began, mut begun) = tokio::sync::mpsc::unbounded_channel();
    let bounds = Config {
        // A resolver that never answers.
        dns: Some(Arc::new(move |identity, _, _| {
            let _ = began.send(identity.node.clone());
            Box::pin(std::future::pending())
        })),
        ..config()
    };
    let set = PeerSet {
        peers: (1..=many)
            .map(|number| peer(FIRST_KEY + number, number))
            .collect(),
    };
    let (_change, peers) = watch::channel(Arc::new(set));
    let listener = Listener::bind(bounds, peers).await.unwrap();
    let dns = SocketAddr::from((GATEWAY_V4, 53));
    let mut clients = Vec::new();
    for number in 1..=many {
        let mut client = Client::new(FIRST_KEY + number, number, listener.local_addr()).await;
        assert_eq!(client.syn(1, at("203.0.113.9:1")).await, Some(SYN | ACK));
        // One more than it may have, but for the last, who finds all places taken.
        for port in 0..=DNS_IN_FLIGHT_PER_PEER_MAX {
            let port = 5000 + u16::try_from(port).unwrap();
            client.send(&packet::datagram(client.here(port), dns, b"q")).await;
        }
        if number < many {
            for _ in 0..DNS_IN_FLIGHT_PER_PEER_MAX {
                timeout(SOON, begun.recv()).await.unwrap().unwrap();
            }
        }
        clients.push(client);
    }
    let refused = usize::from(many - 1) + DNS_IN_FLIGHT_PER_PEER_MAX + 1;
    let all = async {
        while listener.status().drops.get(&Drop::DnsBusy).copied() != Some(refused as u64) {
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
    };
    timeout(SOON, all).await.unwrap();
    assert!(begun.try_recv().is_err(), "one more was asked");
}

#[tokio::test]
async fn few_connections_of_all_peers_may_hold_much() {
    use crate::ingress::wireguard::kernel::{WIDE_MAX, WIDE_PER_PEER_MAX};
    if !able() {
        return;
    }
    let many = u8::try_from(WIDE_MAX / WIDE_PER_PEER_MAX).unwrap() + 1;
    let bounds = Config {
        stack: Stack::Kernel,
        connections_max: 1000,
        ..config()
    };
    let set = PeerSet {
        peers: (1..=many)
            .map(|number| peer(FIRST_KEY + number, number))
            .collect(),
    };
    let (_change, peers) = watch::channel(Arc::new(set));
    let mut listener = Listener::bind(bounds, peers).await.unwrap();
    let to = at("203.0.113.9:1");
    let (mut flows, mut clients) = (Vec::new(), Vec::new());
    for number in 1..=many {
        let mut client = Client::new(FIRST_KEY + number, number, listener.local_addr()).await;
        let count = if number < many { WIDE_PER_PEER_MAX } else { 1 };
        for port in 1..=count {
            client
                .dial(client.here(u16::try_from(port).unwrap()), to, b"")
                .await;
            flows.push(timeout(SOON, listener.accept()).await.unwrap().unwrap());
        }
        clients.push(client);
    }
    let is_fixed = |flow: &Flow| {
        let FlowStream::Private(stream) = &flow.stream else {
            panic!("not the kernel's")
        };
        buffers_are_fixed(stream.socket()).unwrap()
    };
    let narrow: Vec<usize> = (0..flows.len())
        .filter(|index| is_fixed(&flows[*index]))
        .collect();
    assert_eq!(narrow, [WIDE_MAX]);
}

/// Its peer answers nothing more, which the stack alone would wait for longer.
#[tokio::test]
async fn a_connection_that_was_let_go_is_forgotten_in_time() {
    let (mut listener, _change) = listener(Stack::Userspace, &[peer(1, 1)]).await;
    let mut client = Client::new(1, 1, listener.local_addr()).await;
    client.dial(client.here(4001), at("203.0.113.9:1"), b"").await;
    drop(timeout(SOON, listener.accept()).await.unwrap().unwrap());
    let connections = async |wanted: usize| {
        while listener.status().peers.first().map(|peer| peer.connections) != Some(wanted) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(SOON, connections(1)).await.expect("it is not known");
    let most = Duration::from_secs(flow::LINGER_S) + SOON;
    timeout(most, connections(0))
        .await
        .expect("it is waited for still");
}
