//! A node that is stopped stays so, whatever it is called and wherever it comes from.

use serde_json::json;

use crate::world::{World, alone, until};

#[test]
fn a_node_is_stopped_by_what_the_tailnet_knows_it_by() {
    alone(|| {
        let world = World::start();
        let tags = ["tag:agent-ci"];
        world.daemon.node("100.64.0.2", "ci-1", &tags, json!([]));
        world.daemon.node("100.64.0.3", "ci-2", &tags, json!([]));
        let agents = |args: &[&str]| {
            let output = world
                .command("operator", &[&["agents"], args].concat())
                .output()
                .unwrap();
            String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
        };
        let mut open = world.connect("100.64.0.2");
        assert!(open.get().contains(" 200 "));
        let said = agents(&["kill", "ci-1"]);
        assert!(said.starts_with("stopped node:n-ci-1: "), "{said}");
        assert!(open.is_closed());
        assert_eq!(world.ask("100.64.0.2", "GET"), "");
        // It takes another name, and comes from another address: it is the same node.
        world.daemon.leave("100.64.0.2");
        world.daemon.node("100.64.0.9", "ci-9", &tags, json!([]));
        world
            .daemon
            .change("100.64.0.9", |node| node["Node"]["StableID"] = json!("n-ci-1"));
        world.daemon.tell();
        assert_eq!(world.ask("100.64.0.9", "GET"), "");
        // Another node has its name and its address, and is another.
        world.daemon.node("100.64.0.2", "ci-1", &tags, json!([]));
        world
            .daemon
            .change("100.64.0.2", |node| node["Node"]["StableID"] = json!("n-new"));
        world.daemon.tell();
        until("the other is let in", || {
            world.ask("100.64.0.2", "GET").contains(" 200 ")
        });
        assert!(world.ask("100.64.0.3", "GET").contains(" 200 "));
        let said = agents(&["unkill", "node:n-ci-1"]);
        assert!(said.contains("may go on"), "{said}");
        assert!(world.ask("100.64.0.9", "GET").contains(" 200 "));
        let causes = world.audit();
        assert!(causes.iter().any(|record| record["cause"] == "killed"));
    });
}
