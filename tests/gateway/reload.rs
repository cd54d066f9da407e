//! A reload is the law of open connections, and never half a policy.

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;
use std::sync::mpsc::{Receiver, channel};
use std::time::Instant;

use crate::http::policy;
use crate::server::{BOTH, Service};
use crate::world::{SOON, World, can_run};

const ALL: &str = "rule \"all\" {\n endpoint = https.api\n verdict = \"allow\"\n}";
const NONE: &str = "rule \"all\" {\n endpoint = https.api\n verdict = \"deny\"  \n}";

/// One connection that is kept alive, and one that was upgraded; a request or a word a second.
const AGENT: &str = r#"
import http.client, socket, ssl, sys, threading, time
context = ssl.create_default_context()
def connect():
    return context.wrap_socket(socket.create_connection(("api.test", 443), 20), server_hostname="api.test")
def say(*words):
    # In one piece: print writes each word by itself, and there are three threads.
    sys.stdout.write(" ".join(words) + "\n"); sys.stdout.flush()
def head(s):
    got = b""
    while b"\r\n\r\n" not in got:
        piece = s.recv(1)
        if not piece: return "closed"
        got += piece
    return got.split(b" ")[1].decode()
def kept():
    c = http.client.HTTPSConnection("api.test", context=context, timeout=20)
    c.connect(); c.auto_open = 0
    while True:
        try:
            c.request("GET", "/1k"); r = c.getresponse(); r.read(); said = str(r.status)
        except (OSError, http.client.HTTPException): said = "closed"
        say("kept", said)
        if said == "closed": return
        time.sleep(0.2)
def stream():
    s = connect()
    s.sendall(b"GET /upgrade HTTP/1.1\r\nHost: api.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
              b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
    say("stream", head(s))
    try:
        while s.recv(1000): pass
    except OSError: pass
    say("stream closed")
def events():
    s = connect()
    s.sendall(b"GET /events HTTP/1.1\r\nHost: api.test\r\n\r\n")
    say("events", head(s))
    got = b""
    try:
        while True:
            piece = s.recv(1000)
            if not piece: break
            got += piece
    except TimeoutError: got = None
    except OSError: pass
    say("events", "open" if got is None else "whole" if got.endswith(b"0\r\n\r\n") else "cut")
threading.Thread(target=kept).start()
threading.Thread(target=events).start()
threading.Thread(target=stream).start()
"#;

pub fn start(world: &World) -> (std::process::Child, Receiver<String>) {
    let mut child = world
        .agent("agent", &["python3", "-c", AGENT])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let reader = BufReader::new(child.stdout.take().unwrap());
    let (sender, lines) = channel();
    std::thread::spawn(move || {
        reader
            .lines()
            .map_while(Result::ok)
            .try_for_each(|line| sender.send(line))
    });
    (child, lines)
}

/// Reads lines until each of `wanted` was there.
#[track_caller]
pub fn hears(lines: &Receiver<String>, wanted: &[&str]) {
    let until = Instant::now() + SOON;
    let mut left: Vec<&str> = wanted.to_vec();
    let mut heard = Vec::new();
    while !left.is_empty() {
        let line = lines.recv_timeout(until.saturating_duration_since(Instant::now()));
        let line = line.unwrap_or_else(|_| panic!("not heard: {left:?}, but {heard:?}"));
        if let Some(at) = left.iter().position(|want| *want == line) {
            left.remove(at);
        }
        heard.push(line);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn open_connections_are_judged_anew() {
    if !can_run() {
        return;
    }
    let service = Service::start(BOTH).await;
    let world = World::start(&policy(&service, ALL));
    let (mut child, lines) = start(&world);
    hears(&lines, &["kept 200", "stream 101", "events 200"]);
    // Denied now: the kept connection is told so at its next request, what lasts is ended, and does
    // not look as if it were whole.
    world.rewrite(&policy(&service, NONE), "a new policy is in force");
    hears(&lines, &["kept 403", "stream closed", "events cut"]);
    // The profile is another's: the connection itself ends.
    let moved = policy(&service, ALL).replace("peers = [\"agent\"]", "peers = [\"other\"]");
    world.rewrite(&moved, "a new policy is in force");
    hears(&lines, &["kept closed"]);
    child.wait().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn contents_are_what_counts_and_half_a_policy_is_none() {
    if !can_run() {
        return;
    }
    let service = Service::start(BOTH).await;
    let world = World::start(&policy(&service, ALL));
    let (mut child, lines) = start(&world);
    hears(&lines, &["kept 200", "stream 101"]);
    // The same length and the same time of change.
    world.rewrite_unseen(&policy(&service, &NONE.replace("  \n", " \n")));
    hears(&lines, &["kept 403"]);
    world.hang_up("the configuration is unchanged");
    // A broken one is reported with its place, and changes nothing; by SIGHUP it is loaded anew, and reported.
    let broken = format!("{}\nrule \"half\" {{\n", policy(&service, ALL));
    world.rewrite(&broken, "the old one stays in force");
    world.hang_up("the old one stays in force");
    hears(&lines, &["kept 403", "kept 403"]);
    let wrong = format!(
        "{}\nrule \"half\" {{ endpoint = https.nowhere }}\n",
        policy(&service, ALL)
    );
    world.rewrite(&wrong, "https.nowhere");
    hears(&lines, &["kept 403", "kept 403"]);
    world.rewrite(&policy(&service, ALL), "a new policy is in force");
    hears(&lines, &["kept 200"]);
    // A file that is looked at while it is written: what is there so far would be a policy without
    // the agent's profile.
    let (whole, part) = (policy(&service, ALL), policy(&service, ALL));
    let part = part.split("profile").next().unwrap();
    for _ in 0..20 {
        world.write(part);
        std::thread::sleep(std::time::Duration::from_millis(100));
        world.write(&whole);
        std::thread::sleep(std::time::Duration::from_millis(30));
    }
    while let Ok(line) = lines.try_recv() {
        assert_eq!(line, "kept 200");
    }
    // A peer that is removed has no connection left.
    world.operator(&["peers", "remove", "agent"]);
    hears(&lines, &["kept closed"]);
    let _ = child.kill();
    child.wait().unwrap();
}
