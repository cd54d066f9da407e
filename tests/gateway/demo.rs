//! The two stories that `scripts/demo` tells: each of their lines is true here, and so is what it says to try next.

use std::process::{Command, Stdio};

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

/// Says nothing of the chain of hashes, and is the program otherwise.
const LIES: &str = "#!/bin/sh\ncase \"$*\" in 'audit verify') exit 0 ;; esac\nexec \"$TRUE_BIN\" \"$@\"\n";

#[test]
fn a_story_with_a_line_that_is_not_true_fails_and_says_which() {
    if !can_run() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let program = folder.path().join("tailkeep");
    std::fs::write(&program, LIES).unwrap();
    std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let told = Command::new("timeout")
        .args(["-k", "20", STORY_S_MAX, "scripts/demo", "--keep"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env("TAILKEEP_BIN", &program)
        .env("TRUE_BIN", env!("CARGO_BIN_EXE_tailkeep"))
        .env("TMPDIR", folder.path())
        .env_remove("TAILKEEP_HOME")
        .output()
        .unwrap();
    let said = [told.stdout, told.stderr].map(|said| String::from_utf8_lossy(&said).into_owned());
    assert_eq!(told.status.code(), Some(1), "{}\n{}", said[0], said[1]);
    assert_eq!(said[0].matches('✗').count(), 1, "{}", said[0]);
    assert!(
        said[0].contains("✗\u{1b}[0m and its chain of hashes holds"),
        "{}",
        said[0]
    );
    assert!(said[1].contains("a line of the story is not true"), "{}", said[1]);
    assert!(!said[1].contains("Every line is true."), "{}", said[1]);
    // What was to be kept is not: there is nothing to try.
    let left = std::fs::read_dir(folder.path()).unwrap().flatten();
    let left: Vec<_> = left.map(|entry| entry.file_name()).collect();
    assert_eq!(left, ["tailkeep"]);
}

/// Does what `--keep` says to try, as a person would: `said KEY` is the line of it that has KEY.
const TRIES: &str = r#"
set -eu
said() { grep -F -- "$1" "$SAID" | head -1; }
try() { echo "$1"; eval "$1"; }
eval "$(said 'export TAILKEEP_HOME')"
echo "select 'rows', count(*) from orders" | try "$(said 'run -- psql')"
echo "drop table orders" | try "$(said 'run -- psql')" || true
eval "exec $(said 'approvals watch')" < /dev/null > "$SAID.watched" & watching=$!
tailkeep run -- curl -sS -X DELETE -H 'Authorization: Bearer {{kube_token}}' \
    https://cluster.internal:6443/api/v1/namespaces/shop/pods/web-2 > "$SAID.deleted" & deleting=$!
until id=$(tailkeep approvals list --format json | grep -o '"id":[0-9]*' | head -1) && [ -n "$id" ]; do sleep 0.1; done
tailkeep approvals approve "${id#*:}"
wait $deleting; cat "$SAID.deleted"; echo
until grep -q pod-deletion "$SAID.watched"; do kill -0 $watching; sleep 0.1; done
echo watched; kill $watching
eval "exec $(said 'audit tail')" < /dev/null > "$SAID.tailed" & tailing=$!
until grep -q 'select .rows' "$SAID.tailed"; do kill -0 $tailing; sleep 0.1; done
echo tailed; kill $tailing
EDITOR='sed -i s/.&&.!sql.has_where//'; try "$(said '$EDITOR')"
until [[ $(tailkeep run -- psql -c 'delete from orders where id = 2' \
    'host=orders.internal user=me dbname=postgres' 2>&1 || true) = *'DELETE needs'* ]]; do sleep 0.1; done
echo changed
"#;

/// How a person ends it.
const ENDS: &str = r#"eval "$(sed -n 's/^To end it: //p' "$SAID")""#;

/// The processes whose arguments or folder have this text.
fn processes_of(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let arguments = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let folder = std::fs::read_link(entry.path().join("cwd")).unwrap_or_default();
        let shown = format!("{} {}", String::from_utf8_lossy(&arguments), folder.display());
        if shown.contains(text) {
            found.push(shown);
        }
    }
    found
}

#[test]
fn what_is_kept_does_what_it_says_and_ends_with_nothing_left() {
    if !can_run() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let said = folder.path().join("said");
    // A file, not a pipe: what is kept has its end still.
    let out = std::fs::File::create(&said).unwrap();
    let status = Command::new("timeout")
        .args(["-k", "20", STORY_S_MAX, "scripts/demo", "--keep"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env("TAILKEEP_BIN", env!("CARGO_BIN_EXE_tailkeep"))
        .env("TMPDIR", folder.path())
        .env_remove("TAILKEEP_HOME")
        .stdin(Stdio::null())
        .stderr(out.try_clone().unwrap())
        .stdout(out)
        .status()
        .unwrap();
    let text = std::fs::read_to_string(&said).unwrap();
    assert!(status.success(), "{text}");
    let run = |script: &str| {
        let output = Command::new("timeout")
            .args(["-k", "5", "120", "bash", "-o", "pipefail", "-c", script])
            .env("SAID", &said)
            .env("TMPDIR", folder.path())
            .current_dir(folder.path())
            .output()
            .unwrap();
        let lines = String::from_utf8_lossy(&output.stdout).into_owned();
        let failed = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.success(), lines, failed)
    };
    let (_, tried, failed) = run(TRIES);
    let (is_ended, _, end) = run(ENDS);
    for part in ["rows", "allowed", "Success", "watched", "tailed", "changed"] {
        assert!(tried.contains(part), "{part}: {tried}\n{failed}");
    }
    assert!(failed.contains("the schema of production"), "{tried}\n{failed}");
    assert!(is_ended, "{end}");
    let kept = std::fs::read_dir(folder.path()).unwrap().flatten();
    let left: Vec<_> = kept
        .map(|entry| entry.file_name())
        .filter(|name| !name.to_string_lossy().starts_with("said"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
    assert_eq!(processes_of(folder.path().to_str().unwrap()), [""; 0]);
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
