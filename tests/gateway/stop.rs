//! What a person takes back ends at once, streams included: a grant, and an agent.

use crate::http::policy;
use crate::reload::{hears, start};
use crate::server::{BOTH, Service};
use crate::world::{World, can_run, until};

const ASKED: &str = "rule \"all\" {\n endpoint = https.api\n approve = [human_approver.ops]\n}";
const OPS: &str = "\napprover \"human_approver\" \"ops\" {}\n";

/// The number of a question that is held now.
fn held(world: &World) -> Option<String> {
    let listed = world.operator(&["approvals", "list"]);
    listed.split_whitespace().next().map(str::to_owned)
}

fn approve(world: &World, more: &[&str]) -> String {
    until("something is held", || held(world).is_some());
    let id = held(world).unwrap();
    world.operator(&[&["approvals", "approve", &id], more].concat())
}

/// Records of this cause, as text.
fn recorded(world: &World, cause: &str) -> Vec<String> {
    let records = world.audit();
    let records = records.iter().filter(|record| record["cause"] == cause);
    records.map(ToString::to_string).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grant_and_an_agent_are_stopped_at_once_with_what_they_have_open() {
    if !can_run() {
        return;
    }
    let service = Service::start(BOTH).await;
    let world = World::start(&(policy(&service, ASKED) + OPS));
    let (mut child, lines) = start(&world);
    // Three actions wait; one yes lets all of them pass, and those after them.
    let said = approve(&world, &["--for", "30m"]);
    assert!(
        said.contains("grant 1 active") && said.contains("agent → https.api"),
        "{said}"
    );
    hears(&lines, &["kept 200", "stream 101", "events 200", "kept 200"]);
    let listed = world.operator(&["approvals", "grants"]);
    assert!(listed.contains("of 10000 uses"), "{listed}");
    let used = recorded(&world, "granted");
    assert!(
        used.len() > 3
            && used
                .iter()
                .all(|record| record.contains("human_approver.ops:grant 1 by "))
    );
    assert_eq!(recorded(&world, "grant_given").len(), 1);
    // Taken back: what passes by it ends, and the next request waits for a person again.
    world.operator(&["approvals", "revoke", "1"]);
    hears(&lines, &["stream closed", "events cut"]);
    assert_eq!(recorded(&world, "grant_revoked").len(), 1);
    until("the next one is held", || held(&world).is_some());
    // A yes to this one alone; then the agent is stopped.
    approve(&world, &["--uses", "2"]);
    hears(&lines, &["kept 200"]);
    let said = world.operator(&["agents", "kill", "agent", "--reason", "it goes wild"]);
    assert!(said.starts_with("stopped peer:agent: "), "{said}");
    hears(&lines, &["kept closed"]);
    child.wait().unwrap();
    assert!(recorded(&world, "agent_killed")[0].contains("it goes wild"));
    until("nothing is held", || held(&world).is_none());
    assert_eq!(world.operator(&["approvals", "grants"]), "");
    // Nothing new either, nor after a crash; what it is told of itself included.
    world.kill();
    world.boot();
    let refused = world.python(
        "import urllib.request\ntry:\n print(urllib.request.urlopen('http://tailkeep.internal/text', timeout=20).status)\nexcept OSError as e: print(type(e).__name__, e)",
    );
    assert!(!refused.contains("200"), "{refused}");
    until("it is refused on the record", || {
        !recorded(&world, "killed").is_empty()
    });
    assert!(world.operator(&["agents", "list"]).contains("peer:agent"));
    // A slip of the pen stops nobody, and says so.
    for name in ["peer:agnet", "agnet", "node:agnet"] {
        let slip = world
            .command("agent", &["agents", "kill", name])
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&slip.stderr);
        assert!(!slip.status.success() && said.contains("nobody called"), "{said}");
    }
    let said = world.operator(&["agents", "kill", "peer:later", "--ahead"]);
    assert!(said.starts_with("stopped peer:later: "), "{said}");
    world.operator(&["agents", "unkill", "agent"]);
    let told = world.python(
        "import urllib.request\nprint(urllib.request.urlopen('http://tailkeep.internal/text', timeout=20).status)",
    );
    assert!(told.contains("200"), "{told}");
    assert_eq!(recorded(&world, "agent_unkilled").len(), 1);
}

/// What asks about one path by a rule of its own, so that a grant for the rest leaves it held.
const APART: &str = "rule \"events\" {\n endpoint = https.api\n priority = 10\n condition = \"http.path == '/events'\"\n \
                     approve = [human_approver.ops]\n}\n";

/// At once: what is open, what was granted and what is held.
#[tokio::test(flavor = "multi_thread")]
async fn the_kill_switch_ends_what_is_open_granted_and_held() {
    if !can_run() {
        return;
    }
    let service = Service::start(BOTH).await;
    let world = World::start(&(policy(&service, &format!("{APART}{ASKED}")) + OPS));
    let (mut child, lines) = start(&world);
    let listed = || world.operator(&["approvals", "list"]);
    let lacks = |of: &str| !listed().contains(of);
    until("all three are held", || {
        !["GET /1k", "GET /upgrade", "GET /events"].into_iter().any(lacks)
    });
    let listed = listed();
    let other = listed.lines().find(|line| !line.contains("/events")).unwrap();
    let id = other.split_whitespace().next().unwrap();
    world.operator(&["approvals", "approve", id, "--for", "30m"]);
    hears(&lines, &["kept 200", "stream 101", "kept 200"]);
    until("one is held", || listed_ids(&world).len() == 1);
    let said = world.operator(&["agents", "kill", "agent", "--format", "json"]);
    let said: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert_eq!(
        (&said["grants"], &said["held"]),
        (&serde_json::json!(1), &serde_json::json!(1)),
        "{said}"
    );
    child.wait().unwrap();
    let heard: Vec<String> = lines.iter().collect();
    for end in ["kept closed", "stream closed", "events cut"] {
        assert!(heard.iter().any(|line| line == end), "{end}: {heard:?}");
    }
    assert!(!heard.iter().any(|line| line == "events 200"), "{heard:?}");
    assert_eq!(listed_ids(&world), Vec::<String>::new());
    assert_eq!(world.operator(&["approvals", "grants"]), "");
    let all = world.operator(&["approvals", "list", "--all", "--format", "json"]);
    let all: serde_json::Value = serde_json::from_str(&all).unwrap();
    let events = all
        .as_array()
        .unwrap()
        .iter()
        .find(|one| one["question"]["summary"] == "GET /events");
    let events = events.unwrap();
    assert_eq!(
        (&events["state"], &events["reason"]),
        (
            &serde_json::json!("denied"),
            &serde_json::json!("its agent was stopped")
        )
    );
}

fn listed_ids(world: &World) -> Vec<String> {
    let listed = world.operator(&["approvals", "list"]);
    let ids = listed.lines().filter_map(|line| line.split_whitespace().next());
    ids.map(str::to_owned).collect()
}
