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

/// A policy file that lets `source` reach `ports` of the gateway's own addresses besides what agents need.
fn letting(source: &str, ports: &str) -> String {
    POLICY.replace(
        "\"grants\": [",
        &format!(
            "\"grants\": [{{\"src\": [\"{source}\"], \"dst\": [\"tag:gateway\"], \"ip\": [\"{ports}\"]}},"
        ),
    )
}

#[test]
fn agents_are_let_reach_no_port_of_the_loopback() {
    let Some(mut world) = World::rootless(&letting("tag:agent-ci", "tcp:*")) else {
        return;
    };
    let node = world.gateway_node("gw");
    let ci = world.agent("ci-1", &["tag:agent-ci"]);
    let nothing = world.agent("nothing-1", &["tag:nothing"]);
    let _secret = listener_at(&node, "127.0.0.1", 9001);
    // What it is about: the agent is past every rule.
    until("the agent reaches the loopback", || {
        ci.http(&node.address(false), 9001, "x", "GET").is_empty()
    });
    let folder = world.folder().join("refused");
    let mut gateway = Gateway::start(&node.machine, &folder, &policy(&node, CI_ALL), |_| {});
    until("the gateway does not start", || gateway.ended().is_some());
    let log = gateway.log();
    assert!(
        log.contains("lets ci-1 (tag:agent-ci) reach every port of TCP of this node's own addresses"),
        "{log}"
    );
    let line = r#"{"src":["tag:agent-ci"],"dst":["tag:gateway"],"ip":["tcp:80","udp:53","tcp:53"]}"#;
    assert!(log.contains(line), "{log}");

    // Other nodes are no agents, and what is served is served.
    world.control.policy(&letting("tag:nothing", "*"));
    let mut gateway = attached(&world, &node, CI_ALL);
    ci.until_routes();
    until("the service answers", || {
        ci.http(API_TEST[0], 80, "api.test", "GET").contains("HTTP/1.1 ")
    });
    assert!(nothing.dial(&node.address(false), 9001).is_ok());
    assert_eq!(gateway.ended(), None);
    // A policy file that lets an agent in later ends it, and so does a policy that makes a node an agent.
    let now = policy(&node, CI_ALL);
    gateway.reload(&now.replace("tag:agent-ci", "tag:nothing"));
    gateway.until_says("lets nothing-1 (tag:nothing) reach every port of TCP");
    assert!(
        gateway
            .log()
            .contains("does not come into force; the old one stays")
    );
    world.control.policy(&letting("tag:agent-ci", "udp:5353"));
    until("the gateway ends", || gateway.ended().is_some());
    let log = gateway.log();
    assert!(
        log.contains("reach port 5353 of UDP of this node's own addresses"),
        "{log}"
    );

    // A port that the gateway would serve is another's.
    world.control.policy(POLICY);
    let _web = listener_at(&node, "127.0.0.1", 80);
    let mut gateway = Gateway::start(&node.machine, &folder, &policy(&node, CI_ALL), |_| {});
    until("the gateway does not start", || gateway.ended().is_some());
    let log = gateway.log();
    assert!(
        log.contains("TCP port 80 of this node's own addresses, where another service listens"),
        "{log}"
    );
}

#[test]
fn a_tailscaled_that_does_not_say_whom_the_policy_file_lets_in_is_not_attached_to() {
    alone(|| {
        let rule = |net: &str| {
            json!([{
                "IPProto": [6], "Srcs": [net], "SrcCaps": null, "Caps": [],
                "Dsts": [{ "Net": "100.64.0.1/32", "Ports": { "First": 5432, "Last": 5432 } }],
            }])
        };
        let capable = json!([{
            "IPProto": [17], "Srcs": null, "SrcCaps": ["example.com/cap/x"], "Caps": null,
            "Dsts": [{ "Net": "100.64.0.0/24", "Ports": { "First": 0, "Last": 65535 } }],
        }]);
        for (filter, said) in [
            (
                json!("another form"),
                "does not say whom the tailnet's policy file lets reach",
            ),
            (
                rule("100.64.0.2/32"),
                "lets ci-1 (tag:agent-ci) reach port 5432 of TCP",
            ),
            (
                rule("100.64.0.2/31"),
                "lets ci-1 (tag:agent-ci) reach port 5432 of TCP",
            ),
            (
                rule("100.64.0.0/10"),
                "lets every node of 100.64.0.0/10 reach port 5432 of TCP",
            ),
            (
                capable,
                "lets every node of the capability example.com/cap/x reach every port of UDP",
            ),
        ] {
            let mut world = played::World::start_with(|daemon| {
                daemon.node("100.64.0.2", "ci-1", &["tag:agent-ci"], json!([]));
                daemon.filter(filter.clone());
                daemon.without_device();
            });
            assert!(!world.ends(), "{filter}");
            assert!(world.says(said), "{filter}");
        }
        // Who is no agent may, and with a device nothing is led to the loopback.
        let open: [fn(&Played); 2] = [
            |daemon| {
                daemon.node("100.64.0.2", "web-1", &["tag:web"], json!([]));
                daemon.without_device();
            },
            |daemon| daemon.node("100.64.0.2", "ci-1", &["tag:agent-ci"], json!([])),
        ];
        for prepare in open {
            let filter = rule("100.64.0.2/32");
            let mut world = played::World::start_with(|daemon| {
                daemon.filter(filter);
                prepare(daemon);
            });
            until("the routes are declared", || world.daemon.routes().len() == 3);
            world.stop();
        }
    });
}

#[test]
fn so_many_nodes_are_asked_for_and_more_are_agents() {
    alone(|| {
        // 256 addresses, and one more.
        for (nets, is_open) in [
            (&["100.64.0.0/24"][..], false),
            (&["100.64.0.0/24", "100.64.1.0/32"], true),
        ] {
            let mut world = played::World::start_with(|daemon| {
                daemon.node("100.64.0.2", "web-1", &["tag:web"], json!([]));
                daemon.filter(json!([{
                    "IPProto": [6], "Srcs": nets, "Caps": null,
                    "Dsts": [{ "Net": "100.64.0.1/32", "Ports": { "First": 22, "Last": 22 } }],
                }]));
                daemon.without_device();
            });
            if is_open {
                assert!(!world.ends());
                assert!(world.says("lets more than 256 nodes reach port 22 of TCP"));
            } else {
                until("the routes are declared", || world.daemon.routes().len() == 3);
                world.stop();
            }
        }
    });
}

/// Something that listens at the service's port of an address.
fn listener(node: &Tailscaled, address: &str) -> Service {
    listener_at(node, address, 9000)
}

/// What takes connections at an address, and ends them.
fn listener_at(node: &Tailscaled, address: &str, port: u16) -> Service {
    let program = format!(
        "import socket\ns = socket.create_server(('{address}', {port}))\nprint(flush=True)\nwhile True: s.accept()[0].close()"
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
        // Once to declare them, and once to see what others declared.
        until("it is sure", || world.daemon.prefs_asked() >= 2);
        world.daemon.prefs_mood(Mood::Failing);
        world.daemon.tell();
        until("it is said", || {
            world.says("open past the gateway: tailscaled does not say which routes it advertises")
        });
        world.daemon.prefs_mood(Mood::Honest);
        world.stop();
    });
}
