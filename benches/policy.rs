//! The time of one verdict by the number of the endpoint's rules, none of which but the last
//! matches. `cargo bench --bench policy`. Prints, asserts nothing.

#![allow(
    clippy::panic,
    clippy::unwrap_used,
    reason = "a measurement that cannot be made says so"
)]

use std::fmt::Write as _;
use std::hint::black_box;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use tailkeep::facts::http::{HeldBody, HttpFacts};
use tailkeep::facts::sql::{self, SqlFacts};
use tailkeep::facts::{FactSet, Facts};
use tailkeep::identity::{Agent, Identity, Transport};
use tailkeep::policy::{Policy, Source};
use tailkeep::verdict::Verdict;

const ROUNDS: usize = 5;
const VERDICTS: u32 = 20_000;

fn policy(rules: usize) -> Policy {
    let mut text = String::from(
        "endpoint \"https\" \"api\" { hosts = [\"api.example.com\"] }\n\
         endpoint \"postgres\" \"db\" { host = \"db.example.com:5432\" }\n\
         profile \"ci\" {\n  tags = [\"tag:ci\"]\n  endpoints = [https.api, postgres.db]\n}\n",
    );
    for rule in 0..rules {
        let method = ["GET", "POST", "DELETE"][rule % 3];
        let _ = writeln!(
            text,
            "rule \"h{rule}\" {{\n  endpoint = https.api\n  verdict = \"allow\"\n  \
             condition = \"http.method == '{method}' && http.path.startsWith('/repos/team-{rule}/')\"\n}}\n\
             rule \"s{rule}\" {{\n  endpoint = postgres.db\n  verdict = \"allow\"\n  \
             condition = \"'table_{rule}' in sql.tables && sql.verbs.all(v, v == 'select')\"\n}}"
        );
    }
    text.push_str(
        "rule \"h\" {\n  endpoint = https.api\n  verdict = \"allow\"\n  condition = \"http.path == '/repos/x'\"\n}\n\
         rule \"s\" {\n  endpoint = postgres.db\n  verdict = \"allow\"\n  condition = \"sql.verb == 'select'\"\n}\n",
    );
    let source = Source {
        path: "bench.hcl".into(),
        text,
    };
    Policy::load(vec![source], &|_| {
        Err(std::io::Error::from(std::io::ErrorKind::NotFound))
    })
    .unwrap_or_else(|errors| panic!("{errors}"))
}

fn agent() -> Agent {
    let mut identity = Identity::new(Transport::Tailnet, IpAddr::from([100, 64, 0, 7]), "build-7");
    identity.tags = vec!["tag:ci".to_owned()];
    Agent::new(Arc::new(identity), "ci".into())
}

fn main() {
    let (parts, ()) = http::Request::builder()
        .method("GET")
        .uri("/repos/x")
        .body(())
        .unwrap()
        .into_parts();
    let http = HttpFacts::read(&parts, "api.example.com", HeldBody::Empty, FactSet::ALL, 1 << 20).unwrap();
    let http = Facts::Http(Box::new(http));
    let statement = sql::read(
        "SELECT a FROM public.orders o JOIN lines l ON l.o = o.id",
        1 << 20,
    );
    let statement = statement.into_iter().next().unwrap();
    let sql = Facts::Sql(Box::new(SqlFacts::new(statement, "orders", "ci")));
    let agent = agent();
    println!("| rules | http, ns | sql, ns | load, ms |\n| --- | --- | --- | --- |");
    for rules in [1, 10, 100, 1_000, 10_000] {
        let started = Instant::now();
        let policy = policy(rules);
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
