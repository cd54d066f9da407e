//! Real addresses: what the kernel turns to the gateway, and what goes nowhere.
//!
//! A gateway's machine with a network device of tailscaled's, production on a network behind it, and agents.

use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::fd::AsFd as _;
use std::process::Output;
use std::sync::Arc;
use std::sync::mpsc;

use serde_json::json;

use crate::lab::{API_TEST, Gateway, Machine, Tailscaled, World, until};
use crate::postgres::{PASSWORD, Server};

/// Agents may reach the real addresses; site 7 is the range 10.1.0.0/16.
pub const TAILNET: &str = r#"{
  "tagOwners": {"tag:gateway": [], "tag:agent-ci": [], "tag:agent-dev": []},
  "autoApprovers": {"routes": {
    "10.78.0.0/16": ["tag:gateway"], "fd7a:7461:696c:78::/64": ["tag:gateway"],
    "10.20.0.0/16": ["tag:gateway"], "fd20::/64": ["tag:gateway"],
    "fd7a:115c:a1e0:b1a:0:7:a01:0/112": ["tag:gateway"],
  }},
  "grants": [{
    "src": ["tag:agent-ci", "tag:agent-dev"],
    "dst": ["tag:gateway", "10.78.0.0/16", "fd7a:7461:696c:78::/64", "10.20.0.0/16", "fd20::/64",
            "fd7a:115c:a1e0:b1a:0:7:a01:0/112"],
    "ip": ["*"],
  }],
}"#;

/// PostgreSQL at port 5432 of a machine: its own thread is on that machine's network for as long as it runs.
pub struct Database {
    end: mpsc::Sender<()>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Database {
    pub fn on(machine: &Machine, hba: &std::path::Path) -> Database {
        std::fs::write(
            hba,
            "host all all all scram-sha-256\nlocal all all scram-sha-256\n",
        )
        .unwrap();
        std::os::unix::fs::chown(hba, Some(65_534), None).unwrap();
        let hba = format!("hba_file={}", hba.display());
        let net = std::fs::File::open(format!("/proc/{}/ns/net", machine.pid())).unwrap();
        let (end, ends) = mpsc::channel();
        let (ready, started) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            nix::sched::setns(net.as_fd(), nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
            let server = Server::start(&["listen_addresses=*", &hba]);
            assert!(server.sql(
                "create table orders(id int); insert into orders values (7); grant all on orders to app"
            ));
            ready.send(server.port).unwrap();
            let _: Result<(), _> = ends.recv();
        });
        let port = started.recv().unwrap();
        // The server takes any free port; everybody knows the usual one.
        let turn = format!(
            "table inet t {{ chain c {{ type nat hook prerouting priority -100; tcp dport 5432 redirect to :{port}; }}; }}"
        );
        let nft = machine.says("nft", &[&turn]);
        assert_eq!(nft, "");
        Database {
            end,
            thread: Some(thread),
        }
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let _ = self.end.send(());
        let _ = self.thread.take().map(std::thread::JoinHandle::join);
    }
}

/// Production at 10.20.0.5, fd20::5 and 10.1.0.5, behind the gateway's machine, which has 10.20.0.1 and 10.1.0.1.
pub fn production(world: &World, gateway: &Machine, name: &str) -> Machine {
    let machine = world.outer.inner(&world.folder().join(name));
    gateway.ip(&format!(
        "link add prod0 type veth peer name eth0 netns {}",
        machine.pid()
    ));
    for (on, device, last) in [(gateway, "prod0", 1), (&machine, "eth0", 5)] {
        on.ip(&format!("addr add 10.20.0.{last}/16 dev {device}"));
        on.ip(&format!("addr add 10.1.0.{last}/16 dev {device}"));
        on.ip(&format!("addr add fd20::{last}/64 dev {device} nodad"));
        on.ip(&format!("link set {device} up"));
    }
    machine
}

