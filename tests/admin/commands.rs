//! The operator's commands, each against a running API.

use serde_json::{Value, json};
use tailkeep::verdict::approval::Question;

use crate::world::{World, mode, question};

#[tokio::test(flavor = "multi_thread")]
async fn peers() {
    let world = World::new().await;
    let subnets = tailkeep::state::Subnets {
        v4: "10.55.0.0/24".parse().unwrap(),
        v6: "fd55::/64".parse().unwrap(),
    };
    let token = |added: &serde_json::Value| {
        let url = added["url"].as_str().unwrap();
        assert!(url.starts_with("https://gw.test:8738/join?token="), "{url}");
        let token = url.split("token=").nth(1).unwrap();
        token.split('&').next().unwrap().to_owned()
    };
    let mut watch = world.state.watch_peers();

    let added = world.json(&["peers", "add", "laptop", "--expires", "60", "--format", "json"]);
    assert_eq!(added["expires_s"], 60);
    assert!(world.run(&["peers"]).contains("waits for `tailkeep join`"));
    world.state.enrol(&token(&added), &[1; 32], &subnets).unwrap();
    assert_eq!(watch.borrow_and_update().len(), 1);
    assert!(world.run(&["peers", "list"]).contains("10.55.0.2"));

    // Held: enrolled, listed, and not among those that may connect.
    let added = world.json(&["peers", "add", "ci", "--hold", "--format", "json"]);
    let key = world.state.enrol(&token(&added), &[2; 32], &subnets).unwrap();
    assert!(key.held);
    assert_eq!(watch.borrow_and_update().len(), 1);
    assert!(world.state.add_run(&[2; 32], &[3; 32], &subnets).is_err());
    assert!(
        world
            .run(&["peers", "list"])
            .contains("waits for `tailkeep peers approve`")
    );
    let refused = world
        .command(&["peers", "add", "laptop", "--hold"])
        .output()
        .unwrap();
    assert_eq!(refused.status.code(), Some(2), "a hold would cut off a machine");
    assert_eq!(watch.borrow().len(), 1);
    // It lasts over a restart.
    let again = tailkeep::state::State::open(&world.dir()).unwrap();
    assert_eq!(again.watch_peers().borrow().len(), 1);
    world.run(&["peers", "approve", "ci"]);
    assert_eq!(watch.borrow_and_update().len(), 2);
    assert!(!world.run(&["peers", "list"]).contains("peers approve"));

    // Removed: published before the command returns.
    world.run(&["peers", "remove", "laptop"]);
    let left: Vec<String> = watch
        .borrow_and_update()
        .iter()
        .map(|key| key.peer.clone())
        .collect();
    assert_eq!(left, ["ci"]);
    let gone = world.command(&["peers", "remove", "laptop"]).output().unwrap();
    assert_eq!(gone.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&gone.stderr).contains("no peer laptop"));
}

