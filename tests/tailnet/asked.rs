//! `tailkeep setup` asks before it does anything, whoever is there to be asked: in a real terminal.

use std::process::Stdio;
use std::sync::Arc;

use crate::database::text;
use crate::lab::Machine;

const POLICY: &str =
    "gateway {\n tailscale {\n socket = \"/run/none.sock\"\n routes = [\"10.20.0.0/16\"]\n }\n}\n";

/// Runs a command in a terminal of its own, types the answer once it is asked, and says what was shown, and how it
/// ended. Whoever types nothing hangs up.
const PERSON: &str = r#"
import os, pty, sys, time
answer = sys.argv[1].encode()
child, terminal = pty.fork()
if child == 0: os.execvp(sys.argv[2], sys.argv[2:])
shown = b""
def read():
    global shown
    try: got = os.read(terminal, 4096)
    except OSError: got = b""
    shown += got
    return got
while b"Do this? [y/N] " not in shown:
    if not read(): break
os.write(terminal, answer or b"\x04")
while read(): pass
print(shown.decode())
print("ended", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"#;

struct Asked {
    machine: Arc<Machine>,
    _outer: Machine,
    folder: tempfile::TempDir,
}

impl Asked {
    /// A machine whose `/etc` and `/run` are its own, without systemd.
    fn new() -> Option<Asked> {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("SKIPPED: setup needs root");
            return None;
        }
        let outer = Machine::outer()?;
        let folder = tempfile::tempdir().unwrap();
        let machine = outer.inner(folder.path());
        assert_eq!(machine.says("mount", &["-t", "tmpfs", "tmpfs", "/run"]), "");
        std::fs::write(folder.path().join("policy.hcl"), POLICY).unwrap();
        Some(Asked {
            machine: Arc::new(machine),
            _outer: outer,
            folder,
        })
    }

    fn words(&self, rest: &[&str]) -> Vec<String> {
        let config = self.folder.path().join("policy.hcl").display().to_string();
        let words = [
            env!("CARGO_BIN_EXE_tailkeep"),
            "setup",
            "--user",
            "nobody",
            "-c",
            &config,
        ];
        words.iter().chain(rest).map(|word| (*word).to_owned()).collect()
    }

    /// What is shown in a terminal in which this is typed; nothing is its end.
    fn answers(&self, typed: &str, rest: &[&str]) -> String {
        let mut person = self.machine.command("timeout");
        person
            .args(["60", "python3", "-c", PERSON, typed])
            .args(self.words(rest));
        text(&person.output().unwrap())
    }

    /// What is there of it: files, the table, the local route.
    fn there(&self) -> String {
        let look = "ls /etc/tailkeep /etc/systemd/system/tailkeep* /run/tailkeep 2>/dev/null; nft list tables; \
                    ip route show table local 10.78.0.0/16";
        self.machine.says("sh", &["-c", look])
    }
}

#[test]
fn setup_does_nothing_before_somebody_has_said_yes() {
    let Some(asked) = Asked::new() else { return };
    let nothing = asked.there();
    assert_eq!(nothing, "");
    for typed in ["n\n", "\n", "N\n", "yes, if it must be\n", "yeah\n", ""] {
        let said = asked.answers(typed, &[]);
        assert!(
            said.contains("write /etc/tailkeep/intercept.nft"),
            "it is shown: {said}"
        );
        assert!(
            said.contains("nothing was done") && said.contains("\nended 1\n"),
            "{typed:?}: {said}"
        );
        assert_eq!(asked.there(), nothing, "{typed:?}");
    }
    // Nobody is there: a yes on a pipe is not somebody's.
    let mut alone = asked.machine.command("sh");
    let command = format!("yes | {}", asked.words(&[]).join(" "));
    let output = alone
        .args(["-c", &command])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = text(&output);
    assert!(
        !output.status.success() && said.contains("nobody is there to be asked"),
        "{said}"
    );
    assert_eq!(asked.there(), nothing);

    let said = asked.answers("y\n", &[]);
    assert!(said.contains("\nended 0\n") && said.contains("Then:"), "{said}");
    let there = asked.there();
    for part in [
        "intercept.nft",
        "tailkeep.service",
        "table inet tailkeep",
        "local 10.78.0.0/16",
    ] {
        assert!(there.contains(part), "{part}: {there}");
    }
    // To take it away is asked as well.
    let said = asked.answers("n\n", &["--remove"]);
    assert!(
        said.contains("remove /etc/tailkeep/intercept.nft") && said.contains("\nended 1\n"),
        "{said}"
    );
    assert_eq!(asked.there(), there);
    let said = asked.answers("yes\n", &["--remove"]);
    assert!(said.contains("\nended 0\n"), "{said}");
    let left = asked.there();
    assert!(
        !left.contains("nft") && !left.contains("table") && !left.contains("local"),
        "{left}"
    );
}
