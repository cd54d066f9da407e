//! What a body holds: MCP, GraphQL, forms, SQL of HTTP's dialects; and what comes back from channels.

use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Request};
use tailkeep::channel::slack;
use tailkeep::channel::webhook::{self, Said};
use tailkeep::facts::http::graphql;
use tailkeep::facts::http::{HeldBody, form};
use tailkeep::facts::json::Document;
use tailkeep::facts::mcp::{self, MESSAGES_MAX};
use tailkeep::facts::sql::dialect::{self, Dialect};
use tailkeep::facts::{Fact, mcp::Kind};

use crate::{fuzz, spell};

const BODY_BYTES_MAX: usize = 64 << 10;

fn post(kind: &str) -> Parts {
    let request = Request::post("/mcp").header("content-type", kind);
    request.body(()).unwrap().into_parts().0
}

const MCP: &[&str] = &[
    "{",
    "}",
    "[",
    "]",
    ",",
    "\"jsonrpc\":\"2.0\"",
    "\"id\":1",
    "\"id\":2",
    "\"method\":\"tools/call\"",
    "\"Method\":\"tools/call\"",
    "\"method\":\"resources/read\"",
    "\"params\":{",
    "\"name\":\"rm\"",
    "\"arguments\":{}",
    "\"uri\":\"file:///a\"",
    "\"result\":{}",
    "{\"jsonrpc\":\"2.0\",\"id\":3,\"method\":\"tools/call\",\"params\":{\"name\":\"a\"}}",
    "{\"jsonrpc\":\"2.0\",\"method\":\"b\"}",
    "null",
    " ",
];

#[test]
fn messages_that_are_taken_are_json_of_one_reading() {
    fuzz!(Vec<u8>, |bytes: &Vec<u8>| {
        for body in [spell(MCP, bytes).into_bytes(), bytes.clone()] {
            let Ok(read) = mcp::read(&post("application/json"), HeldBody::Whole(&body), BODY_BYTES_MAX)
            else {
                continue;
            };
            let json: serde_json::Value = serde_json::from_slice(&body).expect("it is no JSON");
            let all = match &json {
                serde_json::Value::Array(all) => all.clone(),
                one => vec![one.clone()],
            };
            assert!((1..=MESSAGES_MAX).contains(&read.messages.len()));
            assert_eq!((read.messages.len(), read.batch), (all.len(), json.is_array()));
            for (message, json) in read.messages.iter().zip(all) {
                assert_eq!(message.kind() == Kind::Response, json.get("method").is_none());
                assert_eq!(message.id(), json.get("id").filter(|id| !id.is_null()));
            }
        }
    });
}

const GRAPHQL: &[&str] = &[
    "query ",
    "mutation ",
    "subscription ",
    "A ",
    "B ",
    "{ ",
    "} ",
    "a ",
    "b ",
    "x: a ",
    "(id: 1) ",
    "...F ",
    "... on T ",
    "fragment F on T ",
    "@skip(if: true) ",
    "$v ",
    ", ",
    "# \n",
    "\"s\" ",
    "\"\"\"s\"\"\" ",
    "... ",
];

#[test]
fn an_operation_is_of_a_kind_that_its_document_names() {
    fuzz!((Vec<u8>, u8), |(words, name)| {
        let document = spell(GRAPHQL, words);
        let name = ["A", "B", ""][usize::from(*name) % 3];
        let mut json = serde_json::json!({ "query": document });
        if !name.is_empty() {
            json["operationName"] = name.into();
        }
        let headers = post("application/json").headers;
        let asked = Document::from(&json);
        let places = graphql::Places {
            headers: &headers,
            query: &[],
            form: &[],
            parts: &[],
            json: asked.root(),
            text: "",
        };
        for one in graphql::read(&places).into_iter().flatten() {
            assert!(
                ["query", "mutation", "subscription"].contains(&one.kind.as_str()),
                "{document}"
            );
            assert!(one.kind == "query" || document.contains(&one.kind), "{document}");
            assert!(name.is_empty() || one.name == name, "{document}");
            for path in &one.paths {
                let first = path.split('.').next().unwrap_or_default();
                assert!(
                    one.fields.iter().any(|field| field == first),
                    "{document}: {path}"
                );
            }
        }
        // A list is as many operations as it has members, or is not read at all.
        let list = Document::from(&serde_json::json!([json, json]));
        let places = graphql::Places {
            json: list.root(),
            ..places
        };
        if let Ok(read) = graphql::read(&places) {
            assert!(matches!(read.len(), 0 | 2), "{document}");
        }
    });
}

const FORM: &[&str] = &[
    "--b",
    "\r\n",
    "\n",
    "--",
    "Content-Disposition: form-data; name=\"a\"",
    "content-disposition: form-data; name=b",
    "; filename=\"c\"",
    "; name*=UTF-8''d",
    "\"",
    "\\",
    "a=1",
    "&",
    "=",
    "%41",
    "%",
    "+",
    ";",
    ": ",
    " ",
    "é",
];

