//! The evaluator against facts, against the limits, and against cel-spec's own cases.

use std::borrow::Cow;
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::facts::json::Document;
use crate::facts::{Fact, FactSource, View};

/// Facts of the `sql` and `http` families for one test.
pub(crate) struct Table(pub(crate) Vec<(Slot, Fact<serde_json::Value>)>);

impl FactSource for Table {
    fn fact(&self, slot: Slot) -> Fact<View<'_>> {
        match self.0.iter().find(|(own, _)| *own == slot) {
            Some((_, Fact::Known(serde_json::Value::String(text)))) => Fact::Known(View::Text(text)),
            Some((_, Fact::Known(serde_json::Value::Bool(value)))) => Fact::Known(View::Bool(*value)),
            Some((_, Fact::Known(json))) => Fact::Known(View::Json(document(json))),
            Some((_, Fact::Unknown(blind))) => Fact::Unknown(*blind),
            None => Fact::Unknown(Blind::NotRead),
        }
    }
}

/// As long as the test.
pub(crate) fn document(json: &serde_json::Value) -> &'static Document {
    Box::leak(Box::new(json.into()))
}

fn http() -> Table {
    let json = serde_json::json!({"archived": true, "amount": 7, "tags": ["a", "b"], "none": null});
    Table(vec![
        (Slot::HttpMethod, Fact::Known("delete".into())),
        (Slot::HttpPath, Fact::Known("/v1/charges/7/refund".into())),
        (Slot::HttpBodyJson, Fact::Known(json)),
        (
            Slot::HttpHeaders,
            Fact::Known(serde_json::json!({"x-team": ["blue"]})),
        ),
        (Slot::HttpBody, Fact::Unknown(Blind::Truncated)),
        (Slot::HttpWebsocket, Fact::Known(false.into())),
        (Slot::AgentTags, Fact::Known(serde_json::json!(["tag:ci"]))),
    ])
}

fn judge(source: &str) -> Result<bool, String> {
    let condition = Condition::compile(source, Family::Http).map_err(|errors| errors[0].message.clone())?;
    let table = http();
    let env = Env::new(&table, &table);
    condition.holds(&env).map_err(|fault| fault.to_string())
}

#[test]
fn conditions_over_facts() {
    let table: &[(&str, Result<bool, &str>)] = &[
        ("http.method == 'DELETE'", Ok(true)),
        ("'DELETE' == http.method", Ok(true)),
        ("http.method != 'DELETE'", Ok(false)),
        ("http.method in ['GET', 'Delete']", Ok(true)),
        ("http.method.matches('^DEL')", Ok(true)),
        ("http.method.startsWith('DEL')", Ok(true)),
        (
            "http.path.startsWith('/v1/') && http.path.endsWith('/refund')",
            Ok(true),
        ),
        ("http.path.matches('^/v1/charges/[0-9]+/refund$')", Ok(true)),
        ("http.headers['X-Team'][0] == 'blue'", Ok(true)),
        ("'X-Team' in http.headers", Ok(true)),
        ("http.body_json.archived == true", Ok(true)),
        ("http.body_json.amount > 6.5", Ok(true)),
        ("http.body_json.amount == 7.0", Ok(true)),
        ("has(http.body_json.gone)", Ok(false)),
        (
            "has(http.body_json.Archived)",
            Err("`Archived` stands there in another case"),
        ),
        (
            "'ARCHIVED' in http.body_json",
            Err("`ARCHIVED` stands there in another case"),
        ),
        (
            "http.body_json.?taGs.hasValue()",
            Err("`taGs` stands there in another case"),
        ),
        ("has(http.body_json.none)", Ok(true)),
        ("http.body_json.tags.exists(t, t == 'b')", Ok(true)),
        ("http.body_json.tags.all(t, t == 'b')", Ok(false)),
        ("http.body_json.tags.exists_one(t, t == 'b')", Ok(true)),
        ("http.body_json.tags.map(t, t + '!') == ['a!', 'b!']", Ok(true)),
        ("http.body_json.tags.filter(t, t > 'a').size() == 1", Ok(true)),
        ("sets.intersects(agent.tags, ['tag:ci', 'tag:x'])", Ok(true)),
        ("sets.contains(agent.tags, ['tag:x'])", Ok(false)),
        ("cidr('10.0.0.0/8').containsIP('10.1.2.3')", Ok(true)),
        // Unknown and error are absorbed by the deciding side, on either side of it.
        ("http.body.contains('x') && http.method == 'get'", Ok(false)),
        ("http.method == 'get' && http.body.contains('x')", Ok(false)),
        ("http.body.contains('x') || http.method == 'delete'", Ok(true)),
        ("http.body_json.gone == 1 || http.method == 'delete'", Ok(true)),
        (
            "http.body.contains('x') ? true : true",
            Err("http.body is unknown (longer than its limit)"),
        ),
        ("http.method == 'delete' ? true : http.body == ''", Ok(true)),
        (
            "!http.body.contains('x')",
            Err("http.body is unknown (longer than its limit)"),
        ),
        ("http.body_json.gone == 1", Err("no such key: gone")),
        // An unknown outranks an error.
        (
            "http.body_json.gone == 1 && http.body == ''",
            Err("http.body is unknown (longer than its limit)"),
        ),
        (
            "['a', 'b'].exists(x, http.body == x)",
            Err("http.body is unknown (longer than its limit)"),
        ),
        ("['a', 'b'].exists(x, http.body == x || x == 'b')", Ok(true)),
        ("1 / 0 == 1", Err("division by zero")),
        ("9223372036854775807 + 1 > 0", Err("overflow")),
        ("http.host == 'x'", Err("http.host is unknown (it was not read)")),
        // What does not compile.
        ("http.method", Err("a condition is bool, and this is string")),
        ("http.method == 5", Err("string is never equal to int")),
        ("http.methd == 'get'", Err("there is no `http.methd`")),
        ("sql.verb == 'select'", Err("`sql` is of another family")),
        ("htp.method == 'get'", Err("there is no `htp`")),
        (
            "http.method.matches(http.path)",
            Err("the pattern of `matches` is not a literal"),
        ),
        (
            "'a' in http.path",
            Err("`in` wants a list or a map on its right, and this is string; a text has `contains`"),
        ),
        (
            "agent.tags.contains('tag:ci')",
            Err(
                "`contains` is for strings, and here are list(string), string; for a list use `in` or `exists`",
            ),
        ),
        (
            "http.path.startWith('/')",
            Err("there is no function `startWith` of 1 arguments here"),
        ),
        (
            "http.method && true",
            Err("a side of && or || is bool, and this is string"),
        ),
    ];
    for (source, wanted) in table {
        assert_eq!(
            judge(source).as_ref().map_err(String::as_str),
            wanted.as_ref().map_err(|text| *text),
            "{source}"
        );
    }
}

