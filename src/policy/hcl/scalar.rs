//! Fields of one value: text, numbers, flags, times. *Pure.*

use std::path::Path;
use std::time::Duration;

use hcl_edit::Span as _;
use hcl_edit::expr::Expression;
use hcl_edit::template::Element;

use super::{Fields, Spot, at};
use crate::policy::diagnostic::{At, Diagnostic};

impl<'a> Fields<'a> {
    pub(super) fn place(&self, expr: &Expression, or: At) -> At {
        match expr.span() {
            Some(span) => at(or.file, Some(span)),
            None => or,
        }
    }

    pub(in crate::policy) fn has(&self, name: &str) -> bool {
        self.entries.iter().any(|entry| entry.name == name)
    }

    /// The name's own place, or the block's.
    pub(in crate::policy) fn at_of(&self, name: &str) -> At {
        let entry = self.entries.iter().find(|entry| entry.name == name);
        entry.map_or(self.at, |entry| entry.at)
    }

    pub(in crate::policy) fn text(&self, name: &'static str) -> Option<Spot<String>> {
        let entry = self.find(name)?;
        match self.as_text(entry.expr, entry.at) {
            Some(text) => Some(text),
            None => {
                self.wrong(entry, "a string in quotes (without `${…}`)");
                None
            }
        }
    }

    pub(super) fn as_text(&self, expr: &Expression, or: At) -> Option<Spot<String>> {
        let place = self.place(expr, or);
        let value = match expr {
            Expression::String(text) => text.value().clone(),
            Expression::Parenthesis(inner) => return self.as_text(inner.inner(), or),
            other => plain(other)?,
        };
        let value = match value
            .trim()
            .strip_prefix("<<file:")
            .and_then(|rest| rest.strip_suffix(">>"))
        {
            Some(path) => self.read(path.trim(), place)?,
            None => value,
        };
        Some(Spot { value, at: place })
    }

    /// Reads a file that the policy names, relative to the file that names it.
    pub(super) fn read(&self, path: &str, place: At) -> Option<String> {
        let from = self.findings.sources.get(place.file)?;
        let path = from.path.parent().unwrap_or(Path::new("")).join(path);
        match (self.findings.read)(&path) {
            Ok(text) => Some(text),
            Err(error) => {
                self.findings.error(Diagnostic::new(
                    place,
                    format!("{} cannot be read: {error}", path.display()),
                ));
                Some(String::new())
            }
        }
    }

    /// A text, or the contents of `file("…")`.
    pub(in crate::policy) fn text_or_file(&self, name: &'static str) -> Option<Spot<String>> {
        let entry = self.find(name)?;
        match call(entry.expr) {
            Some(("file", path)) => {
                let place = self.place(entry.expr, entry.at);
                Some(Spot {
                    value: self.read(path, place)?,
                    at: place,
                })
            }
            _ => self.text(name),
        }
    }

    /// `function("argument")`, or why not: `Err` with the place of what stands there instead.
    pub(in crate::policy) fn call(&self, name: &'static str) -> Option<Result<Spot<(String, String)>, At>> {
        let entry = self.find(name)?;
        let place = self.place(entry.expr, entry.at);
        Some(match call(entry.expr) {
            Some((function, argument)) => Ok(Spot {
                value: (function.to_owned(), argument.to_owned()),
                at: place,
            }),
            None => Err(place),
        })
    }

    pub(in crate::policy) fn texts(&self, name: &'static str) -> Vec<Spot<String>> {
        let Some(entry) = self.find(name) else {
            return Vec::new();
        };
        let items: Option<Vec<_>> = match entry.expr {
            Expression::Array(array) => array.iter().map(|item| self.as_text(item, entry.at)).collect(),
            other => self.as_text(other, entry.at).map(|text| vec![text]),
        };
        items.unwrap_or_else(|| {
            self.wrong(entry, "a list of strings");
            Vec::new()
        })
    }

    pub(in crate::policy) fn flag(&self, name: &'static str) -> Option<bool> {
        let entry = self.find(name)?;
        let value = entry.expr.as_bool();
        if value.is_none() {
            self.wrong(entry, "true or false");
        }
        value
    }

    pub(in crate::policy) fn int(&self, name: &'static str) -> Option<Spot<i64>> {
        let entry = self.find(name)?;
        let value = match entry.expr {
            Expression::UnaryOp(op) => number(&op.expr).and_then(|value| match op.operator.value() {
                hcl_edit::expr::UnaryOperator::Neg => value.checked_neg(),
                hcl_edit::expr::UnaryOperator::Not => None,
            }),
            expr => number(expr),
        };
        let Some(value) = value else {
            self.wrong(entry, "a whole number");
            return None;
        };
        Some(Spot {
            value,
            at: self.place(entry.expr, entry.at),
        })
    }

    /// A number between bounds.
    pub(in crate::policy) fn size(
        &self,
        name: &'static str,
        range: std::ops::RangeInclusive<i64>,
    ) -> Option<i64> {
        let spot = self.int(name)?;
        if range.contains(&spot.value) {
            return Some(spot.value);
        }
        self.findings.error(Diagnostic::new(
            spot.at,
            format!("`{name}` must be between {} and {}", range.start(), range.end()),
        ));
        None
    }

    /// Seconds as a number, or a text such as `90s`, `5m`, `24h`.
    pub(in crate::policy) fn duration(&self, name: &'static str) -> Option<Duration> {
        let entry = self.find(name)?;
        let seconds = match number(entry.expr) {
            Some(seconds) => u64::try_from(seconds).ok(),
            None => self
                .as_text(entry.expr, entry.at)
                .and_then(|text| seconds(&text.value)),
        };
        if seconds.is_none() {
            self.wrong(entry, "a time: seconds, or \"90s\", \"5m\", \"24h\"");
        }
        seconds.map(Duration::from_secs)
    }
}

/// The text of a template that interpolates nothing.
pub(super) fn plain(expr: &Expression) -> Option<String> {
    let mut text = String::new();
    for element in expr.as_template()?.iter() {
        match element {
            Element::Literal(literal) => text.push_str(literal.as_str()),
            Element::Interpolation(_) | Element::Directive(_) => return None,
        }
    }
    Some(text)
}

pub(super) fn number(expr: &Expression) -> Option<i64> {
    let number = expr.as_number()?;
    number.as_i64()
}

pub(super) fn call(expr: &Expression) -> Option<(&str, &str)> {
    let Expression::FuncCall(call) = expr else {
        return None;
    };
    if call.name.is_namespaced() || call.args.len() != 1 {
        return None;
    }
    let argument = call.args.get(0)?.as_str()?;
    Some((call.name.name.value().as_str(), argument))
}

pub(super) fn seconds(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let scale = match unit {
        "" | "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(scale)
}
