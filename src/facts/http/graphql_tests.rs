use http::header::CONTENT_TYPE;
use serde_json::{Value, json};

use super::super::{HeldBody, HttpFacts, query};
use super::*;
use crate::facts::{Fact, FactSet, FactSource as _, Slot};

fn of_json(body: &Value) -> Result<Vec<Operation>, Blind> {
    read(&Places {
        headers: &HeaderMap::new(),
        query: &[],
        form: &[],
        parts: &[],
        json: Document::from(body).root(),
        text: "",
    })
}

fn of_document(document: &str, name: Option<&str>) -> Result<Operation, Blind> {
    of_json(&json!({"query": document, "operationName": name})).map(|mut all| all.pop().unwrap_or_default())
}

/// `kind name | fields | paths`.
#[track_caller]
fn check(document: &str, name: Option<&str>, want: &str) {
    let got = match of_document(document, name) {
        Ok(one) => format!(
            "{} {} | {} | {}",
            one.kind,
            one.name,
            one.fields.join(" "),
            one.paths.join(" ")
        ),
        Err(blind) => format!("{blind:?}"),
    };
    assert_eq!(got, want, "{document}");
}

#[test]
fn what_an_operation_selects() {
    check(
        "{ viewer { login } }",
        None,
        "query  | viewer | viewer viewer.login",
    );
    check(
        "mutation Go($a: ID!) { x: deleteRepo(id: $a) { ok } }",
        None,
        "mutation Go | deleteRepo | deleteRepo deleteRepo.ok",
    );
    check(
        "subscription S { events }",
        None,
        "subscription S | events | events",
    );
    check(
        "query A { ...F ... on Query { b } ... { c } } fragment F on Query { a { d } }",
        None,
        "query A | a b c | a a.d b c",
    );
    check("query A { a } mutation B { b }", Some("B"), "mutation B | b | b");
    check("query A { a } mutation B { b }", None, "Ambiguous");
    check("query A { a } mutation A { b }", Some("A"), "Ambiguous");
    check("query A { a }", Some("B"), "Ambiguous");
    check("query A { a } query B { b }", Some(""), "Ambiguous");
    check("{ ...F } fragment F on Q { ...F }", None, "Ambiguous");
    check("{ ...F }", None, "Ambiguous");
    check(
        "{ ...F } fragment F on Q { a } fragment F on Q { b }",
        None,
        "Ambiguous",
    );
    check("{ a } type T { a: Int }", None, "Ambiguous");
    check("{ a", None, "Unparseable");
    check("{ a } }", None, "Unparseable");
    check("# { a }\n mutation { b }", None, "mutation  | b | b");
    check(
        "query { a(x: \"\"\" } mutation { b } \"\"\") }",
        None,
        "query  | a | a",
    );
}

/// A document in one place and a name of an operation in another: servers differ in which they run.
#[test]
fn a_name_beside_the_document_is_ambiguous() {
    let two = "query A { a } mutation B { b }";
    let pair = |name: &str, value: &str| (name.to_owned(), vec![value.to_owned()]);
    let run = |query: &[(String, Vec<String>)], json: &Value| {
        let read = read(&Places {
            headers: &HeaderMap::new(),
            query,
            form: &[],
            parts: &[],
            json: Document::from(json).root(),
            text: "",
        });
        read.map(|all| all.into_iter().map(|one| one.kind).collect::<Vec<_>>().join(" "))
    };
    let body = json!({"query": two, "operationName": "A"});
    assert_eq!(run(&[], &body), Ok("query".to_owned()));
    for name in ["operationName", "operationname", "OperationName"] {
        assert_eq!(run(&[pair(name, "B")], &body), Err(Blind::Ambiguous), "{name}");
        assert_eq!(run(&[pair(name, "")], &body), Err(Blind::Ambiguous), "{name}");
    }
    assert_eq!(run(&[pair("operationName", "A")], &body), Ok("query".to_owned()));
    let alone = json!({"query": "{ a }"});
    assert_eq!(run(&[pair("operationName", "B")], &alone), Err(Blind::Ambiguous));
    // The document in the URL, a name in the body.
    let url = [pair("query", two), pair("operationName", "A")];
    assert_eq!(run(&url, &Value::Null), Ok("query".to_owned()));
    assert_eq!(run(&url, &json!({"operationName": "B"})), Err(Blind::Ambiguous));
    assert_eq!(run(&url, &json!({"operationName": ["A"]})), Err(Blind::Ambiguous));
    assert_eq!(run(&url, &json!({"query": two})), Err(Blind::Ambiguous));
}

