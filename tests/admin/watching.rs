//! `tailkeep approvals watch` at a real terminal: what a person sees at once, and what their lines do.

use std::io::{Read as _, Write as _};
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, Command};
use std::sync::mpsc::{Receiver, channel};
use std::time::Instant;

use nix::sys::termios::{LocalFlags, tcgetattr};
use tailkeep::state::State;
use tailkeep::verdict::approval::{Answer, QuestionState, Queue};

use crate::gateway::{Gateway, folder};
use crate::world::{SOON, World, pending, question};

/// A command in a session and at a terminal of its own, and who sits there.
struct Person {
    child: Child,
    terminal: std::fs::File,
    pieces: Receiver<Vec<u8>>,
    /// What was not looked at yet.
    shown: String,
}

impl Person {
    fn before(command: &Command) -> Person {
        let pair = nix::pty::openpty(None, None).unwrap();
        let slave = || pair.slave.try_clone().unwrap();
        let mut session = Command::new("setsid");
        session
            .arg("--ctty")
            .arg(command.get_program())
            .args(command.get_args());
        for (name, value) in command.get_envs() {
            session.env(name, value.unwrap());
        }
        let child = session
            .stdin(slave())
            .stdout(slave())
            .stderr(slave())
            .spawn()
            .unwrap();
        let terminal = std::fs::File::from(pair.master);
        let mut reader = terminal.try_clone().unwrap();
        let (sender, pieces) = channel();
        std::thread::spawn(move || {
            let mut piece = [0; 4096];
            while let Ok(length @ 1..) = reader.read(&mut piece) {
                if sender.send(piece[..length].to_vec()).is_err() {
                    return;
                }
            }
        });
        Person {
            child,
            terminal,
            pieces,
            shown: String::new(),
        }
    }

    /// Waits for a text, and takes all until behind it.
    #[track_caller]
    fn sees(&mut self, text: &str) -> String {
        let until = Instant::now() + SOON;
        loop {
            if let Some(at) = self.shown.find(text) {
                return self.shown.drain(..at + text.len()).collect();
            }
            let left = until.saturating_duration_since(Instant::now());
            let Ok(piece) = self.pieces.recv_timeout(left) else {
                panic!("not shown: {text}\nbut: {}", self.shown);
            };
            self.shown.push_str(&String::from_utf8_lossy(&piece));
        }
    }

    fn types(&mut self, text: &str) {
        self.terminal.write_all(text.as_bytes()).unwrap();
    }

    fn ends(mut self) -> std::process::ExitStatus {
        let until = Instant::now() + SOON;
        while Instant::now() < until {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        panic!("it goes on: {}", self.shown);
    }
}

impl Drop for Person {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_at_a_terminal_sees_and_decides() {
    let world = World::new().await;
    let mut person = Person::before(&world.command(&["approvals", "watch"]));
    person.sees("`q` ends.");
    // What comes is there at once, and nothing that an agent wrote drives the terminal.
    let first = world.ask("a\u{1b}[2Jb\u{202e}c\u{9b}2J");
    let one = world.pending(1).await[0].id;
    let line = person.sees("(writes)");
    assert!(
        line.contains(&format!("{one} pending")) && line.contains("DELETE /a\\u{1b}[2Jb\\u{202e}c\\u{9b}2J"),
        "{line}"
    );
    assert!(!line.contains(['\u{1b}', '\u{202e}', '\u{9b}']), "{line:?}");
    let second = world.ask("second");
    let two = world.pending(2).await[1].id;
    person.sees("DELETE /second");

    // Nothing is approved that was not shown whole: the first line shows it.
    person.types(&format!("a {one}\n"));
    let whole = person.sees("once more approves it.");
    for part in [
        "the whole of it",
        "\"method\": \"delete\"",
        "alice@example.com",
        "like this  1 pending",
    ] {
        assert!(whole.contains(part), "{part}: {whole}");
    }
    assert_eq!(
        world.queue.show(one).await.unwrap().unwrap().state,
        QuestionState::Pending
    );
    person.types(&format!("a {one}\n"));
    assert!(matches!(first.await.unwrap(), Answer::Allowed { by } if by.len() == 1));
    person.sees(&format!("{one} used"));

