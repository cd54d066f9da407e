//! What happens to a command whose reader has gone.
#![allow(unsafe_code, reason = "signal(2) has no safe wrapper")]

use nix::sys::signal::{SigHandler, Signal, signal};

/// From now on a write to a pipe that nobody reads ends the program, quietly, as it does other commands:
/// `tailkeep eval … | head -1`. For commands that only print; one that has sockets would end by them too.
///
/// # Errors
/// The kernel refuses.
pub fn end_with_the_reader() -> std::io::Result<()> {
    // SAFETY: the default action runs no code of ours, so that nothing can be met half done.
    unsafe { signal(Signal::SIGPIPE, SigHandler::SigDfl) }?;
    Ok(())
}
