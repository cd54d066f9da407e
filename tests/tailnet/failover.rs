//! Two gateways advertise the same routes: when one goes, the tailnet leads its agents to the other.

use std::path::PathBuf;
use std::time::Instant;

use serde_json::json;

use crate::database::{Psql, Reached, database, policy, put_password};
use crate::lab::{Device, Gateway, POLICY, Tailscaled, VIRTUAL, World, until};
use crate::postgres::Server;

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

/// A gateway on a machine of its own.
struct Site {
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
        let gateway = Site::gateway(&node, &folder);
        Site {
            gateway,
            _reached: Reached::from(&machine, server),
            node,
            folder,
        }
    }

    fn gateway(node: &Tailscaled, folder: &std::path::Path) -> Gateway {
        let gateway = Gateway::start(&node.machine, folder, &policy(node, PROFILES), |_| {});
        gateway.until_says("tailscaled is heard");
        gateway
    }

    /// The gateway, and its tailscaled where that is dead too, come back.
    fn restart(&mut self) {
        if self.node.state().is_empty() {
            self.node.restart();
        }
        self.gateway = Site::gateway(&self.node, &self.folder);
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
    agent: Psql,
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
    let agent = Psql::on(&world, &ci, "10.78.0.1");
    let scene = Scene {
        first,
        second,
        agent,
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

    /// New connections are judged by a gateway that is there, by the same rules.
    #[track_caller]
    fn until_served(&self, what: &str) {
        let began = Instant::now();
        until(what, || self.agent.says("select id from orders") == "7\n");
        eprintln!("{what} after {:?}", began.elapsed());
        let denied = self.agent.says("delete from orders");
        assert!(denied.contains("ERROR"), "{denied}");
    }
}

fn the_other_takes_over_from_the_dead(device: Device) {
    let Some(mut scene) = scene(device) else { return };
    let mut open = scene.agent.open();
    assert_eq!(open.ask("select id from orders"), "7\n");
    assert!(!scene.second.has_let_in("ci-1"));
    scene.first.gateway.kill();
    scene.first.node.kill();
    scene.until_leads_to("gw-2");
    scene.until_served("the second gateway serves");
    assert!(scene.second.has_let_in("ci-1"), "as the same agent");
    open.until_lost("select id from orders");
    // It is back, as the same node, and the older one.
    scene.first.restart();
    scene.until_leads_to("gw-1");
    scene.until_served("the first gateway serves again");
    // Both are gone: no way leads anywhere.
    for site in [&mut scene.first, &mut scene.second] {
        site.gateway.kill();
        site.node.kill();
    }
    let nothing = scene.agent.tries("select id from orders");
    assert!(nothing != "7\n", "{nothing}");
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
    let mut open = scene.agent.open();
    assert_eq!(open.ask("select id from orders"), "7\n");
    assert!(scene.first.gateway.stop());
    let node = scene.world.control.node("gw-1");
    assert!(node["Advertised"].as_array().is_none_or(Vec::is_empty), "{node}");
    assert_eq!(node["Online"], true, "its tailscaled goes on");
    scene.until_leads_to("gw-2");
    scene.until_served("the second gateway serves");
    assert!(scene.ci.has_route(VIRTUAL[0]));
    open.until_lost("select id from orders");
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
    assert_eq!(scene.agent.says("select id from orders"), "7\n");
    let withdraw = |site: &Site| {
        let mut command = site.node.machine.command(env!("CARGO_BIN_EXE_tailkeep"));
        command.args(["tailnet", "--withdraw", "-c"]);
        command.arg(site.folder.join("policy.hcl")).output().unwrap()
    };
    let refused = withdraw(&scene.first);
    assert!(!refused.status.success(), "a gateway that runs keeps its routes");
    scene.first.gateway.kill();
    let node = scene.world.control.node("gw-1");
    assert_eq!(
        node["Primary"],
        json!(VIRTUAL),
        "its tailscaled knows nothing of it"
    );
    assert_ne!(
        scene.agent.tries("select id from orders"),
        "7\n",
        "nobody is there"
    );
    // What its unit does after it.
    let done = withdraw(&scene.first);
    assert!(done.status.success(), "{done:?}");
    scene.until_leads_to("gw-2");
    scene.until_served("the second gateway serves");
    scene.first.restart();
    scene.until_leads_to("gw-1");
    scene.until_served("the first gateway serves again");
}
