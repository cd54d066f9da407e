//! Segments to and from a TUN device with offloads: many of one flow go in as one write, one read
//! comes out as many. Pure. (`linux/virtio_net.h`; the merging rules are those of Linux's GRO.)

use std::io::IoSlice;
use std::net::IpAddr;

use super::super::flow::Ends;
use super::super::packet::{self, Segment};

/// `struct virtio_net_hdr` before each packet: flags, type, and four 16-bit numbers of the machine's
/// byte order.
pub(super) const PREFIX_BYTES: usize = 10;
/// Bytes of the largest packet of a read or write.
pub(super) const PACKET_BYTES_MAX: usize = 65_535;
/// Segments that one write may carry.
const MERGED_MAX: usize = 48;
/// IP header and TCP header with all options.
const HEADER_BYTES_MAX: usize = 60 + 60;

const NEEDS_CHECKSUM: u8 = 1;
const GSO_NONE: u8 = 0;
const GSO_TCP4: u8 = 1;
const GSO_TCP6: u8 = 4;
const GSO_ECN: u8 = 0x80;
const PSH: u8 = 8;
const CWR: u8 = 0x80;
const TCP: u8 = 6;
const TCP_CHECKSUM_AT: usize = 16;

/// A packet, or a run of segments that go in as one.
struct Group {
    ends: Ends,
    first: Vec<u8>,
    more: Vec<Vec<u8>>,
    /// Bytes of the IP header, and of both.
    ip: usize,
    header: usize,
    /// Data bytes of the first: what every one but the last has.
    size: usize,
    total: usize,
    next: u32,
    open: bool,
}

/// Packets on their way in, in the order of each flow.
#[derive(Default)]
pub(super) struct Inbound {
    groups: Vec<Group>,
}

impl Inbound {
    /// Takes a TCP packet whose lengths and checksums hold.
    pub(super) fn push(&mut self, ends: Ends, bytes: Vec<u8>, segment: &Segment) {
        let ip = match bytes.first() {
            Some(first) if first >> 4 == 4 => usize::from(first & 15) * 4,
            _ => 40,
        };
        let offset = bytes.get(ip + 12).map_or(0, |byte| usize::from(byte >> 4) * 4);
        let header = ip + offset;
        let size = bytes.len().saturating_sub(header);
        let plain = (ip == 20 || ends.source.is_ipv6()) && size > 0;
        let mergeable = plain && segment.flags & !PSH == packet::ACK;
        let pushed = segment.flags & PSH != 0;
        let last = self.groups.iter_mut().rev().find(|group| group.ends == ends);
        if let Some(group) = last {
            if mergeable && group.takes(&bytes, segment, header, size) {
                group.total += size;
                group.next = group.next.wrapping_add(segment.length);
                group.open = size == group.size && !pushed;
                group.more.push(bytes);
                return;
            }
            group.open = false;
        }
        self.groups.push(Group {
            ends,
            ip,
            header,
            size,
            total: bytes.len(),
            next: segment.sequence.wrapping_add(segment.length),
            open: mergeable && !pushed,
            first: bytes,
            more: Vec::new(),
        });
    }

