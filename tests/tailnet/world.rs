//! A gateway process in a network namespace, a service behind it, and peers' sockets.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::lab::{API_TEST, GATEWAY_ITSELF};
use crate::tailscaled::Tailscaled;

/// How long anything may take here before a test fails.
pub const SOON: Duration = Duration::from_secs(20);

pub struct World {
    pub daemon: Tailscaled,
    folder: tempfile::TempDir,
    gateway: Child,
    lines: Arc<Mutex<Vec<String>>>,
    /// Ends with what the gateway says.
    reader: Option<std::thread::JoinHandle<()>>,
}

/// A connection of a peer that is kept open.
pub struct Open(TcpStream);

fn ip(line: &str) {
    let status = Command::new("ip").args(line.split(' ')).status().unwrap();
    assert!(status.success(), "ip {line}");
}

fn at(address: &str) -> String {
    format!("{address}:80")
}

/// Runs a test in a network namespace of its own.
pub fn alone(test: impl FnOnce() + Send + 'static) {
    if !nix::unistd::geteuid().is_root() || nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).is_err()
    {
        eprintln!("SKIPPED: this machine allows no network namespace");
        return;
    }
    ip("link set lo up");
    for host in [1, 2, 3, 4, 9] {
        let address = format!("100.64.0.{host}/32");
        ip(&format!("addr add {address} dev lo"));
    }
    ip("addr add fd7a:115c:a1e0::2/128 dev lo");
    // What `ip route add local` does for an operator.
    ip("route add local 10.78.0.0/16 dev lo");
    ip("-6 route add local fd7a:7461:696c:78::/64 dev lo");
    test();
}

impl World {
    pub fn start() -> World {
        World::made("", |_| {})
    }

    /// With more in the gateway's block.
    pub fn with(gateway: &str) -> World {
        World::made(gateway, |_| {})
    }

    /// With a tailscaled of another kind.
    pub fn start_with(prepare: impl FnOnce(&Tailscaled)) -> World {
        World::made("", prepare)
    }

    fn made(gateway: &str, prepare: impl FnOnce(&Tailscaled)) -> World {
        let folder = tempfile::tempdir().unwrap();
        let daemon = Tailscaled::new(folder.path());
        prepare(&daemon);
        let service = serve();
        let policy = format!(
            r#"
gateway {{
  state_dir        = "{folder}/state"
  dashboard_listen = "127.0.0.1:18080"
  tailscale {{
    socket    = "{folder}/tailscaled.sock"
    operators = ["ann@example.com"]
  }}
  {gateway}
}}
endpoint "http" "api" {{
  hosts    = ["api.test:80"]
  upstream = "{service}"
}}
profile "ci" {{
  tags      = ["tag:agent-ci"]
  peers     = ["laptop"]
  endpoints = [http.api]
}}
profile "dev" {{
  grants    = ["dev"]
  endpoints = [http.api]
}}
rule "frozen" {{
  endpoint  = http.api
  priority  = 100
  condition = "'tag:frozen' in agent.tags || 'example.com/cap/frozen' in agent.caps || agent.login == 'frozen@example.com'"
  verdict   = "deny"
}}
rule "over-wireguard" {{
  endpoint  = http.api
  condition = "agent.transport == 'wireguard' && agent.node == 'laptop' && agent.tags == [] && agent.login == '' && agent.caps == []"
  verdict   = "allow"
}}
rule "ci-reads" {{
  endpoint  = http.api
  condition = "'tag:agent-ci' in agent.tags && http.method == 'GET'"
  verdict   = "allow"
}}
rule "dev" {{
  endpoint  = http.api
  condition = "agent.profile == 'dev' && agent.transport == 'tailnet'"
  verdict   = "allow"
}}
"#,
            folder = folder.path().display()
        );
        let file = folder.path().join("policy.hcl");
        std::fs::write(&file, policy).unwrap();
        let mut gateway = Command::new(env!("CARGO_BIN_EXE_tailkeep"))
            .args(["gateway", "-c"])
            .arg(&file)
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = Arc::new(Mutex::new(Vec::new()));
        let reader = BufReader::new(gateway.stderr.take().unwrap());
        let kept = lines.clone();
        let reader = std::thread::spawn(move || {
            for line in reader.lines().map_while(Result::ok) {
                kept.lock().unwrap().push(line);
            }
        });
        let world = World {
            daemon,
            folder,
            gateway,
            lines,
            reader: Some(reader),
        };
        until("tailscaled is heard", || world.says("tailscaled is heard"));
        world
    }

