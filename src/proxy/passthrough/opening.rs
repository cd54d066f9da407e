//! What an agent says first on a connection that passes through: whom it names.
//!
//! An address says little of a service behind a wildcard, or behind a front that many share. So the names in
//! a TLS ClientHello or in the head of an HTTP/1 request are read before they go on: who names an endpoint
//! is to dial it by that name. Limits: later requests of the connection, HTTP/2 without TLS, TLS that a
//! protocol begins by itself, an encrypted ClientHello and a hello without a name say nothing that can be
//! read here.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use memchr::memmem;
use rustls::server::Acceptor;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

use crate::bad_input;
use crate::policy::Model;
use crate::tls::HANDSHAKE_RECORD;
use crate::tls::accept::HELLO_BYTES_MAX;

/// Bytes that are read at once.
const PIECE_BYTES: usize = 16 << 10;
/// Bytes of an HTTP method, of empty lines before it, and of a first line that may be one of HTTP.
const METHOD_BYTES_MAX: usize = 32;
const EMPTY_BYTES_MAX: usize = 1 << 10;
const LINE_BYTES_MAX: usize = 16 << 10;
/// The first words of HTTP/2 without TLS.
const HTTP2: &str = "PRI * HTTP/2.0";

/// Whom the first words name.
#[derive(Debug, PartialEq, Eq)]
enum Named {
    /// These hosts, in lower case; none where it is neither TLS nor HTTP/1.
    Hosts(Vec<String>),
    /// It begins like TLS or HTTP/1 and is neither, or is too long.
    Unread,
}

/// Reads the first words piece by piece.
enum Reading {
    Fresh,
    Tls(Box<Acceptor>),
    Http,
}

impl Reading {
    /// `all` is what came so far, of which `new` is the last piece. `None`: not yet.
    fn read(&mut self, all: &[u8], mut new: &[u8]) -> Option<Named> {
        if let Reading::Fresh = self {
            *self = match all.first()? {
                first if *first == HANDSHAKE_RECORD => Reading::Tls(Box::default()),
                _ => Reading::Http,
            };
        }
        let found = match self {
            Reading::Tls(acceptor) => {
                let mut found = None;
                while found.is_none() && !new.is_empty() {
                    found = match acceptor.read_tls(&mut new).map(|_| acceptor.accept()) {
                        Ok(Ok(None)) => None,
                        Ok(Ok(Some(hello))) => {
                            let name = hello.client_hello().server_name().map(plain);
                            Some(Named::Hosts(name.into_iter().collect()))
                        }
                        Err(_) | Ok(Err(_)) => Some(Named::Unread),
                    };
                }
                found
            }
            _ => http(all),
        };
        found.or_else(|| (all.len() > HELLO_BYTES_MAX).then_some(Named::Unread))
    }

    /// As what it is counted where it cannot be read.
    fn reader(&self) -> bad_input::Reader {
        match self {
            Reading::Tls(_) => bad_input::Reader::Tls,
            _ => bad_input::Reader::Http,
        }
    }
}

/// The hosts of an HTTP/1 head: of its target and of every Host. What could be no request line is passed on
/// at once. Servers pass over empty lines before a request, take methods that nobody has heard of and
/// blanks in a target, and so all of that is HTTP here.
fn http(all: &[u8]) -> Option<Named> {
    let nothing = Some(Named::Hosts(Vec::new()));
    let empty = all.iter().take_while(|byte| b"\r\n".contains(byte)).count();
    if empty > EMPTY_BYTES_MAX {
        return Some(Named::Unread);
    }
    let all = all.get(empty..).filter(|rest| !rest.is_empty())?;
    let word = all.iter().take_while(|byte| is_of_method(**byte)).count();
    let after = all.get(word);
    if word > METHOD_BYTES_MAX || after.is_some_and(|byte| word == 0 || !b" \t".contains(byte)) {
        return nothing;
    }
    let Some(end) = memchr::memchr(b'\n', all) else {
        return nothing.filter(|_| all.len() > LINE_BYTES_MAX);
    };
    let line = String::from_utf8_lossy(all.get(..end).unwrap_or_default()).into_owned();
    let mut words = line.split_ascii_whitespace();
    let _method = words.next();
    let version = words.next_back().unwrap_or_default();
    let is_http = version
        .get(..5)
        .is_some_and(|head| head.eq_ignore_ascii_case("HTTP/"));
    if !is_http || line.starts_with(HTTP2) {
        return nothing;
    }
    let head = [memmem::find(all, b"\n\r\n"), memmem::find(all, b"\n\n")];
    let head = all.get(..head.into_iter().flatten().min()?)?;
    let targets = words.map(|target| target.split_once("://").map_or(target, |(_, rest)| rest));
    let targets = targets.filter_map(|target| target.split('/').next());
    let fields = head.split(|byte| *byte == b'\n').skip(1).filter_map(|line| {
        let line = std::str::from_utf8(line).ok()?;
        let (name, value) = line.split_once(':')?;
        name.trim().eq_ignore_ascii_case("host").then(|| value.trim())
    });
    let hosts = fields.chain(targets).map(|host| plain(without_port(host)));
    Some(Named::Hosts(hosts.filter(|host| !host.is_empty()).collect()))
}

