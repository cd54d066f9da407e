//! Clients and servers of others that speak more than HTTP's own: gRPC's (`grpcio`) and WebSocket's (`websockets`),
//! Python packages that `scripts/test` installs in `target/venv`. Debian 12's curl has no WebSocket.

use std::path::PathBuf;
use std::process::Stdio;

use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::timeout;

use crate::folder::Folder;
use crate::server::{Minted, mint};
use crate::world::{Dialled, SOON, World, until};

/// Runs a script of `tests/http`.
fn python(script: &str) -> Command {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let mut command = Command::new(root.join("target/venv/bin/python"));
    command.arg(root.join("tests/http").join(script));
    command.env_clear().kill_on_drop(true);
    command
}

/// A server of another make, before it what is told of it.
struct Server {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    world: World,
    secured: bool,
}

/// `api.test`, at an `https` or an `http` endpoint.
fn dialled(secured: bool) -> Dialled {
    Dialled {
        endpoint: if secured { "https.keep" } else { "http.keep" },
        name: Some("api.test"),
        destination: if secured { "10.78.0.9:443" } else { "10.78.0.9:80" },
    }
}

impl Server {
    /// A server, and a gateway before it with these rules, in which `KIND` is the endpoint's.
    async fn start(script: &str, secured: bool, rules: &str) -> Server {
        let folder = Folder::new();
        let Minted { ca, chain, key } = mint();
        let mut command = python(script);
        if secured {
            for (name, text) in [("chain", &chain), ("key", &key)] {
                let file = folder.path().join(name);
                std::fs::write(&file, text).unwrap();
                command.arg(file);
            }
        }
        command.stdout(Stdio::piped());
        let mut child = command.spawn().expect("python: see scripts/test");
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let port = timeout(SOON * 3, lines.next_line()).await.unwrap().unwrap();
        let port: u16 = port.expect("no port: see scripts/test").parse().unwrap();
        let (kind, own) = match secured {
            true => ("https", format!("ca_cert = <<EOT\n{ca}EOT")),
            false => ("http", String::new()),
        };
        let world = World::new(&format!(
            "endpoint \"{kind}\" \"keep\" {{\n hosts = [\"api.test\"]\n upstream = \"127.0.0.1:{port}\"\n {own}\n}}\n\
             profile \"dev\" {{\n peers = [\"laptop\"]\n endpoints = [{kind}.keep]\n}}\n{}",
            rules.replace("KIND", kind)
        ));
        Server {
            child,
            lines,
            world,
            secured,
        }
    }

    /// What a client prints that is run with these arguments, and the gateway's CA where TLS is spoken.
    async fn client(&self, script: &str, args: &[&str]) -> String {
        let mut command = python(script);
        command.args(args);
        if self.secured {
            command.arg(self.world.ca());
        }
        let ran = timeout(SOON * 6, command.output())
            .await
            .expect("it hangs")
            .unwrap();
        assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
        String::from_utf8(ran.stdout).unwrap()
    }

    /// Waits until the server has said so many lines since its port, and ends it: all that it said.
    async fn said(mut self, count: usize) -> Vec<String> {
        let mut all = Vec::new();
        let mut killed = false;
        loop {
            if all.len() == count && !killed {
                self.child.kill().await.unwrap();
                killed = true;
            }
            let line = timeout(SOON, self.lines.next_line()).await;
            match line
                .unwrap_or_else(|_| panic!("it said no more than {all:?}"))
                .unwrap()
            {
                Some(line) => all.push(line),
                None => return all,
            }
        }
    }
}

const RULES: &str = r#"
rule "no-drop" {
  endpoint  = KIND.keep
  condition = "http.path == '/tail.Keep/Drop' || http.path == '/closed'"
  verdict   = "deny"
  reason    = "no sockets here, 100 %: näh"
}
rule "rest" {
  endpoint = KIND.keep
  verdict  = "allow"
}"#;

#[tokio::test]
async fn grpc_passes_both_ways_and_is_refused_in_its_own_words() {
    for secured in [true, false] {
        let server = Server::start("grpc/server.py", secured, RULES).await;
        let gateway = server.world.listen(dialled(secured)).await.to_string();
        let said = server.client("grpc/client.py", &[&gateway, "api.test"]).await;
        let refused = "drop PERMISSION_DENIED no sockets here, 100 %: näh";
        let lines: Vec<&str> = said.lines().collect();
        assert_eq!(
            lines[..7],
            [
                r"one b'one 1' yes one b'\x00\xff' OK",
                "down [b'down 0', b'down 1', b'down 2'] down OK",
                "up b'9000000'",
                "both [b'both a', b'both b', b'both last'] [] OK",
                "fails NOT_FOUND nothing of this name: 100 % sure",
                "cancelled b'1'",
                lines[6],
            ]
        );
        for drop in &lines[6..8] {
            assert!(drop.starts_with(refused), "{drop}");
        }
        assert_eq!(lines[8..], ["after b'one 2'"], "secured: {secured}");
        let story = server.world.story().await;
        let calls = |line: &str| story.iter().filter(|one| one.starts_with(line)).count();
        assert_eq!(calls("POST /tail.Keep/Both | allow"), 3, "{story:#?}");
        assert_eq!(calls("POST /tail.Keep/Drop | deny"), 2, "{story:#?}");
        let called = server.said(8).await;
        assert_eq!(called.len(), 8, "{called:?}");
        assert!(!called.iter().any(|line| line.contains("Drop")), "{called:?}");
    }
}

#[tokio::test]
async fn a_websocket_of_others_passes_both_ways_and_is_refused_at_its_upgrade() {
    for secured in [true, false] {
        let server = Server::start("websocket/server.py", secured, RULES).await;
        let gateway = server.world.listen(dialled(secured)).await.port().to_string();
        let url = if secured {
            "wss://api.test"
        } else {
            "ws://api.test"
        };
        let said = server.client("websocket/client.py", &[&gateway, url]).await;
        assert_eq!(
            said.lines().collect::<Vec<_>>(),
            [
                "open one ['permessage-deflate']",
                "pieces in three pieces",
                "ping True",
                "closed 4001 as was asked",
                "refused 403 True",
            ]
        );
        until("the connections end", || server.world.open() == 0).await;
        assert_eq!(
            server.said(4).await,
            [
                "/open one",
                "closed 1000 ",
                "/open two",
                "closed 4001 as was asked"
            ]
        );
    }
}
