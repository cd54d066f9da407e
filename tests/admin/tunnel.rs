//! The whole program with an agent in its tunnel: what the operator sets and says holds there.

use std::net::{TcpListener, UdpSocket};
use std::path::Path;
use std::process::Command;

use crate::gateway::{Gateway, folder};
use crate::streams::Going;
use crate::world::SOON;

/// Asks the gateway's name server again and again, and says how it went.
const ASKS: &str = r#"
import socket, sys, time
query = b"\x12\x34\x01\0\0\1\0\0\0\0\0\0\3api\4test\0\0\1\0\1"
while True:
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(0.4)
    try:
        s.sendto(query, ("10.91.0.1", 53)); s.recv(512); print("ok", flush=True)
    except OSError: print("dead", flush=True)
    time.sleep(0.05)
"#;

/// What the tunnel looks like from within, as JSON.
const LOOKS: &str = r#"
import json, os, socket, sys, time
def addresses(family):
    return sorted({a[4][0] for a in socket.getaddrinfo("api.test", 443, family, socket.SOCK_STREAM)})
def open_ones(count):
    many = []
    for _ in range(count):
        try: many.append(socket.create_connection(("api.test", 443), 5))
        except ConnectionRefusedError: pass
    time.sleep(0.7)
    alive = 0
    for s in many:
        s.setblocking(False)
        try: alive += 1 if s.recv(1) else 0
        except BlockingIOError: alive += 1
        except OSError: pass
    for s in many: s.close()
    return alive
