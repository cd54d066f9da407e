//! The agent's machine: what `tailkeep run` keeps of its command, and what it does without root.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::world::{TOKEN, World, can_run, until};

const POLICY: &str = "endpoint \"https\" \"api\" { hosts = [\"api.test\"] }\n\
    credential \"bearer_token\" \"pat\" {\n  endpoint = https.api\n  secret = env(\"TEST_TOKEN\")\n}\n\
    profile \"dev\" {\n  peers = [\"agent\"]\n  credentials = [bearer_token.pat]\n}\n";

#[test]
fn a_command_ends_as_it_would_without_us() {
    if !can_run() {
        return;
    }
    let world = World::start(POLICY);
    for (args, want) in [
        (&["true"][..], 0),
        (&["sh", "-c", "exit 7"], 7),
        (&["sh", "-c", "kill -TERM $$"], 128 + 15),
        (&["sh", "-c", "kill -KILL $$"], 128 + 9),
        (&["/no/such/program"], 127),
        (&["/etc/passwd"], 126),
    ] {
        let status = world.agent("agent", args).output().unwrap().status;
        assert_eq!(status.code(), Some(want), "{args:?}");
    }
    let many = world.run(&["head", "-c", "3000000", "/dev/zero"]);
    assert_eq!(many.len(), 3_000_000);
    // Whoever is killed cannot clear up: there is nothing lying about while it runs.
    let empty = world.folder.path().join("temporary");
    std::fs::create_dir(&empty).unwrap();
    let listed = world
        .agent("agent", &["ls", "-A", empty.to_str().unwrap()])
        .env("TMPDIR", &empty)
        .output()
        .unwrap();
    assert!(listed.status.success() && listed.stdout.is_empty(), "{listed:?}");
}

#[test]
fn roots_are_added_to_and_no_secret_is_there() {
    if !can_run() {
        return;
    }
    let world = World::start(POLICY);
    let own = world.folder.path().join("company.pem");
    std::fs::write(&own, "the company's own roots\n").unwrap();
    let output = world
        .agent(
            "agent",
            &["sh", "-c", "env; cat /proc/self/environ \"$SSL_CERT_FILE\""],
        )
        .env("REQUESTS_CA_BUNDLE", &own)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        said.contains("the company's own roots"),
        "REQUESTS_CA_BUNDLE was lost"
    );
    assert!(
        said.matches("BEGIN CERTIFICATE").count() > 1,
        "the system's roots were lost"
    );
    assert!(said.contains("{{pat}}") && !said.contains(TOKEN));
}

/// Runs as nobody, with a TUN device that anyone may open, in mounts of its own.
const AS_NOBODY: &str = "mount -t tmpfs none /mnt && mknod /mnt/tun c 10 200 && chmod \"$MODE\" /mnt/tun \
    && mount --bind /mnt/tun /dev/net/tun && exec setpriv --reuid=65534 --regid=65534 --clear-groups \"$@\"";

