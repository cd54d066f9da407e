//! What a connection begins with, and which credential it means.

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};

use super::wire::{message, take_text};

/// Bytes of a start-up packet (`MAX_STARTUP_PACKET_LENGTH` of the server).
pub const STARTUP_BYTES_MAX: usize = 10_000;

const PROTOCOL_3: u32 = 3;
const CANCEL: u32 = 80_877_102;
const SSL: u32 = 80_877_103;
const GSSENC: u32 = 80_877_104;

/// Settings that would change how statements are read. All others are judged as the SET that they are.
const PINNED: [&str; 2] = ["client_encoding", "standard_conforming_strings"];

/// A start-up packet that is refused; the text is for the agent.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum StartupError {
    #[error("malformed start-up packet")]
    Malformed,
    #[error("unsupported protocol version")]
    Version,
    #[error("replication connections are refused")]
    Replication,
    #[error("`{0}` may not be set here")]
    Pinned(String),
    #[error("no user name was given")]
    NoUser,
    #[error("the placeholder names no credential that you hold for this endpoint")]
    Placeholder,
    #[error("which credential is meant? name one by its user or its placeholder")]
    Ambiguous,
}

/// The first packet, or one of the requests before it.
#[derive(Debug, PartialEq, Eq)]
pub enum Opening {
    Ssl,
    Gssenc,
    Cancel { process: i32, key: Bytes },
    Startup(Startup),
}

/// A StartupMessage that may go on.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Startup {
    pub user: String,
    /// Empty if none was named.
    pub database: String,
    /// Settings for the server, in order; `options` is taken apart into them.
    pub settings: Vec<(String, String)>,
    /// The NegotiateProtocolVersion to send, where more than 3.0 was asked for.
    pub negotiate: Option<Bytes>,
}

/// Reads a packet without its length.
///
/// # Errors
/// It is malformed, of another version, or asks for what is refused.
pub fn read(mut packet: Bytes) -> Result<Opening, StartupError> {
    let version = packet.try_get_u32().map_err(|_| StartupError::Malformed)?;
    match version {
        SSL if packet.is_empty() => return Ok(Opening::Ssl),
        GSSENC if packet.is_empty() => return Ok(Opening::Gssenc),
        CANCEL => {
            let process = packet.try_get_i32().map_err(|_| StartupError::Malformed)?;
            return Ok(Opening::Cancel { process, key: packet });
        }
        _ if version >> 16 != PROTOCOL_3 => return Err(StartupError::Version),
        _ => {}
    }
    let mut startup = Startup::default();
    let mut unknown = Vec::new();
    loop {
        let name = take_text(&mut packet).ok_or(StartupError::Malformed)?;
        if name.is_empty() {
            break;
        }
        let value = take_text(&mut packet).ok_or(StartupError::Malformed)?;
        match name.as_str() {
            "user" => startup.user = value,
            "database" => startup.database = value,
            "replication" if matches!(value.as_str(), "false" | "off" | "no" | "0") => {}
            "replication" => return Err(StartupError::Replication),
            "options" => read_options(&value, &mut startup.settings)?,
            _ if name.starts_with("_pq_.") => unknown.push(name),
            _ => startup.settings.push((name.to_ascii_lowercase(), value)),
        }
    }
    if !packet.is_empty() {
        return Err(StartupError::Malformed);
    }
    if startup.user.is_empty() {
        return Err(StartupError::NoUser);
    }
    check_settings(&mut startup.settings)?;
    if version & 0xffff != 0 || !unknown.is_empty() {
        startup.negotiate = Some(negotiate(&unknown));
    }
    Ok(Opening::Startup(startup))
}

/// Settings that pass are those that pin nothing else than what is pinned anyway.
fn check_settings(settings: &mut Vec<(String, String)>) -> Result<(), StartupError> {
    for (name, value) in settings.iter() {
        let value = value.trim_matches('\'').to_ascii_lowercase();
        let harmless = match name.as_str() {
            "client_encoding" => matches!(value.as_str(), "utf8" | "utf-8" | "unicode" | "auto"),
            "standard_conforming_strings" => matches!(value.as_str(), "on" | "true" | "1" | "yes"),
            // Written in capitals or in `options` these are settings here, and more at the server.
            "user" | "database" | "options" | "replication" => false,
            _ => !PINNED.contains(&name.as_str()) && !name.is_empty() && !name.starts_with("_pq_."),
        };
        if !harmless {
            return Err(StartupError::Pinned(name.clone()));
        }
    }
    settings.retain(|(name, _)| !PINNED.contains(&name.as_str()));
    Ok(())
}

