//! The facts of the `http` family. *Pure.*
//!
//! [`HttpFacts::read`] takes a parsed head and what is held of the body, and extracts what the
//! rules need. The raw path is what goes upstream, so a path that two servers would read
//! differently is refused here ([`Malformed`]); no rule can be walked round by spelling.

pub mod body;
pub mod json;
pub mod path;
pub mod query;

use http::HeaderMap;
use http::request::Parts;

use crate::facts::{Blind, Fact, FactSet, FactSource, Slot, View};
use crate::protocol::http::{Upgrade, upgrade};

pub use path::Malformed;

/// What is held of a request's body when its facts are read.
#[derive(Clone, Copy, Debug)]
pub enum HeldBody<'a> {
    /// The request has no body.
    Empty,
    /// The whole body, as it was sent (content coding not undone).
    Whole(&'a [u8]),
    /// The body is longer than `body_bytes_max`; its facts are unknown.
    Over,
    /// No rule reads the body, so it is streamed and not held.
    NotHeld,
}

/// The facts of one HTTP request.
#[derive(Clone, Debug)]
pub struct HttpFacts {
    method: String,
    path: String,
    raw_path: String,
    query: Fact<Vec<(String, Vec<String>)>>,
    headers: Fact<Vec<(String, Vec<String>)>>,
    host: String,
    body: Fact<Option<String>>,
    body_json: Fact<serde_json::Value>,
    websocket: bool,
}

impl HttpFacts {
    /// Reads the facts that `needs` names. `host` is the claimed name that the head was checked
    /// against; `decoded_bytes_max` bounds the body after content decoding.
    ///
    /// # Errors
    /// The path can be read in two ways; the proxy answers 400.
    pub fn read(
        parts: &Parts,
        host: &str,
        held: HeldBody<'_>,
        needs: FactSet,
        decoded_bytes_max: usize,
    ) -> Result<HttpFacts, Malformed> {
        let raw_path = parts.uri.path();
        let path = path::normalize(raw_path)?;
        let query = if needs.contains(Slot::HttpQuery) {
            query::read(parts.uri.query().unwrap_or_default())
        } else {
            Fact::Unknown(Blind::NotRead)
        };
        let headers = if needs.contains(Slot::HttpHeaders) {
            multi_map(&parts.headers)
        } else {
            Fact::Unknown(Blind::NotRead)
        };
        let (body, body_json) = read_body(parts, held, needs, decoded_bytes_max);
        Ok(HttpFacts {
            method: parts.method.as_str().to_ascii_lowercase(),
            path,
            raw_path: raw_path.to_owned(),
            query,
            headers,
            host: host.to_ascii_lowercase(),
            body,
            body_json,
            websocket: upgrade(parts)? == Some(Upgrade::WebSocket),
        })
    }

    /// Whether these facts need the body to be held.
    pub fn wants_body(needs: FactSet) -> bool {
        needs.contains(Slot::HttpBody) || needs.contains(Slot::HttpBodyJson)
    }
}

impl FactSource for HttpFacts {
    fn fact(&self, slot: Slot) -> Fact<View<'_>> {
        match slot {
            Slot::HttpMethod => Fact::Known(View::Text(&self.method)),
            Slot::HttpPath => Fact::Known(View::Text(&self.path)),
            Slot::HttpRawPath => Fact::Known(View::Text(&self.raw_path)),
            Slot::HttpQuery => self.query.as_ref().map(|pairs| View::MultiMap(pairs)),
            Slot::HttpHeaders => self.headers.as_ref().map(|pairs| View::MultiMap(pairs)),
            Slot::HttpHost => Fact::Known(View::Text(&self.host)),
            Slot::HttpBody => self.body.as_ref().map(|text| match text {
                Some(text) => View::Text(text),
                None => View::Text(""),
            }),
            Slot::HttpBodyJson => self.body_json.as_ref().map(|value| match value {
                serde_json::Value::Null => View::Null,
                value => View::Json(value),
            }),
            Slot::HttpWebsocket => Fact::Known(View::Bool(self.websocket)),
            _ => Fact::Unknown(Blind::NotRead),
        }
    }
}

/// Headers as a map, names in lower case, values in wire order. A value that is not UTF-8 makes
/// the fact unknown rather than empty.
pub fn multi_map(headers: &HeaderMap) -> Fact<Vec<(String, Vec<String>)>> {
    let mut pairs = Vec::with_capacity(headers.keys_len());
    for name in headers.keys() {
        let mut values = Vec::new();
        for value in headers.get_all(name) {
            match std::str::from_utf8(value.as_bytes()) {
                Ok(text) => values.push(text.to_owned()),
                Err(_) => return Fact::Unknown(Blind::Unparseable),
            }
        }
        pairs.push((name.as_str().to_owned(), values));
    }
    Fact::Known(pairs)
}

/// The body as text and as JSON, each only if it is needed.
pub(crate) fn read_body(
    parts: &Parts,
    held: HeldBody<'_>,
    needs: FactSet,
    decoded_bytes_max: usize,
) -> (Fact<Option<String>>, Fact<serde_json::Value>) {
    let wants_text = needs.contains(Slot::HttpBody);
    let wants_json = needs.contains(Slot::HttpBodyJson) || needs.contains(Slot::K8sBodyJson);
    let both = |blind| (Fact::Unknown(blind), Fact::Unknown(blind));
    if !wants_text && !wants_json {
        return both(Blind::NotRead);
    }
    let sent = match held {
        HeldBody::Empty => return (Fact::Known(None), Fact::Known(serde_json::Value::Null)),
        HeldBody::Over => return both(Blind::Truncated),
        HeldBody::NotHeld => return both(Blind::NotRead),
        HeldBody::Whole(bytes) => bytes,
    };
    let decoded = match body::decode(&parts.headers, sent, decoded_bytes_max) {
        Ok(decoded) => decoded,
        Err(blind) => return both(blind),
    };
    let text = match (wants_text, body::text(&parts.headers, &decoded)) {
        (false, _) => Fact::Unknown(Blind::NotRead),
        (true, Ok(text)) => Fact::Known(Some(text.to_owned())),
        (true, Err(blind)) => Fact::Unknown(blind),
    };
    let json = if wants_json {
        json::read(&parts.headers, &decoded)
    } else {
        Fact::Unknown(Blind::NotRead)
    };
    (text, json)
}
