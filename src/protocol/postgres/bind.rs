//! Reads a Bind message: which statement, which portal, and the parameters as facts.

use bytes::{Buf as _, Bytes};
use serde_json::Value;

use super::wire::{HEADER_BYTES, take_text};
use crate::facts::{Blind, Fact};

/// Object identifiers of types whose binary form is read (`pg_type.dat`).
const BOOL: u32 = 16;
const BYTEA: u32 = 17;
const INT8: u32 = 20;
const INT2: u32 = 21;
const INT4: u32 = 23;
const OID: u32 = 26;
const FLOAT4: u32 = 700;
const FLOAT8: u32 = 701;
const UUID: u32 = 2950;
const JSONB: u32 = 3802;
/// `text`, `varchar`, `bpchar`, `name`, `unknown`, `json`, `xml`: the binary form is the text.
const TEXTS: [u32; 7] = [25, 1043, 1042, 19, 705, 114, 142];

/// The only version of `jsonb`'s binary form (`jsonb_send`).
const JSONB_VERSION: u8 = 1;

/// Where PostgreSQL writes a float without an exponent, as Rust does.
const PLAIN_FLOATS: std::ops::Range<f64> = 1e-4..1e15;
/// The same for `float4`, which has fewer digits.
const PLAIN_FLOATS4: std::ops::Range<f32> = 1e-4..1e6;

/// Bytes of parameters that are written out for people where not all of them can be read.
pub const SHOWN_BYTES_MAX: usize = 64 << 10;

/// A Bind, read.
#[derive(Debug)]
pub struct Bind {
    pub portal: String,
    pub statement: String,
    /// A JSON list; unknown if one parameter's binary form is of a type that is not read.
    pub parameters: Fact<Value>,
}

/// A value as it stands in a Bind.
struct Raw {
    /// `None` for NULL.
    bytes: Option<Bytes>,
    is_text: bool,
    oid: u32,
}

/// Reads a payload; `types` are the parameter types of the Parse (0 or absent: undeclared).
pub fn read(payload: Bytes, types: &[u32]) -> Option<Bind> {
    let (portal, statement, raw) = take(payload, types)?;
    let mut known = true;
    let values = raw.into_iter().map(|raw| {
        let Some(bytes) = raw.bytes else {
            return Value::Null;
        };
        let text = match raw.is_text {
            true => String::from_utf8(bytes.to_vec()).ok(),
            false => binary(&bytes, raw.oid),
        };
        known &= text.is_some();
        text.map_or(Value::Null, Value::String)
    });
    let values: Vec<Value> = values.collect();
    let parameters = match known {
        true => Fact::Known(Value::Array(values)),
        false => Fact::Unknown(Blind::Opaque),
    };
    Some(Bind {
        portal,
        statement,
        parameters,
    })
}

/// The parameters for people, a line each, whatever their form; `None` where they are too long for that. No quote of a
/// value stands in it as such, so that it is read as no SQL.
pub fn shown(payload: Bytes, types: &[u32]) -> Option<String> {
    let (_, _, raw) = take(payload, types)?;
    let bytes = |raw: &Raw| raw.bytes.as_ref().map_or(0, Bytes::len);
    if raw.iter().map(bytes).sum::<usize>() > SHOWN_BYTES_MAX {
        return None;
    }
    let lines = raw.iter().enumerate().map(|(at, raw)| {
        let shown = match (&raw.bytes, raw.is_text) {
            (None, _) => "NULL".to_owned(),
            (Some(bytes), true) => plain(&String::from_utf8_lossy(bytes)),
            (Some(bytes), false) => format!("in binary, type {}: {}", raw.oid, hex(bytes)),
        };
        format!("${} = {shown}", at + 1)
    });
    Some(lines.collect::<Vec<_>>().join("\n"))
}

/// One parameter that was read.
pub fn shown_value(value: &Value) -> String {
    value.as_str().map_or_else(|| "NULL".to_owned(), plain)
}

