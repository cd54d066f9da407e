//! Every limit, reached.

use super::*;
use crate::protocol::postgres::session::{AWAITED_MAX, OUTPUTS_MAX, SUMMARY_CHARS_MAX};
use crate::protocol::postgres::statement::NAME_BYTES_MAX;

/// What comes to the agent after these messages: the tags.
fn tags(config: Config, messages: &[Bytes], answers: &[u8]) -> (String, String) {
    let mut desk = Desk::new(config);
    for message in messages {
        desk.agent(message).unwrap();
    }
    desk.server(answers).unwrap();
    let text = String::from_utf8_lossy(&desk.to_agent).into_owned();
    (Desk::tags(&desk.to_server), text)
}

#[test]
fn messages_and_statements_have_a_length() {
    let long = query(&format!("select '{}'", "x".repeat(64)));
    let (up, said) = tags(config(), &[long], &[]);
    assert!(up.is_empty() && said.contains("statement_bytes_max"), "{said}");
    let mut desk = Desk::new(Config {
        message_bytes_max: 16,
        ..config()
    });
    assert_eq!(desk.agent(&query("select 12")), Ok(()));
    assert_eq!(desk.agent(&query("select 1234")), Err(WireError::Long));
    // What is not read yet is bounded as well.
    let mut desk = Desk::new(Config {
        message_bytes_max: 64,
        ..config()
    });
    assert!(desk.session.wants_agent());
    let copy = [query("copy t from stdin"), message(b'd', &[0; 60])].concat();
    desk.agent(&copy).unwrap();
    assert!(!desk.session.wants_agent());
}

#[test]
fn names_have_a_length() {
    let name = "n".repeat(NAME_BYTES_MAX);
    let mut desk = Desk::new(config());
    desk.agent(&parse(&name, "select 1")).unwrap();
    assert!(desk.agent(&parse(&format!("{name}n"), "select 1")).is_err());
}

#[test]
fn prepared_statements_have_a_number_and_a_size() {
    let fill = |count: usize, text: &str| {
        let messages: Vec<_> = (0..count).map(|at| parse(&format!("s{at}"), text)).collect();
        tags(config(), &messages, &[])
    };
    assert_eq!(fill(4, "select 1").0, "PPPP");
    let (up, _) = fill(5, "select 1");
    assert_eq!(up, "PPPPP");
    // The fifth is refused by one that fails.
    let mut desk = Desk::new(config());
    for at in 0..5 {
        desk.agent(&parse(&format!("s{at}"), "select 1")).unwrap();
    }
    assert!(String::from_utf8_lossy(&desk.to_server).ends_with("tailkeep refused what stood here\0\0\0"));
    let sized = |bytes| {
        let mut desk = Desk::new(Config {
            prepared_bytes_max: bytes,
            statements_max: 99,
            ..config()
        });
        let mut count = 0;
        while !String::from_utf8_lossy(&desk.to_server).contains("tailkeep refused") {
            desk.agent(&parse(&format!("s{count}"), "select 1")).unwrap();
            count += 1;
        }
        count - 1
    };
    assert_eq!((sized(600), sized(1200), sized(5300)), (1, 2, 10));
    // What is closed makes room; a PREPARE that finds none is not known afterwards.
    let mut desk = Desk::new(Config {
        prepared_bytes_max: 600,
        ..config()
    });
    let done = [message(b'C', b"PREPARE\0"), wire::ready(b'I')].concat();
    for (text, answer, refused) in [
        ("prepare a as select 1", &done, false),
        ("prepare b as select 1", &done, false),
        ("execute b", &Vec::new(), true),
        ("deallocate a", &done, false),
        ("prepare c as select 1", &done, false),
        ("execute c", &done, false),
    ] {
        desk.to_agent.clear();
        desk.agent(&query(text)).unwrap();
        desk.server(answer).unwrap();
        assert_eq!(desk.to_agent.starts_with(b"E"), refused, "{text}");
    }
}

