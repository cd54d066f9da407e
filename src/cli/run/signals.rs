//! Signals on their way from `run` to its command, and the command's stops on their way back.
//!
//! A terminal sends its signals to the whole foreground group, the command included, and so may others:
//! what comes to the process outside alone is passed on, once. A terminal is known by the sender, which a
//! signal descriptor says; of the rest a [`Witness`] knows. A command that stops (Ctrl-Z) stops the process outside
//! too, after it, so that the shell sees one job.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};

use nix::sys::signal::{SigSet, SigmaskHow, Signal, kill, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;
use tokio::io::unix::AsyncFd;

use super::witness::{self, Witness};

/// What is passed on, beside the news of the command itself.
const CARRIED: [Signal; 8] = [
    Signal::SIGHUP,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGTERM,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGTSTP,
    Signal::SIGWINCH,
];
/// `SI_KERNEL` of `asm-generic/siginfo.h`: sent by a terminal.
const SENT_BY_KERNEL: i32 = 0x80;

fn all() -> SigSet {
    let mut set: SigSet = CARRIED.into_iter().collect();
    set.add(Signal::SIGCHLD);
    set
}

fn blocked() -> io::Result<SignalFd> {
    sigprocmask(SigmaskHow::SIG_BLOCK, Some(&all()), None)?;
    Ok(SignalFd::with_flags(
        &all(),
        SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC,
    )?)
}

/// This process is the witness of another; see [`Witness`].
pub(super) fn testify() -> io::Result<()> {
    witness::testify(&blocked()?)
}

/// Keeps a helping thread from being the one that a signal ends the process by.
pub(super) fn leave_to_main_thread() {
    let _ = all().thread_block();
}

/// The signals of the process, from now on read and not acted upon.
pub(super) struct Signals {
    watched: AsyncFd<OwnedFd>,
    signals: SignalFd,
    witness: Option<Witness>,
}

impl Signals {
    pub(super) fn take() -> io::Result<Self> {
        let signals = blocked()?;
        // An `OwnedFd` is owned and stays open: what the deprecation warns of cannot happen here.
        #[allow(deprecated, reason = "the replacement is an unsafe function")]
        let watched = AsyncFd::new(signals.as_fd().try_clone_to_owned()?)?;
        // Without one, what is sent to the group comes twice.
        let witness = Witness::start().ok();
        Ok(Self {
            watched,
            signals,
            witness,
        })
    }

    /// The next signal that the command has not got by itself; `None` for news of the command.
    pub(super) async fn next(&mut self, command: Pid) -> io::Result<Option<Signal>> {
        loop {
            let mut ready = self.watched.readable().await?;
            let Some(signal) = self.signals.read_signal()? else {
                ready.clear_ready();
                continue;
            };
            let number = i32::try_from(signal.ssi_signo).ok();
            let own = number.and_then(|number| Signal::try_from(number).ok());
            match own {
                Some(Signal::SIGCHLD) => return Ok(None),
                Some(own) => {
                    // Asked of a terminal's too: it has got them, and would remember.
                    let witness = self.witness.as_mut();
                    let by_group = witness.is_some_and(|witness| witness.saw(own, command));
                    if !by_group && signal.ssi_code != SENT_BY_KERNEL {
                        return Ok(Some(own));
                    }
                }
                None => {}
            }
        }
    }
}

/// Stops with a command that has stopped, and lets it go on afterwards. Who continues the whole group, as
/// a shell does, has continued the command already: once more could undo a stop that came since.
pub(super) fn stop_with(command: Pid) -> io::Result<()> {
    let look = |what| waitid(Id::Pid(command), what | WaitPidFlag::WNOHANG);
    let mut news = look(WaitPidFlag::WSTOPPED);
    while let Ok(WaitStatus::Stopped(..)) = news {
        kill(Pid::this(), Signal::SIGSTOP)?;
        // Each stop is told once: a further one is another, and only without news is it the same.
        news = look(WaitPidFlag::WCONTINUED | WaitPidFlag::WSTOPPED);
        if let Ok(WaitStatus::StillAlive) = news {
            // Gone meanwhile, perhaps.
            let _ = kill(command, Signal::SIGCONT);
        }
    }
    Ok(())
}
