//! The admin page on the tailnet: for operators by tailscaled's word, and for nobody else, wherever
//! they try.

use std::process::Command;

use serde_json::{Value, json};

use crate::world::{World, alone, until};

pub const PAGE: &str = "https://gw.lab.ts.net";
pub const LOOPBACK: &str = "http://127.0.0.1:18080";

/// What curl is answered from an address, with its exit status: 0 is an answer.
pub fn curl(world: &World, source: &str, args: &[&str]) -> (i32, String) {
    let output = Command::new("curl")
        .args(["-sS", "--max-time", "10", "--interface", source])
        .args(["--resolve", "gw.lab.ts.net:443:100.64.0.1"])
        .arg("--cacert")
        .arg(world.ca())
        .args(args)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    (output.status.code().unwrap(), text)
}

pub fn served(world: &World) {
    until("the page is served on the tailnet", || {
        world.says("the admin page is served on the tailnet")
    });
}

/// Signs in from an operator's node; what its browser sends from then on.
pub fn signed_in(world: &World) -> (String, String) {
    let (origin, sign_in) = (format!("Origin: {PAGE}"), format!("{PAGE}/v1/sign-in/tailnet"));
    let (_, opened) = curl(
        world,
        "100.64.0.4",
        &["-i", "-X", "POST", "-H", &origin, &sign_in],
    );
    let mut lines = opened.lines();
    let cookie = lines
        .find_map(|line| line.strip_prefix("set-cookie: "))
        .expect("a cookie");
    assert!(
        cookie.starts_with("__Host-tailkeep=") && cookie.contains("; Secure"),
        "{cookie}"
    );
    let body: Value = serde_json::from_str(opened.split("\r\n\r\n").nth(1).unwrap()).unwrap();
    (
        format!("Cookie: {}", cookie.split(';').next().unwrap()),
        format!("X-Tailkeep-Guard: {}", body["guard"].as_str().unwrap()),
    )
}

#[test]
fn operators_reach_the_page_and_agents_do_not() {
    alone(|| {
        let world = World::start();
        let daemon = &world.daemon;
        daemon.node("100.64.0.2", "ci-1", &["tag:agent-ci"], json!([]));
        daemon.node("100.64.0.3", "dev-1", &[], json!([{ "profiles": ["dev"] }]));
        daemon.node("100.64.0.4", "plain", &[], json!([]));
        served(&world);
        let (status, page) = curl(&world, "100.64.0.4", &[PAGE]);
        assert!(status == 0 && page.contains("<title>Tailkeep"), "{page}");
        let (_, ways) = curl(&world, "100.64.0.4", &[&format!("{PAGE}/v1/sign-in")]);
        let ways: Value = serde_json::from_str(&ways).unwrap();
        assert_eq!(
            (&ways["tailnet"], &ways["password"]),
            (&json!("ann@example.com"), &json!(false))
        );
        // A tagged node, an agent of the same person, a stranger, this machine itself.
        for source in ["100.64.0.2", "100.64.0.3", "100.64.0.9", "127.0.0.1"] {
            let (status, page) = curl(&world, source, &[PAGE]);
            assert!(status != 0 && page.is_empty(), "{source}: {status} {page}");
        }
        // Being there is not being signed in, and no other site's page signs in.
        let health = format!("{PAGE}/v1/health");
        let code = |args: &[&str]| {
            curl(
                &world,
                "100.64.0.4",
                &[&["-o", "/dev/null", "-w", "%{http_code}"], args].concat(),
            )
            .1
        };
        assert_eq!(code(&[&health]), "401");
        let token = format!("Authorization: Bearer {}", world.token());
        assert_eq!(
            code(&["-H", &token, &health]),
            "401",
            "the token is for this machine"
        );
        let sign_in = format!("{PAGE}/v1/sign-in/tailnet");
        assert_eq!(code(&["-X", "POST", &sign_in]), "403");
        assert_eq!(
            code(&["-X", "POST", "-H", "Origin: https://evil.test", &sign_in]),
            "403"
        );
        assert_eq!(code(&["-H", "Host: evil.test", &health]), "403");
        let (cookie, guard) = signed_in(&world);
        let (_, who) = curl(
            &world,
            "100.64.0.4",
            &["-H", &cookie, "-H", &guard, &format!("{PAGE}/v1/session")],
        );
        let who: Value = serde_json::from_str(&who).unwrap();
        assert_eq!(
            (&who["person"], &who["session"]["via"]),
            (&json!("ann@example.com"), &json!("tailnet"))
        );
        // The same secrets open nothing on this machine's listener.
        let plain = cookie.replace("__Host-", "");
        let (_, said) = curl(
            &world,
            "127.0.0.1",
            &["-H", &plain, "-H", &guard, &format!("{LOOPBACK}/v1/session")],
        );
        assert!(said.contains("error"), "{said}");
        // A person whose node becomes an agent's, and one whom a reload names no more.
        let reaches = || curl(&world, "100.64.0.4", &[PAGE]).0 == 0;
        daemon.node("100.64.0.4", "plain", &[], json!([{ "profiles": ["dev"] }]));
        daemon.tell();
        until("an agent is shut out", || !reaches());
        daemon.node("100.64.0.4", "plain", &[], json!([]));
        daemon.tell();
        until("a person is let in", reaches);
        world.rewrite("ann@example.com", "bob@example.com");
        until("a reload takes the right away", || !reaches());
    });
}