/// The name of the statement in a whole Bind.
pub fn statement(message: &Bytes) -> Option<String> {
    let mut payload = message
        .get(HEADER_BYTES..)
        .map(|payload| message.slice_ref(payload))?;
    take_text(&mut payload)?;
    take_text(&mut payload)
}

fn plain(text: &str) -> String {
    let is_plain = |char: char| char.is_alphanumeric() || " _.,:/+-@=".contains(char);
    let chars = text.chars().map(|char| match is_plain(char) {
        true => char.to_string(),
        false => char.escape_unicode().to_string(),
    });
    chars.collect()
}

/// As `bytea` is written.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold("\\x".to_owned(), |mut text, byte| {
        text.push(char::from_digit(u32::from(byte >> 4), 16).unwrap_or_default());
        text.push(char::from_digit(u32::from(byte & 15), 16).unwrap_or_default());
        text
    })
}

/// The portal, the statement, and the values.
fn take(mut payload: Bytes, types: &[u32]) -> Option<(String, String, Vec<Raw>)> {
    let portal = take_text(&mut payload)?;
    let statement = take_text(&mut payload)?;
    let formats = (0..payload.try_get_u16().ok()?)
        .map(|_| payload.try_get_i16().ok())
        .collect::<Option<Vec<_>>>()?;
    let count = usize::from(payload.try_get_u16().ok()?);
    if formats.len() > 1 && formats.len() != count {
        return None;
    }
    let mut values = Vec::with_capacity(count);
    for index in 0..count {
        let length = payload.try_get_i32().ok()?;
        let bytes = match usize::try_from(length) {
            Ok(length) if payload.len() < length => return None,
            Ok(length) => Some(payload.split_to(length)),
            Err(_) => None,
        };
        let format = match formats.as_slice() {
            [] => 0,
            [one] => *one,
            many => many.get(index).copied()?,
        };
        values.push(Raw {
            bytes,
            is_text: format == 0,
            oid: types.get(index).copied().unwrap_or_default(),
        });
    }
    Some((portal, statement, values))
}

