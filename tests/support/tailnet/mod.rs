//! A real tailnet of one's own, on this machine alone: the control server of `tailscale/fixture`, real tailscaleds,
//! and a gateway. Built by `scripts/test` (`need_tailnet` of `scripts/lib.sh`).
//!
//! Two forms, of one shape, so that a test can run on both:
//! - [`World::rootless`]: one namespace for all, tailscaleds without a network device. For any user.
//! - [`World::root`]: a namespace for each machine, with a bridge between them, and tailscaleds with a device.
//!
//! Agents reach out by [`Tailscaled::dial`] or [`Tailscaled::door`], which need not enter a namespace, or by a program
//! that [`Machine::command`] runs on their machine. All that was started ends with the [`World`], or with the test.

pub mod control;
pub mod gateway;
pub mod local;
pub mod machine;
pub mod node;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

pub use control::Control;
pub use gateway::Gateway;
pub use machine::Machine;
pub use node::{Device, Tailscaled};

/// How long anything may take here before a test fails.
pub const SOON: Duration = Duration::from_secs(30);

/// The ranges of virtual addresses that a gateway has unless it is told others.
pub const VIRTUAL: [&str; 2] = ["10.78.0.0/16", "fd7a:7461:696c:78::/64"];

/// The virtual addresses of three names in those ranges. A gateway of any version gives them these.
pub const API_TEST: [&str; 2] = ["10.78.204.169", "fd7a:7461:696c:78::cca9"];
pub const ORDERS_TEST: [&str; 2] = ["10.78.59.210", "fd7a:7461:696c:78::3bd2"];
pub const GATEWAY_ITSELF: [&str; 2] = ["10.78.59.85", "fd7a:7461:696c:78::3b55"];

/// Agents of two tags may reach the gateway's virtual addresses and its name service; its routes need nobody's
/// consent. An untagged node may do nothing.
pub const POLICY: &str = r#"{
  "tagOwners": {
    "tag:gateway": [], "tag:agent-ci": [], "tag:agent-dev": [], "tag:nothing": [],
  },
  "autoApprovers": {
    "routes": {"10.78.0.0/16": ["tag:gateway"], "fd7a:7461:696c:78::/64": ["tag:gateway"]},
  },
  "grants": [
    {
      "src": ["tag:agent-ci", "tag:agent-dev"],
      "dst": ["10.78.0.0/16", "fd7a:7461:696c:78::/64"],
      "ip": ["tcp:*"],
    },
    {
      "src": ["tag:agent-ci", "tag:agent-dev"],
      "dst": ["tag:gateway"],
      "ip": ["tcp:80", "tcp:443", "tcp:53", "udp:53"],
    },
  ],
}"#;

/// The control server and the machines around it.
pub struct World {
    pub control: Control,
    /// Where the control server runs; in the rootless form, everything.
    pub outer: Arc<Machine>,
    device: Device,
    folder: tempfile::TempDir,
    machines: u8,
}

impl World {
    /// Everybody on one machine. `None`, with a line that says why, where namespaces are forbidden.
    pub fn rootless(policy: &str) -> Option<World> {
        let outer = Machine::outer()?;
        // tailscaled believes in a network once there is a way out; this one leads nowhere.
        for line in [
            "link add d0 type veth peer name d1",
            "addr add 192.0.2.1/24 dev d0",
            "link set d0 up",
            "link set d1 up",
            "route add default dev d0",
        ] {
            outer.ip(line);
        }
        Some(World::with(outer, Device::None, "127.0.0.1", policy))
    }

    /// A namespace a machine. `None`, with a line that says why, where this user may not.
    pub fn root(policy: &str) -> Option<World> {
        if !nix::unistd::geteuid().is_root() || !Path::new("/dev/net/tun").exists() {
            eprintln!("SKIPPED: network devices need root and /dev/net/tun");
            return None;
        }
        let outer = Machine::outer()?;
        for line in [
            "link add br0 type bridge",
            "addr add 192.168.100.1/24 dev br0",
            "link set br0 up",
        ] {
            outer.ip(line);
        }
        Some(World::with(outer, Device::Tun, "192.168.100.1", policy))
    }

    fn with(outer: Machine, device: Device, address: &str, policy: &str) -> World {
        let folder = tempfile::tempdir().unwrap();
        let control = Control::start(&outer, folder.path(), address, policy);
        World {
            control,
            outer: Arc::new(outer),
            device,
            folder,
            machines: 10,
        }
    }

    /// Where files of this world may be put.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A machine on the network of the control server, at 192.168.100.11 and so on; in the rootless form, the one
    /// that there is.
    pub fn machine(&mut self, name: &str) -> Arc<Machine> {
        if self.device == Device::None {
            return self.outer.clone();
        }
        self.machines += 1;
        let machine = self.outer.inner(&self.folder.path().join(format!("etc-{name}")));
        let (pid, number) = (machine.pid(), self.machines);
        self.outer.ip(&format!(
            "link add v{number} type veth peer name eth0 netns {pid}"
        ));
        self.outer.ip(&format!("link set v{number} master br0 up"));
        machine.ip(&format!("addr add 192.168.100.{number}/24 dev eth0"));
        machine.ip("link set eth0 up");
        // Leads nowhere: the other end does not forward.
        machine.ip("route add default via 192.168.100.1");
        Arc::new(machine)
    }

    /// A tailscaled that nobody has logged in, on a machine of its own.
    pub fn daemon(&mut self, name: &str) -> Tailscaled {
        let machine = self.machine(name);
        self.daemon_on(&machine, name, self.device)
    }

    /// A tailscaled that nobody has logged in.
    pub fn daemon_on(&mut self, machine: &Arc<Machine>, name: &str, device: Device) -> Tailscaled {
        self.machines += 1;
        Tailscaled::start(
            &self.control,
            machine,
            &self.folder.path().join(name),
            (name, self.machines),
            device,
        )
    }

    /// An agent's machine, a node with these tags, that takes the routes of others.
    pub fn agent(&mut self, name: &str, tags: &[&str]) -> Tailscaled {
        let daemon = self.daemon(name);
        daemon.login(&self.control, tags, json!({ "RouteAll": true }));
        daemon
    }

    /// The gateway's node: tag:gateway, with its virtual ranges led to it. Routes are the gateway's to declare.
    pub fn gateway_node(&mut self, name: &str) -> Tailscaled {
        let daemon = self.daemon(name);
        daemon.machine.virtual_ranges();
        daemon.login(&self.control, &["tag:gateway"], json!({ "NoSNAT": true }));
        daemon
    }
}

/// A program of the fixture.
pub fn program(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("target/tailnet")
        .join(name);
    assert!(path.exists(), "{} is not built: see scripts/test", path.display());
    path
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

fn parse(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}
