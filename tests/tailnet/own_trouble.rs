//! A tailscaled of the gateway's own that hangs, is killed, or does not let itself be logged in.

use std::io::{Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::json;

use crate::lab::{API_TEST, POLICY, Tailscaled, World};
use crate::own::{BY_KEY, Own, signal};
use crate::tailscaled::{Mood, Tailscaled as Fake};
use crate::world::{alone, until};

/// A connection of an agent that stays open.
struct Open(UnixStream);

impl Open {
    fn from(agent: &Tailscaled) -> Open {
        let mut open = Open(agent.dial(API_TEST[0], 80).unwrap());
        assert!(open.get().contains(" 200 "));
        open
    }

    fn get(&mut self) -> String {
        let _ = self.0.write_all(b"GET / HTTP/1.1\r\nHost: api.test\r\n\r\n");
        let mut got = [0; 4096];
        let length = self.0.read(&mut got).unwrap_or(0);
        String::from_utf8_lossy(&got[..length]).into_owned()
    }
}

#[test]
fn one_that_hangs_lets_nobody_in_by_mistake_and_recovers() {
    let Some(world) = World::rootless(POLICY) else {
        return;
    };
    let mut own = Own::on(world, BY_KEY, |world| world.control.key(&[]));
    own.until_state("Running");
    let ci = own.world.agent("ci-1", &["tag:agent-ci"]);
    ci.until_routes();
    let mut open = Open::from(&ci);
    // It answers nothing more, and meanwhile the agent is nobody any more.
    let daemon = own.daemon();
    signal(daemon, Signal::SIGSTOP);
    own.world.control.set_tags("ci-1", &["tag:nothing"]);
    let output = own.gateway.operator(&["tailnet"]).output().unwrap();
    assert!(!output.stdout.is_empty(), "the operator is answered: {output:?}");
    // As a program of this machine would come: whose it is cannot be asked.
    let url = &format!("http://{}/", API_TEST[0]);
    let said = own
        .machine
        .says("curl", &["-sS", "-m", "8", "-H", "Host: api.test", url]);
    assert!(!said.contains("done"), "{said}");
    signal(daemon, Signal::SIGCONT);
    until("its open connection is ended", || {
        own.gateway.log().contains("a connection ends")
    });
    let audited = own.gateway.audit().len();
    // What of the end arrives is up to tailscaled: the agent is no peer any more.
    let _ = open.0.set_read_timeout(Some(Duration::from_secs(1)));
    assert!(!open.get().contains(" 200 "));
    assert!(!ci.http(API_TEST[0], 80, "api.test", "GET").contains(" 200 "));
    let after = own.gateway.audit();
    assert!(
        after[audited..].iter().all(|row| row["verdict"] != "allow"),
        "{after:?}"
    );
    own.world.control.set_tags("ci-1", &["tag:agent-ci"]);
    until("it is let in again", || {
        ci.http(API_TEST[0], 80, "api.test", "GET").contains(" 200 ")
    });
    assert_eq!(own.daemon(), daemon, "it was never started anew");
}

#[test]
fn one_that_is_killed_forgets_no_change_of_the_meantime() {
    let Some(world) = World::rootless(POLICY) else {
        return;
    };
    let mut own = Own::on(world, BY_KEY, |world| world.control.key(&[]));
    own.until_state("Running");
    let ci = own.world.agent("ci-1", &["tag:agent-ci"]);
    ci.until_routes();
    assert!(ci.http(API_TEST[0], 80, "api.test", "GET").contains(" 200 "));
    for _ in 0..2 {
        let before = own.daemon();
        signal(before, Signal::SIGKILL);
        own.world.control.set_tags("ci-1", &["tag:nothing"]);
        until("another is started", || ![0, before].contains(&own.daemon()));
        own.until_state("Running");
    }
    until("the tailnet is told", || {
        let said = ci.http(API_TEST[0], 80, "api.test", "GET");
        assert!(!said.contains(" 200 "), "{said}");
        own.gateway.log().matches("our tailscaled ended").count() >= 2
    });
    own.world.control.set_tags("ci-1", &["tag:agent-ci"]);
    until("it is let in again", || {
        ci.http(API_TEST[0], 80, "api.test", "GET").contains(" 200 ")
    });
}

/// A gateway whose own tailscaled does nothing, and whose LocalAPI a test plays.
struct Played {
    fake: Fake,
    folder: tempfile::TempDir,
    gateway: Child,
}

impl Played {
    fn start(prepare: impl FnOnce(&Fake)) -> Played {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("state/tailscale");
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&state)
            .unwrap();
        let fake = Fake::new(&state);
        prepare(&fake);
        let program = folder.path().join("tailscaled");
        std::fs::write(&program, "#!/bin/sh\nexec sleep 600\n").unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        let policy = folder.path().join("policy.hcl");
        let text = format!(
            "gateway {{\n  state_dir = \"{0}/state\"\n  tailscale {{\n    authkey = env(\"TAILNET_KEY\")\n    \
             hostname = \"keeper\"\n    control_url = \"http://127.0.0.1:1\"\n    tags = [\"tag:gateway\"]\n  }}\n}}\n\
             endpoint \"http\" \"api\" {{\n  hosts = [\"api.test:80\"]\n  upstream = \"127.0.0.2:9000\"\n}}\n",
            folder.path().display()
        );
        std::fs::write(&policy, text).unwrap();
        let gateway = Command::new(env!("CARGO_BIN_EXE_tailkeep"))
            .args(["gateway", "-c"])
            .arg(&policy)
            .env("PATH", format!("{}:/usr/bin:/bin", folder.path().display()))
            .env("TAILNET_KEY", "tskey-auth-played")
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        Played {
            fake,
            folder,
            gateway,
        }
    }

    fn shown(&self) -> serde_json::Value {
        let socket = self.folder.path().join("state/admin.sock");
        let (_, text) = crate::lab::local::ask(&socket, "GET", "/v1/tailnet", "");
        serde_json::from_str(&text).unwrap_or_default()
    }
}

