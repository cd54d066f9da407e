//! Limits that the tailnet's policy file grants with a profile.

use serde_json::json;

use crate::world::{World, alone};

#[test]
fn a_grant_limits_connections_and_requests() {
    alone(|| {
        let world = World::start();
        let grant = |limits| json!([{ "profiles": ["dev"], "limits": limits }]);
        world
            .daemon
            .node("100.64.0.2", "few", &[], grant(json!({ "connections": 1 })));
        let mut open = world.connect("100.64.0.2");
        assert_eq!(world.ask("100.64.0.2", "GET"), "", "a second one");
        assert!(open.get().contains(" 200 "));
        world.daemon.node(
            "100.64.0.3",
            "slow",
            &[],
            grant(json!({ "requests_per_minute": 2 })),
        );
        let mut open = world.connect("100.64.0.3");
        assert!(open.get().contains(" 200 "));
        let refused = open.get();
        assert!(
            refused.contains(" 429 ") && refused.contains("too_many"),
            "{refused}"
        );
        let audit = world.audit();
        assert!(
            audit
                .iter()
                .any(|row| row["cause"] == "too_many" && row["node"] == "slow")
        );
        // What is not understood would be a limit that is ignored.
        world.daemon.node(
            "100.64.0.4",
            "odd",
            &["tag:agent-ci"],
            grant(json!({ "bytes": 9 })),
        );
        assert_eq!(world.ask("100.64.0.4", "GET"), "");
        let shown = world.command("any", &["peers", "list"]).output().unwrap();
        let shown = String::from_utf8(shown.stdout).unwrap();
        let has = |text: &str| assert!(shown.contains(text), "{text}: {shown}");
        has("profile dev  limits {\"requests_per_minute\":2}");
        has("not understood, and grants nothing: tailkeep.dev/cap/profile: unknown field `bytes`");
    });
}
