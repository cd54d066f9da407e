//! A machine of a tailnet: a network and a mount namespace, held by a process that ends with its standard input.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// Namespaces, and how to run something in them.
pub struct Machine {
    holder: Child,
    /// Whether they belong to a user namespace, since this user is not root.
    unprivileged: bool,
}

impl Machine {
    /// One that stands alone. `None`, with a line that says why, where this user may not.
    pub fn outer() -> Option<Machine> {
        let unprivileged = !nix::unistd::geteuid().is_root();
        let mut command = Command::new("unshare");
        if unprivileged {
            command.args(["--user", "--map-root-user"]);
        }
        command.args(["--net", "--mount"]);
        match hold(command, "true") {
            Ok(holder) => {
                let machine = Machine { holder, unprivileged };
                machine.ip("link set lo up");
                Some(machine)
            }
            Err(why) => {
                eprintln!("SKIPPED: this machine allows no namespaces: {why}");
                None
            }
        }
    }

    /// Another, of the same user namespace. It has an `/etc` of its own, whose changes are kept in `folder`:
    /// tailscaled writes `resolv.conf`.
    pub fn inner(&self, folder: &Path) -> Machine {
        for part in ["up", "work"] {
            std::fs::create_dir_all(folder.join(part)).unwrap();
        }
        let mut command = self.command("unshare");
        command.args(["--net", "--mount"]);
        let folder = folder.display();
        let etc = format!(
            "mount -t overlay -o lowerdir=/etc,upperdir={folder}/up,workdir={folder}/work overlay /etc"
        );
        let machine = Machine {
            holder: hold(command, &etc).unwrap(),
            unprivileged: self.unprivileged,
        };
        machine.ip("link set lo up");
        machine
    }

    /// A program on this machine. It is killed when the thread ends that starts it.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.args([&format!("--target={}", self.pid()), "--net", "--mount"]);
        if self.unprivileged {
            command.args(["--user", "--preserve-credentials"]);
        }
        // Behind nsenter, since the kernel forgets it where credentials change.
        command
            .args(["--", "setpriv", "--pdeathsig", "KILL", "--"])
            .arg(program);
        command
    }

    /// What a program prints.
    #[track_caller]
    pub fn says(&self, program: &str, arguments: &[&str]) -> String {
        let output = self.command(program).args(arguments).output().unwrap();
        format!(
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        )
    }

    /// `ip`, which must succeed.
    #[track_caller]
    pub fn ip(&self, line: &str) {
        let output = self.command("ip").args(line.split(' ')).output().unwrap();
        assert!(output.status.success(), "ip {line}: {output:?}");
    }

    /// Leads the virtual ranges to this machine, as an operator does.
    pub fn virtual_ranges(&self) {
        for range in super::VIRTUAL {
            self.ip(&format!("route add local {range} dev lo"));
        }
    }

    /// The process that holds the namespaces.
    pub fn pid(&self) -> u32 {
        self.holder.id()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

/// Starts the holder; it is ready, and what `first` does is done, when this returns.
fn hold(mut command: Command, first: &str) -> Result<Child, String> {
    let mut child = command
        .args([
            "sh",
            "-c",
            &format!("{first} && echo ready && exec cat >/dev/null"),
        ])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| format!("unshare: {error}"))?;
    let mut line = String::new();
    let _ = BufReader::new(child.stdout.take().unwrap()).read_line(&mut line);
    if line == "ready\n" {
        return Ok(child);
    }
    let output = child.wait_with_output().map_err(|error| error.to_string())?;
    Err(String::from_utf8_lossy(&output.stderr).trim().to_owned())
}
