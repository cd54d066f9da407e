//! A verdict on the common path allocates nothing, and the rules that cannot match are not walked.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::sync::Arc;

use tailkeep::facts::http::{HeldBody, HttpFacts};
use tailkeep::facts::k8s::K8sFacts;
use tailkeep::facts::sql::{self, SqlFacts};
use tailkeep::facts::{Blind, Fact, FactSet, FactSource, Facts, Slot, View, mcp};
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

/// A family: its endpoint, the condition of a rule that some other action means (`N` is its number), that of the last
/// rule, which holds, and the action.
struct Case {
    name: &'static str,
    block: &'static str,
    key: &'static str,
    other: &'static str,
    last: &'static str,
    facts: Facts,
}

fn families() -> Vec<Case> {
    let request = |method: &str, target: &str| {
        let built = http::Request::builder().method(method).uri(target).body(());
        built.unwrap().into_parts().0
    };
    let statement = sql::read("SELECT a FROM public.orders WHERE b = 1", 1 << 10).remove(0);
    let pod = request("GET", "/api/v1/namespaces/shop/pods/web-1");
    let pod = K8sFacts::read(&pod, "cluster", HeldBody::Empty, FactSet::ALL, 1 << 10).unwrap();
    let call =
        br#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"search","arguments":{"q":"x"}}}"#;
    let call = mcp::read(&request("POST", "/mcp"), HeldBody::Whole(call), 1 << 10).unwrap();
    let call = call.messages.into_iter().next().unwrap();
    vec![
        Case {
            name: "http",
            block: "endpoint \"https\" \"e\" { hosts = [\"e.test\"] }",
            key: "https.e",
            other: "http.path == '/team-N' && http.method == 'GET'",
            last: "http.method == 'GET' && http.path.startsWith('/repos/')",
            facts: facts(),
        },
        Case {
            name: "sql, by tables",
            block: "endpoint \"postgres\" \"e\" { host = \"e.test\" }",
            key: "postgres.e",
            other: "'table_N' in sql.tables && sql.verbs.all(v, v == 'select')",
            last: "sql.verb == 'select' && sql.verbs.all(v, v in ['select']) && 'orders' in sql.reads && sql.has_where",
            facts: Facts::Sql(Box::new(SqlFacts::new(statement, "db", "ci"))),
        },
        Case {
            name: "k8s",
            block: "endpoint \"kubernetes\" \"e\" { server = \"https://e.test\" }",
            key: "kubernetes.e",
            other: "k8s.verb == 'get' && k8s.namespace == 'team-N'",
            last: "k8s.verb in ['get', 'list'] && k8s.resource == 'pods' && k8s.name.startsWith('web-')",
            facts: Facts::K8s(Box::new(pod)),
        },
        Case {
            name: "mcp",
            block: "endpoint \"mcp\" \"e\" { hosts = [\"e.test\"] }",
            key: "mcp.e",
            other: "mcp.method == 'tools/call' && mcp.tool == 'tool_N'",
            last: "mcp.method == 'tools/call' && mcp.tool == 'search' && mcp.arguments.q == 'x'",
            facts: Facts::Mcp(Box::new(call)),
        },
    ]
}

impl Case {
    fn policy(&self, rules: usize) -> Policy {
        let mut text = format!(
            "{}\nprofile \"ci\" {{\n  tags = [\"tag:ci\"]\n  endpoints = [{}]\n}}\n",
            self.block, self.key
        );
        let mut rule = |name: &str, verdict: &str, condition: &str| {
            let _ = writeln!(
                text,
                "rule \"{name}\" {{\n  endpoint = {}\n  verdict = \"{verdict}\"\n  condition = \"{condition}\"\n}}",
                self.key
            );
        };
        for number in 0..rules {
            let condition = self.other.replace('N', &number.to_string());
            rule(&format!("r{number}"), "deny", &condition);
        }
        rule("last", "allow", self.last);
        let path = "speed.hcl".into();
        let none = |_: &std::path::Path| Err(std::io::Error::from(std::io::ErrorKind::NotFound));
        Policy::load(vec![Source { path, text }], &none).unwrap_or_else(|errors| panic!("{errors}"))
    }
}

/// Of every family: ten thousand rules that cannot match cost no read of a fact more than ten do, and nothing is
/// allocated.
#[test]
fn ten_thousand_rules_cost_what_ten_do() {
    let agent = agent();
    for case in families() {
        let looked = |rules: usize| {
            let policy = case.policy(rules);
            let counted = Counted {
                facts: &case.facts,
                reads: std::cell::Cell::new(0),
                blind: false,
            };
            let judge =
                |facts: &dyn FactSource| policy.evaluate(&agent, case.key, None, facts, chrono::Utc::now());
            let judgement = judge(&counted);
            assert!(allowed(&judgement), "{}: {judgement:?}", case.name);
            let mut ok = true;
            let made = allocation_counter::measure(|| ok = allowed(&judge(&case.facts)));
            assert!(ok);
            assert_eq!(made.count_total, 0, "{}: {made:?}", case.name);
            counted.reads.get()
        };
        assert_eq!(looked(10_000), looked(10), "{}", case.name);
    }
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
