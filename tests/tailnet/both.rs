//! Peers of the WireGuard listener and of the tailnet in one gateway.

use serde_json::{Value, json};

use crate::world::{World, alone};

const WIREGUARD: &str = r#"
  enrol_listen = "127.0.0.1:18081"
  public_url   = "https://localhost:18081"
  wireguard {
    listen       = "127.0.0.1"
    listen_port  = 18082
    endpoint     = "127.0.0.1:18082"
    subnet_cidr  = "10.91.0.0/24"
    subnet_cidr6 = "fd91::/64"
  }
"#;

#[test]
fn both_transports_have_the_same_profiles_and_facts() {
    alone(|| {
        if !std::path::Path::new("/dev/net/tun").exists() {
            eprintln!("SKIPPED: this machine has no /dev/net/tun");
            return;
        }
        let world = World::with(WIREGUARD);
        let tailkeep = |args: &[&str]| {
            let output = world.command("laptop", args).output().unwrap();
            assert!(output.status.success(), "{args:?}: {output:?}");
            String::from_utf8(output.stdout).unwrap()
        };
        let added = tailkeep(&["peers", "add", "laptop", "--format", "json"]);
        let added: Value = serde_json::from_str(&added).unwrap();
        tailkeep(&["join", added["url"].as_str().unwrap()]);
        // A node that has the peer's name is not the peer, and `peers` is not about nodes.
        world.daemon.node("100.64.0.3", "laptop", &[], json!([]));
        world
            .daemon
            .node("100.64.0.2", "ci-1", &["tag:agent-ci"], json!([]));
        assert_eq!(world.ask("100.64.0.3", "GET"), "");
        assert!(world.ask("100.64.0.2", "GET").contains(" 200 "));
        assert!(world.ask("100.64.0.2", "POST").contains(" 403 "));
        let curl = ["run", "--", "curl", "-sS", "-X", "POST", "http://api.test/"];
        assert_eq!(tailkeep(&curl), "done", "a rule for the other transport");
        let told = |args: &[&str]| serde_json::from_str::<Value>(&tailkeep(args)).unwrap();
        let ways: [&[&str]; 3] = [
            &["whoami", "--format", "json"],
            &[
                "run",
                "--",
                env!("CARGO_BIN_EXE_tailkeep"),
                "whoami",
                "--format",
                "json",
            ],
            &["run", "--", "curl", "-sS", "http://10.91.0.1/"],
        ];
        for way in ways {
            let told = told(way);
            assert_eq!(
                json!([told["name"], told["profile"], told["transport"]]),
                json!(["laptop", "ci", "wireguard"])
            );
        }
        let node: Value = serde_json::from_str(
            world
                .ask_gateway("100.64.0.2", "/")
                .split_once("\r\n\r\n")
                .unwrap()
                .1,
        )
        .unwrap();
        assert_eq!(node["endpoints"], told(ways[0])["endpoints"]);
        let audit = world.audit();
        let seen = |transport| {
            audit
                .iter()
                .any(|row| row["transport"] == transport && row["verdict"] == "allow")
        };
        assert!(seen("wireguard") && seen("tailnet"));
    });
}
