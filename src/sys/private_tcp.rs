//! The kernel's TCP in a network namespace of its own, which takes connections to any address and
//! port that come in by a TUN device.
//!
//! Inside: packets of the TUN device are routed as local, whatever their destination
//! (`ip rule iif tk0`, `local default dev lo`), and nftables' TPROXY gives them to one listener for
//! each address family. Answers go by the default route, which is the TUN device again. All of it
//! is set up by netlink, without outside programs, and needs no right on the machine but to make
//! a user namespace. The namespace has no name and no process; it ends with its descriptors.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::time::Duration;

use nix::sched::{CloneFlags, unshare};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, netlink as protocols};
use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};

use super::child::{Failure, Made, STEP_LOST, in_child};
use super::netlink::Batch;
use super::tun;

/// Bytes that one connection may hold for its reader; also the largest window offered.
pub const RECEIVE_BYTES_MAX: usize = 2 << 20;
/// Bytes that one connection may hold for its peer.
pub const SEND_BYTES_MAX: usize = 2 << 20;
/// Connections of one address family that wait to be accepted, and as many half-open ones.
pub const BACKLOG_MAX: u16 = 1024;
/// Seconds without an acknowledgment after which a connection is given up.
pub const TIMEOUT_S: u64 = 60;
/// Seconds of silence after which the peer is probed, and between probes.
const KEEP_ALIVE_S: u64 = 25;
/// Times that a SYN is answered again: 1, 2, 4 seconds later.
const SYN_ANSWERS_MAX: &str = "3";
/// Where the listeners are bound. No packet need ever name it.
const PORT: u16 = 4;
const TABLE: u8 = 100;
const LOOPBACK_INDEX: u32 = 1;

/// What is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Largest packet of the TUN device, bytes.
    pub mtu: u16,
}

/// Congestion control that the connections have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Congestion {
    Bbr,
    Cubic,
    /// What the machine has set.
    Machine,
}

impl fmt::Display for Congestion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Congestion::Bbr => "BBR",
            Congestion::Cubic => "CUBIC",
            Congestion::Machine => "the machine's congestion control",
        })
    }
}

/// A namespace, by the descriptors that keep it.
#[derive(Debug)]
pub struct PrivateTcp {
    /// Non-blocking; a packet a read or write, behind a `virtio_net_hdr` of ten bytes.
    pub tun: OwnedFd,
    /// Non-blocking; an accepted socket's own address is what was dialled.
    pub v4: TcpListener,
    pub v6: TcpListener,
    pub congestion: Congestion,
}

/// What the machine does not allow.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {cause}")]
pub struct SetUpError {
    what: &'static str,
    cause: std::io::Error,
}

#[derive(Clone, Copy)]
#[repr(u8)]
enum Step {
    Namespace,
    Tun,
    Link,
    Route,
    Redirect,
    Listen,
    Memory,
}

const STEPS: [(Step, &str); 7] = [
    (Step::Namespace, "no private network namespace"),
    (Step::Tun, "no TUN device (/dev/net/tun)"),
    (Step::Link, "the TUN device does not come up"),
    (Step::Route, "no local route for every address"),
    (Step::Redirect, "no TPROXY of nftables"),
    (Step::Listen, "no transparent listener"),
    (Step::Memory, "the memory of connections cannot be bounded"),
];

impl Step {
    fn failed(self) -> impl FnOnce(Errno) -> Failure {
        move |cause| Failure {
            step: self as u8,
            cause,
        }
    }
}

/// Makes a namespace. Blocks for some milliseconds.
#[allow(unsafe_code, reason = "the work runs after a fork")]
pub fn make(plan: Plan) -> Result<PrivateTcp, SetUpError> {
    // SAFETY: `inside` and all that it calls use the stack and system calls alone.
    let made = unsafe { in_child(move || inside(plan)) }.map_err(|failure| {
        let step = STEPS.iter().find(|(step, _)| *step as u8 == failure.step);
        let lost = "the child that makes the namespace was lost";
        let what = step.map_or(lost, |(_, what)| what);
        debug_assert!(step.is_some() || failure.step == STEP_LOST);
        SetUpError {
            what,
            cause: failure.cause.into(),
        }
    })?;
    let [tun, v4, v6] = made.descriptors;
    Ok(PrivateTcp {
        tun,
        v4: v4.into(),
        v6: v6.into(),
        congestion: match made.note {
            0 => Congestion::Bbr,
            1 => Congestion::Cubic,
            _ => Congestion::Machine,
        },
    })
}

