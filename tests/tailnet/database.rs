//! A real PostgreSQL behind a gateway of the tailnet, and psql on an agent's machine.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Output, Stdio};

use crate::lab::{Machine, Tailscaled, World};
use crate::postgres::{PASSWORD, Server};

/// Leads a port of the loopback to a Unix socket: a namespace divides networks, and not files.
const RELAY: &str = "
import socket, sys, threading
def pass_on(a, b):
    try:
        while data := a.recv(65536): b.sendall(data)
    except OSError: pass
    for one in (a, b):
        try: one.shutdown(socket.SHUT_RDWR)
        except OSError: pass
door = socket.create_server(('127.0.0.2', 5432))
print('ready', flush=True)
while True:
    near, _ = door.accept()
    far = socket.socket(socket.AF_UNIX)
    far.connect(sys.argv[1])
    for pair in ((near, far), (far, near)): threading.Thread(target=pass_on, args=pair, daemon=True).start()
";

/// The table `orders(id int)` with one row, 7, which `app` may read and write.
pub fn database() -> Server {
    let server = Server::start(&[]);
    assert!(
        server.sql("create table orders(id int); insert into orders values (7); grant all on orders to app")
    );
    server
}

/// A database at 127.0.0.2:5432 of a machine.
pub struct Reached(Child);

impl Reached {
    pub fn from(machine: &Machine, server: &Server) -> Reached {
        let mut child = machine
            .command("python3")
            .args(["-c", RELAY])
            .arg(server.socket())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut says = BufReader::new(child.stdout.take().unwrap());
        says.read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        Reached(child)
    }
}

impl Drop for Reached {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The `gateway` block and the endpoint `postgres.orders` at `orders.test`, with its credential. `FOLDER` is the
/// gateway's.
pub fn policy(node: &Tailscaled, rest: &str) -> String {
    format!(
        r#"
gateway {{
  state_dir        = "FOLDER/state"
  dashboard_listen = "127.0.0.1:18080"
  tailscale {{ socket = "{socket}" }}
}}
endpoint "postgres" "orders" {{
  hosts    = ["orders.test:5432"]
  upstream = "127.0.0.2:5432"
  sslmode  = "disable"
}}
credential "postgres_credential" "app" {{
  endpoint = postgres.orders
  user     = "app"
  secret   = file("FOLDER/password")
}}
{rest}"#,
        socket = node.socket.display()
    )
}

/// What [`policy`] reads its secret from.
pub fn put_password(folder: &Path) {
    std::fs::create_dir_all(folder).unwrap();
    let secret = folder.join("password");
    std::fs::write(&secret, PASSWORD).unwrap();
    std::fs::set_permissions(&secret, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
}

/// psql of an agent, which knows no password.
pub struct Psql {
    agent: std::sync::Arc<Machine>,
    host: String,
}

impl Psql {
    /// To the port 5432 of an address: by the agent's device, or through its tailscaled where it has none.
    pub fn on(world: &World, agent: &Tailscaled, address: &str) -> Psql {
        let host = match agent.has_device() {
            true => address.to_owned(),
            false => {
                let folder = world.folder().join(format!("to-{}-{address}", agent.name));
                std::fs::create_dir_all(&folder).unwrap();
                agent.door(&folder.join(".s.PGSQL.5432"), address, 5432);
                folder.display().to_string()
            }
        };
        Psql {
            agent: agent.machine.clone(),
            host,
        }
    }

    pub fn command(&self) -> Command {
        let mut command = self.agent.command("psql");
        command
            .env("PGCONNECT_TIMEOUT", "30")
            .args(["-XAtq", "-v", "ON_ERROR_STOP=1"])
            .arg(format!(
                "host={} user=app dbname=postgres sslmode=disable",
                self.host
            ));
        command
    }

    /// What one statement says, errors included.
    pub fn says(&self, sql: &str) -> String {
        let output = self.command().args(["-c", sql]).output().unwrap();
        text(&output)
    }

    /// As [`Psql::says`], where most likely nothing answers.
    pub fn tries(&self, sql: &str) -> String {
        let mut command = self.command();
        text(
            &command
                .env("PGCONNECT_TIMEOUT", "3")
                .args(["-c", sql])
                .output()
                .unwrap(),
        )
    }

    /// A session that stays open.
    pub fn open(&self) -> Session {
        self.open_with(|command| command)
    }

    /// As [`Psql::open`]; `set` may change the command.
    pub fn open_with(&self, set: impl FnOnce(&mut Command) -> &mut Command) -> Session {
        let mut child = set(&mut self.command())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        Session {
            input: child.stdin.take(),
            output: BufReader::new(child.stdout.take().unwrap()),
            child,
        }
    }
}

/// What a command said.
pub fn text(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// An open psql.
pub struct Session {
    input: Option<ChildStdin>,
    output: BufReader<std::process::ChildStdout>,
    child: Child,
}

impl Session {
    /// The one line that a statement answers; empty where the session ends instead.
    pub fn ask(&mut self, sql: &str) -> String {
        // A psql that has lost its session takes nothing.
        let _ = writeln!(self.input.as_mut().unwrap(), "{sql};");
        self.line()
    }

    /// The next line of what was answered.
    pub fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        line
    }

    /// What psql has against it, where a session is lost that should not be.
    pub fn why(&mut self) -> String {
        drop(self.input.take());
        let mut said = String::new();
        let _ = self.child.stderr.take().unwrap().read_to_string(&mut said);
        said
    }

    /// Says one more statement, which must find the session gone: psql ends with 2 where its connection is
    /// lost, and with 3 where a statement is refused. What it said of that.
    #[track_caller]
    pub fn until_lost(mut self, sql: &str) -> String {
        let answer = self.ask(sql);
        drop(self.input.take());
        let mut said = answer.clone();
        let _ = self.output.read_to_string(&mut said);
        let _ = self.child.stderr.take().unwrap().read_to_string(&mut said);
        let code = self.child.wait().unwrap().code();
        assert_eq!((code, answer.as_str()), (Some(2), ""), "{said}");
        said
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
