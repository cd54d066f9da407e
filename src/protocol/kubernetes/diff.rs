//! What a change does to an object, in lines for people: `- spec.replicas: 1`, `+ spec.replicas: 3`. *Pure.*
//!
//! The objects are compared as they are and shown as they may be: where a value is masked, its lines say that
//! it changes and not to what. No value is cut, for half of a secret is one that nothing would find: what is
//! too long is shown as its length. Names and texts are an agent's: they stand as JSON writes them.

use std::collections::{BTreeSet, HashMap};

use serde_json::Value;

use crate::verdict::Digest;

/// Lines that are shown; of the rest their number is.
pub const LINES_MAX: usize = 200;

/// Characters of a value, and of the path to it, that are shown.
pub const TEXT_CHARS_MAX: usize = 400;

/// What the server writes of its own at each change.
const OWN: &[&str] = &[
    "managedFields",
    "resourceVersion",
    "generation",
    "uid",
    "creationTimestamp",
    "selfLink",
];

/// An object, or a part of one: as it is, and as it may be shown.
pub type Side<'a> = Option<(&'a Value, &'a Value)>;

/// The lines of a comparison.
#[derive(Debug)]
pub struct Diff {
    /// The first [`LINES_MAX`].
    pub lines: Vec<String>,
    /// All of them.
    pub count: usize,
    /// Of all of them, in their order.
    pub digest: Digest,
}

impl Default for Diff {
    /// No lines yet.
    fn default() -> Diff {
        Diff {
            lines: Vec::new(),
            count: 0,
            digest: Digest::of(b""),
        }
    }
}

/// Takes out what the server writes of its own at each change.
pub fn plain(mut object: Value) -> Value {
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.retain(|name, _| !OWN.contains(&name.as_str()));
    }
    object
}

impl Diff {
    /// Compares two states of an object; `None` where there is none.
    pub fn of(before: Side<'_>, after: Side<'_>) -> Diff {
        let mut diff = Diff::default();
        diff.walk("", before, after);
        diff
    }

    /// Adds a line.
    pub fn push(&mut self, line: String) {
        self.digest = Digest::of_parts([self.digest.as_bytes().as_slice(), line.as_bytes()]);
        self.count += 1;
        if self.lines.len() < LINES_MAX {
            self.lines.push(line);
        }
    }

    fn walk(&mut self, path: &str, before: Side<'_>, after: Side<'_>) {
        match (before, after) {
            (None, None) => {}
            (Some(one), Some(other)) if one.0 == other.0 => {}
            (
                Some((Value::Object(was), Value::Object(was_shown))),
                Some((Value::Object(is), Value::Object(is_shown))),
            ) => {
                for name in was.keys().chain(is.keys()).collect::<BTreeSet<_>>() {
                    let one = was.get(name).zip(was_shown.get(name));
                    let other = is.get(name).zip(is_shown.get(name));
                    self.walk(&member(path, name), one, other);
                }
            }
            (
                Some((Value::Array(was), Value::Array(was_shown))),
                Some((Value::Array(is), Value::Array(is_shown))),
            ) => {
                let one = |at: usize| was.get(at).zip(was_shown.get(at));
                let other = |at: usize| is.get(at).zip(is_shown.get(at));
                for (step, at, to) in pairs(was, is) {
                    self.walk(&format!("{path}[{step}]"), at.and_then(one), to.and_then(other));
                }
            }
            (Some((Value::String(_), Value::String(was))), Some((Value::String(_), Value::String(is))))
                if was != is && (was.contains('\n') || is.contains('\n')) =>
            {
                self.texts(path, was, is);
            }
            (before, after) => {
                self.all('-', path, before);
                self.all('+', path, after);
            }
        }
    }

    /// Every value below, as gone or as new.
    fn all(&mut self, sign: char, path: &str, side: Side<'_>) {
        match side {
            None => {}
            Some((Value::Object(_), Value::Object(shown))) if !shown.is_empty() => {
                for (name, value) in shown {
                    self.all(sign, &member(path, name), Some((value, value)));
                }
            }
            Some((Value::Array(_), Value::Array(shown))) if !shown.is_empty() => {
                for (at, value) in shown.iter().enumerate() {
                    self.all(sign, &format!("{path}[{at}]"), Some((value, value)));
                }
            }
            Some((_, shown)) => self.push(format!("{sign} {}: {}", short(path), value(shown))),
        }
    }

