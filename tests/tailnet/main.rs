//! A gateway that is attached to a tailscaled: who gets in, and who stays in.
//!
//! tailscaled is played by its LocalAPI alone, so that it can lie; the peers' addresses stand on the
//! loopback of a network namespace of this test. Needs root and `ip`; skipped, with a line that says
//! so, where they are missing.

#![allow(clippy::panic, clippy::unwrap_used, reason = "tests say what they expect")]

mod approval;
mod asked;
mod borrowed;
mod both;
mod bus;
mod certificate;
mod database;
mod deciding;
mod failover;
mod failover_real;
mod flushed;
mod granted;
mod kept;
mod killed;
#[path = "../support/tailnet/mod.rs"]
#[allow(dead_code, reason = "others use the rest")]
mod lab;
mod lies;
mod limits;
mod mood;
mod name_limits;
mod names;
mod newcomer;
mod outage;
mod own;
mod own_name;
mod own_story;
mod own_trouble;
mod page;
#[path = "../support/postgres.rs"]
#[allow(dead_code, reason = "others use the rest")]
mod postgres;
mod real;
mod redirect;
mod rootless;
mod round;
mod stories;
mod systemd;
mod tailscaled;
mod terminal;
mod userspace;
mod whoami;
mod world;

use std::time::Duration;

use serde_json::json;

use tailscaled::Mood;
use world::{World, alone, until};

#[test]
fn peers_are_who_tailscaled_says_and_nobody_else_gets_in() {
    alone(|| {
        let world = World::start();
        world
            .daemon
            .node("100.64.0.2", "ci-1", &["tag:agent-ci"], json!([]));
        world
            .daemon
            .node("100.64.0.3", "dev-1", &[], json!([{ "profiles": ["dev"] }]));
        world.daemon.node("100.64.0.4", "plain", &[], json!([]));
        assert!(world.ask("100.64.0.2", "GET").contains(" 200 "));
        assert!(
            world.ask("100.64.0.2", "POST").contains(" 403 "),
            "a rule for tag:agent-ci"
        );
        assert!(world.ask("100.64.0.3", "POST").contains(" 200 "), "by its grant");
        assert!(
            world.ask6("fd7a:115c:a1e0::2", "GET").is_empty(),
            "tailscaled does not know it"
        );
        // An untagged node without a grant, one that tailscaled does not know, and no peer at all.
        for source in ["100.64.0.4", "100.64.0.9", "100.64.0.1", "127.0.0.1"] {
            assert_eq!(world.ask(source, "GET"), "", "{source}");
        }
        let asked = world.daemon.asked();
        assert!(asked.contains(&"tcp 100.64.0.9".to_owned()), "{asked:?}");
        assert!(
            !asked
                .iter()
                .any(|one| one.contains("127.0.0.1") || one.ends_with("100.64.0.1")),
            "asked in vain, or for this machine: {asked:?}"
        );
        let audit = world.audit();
        let denied = audit.iter().find(|row| row["node"] == "plain").unwrap();
        assert_eq!(
            (&denied["verdict"], &denied["cause"]),
            (&json!("deny"), &json!("no_profile"))
        );
        let allowed = audit.iter().find(|row| row["node"] == "ci-1").unwrap();
        assert_eq!(allowed["transport"], "tailnet");
        // Another policy can choose the profile anew from what is kept.
        assert_eq!(allowed["agent"]["tags"], json!(["tag:agent-ci"]));
        assert_eq!(allowed["agent"]["is_guest"], false);
    });
}

