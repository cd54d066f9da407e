//! `tailkeep test`.

use std::path::Path;

use serde_json::{Value, json};

use crate::{Run, policy, tailkeep};

fn write(folder: &Path, name: &str, fixture: &Value) {
    std::fs::create_dir_all(folder).unwrap();
    std::fs::write(folder.join(name), fixture.to_string()).unwrap();
}

fn fixture(endpoint: &str, verdict: &str, rule: &str, action: Value) -> Value {
    json!({ "match": { "endpoint": endpoint, "verdict": verdict, "rule": rule }, "action": action })
}

/// Replays one fixture.
fn replay(fixture: &Value) -> Run {
    let (folder, policy) = policy();
    let file = folder.path().join("one.json");
    std::fs::write(&file, fixture.to_string()).unwrap();
    tailkeep(&["test", &policy, file.to_str().unwrap()], b"")
}

/// A fixture that holds; with another verdict or another rule it is a drift.
#[track_caller]
fn holds(endpoint: &str, verdict: &str, rule: &str, action: Value) {
    let run = replay(&fixture(endpoint, verdict, rule, action.clone()));
    assert_eq!(run.code, 0, "{action}: {}{}", run.out, run.errors);
    assert!(
        run.out.ends_with("\n1 actions checked, 0 mismatches\n"),
        "{}",
        run.out
    );
    let other = if verdict == "deny" { "allow" } else { "deny" };
    let run = replay(&fixture(endpoint, other, rule, action.clone()));
    assert_eq!(run.code, 1, "{action}: {}", run.out);
    assert!(
        run.out.contains(&format!("got {verdict} by `{rule}`")),
        "{}",
        run.out
    );
    assert_eq!(replay(&fixture(endpoint, verdict, "elsewhere", action)).code, 1);
}

#[track_caller]
fn unreadable(fixture: &Value, why: &str) {
    let run = replay(fixture);
    assert_eq!(run.code, 2, "{fixture}: {}", run.out);
    assert!(run.out.contains(why), "{fixture}: {}", run.out);
}

#[test]
fn the_published_format() {
    let host = "10.0.0.7";
    let k8s = |verb: &str, resource: &str| json!({ "host": host, "k8s": { "verb": verb, "resource": resource, "namespace": "default", "name": "x" } });
    holds("prod", "deny", "no-secrets", k8s("get", "secrets"));
    holds("prod", "allow", "dev-reads", k8s("get", "pods"));
    holds("", "allow", "dev-reads", k8s("list", "pods"));
    holds("prod", "deny", "", k8s("delete", "pods"));
    let forced = json!({ "host": host, "k8s": { "verb": "delete", "params": { "force": "1" } } });
    holds("prod", "approve", "forced", forced);
    let http = |page: &str| {
        json!({ "host": "api.test", "peer_ip": "100.64.0.7",
        "http": { "method": "GET", "path": "/x", "query": { "page": [page] }, "headers": { "Authorization": ["***"] } } })
    };
    holds("", "allow", "api-reads", http("2"));
    holds("api", "deny", "", http("3"));
    let sql = |statement: &str| json!({ "host": "orders.test:5432", "credential": "login", "sql": { "statement": statement } });
    holds(
        "orders",
        "allow",
        "orders-reads",
        sql("SELECT id FROM items WHERE id = 1"),
    );
    holds("", "deny", "", sql("SELECT * FROM cards"));
    holds(
        "",
        "approve",
        "orders-deletes",
        sql("DELETE FROM items WHERE id = 1"),
    );
    // The strictest of several, wherever it stands.
    holds(
        "",
        "approve",
        "orders-deletes",
        sql("DELETE FROM items WHERE id = 1; SELECT 1"),
    );
    holds("", "deny", "", sql("SELECT 1; DROP TABLE items; SELECT 2"));
    // What is recorded goes before what the text says.
    for (field, value) in [
        ("verb", json!("update")),
        ("tables", json!(["cards"])),
        ("function", json!("pg_sleep")),
    ] {
        let mut action = sql("SELECT 1");
        action["sql"][field] = value;
        holds("", "deny", "", action);
    }
}

