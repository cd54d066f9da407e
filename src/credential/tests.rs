use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use http::request::Parts;
use http::{HeaderMap, Request};

use super::forms::{FORMS_KEPT_MAX, forms_kept};
use super::*;
use crate::facts::http::HeldBody;
use crate::facts::{Facts, Family};
use crate::policy::{Credential, CredentialKind, Endpoint, Held, Model, Profile, Protocol, SslMode};
use crate::verdict::{Action, Digest, Permit, Step};

const SECRET: &str = "ghp_S3cret/with+odd=chars";

fn endpoint(key: &str) -> Endpoint {
    Endpoint {
        key: key.into(),
        protocol: Protocol::Https,
        family: Family::Http,
        claims: Vec::new(),
        upstream: None,
        tls: true,
        ca_cert: None,
        sslmode: SslMode::Prefer,
        database: None,
        path: String::new(),
        preview: None,
        description: None,
    }
}

fn credential(name: &str, kind: CredentialKind, endpoint: &str) -> Arc<Credential> {
    Arc::new(Credential {
        key: format!("x.{name}").into(),
        name: name.to_owned(),
        placeholder: format!("{{{{{name}}}}}"),
        kind,
        endpoints: vec![endpoint.into()],
        secrets: Vec::new(),
    })
}

fn kinds() -> Vec<Arc<Credential>> {
    let header = |header: &str, prefix: &str| CredentialKind::Header {
        header: header.to_owned(),
        prefix: prefix.to_owned(),
    };
    let unread = CredentialKind::Unread {
        type_name: "aws".to_owned(),
    };
    vec![
        credential("pat", CredentialKind::Bearer, "https.a"),
        credential("key", header("X-Api-Key", ""), "https.a"),
        credential("pre", header("X-Auth", "Key "), "https.a"),
        credential("pair", CredentialKind::Basic { username: None }, "https.a"),
        credential(
            "bot",
            CredentialKind::Basic {
                username: Some("bot".to_owned()),
            },
            "https.a",
        ),
        credential(
            "sid",
            CredentialKind::Cookie {
                name: "sid".to_owned(),
            },
            "https.a",
        ),
        credential(
            "q",
            CredentialKind::Query {
                parameter: "key".to_owned(),
            },
            "https.a",
        ),
        credential("odd", unread, "https.a"),
        credential("far", CredentialKind::Bearer, "https.b"),
        credential("other", CredentialKind::Bearer, "https.a"),
        credential("cert", CredentialKind::Mtls, "https.a"),
    ]
}

/// A policy whose profile holds everything but `other`.
fn policy(fallback: Option<&str>) -> (Model, Profile) {
    let credentials = kinds();
    let held = credentials
        .iter()
        .filter(|one| one.name != "other")
        .map(|one| Held {
            credential: one.key.clone(),
            placeholders: vec![
                format!("{{{{{}}}}}", one.name),
                format!("ghp_lookalike_{}", one.name),
            ],
            fallback: fallback == Some(one.name.as_str()),
        })
        .collect();
    let profile = Profile {
        name: "ci".into(),
        tags: Vec::new(),
        logins: Vec::new(),
        nodes: Vec::new(),
        peers: Vec::new(),
        grants: Vec::new(),
        credentials: held,
        endpoints: vec!["https.a".into(), "https.b".into()],
    };
    (
        Model {
            credentials,
            ..Model::default()
        },
        profile,
    )
}

fn head(target: &str, headers: &[(&str, &str)]) -> Parts {
    let mut request = Request::builder().uri(target);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap().into_parts().0
}

fn basic(pair: &str) -> String {
    format!("Basic {}", STANDARD.encode(pair))
}

/// The selected credential's name, `-` for none, or the refusal's reason.
fn choose(fallback: Option<&str>, target: &str, headers: &[(&str, &str)], body: HeldBody<'_>) -> String {
    let (model, profile) = policy(fallback);
    match select(
        &model,
        &profile,
        &endpoint("https.a"),
        &head(target, headers),
        body,
    ) {
        Ok(Some(credential)) => credential.name.clone(),
        Ok(None) => "-".to_owned(),
        Err(refusal) => refusal.reason,
    }
}

