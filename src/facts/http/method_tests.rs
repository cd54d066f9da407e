use super::*;
use http::Request;

fn method(line: &str, kind: Option<&str>, body: &str) -> Fact<String> {
    let (method, target) = line.split_once(' ').unwrap();
    let mut request = Request::builder().method(method).uri(target);
    if let Some(kind) = kind {
        request = request.header("content-type", kind);
    }
    let parts = request.body(()).unwrap().into_parts().0;
    let held = match body {
        "" => HeldBody::Empty,
        body => HeldBody::Whole(body.as_bytes()),
    };
    read(&parts, held, FactSet::ALL, 1 << 20)
}

const FORM: Option<&str> = Some("application/x-www-form-urlencoded");
const JSON: Option<&str> = Some("application/json; charset=utf-8");
const PARTS: Option<&str> = Some("multipart/form-data; boundary=XX");

#[test]
fn a_second_method_makes_the_first_ambiguous() {
    for query in [
        "_method=DELETE",
        "a=1&_method=delete",
        "a=1;_method=DELETE",
        "%5fmethod=DELETE",
        "+_method=DELETE",
        ".method=DELETE",
        "[method=DELETE",
        "%20.method=DELETE",
        "_method%00x=DELETE",
        "_method[]=DELETE",
        "_HttpMethod=PATCH",
        "X-HTTP-Method-Override=PUT",
        "method=delete",
        "_method=POST&_method=DELETE",
    ] {
        let got = method(&format!("POST /x?{query}"), None, "");
        assert_eq!(got, Fact::Unknown(Blind::Ambiguous), "{query}");
        let (comma, blank) = (
            "application/x-www-form-urlencoded, x",
            "application/x-www-form-urlencoded x",
        );
        for kind in [FORM, None, Some(comma), Some(blank)] {
            let got = method("POST /x", kind, query);
            assert_eq!(got, Fact::Unknown(Blind::Ambiguous), "{query} in a form");
        }
    }
    let got = method("GET /wp-json/wp/v2/posts/1?_method=DELETE", None, "");
    assert_eq!(got, Fact::Unknown(Blind::Ambiguous));
    for (kind, body) in [
        (JSON, r#"{"a":1,"_method":"DELETE"}"#),
        (JSON, r#"{"\u005fmethod":"DELETE"}"#),
        (JSON, r#"{"_\u006dethod":"DELETE"}"#),
        (JSON, r#"{"_me\u0074hod":"DELETE"}"#),
        (
            PARTS,
            "--XX\r\nContent-Disposition: form-data; name=\"_method\"\r\n\r\nDELETE\r\n--XX--\r\n",
        ),
        (
            PARTS,
            "--XX\ncontent-disposition:form-data;name=_method\n\nDELETE\n--XX--\n",
        ),
        (
            PARTS,
            "--XX\r\nContent-Disposition: form-data;\r\n name=\"_method\"\r\n\r\nDELETE\r\n--XX--\r\n",
        ),
        (
            PARTS,
            "--XX\r\nContent-Disposition: form-data; name=\"_m\\ethod\"\r\n\r\nDELETE\r\n--XX--\r\n",
        ),
        (
            PARTS,
            "--XX\r\nContent-Disposition: form-data; name*=utf-8''%5Fmethod\r\n\r\nDELETE\r\n--XX--\r\n",
        ),
        (
            PARTS,
            "--XX\r\nContent-Disposition: form-data; filename=\"a\"; name=\"_method\"\r\n\r\nDELETE\r\n--XX--\r\n",
        ),
    ] {
        assert_eq!(
            method("POST /x", kind, body),
            Fact::Unknown(Blind::Ambiguous),
            "{body}"
        );
    }
}

#[test]
fn what_names_no_other_method_has_its_own() {
    let part = |head: &str, body: &str| format!("--XX\r\n{head}\r\n\r\n{body}\r\n--XX--\r\n");
    for (line, kind, body) in [
        ("POST /x?_method=post", None, ""),
        (
            "POST /x?method=flickr.photos.delete&payment_method=card",
            None,
            "",
        ),
        ("POST /x", FORM, "payment_method=delete&a[_method]=x&method=card"),
        (
            "POST /x",
            JSON,
            r#"{"payment_method":"my_method","text":"\"_method\" \u003c","method":"delete"}"#,
        ),
        ("POST /x", Some("text/plain"), "_method=DELETE"),
        ("PUT /x", FORM, "_method=DELETE"),
        (
            "POST /x",
            PARTS,
            &part(
                "Content-Disposition: form-data; name=\"file\"; filename=\"my_method.rb\"",
                "_method name=\"_method\"",
            ),
        ),
        (
            "POST /x",
            PARTS,
            &part("Content-Disposition: form-data; name=\"payment_method\"", "x"),
        ),
    ] {
        let own = line.split(' ').next().unwrap().to_ascii_lowercase();
        assert_eq!(method(line, kind, body), Fact::Known(own), "{line} {body}");
    }
}

#[test]
fn a_form_that_is_too_long_has_no_method_and_what_streams_is_looked_through() {
    let read = |kind: &str, coding: &str| {
        let request = Request::post("/x").header("content-type", kind);
        let request = request.header("content-encoding", coding);
        let parts = request.body(()).unwrap().into_parts().0;
        let fact = super::read(&parts, HeldBody::Over, FactSet::ALL, 1 << 20);
        (
            fact.known().is_some(),
            MethodScan::new(&parts).is_some(),
            wants_body(&parts, FactSet::ALL),
        )
    };
    assert_eq!(read(FORM.unwrap(), "identity"), (false, false, true));
    assert_eq!(read(JSON.unwrap(), "identity"), (true, true, false));
    assert_eq!(read(JSON.unwrap(), "gzip"), (false, true, true));
    assert_eq!(read(PARTS.unwrap(), "identity"), (true, true, false));
    assert_eq!(read("application/octet-stream", "gzip"), (true, false, false));
}

#[test]
fn it_is_found_over_the_seams_and_no_line_is_kept_for_ever() {
    for (kind, body) in [
        (Kind::Json, r#"{"aaaa":1,"_method":"DELETE"}"#),
        (
            Kind::Multipart,
            "--XX\r\nContent-Disposition: form-data;\r\n name=\"_method\"\r\n\r\nDELETE\r\n--XX--\r\n",
        ),
    ] {
        for cut in 1..body.len() {
            let mut scan = MethodScan::of(kind).unwrap();
            let found = body.as_bytes().chunks(cut).any(|piece| scan.push(piece));
            assert!(found, "in pieces of {cut}");
        }
        // Before the last byte of what it says is gone.
        let end = memmem::find(body.as_bytes(), b"DELETE").unwrap();
        assert!(MethodScan::of(kind).unwrap().push(&body.as_bytes()[..end]));
    }
    let mut scan = MethodScan::of(Kind::Multipart).unwrap();
    for _ in 0..64 {
        assert!(!scan.push(&vec![b'x'; LINE_BYTES_MAX]));
        assert!(scan.tail.capacity() <= 2 * LINE_BYTES_MAX);
    }
    assert!(scan.push(b"\nContent-Disposition: form-data; name=\"_method\"\n"));
    let mut scan = MethodScan::of(Kind::Multipart).unwrap();
    let long = format!("Content-Disposition: form-data; x={}", "y".repeat(LINE_BYTES_MAX));
    assert!(scan.push(long.as_bytes()), "the name may stand behind");
}

proptest::proptest! {
    #[test]
    fn never_panics(body in "(--XX|\r\n|Content-Disposition: |name=|_method|\\\\|\"|%5f|;|=|&|x){0,16}") {
        let _ = method(&format!("POST /{}", "x"), PARTS, &body);
        let _ = method("POST /x", FORM, &body);
    }
}
