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
