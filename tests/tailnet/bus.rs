//! A bus and a status that lie, end, or do not end.

use serde_json::json;

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
