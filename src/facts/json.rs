//! JSON that was read: its values in one list, over its text. *Pure.*
//!
//! A tree of maps takes many times the bytes of its text, and to build it takes longer than to judge what it says. Here a value is
//! sixteen bytes, and a string is a piece of the text.

mod build;

use serde_json::Value;

use super::View;
pub(crate) use build::{Builder, TooLong};

/// Members of an object up to which a name is looked for from the first to the last; longer ones have an order by name.
pub(crate) const MEMBERS_SCANNED_MAX: usize = 8;

/// A JSON text's values. Whether a name may stand twice is its reader's to say.
#[derive(Clone, Debug)]
pub struct Document {
    text: Box<str>,
    /// Strings that the text does not have as they are.
    unescaped: String,
    /// The items of each list, and the names and values of each object by turns, one behind another.
    values: Vec<Raw>,
    /// For each long object the numbers of its members, by name.
    order: Vec<u32>,
    root: Raw,
    /// Whether a number may be written otherwise than in the text.
    has_doubles: bool,
}

/// A value where it lies; places are in the document's own lists.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Raw {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Double(f64),
    Text { at: u32, length: u32 },
    Unescaped { at: u32, length: u32 },
    List { first: u32, count: u32 },
    Map { first: u32, count: u32, order: u32 },
}

/// A value of a document. A number is an int where it is one, so that no digit is lost.
#[derive(Clone, Copy, Debug)]
pub enum Json<'a> {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Double(f64),
    Text(&'a str),
    List(List<'a>),
    Map(Map<'a>),
}

/// A list of a document.
#[derive(Clone, Copy, Debug)]
pub struct List<'a> {
    document: &'a Document,
    items: &'a [Raw],
}

/// An object of a document; its members in the order of the text.
#[derive(Clone, Copy, Debug)]
pub struct Map<'a> {
    document: &'a Document,
    /// Names and values by turns.
    members: &'a [Raw],
    /// Empty for a short one.
    order: &'a [u32],
}

impl Document {
    pub fn root(&self) -> Json<'_> {
        self.value(self.root)
    }

    /// What a condition reads: null where it is nothing but that.
    pub fn view(&self) -> View<'_> {
        match self.is_null() {
            true => View::Null,
            false => View::Json(self),
        }
    }

    /// Nothing but `null`.
    pub fn is_null(&self) -> bool {
        matches!(self.root, Raw::Null)
    }

    /// What it was read from, where every string and every number in it stands there as it is written; else `None`.
    pub(crate) fn plain(&self) -> Option<&str> {
        let is_plain = self.unescaped.is_empty() && !self.text.is_empty() && !self.has_doubles;
        is_plain.then_some(&self.text)
    }

    /// Bytes of memory that it takes.
    pub fn bytes(&self) -> usize {
        let values = self.values.capacity() * size_of::<Raw>();
        self.text.len() + self.unescaped.capacity() + values + self.order.capacity() * size_of::<u32>()
    }

    fn value(&self, raw: Raw) -> Json<'_> {
        match raw {
            Raw::Null => Json::Null,
            Raw::Bool(value) => Json::Bool(value),
            Raw::Int(value) => Json::Int(value),
            Raw::Uint(value) => Json::Uint(value),
            Raw::Double(value) => Json::Double(value),
            Raw::Text { .. } | Raw::Unescaped { .. } => Json::Text(self.string(raw)),
            Raw::List { first, count } => Json::List(List {
                document: self,
                items: piece(&self.values, first, count),
            }),
            Raw::Map { first, count, order } => Json::Map(Map {
                document: self,
                members: piece(&self.values, first, 2 * count),
                order: match count as usize > MEMBERS_SCANNED_MAX {
                    true => piece(&self.order, order, count),
                    false => &[],
                },
            }),
        }
    }

    fn string(&self, raw: Raw) -> &str {
        raw.string(&self.text, &self.unescaped)
    }
}

/// `null`.
impl Default for Document {
    fn default() -> Document {
        Builder::default().finish(Raw::Null)
    }
}

impl From<&Value> for Document {
    fn from(value: &Value) -> Document {
        let mut builder = Builder::default();
        // What is longer than 4 GiB is no value of ours.
        let root = builder.copy(value).unwrap_or(Raw::Null);
        builder.finish(root)
    }
}

impl PartialEq for Document {
    fn eq(&self, other: &Document) -> bool {
        self.root().to_value() == other.root().to_value()
    }
}

impl Raw {
    /// Empty for what is no string.
    fn string<'a>(self, text: &'a str, unescaped: &'a str) -> &'a str {
        let (text, at, length) = match self {
            Raw::Text { at, length } => (text, at, length),
            Raw::Unescaped { at, length } => (unescaped, at, length),
            _ => return "",
        };
        let at = at as usize;
        text.get(at..at + length as usize).unwrap_or_default()
    }
}

fn piece<T>(all: &[T], first: u32, count: u32) -> &[T] {
    let first = first as usize;
    all.get(first..first + count as usize).unwrap_or_default()
}

