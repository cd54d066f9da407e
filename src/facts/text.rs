//! The facts of an action as the text that a record keeps. *Pure.*
//!
//! Read, masked, scrubbed, bounded and written in one pass, from the facts as they are borrowed: a body of
//! some hundred members is not copied member by member first.

use std::borrow::Cow;
use std::ops::Range;

use serde::Serialize;
use serde_json::Value;

use super::escape;
use super::json::{self, Document, Json};
use super::mask::{Mask, mask_all};
use super::{Blind, Fact, FactSource as _, Facts, Family, Slot, View};
use crate::audit::FACT_BYTES_MAX;

/// What replaces every known secret in a text.
pub type Scrub<'a> = dyn for<'t> Fn(&'t str) -> Cow<'t, str> + 'a;

/// Names of members that are remembered while a fact is written: a list's objects have the same ones.
const NAMES_REMEMBERED: usize = 8;

/// Facts as one JSON object, or `null`; see [`Facts::to_json`]. A fact over [`FACT_BYTES_MAX`] stands as
/// unknown, with its size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FactsText(String);

impl FactsText {
    /// The facts of an action, masked and scrubbed.
    pub fn of(facts: &Facts, mask: &Mask, scrub: &Scrub<'_>) -> FactsText {
        let Some(family) = facts.family() else {
            return FactsText::default();
        };
        let mut writer = Writer::new(mask, scrub);
        writer.out.push(b'{');
        for slot in Slot::of_family(family) {
            let fact = facts.fact(slot);
            if matches!(fact, Fact::Unknown(Blind::NotRead)) {
                continue;
            }
            writer.slot(slot);
            let start = writer.out.len();
            match fact {
                Fact::Known(view) => writer.view(slot, view),
                Fact::Unknown(blind) => writer.write(&serde_json::json!({ "unknown": blind })),
            }
            writer.bound(start);
        }
        writer.out.push(b'}');
        writer.finish()
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for FactsText {
    fn default() -> Self {
        FactsText("null".to_owned())
    }
}

/// What is masked already, or of the gateway's own making.
impl From<Value> for FactsText {
    fn from(value: Value) -> Self {
        fn keep(text: &str) -> Cow<'_, str> {
            Cow::Borrowed(text)
        }
        let mask = Mask::default();
        let mut writer = Writer::new(&mask, &keep);
        match &value {
            Value::Object(members) => {
                writer.out.push(b'{');
                for (name, value) in members {
                    writer.name(name);
                    let start = writer.out.len();
                    writer.write(value);
                    writer.bound(start);
                }
                writer.out.push(b'}');
            }
            other => writer.write(other),
        }
        writer.finish()
    }
}

struct Writer<'a> {
    out: Vec<u8>,
    mask: &'a Mask,
    scrub: &'a Scrub<'a>,
    names: Vec<Named<'a>>,
}

/// The name of a member that was written before.
struct Named<'a> {
    name: &'a str,
    /// Where it stands in what was written, with its colon.
    at: Range<usize>,
    /// Whether it says that a text is a credential, once that was looked at.
    means_credential: Option<bool>,
}

impl<'a> Writer<'a> {
    fn new(mask: &'a Mask, scrub: &'a Scrub<'a>) -> Self {
        Writer {
            out: Vec::with_capacity(512),
            mask,
            scrub,
            names: Vec::new(),
        }
    }

    /// serde_json writes UTF-8 alone.
    fn finish(self) -> FactsText {
        String::from_utf8(self.out).map_or_else(|_| FactsText::default(), FactsText)
    }

    /// As it is. A vector takes whatever is written.
    fn write(&mut self, value: &(impl Serialize + ?Sized)) {
        let _ = serde_json::to_writer(&mut self.out, value);
    }

    /// A text without its secrets.
    fn text(&mut self, text: &str) {
        escape::text(&mut self.out, &(self.scrub)(text));
    }

    /// A comma unless it is the first, and what follows it.
    fn comma(&mut self) {
        if !matches!(self.out.last(), Some(b'{' | b'[')) {
            self.out.push(b',');
        }
    }

    /// A name of ours, which needs no escape.
    fn slot(&mut self, slot: Slot) {
        self.comma();
        self.out.push(b'"');
        self.out.extend_from_slice(slot.name().as_bytes());
        self.out.extend_from_slice(b"\":");
    }

