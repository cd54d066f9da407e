//! Reads a Bind message: which statement, which portal, and the parameters as facts and for people.

mod shown;

use bytes::{Buf as _, Bytes};
use serde_json::Value;

use super::wire::take_text;
use crate::facts::sql::{Parameters, Seen};
pub use shown::{ARRAY_TIMES_MAX, NUMERIC_DIGITS_MAX, ZEROS_MAX};

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

/// A Bind, read.
#[derive(Debug)]
pub struct Bind {
    pub portal: String,
    pub statement: String,
    /// A JSON list; unknown if one parameter's binary form is of a type that is not read. All are shown.
    pub parameters: Parameters,
}

/// Reads a payload; `types` are the parameter types of the Parse (0 or absent: undeclared).
pub fn read(mut payload: Bytes, types: &[u32]) -> Option<Bind> {
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
    let mut seen = Vec::with_capacity(count);
    let mut known = true;
    for index in 0..count {
        let length = payload.try_get_i32().ok()?;
        let Ok(length) = usize::try_from(length) else {
            values.push(Value::Null);
            seen.push(Value::Null);
            continue;
        };
        if payload.len() < length {
            return None;
        }
        let bytes = payload.split_to(length);
        let format = match formats.as_slice() {
            [] => 0,
            [one] => *one,
            many => many.get(index).copied()?,
        };
        let oid = types.get(index).copied().unwrap_or_default();
        let text = match format {
            0 => String::from_utf8(bytes.to_vec()).ok(),
            _ => binary(&bytes, oid),
        };
        known &= text.is_some();
        match text {
            Some(text) => {
                seen.push(Value::from(text.as_str()));
                values.push(Value::String(text));
            }
            None => seen.push(Value::String(shown::shown(&bytes, oid))),
        }
    }
    let parameters = match known {
        true => Parameters::known(values),
        false => Parameters::unread(Seen::Apart(Value::Array(seen).into())),
    };
    Some(Bind {
        portal,
        statement,
        parameters,
    })
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
        BYTEA => Some(shown::bytea(bytes)),
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
        let known = vec!["7".into(), Value::Null, "ab".into()];
        assert_eq!(bind.parameters, Parameters::known(known));
        let blind = read(Bytes::from(payload.clone()), &[]).unwrap();
        let seen = serde_json::json!(["4 bytes: \\x00000007", null, "2 bytes: \\x6162"]);
        let unread = Parameters::unread(Seen::Apart(seen.into()));
        assert_eq!(blind.parameters, unread);
        for end in 0..payload.len() - 2 {
            assert!(read(Bytes::copy_from_slice(&payload[..end]), &[INT4, 0, 25]).is_none());
        }
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
