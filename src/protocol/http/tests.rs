use http::request::{Builder, Parts};
use http::{HeaderMap, Request, Version};

use super::*;
use crate::facts::http::{HeldBody, HttpFacts};
use crate::facts::{Fact, FactSet, FactSource, Slot, View};
use crate::policy::HostPort;
use crate::verdict::{Cause, Refusal};

fn head(method: &str, target: &str, headers: &[(&str, &str)]) -> Parts {
    let mut request: Builder = Request::builder().method(method).uri(target);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap().into_parts().0
}

fn claimed() -> HostPort {
    HostPort {
        host: "api.example.com".to_owned(),
        port: 443,
    }
}

#[test]
fn a_head_must_name_the_claimed_host_once() {
    use Malformed::*;
    let check = |target: &str, headers: &[(&str, &str)], want: Result<(), Malformed>| {
        let got = check_head(&head("GET", target, headers), &claimed()).map(|_| ());
        assert_eq!(got, want, "{target} {headers:?}");
    };
    let host = ("host", "api.example.com");
    check("/", &[host], Ok(()));
    check("/", &[("host", "API.Example.com.:443")], Ok(()));
    check("https://api.example.com/", &[host], Ok(()));
    check("/", &[], Err(NoHost));
    check("/", &[host, host], Err(ManyHosts));
    check("/", &[("host", "other.example.com")], Err(Misdirected));
    check("/", &[("host", "api.example.com:8443")], Err(Misdirected));
    check("https://other.example.com/", &[host], Err(HostMismatch));
    check(
        "https://api.example.com/",
        &[("host", "other.example.com")],
        Err(HostMismatch),
    );
    check("ftp://api.example.com/", &[host], Err(HostMismatch));
    for bad in [
        "",
        "a@api.example.com",
        "api.example.com/x",
        "api.example.com:x",
        "[::1",
        "a b",
        "a,b",
    ] {
        check("/", &[("host", bad)], Err(UserInfo));
    }
    check(
        "/",
        &[host, ("connection", "close, Authorization")],
        Err(ConnectionHeader),
    );
    check(
        "/",
        &[host, ("connection", "keep-alive, Upgrade, HTTP2-Settings")],
        Ok(()),
    );
    check(
        "/",
        &[host, ("x-http-method-override", "DELETE")],
        Err(ForbiddenHeader("x-http-method-override")),
    );
    check(
        "/",
        &[host, ("x-original-url", "/admin")],
        Err(ForbiddenHeader("x-original-url")),
    );
    let connect = head("CONNECT", "api.example.com:443", &[host]);
    assert_eq!(check_head(&connect, &claimed()), Err(Connect));
}

#[test]
fn http2_names_its_host_in_the_authority() {
    let mut parts = head("GET", "https://api.example.com/", &[]);
    parts.version = Version::HTTP_2;
    assert_eq!(
        check_head(&parts, &claimed()),
        Ok(Authority {
            host: "api.example.com".to_owned(),
            port: None
        })
    );
    parts.headers.insert("connection", "close".parse().unwrap());
    assert_eq!(check_head(&parts, &claimed()), Err(Malformed::ConnectionHeader));
    let mut v6 = head("GET", "/", &[("host", "[0:0::1]:443")]);
    v6.version = Version::HTTP_11;
    let own = HostPort {
        host: "::1".to_owned(),
        port: 443,
    };
    assert!(check_head(&v6, &own).is_ok());
}

#[test]
fn only_a_whole_websocket_or_spdy_upgrade_is_one() {
    let check = |method: &str, headers: &[(&str, &str)], want: Result<Option<Upgrade>, ()>| {
        let got = upgrade(&head(method, "/", headers)).map_err(|_| ());
        assert_eq!(got, want, "{method} {headers:?}");
    };
    let (own, key) = (("connection", "keep-alive, Upgrade"), ("sec-websocket-key", "x"));
    check(
        "GET",
        &[own, ("upgrade", "WebSocket"), key],
        Ok(Some(Upgrade::WebSocket)),
    );
    check("POST", &[own, ("upgrade", "SPDY/3.1")], Ok(Some(Upgrade::Spdy)));
    check("GET", &[own, ("upgrade", "h2c")], Ok(None));
    check("GET", &[], Ok(None));
    check("POST", &[own, ("upgrade", "websocket"), key], Err(()));
    check("GET", &[own, ("upgrade", "websocket")], Err(()));
    check("GET", &[("upgrade", "websocket"), key], Err(()));
    check("GET", &[own, ("upgrade", "websocket, h2c"), key], Err(()));
    check("GET", &[own, ("upgrade", "h2c, websocket"), key], Err(()));
    check(
        "GET",
        &[own, ("upgrade", "websocket"), ("upgrade", "h2c"), key],
        Err(()),
    );
    let mut extended = head("CONNECT", "https://api.example.com/ws", &[]);
    extended.version = Version::HTTP_2;
    assert!(upgrade(&extended).is_err());
    extended
        .extensions
        .insert(ConnectProtocol("websocket".to_owned()));
    assert_eq!(upgrade(&extended), Ok(Some(Upgrade::WebSocket)));
    let facts = HttpFacts::read(&extended, "", HeldBody::Empty, FactSet::ALL, 0).unwrap();
    assert!(matches!(
        facts.fact(Slot::HttpWebsocket),
        Fact::Known(View::Bool(true))
    ));
}

