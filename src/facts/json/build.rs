//! How a document is made. *Pure.*

use serde_json::Value;

use super::{Document, MEMBERS_SCANNED_MAX, Raw};

/// Bytes of text that a value and its name commonly take.
const BYTES_EACH: usize = 16;

/// Makes a [`Document`]: values from the inside out.
#[derive(Default)]
pub(crate) struct Builder<'t> {
    text: &'t str,
    unescaped: String,
    values: Vec<Raw>,
    order: Vec<u32>,
    has_doubles: bool,
    /// Values whose list or object has not ended.
    open: Vec<Raw>,
}

/// Over 4 GiB, where places end.
#[derive(Debug)]
pub(crate) struct TooLong;

impl<'t> Builder<'t> {
    pub(crate) fn of(text: &'t str) -> Result<Builder<'t>, TooLong> {
        place(text.len())?;
        Ok(Builder {
            text,
            values: Vec::with_capacity(text.len() / BYTES_EACH),
            ..Builder::default()
        })
    }

    /// A piece of the text, or another string.
    pub(crate) fn string(&mut self, string: &str) -> Result<Raw, TooLong> {
        let length = place(string.len())?;
        let at = string.as_ptr().addr().wrapping_sub(self.text.as_ptr().addr());
        if at
            .checked_add(string.len())
            .is_some_and(|end| end <= self.text.len())
        {
            return Ok(Raw::Text {
                at: place(at)?,
                length,
            });
        }
        let at = place(self.unescaped.len())?;
        self.unescaped.push_str(string);
        Ok(Raw::Unescaped { at, length })
    }

    /// Where a list or an object begins.
    pub(crate) fn begin(&self) -> usize {
        self.open.len()
    }

    /// The next value of what began last, or the next name.
    pub(crate) fn push(&mut self, raw: Raw) {
        self.open.push(raw);
    }

    pub(crate) fn end_list(&mut self, begun: usize) -> Result<Raw, TooLong> {
        let (first, count) = (place(self.values.len())?, place(self.open.len() - begun)?);
        self.values.extend(self.open.drain(begun..));
        Ok(Raw::List { first, count })
    }

    /// The object, or `None` where a name stands twice.
    pub(crate) fn end_map(&mut self, begun: usize) -> Result<Option<Raw>, TooLong> {
        let (first, order) = (place(self.values.len())?, place(self.order.len())?);
        let count = place((self.open.len() - begun) / 2)?;
        let members = self.open.get(begun..).unwrap_or_default();
        let name = |index: u32| members.get(2 * index as usize).map_or("", |raw| self.own(*raw));
        let is_twice = match count as usize > MEMBERS_SCANNED_MAX {
            true => {
                let mut by_name: Vec<u32> = (0..count).collect();
                by_name.sort_unstable_by_key(|index| name(*index));
                let same = |pair: &[u32]| matches!(pair, [a, b] if name(*a) == name(*b));
                let is_twice = by_name.windows(2).any(same);
                self.order.append(&mut by_name);
                is_twice
            }
            false => (1..count).any(|index| (0..index).any(|before| name(before) == name(index))),
        };
        self.values.extend(self.open.drain(begun..));
        Ok((!is_twice).then_some(Raw::Map { first, count, order }))
    }

    /// The names of what began there.
    pub(crate) fn names(&self, begun: usize) -> impl Iterator<Item = &str> {
        let members = self.open.get(begun..).unwrap_or_default();
        members.iter().step_by(2).map(|raw| self.own(*raw))
    }

    fn own(&self, raw: Raw) -> &str {
        raw.string(self.text, &self.unescaped)
    }

    pub(crate) fn finish(mut self, root: Raw) -> Document {
        // A body that is one long string would keep its own length in room for values, for as long as people think about it.
        if self.values.capacity() > 2 * self.values.len() {
            self.values.shrink_to_fit();
        }
        Document {
            text: self.text.into(),
            unescaped: self.unescaped,
            values: self.values,
            order: self.order,
            root,
            has_doubles: self.has_doubles,
        }
    }

    pub(crate) fn double(&mut self, value: f64) -> Raw {
        self.has_doubles = true;
        Raw::Double(value)
    }

    pub(super) fn copy(&mut self, value: &Value) -> Result<Raw, TooLong> {
        Ok(match value {
            Value::Null => Raw::Null,
            Value::Bool(value) => Raw::Bool(*value),
            Value::Number(number) => match (number.as_i64(), number.as_u64()) {
                (Some(value), _) => Raw::Int(value),
                (None, Some(value)) => Raw::Uint(value),
                (None, None) => self.double(number.as_f64().unwrap_or(f64::NAN)),
            },
            Value::String(text) => self.string(text)?,
            Value::Array(items) => {
                let begun = self.begin();
                for item in items {
                    let item = self.copy(item)?;
                    self.push(item);
                }
                self.end_list(begun)?
            }
            Value::Object(members) => {
                let begun = self.begin();
                for (name, value) in members {
                    let name = self.string(name)?;
                    self.push(name);
                    let value = self.copy(value)?;
                    self.push(value);
                }
                // Names of a map are unique.
                self.end_map(begun)?.unwrap_or(Raw::Null)
            }
        })
    }
}

fn place(at: usize) -> Result<u32, TooLong> {
    u32::try_from(at).map_err(|_| TooLong)
}
