//! IP packets as they leave the tunnel: what they carry, and the refusals sent back.
//! (RFC 791, 8200, 792, 4443, 768, 9293.)

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::Drop;

const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMP: u8 = 1;
const ICMP6: u8 = 58;
/// Bytes of the refused packet that an ICMP error quotes: header and eight bytes, and some more.
const QUOTE_BYTES_MAX: usize = 512;

/// A packet whose lengths and checksums hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Packet<'a> {
    pub(super) source: IpAddr,
    pub(super) destination: IpAddr,
    /// The whole packet, without what follows its stated length.
    pub(super) bytes: &'a [u8],
    pub(super) kind: Kind<'a>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind<'a> {
    Tcp(Segment),
    Udp {
        from: u16,
        to: u16,
        data: &'a [u8],
    },
    /// An echo request; the ICMP message from its type on.
    Echo(&'a [u8]),
    /// Another ICMP message, dropped without an answer.
    Icmp,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) from: u16,
    pub(super) to: u16,
    pub(super) sequence: u32,
    pub(super) acknowledgment: u32,
    pub(super) flags: u8,
    /// Sequence numbers that it takes: data, SYN and FIN.
    pub(super) length: u32,
}

pub(super) const FIN: u8 = 1;
pub(super) const SYN: u8 = 2;
pub(super) const RST: u8 = 4;
pub(super) const ACK: u8 = 16;

/// Whether a connection can go there: one machine, and not the sender's own.
pub(super) fn dialable(address: IpAddr) -> bool {
    match address {
        // 0.0.0.0/8 and 240.0.0.0/4 are no one's (RFC 1122, 3.2.1.3; RFC 1112, 4).
        IpAddr::V4(address) => {
            let [first, ..] = address.octets();
            first != 0 && first != 127 && first < 224
        }
        IpAddr::V6(address) => {
            !address.is_unspecified()
                && !address.is_loopback()
                && !address.is_multicast()
                && address.to_ipv4_mapped().is_none()
        }
    }
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes
        .get(at..at + 2)
        .map(|pair| u16::from(pair[0]) << 8 | u16::from(pair[1]))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from(u16_at(bytes, at)?) << 16 | u32::from(u16_at(bytes, at + 2)?))
}

/// Reads one packet. Every refusal names its cause.
pub(super) fn parse(bytes: &[u8]) -> Result<Packet<'_>, Drop> {
    let (source, destination, protocol, header, total) = match bytes.first().map(|first| first >> 4) {
        Some(4) => header_v4(bytes)?,
        Some(6) => header_v6(bytes)?,
        _ => return Err(Drop::Malformed),
    };
    let bytes = bytes.get(..total).ok_or(Drop::Malformed)?;
    let payload = bytes.get(header..).ok_or(Drop::Malformed)?;
    let kind = match (protocol, destination) {
        (TCP, _) => Kind::Tcp(segment(source, destination, payload)?),
        (UDP, _) => udp(source, destination, payload)?,
        (ICMP, IpAddr::V4(_)) => {
            if fold(sum(0, payload)) != 0xffff {
                return Err(Drop::Checksum);
            }
            echo(payload, 8)
        }
        (ICMP6, IpAddr::V6(_)) => {
            if pseudo_checksum(source, destination, ICMP6, payload) != 0 {
                return Err(Drop::Checksum);
            }
            echo(payload, 128)
        }
        _ => return Err(Drop::Protocol),
    };
    Ok(Packet {
        source,
        destination,
        bytes,
        kind,
    })
}

fn header_v4(bytes: &[u8]) -> Result<(IpAddr, IpAddr, u8, usize, usize), Drop> {
    let fixed: &[u8; 20] = bytes.first_chunk().ok_or(Drop::Malformed)?;
    let header = usize::from(fixed[0] & 15) * 4;
    let total = usize::from(u16_at(fixed, 2).unwrap_or(0));
    if header < 20 || total < header || total > bytes.len() {
        return Err(Drop::Malformed);
    }
    if fold(sum(0, &bytes[..header])) != 0xffff {
        return Err(Drop::Checksum);
    }
    // A source route would have the kernel's TCP answer to an address of the sender's choice, which
    // may be another peer's; no other option serves anyone (RFC 7126).
    if header > 20 {
        return Err(Drop::Protocol);
    }
    // More-fragments or an offset.
    if u16_at(fixed, 6).unwrap_or(0) & 0x3fff != 0 {
        return Err(Drop::Fragment);
    }
    let source = Ipv4Addr::new(fixed[12], fixed[13], fixed[14], fixed[15]);
    let destination = Ipv4Addr::new(fixed[16], fixed[17], fixed[18], fixed[19]);
    Ok((source.into(), destination.into(), fixed[9], header, total))
}