    /// Hands each packet to `write`, prefix first, and forgets them all.
    pub(super) fn drain(&mut self, mut write: impl FnMut(&[IoSlice<'_>])) {
        for mut group in self.groups.drain(..) {
            let Some(prefix) = group.finish() else { continue };
            let mut slices = Vec::with_capacity(2 + group.more.len());
            slices.push(IoSlice::new(&prefix));
            slices.push(IoSlice::new(&group.first));
            for bytes in &group.more {
                slices.push(IoSlice::new(bytes.get(group.header..).unwrap_or_default()));
            }
            write(&slices);
        }
    }
}

impl Group {
    /// Whether the segment goes on where the group ends, and differs in nothing else.
    fn takes(&self, bytes: &[u8], segment: &Segment, header: usize, size: usize) -> bool {
        let same = |from: usize, to: usize| self.first.get(from..to) == bytes.get(from..to);
        let ip = if self.ip == 40 {
            // Traffic class and flow label; next header and hop limit.
            same(0, 4) && same(6, 8)
        } else {
            // TOS; fragment bits, TTL and protocol.
            same(0, 2) && same(6, 10)
        };
        self.open
            && segment.sequence == self.next
            && header == self.header
            && size <= self.size
            && self.total + size <= PACKET_BYTES_MAX
            && self.more.len() + 1 < MERGED_MAX
            && ip
            // Acknowledgment and data offset; window; options.
            && same(self.ip + 8, self.ip + 13)
            && same(self.ip + 14, self.ip + 16)
            && same(self.ip + 20, self.header)
    }

    /// Writes the lengths and sums of the whole; the prefix that tells them.
    fn finish(&mut self) -> Option<[u8; PREFIX_BYTES]> {
        let ip = self.ip;
        let v6 = self.ends.source.is_ipv6();
        if let Some(last) = self.more.last() {
            let flags = last.get(ip + 13).copied()? & PSH;
            *self.first.get_mut(ip + 13)? |= flags;
            set_length(&mut self.first, ip, self.total, v6)?;
        }
        let partial = pseudo_sum(&self.first, self.total - ip, v6)?;
        put(&mut self.first, ip + TCP_CHECKSUM_AT, partial)?;
        let gso = match (self.more.is_empty(), v6) {
            (true, _) => GSO_NONE,
            (false, false) => GSO_TCP4,
            (false, true) => GSO_TCP6,
        };
        let size = if self.more.is_empty() { 0 } else { self.size };
        // The sums were checked when the packet came; the kernel need not look again.
        let mut prefix = [0; PREFIX_BYTES];
        prefix[..2].copy_from_slice(&[NEEDS_CHECKSUM, gso]);
        for (at, number) in [(2, self.header), (4, size), (6, ip), (8, TCP_CHECKSUM_AT)] {
            prefix[at..at + 2].copy_from_slice(&u16::try_from(number).ok()?.to_ne_bytes());
        }
        Some(prefix)
    }
}

fn put(bytes: &mut [u8], at: usize, number: u16) -> Option<()> {
    bytes.get_mut(at..at + 2)?.copy_from_slice(&number.to_be_bytes());
    Some(())
}

/// The length of the whole packet into its IP header, and that header's sum.
fn set_length(bytes: &mut [u8], ip: usize, total: usize, v6: bool) -> Option<()> {
    if v6 {
        return put(bytes, 4, u16::try_from(total - 40).ok()?);
    }
    put(bytes, 2, u16::try_from(total).ok()?)?;
    put(bytes, 10, 0)?;
    let sum = !packet::fold(packet::sum(0, bytes.get(..ip)?));
    put(bytes, 10, sum)
}

/// The sum of the pseudo-header, as a device that completes it wants it.
fn pseudo_sum(bytes: &[u8], length: usize, v6: bool) -> Option<u16> {
    let addresses = if v6 { bytes.get(8..40)? } else { bytes.get(12..20)? };
    let start = u32::from(TCP) + u32::try_from(length).ok()?;
    Some(packet::fold(packet::sum(start, addresses)))
}

/// Where a packet goes.
pub(super) fn destination(packet: &[u8]) -> Option<IpAddr> {
    match packet.first()? >> 4 {
        4 => Some(IpAddr::from(*packet.get(16..)?.first_chunk::<4>()?)),
        6 => Some(IpAddr::from(*packet.get(24..)?.first_chunk::<16>()?)),
        _ => None,
    }
}

/// Hands out the packets of one read, each whole; `None` for a read that makes no sense.
pub(super) fn split(read: &mut [u8], mut each: impl FnMut(&[u8])) -> Option<()> {
    let (prefix, bytes) = read.split_first_chunk_mut::<PREFIX_BYTES>()?;
    let [flags, kind, _, _, s0, s1, c0, c1, o0, o1] = *prefix;
    let number = |low, high| usize::from(u16::from_ne_bytes([low, high]));
    let (size, start) = (number(s0, s1), number(c0, c1));
    match kind & !GSO_ECN {
        GSO_NONE => {
            if flags & NEEDS_CHECKSUM != 0 {
                let sum = !packet::fold(packet::sum(0, bytes.get(start..)?));
                put(bytes, start + number(o0, o1), sum)?;
            }
            each(bytes);
            Some(())
        }
        GSO_TCP4 => segments(bytes, start, size, false, each),
        GSO_TCP6 => segments(bytes, start, size, true, each),
        _ => None,
    }
}

/// Cuts a large segment. Each header is written before its own data, over data already given out.
fn segments(bytes: &mut [u8], ip: usize, size: usize, v6: bool, mut each: impl FnMut(&[u8])) -> Option<()> {
    let header = ip + usize::from(bytes.get(ip + 12)? >> 4) * 4;
    if size == 0 || ip < 20 || header < ip + 20 || header > HEADER_BYTES_MAX {
        return None;
    }
    let mut saved = [0; HEADER_BYTES_MAX];
    let saved = saved.get_mut(..header)?;
    saved.copy_from_slice(bytes.get(..header)?);
    let data = bytes.len() - header;
    let flags = *saved.get(ip + 13)?;
    let sequence = u32::from_be_bytes(*saved.get(ip + 4..)?.first_chunk::<4>()?);
    let id = u16::from_be_bytes(*saved.get(4..)?.first_chunk::<2>()?);
    let mut at = 0;
    let mut count: u16 = 0;
    while at < data {
        let length = size.min(data - at);
        let last = at + length == data;
        let packet = bytes.get_mut(at..at + header + length)?;
        packet.get_mut(..header)?.copy_from_slice(saved);
        // FIN and PSH belong to the last, CWR to the first.
        let not_last = if last { 0 } else { packet::FIN | PSH };
        let not_first = if at == 0 { 0 } else { CWR };
        *packet.get_mut(ip + 13)? = flags & !not_last & !not_first;
        let own = sequence.wrapping_add(u32::try_from(at).ok()?);
        packet
            .get_mut(ip + 4..ip + 8)?
            .copy_from_slice(&own.to_be_bytes());
        if !v6 {
            put(packet, 4, id.wrapping_add(count))?;
        }
        set_length(packet, ip, header + length, v6)?;
        let partial = pseudo_sum(packet, header - ip + length, v6)?;
        put(packet, ip + TCP_CHECKSUM_AT, partial)?;
        let sum = !packet::fold(packet::sum(0, packet.get(ip..)?));
        put(packet, ip + TCP_CHECKSUM_AT, sum)?;
        each(packet);
        at += length;
        count = count.wrapping_add(1);
    }
    Some(())
}

#[cfg(test)]
#[path = "offload_tests.rs"]
mod tests;
