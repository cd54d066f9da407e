//! The control server or the gateway's tailscaled is down: nobody gets in by mistake, and all recovers by itself.
//! (A tailscaled that answers slowly, or lies: `main.rs`.)

use serde_json::json;

use crate::database::Psql;
use crate::lab::{World, until};
use crate::stories::{OPEN, ORDERS, Scene, scene};

const READ: &str = "select id from orders";

fn reads(psql: &Psql) -> bool {
    psql.tries(READ) == "7\n"
}

fn until_online(scene: &Scene, names: &[&str]) {
    for name in names {
        until("the node is back", || {
            scene.world.control.node(name)["Online"] == true
        });
    }
}

fn the_control_server_is_down(world: World) {
    let mut scene = scene(world);
    let ci = scene.agent("ci-1", &["tag:agent-ci"]);
    let plain = scene.agent("plain", &[]);
    let (ci_psql, plain_psql) = (
        Psql::on(&scene.world, &ci, ORDERS[0]),
        Psql::on(&scene.world, &plain, ORDERS[0]),
    );
    let mut open = ci_psql.open();
    assert_eq!(open.ask(READ), "7\n");
    scene.world.control.down();
    // Who was known is known: what the tunnel proves needs nobody's consent.
    assert_eq!(open.ask(READ), "7\n");
    assert!(reads(&ci_psql));
    assert!(ci_psql.says("delete from orders").contains("ERROR"));
    assert!(!reads(&plain_psql), "who was nobody is nobody");
    // A new node has no way in.
    let late = scene.world.daemon("late");
    let start = json!({
        "AuthKey": "tskey-auth-none",
        "UpdatePrefs": { "ControlURL": scene.world.control.url, "WantRunning": true, "Hostname": "late" },
    });
    late.api("POST", "start", &start.to_string());
    late.api("POST", "login-interactive", "");
    // The gateway's tailscaled begins anew, and cannot ask who anybody is.
    scene.node.restart();
    for psql in [&plain_psql, &ci_psql] {
        assert_ne!(psql.tries(READ), "7\n", "nobody can be known");
    }
    assert_ne!(late.state(), "Running");
    scene.world.control.up();
    until_online(&scene, &["gw", "ci-1"]);
    until("the agent is known again", || reads(&ci_psql));
    assert!(ci_psql.says("delete from orders").contains("ERROR"));
    assert!(!reads(&plain_psql));
    assert_eq!(scene.count(), "1");
}

#[test]
fn the_control_server_is_down_without_a_device() {
    if let Some(world) = World::rootless(OPEN) {
        the_control_server_is_down(world);
    }
}

#[test]
fn the_control_server_is_down_with_a_device() {
    if let Some(world) = World::root(OPEN) {
        the_control_server_is_down(world);
    }
}

fn tailscaled_is_killed(world: World) {
    let mut scene = scene(world);
    let ci = scene.agent("ci-1", &["tag:agent-ci"]);
    let other = scene.agent("ci-2", &["tag:agent-ci"]);
    let (ci_psql, other_psql) = (
        Psql::on(&scene.world, &ci, ORDERS[0]),
        Psql::on(&scene.world, &other, ORDERS[0]),
    );
    let mut open = ci_psql.open();
    assert_eq!(open.ask(READ), "7\n");
    scene.node.kill();
    scene.gateway.until_says("tailscaled is not heard");
    assert!(!reads(&other_psql), "nobody can be asked");
    // What changes meanwhile counts when it is back, on what was open as well.
    scene.world.control.set_tags("ci-1", &["tag:nothing"]);
    scene.node.restart();
    until("the other is let in again", || reads(&other_psql));
    let said = open.until_lost(READ);
    assert!(!said.contains("7\n"), "{said}");
    assert!(!reads(&ci_psql), "its tag is another");
    scene.world.control.set_tags("ci-1", &["tag:agent-ci"]);
    until("it has its tag again", || reads(&ci_psql));
    let routes = scene.world.control.node("gw")["Primary"].clone();
    assert_eq!(routes, json!(crate::lab::VIRTUAL), "declared as before");
}

#[test]
fn tailscaled_is_killed_without_a_device() {
    if let Some(world) = World::rootless(OPEN) {
        tailscaled_is_killed(world);
    }
}

#[test]
fn tailscaled_is_killed_with_a_device() {
    if let Some(world) = World::root(OPEN) {
        tailscaled_is_killed(world);
    }
}
