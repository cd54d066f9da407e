//! Just enough of RFC 1035 and RFC 6891: one question in, one short answer out.

use std::net::IpAddr;

const HEADER_BYTES: usize = 12;
const NAME_BYTES_MAX: usize = 255;
/// What a UDP client takes that does not say (RFC 1035).
pub(super) const UDP_BYTES_MIN: usize = 512;
/// The largest answer over UDP that we send, whatever the client says: fits every tunnel.
pub(super) const UDP_BYTES_MAX: usize = 1232;
/// Seconds that an address may be remembered.
const ANSWER_TTL_S: u32 = 60;
/// Seconds that an absence may be remembered.
const NEGATIVE_TTL_S: u32 = 30;

const A: u16 = 1;
const SOA: u16 = 6;
const AAAA: u16 = 28;
const OPT: u16 = 41;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Code {
    NoError = 0,
    FormatError = 1,
    ServerFailure = 2,
    NoSuchName = 3,
    NotImplemented = 4,
    Refused = 5,
}

/// A query with one question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Query {
    id: u16,
    recursion_desired: bool,
    /// The question as it was asked, letter case included.
    question: Vec<u8>,
    /// Lower case, no trailing dot.
    pub(super) name: String,
    kind: u16,
    pub(super) internet_class: bool,
    /// The client's UDP size, where it speaks EDNS.
    edns: Option<u16>,
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes
        .get(at..at + 2)
        .map(|pair| u16::from(pair[0]) << 8 | u16::from(pair[1]))
}

/// Reads a query; else the refusal that is due, if one is.
pub(super) fn parse(message: &[u8]) -> Result<Query, Option<Vec<u8>>> {
    let (Some(id), Some(flags)) = (u16_at(message, 0), u16_at(message, 2)) else {
        return Err(None);
    };
    // Answers are not answered, or two servers would talk for ever.
    if message.len() < HEADER_BYTES || flags & 0x8000 != 0 {
        return Err(None);
    }
    let refusal = |code: Code| Some(header(id, flags & 0x0100 != 0, code, [0; 4]));
    if flags & 0x7800 != 0 {
        return Err(refusal(Code::NotImplemented));
    }
    if u16_at(message, 4) != Some(1) {
        return Err(refusal(Code::FormatError));
    }
    let parsed = question(message).ok_or_else(|| refusal(Code::FormatError))?;
    let (name, end) = parsed;
    let (Some(kind), Some(class)) = (u16_at(message, end), u16_at(message, end + 2)) else {
        return Err(refusal(Code::FormatError));
    };
    Ok(Query {
        id,
        recursion_desired: flags & 0x0100 != 0,
        question: message.get(HEADER_BYTES..end + 4).unwrap_or_default().to_vec(),
        name,
        kind,
        internet_class: class == 1,
        edns: edns(message, end + 4),
    })
}

/// The question's name, and where it ends. No compression: nothing stands before it.
fn question(message: &[u8]) -> Option<(String, usize)> {
    let mut at = HEADER_BYTES;
    let mut name = String::new();
    loop {
        let length = usize::from(*message.get(at)?);
        at += 1;
        if length == 0 {
            return Some((name, at));
        }
        let label = message.get(at..at + length)?;
        at += length;
        let plain = label
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
        // RFC 1035: a dot inside a label is not the dot between two, so no such name is ours.
        if length > 63 || !plain || at - HEADER_BYTES > NAME_BYTES_MAX - 1 {
            return None;
        }
        if !name.is_empty() {
            name.push('.');
        }
        name.extend(label.iter().map(|byte| char::from(byte.to_ascii_lowercase())));
    }
}

/// The OPT record's size, where it is the first record behind the question, as clients send it.
fn edns(message: &[u8], at: usize) -> Option<u16> {
    let empty = u16_at(message, 6)? == 0 && u16_at(message, 8)? == 0 && u16_at(message, 10)? > 0;
    let opt = empty && *message.get(at)? == 0 && u16_at(message, at + 1)? == OPT;
    opt.then(|| u16_at(message, at + 3)).flatten()
}

fn header(id: u16, recursion_desired: bool, code: Code, counts: [u16; 4]) -> Vec<u8> {
    // An authoritative answer; recursion is to be had.
    let flags = 0x8480 | u16::from(recursion_desired) << 8 | code as u16;
    let mut bytes = Vec::with_capacity(UDP_BYTES_MIN);
    for field in [id, flags].into_iter().chain(counts) {
        bytes.extend_from_slice(&field.to_be_bytes());
    }
    bytes
}

impl Query {
    pub(super) fn wants_v4(&self) -> bool {
        self.kind == A
    }

    pub(super) fn wants_address(&self) -> bool {
        matches!(self.kind, A | AAAA)
    }

    /// An answer: the address, or an absence with the SOA that lets it be remembered. Under 512
    /// bytes for every name, so it never needs truncation.
    pub(super) fn reply(&self, code: Code, address: Option<IpAddr>) -> Vec<u8> {
        let absent = address.is_none() && matches!(code, Code::NoError | Code::NoSuchName);
        let counts = [
            1,
            u16::from(address.is_some()),
            u16::from(absent),
            u16::from(self.edns.is_some()),
        ];
        let mut bytes = header(self.id, self.recursion_desired, code, counts);
        bytes.extend_from_slice(&self.question);
        if let Some(address) = address {
            // A pointer to the question's name.
            bytes.extend_from_slice(&[0xc0, 12]);
            match address {
                IpAddr::V4(address) => record(&mut bytes, A, ANSWER_TTL_S, &address.octets()),
                IpAddr::V6(address) => record(&mut bytes, AAAA, ANSWER_TTL_S, &address.octets()),
            }
        }
        if absent {
            // Owner, primary and mailbox are the name itself: every name is a zone of its own.
            let mut data = vec![0xc0, 12, 0xc0, 12];
            for field in [1, 3600, 600, 86_400, NEGATIVE_TTL_S] {
                data.extend_from_slice(&field.to_be_bytes());
            }
            bytes.extend_from_slice(&[0xc0, 12]);
            record(&mut bytes, SOA, NEGATIVE_TTL_S, &data);
        }
        if self.edns.is_some() {
            bytes.extend_from_slice(&[0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 0]);
        }
        bytes
    }

    /// Another resolver's answer, cut down to a truncated one where the client cannot take it.
    pub(super) fn fit(&self, answer: Vec<u8>, tcp: bool) -> Vec<u8> {
        let room = self.edns.map_or(UDP_BYTES_MIN, |size| {
            usize::from(size).clamp(UDP_BYTES_MIN, UDP_BYTES_MAX)
        });
        if tcp || answer.len() <= room {
            return answer;
        }
        let mut bytes = header(self.id, self.recursion_desired, Code::NoError, [1, 0, 0, 0]);
        if let Some(flags) = bytes.get_mut(2) {
            *flags |= 0x02;
        }
        bytes.extend_from_slice(&self.question);
        bytes
    }
}

fn record(bytes: &mut Vec<u8>, kind: u16, ttl_s: u32, data: &[u8]) {
    bytes.extend_from_slice(&kind.to_be_bytes());
    bytes.extend_from_slice(&1u16.to_be_bytes());
    bytes.extend_from_slice(&ttl_s.to_be_bytes());
    bytes.extend_from_slice(&u16::try_from(data.len()).unwrap_or(0).to_be_bytes());
    bytes.extend_from_slice(data);
}
