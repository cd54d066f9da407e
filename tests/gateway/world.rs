//! A gateway with its policy, an enrolled agent, and what both say.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;

/// How long anything may take on a busy machine.
pub const SOON: Duration = Duration::from_secs(30);

/// The real token of `bearer_token.pat`.
pub const TOKEN: &str = "ghp_the-real-token-0123456789";

/// Sends bytes to each destination and prints what came back, until the other side closes.
const RAW: &str = r#"
import json, socket, ssl, sys
answers = []
for host, port, tls, data in json.load(sys.stdin):
    try:
        s = socket.create_connection((host, port), 10)
        if tls:
            context = ssl.create_default_context()
            s = context.wrap_socket(s, server_hostname=host)
        s.settimeout(20)
        s.sendall(bytes.fromhex(data))
        got = b""
        while True:
            piece = s.recv(65536)
            if not piece: break
            got += piece
        answers.append(got.decode("latin-1"))
    except Exception as error:
        answers.append("%s: %s" % (type(error).__name__, error))
print(json.dumps(answers))
"#;

/// Bytes for one destination.
pub struct Sent {
    pub host: &'static str,
    pub port: u16,
    pub tls: bool,
    pub bytes: Vec<u8>,
}

pub struct World {
    pub folder: tempfile::TempDir,
    gateway: Mutex<Option<Child>>,
    /// The gateway is run by nobody, and not by who runs the tests.
    by_nobody: bool,
    lines: Arc<Mutex<Vec<String>>>,
    ports: [u16; 3],
    pub admin_port: u16,
}

/// Whether this machine lets an agent have a network of its own.
pub fn can_run() -> bool {
    let user = Command::new("unshare").args(["-Urn", "true"]).status();
    let can = nix::unistd::geteuid().is_root() || user.is_ok_and(|status| status.success());
    if !can || !Path::new("/dev/net/tun").exists() {
        eprintln!("SKIPPED: this machine allows no network namespace or has no /dev/net/tun");
        return false;
    }
    true
}

impl World {
    /// Starts a gateway with these blocks beside its own, and enrols `agent`.
    pub fn start(policy: &str) -> World {
        World::start_as(policy, false)
    }

    /// The same with the gateway run by nobody; the tests must be run by root.
    pub fn start_by_nobody(policy: &str) -> World {
        World::start_as(policy, true)
    }

    fn start_as(policy: &str, by_nobody: bool) -> World {
        let free = || {
            TcpListener::bind("127.0.0.1:0")
                .unwrap()
                .local_addr()
                .unwrap()
                .port()
        };
        let udp = UdpSocket::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let ports = [free(), free(), udp];
        let world = World {
            folder: tempfile::tempdir().unwrap(),
            gateway: Mutex::new(None),
            by_nobody,
            lines: Arc::default(),
            ports,
            admin_port: ports[0],
        };
        std::fs::create_dir(world.folder.path().join("policies")).unwrap();
        world.write(policy);
        world.boot();
        world.enrol("agent");
        world
    }

    fn policy_file(&self) -> PathBuf {
        self.folder.path().join("policies/policy.hcl")
    }

    /// Writes a policy without waiting for it.
    pub fn write(&self, policy: &str) {
        let [admin, enrol, udp] = self.ports;
        let text = format!(
            "gateway {{\n  state_dir = \"{}\"\n  dashboard_listen = \"127.0.0.1:{admin}\"\n  \
             enrol_listen = \"127.0.0.1:{enrol}\"\n  public_url = \"https://localhost:{enrol}\"\n  \
             wireguard {{\n    listen = \"127.0.0.1\"\n    listen_port = {udp}\n    endpoint = \"127.0.0.1:{udp}\"\n    \
             subnet_cidr = \"10.91.0.0/24\"\n    subnet_cidr6 = \"fd91::/64\"\n  }}\n}}\n{policy}",
            self.folder.path().join("state").display()
        );
        std::fs::write(self.policy_file(), text).unwrap();
    }

    /// Starts the gateway, and waits until its API answers.
    pub fn boot(&self) {
        let before = self.lines.lock().unwrap().len();
        let mut child = self
            .gateway_program()
            .args(["gateway", "-c"])
            .arg(self.folder.path().join("policies"))
            .env("TEST_TOKEN", TOKEN)
            .env_remove("TEST_MISSING")
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let reader = BufReader::new(child.stderr.take().unwrap());
        let lines = self.lines.clone();
        std::thread::spawn(move || {
            for line in reader.lines().map_while(Result::ok) {
                lines.lock().unwrap().push(line);
            }
        });
        *self.gateway.lock().unwrap() = Some(child);
        self.says_after(before, "the admin page and its API are served");
    }

    fn gateway_program(&self) -> Command {
        let built = env!("CARGO_BIN_EXE_tailkeep");
        if !self.by_nobody {
            return Command::new(built);
        }
        // Where this was built, nobody may look.
        let own = self.folder.path().join("tailkeep");
        std::fs::copy(built, &own).unwrap();
        let owner = ["-R", "nobody", self.folder.path().to_str().unwrap()];
        assert!(Command::new("chown").args(owner).status().unwrap().success());
        let mut command = Command::new("setpriv");
        command
            .args(["--reuid=nobody", "--regid=nogroup", "--clear-groups"])
            .arg(own);
        command
    }