    fn name(&mut self, name: &str) {
        self.comma();
        self.text(name);
        self.out.push(b':');
    }

    /// Replaces the fact that begins at `start` if it is too long.
    fn bound(&mut self, start: usize) {
        let bytes = self.out.len() - start;
        // What is remembered stands in the fact.
        self.names.clear();
        if bytes > FACT_BYTES_MAX {
            self.out.truncate(start);
            self.write(&serde_json::json!({ "unknown": "truncated", "bytes": bytes }));
        }
    }

    /// As [`Mask::fact`] shows it.
    fn view(&mut self, slot: Slot, view: View<'a>) {
        let mask = self.mask;
        match (slot, view) {
            (Slot::HttpHeaders, View::MultiMap(pairs)) => {
                self.multi_map(pairs, |name, text| mask.header(name, text));
            }
            (Slot::HttpQuery | Slot::HttpForm | Slot::McpQuery | Slot::K8sParams, View::MultiMap(pairs)) => {
                self.multi_map(pairs, |name, text| mask.parameter(name, text));
            }
            (slot, View::Text(text)) if slot.family() != Family::Sql => self.text(&mask.text(text)),
            (_, View::Text(text)) => self.text(&mask.sql(text)),
            (slot, View::Texts(texts)) if slot.family() == Family::Sql => {
                self.list(texts, |own, text| own.text(&mask.sql(text)));
            }
            (_, View::Bool(value)) => self.write(&value),
            (_, View::Null) => self.write(&()),
            (slot, View::Json(document)) if slot.family() != Family::Sql => self.document(document),
            (slot, view) => {
                let mut value = view.to_json();
                mask.fact(slot, &mut value);
                self.scrubbed(&value);
            }
        }
    }

    fn list<T>(&mut self, items: impl IntoIterator<Item = T>, each: impl Fn(&mut Self, T)) {
        self.out.push(b'[');
        for item in items {
            self.comma();
            each(self, item);
        }
        self.out.push(b']');
    }

    fn multi_map<'t>(
        &mut self,
        pairs: &'t [(String, Vec<String>)],
        shown: impl Fn(&str, &'t str) -> Cow<'t, str>,
    ) {
        self.out.push(b'{');
        for (name, texts) in pairs {
            self.name(name);
            self.list(texts, |own, text| own.text(&shown(name, text)));
        }
        self.out.push(b'}');
    }

    /// As [`Mask::json`] shows it. A text in which there is nothing to mask, to scrub or to escape is looked at once, as a whole, and
    /// written as it is: no string in it has more than it has.
    fn document(&mut self, document: &'a Document) {
        let is_clean =
            |text: &str| !self.mask.may_hide(text) && matches!((self.scrub)(text), Cow::Borrowed(_));
        match document.plain().filter(|text| is_clean(text)) {
            Some(text) => self.clean(text),
            None => self.json(document.root()),
        }
    }

    /// A JSON text without an escape, less what is blank between its values.
    fn clean(&mut self, text: &str) {
        self.out.reserve(text.len());
        let mut rest = text.as_bytes();
        while let Some(at) = memchr::memchr(b'"', rest) {
            let (between, string) = rest.split_at(at);
            self.unblanked(between);
            // It has an end, or it would be no JSON.
            let end = string.get(1..).and_then(|rest| memchr::memchr(b'"', rest));
            let (string, after) = string.split_at(end.map_or(string.len(), |end| end + 2));
            self.out.extend_from_slice(string);
            rest = after;
        }
        self.unblanked(rest);
    }

    fn unblanked(&mut self, bytes: &[u8]) {
        let kept = bytes.iter().filter(|byte| !byte.is_ascii_whitespace());
        self.out.extend(kept);
    }

    fn json(&mut self, json: Json<'a>) {
        match json {
            Json::Text(text) => {
                let masked = self.mask.text(text);
                self.text(&masked);
            }
            Json::List(items) => self.list(items.iter(), Writer::json),
            Json::Map(members) => self.object(members),
            other => self.scrubbed(&other.to_value()),
        }
    }

