//! How many connections, and how much of each.

use super::*;
use crate::ingress::FlowStream;
use crate::sys::buffers_are_fixed;

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