#[test]
fn hop_by_hop_headers_are_taken_out() {
    let map = || {
        head(
            "GET",
            "/",
            &[
                ("connection", "x-own, upgrade"),
                ("x-own", "1"),
                ("keep-alive", "1"),
                ("te", "gzip, trailers"),
                ("upgrade", "h2c"),
                ("http2-settings", "x"),
                ("proxy-authorization", "x"),
                ("accept", "a"),
                ("trailer", "t"),
            ],
        )
        .headers
    };
    let names = |map: &HeaderMap| {
        let mut names: Vec<_> = map.keys().map(|name| name.as_str().to_owned()).collect();
        names.sort();
        names.join(" ")
    };
    let mut plain = map();
    strip_hop_by_hop(&mut plain, None);
    assert_eq!(names(&plain), "accept te trailer");
    assert_eq!(plain["te"], "trailers");
    let mut upgraded = map();
    strip_hop_by_hop(&mut upgraded, Some(Upgrade::WebSocket));
    assert_eq!(names(&upgraded), "accept connection te trailer upgrade");
}

#[test]
fn a_digest_changes_with_everything_that_is_sent() {
    let base = || head("GET", "/a?b", &[("x", "1"), ("y", "2")]);
    let own = digest(&base(), HeldBody::Whole(b"z"), None);
    let hop = head("GET", "/a?b", &[("x", "1"), ("y", "2"), ("connection", "close")]);
    assert_eq!(own, digest(&hop, HeldBody::Whole(b"z"), None));
    for (other, body) in [
        (
            head("PUT", "/a?b", &[("x", "1"), ("y", "2")]),
            HeldBody::Whole(b"z"),
        ),
        (
            head("GET", "/ab", &[("x", "1"), ("y", "2")]),
            HeldBody::Whole(b"z"),
        ),
        (
            head("GET", "/a?c", &[("x", "1"), ("y", "2")]),
            HeldBody::Whole(b"z"),
        ),
        (
            head("GET", "/a?b", &[("x", "12"), ("y", "")]),
            HeldBody::Whole(b"z"),
        ),
        (
            head("GET", "/a?b", &[("y", "2"), ("x", "1")]),
            HeldBody::Whole(b"z"),
        ),
        (base(), HeldBody::Whole(b"zz")),
        (base(), HeldBody::Empty),
        (base(), HeldBody::NotHeld),
        (base(), HeldBody::Over),
    ] {
        assert_ne!(own, digest(&other, body, None), "{other:?} {body:?}");
    }
    let (bare, asked) = (head("GET", "/a", &[]), head("GET", "/a?", &[]));
    let mut trailers = http::HeaderMap::new();
    trailers.insert("x-a", "1".parse().unwrap());
    let trailed = digest(&base(), HeldBody::Whole(b"z"), Some(&trailers));
    assert_ne!(own, trailed);
    trailers.insert("x-a", "2".parse().unwrap());
    assert_ne!(trailed, digest(&base(), HeldBody::Whole(b"z"), Some(&trailers)));
    assert_ne!(
        digest(&bare, HeldBody::Empty, None),
        digest(&asked, HeldBody::Empty, None)
    );
}