/// `-c name=value` and `--name=value`, with backslash before a blank, as the server splits them
/// (`pg_split_opts`). Any other switch is refused.
fn read_options(text: &str, settings: &mut Vec<(String, String)>) -> Result<(), StartupError> {
    let mut words = split_options(text).into_iter();
    while let Some(word) = words.next() {
        let pair = if word == "-c" {
            words.next().ok_or(StartupError::Malformed)?
        } else if let Some(pair) = word.strip_prefix("--").or_else(|| word.strip_prefix("-c")) {
            pair.to_owned()
        } else {
            return Err(StartupError::Pinned(word));
        };
        let (name, value) = pair.split_once('=').ok_or(StartupError::Malformed)?;
        // The server reads a dash in a name as an underscore.
        settings.push((name.replace('-', "_").to_ascii_lowercase(), value.to_owned()));
    }
    Ok(())
}

fn split_options(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut inside = false;
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        match letter {
            '\\' => {
                word.extend(letters.next());
                inside = true;
            }
            ' ' | '\t' | '\n' | '\r' | '\x0b' | '\x0c' => {
                if inside {
                    words.push(std::mem::take(&mut word));
                    inside = false;
                }
            }
            _ => {
                word.push(letter);
                inside = true;
            }
        }
    }
    if inside {
        words.push(word);
    }
    words
}

/// NegotiateProtocolVersion: 3.0, and the options that are not known.
fn negotiate(unknown: &[String]) -> Bytes {
    let mut payload = BytesMut::new();
    payload.put_u32(PROTOCOL_3 << 16);
    payload.put_u32(u32::try_from(unknown.len()).unwrap_or(u32::MAX));
    for name in unknown {
        payload.put_slice(name.as_bytes());
        payload.put_u8(0);
    }
    message(b'v', &payload)
}

/// The StartupMessage to the server: the credential's user, and both pins.
pub fn to_server(user: &str, database: &str, settings: &[(String, String)]) -> Bytes {
    let mut body = BytesMut::new();
    body.put_u32(PROTOCOL_3 << 16);
    let pins = [("client_encoding", "UTF8"), ("standard_conforming_strings", "on")];
    let own = settings
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()));
    let first = [("user", user), ("database", database)];
    for (name, value) in first.into_iter().chain(own).chain(pins) {
        for text in [name, value] {
            body.put_slice(text.as_bytes());
            body.put_u8(0);
        }
    }
    body.put_u8(0);
    let mut out = BytesMut::with_capacity(body.len() + 4);
    out.put_u32(u32::try_from(body.len() + 4).unwrap_or(u32::MAX));
    out.put_slice(&body);
    out.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(version: u32, pairs: &[(&str, &str)]) -> Bytes {
        let mut body = version.to_be_bytes().to_vec();
        for text in pairs.iter().flat_map(|(name, value)| [name, value]) {
            body.extend_from_slice(text.as_bytes());
            body.push(0);
        }
        body.push(0);
        Bytes::from(body)
    }

    fn check(pairs: &[(&str, &str)], want: Result<&[(&str, &str)], StartupError>) {
        let all = [&[("user", "u")], pairs].concat();
        let got = read(packet(3 << 16, &all)).map(|opening| match opening {
            Opening::Startup(startup) => startup.settings,
            other => panic!("{other:?}"),
        });
        let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        assert_eq!(got, want.map(|want| want.iter().map(own).collect()), "{pairs:?}");
    }

    #[test]
    fn settings_that_change_the_reading_are_refused() {
        let pinned = |name: &str| Err(StartupError::Pinned(name.to_owned()));
        check(
            &[("application_name", "psql")],
            Ok(&[("application_name", "psql")]),
        );
        check(&[("client_encoding", "UTF8")], Ok(&[]));
        check(&[("client_encoding", "SJIS")], pinned("client_encoding"));
        check(&[("Role", "admin")], Ok(&[("role", "admin")]));
        check(
            &[("options", "-c search_path=a\\ b --work-mem=1")],
            Ok(&[("search_path", "a b"), ("work_mem", "1")]),
        );
        check(
            &[("options", "-cstandard-conforming-strings=off")],
            pinned("standard_conforming_strings"),
        );
        check(
            &[("options", "-c session_authorization=x")],
            Ok(&[("session_authorization", "x")]),
        );
        check(&[("options", "-E")], pinned("-E"));
        check(&[("DATABASE", "other")], pinned("database"));
        check(&[("options", "-c user=other")], pinned("user"));
        check(&[("REPLICATION", "on")], pinned("replication"));
        check(&[("replication", "database")], Err(StartupError::Replication));
    }

    #[test]
    fn newer_versions_are_negotiated_and_cuts_are_malformed() {
        let whole = packet((3 << 16) | 2, &[("user", "u"), ("_pq_.x", "1")]);
        let Ok(Opening::Startup(startup)) = read(whole.clone()) else {
            panic!()
        };
        assert_eq!(
            startup.negotiate,
            Some(message(b'v', b"\0\x03\0\0\0\0\0\x01_pq_.x\0"))
        );
        for end in 0..whole.len() {
            assert!(read(whole.slice(..end)).is_err());
        }
        assert_eq!(read(packet(2 << 16, &[])), Err(StartupError::Version));
    }
}
