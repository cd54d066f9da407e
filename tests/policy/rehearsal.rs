//! `replay` and `learn` on a log that the gateway's own writer wrote.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Value, json};
use tailkeep::audit::Record;
use tailkeep::audit::log::Log;
use tailkeep::verdict::{Digest, Step};

use crate::{check, tailkeep as run};

const BASE: &str = r#"
endpoint "https" "api" { hosts = ["api.example.com"] }
endpoint "postgres" "db" { host = "db.example.com:5432" }
profile "ci" {
  peers     = ["build-7"]
  endpoints = [https.api, postgres.db]
}
"#;

struct Folder {
    folder: tempfile::TempDir,
}

impl Folder {
    fn new(records: &[Record]) -> Folder {
        let folder = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let log = Log::open(&folder.path().join("audit.db")).unwrap();
            for record in records {
                log.append(record.clone()).await.unwrap();
            }
            log.flush().await.unwrap();
        });
        Folder { folder }
    }

    fn policy(&self, name: &str, rules: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        let state = format!("gateway {{ state_dir = \"{}\" }}\n", self.folder.path().display());
        std::fs::write(&path, format!("{state}{BASE}{rules}")).unwrap();
        path
    }
}

fn record(endpoint: &str, facts: Value, verdict: &'static str, cause: &'static str) -> Record {
    Record {
        at_us: chrono::Utc::now().timestamp_micros(),
        step: Step::Request,
        transport: "wireguard",
        node: "build-7".to_owned(),
        login: None,
        address: "10.55.0.2".to_owned(),
        profile: Some("ci".into()),
        endpoint: endpoint.into(),
        credential: None,
        summary: format!(
            "{} {}",
            facts["method"].as_str().unwrap_or("-"),
            facts["path"].as_str().unwrap_or("-")
        ),
        facts,
        digest: Digest::of(b""),
        verdict,
        cause,
        rule: Some(Arc::from("ci/some")),
        reason: String::new(),
        detail: None,
        approvers: Vec::new(),
        shadow: Vec::new(),
        judge_us: 1,
        wait_us: 0,
        policy: 7,
    }
}

fn get(path: &str) -> Record {
    record(
        "https.api",
        json!({"method": "get", "path": path}),
        "allow",
        "rule",
    )
}

fn rule(condition: &str, verdict: &str) -> String {
    format!(
        "rule \"r\" {{\n  endpoint = https.api\n  condition = \"{condition}\"\n  verdict = \"{verdict}\"\n}}\n"
    )
}

fn json_of(args: &[&str]) -> (i32, Value) {
    let output = run(args);
    let text = String::from_utf8(output.stdout).unwrap();
    (
        output.status.code().unwrap(),
        serde_json::from_str(&text).unwrap_or_else(|_| panic!("{text}")),
    )
}

fn replayed(path: &Path) -> (i32, Value) {
    json_of(&[
        "replay",
        path.to_str().unwrap(),
        "--since",
        "1h",
        "--format",
        "json",
    ])
}

#[test]
fn replay_groups_what_would_change_and_counts_what_cannot_be_told() {
    let mut old = get("/old");
    old.at_us -= 7_200_000_000;
    let folder = Folder::new(&[
        old,
        get("/a"),
        get("/a"),
        get("/b"),
        record("https.api", json!({"method": "get"}), "allow", "rule"),
        record(
            "https.api",
            json!({"method": "put", "path": "/a"}),
            "deny",
            "no_rule",
        ),
        record(
            "https.api",
            json!({"method": "get", "path": "/a"}),
            "deny",
            "audit_down",
        ),
    ]);
    let path = folder.policy(
        "new.hcl",
        &rule("http.method == 'GET' && http.path == '/b'", "allow"),
    );
    let (code, found) = replayed(&path);
    assert_eq!(code, 1, "{found}");
    assert_eq!((&found["judged"], &found["changed"]), (&json!(4), &json!(2)));
    assert_eq!(found["changes"].as_array().unwrap().len(), 1);
    let change = &found["changes"][0];
    assert_eq!(change["count"], 2);
    assert_eq!(change["was"], json!({"verdict": "allow", "rule": "ci/some"}));
    assert_eq!(change["would"], json!({"verdict": "deny", "rule": null}));
    assert_eq!(change["summary"], "get /a");
    assert_eq!(
        found["not_replayed"],
        json!({"http.path was not recorded": 1, "no verdict of a policy: audit_down": 1})
    );
    // Where the missing fact does not matter, there is a verdict.
    let path = folder.policy(
        "same.hcl",
        &rule("http.method == 'GET' && (http.path != '' || true)", "allow"),
    );
    let (code, found) = replayed(&path);
    assert_eq!(
        (code, &found["judged"], &found["changed"]),
        (0, &json!(5), &json!(0)),
        "{found}"
    );
    check(
        &[
            "replay",
            folder.policy("none.hcl", "").to_str().unwrap(),
            "--since",
            "1h",
        ],
        1,
        "4 × allow by ci/some → deny (no rule)  https.api, ci  such as #2 get /a",
    );
    check(
        &["replay", path.to_str().unwrap(), "--since", "soon"],
        2,
        "a number with s, m, h or d",
    );
    check(
        &[
            "replay",
            path.to_str().unwrap(),
            "--since",
            "1h",
            "--log",
            "/nonexistent/audit.db",
        ],
        2,
        "/nonexistent/audit.db",
    );
}