#[test]
fn limits_of_a_document() {
    let deep = |levels: usize| format!("{}a{}", "{ a ".repeat(levels), " }".repeat(levels));
    assert!(of_document(&deep(DEPTH_MAX / 2), None).is_ok());
    assert!(of_document(&deep(DEPTH_MAX * 2), None).is_err());
    assert!(of_document(&deep(100_000), None).is_err());
    let wide = |count: usize| {
        let fields: Vec<String> = (0..count).map(|n| format!("f{n}")).collect();
        format!("{{ {} }}", fields.join(" "))
    };
    assert!(of_document(&wide(FIELDS_MAX), None).is_ok());
    // A long name stands in each path below it.
    let below = |bytes: usize, count: usize| format!("{{ {} {} }}", "a".repeat(bytes), wide(count));
    let each = PATHS_BYTES_MAX / 1_000;
    assert!(of_document(&below(each - 10, 990), None).is_ok());
    assert_eq!(of_document(&below(each, 1_010), None), Err(Blind::Truncated));
    assert_eq!(of_document(&wide(FIELDS_MAX + 1), None), Err(Blind::Truncated));
    assert_eq!(of_document(&wide(TOKENS_MAX), None), Err(Blind::Unparseable));
    // Twice as much at each level, from little text.
    let mut bomb = "{ ...F0 }".to_owned();
    for n in 0..30 {
        bomb.push_str(&format!(
            " fragment F{n} on Q {{ a {{ ...F{next} }} b {{ ...F{next} }} }}",
            next = n + 1
        ));
    }
    bomb.push_str(" fragment F30 on Q { a }");
    assert_eq!(of_document(&bomb, None), Err(Blind::Truncated));
    // As deep by fragments that are each flat.
    let chain = |length: usize| {
        let links = (0..length).map(|n| format!(" fragment F{n} on Q {{ ...F{next} }}", next = n + 1));
        format!(
            "{{ ...F0 }}{} fragment F{length} on Q {{ a }}",
            links.collect::<String>()
        )
    };
    assert!(of_document(&chain(DEPTH_MAX - 1), None).is_ok());
    assert_eq!(of_document(&chain(DEPTH_MAX), None), Err(Blind::Truncated));
    let one = json!({"query": "{ a }"});
    let batch = |count: usize| Value::Array(vec![one.clone(); count]);
    assert_eq!(
        of_json(&batch(OPERATIONS_MAX)).map(|all| all.len()),
        Ok(OPERATIONS_MAX)
    );
    assert_eq!(of_json(&batch(OPERATIONS_MAX + 1)), Err(Blind::Truncated));
}