/// What is kept back and let go is seen with what comes behind it, and goes on once.
#[test]
fn a_secret_is_seen_over_a_pause() {
    let secret = Secret::new(b"s3cr3t-of-login".to_vec());
    let mut scrub = Scrub::new(&secret, b"s3cr3t-of-login", "{{pat}}");
    let mut out = scrub.push(b"a s3cr3t").to_vec();
    assert!(scrub.holds());
    out.extend(scrub.release());
    assert!(!scrub.holds());
    assert_eq!(out, b"a s3cr3t");
    assert_eq!(scrub.release(), "");
    out.extend(scrub.push(b"-of"));
    out.extend(scrub.release());
    assert_eq!((&out[..], scrub.hits()), (&b"a s3cr3t-of"[..], 0));
    let mut rest = scrub.push(b"-login").to_vec();
    rest.extend(scrub.finish());
    assert_eq!((&rest[..], scrub.hits()), (&b""[..], 1));
    assert!(scrub.torn(), "a part of it has gone");
    // What only began like one goes on whole, and once; a whole one behind it is put back.
    let mut scrub = Scrub::new(&secret, b"s3cr3t-of-login", "{{pat}}");
    let mut out = scrub.push(b"s3cr3t").to_vec();
    out.extend(scrub.release());
    out.extend(scrub.push(b"-of-state s3"));
    out.extend(scrub.release());
    out.extend(scrub.push(b" s3cr3t-of-login, and more that is longer than what is kept back of it"));
    out.extend(scrub.finish());
    let want = "s3cr3t-of-state s3 {{pat}}, and more that is longer than what is kept back of it";
    assert_eq!(
        (String::from_utf8(out).unwrap().as_str(), scrub.hits()),
        (want, 1)
    );
    assert!(!scrub.torn());
}

#[test]
fn a_placeholder_selects_in_its_exact_slot() {
    for (want, target, headers) in [
        ("-", "/", vec![]),
        ("-", "/", vec![("authorization", "Bearer own".to_owned())]),
        ("-", "/", vec![("x", "{{unknown}}".to_owned())]),
        ("pat", "/", vec![("authorization", "Bearer {{pat}}".to_owned())]),
        ("pat", "/", vec![("authorization", "token {{pat}}".to_owned())]),
        (
            "pat",
            "/",
            vec![("authorization", "Bearer ghp_lookalike_pat".to_owned())],
        ),
        ("key", "/", vec![("x-api-key", "{{key}}".to_owned())]),
        ("pre", "/", vec![("x-auth", "Key {{pre}}".to_owned())]),
        ("pre", "/", vec![("x-auth", "{{pre}}".to_owned())]),
        ("pair", "/", vec![("authorization", basic("me:{{pair}}"))]),
        ("bot", "/", vec![("authorization", basic("{{bot}}:"))]),
        ("sid", "/", vec![("cookie", "a=b; sid={{sid}}; c=d".to_owned())]),
        ("q", "/x?a=b&key={{q}}", vec![]),
        ("q", "/x?key=%7B%7Bq%7D%7D", vec![]),
    ] {
        let headers: Vec<_> = headers
            .iter()
            .map(|(name, value)| (*name, value.as_str()))
            .collect();
        assert_eq!(
            choose(None, target, &headers, HeldBody::Empty),
            want,
            "{target} {headers:?}"
        );
    }
}