/// Recorded tables are read or written as the text says, and what it does not name is written unless it only reads.
#[test]
fn recorded_tables_are_what_is_read_and_written() {
    let (folder, policy) = policy();
    let rules = r#"
rule "logs" {
  endpoint  = postgres.orders
  condition = "sql.verb == 'insert' && sql.tables == ['log'] && sql.writes == ['log'] && size(sql.reads) == 0"
  verdict   = "allow"
}
rule "others" {
  endpoint  = postgres.orders
  condition = "sql.verb == 'insert' && sql.writes == ['other'] && sql.reads == ['other']"
  approve   = [human_approver.ops]
}
rule "explains" {
  endpoint  = postgres.orders
  condition = "sql.verb == 'explain' && sql.reads == ['cards'] && size(sql.writes) == 0"
  verdict   = "allow"
}
"#;
    let mut file = std::fs::OpenOptions::new().append(true).open(&policy).unwrap();
    std::io::Write::write_all(&mut file, rules.as_bytes()).unwrap();
    for (statement, table, verdict, rule) in [
        ("INSERT INTO log VALUES (1)", "log", "allow", "logs"),
        ("INSERT INTO log VALUES (1)", "other", "approve", "others"),
        ("EXPLAIN SELECT id FROM items", "cards", "allow", "explains"),
    ] {
        let sql = json!({ "statement": statement, "tables": [table] });
        let action = json!({ "host": "orders.test:5432", "credential": "login", "sql": sql });
        let one = folder.path().join("one.json");
        std::fs::write(&one, fixture("orders", verdict, rule, action).to_string()).unwrap();
        let run = tailkeep(&["test", &policy, one.to_str().unwrap()], b"");
        assert_eq!(run.code, 0, "{statement}: {}{}", run.out, run.errors);
    }
}

#[test]
fn ours_with_agents_and_whole_requests() {
    let pods = json!({ "verb": "get", "resource": "pods" });
    for (agent, verdict, rule) in [
        (json!({ "profile": "dev" }), "allow", "dev-reads"),
        (json!({ "tags": ["tag:dev"] }), "allow", "dev-reads"),
        (json!({ "tags": ["tag:other"] }), "deny", ""),
    ] {
        holds(
            "kubernetes.prod",
            verdict,
            rule,
            json!({ "agent": agent, "k8s": pods }),
        );
    }
    let request = |method: &str, path: &str| json!({ "k8s": { "method": method, "path": path } });
    holds(
        "prod",
        "deny",
        "no-secrets",
        request("GET", "/api/v1/watch/secrets"),
    );
    holds("prod", "allow", "dev-reads", request("GET", "/api/v1/pods"));
    holds(
        "prod",
        "approve",
        "forced",
        request("DELETE", "/api/v1/namespaces/a/pods/p?force=1"),
    );
}

#[test]
fn what_cannot_be_read_exits_2() {
    let pods = json!({ "k8s": { "verb": "get", "resource": "pods" } });
    let sql = json!({ "sql": { "statement": "SELECT 1" } });
    unreadable(
        &json!({ "match": { "verdict": "allow" }, "action": pods }),
        "action.host",
    );
    unreadable(
        &fixture("nowhere", "allow", "", pods.clone()),
        "no endpoint `nowhere`",
    );
    unreadable(&fixture("prod", "passthrough", "", pods.clone()), "passthrough");
    unreadable(
        &fixture("prod", "allow", "", sql.clone()),
        "kubernetes.prod does not take",
    );
    unreadable(
        &fixture("prod", "allow", "", json!({})),
        "one of `http`, `k8s` and `sql`",
    );
    let both = json!({ "k8s": pods["k8s"], "sql": sql["sql"] });
    unreadable(
        &fixture("prod", "allow", "", both),
        "one of `http`, `k8s` and `sql`",
    );
    let typo = json!({ "k8s": { "verbs": "get" } });
    unreadable(&fixture("prod", "allow", "", typo), "unknown field `verbs`");
    let stranger = json!({ "agent": { "tags": ["tag:x"] }, "k8s": pods["k8s"] });
    unreadable(&fixture("prod", "allow", "", stranger), "not replayed");
    let twice = json!({ "http": { "body": "a", "body_b64": "YQ==" } });
    unreadable(&fixture("api", "allow", "", twice), "`body` and `body_b64`");
    unreadable(&json!([]), "not replayed");

    let (folder, policy) = policy();
    assert_eq!(tailkeep(&["test", &policy, "/nowhere"], b"").code, 2);
    assert_eq!(tailkeep(&["test", "/nowhere", &policy], b"").code, 2);
    let empty = folder.path().join("empty");
    std::fs::create_dir(&empty).unwrap();
    assert_eq!(tailkeep(&["test", &policy, empty.to_str().unwrap()], b"").code, 2);
}