#[test]
fn a_batch_takes_so_much() {
    let batch = |bytes: usize| {
        let all = vec![r#"{"query": "{ a }"}"#; OPERATIONS_MAX - 1].join(",");
        let long = "y".repeat(bytes);
        let body = format!(r#"[{all},{{"query": "{{ a }}", "variables": {{"x": "{long}"}}}}]"#);
        facts("POST", "/graphql", "application/json", &body)
    };
    assert_eq!(batch(1 << 10).len(), OPERATIONS_MAX);
    let large = batch(BATCH_BYTES_MAX / OPERATIONS_MAX);
    assert_eq!(large.len(), 1);
    assert_eq!(large[0].graphql, Fact::Unknown(Blind::Truncated));
}

fn facts(method: &str, target: &str, kind: &str, body: &str) -> Vec<HttpFacts> {
    let request = http::Request::builder().method(method).uri(target);
    let request = match kind {
        "" => request,
        kind => request.header(CONTENT_TYPE, kind),
    };
    let parts = request.body(()).unwrap().into_parts().0;
    let held = match body {
        "" => HeldBody::Empty,
        body => HeldBody::Whole(body.as_bytes()),
    };
    HttpFacts::read_each(&parts, "api", held, FactSet::ALL, 1 << 20).unwrap()
}

fn kinds(method: &str, target: &str, kind: &str, body: &str) -> String {
    let each = facts(method, target, kind, body);
    let shown = each.iter().map(|facts| match facts.fact(Slot::HttpGraphqlKind) {
        Fact::Known(view) => view.to_json().as_str().unwrap().to_owned(),
        Fact::Unknown(blind) => format!("{blind:?}"),
    });
    shown.collect::<Vec<_>>().join(" ")
}

#[test]
fn an_operation_is_found_wherever_a_server_takes_one() {
    let json = "application/json";
    let form = "application/x-www-form-urlencoded";
    let query = r#"{"query": "{ a }"}"#;
    assert_eq!(kinds("POST", "/graphql", json, query), "query");
    assert_eq!(
        kinds("POST", "/graphql", "", r#"{"query": "mutation { a }"}"#),
        "mutation"
    );
    assert_eq!(
        kinds(
            "POST",
            "/graphql",
            json,
            r#"[{"query": "{ a }"}, {"query": "mutation { b }"}]"#
        ),
        "query mutation"
    );
    assert_eq!(
        kinds("POST", "/graphql", json, r#"[{"query": "{ a }"}, {"x": 1}]"#),
        "Ambiguous"
    );
    assert_eq!(kinds("GET", "/graphql?query=mutation%7Ba%7D", "", ""), "mutation");
    assert_eq!(
        kinds("GET", "/graphql?query=%7Ba%7D&query=mutation%7Ba%7D", "", ""),
        "Ambiguous"
    );
    assert_eq!(
        kinds("POST", "/graphql?query=mutation%7Ba%7D", json, query),
        "Ambiguous"
    );
    assert_eq!(
        kinds("POST", "/graphql?query=mutation%7Ba%7D", json, "{}"),
        "mutation"
    );
    assert_eq!(
        kinds("POST", "/graphql", form, "query=mutation%7Ba%7D"),
        "mutation"
    );
    assert_eq!(
        kinds("POST", "/graphql", "application/graphql", "mutation { a }"),
        "mutation"
    );
    assert_eq!(
        kinds(
            "POST",
            "/graphql",
            json,
            r#"{"query": "{ a }", "Query": "mutation { a }"}"#
        ),
        "Ambiguous"
    );
    assert_eq!(
        kinds("POST", "/graphql", json, r#"{"Query": "mutation { a }"}"#),
        "Ambiguous"
    );
    let named = r#"{"query": "query A { a } mutation B { b }", "operationName": "A", "OperationNAME2": "B"}"#;
    assert_eq!(kinds("POST", "/graphql", json, named), "query");
    let named = r#"{"query": "{ a }", "operationname": "B"}"#;
    assert_eq!(kinds("POST", "/graphql", json, named), "Ambiguous");
    assert_eq!(kinds("POST", "/search", json, r#"{"Query": "cats"}"#), "");
    assert_eq!(
        kinds("POST", "/graphql", json, "{\"query\": \"{ a }\""),
        "Unparseable"
    );
    let upload = "--XX\r\nContent-Disposition: form-data; name=\"operations\"\r\n\r\n{}\r\n--XX--";
    assert_eq!(
        kinds("POST", "/graphql", "multipart/form-data; boundary=XX", upload),
        "Opaque"
    );
    // What is no GraphQL.
    assert_eq!(kinds("GET", "/search?query=cats", "", ""), "");
    assert_eq!(kinds("POST", "/search", json, r#"{"query": {"match": {}}}"#), "");
    assert_eq!(kinds("POST", "/x", json, "[]"), "");
}

#[test]
fn what_goes_over_a_websocket_is_not_seen() {
    let request = http::Request::builder()
        .method("GET")
        .uri("/graphql?query=%7Ba%7D");
    let request = request
        .header("connection", "upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
        .header("sec-websocket-protocol", "graphql-transport-ws");
    let parts = request.body(()).unwrap().into_parts().0;
    let each = HttpFacts::read_each(&parts, "api", HeldBody::Empty, FactSet::ALL, 1 << 20).unwrap();
    for slot in [
        Slot::HttpGraphqlKind,
        Slot::HttpGraphqlOperation,
        Slot::HttpGraphqlFields,
        Slot::HttpGraphqlPaths,
    ] {
        assert!(
            matches!(each[0].fact(slot), Fact::Unknown(Blind::Opaque)),
            "{slot:?}"
        );
    }
}

#[test]
fn a_stored_document_is_known_by_its_text_alone() {
    let hash: String = Sha256::digest(b"{ a }")
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let body = |query: Option<&str>, hash: &str| json!({"query": query, "extensions": {"persistedQuery": {"version": 1, "sha256Hash": hash}}});
    assert_eq!(of_json(&body(None, &hash)), Err(Blind::Opaque));
    assert!(of_json(&body(Some("{ a }"), &hash)).is_ok());
    assert_eq!(of_json(&body(Some("{ b }"), &hash)), Err(Blind::Ambiguous));
    let Fact::Known(pairs) = query::read("extensions=%7B%22persistedQuery%22%3A%7B%7D%7D") else {
        unreachable!("a query")
    };
    let places = Places {
        headers: &HeaderMap::new(),
        query: &pairs,
        form: &[],
        parts: &[],
        json: Json::Null,
        text: "",
    };
    assert_eq!(read(&places), Err(Blind::Opaque));
}

proptest::proptest! {
    #[test]
    fn never_panics(text in "(\\{|\\}|query|mutation|fragment F on Q|\\.\\.\\.|F|a|\\(|\\)|:|\"|\"\"\"|#|\n| |\\$|@|!){0,32}") {
        let _ = of_document(&format!("{text}{{"), None);
        let _ = of_document(&text, Some("F"));
    }
}
