//! The session without I/O: any cut of the bytes, any bytes, any order of messages.

mod limits;
mod model;
mod trials;

use std::sync::{Arc, Mutex};
use std::time::Instant;

use bytes::Bytes;
use proptest::prelude::*;

use super::session::Config;
use super::wire::{self, WireError, message};
use super::*;
use crate::facts::Facts;
use crate::facts::sql::cache::Cache;
use crate::protocol::{Output, Side};
use crate::verdict::{Action, Cause, Permit, Refusal};

fn config() -> Config {
    Config {
        grammar: Arc::new(grammar::Reader {
            cache: Arc::new(Mutex::new(Cache::new(64))),
            bytes_max: 4096,
            database: "orders".to_owned(),
            user: "app".to_owned(),
        }),
        endpoint: Arc::from("postgres.orders"),
        credential: None,
        message_bytes_max: 1 << 16,
        statement_bytes_max: 64,
        statements_max: 4,
        prepared_bytes_max: 4096,
        help: "http://help.test/".to_owned(),
    }
}

/// A session, and what it had to say so far.
struct Desk {
    session: PgSession,
    to_agent: Vec<u8>,
    to_server: Vec<u8>,
    /// Texts that were judged, and outcomes that were told.
    judged: Vec<String>,
    /// Whether each ran code that cannot be read.
    opaque: Vec<bool>,
    finished: Vec<String>,
}

impl Desk {
    fn new(config: Config) -> Desk {
        Desk {
            session: PgSession::new(config, b'I', Instant::now()),
            to_agent: Vec::new(),
            to_server: Vec::new(),
            judged: Vec::new(),
            opaque: Vec::new(),
            finished: Vec::new(),
        }
    }

    fn agent(&mut self, bytes: &[u8]) -> Result<(), WireError> {
        self.take(Side::Agent, bytes)
    }

    fn server(&mut self, bytes: &[u8]) -> Result<(), WireError> {
        self.take(Side::Upstream, bytes)
    }

    /// Feeds bytes and carries out what follows; drops and deletes are refused.
    fn take(&mut self, side: Side, bytes: &[u8]) -> Result<(), WireError> {
        let now = Instant::now();
        self.session
            .handle_input(side, Bytes::copy_from_slice(bytes), now)?;
        self.drain();
        while self.session.advance(now)? || self.session.is_judging() {
            self.drain();
        }
        self.drain();
        Ok(())
    }

    fn drain(&mut self) {
        while let Some(output) = self.session.poll_output() {
            match output {
                Output::Write(Side::Agent, bytes) => self.to_agent.extend_from_slice(&bytes),
                Output::Write(Side::Upstream, bytes) => self.to_server.extend_from_slice(&bytes),
                Output::Decide(action) => {
                    self.judged.push(action.detail.clone());
                    let Facts::Sql(facts) = &action.facts else {
                        panic!()
                    };
                    self.opaque.push(facts.statement.opaque);
                    self.session.handle_ruling(rule(&action), Instant::now());
                }
                Output::Finish(_, outcome) => self.finished.push(outcome.status),
                _ => {}
            }
        }
    }

    fn tags(bytes: &[u8]) -> String {
        let (mut tags, mut rest) = (String::new(), bytes);
        while let Ok(Some((tag, total))) = wire::head(rest) {
            tags.push(char::from(tag));
            rest = rest.get(total..).unwrap_or_default();
        }
        tags
    }
}

fn rule(action: &Action) -> Result<Permit, Refusal> {
    let drops = match &action.facts {
        Facts::Sql(facts) => {
            let of = |verb: &String| verb == "drop" || verb == "delete";
            facts.statement.unparseable || facts.statement.verbs.iter().any(of)
        }
        _ => true,
    };
    match drops {
        true => Err(Refusal::new(Cause::NoRule, "no")),
        false => Ok(Permit::for_test(action)),
    }
}

/// Feeds pieces and gives what each side got: the agent's, then the server's.
fn run(pieces: &[(Side, &[u8])]) -> Result<[Vec<u8>; 2], WireError> {
    let mut desk = Desk::new(config());
    for (side, piece) in pieces {
        desk.take(*side, piece)?;
    }
    Ok([desk.to_agent, desk.to_server])
}

fn parse(name: &str, text: &str) -> Bytes {
    message(b'P', format!("{name}\0{text}\0\0\0").as_bytes())
}

fn bind(portal: &str, statement: &str) -> Bytes {
    message(b'B', format!("{portal}\0{statement}\0\0\0\0\0\0\0").as_bytes())
}

fn execute(portal: &str) -> Bytes {
    message(b'E', format!("{portal}\0\0\0\0\0").as_bytes())
}

fn query(text: &str) -> Bytes {
    message(b'Q', format!("{text}\0").as_bytes())
}

fn sync() -> Bytes {
    message(b'S', &[])
}