    /// Whether the gateway has said so.
    pub fn says(&self, what: &str) -> bool {
        self.lines.lock().unwrap().iter().any(|line| line.contains(what))
    }

    /// The gateway's own CA.
    pub fn ca(&self) -> std::path::PathBuf {
        self.folder.path().join("state/ca.pem")
    }

    /// The operators' socket.
    pub fn socket(&self) -> std::path::PathBuf {
        self.folder.path().join("state/admin.sock")
    }

    pub fn token(&self) -> String {
        let text = std::fs::read_to_string(self.folder.path().join("state/operator.token")).unwrap();
        text.trim().to_owned()
    }

    /// Changes the policy, which the gateway reloads.
    pub fn rewrite(&self, from: &str, to: &str) {
        let file = self.folder.path().join("policy.hcl");
        let text = std::fs::read_to_string(&file).unwrap();
        std::fs::write(&file, text.replace(from, to)).unwrap();
    }

    /// Ends the gateway as systemd would.
    pub fn stop(&mut self) {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.gateway.id()).unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
        let status = self.gateway.wait().unwrap();
        // What it said last may not have been read yet.
        let lines = self.lines.clone();
        assert!(
            status.success(),
            "{status}: {:?}",
            lines.lock().map(|lines| lines.clone())
        );
    }

    /// Waits until the gateway ends by itself; whether it says that all is well.
    pub fn ends(&mut self) -> bool {
        let mut status = None;
        until("the gateway ends", || {
            status = self.gateway.try_wait().unwrap();
            status.is_some()
        });
        self.read_all();
        status.unwrap().success()
    }

    /// What a gateway said that has ended is read to the end.
    fn read_all(&mut self) {
        if let Some(reader) = self.reader.take() {
            reader.join().unwrap();
        }
    }

    /// A tailkeep command on this machine; `home` is the agent's.
    pub fn command(&self, home: &str, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tailkeep"));
        command
            .args(args)
            .env("TAILKEEP_SOCKET", self.folder.path().join("state/admin.sock"))
            .env("TAILKEEP_HOME", self.folder.path().join(home))
            .current_dir(self.folder.path());
        command
    }

    /// A GET to an address, under a name.
    pub fn ask_at(&self, source: &str, to: &str, host: &str) -> String {
        let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        say(from(source, to), &request)
    }

    /// What the gateway answers when a peer asks it for a path of its own name.
    pub fn ask_gateway(&self, source: &str, path: &str) -> String {
        let request = format!("GET {path} HTTP/1.1\r\nHost: tailkeep.internal\r\nConnection: close\r\n\r\n");
        say(from(source, &at(GATEWAY_ITSELF[0])), &request)
    }

    /// What a peer is answered; nothing where its connection is closed.
    pub fn ask(&self, source: &str, method: &str) -> String {
        exchange(from(source, &at(API_TEST[0])), method)
    }

    /// A change, until the gateway has heard of it: nothing from before is kept.
    pub fn change(&self) {
        let before = self.daemon.looks().0;
        self.daemon.tell();
        until("the change is heard", || self.daemon.looks().0 > before);
    }

    /// A connection that tailscaled dials for a peer, from a port of this machine.
    pub fn dial(&self, peer: &str) -> Open {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        let any: SocketAddr = "0.0.0.0:0".parse().unwrap();
        socket.bind(&any.into()).unwrap();
        let own = socket.local_addr().unwrap().as_socket().unwrap();
        self.daemon.dials(own.port(), peer);
        let to: SocketAddr = at(API_TEST[0]).parse().unwrap();
        socket.connect(&to.into()).unwrap();
        let stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(SOON)).unwrap();
        Open(stream)
    }

    pub fn ask6(&self, source: &str, method: &str) -> String {
        exchange(from(source, &format!("[{}]:80", API_TEST[1])), method)
    }

    /// A connection that was answered once, and is open.
    pub fn connect(&self, source: &str) -> Open {
        let mut open = Open(from(source, &at(API_TEST[0])).unwrap());
        let answer = open.get();
        assert!(
            answer.contains(" 200 "),
            "{answer:?}\n{:?}",
            self.lines.lock().unwrap()
        );
        open
    }

    pub fn audit(&self) -> Vec<Value> {
        let output = Command::new(env!("CARGO_BIN_EXE_tailkeep"))
            .args(["audit", "export"])
            .env("TAILKEEP_SOCKET", self.folder.path().join("state/admin.sock"))
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = self.gateway.kill();
        let _ = self.gateway.wait();
        if std::thread::panicking() {
            eprintln!("{}", self.lines.lock().unwrap().join("\n"));
        }
    }
}