    /// The gateway's process.
    pub fn gateway_id(&self) -> u32 {
        self.gateway.lock().unwrap().as_ref().unwrap().id()
    }

    pub fn kill(&self) {
        if let Some(mut child) = self.gateway.lock().unwrap().take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Sends SIGHUP, and waits until the gateway says `want` of it.
    #[track_caller]
    pub fn hang_up(&self, want: &str) {
        let from = self.lines.lock().unwrap().len();
        let pid = self.gateway.lock().unwrap().as_ref().unwrap().id();
        let pid = nix::unistd::Pid::from_raw(i32::try_from(pid).unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGHUP).unwrap();
        self.says_after(from, want);
    }

    #[track_caller]
    fn says_after(&self, from: usize, text: &str) {
        let began = Instant::now();
        while !self.lines.lock().unwrap()[from..]
            .iter()
            .any(|line| line.contains(text))
        {
            let said = self.lines.lock().unwrap().join("\n");
            assert!(
                began.elapsed() < SOON,
                "the gateway does not say {text:?}:\n{said}"
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Writes another policy, and waits until the gateway says `want` of it.
    #[track_caller]
    pub fn rewrite(&self, policy: &str, want: &str) {
        let from = self.lines.lock().unwrap().len();
        self.write(policy);
        self.says_after(from, want);
    }

    /// Writes a policy of the same length and time as the one before.
    #[track_caller]
    pub fn rewrite_unseen(&self, policy: &str) {
        let before = std::fs::metadata(self.policy_file()).unwrap();
        let from = self.lines.lock().unwrap().len();
        self.write(policy);
        let file = std::fs::File::options()
            .write(true)
            .open(self.policy_file())
            .unwrap();
        file.set_modified(before.modified().unwrap()).unwrap();
        assert_eq!(file.metadata().unwrap().len(), before.len());
        self.says_after(from, "a new policy is in force");
    }

    /// A command of a machine whose home is the folder `name`, outside of any tunnel.
    pub fn command(&self, name: &str, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tailkeep"));
        command
            .args(args)
            .env("TAILKEEP_SOCKET", self.folder.path().join("state/admin.sock"))
            .env("TAILKEEP_HOME", self.folder.path().join(name))
            .current_dir(self.folder.path());
        command
    }

    /// Runs an operator's command that must succeed.
    #[track_caller]
    pub fn operator(&self, args: &[&str]) -> String {
        let output = self.command("agent", args).output().unwrap();
        assert!(output.status.success(), "{args:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    pub fn enrol(&self, name: &str) {
        let added = self.operator(&["peers", "add", name, "--format", "json"]);
        let added: Value = serde_json::from_str(&added).unwrap();
        let joined = self
            .command(name, &["join", added["url"].as_str().unwrap()])
            .output()
            .unwrap();
        assert!(joined.status.success(), "{joined:?}");
    }

    /// A command in the tunnel of a peer.
    pub fn agent(&self, name: &str, args: &[&str]) -> Command {
        self.command(name, &[&["run", "--"], args].concat())
    }

    /// What a command in the agent's tunnel said on both of its outputs.
    pub fn run(&self, args: &[&str]) -> String {
        let Output { stdout, stderr, .. } = self.agent("agent", args).output().unwrap();
        String::from_utf8_lossy(&[stdout, stderr].concat()).into_owned()
    }

    pub fn python(&self, program: &str) -> String {
        self.run(&["python3", "-c", program])
    }

    /// The answers to raw bytes, in their order.
    pub fn exchange(&self, sent: &[Sent]) -> Vec<String> {
        self.exchange_as("agent", sent)
    }

    pub fn exchange_as(&self, name: &str, sent: &[Sent]) -> Vec<String> {
        let hex = |bytes: &[u8]| -> String { bytes.iter().map(|byte| format!("{byte:02x}")).collect() };
        let input: Vec<Value> = sent
            .iter()
            .map(|one| serde_json::json!([one.host, one.port, one.tls, hex(&one.bytes)]))
            .collect();
        let mut child = self
            .agent(name, &["python3", "-c", RAW])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        stdin
            .write_all(Value::from(input).to_string().as_bytes())
            .unwrap();
        drop(stdin);
        let output = child.wait_with_output().unwrap();
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
    }

    /// Every record of the audit log.
    pub fn audit(&self) -> Vec<Value> {
        let text = self.operator(&["audit", "export"]);
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    /// The causes of the denials of one summary.
    pub fn denials(&self, summary: &str) -> Vec<String> {
        self.audit()
            .iter()
            .filter(|row| {
                row["verdict"] == "deny" && row["summary"].as_str().is_some_and(|own| own.contains(summary))
            })
            .map(|row| row["cause"].as_str().unwrap_or_default().to_owned())
            .collect()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Waits for a condition.
#[track_caller]
pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < SOON, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
