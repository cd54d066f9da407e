//! Two gateways advertise the same routes: when one goes, the tailnet leads its agents to the other, where the
//! same addresses mean the same endpoints.

use std::path::PathBuf;
use std::time::Instant;

use serde_json::json;

use crate::database::{Psql, Reached, Session, database, policy, put_password};
use crate::lab::{Device, Gateway, POLICY, Tailscaled, VIRTUAL, World, until};
use crate::postgres::Server;
use crate::stories::ORDERS;

const PROFILES: &str = r#"
profile "ci" {
  tags        = ["tag:agent-ci"]
  credentials = [postgres_credential.app]
  rule "ci-reads" {
    endpoint  = postgres.orders
    condition = "sql.verbs.all(v, v == 'select')"
    verdict   = "allow"
  }
}
"#;

/// What the second gateway's policy has beside, so that it sees other names first.
const MORE: &str = r#"
endpoint "http" "before" {
  hosts    = ["aaa.test:80", "before.test:80"]
  upstream = "127.0.0.2:9"
}
"#;

/// A gateway on a machine of its own.
struct Site {
    more: &'static str,
    gateway: Gateway,
    node: Tailscaled,
    folder: PathBuf,
    _reached: Reached,
}

impl Site {
    fn new(world: &mut World, server: &Server, name: &str, device: Device) -> Site {
        let machine = world.machine(name);
        machine.virtual_ranges();
        let node = world.daemon_on(&machine, name, device);
        node.login(&world.control, &["tag:gateway"], json!({ "NoSNAT": true }));
        let folder = world.folder().join(format!("gateway-{name}"));
        put_password(&folder);
        let more = if name == "gw-2" { MORE } else { "" };
        let gateway = Site::gateway(&node, &folder, more);
        Site {
            more,
            gateway,
            _reached: Reached::from(&machine, server),
            node,
            folder,
        }
    }

    fn gateway(node: &Tailscaled, folder: &std::path::Path, more: &str) -> Gateway {
        let text = policy(node, &format!("{PROFILES}{more}"));
        let gateway = Gateway::start(&node.machine, folder, &text, |_| {});
        gateway.until_says("tailscaled is heard");
        gateway
    }

    /// The gateway, and its tailscaled where that is dead too, come back.
    fn restart(&mut self) {
        if self.node.state().is_empty() {
            self.node.restart();
        }
        self.gateway = Site::gateway(&self.node, &self.folder, self.more);
    }

    fn has_let_in(&self, node: &str) -> bool {
        let rows = self.gateway.audit();
        rows.iter()
            .any(|row| row["node"] == node && row["verdict"] == "allow")
    }
}

struct Scene {
    first: Site,
    second: Site,
    /// By IPv4 and by IPv6.
    agents: [Psql; 2],
    ci: Tailscaled,
    _server: Server,
    world: World,
}

/// The first is the older node, to which the routes lead.
fn scene(device: Device) -> Option<Scene> {
    let mut world = World::root(POLICY)?;
    let server = database();
    let first = Site::new(&mut world, &server, "gw-1", device);
    let second = Site::new(&mut world, &server, "gw-2", device);
    let ci = world.agent("ci-1", &["tag:agent-ci"]);
    ci.until_routes();
    let agents = ORDERS.map(|address| Psql::on(&world, &ci, address));
    let scene = Scene {
        first,
        second,
        agents,
        ci,
        _server: server,
        world,
    };
    scene.until_leads_to("gw-1");
    until("the second advertises as well", || {
        scene.world.control.node("gw-2")["Approved"] == json!(VIRTUAL)
    });
    Some(scene)
}

impl Scene {
    fn until_leads_to(&self, name: &str) {
        until(name, || {
            self.world.control.node(name)["Primary"] == json!(VIRTUAL)
        });
    }

    /// A session that works, of each family.
    fn open(&self) -> [Session; 2] {
        [0, 1].map(|family| {
            let mut session = self.agents[family].open();
            assert_eq!(session.ask("select id from orders"), "7\n");
            session
        })
    }

    /// New connections are judged by a gateway that is there, by the same rules.
    #[track_caller]
    fn until_served(&self, what: &str) {
        let began = Instant::now();
        for agent in &self.agents {
            until(what, || agent.says("select id from orders") == "7\n");
            eprintln!("{what} after {:?}", began.elapsed());
            let denied = agent.says("delete from orders");
            // It names the gateway that said no, for whoever asks what it may do.
            let hint = "HINT:  What you may reach: http://gw-";
            assert!(denied.contains("ERROR") && denied.contains(hint), "{denied}");
        }
    }
}