/// A function whose body is not seen: it may be listed, and nothing is found not to be it.
#[test]
fn a_name_stands_for_all_that_it_calls() {
    struct Names(Vec<String>);
    impl FactSource for Names {
        fn fact(&self, slot: Slot) -> Fact<View<'_>> {
            match slot {
                Slot::SqlFunctions => Fact::Known(View::Named(&self.0)),
                _ => Fact::Unknown(Blind::NotRead),
            }
        }
    }
    let names = Names(vec!["own".to_owned(), "count".to_owned()]);
    let judge = |source: &str| {
        let condition = Condition::compile(source, Family::Sql).unwrap();
        match condition.holds(&Env::new(&names, &names)) {
            Err(Fault::Unknown(Slot::SqlFunctions, Blind::Opaque)) => None,
            outcome => Some(outcome.unwrap()),
        }
    };
    for (source, wanted) in [
        // Who lists each of them answers for them.
        ("sql.functions.all(f, f in ['own', 'count', 'sum'])", Some(true)),
        ("sql.functions.all(f, f == 'own' || 'count' == f)", Some(true)),
        (
            "sql.functions.all(f, dyn(f) in {'own': 1, 'count': 2})",
            Some(true),
        ),
        ("sets.contains(['count', 'own'], sql.functions)", Some(true)),
        ("'own' in sql.functions", Some(true)),
        ("sql.functions.exists(f, f in ['own'])", Some(true)),
        ("sql.functions.all(f, f != 'own')", Some(false)),
        ("!('own' in sql.functions)", Some(false)),
        // A list that lacks one, and every list of what shall not run.
        ("sql.functions.all(f, f in ['count', 'sum'])", None),
        ("sets.contains(['count'], sql.functions)", None),
        ("'pg_terminate_backend' in sql.functions", None),
        ("sql.functions.exists(f, f in ['pg_terminate_backend'])", None),
        ("!sql.functions.exists(f, f == 'pg_terminate_backend')", None),
        ("sql.functions.all(f, f != 'pg_terminate_backend')", None),
        ("sql.functions.all(f, !(f in ['pg_terminate_backend']))", None),
        ("sql.functions.exists(f, f.startsWith('pg_'))", None),
        ("sql.functions.exists(f, f.matches('^pg_'))", None),
        ("sql.functions.exists(f, f > 'a')", None),
        ("sql.functions.exists(f, f.find('^pg_') != '')", None),
        ("sql.functions.exists(f, 'pg_sleep' == f + '')", None),
        ("size(sql.functions) == 2", None),
        ("sql.functions == ['own', 'count']", None),
        ("sql.functions[0] == 'own'", None),
        ("sets.intersects(sql.functions, ['pg_sleep'])", None),
        ("sql.functions.filter(f, f != 'own') == ['count']", None),
        ("sql.functions.map(f, f) == ['own', 'count']", None),
        ("sql.functions.all(f, [f] == ['own'] || [f] == ['count'])", None),
        ("sql.functions.exists(f, {f: 1} == {'own': 1})", None),
        ("sql.functions.exists(i, f, f == 'pg_sleep')", None),
        ("sql.functions.join(' ').contains('pg_')", None),
        ("sql.functions.exists_one(f, f == 'pg_sleep')", None),
        ("size(sql.functions.map(f, 1)) == 2", None),
    ] {
        assert_eq!(judge(source), wanted, "{source}");
    }
}

