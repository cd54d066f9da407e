//! A client that sends exactly what a test wants.

use std::net::SocketAddr;

use tailkeep::protocol::postgres::startup::to_server;
use tailkeep::protocol::postgres::wire::{head, message};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::world::SOON;

pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

pub struct Raw {
    pub io: Box<dyn Stream>,
    got: Vec<u8>,
    /// Process and key of the BackendKeyData.
    pub key: Vec<u8>,
}

/// What came: the tags in order, and each message's payload.
#[derive(Debug, Default)]
pub struct Came {
    pub tags: String,
    pub payloads: Vec<Vec<u8>>,
}

impl Came {
    /// All payloads as text.
    pub fn text(&self) -> String {
        let parts: Vec<_> = self
            .payloads
            .iter()
            .map(|one| String::from_utf8_lossy(one))
            .collect();
        parts.join(" ").replace('\0', " ")
    }
}

impl Raw {
    /// A session that is ready.
    pub async fn enter(address: SocketAddr) -> Raw {
        let io = TcpStream::connect(address).await.unwrap();
        Raw::over(Box::new(io), &[]).await
    }

    /// A session over a stream, with settings.
    pub async fn over(io: Box<dyn Stream>, settings: &[(&str, &str)]) -> Raw {
        let mut raw = Raw::new(io);
        let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        let settings: Vec<_> = settings.iter().map(own).collect();
        raw.send(&to_server("agent", "postgres", &settings)).await;
        let came = raw.until_ready(1).await;
        let at = came.tags.find('K').unwrap_or_else(|| panic!("not in: {came:?}"));
        raw.key.clone_from(&came.payloads[at]);
        raw
    }

    pub fn new(io: Box<dyn Stream>) -> Raw {
        Raw {
            io,
            got: Vec::new(),
            key: Vec::new(),
        }
    }

    pub async fn send(&mut self, bytes: &[u8]) {
        self.io.write_all(bytes).await.unwrap();
        self.io.flush().await.unwrap();
    }

    /// The next message, or `None` at the end.
    pub async fn next(&mut self) -> Option<(char, Vec<u8>)> {
        let read = async {
            loop {
                if let Ok(Some((tag, total))) = head(&self.got)
                    && self.got.len() >= total
                {
                    let whole: Vec<u8> = self.got.drain(..total).collect();
                    return Some((char::from(tag), whole[5..].to_vec()));
                }
                match self.io.read_buf(&mut self.got).await {
                    Ok(0) | Err(_) => return None,
                    Ok(_) => {}
                }
            }
        };
        tokio::time::timeout(SOON, read)
            .await
            .expect("an answer is missing")
    }

    /// Reads up to the `count`th ReadyForQuery, or the end.
    pub async fn until_ready(&mut self, count: usize) -> Came {
        self.until('Z', count).await
    }

    /// Reads up to the `count`th message of a tag, or the end.
    pub async fn until(&mut self, tag: char, count: usize) -> Came {
        let mut came = Came::default();
        while came.tags.matches(tag).count() < count {
            let Some((tag, payload)) = self.next().await else {
                break;
            };
            came.tags.push(tag);
            came.payloads.push(payload);
        }
        came
    }

    /// Sends, and reads as many answers as Syncs and Queries were sent.
    pub async fn ask(&mut self, messages: &[Vec<u8>]) -> Came {
        let syncs = messages.iter().filter(|one| matches!(one[0], b'S' | b'Q' | b'F'));
        let count = syncs.count();
        self.send(&messages.concat()).await;
        self.until_ready(count).await
    }

    pub async fn query(&mut self, text: &str) -> Came {
        self.ask(&[query(text)]).await
    }
}

/// Sends a CancelRequest for a key.
pub async fn cancel(address: SocketAddr, key: &[u8]) {
    let mut packet = u32::try_from(8 + key.len()).unwrap().to_be_bytes().to_vec();
    packet.extend_from_slice(&[4, 210, 22, 46]);
    packet.extend_from_slice(key);
    let mut io = TcpStream::connect(address).await.unwrap();
    io.write_all(&packet).await.unwrap();
    // It is answered by closing.
    assert_eq!(io.read(&mut [0]).await.unwrap_or(0), 0);
}

pub fn query(text: &str) -> Vec<u8> {
    message(b'Q', format!("{text}\0").as_bytes()).to_vec()
}

pub fn parse(name: &str, text: &str) -> Vec<u8> {
    message(b'P', format!("{name}\0{text}\0\0\0").as_bytes()).to_vec()
}

/// A Bind without formats; the parameters as text.
pub fn bind(portal: &str, statement: &str, parameters: &[&str]) -> Vec<u8> {
    let mut payload = format!("{portal}\0{statement}\0\0\0").into_bytes();
    payload.extend_from_slice(&u16::try_from(parameters.len()).unwrap().to_be_bytes());
    for one in parameters {
        payload.extend_from_slice(&u32::try_from(one.len()).unwrap().to_be_bytes());
        payload.extend_from_slice(one.as_bytes());
    }
    payload.extend_from_slice(&[0, 0]);
    message(b'B', &payload).to_vec()
}

pub fn execute(portal: &str, rows: u32) -> Vec<u8> {
    let mut payload = format!("{portal}\0").into_bytes();
    payload.extend_from_slice(&rows.to_be_bytes());
    message(b'E', &payload).to_vec()
}

pub fn close(kind: char, name: &str) -> Vec<u8> {
    message(b'C', format!("{kind}{name}\0").as_bytes()).to_vec()
}

pub fn sync() -> Vec<u8> {
    message(b'S', &[]).to_vec()
}

/// Parse, Bind and Execute of the unnamed statement.
pub fn run(text: &str) -> Vec<u8> {
    [parse("", text), bind("", "", &[]), execute("", 0)].concat()
}
