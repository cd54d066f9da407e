//! Two gateways with the same real addresses behind them, which the kernel turns to each (REDIRECT): when one goes, the
//! tailnet leads its agents to the other, over IPv4 and IPv6, and nobody ever past both.

use std::path::PathBuf;

use serde_json::Value;

use crate::database::{Psql, put_password};
use crate::lab::{Gateway, Machine, Tailscaled, World, until};
use crate::redirect::{Database, TAILNET, policy, production, setup};

const ROUTES: &str = r#"routes = ["10.20.0.0/16", "fd20::/64"]"#;

/// The same database, as agents call it.
const HOSTS: [&str; 2] = ["10.20.0.5", "fd20::5"];

/// A gateway, its tailscaled and the table of `tailkeep setup` on one machine, with a production of its own behind it.
struct Site {
    gateway: Gateway,
    node: Tailscaled,
    folder: PathBuf,
    _database: Database,
    _production: Machine,
}

impl Site {
    fn new(world: &mut World, name: &str) -> Site {
        let node = world.gateway_node(name);
        assert_eq!(node.machine.says("mount", &["-t", "tmpfs", "tmpfs", "/run"]), "");
        let production = production(world, &node.machine, &format!("prod-{name}"));
        let database = Database::on(&production, &world.folder().join(format!("hba-{name}.conf")));
        let folder = world.folder().join(format!("gateway-{name}"));
        put_password(&folder);
        let gateway = Gateway::start(&node.machine, &folder, &policy(&node, ROUTES), |_| {});
        gateway.until_says("tailscaled is heard");
        setup(&node.machine, &folder.join("policy.hcl"), "root", &["--yes"]);
        Site {
            gateway,
            node,
            folder,
            _database: database,
            _production: production,
        }
    }

    /// The gateway, and its tailscaled where that is dead too, come back. The table was never away.
    fn restart(&mut self) {
        if self.node.state().is_empty() {
            self.node.restart();
        }
        let policy = policy(&self.node, ROUTES);
        self.gateway = Gateway::start(&self.node.machine, &self.folder, &policy, |_| {});
        self.gateway.until_says("tailscaled is heard");
    }

    /// How often it let this node in.
    fn let_in(&self, node: &str) -> usize {
        let rows = self.gateway.audit();
        let allowed = |row: &&Value| row["node"] == node && row["verdict"] == "allow";
        rows.iter().filter(allowed).count()
    }
}

struct Scene {
    first: Site,
    second: Site,
    agents: [Psql; 2],
    world: World,
}

impl Scene {
    fn until_leads_to(&self, name: &str) {
        until(name, || {
            let node = self.world.control.node(name);
            let primary = node["Primary"].as_array().cloned().unwrap_or_default();
            ["10.20.0.0/16", "fd20::/64"]
                .iter()
                .all(|range| primary.iter().any(|one| one == range))
        });
    }

    /// Both families are judged by a gateway that is there, by the same rules.
    #[track_caller]
    fn until_served(&self, what: &str) {
        for agent in &self.agents {
            until(what, || agent.tries("select id from orders") == "7\n");
            let denied = agent.says("delete from orders");
            assert!(denied.contains("ERROR"), "{denied}");
        }
    }
}

#[test]
fn the_other_takes_over_real_addresses_of_both_families() {
    let Some(mut world) = World::root(TAILNET) else {
        return;
    };
    // The older node is the one to which the routes lead.
    let first = Site::new(&mut world, "gw-1");
    let second = Site::new(&mut world, "gw-2");
    let ci = world.agent("ci-1", &["tag:agent-ci"]);
    let agents = HOSTS.map(|host| Psql::on(&world, &ci, host));
    let mut scene = Scene {
        first,
        second,
        agents,
        world,
    };
    scene.until_leads_to("gw-1");
    until("the second advertises as well", || {
        let approved = &scene.world.control.node("gw-2")["Approved"];
        approved.as_array().is_some_and(|all| all.len() == 4)
    });
    scene.until_served("the first gateway serves");
    assert_eq!(scene.second.let_in("ci-1"), 0);

    let mut open = [scene.agents[0].open(), scene.agents[1].open()];
    for session in &mut open {
        assert_eq!(session.ask("select id from orders"), "7\n");
    }
    scene.first.gateway.kill();
    scene.first.node.kill();
    scene.until_leads_to("gw-2");
    scene.until_served("the second gateway serves");
    assert!(scene.second.let_in("ci-1") >= 2, "as the same agent");
    for session in open {
        session.until_lost("select id from orders");
    }

    // A gateway that dies alone takes its agents' way with it: the kernel still turns what comes, to nobody.
    scene.second.gateway.kill();
    for agent in &scene.agents {
        let nothing = agent.tries("select id from orders");
        assert!(nothing.contains("refused"), "{nothing}");
    }
    scene.second.restart();
    scene.until_served("it is back");

    scene.first.restart();
    scene.until_leads_to("gw-1");
    scene.until_served("the first gateway serves again");
    assert!(scene.first.gateway.stop());
    scene.until_leads_to("gw-2");
    scene.until_served("an orderly end hands the routes over");
}
