//! What the tailnet's policy file lacks is said in lines that work.

use crate::lab::{API_TEST, World, until};
use crate::real::{attached, service};

const PROFILES: &str = r#"
profile "ci" {
  tags      = ["tag:agent-ci"]
  endpoints = [http.api]
}
rule "all" {
  endpoint = http.api
  verdict  = "allow"
}
"#;

/// Nothing is approved, nobody may reach anything.
const EMPTY: &str = r#"{"tagOwners": {"tag:gateway": [], "tag:agent-ci": []}, "grants": []}"#;

#[test]
fn the_lines_to_paste_are_what_the_policy_file_lacks() {
    let Some(mut world) = World::rootless(EMPTY) else {
        return;
    };
    let node = world.gateway_node("gw");
    let _service = service(&node);
    let gateway = attached(&world, &node, PROFILES);
    let report = || {
        let output = gateway
            .operator(&["tailnet", "--format", "json"])
            .output()
            .unwrap();
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        (output.status.code(), report)
    };
    until("the routes are advertised", || {
        report().1["waiting"].as_array().map(Vec::len) == Some(2)
    });
    let (code, report_before) = report();
    assert_eq!(code, Some(1));
    assert_eq!(report_before["routes"][0]["approved"], false);
    let shown = gateway.operator(&["tailnet"]).output().unwrap();
    let shown = String::from_utf8(shown.stdout).unwrap();
    assert!(
        shown.contains("waits for approval") && shown.contains("autoApprovers"),
        "{shown}"
    );
    world
        .control
        .policy(&format!("{{{}}}", report_before["policy_file"].as_str().unwrap()));
    let ci = world.agent("ci-1", &["tag:agent-ci"]);
    ci.until_routes();
    let answer = ci.http(API_TEST[0], 80, "api.test", "GET");
    assert!(answer.contains(" 200 "), "{answer}");
    until("the gateway sees it", || report().0 == Some(0));
    let (_, after) = report();
    assert_eq!(
        (&after["routes"][0]["approved"], &after["routes"][0]["primary"]),
        (&true.into(), &true.into())
    );
}
