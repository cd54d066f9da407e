//! What the kernel says of a TCP socket.
#![allow(unsafe_code, reason = "getsockopt(TCP_INFO) has no safe wrapper")]

use std::io;
use std::os::fd::{AsFd, AsRawFd as _};

/// Where a connection stands (`enum` in `net/tcp_states.h`), as far as the caller cares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TcpState {
    /// Bytes or answers may still come or go.
    Alive,
    /// As before, but the other end has sent its last byte.
    Ending,
    /// Nothing is left of it but the descriptor.
    Closed,
}

const TCP_CLOSE: u8 = 7;
const TCP_CLOSE_WAIT: u8 = 8;

/// The state of a TCP socket.
pub fn tcp_state(socket: &impl AsFd) -> io::Result<TcpState> {
    // The first byte of `struct tcp_info` is the state; the kernel fills what the caller has room for.
    let mut state = [0_u8; 1];
    let mut length: libc::socklen_t = 1;
    // SAFETY: `state` and `length` live over the call, and `length` is the size of `state`.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            state.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(match state {
        [TCP_CLOSE] => TcpState::Closed,
        [TCP_CLOSE_WAIT] => TcpState::Ending,
        _ => TcpState::Alive,
    })
}
