//! Held changes that are tried, and a server that answers in pieces, lies, or says anything at all.

use super::*;
use crate::protocol::postgres::session::{
    ANSWER_BYTES_MAX, ROWS_COMPARED_MAX, SAMPLE_COLUMNS_MAX, Shown, VALUE_BYTES_MAX, Wanted,
};

/// A session with one change that is tried and not decided.
struct Trial {
    session: PgSession,
    permit: Option<Permit>,
    to_agent: Vec<u8>,
    to_server: Vec<u8>,
}

impl Trial {
    fn new() -> Trial {
        let mut trial = Trial {
            session: PgSession::new(config(), b'I', Instant::now()),
            permit: None,
            to_agent: Vec::new(),
            to_server: Vec::new(),
        };
        let text = query("update t set a = 1");
        let input = trial.session.handle_input(Side::Agent, text, Instant::now());
        input.unwrap();
        trial.drain();
        while trial.session.advance(Instant::now()).unwrap() {
            trial.drain();
        }
        trial.drain();
        let permit = trial.permit.take().expect("it is judged");
        let wanted = Wanted {
            look: Some("SELECT 'look', 'isolation'".to_owned()),
            sample: Some("update t set a = 1\nRETURNING \"t\".*".to_owned()),
            explain: None,
            sample_rows_max: 2,
        };
        trial.session.try_out(wanted, &permit);
        trial.permit = Some(permit);
        trial.drain();
        trial
    }

    fn drain(&mut self) {
        while let Some(output) = self.session.poll_output() {
            match output {
                Output::Write(Side::Agent, bytes) => self.to_agent.extend_from_slice(&bytes),
                Output::Write(Side::Upstream, bytes) => self.to_server.extend_from_slice(&bytes),
                Output::Decide(action) => self.permit = Some(Permit::for_test(&action)),
                _ => {}
            }
        }
    }

    /// The server says so many bytes at a time.
    fn hear(&mut self, bytes: &[u8], at_once: usize) -> Result<(), WireError> {
        for piece in bytes.chunks(at_once) {
            let piece = Bytes::copy_from_slice(piece);
            self.session.handle_input(Side::Upstream, piece, Instant::now())?;
            self.drain();
            while self.session.advance(Instant::now())? {
                self.drain();
            }
            self.drain();
        }
        Ok(())
    }

    /// The whole of a trial, up to its question.
    fn tried(steps: &[Vec<u8>], at_once: usize) -> (Trial, Option<Shown>) {
        let mut trial = Trial::new();
        for step in steps {
            trial.hear(step, at_once).unwrap();
        }
        let shown = trial.session.take_previewed();
        (trial, shown)
    }

    fn allow(&mut self) {
        let permit = self.permit.take().unwrap();
        self.session.handle_ruling(Ok(permit), Instant::now());
        self.drain();
    }

    fn has_sent(&self, text: &str) -> bool {
        self.to_server
            .windows(text.len())
            .any(|part| part == text.as_bytes())
    }
}

fn complete(tag: &str) -> Bytes {
    message(b'C', format!("{tag}\0").as_bytes())
}

fn ready(status: u8) -> Bytes {
    message(b'Z', &[status])
}

fn columns(names: &[&str]) -> Bytes {
    let mut payload = u16::try_from(names.len()).unwrap().to_be_bytes().to_vec();
    for name in names {
        payload.extend_from_slice(name.as_bytes());
        payload.extend_from_slice(&[0; 19]);
    }
    message(b'T', &payload)
}

fn row(values: &[&str]) -> Bytes {
    let mut payload = u16::try_from(values.len()).unwrap().to_be_bytes().to_vec();
    for value in values {
        payload.extend_from_slice(&u32::try_from(value.len()).unwrap().to_be_bytes());
        payload.extend_from_slice(value.as_bytes());
    }
    message(b'D', &payload)
}

