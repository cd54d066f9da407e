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
        "rule no-secrets: not matched  ",
        "policy.hcl:31:6\n  k8s.resource == 'secrets' = false\n    k8s.resource = 'pods'\n",
        "rule dev-reads: matched: allow  ",
        "    agent.profile == 'dev' = true\n      agent.profile = 'dev'\n",
        "\"resource\":\"pods\"",
    ] {
        assert!(run.out.contains(want), "{want}: {}", run.out);
    }
}

/// What the gateway refuses before it asks the rules is no `allow` here.
#[test]
fn what_never_reaches_the_rules_is_denied_and_says_why() {
    let (_folder, policy) = policy();
    for (flags, cause, why) in [
        (
            &["--k8s", "GET /api/v1/pods", "--header", "Impersonate-User: root"][..],
            "malformed",
            "Impersonate-*",
        ),
        (
            &["--k8s", "GET /api/v1/pods", "--header", "X-Remote-User: root"],
            "malformed",
            "X-Remote-*",
        ),
        (&["--k8s", "GET /api/v1//pods"], "malformed", "empty segment"),
        (
            &[
                "--http",
                "GET /x?page=2",
                "--header",
                "x-http-method-override: DELETE",
            ],
            "malformed",
            "x-http-method-override",
        ),
        (
            &["--http", "GET /x?page=2", "--header", "connection: x-team"],
            "malformed",
            "Connection",
        ),
        (
            &["--http", "GET /x?page=2", "--header", "tailkeep-approval: no"],
            "malformed",
            "Tailkeep-Approval",
        ),
        (&["--http", "TRACE /x?page=2"], "malformed", "method"),
        (
            &["--http", "GET /x?page=2", "--header", "host: other.test"],
            "malformed",
            "another host",
        ),
        (
            &[
                "--http",
                "GET http://other.test/x?page=2",
                "--header",
                "host: api.test",
            ],
            "malformed",
            "target and its Host differ",
        ),
        (
            &[
                "--http",
                "GET /x?page=2",
                "--header",
                "authorization: Bearer {{house}}",
            ],
            "credential",
            "may not be used",
        ),
        (
            &["--sql", "select 1; set standard_conforming_strings = off"],
            "malformed",
            "how the server reads text",
        ),
    ] {
        let args = [
            &["eval", &policy, "--agent", "tag:dev", "--format", "json"],
            flags,
        ]
        .concat();
        let run = tailkeep(&args, b"");
        assert_eq!(run.code, 1, "{flags:?}: {}{}", run.out, run.errors);
        let said: Value = serde_json::from_str(&run.out).unwrap();
        assert_eq!(said["verdict"], "deny", "{flags:?}: {said}");
        assert_eq!(
            (&said["cause"], &said["rule"]),
            (&cause.into(), &Value::Null),
            "{said}"
        );
        assert!(said["reason"].as_str().unwrap().contains(why), "{said}");
    }
    let host = ["--agent", "tools", "--endpoint", "https.many", "--http", "GET /"];
    let named = |name: &'static str| [&host[..], &["--header", name]].concat();
    check(&named("host: a.many.test"), 0, &["allow house"]);
    check(&named("host: b.many.test:443"), 1, &["deny -"]);
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
        &["--agent", "dev", "--endpoint", "https.api", "--sql", "select 1"],
        &[
            "--agent",
            "dev",
            "--endpoint",
            "postgres.orders",
            "--http",
            "GET /",
        ],
        &["--agent", "tools", "--endpoint", "https.many", "--http", "GET /"],
        &["--agent", "dev", "--k8s", "GET /", "--http", "GET /"],
        &["--agent", "dev", "--endpoint", "https.nowhere", "--http", "GET /"],
        &["--agent", "dev", "--http", "GET /", "--header", "nocolon"],
    ] {
        let run = tailkeep(&[&["eval", &policy], flags].concat(), b"");
        assert_eq!(run.code, 2, "{flags:?}: {}", run.out);
        assert!(!run.errors.is_empty(), "{flags:?}");
    }
}

