//! A real tailscaled without a network device, attached: what it would dial itself is refused at the start.

use serde_json::json;

use crate::lab::{Gateway, POLICY, Tailscaled, World};

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
    crate::lab::until("the gateway ends", || {
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
