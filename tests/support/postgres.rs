//! A PostgreSQL of one's own: its data in a temporary folder, on a free port of the loopback.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The password of both roles, `postgres` and `app`.
pub const PASSWORD: &str = "s3cret-of-the-server";

/// Time for the server to come up.
const START_MAX: Duration = Duration::from_secs(30);

/// A running server; ended, and its files removed, when dropped.
pub struct Server {
    pub port: u16,
    child: Child,
    bin: PathBuf,
    folder: tempfile::TempDir,
}

impl Server {
    /// Starts one with SCRAM passwords; `settings` are lines for `-c`.
    pub fn start(settings: &[&str]) -> Server {
        let bin = bin();
        let folder = tempfile::tempdir().expect("a temporary folder");
        let data = folder.path().join("data");
        std::fs::create_dir(&data).expect("a folder");
        std::fs::write(folder.path().join("pw"), PASSWORD).expect("a file");
        if nix::unistd::geteuid().is_root() {
            let owner = Command::new("chown")
                .args(["-R", "nobody"])
                .arg(folder.path())
                .status();
            assert!(owner.is_ok());
        }
        let ran = as_nobody(&bin.join("initdb"))
            .args([
                "-N",
                "-A",
                "scram-sha-256",
                "-U",
                "postgres",
                "--no-locale",
                "-E",
                "UTF8",
                "-D",
            ])
            .arg(&data)
            .arg("--pwfile")
            .arg(folder.path().join("pw"))
            .output()
            .expect("initdb");
        assert!(ran.status.success(), "{ran:?}");
        let port = TcpListener::bind("127.0.0.1:0")
            .and_then(|one| one.local_addr())
            .expect("a port")
            .port();
        let mut command = as_nobody(&bin.join("postgres"));
        command.arg("-D").arg(&data).args(["-p", &port.to_string()]);
        command.args(["-c", "listen_addresses=127.0.0.1", "-c", "fsync=off", "-c"]);
        command.arg(format!("unix_socket_directories={}", folder.path().display()));
        for setting in settings {
            command.args(["-c", setting]);
        }
        let child = command
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("postgres");
        let server = Server {
            port,
            child,
            bin,
            folder,
        };
        let started = Instant::now();
        while !server.sql("select 1") {
            assert!(started.elapsed() < START_MAX, "the server does not come up");
            std::thread::sleep(Duration::from_millis(50));
        }
        assert!(server.sql(&format!("create role app login password '{PASSWORD}'")));
        assert!(server.sql("grant all on schema public to app"));
        server
    }

    /// Its Unix socket, for whom no network leads here.
    pub fn socket(&self) -> PathBuf {
        self.folder.path().join(format!(".s.PGSQL.{}", self.port))
    }

    /// Runs SQL as the superuser, directly; whether it did.
    pub fn sql(&self, text: &str) -> bool {
        let ran = self
            .client("psql")
            .args(["-U", "postgres", "-Xqc", text, "postgres"])
            .output();
        ran.is_ok_and(|ran| ran.status.success())
    }

    /// What one query says to the superuser, directly.
    pub fn says(&self, text: &str) -> String {
        let ran = self
            .client("psql")
            .args(["-U", "postgres", "-XAtqc", text, "postgres"])
            .output()
            .expect("psql");
        assert!(ran.status.success(), "{ran:?}");
        String::from_utf8_lossy(&ran.stdout).trim().to_owned()
    }

    /// What the superuser's server calls the last command of a text; `None` where it fails.
    pub fn tag(&self, text: &str) -> Option<String> {
        let ran = self
            .client("psql")
            .args(["-U", "postgres", "-XAtc", text, "postgres"])
            .output()
            .expect("psql");
        let said = String::from_utf8_lossy(&ran.stdout).into_owned();
        let last = said.lines().last().map(str::to_owned);
        last.filter(|_| ran.status.success())
    }

    /// Makes the tables of pgbench, which `app` may read.
    pub fn pgbench_init(&self) {
        let ran = self
            .client("pgbench")
            .args(["-U", "postgres", "-i", "-q", "postgres"])
            .output();
        assert!(ran.is_ok_and(|ran| ran.status.success()));
        assert!(self.sql("grant all on all tables in schema public to app"));
    }

    fn client(&self, name: &str) -> Command {
        let mut command = Command::new(self.bin.join(name));
        command
            .env("PGPASSWORD", PASSWORD)
            .args(["-h", "127.0.0.1", "-p", &self.port.to_string()]);
        command
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // SIGQUIT: the server and its children end at once.
        let _ = Command::new("kill")
            .args(["-QUIT", &self.child.id().to_string()])
            .status();
        let _ = self.child.wait();
    }
}

/// The newest installed server's programs.
fn bin() -> PathBuf {
    let mut found: Vec<PathBuf> = std::fs::read_dir("/usr/lib/postgresql")
        .expect("PostgreSQL is not installed: see scripts/test")
        .filter_map(|entry| Some(entry.ok()?.path().join("bin")))
        .collect();
    found.sort();
    found
        .pop()
        .expect("PostgreSQL is not installed: see scripts/test")
}

/// A command as whoever runs the tests, and as `nobody` for root, whom the server refuses; setpriv execs, so the id is
/// the server's.
fn as_nobody(program: &Path) -> Command {
    if !nix::unistd::geteuid().is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command
        .args(["--reuid=nobody", "--regid=nogroup", "--clear-groups"])
        .arg(program);
    command
}
