//! The story of the tailnet, with psql and PostgreSQL: a tag in the tailnet's policy file is all the enrolment
//! there is, and what changes there changes what an open session may.

use std::path::PathBuf;
use std::process::Stdio;

use serde_json::Value;

use crate::database::{Psql, Reached, Session, database, policy, put_password, text};
use crate::lab::{GATEWAY_ITSELF, Gateway, Tailscaled, World, until};
use crate::postgres::Server;

/// Every node may reach every port of the gateway: what is refused, the gateway refuses.
pub const OPEN: &str = r#"{
  "tagOwners": {"tag:gateway": [], "tag:agent-ci": [], "tag:agent-dev": [], "tag:nothing": []},
  "autoApprovers": {
    "routes": {"10.78.0.0/16": ["tag:gateway"], "fd7a:7461:696c:78::/64": ["tag:gateway"]},
  },
  "grants": [
    {"src": ["*"], "dst": ["10.78.0.0/16", "fd7a:7461:696c:78::/64"], "ip": ["*"]},
    {"src": ["*"], "dst": ["tag:gateway"], "ip": ["tcp:80", "tcp:443", "tcp:53", "udp:53"]},
  ],
}"#;

const PROFILES: &str = r#"
approver "human_approver" "oncall" {
  timeout = 60
}
profile "ci" {
  tags        = ["tag:agent-ci"]
  credentials = [postgres_credential.app]
  rule "ci-reads" {
    endpoint  = postgres.orders
    condition = "sql.verbs.all(v, v == 'select')"
    verdict   = "allow"
  }
  rule "ci-may-insert" {
    endpoint  = postgres.orders
    condition = "sql.verbs.all(v, v == 'insert') && 'example.com/cap/inserts' in agent.caps"
    verdict   = "allow"
  }
}
profile "dev" {
  tags        = ["tag:agent-dev"]
  credentials = [postgres_credential.app]
  rule "dev-reads" {
    endpoint  = postgres.orders
    condition = "sql.verbs.all(v, v == 'select')"
    verdict   = "allow"
  }
  rule "dev-asks" {
    endpoint  = postgres.orders
    condition = "sql.verbs.all(v, v == 'insert')"
    approve   = [human_approver.oncall]
  }
}
"#;

pub use crate::lab::ORDERS_TEST as ORDERS;

/// A gateway before a PostgreSQL, on a tailnet.
pub struct Scene {
    pub gateway: Gateway,
    server: Server,
    _reached: Reached,
    pub node: Tailscaled,
    pub world: World,
}

pub fn scene(mut world: World) -> Scene {
    let node = world.gateway_node("gw");
    let server = database();
    let reached = Reached::from(&node.machine, &server);
    let folder: PathBuf = world.folder().join("gateway");
    put_password(&folder);
    let gateway = Gateway::start(&node.machine, &folder, &policy(&node, PROFILES), |_| {});
    gateway.until_says("tailscaled is heard");
    Scene {
        gateway,
        server,
        _reached: reached,
        node,
        world,
    }
}

impl Scene {
    pub fn agent(&mut self, name: &str, tags: &[&str]) -> Tailscaled {
        let agent = self.world.agent(name, tags);
        agent.until_routes();
        agent
    }

    /// The orders that there are.
    pub fn count(&self) -> String {
        self.server.says("select count(*) from orders")
    }

    /// The id of the one question that waits.
    fn held(&self) -> i64 {
        let mut id = None;
        until("an action is held", || {
            let listed = self.gateway.operator(&["approvals", "list", "--format", "json"]);
            let listed = { listed }.output().unwrap();
            let rows: Value = serde_json::from_slice(&listed.stdout).unwrap_or_default();
            id = rows[0]["id"].as_i64();
            id.is_some()
        });
        id.unwrap()
    }

    fn has_denied(&self, node: &str, cause: &str) -> bool {
        let rows = self.gateway.audit();
        rows.iter()
            .any(|row| row["node"] == node && row["verdict"] == "deny" && row["cause"] == cause)
    }
}

