//! What is kept of an answer, for how long, and what an open connection learns.

use serde_json::json;

use crate::world::{World, alone, until};

#[test]
fn an_answer_serves_the_nodes_next_connections_until_something_changes() {
    alone(|| {
        let world = World::start();
        world
            .daemon
            .node("100.64.0.2", "ci-1", &["tag:agent-ci"], json!([]));
        let asked = || world.daemon.asked().len();
        for _ in 0..8 {
            assert!(world.ask("100.64.0.2", "GET").contains(" 200 "));
            assert_eq!(world.ask("100.64.0.9", "GET"), "");
        }
        assert!(asked() < 8, "{:?}", world.daemon.asked());
        // It joined, and its neighbour lost its tag.
        world
            .daemon
            .node("100.64.0.9", "ci-9", &["tag:agent-ci"], json!([]));
        world
            .daemon
            .node("100.64.0.2", "ci-1", &["tag:nothing"], json!([]));
        world.daemon.tell();
        until("the one is let in", || {
            world.ask("100.64.0.9", "GET").contains(" 200 ")
        });
        assert_eq!(world.ask("100.64.0.2", "GET"), "");
    });
}

#[test]
fn an_open_connection_is_judged_by_what_its_peer_is_now() {
    alone(|| {
        let world = World::start();
        let tags = ["tag:agent-ci"];
        world.daemon.node("100.64.0.2", "ci-1", &tags, json!([]));
        let mut open = world.connect("100.64.0.2");
        // Neither changes the profile: the connection stays, and a rule reads the facts of now.
        world
            .daemon
            .node("100.64.0.2", "ci-1", &["tag:agent-ci", "tag:frozen"], json!([]));
        world.daemon.tell();
        until("the tag counts", || open.get().contains(" 403 "));
        world.daemon.node("100.64.0.2", "ci-1", &tags, json!([]));
        world.daemon.tell();
        until("the tag is gone", || open.get().contains(" 200 "));
        world.daemon.change("100.64.0.2", |node| {
            node["CapMap"]["example.com/cap/frozen"] = json!(null)
        });
        world.daemon.tell();
        until("the capability counts", || open.get().contains(" 403 "));
        // Another node has the address, with the same tags.
        world.daemon.node("100.64.0.2", "ci-2", &tags, json!([]));
        world.daemon.tell();
        assert!(open.is_closed());
    });
}

#[test]
fn an_answer_about_another_node_is_none() {
    alone(|| {
        let world = World::start();
        world
            .daemon
            .node("100.64.0.2", "ci-1", &["tag:agent-ci"], json!([]));
        let other = |node: &mut serde_json::Value| node["Node"]["Addresses"] = json!(["100.64.0.3/32"]);
        world.daemon.change("100.64.0.2", other);
        assert_eq!(world.ask("100.64.0.2", "GET"), "");
        // Nor is this machine a peer of itself, whatever address it shows.
        let own = |node: &mut serde_json::Value| {
            node["Node"]["Addresses"] = json!(["100.64.0.2/32"]);
            node["Node"]["StableID"] = json!("n-gw");
        };
        world.daemon.change("100.64.0.2", own);
        assert_eq!(world.ask("100.64.0.2", "GET"), "");
    });
}
