use serde_json::json;

use super::*;
use crate::facts::{Blind, Fact, FactSource, Family, Mask, Slot, View};
use crate::policy::cel::tests::{Table, document};
use crate::policy::cel::{Condition, Env};

/// A request with credentials among what is none.
struct Request(serde_json::Value);

impl FactSource for Request {
    fn fact(&self, slot: Slot) -> Fact<View<'_>> {
        match self.0.get(slot.name()) {
            Some(serde_json::Value::String(text)) => Fact::Known(View::Text(text)),
            Some(value) => Fact::Known(View::Json(document(value))),
            None => Fact::Unknown(Blind::Truncated),
        }
    }
}

fn part(source: &str, facts: &dyn FactSource) -> Part {
    let condition = Condition::compile(source, Family::Http).unwrap_or_else(|errors| panic!("{errors:?}"));
    let trace = Trace::default();
    let env = Env::new(facts, facts).watched(&trace);
    let _ = condition.holds(&env);
    condition.part(&trace, facts, &Mask::default())
}

#[track_caller]
fn check(source: &str, facts: &dyn FactSource, wanted: &[&str]) {
    assert_eq!(part(source, facts).lines(), wanted, "{source}");
}

fn request() -> Request {
    Request(json!({
        "method": "delete", "path": "/repos/x",
        "headers": {"authorization": ["Bearer hunter2hunter2"], "x-team": ["blue"]},
        "body_json": {"password": "swordfish", "amount": 7, "tags": ["a", "b"]},
    }))
}

#[test]
fn every_part_has_its_value_and_what_decided_before_it_is_told() {
    let facts = request();
    check(
        "http.method == 'DELETE' &&\n   (http.path == '/' || size(http.path) > 3)",
        &facts,
        &[
            "http.method == 'DELETE' && (http.path == '/' || size(http.path) > 3) = true",
            "  http.method == 'DELETE' = true",
            "    http.method = 'delete'",
            "  http.path == '/' || size(http.path) > 3 = true",
            "    http.path == '/' = false",
            "      http.path = '/repos/x'",
            "    size(http.path) > 3 = true",
            "      size(http.path) = 8",
            "        http.path = '/repos/x'",
        ],
    );
    // What costs least is asked first; the text keeps its order.
    check(
        "http.websocket && http.method in ['GET', 'HEAD']",
        &facts,
        &[
            "http.websocket && http.method in ['GET', 'HEAD'] = false",
            "  http.websocket: not evaluated",
            "  http.method in ['GET', 'HEAD'] = false",
            "    http.method = 'delete'",
        ],
    );
    check(
        "!http.body.contains('x') && (has(http.headers.accept) ? http.headers.accept[0] == 'a' : true)",
        &facts,
        &[
            "!http.body.contains('x') && (has(http.headers.accept) ? http.headers.accept[0] == 'a' : true): http.body is \
             unknown (longer than its limit)",
            "  !http.body.contains('x'): http.body is unknown (longer than its limit)",
            "    http.body.contains('x'): http.body is unknown (longer than its limit)",
            "      http.body: http.body is unknown (longer than its limit)",
            "  has(http.headers.accept) ? http.headers.accept[0] == 'a' : true = true",
            "    has(http.headers.accept) = false",
            "      http.headers = (masked)",
            "    http.headers.accept[0] == 'a': not evaluated",
        ],
    );
    check(
        "http.headers['x-other'][0] == 'a'",
        &facts,
        &[
            "http.headers['x-other'][0] == 'a': no such key: 'x-other'",
            "  http.headers['x-other'][0]: no such key: 'x-other'",
            "    http.headers['x-other']: no such key: 'x-other'",
            "      http.headers = (masked)",
        ],
    );
}

