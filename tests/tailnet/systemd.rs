//! What `tailkeep setup` writes, under a systemd: Debian's own, the first process of namespaces of its own
//! (`systemd.sh`), on the machine of a real tailscaled.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

use crate::database::{Psql, text};
use crate::lab::{Tailscaled, VIRTUAL, World, until};
use crate::postgres::PASSWORD;
use crate::redirect::{Database, TAILNET, policy, production, psql};

const TABLE: &[&str] = &["nft", "list", "table", "inet", "tailkeep"];
const LOADED: &str = "/run/tailkeep/intercept.nft";

/// The running systemd of a machine.
struct System {
    holder: Child,
    pid: u32,
    /// The name of its control group.
    group: String,
}

impl System {
    /// `None`, with a line that says why, where this machine cannot.
    fn boot(node: &Tailscaled, world: &World) -> Option<System> {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/tailnet/systemd.sh");
        // It cleans up after this process too, however that ends.
        let mut holder = node
            .machine
            .command("setpriv")
            .args(["--pdeathsig", "clear", "setsid", "sh", script])
            .arg(world.folder().join("systemd"))
            .arg(env!("CARGO_BIN_EXE_tailkeep"))
            .arg(node.socket.parent().unwrap())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut says = BufReader::new(holder.stdout.take().unwrap());
        says.read_line(&mut line).unwrap();
        if line.starts_with("SKIPPED: ") {
            eprint!("{line}");
            holder.wait().unwrap();
            return None;
        }
        let pid = line.trim().parse().expect("a process");
        let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
        // systemd moves on to one below it.
        let own = groups
            .split(['/', '\n'])
            .find(|part| part.starts_with("tailkeep-test."));
        let system = System {
            holder,
            pid,
            group: own.expect("a control group").to_owned(),
        };
        until("systemd is up", || {
            system.says(&["systemctl", "is-system-running"]) == "running\n"
        });
        Some(system)
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--target={}", self.pid))
            .args(["--mount", "--pid", "--net", "--ipc", "--uts", "--cgroup", "--"])
            .args(words);
        command
    }

    fn says(&self, words: &[&str]) -> String {
        text(&self.command(words).output().unwrap())
    }

    /// What a command prints, which must succeed.
    #[track_caller]
    fn does(&self, words: &[&str]) -> String {
        let output = self.command(words).output().unwrap();
        let said = text(&output);
        assert!(output.status.success(), "{words:?}: {said}\n{}", self.log());
        said
    }

    /// Writes a file there.
    fn write(&self, path: &str, text: &str) {
        let mut child = self
            .command(&["install", "-D", "-m", "0644", "/dev/stdin", path])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        assert!(child.wait().unwrap().success());
    }

    fn log(&self) -> String {
        self.says(&["journalctl", "--no-pager", "-o", "short-monotonic"])
    }

    /// A property of a service.
    fn of(&self, unit: &str, property: &str) -> String {
        let said = self.does(&["systemctl", "show", "--value", "-p", property, unit]);
        said.trim().to_owned()
    }

    /// A service that breaks stays so, to be looked at.
    fn slow(&self, unit: &str) {
        let path = format!("/run/systemd/system/{unit}.d/slow.conf");
        self.write(&path, "[Service]\nRestartSec=1h\n");
        self.does(&["systemctl", "daemon-reload"]);
    }

    fn as_written(&self, unit: &str) {
        self.does(&["rm", "-r", &format!("/run/systemd/system/{unit}.d")]);
        self.does(&["systemctl", "daemon-reload"]);
    }

    #[track_caller]
    fn until_is(&self, unit: &str, state: &str) {
        let is = || format!("{}/{}", self.of(unit, "ActiveState"), self.of(unit, "SubState"));
        until(&format!("{unit} is {state}"), || is() == state);
    }

    fn has_table(&self) -> bool {
        self.command(TABLE).output().unwrap().status.success()
    }

    fn has_local_routes(&self) -> bool {
        let routes = ["-4", "-6"].map(|family| self.does(&["ip", family, "route", "show", "table", "local"]));
        VIRTUAL
            .iter()
            .all(|range| routes.concat().contains(&format!("local {range} dev lo")))
    }