#[test]
fn no_root_is_needed_and_what_is_missing_is_said_in_a_line() {
    if !can_run() || !nix::unistd::geteuid().is_root() {
        eprintln!("SKIPPED: not root, so every other test here shows it already");
        return;
    }
    let world = World::start(&POLICY.replace("[\"agent\"]", "[\"agent\", \"nobody\"]"));
    let home = world.folder.path().join("home");
    std::fs::create_dir(&home).unwrap();
    chown(&home, Some(65534), Some(65534)).unwrap();
    std::fs::set_permissions(world.folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    // Where this was built, nobody may look.
    let program = world.folder.path().join("tailkeep");
    std::fs::copy(env!("CARGO_BIN_EXE_tailkeep"), &program).unwrap();
    let nobody = |mode: &str, args: &[&str]| {
        let mut command = Command::new("unshare");
        command
            .args(["-m", "sh", "-c", AS_NOBODY, "sh"])
            .arg(&program)
            .args(args)
            .env("TAILKEEP_HOME", home.join("tailkeep"))
            .env("HOME", &home)
            .env("MODE", mode)
            .current_dir("/");
        command.output().unwrap()
    };
    let added = world.operator(&["peers", "add", "nobody", "--format", "json"]);
    let added: serde_json::Value = serde_json::from_str(&added).unwrap();
    let joined = nobody("666", &["join", added["url"].as_str().unwrap()]);
    assert!(joined.status.success(), "{joined:?}");
    let shown = "id -u; cat /etc/resolv.conf; getent ahostsv6 api.test; ip -o addr show";
    let ran = nobody("666", &["run", "--", "sh", "-c", shown]);
    let said = String::from_utf8_lossy(&ran.stdout);
    assert!(ran.status.success(), "{ran:?}");
    assert!(said.starts_with("65534\n"), "{said}");
    // Names by the gateway, with addresses of IPv6; and both families of its own.
    for part in [
        "nameserver 10.91.0.1",
        "STREAM api.test",
        "inet 10.91.0.",
        "inet6 fd91::",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    let refused = nobody("600", &["run", "--", "true"]);
    let said = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(125), "{said}");
    assert!(said.contains("chmod 666 /dev/net/tun"), "{said}");
}

fn keys(world: &World) -> Vec<Value> {
    let listed: Value = serde_json::from_str(&world.operator(&["peers", "--format", "json"])).unwrap();
    listed["peers"].as_array().unwrap().clone()
}

#[test]
fn runs_at_once_have_a_key_each_and_give_it_back() {
    if !can_run() {
        return;
    }
    let world = World::start(POLICY);
    let own = [
        "sh",
        "-c",
        "ip -o -4 addr show | grep -o '10\\.91[0-9.]*'; getent hosts api.test; cat",
    ];
    let begin = || {
        let mut child = world
            .agent("agent", &own)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let address = lines.next().unwrap().unwrap();
        assert!(lines.next().unwrap().unwrap().contains("api.test"));
        (child, address)
    };
    let (mut one, first) = begin();
    let (mut two, second) = begin();
    let (mut three, third) = begin();
    assert!(
        first != second && second != third && first != third,
        "{first} {second} {third}"
    );
    assert_eq!(keys(&world).len(), 3);
    assert!(keys(&world).iter().all(|key| key["peer"] == "agent"));
    // The one that has the enrolment's own key may end first.
    for child in [&mut one, &mut two] {
        drop(child.stdin.take());
        assert!(child.wait().unwrap().success());
    }
    until("one key has gone", || keys(&world).len() == 2);
    drop(three.stdin.take());
    assert!(three.wait().unwrap().success());
    until("the keys have gone", || keys(&world).len() == 1);
    until("the handshake is noted", || keys(&world)[0]["seen_us"].is_i64());
}

#[test]
fn what_a_command_leaves_behind_has_no_network() {
    if !can_run() {
        return;
    }
    let world = World::start(POLICY);
    let said = world.folder.path().join("said");
    let left = format!(
        "(while getent hosts api.test; do sleep 0.05; done; echo gone > {}) > /dev/null 2>&1 &",
        said.display()
    );
    assert!(
        world
            .agent("agent", &["sh", "-c", &left])
            .status()
            .unwrap()
            .success()
    );
    until("the process that was left has lost its names", || said.exists());
}

#[test]
fn a_run_that_is_killed_leaves_nothing() {
    if !can_run() {
        return;
    }
    let world = World::start(POLICY);
    let temporary = world.folder.path().join("temporary");
    std::fs::create_dir(&temporary).unwrap();
    let left = || std::fs::read_dir(&temporary).unwrap().count();
    let shown = ["sh", "-c", "echo up; read go; cat /etc/resolv.conf; read go"];
    let mut child = world
        .agent("agent", &shown)
        .env("TMPDIR", &temporary)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "up");
    assert_eq!(left(), 0);
    // What was mounted from there is still there.
    child.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
    assert_eq!(lines.next().unwrap().unwrap(), "nameserver 10.91.0.1");
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(left(), 0);
}

#[test]
fn a_changed_policy_reaches_the_agent_and_leaving_reaches_the_gateway() {
    if !can_run() {
        return;
    }
    let world = World::start(POLICY);
    let env = || world.operator(&["env", "--format", "json"]);
    assert!(!env().contains("PH_other_one"));
    let more = "credential \"bearer_token\" \"other\" {\n  endpoint = https.api\n  secret = env(\"TEST_TOKEN\")\n}\n";
    let held = POLICY.replace(
        "[bearer_token.pat]",
        "[bearer_token.pat, { placeholder = \"PH_other_one\", credential = bearer_token.other }]",
    );
    world.rewrite(&format!("{more}{held}"), "a new policy is in force");
    assert!(env().contains("PH_other_one"), "{}", env());
    assert!(world.run(&["sh", "-c", "echo $OTHER"]).contains("PH_other_one"));

    assert!(
        world
            .operator(&["leave"])
            .contains("has removed this machine's key")
    );
    assert!(keys(&world).is_empty());
    let again = world.agent("agent", &["true"]).output().unwrap();
    assert_eq!(again.status.code(), Some(125));
    assert!(String::from_utf8_lossy(&again.stderr).contains("not enrolled"));

    // The operator removed it: nothing that it signs is good any more.
    world.enrol("agent");
    world.operator(&["peers", "remove", "agent"]);
    let left = world.operator(&["leave"]);
    assert!(
        left.contains("not told") && left.contains("not enrolled"),
        "{left}"
    );

    world.enrol("agent");
    world.kill();
    assert!(
        world
            .operator(&["leave"])
            .contains("`tailkeep peers remove agent`")
    );
}