#[test]
fn a_macro_shows_its_items() {
    let facts = request();
    check(
        "http.body_json.tags.exists(t, t == 'b' && t != 'c')",
        &facts,
        &[
            "http.body_json.tags.exists(t, t == 'b' && t != 'c') = true",
            "  http.body_json.tags = ['a', 'b']",
            "    http.body_json = (masked)",
            "  t == 'b' && t != 'c' = false",
            "    t == 'b' = false",
            "      t = 'a'",
            "    t != 'c': not evaluated",
            "  t == 'b' && t != 'c' = true",
            "    t == 'b' = true",
            "      t = 'b'",
            "    t != 'c' = true",
            "      t = 'b'",
        ],
    );
    check(
        "http.body_json.tags.filter(t, t == 'b').map(u, u + 'x') == ['bx']",
        &facts,
        &[
            "http.body_json.tags.filter(t, t == 'b').map(u, u + 'x') == ['bx'] = true",
            "  http.body_json.tags.filter(t, t == 'b').map(u, u + 'x') = ['bx']",
            "    http.body_json.tags.filter(t, t == 'b') = ['b']",
            "      http.body_json.tags = ['a', 'b']",
            "        http.body_json = (masked)",
            "      t == 'b' = false",
            "        t = 'a'",
            "      t == 'b' = true",
            "        t = 'b'",
            "    u + 'x' = 'bx'",
            "      u = 'b'",
        ],
    );
    let many: Vec<i64> = (0..100).collect();
    let facts = Table(vec![(Slot::HttpBodyJson, Fact::Known(json!(many)))]);
    let lines = part("http.body_json.all(n, n < 99)", &facts).lines();
    let items: Vec<&String> = lines.iter().filter(|line| line.starts_with("    n = ")).collect();
    assert_eq!(items.len(), EXPLAIN_ITEMS_MAX);
    assert_eq!(items.last().map(|line| line.trim()), Some("n = 99"));
    assert!(
        lines.contains(&"  92 more items: not shown".to_owned()),
        "{lines:#?}"
    );
    // What is over the limit of parts is said to be left out, and not to be unasked.
    let more: Vec<usize> = (0..EXPLAIN_PARTS_MAX).collect();
    let facts = Table(vec![(Slot::HttpBodyJson, Fact::Known(json!(more)))]);
    let lines = part("http.body_json.all(n, n >= 0) && http.body_json == 1", &facts).lines();
    assert!(
        lines.contains(&"  http.body_json == 1: not shown".to_owned()),
        "{lines:#?}"
    );
    assert_eq!(
        lines[0],
        "http.body_json.all(n, n >= 0) && http.body_json == 1 = false"
    );
}

#[test]
fn what_could_hold_a_credential_is_masked() {
    let facts = request();
    for source in [
        "http.headers.authorization[0] == 'x'",
        "http.headers['authorization'].exists(v, v.split(' ')[1] == 'x')",
        "http.headers.exists(n, http.headers[n].exists(v, v + 'y' == 'x'))",
        "http.body_json.password + 'y' == 'x'",
        "http.headers[http.body_json.password][0] == 'x'",
        "http.body_json.map(k, http.body_json[k])[0] == 1",
        "'a' in {http.body_json.password: 1} || {http.body_json.password: 1}[http.headers.authorization[0]] == 1",
        "[http.body_json.password].exists(p, p == 'x')",
    ] {
        let shown = serde_json::to_string(&part(source, &facts)).unwrap_or_default();
        assert!(
            !shown.contains("hunter2") && !shown.contains("swordfish"),
            "{source}: {shown}"
        );
        assert!(shown.contains(MASKED), "{source}: {shown}");
    }
    // What stands beside it is shown.
    let lines = part(
        "http.headers['x-team'] == ['red'] && http.body_json.amount > 3",
        &facts,
    )
    .lines();
    assert!(
        lines.contains(&"    http.headers['x-team'] = ['blue']".to_owned()),
        "{lines:#?}"
    );
    let lines = part("http.body_json.amount > 9", &facts).lines();
    assert!(
        lines.contains(&"  http.body_json.amount = 7".to_owned()),
        "{lines:#?}"
    );
}