/// The same as JSON, for the page; no credential of the action stands in it, the policy's own slots
/// included.
#[test]
fn an_explanation_is_a_document_without_credentials() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("p.hcl");
    let text = "endpoint \"https\" \"api\" { hosts = [\"api.test\"] }\n\
        credential \"header_token\" \"key\" {\n  endpoint = https.api\n  header = \"x-house\"\n}\n\
        credential \"bearer_token\" \"other\" { endpoint = https.api }\n\
        profile \"p\" { credentials = [header_token.key, { placeholder = \"PH_other\", credential = bearer_token.other }] }\n\
        rule \"other\" {\n  endpoint = https.api\n  credential = bearer_token.other\n  verdict = \"deny\"\n}\n\
        rule \"house\" {\n  endpoint = https.api\n  verdict = \"deny\"\n  \
        condition = \"http.headers['x-house'][0] == 'a' || http.headers['x-team'][0] == 'b'\"\n}\n\
        rule \"body\" {\n  endpoint = https.api\n  verdict = \"allow\"\n  condition = \"http.body_json.deep.er == 1\"\n}\n";
    std::fs::write(&path, text).unwrap();
    let args = [
        "eval",
        path.to_str().unwrap(),
        "--agent",
        "p",
        "--http",
        "POST /",
        "--header",
        "x-house: hunter2hunter2",
        "--header",
        "x-team: blue",
        "--credential",
        "header_token.key",
        "--explain",
        "--format",
        "json",
    ];
    let run = tailkeep(&args, b"");
    assert!(!run.out.contains("hunter2"), "{}", run.out);
    let document: Value =
        serde_json::from_str(&run.out).unwrap_or_else(|_| panic!("{}{}", run.out, run.errors));
    let steps = &document["explain"];
    assert_eq!(
        steps[0]["credential"],
        "credential is header_token.key and not bearer_token.other"
    );
    assert_eq!(steps[0]["condition"], Value::Null);
    let house = &steps[1]["condition"]["parts"];
    assert_eq!(house[0]["found"]["value"], "false");
    assert_eq!(house[0]["parts"][0]["found"]["value"], "(masked)");
    assert_eq!(house[1]["parts"][0]["text"], "http.headers['x-team'][0]");
    assert_eq!(house[1]["parts"][0]["found"]["value"], "'blue'");
    assert_eq!(steps[2]["outcome"], "not evaluable: denied");
    assert!(
        steps[2]["condition"]["found"]["error"]
            .as_str()
            .unwrap()
            .contains("deep"),
        "{steps}"
    );
    assert!(!run.out.contains("\"steps\""));
}

#[test]
fn a_reader_that_has_gone_ends_a_command_quietly() {
    let (_folder, policy) = policy();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let run = std::process::Command::new(env!("CARGO_BIN_EXE_tailkeep"))
        .args(["eval", &policy, "--agent", "tag:dev", "--http", "GET /x"])
        .stdout(writer)
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&run.stderr), "");
    assert_ne!(run.status.code(), Some(101));
}

#[test]
fn what_cannot_be_read_is_not_let_through_as_unmatched() {
    let folder = tempfile::tempdir().unwrap();
    let text = r#"
defaults { unmatched = "allow" }
endpoint "postgres" "db" {
  host     = "db.test:5432"
  database = "shop"
}
profile "dev" {
  tags      = ["tag:dev"]
  endpoints = [postgres.db]
}
rule "drops" {
  endpoint  = postgres.db
  condition = "sql.verb == 'drop' && sql.database == 'other'"
  verdict   = "deny"
}
"#;
    std::fs::write(folder.path().join("policy.hcl"), text).unwrap();
    let path = folder.path().to_str().unwrap();
    for (sql, code) in [("select 1", 0), ("SELEC 1", 1)] {
        let run = tailkeep(&["eval", path, "--agent", "tag:dev", "--sql", sql], b"");
        assert_eq!(run.code, code, "{sql}: {}{}", run.out, run.errors);
    }
}
