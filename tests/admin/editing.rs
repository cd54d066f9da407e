//! The policy's files by the API: a draft is checked and rehearsed, written whole or not at all, and in force.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use serde_json::{Value, json};
use tailkeep::admin::policy::{REHEARSAL_RECORDS_MAX, WORKS_MAX};
use tailkeep::audit::log::Log;
use tailkeep::state::State;

use crate::gateway::{Gateway, folder};
use crate::openapi::{Answered, OF_FILES, faults};
use crate::world::{ask, mode, record};

pub const RULES: &str = "endpoint \"https\" \"api\" { hosts = [\"api.test\"] }\n\
    credential \"bearer_token\" \"pat\" { endpoint = https.api }\n\
    profile \"dev\" {\n  peers = [\"laptop\"]\n  endpoints = [https.api]\n}\n\
    rule \"reads\" {\n  endpoint = https.api\n  condition = \"http.method == 'get' || http.method == 'head'\"\n  verdict = \"allow\"\n}\n\
    rule \"writes\" {\n  endpoint = https.api\n  condition = \"http.method == 'post'\"\n  verdict = \"deny\"\n  reason = \"nothing is written here\"\n}\n";

/// A gateway over a folder of its own, with a day's record.
pub struct Edited {
    pub folder: tempfile::TempDir,
    pub gateway: Gateway,
    answered: Answered,
}

impl Edited {
    pub async fn start(lines: &str) -> Edited {
        Edited::start_with(lines, 3).await
    }

    /// With so many records at least.
    async fn start_with(lines: &str, records: usize) -> Edited {
        let folder = folder(&format!("  dashboard_listen = \"127.0.0.1:0\"\n{lines}"));
        let state = folder.path().join("state");
        drop(State::open(&state).unwrap());
        let log = Log::open(&state.join("audit.db")).unwrap();
        let more = (3..records).map(|_| ("GET", "reads"));
        let mut appends = FuturesUnordered::new();
        for (method, rule) in more.chain([("GET", "reads"), ("GET", "reads"), ("POST", "writes")]) {
            let mut seen = record(&format!("{method} /orders"));
            seen.at_us = chrono::Utc::now().timestamp_micros();
            seen.facts = json!({ "method": method.to_lowercase() }).into();
            seen.rule = Some(rule.into());
            if rule == "writes" {
                (seen.verdict, seen.reason) = ("deny", "nothing is written here".to_owned());
            }
            appends.push(log.append(seen));
            if records <= 3 || appends.len() > 500 {
                appends.next().await.unwrap().unwrap();
            }
        }
        while let Some(appended) = appends.next().await {
            appended.unwrap();
        }
        log.flush().await.unwrap();
        std::fs::write(folder.path().join("policies/rules.hcl"), RULES).unwrap();
        let gateway = Gateway::start(folder.path());
        Edited {
            folder,
            gateway,
            answered: Vec::new(),
        }
    }

    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("state/admin.sock")
    }

    fn rules(&self) -> PathBuf {
        self.folder.path().join("policies/rules.hcl")
    }

    async fn asks(&mut self, line: &str, path: &str, body: Value) -> (u16, Value) {
        let body = if body.is_null() {
            String::new()
        } else {
            body.to_string()
        };
        let (status, answer) = ask(&self.socket(), line, &body).await;
        if status == 200 {
            let method = line.split(' ').next().unwrap().to_lowercase();
            self.answered.push((method, path.to_owned(), answer.clone()));
        }
        (status, answer)
    }

    async fn files(&mut self) -> Value {
        let path = "/v1/policy/files";
        self.asks(&format!("GET {path}"), path, Value::Null).await.1
    }

    async fn draft(&mut self, what: &str, text: &str) -> (u16, Value) {
        let path = format!("/v1/policy/{what}");
        let body = json!({ "file": "rules.hcl", "text": text });
        self.asks(&format!("POST {path}"), &path, body).await
    }

    /// Writes `name` as it is now, with another text.
    async fn write(&mut self, name: &str, text: &str, more: Value) -> (u16, Value) {
        let base = self.files().await["base"].clone();
        let mut body = json!({ "text": text, "base": base });
        body.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        let line = format!("PUT /v1/policy/files/{name}");
        self.asks(&line, "/v1/policy/files/{name}", body).await
    }

    async fn in_force(&mut self) -> String {
        let (_, health) = ask(&self.socket(), "GET /v1/health", "").await;
        health["policy"].as_str().unwrap().to_owned()
    }
}

