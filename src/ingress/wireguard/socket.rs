//! The UDP socket: what goes to one peer in datagrams of one length goes in one call, and comes in one.
//!
//! Linux cuts such a run into datagrams as late as it can, and puts one together as early (`UDP_SEGMENT` and `UDP_GRO`
//! of `udp(7)`): most of a datagram's cost is the way through the kernel's stack. A run that the way out cannot
//! take (its MTU is smaller, or its device has no checksums) goes one by one.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::SocketAddr;
use std::os::fd::AsRawFd as _;

use nix::cmsg_space;
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, sendmsg, setsockopt, sockopt,
};
use tokio::io::Interest;
use tokio::net::UdpSocket;

/// Datagrams in one call (`UDP_MAX_SEGMENTS` of Linux before 6.9).
const RUN_DATAGRAMS_MAX: usize = 64;
/// Bytes in one call: what one UDP packet over IPv4 can hold.
const RUN_BYTES_MAX: usize = 65_507;
/// Bytes that one call can bring.
pub(super) const RECEIVED_BYTES_MAX: usize = 1 << 16;

/// A datagram and where it goes.
pub(super) type Datagram = (SocketAddr, Vec<u8>);

pub(super) struct Socket {
    socket: UdpSocket,
    /// Room for what the kernel says of a run.
    said: Vec<u8>,
}

/// What one call brought: datagrams of `each` bytes, the last one perhaps shorter.
pub(super) struct Received {
    pub(super) from: SocketAddr,
    pub(super) bytes: usize,
    pub(super) each: usize,
}

impl Received {
    /// What came, in the buffer that it came to; an empty datagram is one too.
    pub(super) fn datagrams<'a>(&self, buffer: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
        let bytes = buffer.get(..self.bytes).unwrap_or_default();
        let empty = bytes.is_empty().then_some(bytes);
        empty.into_iter().chain(bytes.chunks(self.each))
    }
}

impl Socket {
    pub(super) fn new(socket: UdpSocket) -> Socket {
        // Without it, each datagram comes by itself.
        let _ = setsockopt(&socket, sockopt::UdpGroSegment, &true);
        Socket {
            socket,
            said: cmsg_space!(i32),
        }
    }

    /// Waits for what comes.
    pub(super) async fn receive(&mut self, buffer: &mut [u8]) -> io::Result<Received> {
        let Socket { socket, said } = self;
        socket
            .async_io(Interest::READABLE, || take(socket, said, buffer))
            .await
    }

    /// What is there already.
    pub(super) fn try_receive(&mut self, buffer: &mut [u8]) -> io::Result<Received> {
        let Socket { socket, said } = self;
        socket.try_io(Interest::READABLE, || take(socket, said, buffer))
    }

    /// Sends in order, and tells how many could not be.
    pub(super) async fn send(&self, mut datagrams: &[Datagram]) -> u64 {
        let mut lost = 0;
        while !datagrams.is_empty() {
            let (run, rest) = datagrams.split_at(run(datagrams));
            if run.len() == 1 || self.send_run(run).await.is_err() {
                for (to, datagram) in run {
                    lost += u64::from(self.socket.send_to(datagram, to).await.is_err());
                }
            }
            datagrams = rest;
        }
        lost
    }

    /// Sends a run in one call: all of it, or nothing.
    async fn send_run(&self, run: &[Datagram]) -> io::Result<()> {
        let Some((to, first)) = run.first() else {
            return Ok(());
        };
        let parts: Vec<IoSlice<'_>> = run.iter().map(|(_, datagram)| IoSlice::new(datagram)).collect();
        let each = u16::try_from(first.len()).map_err(io::Error::other)?;
        let (to, cut) = (
            SockaddrStorage::from(*to),
            [ControlMessage::UdpGsoSegments(&each)],
        );
        let send = || {
            let socket = self.socket.as_raw_fd();
            sendmsg(socket, &parts, &cut, MsgFlags::MSG_DONTWAIT, Some(&to)).map_err(io::Error::from)
        };
        self.socket.async_io(Interest::WRITABLE, send).await.map(drop)
    }
}

fn take(socket: &UdpSocket, said: &mut [u8], buffer: &mut [u8]) -> io::Result<Received> {
    let mut parts = [IoSliceMut::new(buffer)];
    let socket = socket.as_raw_fd();
    let message = recvmsg::<SockaddrStorage>(socket, &mut parts, Some(said), MsgFlags::MSG_DONTWAIT)?;
    let from = message.address.and_then(|from| {
        let v4 = from.as_sockaddr_in().map(|from| SocketAddr::V4((*from).into()));
        v4.or_else(|| from.as_sockaddr_in6().map(|from| SocketAddr::V6((*from).into())))
    });
    let mut each = message.bytes;
    for said in message.cmsgs()? {
        if let ControlMessageOwned::UdpGroSegments(bytes) = said {
            each = usize::try_from(bytes).unwrap_or_default();
        }
    }
    Ok(Received {
        from: from.ok_or(io::ErrorKind::AddrNotAvailable)?,
        bytes: message.bytes,
        each: each.max(1),
    })
}