    fn audit(&self) -> Vec<Value> {
        let rows = self.does(&[
            "env",
            "TAILKEEP_SOCKET=/var/lib/tailkeep/admin.sock",
            "tailkeep",
            "audit",
            "export",
        ]);
        rows.lines()
            .map(|row| serde_json::from_str(row).unwrap())
            .collect()
    }
}

impl Drop for System {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- systemd\n{}", self.log());
        }
        drop(self.holder.stdin.take());
        let _ = self.holder.wait();
        let left = Command::new("find")
            .args(["/sys/fs/cgroup", "-name", &self.group])
            .output()
            .unwrap();
        assert!(
            std::thread::panicking() || left.stdout.is_empty(),
            "its control group is left"
        );
    }
}

struct Scene {
    system: System,
    ci: Tailscaled,
    node: Tailscaled,
    _database: Database,
    _production: crate::lab::Machine,
    world: World,
}

/// A machine as its operator has it before `tailkeep setup`: a tailscaled that is logged in, systemd, the policy.
fn scene() -> Option<Scene> {
    let mut world = World::root(TAILNET)?;
    let node = world.daemon("gw");
    node.login(&world.control, &["tag:gateway"], json!({ "NoSNAT": true }));
    let system = System::boot(&node, &world)?;
    let production = production(&world, &node.machine, "prod");
    let database = Database::on(&production, &world.folder().join("pg_hba.conf"));
    let text = policy(
        &node,
        "routes = [\"10.20.0.0/16\", \"fd20::/64\"]\n via {\n site = 7\n cidr = \"10.1.0.0/16\"\n }",
    )
    .replace("FOLDER/state", "/var/lib/tailkeep")
    .replace("FOLDER/password", "/etc/tailkeep/password")
    .replace(
        &node.socket.display().to_string(),
        "/run/tailscale/tailscaled.sock",
    );
    system.write("/etc/tailkeep/policies/policy.hcl", &text);
    system.write("/etc/tailkeep/password", PASSWORD);
    system.does(&["chmod", "0600", "/etc/tailkeep/password"]);
    // A machine that forwards: what goes round the gateway would arrive.
    let forward = ["-w", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1"];
    node.machine.says("sysctl", &forward);
    let ci = world.agent("ci-1", &["tag:agent-ci"]);
    Some(Scene {
        system,
        ci,
        node,
        _database: database,
        _production: production,
        world,
    })
}

const ROUTES: [&str; 4] = [
    "10.20.0.0/16",
    "fd20::/64",
    "10.78.0.0/16",
    "fd7a:115c:a1e0:b1a:0:7:a01:0/112",
];

impl Scene {
    #[track_caller]
    fn until_served(&self, what: &str) {
        until(what, || ROUTES.iter().all(|range| self.ci.has_route(range)));
        for host in ["10.20.0.5", "fd20::5", "fd7a:115c:a1e0:b1a:0:7:a01:5"] {
            until(what, || {
                psql(&self.ci.machine, host, "select id from orders") == "7\n"
            });
            let denied = psql(&self.ci.machine, host, "delete from orders");
            assert!(denied.contains("ERROR"), "{host}: {denied}");
        }
    }

    #[track_caller]
    fn until_withdrawn(&self) {
        until("the routes are withdrawn", || {
            !ROUTES.iter().any(|range| self.ci.has_route(range))
        });
    }

    /// Kills the process of a service, and waits until systemd knows; what it did after it is done then.
    #[track_caller]
    fn breaks(&self, unit: &str) {
        let pid = self.system.of(unit, "MainPID");
        self.system.does(&["kill", "-KILL", &pid]);
        self.system.until_is(unit, "activating/auto-restart");
    }
}

#[test]
fn what_setup_writes_runs_as_it_should_under_systemd() {
    let Some(scene) = scene() else { return };
    let system = &scene.system;
    let done = system.does(&["tailkeep", "setup", "--yes"]);
    assert!(done.contains("systemctl enable --now tailkeep.service"), "{done}");
    // What it says is to be done then.
    let operator = scene.node.cli(&["set", "--operator=tailkeep"]);
    assert!(operator.status.success(), "{operator:?}");
    system.does(&["chown", "tailkeep:", "/etc/tailkeep/password"]);
    system.does(&["systemctl", "enable", "--now", "tailkeep.service"]);
    scene.until_served("the gateway serves");
    let again = system.does(&["tailkeep", "setup", "--yes"]);
    assert!(again.contains("nothing is to be done"), "{again}");

    let units = [
        "tailkeep-intercept.service",
        "tailkeep-watch.service",
        "tailkeep.service",
    ];
    let [table, watch, gateway] = units;
    let [one, two, three] = units.map(|unit| format!("/etc/systemd/system/{unit}"));
    let found = system.does(&["systemd-analyze", "verify", &one, &two, &three]);
    assert_eq!(found, "");
    has_no_more_than_it_needs(system, gateway);
    let pid = system.of(gateway, "MainPID");
    system.does(&["systemctl", "reload", gateway]);
    scene.until_served("the policy is read anew");
    assert_eq!(system.of(gateway, "MainPID"), pid);
    assert_eq!(system.audit()[0]["transport"], "tailnet");

    when_the_watch_breaks(&scene, watch, gateway);
    when_the_gateway_breaks(&scene, gateway);
    when_a_firewall_starts_anew(&scene, watch);
    when_the_table_cannot_be_loaded(&scene, table, gateway);

    // An orderly end: first the gateway's, then the table's.
    system.does(&["systemctl", "stop", gateway]);
    assert_eq!(system.of(gateway, "Result"), "success");
    assert!(
        system
            .log()
            .contains("tailkeep.service: Deactivated successfully"),
        "{}",
        system.log()
    );
    scene.until_withdrawn();
    assert!(system.has_table());
    system.does(&["systemctl", "stop", table]);
    assert_eq!(system.of(table, "Result"), "success");
    assert!(!system.has_table() && !system.has_local_routes());
    assert!(
        !system
            .command(&["test", "-e", LOADED])
            .status()
            .unwrap()
            .success()
    );

    // Both are what a machine begins with.
    system.does(&["systemctl", "restart", "multi-user.target"]);
    scene.until_served("a start of the machine");
    // Who stops the table stops the gateway first.
    system.does(&["systemctl", "stop", table]);
    system.until_is(gateway, "inactive/dead");
    system.until_is(watch, "inactive/dead");
    scene.until_withdrawn();
    system.does(&["systemctl", "start", gateway]);
    system.until_is(watch, "active/running");
    scene.until_served("the gateway brings the table");

    system.does(&["tailkeep", "setup", "--remove", "--yes"]);
    scene.until_withdrawn();
    assert!(!system.has_table() && !system.has_local_routes());
    let left = "find /etc /run /usr/lib/systemd -name '*tailkeep*' -o -name intercept.nft | grep -v cgroup";
    assert_eq!(
        system.says(&["sh", "-c", left]),
        "/etc/tailkeep\n",
        "its policies are its operator's"
    );
    assert_eq!(system.says(&["pgrep", "tailkeep"]), "");
    let known = system.does(&[
        "systemctl",
        "list-units",
        "--all",
        "--plain",
        "--no-legend",
        "tailkeep*",
    ]);
    assert_eq!(known, "");
    let again = system.does(&["tailkeep", "setup", "--remove", "--yes"]);
    assert!(again.contains("nothing is to be done"), "{again}");
}

/// The gateway's process: its own account, ports below 1024 and no more, nothing to be gained.
#[track_caller]
fn has_no_more_than_it_needs(system: &System, gateway: &str) {
    let pid = system.of(gateway, "MainPID");
    let status = system.does(&["cat", &format!("/proc/{pid}/status")]);
    let line = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap().trim().to_owned()
    };
    let user = system.does(&["id", "-u", "tailkeep"]);
    assert!(line("Uid:").split('\t').all(|id| id == user.trim()), "{status}");
    for set in ["CapEff:", "CapPrm:", "CapBnd:", "CapAmb:"] {
        let number = u64::from_str_radix(&line(set), 16).unwrap();
        assert_eq!(number, 1 << 10, "{set} CAP_NET_BIND_SERVICE");
    }
    assert_eq!(
        (line("NoNewPrivs:").as_str(), line("Seccomp:").as_str()),
        ("1", "2")
    );
    let state = system.does(&["stat", "-c", "%U %a", "/var/lib/tailkeep"]);
    assert_eq!(state, "tailkeep 700\n");
}