/// In the child: must not allocate.
fn inside(plan: Plan) -> Result<Made, Failure> {
    // The ids stay unmapped: nothing here asks for one. Root without user namespaces does without.
    unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNET)
        .or_else(|refused| unshare(CloneFlags::CLONE_NEWNET).map_err(|_| refused))
        .map_err(|cause| Errno::from_raw_os_error(cause as i32))
        .map_err(Step::Namespace.failed())?;
    let tun = tun::open().map_err(Step::Tun.failed())?;
    let index = index(tun::NAME).map_err(Step::Link.failed())?;
    let bounded = settings();
    links(index, plan.mtu).map_err(Step::Link.failed())?;
    routes(index).map_err(Step::Route.failed())?;
    redirect().map_err(Step::Redirect.failed())?;
    let (v4, congestion) = listener(Domain::IPV4, bounded)?;
    let (v6, _) = listener(Domain::IPV6, bounded)?;
    Ok(Made {
        descriptors: [tun, v4.into(), v6.into()],
        note: congestion,
    })
}

fn index(name: &str) -> Result<u32, Errno> {
    let any = rustix::net::socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    rustix::net::netdevice::name_to_index(any, name)
}

const RECEIVE_SETTING: &str = "4096 131072 2097152";
const SEND_SETTING: &str = "4096 65536 2097152";
const BACKLOG_SETTING: &str = "1024";

/// Receive and send memory, and backlog, as they are written.
#[cfg(test)]
pub(super) fn settings_text() -> (&'static str, &'static str, &'static str) {
    (RECEIVE_SETTING, SEND_SETTING, BACKLOG_SETTING)
}