/// How many datagrams from the front can go together: to one address, of one length; a shorter one ends the run.
fn run(datagrams: &[Datagram]) -> usize {
    let Some((to, first)) = datagrams.first() else {
        return 0;
    };
    let mut bytes = 0;
    let mut length = 0;
    for (address, datagram) in datagrams.iter().take(RUN_DATAGRAMS_MAX) {
        bytes += datagram.len();
        if address != to || datagram.len() > first.len() || bytes > RUN_BYTES_MAX {
            break;
        }
        length += 1;
        if datagram.len() < first.len() {
            break;
        }
    }
    length.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn datagrams(to: SocketAddr, lengths: &[usize]) -> Vec<Datagram> {
        let one =
            |(number, length): (usize, &usize)| (to, vec![u8::try_from(number % 251).unwrap(); *length]);
        lengths.iter().enumerate().map(one).collect()
    }

    async fn pair(address: &str) -> (Socket, UdpSocket) {
        let bind = || async { UdpSocket::bind((address, 0)).await.unwrap() };
        (Socket::new(bind().await), bind().await)
    }

    /// What comes, one by one, until as many have come.
    async fn each(socket: &UdpSocket, count: usize) -> Vec<Vec<u8>> {
        let mut all = Vec::new();
        let mut buffer = vec![0; RECEIVED_BYTES_MAX];
        while all.len() < count {
            let (length, _) = socket.recv_from(&mut buffer).await.unwrap();
            all.push(buffer[..length].to_vec());
        }
        all
    }

    #[test]
    fn a_run_has_one_address_one_length_and_a_bound() {
        let (one, two): (SocketAddr, SocketAddr) =
            ("192.0.2.1:1".parse().unwrap(), "192.0.2.1:2".parse().unwrap());
        let length = |lengths: &[usize]| run(&datagrams(one, lengths));
        assert_eq!(length(&[]), 0);
        assert_eq!(length(&[9]), 1);
        assert_eq!(length(&[9, 9, 9]), 3);
        assert_eq!(length(&[9, 9, 4, 4]), 3);
        assert_eq!(length(&[9, 10]), 1);
        assert_eq!(length(&[1; RUN_DATAGRAMS_MAX + 1]), RUN_DATAGRAMS_MAX);
        assert_eq!(length(&[9_000; 9]), 7);
        assert_eq!(length(&[RUN_BYTES_MAX + 1, 1]), 1);
        let mut two_peers = datagrams(one, &[9, 9]);
        two_peers.extend(datagrams(two, &[9]));
        assert_eq!(run(&two_peers), 2);
    }

    #[tokio::test]
    async fn what_is_sent_in_runs_comes_as_what_it_was() {
        for address in ["127.0.0.1", "::1"] {
            let (sender, receiver) = pair(address).await;
            let to = receiver.local_addr().unwrap();
            let lengths: Vec<usize> = (0..90)
                .map(|number| [1_400, 1_400, 1_400, 60, 1_400][number % 5])
                .collect();
            let sent = datagrams(to, &lengths);
            let ((), lost) = tokio::join!(
                async {
                    let sent: Vec<_> = sent.iter().map(|(_, datagram)| datagram.clone()).collect();
                    assert_eq!(each(&receiver, lengths.len()).await, sent);
                },
                sender.send(&sent),
            );
            assert_eq!(lost, 0);
        }
    }

    /// More pieces than the kernel cuts at once: as where a device cuts none.
    #[tokio::test]
    async fn a_run_that_is_not_taken_goes_one_by_one() {
        let (sender, receiver) = pair("127.0.0.1").await;
        let all = datagrams(receiver.local_addr().unwrap(), &[1; 200]);
        assert!(sender.send_run(&all).await.is_err());
        // Each is as large as one over this address family can be.
        let large = datagrams(receiver.local_addr().unwrap(), &[RUN_BYTES_MAX + 1; 2]);
        assert_eq!(sender.send(&large).await, 2);
        assert_eq!(sender.send(&all[..3]).await, 0);
        assert_eq!(each(&receiver, 3).await.concat(), [0, 1, 2]);
    }

    #[tokio::test]
    async fn what_comes_as_a_run_is_cut_where_it_was() {
        let receiver = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let to = receiver.local_addr().unwrap();
        let mut receiver = Socket::new(receiver);
        let (sender, _) = pair("127.0.0.1").await;
        let sent = datagrams(to, &[1_000, 1_000, 1_000, 10]);
        assert_eq!(sender.send(&sent).await, 0);
        let mut buffer = vec![0; RECEIVED_BYTES_MAX];
        let received = receiver.receive(&mut buffer).await.unwrap();
        assert_eq!(received.from, sender.socket.local_addr().unwrap());
        assert_eq!((received.bytes, received.each), (3_010, 1_000));
        let pieces: Vec<&[u8]> = received.datagrams(&buffer).collect();
        assert_eq!(
            pieces,
            sent.iter()
                .map(|(_, datagram)| datagram.as_slice())
                .collect::<Vec<_>>()
        );
        assert_eq!(
            receiver.try_receive(&mut buffer).err().map(|error| error.kind()),
            Some(io::ErrorKind::WouldBlock)
        );
        // An empty one is one.
        assert_eq!(sender.send(&datagrams(to, &[0])).await, 0);
        let received = receiver.receive(&mut buffer).await.unwrap();
        assert_eq!(received.datagrams(&buffer).collect::<Vec<_>>(), [&[0_u8; 0]]);
    }
}
