//! Sockets that are kept open wherever they are wanted now.
//!
//! Where a socket belongs changes with the policy, and with what tailscaled says of its node. The loops
//! that listen to these say what is wanted; here is what it takes to have just that.
//!
//! Invariants: nothing is served where it is not wanted any more, nor after the keeper is gone; a
//! place that cannot be had takes none of the others away, and is tried again by whoever finds
//! [`Sockets::is_whole`] false, after [`RETRY`].

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket};
use tokio::task::AbortHandle;

use super::redirect::Device;

/// How long until a socket that could not be made is tried again.
pub const RETRY: Duration = Duration::from_secs(5);

/// Connections that the kernel holds for one socket until they are taken.
pub(super) const BACKLOG: u32 = 1024;

/// What is open, by its place; `P` is all by which two sockets differ.
#[derive(Debug)]
pub struct Sockets<P> {
    open: BTreeMap<P, Vec<AbortHandle>>,
    failed: BTreeSet<P>,
}

impl<P> Default for Sockets<P> {
    fn default() -> Self {
        Sockets {
            open: BTreeMap::new(),
            failed: BTreeSet::new(),
        }
    }
}

impl<P: Ord + Clone> Sockets<P> {
    /// Ends what is not wanted, and opens what is wanted and is not there, or has ended. `open` begins
    /// the tasks that serve a place; `failed` is told what cannot be had, and whether it could before.
    pub fn keep(
        &mut self,
        wanted: BTreeSet<P>,
        mut open: impl FnMut(&P) -> io::Result<Vec<AbortHandle>>,
        mut failed: impl FnMut(&P, &io::Error, bool),
    ) {
        self.open.retain(|place, tasks| {
            let stays = wanted.contains(place) && !tasks.iter().any(AbortHandle::is_finished);
            if !stays {
                tasks.iter().for_each(AbortHandle::abort);
            }
            stays
        });
        let before = std::mem::take(&mut self.failed);
        for place in wanted {
            if self.open.contains_key(&place) {
                continue;
            }
            match open(&place) {
                Ok(tasks) => {
                    self.open.insert(place, tasks);
                }
                Err(error) => {
                    failed(&place, &error, !before.contains(&place));
                    self.failed.insert(place);
                }
            }
        }
    }

    /// Whether there are all that were wanted last.
    pub fn is_whole(&self) -> bool {
        self.failed.is_empty()
    }
}

impl<P> Drop for Sockets<P> {
    fn drop(&mut self) {
        self.open.values().flatten().for_each(AbortHandle::abort);
    }
}

/// A TCP socket that hears one device alone, if one is given.
///
/// # Errors
/// As the kernel has it.
pub fn bind(address: SocketAddr, device: Option<&Device>) -> io::Result<TcpListener> {
    let socket = match address.ip() {
        IpAddr::V4(_) => TcpSocket::new_v4()?,
        IpAddr::V6(_) => TcpSocket::new_v6()?,
    };
    socket.set_reuseaddr(true)?;
    if let Some(device) = device {
        // The machine's other networks must not reach it, whatever they route here.
        socket2::SockRef::from(&socket).bind_device(Some(device.name.as_bytes()))?;
    }
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waits() -> Vec<AbortHandle> {
        vec![tokio::spawn(std::future::pending::<()>()).abort_handle()]
    }

    /// As the tasks are after their end was asked for.
    async fn settle() {
        for _ in 0..8 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn what_is_wanted_is_open_and_nothing_else() {
        let mut sockets = Sockets::default();
        let mut begun: Vec<(u8, AbortHandle)> = Vec::new();
        let mut keep = |sockets: &mut Sockets<u8>, wanted: &[u8]| {
            let before = begun.len();
            sockets.keep(
                wanted.iter().copied().collect(),
                |place| {
                    let tasks = waits();
                    begun.push((*place, tasks[0].clone()));
                    Ok(tasks)
                },
                |_, _, _| unreachable!(),
            );
            let new: Vec<(u8, AbortHandle)> = begun[before..].to_vec();
            new
        };
        let first = keep(&mut sockets, &[1, 2]);
        assert_eq!(first.len(), 2);
        let second = keep(&mut sockets, &[2, 3]);
        assert_eq!(second.iter().map(|(place, _)| *place).collect::<Vec<_>>(), [3]);
        settle().await;
        assert!(first[0].1.is_finished() && !first[1].1.is_finished());
        // One that has ended by itself is opened anew.
        second[0].1.abort();
        settle().await;
        let third = keep(&mut sockets, &[2, 3]);
        assert_eq!(third.iter().map(|(place, _)| *place).collect::<Vec<_>>(), [3]);
        drop(sockets);
        settle().await;
        assert!(first[1].1.is_finished() && third[0].1.is_finished());
    }

    #[tokio::test]
    async fn what_cannot_be_had_is_said_once_and_takes_nothing_away() {
        let mut sockets = Sockets::default();
        let mut said = Vec::new();
        let mut keep = |sockets: &mut Sockets<u8>, works: bool| {
            sockets.keep(
                BTreeSet::from([1, 2]),
                |place| match *place == 1 && !works {
                    true => Err(io::ErrorKind::AddrInUse.into()),
                    false => Ok(waits()),
                },
                |place, _, is_new| said.extend(is_new.then_some(*place)),
            );
            (sockets.open.len(), sockets.is_whole(), said.len())
        };
        assert_eq!(keep(&mut sockets, false), (1, false, 1));
        assert_eq!(keep(&mut sockets, false), (1, false, 1), "once");
        assert_eq!(keep(&mut sockets, true), (2, true, 1));
    }
}
