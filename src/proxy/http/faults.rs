//! What of HTTP was no HTTP, counted: heads, frames, streams, bodies, of agents and of upstreams.
//!
//! hyper and h2 read it. They say what broke a connection or a body, but of a stream that breaks HTTP/2 only the
//! agent is told, by RST_STREAM; so the frames that are written to it are looked at, their heads alone.

use std::error::Error;
use std::io::ErrorKind;

use crate::bad_input::{self, Reader};
use crate::policy::Protocol;
use crate::upstream::SendError;

/// An HTTP/2 frame's head (RFC 9113 section 4.1), and an RST_STREAM with its code (section 6.4).
const HEAD_BYTES: usize = 9;
const RESET_BYTES: usize = 13;
const RST_STREAM: u8 = 3;

/// Codes that blame the agent (RFC 9113 section 7): PROTOCOL_ERROR, FLOW_CONTROL_ERROR, FRAME_SIZE_ERROR,
/// COMPRESSION_ERROR, ENHANCE_YOUR_CALM. STREAM_CLOSED may answer what was under way before it could know.
const BLAMES: [u32; 5] = [1, 3, 6, 9, 11];

/// Counts what broke a whole connection, if it was the agent's bytes.
pub(super) fn count_connection(error: &hyper::Error) {
    if error.is_parse() {
        bad_input::count(Reader::Http, &"head");
    }
    let own = error.source().and_then(|error| error.downcast_ref::<h2::Error>());
    if own.is_some_and(h2::Error::is_library) {
        bad_input::count(Reader::Http, &"frame");
    }
}

/// Counts an HTTP/1.1 body whose framing cannot be read; an agent that left is no fault, and a stream of HTTP/2 is
/// counted by [`Resets`].
pub(super) fn count_body(error: &hyper::Error) {
    let own = error
        .source()
        .and_then(|error| error.downcast_ref::<std::io::Error>());
    if own.is_some_and(|error| matches!(error.kind(), ErrorKind::InvalidData | ErrorKind::InvalidInput)) {
        bad_input::count(Reader::Http, &"body");
    }
}

/// As what an upstream's answers are counted.
pub(crate) fn of_server(protocol: Protocol) -> Reader {
    match protocol {
        Protocol::Kubernetes => Reader::KubernetesServer,
        Protocol::Mcp => Reader::McpServer,
        _ => Reader::HttpServer,
    }
}

/// Counts an upstream's answer that could not be taken; one that is late, silent or cut off is no fault of form.
pub(crate) fn count_answer(reader: Reader, error: &SendError) {
    match error {
        SendError::Broken(error) => count_answer_part(reader, error),
        SendError::Unasked | SendError::Coded => bad_input::count(reader, error),
        // Of TLS and of names their own readers say it.
        SendError::Tls(_) | SendError::Dial(_) | SendError::Late(_) => {}
    }
}

/// Counts a part of an upstream's answer, whose head or body broke.
pub(crate) fn count_answer_part(reader: Reader, error: &hyper::Error) {
    let source = error.source();
    let own = source
        .and_then(|error| error.downcast_ref::<h2::Error>())
        .filter(|own| own.is_library());
    let is_body = source
        .and_then(|error| error.downcast_ref::<std::io::Error>())
        .is_some_and(|error| matches!(error.kind(), ErrorKind::InvalidData | ErrorKind::InvalidInput));
    match own {
        Some(own) if own.is_reset() => bad_input::count(reader, &"stream"),
        Some(_) => bad_input::count(reader, &"frame"),
        None if error.is_parse() => bad_input::count(reader, &"head"),
        None if is_body => bad_input::count(reader, &"body"),
        None => {}
    }
}