    fn object(&mut self, members: json::Map<'a>) {
        let is_secret = members.get("kind").and_then(Json::as_str) == Some("Secret");
        self.out.push(b'{');
        for (name, value) in members.iter() {
            let known = self.member(name);
            let is_content = is_secret && matches!(name, "data" | "stringData");
            if is_content || value.as_str().is_some() && self.means_credential(known, name) {
                let mut masked = value.to_value();
                mask_all(&mut masked);
                self.scrubbed(&masked);
            } else {
                self.json(value);
            }
        }
        self.out.push(b'}');
    }

    /// Writes a member's name, and where it is remembered.
    fn member(&mut self, name: &'a str) -> Option<usize> {
        self.comma();
        if let Some(known) = self.names.iter().position(|known| known.name == name) {
            let at = self.names.get(known).map_or(0..0, |known| known.at.clone());
            self.out.extend_from_within(at);
            return Some(known);
        }
        let start = self.out.len();
        self.text(name);
        self.out.push(b':');
        (self.names.len() < NAMES_REMEMBERED).then(|| {
            self.names.push(Named {
                name,
                at: start..self.out.len(),
                means_credential: None,
            });
            self.names.len() - 1
        })
    }

    fn means_credential(&mut self, known: Option<usize>, name: &str) -> bool {
        let mask = self.mask;
        match known.and_then(|known| self.names.get_mut(known)) {
            Some(known) => *known.means_credential.get_or_insert_with(|| mask.is_member(name)),
            None => mask.is_member(name),
        }
    }

