//! Bodies of forms: `application/x-www-form-urlencoded` and `multipart/form-data` (RFC 7578). *Pure.*
//!
//! Of a multipart body the names of its parts are read. Readers of multipart differ much in what
//! they let pass, so only what all of them read alike has names; all else is ambiguous.

use http::HeaderMap;
use http::header::CONTENT_TYPE;

use super::query;
use crate::facts::{Blind, Fact};

/// Parts of one body.
pub const PARTS_MAX: usize = 256;

/// Bytes of the head of one part.
pub const PART_HEAD_BYTES_MAX: usize = 4 << 10;

/// The media type of a body, in lower case, without its parameters; `None` where there is none.
///
/// # Errors
/// [`Blind::Ambiguous`] where several are named, or where readers differ in where it ends: Rack's ends at a comma too, and
/// PHP's at a blank.
pub fn media_type(headers: &HeaderMap) -> Result<Option<String>, Blind> {
    let Some(line) = content_type(headers)? else {
        return Ok(None);
    };
    let kind = line.split(';').next().unwrap_or_default().trim();
    match kind.contains([',', ' ', '\t']) {
        true => Err(Blind::Ambiguous),
        false => Ok(Some(kind.to_ascii_lowercase())),
    }
}

fn content_type(headers: &HeaderMap) -> Result<Option<&str>, Blind> {
    let mut types = headers.get_all(CONTENT_TYPE).iter();
    match (types.next(), types.next()) {
        (None, _) => Ok(None),
        (Some(one), None) => one.to_str().map(Some).map_err(|_| Blind::Ambiguous),
        _ => Err(Blind::Ambiguous),
    }
}

/// The fields of a urlencoded form; none for any other body. A body of no type is a form to Rack, but for JSON in which no
/// form's fields are.
pub fn fields(headers: &HeaderMap, body: &[u8]) -> Fact<Vec<(String, Vec<String>)>> {
    match media_type(headers) {
        Ok(None) if !body.is_empty() && !is_json_alone(body) => return Fact::Unknown(Blind::Ambiguous),
        Ok(Some(kind)) if kind == "application/x-www-form-urlencoded" => {}
        Ok(_) => return Fact::Known(Vec::new()),
        Err(blind) => return Fact::Unknown(blind),
    }
    match super::body::text(headers, body) {
        Ok(text) => query::read(text),
        Err(blind) => Fact::Unknown(blind),
    }
}

fn is_json_alone(body: &[u8]) -> bool {
    body.starts_with(b"{") && memchr::memchr2(b'=', b'&', body).is_none()
}

/// The names of the parts of a multipart form, in order; none for any other body.
pub fn part_names(headers: &HeaderMap, body: &[u8]) -> Fact<Vec<String>> {
    match media_type(headers) {
        Ok(Some(kind)) if kind == "multipart/form-data" => {}
        // A server that takes any multipart for a form would read this one too.
        Ok(Some(kind)) if kind.starts_with("multipart/") => return Fact::Unknown(Blind::Ambiguous),
        Ok(_) => return Fact::Known(Vec::new()),
        Err(blind) => return Fact::Unknown(blind),
    }
    let line = content_type(headers).ok().flatten().unwrap_or_default();
    match boundary(line).and_then(|boundary| names(&boundary, body)) {
        Ok(names) => Fact::Known(names),
        Err(blind) => Fact::Unknown(blind),
    }
}

/// The only `boundary` of a content type, of the characters that need no quoting.
pub(crate) fn boundary(line: &str) -> Result<String, Blind> {
    let mut found = None;
    for parameter in line.split(';').skip(1) {
        let (name, value) = parameter.split_once('=').ok_or(Blind::Ambiguous)?;
        let value = value.trim();
        let value = match value.strip_prefix('"') {
            Some(quoted) => quoted.strip_suffix('"').ok_or(Blind::Ambiguous)?,
            None => value,
        };
        let name = name.trim().to_ascii_lowercase();
        if name.starts_with("boundary") && (name != "boundary" || found.replace(value).is_some()) {
            return Err(Blind::Ambiguous);
        }
    }
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'\'' | b'+');
    match found {
        Some(text) if (1..=70).contains(&text.len()) && text.bytes().all(plain) => Ok(text.to_owned()),
        _ => Err(Blind::Ambiguous),
    }
}

