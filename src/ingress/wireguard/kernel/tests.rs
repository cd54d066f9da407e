//! The table of connections by itself; whole connections: `ingress::wireguard::tests`.

use std::net::SocketAddr;

use super::super::packet::{ACK, RST, SYN};
use super::*;
use crate::sys::private_tcp::{Plan, make};

const MANY: (usize, usize) = (10_000, 10_000);

fn stack() -> Option<Stack> {
    match make(Plan { mtu: 1420 }) {
        Ok(private) => Some(Stack::new(private).unwrap()),
        Err(why) => {
            eprintln!("SKIPPED: no kernel TCP here: {why}");
            None
        }
    }
}

fn ends(port: usize) -> Ends {
    Ends {
        source: SocketAddr::from(([10, 99, 0, 1], u16::try_from(port).unwrap())),
        destination: SocketAddr::from(([203, 0, 113, 9], 1)),
    }
}

#[tokio::test]
async fn half_open_connections_are_forgotten_in_time() {
    let Some(mut stack) = stack() else { return };
    for port in 1..=HALF_OPEN_MAX {
        assert!(stack.admit(1, ends(port), SYN, MANY).is_ok());
    }
    let next = ends(HALF_OPEN_MAX + 1);
    let opened = Instant::now();
    assert_eq!(stack.admit(1, next, SYN, MANY), Err(Cause::ConnectionLimit));
    // Another peer has its own; and the same SYN again is no further connection.
    assert!(stack.admit(2, ends(60_000), SYN, MANY).is_ok());
    assert!(stack.admit(1, ends(1), SYN, MANY).is_ok());
    stack.tick(opened + Duration::from_secs(HALF_OPEN_S - 1));
    assert_eq!(stack.admit(1, next, SYN, MANY), Err(Cause::ConnectionLimit));
    stack.tick(opened + Duration::from_secs(HALF_OPEN_S));
    assert_eq!(stack.connections(1), 0);
    assert!(stack.admit(1, next, SYN, MANY).is_ok());
}

#[tokio::test]
async fn a_half_open_connection_that_is_reset_is_forgotten_at_once() {
    let Some(mut stack) = stack() else { return };
    assert!(stack.admit(1, ends(1), SYN, MANY).is_ok());
    // What belongs to no connection opens none.
    assert!(stack.admit(1, ends(2), ACK, MANY).is_ok());
    assert_eq!(stack.connections(1), 1);
    assert!(stack.admit(1, ends(1), RST, MANY).is_ok());
    assert_eq!(stack.connections(1), 0);
}

#[tokio::test]
async fn connections_of_a_peer_and_of_all_have_a_number() {
    let Some(mut stack) = stack() else { return };
    let (own, all) = (2, 3);
    assert!(stack.admit(1, ends(1), SYN, (own, all)).is_ok());
    assert!(stack.admit(1, ends(2), SYN, (own, all)).is_ok());
    assert!(stack.admit(1, ends(3), SYN, (own, all)).is_err());
    assert!(stack.admit(2, ends(4), SYN, (own, all)).is_ok());
    assert!(stack.admit(2, ends(5), SYN, (own, all)).is_err());
    stack.remove(&[1]);
    assert_eq!(stack.connections(1), 0);
    assert!(stack.admit(2, ends(5), SYN, (own, all)).is_ok());
}
