//! The facts of the `mcp` family: one JSON-RPC message of the Model Context Protocol over HTTP. *Pure.*
//!
//! [`read`] gives the facts of each message of a request; a batch has several, which are judged one
//! by one. A body that two readers could take for different messages is no message: keys given
//! twice, keys in another case, a header that says something else.
//!
//! Without a message there are two more kinds of request: GET opens the stream of the server's
//! messages, DELETE ends the session.

use http::Method;
use http::request::Parts;
use serde_json::{Map, Value};

use super::http::{HeldBody, Malformed, body, json, query};
use crate::facts::json::Document;
use crate::facts::{Blind, Fact, FactSource, Slot, View};

/// Messages in one batch.
pub const MESSAGES_MAX: usize = 64;

/// Members of a message and of its parameters that are read here. In another case a reader that
/// does not tell case apart would find them.
const MEMBERS: &[&str] = &["jsonrpc", "id", "method", "params", "result", "error"];
const PARAMETERS: &[&str] = &["name", "arguments", "uri", "ref"];

/// The version of JSON-RPC.
const VERSION: &str = "2.0";

/// What one message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Request,
    Notification,
    Response,
    /// GET: the server's events.
    Stream,
    /// DELETE: the end of the session.
    End,
}

/// The facts of one message.
#[derive(Clone, Debug, PartialEq)]
pub struct McpFacts {
    kind: Kind,
    /// The id that a request is answered by; null without one.
    id: Value,
    method: String,
    tool: String,
    resource: String,
    prompt: String,
    arguments: Document,
    params: Document,
    query: Fact<Vec<(String, Vec<String>)>>,
}

/// What a request holds.
#[derive(Clone, Debug, PartialEq)]
pub struct Messages {
    pub messages: Vec<McpFacts>,
    /// Whether they came as a list, and are answered by one.
    pub batch: bool,
}

/// Reads the messages of a request.
///
/// # Errors
/// It is none that every server reads alike.
pub fn read(parts: &Parts, held: HeldBody<'_>, decoded_bytes_max: usize) -> Result<Messages, Malformed> {
    let query = query::read(parts.uri.query().unwrap_or_default());
    let alone = |kind| {
        let mut one = McpFacts::empty(kind);
        one.query = query.clone();
        Ok(Messages {
            messages: vec![one],
            batch: false,
        })
    };
    match (&parts.method, held) {
        (&Method::GET, HeldBody::Empty) => return alone(Kind::Stream),
        (&Method::DELETE, HeldBody::Empty) => return alone(Kind::End),
        (&Method::POST, _) => {}
        _ => return Err(Malformed::Method),
    }
    let bytes = match held {
        HeldBody::Whole(bytes) => bytes,
        HeldBody::Empty => return Err(Malformed::Rpc),
        HeldBody::Over | HeldBody::NotHeld => return Err(Malformed::RpcTooLong),
    };
    let decoded = body::decode(&parts.headers, bytes, decoded_bytes_max).map_err(|blind| match blind {
        Blind::Truncated => Malformed::RpcTooLong,
        _ => Malformed::Rpc,
    })?;
    let text = body::text(&parts.headers, &decoded).map_err(|_| Malformed::Rpc)?;
    let whole = json::parse(text).map_err(|_| Malformed::Rpc)?;
    let (mut messages, batch) = match whole.root().to_value() {
        Value::Array(items) => (batch_of(items)?, true),
        one => (vec![McpFacts::of(one)?], false),
    };
    for message in &mut messages {
        message.query = query.clone();
    }
    check_headers(parts, &messages)?;
    Ok(Messages { messages, batch })
}

fn batch_of(items: Vec<Value>) -> Result<Vec<McpFacts>, Malformed> {
    if items.is_empty() || items.len() > MESSAGES_MAX {
        return Err(Malformed::RpcBatch);
    }
    let messages: Vec<McpFacts> = items.into_iter().map(McpFacts::of).collect::<Result<_, _>>()?;
    for (at, message) in messages.iter().enumerate() {
        let before = messages.get(..at).unwrap_or_default();
        let again = |other: &McpFacts| other.kind == Kind::Request && other.id == message.id;
        if message.kind == Kind::Request && before.iter().any(again) {
            return Err(Malformed::RpcBatch);
        }
    }
    Ok(messages)
}

/// Newer servers take the method and the name from headers too; they must say the same.
fn check_headers(parts: &Parts, messages: &[McpFacts]) -> Result<(), Malformed> {
    for (header, of) in [
        (
            "mcp-method",
            (|one: &McpFacts| one.method.clone()) as fn(&McpFacts) -> String,
        ),
        ("mcp-name", McpFacts::target),
    ] {
        let mut values = parts.headers.get_all(header).iter();
        let Some(value) = values.next() else { continue };
        let text = value.to_str().map_err(|_| Malformed::RpcHeader)?;
        if values.next().is_some() || !messages.iter().all(|one| of(one) == text) {
            return Err(Malformed::RpcHeader);
        }
    }
    Ok(())
}

impl McpFacts {
    fn empty(kind: Kind) -> McpFacts {
        McpFacts {
            kind,
            id: Value::Null,
            method: String::new(),
            tool: String::new(),
            resource: String::new(),
            prompt: String::new(),
            arguments: Document::default(),
            params: Document::default(),
            query: Fact::Known(Vec::new()),
        }
    }