#[test]
fn learn_writes_rules_that_cover_what_was_seen() {
    let sql = |verbs: Value, tables: Value, opaque: bool| {
        let facts = json!({"verbs": verbs, "tables": tables, "functions": [], "opaque": opaque});
        record("postgres.db", facts, "allow", "unmatched")
    };
    let folder = Folder::new(&[
        get("/repos/1"),
        get("/repos/22"),
        record(
            "https.api",
            json!({"method": "post", "path": "/repos"}),
            "deny",
            "no_rule",
        ),
        record("https.api", json!({"method": "get"}), "allow", "rule"),
        sql(json!(["select"]), json!(["orders"]), false),
        sql(json!(["select"]), json!(["lines"]), false),
        sql(json!(["select"]), json!([]), true),
    ]);
    let path = folder.policy("policy.hcl", "");
    let path = path.to_str().unwrap();
    let learn = [
        "learn",
        path,
        "--since",
        "1h",
        "--profile",
        "ci",
        "--format",
        "json",
    ];
    let (code, found) = json_of(&learn);
    assert_eq!(code, 0);
    let conditions: Vec<&str> = found["rules"]
        .as_array()
        .unwrap()
        .iter()
        .map(|rule| rule["condition"].as_str().unwrap())
        .collect();
    assert_eq!(
        conditions,
        [
            r"agent.profile == 'ci' && http.method in ['get'] && http.path.matches('^(?:/repos/[0-9]+)$')",
            "agent.profile == 'ci' && sql.verbs.all(v, v in ['select']) && sql.tables.all(t, t in ['lines', 'orders']) \
             && sql.functions.all(f, f in []) && !sql.opaque",
        ]
    );
    assert_eq!((&found["actions"], &found["not_learned"]), (&json!(4), &json!(2)));
    let (_, found) = json_of(&[&learn[..], &["--denied"]].concat());
    assert_eq!(found["rules"].as_array().unwrap().len(), 3);
    // What is printed stands beside the policy, and denies of what was allowed the opaque one alone.
    let output = run(&learn[..6]);
    let learned = String::from_utf8(output.stdout).unwrap();
    let path = folder.policy("both.hcl", &learned);
    let (code, found) = replayed(&path);
    assert_eq!(
        (code, &found["changed"], &found["changes"][0]["record"]),
        (1, &json!(1), &json!(7)),
        "{found}"
    );
    check(
        &[
            "learn",
            path.to_str().unwrap(),
            "--since",
            "1h",
            "--profile",
            "none",
        ],
        2,
        "there is no profile `none`",
    );
}

#[test]
fn an_accepted_policy_is_noted_beside_the_log() {
    let folder = Folder::new(&[get("/a")]);
    let path = folder.policy("new.hcl", "");
    let accepted = folder.folder.path().join("reload-accepted");
    assert!(!accepted.exists());
    check(
        &["replay", path.to_str().unwrap(), "--since", "1h", "--accept"],
        1,
        "1 would change",
    );
    let (_, valid) = json_of(&["validate", path.to_str().unwrap(), "--format", "json"]);
    assert_eq!(
        std::fs::read_to_string(accepted).unwrap().trim(),
        valid["version"].as_str().unwrap()
    );
}