pub fn policy(node: &Tailscaled, rest: &str) -> String {
    format!(
        r#"
gateway {{
  state_dir        = "FOLDER/state"
  dashboard_listen = "127.0.0.1:18080"
  tailscale {{
    socket = "{socket}"
    redirect_port = 8740
    {rest}
  }}
}}
endpoint "postgres" "orders" {{
  hosts   = ["10.20.0.5:5432", "[fd20::5]:5432", "10.1.0.5:5432"]
  sslmode = "disable"
}}
endpoint "http" "api" {{
  hosts    = ["api.test:80"]
  upstream = "127.0.0.2:9000"
}}
credential "postgres_credential" "app" {{
  endpoint = postgres.orders
  user     = "app"
  secret   = file("FOLDER/password")
}}
profile "ci" {{
  tags        = ["tag:agent-ci"]
  credentials = [postgres_credential.app]
  rule "reads" {{
    endpoint  = postgres.orders
    condition = "sql.verbs.all(v, v == 'select')"
    verdict   = "allow"
  }}
}}
"#,
        socket = node.socket.display()
    )
}

pub struct Scene {
    _database: Database,
    pub gateway: Gateway,
    config: std::path::PathBuf,
    pub node: Tailscaled,
    pub production: Machine,
    pub world: World,
}

