//! Split DNS: the tailnet sends the endpoints' domain to the gateway's node.

use std::io::{Read as _, Write as _};

use serde_json::json;

use crate::lab::{API_TEST, POLICY, Tailscaled, World, until};
use crate::real::{CI_ALL, attached, service};

/// How a query travels.
pub type Way = fn(&Tailscaled, &str, &[u8]) -> Option<Vec<u8>>;

/// The code of an answer, and how many records it has.
pub fn ask(agent: &Tailscaled, (server, way): (&str, Way), name: &str, kind: u16) -> (u8, u8) {
    let mut query = vec![0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        query.push(u8::try_from(label.len()).unwrap());
        query.extend(label.bytes());
    }
    query.push(0);
    query.extend([kind.to_be_bytes(), [0, 1]].concat());
    let mut found = None;
    until("the name service answers", || {
        found = way(agent, server, &query);
        found.is_some()
    });
    let answer = found.unwrap();
    assert_eq!(answer[..2], [0, 7]);
    (answer[3] & 15, answer[7])
}

/// A datagram from the agent's machine; from where only its tailscaled is of the tailnet, by that one's SOCKS5.
const DATAGRAM: &str = "
import ipaddress, socket, struct, sys
server, query, socks = ipaddress.ip_address(sys.argv[1]), bytes.fromhex(sys.argv[2]), int(sys.argv[3])
at, head = (str(server), 53), b''
if socks:
    control = socket.create_connection(('127.0.0.1', socks), 5)
    control.sendall(bytes([5, 1, 0]))
    assert control.recv(2) == bytes([5, 0])
    control.sendall(bytes([5, 3, 0, 1] + 6 * [0]))
    answer = control.recv(64)
    assert answer[:4] == bytes([5, 0, 0, 1]), answer
    at = (socket.inet_ntoa(answer[4:8]), struct.unpack('>H', answer[8:10])[0])
    head = bytes([0, 0, 0, 1 if server.version == 4 else 4]) + server.packed + struct.pack('>H', 53)
from_v6 = not socks and server.version == 6
asker = socket.socket(socket.AF_INET6 if from_v6 else socket.AF_INET, socket.SOCK_DGRAM)
asker.settimeout(2)
asker.sendto(head + query, at)
print(asker.recv(4096)[len(head):].hex())
";

pub fn by_datagram(agent: &Tailscaled, server: &str, query: &[u8]) -> Option<Vec<u8>> {
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let socks = if agent.has_device() { 0 } else { agent.socks.port() };
    let mut command = agent.machine.command("python3");
    let output = command
        .args(["-c", DATAGRAM, server, &hex(query), &socks.to_string()])
        .output();
    let text = String::from_utf8(output.unwrap().stdout).unwrap();
    let digits = text
        .trim()
        .as_bytes()
        .chunks(2)
        .map(|two| std::str::from_utf8(two).unwrap());
    let answer: Vec<u8> = digits.map(|two| u8::from_str_radix(two, 16).unwrap()).collect();
    (!answer.is_empty()).then_some(answer)
}

fn by_connection(agent: &Tailscaled, server: &str, query: &[u8]) -> Option<Vec<u8>> {
    let mut stream = agent.dial(server, 53).ok()?;
    let length = u16::try_from(query.len()).unwrap();
    stream.write_all(&[&length.to_be_bytes(), query].concat()).ok()?;
    let mut length = [0; 2];
    stream.read_exact(&mut length).ok()?;
    let mut answer = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut answer).ok()?;
    Some(answer)
}

fn names_are_answered(mut world: World) {
    let node = world.gateway_node("gw");
    let gateway = attached(&world, &node, CI_ALL);
    gateway.until_says("names are answered");
    let ci = world.agent("ci-1", &["tag:agent-ci"]);
    let dev = world.agent("dev-1", &["tag:agent-dev"]);
    ci.until_routes();
    dev.until_routes();
    let servers = [node.address(false), node.address(true)];
    for server in &servers {
        for way in [by_connection as Way, by_datagram] {
            let to = (server.as_str(), way);
            for kind in [1, 28] {
                assert_eq!(ask(&ci, to, "api.test", kind), (0, 1), "type {kind}");
            }
            assert_eq!(ask(&ci, to, "other.test", 1), (3, 0), "no such name");
            // It has no profile: not even that a name is not there.
            assert_eq!(ask(&dev, to, "api.test", 1), (5, 0), "refused");
            assert_eq!(ask(&dev, to, "other.test", 1), (5, 0), "refused");
        }
    }
}

#[test]
fn names_are_answered_without_a_device() {
    // An agent's tailscaled that has no device either forgets which datagrams it sent, and takes answers for
    // questions, which its tailnet has to let in. (One with a device does not: `own_story.rs`.)
    let answers = r#"{"src": ["tag:gateway"], "dst": ["tag:agent-ci", "tag:agent-dev"], "ip": ["udp:*"]},"#;
    let policy = POLICY.replace("\"grants\": [", &format!("\"grants\": [\n    {answers}"));
    if let Some(world) = World::rootless(&policy) {
        names_are_answered(world);
    }
}

#[test]
fn names_are_answered_with_a_device() {
    if let Some(world) = World::root(POLICY) {
        names_are_answered(world);
    }
}

#[test]
fn the_machines_own_resolver_finds_the_endpoints_by_split_dns() {
    let Some(mut world) = World::root(POLICY) else {
        return;
    };
    let node = world.gateway_node("gw");
    let _service = service(&node);
    let gateway = attached(&world, &node, CI_ALL);
    gateway.until_says("names are answered");
    world
        .control
        .dns(&json!({ "Split": { "test": [node.address(false)] } }));
    let ci = world.agent("ci-1", &["tag:agent-ci"]);
    let dev = world.agent("dev-1", &["tag:agent-dev"]);
    for agent in [&ci, &dev] {
        agent.set(json!({ "CorpDNS": true }));
        agent.until_routes();
    }
    let resolve = |agent: &Tailscaled| agent.machine.says("getent", &["ahosts", "api.test"]);
    until("the resolver is in use", || resolve(&ci).contains(API_TEST[0]));
    assert!(resolve(&ci).contains(API_TEST[1]), "{}", resolve(&ci));
    let fetched = ci.machine.says("curl", &["-sS", "-m", "20", "http://api.test/"]);
    assert_eq!(fetched, "done");
    assert!(
        !resolve(&dev).contains("10.78"),
        "a peer without a profile learns nothing"
    );
}

#[test]
fn a_port_that_another_resolver_has_takes_nothing_else_away() {
    let Some(mut world) = World::root(POLICY) else {
        return;
    };
    let node = world.gateway_node("gw");
    let _service = service(&node);
    let other = "import socket,time\ns=socket.socket(socket.AF_INET6,socket.SOCK_DGRAM)\ns.bind(('::',53))\nprint('ready',flush=True)\ntime.sleep(600)";
    let mut squatter = node
        .machine
        .command("python3")
        .args(["-c", other])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    // Kept open: a program whose output nobody takes ends.
    let mut says = squatter.stdout.take().unwrap();
    says.read_exact(&mut [0; 6]).unwrap();
    let gateway = attached(&world, &node, CI_ALL);
    gateway.until_says("another resolver has the port");
    let ci = world.agent("ci-1", &["tag:agent-ci"]);
    ci.until_routes();
    let answer = ci.http(API_TEST[0], 80, "api.test", "GET");
    assert!(answer.contains(" 200 "), "{answer}");
    // It is tried again.
    squatter.kill().unwrap();
    squatter.wait().unwrap();
    gateway.until_says("names are answered");
}