#[track_caller]
fn until_lost(open: [Session; 2]) {
    for session in open {
        session.until_lost("select id from orders");
    }
}

fn the_other_takes_over_from_the_dead(device: Device) {
    let Some(mut scene) = scene(device) else { return };
    let open = scene.open();
    assert!(!scene.second.has_let_in("ci-1"));
    scene.first.gateway.kill();
    scene.first.node.kill();
    scene.until_leads_to("gw-2");
    scene.until_served("the second gateway serves");
    assert!(scene.second.has_let_in("ci-1"), "as the same agent");
    until_lost(open);
    // It is back, as the same node, and the older one.
    scene.first.restart();
    scene.until_leads_to("gw-1");
    scene.until_served("the first gateway serves again");
    // Both are gone: no way leads anywhere.
    for site in [&mut scene.first, &mut scene.second] {
        site.gateway.kill();
        site.node.kill();
    }
    for agent in &scene.agents {
        let nothing = agent.tries("select id from orders");
        assert!(nothing != "7\n", "{nothing}");
    }
    scene.second.restart();
    scene.until_served("the second gateway alone serves");
}

#[test]
fn the_other_takes_over_from_the_dead_with_a_device() {
    the_other_takes_over_from_the_dead(Device::Tun);
}

#[test]
fn the_other_takes_over_from_the_dead_without_a_device() {
    the_other_takes_over_from_the_dead(Device::None);
}

fn an_orderly_end_hands_the_routes_over(device: Device) {
    let Some(mut scene) = scene(device) else { return };
    let open = scene.open();
    assert!(scene.first.gateway.stop());
    let node = scene.world.control.node("gw-1");
    assert!(node["Advertised"].as_array().is_none_or(Vec::is_empty), "{node}");
    assert_eq!(node["Online"], true, "its tailscaled goes on");
    scene.until_leads_to("gw-2");
    scene.until_served("the second gateway serves");
    assert!(scene.ci.has_route(VIRTUAL[0]));
    until_lost(open);
    scene.first.restart();
    scene.until_leads_to("gw-1");
    scene.until_served("the first gateway serves again");
}

#[test]
fn an_orderly_end_hands_the_routes_over_with_a_device() {
    an_orderly_end_hands_the_routes_over(Device::Tun);
}

#[test]
fn an_orderly_end_hands_the_routes_over_without_a_device() {
    an_orderly_end_hands_the_routes_over(Device::None);
}

#[test]
fn a_crash_beside_a_living_tailscaled_keeps_no_agent_from_the_other() {
    let Some(mut scene) = scene(Device::Tun) else {
        return;
    };
    scene.until_served("the first gateway serves");
    let withdraw = |site: &Site, state: Option<PathBuf>| {
        let mut command = site.node.machine.command(env!("CARGO_BIN_EXE_tailkeep"));
        command.args(["tailnet", "--withdraw", "-c"]);
        command.envs(state.map(|folder| ("STATE_DIRECTORY", folder)));
        command.arg(site.folder.join("policy.hcl")).output().unwrap()
    };
    let refused = withdraw(&scene.first, None);
    assert!(!refused.status.success(), "a gateway that runs keeps its routes");
    scene.first.gateway.kill();
    let node = scene.world.control.node("gw-1");
    assert_eq!(
        node["Primary"],
        json!(VIRTUAL),
        "its tailscaled knows nothing of it"
    );
    for agent in &scene.agents {
        assert_ne!(agent.tries("select id from orders"), "7\n", "nobody is there");
    }
    // What its unit does after it; the configuration on disk is another by then, and none that loads.
    std::fs::write(scene.first.folder.join("policy.hcl"), "no policy\n").unwrap();
    let blind = withdraw(&scene.first, None);
    assert!(!blind.status.success(), "nobody says where the state lies");
    let done = withdraw(&scene.first, Some(scene.first.folder.join("state")));
    assert!(done.status.success(), "{done:?}");
    scene.until_leads_to("gw-2");
    scene.until_served("the second gateway serves");
    scene.first.restart();
    scene.until_leads_to("gw-1");
    scene.until_served("the first gateway serves again");
}