/// `as_nobody`: the gateway runs as an account that tailscaled does not.
pub fn scene(rest: &str, as_nobody: bool) -> Option<Scene> {
    let mut world = World::root(TAILNET)?;
    let node = world.gateway_node("gw");
    // What setup leaves there is this machine's own, as its /etc is.
    assert_eq!(node.machine.says("mount", &["-t", "tmpfs", "tmpfs", "/run"]), "");
    let production = production(&world, &node.machine, "prod");
    let database = Database::on(&production, &world.folder().join("pg_hba.conf"));
    let folder = world.folder().join("gateway");
    std::fs::create_dir_all(&folder).unwrap();
    let secret = folder.join("password");
    std::fs::write(&secret, PASSWORD).unwrap();
    std::fs::set_permissions(&secret, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let mut user = "root";
    let gateway = if as_nobody {
        user = "nobody";
        // What `tailscale set --operator=USER` does.
        node.set(json!({ "OperatorUser": user }));
        for path in [world.folder(), folder.as_path()] {
            std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        }
        for path in [&folder, &secret] {
            std::os::unix::fs::chown(path, Some(65_534), Some(65_534)).unwrap();
        }
        let account = ["--reuid=nobody", "--regid=nogroup", "--clear-groups"];
        Gateway::start_by(&node.machine, &folder, &policy(&node, rest), &account)
    } else {
        Gateway::start(&node.machine, &folder, &policy(&node, rest), |_| {})
    };
    gateway.until_says("tailscaled is heard");
    let config = folder.join("policy.hcl");
    setup(&node.machine, &config, user, &["--yes"]);
    Some(Scene {
        _database: database,
        gateway,
        config,
        node,
        production,
        world,
    })
}

/// `tailkeep setup`, on a machine whose `/etc` and `/run` are its own.
pub fn setup(machine: &Machine, config: &std::path::Path, user: &str, rest: &[&str]) -> Output {
    let output = machine
        .command(env!("CARGO_BIN_EXE_tailkeep"))
        .args(["setup", "--user", user, "-c"])
        .arg(config)
        .args(rest)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    output
}

pub fn psql(agent: &Machine, host: &str, sql: &str) -> String {
    let output = agent
        .command("psql")
        // One that began while the route was not there has a wrong source, and is not heard of again.
        .env("PGCONNECT_TIMEOUT", "8")
        .args(["-XAtq", "-c", sql])
        .arg(format!("host={host} user=app dbname=postgres sslmode=disable"))
        .output()
        .unwrap();
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// Whether a connection from this machine is refused or closed without a byte.
fn is_shut(machine: &Arc<Machine>, to: SocketAddr) -> bool {
    let net = std::fs::File::open(format!("/proc/{}/ns/net", machine.pid())).unwrap();
    let asked = std::thread::spawn(move || {
        nix::sched::setns(net.as_fd(), nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
        let Ok(mut stream) = TcpStream::connect_timeout(&to, crate::lab::SOON) else {
            return true;
        };
        stream.set_read_timeout(Some(crate::lab::SOON)).unwrap();
        let _ = std::io::Write::write_all(&mut stream, b"GET / HTTP/1.0\r\n\r\n");
        let found = std::io::Read::read(&mut stream, &mut [0; 16]);
        matches!(found, Ok(0))
            || matches!(found, Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset)
    });
    asked.join().unwrap()
}

/// Whether a datagram is answered by an ICMP error.
fn is_refused_udp(machine: &Arc<Machine>, to: &str) -> bool {
    let net = std::fs::File::open(format!("/proc/{}/ns/net", machine.pid())).unwrap();
    let to: SocketAddr = to.parse().unwrap();
    let asked = std::thread::spawn(move || {
        nix::sched::setns(net.as_fd(), nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
        let any: IpAddr = match to {
            SocketAddr::V4(_) => [0; 4].into(),
            SocketAddr::V6(_) => [0_u16; 8].into(),
        };
        let socket = std::net::UdpSocket::bind((any, 0)).unwrap();
        socket.connect(to).unwrap();
        socket.set_read_timeout(Some(crate::lab::SOON)).unwrap();
        socket.send(b"QUIC").unwrap();
        let found = socket.recv(&mut [0; 16]);
        matches!(found, Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused)
    });
    asked.join().unwrap()
}

#[test]
fn what_is_dialled_at_real_addresses_comes_to_the_gateway_and_nowhere_else() {
    let Some(mut scene) = scene(r#"routes = ["10.20.0.0/16", "fd20::/64"]"#, false) else {
        return;
    };
    let ci = scene.world.agent("ci-1", &["tag:agent-ci"]);
    let dev = scene.world.agent("dev-1", &["tag:agent-dev"]);
    until("the routes are there", || {
        ci.has_route("10.20.0.0/16") && ci.has_route("fd20::/64")
    });
    for host in ["10.20.0.5", "fd20::5"] {
        assert_eq!(psql(&ci.machine, host, "select id from orders"), "7\n", "{host}");
        let denied = psql(&ci.machine, host, "delete from orders");
        assert!(
            denied.contains("denied") || denied.contains("ERROR"),
            "{host}: {denied}"
        );
        let nothing = psql(&dev.machine, host, "select id from orders");
        assert_ne!(nothing, "7\n", "{host}");
    }
    assert_eq!(
        psql(&ci.machine, "10.20.0.5", "select count(*) from orders"),
        "1\n"
    );
    // In the routes, of no endpoint; the listener itself, by a peer and by others; UDP.
    let gateway: IpAddr = scene.node.address(false).parse().unwrap();
    assert!(is_shut(&ci.machine, "10.20.0.5:22".parse().unwrap()));
    assert!(is_shut(&ci.machine, SocketAddr::new(gateway, 8740)));
    assert!(is_shut(&scene.node.machine, SocketAddr::new(gateway, 8740)));
    assert!(is_shut(&ci.machine, "192.168.100.11:8740".parse().unwrap()));
    let [v4, v6] = [format!("{}:443", API_TEST[0]), format!("[{}]:443", API_TEST[1])];
    let refuses_udp = || {
        for address in ["10.20.0.5:443", "[fd20::5]:443", &v4, &v6] {
            assert!(is_refused_udp(&ci.machine, address), "{address}");
        }
    };
    refuses_udp();
    let audit = scene.gateway.audit();
    let allowed = audit
        .iter()
        .find(|row| row["node"] == "ci-1" && row["verdict"] == "allow");
    assert_eq!(allowed.unwrap()["transport"], "tailnet");
    assert!(
        audit
            .iter()
            .any(|row| row["node"] == "dev-1" && row["cause"] == "no_profile")
    );
    // Forwarding is switched on: nothing changes while the table is there.
    scene
        .node
        .machine
        .says("sysctl", &["-w", "net.ipv4.ip_forward=1"]);
    assert!(is_shut(&ci.machine, "10.20.0.5:22".parse().unwrap()));
    assert_eq!(psql(&ci.machine, "10.20.0.5", "select id from orders"), "7\n");
    // And whatever becomes of TCP that no endpoint claims.
    let open = format!(
        "{}\ndefaults {{ unknown_host = \"passthrough\" }}\n",
        std::fs::read_to_string(&scene.config).unwrap()
    );
    scene.gateway.reload(&open);
    scene.gateway.until_says("a new policy is in force");
    refuses_udp();
    // Without it they are withdrawn, lest anything goes round; forwarded, since there are no rules left.
    setup(&scene.node.machine, &scene.config, "root", &["--remove", "--yes"]);
    scene.gateway.until_says("forwards packets");
    until("the route is withdrawn", || !ci.has_route("10.20.0.0/16"));
    setup(&scene.node.machine, &scene.config, "root", &["--yes"]);
    until("it is back", || ci.has_route("10.20.0.0/16"));
    assert!(scene.gateway.stop());
    until("the routes are withdrawn", || {
        !ci.has_route("10.20.0.0/16") && !ci.has_route("fd20::/64") && !ci.has_route("10.78.0.0/16")
    });
}

#[test]
fn a_site_whose_range_others_have_too_is_reached_by_its_number() {
    let Some(mut scene) = scene("via {\n site = 7\n cidr = \"10.1.0.0/16\"\n }", true) else {
        return;
    };
    let ci = scene.world.agent("ci-1", &["tag:agent-ci"]);
    let dev = scene.world.agent("dev-1", &["tag:agent-dev"]);
    let (site, inside) = ("fd7a:115c:a1e0:b1a:0:7:a01:0/112", "fd7a:115c:a1e0:b1a:0:7:a01:5");
    until("the site is there", || ci.has_route(site) && dev.has_route(site));
    let seven = psql(&ci.machine, inside, "select id from orders");
    assert_eq!(seven, "7\n", "{:?}", scene.gateway.audit());
    let denied = psql(&ci.machine, inside, "delete from orders");
    assert!(denied.contains("ERROR"), "{denied} {:#?}", scene.gateway.audit());
    let nothing = psql(&dev.machine, inside, "select id from orders");
    assert_ne!(nothing, "7\n");
    assert!(
        !ci.has_route("10.1.0.5/32"),
        "its plain addresses are not advertised"
    );
    // A program on the gateway's machine is no peer.
    assert!(is_shut(&scene.node.machine, "10.1.0.5:22".parse().unwrap()));
    // Without the table tailscaled would dial there itself: the site is withdrawn.
    setup(
        &scene.node.machine,
        &scene.config,
        "nobody",
        &["--remove", "--yes"],
    );
    until("the site is withdrawn", || !ci.has_route(site));
}

#[test]
fn setup_shows_first_does_what_is_missing_and_takes_it_away() {
    let Some(mut scene) = scene(r#"routes = ["10.20.0.0/16"]"#, false) else {
        return;
    };
    let machine = scene.node.machine.clone();
    let again = setup(&machine, &scene.config, "root", &["--yes"]);
    assert!(String::from_utf8_lossy(&again.stdout).contains("nothing is to be done"));
    let tables = machine.says("nft", &["list", "table", "inet", "tailkeep"]);
    assert!(
        tables.contains("10.20.0.0/16") && tables.contains("8740"),
        "{tables}"
    );
    // Another account sees what would be done, and does nothing.
    let text = std::fs::read_to_string(&scene.config)
        .unwrap()
        .replace("10.20.0.0/16\"", "10.20.0.0/17\"");
    let other = scene.world.folder().join("other.hcl");
    std::fs::write(&other, text.replace("FOLDER", "/tmp")).unwrap();
    std::fs::set_permissions(
        scene.world.folder(),
        std::os::unix::fs::PermissionsExt::from_mode(0o755),
    )
    .unwrap();
    let shown = machine.says(
        "setpriv",
        &[
            "--reuid=nobody",
            "--regid=nogroup",
            "--clear-groups",
            env!("CARGO_BIN_EXE_tailkeep"),
            "setup",
            "--user",
            "nobody",
            "-c",
            &other.display().to_string(),
        ],
    );
    assert!(
        shown.contains("10.20.0.0/17") && shown.contains("run it as root"),
        "{shown}"
    );
    let tables = machine.says("nft", &["list", "table", "inet", "tailkeep"]);
    assert!(!tables.contains("10.20.0.0/17"), "{tables}");
    setup(&machine, &scene.config, "root", &["--remove", "--yes"]);
    let left = machine.says("sh", &["-c", "nft list tables; ip route show table local 10.78.0.0/16; ls /etc/tailkeep/* /etc/systemd/system/tailkeep* 2>/dev/null"]);
    assert_eq!(left, "");
    let again = setup(&machine, &scene.config, "root", &["--remove", "--yes"]);
    assert!(String::from_utf8_lossy(&again.stdout).contains("nothing is to be done"));
    assert!(scene.gateway.stop());
}
