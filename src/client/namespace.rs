//! The inside of a run: own user, network and mount namespaces, a TUN device that is the only way
//! out, and the name server of the tunnel.
//!
//! Limits: sockets with a path in the file system (a Docker or D-Bus socket) are still reachable
//! by who may open them; abstract ones belong to the network namespace and are not.

use std::fs;
use std::io::{self, IoSlice};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::path::Path;

use futures_util::TryStreamExt as _;
use nix::mount::{MsFlags, mount};
use nix::sched::CloneFlags;
use rtnetlink::{LinkUnspec, RouteMessageBuilder};
use serde::{Deserialize, Serialize};

/// What the outside tells the inside.
#[derive(Debug, Serialize, Deserialize)]
pub struct Plan {
    pub address_v4: Option<Ipv4Addr>,
    pub address_v6: Option<Ipv6Addr>,
    pub mtu: u16,
    pub dns: Vec<IpAddr>,
}

/// What the machine forbids, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum NamespaceError {
    #[error(
        "this machine forbids user namespaces ({0}): allow them with `sysctl -w user.max_user_namespaces=65536` \
         and, on Ubuntu, `sysctl -w kernel.apparmor_restrict_unprivileged_userns=0`"
    )]
    Unshare(nix::Error),
    #[error(
        "cannot open /dev/net/tun ({0}): load it with `modprobe tun` and allow it with `chmod 666 /dev/net/tun`"
    )]
    Tun(io::Error),
    #[error("cannot set up the private mounts: {0}")]
    Mount(String),
    #[error("cannot configure the tunnel's network: {0}")]
    Network(String),
    #[error("lost the tunnel's process: {0}")]
    Outside(#[from] io::Error),
}

/// Leaves the caller's namespaces. The process must have one thread.
pub fn unshare() -> Result<(), NamespaceError> {
    nix::sched::unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS)
        .map_err(NamespaceError::Unshare)
}

/// Maps ids to themselves in the user namespace of `pid`: all of them for root, else the caller's.
/// Called from outside.
pub fn map_ids(pid: u32) -> io::Result<()> {
    let (uid, gid) = (
        rustix::process::geteuid().as_raw(),
        rustix::process::getegid().as_raw(),
    );
    let all = |file: &str| -> io::Result<String> {
        let own = fs::read_to_string(format!("/proc/self/{file}"))?;
        let line = |line: &str| {
            let mut words = line.split_whitespace();
            let (first, count) = (words.next()?, words.nth(1)?);
            Some(format!("{first} {first} {count}\n"))
        };
        Ok(own.lines().filter_map(line).collect())
    };
    if uid == 0 {
        fs::write(format!("/proc/{pid}/uid_map"), all("uid_map")?)?;
        return fs::write(format!("/proc/{pid}/gid_map"), all("gid_map")?);
    }
    fs::write(format!("/proc/{pid}/uid_map"), format!("{uid} {uid} 1\n"))?;
    fs::write(format!("/proc/{pid}/setgroups"), "deny")?;
    fs::write(format!("/proc/{pid}/gid_map"), format!("{gid} {gid} 1\n"))
}

/// Sets up mounts and network, and sends the TUN descriptor out by `outside`.
pub fn set_up(plan: &Plan, folder: &Path, outside: &UnixStream) -> Result<(), NamespaceError> {
    mount_resolver(plan, folder).map_err(|e| NamespaceError::Mount(e.to_string()))?;
    let mut tun = tun_rs::DeviceBuilder::new().name("tailkeep0").mtu(plan.mtu);
    if let Some(address) = plan.address_v4 {
        tun = tun.ipv4(address, 32, None);
    }
    if let Some(address) = plan.address_v6 {
        tun = tun.ipv6(address, 128);
    }
    let tun = tun.build_sync().map_err(NamespaceError::Tun)?;
    let index = tun
        .if_index()
        .map_err(|e| NamespaceError::Network(e.to_string()))?;
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(add_routes(plan, index))
        .map_err(|e| NamespaceError::Network(e.to_string()))?;
    let descriptors = [tun.as_fd()];
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = rustix::net::SendAncillaryBuffer::new(&mut space);
    if !control.push(rustix::net::SendAncillaryMessage::ScmRights(&descriptors)) {
        return Err(io::Error::from(io::ErrorKind::OutOfMemory).into());
    }
    rustix::net::sendmsg(
        outside,
        &[IoSlice::new(b"T")],
        &mut control,
        rustix::net::SendFlags::NOSIGNAL,
    )
    .map_err(io::Error::from)?;
    Ok(())
}

async fn add_routes(plan: &Plan, tun: u32) -> Result<(), rtnetlink::Error> {
    let (connection, handle, _) =
        rtnetlink::new_connection().map_err(|e| rtnetlink::Error::NamespaceError(e.to_string()))?;
    let driver = tokio::spawn(connection);
    let loopback = handle
        .link()
        .get()
        .match_name("lo".to_owned())
        .execute()
        .try_next()
        .await?;
    if let Some(loopback) = loopback {
        handle
            .link()
            .set(LinkUnspec::new_with_index(loopback.header.index).up().build())
            .execute()
            .await?;
    }
    if plan.address_v4.is_some() {
        let route = RouteMessageBuilder::<Ipv4Addr>::new()
            .output_interface(tun)
            .build();
        handle.route().add(route).execute().await?;
    }
    if plan.address_v6.is_some() {
        let route = RouteMessageBuilder::<Ipv6Addr>::new()
            .output_interface(tun)
            .build();
        handle.route().add(route).execute().await?;
    }
    driver.abort();
    Ok(())
}

/// Gives the namespace its own resolv.conf, wherever `/etc/resolv.conf` points, and hides the
/// sockets of resolvers that would ask outside the tunnel.
fn mount_resolver(plan: &Plan, folder: &Path) -> io::Result<()> {
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
    let text: String = plan
        .dns
        .iter()
        .map(|server| format!("nameserver {server}\n"))
        .collect();
    let own = folder.join("resolv.conf");
    fs::write(&own, text)?;
    let shown = fs::canonicalize("/etc/resolv.conf")?;
    mount(Some(&own), &shown, none, MsFlags::MS_BIND, none)?;
    for resolver in ["/run/nscd", "/run/systemd/resolve"] {
        // Where resolv.conf itself lives there, only the sockets are hidden.
        if shown.starts_with(resolver) {
            let empty = folder.join("no-socket");
            fs::write(&empty, "")?;
            for entry in fs::read_dir(resolver)?.flatten() {
                if entry.path() != shown && entry.file_name().to_string_lossy().starts_with("io.systemd") {
                    mount(Some(&empty), &entry.path(), none, MsFlags::MS_BIND, none)?;
                }
            }
        } else if Path::new(resolver).is_dir() {
            let empty = folder.join("empty");
            fs::create_dir_all(&empty)?;
            mount(Some(&empty), resolver, none, MsFlags::MS_BIND, none)?;
        }
    }
    Ok(())
}
