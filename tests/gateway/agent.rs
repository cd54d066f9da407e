//! The agent's machine: what `tailkeep run` keeps of its command, and what it does without root.

use std::os::unix::fs::{PermissionsExt as _, chown};
use std::process::Command;

use crate::world::{TOKEN, World, can_run};

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
    let world = World::start(POLICY);
    let home = world.folder.path().join("home");
    std::fs::create_dir(&home).unwrap();
    chown(&home, Some(65534), Some(65534)).unwrap();
    std::fs::set_permissions(world.folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let nobody = |mode: &str, args: &[&str]| {
        let mut command = Command::new("unshare");
        command
            .args(["-m", "sh", "-c", AS_NOBODY, "sh", env!("CARGO_BIN_EXE_tailkeep")])
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
    let ran = nobody("666", &["run", "--", "sh", "-c", "id -u; cat /etc/resolv.conf"]);
    let said = String::from_utf8_lossy(&ran.stdout);
    assert!(ran.status.success(), "{ran:?}");
    assert!(
        said.starts_with("65534\n") && said.contains("nameserver 10.91.0.1"),
        "{said}"
    );
    let refused = nobody("600", &["run", "--", "true"]);
    let said = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(125), "{said}");
    assert!(said.contains("chmod 666 /dev/net/tun"), "{said}");
}
