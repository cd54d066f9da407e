//! The time of one verdict by the number of the endpoint's rules, none of which but the last
//! matches. `cargo bench --bench policy`. Prints, asserts nothing.

#![allow(
    clippy::panic,
    clippy::unwrap_used,
    reason = "a measurement that cannot be made says so"
)]

use std::hint::black_box;
use std::time::Instant;

use tailkeep::facts::Facts;
use tailkeep::verdict::Verdict;

mod made;

const ROUNDS: usize = 5;
const VERDICTS: u32 = 20_000;

fn main() {
    let (http, sql) = (made::http(), made::sql());
    let agent = made::agent();
    println!("| rules | http, ns | sql, ns | load, ms |\n| --- | --- | --- | --- |");
    for rules in [1, 10, 100, 1_000, 10_000] {
        let started = Instant::now();
        let policy = made::policy(rules);
        let load = started.elapsed().as_millis();
        let time = |endpoint: &str, facts: &Facts| {
            let now = chrono::Utc::now();
            let mut best = f64::INFINITY;
            for _ in 0..ROUNDS {
                let started = Instant::now();
                for _ in 0..VERDICTS {
                    let judgement = policy.evaluate(&agent, endpoint, None, black_box(facts), now);
                    assert!(matches!(black_box(judgement).verdict, Verdict::Allow { .. }));
                }
                best = best.min(started.elapsed().as_secs_f64() * 1e9 / f64::from(VERDICTS));
            }
            best
        };
        println!(
            "| {rules} | {:.0} | {:.0} | {load} |",
            time("https.api", &http),
            time("postgres.db", &sql)
        );
    }
}
