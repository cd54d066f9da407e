//! wireguard-go, in network namespaces of its own, against the WireGuard ingress.
//! Needs root, `ip`, `wg` and `wireguard-go`; skipped, with a line that says so, where they are missing.

#![allow(clippy::panic, reason = "tests say what they expect")]

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::Duration;

use tailkeep::ingress::Flow;
use tailkeep::ingress::wireguard::{Config, DnsAnswer, Drop as Cause, Listener, Peer, PeerSet, public_key};
use tailkeep::policy::model::Stack;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::watch;

const GATEWAY_KEY: [u8; 32] = [7; 32];

fn run(command: &str) -> Output {
    Command::new("sh")
        .args(["-c", command])
        .output()
        .expect("a shell")
}

fn must(command: &str) -> String {
    let output = run(command);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command}: {errors}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn able() -> bool {
    let able = run("test $(id -u) = 0 && command -v ip wg wireguard-go && test -c /dev/net/tun")
        .status
        .success();
    if !able {
        eprintln!("skipped: needs root, ip, wg, wireguard-go and /dev/net/tun");
    }
    able
}

/// An agent: wireguard-go in a namespace, joined to ours by a veth pair.
struct Agent {
    space: String,
    device: String,
    number: u8,
    process: std::process::Child,
}

impl Agent {
    fn start(number: u8, port: u16) -> Agent {
        let id = format!("{}{number}", std::process::id() % 100_000);
        let (space, device, outer) = (format!("tkw{id}"), format!("wgt{id}"), format!("tkv{id}"));
        let inner = format!("tki{id}");
        let net = format!("10.213.{number}");
        must(&format!(
            "ip netns add {space} && ip link add {outer} type veth peer name {inner} \
             && ip link set {inner} netns {space} && ip addr add {net}.1/24 dev {outer} && ip link set {outer} up \
             && ip -n {space} addr add {net}.2/24 dev {inner} && ip -n {space} link set {inner} up \
             && ip -n {space} link set lo up"
        ));
        let process = Command::new("ip")
            .args(["netns", "exec", &space, "wireguard-go", "-f", &device])
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .expect("wireguard-go");
        let agent = Agent {
            space,
            device,
            number,
            process,
        };
        agent.wait_for_device();
        agent.configure(port);
        agent
    }

    fn wait_for_device(&self) {
        for _ in 0..200 {
            if run(&format!("ip netns exec {} wg show {}", self.space, self.device))
                .status
                .success()
            {
                return;
            }
            std::thread::sleep(Duration::from_millis(25));
        }
        panic!("wireguard-go did not come up");
    }

    fn configure(&self, port: u16) {
        let (space, device, number) = (&self.space, &self.device, self.number);
        let folder = tempfile::tempdir().expect("a folder");
        let key = folder.path().join("key");
        std::fs::write(&key, base64(&[number; 32])).expect("a key file");
        let (key, gateway) = (key.display(), base64(&public_key(&GATEWAY_KEY)));
        must(&format!(
            "ip netns exec {space} wg set {device} private-key {key} peer {gateway} \
             endpoint 10.213.{number}.1:{port} allowed-ips 0.0.0.0/0,::/0 \
             && ip -n {space} addr add 10.99.0.{number}/32 dev {device} \
             && ip -n {space} addr add fd99::{number}/128 dev {device} nodad \
             && ip -n {space} link set {device} mtu 1420 up && ip -n {space} route add default dev {device} \
             && ip -n {space} -6 route add default dev {device}"
        ));
    }

    /// Runs a Python program inside, without holding up the test's own tasks.
    async fn python(&self, program: &str) -> String {
        let space = self.space.clone();
        let program = program.to_owned();
        tokio::task::spawn_blocking(move || {
            let output = Command::new("ip")
                .args([
                    "netns", "exec", &space, "timeout", "90", "python3", "-c", &program,
                ])
                .output()
                .expect("python3");
            String::from_utf8_lossy(&output.stdout).trim().to_owned()
                + &String::from_utf8_lossy(&output.stderr)
        })
        .await
        .expect("a result")
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        run(&format!("ip netns del {}", self.space));
    }
}

fn base64(bytes: &[u8]) -> String {
    use ::base64::Engine;
    ::base64::engine::general_purpose::STANDARD.encode(bytes)
}

fn peer(number: u8) -> Peer {
    Peer {
        name: format!("peer-{number}"),
        public_key: public_key(&[number; 32]),
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
        listen: SocketAddr::from(([0, 0, 0, 0], 0)),
        private_key: GATEWAY_KEY.into(),
        gateway_v4: Some(Ipv4Addr::new(10, 99, 0, 254)),
        gateway_v6: None,
        mtu: 1420,
        stack: Stack::Userspace,
        connections_max: 4,
        dns: Some(dns),
    }
}

/// Says who connected where, then echoes until the end.
async fn echo(mut flow: Flow) {
    let hello = format!(
        "{} {} {}\n",
        flow.identity.node, flow.identity.address, flow.destination
    );
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
    alone(any_destination());
}

async fn any_destination() {
    let set = PeerSet {
        peers: vec![peer(1), peer(2)],
    };
    let (change, peers) = watch::channel(Arc::new(set));
    let mut listener = Listener::bind(config(), peers).await.expect("a listener");
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

async fn wait_for(mut condition: impl FnMut() -> bool) {
    for _ in 0..200 {
        if condition() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("the condition did not come true within ten seconds");
}
