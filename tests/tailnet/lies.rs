//! A tailscaled that says who another node is, or what it was not asked: whom it names is not let in.

use serde_json::{Value, json};

use crate::tailscaled::Mood;
use crate::world::{World, alone, until};

#[test]
fn an_answer_about_another_node_lets_nobody_in() {
    alone(|| {
        let world = World::start();
        let daemon = &world.daemon;
        daemon.node("100.64.0.2", "ci-1", &["tag:agent-ci"], json!([]));
        let addresses = |of: &str, said: Value| daemon.change(of, |node| node["Node"]["Addresses"] = said);
        // Asked of one that it does not know, it answers of one that it does; of its address as a route; of none.
        daemon.node("100.64.0.9", "ci-1", &["tag:agent-ci"], json!([]));
        for said in [
            json!(["100.64.0.2/32"]),
            json!(["100.64.0.0/16"]),
            json!(["100.64.0.9/31"]),
            json!([]),
            Value::Null,
        ] {
            addresses("100.64.0.9", said.clone());
            world.change();
            assert_eq!(world.ask("100.64.0.9", "GET"), "", "{said}");
            assert!(world.ask("100.64.0.2", "GET").contains(" 200 "), "{said}");
        }
        // The gateway's own node is no agent.
        daemon.node("100.64.0.9", "gw", &["tag:agent-ci"], json!([]));
        daemon.change("100.64.0.9", |node| node["Node"]["StableID"] = json!("n-gw"));
        world.change();
        assert_eq!(world.ask("100.64.0.9", "GET"), "");
        let audit = world.audit();
        assert!(audit.iter().all(|row| row["node"] == "ci-1"), "{audit:?}");
        daemon.node("100.64.0.9", "ci-9", &["tag:agent-ci"], json!([]));
        world.change();
        assert!(
            world.ask("100.64.0.9", "GET").contains(" 200 "),
            "the truth at last"
        );
    });
}

#[test]
fn an_open_connection_is_not_handed_to_another_node() {
    alone(|| {
        let world = World::start();
        let daemon = &world.daemon;
        let changes: [(&str, Value); 2] = [
            ("StableID", json!("n-other")),
            ("Addresses", json!(["100.64.0.3/32"])),
        ];
        for (field, said) in changes {
            daemon.node("100.64.0.2", "ci-1", &["tag:agent-ci"], json!([]));
            daemon.tell();
            until("it is let in", || {
                world.ask("100.64.0.2", "GET").contains(" 200 ")
            });
            let mut open = world.connect("100.64.0.2");
            assert!(open.get().contains(" 200 "));
            daemon.change("100.64.0.2", |node| node["Node"][field] = said);
            daemon.tell();
            assert!(open.is_closed(), "{field}");
        }
    });
}

#[test]
fn an_open_connection_is_closed_where_nobody_says_for_long_who_it_is() {
    alone(|| {
        let world = World::start();
        world
            .daemon
            .node("100.64.0.2", "ci-1", &["tag:agent-ci"], json!([]));
        world.change();
        let mut open = world.connect("100.64.0.2");
        assert!(open.get().contains(" 200 "));
        world.daemon.mood(Mood::Failing);
        world.daemon.tell();
        assert!(open.get().contains(" 200 "), "it may be over soon");
        assert!(open.is_closed());
    });
}

#[test]
fn prefs_that_lie_hold_up_no_end_and_take_no_route_of_anothers() {
    alone(|| {
        for mood in Mood::LIES {
            let mut world = World::start();
            until("the routes are declared", || world.daemon.routes().len() == 3);
            world.daemon.prefs_mood(mood);
            world.stop();
            let left = world.daemon.routes();
            assert!(left.contains(&"192.0.2.0/24".to_owned()), "{mood:?}: {left:?}");
            until("it is said", || {
                world.says("the tailnet's routes could not be withdrawn")
            });
        }
    });
}
