//! A real tailscaled without a network device, attached: what it would dial itself is refused at the start.

use serde_json::json;

use crate::lab::{API_TEST, Gateway, POLICY, Tailscaled, World, until};
use crate::real::{CI_ALL, Service, attached, policy, service};

/// How a gateway ends that is attached to it, and what it says.
fn ended(world: &World, node: &Tailscaled, fields: &str, upstream: &str) -> String {
    let policy = format!(
        r#"
gateway {{
  state_dir = "FOLDER/state"
  tailscale {{
    socket = "{socket}"
    {fields}
  }}
}}
endpoint "http" "api" {{
  hosts    = ["api.test:80"]
  upstream = "{upstream}"
}}
"#,
        socket = node.socket.display()
    );
    let mut gateway = Gateway::start(&node.machine, &world.folder().join("gateway"), &policy, |_| {});
    let mut status = None;
    until("the gateway ends", || {
        status = gateway.ended();
        status.is_some()
    });
    assert!(!status.unwrap().success());
    gateway.log()
}

#[test]
fn a_prefix_that_holds_an_upstream_is_refused_without_a_device() {
    let Some(mut world) = World::rootless(POLICY) else {
        return;
    };
    let node = world.gateway_node("gw");
    let said = ended(&world, &node, "routes = [\"10.20.0.0/16\"]", "10.20.0.5:9000");
    assert!(
        said.contains("no network device") && said.contains("10.20.0.0/16"),
        "{said}"
    );
    assert_eq!(
        world.control.node("gw")["Advertised"]
            .as_array()
            .map_or(0, |all| {
                all.iter().filter(|one| *one == "10.20.0.0/16").count()
            }),
        0
    );
    // What somebody else has it advertise, with an upstream by address and by name.
    node.set(json!({ "AdvertiseRoutes": ["127.0.0.0/8"] }));
    for upstream in ["127.0.0.1:9000", "localhost:9000"] {
        let said = ended(&world, &node, "", upstream);
        assert!(
            said.contains("127.0.0.0/8, which holds") && said.contains("past every rule"),
            "{said}"
        );
    }
}

/// The tests' policy file of the tailnet lets agents dial every port of the gateway's node.
#[test]
fn no_upstream_stands_where_the_nodes_own_address_leads() {
    let Some(mut world) = World::rootless(POLICY) else {
        return;
    };
    let node = world.gateway_node("gw");
    for upstream in ["127.0.0.1:9000", "localhost:9000", "[::1]:9000"] {
        let said = ended(&world, &node, "", upstream);
        assert!(
            said.contains("the node's own address") && said.contains("past every rule"),
            "{said}"
        );
    }
    // An address of the machine, of a service that listens at all of them.
    let everywhere = listener(&node, "0.0.0.0");
    let said = ended(&world, &node, "", "127.0.0.3:9000");
    assert!(
        said.contains("the upstream 127.0.0.3/32 past every rule"),
        "{said}"
    );
    drop(everywhere);
    let _service = service(&node);
    let mut gateway = attached(&world, &node, CI_ALL);
    let ci = world.agent("ci-1", &["tag:agent-ci"]);
    ci.until_routes();
    let by_the_gateway = || ci.http(API_TEST[0], 80, "api.test", "GET");
    until("the service answers", || by_the_gateway().contains(" 200 "));
    for v6 in [false, true] {
        let answer = ci.http(&node.address(v6), 9000, "api.test", "GET");
        assert!(!answer.contains(" 200 "), "{answer}");
    }
    // Nor does a reload bring it there, by whatever way.
    let now = policy(&node, CI_ALL);
    node.set(json!({ "AdvertiseRoutes": ["10.78.0.0/16", "fd7a:7461:696c:78::/64", "10.20.0.0/16"] }));
    for (upstream, why) in [
        (
            "127.0.0.1:9000",
            "agents reach the upstream 127.0.0.1/32 past every rule",
        ),
        (
            "10.20.0.5:9000",
            "tailscaled advertises 10.20.0.0/16, which holds 10.20.0.5/32",
        ),
    ] {
        gateway.reload(&now.replace("127.0.0.2:9000", upstream));
        gateway.until_says(why);
        assert!(
            gateway
                .log()
                .contains("does not come into force; the old one stays")
        );
        assert!(by_the_gateway().contains(" 200 "));
    }
    // What comes to stand there later ends it: nothing else would keep agents from going round.
    let _later = listener(&node, "127.0.0.1");
    until("the gateway ends", || gateway.ended().is_some());
    let log = gateway.log();
    assert!(log.contains("the upstream 127.0.0.2/32 past every rule"), "{log}");
}

/// Something that listens at the service's port of an address.
fn listener(node: &Tailscaled, address: &str) -> Service {
    let program = format!(
        "import socket\ns = socket.create_server(('{address}', 9000))\nprint(flush=True)\nwhile True: s.accept()"
    );
    let mut child = node
        .machine
        .command("python3")
        .args(["-c", &program])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let mut out = std::io::BufReader::new(child.stdout.take().unwrap());
    std::io::BufRead::read_line(&mut out, &mut line).unwrap();
    Service(child)
}
