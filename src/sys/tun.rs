//! A TUN device that takes and gives segments larger than its MTU.
#![allow(unsafe_code, reason = "the ioctls of tun have no safe wrapper")]

use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

/// The device's name inside its namespace.
pub(super) const NAME: &str = "tk0";
/// Linux's limit, with the ending zero.
const NAME_BYTES_MAX: usize = libc::IFNAMSIZ;

/// Opens a TUN device in the caller's network namespace; each packet stands behind a
/// `struct virtio_net_hdr` of ten bytes. Allocates nothing. It is down, and gone with its descriptor.
pub(super) fn open() -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let device = rustix::fs::open(c"/dev/net/tun", flags, Mode::empty())?;
    // SAFETY: all-zero bytes are a valid `ifreq`: integers, byte arrays and null pointers.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (place, byte) in request.ifr_name[..NAME_BYTES_MAX - 1]
        .iter_mut()
        .zip(NAME.bytes())
    {
        *place = byte.cast_signed();
    }
    let mode = libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
    request.ifr_ifru.ifru_flags = libc::c_short::try_from(mode).map_err(|_| Errno::INVAL)?;
    // SAFETY: TUNSETIFF reads and writes one `ifreq`, which lives over the call.
    let result = unsafe { libc::ioctl(device.as_fd().as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
    if result < 0 {
        return Err(last());
    }
    let offloads = libc::c_ulong::from(libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6);
    // SAFETY: TUNSETOFFLOAD takes a number, not a pointer.
    let result = unsafe { libc::ioctl(device.as_fd().as_raw_fd(), libc::TUNSETOFFLOAD, offloads) };
    if result < 0 {
        return Err(last());
    }
    Ok(device)
}

fn last() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}