/// A fixture is no way round what the gateway refuses before it asks the rules.
#[test]
fn what_never_reaches_the_rules_is_denied() {
    let pods = |headers: Value| json!({ "k8s": { "path": "/api/v1/pods", "headers": headers } });
    holds("prod", "allow", "dev-reads", pods(json!({ "Accept": ["*/*"] })));
    holds("prod", "deny", "", pods(json!({ "Impersonate-User": ["root"] })));
    holds("prod", "deny", "", pods(json!({ "X_Team": ["a"] })));
    holds("prod", "deny", "", json!({ "k8s": { "path": "/api/v1//pods" } }));
    let http = |http: Value| json!({ "host": "api.test", "http": http });
    let page = json!({ "page": ["2"] });
    holds("api", "allow", "api-reads", http(json!({ "query": page })));
    let other = json!({ "query": page, "headers": { "Host": ["other.test"] } });
    holds("api", "deny", "", http(other));
    let overridden = json!({ "query": page, "headers": { "X-HTTP-Method-Override": ["DELETE"] } });
    holds("api", "deny", "", http(overridden));
    let elsewhere = json!({ "host": "other.test", "http": { "query": page } });
    holds("api", "deny", "", elsewhere);
    let encoding = json!({ "sql": { "statement": "SELECT 1; SET client_encoding TO 'SJIS'" } });
    holds("orders", "deny", "", encoding);
}

#[test]
fn messages_of_mcp_are_requests() {
    let call = |tool: &str| json!({ "jsonrpc": "2.0", "id": tool, "method": "tools/call", "params": { "name": tool } });
    let post = |path: &str, body: Value| json!({ "http": { "method": "POST", "path": path, "body": body.to_string() } });
    holds("tools", "allow", "search", post("/mcp", call("search")));
    holds("tools", "deny", "", post("/mcp", call("delete")));
    let both = json!([call("search"), call("delete")]);
    holds("tools", "deny", "", post("/mcp", both));
    let ours = json!([call("search"), { "jsonrpc": "2.0", "id": 2, "method": "ping" }]);
    holds("tools", "allow", "search", post("/mcp", ours));
    holds("tools", "deny", "", post("/other", call("search")));
    holds(
        "tools",
        "deny",
        "",
        post("/mcp", json!({ "method": "tools/call" })),
    );
    let mut headed = post("/mcp", call("search"));
    headed["http"]["headers"] = json!({ "Mcp-Name": ["delete"] });
    holds("tools", "deny", "", headed);
}

#[test]
fn a_folder_says_each_drift_and_counts() {
    let (folder, policy) = policy();
    let fixtures = folder.path().join("fixtures");
    let pods = json!({ "k8s": { "verb": "get", "resource": "pods" } });
    write(
        &fixtures,
        "a.json",
        &fixture("prod", "allow", "dev-reads", pods.clone()),
    );
    write(
        &fixtures,
        "b.json",
        &fixture("prod", "deny", "no-secrets", pods.clone()),
    );
    write(&fixtures, "ignored.txt", &json!(1));
    let path = fixtures.to_str().unwrap();
    let run = tailkeep(&["test", &policy, path], b"");
    assert_eq!(run.code, 1);
    assert!(
        run.out
            .contains("b.json: want deny by `no-secrets`, got allow by `dev-reads`"),
        "{}",
        run.out
    );
    assert!(
        run.out.ends_with("2 actions checked, 1 mismatches\n"),
        "{}",
        run.out
    );
    let run = tailkeep(&["test", &policy, path, "--format", "json"], b"");
    let line: Value = serde_json::from_str(run.out.trim()).unwrap();
    assert!(line["fixture"].as_str().unwrap().ends_with("b.json"));
    // A drift and an unreadable one: the unreadable one is the worse news.
    write(&fixtures, "c.json", &json!(1));
    let run = tailkeep(&["test", &policy, path], b"");
    assert_eq!(run.code, 2);
    assert!(
        run.out
            .ends_with("2 actions checked, 1 mismatches, 1 not replayed\n"),
        "{}",
        run.out
    );
}

