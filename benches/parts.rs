//! The hot parts of an action, each by itself: nanoseconds, and instructions where valgrind is here, which do not hang on
//! what else the machine does. `. scripts/lib.sh; count_parts`. Prints, asserts nothing.
//!
//! The last column is the ratio to `benches/counts.txt`, which `count_parts -- --write` writes anew: the trend from one commit
//! to the next. `scripts/test` prints it.

#![allow(
    clippy::panic,
    clippy::unwrap_used,
    reason = "a measurement that cannot be made says so"
)]

use std::fmt::Write as _;
use std::hint::black_box;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use http::request::Parts;
use tailkeep::audit::Outcome;
use tailkeep::audit::log::Log;
use tailkeep::facts::http::{HeldBody, HttpFacts};
use tailkeep::facts::sql::cache::Cache;
use tailkeep::facts::{FactSet, Facts, FactsText, Mask};
use tailkeep::protocol::postgres::Grammar as _;
use tailkeep::protocol::postgres::grammar::Reader;
use tailkeep::tls::{Authority, LeafName, Leaves};
use tailkeep::verdict::Digest;

mod made;

/// How often a part is done to be counted, beside once.
const COUNTED: u32 = 200;
/// How often it is done to be timed.
const TIMED: u32 = 2_000;
/// Verdicts that are counted together: one is less than what the load of a policy differs by from run to run.
const VERDICTS: u32 = 100;
const COUNTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/counts.txt");

/// A part: its name, and what is done the n-th time.
type Part = (&'static str, Box<dyn FnMut(u32)>);

fn reader(texts: usize) -> Reader {
    Reader {
        cache: Arc::new(Mutex::new(Cache::new(texts))),
        bytes_max: 1 << 20,
        database: "orders".to_owned(),
        user: "ci".to_owned(),
    }
}

fn select(number: u32) -> String {
    format!(
        "SELECT abalance FROM pgbench_accounts WHERE aid = {};",
        number + 1
    )
}

/// A body of 4 KiB, and the head that it comes with.
fn post() -> (Parts, String) {
    let lines: Vec<_> = (0..50)
        .map(|number| serde_json::json!({ "item": format!("item-{number}"), "note": "x".repeat(40) }))
        .collect();
    let body = serde_json::json!({ "kind": "order", "amount": 7, "lines": lines }).to_string();
    let request = http::Request::post("/post").header("content-type", "application/json");
    (request.body(()).unwrap().into_parts().0, body)
}

fn parts() -> Vec<Part> {
    let (parsed, shaped) = (reader(0), reader(64));
    let (head, body) = post();
    let read = move || {
        let held = HeldBody::Whole(body.as_bytes());
        HttpFacts::read(&head, "api.example.com", held, FactSet::ALL, 1 << 20).unwrap()
    };
    let facts = Facts::Http(Box::new(read()));
    let mask = Mask::default();
    let leaves = Leaves::new(Arc::new(Authority::ephemeral().unwrap())).unwrap();
    let text = vec![b'x'; 1 << 10];
    vec![
        (
            "a hundred verdicts of ten rules over HTTP",
            verdict("https.api", made::http()),
        ),
        (
            "a hundred verdicts of ten rules over SQL",
            verdict("postgres.db", made::sql()),
        ),
        ("a record and its outcome, logged", logged()),
        (
            "a SQL text, parsed",
            Box::new(move |number| drop(black_box(parsed.read(&select(number))))),
        ),
        (
            "a SQL text of a shape that is known",
            Box::new(move |number| drop(black_box(shaped.read(&select(number))))),
        ),
        (
            "the facts of 4 KiB of JSON",
            Box::new(move |_| drop(black_box(read()))),
        ),
        (
            "the same as a record has them",
            Box::new(move |_| drop(black_box(FactsText::of(&facts, &mask, &|text| text.into())))),
        ),
        (
            "a digest of 1 KiB",
            Box::new(move |_| {
                black_box(Digest::of(&text));
            }),
        ),
        (
            "a leaf certificate, minted",
            Box::new(move |number| {
                let name = LeafName::Name(format!("h{number}.example.com"));
                drop(black_box(leaves.get(&name).unwrap()));
            }),
        ),
    ]
}

fn verdict(endpoint: &'static str, facts: Facts) -> Box<dyn FnMut(u32)> {
    let (policy, agent, now) = (made::policy(9), made::agent(), chrono::Utc::now());
    Box::new(move |_| {
        for _ in 0..VERDICTS {
            drop(black_box(policy.evaluate(
                &agent,
                endpoint,
                None,
                black_box(&facts),
                now,
            )));
        }
    })
}

/// One after another, so that each is a group of its own; the log is begun with the first.
fn logged() -> Box<dyn FnMut(u32)> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let mut begun = None;
    Box::new(move |number| {
        let (_, log) = begun.get_or_insert_with(|| {
            let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
            let log = Log::open(&folder.path().join("audit.db")).unwrap();
            (folder, log)
        });
        let id = runtime.block_on(log.append(made::record(number))).unwrap();
        let outcome = Outcome {
            status: "SELECT 1".to_owned(),
            ..Outcome::default()
        };
        log.finish(id, outcome);
    })
}

/// Instructions of this program when it does a part so often, and nothing else.
fn instructions(name: &str, times: u32) -> Option<u64> {
    let run = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(std::env::current_exe().ok()?)
        .args(["--part", name, &times.to_string()])
        .output()
        .ok()?;
    let said = String::from_utf8_lossy(&run.stderr).into_owned();
    let (_, count) = said.split_once("Collected : ")?;
    count.split_whitespace().next()?.parse().ok()
}

fn main() {
    let given: Vec<String> = std::env::args().collect();
    if let Some(at) = given.iter().position(|own| own == "--part") {
        let (name, times) = (&given[at + 1], given[at + 2].parse().unwrap());
        let mut all = parts();
        let (_, part) = all.iter_mut().find(|(own, _)| own == name).unwrap();
        (0..times).for_each(part);
        return;
    }
    let before = std::fs::read_to_string(COUNTS).unwrap_or_default();
    let before = |name: &str| -> Option<f64> {
        let line = before
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        line?.parse().ok()
    };
    let mut counts = String::new();
    println!("| part | ns | instructions | to the last |\n| --- | --- | --- | --- |");
    for (name, mut part) in parts() {
        (0..COUNTED).for_each(&mut part);
        let started = Instant::now();
        (COUNTED..COUNTED + TIMED).for_each(&mut part);
        let took = started.elapsed().as_nanos() / u128::from(TIMED);
        let counted = instructions(name, 1).zip(instructions(name, 1 + COUNTED));
        let each = counted.map(|(once, all)| all.saturating_sub(once) / u64::from(COUNTED));
        let shown = each.map_or("–".to_owned(), |each| each.to_string());
        let ratio = each.zip(before(name)).map(|(each, before)| each as f64 / before);
        let ratio = ratio.map_or("–".to_owned(), |ratio| format!("{ratio:.2}"));
        println!("| {name} | {took} | {shown} | {ratio} |");
        if let Some(each) = each {
            let _ = writeln!(counts, "{name}: {each}");
        }
    }
    if given.iter().any(|own| own == "--write") {
        std::fs::write(COUNTS, counts).unwrap();
    }
}
