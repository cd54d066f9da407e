//! The real program: what it refuses to start with, and what a restart keeps.

use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::Receiver;
use std::time::Instant;

use tailkeep::state::State;
use tailkeep::verdict::approval::{Answer, QuestionState, Queue};

use crate::streams::Going;
use crate::world::{SOON, mode, pending, question};

/// What `env("TAILKEEP_TEST_SECRET")` is for the gateway.
pub const SECRET: &str = "the-gateways-own-5ecret";

/// A running `tailkeep gateway`; killed when dropped.
pub struct Gateway {
    child: Child,
    lines: Receiver<String>,
}

impl Gateway {
    fn command(folder: &Path) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tailkeep"));
        command.arg("gateway").arg("-c").arg(folder.join("policies"));
        command.env("TAILKEEP_TEST_SECRET", SECRET);
        command
            .current_dir(folder)
            .stderr(Stdio::piped())
            .stdin(Stdio::null());
        command
    }

    /// Starts it, and waits until its API answers.
    pub fn start(folder: &Path) -> Gateway {
        let mut child = Self::command(folder).spawn().unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap());
        let (sender, told) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            for line in lines.lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        let gateway = Gateway { child, lines: told };
        gateway.says("the admin page and its API are served");
        gateway
    }

    /// Waits for its next line with this text.
    #[track_caller]
    pub fn says(&self, text: &str) {
        let until = Instant::now() + SOON;
        let next = || {
            self.lines
                .recv_timeout(until.saturating_duration_since(Instant::now()))
        };
        while !next().expect("the gateway does not say it").contains(text) {}
    }

    pub fn terminate(mut self) {
        let pid = nix::unistd::Pid::from_raw(self.child.id() as i32);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
        let began = Instant::now();
        while self.child.try_wait().unwrap().is_none() {
            assert!(began.elapsed() < SOON, "it does not end");
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A folder with a `gateway` block of these lines.
pub fn folder(gateway: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("policies")).unwrap();
    let text = format!(
        "gateway {{\n  state_dir = \"{}\"\n{gateway}\n}}\n",
        folder.path().join("state").display()
    );
    std::fs::write(folder.path().join("policies/gateway.hcl"), text).unwrap();
    folder
}

const LOOPBACK: &str = "  dashboard_listen = \"127.0.0.1:0\"";

#[track_caller]
fn refuses(folder: &Path, want: &str) {
    let output = Gateway::command(folder).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains(want), "{said}");
}

#[test]
fn an_unsafe_start_is_refused() {
    for address in ["0.0.0.0:0", "192.0.2.1:0", "[::]:0"] {
        let folder = folder(&format!("  dashboard_listen = \"{address}\""));
        refuses(folder.path(), "is not a loopback address");
        assert!(!folder.path().join("state/admin.sock").exists());
    }
    let state = folder(LOOPBACK);
    let token = state.path().join("state/operator.token");
    std::fs::create_dir(state.path().join("state")).unwrap();
    std::fs::set_permissions(state.path().join("state"), std::fs::Permissions::from_mode(0o700)).unwrap();
    for (text, open_to, want) in [
        ("", 0o600, "too short"),
        ("0123456789", 0o600, "too short"),
        (&"x".repeat(5000), 0o600, "too long"),
        (&"x".repeat(64), 0o644, "mode 0600"),
    ] {
        std::fs::write(&token, text).unwrap();
        std::fs::set_permissions(&token, std::fs::Permissions::from_mode(open_to)).unwrap();
        refuses(state.path(), want);
    }
    std::fs::remove_file(&token).unwrap();
    std::os::unix::fs::symlink("/dev/null", &token).unwrap();
    refuses(state.path(), "mode 0600");
}

#[test]
fn a_state_folder_has_one_gateway() {
    let folder = folder(LOOPBACK);
    let first = Gateway::start(folder.path());
    refuses(folder.path(), "another gateway uses the state folder");
    // The first one is not harmed, and a killed one leaves no lock.
    let health = Command::new(env!("CARGO_BIN_EXE_tailkeep"))
        .args(["peers", "list", "--socket"])
        .arg(folder.path().join("state/admin.sock"))
        .output()
        .unwrap();
    assert!(health.status.success(), "{health:?}");
    drop(first);
    Gateway::start(folder.path()).terminate();
}

