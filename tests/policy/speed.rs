//! A verdict on the common path allocates nothing, and the rules that cannot match are not walked.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::sync::Arc;

use tailkeep::facts::http::{HeldBody, HttpFacts};
use tailkeep::facts::{Blind, Fact, FactSet, FactSource, Facts, Slot, View};
use tailkeep::identity::{Agent, Identity, Transport};
use tailkeep::policy::{Judgement, Policy, Source};
use tailkeep::verdict::Verdict;

fn policy(rules: usize) -> Policy {
    let mut text = String::from(
        "endpoint \"https\" \"api\" { hosts = [\"api.example.com\"] }\n\
         profile \"ci\" {\n  tags = [\"tag:ci\"]\n  endpoints = [https.api]\n}\n",
    );
    for rule in 0..rules {
        let _ = writeln!(
            text,
            "rule \"r{rule}\" {{\n  endpoint = https.api\n  verdict = \"deny\"\n  \
             condition = \"http.body == 'x' && http.path.startsWith('/team-{rule}/') && http.method == 'GET'\"\n}}"
        );
    }
    text.push_str(
        "rule \"last\" {\n  endpoint = https.api\n  verdict = \"allow\"\n  condition = \"http.method == 'GET' && \
         http.path.matches('^/repos/[a-z]+$') && 'tag:ci' in agent.tags && has(http.headers.accept) && \
         http.headers['accept'].exists(a, a.startsWith('application/')) && now.getHours('Europe/Berlin') < 24\"\n}\n",
    );
    let source = Source {
        path: "speed.hcl".into(),
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

fn facts() -> Facts {
    let (parts, ()) = http::Request::builder()
        .method("GET")
        .uri("/repos/x")
        .header("accept", "application/json")
        .body(())
        .unwrap()
        .into_parts();
    let facts = HttpFacts::read(&parts, "api.example.com", HeldBody::Empty, FactSet::ALL, 1 << 20);
    Facts::Http(Box::new(facts.unwrap()))
}

fn allowed(judgement: &Judgement) -> bool {
    matches!(&judgement.verdict, Verdict::Allow { rule: Some(rule) } if &**rule == "last")
}

#[test]
fn a_verdict_allocates_nothing() {
    let (policy, agent, facts) = (policy(100), agent(), facts());
    let judge = || policy.evaluate(&agent, "https.api", None, &facts, chrono::Utc::now());
    // The first one warms what regular expressions keep for a thread.
    assert!(allowed(&judge()));
    let mut ok = true;
    let made = allocation_counter::measure(|| {
        for _ in 0..100 {
            ok &= allowed(&judge());
            ok &= policy.needs(&agent, "https.api") != FactSet::EMPTY;
        }
    });
    assert!(ok);
    assert_eq!(made.count_total, 0, "{made:?}");
}

/// Counts the reads of facts: each rule that is walked makes some.
struct Counted<'a> {
    facts: &'a Facts,
    reads: std::cell::Cell<usize>,
    blind: bool,
}

impl FactSource for Counted<'_> {
    fn fact(&self, slot: Slot) -> Fact<View<'_>> {
        self.reads.set(self.reads.get() + 1);
        match self.blind && slot == Slot::HttpPath {
            true => Fact::Unknown(Blind::Truncated),
            false => self.facts.fact(slot),
        }
    }
}

#[test]
fn rules_that_cannot_match_are_not_walked() {
    let (agent, facts) = (agent(), facts());
    let reads = |rules: usize, blind: bool| {
        let counted = Counted {
            facts: &facts,
            reads: std::cell::Cell::new(0),
            blind,
        };
        let judgement = policy(rules).evaluate(&agent, "https.api", None, &counted, chrono::Utc::now());
        assert_eq!(allowed(&judgement), !blind);
        counted.reads.get()
    };
    assert_eq!(reads(500, false), reads(5, false));
    // Where the fact is unknown, the first of them denies.
    assert!(reads(500, true) > 0);
}