    // What is typed while others come is one line still.
    person.types(&format!("d {two} not "));
    let third = world.ask("third");
    let three = world.pending(2).await[1].id;
    person.sees("DELETE /third");
    person.types("today\n");
    let Answer::Denied { reason, .. } = second.await.unwrap() else {
        panic!("it is denied")
    };
    assert_eq!(reason.as_deref(), Some("not today"));
    person.sees(&format!("{two} denied"));

    // No such number, and no such word.
    person.types("a 77\n");
    person.sees("there is no approval 77");
    person.types(&format!("b {three}\n"));
    person.sees("Type a number");
    person.types(&format!("{three}\n"));
    person.sees("| DELETE /third\r\n| the whole of it");
    person.types(&format!("a {three} uses 0\n"));
    person.sees("grant");
    assert_eq!(
        world.queue.show(three).await.unwrap().unwrap().state,
        QuestionState::Pending
    );

    // The terminal is as it was, and Ctrl-C ends it as any other command.
    let mode = tcgetattr(&person.terminal).unwrap().local_flags;
    assert!(
        mode.contains(LocalFlags::ICANON | LocalFlags::ECHO | LocalFlags::ISIG),
        "{mode:?}"
    );
    person.types("\u{3}");
    assert_eq!(
        person.ends().signal(),
        Some(nix::sys::signal::Signal::SIGINT as i32)
    );
    third.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_what_is_typed_ends_it_well() {
    let world = World::new().await;
    for last in ["\u{4}", "q\n"] {
        let mut person = Person::before(&world.command(&["approvals", "watch"]));
        person.sees("`q` ends.");
        person.types(last);
        assert_eq!(person.ends().code(), Some(0), "{last:?}");
    }
    // Where nobody can type, it goes on; and where a program reads, nothing is said to people.
    let watch = crate::streams::Going::start(world.command(&["approvals", "watch"]));
    let asked = world.ask("first");
    assert!(watch.line().contains("DELETE /first"));
    asked.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_of_the_gateway_is_told_and_nothing_is_lost() {
    let folder = folder("  dashboard_listen = \"127.0.0.1:0\"");
    let dir = folder.path().join("state");
    let state = State::open(&dir).unwrap();
    let queue = Queue::new(state.clone());
    let asking = tokio::spawn({
        let queue = queue.clone();
        async move { queue.ask(question("held")).await }
    });
    let id = pending(&queue, 1).await[0].id;
    queue.close();
    asking.abort();
    let _ = asking.await;

    let first = Gateway::start(folder.path());
    let mut command = Command::new(env!("CARGO_BIN_EXE_tailkeep"));
    command
        .args(["approvals", "watch", "--socket"])
        .arg(dir.join("admin.sock"));
    let mut person = Person::before(&command);
    person.sees(&format!("{id} pending"));
    person.types(&format!("{id}\n"));
    person.sees("By this rule at this endpoint");
    drop(first);
    person.sees("the gateway is gone");
    let second = Gateway::start(folder.path());
    person.sees("the gateway is back");
    person.sees(&format!("{id} pending"));
    // It is the same action, which was shown whole before.
    person.types(&format!("a {id}\n"));
    person.sees(&format!("{id} allowed"));
    second.terminate();
    person.sees("the gateway is gone");

    // Another gateway's action of that number is not what was shown.
    drop((queue, state));
    std::fs::remove_dir_all(&dir).unwrap();
    let state = State::open(&dir).unwrap();
    let queue = Queue::new(state.clone());
    let asking = tokio::spawn({
        let queue = queue.clone();
        async move { queue.ask(question("another")).await }
    });
    assert_eq!(pending(&queue, 1).await[0].id, id);
    queue.close();
    asking.abort();
    let _ = asking.await;
    let third = Gateway::start(folder.path());
    person.sees("DELETE /another");
    person.types(&format!("a {id}\n"));
    person.sees("once more approves it.");
    assert_eq!(
        queue.show(id).await.unwrap().unwrap().state,
        QuestionState::Pending
    );
    third.terminate();
}
