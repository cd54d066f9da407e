//! Framing of the language server protocol, with bounds: `Content-Length`, an empty line, JSON.

use std::io::{self, BufRead, Read as _, Write};

use lsp_server::{ErrorCode, Message, RequestId, Response, ResponseError};

/// Largest message that a client may send, bytes: a document of 4 MiB, each of its bytes escaped.
pub(crate) const MESSAGE_BYTES_MAX: usize = 32 << 20;

/// Longest header of a message, bytes.
pub(crate) const HEADER_BYTES_MAX: u64 = 4 << 10;

/// What came in.
#[derive(Debug)]
pub(super) enum Input {
    Message(Message),
    /// Framed well, and not a message: the connection can go on. With the id, if there is one.
    Bad(Option<RequestId>, String),
    /// Where the next message begins cannot be known.
    Lost(String),
}

/// Reads one message; `None` at the end.
pub(super) fn read(from: &mut impl BufRead) -> io::Result<Option<Input>> {
    let length = match length(from)? {
        Ok(Some(length)) => length,
        Ok(None) => return Ok(None),
        Err(why) => return Ok(Some(Input::Lost(why))),
    };
    if length > MESSAGE_BYTES_MAX {
        let skipped = io::copy(&mut from.take(length as u64), &mut io::sink())?;
        let why = format!("a message of {length} bytes; {MESSAGE_BYTES_MAX} are the limit");
        return Ok((skipped == length as u64).then_some(Input::Bad(None, why)));
    }
    // Grows with what comes, not with what was announced.
    let mut body = Vec::new();
    from.take(length as u64).read_to_end(&mut body)?;
    if body.len() < length {
        return Ok(None);
    }
    Ok(Some(match serde_json::from_slice::<Message>(&body) {
        Ok(message) => Input::Message(message),
        Err(error) => {
            let value: Option<serde_json::Value> = serde_json::from_slice(&body).ok();
            let id = value.and_then(|mut value| serde_json::from_value(value.get_mut("id")?.take()).ok());
            Input::Bad(id, format!("not a message of JSON-RPC: {error}"))
        }
    }))
}

/// The header's `Content-Length`; `None` at the end of the input.
fn length(from: &mut impl BufRead) -> io::Result<Result<Option<usize>, String>> {
    let mut header = from.take(HEADER_BYTES_MAX);
    let mut length = None;
    let mut line = Vec::new();
    loop {
        line.clear();
        header.read_until(b'\n', &mut line)?;
        if !line.ends_with(b"\n") {
            return Ok(match header.limit() {
                0 => Err(format!("a header of more than {HEADER_BYTES_MAX} bytes")),
                _ => Ok(None),
            });
        }
        let text = String::from_utf8_lossy(&line);
        let text = text.trim_end_matches(['\r', '\n']);
        if text.is_empty() {
            return Ok(match length {
                Some(length) => Ok(Some(length)),
                None => Err("a header without Content-Length".to_owned()),
            });
        }
        let Some((name, value)) = text.split_once(':') else {
            return Ok(Err("a header without a colon".to_owned()));
        };
        if name.eq_ignore_ascii_case("content-length") {
            match value.trim().parse() {
                Ok(own) => length = Some(own),
                Err(_) => return Ok(Err("a Content-Length that is no number".to_owned())),
            }
        }
    }
}

/// Writes one message.
pub(super) fn write(to: &mut impl Write, message: impl Into<Message>) -> io::Result<()> {
    message.into().write(to)
}

/// Answers what was no message. JSON-RPC gives it the id `null`, which the library's type has not.
pub(super) fn write_bad(to: &mut impl Write, id: Option<RequestId>, why: String) -> io::Result<()> {
    if let Some(id) = id {
        return write(to, failure(id, ErrorCode::InvalidRequest, why));
    }
    let error = ResponseError {
        code: ErrorCode::ParseError as i32,
        message: why,
        data: None,
    };
    let body = serde_json::json!({ "jsonrpc": "2.0", "id": null, "error": error }).to_string();
    write!(to, "Content-Length: {}\r\n\r\n{body}", body.len())?;
    to.flush()
}

pub(super) fn failure(id: RequestId, code: ErrorCode, why: String) -> Response {
    Response::new_err(id, code as i32, why)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(bytes: &[u8]) -> Vec<String> {
        let mut from = bytes;
        let mut found = Vec::new();
        while let Some(input) = read(&mut from).unwrap() {
            let lost = matches!(input, Input::Lost(_));
            found.push(match input {
                Input::Message(Message::Request(request)) => request.method,
                Input::Message(_) => "other".to_owned(),
                Input::Bad(id, why) => format!("bad {id:?} {why}"),
                Input::Lost(why) => format!("lost {why}"),
            });
            if lost {
                break;
            }
        }
        found
    }

    fn framed(body: &str) -> Vec<u8> {
        format!("Content-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
    }

    #[test]
    fn what_is_no_message_is_told_and_the_next_one_is_read() {
        let good = framed(r#"{"jsonrpc":"2.0","id":1,"method":"m"}"#);
        let check = |bad: &[u8], says: &str| {
            let found = all(&[bad, good.as_slice()].concat());
            assert!(found.first().unwrap().contains(says), "{found:?}");
            assert_eq!(found.get(1).is_some(), !says.starts_with("lost"), "{found:?}");
        };
        check(&framed("{"), "bad None not a message");
        check(&framed("[]"), "bad None not a message");
        check(&framed("\u{0}"), "bad None");
        check(&framed(r#"{"id":"x","method":7}"#), "bad Some");
        check(b"Content-Length: x\r\n\r\n", "lost a Content-Length");
        check(b"Other: 1\r\n\r\n", "lost a header without Content-Length");
        check(b"nothing\r\n\r\n", "lost a header without a colon");
        check(&[b'a'; HEADER_BYTES_MAX as usize + 1], "lost a header of more");
        let mut large = format!("Content-Length: {}\r\n\r\n", MESSAGE_BYTES_MAX + 1).into_bytes();
        large.resize(large.len() + MESSAGE_BYTES_MAX + 1, b' ');
        check(&large, "bad None a message of");
        // Announced and never sent: nothing is kept for it.
        assert!(all(b"Content-Length: 99999999999\r\n\r\n{}").is_empty());
        assert!(all(b"Content-Length: 5\r\n\r\n{}").is_empty());
    }
}
