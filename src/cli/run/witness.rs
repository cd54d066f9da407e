//! Whether a signal was sent to the whole process group, which the command has got by itself then.
//!
//! A signal says who sent it and not to whom. So a witness stands in the group: a copy of this program that
//! acts on no signal, and is asked whether it has got one too. `kill(2)` of a group reaches all of it before
//! anyone can change a process's group (both hold the kernel's lock of all tasks), which is how the asking
//! waits for the rest of the group.
//!
//! sudo passes nothing on that comes from its own group, and so loses what a script sends to it alone;
//! tini gives the command a group of its own, which takes the terminal from the rest of a pipeline.

use std::io::{self, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::sys::signalfd::SignalFd;
use nix::unistd::{Pid, getpgid, getpgrp, setpgid};

/// For the witness's answer. Without one a signal is passed on: twice is better than never.
const ANSWER_MAX: Duration = Duration::from_millis(200);

/// The witness, which ends when this does.
pub(super) struct Witness {
    line: UnixStream,
    process: Child,
}

impl Witness {
    /// Starts one. Signals must be blocked already, which it inherits.
    pub(super) fn start() -> io::Result<Witness> {
        let (line, its) = line()?;
        let process = Command::new(std::env::current_exe()?)
            .args(["run", "--witness", "true"])
            .env_clear()
            .stdin(Stdio::from(OwnedFd::from(its)))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        Ok(Witness { line, process })
    }

    /// Whether this signal, which this process has just got, was sent to the group, `command` included.
    pub(super) fn saw(&mut self, signal: Signal, command: Pid) -> bool {
        // Waits for whoever is sending to a group.
        let _ = setpgid(Pid::from_raw(0), getpgrp());
        self.ask(signal).unwrap_or(false) && getpgid(Some(command)) == Ok(getpgrp())
    }

    fn ask(&mut self, signal: Signal) -> io::Result<bool> {
        let mut answer = [0; 2];
        self.line.write_all(&[signal as u8])?;
        // An answer that was late belongs to another question.
        while answer[0] != signal as u8 {
            self.line.read_exact(&mut answer)?;
        }
        Ok(answer[1] == 1)
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The two ends of a line to a witness; the first is not waited at for longer than [`ANSWER_MAX`].
fn line() -> io::Result<(UnixStream, UnixStream)> {
    let (line, its) = UnixStream::pair()?;
    line.set_read_timeout(Some(ANSWER_MAX))?;
    Ok((line, its))
}

/// The witness itself: answers on its standard input until that ends.
pub(super) fn testify(signals: &SignalFd) -> io::Result<()> {
    let mut line = UnixStream::from(rustix::io::dup(io::stdin())?);
    let (mut seen, mut asked) = (0_u64, [0]);
    while line.read_exact(&mut asked).is_ok() {
        while let Some(signal) = signals.read_signal()? {
            seen |= 1 << (signal.ssi_signo & 63);
        }
        let bit = 1 << (asked[0] & 63);
        line.write_all(&[asked[0], u8::from(seen & bit != 0)])?;
        seen &= !bit;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_witness_that_does_not_answer_has_seen_nothing() {
        let (line, _its) = line().unwrap();
        let process = Command::new("true").spawn().unwrap();
        let mut witness = Witness { line, process };
        let (said, heard) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            // No command of ours: its group is another.
            let _ = said.send(witness.ask(Signal::SIGTERM).unwrap_or(false));
        });
        let seen = heard.recv_timeout(std::time::Duration::from_secs(20));
        assert_eq!(seen, Ok(false), "it is waited for still");
    }
}