    /// What is masked already.
    fn scrubbed(&mut self, value: &Value) {
        match value {
            Value::Null | Value::Bool(_) => self.write(value),
            Value::Number(number) => match (self.scrub)(&number.to_string()) {
                Cow::Borrowed(_) => self.write(value),
                Cow::Owned(clean) => self.write(&clean),
            },
            Value::String(text) => self.text(text),
            Value::Array(values) => self.list(values, Writer::scrubbed),
            Value::Object(members) => {
                self.out.push(b'{');
                for (name, value) in members {
                    self.name(name);
                    self.scrubbed(value);
                }
                self.out.push(b'}');
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use http::Request;
    use serde_json::json;

    use super::*;
    use crate::credential::KnownSecrets;
    use crate::facts::FactSet;
    use crate::facts::http::{HeldBody, HttpFacts};
    use crate::facts::sql::{self, Parameters, SqlFacts};

    /// The facts of a request whose rules read all of it.
    fn facts(body: &str) -> Facts {
        let request = Request::post("/a?token=t0k&q=real-value")
            .header("content-type", "application/json")
            .header("x-api-key", "k")
            .header("x-plain", "real-value")
            .body(())
            .unwrap();
        let needs = Slot::of_family(Family::Http).collect::<FactSet>();
        let (parts, ()) = request.into_parts();
        let held = HeldBody::Whole(body.as_bytes());
        Facts::Http(Box::new(
            HttpFacts::read(&parts, "a.test", held, needs, 1 << 20).unwrap(),
        ))
    }

    fn known() -> KnownSecrets {
        let known = KnownSecrets::default();
        known.learn("bearer_token.pat", "", b"real-value");
        known.learn("bearer_token.pin", "", b"271828");
        known
    }

    /// What was written before there was one pass: the value, masked, scrubbed.
    fn in_passes(facts: &Facts) -> Value {
        let mut value = facts.to_json(&Mask::default());
        known().scrub_json(&mut value);
        value
    }

    fn in_one(facts: &Facts) -> Value {
        let known = known();
        let text = FactsText::of(facts, &Mask::default(), &|text| known.scrub(text));
        serde_json::from_str(text.as_str()).unwrap()
    }

    #[test]
    fn one_pass_writes_what_several_did() {
        for body in [
            r#"{"password":"p","n":271828,"f":1.5,"b":[true,null,{}],"a":[{"note":"x real-value","token":"t","k":[]}]}"#,
            r#"{"kind":"Secret","data":{"a":"YQ==","n":1},"stringData":{"real-value":["x"]}}"#,
            r#"{"token":{"note":"\"quoted\"\n\u0000","real-value":1},"kind":"Pod","data":{"a":"b"}}"#,
            r#""bearer abcdefgh""#,
            // Nothing to mask, to scrub or to escape; and each of these alone.
            r#"{ "kind" : "order", "a": [1, -2, 18446744073709551615, 0.5, null, true], "é": {}, "": [] }"#,
            r#"{"n":2.71828e5,"m":-0,"k":1e2}"#,
            r#"{"n":[271828]}"#,
            r#"{"x real-value":1}"#,
            r#"{"real\u002dvalue":"real\u002dvalue"}"#,
            r#"{"p\u0061ssword":"p"}"#,
            r#"{"kind":"S\u0065cret","data":{"a":"YQ=="}}"#,
            r#"{"key":"k","sig":"s","note":"sid:1"}"#,
            r#"["auth=abc", "https://u:p@h/", "Basic YTpiYzpkZWY="]"#,
            "{",
            "",
        ] {
            let facts = facts(body);
            assert_eq!(in_one(&facts), in_passes(&facts), "{body}");
            assert!(!in_one(&facts).to_string().contains("real-value"), "{body}");
        }
        assert_eq!(
            FactsText::of(&Facts::None, &Mask::default(), &|text| text.into()).as_str(),
            "null"
        );
    }

    #[test]
    fn sql_is_written_as_several_passes_did() {
        for text in [
            "SELECT a FROM b WHERE c = 271828 AND d = 'real-value' LIMIT 3",
            "ALTER ROLE a PASSWORD 'hunter2'",
            "CREATE SUBSCRIPTION s CONNECTION 'host=h password=p' PUBLICATION p",
            "DO $$ BEGIN PERFORM \"token\"('x'); END $$",
            "UPDATE \"real-value\".\"a\"\"b\" SET \"password\" = 'é'",
            "not SQL; password='x'",
        ] {
            let statement = sql::read(text, 1 << 20).into_iter().next().unwrap();
            let mut facts = SqlFacts::new(statement, "real-value", "ci");
            let values = [
                "271828".into(),
                "real-value".into(),
                Value::Null,
                "password=p".into(),
            ];
            facts.parameters = Parameters::known(values.to_vec());
            let facts = Facts::Sql(Box::new(facts));
            assert_eq!(in_one(&facts), in_passes(&facts), "{text}");
            assert!(!in_one(&facts).to_string().contains("real-value"), "{text}");
        }
    }

    #[test]
    fn a_long_fact_stands_as_unknown() {
        let facts = facts(&json!({ "a": "x".repeat(FACT_BYTES_MAX) }).to_string());
        let written = in_one(&facts);
        let bytes = FACT_BYTES_MAX + r#"{"a":""}"#.len();
        assert_eq!(
            written["body_json"],
            json!({ "unknown": "truncated", "bytes": bytes })
        );
        assert_eq!(written["path"], "/a");
        let text = |bytes: usize| json!({ "a": "x".repeat(bytes - 2), "b": 1 });
        let value = text(FACT_BYTES_MAX);
        assert_eq!(FactsText::from(value.clone()).as_str(), value.to_string());
        let cut = r#"{"a":{"unknown":"truncated","bytes":65537},"b":1}"#;
        assert_eq!(FactsText::from(text(FACT_BYTES_MAX + 1)).as_str(), cut);
    }

    proptest::proptest! {
        #[test]
        fn any_json_is_written_as_before(text: String, name: String, number: u32) {
            let inner = json!({ &name: &text, "item": number, "note": [&text, { &text: &name }] });
            let facts = facts(&json!([inner, text, number, inner]).to_string());
            proptest::prop_assert_eq!(in_one(&facts), in_passes(&facts));
        }

        #[test]
        fn json_that_is_looked_at_as_a_whole_is_written_as_before(
            names in proptest::collection::vec("key|kind|data|auth|my-token|item|note|real-value|\"|é", 1..4),
            texts in proptest::collection::vec("(Secret|bearer abcdefgh|real-value|x=|token|key=k|\\|:|\"| |abc|271828){0,3}", 1..4),
            eighths: i32,
        ) {
            let members = |value: &Value| {
                let members = names.iter().zip(&texts).map(|(name, text)| (name.clone(), json!([value, text])));
                let plain = names.iter().zip(&texts).map(|(name, text)| (format!("{name}{name}"), json!(text)));
                Value::Object(members.chain(plain).collect())
            };
            let facts = facts(&members(&members(&json!([f64::from(eighths) / 8.0, 271_828]))).to_string());
            proptest::prop_assert_eq!(in_one(&facts), in_passes(&facts));
        }
    }
}
