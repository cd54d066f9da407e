//! Who listens at the addresses where a tailscaled without a network device dials what peers send to its node's own.
//!
//! The kernel's tables say it without a connection, which the service would notice.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};

use super::localapi::Protocol;

/// `st` of a socket that listens, in `/proc/net/tcp`.
const LISTENS: &str = "0A";
/// `st` of a socket that is connected to nobody, in `/proc/net/udp`.
const UNCONNECTED: &str = "07";

/// Whether a service of this machine that is reached at `address` is reached at 127.0.0.1 or ::1 as well: it listens at all
/// addresses, or something listens there.
///
/// # Errors
/// The kernel's tables cannot be read.
pub fn is_at_loopback(address: IpAddr, port: u16) -> io::Result<bool> {
    if UdpSocket::bind((address, 0)).is_err() {
        return Ok(false);
    }
    let at = |socket: &Socket| socket.port == port;
    Ok(at_loopback(Protocol::Tcp)?.iter().any(at))
}

/// Whether somebody else than this process is reached at a port of 127.0.0.1 or ::1.
///
/// # Errors
/// The kernel's tables cannot be read.
pub fn is_anothers(protocol: Protocol, port: u16) -> io::Result<bool> {
    let mut there = at_loopback(protocol)?;
    there.retain(|socket| socket.port == port);
    if there.is_empty() {
        return Ok(false);
    }
    let mut own = BTreeSet::new();
    for file in std::fs::read_dir("/proc/self/fd")? {
        // One that was closed meanwhile.
        let Ok(target) = std::fs::read_link(file?.path()) else {
            continue;
        };
        let inode = target.to_str().and_then(|text| {
            let text = text.strip_prefix("socket:[")?.strip_suffix(']')?;
            text.parse().ok()
        });
        own.extend::<Option<u64>>(inode);
    }
    Ok(there.iter().any(|socket| !own.contains(&socket.inode)))
}

/// A socket that takes what is sent to the loopback.
#[derive(Debug)]
struct Socket {
    port: u16,
    inode: u64,
}

fn at_loopback(protocol: Protocol) -> io::Result<Vec<Socket>> {
    let (tables, state) = match protocol {
        Protocol::Tcp => (["/proc/net/tcp", "/proc/net/tcp6"], LISTENS),
        Protocol::Udp => (["/proc/net/udp", "/proc/net/udp6"], UNCONNECTED),
    };
    let mut found = Vec::new();
    for table in tables {
        match std::fs::read_to_string(table) {
            Ok(text) => found.extend(sockets(&text, state)),
            // A kernel without IPv6.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

fn sockets<'a>(table: &'a str, state: &'a str) -> impl Iterator<Item = Socket> + 'a {
    table.lines().skip(1).filter_map(move |line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (address, port) = socket(words.get(1)?)?;
        let inode = words.get(9)?.parse().ok()?;
        let takes = *words.get(3)? == state && (address.is_unspecified() || address.is_loopback());
        takes.then_some(Socket { port, inode })
    })
}

/// `ADDRESS:PORT` in hexadecimal digits, the address as 32-bit words of this machine's byte order.
fn socket(text: &str) -> Option<(IpAddr, u16)> {
    let (address, port) = text.split_once(':')?;
    let words = address.as_bytes().chunks(8).map(|digits| {
        let word = u32::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
        Some(word.to_ne_bytes())
    });
    let bytes = words.collect::<Option<Vec<_>>>()?.concat();
    let address = match <[u8; 4]>::try_from(bytes.as_slice()) {
        Ok(four) => Ipv4Addr::from(four).into(),
        Err(_) => Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?).to_canonical(),
    };
    // 127.0.0.2 and its like are reached by nothing that is sent to 127.0.0.1.
    let address = match address {
        IpAddr::V4(v4) if v4.is_loopback() && v4 != Ipv4Addr::LOCALHOST => return None,
        other => other,
    };
    Some((address, u16::from_str_radix(port, 16).ok()?))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn who_listens_everywhere_is_at_loopback() {
        let here = IpAddr::from([127, 0, 0, 3]);
        for (bound, is) in [
            ("0.0.0.0:0", true),
            ("127.0.0.1:0", true),
            ("[::]:0", true),
            ("[::1]:0", true),
            ("127.0.0.3:0", false),
        ] {
            let listener = TcpListener::bind(bound).unwrap();
            let port = listener.local_addr().unwrap().port();
            assert_eq!(is_at_loopback(here, port).unwrap(), is, "{bound}");
            // Another machine's.
            assert!(!is_at_loopback(IpAddr::from([192, 0, 2, 1]), port).unwrap());
        }
    }

    #[test]
    fn what_is_this_processs_own_is_nobody_elses() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        assert!(!is_anothers(Protocol::Tcp, port).unwrap());
        assert!(!is_anothers(Protocol::Udp, port).unwrap());
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            let kind = match protocol {
                Protocol::Tcp => "STREAM",
                Protocol::Udp => "DGRAM",
            };
            let program = format!(
                "import socket\ns = socket.socket(type=socket.SOCK_{kind})\ns.bind(('127.0.0.1', 0))\n\
                 if '{kind}' == 'STREAM': s.listen()\nprint(s.getsockname()[1], flush=True)\ninput()"
            );
            let mut other = std::process::Command::new("python3")
                .args(["-c", &program])
                .stdin(std::process::Stdio::piped())
                .stdout(std::process::Stdio::piped())
                .spawn()
                .unwrap();
            let mut line = String::new();
            let mut said = std::io::BufReader::new(other.stdout.take().unwrap());
            std::io::BufRead::read_line(&mut said, &mut line).unwrap();
            let port = line.trim().parse().unwrap();
            assert!(is_anothers(protocol, port).unwrap());
            drop(other.stdin.take());
            other.wait().unwrap();
            assert!(!is_anothers(protocol, port).unwrap());
        }
    }

    #[test]
    fn any_table_is_read() {
        bolero::check!().for_each(|bytes: &[u8]| {
            let text = format!("head\n{}", String::from_utf8_lossy(bytes));
            sockets(&text, LISTENS).for_each(drop);
        });
    }
}