#[test]
fn what_could_overflow_the_stack_is_refused_before_it_is_parsed() {
    let deep = [
        format!("1{} > 0", "+1".repeat(20_000)),
        format!("{}true", "!".repeat(5_000)),
        format!(
            "{}1{} > 0",
            "(".repeat(CONDITION_DEPTH_MAX + 1),
            ")".repeat(CONDITION_DEPTH_MAX + 1)
        ),
        format!("'{}' == ''", "x".repeat(CONDITION_BYTES_MAX)),
        format!("http.body_json{} == 1", ".a".repeat(2_000)),
        "true ? true : ".repeat(1_000) + "true",
    ];
    for source in deep {
        let errors = Condition::compile(&source, Family::Http).unwrap_err();
        assert!(
            ["operators", "deeper", "bytes"]
                .iter()
                .any(|part| errors[0].message.contains(part)),
            "{}",
            errors[0].message
        );
    }
}

#[test]
fn the_largest_conditions_that_pass_do_not_overflow_a_small_stack() {
    let most = CONDITION_OPERATORS_MAX - 4;
    let sources = [
        format!("1{} > 0", "+1".repeat(most)),
        format!("{}true", "!".repeat(most)),
        format!("http.body_json{} == 1", ".a".repeat(most)),
        "true ? true : ".repeat(most) + "true",
        "(".repeat(CONDITION_DEPTH_MAX) + "true" + &")".repeat(CONDITION_DEPTH_MAX),
        format!("true{}", " && true".repeat(most)),
        "[1].all(a, ".repeat(CONDITION_DEPTH_MAX) + "true" + &")".repeat(CONDITION_DEPTH_MAX),
    ];
    let small = std::thread::Builder::new().stack_size(2 << 20);
    let run = move || {
        for source in sources {
            let _ = judge(&source);
        }
    };
    small.spawn(run).unwrap().join().unwrap();
}

#[test]
fn a_condition_that_could_be_too_dear_does_not_load() {
    // Three macros, one inside the other: 64 items each.
    let nested = |depth: usize| {
        let open: String = (0..depth)
            .map(|at| format!("http.body_json.a.all(x{at}, "))
            .collect();
        format!("{open}x0 == {}{}", "1", ")".repeat(depth))
    };
    assert!(Condition::compile(&nested(2), Family::Http).is_ok());
    let errors = Condition::compile(&nested(4), Family::Http).unwrap_err();
    assert!(
        errors[0].message.contains("2000000 are the limit"),
        "{}",
        errors[0]
    );
}

#[test]
fn the_step_limit_ends_an_evaluation() {
    let list: Vec<u32> = (0..2000).collect();
    let table = Table(vec![(
        Slot::HttpBodyJson,
        Fact::Known(serde_json::json!({ "a": list })),
    )]);
    let held = |source: &str| {
        let condition = Condition::compile(source, Family::Http).unwrap();
        condition.holds(&Env::new(&table, &table))
    };
    let gathered = "http.body_json.a.transformMap(i, v, v).size() == 2000";
    assert_eq!(held(&format!("{gathered} && {gathered}")), Err(Fault::Budget));
    let source = "http.body_json.a.all(x, http.body_json.a.all(y, x + y >= 0))";
    assert_eq!(held(source), Err(Fault::Budget));
    // Nothing absorbs a spent budget.
    assert_eq!(held(&format!("{source} || true")), Err(Fault::Budget));
}