#[test]
fn a_form_that_is_read_has_what_its_body_has() {
    fuzz!(Vec<u8>, |bytes: &Vec<u8>| {
        for body in [spell(FORM, bytes).into_bytes(), bytes.clone()] {
            let headers = post("multipart/form-data; boundary=b").headers;
            if let Fact::Known(names) = form::part_names(&headers, &body) {
                assert!(names.len() <= form::PARTS_MAX);
                let marks = memchr::memmem::find_iter(&body, b"--b").count();
                assert!(names.len() <= marks, "more parts than boundaries");
            }
            let headers = post("application/x-www-form-urlencoded").headers;
            if let Fact::Known(fields) = form::fields(&headers, &body) {
                let pairs = body.split(|byte| *byte == b'&').count();
                let values: usize = fields.iter().map(|(_, values)| values.len()).sum();
                assert!(values <= pairs, "more values than pairs");
            }
        }
    });
}

const SQL: &[&str] = &[
    "SELECT ",
    "INSERT INTO ",
    "DELETE FROM ",
    "DROP TABLE ",
    "UPDATE ",
    "SET ",
    "a ",
    "`a` ",
    "d.t ",
    "= ",
    "1 ",
    "'x' ",
    "'\\' ",
    "\"y\" ",
    "; ",
    "-- ",
    "# ",
    "/* ",
    "*/ ",
    "/*! ",
    "\n",
    "( ",
    ") ",
    ", ",
    "FROM ",
    "WHERE ",
    "VALUES ",
    "FORMAT CSV ",
    "SETTINGS ",
    "INTO OUTFILE ",
    "UNION ALL ",
];

#[test]
fn statements_of_a_dialect_have_no_verb_that_is_not_in_the_text() {
    fuzz!(Vec<u8>, |bytes: &Vec<u8>| {
        let text = spell(SQL, bytes);
        for dialect in [Dialect::Mysql, Dialect::Clickhouse] {
            for one in dialect::read(&text, dialect, BODY_BYTES_MAX) {
                // ClickHouse reads `FROM t` alone as a SELECT.
                let known =
                    |verb: &&String| *verb == "select" || text.to_ascii_lowercase().contains(verb.as_str());
                assert!(
                    one.verbs.iter().all(|verb| known(&verb)),
                    "{text}: {:?}",
                    one.verbs
                );
            }
            for one in dialect::read(&text, dialect, 0) {
                assert!(one.verbs.is_empty(), "{text}: longer than it may be");
            }
        }
    });
}

/// Headers that a caller may send, each with a value that may be right in form.
fn headers(given: &[(u8, Vec<u8>)]) -> HeaderMap {
    const NAMES: [&str; 5] = [
        "x-slack-signature",
        "x-slack-request-timestamp",
        "webhook-id",
        "webhook-timestamp",
        "webhook-signature",
    ];
    const VALUES: [&[u8]; 5] = [b"v0=00", b"1700000000", b"msg_1", b"v1,AAAA v1,", b"-1"];
    let mut headers = HeaderMap::new();
    for (name, value) in given {
        let usual = VALUES[value.len() % VALUES.len()];
        let value = if value.len() > 8 { value } else { usual };
        if let Ok(value) = HeaderValue::from_bytes(value) {
            headers.insert(
                HeaderName::from_static(NAMES[usize::from(*name) % NAMES.len()]),
                value,
            );
        }
    }
    headers
}

const PRESS: &[&str] = &[
    "payload=",
    "&",
    "{",
    "}",
    "[",
    "]",
    ",",
    "%7B",
    "+",
    "\"type\":\"block_actions\"",
    "\"user\":{\"id\":\"U1\"}",
    "\"actions\":[",
    "{\"action_id\":\"approve\",\"value\":\"1:t\"}",
    "{\"action_id\":\"deny\",\"value\":\"x\"}",
    "\"container\":{\"channel_id\":\"C\",\"message_ts\":\"1\"}",
    "payload={\"type\":\"block_actions\",\"user\":{\"id\":\"U1\"},\"container\":{},\"actions\":[",
];

#[test]
fn what_no_secret_signed_is_no_decision() {
    fuzz!((Vec<(u8, Vec<u8>)>, Vec<u8>), |(given, bytes)| {
        let headers = headers(given);
        let body = spell(PRESS, bytes).into_bytes();
        for body in [&body, bytes] {
            assert!(slack::verify(b"secret", &headers, body).is_err());
            assert!(webhook::verify(b"whsec_AAAA", &headers, body).is_err());
            if let Ok(Some(pressed)) = slack::pressed(body) {
                assert!(!pressed.member.is_empty() && pressed.place.contains('/'));
            }
            let _ = serde_json::from_slice::<Said>(body);
        }
        // With the secret, the same is signed whatever it says.
        let signed = webhook::sign(b"whsec_AAAA", "1", 5, bytes).unwrap();
        let headers = signed.map(|(name, value)| {
            (
                HeaderName::from_static(name),
                HeaderValue::try_from(value).unwrap(),
            )
        });
        assert!(webhook::verify(b"whsec_AAAA", &headers.into_iter().collect(), bytes).is_ok());
    });
}