fn names(boundary: &str, body: &[u8]) -> Result<Vec<String>, Blind> {
    let first = format!("--{boundary}\r\n");
    let mut rest = body.strip_prefix(first.as_bytes()).ok_or(Blind::Ambiguous)?;
    let close = format!("\r\n--{boundary}");
    let finder = memchr::memmem::Finder::new(close.as_bytes());
    // A boundary behind a bare line feed begins a part to some readers.
    let loose = format!("\n--{boundary}");
    let all = memchr::memmem::find_iter(body, loose.as_bytes()).count();
    let mut names = Vec::new();
    let mut strict = 0;
    loop {
        if names.len() == PARTS_MAX {
            return Err(Blind::Truncated);
        }
        let head_end = memchr::memmem::find(rest, b"\r\n\r\n").ok_or(Blind::Ambiguous)?;
        let head = rest.get(..head_end).ok_or(Blind::Ambiguous)?;
        if head.len() > PART_HEAD_BYTES_MAX {
            return Err(Blind::Truncated);
        }
        names.push(name_of(head)?);
        // The blank line's own line break may begin the boundary, where a part is empty.
        let content = rest.get(head_end + 2..).ok_or(Blind::Ambiguous)?;
        let end = finder.find(content).ok_or(Blind::Ambiguous)?;
        strict += 1;
        let behind = content.get(end + close.len()..).ok_or(Blind::Ambiguous)?;
        match behind {
            b"--" | b"--\r\n" if strict == all => return Ok(names),
            _ => rest = behind.strip_prefix(b"\r\n").ok_or(Blind::Ambiguous)?,
        }
    }
}

/// The name in the head of a part.
pub(crate) fn name_of(head: &[u8]) -> Result<String, Blind> {
    let text = std::str::from_utf8(head).map_err(|_| Blind::Ambiguous)?;
    let mut name = None;
    for line in text.split("\r\n") {
        let (field, value) = line.split_once(':').ok_or(Blind::Ambiguous)?;
        if field
            .bytes()
            .any(|byte| !byte.is_ascii_alphanumeric() && byte != b'-')
            || line.contains(['\r', '\n', '\0'])
        {
            return Err(Blind::Ambiguous);
        }
        if !field.eq_ignore_ascii_case("content-disposition") {
            continue;
        }
        if name.replace(disposition(value)?).is_some() {
            return Err(Blind::Ambiguous);
        }
    }
    name.ok_or(Blind::Ambiguous)
}

