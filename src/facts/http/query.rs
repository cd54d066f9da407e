//! Query strings, as `application/x-www-form-urlencoded` (WHATWG URL, section 5.1). *Pure.*

use percent_encoding::percent_decode_str;

use crate::facts::{Blind, Fact};

/// Most parameters that are read.
pub const PARAMETERS_MAX: usize = 1024;

/// The decoded parameters, keys unique, values in order.
///
/// Unknown where servers differ: a raw `;` (some split there, some do not), a broken escape, a name that begins with a blank
/// (which PHP leaves out) or has a NUL (where it ends there).
pub fn read(raw: &str) -> Fact<Vec<(String, Vec<String>)>> {
    if raw.contains(';') {
        return Fact::Unknown(Blind::Ambiguous);
    }
    let mut pairs: Vec<(String, Vec<String>)> = Vec::new();
    for (count, part) in raw.split('&').filter(|part| !part.is_empty()).enumerate() {
        if count >= PARAMETERS_MAX {
            return Fact::Unknown(Blind::Truncated);
        }
        let (key, value) = part.split_once('=').unwrap_or((part, ""));
        let (Some(key), Some(value)) = (decode(key), decode(value)) else {
            return Fact::Unknown(Blind::Ambiguous);
        };
        if key.starts_with(' ') || key.contains('\0') {
            return Fact::Unknown(Blind::Ambiguous);
        }
        match pairs.iter_mut().find(|(known, _)| *known == key) {
            Some((_, values)) => values.push(value),
            None => pairs.push((key, vec![value])),
        }
    }
    Fact::Known(pairs)
}

pub(crate) fn decode(text: &str) -> Option<String> {
    let bytes = text.as_bytes();
    let broken = bytes.iter().enumerate().any(|(at, byte)| {
        *byte == b'%'
            && !bytes
                .get(at + 1..at + 3)
                .is_some_and(|hex| hex.iter().all(u8::is_ascii_hexdigit))
    });
    if broken {
        return None;
    }
    let spaced = text.replace('+', " ");
    percent_decode_str(&spaced)
        .decode_utf8()
        .ok()
        .map(|text| text.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(raw: &str, want: &[(&str, &[&str])]) {
        let want = want
            .iter()
            .map(|(key, values)| {
                (
                    (*key).to_owned(),
                    values.iter().map(|v| (*v).to_owned()).collect(),
                )
            })
            .collect();
        assert_eq!(read(raw), Fact::Known(want), "{raw}");
    }

    #[test]
    fn parameters_are_decoded_in_order() {
        check("", &[]);
        check("a=1&b=2&a=3", &[("a", &["1", "3"]), ("b", &["2"])]);
        check("q=a+b%20c&flag", &[("q", &["a b c"]), ("flag", &[""])]);
        check("a=b=c&&x=", &[("a", &["b=c"]), ("x", &[""])]);
    }

    #[test]
    fn what_servers_read_differently_is_unknown() {
        for raw in [
            "a=1;force=true",
            "+force=1",
            "%20force=1",
            "force%00x=1",
            "a=%zz",
            "a=%f",
            "%ff=1",
        ] {
            assert_eq!(read(raw), Fact::Unknown(Blind::Ambiguous), "{raw}");
        }
        let many = "a=1&".repeat(PARAMETERS_MAX + 1);
        assert_eq!(read(&many), Fact::Unknown(Blind::Truncated));
    }
}
