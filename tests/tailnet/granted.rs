//! What a real tailnet's policy file grants and withdraws.

use crate::lab::{POLICY, World, until};
use crate::real::{attached, service};

const DEV: &str = r#"
profile "dev" {
  grants    = ["dev"]
  endpoints = [http.api]
}
rule "dev" {
  endpoint  = http.api
  condition = "'dev' in agent.caps && 'tailkeep.dev/cap/profile' in agent.caps"
  verdict   = "allow"
}
"#;

/// The fixture's policy with values of the capability for tag:agent-dev.
fn granting(values: &str) -> String {
    let grant = format!(
        r#""grants": [{{"src": ["tag:agent-dev"], "dst": ["tag:gateway"], "app": {{"tailkeep.dev/cap/profile": [{values}]}}}},"#
    );
    let policy = POLICY.replace(r#""grants": ["#, &grant);
    assert_ne!(policy, POLICY);
    policy
}

fn granted_and_withdrawn(mut world: World) {
    let node = world.gateway_node("gw");
    let _service = service(&node);
    let _gateway = attached(&world, &node, DEV);
    let dev = world.agent("dev-1", &["tag:agent-dev"]);
    dev.until_routes();
    let lets_in = || dev.http("10.78.0.1", 80, "api.test", "GET").contains(" 200 ");
    let told = || dev.http("10.78.0.2", 80, "tailkeep.internal", "GET");
    assert!(!lets_in(), "nothing is granted");
    assert!(told().contains(" 403 "), "{}", told());
    world.control.policy(&granting(r#"{"profiles": ["dev"]}"#));
    until("the grant counts", &lets_in);
    let manifest = told();
    assert!(
        manifest.contains(r#""name":"dev-1","profile":"dev","transport":"tailnet""#),
        "{manifest}"
    );
    world
        .control
        .policy(&granting(r#"{"profiles": ["dev"], "only_on": "monday"}"#));
    until("what is not understood grants nothing", || !lets_in());
    world.control.policy(&granting(r#"{"profiles": ["dev"]}"#));
    until("the grant counts again", &lets_in);
    world.control.policy(POLICY);
    until("the grant is withdrawn", || !lets_in());
}

#[test]
fn a_capability_is_granted_and_withdrawn_without_a_device() {
    if let Some(world) = World::rootless(POLICY) {
        granted_and_withdrawn(world);
    }
}

#[test]
fn a_capability_is_granted_and_withdrawn_with_a_device() {
    if let Some(world) = World::root(POLICY) {
        granted_and_withdrawn(world);
    }
}