impl Open {
    pub fn get(&mut self) -> String {
        let _ = self.0.write_all(b"GET / HTTP/1.1\r\nHost: api.test\r\n\r\n");
        let mut got = Vec::new();
        while !got.ends_with(b"done") && !got.trim_ascii_end().ends_with(b"}") {
            let mut piece = [0; 1024];
            match self.0.read(&mut piece) {
                Ok(0) | Err(_) => break,
                Ok(length) => got.extend_from_slice(&piece[..length]),
            }
        }
        String::from_utf8(got).unwrap()
    }

    pub fn port(&self) -> u16 {
        self.0.local_addr().unwrap().port()
    }

    /// Whether the gateway closes it in time.
    pub fn is_closed(&mut self) -> bool {
        !matches!(self.0.read(&mut [0; 16]), Ok(1..))
            && self.0.set_read_timeout(Some(Duration::from_millis(1))).is_ok()
            && {
                // A time-out would be no end.
                !matches!(self.0.read(&mut [0; 16]), Err(error) if error.kind() == std::io::ErrorKind::WouldBlock)
            }
    }
}

fn exchange(stream: Option<TcpStream>, method: &str) -> String {
    let request =
        format!("{method} / HTTP/1.1\r\nHost: api.test\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
    say(stream, &request)
}

fn say(stream: Option<TcpStream>, request: &str) -> String {
    let Some(mut stream) = stream else {
        return "not connected".to_owned();
    };
    let _ = stream.write_all(request.as_bytes());
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

/// A socket that connects from an address of its own.
pub fn from(source: &str, to: &str) -> Option<TcpStream> {
    let (source, to): (IpAddr, SocketAddr) = (source.parse().unwrap(), to.parse().unwrap());
    let socket = socket2::Socket::new(socket2::Domain::for_address(to), socket2::Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::new(source, 0).into()).unwrap();
    let began = Instant::now();
    // Names get their sockets a moment after the gateway says that it is there.
    while let Err(error) = socket.connect(&to.into()) {
        assert!(began.elapsed() < SOON, "{source} to {to}: {error}");
        std::thread::sleep(Duration::from_millis(20));
    }
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(SOON)).unwrap();
    Some(stream)
}

/// A service that answers every request alike, not where a tailscaled without a device would dial it.
fn serve() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.2:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let mut head = Vec::new();
                let mut piece = [0; 1024];
                while let Ok(length @ 1..) = stream.read(&mut piece) {
                    head.extend_from_slice(&piece[..length]);
                    if head.ends_with(b"\r\n\r\n") {
                        head.clear();
                        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndone");
                    }
                }
            });
        }
    });
    address
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
