//! System calls without a safe wrapper, and what is built right on them: a private network
//! namespace whose TCP ends connections to any address and port ([`private_tcp`]), TUN devices,
//! the state of a TCP socket.
//!
//! Neighbours: `ingress/wireguard/kernel` drives what is made here. It knows nothing of peers.
//!
//! Invariants: the only module with `unsafe`, each block with its reason. What is made lives as
//! long as its descriptors: no process, name or file stays behind, whatever ends the program.

mod child;
mod netlink;
pub mod private_tcp;
mod tcp;
mod tun;

#[cfg(test)]
pub use tcp::buffers_are_fixed;
pub use tcp::{TcpState, tcp_state};

#[cfg(test)]
mod tests;