#[test]
fn people_see_placeholders_and_no_secrets() {
    let parts = head(
        "POST",
        "/a?key=v",
        &[
            ("authorization", "Bearer real"),
            ("cookie", "a={{tok}}"),
            ("x-api-key", "real"),
            ("accept", "b"),
        ],
    );
    assert_eq!(summary(&parts), "POST /a?…");
    let mut trailers = http::HeaderMap::new();
    trailers.insert("x-sum", "abc".parse().unwrap());
    let text = detail(&parts, HeldBody::Whole(b"body"), Some(&trailers));
    let text = text
        .strip_suffix("\n\nx-sum: abc\n")
        .expect("the trailers")
        .to_owned();
    assert!(!text.contains("real"), "{text}");
    assert!(text.contains("cookie: a={{tok}}") && text.contains("accept: b") && text.ends_with("body"));
    let long = format!("/{}", "é".repeat(SUMMARY));
    assert_eq!(
        summary(&head("GET", &long.replace('é', "a"), &[]))
            .chars()
            .count(),
        SUMMARY + 1
    );
    let body = vec![b'x'; describe::DETAIL_BYTES_MAX + 1];
    assert!(detail(&parts, HeldBody::Whole(&body), None).ends_with("bytes in all)"));
    let is_shown_whole = |body: HeldBody<'_>| describe::is_shown_whole(&parts.headers, body);
    assert!(!is_shown_whole(HeldBody::Whole(&body)) && is_shown_whole(HeldBody::Whole(&body[1..])));
    assert!(!is_shown_whole(HeldBody::NotHeld) && !is_shown_whole(HeldBody::Over));
    // What is compressed is as large as it is decoded.
    let coded = head("POST", "/a", &[("content-encoding", "gzip")]);
    for (bytes, is_whole) in [(&body[..], false), (&body[1..], true)] {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        std::io::Write::write_all(&mut encoder, bytes).unwrap();
        let sent = encoder.finish().unwrap();
        assert_eq!(
            describe::is_shown_whole(&coded.headers, HeldBody::Whole(&sent)),
            is_whole
        );
        let shown = detail(&coded, HeldBody::Whole(&sent), None);
        assert_eq!(shown.contains("that are more than 65536 decoded"), !is_whole);
        assert_eq!(shown.ends_with("xxx"), is_whole);
    }
    for (more, is_cut) in [(0, false), (1, true)] {
        let body = vec![0xff; describe::BINARY_BYTES_MAX + more];
        let shown = detail(&parts, HeldBody::Whole(&body), None);
        assert_eq!(shown.ends_with("\n(cut)"), is_cut, "{more}");
        assert_eq!(is_shown_whole(HeldBody::Whole(&body)), !is_cut, "{more}");
        assert!(shown.len() < describe::DETAIL_BYTES_MAX + 1000);
    }
}

const SUMMARY: usize = describe::SUMMARY_CHARS_MAX;

#[test]
fn a_denial_says_the_reason_and_never_the_detail() {
    let refusal = Refusal::new(Cause::Rule("no-drop".into()), "not today").with_detail("inner");
    let answer = deny(&refusal);
    assert_eq!(answer.status(), 403);
    let body: serde_json::Value = serde_json::from_slice(answer.body()).unwrap();
    assert_eq!(
        body,
        serde_json::json!({ "error": {
            "code": "denied", "cause": "rule", "rule": "no-drop", "reason": "not today" } })
    );
    assert_eq!(malformed(Malformed::Misdirected).status(), 421);
    assert_eq!(malformed(Malformed::NoHost).status(), 400);
    assert_eq!(deny(&Refusal::new(Cause::Malformed, "x")).status(), 400);

    let status = crate::protocol::kubernetes::deny(&refusal, None);
    let body: serde_json::Value = serde_json::from_slice(status.body()).unwrap();
    assert_eq!(status.status(), 403);
    assert_eq!(body["kind"], "Status");
    assert_eq!(body["reason"], "Forbidden");
    assert_eq!(body["code"], 403);
    assert_eq!(body["message"], "not today (rule no-drop)");
    assert!(!body.to_string().contains("inner"));
}

#[test]
fn an_agent_may_not_name_another_user() {
    let check = |name: &str, value: &str| {
        let parts = head("GET", "/api", &[("host", "api.example.com"), (name, value)]);
        crate::protocol::kubernetes::check_kubernetes_head(&parts, &claimed()).is_ok()
    };
    assert!(check("accept", "x"));
    assert!(!check("Impersonate-User", "admin"));
    assert!(!check("impersonate-extra-scopes", "x"));
    assert!(!check("X-Remote-Group", "system:masters"));
    assert!(!check(
        "sec-websocket-protocol",
        "v4.channel.k8s.io, base64url.bearer.authorization.k8s.io.dG9r"
    ));
    assert!(check("sec-websocket-protocol", "v4.channel.k8s.io"));
}

proptest::proptest! {
    #[test]
    fn never_panics(value in proptest::collection::vec(0x20u8..=0xff, 0..40)) {
        let Ok(value) = http::HeaderValue::from_bytes(&value) else { return Ok(()) };
        for name in ["host", "connection", "upgrade", "te"] {
            let mut parts = head("GET", "/", &[]);
            parts.headers.insert(name, value.clone());
            let _ = check_head(&parts, &claimed());
            let _ = detail(&parts, HeldBody::Empty, None);
            strip_hop_by_hop(&mut parts.headers, None);
        }
    }
}

/// Pieces of one kind must not be read as those of another: what was agreed to as two headers would be a body.
#[test]
fn a_digest_tells_headers_from_a_body_and_its_trailers() {
    let own = ("host", "api.example.com");
    let headers = head("POST", "/x", &[own, ("whole", "pay 1000"), ("trailer", "x-sum")]);
    let one = digest(&headers, HeldBody::Empty, None);
    let mut trailers = HeaderMap::new();
    trailers.insert("x-sum", "empty".parse().unwrap());
    let other = digest(
        &head("POST", "/x", &[own]),
        HeldBody::Whole(b"pay 1000"),
        Some(&trailers),
    );
    assert_ne!(one, other);
}