fn header_v6(bytes: &[u8]) -> Result<(IpAddr, IpAddr, u8, usize, usize), Drop> {
    let fixed: &[u8; 40] = bytes.first_chunk().ok_or(Drop::Malformed)?;
    let total = 40 + usize::from(u16_at(fixed, 4).unwrap_or(0));
    if total > bytes.len() {
        return Err(Drop::Malformed);
    }
    if fixed[6] == 44 {
        return Err(Drop::Fragment);
    }
    let address = |at: usize| -> Option<Ipv6Addr> {
        let octets: [u8; 16] = *fixed.get(at..)?.first_chunk()?;
        Some(Ipv6Addr::from(octets))
    };
    let source = address(8).ok_or(Drop::Malformed)?;
    let destination = address(24).ok_or(Drop::Malformed)?;
    Ok((source.into(), destination.into(), fixed[6], 40, total))
}

fn segment(source: IpAddr, destination: IpAddr, payload: &[u8]) -> Result<Segment, Drop> {
    let fixed: &[u8; 20] = payload.first_chunk().ok_or(Drop::Malformed)?;
    let offset = usize::from(fixed[12] >> 4) * 4;
    let data = payload.len().checked_sub(offset).ok_or(Drop::Malformed)?;
    if offset < 20 {
        return Err(Drop::Malformed);
    }
    if pseudo_checksum(source, destination, TCP, payload) != 0 {
        return Err(Drop::Checksum);
    }
    let flags = fixed[13];
    let flagged = u32::from(flags & SYN != 0) + u32::from(flags & FIN != 0);
    Ok(Segment {
        from: u16_at(fixed, 0).unwrap_or(0),
        to: u16_at(fixed, 2).unwrap_or(0),
        sequence: u32_at(fixed, 4).unwrap_or(0),
        acknowledgment: u32_at(fixed, 8).unwrap_or(0),
        flags,
        length: u32::try_from(data).unwrap_or(0) + flagged,
    })
}

fn udp(source: IpAddr, destination: IpAddr, payload: &[u8]) -> Result<Kind<'_>, Drop> {
    let fixed: &[u8; 8] = payload.first_chunk().ok_or(Drop::Malformed)?;
    let length = usize::from(u16_at(fixed, 4).unwrap_or(0));
    let datagram = payload.get(..length).ok_or(Drop::Malformed)?;
    let data = datagram.get(8..).ok_or(Drop::Malformed)?;
    let unchecked = fixed[6] == 0 && fixed[7] == 0;
    // RFC 768 lets IPv4 leave it out; RFC 8200 does not let IPv6.
    if unchecked && source.is_ipv6() {
        return Err(Drop::Checksum);
    }
    if !unchecked && pseudo_checksum(source, destination, UDP, datagram) != 0 {
        return Err(Drop::Checksum);
    }
    Ok(Kind::Udp {
        from: u16_at(fixed, 0).unwrap_or(0),
        to: u16_at(fixed, 2).unwrap_or(0),
        data,
    })
}

fn echo(message: &[u8], request: u8) -> Kind<'_> {
    match message {
        [kind, 0, _, _, _, _, _, _, ..] if *kind == request => Kind::Echo(message),
        _ => Kind::Icmp,
    }
}

pub(super) fn sum(start: u32, bytes: &[u8]) -> u32 {
    let mut total = u64::from(start);
    let (pairs, last) = bytes.as_chunks::<2>();
    for pair in pairs {
        total += u64::from(u16::from_be_bytes(*pair));
    }
    if let [last] = last {
        total += u64::from(*last) << 8;
    }
    // At most 2^16 words of 16 bits and a start below 2^24: fits.
    u32::try_from(total).unwrap_or(u32::MAX)
}

pub(super) fn fold(mut total: u32) -> u16 {
    while total > 0xffff {
        total = (total & 0xffff) + (total >> 16);
    }
    u16::try_from(total).unwrap_or(0xffff)
}

/// The Internet checksum with the pseudo-header; zero over a payload whose own is right.
fn pseudo_checksum(source: IpAddr, destination: IpAddr, protocol: u8, payload: &[u8]) -> u16 {
    let mut total = u32::from(protocol) + u32::try_from(payload.len()).unwrap_or(0);
    for address in [source, destination] {
        total = match address {
            IpAddr::V4(address) => sum(total, &address.octets()),
            IpAddr::V6(address) => sum(total, &address.octets()),
        };
    }
    !fold(sum(fold(total).into(), payload))
}

