//! A real tailscaled, by its LocalAPI.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Output, Stdio};
use std::sync::Arc;

use serde_json::{Value, json};

use super::{Control, Machine, local, parse, program, until};

/// How a tailscaled meets the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Device {
    /// `--tun=userspace-networking`.
    None,
    /// A TUN device, `tailscale0`.
    Tun,
}

/// A running tailscaled; killed when dropped.
pub struct Tailscaled {
    pub name: String,
    pub machine: Arc<Machine>,
    /// Its LocalAPI.
    pub socket: PathBuf,
    /// Where it serves SOCKS5, on its machine; without a device only.
    pub socks: SocketAddr,
    folder: PathBuf,
    device: Device,
    port: u16,
    acme: (String, PathBuf),
    child: Option<Child>,
}

impl Tailscaled {
    pub(super) fn start(
        control: &Control,
        machine: &Arc<Machine>,
        folder: &Path,
        (name, number): (&str, u8),
        device: Device,
    ) -> Tailscaled {
        std::fs::create_dir_all(folder).unwrap();
        let mut daemon = Tailscaled {
            name: name.to_owned(),
            machine: machine.clone(),
            socket: folder.join("tailscaled.sock"),
            socks: SocketAddr::from(([127, 0, 0, 1], 1000 + u16::from(number))),
            folder: folder.to_owned(),
            device,
            port: 41000 + u16::from(number),
            acme: control.acme.clone(),
            child: None,
        };
        daemon.restart();
        daemon
    }

