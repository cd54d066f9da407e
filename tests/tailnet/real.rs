//! The gateway on a real tailnet.

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;

use crate::lab::{API_TEST, Gateway, Machine, POLICY, Tailscaled, World, until};

/// An HTTP service behind the gateway, on the gateway's machine.
pub struct Service(pub std::process::Child);

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

const SERVER: &str = "
import http.server, socketserver
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    def do(self):
        self.send_response(200); self.send_header('Content-Length', '4'); self.end_headers(); self.wfile.write(b'done')
    do_GET = do_POST = do
    def log_message(self, *a): pass
class Server(http.server.ThreadingHTTPServer):
    # Its own would ask for the name of the address, where nobody answers.
    server_bind = socketserver.TCPServer.server_bind
server = Server(('127.0.0.2', 9000), Handler)
print('listens', flush=True)
server.serve_forever()
";

/// Serves HTTP at 127.0.0.2:9000 of a machine; it listens when this returns.
pub fn service(on: &Tailscaled) -> Service {
    service_on(&on.machine)
}

/// See [`service`].
pub fn service_on(machine: &Machine) -> Service {
    let mut serve = machine.command("python3");
    let mut child = serve.args(["-c", SERVER]).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    assert_eq!(line, "listens\n");
    Service(child)
}

/// A gateway that is attached to `node`; it listens on the endpoint's virtual address when this returns.
pub fn attached(world: &World, node: &Tailscaled, rest: &str) -> Gateway {
    let folder = world.folder().join(format!("gateway-{}", node.name));
    let gateway = Gateway::start(&node.machine, &folder, &policy(node, rest), |_| {});
    gateway.until_says("tailscaled is heard");
    gateway
}

/// The policy of [`attached`].
pub fn policy(node: &Tailscaled, rest: &str) -> String {
    format!(
        r#"
gateway {{
  state_dir        = "FOLDER/state"
  dashboard_listen = "127.0.0.1:18080"
  tailscale {{ socket = "{socket}" }}
}}
endpoint "http" "api" {{
  hosts    = ["api.test:80"]
  upstream = "127.0.0.2:9000"
}}
{rest}"#,
        socket = node.socket.display()
    )
}

/// Who has tag:agent-ci may do all with the API.
pub const CI_ALL: &str = r#"
profile "ci" {
  tags      = ["tag:agent-ci"]
  endpoints = [http.api]
}
rule "all" {
  endpoint = http.api
  verdict  = "allow"
}
"#;

/// Who has tag:agent-ci may read the API.
pub const CI_READS: &str = r#"
profile "ci" {
  tags      = ["tag:agent-ci"]
  endpoints = [http.api]
}
rule "ci-reads" {
  endpoint  = http.api
  condition = "'tag:agent-ci' in agent.tags && http.method == 'GET'"
  verdict   = "allow"
}
"#;

fn tags_decide(mut world: World) {
    let node = world.gateway_node("gw");
    let _service = service(&node);
    let _gateway = attached(&world, &node, CI_READS);
    let ci = world.agent("ci-1", &["tag:agent-ci"]);
    let dev = world.agent("dev-1", &["tag:agent-dev"]);
    ci.until_routes();
    dev.until_routes();
    for address in API_TEST {
        let answer = ci.http(address, 80, "api.test", "GET");
        assert!(answer.contains(" 200 "), "{address}: {answer}");
        let answer = ci.http(address, 80, "api.test", "POST");
        assert!(answer.contains(" 403 "), "{address}: {answer}");
        let answer = dev.http(address, 80, "api.test", "GET");
        assert!(!answer.contains("done"), "{address}: {answer}");
    }
    // Its tag changes: nothing leads it to the gateway any more.
    world.control.set_tags("ci-1", &["tag:nothing"]);
    until("the agent lost its way", || !ci.has_route("10.78.0.0/16"));
}

#[test]
fn tags_decide_who_gets_what_without_a_device() {
    if let Some(world) = World::rootless(POLICY) {
        tags_decide(world);
    }
}

#[test]
fn tags_decide_who_gets_what_with_a_device() {
    if let Some(world) = World::root(POLICY) {
        tags_decide(world);
    }
}
