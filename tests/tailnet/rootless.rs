//! The same for a user who is not root: what needs no network device of tailscaled's is run once more, as nobody.

use std::process::Command;

/// As nobody.
fn as_nobody(program: &std::path::Path) -> Command {
    let mut command = Command::new("setpriv");
    command
        .args(["--reuid=nobody", "--regid=nogroup", "--clear-groups", "--"])
        .arg(program);
    command
}

#[test]
fn the_stories_need_no_root() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIPPED: this user is not root, and runs them in any case");
        return;
    }
    let tests = std::env::current_exe().unwrap();
    if !as_nobody(&tests).arg("--list").output().unwrap().status.success() {
        eprintln!("SKIPPED: nobody may not look where this was built");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    std::os::unix::fs::chown(folder.path(), Some(65_534), Some(65_534)).unwrap();
    let output = as_nobody(&tests)
        .args(["stories::", "--nocapture"])
        .env("TMPDIR", folder.path())
        .output()
        .unwrap();
    let said = crate::database::text(&output);
    if said.contains("this machine allows no namespaces") {
        eprintln!("SKIPPED: nobody may make no namespace here");
        return;
    }
    assert!(output.status.success(), "{said}");
    for story in [
        "each_tag_has_its_part",
        "who_is_not_named_reaches_nothing",
        "a_change_of_tag_ends_the_session",
        "a_capability_counts_on_the_open_session",
    ] {
        let told = format!("stories::{story}_without_a_device");
        assert!(said.contains(&told), "{told} is not among them:\n{said}");
    }
}