/// The text of a binary value, for the types that are read.
fn binary(bytes: &[u8], oid: u32) -> Option<String> {
    match oid {
        BOOL => match bytes {
            [0] => Some("f".to_owned()),
            [1] => Some("t".to_owned()),
            _ => None,
        },
        INT2 => Some(i16::from_be_bytes(bytes.try_into().ok()?).to_string()),
        INT4 => Some(i32::from_be_bytes(bytes.try_into().ok()?).to_string()),
        INT8 => Some(i64::from_be_bytes(bytes.try_into().ok()?).to_string()),
        OID => Some(u32::from_be_bytes(bytes.try_into().ok()?).to_string()),
        FLOAT4 => {
            let value = f32::from_be_bytes(bytes.try_into().ok()?);
            (value == 0.0 || PLAIN_FLOATS4.contains(&value.abs())).then(|| value.to_string())
        }
        FLOAT8 => {
            let value = f64::from_be_bytes(bytes.try_into().ok()?);
            (value == 0.0 || PLAIN_FLOATS.contains(&value.abs())).then(|| value.to_string())
        }
        BYTEA => Some(hex(bytes)),
        JSONB => match bytes.split_first()? {
            (&JSONB_VERSION, text) => String::from_utf8(text.to_vec()).ok(),
            _ => None,
        },
        UUID => {
            let mut text = format!("{:032x}", u128::from_be_bytes(bytes.try_into().ok()?));
            for at in [20, 16, 12, 8] {
                text.insert(at, '-');
            }
            Some(text)
        }
        oid if TEXTS.contains(&oid) => String::from_utf8(bytes.to_vec()).ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_read_as_text() {
        let mut payload = b"p\0s\0\0\x01\0\x01\0\x03".to_vec();
        payload.extend_from_slice(&[0, 0, 0, 4, 0, 0, 0, 7]);
        payload.extend_from_slice(&[0xff; 4]);
        payload.extend_from_slice(&[0, 0, 0, 2, b'a', b'b', 0, 0]);
        let bind = read(Bytes::from(payload.clone()), &[INT4, 0, 25]).unwrap();
        assert_eq!(bind.parameters, Fact::Known(serde_json::json!(["7", null, "ab"])));
        let blind = read(Bytes::from(payload.clone()), &[]).unwrap();
        assert_eq!(blind.parameters, Fact::Unknown(Blind::Opaque));
        for end in 0..payload.len() - 2 {
            assert!(read(Bytes::copy_from_slice(&payload[..end]), &[INT4, 0, 25]).is_none());
        }
    }

    #[test]
    fn parameters_are_written_out_within_bounds() {
        let bind = |formats: &[u8], values: &[Option<&[u8]>]| {
            let mut payload = b"p\0s\0\0".to_vec();
            payload.push(u8::try_from(formats.len()).unwrap());
            formats.iter().for_each(|format| payload.extend([0, *format]));
            payload.extend(u16::try_from(values.len()).unwrap().to_be_bytes());
            for value in values {
                let length = value.map_or(-1, |value| i32::try_from(value.len()).unwrap());
                payload.extend(length.to_be_bytes());
                payload.extend(value.unwrap_or_default());
            }
            payload.extend([0, 0]);
            Bytes::from(payload)
        };
        let whole = bind(&[0, 1, 0], &[Some(b"it's $$\n2"), Some(&[0, 0xab]), None]);
        let shown = shown(whole, &[25, 1231]).unwrap();
        let want = "$1 = it\\u{27}s \\u{24}\\u{24}\\u{a}2\n$2 = in binary, type 1231: \\x00ab\n$3 = NULL";
        assert_eq!(shown, want);
        let long = |bytes: usize| super::shown(bind(&[1], &[Some(&vec![7; bytes])]), &[]);
        assert!(long(SHOWN_BYTES_MAX).is_some() && long(SHOWN_BYTES_MAX + 1).is_none());
        assert_eq!(super::shown(bind(&[], &[]), &[]).as_deref(), Some(""));
    }

    #[test]
    fn binary_values_are_read_as_the_server_writes_them() {
        let check = |oid: u32, bytes: &[u8], want: Option<&str>| {
            assert_eq!(binary(bytes, oid).as_deref(), want, "{oid} {bytes:?}");
        };
        check(BOOL, &[1], Some("t"));
        check(BOOL, &[2], None);
        check(INT2, &(-2_i16).to_be_bytes(), Some("-2"));
        check(INT8, &i64::MIN.to_be_bytes(), Some("-9223372036854775808"));
        check(INT8, &[1, 2, 3], None);
        check(OID, &u32::MAX.to_be_bytes(), Some("4294967295"));
        check(FLOAT8, &0.1_f64.to_be_bytes(), Some("0.1"));
        check(FLOAT8, &(-1e14_f64).to_be_bytes(), Some("-100000000000000"));
        check(FLOAT8, &1e15_f64.to_be_bytes(), None);
        check(FLOAT8, &f64::NAN.to_be_bytes(), None);
        check(FLOAT4, &0.1_f32.to_be_bytes(), Some("0.1"));
        check(FLOAT4, &1e6_f32.to_be_bytes(), None);
        check(BYTEA, &[0, 0xab], Some("\\x00ab"));
        check(JSONB, b"\x01{}", Some("{}"));
        check(JSONB, b"\x02{}", None);
        check(114, b"{}", Some("{}"));
        check(25, &[0xff], None);
        check(
            UUID,
            &0x0011_2233_4455_6677_8899_aabb_ccdd_eeff_u128.to_be_bytes(),
            Some("00112233-4455-6677-8899-aabbccddeeff"),
        );
        check(1114, &[0; 8], None);
        check(0, b"a", None);
    }
}