#[tokio::test(flavor = "multi_thread")]
async fn held_actions_survive_a_restart() {
    let folder = folder(LOOPBACK);
    let dir = folder.path().join("state");
    // An agent asks, and the gateway that held its connection ends.
    let state = State::open(&dir).unwrap();
    let queue = Queue::new(state.clone());
    let asking = tokio::spawn({
        let queue = queue.clone();
        async move { queue.ask(question("held")).await }
    });
    let id = pending(&queue, 1).await[0].id;
    queue.close();
    asking.abort();
    assert!(asking.await.unwrap_err().is_cancelled());
    assert_eq!(
        queue.show(id).await.unwrap().unwrap().state,
        QuestionState::Pending
    );

    let first = Gateway::start(folder.path());
    let socket = dir.join("admin.sock");
    assert_eq!(
        (
            mode(&socket),
            mode(&dir.join("state.db")),
            mode(&dir.join("audit.db"))
        ),
        (0o600, 0o600, 0o600)
    );
    let command = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tailkeep"));
        command.args(args).arg("--socket").arg(&socket);
        command
    };
    let watch = Going::start(command(&["approvals", "watch", "--format", "json"]));
    assert_eq!(watch.json()["id"], id);
    // Killed, and told to end: the question is still there, and the watch finds it again.
    drop(first);
    let second = Gateway::start(folder.path());
    assert_eq!(watch.json()["state"], "pending");
    second.terminate();
    let third = Gateway::start(folder.path());
    assert_eq!(watch.json()["state"], "pending");
    let approved = command(&["approvals", "approve", &id.to_string()])
        .output()
        .unwrap();
    assert!(approved.status.success(), "{approved:?}");
    let state_now = watch.json();
    assert_eq!(state_now["state"], "allowed", "{state_now}");
    third.terminate();

    // The agent's retry of the same action takes the decision, once.
    let answer = queue.ask(question("held")).await.unwrap();
    assert!(matches!(answer, Answer::Allowed { by } if by.len() == 1));
    assert_eq!(queue.show(id).await.unwrap().unwrap().state, QuestionState::Used);
}

#[test]
fn the_stack_is_the_one_that_is_asked_for() {
    // Which of both serves is said at the start; `kernel` is never silently something else.
    let refused = "`stack = \"kernel\"`";
    for (stack, want) in [
        ("userspace", &["stack=\"userspace\" why=\"configured\""][..]),
        ("kernel", &["stack=\"kernel\"", refused]),
        ("auto", &["stack=\"kernel\"", "stack=\"userspace\" why=no "]),
    ] {
        let folder = folder(&format!(
            "{LOOPBACK}\n  wireguard {{\n listen = \"127.0.0.1\"\n listen_port = 0\n stack = \"{stack}\"\n }}"
        ));
        let mut child = Gateway::command(folder.path()).spawn().unwrap();
        let (sender, lines) = std::sync::mpsc::channel();
        let reader = BufReader::new(child.stderr.take().unwrap());
        std::thread::spawn(move || {
            reader
                .lines()
                .map_while(Result::ok)
                .try_for_each(|line| sender.send(line))
        });
        let began = Instant::now();
        let mut all = String::new();
        while !want.iter().any(|want| all.contains(want)) {
            let left = SOON.saturating_sub(began.elapsed());
            let line = lines
                .recv_timeout(left)
                .unwrap_or_else(|_| panic!("{stack}: {all}"));
            all.push_str(&line);
        }
        let _ = child.kill();
        child.wait().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_retention_is_that_of_the_policy_in_force() {
    use tailkeep::audit::log::Log;
    use tailkeep::audit::read::Reader;
    let folder = folder(&format!(
        "{LOOPBACK}\n  audit {{\n keep_days = 0\n bytes_max = 0\n }}"
    ));
    let dir = folder.path().join("state");
    State::open(&dir).unwrap();
    let path = dir.join("audit.db");
    let log = Log::open(&path).unwrap();
    let fill = async |count: usize, at_us: i64| {
        for _ in 0..count {
            let mut record = crate::world::record(&"x".repeat(3000));
            record.at_us = at_us;
            log.append(record).await.unwrap();
        }
    };
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap();
    fill(20, 1).await;
    fill(600, i64::try_from(now.as_micros()).unwrap()).await;
    drop(log);
    let _gateway = Gateway::start(folder.path());
    let removed = || {
        let verified = Reader::open(&path).unwrap().verify().unwrap();
        assert_eq!(verified.fault, None);
        verified.removed
    };
    // Kept for ever, then by age, then by size: each reload is applied to what is there.
    std::thread::sleep(std::time::Duration::from_millis(300));
    assert_eq!(removed(), 0);
    for (audit, enough) in [
        ("keep_days = 1\n bytes_max = 0", 20..=20),
        ("keep_days = 0\n bytes_max = 1000000", 300..=370),
    ] {
        let file = folder.path().join("policies/gateway.hcl");
        let text = std::fs::read_to_string(&file).unwrap();
        let start = text.find("audit {").unwrap();
        let end = start + text[start..].find('}').unwrap();
        std::fs::write(
            &file,
            format!("{}audit {{\n {audit}\n {}", &text[..start], &text[end..]),
        )
        .unwrap();
        let began = Instant::now();
        while !enough.contains(&removed()) {
            assert!(began.elapsed() < SOON, "{audit}: {} removed", removed());
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
    }
}
