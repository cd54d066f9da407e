//! The facts of the `http` family. *Pure.*
//!
//! [`HttpFacts::read`] takes a parsed head and what is held of the body, and extracts what the
//! rules need. The raw path is what goes upstream, so a path that two servers would read
//! differently is refused here ([`Malformed`]); no rule can be walked round by spelling.

pub mod body;
pub(crate) mod content;
pub mod form;
pub mod graphql;
pub mod json;
pub mod method;
pub mod path;
pub mod query;

use http::HeaderMap;
use http::request::Parts;

use crate::facts::json::Document;
use crate::facts::{Blind, Fact, FactSet, FactSource, Slot, View};
use crate::protocol::http::{Upgrade, upgrade};

use content::Content;
use graphql::{BATCH_BYTES_MAX, Operation};
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
    method: Fact<String>,
    path: String,
    raw_path: String,
    query: Fact<Vec<(String, Vec<String>)>>,
    headers: Fact<Vec<(String, Vec<String>)>>,
    host: String,
    body: Fact<Option<String>>,
    body_json: Fact<Document>,
    form: Fact<Vec<(String, Vec<String>)>>,
    multipart: Fact<Vec<String>>,
    /// Empty where there is none.
    graphql: Fact<Operation>,
    websocket: bool,
}

impl HttpFacts {
    /// As [`HttpFacts::read_each`], of all together: what several GraphQL operations say is
    /// [`Blind::Ambiguous`].
    ///
    /// # Errors
    /// As there.
    pub fn read(
        parts: &Parts,
        host: &str,
        held: HeldBody<'_>,
        needs: FactSet,
        decoded_bytes_max: usize,
    ) -> Result<HttpFacts, Malformed> {
        let mut each = HttpFacts::read_each(parts, host, held, needs, decoded_bytes_max)?;
        let several = each.len() > 1;
        // There is one at least.
        let mut facts = each.swap_remove(0);
        if several {
            facts.graphql = Fact::Unknown(Blind::Ambiguous);
        }
        Ok(facts)
    }

    /// Reads the facts that `needs` names: one set, or one for each GraphQL operation of a batch,
    /// each of which is an action of its own. `host` is the claimed name that the head was checked
    /// against; `decoded_bytes_max` bounds the body after content decoding.
    ///
    /// # Errors
    /// The path can be read in two ways; the proxy answers 400.
    pub fn read_each(
        parts: &Parts,
        host: &str,
        held: HeldBody<'_>,
        needs: FactSet,
        decoded_bytes_max: usize,
    ) -> Result<Vec<HttpFacts>, Malformed> {
        let raw_path = parts.uri.path();
        let path = path::normalize(raw_path)?;
        let wants_graphql = content::wants_graphql(needs);
        let query = if needs.contains(Slot::HttpQuery) || wants_graphql {
            query::read(parts.uri.query().unwrap_or_default())
        } else {
            Fact::Unknown(Blind::NotRead)
        };
        let headers = if needs.contains(Slot::HttpHeaders) {
            multi_map(&parts.headers)
        } else {
            Fact::Unknown(Blind::NotRead)
        };
        let content = Content::read(parts, held, needs, decoded_bytes_max);
        let websocket = upgrade(parts)? == Some(Upgrade::WebSocket);
        let operations = match (wants_graphql, websocket) {
            (false, _) => Err(Blind::NotRead),
            // What is asked for inside it is not seen: operations go over WebSocket too.
            (true, true) => Err(Blind::Opaque),
            (true, false) => operations(parts, &query, &content),
        };
        let facts = HttpFacts {
            method: method::read(parts, held, needs, decoded_bytes_max),
            path,
            raw_path: raw_path.to_owned(),
            query,
            headers,
            host: host.to_ascii_lowercase(),
            body: content.text,
            body_json: content.json,
            form: content.form,
            multipart: content.parts,
            graphql: Fact::Known(Operation::default()),
            websocket,
        };
        let held = facts.body.known().and_then(Option::as_ref).map_or(0, String::len)
            + facts.body_json.known().map_or(0, |document| document.bytes());
        let operations = operations.and_then(|all| match all.len().saturating_mul(held) > BATCH_BYTES_MAX {
            true if all.len() > 1 => Err(Blind::Truncated),
            _ => Ok(all),
        });
        Ok(match operations {
            Err(blind) => vec![HttpFacts {
                graphql: Fact::Unknown(blind),
                ..facts
            }],
            Ok(operations) if operations.is_empty() => vec![facts],
            Ok(operations) => operations
                .into_iter()
                .map(|operation| HttpFacts {
                    graphql: Fact::Known(operation),
                    ..facts.clone()
                })
                .collect(),
        })
    }

    /// Whether these facts need the body of this request to be held.
    pub fn wants_body(parts: &Parts, needs: FactSet) -> bool {
        content::wants_body(needs) || method::wants_body(parts, needs)
    }
}

impl FactSource for HttpFacts {
    fn fact(&self, slot: Slot) -> Fact<View<'_>> {
        match slot {
            Slot::HttpMethod => self.method.as_ref().map(|text| View::Text(text)),
            Slot::HttpPath => Fact::Known(View::Text(&self.path)),
            Slot::HttpRawPath => Fact::Known(View::Text(&self.raw_path)),
            Slot::HttpQuery => self.query.as_ref().map(|pairs| View::MultiMap(pairs)),
            Slot::HttpHeaders => self.headers.as_ref().map(|pairs| View::MultiMap(pairs)),
            Slot::HttpHost => Fact::Known(View::Text(&self.host)),
            Slot::HttpBody => self.body.as_ref().map(|text| match text {
                Some(text) => View::Text(text),
                None => View::Text(""),
            }),
            Slot::HttpBodyJson => self.body_json.as_ref().map(Document::view),
            Slot::HttpForm => self.form.as_ref().map(|pairs| View::MultiMap(pairs)),
            Slot::HttpMultipart => self.multipart.as_ref().map(|names| View::Texts(names)),
            Slot::HttpGraphqlOperation => self.graphql.as_ref().map(|one| View::Text(&one.name)),
            Slot::HttpGraphqlKind => self.graphql.as_ref().map(|one| View::Text(&one.kind)),
            Slot::HttpGraphqlFields => self.graphql.as_ref().map(|one| View::Texts(&one.fields)),
            Slot::HttpGraphqlPaths => self.graphql.as_ref().map(|one| View::Texts(&one.paths)),
            Slot::HttpWebsocket => Fact::Known(View::Bool(self.websocket)),
            _ => Fact::Unknown(Blind::NotRead),
        }
    }
}

/// The GraphQL operations of a request; empty where there is none.
fn operations(
    parts: &Parts,
    query: &Fact<Vec<(String, Vec<String>)>>,
    content: &Content,
) -> Result<Vec<Operation>, Blind> {
    graphql::read(&graphql::Places {
        headers: &parts.headers,
        query: had(query)?,
        form: had(&content.form)?,
        parts: had(&content.parts)?,
        json: had(&content.json)?.root(),
        text: had(&content.text)?.as_deref().unwrap_or_default(),
    })
}

fn had<T>(fact: &Fact<T>) -> Result<&T, Blind> {
    match fact {
        Fact::Known(value) => Ok(value),
        Fact::Unknown(blind) => Err(*blind),
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
