//! Somebody flushes the kernel's table by hand.

use std::process::Stdio;

use crate::lab::until;
use crate::redirect::{psql, scene};

#[test]
fn a_flushed_table_is_loaded_anew_or_its_routes_are_withdrawn() {
    let Some(mut scene) = scene(r#"routes = ["10.20.0.0/16", "fd20::/64"]"#, false) else {
        return;
    };
    let machine = scene.node.machine.clone();
    // A machine that forwards: without the table, agents would be led to production itself.
    machine.says("sysctl", &["-w", "net.ipv4.ip_forward=1"]);
    let mut watch = machine
        .command(env!("CARGO_BIN_EXE_tailkeep"))
        .args(["setup", "--watch"])
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    let ci = scene.world.agent("ci-1", &["tag:agent-ci"]);
    until("the routes are there", || ci.has_route("10.20.0.0/16"));
    let reads = || psql(&ci.machine, "10.20.0.5", "select id from orders") == "7\n";
    assert!(reads());
    let table = || machine.says("nft", &["list", "table", "inet", "tailkeep"]);
    let before = table();
    for damage in [
        &["flush", "ruleset"][..],
        &["delete", "table", "inet", "tailkeep"],
        &["flush", "chain", "inet", "tailkeep", "keep"],
        &["add", "rule", "inet", "tailkeep", "refuse", "accept"],
    ] {
        assert_eq!(machine.says("nft", damage), "");
        until("the table is as it was", || table() == before);
        assert!(reads(), "{damage:?}");
    }
    // It cannot be loaded: what it guards is withdrawn, until it can.
    let (there, away) = ("/etc/tailkeep/intercept.nft", "/etc/tailkeep/away");
    assert_eq!(machine.says("mv", &[there, away]), "");
    machine.says("nft", &["delete", "table", "inet", "tailkeep"]);
    scene.gateway.until_says("this machine forwards packets");
    until("the route is withdrawn", || !ci.has_route("10.20.0.0/16"));
    assert_eq!(machine.says("mv", &[away, there]), "");
    until("it is advertised again", || ci.has_route("10.20.0.0/16"));
    assert_eq!(table(), before);
    assert!(reads());
    watch.kill().unwrap();
    watch.wait().unwrap();
    assert!(scene.gateway.stop());
}