fn each_tag_has_its_part(world: World) {
    let mut scene = scene(world);
    let ci = scene.agent("ci-1", &["tag:agent-ci"]);
    let dev = scene.agent("dev-1", &["tag:agent-dev"]);
    for address in ORDERS {
        let psql = Psql::on(&scene.world, &ci, address);
        assert_eq!(psql.says("select id from orders"), "7\n", "{address}");
        for write in [
            "insert into orders values (8)",
            "delete from orders",
            "with gone as (delete from orders returning id) select * from gone",
            "select 1; drop table orders",
        ] {
            let denied = psql.says(write);
            assert!(denied.contains("ERROR"), "{address}: {write}: {denied}");
        }
        assert_eq!(scene.count(), "1", "{address}");
    }
    // Held until somebody has decided, and then done once.
    let psql = Psql::on(&scene.world, &dev, ORDERS[0]);
    let waits = psql
        .command()
        .args(["-c", "insert into orders values (9) returning id"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let id = scene.held().to_string();
    assert_eq!(scene.count(), "1", "nothing has happened yet");
    let decided = scene.gateway.operator(&["approvals", "approve", &id]).output();
    assert!(decided.unwrap().status.success());
    assert_eq!(text(&waits.wait_with_output().unwrap()), "9\n");
    assert_eq!(scene.count(), "2");
    let refused = psql.says("delete from orders");
    assert!(refused.contains("ERROR"), "{refused}");
    assert_eq!(scene.count(), "2");
}

#[test]
fn each_tag_has_its_part_without_a_device() {
    if let Some(world) = World::rootless(OPEN) {
        each_tag_has_its_part(world);
    }
}

#[test]
fn each_tag_has_its_part_with_a_device() {
    if let Some(world) = World::root(OPEN) {
        each_tag_has_its_part(world);
    }
}

fn who_is_not_named_reaches_nothing(world: World) {
    let mut scene = scene(world);
    let plain = scene.agent("plain", &[]);
    // Its tag is that of another tailnet, whatever it says.
    let guest = scene.agent("ci-7", &["tag:agent-ci"]);
    scene.world.control.set_domain("ci-7", "partner.ts.net");
    let guest_name = "ci-7.partner.ts.net";
    until("it is known as a guest", || {
        let told = guest.http(GATEWAY_ITSELF[0], 80, "tailkeep.internal", "GET");
        told.contains(" 403 ")
    });
    for agent in [&plain, &guest] {
        let said = Psql::on(&scene.world, agent, ORDERS[0]).says("select id from orders");
        assert!(said != "7\n" && !said.is_empty(), "{}: {said}", agent.name);
    }
    assert!(scene.has_denied("plain", "no_profile"));
    assert!(scene.has_denied(guest_name, "no_profile"));
    // By its whole name it is meant, and by nothing less.
    let named = |name: &str| {
        format!(
            "{PROFILES}\nprofile \"partner\" {{\n nodes = [\"{name}\"]\n credentials = [postgres_credential.app]\n rule \"partner-reads\" {{\n endpoint = postgres.orders\n condition = \"sql.verbs.all(v, v == 'select')\"\n verdict = \"allow\"\n }}\n}}\n"
        )
    };
    let others = Psql::on(&scene.world, &guest, ORDERS[1]);
    for (name, means) in [("ci-7", false), ("ci-*", false), (guest_name, true)] {
        scene.gateway.reload(&policy(&scene.node, &named(name)));
        until("the policy is another", || {
            (others.says("select id from orders") == "7\n") == means
        });
    }
}

#[test]
fn who_is_not_named_reaches_nothing_without_a_device() {
    if let Some(world) = World::rootless(OPEN) {
        who_is_not_named_reaches_nothing(world);
    }
}

#[test]
fn who_is_not_named_reaches_nothing_with_a_device() {
    if let Some(world) = World::root(OPEN) {
        who_is_not_named_reaches_nothing(world);
    }
}

fn a_change_of_tag_ends_the_session(world: World) {
    let mut scene = scene(world);
    let ci = scene.agent("ci-1", &["tag:agent-ci"]);
    let other = scene.agent("ci-2", &["tag:agent-ci"]);
    let mut open = Psql::on(&scene.world, &ci, ORDERS[0]).open();
    let mut others = Psql::on(&scene.world, &other, ORDERS[0]).open();
    assert_eq!(open.ask("select id from orders"), "7\n");
    assert_eq!(others.ask("select id from orders"), "7\n");
    // The new tag has a profile as well, which may read: the session is lost all the same, since it began as another's.
    scene.world.control.set_tags("ci-1", &["tag:agent-dev"]);
    scene.gateway.until_says("the policy leads elsewhere now");
    let said = open.until_lost("select id from orders");
    assert!(!said.contains('7'), "{said}");
    assert_eq!(others.ask("select id from orders"), "7\n", "another's tag");
    let psql = Psql::on(&scene.world, &ci, ORDERS[1]);
    assert_eq!(psql.says("select id from orders"), "7\n", "as what it is now");
    let mut open = psql.open();
    assert_eq!(open.ask("select id from orders"), "7\n");
    scene.world.control.set_tags("ci-1", &["tag:nothing"]);
    until("it has no profile", || {
        psql.says("select id from orders") != "7\n"
    });
    until("its session ends as well", || {
        scene
            .gateway
            .log()
            .matches("the policy leads elsewhere now")
            .count()
            // One of those that ask whether it has a profile may be open then.
            >= 2
    });
    open.until_lost("select id from orders");
    // A node that is removed while it has a session.
    scene.world.control.remove("ci-2");
    scene.gateway.until_says("its peer has left the tailnet");
}

#[test]
fn a_change_of_tag_ends_the_session_without_a_device() {
    if let Some(world) = World::rootless(OPEN) {
        a_change_of_tag_ends_the_session(world);
    }
}

#[test]
fn a_change_of_tag_ends_the_session_with_a_device() {
    if let Some(world) = World::root(OPEN) {
        a_change_of_tag_ends_the_session(world);
    }
}

fn a_capability_counts_on_the_open_session(world: World) {
    let mut scene = scene(world);
    let ci = scene.agent("ci-1", &["tag:agent-ci"]);
    let psql = Psql::on(&scene.world, &ci, ORDERS[0]);
    let (mut open, mut other) = (psql.open(), psql.open());
    let insert = r"\set ON_ERROR_STOP 0
insert into orders values (8) returning 'inserted';
\echo :SQLSTATE
select 'on'";
    assert_eq!(inserts(&mut open, insert), Some((false, "42501\n".to_owned())));
    let granting = OPEN.replace(
        r#""grants": ["#,
        r#""grants": [{"src": ["tag:agent-ci"], "dst": ["tag:gateway"], "app": {"example.com/cap/inserts": [{}]}},"#,
    );
    scene.world.control.policy(&granting);
    until("the capability counts", || {
        inserts(&mut open, insert).is_some_and(|(inserted, _)| inserted)
    });
    scene.world.control.policy(OPEN);
    // What is under way at that moment ends with its session: so another one looks when that is.
    until("it is withdrawn", || {
        inserts(&mut other, insert).is_none_or(|(inserted, _)| !inserted)
    });
    let many = scene.count();
    let last = inserts(&mut open, insert);
    let refused = Some((false, "42501\n".to_owned()));
    assert!(last == refused, "{last:?} {}", open.why());
    assert_eq!(scene.count(), many);
}

/// Whether a row was inserted, and the state; `None` where the session is lost.
fn inserts(open: &mut Session, insert: &str) -> Option<(bool, String)> {
    let first = open.ask(insert);
    let (state, on) = match first.as_str() {
        "inserted\n" => (open.line(), open.line()),
        _ => (first.clone(), open.line()),
    };
    (on == "on\n").then(|| (first == "inserted\n", state))
}

#[test]
fn a_capability_counts_on_the_open_session_without_a_device() {
    if let Some(world) = World::rootless(OPEN) {
        a_capability_counts_on_the_open_session(world);
    }
}

#[test]
fn a_capability_counts_on_the_open_session_with_a_device() {
    if let Some(world) = World::root(OPEN) {
        a_capability_counts_on_the_open_session(world);
    }
}
