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
def dial(host, port):
    # The connections above count until both sides have closed them.
    for _ in range(40):
        try: return socket.create_connection((host, port), 3)
        except ConnectionRefusedError: time.sleep(0.05 if host != "127.0.0.1" else 0)
    raise ConnectionRefusedError
def answers(host, port):
    try:
        s = dial(host, port); s.settimeout(3)
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
    gateway: Option<Gateway>,
    admin: u16,
}

impl Machine {
    fn start(passthrough: bool, upstream: u16) -> Machine {
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
             endpoint \"http\" \"plain\" {{\n  hosts = [\"plain.test\"]\n  upstream = \"127.0.0.1:{upstream}\"\n}}\n\
             credential \"bearer_token\" \"pat\" {{\n  endpoint = https.api\n  secret = env(\"TAILKEEP_TEST_SECRET\")\n}}\n\
             approver \"human_approver\" \"ops\" {{}}\n\
             profile \"dev\" {{\n  peers = [\"laptop\"]\n  endpoints = [https.api, http.plain]\n  \
             rule \"held\" {{\n  endpoint = http.plain\n  condition = \"http.path == '/held'\"\n  \
             approve = [human_approver.ops]\n}}\n}}\n\
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
            gateway: Some(gateway),
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
    let machine = Machine::start(true, 1);
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
    let machine = Machine::start(false, 1);
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

/// Answers every request with `reached`, one a connection, and counts them.
fn upstream() -> (u16, std::sync::Arc<std::sync::atomic::AtomicUsize>) {
    use std::io::{Read as _, Write as _};
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let count = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counted = count.clone();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let read = stream.read(&mut [0; 4096]).unwrap_or(0);
            if read > 0 {
                counted.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            }
            let _ = stream
                .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\nConnection: close\r\n\r\nreached\n");
        }
    });
    (port, count)
}

#[test]
fn a_held_request_outlives_the_gateway_and_its_retry_passes_once() {
    if !can_run() {
        return;
    }
    let (port, reached) = upstream();
    let reached = || reached.load(std::sync::atomic::Ordering::SeqCst);
    let mut machine = Machine::start(false, port);
    machine.enrol(&[]);
    let request = ["run", "--", "curl", "-sS", "-m", "60", "http://plain.test/held"];
    let tail =
        Going::start(machine.command(&["audit", "tail", "-f", "--verdict", "allow", "--format", "json"]));
    let first = Going::start(machine.command(&request));
    let began = std::time::Instant::now();
    while machine.run(&["approvals"]).is_empty() {
        assert!(began.elapsed() < SOON, "nothing is held");
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    machine.gateway.take().unwrap().terminate();
    drop(first);
    machine.gateway = Some(Gateway::start(machine.folder.path()));
    let held = machine.run(&["approvals"]);
    assert!(
        held.contains("pending") && held.contains("its agent is away"),
        "{held}"
    );
    machine.run(&["approvals", "approve", "1"]);
    assert_eq!(reached(), 0, "upstream saw something before its agent came back");
    // Any change is a new question: a header more, a byte of a body, another method.
    for change in [["-H", "X-More: 1"], ["-d", "x"], ["-X", "PUT"]] {
        let mut other = machine.command(&request);
        let other = other.args(change).args(["-m", "2"]).output().unwrap();
        assert_eq!(other.status.code(), Some(28), "{change:?}: {other:?}");
    }
    assert_eq!(reached(), 0, "the yes was for what was shown");
    assert_eq!(machine.run(&request), "reached\n");
    assert_eq!(reached(), 1);
    // Whoever follows the log is told by the new gateway.
    let mut row = tail.json();
    while row["step"] == "connect" {
        row = tail.json();
    }
    assert_eq!(
        (row["cause"].as_str(), row["summary"].as_str()),
        (Some("approved"), Some("GET /held"))
    );

    // What the gateway was started with is in no record, wherever an agent has it from.
    let url = format!("http://plain.test/{}", crate::gateway::SECRET);
    machine.run(&["run", "--", "curl", "-sS", &url]);
    let records = machine.run(&["audit", "export"]);
    assert!(records.contains("(secret of bearer_token.pat)"), "{records}");
    assert!(!records.contains(crate::gateway::SECRET), "{records}");
    machine.run(&["audit", "verify"]);
}
