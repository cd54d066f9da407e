//! wireguard-go, in network namespaces of its own, against the WireGuard ingress.
//! Needs root, `ip`, `wg` and `wireguard-go`; skipped, with a line that says so, where they are missing.

#![allow(clippy::panic, reason = "tests say what they expect")]

mod agent;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tailkeep::ingress::Flow;
use tailkeep::ingress::wireguard::{Config, DnsAnswer, Drop as Cause, FLOWS_MAX, Listener, PeerSet};
use tailkeep::policy::model::Stack;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::watch;

use agent::{Agent, GATEWAY_KEY, able, must, peer};

fn config(stack: Stack) -> Config {
    let dns: DnsAnswer = Arc::new(|identity, query, tcp| {
        Box::pin(async move {
            if query.starts_with(b"hang") {
                std::future::pending::<()>().await;
            }
            Some([query, identity.node.as_bytes().to_vec(), vec![u8::from(tcp)]].concat())
        })
    });
    Config {
        listen: SocketAddr::from(([0, 0, 0, 0], 0)),
        private_key: GATEWAY_KEY.into(),
        gateway_v4: Some(Ipv4Addr::new(10, 99, 0, 254)),
        gateway_v6: None,
        mtu: 1420,
        stack,
        connections_max: 4,
        flows_max: FLOWS_MAX,
        dns: Some(dns),
    }
}

