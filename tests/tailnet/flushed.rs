//! Somebody flushes the kernel's table by hand.

use std::process::Stdio;

use crate::database::Psql;
use crate::lab::until;
use crate::postgres::PASSWORD;
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

/// What began while there was no table went past the gateway, and ends where the table is there again: nat looks at a
/// flow's first packet alone.
#[test]
fn a_flow_that_began_without_the_table_is_cut_by_it() {
    let routes = "routes = [\"10.20.0.0/16\", \"fd20::/64\"]\n via {\n site = 7\n cidr = \"10.1.0.0/16\"\n }";
    let Some(mut scene) = scene(routes, true) else {
        return;
    };
    let machine = scene.node.machine.clone();
    machine.says(
        "sysctl",
        &["-w", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1"],
    );
    // Production answers whom it is led to.
    scene.production.ip("route add 100.64.0.0/10 via 10.20.0.1");
    scene.production.ip("route add fd7a:115c:a1e0::/48 via fd20::1");
    let ci = scene.world.agent("ci-1", &["tag:agent-ci"]);
    let (site, inside) = ("fd7a:115c:a1e0:b1a:0:7:a01:0/112", "fd7a:115c:a1e0:b1a:0:7:a01:5");
    until("the routes are there", || {
        ["10.20.0.0/16", "fd20::/64", site]
            .iter()
            .all(|range| ci.has_route(range))
    });
    let hosts = ["10.20.0.5", "fd20::5", inside];
    assert_eq!(machine.says("nft", &["delete", "table", "inet", "tailkeep"]), "");
    // Another firewall of the machine has the kernel remember flows: none of these is a new one any more.
    let other = "table inet other { chain out { type filter hook output priority 0; ct state established accept; }; \
                 chain on { type filter hook forward priority 0; ct state established accept; }; }";
    assert_eq!(machine.says("nft", &[other]), "");
    let mut open = hosts.map(|host| {
        let agent = Psql::on(&scene.world, &ci, host);
        // No gateway says it: the agent knows the password itself.
        (
            host,
            agent.open_with(|command| command.env("PGPASSWORD", PASSWORD)),
        )
    });
    for (host, session) in &mut open {
        assert_eq!(session.ask("delete from orders returning id"), "7\n", "{host}");
        assert_eq!(
            session.ask("insert into orders values (7) returning id"),
            "7\n",
            "{host}"
        );
    }
    assert!(!scene.gateway.audit().iter().any(|row| row["node"] == "ci-1"));
    assert_eq!(machine.says("nft", &["-f", "/etc/tailkeep/intercept.nft"]), "");
    for (host, session) in open {
        let said = session.until_lost("delete from orders");
        assert!(
            said.contains("closed the connection") || said.contains("reset"),
            "{host}: {said}"
        );
    }
    for host in hosts {
        assert_eq!(psql(&ci.machine, host, "select id from orders"), "7\n", "{host}");
        assert!(
            psql(&ci.machine, host, "delete from orders").contains("ERROR"),
            "{host}"
        );
    }
    assert!(scene.gateway.stop());
}