/// `form-data; name="…"`, with at most a file name behind it.
fn disposition(value: &str) -> Result<String, Blind> {
    let rest = value
        .trim_start()
        .strip_prefix("form-data")
        .ok_or(Blind::Ambiguous)?;
    let mut rest = rest;
    let (mut name, mut filename) = (None, None);
    while !rest.trim_start().is_empty() {
        rest = rest
            .trim_start()
            .strip_prefix(';')
            .ok_or(Blind::Ambiguous)?
            .trim_start();
        let (key, behind) = rest.split_once("=\"").ok_or(Blind::Ambiguous)?;
        let (text, behind) = behind.split_once('"').ok_or(Blind::Ambiguous)?;
        // Browsers write a quote as %22, others with a backslash.
        if text.contains(['\\', '%']) {
            return Err(Blind::Ambiguous);
        }
        let slot = match key {
            "name" => &mut name,
            "filename" => &mut filename,
            _ => return Err(Blind::Ambiguous),
        };
        if slot.replace(text).is_some() {
            return Err(Blind::Ambiguous);
        }
        rest = behind;
    }
    name.map(str::to_owned).ok_or(Blind::Ambiguous)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(kind: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, kind.parse().unwrap());
        headers
    }

    fn multipart(body: &str) -> Fact<Vec<String>> {
        part_names(&headers("multipart/form-data; boundary=XX"), body.as_bytes())
    }

    #[test]
    fn fields_of_a_form() {
        let form = headers("application/x-www-form-urlencoded; charset=UTF-8");
        let want = vec![
            ("a".to_owned(), vec!["1".to_owned(), "x y".to_owned()]),
            ("b".to_owned(), vec![String::new()]),
        ];
        assert_eq!(fields(&form, b"a=1&b=&a=x+%79"), Fact::Known(want));
        assert_eq!(fields(&form, b"a=1;b=2"), Fact::Unknown(Blind::Ambiguous));
        assert_eq!(fields(&form, b"\xff"), Fact::Unknown(Blind::Opaque));
        assert_eq!(fields(&headers("text/plain"), b"a=1"), Fact::Known(Vec::new()));
        assert_eq!(fields(&headers("text/plain ;a"), b"a=1"), Fact::Known(Vec::new()));
        for more in [", x", " x", "\tx"] {
            let kind = format!("application/x-www-form-urlencoded{more}");
            let got = fields(&headers(&kind), b"a=1");
            assert_eq!(got, Fact::Unknown(Blind::Ambiguous), "{kind}");
        }
        for body in ["a=1", "force", r#"{"a":"&force=1"}"#] {
            let got = fields(&HeaderMap::new(), body.as_bytes());
            assert_eq!(got, Fact::Unknown(Blind::Ambiguous), "{body}");
        }
        assert_eq!(fields(&HeaderMap::new(), br#"{"a":1}"#), Fact::Known(Vec::new()));
        assert_eq!(fields(&HeaderMap::new(), b""), Fact::Known(Vec::new()));
        let mut two = form;
        two.append(CONTENT_TYPE, "text/plain".parse().unwrap());
        assert_eq!(fields(&two, b"a=1"), Fact::Unknown(Blind::Ambiguous));
    }

    #[test]
    fn names_of_parts() {
        let body = "--XX\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\n1\r\n--XX\r\n\
                    content-disposition: form-data; name=\"f\"; filename=\"x.txt\"\r\nContent-Type: text/plain\r\n\r\n\r\n--XX--\r\n";
        assert_eq!(multipart(body), Fact::Known(vec!["a".to_owned(), "f".to_owned()]));
        let other = part_names(&headers("application/json"), b"{}");
        assert_eq!(other, Fact::Known(Vec::new()));
    }

    #[test]
    fn what_readers_take_apart_differently_is_ambiguous() {
        let part = |head: &str| format!("--XX\r\n{head}\r\n\r\n1\r\n--XX--\r\n");
        for body in [
            String::new(),
            "--XX--\r\n".to_owned(),
            format!("preamble\r\n{}", part("Content-Disposition: form-data; name=\"a\"")),
            format!("{}epilogue", part("Content-Disposition: form-data; name=\"a\"")),
            part("Content-Disposition: form-data"),
            part("Content-Disposition: form-data; name=a"),
            part("Content-Disposition: form-data; name=\"a\"; name=\"b\""),
            part("Content-Disposition: form-data; name=\"a\"; name*=UTF-8''b"),
            part("Content-Disposition: form-data; name=\"a\\\"b\""),
            part("Content-Disposition: form-data; name=\"a%22\""),
            part("Content-Disposition: attachment; name=\"a\""),
            part("Content-Disposition: form-data; name=\"a\"\r\nContent-Disposition: form-data; name=\"b\""),
            part("Content-Disposition : form-data; name=\"a\""),
            part("Content-Disposition: form-data;\r\n name=\"a\""),
            part("Content-Type: text/plain"),
            "--XX\nContent-Disposition: form-data; name=\"a\"\n\n1\n--XX--\n".to_owned(),
            "--XX\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\n1\n--XX\r\nContent-Disposition: form-data; name=\"b\"\r\n\r\n2\r\n--XX--".to_owned(),
            "--XX\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\n1\r\n--XX \r\n\r\n--XX--".to_owned(),
        ] {
            assert_eq!(multipart(&body), Fact::Unknown(Blind::Ambiguous), "{body}");
        }
        let good = part("Content-Disposition: form-data; name=\"a\"");
        for kind in [
            "multipart/form-data",
            "multipart/form-data; boundary=",
            "multipart/form-data; boundary=XX; boundary=YY",
            "multipart/form-data; boundary*=XX",
            "multipart/form-data; boundary=\"X X\"",
            "multipart/mixed; boundary=XX",
        ] {
            let got = part_names(&headers(kind), good.as_bytes());
            assert_eq!(got, Fact::Unknown(Blind::Ambiguous), "{kind}");
        }
    }

    #[test]
    fn many_parts_and_long_heads_are_too_much() {
        let part = "--XX\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\n1\r\n";
        let body = |count: usize| format!("{}--XX--\r\n", part.repeat(count));
        assert!(matches!(multipart(&body(PARTS_MAX)), Fact::Known(names) if names.len() == PARTS_MAX));
        assert_eq!(multipart(&body(PARTS_MAX + 1)), Fact::Unknown(Blind::Truncated));
        let long = format!("X-Y: {}", "z".repeat(PART_HEAD_BYTES_MAX));
        let body = format!("--XX\r\n{long}\r\n\r\n1\r\n--XX--");
        assert_eq!(multipart(&body), Fact::Unknown(Blind::Truncated));
    }

    proptest::proptest! {
        #[test]
        fn never_panics(body in "(--XX|\r\n|--|Content-Disposition: form-data|; name=\"a\"|:|x){0,16}") {
            let _ = multipart(&body);
        }
    }
}
