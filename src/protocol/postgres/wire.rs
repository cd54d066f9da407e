//! Messages: header-only framing and the few messages that the gateway writes itself.
//! (PostgreSQL documentation, "Message Formats".)

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};

/// Bytes of a message's header: its type and its length.
pub const HEADER_BYTES: usize = 5;
/// Bytes of a server message that is read whole (errors, parameters, tags); rows are not.
pub const SERVER_MESSAGE_BYTES_MAX: usize = 1 << 20;

/// Bytes that break the protocol, and whose fault it is.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum WireError {
    #[error("the agent sent a malformed message: {0}")]
    Agent(&'static str),
    #[error("the server sent a malformed message: {0}")]
    Upstream(&'static str),
    #[error("a message is longer than its limit")]
    Long,
    #[error("a message of the server is longer than its limit")]
    LongAnswer,
    #[error("the server changed `{0}`, by which statements are read")]
    Setting(String),
}

/// The type and the whole length of the message at the front, or `None` until its header is there.
///
/// # Errors
/// The length is smaller than itself.
// Whose fault it is, the caller knows.
#[allow(clippy::result_unit_err)]
pub fn head(bytes: &[u8]) -> Result<Option<(u8, usize)>, ()> {
    let Some((&[tag, a, b, c, d], _)) = bytes.split_first_chunk::<HEADER_BYTES>() else {
        return Ok(None);
    };
    let length = u32::from_be_bytes([a, b, c, d]) as usize;
    if !(4..=i32::MAX as usize).contains(&length) {
        return Err(());
    }
    Ok(Some((tag, length + 1)))
}

/// One message of a type and a payload.
pub fn message(tag: u8, payload: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(HEADER_BYTES + payload.len());
    out.put_u8(tag);
    out.put_u32(u32::try_from(payload.len() + 4).unwrap_or(u32::MAX));
    out.put_slice(payload);
    out.freeze()
}

/// An ErrorResponse.
pub fn error(severity: &str, code: &str, text: &str) -> Bytes {
    report(&[(b'S', severity), (b'V', severity), (b'C', code), (b'M', text)])
}

/// The code of what the gateway does not permit: `insufficient_privilege`.
pub const DENIED: &str = "42501";

/// An ErrorResponse that says no, with a hint at `help`: where the agent is told what it may reach.
pub fn denial(severity: &str, text: &str, help: &str) -> Bytes {
    let hint = format!("What you may reach: {help}");
    report(&[
        (b'S', severity),
        (b'V', severity),
        (b'C', DENIED),
        (b'M', text),
        (b'H', &hint),
    ])
}

fn report(fields: &[(u8, &str)]) -> Bytes {
    let mut payload = Vec::new();
    for &(field, value) in fields {
        payload.push(field);
        payload.extend(value.bytes().filter(|byte| *byte != 0));
        payload.push(0);
    }
    payload.push(0);
    message(b'E', &payload)
}

/// A ReadyForQuery.
pub fn ready(status: u8) -> Bytes {
    message(b'Z', &[status])
}

/// A Parse that no state of the server lets succeed: what makes it fail where a refusal stands.
/// Its grammar refuses the text before it looks at the name, which spares the unnamed statement.
pub fn failing_parse() -> Bytes {
    message(b'P', b"tailkeep\0tailkeep refused what stood here\0\0\0")
}

/// Takes a zero-terminated UTF-8 string off the front.
pub fn take_text(bytes: &mut Bytes) -> Option<String> {
    let end = memchr::memchr(0, bytes)?;
    let text = String::from_utf8(bytes.split_to(end).to_vec()).ok()?;
    bytes.advance(1);
    Some(text)
}

/// The fields of an ErrorResponse's payload that matter here: the SQLSTATE.
pub fn sqlstate(payload: &[u8]) -> Option<&str> {
    payload.split(|byte| *byte == 0).find_map(|field| {
        let (&kind, value) = field.split_first()?;
        (kind == b'C').then(|| std::str::from_utf8(value).ok())?
    })
}