#[test]
fn a_placeholder_anywhere_else_is_refused() {
    for (target, headers) in [
        ("/{{pat}}", vec![]),
        ("/%7b%7bpat%7d%7d", vec![]),
        ("/?x={{pat}}", vec![]),
        ("/?x=%7B%7Bpat%7D%7D", vec![]),
        ("/?key={{q}}&key=own", vec![]),
        ("/?key={{q}}&x={{q}}", vec![]),
        ("/?a=1;key={{q}}", vec![]),
        ("/", vec![("x", "{{pat}}".to_owned())]),
        ("/", vec![("authorization", "{{pat}}".to_owned())]),
        ("/", vec![("authorization", "Bearer x{{pat}}".to_owned())]),
        ("/", vec![("authorization", "Bearer {{key}}".to_owned())]),
        ("/", vec![("authorization", "Bearer {{far}}".to_owned())]),
        ("/", vec![("authorization", "Bearer {{other}}".to_owned())]),
        ("/", vec![("authorization", "Bearer {{odd}}".to_owned())]),
        ("/", vec![("authorization", basic("me:{{pat}}"))]),
        ("/", vec![("authorization", basic("{{pair}}:x"))]),
        ("/", vec![("cookie", "other={{sid}}".to_owned())]),
        (
            "/",
            vec![
                ("authorization", "Bearer {{pat}}".to_owned()),
                ("x", "{{pat}}".to_owned()),
            ],
        ),
        (
            "/",
            vec![
                ("authorization", "Bearer {{pat}}".to_owned()),
                ("authorization", "x".to_owned()),
            ],
        ),
        (
            "/",
            vec![
                ("authorization", "Bearer {{pat}}".to_owned()),
                ("x-api-key", "{{key}}".to_owned()),
            ],
        ),
    ] {
        let headers: Vec<_> = headers
            .iter()
            .map(|(name, value)| (*name, value.as_str()))
            .collect();
        let got = choose(Some("pat"), target, &headers, HeldBody::Empty);
        assert!(got.contains(' '), "{target} {headers:?}: {got}");
    }
    let body = HeldBody::Whole(b"{\"text\": \"{{pat}}\"}");
    assert_eq!(choose(None, "/", &[], body), "a placeholder stands in the body");
}

#[test]
fn without_a_placeholder_the_fallback_is_used() {
    assert_eq!(choose(Some("pat"), "/", &[], HeldBody::Empty), "pat");
    assert_eq!(choose(Some("cert"), "/", &[], HeldBody::Empty), "cert");
    // Bound to another endpoint.
    assert_eq!(choose(Some("far"), "/", &[], HeldBody::Empty), "-");
    assert!(choose(Some("odd"), "/", &[], HeldBody::Empty).contains("cannot be used"));
}

fn permit(credential: Option<&str>, endpoint: &str) -> Permit {
    Permit::for_test(&Action {
        step: Step::Request,
        endpoint: endpoint.into(),
        credential: credential.map(Into::into),
        facts: Facts::None,
        digest: Digest::of(b""),
        whole: true,
        summary: String::new(),
        detail: String::new(),
    })
}

fn injected(name: &str, mut parts: Parts, secret: Option<&str>) -> Result<(Parts, Option<Scrub>), String> {
    let own = kinds().into_iter().find(|one| one.name == name).unwrap();
    let source = |_: &Credential, _: &str| secret.map(|text| Secret::new(text.as_bytes().to_vec()));
    inject(&permit(Some(&own.key), "https.a"), &mut parts, &own, &source)
        .map(|scrub| (parts, scrub))
        .map_err(|refusal| refusal.reason)
}