def answers(host, port):
    try:
        s = socket.create_connection((host, port), 3); s.settimeout(3)
        s.sendall(b"GET /v1/health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        return s.recv(100).decode("latin-1")
    except OSError as error: return ""
admin = int(sys.argv[1])
own = [line.split("/")[0] for line in os.popen("ip -o addr show | grep -o 'inet6* [^ ]*' | cut -d' ' -f2").read().split()]
mtus = [int(w[w.index("mtu") + 1]) for w in (l.split() for l in os.popen("ip -o link show")) if "lo:" not in w]
print(json.dumps({
    "v4": addresses(socket.AF_INET), "v6": addresses(socket.AF_INET6), "own": own, "mtu": mtus,
    "alive": open_ones(5),
    "admin": [answers(h, admin) for h in ("10.91.0.1", "fd91::1", "127.0.0.1", "10.92.0.1", "169.254.169.254")],
}))
"#;

struct Machine {
    folder: tempfile::TempDir,
    _gateway: Gateway,
    admin: u16,
}

impl Machine {
    fn start(passthrough: bool) -> Machine {
        let free = || {
            TcpListener::bind("127.0.0.1:0")
                .unwrap()
                .local_addr()
                .unwrap()
                .port()
        };
        let (enrol, admin) = (free(), free());
        let udp = UdpSocket::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let folder = folder(&format!(
            r#"
  dashboard_listen = "127.0.0.1:{admin}"
  enrol_listen     = "127.0.0.1:{enrol}"
  public_url       = "https://localhost:{enrol}"
  virtual_cidr     = "10.92.0.0/16"
  virtual_cidr6    = "fd92::/64"
  wireguard {{
    listen       = "127.0.0.1"
    listen_port  = {udp}
    endpoint     = "127.0.0.1:{udp}"
    subnet_cidr  = "10.91.0.0/24"
    subnet_cidr6 = "fd91::/64"
    mtu          = 1300
  }}
  limits {{
    connections_max = 3
  }}"#
        ));
        let rest = format!(
            "endpoint \"https\" \"api\" {{ hosts = [\"api.test\"] }}\n\
             profile \"dev\" {{\n  peers = [\"laptop\"]\n  endpoints = [https.api]\n}}\n\
             defaults {{ unknown_host = \"{}\" }}\n",
            if passthrough { "passthrough" } else { "deny" }
        );
        std::fs::write(folder.path().join("policies/rest.hcl"), rest).unwrap();
        let gateway = Gateway::start(folder.path());
        // Another program cannot have the port: it is the listener's.
        let began = std::time::Instant::now();
        while UdpSocket::bind(("127.0.0.1", udp)).is_ok() {
            assert!(began.elapsed() < SOON, "listen_port");
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        Machine {
            folder,
            _gateway: gateway,
            admin,
        }
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tailkeep"));
        command
            .args(args)
            .env("TAILKEEP_SOCKET", self.folder.path().join("state/admin.sock"))
            .env("TAILKEEP_HOME", self.folder.path().join("agent"))
            .current_dir(self.folder.path());
        command
    }

    #[track_caller]
    fn run(&self, args: &[&str]) -> String {
        let output = self.command(args).output().unwrap();
        assert!(output.status.success(), "{args:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn enrol(&self, args: &[&str]) {
        let added = self.run(&[&["peers", "add", "laptop", "--format", "json"], args].concat());
        let added: serde_json::Value = serde_json::from_str(&added).unwrap();
        let url = added["url"].as_str().unwrap();
        assert!(url.starts_with("https://localhost:"), "{url}");
        self.run(&["join", url]);
    }
}

/// Whether this machine lets an agent have a network of its own.
fn can_run() -> bool {
    let can = Command::new("unshare").args(["-Urn", "true"]).status();
    let can = nix::unistd::geteuid().is_root() || can.is_ok_and(|status| status.success());
    if !can || !Path::new("/dev/net/tun").exists() {
        eprintln!("SKIPPED: this machine allows no network namespace or has no /dev/net/tun");
        return false;
    }
    true
}

#[test]
fn the_tunnel_is_as_the_configuration_says() {
    if !can_run() {
        return;
    }
    let machine = Machine::start(true);
    machine.enrol(&[]);
    let looks = machine.folder.path().join("looks.py");
    std::fs::write(&looks, LOOKS).unwrap();
    let admin = machine.admin.to_string();
    let said = machine.run(&["run", "--", "python3", looks.to_str().unwrap(), &admin]);
    let seen: serde_json::Value = serde_json::from_str(&said).unwrap();
    let texts = |field: &str| -> Vec<String> { serde_json::from_value(seen[field].clone()).unwrap() };
    assert!(
        texts("v4").iter().all(|ip| ip.starts_with("10.92.")) && !texts("v4").is_empty(),
        "{seen}"
    );
    assert!(
        texts("v6").iter().all(|ip| ip.starts_with("fd92:")) && !texts("v6").is_empty(),
        "{seen}"
    );
    for own in ["10.91.0.2", "fd91::2"] {
        assert!(texts("own").contains(&own.to_owned()), "{seen}");
    }
    assert_eq!(seen["mtu"], serde_json::json!([1300]));
    assert_eq!(seen["alive"], 3, "connections_max");
    // The operator's API is on the gateway's loopback, and no way of the agent's leads there.
    assert!(texts("admin").iter().all(String::is_empty), "{seen}");
    let audit = machine.run(&["audit", "tail", "-n", "100", "--verdict", "deny"]);
    assert!(audit.contains("no_endpoint"), "{audit}");
}

#[test]
fn a_peer_is_held_approved_and_removed_in_the_tunnel_itself() {
    if !can_run() {
        return;
    }
    let machine = Machine::start(false);
    machine.enrol(&["--hold"]);
    let asks = machine.folder.path().join("asks.py");
    std::fs::write(&asks, ASKS).unwrap();
    let agent = Going::start(machine.command(&["run", "--", "python3", asks.to_str().unwrap()]));
    // `run` waits for the tunnel before it starts its command.
    assert!(
        agent.is_silent(std::time::Duration::from_millis(1500)),
        "a held peer is answered"
    );
    machine.run(&["peers", "approve", "laptop"]);
    assert_eq!(agent.line(), "ok", "an approved peer is not answered");
    machine.run(&["peers", "remove", "laptop"]);
    // One answer may have been on its way.
    let _ = agent.line();
    let _ = agent.line();
    for _ in 0..4 {
        assert_eq!(agent.line(), "dead", "a removed peer is answered");
    }
}
