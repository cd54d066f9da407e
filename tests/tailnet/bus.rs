//! A bus and a status that lie, end, or do not end.

use std::time::{Duration, Instant};

use serde_json::json;
use tailkeep::ingress::tailnet::LocalApi;
use tailkeep::ingress::tailnet::bus::SILENT_MAX;

use crate::lab;
use crate::tailscaled::Mood;
use crate::world::{World, alone, until};

/// A connection that ends once the gateway has heard of a change.
fn change_is_heard(world: &World, what: &str, lie: impl FnOnce()) {
    let tag = |tag| world.daemon.node("100.64.0.2", "ci-1", &[tag], json!([]));
    tag("tag:agent-ci");
    world.daemon.tell();
    until(what, || world.ask("100.64.0.2", "GET").contains(" 200 "));
    let mut open = world.connect("100.64.0.2");
    lie();
    tag("tag:nothing");
    world.daemon.tell();
    world.daemon.own_mood(Mood::Honest);
    assert!(open.is_closed(), "{what}");
}

#[test]
fn a_status_that_lies_hides_no_change() {
    alone(|| {
        let world = World::start();
        for mood in Mood::LIES {
            change_is_heard(&world, &format!("{mood:?}"), || {
                let before = world.daemon.looks();
                world.daemon.own_mood(mood);
                world.daemon.tell();
                until("it was asked", || world.daemon.looks().0 > before.0);
            });
        }
    });
}

#[test]
fn a_bus_that_lies_is_followed_anew() {
    alone(|| {
        let world = World::start();
        let long = "[".repeat(1 << 20);
        for line in [
            "{",
            "\"\"",
            "{\"State\": \"six\"}",
            "{\"Prefs\": 7}",
            "\u{0}",
            long.as_str(),
        ] {
            change_is_heard(&world, &line[..line.len().min(20)], || {
                let before = world.daemon.looks();
                world.daemon.say(line);
                until("it is followed anew", || world.daemon.looks().1 > before.1);
            });
        }
        // Empty lines, and fields that nobody knows, are none of our business.
        let before = world.daemon.looks().1;
        change_is_heard(&world, "nothing", || {
            world.daemon.say("");
            world.daemon.say("{\"Later\": {\"deep\": [1]}, \"NetMap\": null}");
        });
        assert_eq!(world.daemon.looks().1, before);
    });
}

#[test]
fn a_bus_that_falls_silent_is_followed_anew() {
    alone(|| {
        let world = World::start();
        world
            .daemon
            .node("100.64.0.2", "ci-1", &["tag:agent-ci"], json!([]));
        world.change();
        let mut open = world.connect("100.64.0.2");
        let before = world.daemon.looks().1;
        world.daemon.silent(true);
        // What nobody tells counts for a new connection as soon as an answer from before is old.
        world
            .daemon
            .node("100.64.0.2", "ci-1", &["tag:nothing"], json!([]));
        until("a new connection is refused", || {
            world.ask("100.64.0.2", "GET").is_empty()
        });
        // The silence is noticed; tailscaled is not heard for as long as that goes on.
        until("the silence is noticed", || {
            world.says("tailscaled is not heard; nobody of the tailnet is let in")
        });
        until("it is followed anew", || world.daemon.looks().1 > before);
        world.daemon.silent(false);
        assert!(open.is_closed(), "it is another's by now");
        // And by itself all is as before.
        world
            .daemon
            .node("100.64.0.2", "ci-1", &["tag:agent-ci"], json!([]));
        world.change();
        assert!(world.ask("100.64.0.2", "GET").contains(" 200 "));
    });
}

#[test]
fn a_line_without_an_end_is_not_held() {
    alone(|| {
        let world = World::start();
        change_is_heard(&world, "endless", || {
            let before = world.daemon.looks().1;
            // The bus adds the end of the line; what is before it is over the limit by then.
            world
                .daemon
                .say(&" ".repeat(tailkeep::ingress::tailnet::localapi::LINE_BYTES_MAX + 1));
            until("it is followed anew", || world.daemon.looks().1 > before);
        });
    });
}

#[test]
fn a_flood_of_changes_is_bounded_work() {
    alone(|| {
        let world = World::start();
        change_is_heard(&world, "flood", || {
            let before = world.daemon.looks().0;
            for _ in 0..4000 {
                world.daemon.tell();
            }
            world.daemon.set_routes(&["198.51.100.0/24"]);
            until("all was heard", || world.daemon.routes().len() == 3);
            let looks = world.daemon.looks().0 - before;
            assert!(looks < 400, "{looks} looks");
        });
    });
}

#[test]
fn a_real_bus_on_which_nothing_changes_is_not_silent() {
    let Some(mut tailnet) = lab::World::rootless(lab::POLICY) else {
        return;
    };
    // One that is of a tailnet, and one that nobody has logged in.
    let nodes = [tailnet.gateway_node("gw"), tailnet.daemon("later")];
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let watched = nodes.iter().map(|node| async {
            let api = LocalApi::new(&node.socket).unwrap();
            let mut bus = api.watch().await.unwrap();
            let began = Instant::now();
            while began.elapsed() < SILENT_MAX + Duration::from_secs(2) {
                bus.next().await.unwrap();
            }
        });
        futures_util::future::join_all(watched).await;
    });
}
