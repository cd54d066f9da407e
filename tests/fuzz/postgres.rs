//! Postgres: start-up packets, the session, SQL.

use std::sync::{Arc, Mutex};
use std::time::Instant;

use bytes::Bytes;
use tailkeep::facts::sql::{self, cache::Cache};
use tailkeep::protocol::postgres::grammar::Reader;
use tailkeep::protocol::postgres::session::Config;
use tailkeep::protocol::postgres::{PgSession, startup, wire};
use tailkeep::protocol::{Output, Side};
use tailkeep::verdict::{Cause, Refusal};

use crate::{fuzz, pieces, spell};

const STATEMENT_BYTES_MAX: usize = 4 << 10;

#[test]
fn a_startup_packet() {
    fuzz!(Vec<u8>, |bytes: &Vec<u8>| {
        let _ = startup::read(Bytes::copy_from_slice(bytes));
        // The version is the smallest hurdle: past it, too.
        let versioned = [&[0, 3, 0, 0], &bytes[..]].concat();
        if let Ok(startup::Opening::Startup(start)) = startup::read(versioned.into()) {
            assert!(!start.user.is_empty());
            assert!(!start.user.contains('\0') && !start.database.contains('\0'));
        }
    });
}

#[test]
fn what_is_told_the_server_of_a_session_is_read_as_it_was_meant() {
    fuzz!((String, String, Vec<(u8, String)>), |(
        user,
        database,
        settings,
    )| {
        let plain = |text: &str| text.replace('\0', "");
        let names = ["work_mem", "application_name", "search_path", "my.own"];
        let settings: Vec<(String, String)> = settings
            .iter()
            .map(|(name, value)| (names[usize::from(*name) % names.len()].to_owned(), plain(value)))
            .collect();
        let user = format!("u{}", plain(user));
        let packet = startup::to_server(&user, &plain(database), &settings);
        match startup::read(packet.slice(4..)) {
            Ok(startup::Opening::Startup(read)) => {
                assert_eq!((read.user, read.database), (user, plain(database)));
                // Those by which the server's reading is settled are the gateway's own.
                assert_eq!(read.settings, settings);
            }
            other => panic!("{other:?}"),
        }
    });
}

fn session() -> PgSession {
    let config = Config {
        grammar: Arc::new(Reader {
            cache: Arc::new(Mutex::new(Cache::new(16))),
            bytes_max: STATEMENT_BYTES_MAX,
            database: "app".to_owned(),
            user: "agent".to_owned(),
        }),
        endpoint: Arc::from("postgres.orders"),
        credential: None,
        message_bytes_max: 1 << 12,
        statement_bytes_max: STATEMENT_BYTES_MAX,
        statements_max: 4,
        prepared_bytes_max: 1 << 16,
        help: "http://help.test/".to_owned(),
    };
    PgSession::new(config, b'I', Instant::now())
}

/// Messages of the types that a session knows, with random payloads; nothing is ever permitted.
#[test]
fn a_session_that_refuses_everything_sends_nothing_that_runs() {
    fuzz!((Vec<(u8, Vec<u8>)>, Vec<u8>), |(messages, cuts)| {
        let mut stream = Vec::new();
        for (tag, payload) in messages {
            let tag = b"QPBEDCSHFpXfdc\x00"[usize::from(*tag) % 15];
            stream.extend_from_slice(&wire::message(tag, payload));
        }
        let mut session = session();
        let mut up = Vec::new();
        for (at, piece) in pieces(&stream, cuts).into_iter().enumerate() {
            let from = if at % 7 == 6 { Side::Upstream } else { Side::Agent };
            if session
                .handle_input(from, Bytes::copy_from_slice(piece), Instant::now())
                .is_err()
            {
                return;
            }
            loop {
                while let Some(output) = session.poll_output() {
                    match output {
                        Output::Write(Side::Upstream, bytes) => up.extend_from_slice(&bytes),
                        Output::Decide(_) => {
                            let refusal = Refusal::new(Cause::NoRule, "no");
                            session.handle_ruling(Err(refusal), Instant::now());
                        }
                        Output::Splice => panic!("nothing was permitted"),
                        _ => {}
                    }
                }
                match session.advance(Instant::now()) {
                    Err(_) => return,
                    Ok(more) if !more && !session.is_judging() && !session.has_output() => break,
                    Ok(_) => {}
                }
            }
        }
        let mut blanks = false;
        let mut rest = &up[..];
        while let Ok(Some((tag, length))) = wire::head(rest) {
            // Only a text without a statement goes up unasked; the server does nothing with it.
            let mut texts = rest.get(5..length).unwrap_or_default().split(|byte| *byte == 0);
            let text = texts.nth(usize::from(tag == b'P')).unwrap_or_default();
            let blank = sql::read(&String::from_utf8_lossy(text), STATEMENT_BYTES_MAX).is_empty();
            blanks |= tag == b'P' && blank;
            let runs = match tag {
                b'Q' => !blank,
                b'E' => !blanks,
                b'F' => true,
                _ => false,
            };
            assert!(!runs, "{} ran", char::from(tag));
            rest = rest.get(length..).unwrap_or_default();
        }
    });
}

const SQL: &[&str] = &[
    "SELECT ",
    "INSERT INTO ",
    "DELETE FROM ",
    "UPDATE ",
    "DROP TABLE ",
    "EXPLAIN ANALYZE ",
    "PREPARE p AS ",
    "EXECUTE ",
    "COPY (",
    "WITH a AS (",
    ") ",
    "(",
    "TABLE ",
    "t ",
    "public.t ",
    "f",
    "1 ",
    "'a' ",
    "E'\\''",
    "$$",
    "$a$",
    "--",
    "/*",
    "*/",
    ";",
    ", ",
    "WHERE ",
    "LIMIT ",
    "RETURNING ",
    "SET x = ",
    "= ",
    "$1 ",
    "\n",
    "\r",
    "\"",
    "'",
    "U&'\\",
    "NOT ",
    "ARRAY[",
    "]",
    "::text ",
    "DO ",
    "ON CONFLICT ",
    "MERGE INTO ",
    "USING ",
    "FROM ",
    "JOIN ",
    "AS ",
    "VALUES (",
    "\u{feff}",
    "\u{2028}",
    "é",
];

#[test]
fn sql() {
    fuzz!(Vec<u8>, |bytes: &Vec<u8>| {
        let text = spell(SQL, bytes);
        for text in [text.as_str(), &String::from_utf8_lossy(bytes)] {
            for statement in sql::read(text, STATEMENT_BYTES_MAX) {
                assert!(
                    text.contains(statement.text.trim()),
                    "a statement is a part of its text"
                );
            }
        }
    });
}
