//! An agent on the tailnet asks the gateway who it is.

use serde_json::{Value, json};

use crate::lab::{API_TEST, GATEWAY_ITSELF};
use crate::world::{World, alone};

#[test]
fn a_peer_is_told_what_it_reaches_and_nobody_else_anything() {
    alone(|| {
        let world = World::start();
        world
            .daemon
            .node("100.64.0.2", "ci-1", &["tag:agent-ci"], json!([]));
        world
            .daemon
            .node("100.64.0.4", "plain", &["tag:nothing"], json!([]));
        let answer = world.ask_gateway("100.64.0.2", "/");
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(
            head.contains(" 200 ") && head.contains("application/json"),
            "{head}"
        );
        let manifest: Value = serde_json::from_str(body).unwrap();
        let want = json!(["ci-1", "ci", "tailnet", "100.64.0.2"]);
        let got = json!([
            manifest["name"],
            manifest["profile"],
            manifest["transport"],
            manifest["address"]
        ]);
        assert_eq!(got, want);
        let host = json!({
            "host": "api.test", "port": 80, "addresses": API_TEST,
        });
        assert_eq!(manifest["endpoints"][0]["hosts"], json!([host]));
        for hidden in ["ci-reads", "frozen", "tag:", "127.0.0.1", "dev"] {
            assert!(!body.contains(hidden), "{hidden}: {body}");
        }
        assert!(
            world
                .ask_gateway("100.64.0.2", "/ca.pem")
                .contains("BEGIN CERTIFICATE")
        );
        assert!(
            world
                .ask_gateway("100.64.0.2", "/text")
                .contains("- http.api: api.test:80")
        );
        assert!(world.ask_gateway("100.64.0.2", "/v1/policy").contains(" 404 "));
        let refused = world.ask_gateway("100.64.0.4", "/");
        assert!(
            refused.contains(" 403 ") && refused.contains("no_profile"),
            "{refused}"
        );
        assert_eq!(world.ask_gateway("100.64.0.9", "/"), "", "no peer");
        let own = format!("{}:80", GATEWAY_ITSELF[0]);
        // Under another name, a page that was led here.
        assert!(world.ask_at("100.64.0.2", &own, "evil.test").contains(" 421 "));
        assert!(
            world
                .ask_at("100.64.0.2", &own, GATEWAY_ITSELF[0])
                .contains(" 200 ")
        );
    });
}
