//! Content codings of a held body: gzip, deflate, br, zstd (RFC 9110, section 8.4.1). *Pure.*

use std::borrow::Cow;
use std::io::Read;

use http::HeaderMap;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE};

use crate::facts::Blind;

/// Most codings that may be laid over each other.
pub const CODINGS_MAX: usize = 2;

/// Largest window that a zstd frame may ask for, bytes (RFC 8878, section 3.1.1.1.2).
pub const ZSTD_WINDOW_BYTES_MAX: u64 = 8 << 20;

/// A decoded body as the text that every reader sees.
///
/// # Errors
/// [`Blind::Ambiguous`] for a byte-order mark, or several types or charsets; [`Blind::Opaque`] for
/// another charset than UTF-8, bytes that are not UTF-8, or NUL (UTF-16 and UTF-32 have it).
pub fn text<'a>(headers: &HeaderMap, decoded: &'a [u8]) -> Result<&'a str, Blind> {
    let marks: [&[u8]; 3] = [b"\xef\xbb\xbf", b"\xfe\xff", b"\xff\xfe"];
    if marks.iter().any(|mark| decoded.starts_with(mark)) {
        return Err(Blind::Ambiguous);
    }
    let readable = match charset(headers)?.as_deref() {
        None | Some("utf-8" | "utf8") => true,
        Some("us-ascii" | "ascii" | "iso-8859-1" | "latin1" | "windows-1252") => decoded.is_ascii(),
        Some(_) => false,
    };
    if !readable || memchr::memchr(0, decoded).is_some() {
        return Err(Blind::Opaque);
    }
    std::str::from_utf8(decoded).map_err(|_| Blind::Opaque)
}

/// The charset that `Content-Type` names, in lower case.
fn charset(headers: &HeaderMap) -> Result<Option<String>, Blind> {
    let mut types = headers.get_all(CONTENT_TYPE).iter();
    let Some(first) = types.next() else {
        return Ok(None);
    };
    if types.next().is_some() {
        return Err(Blind::Ambiguous);
    }
    let line = first.to_str().map_err(|_| Blind::Ambiguous)?.to_ascii_lowercase();
    let mut found = None;
    for parameter in line.split(';').skip(1) {
        let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        if name.trim() == "charset" && found.replace(value.trim().trim_matches('"').to_owned()).is_some() {
            return Err(Blind::Ambiguous);
        }
    }
    Ok(found)
}

/// Undoes the content codings that the headers name, last applied first.
///
/// # Errors
/// [`Blind::Truncated`] over `bytes_max` decoded bytes, [`Blind::Opaque`] for an unknown coding,
/// [`Blind::Unparseable`] for a broken one, [`Blind::Ambiguous`] for bytes after the end.
pub fn decode<'a>(headers: &HeaderMap, sent: &'a [u8], bytes_max: usize) -> Result<Cow<'a, [u8]>, Blind> {
    let mut codings = Vec::new();
    for value in headers.get_all(CONTENT_ENCODING) {
        let text = value.to_str().map_err(|_| Blind::Unparseable)?;
        codings.extend(text.split(',').map(|coding| coding.trim().to_ascii_lowercase()));
    }
    codings.retain(|coding| !coding.is_empty() && coding != "identity");
    if codings.len() > CODINGS_MAX {
        return Err(Blind::Opaque);
    }
    let mut bytes = Cow::Borrowed(sent);
    for coding in codings.iter().rev() {
        bytes = Cow::Owned(undo(coding, &bytes, bytes_max)?);
    }
    if bytes.len() > bytes_max {
        return Err(Blind::Truncated);
    }
    Ok(bytes)
}

fn undo(coding: &str, bytes: &[u8], bytes_max: usize) -> Result<Vec<u8>, Blind> {
    match coding {
        "gzip" | "x-gzip" => {
            // `GzDecoder` over a slice leaves what stands behind the member.
            let mut decoder = flate2::bufread::GzDecoder::new(bytes);
            let out = drain(&mut decoder, bytes_max)?;
            end_of(decoder.into_inner()).map(|()| out)
        }
        // RFC 9110 says zlib; some clients send raw deflate. A body that is both is not to be had.
        "deflate" if bytes.first().is_some_and(|byte| byte & 0x0f == 8) => {
            let mut decoder = flate2::bufread::ZlibDecoder::new(bytes);
            let out = drain(&mut decoder, bytes_max)?;
            end_of(decoder.into_inner()).map(|()| out)
        }
        "deflate" => {
            let mut decoder = flate2::bufread::DeflateDecoder::new(bytes);
            let out = drain(&mut decoder, bytes_max)?;
            end_of(decoder.into_inner()).map(|()| out)
        }
        "br" => {
            // One byte a read, so that what stands behind the end is left in `rest`.
            let mut rest = bytes;
            let out = drain(
                &mut brotli_decompressor::Decompressor::new(&mut rest, 1),
                bytes_max,
            )?;
            end_of(rest).map(|()| out)
        }
        "zstd" => {
            let mut rest = bytes;
            let out = {
                let mut decoder = ruzstd::decoding::StreamingDecoder::new_with_max_window_size(
                    &mut rest,
                    ZSTD_WINDOW_BYTES_MAX,
                )
                .map_err(|_| Blind::Unparseable)?;
                drain(&mut decoder, bytes_max)?
            };
            end_of(rest).map(|()| out)
        }
        _ => Err(Blind::Opaque),
    }
}

