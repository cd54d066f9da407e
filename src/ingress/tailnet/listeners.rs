//! Who listens at the addresses where a tailscaled without a network device dials what peers send to its node's own.
//!
//! The kernel's tables say it without a connection, which the service would notice.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};

/// `st` of a socket that listens, in `/proc/net/tcp`.
const LISTENS: &str = "0A";

/// Whether a service of this machine that is reached at `address` is reached at 127.0.0.1 or ::1 as well: it listens at all
/// addresses, or something listens there.
///
/// # Errors
/// The kernel's tables cannot be read.
pub fn is_at_loopback(address: IpAddr, port: u16) -> io::Result<bool> {
    if UdpSocket::bind((address, 0)).is_err() {
        return Ok(false);
    }
    for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
        match std::fs::read_to_string(table) {
            Ok(text) if listens(&text, port) => return Ok(true),
            Ok(_) => {}
            // A kernel without IPv6.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(false)
}

fn listens(table: &str, port: u16) -> bool {
    table.lines().skip(1).any(|line| {
        let mut words = line.split_whitespace().skip(1);
        let (local, state) = (words.next(), words.nth(1));
        state == Some(LISTENS)
            && local.and_then(socket).is_some_and(|(address, at)| {
                at == port && (address.is_unspecified() || address.is_loopback())
            })
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
    fn any_table_is_read() {
        bolero::check!().for_each(|bytes: &[u8]| {
            let text = format!("head\n{}", String::from_utf8_lossy(bytes));
            listens(&text, 1);
        });
    }
}
