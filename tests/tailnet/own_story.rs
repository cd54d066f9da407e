//! Everything that works beside a tailscaled works with one of the gateway's own, too.

use serde_json::{Value, json};

use crate::lab::{API_TEST, Tailscaled, World, until};
use crate::names::{Way, ask, by_datagram};
use crate::own::{Own, folder};

/// Every node may reach every port: what is refused, the gateway refuses.
const OPEN: &str = r#"{
  "tagOwners": {"tag:gateway": [], "tag:agent-ci": [], "tag:nothing": []},
  "autoApprovers": {
    "routes": {"10.78.0.0/16": ["tag:gateway"], "fd7a:7461:696c:78::/64": ["tag:gateway"]},
  },
  "grants": [
    {"src": ["*"], "dst": ["10.78.0.0/16", "fd7a:7461:696c:78::/64"], "ip": ["*"]},
    {"src": ["*"], "dst": ["tag:gateway"], "ip": ["tcp:80", "tcp:443", "tcp:53", "udp:53"]},
    {"src": ["tag:nothing", "ann@example.com"], "dst": ["tag:gateway"], "ip": ["tcp:18080"]},
  ],
}"#;

const FIELDS: &str = r#"
    authkey   = env("TAILNET_KEY")
    hostname  = "keeper"
    tags      = ["tag:gateway"]
    operators = ["ann@example.com"]
"#;

/// What curl is answered on a node's machine, with its exit status: 0 is an answer.
fn curl(on: &Tailscaled, arguments: &[&str]) -> (i32, String) {
    let mut command = on.machine.command("curl");
    let output = command
        .args(["-sS", "-m", "20"])
        .args(arguments)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    (output.status.code().unwrap(), text)
}

fn whoami(on: &Tailscaled) -> (bool, String) {
    let mut command = on.machine.command(env!("CARGO_BIN_EXE_tailkeep"));
    let command = command
        .args(["whoami", "--format", "json"])
        .env("TAILKEEP_HOME", "/nowhere");
    let output = command.output().unwrap();
    let both = [output.stdout, output.stderr].concat();
    (
        output.status.success(),
        String::from_utf8_lossy(&both).into_owned(),
    )
}

#[test]
fn names_whoami_and_the_page_are_there_and_routes_go_with_the_gateway() {
    let Some(world) = World::root(OPEN) else { return };
    let mut own = Own::on(world, FIELDS, |world| world.control.key(&[]));
    own.until_state("Running");
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (name, address) = (text(&own.shown()["name"]), text(&own.shown()["addresses"][0]));
    assert!(name.starts_with("keeper."), "{}", own.shown());
    own.world
        .control
        .dns(&json!({ "Split": { "test": [address], "internal": [address] } }));
    let ci = own.world.agent("ci-1", &["tag:agent-ci"]);
    let nobody = own.world.agent("nobody-1", &["tag:nothing"]);
    let ann = own.world.agent("laptop", &[]);
    for node in [&ci, &nobody, &ann] {
        node.set(json!({ "CorpDNS": true }));
        node.until_routes();
    }

    // Names, by the machine's own resolver, lead to what the profile holds.
    until("the name is found", || {
        curl(&ci, &["http://api.test/"]).1 == "done"
    });
    assert_ne!(curl(&nobody, &["http://api.test/"]).0, 0);
    // By datagrams, too, which the gateway's tailscaled forwards without a device: each asker is known.
    for server in own.shown()["addresses"].as_array().unwrap().iter().map(text) {
        let to = (server.as_str(), by_datagram as Way);
        assert_eq!(ask(&ci, to, "api.test", 1), (0, 1), "{server}");
        assert_eq!(ask(&nobody, to, "api.test", 1), (5, 0), "{server}: refused");
    }
    let (known, told) = whoami(&ci);
    let manifest: Value = serde_json::from_str(&told).unwrap_or_else(|error| panic!("{error}: {told}"));
    assert!(
        known && manifest["profile"] == "ci" && manifest["name"] == "ci-1",
        "{told}"
    );
    assert_eq!(manifest["endpoints"][0]["hosts"][0]["host"], "api.test");
    let (known, told) = whoami(&nobody);
    assert!(!known && !told.contains("api.test"), "{told}");

    // The page: for operators, by its name; for no agent, and on no other port of the gateway's machine.
    own.gateway.until_says("the admin page is served on the tailnet");
    let ca = folder(&own.world).join("state/ca.pem").display().to_string();
    let page = |on: &Tailscaled, rest: &[&str]| curl(on, &[&["--cacert", &ca], rest].concat());
    let url = format!("https://{name}/");
    let (status, shown) = page(&ann, &[&url]);
    assert!(
        status == 0 && shown.contains("<title>Tailkeep"),
        "{status} {shown}\n{}",
        own.gateway.log()
    );
    let origin = format!("Origin: https://{name}");
    let (_, opened) = page(
        &ann,
        &["-X", "POST", "-H", &origin, &format!("{url}v1/sign-in/tailnet")],
    );
    assert!(opened.contains("ann@example.com"), "{opened}");
    for agent in [&ci, &nobody] {
        assert_eq!(page(agent, &[&url]).1, "");
    }
    let token = std::fs::read_to_string(folder(&own.world).join("state/operator.token")).unwrap();
    let bearer = format!("Authorization: Bearer {}", token.trim());
    let health = format!("http://{address}:18080/v1/health");
    // To agents the policy file shuts it, or the gateway would not have started; to others the gateway does.
    for node in [&nobody, &ann] {
        assert_eq!(curl(node, &["-H", &bearer, &health]).1, "", "{}", node.name);
    }
    assert!(own.gateway.log().contains("tried the loopback admin listener"));
    let here = ["-sS", "-H", &bearer, "http://127.0.0.1:18080/v1/health"];
    let health: Value = serde_json::from_str(&own.machine.says("curl", &here)).unwrap();
    assert_eq!(
        (&health["tailnet"]["own"], &health["tailnet"]["state"]),
        (&json!(true), &json!("Running"))
    );
    // This tailnet has no HTTPS: who signs, and why, is shown.
    let certificate = text(&health["tailnet"]["certificate"]);
    assert!(
        certificate.contains("gateway's own CA") && certificate.contains("TLS certs"),
        "{health}"
    );

    assert!(own.gateway.stop());
    until("the routes are withdrawn", || {
        !ci.has_route("10.78.0.0/16") && !ci.has_route("fd7a:7461:696c:78::/64")
    });
    assert_ne!(
        curl(
            &ci,
            &[
                "-m",
                "2",
                "--resolve",
                &format!("api.test:80:{}", API_TEST[0]),
                "http://api.test/"
            ]
        )
        .0,
        0
    );
}