#[test]
fn what_lies_deep_is_paid_for() {
    let row: Vec<u32> = vec![0; 90];
    let rows = |count: usize| vec![row.clone(); count];
    let held = |source: &str, count: usize| {
        let json = serde_json::json!({ "a": rows(count), "row": row });
        let table = Table(vec![(Slot::HttpBodyJson, Fact::Known(json))]);
        let condition = Condition::compile(source, Family::Http).unwrap();
        condition.holds(&Env::new(&table, &table))
    };
    for source in [
        "http.body_json.a.distinct().size() > 0",
        "sets.contains(http.body_json.a, http.body_json.a)",
        "http.body_json.a.all(x, x in http.body_json.a)",
        "http.body_json.a.all(x, http.body_json.a == http.body_json.a)",
    ] {
        assert_eq!(held(source, 100), Ok(true), "{source}");
        assert_eq!(held(source, 2_000), Err(Fault::Budget), "{source}");
    }
}

#[test]
fn now_is_the_time_that_was_given() {
    let table = http();
    let at = |source: &str, now: Option<&str>| {
        let condition = Condition::compile(source, Family::Http).map_err(|errors| errors[0].to_string())?;
        let env = Env::new(&table, &table);
        let env = match now {
            Some(now) => env.at(now.parse().unwrap()),
            None => env,
        };
        condition.holds(&env).map_err(|fault| fault.to_string())
    };
    let office = "now.getDayOfWeek('Europe/Berlin') in [1, 2, 3, 4, 5] && now.getHours('Europe/Berlin') >= 9 \
                  && now.getHours('Europe/Berlin') < 17";
    let table = [
        // A Wednesday: summer time is two hours ahead, winter time one.
        (office, Some("2026-07-01T07:00:00Z"), Ok(true)),
        (office, Some("2026-07-01T06:59:59Z"), Ok(false)),
        (office, Some("2026-12-02T07:30:00Z"), Ok(false)),
        (office, Some("2026-12-02T08:00:00Z"), Ok(true)),
        (office, Some("2026-07-04T08:00:00Z"), Ok(false)),
        (
            "now.getHours('+05:30') == 5",
            Some("2026-07-01T00:00:00Z"),
            Ok(true),
        ),
        (
            "now < timestamp('2027-01-01T00:00:00Z')",
            Some("2026-07-01T00:00:00Z"),
            Ok(true),
        ),
        ("now.getDayOfYear() == 0", Some("2026-01-01T00:00:00Z"), Ok(true)),
        ("now.getHours() == 5", None, Err("there is no `now` here")),
        (
            "now.getHours('Mars/Olympus') == 5",
            None,
            Err("there is no time zone `Mars/Olympus`"),
        ),
        (
            "now.getHours('+24:00') == 5",
            None,
            Err("there is no time zone `+24:00`"),
        ),
        (
            "now.getHours(http.host) == 5",
            None,
            Err("the zone of `getHours` is not a literal"),
        ),
        (
            "http.path.getHours() == 5",
            None,
            Err("`getHours` is for times, and this is string"),
        ),
    ];
    for (source, now, wanted) in table {
        let got = at(source, now);
        assert_eq!(
            got.as_ref().map_err(String::as_str),
            wanted.as_ref().map_err(|text| *text),
            "{source}"
        );
    }
}

#[test]
fn what_is_compiled_walked_and_shown_has_a_size() {
    assert_eq!(judge("[1].flatten(64) == [1]"), Ok(true));
    assert!(judge("[1].flatten(65) == [1]").is_err());
    assert!(judge("http.path.matches('(v[0-9]{1,9}){1,9}')").is_ok());
    let large = judge("http.path.matches('(a{900}){900}')").unwrap_err();
    assert!(large.contains("size"), "{large}");
    let shown = |length| Value::text("x".repeat(length)).show();
    assert_eq!(shown(118), format!("'{}'", "x".repeat(118)));
    assert_eq!(shown(200), format!("'{}…", "x".repeat(119)));
}