fn done(tags: &[&str]) -> Vec<u8> {
    let tags = tags.iter().map(|tag| complete(tag));
    tags.chain([ready(b'T')]).flatten().collect()
}

/// The answer to what is asked of the catalogs.
fn looked(why: &str, isolation: &str) -> Vec<u8> {
    let words = [columns(&["case", "setting"]), row(&[why, isolation])];
    let before = ["BEGIN", "SAVEPOINT", "SET"].map(complete);
    let all = before.into_iter().chain(words).flatten();
    all.chain(done(&["SELECT 1", "ROLLBACK"])).collect()
}

fn sampled(rows: &[&[&str]], tag: &str) -> Vec<u8> {
    let rows = rows.iter().map(|values| row(values));
    let all = std::iter::once(columns(&["id", "a"])).chain(rows).flatten();
    all.chain(done(&[tag])).collect()
}

/// A server that does what it is told.
fn honest(rows: &[&[&str]], tag: &str) -> Vec<Vec<u8>> {
    vec![
        looked("", "read committed"),
        done(&["ROLLBACK", "BEGIN", "SAVEPOINT"]),
        sampled(rows, tag),
        done(&["ROLLBACK"]),
        done(&[tag]),
    ]
}

const ROWS: &[&[&str]] = &[&["1", "1"], &["2", "1"], &["3", "1"]];

#[test]
fn however_its_answers_are_cut_a_trial_shows_the_same() {
    let steps = honest(ROWS, "UPDATE 3");
    let longest = steps.iter().map(Vec::len).max().unwrap();
    let (_, whole) = Trial::tried(&steps, longest);
    let whole = whole.unwrap();
    assert_eq!(
        (whole.tag.as_deref(), whole.columns.len(), whole.rows.len()),
        (Some("UPDATE 3"), 2, 2)
    );
    assert!(whole.digest.is_some() && whole.none.is_none(), "{whole:?}");
    for at_once in 1..longest {
        let (mut trial, shown) = Trial::tried(&steps, at_once);
        assert_eq!(shown.as_ref(), Some(&whole), "{at_once} at once");
        assert!(trial.to_agent.is_empty() && !trial.has_sent("COMMIT"));
        trial.allow();
        assert!(trial.has_sent("COMMIT"));
        let end = [complete("COMMIT"), ready(b'I')].concat();
        trial.hear(&end, at_once).unwrap();
        assert_eq!(Desk::tags(&trial.to_agent), "CZ");
    }
}

#[test]
fn rows_are_compared_whatever_their_order() {
    let digest = |rows: &[&[&str]], tag: &str| {
        let (_, shown) = Trial::tried(&honest(rows, tag), usize::MAX);
        shown.unwrap().digest.unwrap()
    };
    let own = digest(ROWS, "UPDATE 3");
    let turned: Vec<&[&str]> = ROWS.iter().rev().copied().collect();
    assert_eq!(own, digest(&turned, "UPDATE 3"));
    // One that is not shown counts as much as one that is.
    assert_ne!(own, digest(&[ROWS[0], ROWS[1], &["4", "1"]], "UPDATE 3"));
    assert_ne!(own, digest(&[ROWS[0], ROWS[1], ROWS[1]], "UPDATE 3"));
    assert_ne!(own, digest(&[ROWS[0], ROWS[1], &["31", ""]], "UPDATE 3"));
}

