//! An agent asks the gateway's own name on the tailnet.

use std::io::Write as _;
use std::net::TcpStream;
use std::os::fd::AsFd as _;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::lab::{API_TEST, GATEWAY_ITSELF, Machine, POLICY, SOON, World, until};
use crate::real::{CI_ALL, attached, service};

const KEEPS: &str = r#"
rule "keeps" {
  endpoint  = http.api
  priority  = 10
  condition = "http.method == 'DELETE'"
  verdict   = "deny"
}
"#;

/// What a program on a machine is answered by a port of it; empty where that closes or refuses.
fn local(machine: &Arc<Machine>, to: &str) -> String {
    let net = std::fs::File::open(format!("/proc/{}/ns/net", machine.pid())).unwrap();
    let to: std::net::SocketAddr = to.parse().unwrap();
    let asked = std::thread::spawn(move || {
        nix::sched::setns(net.as_fd(), nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
        let Ok(mut stream) = TcpStream::connect_timeout(&to, SOON) else {
            return String::new();
        };
        stream.set_read_timeout(Some(SOON)).unwrap();
        let _ = stream.write_all(b"GET / HTTP/1.0\r\nHost: gw\r\n\r\n");
        let mut answer = String::new();
        let _ = std::io::Read::read_to_string(&mut stream, &mut answer);
        answer
    });
    asked.join().unwrap()
}

fn the_gateways_name_says_who_asks(mut world: World) {
    let node = world.gateway_node("gw");
    let _service = service(&node);
    let rules = format!("{CI_ALL}{KEEPS}");
    let gateway = attached(&world, &node, &rules);
    let ci = world.agent("ci-1", &["tag:agent-ci"]);
    let dev = world.agent("dev-1", &["tag:agent-dev"]);
    ci.until_routes();
    dev.until_routes();
    for v6 in [false, true] {
        let address = node.address(v6);
        for host in ["gw.lab.ts.net", "gw", "gw:80", "tailkeep.internal"] {
            let answer = ci.http(&address, 80, host, "GET");
            let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, "null"));
            assert!(head.contains(" 200 "), "{address} {host}: {answer}");
            let told: Value = serde_json::from_str(body).unwrap();
            let want = json!(["ci-1", "ci", "gw.lab.ts.net"]);
            assert_eq!(json!([told["name"], told["profile"], told["gateway"]]), want);
        }
        let misled = ci.http(&address, 80, "evil.test", "GET");
        assert!(misled.contains(" 421 "), "{misled}");
        let refused = dev.http(&address, 80, "gw", "GET");
        assert!(
            refused.contains(" 403 ") && refused.contains("no_profile"),
            "{refused}"
        );
    }
    // The same at the name that every tunnel has.
    let told = ci.http(GATEWAY_ITSELF[0], 80, "tailkeep.internal", "GET");
    assert!(told.contains(r#""gateway":"gw.lab.ts.net""#), "{told}");
    // A denial says where to ask, by a name that peers of the tailnet know.
    let denied = ci.http(API_TEST[0], 80, "api.test", "DELETE");
    let help = "link: <http://gw.lab.ts.net/>; rel=\"help\"";
    assert!(denied.contains(" 403 ") && denied.contains(help), "{denied}");
    let report = gateway.operator(&["tailnet", "--format", "json"]).output();
    let report: Value = serde_json::from_slice(&report.unwrap().stdout).unwrap();
    assert_eq!(report["asked_at"], "http://gw.lab.ts.net/");
    // A program on the gateway's machine is no peer; from its other networks nothing is there.
    let mut here = vec!["127.0.0.1:80".to_owned()];
    if node.has_device() {
        here.push(format!("{}:80", node.address(false)));
        assert_eq!(local(&ci.machine, "192.168.100.11:80"), "");
    }
    for place in here {
        assert_eq!(local(&node.machine, &place), "", "{place}");
    }
}

#[test]
fn the_gateways_name_says_who_asks_without_a_device() {
    if let Some(world) = World::rootless(POLICY) {
        the_gateways_name_says_who_asks(world);
    }
}

#[test]
fn the_gateways_name_says_who_asks_with_a_device() {
    if let Some(world) = World::root(POLICY) {
        the_gateways_name_says_who_asks(world);
    }
}

#[test]
fn magic_dns_leads_programs_to_it() {
    let Some(mut world) = World::root(POLICY) else {
        return;
    };
    let node = world.gateway_node("gw");
    let _gateway = attached(&world, &node, CI_ALL);
    let ci = world.agent("ci-1", &["tag:agent-ci"]);
    ci.set(json!({ "CorpDNS": true }));
    ci.until_routes();
    let ask = || ci.machine.says("curl", &["-sS", "-m", "10", "http://gw/text"]);
    until("the name is known", || {
        ask().contains("The gateway is gw.lab.ts.net on your tailnet")
    });
    let shown = ci
        .machine
        .command(env!("CARGO_BIN_EXE_tailkeep"))
        .args(["whoami", "--gateway", "gw"])
        .env("TAILKEEP_HOME", world.folder().join("nowhere"))
        .output()
        .unwrap();
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(
        shown.contains("gateway    gw.lab.ts.net") && shown.contains("profile    ci"),
        "{shown}"
    );
}

#[test]
fn a_port_that_others_have_is_said_and_takes_nothing_else_away() {
    let Some(mut world) = World::root(POLICY) else {
        return;
    };
    let node = world.gateway_node("gw");
    let _service = service(&node);
    let mut squatter = node
        .machine
        .command("python3")
        .args(["-m", "http.server", "80"])
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    until("the port is taken", || {
        !local(&node.machine, "127.0.0.1:80").is_empty()
    });
    let gateway = attached(&world, &node, CI_ALL);
    let report = || {
        let output = gateway.operator(&["tailnet"]).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    until("it is said", || report().contains("another service has the port"));
    let said = "agents are not told who they are at the gateway's own name";
    assert_eq!(gateway.log().matches(said).count(), 1, "once");
    assert!(!gateway.log().contains(&format!("ERROR {said}")));
    squatter.kill().unwrap();
    squatter.wait().unwrap();
    until("it is tried again", || report().contains("http://gw.lab.ts.net/"));
    let ci = world.agent("ci-1", &["tag:agent-ci"]);
    ci.until_routes();
    // The squatter had every address's, the endpoint's too.
    until("the endpoint is served as well", || {
        ci.http(API_TEST[0], 80, "api.test", "GET").contains(" 200 ")
    });
}
