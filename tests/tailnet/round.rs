//! A real tailscaled without a network device, attached: what it would dial itself is refused at the start.

use serde_json::json;

use crate::lab::{API_TEST, Gateway, POLICY, Tailscaled, World, until};
use crate::mood::Mood;
use crate::real::{CI_ALL, Service, attached, policy, service};
use crate::tailscaled::Tailscaled as Played;
use crate::world::{self as played, alone};

/// How a gateway ends that is attached to it, and what it says.
fn ended(world: &World, node: &Tailscaled, fields: &str, upstream: &str) -> String {
    let endpoint = format!("hosts = [\"api.test:80\"]\n  upstream = \"{upstream}\"");
    ended_with(world, node, fields, &endpoint)
}

/// The same for an endpoint of other fields.
fn ended_with(world: &World, node: &Tailscaled, fields: &str, endpoint: &str) -> String {
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
  {endpoint}
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
    for upstream in ["127.0.0.1:9000", "localhost:9000", "[::ffff:127.0.0.9]:9000"] {
        let said = ended(&world, &node, "", upstream);
        assert!(
            said.contains("127.0.0.0/8, which holds") && said.contains("past every rule"),
            "{said}"
        );
    }
    // Names that nobody knows now may lead there: one of an endpoint's, and all under another's.
    let said = ended(&world, &node, "", "nowhere.invalid:9000");
    assert!(
        said.contains("nowhere.invalid cannot be resolved") && said.contains("cannot be told"),
        "{said}"
    );
    let said = ended_with(&world, &node, "", "hosts = [\"*.test:80\"]");
    assert!(
        said.contains("a name under") && said.contains("past every rule"),
        "{said}"
    );
}

/// The tests' policy file of the tailnet lets agents dial every port of the gateway's node.
#[test]
fn no_upstream_stands_where_the_nodes_own_address_leads() {
    let Some(mut world) = World::rootless(POLICY) else {
        return;
    };
    let node = world.gateway_node("gw");
    for upstream in [
        "127.0.0.1:9000",
        "localhost:9000",
        "[::1]:9000",
        "[::ffff:127.0.0.1]:9000",
    ] {
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

#[test]
fn a_tailscaled_that_does_not_say_what_it_advertises_is_not_attached_to() {
    alone(|| {
        let mut world = played::World::start_with(|daemon| {
            daemon.without_device();
            daemon.prefs_mood(Mood::Failing);
        });
        assert!(!world.ends(), "who may be led round is guarded");
        assert!(world.says("tailscaled does not say which routes it advertises"));
        // What is in force by what was sure before stays, and it is said.
        let mut world = played::World::start_with(Played::without_device);
        until("the routes are declared", || world.daemon.routes().len() == 3);
        world.daemon.prefs_mood(Mood::Failing);
        world.daemon.tell();
        until("it is said", || {
            world.says("open past the gateway: tailscaled does not say which routes it advertises")
        });
        world.daemon.prefs_mood(Mood::Honest);
        world.stop();
    });
}