/// The watch is killed: table and ways stay while it is away, and it comes back by itself.
#[track_caller]
fn when_the_watch_breaks(scene: &Scene, watch: &str, gateway: &str) {
    let system = &scene.system;
    system.slow(watch);
    let pid = system.of(gateway, "MainPID");
    let table = system.does(TABLE);
    let mut open = Psql::on(&scene.world, &scene.ci, "10.20.0.5").open();
    assert_eq!(open.ask("select id from orders"), "7\n");
    scene.breaks(watch);
    assert_eq!(system.does(TABLE), table);
    assert!(system.has_local_routes());
    system.does(&["test", "-e", LOADED]);
    scene.until_served("without the watch");
    system.as_written(watch);
    system.does(&["systemctl", "start", watch]);
    let killed = system.of(watch, "MainPID");
    system.does(&["kill", "-KILL", &killed]);
    until("the watch is back by itself", || {
        system.of(watch, "SubState") == "running" && system.of(watch, "MainPID") != killed
    });
    system.does(&["nft", "flush", "ruleset"]);
    until("and watches", || system.has_table());
    assert_eq!(system.does(TABLE), table);
    assert_eq!(system.of(gateway, "MainPID"), pid, "the gateway went on");
    assert_eq!(
        open.ask("select id from orders"),
        "7\n",
        "and so did who was there"
    );
}