#[test]
fn an_open_stream_of_the_page_ends_when_its_person_changes() {
    alone(|| {
        let world = World::start();
        world.daemon.node("100.64.0.4", "plain", &[], json!([]));
        served(&world);
        let (cookie, guard) = signed_in(&world);
        let before = world.daemon.asked().len();
        let mut open = Command::new("curl")
            .args(["-sSN", "-k", "--interface", "100.64.0.4", "--max-time", "60"])
            .args([
                "--resolve",
                "gw.lab.ts.net:443:100.64.0.1",
                "-H",
                &cookie,
                "-H",
                &guard,
            ])
            .arg(format!("{PAGE}/v1/approvals/watch"))
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        until("it is asked who it is", || world.daemon.asked().len() > before);
        assert_eq!(open.try_wait().unwrap(), None, "the stream is not open");
        world
            .daemon
            .node("100.64.0.4", "plain", &["tag:agent-ci"], json!([]));
        world.daemon.tell();
        let mut ended = None;
        until("the connection ends", || {
            ended = open.try_wait().unwrap();
            ended.is_some()
        });
        assert!(!ended.unwrap().success());
    });
}

#[test]
fn tailscaleds_certificate_is_served_where_there_is_one() {
    alone(|| {
        let world = World::start_with(|daemon| daemon.certify("gw.lab.ts.net"));
        world.daemon.node("100.64.0.4", "plain", &[], json!([]));
        served(&world);
        let issued = world.daemon.certificate_file();
        let by = |ca: &std::path::Path| {
            let args = ["--cacert", ca.to_str().unwrap(), PAGE];
            curl(&world, "100.64.0.4", &args).0 == 0
        };
        until("it is fetched", || by(&issued));
        assert!(!by(&world.ca()));
    });
}

#[test]
fn what_tailscaled_forwards_to_loopback_is_closed() {
    alone(|| {
        let mut world = World::start_with(|daemon| daemon.without_device());
        let token = format!("Authorization: Bearer {}", world.token());
        let health = format!("{LOOPBACK}/v1/health");
        let asked = |world: &World| curl(world, "127.0.0.1", &["-H", &token, &health]);
        // This machine's own connections are nobody's of the tailnet.
        assert!(asked(&world).1.contains("version"));
        // As in userspace mode: the peer's connection comes from a port of this machine.
        world
            .daemon
            .node("127.0.0.1", "ci-1", &["tag:agent-ci"], json!([]));
        assert_eq!(asked(&world).1, "", "an agent with the token");
        world.daemon.node("127.0.0.1", "plain", &[], json!([]));
        assert_eq!(asked(&world).1, "", "an operator has the tailnet's listener");
        // There it is forwarded to loopback, too.
        served(&world);
        let page = ["-k", "--resolve", "gw.lab.ts.net:443:127.0.0.1", PAGE];
        assert!(curl(&world, "127.0.0.1", &page).1.contains("<title>Tailkeep"));
        world
            .daemon
            .node("127.0.0.1", "ci-1", &["tag:agent-ci"], json!([]));
        assert_eq!(curl(&world, "127.0.0.1", &page).1, "");
        // Unsure is closed; where no tailscaled is, nobody forwards.
        world.daemon.mood(crate::tailscaled::Mood::Failing);
        assert_eq!(asked(&world).1, "");
        world.daemon.kill();
        assert!(asked(&world).1.contains("version"));
    });
}
