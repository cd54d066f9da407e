//! A parameter that no rule reads, as people are shown it. *Pure.*
//!
//! What the server would write of a date, an array and their like hangs on settings, so that rules read none of
//! them ([`super::binary`]). Whoever decides sees what it is all the same: as a text where its type is known here,
//! and else byte by byte, with the type's number.

use chrono::{NaiveDate, NaiveTime, TimeDelta};
use serde_json::Value;

use super::binary;
use crate::facts::escape;

const DATE: u32 = 1082;
const TIME: u32 = 1083;
const TIMESTAMP: u32 = 1114;
const TIMESTAMPTZ: u32 = 1184;
const NUMERIC: u32 = 1700;
/// Arrays of `bool`, `bytea`, `int2`, `int4`, `int8`, `text`, `varchar`, `bpchar`, `json`, `jsonb`, `oid`, `float4`, `float8`,
/// `uuid`, `date`, `time`, `timestamp`, `timestamptz` and `numeric`.
const ARRAYS: [u32; 19] = [
    1000, 1001, 1005, 1007, 1016, 1009, 1015, 1014, 199, 3807, 1028, 1021, 1022, 2951, 1182, 1183, 1115,
    1185, 1231,
];

/// Digits of a number's part before the point, and behind it; one with more is shown byte by byte.
pub const NUMERIC_DIGITS_MAX: usize = 1000;

/// Zeros of a number that its bytes do not hold; one with more is shown byte by byte.
pub const ZEROS_MAX: usize = 64;

/// How many times its own bytes the text of an array is; a longer one is shown byte by byte.
pub const ARRAY_TIMES_MAX: usize = 4;

/// The parameter's text; `oid` is 0 where nobody said its type.
pub(super) fn shown(bytes: &[u8], oid: u32) -> String {
    read(bytes, oid).unwrap_or_else(|| {
        let what = match oid {
            0 => String::new(),
            oid => format!(" of type {oid}"),
        };
        format!("{} bytes{what}: {}", bytes.len(), bytea(bytes))
    })
}

/// As PostgreSQL writes `bytea`.
pub(super) fn bytea(bytes: &[u8]) -> String {
    format!("\\x{}", escape::hex(bytes))
}

fn read(bytes: &[u8], oid: u32) -> Option<String> {
    match oid {
        DATE => {
            let days = i32::from_be_bytes(bytes.try_into().ok()?);
            let date = epoch()?.checked_add_signed(TimeDelta::try_days(days.into())?);
            date.map(|date| date.to_string())
        }
        TIME => {
            let micros = u64::from_be_bytes(bytes.try_into().ok()?);
            let (seconds, micros) = (micros / 1_000_000, micros % 1_000_000);
            let seconds = u32::try_from(seconds).ok()?;
            let nanos = u32::try_from(micros * 1000).ok()?;
            NaiveTime::from_num_seconds_from_midnight_opt(seconds, nanos).map(|time| time.to_string())
        }
        TIMESTAMP | TIMESTAMPTZ => {
            let micros = i64::from_be_bytes(bytes.try_into().ok()?);
            let at = epoch()?
                .and_time(NaiveTime::MIN)
                .checked_add_signed(TimeDelta::microseconds(micros))?;
            Some(format!("{at}{}", if oid == TIMESTAMPTZ { " UTC" } else { "" }))
        }
        NUMERIC => numeric(bytes),
        oid if ARRAYS.contains(&oid) => array(bytes),
        oid => binary(bytes, oid),
    }
}

fn epoch() -> Option<NaiveDate> {
    NaiveDate::from_ymd_opt(2000, 1, 1)
}