#[test]
fn the_secret_goes_into_its_slot_alone() {
    let check = |name: &str, headers: &[(&str, &str)], slot: &str, want: &str| {
        let (parts, scrub) = injected(name, head("/p?a=1&k%65y=own", headers), Some(SECRET)).unwrap();
        let got: Vec<_> = parts.headers.get_all(slot).iter().collect();
        assert_eq!(got, [want], "{name}");
        assert!(got[0].is_sensitive());
        assert_eq!(parts.headers["accept-encoding"], "identity");
        assert!(!parts.headers.contains_key("range"));
        assert!(scrub.is_some());
    };
    let own = [("authorization", "Bearer own"), ("range", "bytes=0-1")];
    check("pat", &own, "authorization", &format!("Bearer {SECRET}"));
    check("pat", &[], "authorization", &format!("Bearer {SECRET}"));
    check(
        "pat",
        &[("authorization", "token {{pat}}")],
        "authorization",
        &format!("token {SECRET}"),
    );
    check("key", &own, "x-api-key", SECRET);
    check(
        "pre",
        &[("x-auth", "a"), ("x-auth", "b")],
        "x-auth",
        &format!("Key {SECRET}"),
    );
    check("bot", &own, "authorization", &basic(&format!("bot:{SECRET}")));
    let pair = basic("me:{{pair}}");
    check(
        "pair",
        &[("authorization", &pair)],
        "authorization",
        &basic(&format!("me:{SECRET}")),
    );
    check(
        "sid",
        &[("cookie", "a=b; sid=x"), ("cookie", "c=d")],
        "cookie",
        &format!("a=b; c=d; sid={SECRET}"),
    );
    let (parts, _) = injected("key", head("/", &own), Some(SECRET)).unwrap();
    assert!(
        !parts.headers.contains_key("authorization"),
        "the agent's own identity is gone"
    );
    let (parts, _) = injected("q", head("/p?a=1&k%65y=own&key=b", &[]), Some("s /&é")).unwrap();
    assert_eq!(parts.uri.to_string(), "/p?a=1&key=s%20%2F%26%C3%A9");
    assert!(injected("cert", head("/", &[]), None).unwrap().1.is_none());
}

#[test]
fn what_cannot_be_injected_is_refused_and_never_sent_bare() {
    let reason = |name: &str, target: &str, secret| injected(name, head(target, &[]), secret).err().unwrap();
    assert_eq!(reason("pat", "/", None), "the credential has no secret set");
    assert_eq!(reason("pat", "/", Some("")), "the credential has no secret set");
    for bad in ["a\r\nX: y", "a\nb", "a\0b"] {
        assert!(reason("pat", "/", Some(bad)).contains("cannot hold"), "{bad:?}");
    }
    assert!(reason("sid", "/", Some("a; b=c")).contains("slot"));
    assert!(reason("q", "/?a;key=x", Some("abcd")).contains("slot"));
    assert!(reason("odd", "/", Some("abcd")).contains("slot"));
    let own = kinds().into_iter().find(|one| one.name == "pat").unwrap();
    let source = |_: &Credential, _: &str| Some(Secret::new(b"secret".to_vec()));
    for permit in [
        permit(None, "https.a"),
        permit(Some("x.key"), "https.a"),
        permit(Some("x.pat"), "https.b"),
    ] {
        let mut parts = head("/", &[]);
        assert!(inject(&permit, &mut parts, &own, &source).is_err());
        assert!(parts.headers.is_empty());
    }
}

#[test]
fn the_scan_finds_a_placeholder_however_the_body_is_cut() {
    let (model, profile) = policy(None);
    let known = Known::new(&model, &profile);
    let body = b"some text with {{pat}} in it, and more text behind it";
    for cut in 0..=body.len() {
        let mut scan = known.scan();
        let hit = [scan.push(&body[..cut]), scan.push(&body[cut..])].contains(&true);
        assert!(hit, "{cut}");
    }
    let mut scan = known.scan();
    assert!(body.iter().any(|byte| scan.push(&[*byte])));
    let clean = b"{{unknown}} {{ pat }} {pat} {{pat";
    let mut scan = known.scan();
    assert!(!clean.iter().any(|byte| scan.push(&[*byte])));
}

fn scrub() -> Scrub {
    Scrub::new(&Secret::new(SECRET.as_bytes().to_vec()), b"wire-form", "{{pat}}")
}

