//! Signals on their way from `run` to its command, and the command's stops on their way back.
//!
//! A terminal sends its signals to the whole foreground group, the command included; what anyone
//! else sends comes to the process outside alone, and is passed on. The two are told apart by the
//! sender, which a signal descriptor says. A command that stops (Ctrl-Z) stops the process outside
//! too, after it, so that the shell sees one job.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};

use nix::sys::signal::{SigSet, SigmaskHow, Signal, kill, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;
use tokio::io::unix::AsyncFd;

/// What is passed on, beside the news of the command itself.
const CARRIED: [Signal; 9] = [
    Signal::SIGHUP,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGTERM,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGTSTP,
    Signal::SIGCONT,
    Signal::SIGWINCH,
];
/// `SI_KERNEL` of `asm-generic/siginfo.h`: sent by a terminal.
const SENT_BY_KERNEL: i32 = 0x80;

fn all() -> SigSet {
    let mut set: SigSet = CARRIED.into_iter().collect();
    set.add(Signal::SIGCHLD);
    set
}

/// Keeps a helping thread from being the one that a signal ends the process by.
pub(super) fn leave_to_main_thread() {
    let _ = all().thread_block();
}

/// The signals of the process, from now on read and not acted upon.
pub(super) struct Signals(AsyncFd<OwnedFd>, SignalFd);

impl Signals {
    pub(super) fn take() -> io::Result<Self> {
        sigprocmask(SigmaskHow::SIG_BLOCK, Some(&all()), None)?;
        let signals = SignalFd::with_flags(&all(), SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
        // An `OwnedFd` is owned and stays open: what the deprecation warns of cannot happen here.
        #[allow(deprecated, reason = "the replacement is an unsafe function")]
        let watched = AsyncFd::new(signals.as_fd().try_clone_to_owned()?)?;
        Ok(Self(watched, signals))
    }

    /// The next signal that the command has not got by itself; `None` for news of the command.
    pub(super) async fn next(&self) -> io::Result<Option<Signal>> {
        loop {
            let mut ready = self.0.readable().await?;
            let Some(signal) = self.1.read_signal()? else {
                ready.clear_ready();
                continue;
            };
            let number = i32::try_from(signal.ssi_signo).ok();
            let own = number.and_then(|number| Signal::try_from(number).ok());
            match own {
                Some(Signal::SIGCHLD) => return Ok(None),
                Some(own) if signal.ssi_code != SENT_BY_KERNEL => return Ok(Some(own)),
                _ => {}
            }
        }
    }
}

/// Stops with a command that has stopped, and lets it go on afterwards.
pub(super) fn stop_with(command: Pid) -> io::Result<()> {
    let looked = waitid(Id::Pid(command), WaitPidFlag::WSTOPPED | WaitPidFlag::WNOHANG);
    if let Ok(WaitStatus::Stopped(..)) = looked {
        kill(Pid::this(), Signal::SIGSTOP)?;
        // Gone meanwhile, perhaps.
        let _ = kill(command, Signal::SIGCONT);
    }
    Ok(())
}
