//! The starting set: what is written, and whether its two sides say the same.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use tailkeep::identity::Limits;
use tailkeep::policy::{ApproverKind, Policy, source};

/// JSON out of HuJSON: comments and trailing commas go, strings stay.
fn json(text: &str) -> Value {
    let (mut out, mut rest) = (String::new(), text);
    while let Some(first) = rest.chars().next() {
        let length = match first {
            '"' => {
                let quoted = rest[1..].char_indices().scan(false, |escaped, (at, char)| {
                    let ends = char == '"' && !*escaped;
                    *escaped = char == '\\' && !*escaped;
                    Some((at, ends))
                });
                let end = quoted
                    .filter(|(_, ends)| *ends)
                    .map(|(at, _)| at + 2)
                    .next()
                    .unwrap();
                out.push_str(&rest[..end]);
                end
            }
            '/' if rest.starts_with("//") => rest.find('\n').unwrap_or(rest.len()),
            '}' | ']' => {
                out.truncate(out.trim_end().trim_end_matches(',').len());
                out.push(first);
                1
            }
            _ => {
                out.push(first);
                first.len_utf8()
            }
        };
        rest = &rest[length..];
    }
    serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {out}"))
}

fn texts(value: &Value) -> BTreeSet<String> {
    let list = value.as_array().into_iter().flatten();
    list.map(|text| text.as_str().unwrap().to_owned()).collect()
}

fn keys(value: &Value) -> BTreeSet<String> {
    value.as_object().unwrap().keys().cloned().collect()
}

#[test]
fn the_starting_set_is_whole_and_both_sides_agree() {
    let folder = tempfile::tempdir().unwrap();
    let written = Command::new(env!("CARGO_BIN_EXE_tailkeep"))
        .args(["gateway", "--init"])
        .arg(folder.path())
        .output()
        .unwrap();
    assert!(written.status.success(), "{written:?}");
    let repository = Path::new(env!("CARGO_MANIFEST_DIR"));
    for file in std::fs::read_dir(repository.join("policies")).unwrap() {
        let file = file.unwrap();
        if file.path().is_dir() {
            continue;
        }
        let name = file.file_name();
        let own = std::fs::read(repository.join("policies").join(&name)).unwrap();
        assert!(
            std::fs::read(folder.path().join(&name)).unwrap() == own,
            "{name:?} is not written"
        );
    }
    let policy = Policy::load(source::read(folder.path()).unwrap(), &source::read_file);
    let policy = policy.unwrap_or_else(|errors| panic!("{}", errors.render()));
    let tailnet = std::fs::read_to_string(folder.path().join("tailnet-policy.hujson")).unwrap();
    let tailnet = json(&tailnet);
    let model = policy.model();

    let profiles = || model.profiles.iter();
    let mut tags: BTreeSet<String> = profiles().flat_map(|profile| profile.tags.clone()).collect();
    tags.insert("tag:gateway".to_owned());
    assert_eq!(keys(&tailnet["tagOwners"]), tags);
    for profile in profiles() {
        let file = format!("agent-{}.hcl", profile.name);
        assert!(folder.path().join(&file).exists(), "one file a tag: {file}");
        assert_eq!(profile.tags, [format!("tag:agent-{}", profile.name)]);
    }
    let ranges = [model.gateway.virtual_v4, model.gateway.virtual_v6];
    let ranges: BTreeSet<String> = ranges.iter().map(ToString::to_string).collect();
    assert_eq!(keys(&tailnet["autoApprovers"]["routes"]), ranges);

    let grants = tailnet["grants"].as_array().unwrap();
    let mut reaching = BTreeSet::new();
    for grant in grants {
        for to in texts(&grant["dst"]) {
            assert!(
                to == "tag:gateway" || ranges.contains(&to),
                "{to} is past the gateway"
            );
            if ranges.contains(&to) {
                reaching.extend(texts(&grant["src"]));
            }
            // The loopback of the gateway's machine is behind its other ports, where tailscaled has no device.
            let served = ["tcp:80", "tcp:443", "tcp:53", "udp:53"].map(str::to_owned);
            let given = texts(&grant["ip"]);
            assert!(
                to != "tag:gateway" || given.is_subset(&BTreeSet::from(served)),
                "{given:?}"
            );
        }
    }
    tags.remove("tag:gateway");
    assert!(reaching.is_superset(&tags), "{reaching:?}");

    let values = |capability: &str| -> Vec<Value> {
        let all = grants
            .iter()
            .filter_map(|grant| grant["app"][capability].as_array());
        all.flatten().cloned().collect()
    };
    let by_grant: BTreeSet<String> = profiles().flat_map(|profile| profile.grants.clone()).collect();
    let granted = values("tailkeep.dev/cap/profile");
    let names: BTreeSet<String> = granted
        .iter()
        .flat_map(|value| texts(&value["profiles"]))
        .collect();
    assert_eq!(names, by_grant);
    for value in &granted {
        serde_json::from_value::<Limits>(value["limits"].clone()).unwrap();
        let _: chrono::DateTime<chrono::Utc> = value["expires"].as_str().unwrap().parse().unwrap();
    }
    let decide = values("tailkeep.dev/cap/approver");
    let decide: BTreeSet<String> = decide
        .iter()
        .flat_map(|value| texts(&value["approvers"]))
        .collect();
    let approvers = model.approvers.iter();
    let humans = approvers.filter(|approver| matches!(approver.kind, ApproverKind::Human { .. }));
    assert_eq!(decide, humans.map(|approver| approver.name.clone()).collect());
}

