//! A stub resolver for `gateway.resolver`: A and AAAA of one name from one server.
//!
//! UDP first, TCP where the answer was cut off (RFC 1035 §4.2, RFC 7766). The identifier and the
//! source port are random, the question must come back as it was asked.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

use crate::bad_input;

/// Bytes of an answer over UDP (RFC 6891's usual size; longer ones come over TCP).
pub const UDP_BYTES_MAX: usize = 1232;

/// How long one question over UDP waits before it is asked again.
pub const ATTEMPT: Duration = Duration::from_secs(2);

/// How often a question is asked over UDP.
pub const ATTEMPTS_MAX: usize = 3;

/// Addresses that are taken from one answer.
pub const ADDRESSES_MAX: usize = 16;

const TYPE_A: u16 = 1;
const TYPE_AAAA: u16 = 28;
const CLASS_IN: u16 = 1;

/// A name could not be resolved.
#[derive(Debug, thiserror::Error)]
pub enum DnsError {
    #[error("the name does not fit a question")]
    Name,
    #[error("the resolver cannot be reached: {0}")]
    Unreachable(#[from] io::Error),
    #[error("the resolver does not answer")]
    Silent,
    #[error("the resolver's answer cannot be read")]
    Malformed,
    #[error("the resolver answers with code {0}")]
    Code(u8),
}

/// The name does not exist (RFC 1035 §4.1.1).
const NXDOMAIN: u8 = 3;

/// Every address that `server` has for `name`, IPv6 first. Empty if the name has none.
///
/// # Errors
/// Both questions failed; the first failure is given.
pub async fn resolve(server: SocketAddr, name: &str) -> Result<Vec<IpAddr>, DnsError> {
    let (v6, v4) = tokio::join!(
        ask(server, name, TYPE_AAAA, ADDRESSES_MAX),
        ask(server, name, TYPE_A, ADDRESSES_MAX)
    );
    match (v6, v4) {
        (Err(error), Err(_)) => Err(error),
        (v6, v4) => {
            let mut all = v6.unwrap_or_default();
            all.extend(v4.unwrap_or_default());
            Ok(all)
        }
    }
}

/// Every address that `server` has for `name`, where knowing some of them is not enough. A name that
/// does not exist has none.
///
/// # Errors
/// Either question failed.
pub async fn resolve_all(server: SocketAddr, name: &str) -> Result<Vec<IpAddr>, DnsError> {
    let exists = |asked| match asked {
        Err(DnsError::Code(NXDOMAIN)) => Ok(Vec::new()),
        asked => asked,
    };
    // What an answer holds is bound by its own length.
    let (v6, v4) = tokio::join!(
        ask(server, name, TYPE_AAAA, usize::MAX),
        ask(server, name, TYPE_A, usize::MAX)
    );
    let mut all = exists(v6)?;
    all.extend(exists(v4)?);
    Ok(all)
}

async fn ask(server: SocketAddr, name: &str, kind: u16, most: usize) -> Result<Vec<IpAddr>, DnsError> {
    ask_within(server, (name, kind), most, ATTEMPT).await
}

/// As [`ask`], with another time for each attempt.
async fn ask_within(
    server: SocketAddr,
    (name, kind): (&str, u16),
    most: usize,
    attempt: Duration,
) -> Result<Vec<IpAddr>, DnsError> {
    let asked = exchange(server, (name, kind), most, attempt).await;
    asked.inspect_err(|error| {
        if matches!(error, DnsError::Malformed) {
            bad_input::count(bad_input::Reader::DnsServer, error);
        }
    })
}

async fn exchange(
    server: SocketAddr,
    (name, kind): (&str, u16),
    most: usize,
    attempt: Duration,
) -> Result<Vec<IpAddr>, DnsError> {
    for _ in 0..ATTEMPTS_MAX {
        let id = random_id()?;
        let question = question(id, name, kind)?;
        let local: SocketAddr = match server {
            SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
            SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
        };
        let socket = UdpSocket::bind(local).await?;
        socket.connect(server).await?;
        socket.send(&question).await?;
        let Ok(answer) = timeout(attempt, receive(&socket, &question)).await else {
            continue;
        };
        let answer = answer?;
        if answer.get(2).is_some_and(|flags| flags & 0x02 != 0) {
            let long = timeout(attempt, over_tcp(server, &question)).await;
            return addresses(&long.map_err(|_| DnsError::Silent)??, kind, most);
        }
        return addresses(&answer, kind, most);
    }
    Err(DnsError::Silent)
}

/// Waits for a datagram that answers the question; others may be forged and are passed over.
async fn receive(socket: &UdpSocket, question: &[u8]) -> Result<Vec<u8>, DnsError> {
    let mut buffer = vec![0; UDP_BYTES_MAX];
    loop {
        let length = socket.recv(&mut buffer).await?;
        if let Some(answer) = buffer.get(..length).filter(|answer| answers(answer, question)) {
            return Ok(answer.to_vec());
        }
        bad_input::count(bad_input::Reader::DnsServer, &"unasked");
    }
}

async fn over_tcp(server: SocketAddr, question: &[u8]) -> Result<Vec<u8>, DnsError> {
    let mut stream = TcpStream::connect(server).await?;
    let length = u16::try_from(question.len()).map_err(|_| DnsError::Name)?;
    stream
        .write_all(&[&length.to_be_bytes(), question].concat())
        .await?;
    let length = stream.read_u16().await?;
    let mut answer = vec![0; usize::from(length)];
    stream.read_exact(&mut answer).await?;
    if !answers(&answer, question) {
        return Err(DnsError::Malformed);
    }
    Ok(answer)
}

fn random_id() -> Result<u16, DnsError> {
    let mut id = [0; 2];
    getrandom::fill(&mut id).map_err(|_| io::Error::other("no randomness"))?;
    Ok(u16::from_be_bytes(id))
}

/// A recursive question for one name and type (RFC 1035 §4.1).
fn question(id: u16, name: &str, kind: u16) -> Result<Vec<u8>, DnsError> {
    let mut out = Vec::with_capacity(18 + name.len());
    out.extend_from_slice(&id.to_be_bytes());
    // Recursion desired; one question.
    out.extend_from_slice(&[1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    let name = name.strip_suffix('.').unwrap_or(name);
    if name.is_empty() || name.len() > 253 {
        return Err(DnsError::Name);
    }
    for label in name.split('.') {
        let length = u8::try_from(label.len())
            .ok()
            .filter(|length| (1..=63).contains(length));
        out.push(length.ok_or(DnsError::Name)?);
        out.extend_from_slice(label.as_bytes());
    }
    out.push(0);
    out.extend_from_slice(&kind.to_be_bytes());
    out.extend_from_slice(&CLASS_IN.to_be_bytes());
    Ok(out)
}

/// Whether a message is a response to the question: its identifier, one question, the same.
fn answers(message: &[u8], question: &[u8]) -> bool {
    let same_id = message.get(..2) == question.get(..2);
    let response = message.get(2).is_some_and(|flags| flags & 0x80 != 0);
    let one = message.get(4..6) == Some(&[0, 1]);
    let (Some(asked), Some(echoed)) = (question.get(12..), message.get(12..question.len())) else {
        return false;
    };
    same_id && response && one && asked.eq_ignore_ascii_case(echoed)
}

/// The addresses of an answer. Aliases (CNAME) are not followed by name: the resolver did that,
/// and every address of the asked type in the answer section is the end of that chain.
fn addresses(message: &[u8], kind: u16, most: usize) -> Result<Vec<IpAddr>, DnsError> {
    let mut reader = Reader { message, at: 12 };
    match message.get(3).map(|flags| flags & 0x0f) {
        Some(0) => {}
        // The name does not exist, which is an answer.
        Some(3) => return Ok(Vec::new()),
        Some(code) => return Err(DnsError::Code(code)),
        None => return Err(DnsError::Malformed),
    }
    let count = message
        .get(6..8)
        .map_or(0, |count| u16::from(count[0]) << 8 | u16::from(count[1]));
    reader.skip_name()?;
    reader.take(4)?;
    let mut found = Vec::new();
    for _ in 0..count {
        reader.skip_name()?;
        let record = reader.u16()?;
        let class = reader.u16()?;
        reader.take(4)?;
        let length = reader.u16()?;
        let data = reader.take(usize::from(length))?;
        if record != kind || class != CLASS_IN || found.len() == most {
            continue;
        }
        found.push(match (<[u8; 4]>::try_from(data), <[u8; 16]>::try_from(data)) {
            (Ok(v4), _) if kind == TYPE_A => IpAddr::from(v4),
            (_, Ok(v6)) if kind == TYPE_AAAA => IpAddr::from(v6),
            _ => return Err(DnsError::Malformed),
        });
    }
    Ok(found)
}

struct Reader<'a> {
    message: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], DnsError> {
        let end = self.at.checked_add(count).ok_or(DnsError::Malformed)?;
        let taken = self.message.get(self.at..end).ok_or(DnsError::Malformed)?;
        self.at = end;
        Ok(taken)
    }

    fn u8(&mut self) -> Result<u8, DnsError> {
        self.take(1)
            .map(|bytes| bytes.first().copied().unwrap_or_default())
    }

    fn u16(&mut self) -> Result<u16, DnsError> {
        Ok(u16::from(self.u8()?) << 8 | u16::from(self.u8()?))
    }

    /// Passes over a name; a compression pointer ends it (RFC 1035 §4.1.4).
    fn skip_name(&mut self) -> Result<(), DnsError> {
        loop {
            match self.u8()? {
                0 => return Ok(()),
                length @ 1..=63 => {
                    self.take(usize::from(length))?;
                }
                192.. => {
                    self.take(1)?;
                    return Ok(());
                }
                _ => return Err(DnsError::Malformed),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// An answer to `question` with records of `(type, data)`, each named by a pointer.
    fn answer(question: &[u8], flags: [u8; 2], records: &[(u16, &[u8])]) -> Vec<u8> {
        let mut out = question.to_vec();
        out[2..4].copy_from_slice(&flags);
        out[7] = records.len() as u8;
        for (kind, data) in records {
            out.extend_from_slice(&[0xc0, 12]);
            out.extend_from_slice(&kind.to_be_bytes());
            out.extend_from_slice(&[0, 1, 0, 0, 0, 60]);
            out.extend_from_slice(&(data.len() as u16).to_be_bytes());
            out.extend_from_slice(data);
        }
        out
    }

    /// A resolver on loopback that answers every A with 192.0.2.1 and AAAA with nothing; over
    /// UDP it first sends a forgery, and is cut off where `short`.
    async fn server(short: bool) -> SocketAddr {
        // A port that is free for both: what is free for one may be taken for the other.
        let (udp, tcp) = loop {
            let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            match tokio::net::TcpListener::bind(udp.local_addr().unwrap()).await {
                Ok(tcp) => break (udp, tcp),
                Err(error) => assert_eq!(error.kind(), io::ErrorKind::AddrInUse),
            }
        };
        let address = udp.local_addr().unwrap();
        let records = |question: &[u8]| match question[question.len() - 3] {
            1 => vec![(5, &b"\x01a\x00"[..]), (TYPE_A, &[192, 0, 2, 1][..])],
            _ => vec![],
        };
        tokio::spawn(async move {
            let mut buffer = [0; 512];
            loop {
                let (length, from) = udp.recv_from(&mut buffer).await.unwrap();
                let question = buffer[..length].to_vec();
                let mut forged = answer(&question, [0x80, 0], &[(TYPE_A, &[6, 6, 6, 6])]);
                forged[0] ^= 1;
                udp.send_to(&forged, from).await.unwrap();
                let reply = match short {
                    true => answer(&question, [0x82, 0], &[]),
                    false => answer(&question, [0x80, 0], &records(&question)),
                };
                udp.send_to(&reply, from).await.unwrap();
            }
        });
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = tcp.accept().await.unwrap();
                let length = stream.read_u16().await.unwrap();
                let mut question = vec![0; usize::from(length)];
                stream.read_exact(&mut question).await.unwrap();
                let reply = answer(&question, [0x80, 0], &records(&question));
                stream.write_u16(reply.len() as u16).await.unwrap();
                stream.write_all(&reply).await.unwrap();
            }
        });
        address
    }

    #[tokio::test]
    async fn names_are_resolved_over_udp_and_tcp_and_forgeries_passed_over() {
        for short in [false, true] {
            let found = resolve(server(short).await, "db.example.com").await.unwrap();
            assert_eq!(found, ["192.0.2.1".parse::<IpAddr>().unwrap()], "short: {short}");
        }
    }

    #[tokio::test]
    async fn an_answer_over_udp_has_a_size() {
        let server = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let at = server.local_addr().unwrap();
        let length = question(0, "a.test", TYPE_A).unwrap().len();
        let fits = (UDP_BYTES_MAX - length) / 16;
        for (records, is_read) in [(fits, true), (fits + 1, false)] {
            let asked = ask(at, "a.test", TYPE_A, usize::MAX);
            let answers = async {
                let mut buffer = [0; 512];
                let (length, from) = server.recv_from(&mut buffer).await.unwrap();
                let all = vec![(TYPE_A, &[192, 0, 2, 1][..]); records];
                let reply = answer(&buffer[..length], [0x80, 0], &all);
                server.send_to(&reply, from).await.unwrap();
            };
            let (found, ()) = tokio::join!(asked, answers);
            // What was cut off is no shorter answer.
            assert_eq!(found.ok().map(|all| all.len()), is_read.then_some(records));
        }
    }

    #[tokio::test]
    async fn a_server_that_is_silent_is_asked_so_often() {
        let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let server = silent.local_addr().unwrap();
        let asked = ask_within(server, ("a.test", TYPE_A), 1, Duration::from_millis(20)).await;
        assert!(matches!(asked, Err(DnsError::Silent)));
        let mut count = 0;
        while silent.try_recv_from(&mut [0; 512]).is_ok() {
            count += 1;
        }
        assert_eq!(count, ATTEMPTS_MAX);
    }

    #[tokio::test]
    async fn what_a_resolver_says_that_cannot_be_read_is_counted_and_the_next_question_is_asked() {
        let counted = |reason: &str| bad_input::counted(bad_input::Reader::DnsServer, reason);
        let server = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let at = server.local_addr().unwrap();
        let own = [192, 0, 2, 1];
        type Lie = fn(&[u8]) -> Vec<u8>;
        let lies: [(&str, Lie); 5] = [
            ("an address of three bytes", |asked| {
                answer(asked, [0x80, 0], &[(TYPE_A, &[192, 0, 2])])
            }),
            ("fewer records than it says", |asked| {
                let mut reply = answer(asked, [0x80, 0], &[(TYPE_A, &[192, 0, 2, 1])]);
                reply[7] = 9;
                reply
            }),
            ("cut off in a record", |asked| {
                let reply = answer(asked, [0x80, 0], &[(TYPE_A, &[192, 0, 2, 1])]);
                reply[..reply.len() - 3].to_vec()
            }),
            ("a label of no kind", |asked| {
                let mut reply = answer(asked, [0x80, 0], &[(TYPE_A, &[192, 0, 2, 1])]);
                let name = asked.len();
                reply[name] = 0x80;
                reply
            }),
            ("three bytes", |_| b"abc".to_vec()),
        ];
        for (shown, lie) in lies {
            let before = (counted("malformed"), counted("unasked"));
            let asked = ask(at, "a.test", TYPE_A, ADDRESSES_MAX);
            let answers = async {
                let mut buffer = [0; 512];
                let (length, from) = server.recv_from(&mut buffer).await.unwrap();
                server.send_to(&lie(&buffer[..length]), from).await.unwrap();
                // What answers no question is passed over.
                if shown == "three bytes" {
                    let reply = answer(&buffer[..length], [0x80, 0], &[(TYPE_A, &own)]);
                    server.send_to(&reply, from).await.unwrap();
                }
            };
            let (found, ()) = tokio::join!(asked, answers);
            let after = (counted("malformed"), counted("unasked"));
            match shown {
                "three bytes" => assert!(found.is_ok() && after.1 > before.1, "{shown}: {found:?}"),
                _ => assert!(
                    matches!(found, Err(DnsError::Malformed)) && after.0 > before.0,
                    "{shown}: {found:?}"
                ),
            }
        }
        let fine = answer(
            &question(7, "a.test", TYPE_A).unwrap(),
            [0x80, 0],
            &[(TYPE_A, &own)],
        );
        assert_eq!(addresses(&fine, TYPE_A, 1).unwrap(), [IpAddr::from(own)]);
    }

    #[test]
    fn codes_and_bounds() {
        let question = question(7, "a.test", TYPE_A).unwrap();
        assert!(
            addresses(&answer(&question, [0x80, 3], &[]), TYPE_A, ADDRESSES_MAX)
                .unwrap()
                .is_empty()
        );
        assert!(matches!(
            addresses(&answer(&question, [0x80, 2], &[]), TYPE_A, ADDRESSES_MAX),
            Err(DnsError::Code(2))
        ));
        let many = vec![(TYPE_A, &[192, 0, 2, 1][..]); 40];
        let found = addresses(&answer(&question, [0x80, 0], &many), TYPE_A, ADDRESSES_MAX).unwrap();
        assert_eq!(found.len(), ADDRESSES_MAX);
        // Where all must be known, all are.
        let found = addresses(&answer(&question, [0x80, 0], &many), TYPE_A, usize::MAX).unwrap();
        assert_eq!(found.len(), many.len());
        let long = "a".repeat(64);
        for name in ["", ".", "a..b", &long, &"a.".repeat(130)] {
            assert!(super::question(1, name, TYPE_A).is_err(), "{name}");
        }
    }

    #[test]
    fn an_answer_cut_anywhere_is_an_error() {
        let question = question(7, "a.test", TYPE_A).unwrap();
        let whole = answer(&question, [0x80, 0], &[(TYPE_A, &[192, 0, 2, 1])]);
        for cut in 0..whole.len() {
            assert!(
                addresses(&whole[..cut], TYPE_A, ADDRESSES_MAX).is_err() || cut < 8,
                "{cut}"
            );
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = addresses(&bytes, TYPE_AAAA, ADDRESSES_MAX);
            let _ = answers(&bytes, &bytes);
        }
    }

    /// A fuzz target, as those of `tests/fuzz`.
    #[test]
    fn an_answer_of_any_bytes_has_addresses_of_its_own_alone() {
        bolero::check!()
            .with_iterations(3_000)
            .with_max_len(2_048)
            .with_type::<(Vec<u8>, Vec<(bool, Vec<u8>)>)>()
            .for_each(|(raw, given)| {
                let own = question(1, "a.test", TYPE_A).unwrap();
                let records: Vec<(u16, &[u8])> = given
                    .iter()
                    .map(|(is_v4, data)| (if *is_v4 { TYPE_A } else { TYPE_AAAA }, &data[..]))
                    .collect();
                let flags = [0x80 | raw.first().unwrap_or(&0), raw.last().unwrap_or(&0) & 3];
                for message in [raw.clone(), answer(&own, flags, &records)] {
                    let _ = answers(&message, &own);
                    for most in [0, 1, ADDRESSES_MAX] {
                        let found = addresses(&message, TYPE_A, most).unwrap_or_default();
                        assert!(found.len() <= most);
                        for one in found {
                            let IpAddr::V4(one) = one else {
                                panic!("another type")
                            };
                            assert!(memchr::memmem::find(&message, &one.octets()).is_some());
                        }
                    }
                }
            });
    }
}