#[test]
fn extensions() {
    let table = [
        (
            "'a,b,c'.split(',', 2) == ['a', 'b,c'] && 'aaa'.replace('a', 'b', 2) == 'bba'",
            Ok(true),
        ),
        (
            "'tacocat'.indexOf('a', 3) == 5 && 'tacocat'.lastIndexOf('at', 3) == -1",
            Ok(true),
        ),
        (
            "'%s has %d of %.2f'.format([http.method, 3, 0.5]) == 'delete has 3 of 0.50'",
            Ok(true),
        ),
        ("'%.64f'.format([0.5]).size() == 66", Ok(true)),
        (
            "'%.65f'.format([0.5]) == ''",
            Err("the precision is no small number"),
        ),
        ("lists.range(-1) == []", Err("a range has no length below 0")),
        ("dyn([[1]]).sort() == []", Err("these cannot be sorted")),
        ("isIP('::ffff:c0a8:1') || isIP('::ffff:10.0.0.1')", Ok(false)),
        (
            "lists.range(9000000) == []",
            Err("the evaluation took too many steps"),
        ),
        ("strings.quote('a\"b') == '\"a\\\\\"b\"'", Ok(true)),
        ("[3, 1, 2, 1].distinct().sort() == [1, 2, 3]", Ok(true)),
        (
            "[[1], [2, [3]]].flatten() == [1, 2, [3]] && [1, 2, 3].slice(1, 2) == [2]",
            Ok(true),
        ),
        (
            "lists.range(3) == [0, 1, 2] && [1, 2].reverse() == [2, 1]",
            Ok(true),
        ),
        ("[1, 'a'].sort() == []", Err("these cannot be sorted")),
        (
            "[9007199254740993, 9007199254740992.0, 9007199254740992].sort() == []",
            Err("these cannot be sorted"),
        ),
        ("[3, 1.5, 2].sort() == [1.5, 2.0, 3.0]", Ok(true)),
        (
            "lists.range(99999999) == []",
            Err("the evaluation took too many steps"),
        ),
        (
            "http.path.find('[0-9]+') == '1' && http.path.findAll('[a-z]+').size() == 3",
            Ok(true),
        ),
        (
            "regex.replace(http.path, '/([0-9]+)/', '/<\\\\1>/') == '/v1/charges/<7>/refund'",
            Ok(true),
        ),
        ("regex.extractAll('a=1,b=2', '=([0-9])') == ['1', '2']", Ok(true)),
        (
            "http.path.find(http.host) == ''",
            Err("the pattern of `find` is not a literal"),
        ),
        (
            "regex.replace('a', '(', '') == ''",
            Err("not a regular expression: regex parse error:\n    (\n    ^\nerror: unclosed group"),
        ),
        (
            "cidr('10.0.0.0/8').containsCIDR('10.1.0.0/16') && ip('10.0.0.1').family() == 4",
            Ok(true),
        ),
        (
            "ip('::ffff:10.0.0.1').isLoopback()",
            Err("not an address: ::ffff:10.0.0.1"),
        ),
        (
            "base64.encode(b'hello') == 'aGVsbG8=' && base64.decode('aGVsbG8') == b'hello'",
            Ok(true),
        ),
        ("agent.tags.sort()[0] == 'tag:ci'", Ok(true)),
        (
            "[1, 2].first().value() == 1 && [1, 2].last().orValue(0) == 2 && !agent.tags.filter(t, false).first().hasValue()",
            Ok(true),
        ),
        ("[].last().value() == 1", Err("the optional value is not there")),
        (
            "regex.extract(http.path, '/([0-9]+)/').value() == '7' && regex.extract('a', 'b') == optional.none()",
            Ok(true),
        ),
        (
            "http.body_json.?amount.orValue(0) == 7 && http.body_json.?gone.?deeper.orValue(3) == 3",
            Ok(true),
        ),
        (
            "http.headers[?'X-Team'].orValue([]) == ['blue'] && http.headers.?x_none.or(http.headers.?`X-Team`)[0].value() == 'blue'",
            Ok(true),
        ),
        (
            "http.body_json.?amount.value() == 7 && http.body_json.tags[?7] == optional.none()",
            Ok(true),
        ),
        (
            "http.body_json.?gone.value() == 7",
            Err("the optional value is not there"),
        ),
        (
            "http.body.?a.hasValue()",
            Err("http.body is unknown (longer than its limit)"),
        ),
        (
            "http.body_json.?amount.optMap(a, a + 1) == optional.of(8) && !optional.none().optMap(a, a + 1).hasValue()",
            Ok(true),
        ),
        (
            "http.body_json.?tags.optFlatMap(t, t[?1]).orValue('') == 'b' && has(http.body_json.?a.b) == false",
            Ok(true),
        ),
        (
            "[?http.body_json.?gone, ?http.body_json.?amount, 1] == [7, 1] && {?'a': optional.none(), 'b': 1} == {'b': 1}",
            Ok(true),
        ),
        (
            "{'a': 1}.transformMap(k, v, v + 1) == {'a': 2} && [3, 4].transformMap(i, v, i > 0, v) == {1: 4}",
            Ok(true),
        ),
        (
            "{'a': 'b'}.transformMapEntry(k, v, {v: k}) == {'b': 'a'}",
            Ok(true),
        ),
        (
            "[1, 1].transformMapEntry(i, v, {v: i}) == {}",
            Err("repeated key"),
        ),
        (
            "http.path.sort() == []",
            Err("`sort` is for lists, and this is string"),
        ),
    ];
    for (source, wanted) in table {
        let got = judge(source);
        assert_eq!(
            got.as_ref().map_err(String::as_str),
            wanted.as_ref().map_err(|text| *text),
            "{source}"
        );
    }
}

