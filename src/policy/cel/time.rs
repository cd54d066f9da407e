//! Times in their zones: what `now.getHours('Europe/Berlin')` reads. *Pure.*
//!
//! Zones are those of the tz database that is compiled in, so that a policy means the same on
//! every machine; they are looked up when a policy loads.

use std::fmt;

use chrono::{DateTime, Datelike, FixedOffset, TimeZone, Timelike, Utc};
use chrono_tz::Tz;

use super::eval::{Fault, Outcome};
use super::function::Function;
use super::value::Value;

/// A zone by its name, or a fixed offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Zone {
    Named(Tz),
    Offset(FixedOffset),
}

impl Zone {
    pub(crate) const UTC: Zone = Zone::Named(Tz::UTC);

    /// `Europe/Berlin`, `+02:00`, `-3:30`.
    pub(crate) fn find(name: &str) -> Option<Zone> {
        if let Ok(zone) = name.parse::<Tz>() {
            return Some(Zone::Named(zone));
        }
        let (sign, rest) = match name.strip_prefix('-') {
            Some(rest) => (-1, rest),
            None => (1, name.strip_prefix('+').unwrap_or(name)),
        };
        let (hours, minutes) = rest.split_once(':')?;
        let digits = |text: &str| {
            let fits = (1..=2).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
            text.parse::<i32>().ok().filter(|_| fits)
        };
        let (hours, minutes) = (digits(hours)?, digits(minutes)?);
        if hours > 23 || minutes > 59 {
            return None;
        }
        FixedOffset::east_opt(sign * (hours * 3600 + minutes * 60)).map(Zone::Offset)
    }
}

impl fmt::Display for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Zone::Named(zone) => f.write_str(zone.name()),
            Zone::Offset(offset) => write!(f, "{offset}"),
        }
    }
}

/// A part of a timestamp, as its zone's calendar has it.
pub(crate) fn date<'a>(function: Function, time: DateTime<Utc>, zone: &Zone) -> Outcome<'a> {
    match zone {
        Zone::Named(zone) => part(function, &time.with_timezone(zone)),
        Zone::Offset(offset) => part(function, &time.with_timezone(offset)),
    }
}

fn part<'a, Z: TimeZone>(function: Function, time: &DateTime<Z>) -> Outcome<'a> {
    use Function as F;
    Ok(Value::Int(match function {
        F::GetFullYear => i64::from(time.year()),
        F::GetMonth => i64::from(time.month0()),
        F::GetDate => i64::from(time.day()),
        F::GetDayOfMonth => i64::from(time.day0()),
        F::GetDayOfYear => i64::from(time.ordinal0()),
        F::GetDayOfWeek => i64::from(time.weekday().num_days_from_sunday()),
        F::GetHours => i64::from(time.hour()),
        F::GetMinutes => i64::from(time.minute()),
        F::GetSeconds => i64::from(time.second()),
        F::GetMilliseconds => i64::from(time.nanosecond() / 1_000_000),
        _ => return Err(Fault::error(format!("no such overload: {}", function.name()))),
    }))
}