/// Looks for RST_STREAM in what is written to an agent.
#[derive(Default)]
pub(super) struct Resets {
    speaks: Speaks,
    head: [u8; RESET_BYTES],
    /// Bytes of `head` that were seen.
    seen: usize,
    /// Bytes of the frame that is passing which are still to come.
    rest: usize,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Speaks {
    #[default]
    Nothing,
    Http1,
    Http2,
}

impl Resets {
    /// Looks at what was written, in the order in which it is.
    pub(super) fn look(&mut self, mut bytes: &[u8]) {
        if self.speaks == Speaks::Nothing {
            self.speaks = match bytes.first() {
                None => return,
                // A server's first frame is a short SETTINGS: its length begins with a zero.
                Some(0) => Speaks::Http2,
                Some(_) => Speaks::Http1,
            };
        }
        if self.speaks == Speaks::Http1 {
            return;
        }
        while !bytes.is_empty() {
            let passed = self.rest.min(bytes.len());
            self.rest -= passed;
            bytes = bytes.split_at(passed).1;
            let wanted = match self.head {
                [0, 0, 4, RST_STREAM, ..] if self.seen >= HEAD_BYTES => RESET_BYTES,
                _ => HEAD_BYTES,
            };
            for (own, byte) in self.head.iter_mut().take(wanted).skip(self.seen).zip(bytes) {
                *own = *byte;
            }
            let taken = (wanted - self.seen).min(bytes.len());
            self.seen += taken;
            bytes = bytes.split_at(taken).1;
            self.judge();
        }
    }

    /// What to do once a head, or a reset, is whole.
    fn judge(&mut self) {
        let [a, b, c, kind, _, _, _, _, _, code @ ..] = self.head;
        let is_reset = kind == RST_STREAM && [a, b, c] == [0, 0, 4];
        if self.seen < HEAD_BYTES || (is_reset && self.seen < RESET_BYTES) {
            return;
        }
        self.seen = 0;
        if !is_reset {
            self.rest = u32::from_be_bytes([0, a, b, c]) as usize;
        } else if BLAMES.contains(&u32::from_be_bytes(code)) {
            bad_input::count(Reader::Http, &"stream");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, 0, 0, 0, 0, 1], payload].concat()
    }

    /// How many resets are counted in `bytes`, written in pieces of this length.
    fn counted(bytes: &[u8], piece: usize) -> u64 {
        static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
        let _turn = ONE_AT_A_TIME.lock();
        let count = || bad_input::counted(Reader::Http, "stream");
        let before = count();
        let mut resets = Resets::default();
        bytes.chunks(piece).for_each(|piece| resets.look(piece));
        count() - before
    }

    #[test]
    fn resets_that_blame_the_agent_are_counted_however_they_are_cut() {
        let mut bytes = frame(4, &[]);
        for code in 0..14u32 {
            // What looks like a reset within another frame is none.
            bytes.extend(frame(0, &frame(RST_STREAM, &[0, 0, 0, 1])));
            bytes.extend(frame(RST_STREAM, &code.to_be_bytes()));
            bytes.extend(frame(9, &[]));
        }
        for piece in 1..=bytes.len() {
            assert_eq!(counted(&bytes, piece), 5, "in pieces of {piece}");
        }
        // HTTP/1.1 is looked at no further than its first byte.
        let http1 = [b"HTTP/1.1 200 OK\r\n\r\n", bytes.as_slice()].concat();
        assert_eq!(counted(&http1, 7), 0);
    }

    /// A fuzz target, as those of `tests/fuzz`.
    #[test]
    fn frames_of_any_bytes_are_counted_alike_however_they_are_cut() {
        bolero::check!()
            .with_iterations(3_000)
            .with_max_len(2_048)
            .with_type::<(Vec<(bool, u8, Vec<u8>)>, Vec<u8>, u8)>()
            .for_each(|(frames, raw, piece)| {
                let mut bytes = frame(4, &[]);
                for (is_reset, code, payload) in frames {
                    match is_reset {
                        true => bytes.extend(frame(RST_STREAM, &[0, 0, 0, *code])),
                        false => bytes.extend(frame(*code, payload)),
                    }
                }
                bytes.extend(raw);
                let whole = counted(&bytes, usize::MAX);
                assert_eq!(counted(&bytes, 1), whole);
                assert_eq!(counted(&bytes, usize::from(*piece).max(1)), whole);
            });
    }
}
