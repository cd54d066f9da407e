//! Who decides on the page: what the tailnet proves and grants of a person, and what they count as.

use serde_json::{Value, json};

use crate::page::{LOOPBACK, PAGE, curl, served, signed_in};
use crate::world::{World, alone, until};

/// What agents of `dev` do is held.
fn held_by(world: &World, approvers: &str) {
    let rule = "rule \"dev\" {\n  endpoint  = http.api\n  condition = \"agent.profile == 'dev' && agent.transport == 'tailnet'\"\n";
    let held = format!(
        "approver \"human_approver\" \"people\" {{\n  {approvers}\n}}\n\
         rule \"dev\" {{\n  endpoint  = http.api\n  condition = \"agent.profile == 'dev'\"\n  approve   = [human_approver.people]\n}}\n\
         rule \"nobody\" {{\n  endpoint  = http.api\n  condition = \"false\"\n"
    );
    world.rewrite(rule, &held);
    until("the policy is taken", || world.says("a new policy is in force"));
}

/// What ann is answered who says so on the page, by the tailnet.
fn says(world: &World, (cookie, guard): &(String, String), id: i64, what: &str) -> Value {
    let (origin, url) = (
        format!("Origin: {PAGE}"),
        format!("{PAGE}/v1/approvals/{id}/{what}"),
    );
    let args = ["-X", "POST", "-H", &origin, "-H", cookie, "-H", guard, &url];
    serde_json::from_str(&curl(world, "100.64.0.4", &args).1).unwrap()
}

/// The held action that is there, once it is.
fn held(world: &World) -> i64 {
    let mut id = None;
    until("the action is held", || {
        let output = world
            .command("home", &["approvals", "list", "--format", "json"])
            .output()
            .unwrap();
        let all: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        id = all[0]["id"].as_i64();
        id.is_some()
    });
    id.unwrap()
}

#[test]
fn an_approver_whom_a_grant_names_decides_on_the_page_while_it_lasts() {
    alone(|| {
        let world = World::start();
        held_by(&world, "approvers = [\"grant:oncall\"]");
        let ann = |grants: Value| {
            world.daemon.node("100.64.0.4", "plain", &[], json!([]));
            world.daemon.change("100.64.0.4", |node| {
                node["CapMap"]["tailkeep.dev/cap/approver"] = grants
            });
            world.change();
        };
        world
            .daemon
            .node("100.64.0.3", "dev-1", &[], json!([{ "profiles": ["dev"] }]));
        ann(json!([]));
        served(&world);
        let session = signed_in(&world);
        std::thread::scope(|scope| {
            let asked = scope.spawn(|| world.ask("100.64.0.3", "GET"));
            let id = held(&world);
            let refused = says(&world, &session, id, "approve");
            assert_eq!(refused["error"], "ann@example.com may not decide this one");
            // Nor by the token or an account of this machine.
            let output = world
                .command("home", &["approvals", "approve", &id.to_string()])
                .output()
                .unwrap();
            assert!(!output.status.success(), "{output:?}");
            ann(json!([{ "approvers": ["oncall"] }]));
            ann(json!([]));
            assert!(
                says(&world, &session, id, "approve")["error"].is_string(),
                "it is withdrawn"
            );
            ann(json!([{ "approvers": ["oncall"] }]));
            let decided = says(&world, &session, id, "approve");
            assert_eq!(
                (&decided["state"], &decided["by"]),
                (&json!("allowed"), &json!(["ann@example.com"]))
            );
            assert!(asked.join().unwrap().contains(" 200 "));
        });
    });
}

#[test]
fn a_person_with_an_account_and_a_login_is_one_of_two() {
    alone(|| {
        let world = World::start();
        held_by(&world, "require_approvers = 2");
        world
            .daemon
            .node("100.64.0.3", "dev-1", &[], json!([{ "profiles": ["dev"] }]));
        world.daemon.node("100.64.0.4", "plain", &[], json!([]));
        served(&world);
        let invited = [
            "operators",
            "invite",
            "ann",
            "--login",
            "ann@example.com",
            "--format",
            "json",
        ];
        let output = world.command("home", &invited).output().unwrap();
        let invited: Value = serde_json::from_slice(&output.stdout).unwrap();
        let token = invited["url"].as_str().unwrap().rsplit('/').next().unwrap();
        let body = json!({ "invitation": token, "password": "correct horse battery" }).to_string();
        let origin = format!("Origin: {LOOPBACK}");
        let url = format!("{LOOPBACK}/v1/sign-in/invitation");
        let json_type = "Content-Type: application/json";
        let (_, opened) = curl(
            &world,
            "127.0.0.1",
            &["-i", "-H", &origin, "-H", json_type, "-d", &body, &url],
        );
        let cookie = opened
            .lines()
            .find_map(|line| line.strip_prefix("set-cookie: "))
            .expect(&opened);
        let cookie = format!("Cookie: {}", cookie.split(';').next().unwrap());
        let body: Value = serde_json::from_str(opened.split("\r\n\r\n").nth(1).unwrap()).unwrap();
        let guard = format!("X-Tailkeep-Guard: {}", body["guard"].as_str().unwrap());
        let by_tailnet = signed_in(&world);
        std::thread::scope(|scope| {
            let asked = scope.spawn(|| world.ask("100.64.0.3", "GET"));
            let id = held(&world);
            let url = format!("{LOOPBACK}/v1/approvals/{id}/approve");
            let args = ["-X", "POST", "-H", &origin, "-H", &cookie, "-H", &guard, &url];
            let first: Value = serde_json::from_str(&curl(&world, "127.0.0.1", &args).1).unwrap();
            assert_eq!(
                (&first["state"], &first["by"]),
                (&json!("pending"), &json!(["ann"]))
            );
            let again = says(&world, &by_tailnet, id, "approve");
            assert_eq!(
                (&again["state"], &again["by"]),
                (&json!("pending"), &json!(["ann"]))
            );
            let output = world
                .command("home", &["approvals", "approve", &id.to_string()])
                .output()
                .unwrap();
            assert!(output.status.success(), "{output:?}");
            assert!(asked.join().unwrap().contains(" 200 "));
        });
    });
}
