//! A tailscaled of the gateway's own: found, started without a network device or root, kept running.
//!
//! A thread starts it and waits for it: the kernel kills it when that thread ends, so that it lives
//! no longer than the gateway, however the gateway ends.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io::{self, BufRead as _, BufReader, Read as _};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// How long until a tailscaled that died is started again; doubled up to [`RESTART_MAX`].
pub const RESTART_MIN: Duration = Duration::from_millis(250);
/// See [`RESTART_MIN`].
pub const RESTART_MAX: Duration = Duration::from_secs(30);
/// One that ran for so long starts the doubling anew.
const STEADY: Duration = Duration::from_secs(60);

/// How long it has to end by itself before it is killed.
const END_MAX: Duration = Duration::from_secs(5);

/// Bytes of one line of its log; a longer one is told in pieces.
const LINE_BYTES_MAX: u64 = 4 << 10;
/// Its last lines, which are shown when it dies.
const LINES_SHOWN: usize = 3;

/// Bytes of a Unix socket's path, the last of which is no character.
const SOCKET_BYTES_MAX: usize = 107;

/// It cannot be started at all.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    #[error(
        "no tailscaled in PATH, which gateway {{ tailscale {{ … }} }} without `socket` runs: install the package \
         `tailscale` of this system, or join one that runs already with \
         tailscale {{ socket = \"/run/tailscale/tailscaled.sock\" }}"
    )]
    Missing,
    #[error("{0}: {1}")]
    Folder(String, io::Error),
    #[error(
        "the path of tailscaled's socket, {0}, is longer than {SOCKET_BYTES_MAX} bytes: give a shorter state_dir"
    )]
    Long(String),
    #[error("tailscaled's thread: {0}")]
    Thread(io::Error),
}

/// Where tailscaled is.
///
/// # Errors
/// No folder of `path` has it.
pub fn find(path: Option<OsString>) -> Result<PathBuf, DaemonError> {
    let runs = |file: &PathBuf| {
        let found = file.metadata();
        found.is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
    };
    let path = path.unwrap_or_default();
    let mut files = std::env::split_paths(&path).map(|folder| folder.join("tailscaled"));
    files.find(runs).ok_or(DaemonError::Missing)
}

/// A tailscaled that runs until [`Daemon::stop`].
#[derive(Debug)]
pub struct Daemon {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    now: Mutex<Now>,
    told: Condvar,
}

#[derive(Debug, Default)]
struct Now {
    ends: bool,
    child: Option<Child>,
}

impl Shared {
    fn now(&self) -> MutexGuard<'_, Now> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where the socket of a daemon with its state in `folder` is.
pub fn socket(folder: &Path) -> PathBuf {
    folder.join("tailscaled.sock")
}

impl Daemon {
    /// Starts `program`, its state in `folder`, which nobody else may enter. `tied` is the beginning
    /// of a command line that runs the rest of it and has it killed when its parent ends; the
    /// parent's process id comes between the two.
    ///
    /// # Errors
    /// See [`DaemonError`]. A program that does not run is no error: it is tried again.
    pub fn start(program: PathBuf, folder: PathBuf, tied: Vec<OsString>) -> Result<Daemon, DaemonError> {
        let failed = |error| DaemonError::Folder(folder.display().to_string(), error);
        if socket(&folder).as_os_str().len() > SOCKET_BYTES_MAX {
            return Err(DaemonError::Long(socket(&folder).display().to_string()));
        }
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&folder)
            .map_err(failed)?;
        // Its socket takes everybody, and the folder's mode keeps them out.
        std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o700)).map_err(failed)?;
        let shared = Arc::new(Shared::default());
        let ours = shared.clone();
        let thread = std::thread::Builder::new()
            .name("tailscaled".to_owned())
            .spawn(move || keep(&ours, || command(&program, &folder, &tied)))
            .map_err(DaemonError::Thread)?;
        Ok(Daemon {
            shared,
            thread: Some(thread),
        })
    }

    /// Ends it, by force where it does not end in time.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        let Some(thread) = self.thread.take() else {
            return;
        };
        let signal = |signal| {
            let mut now = self.shared.now();
            now.ends = true;
            self.shared.told.notify_all();
            // Not waited for yet, so that its number is its own.
            if let Some(id) = now
                .child
                .as_mut()
                .and_then(|child| i32::try_from(child.id()).ok())
            {
                let _ = kill(Pid::from_raw(id), signal);
            }
        };
        signal(Signal::SIGTERM);
        let began = Instant::now();
        while !thread.is_finished() && began.elapsed() < END_MAX {
            std::thread::sleep(Duration::from_millis(10));
        }
        signal(Signal::SIGKILL);
        let _ = thread.join();
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.end();
    }
}