#[test]
fn portals_have_a_number_and_a_size() {
    let confirm = [message(b'1', b""), message(b'2', b"")].concat();
    let bound = |config: Config, parameter: &[u8], count: usize| {
        let mut desk = Desk::new(config);
        desk.agent(&parse("s", "select $1")).unwrap();
        desk.server(&confirm[..5]).unwrap();
        for at in 0..count {
            let mut payload = format!("p{at}\0s\0\0\0\0\x01").into_bytes();
            payload.extend_from_slice(&u32::try_from(parameter.len()).unwrap().to_be_bytes());
            payload.extend_from_slice(parameter);
            payload.extend_from_slice(&[0, 0]);
            desk.agent(&[message(b'B', &payload), message(b'H', &[])].concat())
                .unwrap();
            desk.server(&confirm[5..]).unwrap();
        }
        for at in 0..count {
            desk.agent(&execute(&format!("p{at}"))).unwrap();
        }
        Desk::tags(&desk.to_server).matches('E').count()
    };
    // Beyond their number the old ones are forgotten, and their use refused.
    assert_eq!(bound(config(), b"x", 4), 4);
    assert_eq!(bound(config(), b"x", 5), 0);
    // Beyond their size they are kept without their parameters.
    assert_eq!(bound(config(), &[b'x'; 3000], 4), 4);
}

#[test]
fn describes_before_an_execute_have_a_number() {
    let mut desk = Desk::new(config());
    desk.agent(&[parse("", "select 1"), bind("", "")].concat())
        .unwrap();
    for _ in 0..session::DESCRIBES_MAX {
        desk.agent(&message(b'D', b"P\0")).unwrap();
    }
    assert!(desk.agent(&message(b'D', b"P\0")).is_err());
}

#[test]
fn describes_before_an_execute_are_short() {
    let kept = || {
        let mut desk = Desk::new(config());
        desk.agent(&[parse("", "select 1"), bind("", "")].concat())
            .unwrap();
        desk
    };
    // Of the same portal, and more behind its name.
    let described = |bytes: usize| message(b'D', &[b"P\0", vec![b'x'; bytes].as_slice()].concat());
    assert!(kept().agent(&described(NAME_BYTES_MAX)).is_ok());
    assert!(kept().agent(&described(NAME_BYTES_MAX + 1)).is_err());
}

#[test]
fn an_agent_that_does_not_wait_is_made_to() {
    let mut desk = Desk::new(config());
    let many = sync().repeat(AWAITED_MAX + 5);
    desk.agent(&many).unwrap();
    assert_eq!(Desk::tags(&desk.to_server).len(), AWAITED_MAX);
    desk.server(&wire::ready(b'I').repeat(3)).unwrap();
    assert_eq!(Desk::tags(&desk.to_server).len(), AWAITED_MAX + 3);
    // Without a Sync the server is told to answer.
    let mut desk = Desk::new(config());
    desk.agent(&parse("", "select 1").repeat(AWAITED_MAX + 5))
        .unwrap();
    assert!(Desk::tags(&desk.to_server).ends_with("PH"));
}

#[test]
fn much_to_do_is_done_in_pieces() {
    let mut desk = Desk::new(config());
    let now = Instant::now();
    let many = Bytes::from(query("set names 'x'").repeat(OUTPUTS_MAX));
    desk.session.handle_input(Side::Agent, many, now).unwrap();
    let mut most = 0;
    loop {
        let more = desk.session.advance(now).unwrap();
        let mut count = 0;
        while let Some(output) = desk.session.poll_output() {
            count += 1;
            if let Output::Write(Side::Agent, bytes) = output {
                desk.to_agent.extend_from_slice(&bytes);
            }
        }
        most = most.max(count);
        if !more {
            break;
        }
    }
    assert!((OUTPUTS_MAX..OUTPUTS_MAX + 4).contains(&most), "{most}");
    assert_eq!(Desk::tags(&desk.to_agent), "EZ".repeat(OUTPUTS_MAX));
}

#[test]
fn a_summary_has_a_length() {
    let mut session = PgSession::new(
        Config {
            statement_bytes_max: 4096,
            ..config()
        },
        b'I',
        Instant::now(),
    );
    let text = query(&format!("select '{}'", "é".repeat(300)));
    session.handle_input(Side::Agent, text, Instant::now()).unwrap();
    session.advance(Instant::now()).unwrap();
    let Some(Output::Decide(action)) = session.poll_output() else {
        panic!("not judged")
    };
    // What is decided on may stand behind what is shown, and that is said.
    let shown = action.summary.strip_suffix(" … (of 309 characters)").unwrap();
    assert_eq!(shown.chars().count(), SUMMARY_CHARS_MAX);
    assert_eq!(action.detail.chars().count(), 309);
}
