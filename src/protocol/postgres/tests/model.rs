//! Any order of messages before a server that is modelled: names, portals, skipping to Sync.

use std::collections::HashMap;

use super::*;

/// As much of a server as names need. It runs what it is sent, and notes it.
#[derive(Default)]
struct Model {
    statements: HashMap<String, String>,
    portals: HashMap<String, String>,
    skipping: bool,
    /// Inside a transaction block, and whether that has failed.
    block: bool,
    failed: bool,
    read: usize,
    ran: Vec<String>,
    /// What was answered and is not delivered yet.
    answers: Vec<u8>,
}

impl Model {
    /// Works off what went up since the last time; whether that was anything.
    fn work(&mut self, sent: &[u8]) -> bool {
        let before = self.read;
        while let Ok(Some((tag, total))) = wire::head(&sent[self.read..]) {
            let payload = sent[self.read + 5..self.read + total].to_vec();
            self.read += total;
            let texts: Vec<_> = payload
                .split(|byte| *byte == 0)
                .map(|text| String::from_utf8_lossy(text).into_owned())
                .collect();
            match tag {
                b'S' => {
                    self.skipping = false;
                    self.end();
                }
                _ if self.skipping || tag == b'H' => {}
                b'Q' => {
                    self.statements.remove("");
                    self.portals.remove("");
                    for text in texts[0].split(';').map(str::trim).filter(|text| !text.is_empty()) {
                        match self.run(text) {
                            true => self.say(b'C', b"DONE\0"),
                            false => {
                                self.error();
                                break;
                            }
                        }
                    }
                    self.end();
                }
                _ => {
                    if !self.extended(tag, &texts) {
                        self.error();
                        self.skipping = true;
                    }
                }
            }
        }
        self.read > before
    }

    fn error(&mut self) {
        self.failed = self.block;
        self.say(b'E', b"CXX000\0\0");
    }

    /// A portal ends with its transaction.
    fn end(&mut self) {
        if !self.block || self.failed {
            self.portals.clear();
        }
        let status: &[u8] = match (self.block, self.failed) {
            (false, _) => b"I",
            (true, false) => b"T",
            (true, true) => b"E",
        };
        self.say(b'Z', status);
    }

    fn extended(&mut self, tag: u8, texts: &[String]) -> bool {
        match tag {
            b'P' => {
                let (name, text) = (&texts[0], &texts[1]);
                if self.failed && text != "commit"
                    || text.starts_with("tailkeep")
                    || text.contains("nosuch")
                    || !name.is_empty() && self.statements.contains_key(name)
                {
                    return false;
                }
                self.statements.insert(name.clone(), text.clone());
                self.say(b'1', b"");
            }
            b'B' => {
                let Some(text) = self.statements.get(&texts[1]).cloned() else {
                    return false;
                };
                let exists = !texts[0].is_empty() && self.portals.contains_key(&texts[0]);
                if exists || self.failed && text != "commit" {
                    return false;
                }
                self.portals.insert(texts[0].clone(), text);
                self.say(b'2', b"");
            }
            b'E' => {
                let Some(text) = self.portals.get(&texts[0]).cloned() else {
                    return false;
                };
                if !self.run(&text) {
                    return false;
                }
                self.say(b'C', b"DONE\0");
            }
            b'C' => {
                let (kind, name) = texts[0].split_at(1);
                match kind {
                    "S" => drop(self.statements.remove(name)),
                    _ => drop(self.portals.remove(name)),
                }
                self.say(b'3', b"");
            }
            _ => panic!("{tag}"),
        }
        true
    }

    fn run(&mut self, text: &str) -> bool {
        if self.failed && text != "commit" {
            return false;
        }
        let words: Vec<_> = text.split(' ').collect();
        match words.as_slice() {
            ["begin"] => self.block = true,
            ["commit"] => {
                (self.block, self.failed) = (false, false);
            }
            ["prepare", name, "as", ..] => {
                let inner = text.split_once(" as ").unwrap().1.to_owned();
                if self.statements.contains_key(*name) {
                    return false;
                }
                self.statements.insert((*name).to_owned(), inner);
            }
            ["deallocate", "all"] | ["discard", "all"] => self.statements.clear(),
            ["deallocate", name] => return self.statements.remove(*name).is_some(),
            [.., "execute", name] => {
                let Some(inner) = self.statements.get(*name).cloned() else {
                    return false;
                };
                return self.run(&inner);
            }
            ["select", "nosuch" | "broken"] => return false,
            _ => self.ran.push(text.to_owned()),
        }
        true
    }