impl<'a> Json<'a> {
    pub fn as_str(self) -> Option<&'a str> {
        match self {
            Json::Text(text) => Some(text),
            _ => None,
        }
    }

    /// A member of an object.
    pub fn get(self, name: &str) -> Option<Json<'a>> {
        match self {
            Json::Map(map) => map.get(name),
            _ => None,
        }
    }

    /// A copy on its own.
    pub fn to_value(self) -> Value {
        match self {
            Json::Null => Value::Null,
            Json::Bool(value) => value.into(),
            Json::Int(value) => value.into(),
            Json::Uint(value) => value.into(),
            Json::Double(value) => value.into(),
            Json::Text(text) => text.into(),
            Json::List(list) => list.iter().map(Json::to_value).collect(),
            Json::Map(map) => {
                let members = map
                    .iter()
                    .map(|(name, value)| (name.to_owned(), value.to_value()));
                Value::Object(members.collect())
            }
        }
    }
}

impl<'a> List<'a> {
    pub fn len(&self) -> usize {
        self.items.len()
    }

    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    pub fn get(&self, index: usize) -> Option<Json<'a>> {
        self.items.get(index).map(|raw| self.document.value(*raw))
    }

    pub fn iter(&self) -> impl ExactSizeIterator<Item = Json<'a>> + use<'a> {
        let document = self.document;
        self.items.iter().map(|raw| document.value(*raw))
    }
}

/// A key as those readers have it who do not tell case apart. Upper case first: the long s (U+017F) and the Kelvin sign
/// (U+212A) meet s and k there.
pub(crate) fn folded(key: &str) -> String {
    key.to_uppercase().to_lowercase()
}

impl<'a> Map<'a> {
    pub fn len(&self) -> usize {
        self.members.len() / 2
    }

    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// A member by its number.
    pub fn at(&self, index: usize) -> Option<(&'a str, Json<'a>)> {
        match self.members.get(2 * index..)? {
            [name, value, ..] => Some((self.document.string(*name), self.document.value(*value))),
            _ => None,
        }
    }

    pub fn get(&self, name: &str) -> Option<Json<'a>> {
        if self.order.is_empty() {
            return self.iter().find(|(own, _)| *own == name).map(|(_, value)| value);
        }
        let own = |index: &u32| self.at(*index as usize).map_or("", |(own, _)| own);
        let found = self.order.binary_search_by(|index| own(index).cmp(name)).ok()?;
        self.at(*self.order.get(found)? as usize).map(|(_, value)| value)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&'a str, Json<'a>)> + use<'a> {
        let document = self.document;
        self.members
            .chunks_exact(2)
            .filter_map(move |member| match member {
                [name, value] => Some((document.string(*name), document.value(*value))),
                _ => None,
            })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_value_is_kept_whole() {
        let value = json!({
            "n": null, "b": [true, false], "i": [-1, i64::MAX, u64::MAX, 1.5], "": "", "é": {"deep": [[], {}, [[1]]]},
        });
        let document = Document::from(&value);
        assert_eq!(document.root().to_value(), value);
        assert!(document.plain().is_none(), "a text of its own");
        assert!(Document::default().is_null());
    }

    #[test]
    fn members_are_found_by_name_in_short_and_in_long_objects() {
        for count in [0, 1, MEMBERS_SCANNED_MAX, MEMBERS_SCANNED_MAX + 1, 300] {
            let members = (0..count).map(|number| (format!("{}", number * 7 % 1009), json!([number])));
            let value = json!({ "first": 1, "all": Value::Object(members.collect()), "last": 2 });
            let document = Document::from(&value);
            let Some(Json::Map(all)) = document.root().get("all") else {
                unreachable!("an object")
            };
            assert_eq!((all.len(), all.is_empty()), (count, count == 0));
            for (index, (name, wanted)) in value["all"].as_object().unwrap().iter().enumerate() {
                let (own, found) = all.at(index).unwrap();
                assert_eq!((own, &found.to_value()), (name.as_str(), wanted));
                assert_eq!(&all.get(name).unwrap().to_value(), wanted);
            }
            assert!(all.get("first").is_none() && all.get("").is_none() && all.at(count).is_none());
            assert_eq!(all.iter().count(), count);
            assert_eq!(document.root().get("last").unwrap().to_value(), json!(2));
        }
    }

    #[test]
    fn a_name_that_stands_twice_is_told() {
        for count in [2, MEMBERS_SCANNED_MAX, MEMBERS_SCANNED_MAX + 1, 100] {
            let text: Vec<String> = (0..count).map(|number| number.to_string()).collect();
            let build = |names: &[&str]| {
                let mut builder = Builder::default();
                for name in names {
                    let name = builder.string(name).unwrap();
                    builder.push(name);
                    builder.push(Raw::Null);
                }
                builder.end_map(0).unwrap().is_some()
            };
            let mut names: Vec<&str> = text.iter().map(String::as_str).collect();
            assert!(build(&names), "{count}");
            names[count - 1] = "0";
            assert!(!build(&names), "{count}");
        }
    }

    #[test]
    fn a_string_of_the_text_is_not_copied() {
        let text = String::from("ab\"cd\"");
        let mut builder = Builder::of(&text).unwrap();
        assert!(matches!(
            builder.string(&text[3..5]),
            Ok(Raw::Text { at: 3, length: 2 })
        ));
        assert!(matches!(
            builder.string("cd"),
            Ok(Raw::Unescaped { at: 0, length: 2 })
        ));
    }
}
