//! Watching approvals and following the audit log.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};

use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

use crate::world::{SOON, World};

/// A command that goes on, and its lines.
pub struct Going {
    child: Child,
    lines: Receiver<String>,
}

impl Going {
    pub fn start(mut command: Command) -> Going {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let out: ChildStdout = child.stdout.take().unwrap();
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        Going { child, lines }
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        let line = self.lines.recv_timeout(SOON).expect("no line came");
        serde_json::from_str(&line).unwrap()
    }

    /// Whether no line comes for as long.
    pub fn is_silent(&self, time: std::time::Duration) -> bool {
        self.lines.recv_timeout(time).is_err()
    }

    #[track_caller]
    pub fn line(&self) -> String {
        self.lines.recv_timeout(SOON).expect("no line came")
    }
}

impl Drop for Going {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn approvals_are_watched() {
    let world = World::new().await;
    let first = world.ask("first");
    let one = world.pending(1).await[0].id;
    let watch = Going::start(world.command(&["approvals", "watch", "--format", "json"]));
    let text = Going::start(world.command(&["approvals", "watch"]));
    let is = |held: &Value, id: i64, state: &str| {
        assert_eq!(
            (held["id"].as_i64(), held["state"].as_str()),
            (Some(id), Some(state)),
            "{held}"
        );
    };
    is(&watch.json(), one, "pending");
    assert!(text.line().contains("DELETE /first"));
    let second = world.ask("second");
    let two = world.pending(2).await[1].id;
    is(&watch.json(), two, "pending");
    world.run(&["approvals", "deny", &one.to_string(), "--reason", "no"]);
    is(&watch.json(), one, "denied");
    first.await.unwrap();
    // An agent that leaves.
    second.abort();
    is(&watch.json(), two, "withdrawn");
}

/// A person at a terminal: what a command shows, and what is typed.
struct Person {
    child: Child,
    keys: std::fs::File,
    seen: std::sync::Arc<std::sync::Mutex<String>>,
}

impl Person {
    fn at(mut command: Command) -> Person {
        use std::io::Read as _;
        let terminal = nix::pty::openpty(None, None).unwrap();
        command.stdin(terminal.slave.try_clone().unwrap());
        let child = command.stdout(terminal.slave).spawn().unwrap();
        let mut screen = std::fs::File::from(terminal.master);
        let keys = screen.try_clone().unwrap();
        let seen = std::sync::Arc::<std::sync::Mutex<String>>::default();
        let shown = seen.clone();
        std::thread::spawn(move || {
            let mut piece = [0; 4096];
            // An error is a terminal that is closed.
            while let Ok(count @ 1..) = screen.read(&mut piece) {
                shown
                    .lock()
                    .unwrap()
                    .push_str(&String::from_utf8_lossy(&piece[..count]));
            }
        });
        Person { child, keys, seen }
    }

    fn types(&mut self, line: &str) {
        use std::io::Write as _;
        writeln!(self.keys, "{line}").unwrap();
    }

    async fn sees(&self, text: &str) {
        for _ in 0..2000 {
            if self.seen.lock().unwrap().contains(text) {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        panic!("not seen: {text:?} in {}", self.seen.lock().unwrap());
    }
}

impl Drop for Person {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_decides_in_a_terminal() {
    let world = World::new().await;
    let first = world.ask("first");
    let one = world.pending(1).await[0].id;
    let mut person = Person::at(world.command(&["approvals", "watch"]));
    // It is shown whole: who asks, what, and its facts.
    for text in [
        "DELETE /first",
        "digest ",
        "the whole of it",
        "\"method\": \"delete\"",
        &format!("approve {one}, or deny {one} REASON"),
    ] {
        person.sees(text).await;
    }
    let second = world.ask("second");
    let two = world.pending(2).await.iter().map(|held| held.id).max().unwrap();
    person.sees(&format!("approve {two}, or deny {two} REASON")).await;
    // What is no command says so and ends nothing; a decision without its question is none.
    person.types("approve");
    person.sees("required arguments").await;
    person.types("frobnicate");
    person.sees("unrecognized subcommand").await;
    assert_eq!(world.pending(2).await.len(), 2);
    person.types(&format!("d {one} not on a Friday"));
    person.sees(&format!("{one} denied")).await;
    let answer = format!("{:?}", first.await.unwrap());
    assert!(answer.contains("not on a Friday"), "{answer}");
    person.types(&format!("approve {two}"));
    person.sees(&format!("{two} allowed")).await;
    let answer = format!("{:?}", second.await.unwrap());
    assert!(answer.starts_with("Allowed"), "{answer}");
    person.types("q");
    assert!(person.child.wait().unwrap().success());
    // Who leaves by the end of the input leaves as well.
    let mut person = Person::at(world.command(&["approvals", "watch"]));
    person.sees("What is held is shown as it comes").await;
    person.types("\x04");
    assert!(person.child.wait().unwrap().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_audit_log_is_followed() {
    let world = World::new().await;
    for summary in ["GET /1", "GET /2"] {
        drop(world.judge(summary).await);
    }
    let tail = Going::start(world.command(&["audit", "tail", "-f", "-n", "1", "--format", "json"]));
    assert_eq!(tail.json()["summary"], "GET /2");
    let denied =
        Going::start(world.command(&["audit", "tail", "-f", "--verdict", "deny", "--format", "json"]));
    for n in 3..10 {
        drop(world.judge(&format!("GET /{n}")).await);
        assert_eq!(tail.json()["summary"], format!("GET /{n}"));
    }
    // The filter holds for what comes, too.
    world
        .gate
        .refuse(&crate::world::agent(), "https.api", "no", no())
        .await;
    assert_eq!(denied.json()["summary"], "no");
}

fn no() -> tailkeep::verdict::Refusal {
    tailkeep::verdict::Refusal::new(tailkeep::verdict::Cause::NoRule, "no")
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_are_bounded() {
    let world = World::new().await;
    let mut open = Vec::new();
    for n in 0..tailkeep::admin::stream::WATCHERS_MAX {
        let path = ["/v1/approvals/watch", "/v1/audit/follow"][n % 2];
        let mut stream = UnixStream::connect(world.socket()).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: gateway\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut head = [0; 15];
        stream.read_exact(&mut head).await.unwrap();
        assert_eq!(&head, b"HTTP/1.1 200 OK");
        open.push(stream);
    }
    let (status, answer) = world.unix("GET /v1/approvals/watch", "").await;
    assert_eq!(status, 503, "{answer}");
    // Other requests are served, and a place is given back.
    assert_eq!(world.unix("GET /v1/health", "").await.0, 200);
    open.pop();
    let again = tokio::time::timeout(SOON, async {
        loop {
            let mut stream = UnixStream::connect(world.socket()).await.unwrap();
            stream
                .write_all(b"GET /v1/audit/follow HTTP/1.1\r\nHost: gateway\r\n\r\n")
                .await
                .unwrap();
            let mut head = [0; 12];
            stream.read_exact(&mut head).await.unwrap();
            if &head == b"HTTP/1.1 200" {
                return;
            }
        }
    });
    again.await.expect("no place is given back");
}
