//! What the gateway itself says in an agent's session, and reads of its answers. *Pure.*
//!
//! Beside a Bind that waits, the extended protocol is used, with names of our own: a Query would end
//! the agent's unnamed statement.

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};

use super::wire::{self, HEADER_BYTES, message, take_text};

/// A name that no agent has by chance.
const NAME: &str = "tailkeep preview";

pub const SAVEPOINT: &str = "SAVEPOINT \"tailkeep preview\"";
pub const UNDO: &str = "ROLLBACK TO SAVEPOINT \"tailkeep preview\"";
pub const RELEASE: &str = "RELEASE SAVEPOINT \"tailkeep preview\"";
/// A transaction whose statements all see the same rows.
pub const BEGIN_FIXED: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ";
/// Undone with the savepoint: the agent's own path may hold operators that only look like the server's.
pub const CATALOG_ONLY: &str = "SET LOCAL search_path = pg_catalog";

/// How statements are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Own {
    Simple,
    Extended,
}

impl Own {
    /// Statements without parameters, one after the other, up to one ReadyForQuery.
    pub fn texts(self, texts: &[&str]) -> Bytes {
        if self == Own::Simple {
            return message(b'Q', &[texts.join(";\n").as_bytes(), b"\0"].concat());
        }
        let mut out = BytesMut::new();
        for text in texts {
            parse(&mut out, text, &[]);
            let mut bind = zero_ended(&[NAME, NAME]);
            bind.extend_from_slice(&[0; 6]);
            out.put_slice(&message(b'B', &bind));
            run(&mut out);
        }
        out.put_slice(&message(b'S', &[]));
        out.freeze()
    }
}

/// Another text with the parameters of an agent's Bind, of these types, its rows as text, up to one
/// ReadyForQuery.
pub fn variant(text: &str, bind: &Bytes, types: &[u32]) -> Bytes {
    let mut out = BytesMut::new();
    parse(&mut out, text, types);
    let mut own = zero_ended(&[NAME, NAME]);
    own.extend_from_slice(parameters(bind).unwrap_or(&[0; 4]));
    own.extend_from_slice(&[0; 2]);
    out.put_slice(&message(b'B', &own));
    out.put_slice(&message(b'D', &[b"P", NAME.as_bytes(), b"\0"].concat()));
    run(&mut out);
    out.put_slice(&message(b'S', &[]));
    out.freeze()
}

fn zero_ended(texts: &[&str]) -> Vec<u8> {
    texts
        .iter()
        .flat_map(|text| text.bytes().chain(std::iter::once(0)))
        .collect()
}

/// Closes what an error may have left, then parses.
fn parse(out: &mut BytesMut, text: &str, types: &[u32]) {
    close(out);
    let mut parse = zero_ended(&[NAME, text]);
    parse.extend_from_slice(&u16::try_from(types.len()).unwrap_or_default().to_be_bytes());
    parse.extend(types.iter().flat_map(|own| own.to_be_bytes()));
    out.put_slice(&message(b'P', &parse));
}

fn run(out: &mut BytesMut) {
    let mut execute = zero_ended(&[NAME]);
    execute.extend_from_slice(&[0; 4]);
    out.put_slice(&message(b'E', &execute));
    close(out);
}

fn close(out: &mut BytesMut) {
    for kind in [b"P", b"S"] {
        out.put_slice(&message(b'C', &[kind, NAME.as_bytes(), b"\0"].concat()));
    }
}

/// The statement that a Bind names.
pub fn statement_name(bind: &Bytes) -> Option<String> {
    let mut payload = bind.slice(HEADER_BYTES.min(bind.len())..);
    let _portal = take_text(&mut payload)?;
    take_text(&mut payload)
}

/// The formats and values of a Bind's parameters, without the formats of its results.
fn parameters(bind: &Bytes) -> Option<&[u8]> {
    let payload = bind.get(HEADER_BYTES..)?;
    let mut at = 0;
    for _ in 0..2 {
        at += payload.get(at..)?.iter().position(|byte| *byte == 0)? + 1;
    }
    let start = at;
    let short = |at: usize| {
        let bytes = payload.get(at..at + 2)?.try_into().ok()?;
        Some(usize::from(u16::from_be_bytes(bytes)))
    };
    at += 2 + 2 * short(at)?;
    let count = short(at)?;
    at += 2;
    for _ in 0..count {
        let length = i32::from_be_bytes(payload.get(at..at + 4)?.try_into().ok()?);
        at += 4 + usize::try_from(length).unwrap_or(0);
    }
    payload.get(start..at)
}

/// The values of a DataRow in text form, so many and so long.
pub fn row(payload: &Bytes, columns_max: usize, bytes_max: usize) -> Vec<Option<String>> {
    let mut rest = payload.clone();
    let count = usize::from(rest.try_get_u16().unwrap_or(0));
    let mut values = Vec::new();
    for _ in 0..count.min(columns_max) {
        let Ok(length) = rest.try_get_i32() else {
            break;
        };
        let Ok(length) = usize::try_from(length) else {
            values.push(None);
            continue;
        };
        if rest.len() < length {
            break;
        }
        let bytes = rest.split_to(length);
        let text = String::from_utf8_lossy(&bytes);
        values.push(Some(match text.len() > bytes_max {
            true => {
                let end = text.floor_char_boundary(bytes_max);
                format!("{}…", text.get(..end).unwrap_or_default())
            }
            false => text.into_owned(),
        }));
    }
    values
}

/// The names in a RowDescription.
pub fn columns(payload: &Bytes, columns_max: usize) -> Vec<String> {
    let mut rest = payload.clone();
    let count = usize::from(rest.try_get_u16().unwrap_or(0));
    let mut names = Vec::new();
    for _ in 0..count.min(columns_max) {
        let Some(name) = take_text(&mut rest) else {
            break;
        };
        names.push(name);
        if rest.len() < 18 {
            break;
        }
        rest.advance(18);
    }
    names
}

/// What a CommandComplete says.
pub fn tag(payload: &[u8]) -> String {
    let text = payload.split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(text).into_owned()
}

/// What an ErrorResponse says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerError {
    pub code: String,
    /// The code and the message, which may have values of rows in it.
    pub whole: String,
    /// The code and the names of what the error is about.
    pub plain: String,
}

/// What an ErrorResponse says.
pub fn said(payload: &[u8]) -> ServerError {
    let field = |wanted: u8| {
        payload.split(|byte| *byte == 0).find_map(|field| {
            let (&kind, value) = field.split_first()?;
            (kind == wanted).then(|| String::from_utf8_lossy(value).into_owned())
        })
    };
    let code = wire::sqlstate(payload).unwrap_or("XX000");
    let mut plain = code.to_owned();
    for (kind, called) in [(b't', "table"), (b'c', "column"), (b'n', "constraint")] {
        if let Some(name) = field(kind) {
            plain.push_str(&format!(" {called} {name}"));
        }
    }
    ServerError {
        code: code.to_owned(),
        whole: format!("{code} {}", field(b'M').unwrap_or_default()),
        plain,
    }
}