#[test]
fn where_the_rows_may_be_others_none_are_shown() {
    // Begun anew where its statements would see what others commit; not where they would not.
    let (trial, _) = Trial::tried(&[looked("", "read committed")], usize::MAX);
    assert!(trial.has_sent("REPEATABLE READ"));
    let (trial, _) = Trial::tried(&[looked("", "serializable")], usize::MAX);
    assert!(!trial.has_sent("REPEATABLE READ") && trial.has_sent("RETURNING"));
    // What is not said is not trusted.
    let (trial, _) = Trial::tried(&[looked("", "")], usize::MAX);
    assert!(trial.has_sent("REPEATABLE READ"));
    // The change does otherwise than its sample did.
    let mut steps = honest(ROWS, "UPDATE 3");
    steps[4] = done(&["UPDATE 4"]);
    let (mut trial, _) = Trial::tried(&steps, usize::MAX);
    trial
        .hear(&[complete("ROLLBACK"), ready(b'I')].concat(), usize::MAX)
        .unwrap();
    let shown = trial.session.take_previewed().unwrap();
    assert_eq!(shown.none.as_deref(), Some("it does not do the same twice"));
    assert!(!trial.has_sent("COMMIT"));
    // The server has ended the transaction by itself.
    let mut steps = honest(ROWS, "UPDATE 3");
    steps[4] = [complete("UPDATE 3"), ready(b'I')].concat();
    let (trial, _) = Trial::tried(&steps, usize::MAX);
    assert!(trial.to_agent.is_empty() && !trial.has_sent("COMMIT"));
}

#[test]
fn what_is_kept_and_shown_is_bounded() {
    let long = "x".repeat(VALUE_BYTES_MAX + 1);
    let (_, shown) = Trial::tried(&honest(&[&[&long, "1"]], "UPDATE 1"), usize::MAX);
    let value = shown.unwrap().rows[0][0].clone().unwrap();
    assert_eq!(value, format!("{}…", &long[..VALUE_BYTES_MAX]));

    let names = vec!["c"; SAMPLE_COLUMNS_MAX + 1];
    let mut steps = honest(&[], "UPDATE 1");
    steps[2] = [&columns(&names)[..], &row(&names), &done(&["UPDATE 1"])].concat();
    let (_, shown) = Trial::tried(&steps, usize::MAX);
    let shown = shown.unwrap();
    assert_eq!(
        (shown.columns.len(), shown.rows[0].len()),
        (SAMPLE_COLUMNS_MAX, SAMPLE_COLUMNS_MAX)
    );

    for (count, is_known) in [(ROWS_COMPARED_MAX, true), (ROWS_COMPARED_MAX + 1, false)] {
        let rows = vec![ROWS[0]; count];
        let (_, shown) = Trial::tried(&honest(&rows, "UPDATE 9"), usize::MAX);
        assert_eq!(shown.unwrap().digest.is_some(), is_known);
    }

    // An answer that is kept for the agent.
    let notice = |bytes: usize| message(b'N', &vec![b'x'; bytes]);
    let most = ANSWER_BYTES_MAX - complete("UPDATE 3").len() - 5;
    for (bytes, is_held) in [(most, true), (most + 1, false)] {
        let mut steps = honest(ROWS, "UPDATE 3");
        steps[4] = [&notice(bytes)[..], &done(&["UPDATE 3"])].concat();
        let (trial, shown) = Trial::tried(&steps, usize::MAX);
        assert_eq!(shown.is_some(), is_held, "{bytes}");
        assert_eq!(trial.has_sent("ROLLBACK\0"), !is_held);
    }
}

proptest! {
    #[test]
    fn whatever_a_server_says_nothing_passes_without_a_yes(
        at in 0usize..5,
        pieces in proptest::collection::vec((any::<u8>(), proptest::collection::vec(any::<u8>(), 0..40)), 0..6),
        raw in proptest::collection::vec(any::<u8>(), 0..40),
    ) {
        let mut trial = Trial::new();
        let said = pieces.iter().flat_map(|(tag, payload)| message(b"CDTZESN12nt"[usize::from(*tag) % 11], payload));
        let said: Vec<u8> = said.chain(raw).collect();
        let mut steps = honest(ROWS, "UPDATE 3");
        steps.insert(at, said);
        for step in steps {
            if trial.hear(&step, 7).is_err() {
                break;
            }
        }
        prop_assert!(!trial.has_sent("COMMIT"));
        let tags = Desk::tags(&trial.to_agent);
        prop_assert!(tags.bytes().all(|tag| b"ANSE".contains(&tag)), "{}", tags);
    }
}
