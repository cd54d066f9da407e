//! The body of a held request as people read it: JSON with its lines, a form's fields, the names of a form's
//! parts. *Pure.*
//!
//! It is read of what they are shown already ([`super::detail`], decoded and with what is masked in it), and stands
//! beside that and not in its place. What two readers could take for two things, a name that stands twice, is not rendered.

use std::fmt::Write as _;

use http::HeaderMap;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderValue};
use serde_json::Value;

use super::describe::DECODED;
use crate::facts::http::{form, json};
use crate::facts::{Fact, Mask};

/// Bytes of a rendered body; what would be longer is not rendered.
pub const RENDERED_BYTES_MAX: usize = 256 << 10;

/// What a body is, and its text. `None` where there is no body, or it is none of these.
pub fn rendered(detail: &str) -> Option<(&'static str, String)> {
    let (head, body) = detail.split_once("\n\n")?;
    let (mut headers, mut is_coded) = (HeaderMap::new(), false);
    for line in head.lines().skip(1) {
        let (name, value) = line.split_once(": ")?;
        is_coded |= name == CONTENT_ENCODING.as_str();
        if name == CONTENT_TYPE.as_str() {
            headers.append(CONTENT_TYPE, HeaderValue::from_str(value).ok()?);
        }
    }
    // What stands behind the line that says so is what was decoded; what could not be is not rendered.
    let body = match is_coded {
        true => body.strip_prefix(DECODED)?.split_once('\n')?.1,
        false => body,
    };
    if body.is_empty() {
        return None;
    }
    let (kind, text) = of_json(&headers, body)
        .or_else(|| fields(&headers, body))
        .or_else(|| parts(&headers, body))?;
    (text.len() <= RENDERED_BYTES_MAX).then_some((kind, text))
}

fn of_json(headers: &HeaderMap, body: &str) -> Option<(&'static str, String)> {
    match json::read(headers, body.as_bytes()) {
        Fact::Known(document) if !document.is_null() => {
            let mut value = document.root().to_value();
            // A name that was written in escapes is known by now.
            Mask::default().json(&mut value);
            Some(("JSON", serde_json::to_string_pretty(&value).ok()?))
        }
        _ => None,
    }
}

fn fields(headers: &HeaderMap, body: &str) -> Option<(&'static str, String)> {
    let Fact::Known(fields) = form::fields(headers, body.as_bytes()) else {
        return None;
    };
    let (mask, mut text) = (Mask::default(), String::new());
    for (name, values) in &fields {
        for value in values {
            let shown = mask.parameter(name, value);
            let _ = writeln!(text, "{} = {}", Value::from(name.as_str()), Value::from(&*shown));
        }
    }
    (!text.is_empty()).then(|| ("form", text.trim_end().to_owned()))
}

