//! What comes before an agent's first request: its TLS where it speaks that, and which HTTP it will speak.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite};
use tokio::time::timeout;
use tokio_rustls::server::TlsStream;

use super::super::replay::Replayed;
use super::judge::Judge;
use super::{Claimed, ServeError, Shared, send};
use crate::identity::budget::Room;
use crate::policy::{Endpoint, Limits};
use crate::tls::accept::{Bounded, greet};
use crate::tls::{Expected, HANDSHAKE_RECORD, LeafName, Offer};
use crate::upstream::{To, Version};

/// What was agreed on with an agent before its first request.
pub(super) enum Greeted<IO> {
    Plain(Replayed<IO>),
    Tls(Box<TlsStream<Bounded<Replayed<IO>>>>),
}

/// How an agent's requests will come.
pub(super) struct Terms {
    pub(super) talk: Talk,
    /// The name that TLS settled.
    pub(super) sni: Option<String>,
    /// The place of an HTTP/2 connection, for as long as it is one.
    _place: Option<Room>,
}

/// Greets an agent; `None` where it leaves without a word.
pub(super) async fn greeted<J, IO>(
    mut io: IO,
    shared: &Shared<J>,
    claimed: &Claimed,
    (endpoint, limits): (&Arc<Endpoint>, &Limits),
) -> Result<Option<(Greeted<IO>, Terms)>, ServeError>
where
    J: Judge,
    IO: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let patience = Duration::from_millis(limits.handshake_ms);
    let mut first = [0; 1];
    let read = timeout(patience, io.read(&mut first));
    if read.await.map_err(|_| ServeError::Silent)?? == 0 {
        return Ok(None);
    }
    let mut ahead = first.to_vec();
    if first != [HANDSHAKE_RECORD] {
        let reading = timeout(patience, begins_http2(&mut io, &mut ahead));
        let place = match reading.await.map_err(|_| ServeError::Silent)?? {
            true => shared.http2.take(&claimed.agent.identity, 1),
            false => None,
        };
        let terms = Terms {
            talk: place.as_ref().map_or(Talk::Http1, |_| Talk::Http2),
            sni: None,
            _place: place,
        };
        return Ok(Some((Greeted::Plain(Replayed::new(io, ahead)), terms)));
    }
    let greeting = greet(Replayed::new(io, ahead), patience).await?;
    let leads = |name: &str| shared.leads(claimed, name);
    let expected = Expected {
        leads: &leads,
        name: claimed.name.as_deref(),
        destination: claimed.destination,
    };
    let sni = greeting
        .sni()
        .and_then(|sni| match expected.leaf_name(Some(&sni)) {
            Some(LeafName::Name(name)) => Some(name),
            _ => None,
        });
    // A name that is none of this endpoint's is refused below; nothing is asked for its sake.
    let place = match greeting.offers(b"h2") && sni.is_some() == greeting.sni().is_some() {
        true => shared.http2.take(&claimed.agent.identity, 1),
        false => None,
    };
    let offer = match place.is_some() {
        true => offer(shared, claimed, endpoint, sni.as_deref(), patience / 2).await,
        false => Offer::Http1,
    };
    let stream = greeting.answer(&shared.leaves, expected, offer).await?;
    let terms = Terms {
        talk: match stream.get_ref().1.alpn_protocol() {
            Some(b"h2") => Talk::Http2,
            _ => Talk::Http1,
        },
        sni,
        _place: place,
    };
    Ok(Some((Greeted::Tls(Box::new(stream)), terms)))
}

/// What an agent speaks: agreed by ALPN, or seen from the HTTP/2 preface, and nothing else from then on. hyper-util's
/// choice of the two would let an agent have HTTP/2 that was not offered to it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Talk {
    Http1,
    Http2,
}

/// What an HTTP/2 client says first (RFC 9113 section 3.4).
pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Whether a stream in the clear begins as HTTP/2; as much as tells it is read on into `ahead`.
pub(super) async fn begins_http2(
    io: &mut (impl AsyncRead + Unpin),
    ahead: &mut Vec<u8>,
) -> std::io::Result<bool> {
    while ahead.len() < PREFACE.len() && PREFACE.starts_with(ahead) {
        let left = (PREFACE.len() - ahead.len()) as u64;
        if (&mut *io).take(left).read_buf(ahead).await? == 0 {
            break;
        }
    }
    Ok(ahead == PREFACE)
}

/// Which protocols to offer: what the upstream speaks. It is asked by connecting to it once in
/// [`crate::upstream::pool::ALPN_MAX_AGE`], with a permit to connect; the connection is kept for
/// the first request. An upstream that cannot be asked is taken to speak HTTP/1.1, which every
/// agent can.
async fn offer<J: Judge>(
    shared: &Shared<J>,
    claimed: &Claimed,
    endpoint: &Arc<Endpoint>,
    sni: Option<&str>,
    limit: Duration,
) -> Offer {
    if !endpoint.tls {
        return Offer::Http1;
    }
    let dialled = claimed.destination.ip().to_string();
    let host = sni.or(claimed.name.as_deref()).unwrap_or(&dialled);
    let to = To {
        agent: &claimed.agent.identity,
        endpoint,
        dial: if claimed.name.is_some() { host } else { &dialled },
        host,
        port: claimed.destination.port(),
        identity: None,
        version: Version::Http2,
        answer: limit,
    };
    let spoken = match shared.pool.spoken(&to) {
        Some(version) => Some(version),
        None => timeout(limit, Box::pin(send::probe(shared, claimed, &to)))
            .await
            .ok()
            .flatten(),
    };
    match spoken {
        Some(Version::Http2) => Offer::Http2,
        _ => Offer::Http1,
    }
}
