use serde_json::Value;

use crate::{policy, tailkeep};

/// `verdict rule` of each action that the flags describe, and the exit status.
#[track_caller]
fn check(flags: &[&str], code: i32, want: &[&str]) {
    let (_folder, policy) = policy();
    let args = [&["eval", &policy, "--format", "json"], flags].concat();
    let run = tailkeep(&args, b"");
    assert_eq!(run.code, code, "{flags:?}: {}{}", run.out, run.errors);
    let got: Vec<String> = run
        .out
        .lines()
        .map(|line| {
            let line: Value = serde_json::from_str(line).unwrap();
            let text = |name: &str| line[name].as_str().unwrap_or("-").to_owned();
            format!("{} {}", text("verdict"), text("rule"))
        })
        .collect();
    assert_eq!(got, want, "{flags:?}");
}

#[test]
fn an_action_of_each_family() {
    let dev = ["--agent", "tag:dev"];
    let with = |flags: &[&'static str]| [&dev[..], flags].concat();
    check(&with(&["--k8s", "GET /api/v1/pods"]), 0, &["allow dev-reads"]);
    check(&with(&["--k8s", "GET /api/v1/secrets"]), 1, &["deny no-secrets"]);
    check(
        &with(&["--k8s", "DELETE /api/v1/namespaces/a/pods/p?force=1"]),
        0,
        &["approve forced"],
    );
    check(&with(&["--http", "GET /x?page=2"]), 0, &["allow api-reads"]);
    check(&with(&["--http", "DELETE /x"]), 1, &["deny -"]);
    check(
        &with(&["--sql", "select 1; drop table t"]),
        1,
        &["allow orders-reads", "deny -"],
    );
    check(
        &[
            "--agent",
            "other",
            "--endpoint",
            "kubernetes.prod",
            "--k8s",
            "GET /api/v1/pods",
        ],
        1,
        &["deny -"],
    );
}

#[test]
fn why_earlier_rules_did_not_match() {
    let (_folder, policy) = policy();
    let flags = [
        "eval",
        &policy,
        "--agent",
        "dev",
        "--explain",
        "--k8s",
        "GET /api/v1/pods/x",
    ];
    let run = tailkeep(&flags, b"");
    assert_eq!(run.code, 0);
    for want in [
        "allow by rule dev-reads",
        "endpoint kubernetes.prod",
        "rule no-secrets: ",
        "\"resource\":\"pods\"",
    ] {
        assert!(run.out.contains(want), "{want}: {}", run.out);
    }
}

#[test]
fn wrong_usage_exits_2() {
    let (_folder, policy) = policy();
    for flags in [
        &["--agent", "dev"][..],
        &["--agent", "nobody", "--sql", "select 1"],
        &["--agent", "tag:nobody", "--sql", "select 1"],
        &["--agent", "dev", "--sql", ""],
        &["--agent", "dev", "--http", "GET"],
        &["--agent", "dev", "--k8s", "GET /api/v1//pods"],
        &["--agent", "dev", "--k8s", "GET /", "--http", "GET /"],
        &["--agent", "dev", "--endpoint", "https.nowhere", "--http", "GET /"],
        &["--agent", "dev", "--http", "GET /", "--header", "nocolon"],
    ] {
        let run = tailkeep(&[&["eval", &policy], flags].concat(), b"");
        assert_eq!(run.code, 2, "{flags:?}: {}", run.out);
        assert!(!run.errors.is_empty(), "{flags:?}");
    }
}