/// Says who connected where, then echoes until the end.
async fn echo(mut flow: Flow) {
    let peer = flow.identity.now();
    let hello = format!("{} {} {}\n", peer.node, peer.address, flow.destination);
    if flow.stream.write_all(hello.as_bytes()).await.is_err() {
        return;
    }
    let mut buffer = vec![0; 1 << 16];
    while let Ok(length) = flow.stream.read(&mut buffer).await {
        if length == 0 {
            break;
        }
        if flow.stream.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
    let _ = flow.stream.shutdown().await;
}

const ECHO: &str = "
import socket,sys,threading
def echo(host, port, size):
    s = socket.create_connection((host, port), timeout=60)
    f = s.makefile('rb')
    print(f.readline().decode().strip())
    data = bytes(i * 7 % 251 for i in range(size))
    def send():
        s.sendall(data); s.shutdown(socket.SHUT_WR)
    t = threading.Thread(target=send); t.start()
    back = f.read(); t.join()
    print(back == data)
";

/// Runs a test in a network namespace of its own, so that nothing that runs beside it, or is still
/// being taken down, has its addresses.
fn alone(test: impl Future<Output = ()>) {
    if !able() {
        return;
    }
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("a network namespace");
    must("ip link set lo up");
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime")
        .block_on(test);
}

#[test]
fn wireguard_go_reaches_any_destination() {
    alone(any_destination(Stack::Userspace));
}

#[test]
fn wireguard_go_reaches_any_destination_by_the_kernels_tcp() {
    alone(any_destination(Stack::Kernel));
}

async fn any_destination(stack: Stack) {
    let set = PeerSet {
        peers: vec![peer(1), peer(2)],
    };
    let (change, peers) = watch::channel(Arc::new(set));
    let mut listener = Listener::bind(config(stack), peers).await.expect("a listener");
    let port = listener.local_addr().port();
    let status = listener.status_handle();
    tokio::spawn(async move {
        while let Some(flow) = listener.accept().await {
            tokio::spawn(echo(flow));
        }
    });
    let one = Agent::start(1, port);
    let two = Agent::start(2, port);

    let seen = one
        .python(&format!("{ECHO}\necho('203.0.113.9', 4711, 3000000)"))
        .await;
    assert_eq!(seen, "peer-1 10.99.0.1 203.0.113.9:4711\nTrue");
    let seen = two
        .python(&format!("{ECHO}\necho('2001:db8::5', 443, 300000)"))
        .await;
    assert_eq!(seen, "peer-2 fd99::2 [2001:db8::5]:443\nTrue");

    // QUIC and the like are refused at once, not left to time out.
    let refused = "import socket\ns=socket.socket(socket.AF_INET,socket.SOCK_DGRAM)\ns.settimeout(5)\n\
                   s.connect(('198.51.100.1',443))\ns.send(b'x')\ntry:\n s.recv(9)\nexcept ConnectionRefusedError:\n print('refused')";
    assert_eq!(one.python(refused).await, "refused");

    let asked = "import socket\ns=socket.socket(socket.AF_INET,socket.SOCK_DGRAM)\ns.settimeout(5)\n\
                 s.connect(('10.99.0.254',53))\ns.send(b'q')\nprint(s.recv(99))\n\
                 s=socket.create_connection(('10.99.0.254',53),5)\ns.send(b'\\0\\1q')\nprint(s.recv(99))";
    assert_eq!(
        one.python(asked).await,
        "b'qpeer-1\\x00'\nb'\\x00\\x08qpeer-1\\x01'"
    );

    // Four connections are held; the fifth is reset.
    let capped = "import socket\nheld=[socket.create_connection(('192.0.2.1',9),5) for _ in range(4)]\n\
                  try:\n socket.create_connection(('192.0.2.1',9),5)\nexcept ConnectionRefusedError:\n print('refused')";
    assert_eq!(two.python(capped).await, "refused");

    // A source that is the other peer's.
    must(&format!(
        "ip -n {} addr add 10.99.0.2/32 dev {}",
        one.space, one.device
    ));
    let spoof = "import socket\ns=socket.socket()\ns.bind(('10.99.0.2',0))\ns.settimeout(1)\n\
                 try:\n s.connect(('192.0.2.1',9))\n print('connected')\nexcept TimeoutError:\n print('silence')";
    assert_eq!(one.python(spoof).await, "silence");

    // The client moves to another UDP port; the next packet is followed.
    must(&format!(
        "ip netns exec {} wg set {} listen-port 45454",
        one.space, one.device
    ));
    let seen = one
        .python(&format!("{ECHO}\necho('203.0.113.9', 4711, 1000)"))
        .await;
    assert_eq!(seen, "peer-1 10.99.0.1 203.0.113.9:4711\nTrue");
    wait_for(|| {
        let status = status.lock().expect("a status");
        let moved = status.peers.iter().any(|peer| {
            peer.name == "peer-1" && peer.endpoint.is_some_and(|endpoint| endpoint.port() == 45454)
        });
        moved
            && status
                .drops
                .get(&Cause::SpoofedSource)
                .is_some_and(|count| *count > 0)
    })
    .await;

    // One peer's questions that hang leave the other's their place.
    let hang = "import socket\ns=socket.socket(socket.AF_INET,socket.SOCK_DGRAM)\ns.settimeout(1)\n\
                s.connect(('10.99.0.254',53))\n[s.send(b'hang') for _ in range(300)]\ns.send(b'q')\n\
                try:\n print(s.recv(99))\nexcept TimeoutError:\n print('busy')";
    assert_eq!(one.python(hang).await, "busy");
    assert_eq!(
        two.python(asked).await,
        "b'qpeer-2\\x00'\nb'\\x00\\x08qpeer-2\\x01'"
    );

    // A removed peer's open connection ends with a reset.
    let cut = tokio::join!(
        one.python("import socket\ns=socket.create_connection(('192.0.2.1',9),5)\ns.settimeout(10)\ns.recv(99)\ntry:\n s.recv(9)\nexcept ConnectionResetError:\n print('reset')\nexcept TimeoutError:\n print('held')"),
        async {
            wait_for(|| {
                let status = status.lock().expect("a status");
                status.peers.iter().any(|peer| peer.name == "peer-1" && peer.connections > 0)
            })
            .await;
            change.send(Arc::new(PeerSet { peers: vec![peer(2)] })).expect("a listener");
        }
    );
    assert_eq!(cut.0, "reset");
    wait_for(|| {
        status
            .lock()
            .expect("a status")
            .peers
            .iter()
            .all(|peer| peer.name != "peer-1")
    })
    .await;
}

#[test]
fn wireguard_go_is_asked_for_new_keys_when_it_lost_its_own() {
    alone(lost_keys());
}

/// A peer that has no keys any more, and does not know where the gateway is: only the gateway can begin.
async fn lost_keys() {
    let set = PeerSet { peers: vec![peer(1)] };
    let (_change, peers) = watch::channel(Arc::new(set));
    let mut listener = Listener::bind(config(Stack::Userspace), peers)
        .await
        .expect("a listener");
    let one = Agent::start(1, listener.local_addr().port());
    let program = "import socket\ns=socket.create_connection(('192.0.2.1',9),5)\ns.settimeout(60)\n\
                   f=s.makefile('rb')\nprint(f.readline())\nwhile True:\n line=f.readline()\n\
                   \x20if line!=b'before\\n': break\nprint(line)";
    let gateway = async {
        let mut flow = listener.accept().await.expect("a flow");
        flow.stream.write_all(b"before\n").await.expect("open");
        let (space, device, key) = (
            &one.space,
            &one.device,
            agent::base64(&tailkeep::ingress::wireguard::public_key(&GATEWAY_KEY)),
        );
        let wg = format!("ip netns exec {space} wg");
        must(&format!(
            "{wg} set {device} peer {key} remove && {wg} set {device} peer {key} allowed-ips 0.0.0.0/0,::/0"
        ));
        let known = must(&format!("{wg} show {device} endpoints"));
        assert!(known.contains("(none)"), "{known}");
        // Again and again, so that something new is on its way when the keys are there.
        loop {
            flow.stream.write_all(b"after\n").await.expect("open");
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
    };
    let heard = tokio::select! {
        heard = one.python(program) => heard,
        () = gateway => unreachable!("it never stops"),
    };
    assert_eq!(heard, "b'before\\n'\nb'after\\n'");
}

async fn wait_for(mut condition: impl FnMut() -> bool) {
    for _ in 0..200 {
        if condition() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("the condition did not come true within ten seconds");
}