/// The gateway is killed: the routes are withdrawn, and it comes back by itself.
#[track_caller]
fn when_the_gateway_breaks(scene: &Scene, gateway: &str) {
    let system = &scene.system;
    system.slow(gateway);
    scene.breaks(gateway);
    scene.until_withdrawn();
    assert!(system.has_table());
    system.as_written(gateway);
    system.does(&["systemctl", "start", gateway]);
    scene.until_served("the gateway is back");
    let killed = system.of(gateway, "MainPID");
    system.does(&["kill", "-KILL", &killed]);
    until("the gateway is back by itself", || {
        system.of(gateway, "SubState") == "running" && system.of(gateway, "MainPID") != killed
    });
    scene.until_served("the gateway is back by itself");
}

/// Debian's firewall flushes every table when it starts, is loaded anew and stops.
#[track_caller]
fn when_a_firewall_starts_anew(scene: &Scene, watch: &str) {
    let system = &scene.system;
    let firewall = |verb| {
        system.does(&["systemctl", verb, "nftables.service"]);
        until("the table is there again", || system.has_table());
        scene.until_served(verb);
    };
    firewall("start");
    // What is more than to be started, systemd passes on.
    system.does(&["systemctl", "stop", watch]);
    firewall("reload");
    firewall("restart");
    system.until_is(watch, "active/running");
}

/// No table, no gateway; the table is tried again by itself.
#[track_caller]
fn when_the_table_cannot_be_loaded(scene: &Scene, table: &str, gateway: &str) {
    let system = &scene.system;
    let (there, away) = ("/etc/tailkeep/intercept.nft", "/etc/tailkeep/away");
    system.does(&["mv", there, away]);
    let failed = system.says(&["systemctl", "restart", table]);
    assert!(failed.contains("failed"), "{failed}");
    system.until_is(gateway, "inactive/dead");
    scene.until_withdrawn();
    assert!(!system.has_table() && !system.has_local_routes());
    system.does(&["mv", away, there]);
    system.until_is(table, "active/exited");
    system.does(&["systemctl", "start", gateway]);
    scene.until_served("the table is loaded");
}
