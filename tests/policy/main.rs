//! The policy commands as a user runs them, on the policies that are shipped.

#![allow(
    clippy::panic,
    clippy::unwrap_used,
    dead_code,
    reason = "tests say what they expect"
)]

#[cfg(feature = "daemon")]
mod rehearsal;
#[cfg(feature = "daemon")]
mod sources;
mod speed;

use std::process::{Command, Output};

const POLICIES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/policies");

fn tailkeep(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_tailkeep"))
        .args(args)
        .output()
        .expect("the binary runs")
}

fn check(args: &[&str], code: i32, said: &str) {
    let output = tailkeep(args);
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{args:?}\n{text}");
    assert!(text.contains(said), "{args:?}\n{text}");
}

#[test]
fn the_shipped_policies_load() {
    check(&["validate", POLICIES], 0, "valid: 3 endpoints");
    check(&["validate", POLICIES, "--format", "json"], 0, "\"valid\":true");
}

/// A policy that was written for the reference's grammar is taken as it stands; what has no effect
/// here is said, and where this gateway is safer the line that undoes it.
#[test]
fn a_policy_of_the_documented_grammar_loads_unchanged() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/policy/grammar.hcl");
    for said in [
        "valid: 8 endpoints, 12 credentials, 2 approvers, 6 rules, 2 profiles",
        "`user` of credential \"clickhouse_credential\" \"chc\" has no effect here",
        "`genai_telemetry` of gateway has no effect here",
        "`host_loopback_port` of wireguard has no effect here",
        "`llm_cache_ttl` of defaults has no effect here",
        "`accept_invalid_certificate` of endpoint \"clickhouse_native\" \"ch\" has no effect here",
        "`tunnel` of endpoint \"postgres\" \"pg\" has no effect here",
        "`interactive` of approver \"human_approver\" \"ops\" has no effect here",
        "enrollment \"oidc\" \"ci\" has no effect here",
        "`allow_ephemeral_oidc` of profile \"ci\" has no effect here",
        "this gateway does not read ssh yet",
        "this gateway cannot inject slack_tokens yet",
        "`defaults { unmatched = \"allow\" }` lets it pass",
        "rule `banned` denies a statement that runs code which cannot be read",
        "`!sql.opaque && …` leaves it to the rules behind",
    ] {
        check(&["validate", file], 0, said);
    }
}

#[test]
fn exit_codes_tell_invalid_from_unreadable() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.hcl");
    std::fs::write(&file, "rule \"x\" {}\n").unwrap();
    check(&["validate", file.to_str().unwrap()], 1, "has no outcome");
    check(&["validate", "/nonexistent.hcl"], 2, "nonexistent.hcl");
}

#[test]
fn eval_judges_one_action() {
    let ci = ["eval", POLICIES, "--agent", "tag:agent-ci"];
    let run = |more: &[&str], code, said| check(&[&ci[..], more].concat(), code, said);
    run(&["--http", "GET /repos/a/b"], 0, "allow by rule ci/github-reads");
    run(&["--http", "DELETE /repos/a/b"], 1, "deny (no rule)");
    run(
        &["--http", "PUT /repos/a/b/pulls/1/merge"],
        0,
        "approve by rule ci/github-merges",
    );
    run(&["--sql", "SELECT 1"], 0, "allow by rule ci/orders-reads");
    run(
        &["--sql", "SELECT 1; DROP TABLE users"],
        1,
        "deny by rule ci/orders-rest",
    );
    run(&["--sql", "DELETE FROM a", "--explain"], 1, "sql.verb = 'delete'");
    check(
        &["eval", POLICIES, "--agent", "tag:nobody", "--http", "GET /"],
        2,
        "no profile claims",
    );
}

#[test]
fn test_reports_each_verdict_that_moved() {
    let folder = tempfile::tempdir().unwrap();
    let fixture = |name: &str, verdict: &str| {
        let text = serde_json::json!({
            "match": {"verdict": verdict, "rule": "ci/github-reads", "endpoint": "github"},
            "action": {"host": "api.github.com", "http": {"method": "GET", "path": "/repos/x"}},
        });
        std::fs::write(folder.path().join(name), text.to_string()).unwrap();
    };
    fixture("a.json", "allow");
    check(
        &["test", POLICIES, folder.path().to_str().unwrap()],
        0,
        "1 actions checked, 0 mismatches",
    );
    fixture("b.json", "deny");
    check(
        &["test", POLICIES, folder.path().to_str().unwrap()],
        1,
        "want deny by `ci/github-reads`, got allow",
    );
}