/// The verdict that each fixture has now is written into it, and nothing else of the file changes.
#[test]
fn an_update_writes_the_verdicts_alone() {
    let (folder, policy) = policy();
    let fixtures = folder.path().join("fixtures");
    std::fs::create_dir(&fixtures).unwrap();
    let list = r#"// Kubernetes, as of now
[
  { "name": "secrets", /* was allowed once */
    "match": { "rule": "dev-reads",   "verdict": "allow", "endpoint": "prod" },
    "action": { "k8s": {"verb": "get", "resource": "secrets"} } },
  {"match":{"verdict":"allow","rule":"dev-reads","endpoint":"prod","reason":"as it was"},"action":{"k8s":{"verb":"get","resource":"pods"}}},
  {"match":{"verdict":"deny","endpoint":"prod","reason":"no rule allows this"},"action":{"k8s":{"verb":"delete","params":{"force":"1"}}}}
]
"#;
    let file = fixtures.join("list.json");
    std::fs::write(&file, list).unwrap();
    let path = fixtures.to_str().unwrap();
    let run = tailkeep(&["test", &policy, path], b"");
    assert_eq!(run.code, 1, "{}{}", run.out, run.errors);
    for drift in [
        "list.json[0] (secrets): want allow by `dev-reads`, got deny by `no-secrets`",
        "list.json[2]: want deny by ``, got approve by `forced`",
        "3 actions checked, 2 mismatches\n",
    ] {
        assert!(run.out.contains(drift), "{}", run.out);
    }
    assert_eq!(std::fs::read_to_string(&file).unwrap(), list);
    let run = tailkeep(&["test", &policy, path, "--update"], b"");
    assert_eq!(run.code, 0, "{}{}", run.out, run.errors);
    assert!(
        run.out.ends_with("3 actions checked, 0 mismatches, 2 updated\n"),
        "{}",
        run.out
    );
    let wanted = list
        .replace(
            r#"{ "rule": "dev-reads",   "verdict": "allow","#,
            r#"{ "rule": "no-secrets",   "verdict": "deny","#,
        )
        .replace(
            r#""verdict":"deny","endpoint":"prod","reason":"no rule allows this""#,
            r#""verdict":"approve", "rule": "forced","endpoint":"prod","reason":"this action needs approval""#,
        );
    assert_eq!(std::fs::read_to_string(&file).unwrap(), wanted);
    assert_eq!(std::fs::read_dir(&fixtures).unwrap().count(), 1);
    assert_eq!(tailkeep(&["test", &policy, path], b"").code, 0);
    // One that cannot be read is left alone, the others are written.
    let broken = wanted
        .replace("\"deny\"", "\"allow\"")
        .replace("\"verb\": \"get\"", "\"verbs\": 1");
    std::fs::write(&file, &broken).unwrap();
    let run = tailkeep(&["test", &policy, path, "--update"], b"");
    assert_eq!(run.code, 2, "{}{}", run.out, run.errors);
    assert_eq!(std::fs::read_to_string(&file).unwrap(), broken);
}