    fn say(&mut self, tag: u8, payload: &[u8]) {
        self.answers.extend_from_slice(&message(tag, payload));
    }
}

const TEXTS: &[&str] = &[
    "select 1",
    "delete from t",
    "prepare a as select 1",
    "execute a",
    "explain analyze execute a",
    "deallocate a",
    "discard all",
    "begin",
    "commit",
    // Fails at the server when it is prepared, and when it runs.
    "select nosuch",
    "select broken",
    "",
];
const NAMES: &[&str] = &["", "a"];

/// One message, or a few that only mean something together.
fn some_messages() -> impl Strategy<Value = Vec<Bytes>> {
    let text = || prop::sample::select(TEXTS);
    let name = || prop::sample::select(NAMES);
    let close = |name: &str| message(b'C', format!("{name}\0").as_bytes());
    let one = prop_oneof![
        3 => (name(), text()).prop_map(|(name, text)| parse(name, text)),
        2 => (name(), name()).prop_map(|(portal, name)| bind(portal, name)),
        2 => name().prop_map(execute),
        3 => text().prop_map(query),
        1 => (text(), text()).prop_map(|(one, two)| query(&format!("{one}; {two}"))),
        3 => Just(sync()),
        1 => Just(message(b'H', &[])),
    ];
    prop_oneof![
        12 => one.prop_map(|one| vec![one]),
        1 => Just(vec![parse("a", "select 1"), sync()]),
        1 => Just(vec![parse("", "execute a"), bind("", "")]),
        1 => Just(vec![query("begin"), parse("", "execute a"), bind("a", ""), sync()]),
        1 => Just(vec![execute("a"), sync()]),
        1 => Just(vec![close("Sa"), parse("a", "delete from t")]),
        1 => Just(vec![close("Sa"), parse("a", "select 1"), sync()]),
        // What is skipped redefines nothing.
        1 => Just(vec![parse("", "delete from t"), sync(), parse("b", "select nosuch"), parse("", "select 1"), sync()]),
        1 => Just(vec![
            close("Sa"), parse("a", "delete from t"), sync(),
            parse("b", "select nosuch"), close("Sa"), parse("a", "select 1"), sync(),
        ]),
        1 => Just(vec![bind("", ""), execute("")]),
        1 => Just(vec![parse("", "select broken"), bind("", ""), execute("")]),
    ]
}

/// Plays messages; `true` lets the server's answers come before what follows. Gives the texts that
/// ran.
fn play(pieces: &[(Vec<Bytes>, bool)]) -> Vec<String> {
    let mut desk = Desk::new(config());
    let mut model = Model::default();
    let mut ends = 0;
    let last = (vec![sync()], true);
    for (messages, answered) in pieces.iter().chain([&last]) {
        for bytes in messages {
            ends += usize::from(matches!(bytes[0], b'S' | b'Q'));
            desk.agent(bytes).unwrap();
        }
        while *answered && model.work(&desk.to_server) {
            let answers = std::mem::take(&mut model.answers);
            desk.server(&answers).unwrap();
        }
    }
    // A Query behind an error and before its Sync is skipped, as the server does.
    let ready = Desk::tags(&desk.to_agent).matches('Z').count();
    assert!(ready <= ends && ready > 0);
    desk.session.end(Instant::now());
    desk.drain();
    assert!(desk.finished.len() <= desk.judged.len());
    model.ran
}

#[test]
fn a_late_answer_does_not_bring_back_an_old_meaning() {
    let close = || message(b'C', b"Sa\0");
    let ran = play(&[
        (vec![query("prepare a as select 1")], false),
        (vec![close(), parse("a", "delete from t"), sync()], false),
        // Skipped, so that the server keeps the DELETE.
        (
            vec![
                parse("b", "select nosuch"),
                close(),
                parse("a", "select 1"),
                sync(),
            ],
            false,
        ),
        (vec![query("execute a")], false),
    ]);
    assert!(ran.is_empty(), "{ran:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10_000))]

    /// Nothing that is refused runs under another name, however late the server's answers come.
    #[test]
    fn no_order_of_messages_runs_what_is_refused(pieces in prop::collection::vec((some_messages(), any::<bool>()), 0..16)) {
        let ran = play(&pieces);
        prop_assert!(!ran.iter().any(|text| text.contains("drop") || text.contains("delete")), "{ran:?}");
    }
}