#[test]
fn a_secret_is_put_back_however_the_response_is_cut() {
    let url = percent_encoding::utf8_percent_encode(SECRET, percent_encoding::NON_ALPHANUMERIC);
    for (text, want) in [
        (format!("a {SECRET} b {SECRET}"), "a {{pat}} b {{pat}}".to_owned()),
        ("a wire-form".to_owned(), "a {{pat}}".to_owned()),
        (format!("a {url} b"), "a {{pat}} b".to_owned()),
        (
            r#""ghp_S3cret\/with+odd=chars""#.to_owned(),
            r#""{{pat}}""#.to_owned(),
        ),
        ("ghp_S3cret/with+odd".to_owned(), "ghp_S3cret/with+odd".to_owned()),
    ] {
        for cut in 0..=text.len() {
            let mut own = scrub();
            let bytes = text.as_bytes();
            let out = [own.push(&bytes[..cut]), own.push(&bytes[cut..]), own.finish()].concat();
            assert_eq!(String::from_utf8(out).unwrap(), want, "{cut}");
        }
        let mut own = scrub();
        let mut out: Vec<u8> = text.bytes().flat_map(|byte| own.push(&[byte])).collect();
        out.extend(own.finish());
        assert_eq!(String::from_utf8(out).unwrap(), want);
    }
}

#[test]
fn a_secret_is_found_as_pages_and_programs_write_it() {
    const ODD: &str = r#"S&c<r>e't"1"#;
    for text in [
        "S&amp;c&lt;r&gt;e&#39;t&quot;1",
        "S&amp;c&lt;r&gt;e&#x27;t&quot;1",
        "S&amp;c&lt;r&gt;e&#39;t&#34;1",
        "S&amp;c&lt;r&gt;e't\"1",
        "S\\u0026c\\u003cr\\u003ee't\\\"1",
        "S\\u0026c\\u003Cr\\u003Ee't\\\"1",
        "5326633c723e6527742231",
        "5326633C723E6527742231",
    ] {
        let mut own = Scrub::new(&Secret::new(ODD.as_bytes().to_vec()), b"wire-form", "{{pat}}");
        let out = [own.push(text.as_bytes()), own.finish()].concat();
        assert_eq!(String::from_utf8(out).unwrap(), "{{pat}}", "{text}");
    }
}

/// A short text is looked through in one pass, a long one in a pass for each form.
#[test]
fn a_secret_is_found_in_short_and_long_texts_alike() {
    let wire = Secret::new(SECRET.as_bytes().to_vec());
    for length in (0..300).chain(2000..2100).chain([5000]) {
        let filler: String = (0..length).map(|n| char::from(b'a' + (n % 26) as u8)).collect();
        for text in [
            format!("{filler}{SECRET}"),
            format!("{SECRET}{filler}{SECRET}ghp_"),
        ] {
            let mut own = Scrub::new(&wire, b"ghp_S3cret/with+odd=charsandmore", "{{pat}}");
            let out = [own.push(text.as_bytes()), own.finish()].concat();
            assert_eq!(
                String::from_utf8(out).unwrap(),
                text.replace(SECRET, "{{pat}}"),
                "{length}"
            );
        }
    }
    let mut own = Scrub::new(&wire, format!("{SECRET}andmore").as_bytes(), "{{pat}}");
    let out = [own.push(format!("a{SECRET}andmore").as_bytes()), own.finish()].concat();
    assert_eq!(&out[..], b"a{{pat}}", "of two the longest");
}

#[test]
fn forms_are_kept_for_the_secrets_of_late() {
    let secret = |number: usize| Secret::new(format!("secret-number-{number:04}").into_bytes());
    for number in 0..3 * FORMS_KEPT_MAX {
        let mut own = Scrub::new(&secret(number), b"wire", "{{x}}");
        assert_eq!(
            &[own.push(secret(number).expose()), own.finish()].concat()[..],
            b"{{x}}"
        );
        assert!(forms_kept() <= FORMS_KEPT_MAX, "{number}");
    }
    assert_eq!(forms_kept(), FORMS_KEPT_MAX);
}

