//! Texts as JSON (RFC 8259 section 7), byte for byte as serde_json writes them. *Pure.*
//!
//! A record holds the facts of its action as JSON, and is JSON itself: what is long is escaped twice. serde_json looks at
//! each byte by itself, this at eight at once.

/// Eight times the same byte.
const EACH: u64 = 0x0101_0101_0101_0101;
const HIGH: u64 = EACH << 7;
const HEX: &[u8; 16] = b"0123456789abcdef";

/// Bytes in lower-case hex.
pub(crate) fn hex(bytes: &[u8]) -> String {
    let digit = |digit: u8| char::from(HEX[usize::from(digit & 15)]);
    let pairs = bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(*byte)]);
    let mut text = String::with_capacity(2 * bytes.len());
    text.extend(pairs);
    text
}

/// Adds a text with its quotes.
pub(crate) fn text(out: &mut Vec<u8>, text: &str) {
    let bytes = text.as_bytes();
    out.reserve(bytes.len() + 2);
    out.push(b'"');
    let mut kept = 0;
    let mut at = 0;
    loop {
        if let Some(eight) = bytes.get(at..).and_then(|rest| rest.first_chunk()) {
            let found = escaped(u64::from_le_bytes(*eight));
            // The first of them is where the lowest bit is.
            at += found.trailing_zeros() as usize / 8;
            if found == 0 {
                continue;
            }
        }
        let Some(&byte) = bytes.get(at) else { break };
        let escape = match byte {
            b'"' | b'\\' => byte,
            b'\n' => b'n',
            b'\r' => b'r',
            b'\t' => b't',
            0x08 => b'b',
            0x0C => b'f',
            0..0x20 => b'u',
            _ => {
                at += 1;
                continue;
            }
        };
        between(out, bytes.get(kept..).unwrap_or_default(), at - kept);
        out.extend_from_slice(&[b'\\', escape]);
        if escape == b'u' {
            out.extend_from_slice(&[b'0', b'0', b'0' + (byte >> 4), HEX[usize::from(byte & 15)]]);
        }
        at += 1;
        kept = at;
    }
    out.extend_from_slice(bytes.get(kept..).unwrap_or_default());
    out.push(b'"');
}

/// Adds the first `length` bytes. A few, as stand between the quotes of JSON, are not worth the call that copies many.
fn between(out: &mut Vec<u8>, bytes: &[u8], length: usize) {
    match bytes.first_chunk::<8>() {
        Some(eight) if length <= 8 => {
            let end = out.len() + length;
            out.extend_from_slice(eight);
            out.truncate(end);
        }
        _ => out.extend_from_slice(bytes.get(..length).unwrap_or_default()),
    }
}

/// A high bit for each of eight bytes that is escaped, and perhaps for some that follow the first.
fn escaped(eight: u64) -> u64 {
    // A byte is under a bound where taking the bound from it borrows; it is zero where it is under one.
    let under = |bytes: u64, bound: u64| bytes.wrapping_sub(EACH * bound) & !bytes & HIGH;
    let is = |byte: u8| under(eight ^ (EACH * u64::from(byte)), 1);
    under(eight, 0x20) | is(b'"') | is(b'\\')
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn a_text_is_written_as_serde_json_writes_it(given in "([a-z]{0,9}[\u{0}-\u{7f}é漢]{0,2}){0,6}") {
            let mut out = Vec::new();
            text(&mut out, &given);
            proptest::prop_assert_eq!(out, serde_json::to_vec(&given).unwrap());
        }
    }

    #[test]
    fn bytes_are_written_in_hex() {
        assert_eq!(hex(&[0, 0x0f, 0xa9, 0xff]), "000fa9ff");
    }

    #[test]
    fn every_character_is_written_as_serde_json_writes_it() {
        for char in (0..0x800).filter_map(char::from_u32) {
            for given in [format!("{char}"), format!("abcdefg{char}abcdefg")] {
                let mut out = Vec::new();
                text(&mut out, &given);
                assert_eq!(out, serde_json::to_vec(&given).unwrap(), "{given:?}");
            }
        }
    }
}