fn drain(decoder: &mut impl Read, bytes_max: usize) -> Result<Vec<u8>, Blind> {
    let mut out = Vec::new();
    let limit = u64::try_from(bytes_max).unwrap_or(u64::MAX).saturating_add(1);
    decoder
        .take(limit)
        .read_to_end(&mut out)
        .map_err(|_| Blind::Unparseable)?;
    if out.len() > bytes_max {
        Err(Blind::Truncated)
    } else {
        Ok(out)
    }
}

/// Bytes after the coded body are read by some servers and dropped by others.
fn end_of(rest: &[u8]) -> Result<(), Blind> {
    if rest.is_empty() {
        Ok(())
    } else {
        Err(Blind::Ambiguous)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn headers(coding: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_ENCODING, coding.parse().unwrap());
        headers
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn zlib(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    /// `{"a":1}` by the reference encoders of brotli and zstd.
    const BROTLI: &[u8] = &[0x0b, 0x03, 0x80, 0x7b, 0x22, 0x61, 0x22, 0x3a, 0x31, 0x7d, 0x03];
    const ZSTD: &[u8] = &[
        0x28, 0xb5, 0x2f, 0xfd, 0x20, 0x07, 0x39, 0x00, 0x00, 0x7b, 0x22, 0x61, 0x22, 0x3a, 0x31, 0x7d,
    ];

    #[test]
    fn each_coding_is_undone() {
        let body = br#"{"a":1}"#;
        for (coding, bytes) in [
            ("gzip", gzip(body)),
            ("X-GZIP", gzip(body)),
            ("deflate", zlib(body)),
            ("br", BROTLI.to_vec()),
            ("zstd", ZSTD.to_vec()),
            ("identity", body.to_vec()),
            ("deflate, gzip", gzip(&zlib(body))),
        ] {
            assert_eq!(
                decode(&headers(coding), &bytes, 100).as_deref(),
                Ok(&body[..]),
                "{coding}"
            );
        }
    }

    #[test]
    fn what_cannot_be_undone_is_named() {
        let body = gzip(&[b'x'; 1000]);
        assert_eq!(decode(&headers("gzip"), &body, 999), Err(Blind::Truncated));
        assert!(decode(&headers("gzip"), &body, 1000).is_ok());
        assert_eq!(
            decode(&headers("gzip"), &body[..20], 1000),
            Err(Blind::Unparseable)
        );
        assert_eq!(decode(&headers("compress"), &body, 1000), Err(Blind::Opaque));
        assert_eq!(
            decode(&headers("gzip, gzip, gzip"), &body, 1000),
            Err(Blind::Opaque)
        );
        let twice = [body.clone(), body].concat();
        assert_eq!(decode(&headers("gzip"), &twice, 9000), Err(Blind::Ambiguous));
    }

    #[test]
    fn a_zstd_frame_may_ask_for_a_window_of_so_much() {
        // RFC 8878: magic, no flags, a window of 2^(10 + n) bytes, and one raw block, the last.
        let frame = |n: u8| [b"\x28\xb5\x2f\xfd\x00", &[n << 3][..], b"\x19\x00\x00abc"].concat();
        assert_eq!(
            decode(&headers("zstd"), &frame(13), 100).as_deref(),
            Ok(&b"abc"[..])
        );
        assert_eq!(decode(&headers("zstd"), &frame(14), 100), Err(Blind::Unparseable));
    }

    #[test]
    fn bytes_behind_the_end_are_ambiguous_in_every_coding() {
        let body = br#"{"a":1}"#;
        for (coding, bytes) in [
            ("gzip", gzip(body)),
            ("deflate", zlib(body)),
            ("br", BROTLI.to_vec()),
            ("zstd", ZSTD.to_vec()),
        ] {
            let longer = [bytes, b"{}".to_vec()].concat();
            let got = decode(&headers(coding), &longer, 100);
            assert!(
                matches!(got, Err(Blind::Ambiguous | Blind::Unparseable)),
                "{coding} {got:?}"
            );
        }
    }

    #[test]
    fn text_is_what_every_reader_sees() {
        let check = |kind: &str, bytes: &[u8], want: Result<&str, Blind>| {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_TYPE, kind.parse().unwrap());
            assert_eq!(text(&headers, bytes), want, "{kind} {bytes:?}");
        };
        check("text/plain", "é".as_bytes(), Ok("é"));
        check("text/plain; charset=\"UTF-8\"", "é".as_bytes(), Ok("é"));
        check("text/plain; charset=latin1", b"e", Ok("e"));
        check("text/plain; charset=latin1", "é".as_bytes(), Err(Blind::Opaque));
        check("application/json; charset=utf-7", b"{}", Err(Blind::Opaque));
        check(
            "application/json; charset=utf-8; charset=utf-16",
            b"{}",
            Err(Blind::Ambiguous),
        );
        check("application/json", b"\xef\xbb\xbf{}", Err(Blind::Ambiguous));
        check("application/json", b"\xff\xfe{\0}\0", Err(Blind::Ambiguous));
        check("application/json", b"{\0}\0", Err(Blind::Opaque));
        check("application/json", b"\xff", Err(Blind::Opaque));
    }

    proptest::proptest! {
        #[test]
        fn never_panics(bytes: Vec<u8>, coding in "gzip|deflate|br|zstd") {
            let _ = decode(&headers(&coding), &bytes, 1 << 16);
        }
    }
}
