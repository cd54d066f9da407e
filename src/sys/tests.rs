//! What can be seen of a namespace from outside; connections through it: `ingress::wireguard::tests`.

use rustix::io::Errno;

use super::child::{Failure, STEP_LOST, in_child};
use super::netlink::Batch;
use super::private_tcp::{BACKLOG_MAX, Plan, RECEIVE_BYTES_MAX, SEND_BYTES_MAX, make, settings_text};

#[test]
fn a_namespace_is_its_descriptors_and_no_process() {
    let (one, two) = match (make(Plan { mtu: 1420 }), make(Plan { mtu: 9000 })) {
        (Ok(one), Ok(two)) => (one, two),
        (Err(why), _) | (_, Err(why)) => {
            eprintln!("SKIPPED: no kernel TCP here: {why}");
            return;
        }
    };
    // The same place twice: each has its own.
    assert_eq!(one.v4.local_addr().unwrap(), two.v4.local_addr().unwrap());
    assert_eq!(one.v6.local_addr().unwrap(), two.v6.local_addr().unwrap());
    // No child is left to be waited for.
    assert_eq!(
        nix::sys::wait::waitpid(None, Some(nix::sys::wait::WaitPidFlag::WNOHANG)),
        Err(nix::Error::ECHILD)
    );
    // Not to be reached from here.
    let here = std::net::SocketAddr::from(([127, 0, 0, 1], one.v4.local_addr().unwrap().port()));
    assert!(std::net::TcpStream::connect(here).is_err());
    // Neighbour discovery of IPv6 at most is there to be read; then it does not block.
    let mut buffer = [0; 2048];
    let read = (0..100).find_map(|_| rustix::io::read(&one.tun, &mut buffer[..]).err());
    assert_eq!(read, Some(Errno::AGAIN));
}

#[test]
fn the_settings_are_those_that_the_limits_name() {
    let (receive, send, backlog) = settings_text();
    assert!(receive.ends_with(&format!(" {RECEIVE_BYTES_MAX}")));
    assert!(send.ends_with(&format!(" {SEND_BYTES_MAX}")));
    assert_eq!(backlog, BACKLOG_MAX.to_string());
}

#[test]
#[allow(unsafe_code, reason = "the work runs after a fork")]
fn a_child_that_fails_says_where_and_one_that_dies_is_lost() {
    let failure = Failure {
        step: 3,
        cause: Errno::PERM,
    };
    // SAFETY: returns a value, allocates nothing.
    let told = unsafe { in_child(|| Err(failure)) };
    assert_eq!(told.err(), Some(failure));
    // SAFETY: a system call.
    let died = unsafe { in_child(|| libc::_exit(1)) };
    assert_eq!(died.err().map(|failure| failure.step), Some(STEP_LOST));
}

#[test]
fn netlink_says_what_it_did_not_take() {
    let mut batch = Batch::new();
    // A rule of an address family that does not exist.
    batch.begin(32, &[250, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0]);
    assert!(batch.request(None).is_err());
    let mut batch = Batch::new();
    for _ in 0..100 {
        batch.begin(16, &[0; 16]);
    }
    assert_eq!(batch.request(None), Err(Errno::MSGSIZE));
}