/// As `numeric_send` writes it: digits of four decimals each, the weight of the first, the sign, and how many decimals
/// are behind the point.
fn numeric(bytes: &[u8]) -> Option<String> {
    let mut words = bytes
        .chunks(2)
        .map(|pair| Some(u16::from_be_bytes(pair.try_into().ok()?)));
    let mut next = || words.next().flatten();
    let count = usize::from(next()?);
    let weight = i32::from(i16::from_be_bytes(next()?.to_be_bytes()));
    let sign = match next()? {
        0 => "",
        0x4000 => "-",
        0xc000 => return Some("NaN".to_owned()),
        0xd000 => return Some("Infinity".to_owned()),
        0xf000 => return Some("-Infinity".to_owned()),
        _ => return None,
    };
    let scale = usize::from(next()?);
    let digits = (0..count).map(|_| next()).collect::<Option<Vec<u16>>>()?;
    let most = i32::try_from(NUMERIC_DIGITS_MAX / 4).ok()?;
    if bytes.len() != 8 + 2 * count || scale > NUMERIC_DIGITS_MAX || weight.abs() > most {
        return None;
    }
    let digits_most = 4 * count + ZEROS_MAX;
    if scale > digits_most || 4 * usize::try_from(weight.unsigned_abs()).ok()? > digits_most {
        return None;
    }
    let digit = |at: i32| -> Option<u16> {
        let of = usize::try_from(at).ok().and_then(|at| digits.get(at).copied());
        of.map_or(Some(0), |digit| (digit < 10_000).then_some(digit))
    };
    let mut whole = String::new();
    for at in 0..=weight {
        whole.push_str(&format!("{:04}", digit(at)?));
    }
    let mut behind = String::new();
    let mut at = weight + 1;
    while behind.len() < scale {
        behind.push_str(&format!("{:04}", digit(at)?));
        at += 1;
    }
    behind.truncate(scale);
    let whole = match whole.trim_start_matches('0') {
        "" => "0",
        whole => whole,
    };
    let point = if behind.is_empty() { "" } else { "." };
    Some(format!("{sign}{whole}{point}{behind}"))
}