proptest! {
    #[test]
    fn no_text_panics(source in "\\PC{0,80}") {
        let _ = judge(&source);
    }

    /// What both can say, we and `cel` say alike.
    #[test]
    fn agrees_with_cel(a in -50i64..50, b in -50i64..50, s in "[a-c]{0,4}", t in "[a-c]{0,2}", op in 0usize..12) {
        let source = match op {
            0 => format!("{a} + {b} * 3 > {b} - {a}"),
            1 => format!("{a} / {b} == 2 || {a} % {b} == 1"),
            2 => format!("'{s}'.contains('{t}') && !'{s}'.startsWith('{t}')"),
            3 => format!("'{s}' < '{t}' ? {a} < {b} : {a} >= {b}"),
            4 => format!("[{a}, {b}].exists(x, 10 / x > 2)"),
            5 => format!("[{a}, {b}].all(x, x > 0 || 10 / x < 2)"),
            6 => format!("'{t}' in ['{s}', 'a', 'b']"),
            7 => format!("[{a}, {b}, {a}].filter(x, x > 0).map(x, x * 2).size() > 1"),
            8 => format!("({a} / {b} > 0 || '{s}' == '{t}') && true"),
            9 => format!("[{a}, {b}].exists_one(x, x == {a})"),
            10 => format!("'{s}'.matches('^[ab]*$') != '{t}'.endsWith('b')"),
            _ => format!("{{'{s}': {a}}}['{t}'] == {a}"),
        };
        let ours = Condition::compile_with(&source, None, &[]).ok().and_then(|condition| {
            let table = http();
            condition.holds(&Env::new(&table, &table)).ok()
        });
        let program = ::cel::Program::compile(&source).unwrap();
        let theirs = match program.execute(&::cel::Context::default()) {
            Ok(::cel::Value::Bool(value)) => Some(value),
            _ => None,
        };
        prop_assert_eq!(ours, theirs, "{}", source);
    }
}

#[test]
fn macros_of_two_variables_sort_by_and_bind() {
    let check = |text: &str, want: Result<bool, &str>| {
        let table = http();
        let got = match Condition::compile(text, Family::Http) {
            Ok(condition) => condition
                .holds(&Env::new(&table, &table))
                .map_err(|fault| fault.to_string()),
            Err(errors) => Err(errors[0].message.clone()),
        };
        match (&got, want) {
            (Ok(got), Ok(want)) => assert_eq!(*got, want, "{text}"),
            (Err(got), Err(want)) => assert!(got.contains(want), "{text}: {got}"),
            _ => panic!("{text}: {got:?}, wanted {want:?}"),
        }
    };
    check("[3, 1].all(i, v, i < 2 && v > 0)", Ok(true));
    check("{'a': 1, 'b': 2}.exists(k, v, k == 'b' && v == 2)", Ok(true));
    check("[5, 5].existsOne(i, v, v == 5)", Ok(false));
    check("[5, 6].exists_one(i, v, v == 5)", Ok(true));
    check("[5, 6].transformList(i, v, v + i) == [5, 7]", Ok(true));
    check("[5, 6].transformList(i, v, i > 0, v) == [6]", Ok(true));
    // The range is what it was outside, and inner names hide outer ones.
    check(
        "[[1], [2]].all(i, v, v.all(j, w, w == i + 1 && v[j] == w))",
        Ok(true),
    );
    check("[[1, 2]].all(v, w, w.exists(v, v == 2))", Ok(true));
    check("[1].exists(v, [v, 7].exists(i, v, i == 1 && v == 7))", Ok(true));
    check("['b', 'a'].sortBy(x, x) == ['a', 'b']", Ok(true));
    check("['bb', 'a'].sortBy(x, size(x)) == ['a', 'bb']", Ok(true));
    check("[1, 2, 3].sortBy(x, -x)[0] == 3", Ok(true));
    check("['a', dyn(1)].sortBy(x, x) == []", Err("cannot be sorted"));
    check("cel.bind(x, 2, x + x == 4)", Ok(true));
    check(
        "cel.bind(x, 1, cel.bind(y, x + 1, cel.bind(x, 5, y == 2 && x == 5)))",
        Ok(true),
    );
    check("cel.bind(x, [1], x.all(x, x == 1))", Ok(true));
    check("cel.bind(x, http.methd, x == 'get')", Err("no `http.methd`"));
    check("cel.bind(x, http.methd, true)", Err("no `http.methd`"));
    check("'a'.all(i, v, true)", Err("cannot be walked"));
    check("[1].all(i, i, true)", Err("one name"));
    check("[1].all(i, v, v)", Err("is bool, and this is int"));
    // Names that double what they are short for end somewhere.
    let doubling = (0..9).fold("true".to_owned(), |text, n| match n {
        0 => "x0 == 'x'".to_owned(),
        n => format!("cel.bind(x{}, x{n} + x{n}, {text})", n - 1),
    });
    check(
        &format!("cel.bind(x8, 'a', {doubling})"),
        Err("used more than 64 times"),
    );
}

