//! What `tailkeep join` is refused, and what it then leaves behind.

use serde_json::Value;

use crate::server::{BOTH, Service};
use crate::world::{World, can_run};

const ALL: &str = "rule \"all\" {\n endpoint = https.api\n verdict = \"allow\"\n}";

#[tokio::test(flavor = "multi_thread")]
async fn a_join_that_is_refused_says_why_and_leaves_nothing() {
    if !can_run() {
        return;
    }
    let service = Service::start(BOTH).await;
    let world = World::start(&crate::http::policy(&service, ALL));
    let added = world.operator(&["peers", "add", "late", "--format", "json"]);
    let added: Value = serde_json::from_str(&added).unwrap();
    let url = added["url"].as_str().unwrap();
    let (before, pin) = url.split_once("&pin=sha256:").unwrap();
    let (base, token) = before.split_once("token=").unwrap();
    let turned = |text: &str| -> String {
        let last = if text.ends_with('a') { 'b' } else { 'a' };
        format!("{}{last}", &text[..text.len() - 1])
    };
    let refused = |code: i32, name: &str, url: &str, says: &str| {
        let output = world.command(name, &["join", url]).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{url}: {said}");
        assert!(
            said.starts_with("tailkeep: ") && said.contains(says),
            "{url}: {said}"
        );
        assert!(!said.contains(token), "the token in {said}");
        let home = std::fs::read_dir(world.folder.path().join(name));
        let left: Vec<_> = home
            .map(|home| home.flatten().map(|own| own.file_name()).collect())
            .unwrap_or_default();
        assert!(
            left.iter().all(|name| name != "enrolment.json" && name != "key"),
            "{left:?}"
        );
    };
    let other_pin = turned(pin);
    refused(
        1,
        "one",
        &format!("{base}token={token}&pin=sha256:{other_pin}"),
        "another CA",
    );
    refused(
        1,
        "one",
        &format!("{base}token={}&pin=sha256:{pin}", turned(token)),
        "refused",
    );
    refused(2, "one", &format!("{base}token={token}"), "pin");
    refused(2, "one", "http://localhost/join", "https");
    let nobody = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let closed = format!("https://localhost:{nobody}/join?token={token}&pin=sha256:{pin}");
    refused(1, "one", &closed, "does not answer");
    // None of that used the token up; who comes second is too late.
    assert!(
        world
            .command("two", &["join", url])
            .output()
            .unwrap()
            .status
            .success()
    );
    refused(1, "three", url, "refused");
}