#[test]
fn a_connection_ends_when_its_peer_changes() {
    alone(|| {
        let world = World::start();
        world
            .daemon
            .node("100.64.0.2", "ci-1", &["tag:agent-ci"], json!([]));
        world
            .daemon
            .node("100.64.0.3", "dev-1", &[], json!([{ "profiles": ["dev"] }]));
        let mut ci = world.connect("100.64.0.2");
        let mut dev = world.connect("100.64.0.3");
        // A change of somebody else, and an unreadable moment, end nobody.
        world.daemon.node("100.64.0.4", "other", &[], json!([]));
        world.daemon.mood(Mood::Failing);
        world.daemon.tell();
        std::thread::sleep(Duration::from_millis(500));
        world.daemon.mood(Mood::Honest);
        assert!(ci.get().contains(" 200 ") && dev.get().contains(" 200 "));
        // Another tag: the connection ends, and the next one is judged by it.
        world
            .daemon
            .node("100.64.0.2", "ci-1", &["tag:nothing"], json!([]));
        world.daemon.tell();
        assert!(ci.is_closed());
        assert_eq!(world.ask("100.64.0.2", "GET"), "");
        assert!(dev.get().contains(" 200 "), "another's change is not this one's");
        // A grant that is withdrawn; a node that leaves; a grant that expires.
        world.daemon.node("100.64.0.3", "dev-1", &[], json!([]));
        world.daemon.tell();
        assert!(dev.is_closed());
        world
            .daemon
            .node("100.64.0.2", "ci-1", &["tag:agent-ci"], json!([]));
        let mut ci = world.connect("100.64.0.2");
        world.daemon.leave("100.64.0.2");
        world.daemon.tell();
        assert!(ci.is_closed());
        let soon = chrono::Utc::now() + chrono::Duration::seconds(2);
        let grant = json!([{ "profiles": ["dev"], "expires": soon.to_rfc3339() }]);
        world.daemon.node("100.64.0.3", "dev-1", &[], grant);
        let mut dev = world.connect("100.64.0.3");
        assert!(dev.is_closed(), "its grant has expired");
    });
}

#[test]
fn a_tailscaled_that_lies_or_is_gone_lets_nobody_in() {
    alone(|| {
        let mut world = World::start();
        world
            .daemon
            .node("100.64.0.2", "ci-1", &["tag:agent-ci"], json!([]));
        for mood in Mood::LIES {
            world.daemon.mood(mood);
            world.change();
            assert_eq!(world.ask("100.64.0.2", "GET"), "", "{mood:?}");
            world.daemon.mood(Mood::Honest);
            assert!(world.ask("100.64.0.2", "GET").contains(" 200 "), "after {mood:?}");
        }
        let mut open = world.connect("100.64.0.2");
        world.daemon.kill();
        // What was answered a moment ago counts until the end of the bus is heard.
        until("nobody is let in", || world.ask("100.64.0.2", "GET").is_empty());
        assert!(open.get().contains(" 200 "), "nothing says that it changed");
        // It changed while nobody could hear of it.
        world
            .daemon
            .node("100.64.0.2", "ci-1", &["tag:nothing"], json!([]));
        world.daemon.start();
        assert!(open.is_closed());
        world
            .daemon
            .node("100.64.0.2", "ci-1", &["tag:agent-ci"], json!([]));
        world.change();
        assert!(world.ask("100.64.0.2", "GET").contains(" 200 "));
    });
}

#[test]
fn routes_are_kept_declared_and_withdrawn() {
    alone(|| {
        let mut world = World::start();
        let ours = ["10.78.0.0/16", "fd7a:7461:696c:78::/64"];
        let has = |world: &World, wanted: &[&str]| {
            let mut routes = world.daemon.routes();
            routes.sort();
            let mut wanted = wanted.to_vec();
            wanted.sort_unstable();
            routes == wanted
        };
        let all = [&["192.0.2.0/24"], &ours[..]].concat();
        until("the routes are declared", || has(&world, &all));
        world.daemon.set_routes(&["198.51.100.0/24"]);
        let all = [&["198.51.100.0/24"], &ours[..]].concat();
        until("they are declared again", || has(&world, &all));
        world.stop();
        assert!(has(&world, &["198.51.100.0/24"]), "{:?}", world.daemon.routes());
    });
}
