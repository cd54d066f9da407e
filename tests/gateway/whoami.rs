//! What an agent is told of itself, in its tunnel.

use serde_json::Value;

use crate::world::{World, can_run};

const POLICY: &str = r#"
endpoint "https" "api" {
  hosts    = ["api.test"]
  upstream = "127.0.0.1:9"
}
endpoint "https" "wild" { hosts = ["*.internal"] }
credential "bearer_token" "pat" {
  endpoint = https.api
  secret   = env("TEST_TOKEN")
}
profile "dev" {
  peers       = ["agent"]
  credentials = [bearer_token.pat]
  rule "secret-rule" {
    endpoint = https.api
    verdict  = "allow"
  }
  rule "wild" {
    endpoint = https.wild
    verdict  = "allow"
  }
}
"#;

#[test]
fn an_agent_is_told_its_own_and_a_peer_without_a_profile_nothing() {
    if !can_run() {
        return;
    }
    let world = World::start(POLICY);
    world.enrol("stranger");
    let told = world.run(&["curl", "-sS", "http://tailkeep.internal/"]);
    let manifest: Value = serde_json::from_str(&told).unwrap_or_else(|_| panic!("{told}"));
    assert_eq!(manifest["version"], 1);
    assert_eq!(manifest["name"], "agent");
    assert_eq!(manifest["transport"], "wireguard");
    assert_eq!(
        manifest["endpoints"][0]["credentials"][0]["placeholders"][0],
        "{{pat}}"
    );
    let address = manifest["endpoints"][0]["hosts"][0]["addresses"][0]
        .as_str()
        .unwrap();
    let resolved = world.run(&["getent", "ahostsv4", "api.test"]);
    assert!(resolved.contains(address), "{address}: {resolved}");
    for hidden in ["secret-rule", "127.0.0.1", super::world::TOKEN, "TEST_TOKEN"] {
        assert!(!told.contains(hidden), "{hidden}: {told}");
    }
    // Trusting what it gives is enough for the endpoint's TLS.
    let by_ca = "curl -sS http://tailkeep.internal/ca.pem > own.pem && env -u CURL_CA_BUNDLE -u SSL_CERT_FILE \
                 curl -sS --cacert own.pem -o /dev/null -w '%{http_code} %{ssl_verify_result}' https://api.test/";
    assert!(world.run(&["sh", "-c", by_ca]).ends_with(" 0"));
    // The name is the gateway's alone, whatever wildcard holds it, and only there.
    let elsewhere = world.run(&["curl", "-sS", "-m", "10", "https://tailkeep.internal/"]);
    assert!(elsewhere.contains("curl: ("), "{elsewhere}");
    let posted = world.run(&[
        "curl",
        "-sS",
        "-d",
        "x",
        "-w",
        "%{http_code}",
        "http://tailkeep.internal/",
    ]);
    assert!(posted.ends_with("405"), "{posted}");

    let curl = ["curl", "-sS", "-w", "%{http_code}", "http://tailkeep.internal/"];
    let refused = world.agent("stranger", &curl).output().unwrap().stdout;
    let refused = String::from_utf8(refused).unwrap();
    assert!(
        refused.contains("no_profile") && refused.ends_with("403"),
        "{refused}"
    );
    let whoami = |name: &str, args: &[&str]| {
        let output = world
            .command(name, &[&["whoami"], args].concat())
            .output()
            .unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8(text).unwrap())
    };
    let (code, text) = whoami("stranger", &[]);
    assert!(
        code == Some(1) && text.contains("no profile is for you"),
        "{text}"
    );
    let (code, text) = whoami("agent", &[]);
    assert!(
        code == Some(0) && text.contains("{{pat}} in Authorization: Bearer"),
        "{text}"
    );
    let (code, text) = whoami("agent", &["--prompt"]);
    assert!(
        code == Some(0) && text.contains("until a person has decided"),
        "{text}"
    );
    let (code, text) = whoami("agent", &["--format", "json"]);
    let mut same: Value = serde_json::from_str(&text).unwrap();
    // Whichever of its two curl came from.
    assert_eq!(same["address"], "10.91.0.2");
    same["address"] = manifest["address"].clone();
    assert_eq!((code, same), (Some(0), manifest));
    let (code, text) = whoami("nobody", &["--gateway", "127.0.0.1:9"]);
    assert!(code == Some(2) && text.contains("does not answer"), "{text}");
}

/// A client that cannot wait asks how its action stands, and comes back.
#[test]
fn an_agent_asks_how_what_it_asked_for_stands() {
    if !can_run() {
        return;
    }
    let asked = POLICY.replace("verdict  = \"allow\"", "approve  = [human_approver.ops]");
    let world = World::start(&format!("{asked}\napprover \"human_approver\" \"ops\" {{}}\n"));
    let ask = |header: &str| {
        let asked = world.run(&[
            "curl",
            "-sS",
            "-m",
            "20",
            "-H",
            header,
            "-w",
            "\n%{http_code}",
            "https://api.test/x",
        ]);
        let (body, status) = asked.rsplit_once('\n').unwrap_or_else(|| panic!("{asked}"));
        let body: Value = serde_json::from_str(body.trim()).unwrap_or_else(|_| panic!("{asked}"));
        (status.to_owned(), body)
    };
    let (status, body) = ask("Tailkeep-Approval: async");
    assert_eq!(status, "202", "{body}");
    let own = &body["approval"];
    let (url, token) = (
        own["status_url"].as_str().unwrap(),
        own["retry_token"].as_str().unwrap(),
    );
    let stands = |url: &str| world.run(&["curl", "-sS", url]);
    assert!(stands(url).contains("\"pending\""), "{}", stands(url));
    let others = stands("http://tailkeep.internal/approvals/77");
    assert!(others.contains("not_found"), "{others}");
    world.operator(&[
        "approvals",
        "deny",
        &own["id"].to_string(),
        "--reason",
        "not today",
    ]);
    let told = stands(url);
    assert!(
        told.contains("\"denied\"") && told.contains("not today"),
        "{told}"
    );
    assert!(
        !told.contains("human_approver") && !told.contains("operator"),
        "{told}"
    );
    let (status, body) = ask(&format!("Tailkeep-Retry: {token}"));
    assert_eq!(
        (status.as_str(), &body["error"]["reason"]),
        ("403", &Value::from("not today"))
    );
}
