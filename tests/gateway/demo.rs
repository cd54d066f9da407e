//! The two stories that `scripts/demo` tells: each of their lines is true here.

use std::process::Command;

use crate::world::can_run;

/// For a story from its first line to its last, seconds.
const STORY_S_MAX: &str = "240";

/// Tells a story with the program of these tests. It cleans up when it is ended, too.
#[track_caller]
fn tell(arguments: &[&str], script: &str) {
    let root = env!("CARGO_MANIFEST_DIR");
    let told = Command::new("timeout")
        .args(["-k", "20", STORY_S_MAX, "scripts/demo"])
        .args(arguments)
        .current_dir(root)
        .env("TAILKEEP_BIN", env!("CARGO_BIN_EXE_tailkeep"))
        .env_remove("TAILKEEP_HOME")
        .output()
        .unwrap();
    let said = [told.stdout, told.stderr].map(|said| String::from_utf8_lossy(&said).into_owned());
    assert!(told.status.success(), "{}\n{}", said[0], said[1]);
    let story = std::fs::read_to_string(format!("{root}/{script}")).unwrap();
    let lines = story.lines().filter(|line| line.starts_with("told ")).count();
    assert!(lines > 15, "{lines} lines");
    assert_eq!(said[0].matches('✓').count(), lines, "{}", said[0]);
    assert!(said[1].contains("Every line is true."), "{}", said[1]);
}

#[test]
fn the_story_of_the_main_job_is_true() {
    if can_run() {
        tell(&[], "scripts/demo");
    }
}

#[test]
fn the_story_of_the_tailnet_is_true() {
    if can_run() {
        tell(&["--tailnet"], "scripts/demo.d/tailnet");
    }
}

/// `secrets_in` of the stories.
#[track_caller]
fn secrets_in(command: &str) -> String {
    let script = format!(". scripts/demo.d/story.sh; SECRETS=(s3cret); secrets_in {command}");
    let mut bash = Command::new("bash");
    bash.args(["-o", "pipefail", "-c", &script])
        .current_dir(env!("CARGO_MANIFEST_DIR"));
    String::from_utf8(bash.output().unwrap().stdout).unwrap()
}

#[test]
fn no_secret_is_only_what_a_command_that_worked_has_shown() {
    assert_eq!(secrets_in("printf 'a\\nb\\n'"), "none in 2 lines\n");
    assert_eq!(secrets_in("echo my s3cret"), "a secret is in it, or is empty\n");
    assert_eq!(secrets_in("sh -c 'echo a; exit 1'"), "it failed: a\n");
    assert_eq!(secrets_in("true"), "it says nothing\n");
}
