//! HTTP and Kubernetes: heads, paths, queries, bodies, and what goes into and out of them.

use http::{HeaderMap, HeaderValue, Method, Request};
use tailkeep::credential::{Scrub, Secret};
use tailkeep::facts::http::{HeldBody, HttpFacts, body, json, path, query};
use tailkeep::facts::k8s::{K8sFacts, resolve};
use tailkeep::facts::{Fact, FactSet};
use tailkeep::policy::HostPort;
use tailkeep::protocol::http::{check_head, detail, digest, summary};

use crate::{fuzz, pieces, spell};

const DECODED_BYTES_MAX: usize = 64 << 10;

const PATH: &[&str] = &[
    "/",
    "a",
    "..",
    ".",
    "%2e",
    "%2f",
    "%5c",
    "\\",
    ";",
    "%",
    "%00",
    "//",
    "api",
    "apis",
    "v1",
    "namespaces",
    "pods",
    "watch",
    "proxy",
    "%25",
    "A",
    "é",
    "?",
    "#",
    "=",
    "&",
    "+",
    "fieldSelector",
    "metadata.name",
    "%3D",
    "log",
    "exec",
];

#[test]
fn a_path_that_is_taken_has_one_reading() {
    fuzz!(Vec<u8>, |bytes: &Vec<u8>| {
        let raw = format!("/{}", spell(PATH, bytes));
        if let Ok(path) = path::normalize(&raw) {
            assert!(path.starts_with('/'), "{raw}");
            assert!(
                !path.contains("//") && !path.contains('\\') && !path.contains('\0'),
                "{raw}"
            );
            assert!(path.split('/').all(|part| part != "." && part != ".."), "{raw}");
        }
    });
}

#[test]
fn a_kubernetes_request() {
    fuzz!((u8, Vec<u8>, Vec<u8>), |(method, path, rest)| {
        let methods = [
            Method::GET,
            Method::POST,
            Method::PUT,
            Method::PATCH,
            Method::DELETE,
            Method::HEAD,
        ];
        let method = &methods[usize::from(*method) % methods.len()];
        let path = format!("/{}", spell(PATH, path));
        if let Fact::Known(query) = query::read(&spell(PATH, rest))
            && let Ok(resolved) = resolve::resolve(method, &path, &query)
        {
            assert!(resolved.verb.known().is_none_or(|verb| !verb.is_empty()));
        }
    });
}

#[test]
fn a_request_with_every_fact() {
    fuzz!((Vec<u8>, Vec<(u8, Vec<u8>)>, Vec<u8>), |(uri, headers, body)| {
        let mut request = Request::builder().uri(format!("/{}", spell(PATH, uri)));
        let names = [
            "host",
            "content-type",
            "content-encoding",
            "connection",
            "upgrade",
            "cookie",
            "authorization",
            "te",
            "transfer-encoding",
            "x-http-method-override",
            "sec-websocket-key",
            "impersonate-user",
        ];
        for (name, value) in headers {
            let name = names[usize::from(*name) % names.len()];
            let values = [
                "api.test",
                "gzip",
                "br",
                "zstd",
                "deflate",
                "application/json",
                "upgrade",
                "websocket",
            ];
            match HeaderValue::from_bytes(value) {
                Ok(value) if value.len() > 3 => request = request.header(name, value),
                _ => request = request.header(name, values[value.len() % values.len()]),
            }
        }
        let Ok(request) = request.body(()) else { return };
        let (parts, ()) = request.into_parts();
        let claimed = HostPort {
            host: "api.test".to_owned(),
            port: 443,
        };
        let _ = check_head(&parts, &claimed);
        let held = || HeldBody::Whole(body);
        let _ = HttpFacts::read(&parts, "api.test", held(), FactSet::ALL, DECODED_BYTES_MAX);
        let _ = K8sFacts::read(&parts, "api.test", held(), FactSet::ALL, DECODED_BYTES_MAX);
        assert_eq!(digest(&parts, held(), None), digest(&parts, held(), None));
        let _ = (summary(&parts), detail(&parts, held(), None));
    });
}

#[test]
fn a_coded_body_never_grows_past_its_limit() {
    fuzz!((u8, Vec<u8>), |(coding, bytes)| {
        let codings = ["gzip", "deflate", "br", "zstd", "gzip, br", "identity"];
        let mut headers = HeaderMap::new();
        let coding = codings[usize::from(*coding) % codings.len()];
        headers.insert("content-encoding", HeaderValue::from_static(coding));
        if let Ok(decoded) = body::decode(&headers, bytes, 512) {
            assert!(decoded.len() <= 512);
        }
    });
}

const JSON: &[&str] = &[
    "{",
    "}",
    "[",
    "]",
    "\"a\"",
    ":",
    ",",
    "1",
    "-",
    "e9",
    "true",
    "null",
    "\"\\u0061\"",
    "\\",
    " ",
    "\u{feff}",
];

#[test]
fn json_that_is_taken_is_json() {
    fuzz!(Vec<u8>, |bytes: &Vec<u8>| {
        let text = spell(JSON, bytes);
        if let Ok(document) = json::parse(&text) {
            let value = serde_json::from_str::<serde_json::Value>(&text);
            assert_eq!(value.ok(), Some(document.root().to_value()), "{text}");
        }
        let _ = json::parse(&String::from_utf8_lossy(bytes));
    });
}

#[test]
fn a_secret_does_not_come_back_however_its_stream_is_cut() {
    const SECRET: &str = "s3cr3t-Value+/=";
    fuzz!((Vec<u8>, Vec<u8>), |(words, cuts)| {
        let words_of = [
            SECRET,
            "s3cr3t",
            "-Value",
            "+/=",
            "czNjcjN0LVZhbHVlKy89",
            "{}",
            "a",
            "s3cr3t-Value%2B%2F%3D",
        ];
        let text = spell(&words_of, words);
        let mut scrub = Scrub::new(&Secret::new(SECRET.into()), SECRET.as_bytes(), "{{token}}");
        let mut out = Vec::new();
        for piece in pieces(text.as_bytes(), cuts) {
            out.extend_from_slice(&scrub.push(piece));
        }
        out.extend_from_slice(&scrub.finish());
        assert!(!String::from_utf8_lossy(&out).contains(SECRET), "{text}");
    });
}
