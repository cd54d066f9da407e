//! What a real tailnet's policy file grants and withdraws.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;

use crate::lab::{API_TEST, GATEWAY_ITSELF, POLICY, SOON, World, until};
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

fn get(open: &mut UnixStream) -> String {
    open.write_all(b"GET / HTTP/1.1\r\nHost: api.test\r\n\r\n")
        .unwrap();
    let mut got = Vec::new();
    let mut piece = [0; 1024];
    while !got.ends_with(b"done") {
        match open.read(&mut piece).unwrap() {
            0 => break,
            length => got.extend_from_slice(&piece[..length]),
        }
    }
    String::from_utf8(got).unwrap()
}

/// Bytes until the other side has closed.
fn get_end(open: &mut UnixStream) -> usize {
    open.read(&mut [0; 16]).unwrap()
}

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
    let lets_in = || dev.http(API_TEST[0], 80, "api.test", "GET").contains(" 200 ");
    let told = || dev.http(GATEWAY_ITSELF[0], 80, "tailkeep.internal", "GET");
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
    // A change that leaves the profile as it is ends nothing; the withdrawal ends what is open.
    let mut open = dev.dial(API_TEST[0], 80).unwrap();
    open.set_read_timeout(Some(SOON)).unwrap();
    assert!(get(&mut open).contains(" 200 "));
    world.control.policy(&granting(
        r#"{"profiles": ["dev"], "limits": {"requests_per_minute": 600}}"#,
    ));
    until("the limit is told", || {
        told().contains("\"requests_per_minute\":600")
    });
    assert!(get(&mut open).contains(" 200 "));
    world.control.policy(POLICY);
    assert_eq!(get_end(&mut open), 0, "the session ends");
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