/// RFC 9110's `tchar`.
fn is_of_method(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

fn without_port(host: &str) -> &str {
    let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
    match host.strip_prefix('[') {
        Some(v6) => v6.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    }
}

fn plain(host: &str) -> String {
    host.trim_end_matches('.').to_ascii_lowercase()
}

/// Whether an endpoint claims a host, at whatever port: the name is looked up as the endpoint's then.
fn claims(model: &Model, host: &str) -> bool {
    let address = host.parse().ok();
    let mut claims = model.endpoints.iter().flat_map(|endpoint| &endpoint.claims);
    claims.any(|claim| match address {
        Some(address) => claim.host.matches_address(address),
        None => claim.host.matches_name(host),
    })
}

/// An agent's stream whose first words wait here until they are read. What the other side says goes on
/// meanwhile: in some protocols the server speaks first.
pub(super) struct Watched<'a, IO> {
    io: IO,
    model: &'a Model,
    limit: Duration,
    late: Option<Pin<Box<Sleep>>>,
    held: Vec<u8>,
    /// `None` once they may go on.
    reading: Option<Reading>,
    refused: Option<String>,
}

impl<'a, IO> Watched<'a, IO> {
    /// From their first byte on, the first words have `limit` to be whole.
    pub(super) fn new(io: IO, model: &'a Model, limit: Duration) -> Self {
        Watched {
            io,
            model,
            limit,
            late: None,
            held: Vec::new(),
            reading: Some(Reading::Fresh),
            refused: None,
        }
    }

    /// Why the stream was ended, if it was; nothing of the agent's went on then.
    pub(super) fn refused(&self) -> Option<&str> {
        self.refused.as_deref()
    }

    fn refuse(&mut self, why: String) -> Poll<io::Result<()>> {
        self.refused = Some(why);
        Poll::Ready(Err(io::ErrorKind::PermissionDenied.into()))
    }
}

impl<IO: AsyncRead + Unpin> Watched<'_, IO> {
    /// Reads until the first words may go on.
    fn poll_first(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut piece = [0; PIECE_BYTES];
        while let Some(reading) = &mut self.reading {
            let mut into = ReadBuf::new(&mut piece);
            if Pin::new(&mut self.io).poll_read(cx, &mut into)?.is_pending() {
                let limit = self.limit;
                if self.held.is_empty() {
                    return Poll::Pending;
                }
                let late = self
                    .late
                    .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(Instant::now() + limit)));
                ready!(late.as_mut().poll(cx));
                return self.refuse("its first words do not end".to_owned());
            }
            let new = into.filled();
            self.held.extend_from_slice(new);
            let named = match new.is_empty() {
                // It has no more to say.
                true => Some(Named::Hosts(Vec::new())),
                false => reading.read(&self.held, new),
            };
            match named {
                None => {}
                Some(Named::Unread) => {
                    bad_input::count(reading.reader(), &"first_words");
                    return self.refuse("its first words cannot be read".to_owned());
                }
                Some(Named::Hosts(hosts)) => {
                    if let Some(host) = hosts.iter().find(|host| claims(self.model, host)) {
                        return self.refuse(format!("it names {host}"));
                    }
                    self.reading = None;
                }
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Watched<'_, IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.refused.is_some() {
            return Poll::Ready(Err(io::ErrorKind::PermissionDenied.into()));
        }
        if self.reading.is_some() {
            ready!(self.poll_first(cx))?;
        }
        if self.held.is_empty() {
            return Pin::new(&mut self.io).poll_read(cx, buf);
        }
        let length = self.held.len().min(buf.remaining());
        buf.put_slice(self.held.get(..length).unwrap_or_default());
        self.held.drain(..length);
        Poll::Ready(Ok(()))
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Watched<'_, IO> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests;