fn command(program: &Path, folder: &Path, tied: &[OsString]) -> Command {
    let mut line = tied.iter().cloned();
    let mut command = Command::new(line.next().unwrap_or_default());
    command
        .args(line)
        .arg(std::process::id().to_string())
        .arg("--")
        .arg(program);
    let path = |name: &str, value: &Path| {
        let mut argument = OsString::from(name);
        argument.push(value);
        argument
    };
    command
        .arg("--tun=userspace-networking")
        .arg("--no-logs-no-support")
        .arg("--port=0")
        .arg(path("--statedir=", folder))
        .arg(path("--socket=", &socket(folder)));
    command
        .env_clear()
        .envs(std::env::vars_os().filter(|(name, _)| may_know(name)));
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    command
}

/// The gateway's environment has credentials' secrets in it, and systemd's socket, which is not its
/// children's.
fn may_know(name: &std::ffi::OsStr) -> bool {
    let Some(name) = name.to_str() else {
        return false;
    };
    let is_own =
        name.starts_with("TS_") && !["KEY", "SECRET", "TOKEN"].iter().any(|part| name.contains(part));
    let proxy = name.to_ascii_uppercase();
    is_own
        || ["PATH", "HOME", "TMPDIR", "TZ", "SSL_CERT_FILE", "SSL_CERT_DIR"].contains(&name)
        || ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"].contains(&proxy.as_str())
}

/// Runs it again and again, until it is to end.
fn keep(shared: &Shared, command: impl Fn() -> Command) {
    let mut wait = RESTART_MIN;
    loop {
        let began = Instant::now();
        match run(shared, command()) {
            Ok(None) => return,
            Ok(Some((status, last))) => {
                tracing::warn!(%status, last, again_in = ?wait, "our tailscaled ended; it is started again");
            }
            Err(error) => tracing::error!(%error, again_in = ?wait, "our tailscaled cannot be started"),
        }
        let now = shared.now();
        let waited = shared.told.wait_timeout_while(now, wait, |now| !now.ends);
        if waited.unwrap_or_else(PoisonError::into_inner).0.ends {
            return;
        }
        wait = next_wait(wait, began.elapsed());
    }
}

/// How long to wait the next time, after one that ran for so long.
fn next_wait(wait: Duration, ran: Duration) -> Duration {
    match ran > STEADY {
        true => RESTART_MIN,
        false => (wait * 2).min(RESTART_MAX),
    }
}