fn names(folder: &Path) -> BTreeSet<String> {
    let files = std::fs::read_dir(folder).unwrap();
    files
        .map(|file| file.unwrap().file_name().into_string().unwrap())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_writes_only_where_the_configuration_lets_it() {
    let strict = RULES.replace("\"allow\"", "\"deny\"");
    let mut kept = Edited::start("").await;
    let before = kept.in_force().await;
    assert_eq!(kept.files().await["writable"], json!(false));
    let (status, said) = kept.write("rules.hcl", &strict, json!({})).await;
    assert_eq!(status, 403, "{said}");
    assert!(
        said["error"]
            .as_str()
            .unwrap()
            .contains("dashboard_config_writes"),
        "{said}"
    );
    // It is looked at all the same.
    assert_eq!(kept.draft("check", &strict).await.1["errors"], json!([]));
    assert_eq!(kept.draft("rehearse", &strict).await.1["changed"], json!(2));
    assert_eq!(std::fs::read_to_string(kept.rules()).unwrap(), RULES);
    assert_eq!(kept.in_force().await, before);

    let mut edited = Edited::start("  dashboard_config_writes = true").await;
    std::fs::set_permissions(edited.rules(), std::fs::Permissions::from_mode(0o640)).unwrap();
    let files = edited.files().await;
    assert_eq!(
        (&files["writable"], &files["takes_new"]),
        (&json!(true), &json!(true))
    );
    assert_eq!(files["files"][1], json!({ "name": "rules.hcl", "text": RULES }));
    let (status, said) = edited.write("rules.hcl", &strict, json!({})).await;
    assert_eq!((status, &said["in_force"]), (200, &json!(true)), "{said}");
    assert_eq!(said["version"], json!(edited.in_force().await));
    assert_eq!(std::fs::read_to_string(edited.rules()).unwrap(), strict);
    assert_eq!(mode(&edited.rules()), 0o640);
    let (status, said) = edited.write("more.hcl", "# a remark\n", json!({})).await;
    assert_eq!((status, &said["in_force"]), (200, &json!(true)), "{said}");
    let folder = edited.folder.path().join("policies");
    let all = ["gateway.hcl", "more.hcl", "rules.hcl"].map(str::to_owned);
    assert_eq!(
        names(&folder),
        BTreeSet::from(all),
        "something else is left there"
    );
    let (_, records) = ask(&edited.socket(), "GET /v1/audit?verdict=note", "").await;
    let own = nix::unistd::User::from_uid(nix::unistd::geteuid())
        .unwrap()
        .unwrap()
        .name;
    assert_eq!(records[0]["summary"], json!(format!("{own} writes rules.hcl")));
    assert_eq!(records[0]["facts"]["person"], json!(own));
    assert_eq!(records[0]["facts"]["after"], records[1]["facts"]["before"]);
    let (_, document) = ask(&edited.socket(), "GET /v1/openapi.json", "").await;
    assert_eq!(faults(&document, &[kept.answered, edited.answered].concat()), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_draft_is_checked_and_rehearsed() {
    let mut edited = Edited::start("").await;
    let (_, checked) = edited
        .draft("check", &RULES.replace("http.method", "http.metod"))
        .await;
    let first = &checked["errors"][0];
    assert_eq!(
        (&first["line"], &checked["version"]),
        (&json!(9), &Value::Null),
        "{checked}"
    );
    assert!(first["column"].as_u64().unwrap() > 1, "{checked}");
    assert!(
        first["file"].as_str().unwrap().ends_with("rules.hcl"),
        "{checked}"
    );
    let (status, said) = edited.draft("rehearse", "rule {").await;
    assert_eq!(status, 422, "{said}");
    let (_, said) = edited.draft("rehearse", &RULES.replace("'post'", "'put'")).await;
    assert_eq!(
        (&said["judged"], &said["changed"]),
        (&json!(3), &json!(0)),
        "{said}"
    );
    let (_, said) = edited
        .draft("rehearse", &RULES.replace("== 'get' ||", "== 'trace' ||"))
        .await;
    assert_eq!(
        (&said["changed"], &said["changes"][0]["count"]),
        (&json!(2), &json!(2)),
        "{said}"
    );
    assert_eq!(said["changes"][0]["was"]["rule"], json!("reads"));
    assert_eq!(
        said["changes"][0]["would"],
        json!({ "verdict": "deny", "rule": null })
    );
    for (since, status) in [(0, 400), (31 * 86_400, 400), (30 * 86_400, 200)] {
        let body = json!({ "file": "rules.hcl", "text": RULES, "since_s": since });
        let path = "/v1/policy/rehearse";
        assert_eq!(edited.asks(&format!("POST {path}"), path, body).await.0, status);
    }
    let path = "/v1/policy/coverage";
    let (_, covered) = edited.asks(&format!("GET {path}"), path, Value::Null).await;
    assert_eq!(covered["judged"], json!(3));
    let reads = &covered["rules"][0];
    assert_eq!(
        (&reads["matched"], &reads["not_matched"]),
        (&json!(2), &json!(1)),
        "{covered}"
    );
    let head = &reads["operands"][1];
    assert_eq!(
        (&head["text"], &head["seen"]["true"]),
        (&json!("http.method == 'head'"), &json!(0))
    );
    let (_, told) = edited
        .asks("GET /v1/audit/3/explain", "/v1/audit/{id}/explain", Value::Null)
        .await;
    assert_eq!(
        (&told["verdict"], &told["rule"]),
        (&json!("deny"), &json!("writes")),
        "{told}"
    );
    assert_eq!(told["steps"][0]["outcome"], json!("not matched"));
    assert_eq!(
        told["steps"][0]["condition"]["parts"][0]["parts"][0]["found"],
        json!({ "value": "'post'" })
    );
    assert_eq!(
        edited.asks("GET /v1/audit/9/explain", "", Value::Null).await.0,
        404
    );
    let (_, document) = ask(&edited.socket(), "GET /v1/openapi.json", "").await;
    assert_eq!(faults(&document, &edited.answered), "");
    let asked: BTreeSet<&str> = edited.answered.iter().map(|(_, path, _)| path.as_str()).collect();
    assert!(
        OF_FILES
            .iter()
            .all(|(method, path)| *method != "post" || asked.contains(path))
    );
}

/// Whoever writes rules is not thereby at the machine, and takes nothing from who wrote meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn a_draft_keeps_to_the_rules_and_to_what_was_seen() {
    let mut edited = Edited::start("  dashboard_config_writes = true").await;
    let outside = edited.folder.path().join("outside.txt");
    std::fs::write(&outside, "a file of the machine").unwrap();
    let inside = edited.folder.path().join("policies/secret.txt");
    std::fs::write(&inside, "it may be a secret").unwrap();
    let named = |path: &Path| {
        format!(
            "{RULES}policy \"p\" {{\n  text = <<-EOT\n<<file:{}>>\nEOT\n}}\n",
            path.display()
        )
    };
    let gateway = std::fs::read_to_string(edited.folder.path().join("policies/gateway.hcl")).unwrap();
    let secret = RULES.replace(
        "{ endpoint = https.api }",
        "{\n  endpoint = https.api\n  secret = file(\"/etc/passwd\")\n}",
    );
    for (name, text, status, why) in [
        ("rules.hcl", "rule {".to_owned(), 422, "does not load"),
        ("rules.hcl", secret, 403, "what credentials there are"),
        // A secret's way, and who says yes.
        (
            "rules.hcl",
            RULES.replace("hosts = [\"api.test\"]", "hosts = [\"api.test\", \"mine.test\"]"),
            403,
            "what endpoints there are",
        ),
        (
            "rules.hcl",
            format!("{RULES}approver \"human_approver\" \"me\" {{}}\n"),
            403,
            "who approves",
        ),
        (
            "rules.hcl",
            format!(
                "{RULES}channel \"ntfy\" \"mine\" {{\n  url = \"https://mine.test\"\n  topic = \"t\"\n}}\n"
            ),
            403,
            "what channels there are",
        ),
        ("rules.hcl", named(&outside), 422, "reads only the files"),
        ("rules.hcl", named(&inside), 422, "reads only the files"),
        (
            "gateway.hcl",
            gateway.replace("writes = true", "writes = false"),
            403,
            "gateway block",
        ),
        ("other.txt", String::new(), 400, "ends in .hcl"),
        (".hidden.hcl", String::new(), 400, "letters"),
        ("..%2Fup.hcl", String::new(), 400, "letters"),
        (&format!("{}.hcl", "x".repeat(61)), String::new(), 400, "letters"),
    ] {
        let (got, said) = edited.write(name, &text, json!({})).await;
        assert_eq!(got, status, "{name}: {said}");
        assert!(said["error"].as_str().unwrap().contains(why), "{name}: {said}");
    }
    let more = format!("{RULES}gateway {{\n  reload_guard = \"1h\"\n}}\n");
    let (_, checked) = edited.draft("check", &more).await;
    assert!(
        checked["refused"].as_str().unwrap().contains("gateway block"),
        "{checked}"
    );
    // Another has written since.
    let base = edited.files().await["base"].clone();
    let theirs = format!("{RULES}# theirs\n");
    std::fs::write(edited.rules(), &theirs).unwrap();
    let body = json!({ "text": RULES, "base": base });
    let (status, said) = edited.asks("PUT /v1/policy/files/rules.hcl", "", body).await;
    assert_eq!(status, 409, "{said}");
    assert_eq!(std::fs::read_to_string(edited.rules()).unwrap(), theirs);
    // One that is a link is kept elsewhere.
    let elsewhere = edited.folder.path().join("elsewhere.hcl");
    std::fs::rename(edited.rules(), &elsewhere).unwrap();
    std::os::unix::fs::symlink(&elsewhere, edited.rules()).unwrap();
    let (status, said) = edited.write("rules.hcl", RULES, json!({})).await;
    assert_eq!(status, 500, "{said}");
    assert!(said["error"].as_str().unwrap().contains("it is a link"), "{said}");
    let (_, log) = edited
        .asks("GET /v1/audit?newest=true&limit=1", "/v1/audit", Value::Null)
        .await;
    assert_eq!(log[0]["cause"], "policy_not_written", "{log}");
    assert_eq!(std::fs::read_to_string(&elsewhere).unwrap(), theirs);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_guard_holds_back_is_written_once_it_is_accepted() {
    let mut edited = Edited::start("  dashboard_config_writes = true\n  reload_guard = \"24h\"").await;
    let strict = RULES.replace("\"allow\"", "\"deny\"");
    let (status, said) = edited.write("rules.hcl", &strict, json!({})).await;
    assert_eq!(status, 409, "{said}");
    assert!(
        said["error"].as_str().unwrap().contains("2 would change"),
        "{said}"
    );
    assert_eq!(std::fs::read_to_string(edited.rules()).unwrap(), RULES);
    let (status, said) = edited
        .write("rules.hcl", &strict, json!({ "accept": true }))
        .await;
    assert_eq!((status, &said["in_force"]), (200, &json!(true)), "{said}");
    assert_eq!(std::fs::read_to_string(edited.rules()).unwrap(), strict);
}

/// What people accept is one version, once it is on record, and no longer than it is written.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_written_is_not_accepted() {
    let mut edited = Edited::start("  dashboard_config_writes = true\n  reload_guard = \"24h\"").await;
    let before = edited.in_force().await;
    let accepted = edited.folder.path().join("state/reload-accepted");
    let elsewhere = edited.folder.path().join("elsewhere.hcl");
    std::fs::rename(edited.rules(), &elsewhere).unwrap();
    std::os::unix::fs::symlink(&elsewhere, edited.rules()).unwrap();
    let strict = RULES.replace("\"allow\"", "\"deny\"");
    let (status, said) = edited
        .write("rules.hcl", &strict, json!({ "accept": true }))
        .await;
    assert_eq!(status, 500, "{said}");
    assert!(said["error"].as_str().unwrap().contains("it is a link"), "{said}");
    assert!(!accepted.exists());
    let (_, log) = edited
        .asks("GET /v1/audit?newest=true&limit=2", "/v1/audit", Value::Null)
        .await;
    assert_eq!(log[0]["facts"]["accepted"], true, "{log}");
    assert_eq!(log[1]["cause"], "policy_not_written", "{log}");
    // Written by another hand, the same policy waits.
    std::fs::write(&elsewhere, &strict).unwrap();
    edited
        .gateway
        .says("the new policy would change verdicts and waits");
    assert_eq!(edited.in_force().await, before);
    // What the guard lets through needs no acceptance, whatever is asked for.
    std::fs::remove_file(edited.rules()).unwrap();
    std::fs::write(edited.rules(), RULES).unwrap();
    let remark = format!("{RULES}# a remark\n");
    let (status, said) = edited
        .write("rules.hcl", &remark, json!({ "accept": true }))
        .await;
    assert_eq!((status, &said["in_force"]), (200, &json!(true)), "{said}");
    assert!(!accepted.exists());
}

/// A long record is looked at as far as people wait, and whoever writes a policy does not wait for it.
#[tokio::test(flavor = "multi_thread")]
async fn a_rehearsal_has_bounds_and_keeps_nobody_from_writing() {
    let over = 3;
    let records = usize::try_from(REHEARSAL_RECORDS_MAX).unwrap() + over;
    let mut edited = Edited::start_with("  dashboard_config_writes = true", records).await;
    let socket = edited.socket();
    let body = json!({ "file": "rules.hcl", "text": RULES.replace("\"allow\"", "\"deny\"") }).to_string();
    let rehearsal = tokio::spawn(async move {
        loop {
            let (status, said) = ask(&socket, "POST /v1/policy/rehearse", &body).await;
            // One of the checks below has the place.
            if status != 503 {
                return (status, said);
            }
        }
    });
    // Its place is taken.
    while edited.draft("check", RULES).await.0 == 200 && !rehearsal.is_finished() {}
    let remark = format!("{RULES}# a remark\n");
    let (status, said) = edited.write("rules.hcl", &remark, json!({})).await;
    assert_eq!((status, &said["in_force"]), (200, &json!(true)), "{said}");
    let (status, said) = rehearsal.await.unwrap();
    assert_eq!(status, 200, "{said}");
    let looked = said["judged"].as_u64().unwrap();
    let left_out = &said["left_out"];
    assert!(left_out["records"].as_u64().unwrap() >= over as u64, "{left_out}");
    // A slow machine may come to the other bound.
    if left_out["bound"] == "records" {
        // The record of the write above is one, if it came first; nothing in it is judged.
        let all = REHEARSAL_RECORDS_MAX - 1..=REHEARSAL_RECORDS_MAX;
        assert!(all.contains(&looked), "{looked}: {left_out}");
    }
}

/// A draft may take a core for a while, and there is one place for it.
#[tokio::test(flavor = "multi_thread")]
async fn drafts_are_worked_on_one_at_a_time() {
    let edited = Edited::start("").await;
    let rule = |n| {
        format!(
            "rule \"r{n}\" {{\n  endpoint = https.api\n  condition = \"http.path == '/{n}'\"\n  verdict = \"deny\"\n}}\n"
        )
    };
    let text = RULES.to_owned() + &(0..1000).map(rule).collect::<String>();
    let body = json!({ "file": "rules.hcl", "text": text }).to_string();
    let socket = edited.socket();
    let many = (0..6 * WORKS_MAX).map(|_| ask(&socket, "POST /v1/policy/check", &body));
    let answers = futures_util::future::join_all(many).await;
    let with = |status| answers.iter().filter(|(own, _)| *own == status).count();
    assert!(
        with(200) >= 1 && with(503) >= 1 && with(200) + with(503) == answers.len(),
        "{answers:?}"
    );
    assert_eq!(
        ask(&socket, "POST /v1/policy/check", &body).await.0,
        200,
        "the place is given back"
    );
}