#[test]
fn a_secret_in_base64_is_found_at_every_offset() {
    for front in ["", "a", "ab", "user:"] {
        let text = format!("{front}{SECRET}tail");
        for coded in [STANDARD.encode(&text), URL_SAFE_NO_PAD.encode(&text)] {
            let mut own = scrub();
            let out = [own.push(coded.as_bytes()), own.finish()].concat();
            assert_eq!(own.hits(), 1, "{front}");
            let left = String::from_utf8(out).unwrap().replace("{{pat}}", "");
            assert!(left.len() < 16, "{left}");
        }
    }
}

#[test]
fn headers_are_cleaned_and_those_of_the_old_bytes_dropped() {
    let mut headers = HeaderMap::new();
    headers.insert("x-echo", format!("got {SECRET}").parse().unwrap());
    headers.append("x-echo", "other".parse().unwrap());
    headers.insert("content-length", "10".parse().unwrap());
    headers.insert("etag", "x".parse().unwrap());
    let mut own = scrub();
    assert!(own.head(&mut headers));
    let values: Vec<_> = headers.get_all("x-echo").iter().collect();
    assert_eq!(values, ["got {{pat}}", "other"]);
    assert_eq!(headers.keys_len(), 1);
    headers.insert("content-encoding", "gzip".parse().unwrap());
    assert!(!own.head(&mut headers), "a coded response cannot be searched");
}

/// An agent whose own bytes come back to it could else ask for the secret byte by byte.
#[test]
fn what_is_kept_back_does_not_hang_on_the_secret() {
    let went = |chunk: &str| scrub().push(chunk.as_bytes()).len();
    for length in 1..200 {
        let other = "x".repeat(length);
        let begun = format!("{}{SECRET}", "x".repeat(200));
        let whole = 200 + SECRET.len() - 1;
        assert_eq!(went(&other), went(&begun[whole - length..whole]), "{length}");
    }
    assert!(went(&"x".repeat(200)) > 0);
    // Lines, events and messages of JSON go on at once.
    for text in ["data: ghp_S3cr\n\n", "{\"a\":\"ghp_S3cr\"}", "ghp_\r\n"] {
        assert_eq!(went(text), text.len());
    }
    let mut own = scrub();
    assert_eq!(&own.push(b"data: 1\n\ndata: ghp_")[..], b"data: 1\n\n");
    assert_eq!(&own.push(b"other\n\n")[..], b"data: ghp_other\n\n");
    // But not where a secret has such a byte.
    let mut odd = Scrub::new(&Secret::new(b"a}bcd".to_vec()), b"a}bcd", "{{x}}");
    assert_eq!(&odd.push(b"a}")[..], b"");
    assert_eq!(&[odd.push(b"bcd"), odd.finish()].concat()[..], b"{{x}}");
    let mut short = Scrub::new(&Secret::new(b"abc".to_vec()), b"abc", "{{x}}");
    let went = [short.push(b"abcabc"), short.finish()].concat();
    assert_eq!(went, b"abcabc", "under NEEDLE_BYTES_MIN");
}

proptest::proptest! {
    #[test]
    fn bytes_without_the_secret_pass_unchanged(chunks in proptest::collection::vec(proptest::collection::vec(proptest::prelude::any::<u8>(), 0..20), 0..8)) {
        let mut own = scrub();
        let mut out = Vec::new();
        for chunk in &chunks {
            out.extend_from_slice(&own.push(chunk));
        }
        out.extend_from_slice(&own.finish());
        proptest::prop_assert_eq!(out, chunks.concat());
    }

    #[test]
    fn select_never_panics(path in "/[!-~&&[^#?<>\"`^|\\\\]]{0,20}", value in "[ -~]{0,40}") {
        let Ok(request) = Request::builder().uri(path).header("authorization", &value).header("cookie", &value).body(()) else {
            return Ok(());
        };
        let (model, profile) = policy(Some("pat"));
        let _ = select(&model, &profile, &endpoint("https.a"), &request.into_parts().0, HeldBody::Empty);
    }
}