/// A domain's CHECK runs where a parameter is said to be of that domain.
#[test]
fn parameters_of_types_that_are_not_the_servers_run_code() {
    let mut desk = Desk::new(config());
    // bpchar, an array of the server's own schema, the first of somebody's own, the last.
    for id in [1042_u32, 16_383, 16_384, u32::MAX] {
        let parsed = [&b"\0select $1\0\0\x01"[..], &id.to_be_bytes()].concat();
        let bound = message(b'B', b"\0\0\0\0\0\x01\0\0\0\x01a\0\0");
        let sent = [message(b'P', &parsed), bound, execute(""), sync()].concat();
        desk.agent(&sent).unwrap();
    }
    assert_eq!(desk.opaque, [false, false, true, true]);
}

#[test]
fn every_cut_of_the_bytes_reads_the_same() {
    let agent = [
        parse("s", "select $1"),
        message(b'B', b"\0s\0\0\0\0\x01\0\0\0\x01a\0\0"),
        message(b'D', b"P\0"),
        execute(""),
        sync(),
        query("select 2; select 3"),
        query("copy t from stdin"),
        message(b'd', b"1\n"),
        message(b'd', b"2\n"),
        message(b'c', &[]),
        query("drop table t"),
    ]
    .concat();
    let server = [
        message(b'1', b""),
        message(b'2', b""),
        message(b'T', b"\0\0"),
        message(b'D', b"\0\0"),
        message(b'C', b"SELECT 1\0"),
        message(b'S', b"application_name\0x\0"),
        message(b'Z', b"I"),
        message(b'C', b"SELECT 1\0"),
        message(b'N', b"\0"),
        message(b'C', b"SELECT 1\0"),
        message(b'Z', b"I"),
        message(b'G', &[0, 0, 0]),
    ]
    .concat();
    let refused = wire::error("ERROR", "42601", "syntax error");
    let end = [
        message(b'C', b"COPY 2\0"),
        wire::ready(b'I'),
        refused,
        wire::ready(b'I'),
    ]
    .concat();
    let play = |agent: &[&[u8]], server: &[&[u8]]| {
        let pieces = agent.iter().map(|piece| (Side::Agent, *piece));
        let answers = server.iter().map(|piece| (Side::Upstream, *piece));
        let last = [(Side::Upstream, &end[..])];
        run(&pieces.chain(answers).chain(last).collect::<Vec<_>>()).unwrap()
    };
    let whole = play(&[&agent], &[&server]);
    assert_eq!(Desk::tags(&whole[0]), "12TDCSZCNCZGCZEZ");
    assert_eq!(Desk::tags(&whole[1]), "PBDESQQddcPS");
    for at in 0..agent.len() {
        let (a, b) = agent.split_at(at);
        assert_eq!(play(&[a, b], &[&server]), whole, "{at}");
    }
    for at in 0..server.len() {
        let (a, b) = server.split_at(at);
        assert_eq!(play(&[&agent], &[a, b]), whole, "{at}");
    }
    let each = |bytes: &'static [u8]| bytes.chunks(1);
    let (one, two) = (agent.leak(), server.leak());
    let bytewise = play(&each(one).collect::<Vec<_>>(), &each(two).collect::<Vec<_>>());
    assert_eq!(bytewise, whole);
}

#[test]
fn a_refused_query_never_goes_up() {
    let sent = run(&[(Side::Agent, &query("drop table t"))]).unwrap();
    assert!(sent[1].is_empty());
    let mut want = wire::denial("ERROR", "no", "http://help.test/").to_vec();
    want.extend_from_slice(&wire::ready(b'I'));
    assert_eq!(sent[0], want);
}

#[test]
fn a_server_that_changes_how_text_is_read_is_left() {
    let changed = message(b'S', b"standard_conforming_strings\0off\0");
    assert!(matches!(
        run(&[(Side::Upstream, &changed)]),
        Err(WireError::Setting(_))
    ));
}

#[test]
fn a_start_that_we_write_is_one_that_we_read() {
    let settings = [("search_path".to_owned(), "a, b".to_owned())];
    let packet = startup::to_server("ann", "orders", &settings);
    let Ok(startup::Opening::Startup(read)) = startup::read(packet.slice(4..)) else {
        panic!("not read")
    };
    assert_eq!((read.user.as_str(), read.database.as_str()), ("ann", "orders"));
    // Both pins are there and need not be passed on.
    assert_eq!(read.settings, settings);
    assert_eq!(
        u32::from_be_bytes(packet[..4].try_into().unwrap()) as usize,
        packet.len()
    );
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
            for kind in [0x0003_0000_u32, 80_877_102, 80_877_103] {
                let packet = [&kind.to_be_bytes()[..], payload].concat();
                let _ = startup::read(Bytes::from(packet));
            }
            let _ = bind::read(Bytes::copy_from_slice(payload), &[23]);
        }
    }

    #[test]
    fn settings_are_written_as_they_are_read(
        user in "[a-z{}]{1,9}", names in prop::collection::vec("[a-z_]{1,9}", 0..5), value in "[^\0]{0,9}",
    ) {
        let settings: Vec<_> = names.into_iter().map(|name| (name, value.clone())).collect();
        if let Ok(startup::Opening::Startup(read)) = startup::read(startup::to_server(&user, "d", &settings).slice(4..)) {
            prop_assert_eq!(&read.user, &user);
            let again = startup::read(startup::to_server(&read.user, &read.database, &read.settings).slice(4..));
            prop_assert_eq!(again, Ok(startup::Opening::Startup(read)));
        }
    }
}