    /// Texts of several lines: those between what both begin and end with.
    fn texts(&mut self, path: &str, was: &str, is: &str) {
        let (was, is): (Vec<_>, Vec<_>) = (was.split('\n').collect(), is.split('\n').collect());
        let same = was
            .iter()
            .zip(&is)
            .take_while(|(one, other)| one == other)
            .count();
        let least = was.len().min(is.len()) - same;
        let ends = was.iter().rev().zip(is.iter().rev());
        let tail = ends.take_while(|(one, other)| one == other).count().min(least);
        for (sign, lines) in [('-', &was), ('+', &is)] {
            let between = lines.iter().enumerate().take(lines.len() - tail).skip(same);
            for (at, line) in between {
                let text = value(&Value::from(*line));
                self.push(format!("{sign} {} (line {}): {text}", short(path), at + 1));
            }
        }
    }
}

/// Which elements of two lists are one another: by their names where all have one and none has moved, or else
/// by their places.
fn pairs(was: &[Value], is: &[Value]) -> Vec<(String, Option<usize>, Option<usize>)> {
    let by_place = || {
        let places = 0..was.len().max(is.len());
        let has = |list: &[Value], at: usize| (at < list.len()).then_some(at);
        places
            .map(|at| (at.to_string(), has(was, at), has(is, at)))
            .collect()
    };
    let (Some(old), Some(new)) = (names(was), names(is)) else {
        return by_place();
    };
    let at: HashMap<&str, usize> = new.iter().enumerate().map(|(at, name)| (*name, at)).collect();
    let kept: Vec<usize> = old.iter().filter_map(|name| at.get(name).copied()).collect();
    if !kept.is_sorted() {
        return by_place();
    }
    let found = old.iter().enumerate();
    let mut out: Vec<_> = found
        .map(|(from, name)| (step(name), Some(from), at.get(name).copied()))
        .collect();
    let kept: BTreeSet<usize> = kept.into_iter().collect();
    let added = new.iter().enumerate().filter(|(at, _)| !kept.contains(at));
    out.extend(added.map(|(at, name)| (step(name), None, Some(at))));
    out
}

/// The elements' names, each another.
fn names(list: &[Value]) -> Option<Vec<&str>> {
    let names: Option<Vec<&str>> = list.iter().map(|one| one.get("name")?.as_str()).collect();
    names.filter(|names| names.iter().collect::<BTreeSet<_>>().len() == names.len())
}

fn member(path: &str, name: &str) -> String {
    match (is_plain(name), path.is_empty()) {
        (true, true) => name.to_owned(),
        (true, false) => format!("{path}.{name}"),
        (false, _) => format!("{path}[{}]", Value::from(name)),
    }
}

fn step(name: &str) -> String {
    match is_plain(name) && name.bytes().any(|byte| !byte.is_ascii_digit()) {
        true => name.to_owned(),
        false => Value::from(name).to_string(),
    }
}

fn is_plain(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    !name.is_empty() && name.bytes().all(plain)
}

fn short(path: &str) -> String {
    match path.chars().count() {
        0..=TEXT_CHARS_MAX => path.to_owned(),
        count => format!("(a path of {count} characters)"),
    }
}