    /// Starts it again with the state that it had; kills it first where it runs.
    pub fn restart(&mut self) {
        self.kill();
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.folder.join("tailscaled.log"));
        let mut command = self.machine.command(program("tailscaled"));
        command
            .arg("--no-logs-no-support")
            .arg(format!("--statedir={}", self.folder.display()))
            .arg(format!("--socket={}", self.socket.display()))
            .arg(format!("--port={}", self.port))
            .env("TS_DEBUG_ACME_DIRECTORY_URL", &self.acme.0)
            .env("SSL_CERT_FILE", &self.acme.1);
        match self.device {
            Device::None => {
                command.arg("--tun=userspace-networking");
                command.arg(format!("--socks5-server={}", self.socks));
            }
            Device::Tun => {
                command
                    .arg("--tun=tailscale0")
                    .env("TS_DEBUG_FIREWALL_MODE", "nftables");
            }
        }
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log.unwrap())
            .spawn();
        self.child = Some(child.unwrap());
        until("tailscaled answers", || {
            self.api("GET", "status?peers=false", "").0 == 200
        });
    }

    /// SIGKILL. Its socket stays and refuses.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// The last lines of its log.
    pub fn log(&self) -> String {
        let text = std::fs::read_to_string(self.folder.join("tailscaled.log")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }

    /// A request to its LocalAPI: status and body.
    pub fn api(&self, method: &str, path: &str, body: &str) -> (u16, String) {
        local::ask(&self.socket, method, &format!("/localapi/v0/{path}"), body)
    }

    /// Logs it in as a node with these tags, or as ann@example.com's without any, and waits until it runs.
    /// `prefs` are fields of `ipn.Prefs`.
    #[track_caller]
    pub fn login(&self, control: &Control, tags: &[&str], prefs: Value) {
        let mut wanted = json!({
            "ControlURL": control.url, "WantRunning": true, "Hostname": self.name, "AdvertiseTags": tags,
            "CorpDNS": false, "RouteAll": false,
        });
        for (name, value) in prefs.as_object().unwrap() {
            wanted[name] = value.clone();
        }
        let start = json!({ "AuthKey": control.key(&[]), "UpdatePrefs": wanted });
        let (status, told) = self.api("POST", "start", &start.to_string());
        assert_eq!(status, 204, "{told}");
        let (status, told) = self.api("POST", "login-interactive", "");
        assert_eq!(status, 204, "{told}");
        until("the node is of the tailnet", || self.state() == "Running");
    }

    /// Changes prefs, each of which is named with its value: `{"AdvertiseRoutes": [..]}`.
    #[track_caller]
    pub fn set(&self, prefs: Value) {
        let mut wanted = prefs.clone();
        for name in prefs.as_object().unwrap().keys() {
            wanted[format!("{name}Set")] = json!(true);
        }
        let (status, told) = self.api("PATCH", "prefs", &wanted.to_string());
        assert_eq!(status, 200, "{told}");
    }

    pub fn status(&self) -> Value {
        parse(&self.api("GET", "status", "").1)
    }

    /// `Running`, `NeedsLogin` …; empty while it does not answer.
    pub fn state(&self) -> String {
        let (status, text) = self.api("GET", "status?peers=false", "");
        match status {
            200 => parse(&text)["BackendState"]
                .as_str()
                .unwrap_or_default()
                .to_owned(),
            _ => String::new(),
        }
    }

    /// Its IPv4 address in the tailnet, or the IPv6 one.
    pub fn address(&self, v6: bool) -> String {
        let addresses = self.status()["TailscaleIPs"].clone();
        let mut all = addresses.as_array().unwrap().iter().filter_map(Value::as_str);
        all.find(|one| one.contains(':') == v6).unwrap().to_owned()
    }

    /// Whether its machine's programs reach the tailnet by themselves.
    pub fn has_device(&self) -> bool {
        self.device == Device::Tun
    }

    /// `tailscale` for this node.
    pub fn cli(&self, arguments: &[&str]) -> Output {
        self.machine
            .command(program("tailscale"))
            .arg(format!("--socket={}", self.socket.display()))
            .args(arguments)
            .output()
            .unwrap()
    }

    /// Whether it has a peer that leads to this range.
    pub fn has_route(&self, range: &str) -> bool {
        let status = self.status();
        let Some(peers) = status["Peer"].as_object() else {
            return false;
        };
        peers.values().any(|peer| {
            peer["PrimaryRoutes"]
                .as_array()
                .is_some_and(|all| all.iter().any(|one| one == range))
        })
    }

    /// Waits until the gateway's virtual ranges lead somewhere.
    #[track_caller]
    pub fn until_routes(&self) {
        until("the routes are known", || {
            super::VIRTUAL.iter().all(|range| self.has_route(range))
        });
    }

    /// A connection from this node, as its programs' connections.
    ///
    /// # Errors
    /// What tailscaled says.
    pub fn dial(&self, host: &str, port: u16) -> Result<UnixStream, String> {
        local::dial(&self.socket, host, port)
    }

    /// A Unix socket in `folder` whose every connection becomes one from this node: `.s.PGSQL.5432` for psql.
    pub fn door(&self, path: &Path, host: &str, port: u16) {
        let listener = UnixListener::bind(path).unwrap();
        let (socket, host) = (self.socket.clone(), host.to_owned());
        std::thread::spawn(move || {
            for near in listener.incoming().flatten() {
                let (socket, host) = (socket.clone(), host.clone());
                std::thread::spawn(move || {
                    if let Ok(far) = local::dial(&socket, &host, port) {
                        splice(near, far);
                    }
                });
            }
        });
    }

    /// What one HTTP request from this node is answered; empty where the connection is closed, and what tailscaled
    /// says where there was none.
    pub fn http(&self, address: &str, port: u16, host: &str, method: &str) -> String {
        let mut stream = match self.dial(address, port) {
            Ok(stream) => stream,
            Err(error) => return error,
        };
        let request =
            format!("{method} / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
        let _ = stream.write_all(request.as_bytes());
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8_lossy(&answer).into_owned()
    }
}

impl Drop for Tailscaled {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!("--- {}\n{}", self.name, self.log());
        }
    }
}

fn splice(near: UnixStream, far: UnixStream) {
    // The far end was given a time-out for its head alone.
    let _ = far.set_read_timeout(None);
    let pass = |mut from: UnixStream, mut to: UnixStream| {
        let mut bytes = [0; 1 << 14];
        while let Ok(length @ 1..) = from.read(&mut bytes) {
            if to.write_all(&bytes[..length]).is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Both);
        let _ = from.shutdown(Shutdown::Both);
    };
    let (Ok(near2), Ok(far2)) = (near.try_clone(), far.try_clone()) else {
        return;
    };
    std::thread::spawn(move || pass(near2, far2));
    pass(far, near);
}