/// What the starting set's own words promise: what is called reading reads, and nothing reaches into what runs.
#[test]
fn what_the_starting_set_calls_reading_only_reads() {
    let policies = Path::new(env!("CARGO_MANIFEST_DIR")).join("policies");
    let policies = policies.to_str().unwrap();
    let check = |agent: &str, family: &str, action: &str, passes: bool| {
        let args = [
            "eval", policies, "--agent", agent, family, action, "--format", "json",
        ];
        let run = crate::tailkeep(&args, b"");
        let document: Value = serde_json::from_str(&run.out).unwrap_or_else(|_| panic!("{}", run.errors));
        let allowed = document["verdict"] == "allow";
        assert_eq!(allowed, passes, "{agent} {action}: {document}");
    };
    let ops = |action: &str, passes| check("ops", "--k8s", action, passes);
    for path in [
        "/version",
        "/apis/apps/v1",
        "/api/v1/namespaces/a/pods",
        "/api/v1/namespaces/a/pods/p/log",
        "/apis/apps/v1/namespaces/a/deployments?watch=1",
    ] {
        ops(&format!("GET {path}"), true);
    }
    for path in [
        "/api/v1/namespaces/a/pods/p/exec?command=sh",
        "/api/v1/namespaces/a/pods/p/attach",
        "/api/v1/namespaces/a/pods/p/portforward",
        "/api/v1/namespaces/a/pods/p/proxy/admin",
        "/api/v1/namespaces/a/services/s/proxy/admin",
        "/api/v1/nodes/n/proxy/run/a/p/c",
        "/api/v1/proxy/namespaces/a/services/s/x",
        "/api/v1/namespaces/a/secrets",
        "/apis/example.com/v1/namespaces/a/pods",
        "/logs/kube-apiserver.log",
        "/metrics",
    ] {
        ops(&format!("GET {path}"), false);
    }
    for agent in ["ci", "dev"] {
        let sql = |action: &str, passes| check(agent, "--sql", action, passes);
        sql("SELECT count(*) FROM orders WHERE id = 7", true);
        sql("EXPLAIN ANALYZE SELECT * FROM orders", true);
        for text in [
            "SELECT pg_read_file('/etc/passwd')",
            "SELECT pg_catalog.pg_terminate_backend(1)",
            "SELECT set_config('role', 'owner', false)",
            "SELECT lo_export(1, '/tmp/x')",
            "SELECT nextval('orders_id_seq')",
            "SELECT purge_orders()",
            "SELECT * INTO copy FROM orders",
            "SELECT * FROM customer_secrets",
            "SELECT rolpassword FROM pg_authid",
            "SELECT most_common_vals FROM pg_stats",
            "SELECT * FROM orders FOR UPDATE",
            "COPY orders TO '/tmp/orders'",
        ] {
            sql(text, false);
        }
    }
}