/// Of one dimension, as `array_send` writes it. Texts stand as JSON's, so that none passes for two.
fn array(bytes: &[u8]) -> Option<String> {
    fn number(rest: &mut &[u8]) -> Option<i32> {
        let (first, behind) = rest.split_first_chunk::<4>()?;
        *rest = behind;
        Some(i32::from_be_bytes(*first))
    }
    let rest = &mut &bytes[..];
    let (dimensions, _has_null, of) = (number(rest)?, number(rest)?, number(rest)?);
    let of = u32::from_be_bytes(of.to_be_bytes());
    let count = match dimensions {
        0 => 0,
        1 => {
            let (count, _first) = (number(rest)?, number(rest)?);
            count
        }
        _ => return None,
    };
    // Items of few bytes may be long to show, and a message holds a million of them.
    let most = ARRAY_TIMES_MAX.saturating_mul(bytes.len());
    let mut out = "{".to_owned();
    for index in 0..count {
        if out.len() > most {
            return None;
        }
        if index > 0 {
            out.push_str(", ");
        }
        let Ok(length) = usize::try_from(number(rest)?) else {
            out.push_str("NULL");
            continue;
        };
        let (item, behind) = rest.split_at_checked(length)?;
        *rest = behind;
        // An array of arrays has more dimensions instead.
        let item = if ARRAYS.contains(&of) {
            None
        } else {
            read(item, of)
        };
        out.push_str(&Value::from(item?).to_string());
    }
    out.push('}');
    rest.is_empty().then_some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(words: &[i16]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_be_bytes()).collect()
    }

    /// Texts by `psql`, bytes by `date_send` and its like.
    #[test]
    fn what_no_rule_reads_is_shown_as_what_it_is() {
        for (bytes, oid, want) in [
            (9_862_i32.to_be_bytes().to_vec(), DATE, "2027-01-01"),
            ((-1_i32).to_be_bytes().to_vec(), DATE, "1999-12-31"),
            (3_661_000_002_i64.to_be_bytes().to_vec(), TIME, "01:01:01.000002"),
            (
                86_400_000_000_i64.to_be_bytes().to_vec(),
                TIMESTAMP,
                "2000-01-02 00:00:00",
            ),
            (
                0_i64.to_be_bytes().to_vec(),
                TIMESTAMPTZ,
                "2000-01-01 00:00:00 UTC",
            ),
            (words(&[0, 0, 0, 0]), NUMERIC, "0"),
            (words(&[2, 0, 0, 2, 12, 3400]), NUMERIC, "12.34"),
            (words(&[2, 1, 0x4000, 0, 1, 2]), NUMERIC, "-10002"),
            (words(&[1, 1, 0, 0, 1]), NUMERIC, "10000"),
            (words(&[1, -2, 0, 8, 5]), NUMERIC, "0.00000005"),
            (words(&[0, 0, -0x4000, 0]), NUMERIC, "NaN"),
        ] {
            assert_eq!(shown(&bytes, oid), want);
        }
    }

    #[test]
    fn an_array_shows_each_of_its_items() {
        let of = |oid: u32, items: &[Option<&[u8]>]| {
            let head = [1, 0, oid.cast_signed(), i32::try_from(items.len()).unwrap(), 1];
            let mut bytes: Vec<u8> = head.iter().flat_map(|word: &i32| word.to_be_bytes()).collect();
            for item in items {
                let length = item.map_or(-1, |item| i32::try_from(item.len()).unwrap());
                bytes.extend_from_slice(&length.to_be_bytes());
                bytes.extend_from_slice(item.unwrap_or_default());
            }
            bytes
        };
        let four = of(23, &[Some(&[0, 0, 0, 7]), None]);
        assert_eq!(shown(&four, 1007), "{\"7\", NULL}");
        let texts = of(25, &[Some(b"a, b"), Some(b"\"")]);
        assert_eq!(shown(&texts, 1009), r#"{"a, b", "\""}"#);
        let none: Vec<u8> = [0, 0, 23]
            .iter()
            .flat_map(|word: &i32| word.to_be_bytes())
            .collect();
        assert_eq!(shown(&none, 1007), "{}");
        // Whatever is not whole, or of another form, byte by byte.
        for end in 0..four.len() {
            let cut = shown(&four[..end], 1007);
            assert!(
                cut.starts_with(&format!("{end} bytes of type 1007: \\x")),
                "{cut}"
            );
        }
        let deep = of(1007, &[Some(&of(23, &[]))]);
        assert!(shown(&deep, 1007).contains("bytes of type 1007"));
        assert_eq!(shown(&[0xff, 1], 0), "2 bytes: \\xff01");
        assert_eq!(shown(&[1], 600), "1 bytes of type 600: \\x01");
    }

    #[test]
    fn a_number_has_so_many_digits() {
        let most = i16::try_from(NUMERIC_DIGITS_MAX).unwrap();
        let with = |scale: i16| {
            let digits = std::iter::repeat_n(1111, NUMERIC_DIGITS_MAX / 4 + 1);
            let number: Vec<i16> = [most / 4 + 1, -1, 0, scale].into_iter().chain(digits).collect();
            shown(&words(&number), NUMERIC)
        };
        assert_eq!(with(most).len(), NUMERIC_DIGITS_MAX + 2);
        assert!(with(most + 1).contains("bytes of type"));
        assert!(shown(&words(&[1, most / 4 + 1, 0, 0, 1]), NUMERIC).contains("bytes of type"));
        assert!(shown(&words(&[1, 0, 0, 0, 10_000]), NUMERIC).contains("bytes of type"));
    }

    #[test]
    fn few_bytes_say_no_long_text() {
        let zeros = i16::try_from(ZEROS_MAX).unwrap();
        assert_eq!(shown(&words(&[0, 0, 0, zeros]), NUMERIC).len(), ZEROS_MAX + 2);
        assert!(shown(&words(&[0, 0, 0, zeros + 1]), NUMERIC).contains("bytes of type"));
        assert!(shown(&words(&[1, zeros / 4 + 2, 0, 0, 1]), NUMERIC).contains("bytes of type"));
        // As many as a message holds: each takes twelve bytes and would be sixty to read.
        let item = [&8_i32.to_be_bytes()[..], &words(&[0, 0, 0, zeros])].concat();
        let count = 100_000_i32;
        let mut array = [1, 0, 1700, count, 1].map(i32::to_be_bytes).concat();
        (0..count).for_each(|_| array.extend_from_slice(&item));
        let text = shown(&array, 1231);
        assert!(text.contains("bytes of type 1231"), "{}", text.len());
        assert!(text.len() <= ARRAY_TIMES_MAX * array.len());
    }

    proptest::proptest! {
        #[test]
        fn never_panics(bytes: Vec<u8>, which in 0..24_usize) {
            let more = [DATE, TIME, TIMESTAMP, TIMESTAMPTZ, NUMERIC];
            let oid = more.iter().chain(&ARRAYS).nth(which).copied().unwrap_or_default();
            shown(&bytes, oid);
        }
    }
}