mod conformance {
    use serde_json::Value as Json;

    use super::*;

    /// Files of which nothing is supported, and why.
    const SKIPPED: &[(&str, &str)] = &[
        ("proto2", "messages"),
        ("proto3", "messages"),
        ("proto2_ext", "messages"),
        ("enums", "messages"),
        ("wrappers", "messages"),
        ("type_deduction", "asks for deduced types, not values"),
        ("block_ext", "an optimizer's output"),
        (
            "math_ext",
            "the math extension is not offered: a condition compares numbers",
        ),
    ];

    fn bytes(json: &Json) -> Option<Vec<u8>> {
        let list = json.get("$b").unwrap_or(json).as_array()?;
        list.iter()
            .map(|byte| u8::try_from(byte.as_u64()?).ok())
            .collect()
    }

    fn text(json: &Json) -> Option<String> {
        match json {
            Json::String(text) => Some(text.clone()),
            other => String::from_utf8(bytes(other)?).ok(),
        }
    }

    fn value(json: &Json) -> Option<Value<'static>> {
        let (kind, inner) = json.as_object()?.iter().next()?;
        let inner = inner.get(0)?;
        Some(match kind.as_str() {
            "null_value" => Value::Null,
            "bool_value" => Value::Bool(text(inner)? == "true"),
            "int64_value" => Value::Int(text(inner)?.parse().ok()?),
            "uint64_value" => Value::Uint(text(inner)?.parse().ok()?),
            "double_value" => Value::Double(text(inner)?.parse().ok()?),
            "string_value" => Value::text(text(inner)?),
            "bytes_value" => Value::Bytes(Cow::Owned(bytes(inner)?)),
            "list_value" => {
                let items = inner
                    .get("values")
                    .and_then(Json::as_array)
                    .cloned()
                    .unwrap_or_default();
                Value::List(Arc::new(items.iter().map(value).collect::<Option<_>>()?))
            }
            "map_value" => {
                let entries = inner
                    .get("entries")
                    .and_then(Json::as_array)
                    .cloned()
                    .unwrap_or_default();
                let pair = |entry: &Json| {
                    Some((
                        value(entry.get("key")?.get(0)?)?,
                        value(entry.get("value")?.get(0)?)?,
                    ))
                };
                Value::Map(Arc::new(entries.iter().map(pair).collect::<Option<_>>()?))
            }
            "type_value" => {
                let name = text(inner)?;
                let known = ["google.protobuf.Timestamp", "google.protobuf.Duration"];
                let known = known.iter().copied().find(|own| *own == name);
                Value::Type(known.or_else(|| super::super::function::type_name(&name))?)
            }
            _ => return None,
        })
    }

    /// `None` where the case asks for what is not offered; else whether the answer is right.
    fn run(case: &Json) -> Option<Result<(), String>> {
        let source = text(case.get("expr")?)?;
        if case["check_only"] == true || !case["container"].is_null() || !case["disable_macros"].is_null() {
            return None;
        }
        let bindings = case["bindings"].as_array()?;
        let mut names = Vec::new();
        let mut values = Vec::new();
        for binding in bindings {
            names.push(text(binding.get("key")?.get(0)?)?);
            values.push(value(binding.get("value")?.get(0)?.get("value")?.get(0)?)?);
        }
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let condition = Condition::compile_with(&source, None, &names).ok()?;
        let table = Table(Vec::new());
        let env = Env::new(&table, &table);
        values.into_iter().for_each(|value| env.bind(value));
        let got = env.eval_root(&condition.node);
        if case["err"] == true {
            let failed = got.is_err();
            return Some(
                failed
                    .then_some(())
                    .ok_or(format!("{source}: {got:?}, an error is wanted")),
            );
        }
        // cel-spec: a case without a result wants true.
        let plain = case["value"].is_null() && case["typed"].is_null() && case["unk"] != true;
        let want = match plain {
            true => Value::Bool(true),
            false => value(case.get("value")?)?,
        };
        // A refusal to answer denies; only another answer is wrong.
        let nan = |value: &Value<'_>| matches!(value, Value::Double(number) if number.is_nan());
        match got {
            Err(_) => None,
            Ok(got) if got == want || (nan(&got) && nan(&want)) => Some(Ok(())),
            Ok(got) => Some(Err(format!("{source}: {got:?}, wanted {want:?}"))),
        }
    }

    /// Why a case of a file that is not skipped is not answered. What no line here is about fails the test.
    fn reason(file: &str, source: &str, case: &Json) -> Option<&'static str> {
        let has = |parts: &[&str]| parts.iter().any(|part| source.contains(part));
        let bindings = case["bindings"].as_array()?;
        let dots = |binding: &Json| text(&binding["key"][0]).is_some_and(|name| name.contains('.'));
        let messages = |binding: &Json| binding["value"].to_string().contains("object_value");
        Some(match (file, source) {
            _ if has(&["TestAllTypes", "google.protobuf", "NullValue", "cel.expr"]) => "messages",
            _ if !case["container"].is_null() => "containers: a condition's names are whole",
            _ if bindings.iter().any(dots) => "variables with dots: of facts, only the table's own have them",
            _ if bindings.iter().any(messages) => "variables that hold messages",
            ("network_ext", _) if source.starts_with("ip('::ffff:c0a8:1') == ") => {
                "an IPv4 inside IPv6: refused, as the specification has it since 0.26"
            }
            _ if !case["value"]["object_value"].is_null() => "results that are messages",
            ("timestamps", _) if source.starts_with("duration('") && has(&["315576000000s"]) => {
                "sums of durations over 292 years: nanoseconds in 64 bits, as cel-go has them"
            }
            ("conversions", "dyn") => "types as values of type type(dyn)",
            ("parse", _) if has(&["(((("]) => "brackets deeper than CONDITION_DEPTH_MAX",
            ("bindings_ext", "cel.bind(x, 0, x == 0)") => "variables that are bound to no fact",
            ("basic", "x" | "x || true") => "a variable that is not there: it does not load",
            ("basic", "f_unknown(17)" | "f_unknown(17) || true") => {
                "a function that is not there: it does not load"
            }
            ("parse", _) if source.starts_with("a.") && source.ends_with("() || true") => {
                "a function that is not there, called by a reserved word: it does not load"
            }
            (
                "string_ext",
                "'42'.indexOf('4', 0, 1) == 0"
                | "'42'.replace('2', '1', 1, false) == '41'"
                | "'42'.split('2', 1, 1) == ['4']"
                | "'hello'.substring(1, 2, 3) == ''",
            ) => "a function of so many arguments that is not there: it does not load",
            _ => return None,
        })
    }

    #[test]
    fn no_case_of_cel_spec_is_answered_wrongly() {
        // As scripts/test makes it of the specification's own files (tests/policy/celspec).
        let here = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
        let named = std::env::var_os("TAILKEEP_CEL_CONFORMANCE").map(std::path::PathBuf::from);
        let places = named.into_iter().chain([
            here.join("target/cel-spec.jsonl"),
            here.join("../shared/cel-conformance.jsonl"),
        ]);
        let Some(cases) = places
            .into_iter()
            .find_map(|path| std::fs::read_to_string(path).ok())
        else {
            eprintln!(
                "skipped: scripts/test makes the cases of cel-spec (TAILKEEP_CEL_CONFORMANCE names the file)"
            );
            return;
        };
        let (mut because, mut other) = (std::collections::BTreeMap::new(), Vec::new());
        let (mut right, mut unsupported, mut wrong) = (0, 0, Vec::new());
        for case in cases.lines() {
            let case: Json = serde_json::from_str(case).unwrap();
            if SKIPPED.iter().any(|(file, _)| case["file"] == *file) {
                continue;
            }
            let source = text(&case["expr"]).unwrap();
            let file = case["file"].as_str().unwrap();
            match run(&case) {
                None => {
                    unsupported += 1;
                    match reason(file, &source, &case) {
                        Some(why) => *because.entry(why).or_insert(0) += 1,
                        None => other.push(format!("{file}/{source}")),
                    }
                }
                Some(Ok(())) => right += 1,
                Some(Err(text)) => wrong.push(format!("{}/{}: {text}", case["file"], case["name"])),
            }
        }
        for (file, why) in SKIPPED {
            eprintln!("skipped {file}: {why}");
        }
        eprintln!("not offered in the other files, by reason: {because:#?}");
        eprintln!("{right} right, {unsupported} not offered, {} wrong", wrong.len());
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
        assert!(right >= 1442, "{right}");
        assert_eq!(other, [""; 0], "each case that is not offered has its reason");
    }
}