/// What `tailkeep test` says that the fixtures of a folder cover of its rules.
#[track_caller]
fn covered(policy: &str, fixtures: &str) -> Value {
    let args = ["test", policy, fixtures, "--format", "json", "--cover-min", "100"];
    let run = crate::tailkeep(&args, b"");
    let last = run.out.lines().last().unwrap_or_default();
    let document: Value = serde_json::from_str(last).unwrap_or_else(|_| panic!("{}{}", run.out, run.errors));
    assert_eq!(run.code, 0, "{policy}: {}", run.out);
    document["coverage"].clone()
}

/// Each pack loads as it is written, each of its rules has an action that it is for and one that it is
/// not for, and each operand of each condition came out both ways.
#[test]
fn every_rule_of_every_pack_has_an_allowed_and_a_refused_fixture() {
    let packs = Path::new(env!("CARGO_MANIFEST_DIR")).join("policies/packs");
    let fixtures = packs.join("fixtures");
    let mut names = Vec::new();
    for file in std::fs::read_dir(&fixtures).unwrap() {
        let name = file.unwrap().path();
        names.push(name.file_stem().unwrap().to_str().unwrap().to_owned());
    }
    names.sort();
    assert_eq!(names, ["github", "kubernetes", "payments", "postgres", "slack"]);
    for name in &names {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().to_str().unwrap();
        let init = crate::tailkeep(&["gateway", "--init", path, "--pack", name], b"");
        assert_eq!(init.code, 0, "{}", init.errors);
        let found = covered(path, &format!("{path}/fixtures"));
        assert_eq!(found["rules"]["percent"], 100);
        assert_eq!(found["branches"]["percent"], 100);
        for rule in found["each"].as_array().unwrap() {
            assert!(
                rule["rule"].as_str().unwrap().starts_with(name.as_str()),
                "{rule}"
            );
            assert!(rule["matched"].as_u64().unwrap() > 0, "{rule}");
            let asks = rule["is_bound"] == true;
            assert!(!asks || rule["not_matched"].as_u64().unwrap() > 0, "{rule}");
        }
        // Both an action that passes and one that is refused, by the fixtures' own word.
        let fixtures = std::fs::read_to_string(folder.path().join(format!("fixtures/{name}.json"))).unwrap();
        let all: Vec<Value> = serde_json::from_str(&fixtures).unwrap();
        for verdict in ["allow", "deny"] {
            assert!(
                all.iter().any(|one| one["match"]["verdict"] == verdict),
                "{name}: {verdict}"
            );
        }
        // Nothing is overwritten, and nothing is written beside what is there.
        std::fs::remove_file(folder.path().join("gateway.hcl")).unwrap();
        let again = crate::tailkeep(&["gateway", "--init", path, "--pack", name], b"");
        assert!(
            again.code != 0 && again.errors.contains("nothing is overwritten"),
            "{}",
            again.errors
        );
        assert!(!folder.path().join("gateway.hcl").exists());
    }
    let found = covered(packs.to_str().unwrap(), fixtures.to_str().unwrap());
    assert_eq!(found["each"].as_array().unwrap().len(), 41);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_str().unwrap();
    let two = ["gateway", "--init", path, "--pack", "slack", "--pack", "github"];
    assert_eq!(crate::tailkeep(&two, b"").code, 0);
    covered(path, &format!("{path}/fixtures"));
    assert_eq!(
        crate::tailkeep(&["gateway", "--init", path, "--pack", "other"], b"").code,
        2
    );
}