/// Runs it once: how it ended and its last lines, or nothing where it was to end.
fn run(shared: &Shared, mut command: Command) -> io::Result<Option<(ExitStatus, String)>> {
    let log = {
        let mut now = shared.now();
        if now.ends {
            return Ok(None);
        }
        let mut child = command.spawn()?;
        let log = child.stderr.take();
        now.child = Some(child);
        log
    };
    let last = log.map(tell).unwrap_or_default();
    loop {
        let mut now = shared.now();
        let status = match &mut now.child {
            Some(child) => child.try_wait()?,
            None => return Ok(None),
        };
        if let Some(status) = status {
            now.child = None;
            return Ok((!now.ends).then(|| (status, last.into_iter().collect::<Vec<_>>().join("; "))));
        }
        drop(now);
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Takes its log into ours until it ends; the last lines come back.
fn tell(log: ChildStderr) -> VecDeque<String> {
    let mut log = BufReader::new(log);
    let mut last = VecDeque::new();
    loop {
        let mut line = Vec::new();
        match log.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => return last,
            Ok(_) => {}
        }
        let text = String::from_utf8_lossy(line.trim_ascii_end()).into_owned();
        tracing::debug!(target: "tailscaled", "{text}");
        if last.len() == LINES_SHOWN {
            last.pop_front();
        }
        last.push_back(text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A daemon that is this script; `$0` is our process id.
    fn daemon(folder: &Path, script: &str) -> Daemon {
        let tied = ["sh", "-c", script].map(OsString::from).to_vec();
        Daemon::start("x".into(), folder.join("state"), tied).unwrap()
    }

    fn until(holds: impl Fn() -> bool) {
        let began = Instant::now();
        while !holds() {
            assert!(began.elapsed() < Duration::from_secs(30), "not in time");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    #[test]
    fn one_that_dies_is_started_again() {
        let folder = tempfile::tempdir().unwrap();
        let starts = folder.path().join("starts");
        let script = format!("echo >>{}; head -c 10000 /dev/zero >&2; exit 3", starts.display());
        let daemon = daemon(folder.path(), &script);
        until(|| std::fs::read(&starts).unwrap_or_default().len() >= 3);
        daemon.stop();
        let mode = std::fs::metadata(folder.path().join("state")).unwrap();
        assert_eq!(mode.permissions().mode() & 0o777, 0o700);
    }

    #[test]
    fn the_wait_grows_to_a_bound_and_starts_anew() {
        assert_eq!(next_wait(RESTART_MIN, STEADY), RESTART_MIN * 2);
        assert_eq!(next_wait(Duration::from_secs(20), STEADY), RESTART_MAX);
        assert_eq!(next_wait(RESTART_MAX, STEADY * 2), RESTART_MIN);
    }

    #[test]
    fn one_that_does_not_end_is_killed() {
        let folder = tempfile::tempdir().unwrap();
        let mark = folder.path().join("mark");
        let script = format!(
            "trap '' TERM; echo $$ >{}; while :; do read x; done",
            mark.display()
        );
        let daemon = daemon(folder.path(), &script);
        until(|| std::fs::read_to_string(&mark).is_ok_and(|text| text.ends_with('\n')));
        let id = std::fs::read_to_string(&mark).unwrap();
        daemon.stop();
        assert!(!Path::new("/proc").join(id.trim()).exists());
    }

    #[test]
    fn a_long_line_of_its_log_comes_in_pieces() {
        let mut command = Command::new("sh");
        let size = LINE_BYTES_MAX * 2 + 7;
        command.args(["-c", &format!("head -c {size} /dev/zero | tr '\\0' a >&2")]);
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let lengths: Vec<usize> = tell(child.stderr.take().unwrap())
            .iter()
            .map(String::len)
            .collect();
        child.wait().unwrap();
        let piece = LINE_BYTES_MAX as usize;
        assert_eq!(lengths, [piece, piece, 7]);
    }

    #[test]
    fn its_last_lines_are_kept() {
        let mut command = Command::new("sh");
        command.args(["-c", "for line in a b c d e; do echo $line >&2; done"]);
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let last = tell(child.stderr.take().unwrap());
        child.wait().unwrap();
        assert_eq!(last, ["c", "d", "e"]);
    }

    #[test]
    fn a_socket_whose_path_is_too_long_is_refused() {
        let folder = Path::new("/").join("x".repeat(SOCKET_BYTES_MAX - "//tailscaled.sock".len() + 1));
        let refused = Daemon::start("x".into(), folder, vec![]);
        assert!(matches!(refused, Err(DaemonError::Long(_))), "{refused:?}");
    }

    #[test]
    fn the_environment_it_gets_has_no_secrets() {
        for name in [
            "PATH",
            "HTTPS_PROXY",
            "https_proxy",
            "SSL_CERT_FILE",
            "TS_DEBUG_FIREWALL_MODE",
        ] {
            assert!(may_know(std::ffi::OsStr::new(name)), "{name}");
        }
        for name in [
            "TS_AUTHKEY",
            "TS_CLIENT_SECRET",
            "NOTIFY_SOCKET",
            "TAILKEEP_SECRET_DB",
            "PGPASSWORD",
        ] {
            assert!(!may_know(std::ffi::OsStr::new(name)), "{name}");
        }
    }

    #[test]
    fn it_is_found_in_path_or_how_to_get_it_is_said() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("tailscaled");
        std::fs::write(&file, "").unwrap();
        let path = || Some(std::env::join_paths(["/nowhere".as_ref(), folder.path()]).unwrap());
        assert!(find(path()).is_err(), "it cannot be run");
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(find(path()).unwrap(), file);
        let error = find(None).unwrap_err().to_string();
        assert!(
            error.contains("package `tailscale`") && error.contains("socket ="),
            "{error}"
        );
    }
}
