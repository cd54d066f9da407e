//! `replay` and `learn` on a log that the gateway's own writer wrote.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tailkeep::audit::Record;
use tailkeep::audit::log::Log;
use tailkeep::audit::replay::{self, Bounds};
use tailkeep::policy::{Policy, source};
use tailkeep::verdict::{Digest, Step};

use crate::{check, tailkeep as run};

const BASE: &str = r#"
endpoint "https" "api" { hosts = ["api.example.com"] }
endpoint "postgres" "db" { host = "db.example.com:5432" }
endpoint "mcp" "tools" { hosts = ["tools.example.com"] }
profile "ci" {
  peers     = ["build-7"]
  endpoints = [https.api, postgres.db, mcp.tools]
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

    fn log(&self) -> PathBuf {
        self.folder.path().join("audit.db")
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
        agent: None,
        profile: Some("ci".into()),
        endpoint: endpoint.into(),
        credential: None,
        summary: format!(
            "{} {}",
            facts["method"].as_str().unwrap_or("-"),
            facts["path"].as_str().unwrap_or("-")
        ),
        facts: facts.into(),
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

/// The same people by other terms, or a judge by other words, are another answer.
#[test]
fn a_replay_sees_each_field_of_those_who_are_asked() {
    let mut asked = get("/a");
    asked.cause = "approved";
    asked.approvers = vec![
        "human_approver.ops:ann".to_owned(),
        "llm_approver.judge:judge".to_owned(),
    ];
    let folder = Folder::new(&[asked]);
    let policy = |human: &str, judge: &str| {
        format!(
            "approver \"human_approver\" \"ops\" {{\n{human}\n}}\n\
             credential \"anthropic_manual_key\" \"key\" {{}}\n\
             policy \"words\" {{ text = \"Only reads.\" }}\n\
             policy \"others\" {{ text = \"Anything.\" }}\n\
             approver \"llm_approver\" \"judge\" {{\n  model = \"claude-haiku\"\n  credential = anthropic_manual_key.key\n{judge}\n}}\n\
             rule \"r\" {{\n  endpoint = https.api\n  approve = [human_approver.ops, llm_approver.judge]\n}}\n"
        )
    };
    let judge = "policy = policy.words";
    let ann = "approvers = [\"ann@example.com\", \"cid@example.com\"]";
    let old = folder.policy("old.hcl", &policy(ann, judge));
    let judged = |human: &str, judge: &str| {
        let new = folder.policy("new.hcl", &policy(human, judge));
        let paths = (new.to_str().unwrap(), old.to_str().unwrap());
        let (code, found) = json_of(&[
            "replay",
            paths.0,
            "--since",
            "1h",
            "--in-force",
            paths.1,
            "--format",
            "json",
        ]);
        let otherwise = found["changes"][0]["would"]["asked_otherwise"].clone();
        (code, otherwise)
    };
    assert_eq!(judged(ann, judge), (0, Value::Null));
    for (human, field) in [
        ("require_approvers = 2", "require_approvers"),
        ("separation = true", "separation"),
        ("timeout = 5", "timeout"),
        ("on_timeout = \"next\"", "on_timeout"),
        ("channel = \"#ops\"", "channel"),
        (
            "escalate_after = 60\nescalate_to = [\"bob@example.com\"]",
            "escalate_after, escalate_to",
        ),
        ("quiet_hours = \"22:00-07:00\"", "quiet_hours, quiet_zone"),
    ] {
        let human = format!("{ann}\n{human}");
        assert_eq!(
            judged(&human, judge),
            (1, json!([format!("human_approver.ops: {field}")])),
            "{human}"
        );
    }
    let eve = "approvers = [\"eve@example.com\"]";
    assert_eq!(judged(eve, judge), (1, json!(["human_approver.ops: approvers"])));
    assert_eq!(
        judged(ann, "policy = policy.others"),
        (1, json!(["llm_approver.judge: policy"]))
    );
}

/// So is who votes by a channel, how long people have where their approver does not say, and how often a rule lets pass.
#[test]
fn a_replay_sees_channels_time_outs_and_limits() {
    let mut asked = get("/a");
    asked.cause = "approved";
    asked.approvers = vec!["human_approver.ops:ann".to_owned()];
    let folder = Folder::new(&[asked, get("/b")]);
    const RULES: &str = r#"
defaults { human_timeout = "10m" }
channel "slack" "ops" {
  token          = env("T")
  signing_secret = env("S")
  room           = "C1"
  person {
    id   = "U1"
    name = "ann@example.com"
  }
}
channel "ntfy" "unused" {
  url   = "https://ntfy.example.com"
  topic = "t"
}
approver "human_approver" "ops" { channels = [slack.ops] }
rule "b" {
  endpoint  = https.api
  condition = "http.path == '/b'"
  limit {
    rate = "30/m"
  }
  verdict = "allow"
}
rule "r" {
  endpoint = https.api
  approve  = [human_approver.ops]
}
"#;
    let old = folder.policy("old.hcl", RULES);
    let judged = |from: &str, to: &str| {
        assert!(from.is_empty() || RULES.contains(from), "{from}");
        let new = folder.policy(
            "new.hcl",
            &RULES.replacen(from, to, usize::from(!from.is_empty())),
        );
        let (new, old) = (new.to_str().unwrap(), old.to_str().unwrap());
        let (code, found) = json_of(&[
            "replay",
            new,
            "--since",
            "1h",
            "--in-force",
            old,
            "--format",
            "json",
        ]);
        let of = |change: &Value| change["would"]["asked_otherwise"].clone();
        let changes = found["changes"].as_array().unwrap().iter().map(of);
        (code, Value::from_iter(changes))
    };
    assert_eq!(judged("", ""), (0, json!([])));
    for (from, to, said) in [
        ("\"U1\"", "\"U2\"", "slack.ops: person"),
        ("ann@", "eve@", "slack.ops: person"),
        ("\"C1\"", "\"C2\"", "slack.ops: where it is"),
        ("env(\"S\")", "env(\"S2\")", "slack.ops: secrets"),
        ("\"10m\"", "\"1h\"", "human_approver.ops: defaults.human_timeout"),
        (
            "30/m",
            "31/m",
            "the rule's limit: 30 in 60 s for an agent, then 31 in 60 s for an agent",
        ),
        (
            "  limit {\n    rate = \"30/m\"\n  }\n",
            "",
            "the rule's limit: 30 in 60 s for an agent, then none",
        ),
    ] {
        assert_eq!(judged(from, to), (1, json!([[said]])), "{to}");
    }
    // What nobody is asked by, and a time-out that nobody waits for.
    assert_eq!(judged("topic = \"t\"", "topic = \"u\"").0, 0);
}

/// Where somebody waits for it, the newest records are judged, and it is said how many are left out.
#[test]
fn the_newest_are_looked_at_as_far_as_there_are_bounds() {
    let mut records: Vec<Record> = (1..=8).map(|_| get("/a")).collect();
    for (at, one) in (1..).zip(&mut records) {
        one.at_us = at;
    }
    let folder = Folder::new(&records);
    let rule = "rule \"r\" {\n  endpoint = https.api\n  verdict = \"VERDICT\"\n}\n";
    let load = |verdict: &str| {
        let path = folder.policy("p.hcl", &rule.replace("VERDICT", verdict));
        Policy::load(source::read(&path).unwrap(), &source::read_file)
            .unwrap_or_else(|errors| panic!("{errors}"))
    };
    let (old, new) = (load("allow"), load("deny"));
    let looked = |since_us, records, time| {
        let bounds = Bounds { records, time };
        let found = replay::rehearse(&folder.log(), since_us, bounds, &old, &new).unwrap();
        let left_out = found.left_out.as_ref();
        let left_out = left_out.map(|out| (out.records, out.oldest, out.bound));
        let covered = replay::cover(&folder.log(), since_us, bounds, &new).unwrap();
        assert_eq!((covered.1, &covered.2), (found.judged, &found.left_out));
        // The one that is shown of a group is its oldest.
        (found.changes.first().map(|one| (one.count, one.record)), left_out)
    };
    let long = Duration::from_secs(3600);
    assert_eq!(looked(3, 6, long), (Some((6, 3)), None));
    assert_eq!(looked(3, 2, long), (Some((2, 7)), Some((4, Some(7), "records"))));
    assert_eq!(looked(3, 9, Duration::ZERO), (None, Some((6, None, "time"))));
    assert_eq!(looked(9, 9, Duration::ZERO), (None, None));
}

/// A statement's facts, as the log has them.
fn statement(verbs: Value, reads: Value, writes: Value, opaque: bool) -> Value {
    json!({
        "verbs": verbs, "reads": reads, "writes": writes, "objects": [], "functions": [], "columns": ["id"], "has_where": true,
        "opaque": opaque, "program": false, "server_file": false, "role_change": false, "locks": false, "unparseable": false,
    })
}

/// What is learned allows what was allowed by the policy itself, and nothing that differs from it.
#[test]
fn learn_allows_nothing_that_was_denied_approved_or_is_like_it() {
    let with = |key: &str, value: Value| {
        let mut facts = statement(json!(["update"]), json!(["a"]), json!(["a"]), false);
        facts[key] = value;
        record("postgres.db", facts, "allow", "rule")
    };
    let seen = with("has_where", json!(true));
    let mut approved = with("writes", json!(["b"]));
    approved.cause = "approved";
    let mut granted = with("writes", json!(["c"]));
    granted.cause = "granted";
    let mut refused = get("/a/2");
    (refused.verdict, refused.cause) = ("deny", "no_rule");
    let folder = Folder::new(&[
        seen,
        approved,
        granted,
        get("/a/1"),
        refused,
        get("/kept"),
        get("/asked"),
    ]);
    let denies = "rule \"no\" {\n  endpoint = https.api\n  condition = \"http.path == '/kept'\"\n  verdict = \"deny\"\n  \
                  priority = -7\n}\n";
    let policy = folder.policy("policy.hcl", denies);
    let learn = [
        "learn",
        policy.to_str().unwrap(),
        "--since",
        "1h",
        "--profile",
        "ci",
    ];
    let (code, found) = json_of(&[&learn[..], &["--format", "json"]].concat());
    assert_eq!(code, 0, "{found}");
    assert_eq!((&found["actions"], &found["not_learned"]), (&json!(3), &json!(1)));
    for rule in found["rules"].as_array().unwrap() {
        assert_eq!(rule["priority"], -8, "{rule}");
    }
    let learned = String::from_utf8(run(&learn).stdout).unwrap();
    // The number that was denied keeps the others from standing for it.
    assert!(learned.contains("^(?:/a/1|/asked)$"), "{learned}");

    // The same rules, over a log of what was seen and what is like it.
    let others = Folder::new(&[
        with("has_where", json!(true)),
        with("has_where", json!(false)),
        with("writes", json!(["b"])),
        with("writes", json!([])),
        with("reads", json!(["secret"])),
        with("columns", json!(["password"])),
        with("verbs", json!(["delete"])),
        with("verbs", json!([])),
        with("objects", json!(["role"])),
        with("functions", json!(["pg_sleep"])),
        with("program", json!(true)),
        with("server_file", json!(true)),
        with("role_change", json!(true)),
        with("opaque", json!(true)),
        get("/a/1"),
        get("/a/3"),
        get("/kept"),
    ]);
    let (_, found) = replayed(&others.policy("both.hcl", &format!("{denies}{learned}")));
    assert_eq!(
        (&found["judged"], &found["changed"]),
        (&json!(17), &json!(15)),
        "{found}"
    );
}

/// What other facts leave open is learned to the letter, or not at all.
#[test]
fn learn_does_not_take_a_part_for_the_whole() {
    let sql = |verb: &str, text: &str| {
        let mut facts = statement(json!([verb]), json!([]), json!([]), false);
        facts["statement"] = json!(text);
        record("postgres.db", facts, "allow", "rule")
    };
    let post = |path: &str, kind: Value| {
        let mut facts = json!({"method": "post", "path": path});
        if !kind.is_null() {
            facts["graphql.kind"] = kind;
        }
        record("https.api", facts, "allow", "rule")
    };
    let mut keyed = get("/keyed");
    keyed.endpoint = "https.keyed".into();
    let learnable = [
        sql("set", "set statement_timeout = 1"),
        sql("begin", "begin"),
        post("/plain", json!("")),
        get("/a\u{202e}b"),
    ];
    let left = [
        sql("set", "set password_encryption = '(masked)'"),
        post("/graphql/", Value::Null),
        post("/api/GraphQL/v1", Value::Null),
        post("/any", json!({"unknown": "truncated"})),
        keyed,
    ];
    let folder = Folder::new(&[&learnable[..], &left].concat());
    let keyed = "endpoint \"https\" \"keyed\" { hosts = [\"keyed.example.com\"] }\n\
                 credential \"bearer_token\" \"key\" { endpoint = https.keyed }\n";
    let path = folder.policy("policy.hcl", keyed);
    // The profile holds it, so a rule without a credential would take it in.
    let text = std::fs::read_to_string(&path).unwrap();
    let held = text.replace("peers     =", "credentials = [bearer_token.key]\n  peers     =");
    std::fs::write(&path, held).unwrap();
    let learn = [
        "learn",
        path.to_str().unwrap(),
        "--since",
        "1h",
        "--profile",
        "ci",
    ];
    let (code, found) = json_of(&[&learn[..], &["--format", "json"]].concat());
    assert_eq!(code, 0, "{found}");
    assert_eq!(
        (&found["actions"], &found["not_learned"]),
        (&json!(4), &json!(5)),
        "{found}"
    );
    let learned = String::from_utf8(run(&learn).stdout).unwrap();
    assert!(
        learned.is_ascii() && learned.contains("/a\\\\U0000202eb"),
        "{learned}"
    );

    let others = Folder::new(
        &[
            &learnable[..],
            &[sql("set", "set role postgres"), sql("begin", "begin read write")],
        ]
        .concat(),
    );
    let (_, found) = replayed(&others.policy("both.hcl", &learned));
    assert_eq!(
        (&found["judged"], &found["changed"]),
        (&json!(6), &json!(1)),
        "{found}"
    );
}

#[test]
fn learn_writes_rules_that_cover_what_was_seen() {
    let sql = |verbs: Value, tables: Value, opaque: bool| {
        record(
            "postgres.db",
            statement(verbs, tables, json!([]), opaque),
            "allow",
            "unmatched",
        )
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
            "agent.profile == 'ci' && sql.verbs.all(x, x in ['select']) && 'select' in sql.verbs \
             && sql.reads.all(x, x in ['lines', 'orders']) && sql.columns.all(x, x in ['id']) && sql.writes.all(x, x in []) && sql.objects.all(x, x in []) \
             && sql.functions.all(x, x in []) && sql.has_where && !sql.opaque && !sql.program && !sql.server_file \
             && !sql.role_change && !sql.locks && !sql.unparseable",
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

/// A record of a message as the gateway reads it.
fn message(body: &Value, verdict: &'static str, cause: &'static str) -> Record {
    let (parts, ()) = http::Request::post("/mcp").body(()).unwrap().into_parts();
    let body = body.to_string();
    let read = tailkeep::facts::mcp::read(
        &parts,
        tailkeep::facts::http::HeldBody::Whole(body.as_bytes()),
        1 << 20,
    );
    let one = read.unwrap().messages.remove(0);
    let facts = tailkeep::facts::Facts::Mcp(Box::new(one));
    record(
        "mcp.tools",
        facts.to_json(&tailkeep::facts::Mask::default()),
        verdict,
        cause,
    )
}

fn call(tool: &str, arguments: Value) -> Value {
    json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": tool, "arguments": arguments}})
}

fn messages() -> Vec<Record> {
    let allow = |body: Value| message(&body, "allow", "rule");
    let plain = |method: &str| json!({"jsonrpc": "2.0", "id": 1, "method": method});
    vec![
        allow(plain("initialize")),
        allow(plain("tools/list")),
        allow(json!({"jsonrpc": "2.0", "method": "notifications/initialized"})),
        allow(call("echo", json!({"text": "a"}))),
        allow(call("add", json!({"a": 1}))),
        allow(call("echo", json!({"text": "secret"}))),
        allow(json!({"jsonrpc": "2.0", "id": 2, "method": "resources/read", "params": {"uri": "file:///a"}})),
        message(&call("delete", json!({})), "deny", "no_rule"),
    ]
}

fn mcp_rule(condition: &str, verdict: &str) -> String {
    rule(condition, verdict).replace("https.api", "mcp.tools")
}

#[test]
fn messages_of_mcp_are_judged_anew() {
    let folder = Folder::new(&messages());
    let rules = mcp_rule(
        "mcp.kind != 'request' || (mcp.tool != 'delete' && !(mcp.tool == 'echo' && mcp.arguments.text == 'secret'))",
        "allow",
    );
    let (code, found) = replayed(&folder.policy("new.hcl", &rules));
    assert_eq!(
        (code, &found["judged"], &found["changed"]),
        (1, &json!(8), &json!(1)),
        "{found}"
    );
    assert_eq!(found["changes"][0]["record"], 6);
    assert_eq!(
        found["changes"][0]["would"],
        json!({"verdict": "deny", "rule": null})
    );
    let (code, found) = replayed(&folder.policy("all.hcl", &mcp_rule("mcp.method != ''", "allow")));
    assert_eq!((code, &found["changed"]), (1, &json!(1)), "{found}");
    assert_eq!(found["changes"][0]["would"]["verdict"], "allow");
    assert_eq!(
        (&found["not_replayed"], &found["assumed"]),
        (&json!({}), &json!(0))
    );
}

/// What is learned of messages allows what was seen and no other tool; of GraphQL, no other operation.
#[test]
fn learn_covers_messages_and_operations() {
    let graphql = |kind: &str, fields: Value| {
        let facts = json!({
            "method": "post", "path": "/graphql", "graphql.kind": kind, "graphql.fields": fields,
        });
        record("https.api", facts, "allow", "rule")
    };
    let mut records = messages();
    records.push(graphql("query", json!(["viewer"])));
    records.push(graphql("query", json!(["viewer", "node"])));
    // Without what it does, it would be learned as any POST of that path.
    records.push(record(
        "https.api",
        json!({"method": "post", "path": "/graphql"}),
        "allow",
        "rule",
    ));
    let folder = Folder::new(&records);
    let policy = folder.policy("policy.hcl", "");
    let learn = [
        "learn",
        policy.to_str().unwrap(),
        "--since",
        "1h",
        "--profile",
        "ci",
    ];
    let (code, found) = json_of(&[&learn[..], &["--format", "json"]].concat());
    assert_eq!(code, 0, "{found}");
    let own = |endpoint: &str| -> Vec<String> {
        let rules = found["rules"].as_array().unwrap().iter();
        rules
            .filter(|rule| rule["endpoint"] == endpoint)
            .map(|rule| {
                let condition = rule["condition"].as_str().unwrap();
                condition
                    .strip_prefix("agent.profile == 'ci' && ")
                    .unwrap()
                    .to_owned()
            })
            .collect()
    };
    assert_eq!(
        own("mcp.tools"),
        [
            "mcp.kind == 'notification' && mcp.method in ['notifications/initialized']",
            "mcp.kind == 'request' && mcp.method in ['initialize', 'tools/list']",
            "mcp.kind == 'request' && mcp.method == 'resources/read' && mcp.resource in ['file:///a']",
            "mcp.kind == 'request' && mcp.method == 'tools/call' && mcp.tool in ['add', 'echo']",
        ]
    );
    assert_eq!(
        own("https.api"),
        [
            "http.path == '/graphql' && http.graphql.kind == 'query' && http.graphql.fields.all(f, f in ['node', 'viewer'])"
        ]
    );
    assert_eq!((&found["actions"], &found["not_learned"]), (&json!(9), &json!(1)));
    // Beside the policy it allows all of that, and still denies the tool that was denied.
    let learned = String::from_utf8(run(&learn).stdout).unwrap();
    let (_, found) = replayed(&folder.policy("both.hcl", &learned));
    assert_eq!(
        (&found["judged"], &found["changed"]),
        (&json!(10), &json!(0)),
        "{found}"
    );
}

/// Whose an action of a tailnet's node is, the new policy says, by the tags that are kept.
#[test]
fn the_profile_of_a_node_is_chosen_anew() {
    let node = |login: Option<&str>, agent: Option<Value>| Record {
        transport: "tailnet",
        login: login.map(str::to_owned),
        agent,
        ..get("/a")
    };
    let known = |tags: Value, guest: bool| {
        Some(json!({"tags": tags, "grants": [], "caps": ["x/y"], "is_guest": guest}))
    };
    let ann = Some("ann@example.com");
    let folder = Folder::new(&[
        node(None, known(json!(["tag:ci"]), false)),
        node(None, known(json!(["tag:old"]), false)),
        node(ann, known(json!([]), false)),
        node(ann, known(json!([]), true)),
        node(None, None),
    ]);
    let policy = |name: &str, profiles: &str, rules: &str| {
        let path = folder.policy(name, rules);
        let text = std::fs::read_to_string(&path).unwrap();
        let text = text.replace("  peers     = [\"build-7\"]\n", "  tags = [\"tag:ci\"]\n") + profiles;
        std::fs::write(&path, text).unwrap();
        path
    };
    // The guest is meant by no wildcard, tag:old by nobody; what was not kept is judged as recorded.
    let other = "profile \"dev\" {\n  logins = [\"*@example.com\"]\n  endpoints = [https.api]\n}\n";
    let rules = "rule \"r\" {\n  endpoint = https.api\n  condition = \"agent.profile == 'ci' && 'x/y' in agent.caps\"\n  \
                 verdict = \"allow\"\n}\nrule \"dev\" {\n  endpoint = https.api\n  condition = \"agent.profile == 'dev' && \
                 agent.tags == []\"\n  verdict = \"deny\"\n}\n";
    let path = policy("new.hcl", "", rules);
    let (code, found) = replayed(&path);
    assert_eq!(code, 1);
    assert_eq!(
        (&found["judged"], &found["changed"]),
        (&json!(4), &json!(3)),
        "{found}"
    );
    assert_eq!(found["not_replayed"], json!({"agent.caps was not recorded": 1}));
    let (_, found) = replayed(&policy("two.hcl", other, rules));
    let denied: Vec<&Value> = found["changes"].as_array().unwrap().iter().collect();
    assert_eq!(
        denied
            .iter()
            .map(|one| one["count"].as_u64().unwrap())
            .sum::<u64>(),
        3,
        "{found}"
    );
    assert!(denied.iter().any(|one| one["would"]["rule"] == "dev"), "{found}");
    assert!(denied.iter().any(|one| one["would"]["rule"].is_null()), "{found}");
    let (_, found) = replayed(&policy(
        "all.hcl",
        other,
        "rule \"r\" {\n  endpoint = https.api\n  verdict = \"allow\"\n}\n",
    ));
    assert_eq!(
        (&found["judged"], &found["changed"], &found["assumed"]),
        (&json!(5), &json!(2), &json!(1)),
        "{found}"
    );
    let said = "1 × judged by the profile that was recorded";
    check(
        &["replay", path.to_str().unwrap(), "--since", "1h"],
        1,
        "agent.caps was not recorded",
    );
    check(
        &[
            "replay",
            folder.folder.path().join("all.hcl").to_str().unwrap(),
            "--since",
            "1h",
        ],
        1,
        said,
    );
}
