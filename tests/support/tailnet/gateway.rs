//! `tailkeep gateway` on a machine of the tailnet.

use std::io::{BufRead as _, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use serde_json::Value;

use super::{Machine, until};

/// A running gateway; killed when dropped.
pub struct Gateway {
    child: Child,
    folder: PathBuf,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Gateway {
    /// Starts one with this policy, in which `FOLDER` stands for `folder`; its state is in `FOLDER/state`. `set`
    /// may change its command: environment, PATH.
    pub fn start(machine: &Machine, folder: &Path, policy: &str, set: impl FnOnce(&mut Command)) -> Gateway {
        std::fs::create_dir_all(folder).unwrap();
        let file = folder.join("policy.hcl");
        std::fs::write(&file, policy.replace("FOLDER", &folder.display().to_string())).unwrap();
        let mut command = machine.command(env!("CARGO_BIN_EXE_tailkeep"));
        command.args(["gateway", "-c"]).arg(&file);
        set(&mut command);
        Gateway::spawn(command, folder)
    }

    /// As [`Gateway::start`], by another account: what setpriv is told.
    pub fn start_by(machine: &Machine, folder: &Path, policy: &str, account: &[&str]) -> Gateway {
        let file = folder.join("policy.hcl");
        std::fs::write(&file, policy.replace("FOLDER", &folder.display().to_string())).unwrap();
        let mut command = machine.command("setpriv");
        command.args(account).args(["--pdeathsig", "KILL", "--"]);
        command
            .arg(env!("CARGO_BIN_EXE_tailkeep"))
            .args(["gateway", "-c"])
            .arg(&file);
        Gateway::spawn(command, folder)
    }

    fn spawn(mut command: Command, folder: &Path) -> Gateway {
        command.stdin(Stdio::null()).stdout(Stdio::null());
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let says = child.stderr.take().unwrap();
        Gateway::heard(child, says, folder)
    }

    /// As [`Gateway::start`], with a terminal for what it says.
    pub fn start_at_terminal(
        machine: &Machine,
        folder: &Path,
        policy: &str,
        set: impl FnOnce(&mut Command),
    ) -> Gateway {
        let mut command = machine.command(env!("CARGO_BIN_EXE_tailkeep"));
        let file = folder.join("policy.hcl");
        std::fs::write(&file, policy.replace("FOLDER", &folder.display().to_string())).unwrap();
        command.args(["gateway", "-c"]).arg(&file);
        set(&mut command);
        let terminal = nix::pty::openpty(None, None).unwrap();
        command.stdin(Stdio::null()).stdout(Stdio::null());
        let child = command.stderr(terminal.slave).spawn().unwrap();
        Gateway::heard(child, std::fs::File::from(terminal.master), folder)
    }

    fn heard(child: Child, says: impl Read + Send + 'static, folder: &Path) -> Gateway {
        let lines = Arc::new(Mutex::new(Vec::new()));
        let reader = BufReader::new(says);
        let kept = lines.clone();
        std::thread::spawn(move || {
            for line in reader.lines().map_while(Result::ok) {
                kept.lock().unwrap().push(line);
            }
        });
        Gateway {
            child,
            folder: folder.to_owned(),
            lines,
        }
    }

    /// Its log so far.
    pub fn log(&self) -> String {
        self.lines.lock().unwrap().join("\n")
    }

    /// Waits for a line of its log.
    #[track_caller]
    pub fn until_says(&self, text: &str) {
        until(text, || self.log().contains(text));
    }

    /// Replaces its policy, which it takes by itself.
    pub fn reload(&self, policy: &str) {
        let text = policy.replace("FOLDER", &self.folder.display().to_string());
        std::fs::write(self.folder.join("policy.hcl"), text).unwrap();
    }

    /// An operator's command: `tailkeep ARGUMENTS`.
    pub fn operator(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tailkeep"));
        command
            .args(arguments)
            .env("TAILKEEP_SOCKET", self.folder.join("state/admin.sock"));
        command
    }

    /// Every record of its audit log.
    pub fn audit(&self) -> Vec<Value> {
        let output = self.operator(&["audit", "export"]).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        text.lines().map(super::parse).collect()
    }

    /// The process: the command that the machine runs becomes the gateway.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Ends it as systemd would; whether it ended well.
    pub fn stop(&mut self) -> bool {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.child.id()).unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
        self.child.wait().unwrap().success()
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// How it ended, once it has.
    pub fn ended(&mut self) -> Option<std::process::ExitStatus> {
        self.child.try_wait().unwrap()
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!("--- gateway\n{}", self.log());
        }
    }
}