fn value(value: &Value) -> String {
    let text = value.to_string();
    match text.chars().count() {
        0..=TEXT_CHARS_MAX => text,
        count => format!("({count} characters)"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn lines(was: Value, is: Value) -> Vec<String> {
        Diff::of(Some((&was, &was)), Some((&is, &is))).lines
    }

    #[test]
    fn what_changes_is_said_and_nothing_else() {
        let was = json!({ "metadata": { "labels": { "a/b": "1", "c": "2" } }, "spec": { "replicas": 1, "on": true, "none": {} } });
        let is = json!({ "metadata": { "labels": { "a/b": "\u{202e}\t" } }, "spec": { "replicas": 3, "on": true, "new": { "x": [], "y": [1] } } });
        let want = [
            "- metadata.labels[\"a/b\"]: \"1\"",
            "+ metadata.labels[\"a/b\"]: \"\u{202e}\\t\"",
            "- metadata.labels.c: \"2\"",
            "+ spec.new.x: []",
            "+ spec.new.y[0]: 1",
            "- spec.none: {}",
            "- spec.replicas: 1",
            "+ spec.replicas: 3",
        ];
        assert_eq!(lines(was.clone(), is.clone()), want);
        assert_eq!(lines(is.clone(), is), [""; 0]);
        let own =
            json!({ "metadata": { "name": "x", "uid": "u", "resourceVersion": "7", "managedFields": [1] } });
        assert_eq!(plain(own), json!({ "metadata": { "name": "x" } }));
    }

    #[test]
    fn elements_with_names_are_told_by_them_unless_they_move() {
        let one = |name: &str, image: &str| json!({ "name": name, "image": image });
        let was = json!([one("a", "1"), one("b", "1"), one("7", "1")]);
        let is = json!([one("b", "2"), one("7", "1"), one("c", "1")]);
        let want = [
            "- [a].name: \"a\"",
            "- [a].image: \"1\"",
            "- [b].image: \"1\"",
            "+ [b].image: \"2\"",
            "+ [c].name: \"c\"",
            "+ [c].image: \"1\"",
        ];
        assert_eq!(lines(was.clone(), is), want);
        let moved = json!([one("b", "1"), one("a", "1"), one("7", "1")]);
        assert_eq!(lines(was, moved)[0], "- [0].name: \"a\"");
    }

    #[test]
    fn of_long_texts_the_lines_that_differ_are_shown() {
        let was = json!({ "data": "a\nb\nc\nd" });
        let is = json!({ "data": "a\nB\nc2\nd" });
        let want = [
            "- data (line 2): \"b\"",
            "- data (line 3): \"c\"",
            "+ data (line 2): \"B\"",
            "+ data (line 3): \"c2\"",
        ];
        assert_eq!(lines(was, is), want);
        assert_eq!(lines(json!("a\na"), json!("a")), ["-  (line 2): \"a\""]);
    }

    #[test]
    fn so_many_lines_are_shown_and_values_so_long() {
        let long = json!((0..LINES_MAX + 7).collect::<Vec<_>>());
        let diff = Diff::of(None, Some((&long, &long)));
        assert_eq!((diff.lines.len(), diff.count), (LINES_MAX, LINES_MAX + 7));
        let cut = json!((0..LINES_MAX + 6).collect::<Vec<_>>());
        assert_ne!(
            diff.digest,
            Diff::of(None, Some((&cut, &cut))).digest,
            "the rest counts too"
        );
        let text = |count: usize| json!({ "a": "x".repeat(count) });
        let fits = TEXT_CHARS_MAX - 2;
        assert!(lines(json!({}), text(fits))[0].ends_with("xx\""));
        assert_eq!(
            lines(json!({}), text(fits + 1)),
            [format!("+ a: ({} characters)", fits + 3)]
        );
        let far = json!({ "n".repeat(TEXT_CHARS_MAX + 1): 1 });
        assert_eq!(
            lines(json!({}), far),
            [format!("+ (a path of {} characters): 1", TEXT_CHARS_MAX + 1)]
        );
    }

    #[test]
    fn a_masked_value_is_said_to_change_and_not_to_what() {
        let (was, is) = (
            json!({ "data": { "a": "b25l" } }),
            json!({ "data": { "a": "dHdv" } }),
        );
        let shown = json!({ "data": { "a": "(masked)" } });
        let diff = Diff::of(Some((&was, &shown)), Some((&is, &shown)));
        assert_eq!(diff.lines, ["- data.a: \"(masked)\"", "+ data.a: \"(masked)\""]);
        let whole = json!({ "data": "(masked)" });
        let diff = Diff::of(Some((&was, &whole)), Some((&is, &whole)));
        assert_eq!(diff.lines, ["- data: \"(masked)\"", "+ data: \"(masked)\""]);
    }
}