/// Settings of the namespace's own TCP; true if those that bound its memory were taken.
fn settings() -> bool {
    let set = |path: &std::ffi::CStr, value: &str| -> Result<(), Errno> {
        let file = rustix::fs::open(path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
        rustix::io::write(&file, value.as_bytes()).map(|_| ())
    };
    // The machine may have none of these, or show them read-only; the defaults serve.
    let _ = set(c"/proc/sys/net/ipv4/tcp_synack_retries", SYN_ANSWERS_MAX);
    let _ = set(c"/proc/sys/net/ipv4/tcp_max_syn_backlog", BACKLOG_SETTING);
    let _ = set(c"/proc/sys/net/ipv4/tcp_syncookies", "1");
    let _ = set(c"/proc/sys/net/ipv4/tcp_fastopen", "0");
    let _ = set(c"/proc/sys/net/ipv4/tcp_no_metrics_save", "1");
    let _ = set(c"/proc/sys/net/ipv4/conf/all/accept_source_route", "0");
    let _ = set(c"/proc/sys/net/ipv4/conf/all/rp_filter", "0");
    let _ = set(c"/proc/sys/net/ipv4/conf/default/rp_filter", "0");
    let _ = set(c"/proc/sys/net/ipv6/conf/all/disable_ipv6", "0");
    let _ = set(c"/proc/sys/net/ipv6/conf/default/disable_ipv6", "0");
    // Least, first and most: RECEIVE_BYTES_MAX and SEND_BYTES_MAX.
    set(c"/proc/sys/net/ipv4/tcp_rmem", RECEIVE_SETTING).is_ok()
        && set(c"/proc/sys/net/ipv4/tcp_wmem", SEND_SETTING).is_ok()
}

const IFF_UP: u32 = 1;
const RTM_NEWLINK: u16 = 16;
const RTM_NEWROUTE: u16 = 24;
const RTM_NEWRULE: u16 = 32;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

fn links(tun: u32, mtu: u16) -> Result<(), Errno> {
    let mut batch = Batch::new();
    for link in [LOOPBACK_INDEX, tun] {
        // `struct ifinfomsg`: family, type, index, flags, which flags.
        let mut fixed = [0; 16];
        fixed[4..8].copy_from_slice(&link.to_ne_bytes());
        fixed[8..12].copy_from_slice(&IFF_UP.to_ne_bytes());
        fixed[12..].copy_from_slice(&IFF_UP.to_ne_bytes());
        batch.begin(RTM_NEWLINK, &fixed);
        if link == tun {
            batch.attribute(libc::IFLA_MTU, &u32::from(mtu).to_ne_bytes());
        }
    }
    batch.request(None)
}

fn routes(tun: u32) -> Result<(), Errno> {
    const FRA_IIFNAME: u16 = 3;
    const FRA_PRIORITY: u16 = 6;
    const TO_TABLE: u8 = 1;
    let mut batch = Batch::new();
    for family in [AF_INET, AF_INET6] {
        // `struct rtmsg`: family, lengths, TOS, table, protocol, scope, type, flags.
        let local = [
            family,
            0,
            0,
            0,
            TABLE,
            libc::RTPROT_STATIC,
            libc::RT_SCOPE_HOST,
            libc::RTN_LOCAL,
        ];
        let out = [
            family,
            0,
            0,
            0,
            libc::RT_TABLE_MAIN,
            libc::RTPROT_STATIC,
            libc::RT_SCOPE_LINK,
            libc::RTN_UNICAST,
        ];
        for (route, link) in [(local, LOOPBACK_INDEX), (out, tun)] {
            let mut fixed = [0; 12];
            fixed[..8].copy_from_slice(&route);
            batch.begin(RTM_NEWROUTE, &fixed);
            batch.attribute(libc::RTA_OIF, &link.to_ne_bytes());
        }
        // `struct fib_rule_hdr`: family, lengths, TOS, table, two reserved, action, flags.
        batch.begin(RTM_NEWRULE, &[family, 0, 0, 0, TABLE, 0, 0, TO_TABLE, 0, 0, 0, 0]);
        batch.name(FRA_IIFNAME, tun::NAME);
        batch.attribute(FRA_PRIORITY, &u32::from(TABLE).to_ne_bytes());
    }
    batch.request(None)
}

/// `table ip t { chain c { type filter hook prerouting priority mangle; tproxy to :PORT; } }`, and
/// the same for `ip6` (`linux/netfilter/nf_tables.h`). Only TCP is ever written to the device.
fn redirect() -> Result<(), Errno> {
    const TABLES: u16 = 10 << 8;
    const BATCH: [[u8; 4]; 1] = [[0, 0, 0, 10]];
    const PREROUTING: u32 = 0;
    const PRIORITY: i32 = -150;
    const REGISTER: u32 = 1;
    let mut batch = Batch::new();
    batch.begin_quiet(16, &BATCH[0]);
    for family in [AF_INET, AF_INET6] {
        let fixed = [family, 0, 0, 0];
        batch.begin(TABLES, &fixed);
        batch.name(1, "t");
        batch.begin(TABLES | 3, &fixed);
        batch.name(1, "t");
        batch.name(3, "c");
        let hook = batch.open(4);
        batch.attribute(1, &PREROUTING.to_be_bytes());
        batch.attribute(2, &PRIORITY.to_be_bytes());
        batch.close(&hook);
        batch.name(7, "filter");
        batch.begin(TABLES | 6, &fixed);
        batch.name(1, "t");
        batch.name(2, "c");
        let expressions = batch.open(4);
        expression(&mut batch, "immediate", |batch| {
            batch.attribute(1, &REGISTER.to_be_bytes());
            let data = batch.open(2);
            batch.attribute(1, &PORT.to_be_bytes());
            batch.close(&data);
        });
        expression(&mut batch, "tproxy", |batch| {
            batch.attribute(1, &u32::from(family).to_be_bytes());
            batch.attribute(3, &REGISTER.to_be_bytes());
        });
        batch.close(&expressions);
    }
    batch.begin_quiet(17, &BATCH[0]);
    batch.request(Some(protocols::NETFILTER))
}

fn expression(batch: &mut Batch, name: &str, fill: impl FnOnce(&mut Batch)) {
    let element = batch.open(1);
    batch.name(1, name);
    let data = batch.open(2);
    fill(batch);
    batch.close(&data);
    batch.close(&element);
}

/// A transparent listener; its options are those of every socket it accepts.
fn listener(domain: Domain, bounded: bool) -> Result<(Socket, u8), Failure> {
    let wrong = |error: std::io::Error| Errno::from_io_error(&error).unwrap_or(Errno::IO);
    let refused = |error| Step::Listen.failed()(wrong(error));
    let socket = Socket::new(domain, Type::STREAM.nonblocking(), Some(Protocol::TCP)).map_err(refused)?;
    let any: SocketAddr = if domain == Domain::IPV4 {
        socket.set_ip_transparent_v4(true).map_err(refused)?;
        (Ipv4Addr::UNSPECIFIED, PORT).into()
    } else {
        socket.set_only_v6(true).map_err(refused)?;
        socket.set_ip_transparent_v6(true).map_err(refused)?;
        (Ipv6Addr::UNSPECIFIED, PORT).into()
    };
    if !bounded {
        let unbounded = |error| Step::Memory.failed()(wrong(error));
        // The kernel doubles what it is told, and caps it.
        socket
            .set_recv_buffer_size(RECEIVE_BYTES_MAX / 2)
            .map_err(unbounded)?;
        socket
            .set_send_buffer_size(SEND_BYTES_MAX / 2)
            .map_err(unbounded)?;
    }
    let congestion = if socket.set_tcp_congestion(b"bbr").is_ok() {
        0
    } else if socket.set_tcp_congestion(b"cubic").is_ok() {
        1
    } else {
        2
    };
    let silence = Duration::from_secs(KEEP_ALIVE_S);
    let probes = TcpKeepalive::new().with_time(silence).with_interval(silence);
    socket.set_tcp_keepalive(&probes).map_err(refused)?;
    socket
        .set_tcp_user_timeout(Some(Duration::from_secs(TIMEOUT_S)))
        .map_err(refused)?;
    socket.set_tcp_nodelay(true).map_err(refused)?;
    socket.bind(&any.into()).map_err(refused)?;
    socket.listen(i32::from(BACKLOG_MAX)).map_err(refused)?;
    Ok((socket, congestion))
}
