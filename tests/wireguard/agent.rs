//! A foreign peer: wireguard-go in a network namespace of its own. Shared with `benches/stack.rs`.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::process::{Command, Output};
use std::time::Duration;

use tailkeep::ingress::wireguard::{Peer, public_key};

pub const GATEWAY_KEY: [u8; 32] = [7; 32];

pub fn run(command: &str) -> Output {
    Command::new("sh")
        .args(["-c", command])
        .output()
        .expect("a shell")
}

pub fn must(command: &str) -> String {
    let output = run(command);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command}: {errors}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub fn able() -> bool {
    let able = run("test $(id -u) = 0 && command -v ip wg wireguard-go && test -c /dev/net/tun")
        .status
        .success();
    if !able {
        eprintln!("skipped: needs root, ip, wg, wireguard-go and /dev/net/tun");
    }
    able
}

/// An agent: wireguard-go in a namespace, joined to ours by a veth pair.
pub struct Agent {
    pub space: String,
    pub device: String,
    pub number: u8,
    process: std::process::Child,
}

impl Agent {
    pub fn start(number: u8, port: u16) -> Agent {
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
    pub async fn python(&self, program: &str) -> String {
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
        // What a client that is killed leaves.
        let _ = std::fs::remove_file(format!("/var/run/wireguard/{}.sock", self.device));
        run(&format!("ip netns del {}", self.space));
    }
}

pub fn base64(bytes: &[u8]) -> String {
    use ::base64::Engine;
    ::base64::engine::general_purpose::STANDARD.encode(bytes)
}

pub fn peer(number: u8) -> Peer {
    Peer {
        name: format!("peer-{number}"),
        public_key: public_key(&[number; 32]),
        machine: None,
        v4: Some(Ipv4Addr::new(10, 99, 0, number)),
        v6: Some(Ipv6Addr::new(0xfd99, 0, 0, 0, 0, 0, 0, number.into())),
    }
}