/// One fixture, and what of two rules it covers.
#[test]
fn coverage_tells_which_rules_and_operands_came_out_which_way() {
    let folder = tempfile::tempdir().unwrap();
    let policy = folder.path().join("p.hcl");
    let text = "endpoint \"https\" \"api\" { hosts = [\"api.test\"] }\nprofile \"p\" { endpoints = [https.api] }\n\
        rule \"one\" {\n  endpoint = https.api\n  verdict = \"allow\"\n  condition = <<-CEL\n    http.method == 'GET'\n      \
        && (http.path.startsWith('/a') || 'x' in http.query)\n  CEL\n}\nrule \"two\" {\n  endpoint = https.api\n  \
        verdict = \"deny\"\n  condition = \"http.path == '/z' ? http.method == 'PUT' : size(http.path) > 3\"\n}\n\
        rule \"rest\" {\n  endpoint = https.api\n  verdict = \"deny\"\n}\n";
    std::fs::write(&policy, text).unwrap();
    let policy = policy.to_str().unwrap();
    let fixture = |method: &str, path: &str, verdict: &str, rule: &str| {
        fixture(
            "api",
            verdict,
            rule,
            json!({ "http": { "method": method, "path": path } }),
        )
    };
    let file = folder.path().join("f.json");
    let path = file.to_str().unwrap();
    let covered = |fixtures: Value, min: &str| {
        std::fs::write(&file, fixtures.to_string()).unwrap();
        let run = tailkeep(
            &["test", policy, path, "--format", "json", "--cover-min", min],
            b"",
        );
        let line: Value = serde_json::from_str(run.out.trim()).unwrap_or_else(|_| panic!("{}", run.out));
        (run.code, line["coverage"].clone())
    };
    let (code, found) = covered(json!([fixture("GET", "/a", "allow", "one")]), "24");
    assert_eq!(code, 1);
    // Of rule one: matched; of its four operands, each true or not evaluated.
    assert_eq!(found["rules"], json!({"seen": 1, "of": 5, "percent": 20}));
    assert_eq!(found["branches"], json!({"seen": 3, "of": 12, "percent": 25}));
    assert_eq!(found["percent"], 23);
    let operands = found["each"][0]["operands"].as_array().unwrap();
    let told: Vec<String> = operands
        .iter()
        .map(|operand| {
            let place = operand["place"].as_str().unwrap().rsplit('/').next().unwrap();
            let seen = &operand["seen"];
            format!(
                "{place} {} {} {}/{}",
                operand["of"].as_str().unwrap(),
                operand["text"].as_str().unwrap(),
                seen["true"],
                seen["false"]
            )
        })
        .collect();
    assert_eq!(
        told,
        [
            "p.hcl:7:5 && http.method == 'GET' 1/0",
            "p.hcl:8:11 && http.path.startsWith('/a') || 'x' in http.query 1/0",
            "p.hcl:8:11 || http.path.startsWith('/a') 1/0",
            "p.hcl:8:41 || 'x' in http.query 0/0",
        ]
    );
    let all = json!([
        fixture("GET", "/a", "allow", "one"),
        fixture("PUT", "/z", "deny", "two"),
        fixture("GET", "/b", "deny", "rest"),
        fixture("GET", "/b?x=1", "allow", "one"),
        fixture("GET", "/bbb", "deny", "two"),
    ]);
    let (code, found) = covered(all.clone(), "100");
    assert_eq!((code, &found["percent"]), (0, &json!(100)), "{found}");
    let run = tailkeep(&["test", policy, path], b"");
    assert_eq!(run.out.lines().count(), 2, "{}", run.out);
    let mut less = all;
    less.as_array_mut().unwrap().remove(4);
    let (code, found) = covered(less, "100");
    assert_eq!((code, &found["percent"]), (0, &json!(100)), "{found}");
    std::fs::write(&file, json!([fixture("GET", "/b", "deny", "rest")]).to_string()).unwrap();
    let run = tailkeep(&["test", policy, path], b"");
    for line in [
        "p.hcl:3:6: rule one: never matched",
        "p.hcl:7:5: http.method == 'GET': never false",
        "p.hcl:14:36: http.method == 'PUT': never evaluated",
        "covered: 3 of 5 (60 %) outcomes of rules, ",
    ] {
        assert!(run.out.contains(line), "{line}: {}", run.out);
    }
    let run = tailkeep(&["test", policy, path, "--coverage"], b"");
    let line = "rule rest: matched 1, not matched 0, not evaluable 0";
    assert!(run.out.contains(line), "{}", run.out);
}