fn parts(headers: &HeaderMap, body: &str) -> Option<(&'static str, String)> {
    let Fact::Known(names) = form::part_names(headers, body.as_bytes()) else {
        return None;
    };
    let lines: Vec<String> = names
        .iter()
        .map(|name| Value::from(name.as_str()).to_string())
        .collect();
    (!lines.is_empty()).then(|| ("parts", lines.join("\n")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::http::HeldBody;
    use crate::protocol::http::detail;

    fn of(kind: &str, body: &str) -> Option<(&'static str, String)> {
        let request = http::Request::post("/a?b=c")
            .header("x-a", "b: c")
            .header(CONTENT_TYPE, kind);
        let (parts, ()) = request.body(()).ok()?.into_parts();
        let held = match body {
            "" => HeldBody::Empty,
            body => HeldBody::Whole(body.as_bytes()),
        };
        rendered(&detail(&parts, held, None))
    }

    #[test]
    fn bodies_are_rendered_as_what_they_are() {
        let json = of(
            "application/json",
            r#"{"b":[1,{"p\u0061ssword":"hunter2"}],"a":12345678901234567890}"#,
        )
        .unwrap();
        let want = "{\n  \"b\": [\n    1,\n    {\n      \"password\": \"(masked)\"\n    }\n  ],\n  \"a\": 12345678901234567890\n}";
        assert_eq!(json, ("JSON", want.to_owned()));
        let form = of(
            "application/x-www-form-urlencoded",
            "amount=7&to=x%0Ay&to=%E2%80%AEz&tok%65n=abcdef",
        )
        .unwrap();
        let want = "\"amount\" = \"7\"\n\"to\" = \"x\\ny\"\n\"to\" = \"\u{202e}z\"\n\"token\" = \"(masked)\"";
        assert_eq!(form, ("form", want.to_owned()));
        let part =
            |name: &str| format!("--b\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\nvalue\r\n");
        let parts = format!("{}{}--b--\r\n", part("file"), part("note"));
        let parts = of("multipart/form-data; boundary=b", &parts).unwrap();
        assert_eq!(parts, ("parts", "\"file\"\n\"note\"".to_owned()));
    }

    #[test]
    fn a_compressed_body_is_rendered_as_it_was_before() {
        use std::io::Write as _;

        let shown = |coding: &str, body: &[u8]| {
            let request = http::Request::post("/a")
                .header(CONTENT_TYPE, "application/json")
                .header(CONTENT_ENCODING, coding);
            let (parts, ()) = request.body(()).unwrap().into_parts();
            detail(&parts, HeldBody::Whole(body), None)
        };
        let gzip = |body: &[u8]| {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
            encoder.write_all(body).unwrap();
            encoder.finish().unwrap()
        };
        let coded = gzip(br#"{"a":1,"password":"hunter2"}"#);
        let text = shown("gzip", &coded);
        let want = format!("\n\n(decoded; {} bytes as sent)\n{{\"a\":1,", coded.len());
        assert!(text.contains(&want), "{text}");
        let json = "{\n  \"a\": 1,\n  \"password\": \"(masked)\"\n}";
        assert_eq!(rendered(&text), Some(("JSON", json.to_owned())));
        assert_eq!(
            rendered(&shown("identity", b"{}")),
            Some(("JSON", "{}".to_owned()))
        );
        // Nothing that an agent writes stands where the gateway says that it was decoded.
        let posing = b"(decoded; 9 bytes as sent)\n{\"a\":1}";
        for (coding, body) in [
            ("gzip", &posing[..]),
            ("other", &posing[..]),
            ("gzip", &gzip(posing)[..]),
            ("gzip", &[&gzip(b"{}")[..], b"x"].concat()[..]),
            ("gzip, gzip, gzip", &coded[..]),
        ] {
            let text = shown(coding, body);
            assert_eq!(rendered(&text), None, "{text}");
            let is_open = text.contains("\n\n(decoded; ");
            assert_eq!(is_open, coding == "gzip" && body == &gzip(posing)[..], "{text}");
        }
    }

    #[test]
    fn what_can_be_read_in_two_ways_is_not_rendered() {
        for (kind, body) in [
            ("application/json", r#"{"a":1,"a":2}"#),
            ("application/json", "{"),
            ("application/json", ""),
            ("text/plain", "hello"),
            ("application/x-www-form-urlencoded", "a=1;b=2"),
            ("multipart/form-data; boundary=b", "--c\r\n"),
            ("multipart/mixed; boundary=b", "--b\r\n"),
        ] {
            assert_eq!(of(kind, body), None, "{kind} {body}");
        }
        assert_eq!(rendered("SELECT 1"), None);
        assert_eq!(rendered("DELETE /x\nthe whole of it\n\n{}"), None);
        let coded = "POST /a\ncontent-type: application/json\ncontent-encoding: gzip\n\n{}";
        assert_eq!(rendered(coded), None);
    }

    #[test]
    fn a_rendered_body_has_a_size() {
        let deep = |count: usize| {
            format!(
                "{}{}{}",
                "[".repeat(100),
                vec!["1"; count].join(","),
                "]".repeat(100)
            )
        };
        let fits = of("application/json", &deep(1000)).unwrap();
        assert!(fits.1.len() <= RENDERED_BYTES_MAX, "{}", fits.1.len());
        assert_eq!(of("application/json", &deep(1400)), None);
    }
}