    fn of(value: Value) -> Result<McpFacts, Malformed> {
        let Value::Object(mut object) = value else {
            return Err(Malformed::Rpc);
        };
        exact(&object, MEMBERS)?;
        if object.get("jsonrpc").and_then(Value::as_str) != Some(VERSION) {
            return Err(Malformed::Rpc);
        }
        let answers = object.contains_key("result") != object.contains_key("error");
        let id = object.remove("id");
        let id_is_plain = id.as_ref().is_none_or(|id| id.is_string() || id.is_i64());
        let kind = match (object.contains_key("method"), &id, answers) {
            (true, Some(_), false) if id_is_plain => Kind::Request,
            (true, None, false) => Kind::Notification,
            (false, Some(_), true) if id_is_plain => Kind::Response,
            // The peer's message could not be read, so it is answered without its id.
            (false, Some(Value::Null), true) if object.contains_key("error") => Kind::Response,
            _ => return Err(Malformed::Rpc),
        };
        let both = object.contains_key("result") && object.contains_key("error");
        let mut out = McpFacts::empty(kind);
        if both || (kind != Kind::Response && (object.contains_key("result") || object.contains_key("error")))
        {
            return Err(Malformed::Rpc);
        }
        out.id = id.unwrap_or_default();
        if kind == Kind::Response {
            return Ok(out);
        }
        match object.remove("method") {
            Some(Value::String(method)) if !method.is_empty() => out.method = method,
            _ => return Err(Malformed::Rpc),
        }
        match object.remove("params") {
            None | Some(Value::Null) => out.read_params(&Map::new())?,
            Some(Value::Object(params)) => {
                out.read_params(&params)?;
                out.params = (&Value::Object(params)).into();
            }
            Some(_) => return Err(Malformed::Rpc),
        }
        Ok(out)
    }

    fn read_params(&mut self, params: &Map<String, Value>) -> Result<(), Malformed> {
        exact(params, PARAMETERS)?;
        let text = |object: &Map<String, Value>, key: &str| match object.get(key) {
            Some(Value::String(text)) => Ok(text.clone()),
            _ => Err(Malformed::Rpc),
        };
        let arguments = || params.get("arguments").map(Document::from).unwrap_or_default();
        match self.method.as_str() {
            "tools/call" => (self.tool, self.arguments) = (text(params, "name")?, arguments()),
            "prompts/get" => (self.prompt, self.arguments) = (text(params, "name")?, arguments()),
            "resources/read" | "resources/subscribe" | "resources/unsubscribe" => {
                self.resource = text(params, "uri")?;
            }
            "completion/complete" => {
                let of = params
                    .get("ref")
                    .and_then(Value::as_object)
                    .ok_or(Malformed::Rpc)?;
                exact(of, &["type", "name", "uri"])?;
                match text(of, "type")?.as_str() {
                    "ref/prompt" => self.prompt = text(of, "name")?,
                    "ref/resource" => self.resource = text(of, "uri")?,
                    _ => return Err(Malformed::Rpc),
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// What a request's name header has to say.
    fn target(&self) -> String {
        [&self.tool, &self.prompt, &self.resource]
            .into_iter()
            .find(|name| !name.is_empty())
            .cloned()
            .unwrap_or_default()
    }

    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The id that a request is answered by.
    pub fn id(&self) -> Option<&Value> {
        (self.kind == Kind::Request).then_some(&self.id)
    }

    /// One line for people: `tools/call create_issue`.
    pub fn summary(&self) -> String {
        let name = match self.kind {
            Kind::Request | Kind::Notification => self.method.as_str(),
            kind => kind.name(),
        };
        format!("{name} {}", self.target()).trim_end().to_owned()
    }
}

impl Kind {
    /// The name in a condition.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Request => "request",
            Kind::Notification => "notification",
            Kind::Response => "response",
            Kind::Stream => "stream",
            Kind::End => "end",
        }
    }
}

/// No key is one of these in another case.
fn exact(object: &Map<String, Value>, keys: &[&str]) -> Result<(), Malformed> {
    let folded = |key: &String| {
        let own = crate::facts::json::folded(key);
        keys.iter().any(|known| *known == own && known != key)
    };
    match object.keys().any(folded) {
        true => Err(Malformed::Rpc),
        false => Ok(()),
    }
}

impl FactSource for McpFacts {
    fn fact(&self, slot: Slot) -> Fact<View<'_>> {
        Fact::Known(match slot {
            Slot::McpKind => View::Text(self.kind.name()),
            Slot::McpMethod => View::Text(&self.method),
            Slot::McpTool => View::Text(&self.tool),
            Slot::McpResource => View::Text(&self.resource),
            Slot::McpPrompt => View::Text(&self.prompt),
            Slot::McpArguments => self.arguments.view(),
            Slot::McpParams => self.params.view(),
            Slot::McpQuery => return self.query.as_ref().map(|pairs| View::MultiMap(pairs)),
            _ => return Fact::Unknown(Blind::NotRead),
        })
    }
}

#[cfg(test)]
mod tests;
