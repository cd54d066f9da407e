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
