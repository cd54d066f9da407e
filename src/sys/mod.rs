//! System calls without a safe wrapper, and what is built right on them: a private network
//! namespace whose TCP ends connections to any address and port ([`private_tcp`]), TUN devices,
//! the state of a TCP socket, the end of a command whose reader has gone, a file that is replaced whole.
//!
//! Neighbours: `ingress/wireguard/kernel` drives what is made here. It knows nothing of peers.
//!
//! Invariants: the only module with `unsafe`, each block with its reason. What is made lives as
//! long as its descriptors: no process, name or file stays behind, whatever ends the program.

mod child;
pub mod file;
mod netlink;
mod pipe;
pub mod private_tcp;
mod tcp;
mod tun;

pub use pipe::end_with_the_reader;
#[cfg(test)]
pub use tcp::buffers_are_fixed;
pub use tcp::{TcpState, tcp_state};

#[cfg(test)]
mod tests;