/// An IP packet around `payload`, whose checksum at `checksum_at` is filled in.
pub(super) fn assemble(
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    mut payload: Vec<u8>,
    checksum_at: usize,
) -> Vec<u8> {
    let checksum = match protocol {
        ICMP => !fold(sum(0, &payload)),
        _ => pseudo_checksum(source, destination, protocol, &payload),
    };
    let checksum = if checksum == 0 && protocol == UDP {
        0xffff
    } else {
        checksum
    };
    if let Some(field) = payload.get_mut(checksum_at..checksum_at + 2) {
        field.copy_from_slice(&checksum.to_be_bytes());
    }
    let length = u16::try_from(payload.len()).unwrap_or(u16::MAX);
    let mut packet = Vec::with_capacity(40 + payload.len());
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let [high, low] = (length.saturating_add(20)).to_be_bytes();
            packet.extend_from_slice(&[0x45, 0, high, low, 0, 0, 0x40, 0, 64, protocol, 0, 0]);
            packet.extend_from_slice(&source.octets());
            packet.extend_from_slice(&destination.octets());
            let checksum = !fold(sum(0, &packet));
            packet[10..12].copy_from_slice(&checksum.to_be_bytes());
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let [high, low] = length.to_be_bytes();
            packet.extend_from_slice(&[0x60, 0, 0, 0, high, low, protocol, 64]);
            packet.extend_from_slice(&source.octets());
            packet.extend_from_slice(&destination.octets());
        }
        _ => return Vec::new(),
    }
    packet.extend_from_slice(&payload);
    packet
}

/// A UDP datagram.
pub(super) fn datagram(source: SocketAddr, destination: SocketAddr, data: &[u8]) -> Vec<u8> {
    let mut payload = Vec::with_capacity(8 + data.len());
    payload.extend_from_slice(&source.port().to_be_bytes());
    payload.extend_from_slice(&destination.port().to_be_bytes());
    payload.extend_from_slice(&u16::try_from(8 + data.len()).unwrap_or(u16::MAX).to_be_bytes());
    payload.extend_from_slice(&[0, 0]);
    payload.extend_from_slice(data);
    assemble(source.ip(), destination.ip(), UDP, payload, 6)
}

/// The answer to an echo request.
pub(super) fn echo_reply(packet: &Packet<'_>, message: &[u8]) -> Vec<u8> {
    let mut payload = message.to_vec();
    let (protocol, kind) = if packet.source.is_ipv4() {
        (ICMP, 0)
    } else {
        (ICMP6, 129)
    };
    if let Some(head) = payload.first_chunk_mut::<4>() {
        *head = [kind, 0, 0, 0];
    }
    assemble(packet.destination, packet.source, protocol, payload, 2)
}

/// Port unreachable, in the destination's name, quoting the packet. None for a group of hosts
/// (RFC 1122 §3.2.2, RFC 4443 §2.4(e)).
pub(super) fn unreachable(packet: &Packet<'_>) -> Option<Vec<u8>> {
    let group = match packet.destination {
        IpAddr::V4(address) => address.is_multicast() || address.is_broadcast(),
        IpAddr::V6(address) => address.is_multicast(),
    };
    if group {
        return None;
    }
    // RFC 792: type 3, code 3. RFC 4443: type 1, code 4.
    let (protocol, kind, code) = match packet.source {
        IpAddr::V4(_) => (ICMP, 3, 3),
        IpAddr::V6(_) => (ICMP6, 1, 4),
    };
    let mut payload = vec![kind, code, 0, 0, 0, 0, 0, 0];
    payload.extend_from_slice(&packet.bytes[..packet.bytes.len().min(QUOTE_BYTES_MAX)]);
    Some(assemble(packet.destination, packet.source, protocol, payload, 2))
}

/// The reset that answers a segment of no connection (RFC 9293, 3.10.7.1).
pub(super) fn reset(packet: &Packet<'_>, segment: &Segment) -> Option<Vec<u8>> {
    if segment.flags & RST != 0 {
        return None;
    }
    let (sequence, acknowledgment, flags) = if segment.flags & ACK != 0 {
        (segment.acknowledgment, 0, RST)
    } else {
        (0, segment.sequence.wrapping_add(segment.length), RST | ACK)
    };
    let mut payload = Vec::with_capacity(20);
    payload.extend_from_slice(&segment.to.to_be_bytes());
    payload.extend_from_slice(&segment.from.to_be_bytes());
    payload.extend_from_slice(&sequence.to_be_bytes());
    payload.extend_from_slice(&acknowledgment.to_be_bytes());
    payload.extend_from_slice(&[0x50, flags, 0, 0, 0, 0, 0, 0]);
    Some(assemble(packet.destination, packet.source, TCP, payload, 16))
}