/// A machine with a WireGuard of its own: its key is enough, and it gets what wg-quick reads.
#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_brings_its_key() {
    use base64::Engine as _;
    let world = World::new().await;
    let mut watch = world.state.watch_peers();
    let key = |byte| base64::engine::general_purpose::STANDARD.encode([byte; 32]);
    let text = world.run(&["peers", "add", "phone", "--public-key", &key(7)]);
    for line in [
        "[Interface]",
        "Address = 10.55.0.2/32, fd55:",
        "DNS = 10.55.0.1, fd55:",
        "[Peer]",
        "AllowedIPs = 0.0.0.0/0, ::/0",
        "# -----BEGIN CERTIFICATE-----",
    ] {
        assert!(text.contains(line), "{line}: {text}");
    }
    {
        let keys = watch.borrow_and_update();
        assert_eq!((keys[0].peer.as_str(), keys[0].public_key), ("phone", [7; 32]));
    }
    // Held, its key is known and connects nothing.
    let held = world.json(&[
        "peers",
        "add",
        "new",
        "--hold",
        "--public-key",
        &key(8),
        "--format",
        "json",
    ]);
    assert_eq!(
        (&held["hold"], &held["address_v4"]),
        (&true.into(), &"10.55.0.3".into())
    );
    assert_eq!(watch.borrow_and_update().len(), 1);
    world.run(&["peers", "approve", "new"]);
    assert_eq!(watch.borrow_and_update().len(), 2);
    for (name, key, why) in [
        ("other", key(7), "enrolled already"),
        ("other", "c2hvcnQ=".to_owned(), "32 bytes"),
        ("a/b", key(9), "a peer's name"),
    ] {
        let refused = world
            .command(&["peers", "add", name, "--public-key", &key])
            .output()
            .unwrap();
        assert_eq!(refused.status.code(), Some(2));
        let said = String::from_utf8_lossy(&refused.stderr);
        assert!(said.contains(why), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn approvals() {
    let world = World::new().await;
    let _ = world.judge("GET /before\u{1b}[2J").await;
    world.log.flush().await.unwrap();
    let asked = world.ask("a\u{1b}[2Jb\u{202e}c");
    let id = world.pending(1).await[0].id.to_string();
    let listed = world.run(&["approvals"]);
    assert!(
        listed.contains("pending") && listed.contains("laptop → https.api"),
        "{listed}"
    );
    let shown = world.run(&["approvals", "show", &id]);
    for text in [
        "the whole of it",
        "alice@example.com",
        "\"method\": \"delete\"",
        "human_approver.ops",
        "shop-ops",
        "the shop's API",
        "1 allow    https.api",
        "GET /before\\u{1b}",
        "like this  none",
    ] {
        assert!(shown.contains(text), "no {text} in {shown}");
    }
    // What an agent wrote does not drive the terminal.
    for text in [&listed, &shown] {
        assert!(!text.contains('\u{1b}') && !text.contains('\u{202e}'), "{text:?}");
    }
    let held = world.json(&["approvals", "show", &id, "--format", "json"]);
    assert_eq!(held["asker"]["did"]["counts"][0]["actions"], 1);
    assert_eq!(held["question"]["summary"], "DELETE /a\u{1b}[2Jb\u{202e}c");
    bodies(&world).await;
    let approved = world.json(&["approvals", "approve", &id, "--format", "json"]);
    assert!(["allowed", "used"].contains(&approved["state"].as_str().unwrap()));
    asked.await.unwrap();
    assert_eq!(world.run(&["approvals", "list"]), "");
    assert!(world.run(&["approvals", "list", "--all"]).contains("used"));
    let unknown = world.command(&["approvals", "show", "77"]).output().unwrap();
    assert_eq!(unknown.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&unknown.stderr).contains("no approval 77"));
}

/// A request's body is rendered whatever facts the rules read of it, and a statement's likeness of one is not.
async fn bodies(world: &World) {
    let detail = "POST /a\ncontent-type: application/json\n\n{\"to\":[\"\u{202e}x\"]}";
    for (endpoint, want) in [
        (
            "https.api",
            json!({ "kind": "JSON", "text": "{\n  \"to\": [\n    \"\u{202e}x\"\n  ]\n}" }),
        ),
        ("postgres.db", Value::Null),
    ] {
        let asked = world.hold(Question {
            endpoint: endpoint.into(),
            detail: detail.to_owned(),
            facts: json!({ "path": "/\u{202e}x\u{9b}2J", "parameters": ["\u{202e}7", null] }),
            eligible: vec!["ann@example.com".to_owned()],
            required: 2,
            excluded: Some("eve@example.com".to_owned()),
            earlier: vec!["bob@example.com".into()],
            ..question(endpoint)
        });
        let id = world.pending(2).await[1].id.to_string();
        assert_eq!(
            world.json(&["approvals", "show", &id, "--format", "json"])["body"],
            want
        );
        let shown = world.run(&["approvals", "show", &id]);
        let lines = "Its body, as JSON:\n| {\n|   \"to\": [\n|     \"\\u{202e}x\"\n|   ]\n| }\n";
        assert_eq!(shown.contains(lines), !want.is_null(), "{shown}");
        for line in [
            "needs       2 people of ann@example.com\n",
            "never       eve@example.com\n",
            "said before bob@example.com\n",
            "\"path\": \"/\\u{202e}x\\u{9b}2J\"",
            "With these parameters:\n| $1 = \"\\u{202e}7\"\n| $2 = NULL\n",
        ] {
            assert!(shown.contains(line), "{line}: {shown}");
        }
        asked.abort();
        world.pending(1).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials() {
    let world = World::new().await;
    let listed = world.run(&["credentials"]);
    for text in [
        "bearer_token.pat",
        "store",
        "not set",
        "mtls_credential.client (key)",
        "env(\"TAILKEEP_TEST_UNSET\")",
    ] {
        assert!(listed.contains(text), "no {text} in {listed}");
    }
    let missing = world.feed(&["credentials", "rotate", "pat"], b"v1-secret\n");
    assert_eq!(missing.status.code(), Some(2), "there was nothing to rotate");
    for (verb, value) in [("set", "v1-secret"), ("rotate", "v2-secret")] {
        let set = world.feed(&["credentials", verb, "pat"], format!("{value}\n").as_bytes());
        assert!(set.status.success(), "{set:?}");
        let said = [set.stdout, set.stderr].concat();
        assert!(!String::from_utf8_lossy(&said).contains(value));
        // The very next request has it.
        let policy = world.gate.policy();
        let credential = policy.model().credential("bearer_token.pat").unwrap();
        assert_eq!(
            world.secrets.get(credential, "").unwrap().expose(),
            value.as_bytes()
        );
    }
    let file = world.dir().join("secrets/pat..secret");
    assert_eq!((mode(&file), mode(&world.dir().join("secrets"))), (0o600, 0o700));
    let left: Vec<_> = std::fs::read_dir(world.dir().join("secrets")).unwrap().collect();
    assert_eq!(left.len(), 1, "{left:?}");
    let listed = world.run(&["credentials", "list", "--format", "json"]);
    assert!(
        listed.contains("\"ready\":true") && !listed.contains("v2-secret"),
        "{listed}"
    );
    for (args, input, want) in [
        (&["credentials", "set", "pat"][..], &b""[..], "between 1 byte"),
        (
            &["credentials", "set", "pat"],
            &vec![b'x'; (1 << 20) + 1],
            "at most 1 MiB",
        ),
        (&["credentials", "set", "none"], b"x", "no credential none"),
        (
            &["credentials", "set", "client", "--slot", "other"],
            b"x",
            "no slot",
        ),
        (
            &["credentials", "set", "from_env"],
            b"x",
            "env(\"TAILKEEP_TEST_UNSET\")",
        ),
    ] {
        let refused = world.feed(args, input);
        assert_eq!(refused.status.code(), Some(2), "{args:?}");
        assert!(
            String::from_utf8_lossy(&refused.stderr).contains(want),
            "{refused:?}"
        );
    }
    // A value never stands among the arguments.
    assert_eq!(
        world
            .feed(&["credentials", "set", "pat", "v3"], b"")
            .status
            .code(),
        Some(2)
    );

    // What was set is kept out of records from then on, wherever it comes from.
    drop(world.judge("GET /v2-secret/and/v1-secret").await);
    let tail = world.run(&["audit", "tail", "--format", "json"]);
    assert!(
        !tail.contains("v1-secret") && !tail.contains("v2-secret"),
        "{tail}"
    );
    assert!(tail.contains("(secret of bearer_token.pat)"), "{tail}");
    assert!(
        !world
            .run(&["audit", "export", "--format", "csv"])
            .contains("v2-secret")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn audit() {
    let world = World::new().await;
    for n in 0..1203 {
        let log = world.log.clone();
        let mut record = crate::world::record(&format!("=GET /{n}, \"x\""));
        record.verdict = if n % 3 == 0 { "deny" } else { "allow" };
        log.append(record).await.unwrap();
    }
    world.log.flush().await.unwrap();
    assert_eq!(world.run(&["audit", "tail"]).lines().count(), 20);
    let lines = world.run(&["audit", "export", "--format", "jsonl"]);
    assert_eq!(lines.lines().count(), 1203);
    for (line, n) in lines.lines().zip(1..) {
        let row: serde_json::Value = serde_json::from_str(line).unwrap();
        assert_eq!(row["id"], n);
    }
    assert_eq!(
        world
            .run(&["audit", "export", "--verdict", "deny"])
            .lines()
            .count(),
        401
    );
    assert_eq!(
        world.run(&["audit", "export", "--since", "1d"]),
        "",
        "they are of 1970"
    );
    let (_, page) = world.unix("GET /v1/audit?limit=5000", "").await;
    let page = page.as_array().unwrap().len();
    assert_eq!(
        page,
        usize::try_from(tailkeep::audit::read::PAGE_RECORDS_MAX).unwrap()
    );
    let csv = world.run(&["audit", "export", "--format", "csv"]);
    assert_eq!(csv.lines().count(), 1204);
    assert!(csv.starts_with("id,at_us,") && csv.contains("\r\n1203,"));
    assert!(csv.contains("\"'=GET /7, \"\"x\"\"\""), "a formula");

    let verified = world.run(&["audit", "verify"]);
    assert!(
        verified.starts_with("1203 records hold; head 1203:"),
        "{verified}"
    );
    let noted = verified.trim().split(' ').next_back().unwrap().to_owned();
    drop(world.judge("GET /more").await);
    world.run(&["audit", "verify", "--noted", &noted]);
    let other = noted.replace("1203:", "1202:");
    let wrong = world
        .command(&["audit", "verify", "--noted", &other])
        .output()
        .unwrap();
    assert_eq!(wrong.status.code(), Some(1));

    // A copy that was changed, checked without a gateway.
    let copy = world.folder.path().join("copy.db");
    std::fs::copy(world.dir().join("audit.head"), copy.with_extension("head")).unwrap();
    let connection = rusqlite::Connection::open(world.dir().join("audit.db")).unwrap();
    connection
        .execute("VACUUM INTO ?", [copy.to_str().unwrap()])
        .unwrap();
    let path = copy.to_str().unwrap();
    world.run(&["audit", "verify", "--file", path]);
    let from_file = world.run(&["audit", "export", "--file", path, "--verdict", "deny"]);
    assert_eq!(from_file, world.run(&["audit", "export", "--verdict", "deny"]));
    let connection = rusqlite::Connection::open(&copy).unwrap();
    connection
        .execute("UPDATE record SET verdict = 'allow' WHERE id = 601", [])
        .unwrap();
    let broken = world
        .command(&["audit", "verify", "--file", path])
        .output()
        .unwrap();
    assert_eq!(broken.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&broken.stdout).contains("record 601"));
}
