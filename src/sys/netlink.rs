//! Netlink requests in a fixed buffer, for a child that must not allocate.
//! (RFC 3549; `linux/netlink.h`: a header of 16 bytes, then attributes, all aligned to four.)

use std::os::fd::{AsFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType};

/// Bytes of all messages of a batch.
const BATCH_BYTES_MAX: usize = 1024;
/// Bytes of one reply: an error quotes the message that it is about.
const REPLY_BYTES_MAX: usize = 4096;
const HEADER_BYTES: usize = 16;

const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_CREATE: u16 = 0x400;
const NLMSG_ERROR: u16 = 2;
const NLA_F_NESTED: u16 = 0x8000;

/// Messages that are sent in one go. What does not fit shows when it is sent.
pub(super) struct Batch {
    bytes: [u8; BATCH_BYTES_MAX],
    length: usize,
    message: usize,
    answers: usize,
    overflow: bool,
}

/// An attribute that is still open.
pub(super) struct Open(usize);

impl Batch {
    pub(super) fn new() -> Self {
        Batch {
            bytes: [0; BATCH_BYTES_MAX],
            length: 0,
            message: 0,
            answers: 0,
            overflow: false,
        }
    }

    fn put(&mut self, bytes: &[u8]) {
        let end = self.length + bytes.len().next_multiple_of(4);
        match self.bytes.get_mut(self.length..end) {
            Some(room) => {
                for (place, byte) in room.iter_mut().zip(bytes) {
                    *place = *byte;
                }
                self.length = end;
            }
            None => self.overflow = true,
        }
    }

    /// Writes the length of what began at `start` and ends after `bytes` of its own.
    fn set_length(&mut self, start: usize, length: usize, wide: bool) {
        let length = u16::try_from(length).unwrap_or(u16::MAX);
        let (narrow, whole) = (length.to_ne_bytes(), u32::from(length).to_ne_bytes());
        let value: &[u8] = if wide { &whole } else { &narrow };
        if let Some(place) = self.bytes.get_mut(start..start + value.len()) {
            place.copy_from_slice(value);
        }
    }

    /// Begins a message that is to be answered, with its fixed part.
    pub(super) fn begin(&mut self, kind: u16, fixed: &[u8]) {
        self.answers += 1;
        self.start(kind, NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE, fixed);
    }

    /// Begins a message without an answer.
    pub(super) fn begin_quiet(&mut self, kind: u16, fixed: &[u8]) {
        self.start(kind, NLM_F_REQUEST, fixed);
    }

    fn start(&mut self, kind: u16, flags: u16, fixed: &[u8]) {
        self.message = self.length;
        let mut header = [0; HEADER_BYTES];
        header[4..6].copy_from_slice(&kind.to_ne_bytes());
        header[6..8].copy_from_slice(&flags.to_ne_bytes());
        self.put(&header);
        self.put(fixed);
        self.end();
    }

    fn end(&mut self) {
        self.set_length(self.message, self.length - self.message, true);
    }

    pub(super) fn attribute(&mut self, kind: u16, value: &[u8]) {
        let start = self.length;
        let [low, high] = kind.to_ne_bytes();
        self.put(&[0, 0, low, high]);
        self.put(value);
        self.set_length(start, 4 + value.len(), false);
        self.end();
    }

    /// A name, with the zero that ends it.
    pub(super) fn name(&mut self, kind: u16, name: &str) {
        let mut bytes = [0; 32];
        for (place, byte) in bytes[..31].iter_mut().zip(name.bytes()) {
            *place = byte;
        }
        let length = (name.len() + 1).min(bytes.len());
        self.attribute(kind, &bytes[..length]);
    }

    pub(super) fn open(&mut self, kind: u16) -> Open {
        let start = self.length;
        let [low, high] = (kind | NLA_F_NESTED).to_ne_bytes();
        self.put(&[0, 0, low, high]);
        Open(start)
    }

    pub(super) fn close(&mut self, open: &Open) {
        self.set_length(open.0, self.length - open.0, false);
        self.end();
    }

    /// Sends the messages and waits until the kernel took each of them. No protocol
    /// means NETLINK_ROUTE.
    pub(super) fn request(&self, protocol: Option<Protocol>) -> Result<(), Errno> {
        if self.overflow {
            return Err(Errno::MSGSIZE);
        }
        let socket: OwnedFd = rustix::net::socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            protocol,
        )?;
        let bytes = self.bytes.get(..self.length).unwrap_or_default();
        rustix::net::send(&socket, bytes, SendFlags::empty())?;
        let mut answered = 0;
        while answered < self.answers {
            answered += read_answers(&socket)?;
        }
        Ok(())
    }
}

/// Reads one datagram; the number of messages it says were taken.
fn read_answers(socket: &impl AsFd) -> Result<usize, Errno> {
    let mut reply = [0_u8; REPLY_BYTES_MAX];
    let (length, _) = rustix::net::recv(socket, &mut reply[..], RecvFlags::empty())?;
    let mut rest = reply.get(..length).unwrap_or_default();
    let mut taken = 0;
    while let Some((head, _)) = rest.split_first_chunk::<20>() {
        let [a, b, c, d, kind_low, kind_high, .., w, x, y, z] = *head;
        let size = usize::try_from(u32::from_ne_bytes([a, b, c, d])).unwrap_or(usize::MAX);
        if u16::from_ne_bytes([kind_low, kind_high]) == NLMSG_ERROR {
            match i32::from_ne_bytes([w, x, y, z]) {
                0 => taken += 1,
                code => return Err(Errno::from_raw_os_error(code.saturating_neg())),
            }
        }
        let Some(next) = rest.get(size.next_multiple_of(4).max(HEADER_BYTES)..) else {
            break;
        };
        rest = next;
    }
    Ok(taken)
}