impl Drop for Played {
    fn drop(&mut self) {
        let _ = self.gateway.kill();
        let _ = self.gateway.wait();
    }
}

#[test]
fn a_login_that_is_not_answered_in_time_is_begun_again() {
    alone(|| {
        let played = Played::start(|fake| {
            fake.state("NeedsLogin");
            fake.own_mood(Mood::Slow);
        });
        let fake = &played.fake;
        // Its prefs are not taken in time: nothing of it is believed.
        until("it is tried again", || fake.starts().len() >= 2);
        assert_eq!(played.shown()["heard"], false);
        fake.own_mood(Mood::Honest);
        until("the key is given", || {
            fake.starts()
                .iter()
                .any(|start| start["AuthKey"] == "tskey-auth-played")
        });
        until("the login is begun", || fake.logins() >= 1);
        let start = fake.starts().pop().unwrap();
        let prefs = &start["UpdatePrefs"];
        assert_eq!(
            (&prefs["Hostname"], &prefs["AdvertiseTags"]),
            (&json!("keeper"), &json!(["tag:gateway"]))
        );
        assert_eq!(prefs["ControlURL"], "http://127.0.0.1:1");
        until("it is seen", || played.shown()["state"] == "NeedsLogin");
        assert_eq!(played.shown()["own"], true);
        // A person who is needed sees where, and why.
        fake.needs_person("https://login.example.com/a/1234", "the key is used up");
        until("the link is shown", || {
            played.shown()["login_url"] == "https://login.example.com/a/1234"
        });
        until("the reason is shown", || {
            played.shown()["problem"] == "the key is used up"
        });
        fake.state("Running");
        fake.tell();
        until("it runs", || played.shown()["state"] == "Running");
        assert_eq!(played.shown()["problem"], serde_json::Value::Null);
        // Lost and found: the prefs are given again, the key is not.
        let before = fake.starts().len();
        fake.own_mood(Mood::Malformed);
        fake.tell();
        until("it is not believed", || played.shown()["heard"] == false);
        fake.own_mood(Mood::Honest);
        until("it runs again", || played.shown()["state"] == "Running");
        let starts = fake.starts();
        assert!(
            starts.len() > before && starts[before..].iter().all(|start| start["AuthKey"] == ""),
            "{starts:?}"
        );
    });
}
