//! A short-lived child that works in other namespaces and passes back descriptors.
//!
//! A process with threads cannot enter a new user namespace; a fresh child has one thread.
#![allow(unsafe_code, reason = "fork has no safe wrapper")]

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use nix::unistd::{ForkResult, Pid};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};

/// Seconds that the child may take; it needs milliseconds.
const CHILD_S_MAX: u64 = 10;
/// Descriptors that a child can pass back.
pub(super) const DESCRIPTORS: usize = 3;

/// What kept the child from its end: a step of its own, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) step: u8,
    pub(super) cause: Errno,
}

/// What a child made, and a byte of its own.
pub(super) struct Made {
    pub(super) descriptors: [OwnedFd; DESCRIPTORS],
    pub(super) note: u8,
}

/// A child that said nothing: dead, or too slow.
pub(super) const STEP_LOST: u8 = u8::MAX;

/// Runs `work` in a child, which ends with it. Blocks the calling thread.
///
/// # Safety
/// `work` runs in a copy of a process whose other threads stand still for ever: it must not
/// allocate, take a lock, or do anything else that is not safe in a signal handler.
pub(super) unsafe fn in_child(work: impl FnOnce() -> Result<Made, Failure>) -> Result<Made, Failure> {
    let lost = |cause| Failure {
        step: STEP_LOST,
        cause,
    };
    let (ours, theirs) = rustix::net::socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )
    .map_err(lost)?;
    // SAFETY: the child runs `work`, which by this function's contract is safe after a fork, and
    // system calls, and leaves by `_exit`.
    let pid = match unsafe { nix::unistd::fork() }.map_err(|cause| lost(errno(cause)))? {
        ForkResult::Child => {
            // A panic must not unwind into the copy of the caller.
            let _ = catch_unwind(AssertUnwindSafe(|| tell(&theirs, &work())));
            // SAFETY: ends the child at once; runs no destructor of the copied process.
            unsafe { libc::_exit(0) }
        }
        ForkResult::Parent { child } => child,
    };
    drop(theirs);
    let told = listen(&ours);
    reap(pid);
    told
}

fn errno(cause: nix::Error) -> Errno {
    Errno::from_raw_os_error(cause as i32)
}

/// The child must not outlive the call, whatever it does.
fn reap(pid: Pid) {
    let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
    while nix::sys::wait::waitpid(pid, None) == Err(nix::Error::EINTR) {}
}

/// Child: two bytes and an error number, with the descriptors where there is none.
fn tell(parent: &OwnedFd, result: &Result<Made, Failure>) {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let mut borrowed: [BorrowedFd<'_>; DESCRIPTORS] = [parent.as_fd(); DESCRIPTORS];
    let mut message = [0_u8; 6];
    match result {
        Ok(made) => {
            message[1] = made.note;
            for (place, descriptor) in borrowed.iter_mut().zip(&made.descriptors) {
                *place = descriptor.as_fd();
            }
            control.push(SendAncillaryMessage::ScmRights(&borrowed));
        }
        Err(failure) => {
            message[0] = 1;
            message[1] = failure.step;
            message[2..].copy_from_slice(&failure.cause.raw_os_error().to_ne_bytes());
        }
    }
    let _ = rustix::net::sendmsg(
        parent,
        &[IoSlice::new(&message)],
        &mut control,
        SendFlags::NOSIGNAL,
    );
}

/// Parent: waits for the child's one message.
fn listen(child: &OwnedFd) -> Result<Made, Failure> {
    let lost = |cause| Failure {
        step: STEP_LOST,
        cause,
    };
    let wait = Timespec::try_from(Duration::from_secs(CHILD_S_MAX)).map_err(|_| lost(Errno::INVAL))?;
    let mut waiting = [PollFd::new(child, PollFlags::IN)];
    loop {
        match poll(&mut waiting, Some(&wait)) {
            Ok(0) => return Err(lost(Errno::TIMEDOUT)),
            Ok(_) => break,
            Err(Errno::INTR) => {}
            Err(cause) => return Err(lost(cause)),
        }
    }
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut message = [0_u8; 6];
    let received = rustix::net::recvmsg(
        child,
        &mut [IoSliceMut::new(&mut message)],
        &mut control,
        RecvFlags::CMSG_CLOEXEC,
    )
    .map_err(lost)?;
    let [failed, note, cause @ ..] = message;
    if received.bytes != message.len() {
        return Err(lost(Errno::CHILD));
    }
    if failed != 0 {
        let cause = Errno::from_raw_os_error(i32::from_ne_bytes(cause));
        return Err(Failure { step: note, cause });
    }
    let mut descriptors = control.drain().flat_map(|message| match message {
        RecvAncillaryMessage::ScmRights(passed) => Some(passed),
        _ => None,
    });
    let mut passed = descriptors.by_ref().flatten();
    match (passed.next(), passed.next(), passed.next()) {
        (Some(first), Some(second), Some(third)) => Ok(Made {
            descriptors: [first, second, third],
            note,
        }),
        // More open files than the process may have.
        _ => Err(lost(Errno::MFILE)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// It lasts as long as a child may take.
    #[test]
    fn a_child_that_does_not_end_is_given_up() {
        // SAFETY: the child sleeps, and does nothing else.
        let made = unsafe {
            in_child(|| {
                loop {
                    std::thread::sleep(Duration::from_secs(CHILD_S_MAX * 10));
                }
            })
        };
        let lost = Failure {
            step: STEP_LOST,
            cause: Errno::TIMEDOUT,
        };
        assert_eq!(made.map(|_| ()), Err(lost));
    }
}
