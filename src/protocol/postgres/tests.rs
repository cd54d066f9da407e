//! The session without I/O: any cut of the bytes, any bytes.

use std::sync::{Arc, Mutex};
use std::time::Instant;

use bytes::Bytes;
use proptest::prelude::*;

use super::session::Config;
use super::wire::{self, WireError, message};
use super::*;
use crate::facts::sql::cache::Cache;
use crate::protocol::{Output, Side};
use crate::verdict::{Cause, Permit, Refusal};

fn session(message_bytes_max: usize) -> PgSession {
    let config = Config {
        grammar: Arc::new(grammar::Reader {
            cache: Arc::new(Mutex::new(Cache::new(64))),
            bytes_max: 4096,
            database: "orders".to_owned(),
            user: "app".to_owned(),
        }),
        endpoint: Arc::from("postgres.orders"),
        credential: None,
        message_bytes_max,
        statement_bytes_max: 64,
        statements_max: 4,
        prepared_bytes_max: 4096,
    };
    PgSession::new(config, b'I', Instant::now())
}

/// Feeds pieces, rules by the text, and joins what each side gets.
fn run(pieces: &[(Side, &[u8])]) -> Result<[Vec<u8>; 2], WireError> {
    let mut session = session(1 << 16);
    let mut sent = [Vec::new(), Vec::new()];
    for (side, piece) in pieces {
        session.handle_input(*side, Bytes::copy_from_slice(piece), Instant::now())?;
        while let Some(output) = session.poll_output() {
            match output {
                Output::Write(Side::Agent, bytes) => sent[0].extend_from_slice(&bytes),
                Output::Write(Side::Upstream, bytes) => sent[1].extend_from_slice(&bytes),
                Output::Decide(action) => {
                    let ruling = match action.detail.contains("drop") {
                        true => Err(Refusal::new(Cause::NoRule, "no")),
                        false => Ok(Permit::for_test(&action)),
                    };
                    session.handle_ruling(ruling, Instant::now())?;
                }
                _ => {}
            }
        }
    }
    Ok(sent)
}

#[test]
fn every_cut_of_the_bytes_reads_the_same() {
    let mut agent = message(b'P', b"s\0select $1\0\0\0").to_vec();
    agent.extend_from_slice(&message(b'B', b"\0s\0\0\0\0\x01\0\0\0\x01a\0\0"));
    agent.extend_from_slice(&message(b'E', &[0; 5]));
    agent.extend_from_slice(&message(b'S', &[]));
    agent.extend_from_slice(&message(b'Q', b"select 2\0"));
    let mut server = Vec::new();
    for (tag, payload) in [
        (b'1', &b""[..]),
        (b'2', b""),
        (b'D', b"\0\0"),
        (b'C', b"SELECT 1\0"),
        (b'Z', b"I"),
    ] {
        server.extend_from_slice(&message(tag, payload));
    }
    let whole = run(&[(Side::Agent, &agent), (Side::Upstream, &server)]).unwrap();
    assert_eq!(whole[0], server);
    assert_eq!(whole[1], agent);
    for at in 0..agent.len() {
        let (a, b) = agent.split_at(at);
        assert_eq!(
            run(&[(Side::Agent, a), (Side::Agent, b), (Side::Upstream, &server)]).unwrap(),
            whole
        );
    }
    for at in 0..server.len() {
        let (a, b) = server.split_at(at);
        assert_eq!(
            run(&[(Side::Agent, &agent), (Side::Upstream, a), (Side::Upstream, b)]).unwrap(),
            whole
        );
    }
}

#[test]
fn a_refused_query_never_goes_up() {
    let sent = run(&[(Side::Agent, &message(b'Q', b"drop table t\0"))]).unwrap();
    assert!(sent[1].is_empty());
    let mut want = wire::error("ERROR", "42501", "no").to_vec();
    want.extend_from_slice(&wire::ready(b'I'));
    assert_eq!(sent[0], want);
}

#[test]
fn limits_are_reached() {
    let long = [b"select '".as_slice(), &[b'x'; 64], b"'\0"].concat();
    let sent = run(&[(Side::Agent, &message(b'Q', &long))]).unwrap();
    assert!(sent[1].is_empty() && String::from_utf8_lossy(&sent[0]).contains("statement_bytes_max"));
    let mut small = session(16);
    let input = message(b'Q', &[b'x'; 32]);
    assert_eq!(
        small.handle_input(Side::Agent, input, Instant::now()),
        Err(WireError::Long)
    );
    let name = [[b'n'; 64].as_slice(), b"\0select 1\0\0\0"].concat();
    assert!(run(&[(Side::Agent, &message(b'P', &name))]).is_err());
}

#[test]
fn a_server_that_changes_how_text_is_read_is_left() {
    let changed = message(b'S', b"standard_conforming_strings\0off\0");
    assert!(matches!(
        run(&[(Side::Upstream, &changed)]),
        Err(WireError::Setting(_))
    ));
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(pieces in prop::collection::vec((any::<bool>(), any::<u8>(), prop::collection::vec(any::<u8>(), 0..24)), 0..12)) {
        const TAGS: &[u8] = b"QPBDECSHFXdcf12345ZEGTtnIsCSAN";
        let framed: Vec<_> = pieces.iter().map(|(agent, tag, payload)| {
            let side = if *agent { Side::Agent } else { Side::Upstream };
            (side, message(TAGS[usize::from(*tag) % TAGS.len()], payload))
        }).collect();
        let framed: Vec<_> = framed.iter().map(|(side, bytes)| (*side, &bytes[..])).collect();
        let _ = run(&framed);
        for (_, _, payload) in &pieces {
            let _ = run(&[(Side::Agent, payload), (Side::Upstream, payload)]);
            let _ = startup::read(Bytes::copy_from_slice(payload));
            let _ = bind::read(Bytes::copy_from_slice(payload), &[23]);
        }
    }
}
