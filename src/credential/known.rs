//! The real secrets that this process has read, to be found wherever they must not stand. *Pure.*
//!
//! The last line before a record or a question is written: whatever came of an agent, an upstream
//! or a bug, a secret's value in it becomes its credential's name. Every value that the store hands
//! out is learnt first, so nothing can be sent that is not known here. Values are looked for in the
//! forms that [`super::scrub`] knows, and are zeroed when they are forgotten. Values under
//! [`super::filter::NEEDLE_BYTES_MIN`] bytes are not looked for: they stand everywhere by chance.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::sync::{Arc, PoisonError, RwLock};

use serde_json::Value;
use zeroize::Zeroizing;

use super::filter::{Filter, NEEDLE_BYTES_MIN};
use super::forms::needles;
use crate::facts::text::Scrub;

/// Values of one slot that are still looked for after they were replaced: an upstream may speak of
/// the last one for a while.
pub const VALUES_PER_SLOT_MAX: usize = 4;
/// Bytes of a line of a value of several lines (a key in PEM) that is looked for by itself.
const LINE_BYTES_MIN: usize = 24;
/// The secrets known so far; cheap to clone, and all clones know the same.
#[derive(Clone, Default)]
pub struct KnownSecrets {
    shared: Arc<RwLock<Values>>,
}

#[derive(Default)]
struct Values {
    slots: Vec<Slot>,
    needles: Vec<Needle>,
    filter: Filter,
}

struct Slot {
    credential: String,
    slot: String,
    values: VecDeque<Zeroizing<Vec<u8>>>,
}

struct Needle {
    text: Zeroizing<Vec<u8>>,
    instead: Arc<str>,
}

impl KnownSecrets {
    /// Learns the value of a credential's slot. Cheap if it is known already.
    pub fn learn(&self, credential: &str, slot: &str, value: &[u8]) {
        if value.len() < NEEDLE_BYTES_MIN {
            return;
        }
        let is_known = |values: &Values| {
            let own = values.slots.iter().find(|own| own.is(credential, slot));
            own.is_some_and(|own| own.values.iter().any(|known| known.as_slice() == value))
        };
        if is_known(&self.shared.read().unwrap_or_else(PoisonError::into_inner)) {
            return;
        }
        let mut values = self.shared.write().unwrap_or_else(PoisonError::into_inner);
        if is_known(&values) {
            return;
        }
        let at = values.slots.iter().position(|own| own.is(credential, slot));
        let at = at.unwrap_or_else(|| {
            values.slots.push(Slot {
                credential: credential.to_owned(),
                slot: slot.to_owned(),
                values: VecDeque::new(),
            });
            values.slots.len() - 1
        });
        if let Some(own) = values.slots.get_mut(at) {
            own.values.push_back(Zeroizing::new(value.to_vec()));
            if own.values.len() > VALUES_PER_SLOT_MAX {
                own.values.pop_front();
            }
        }
        values.prepare();
    }

    /// Lends the values of a credential's only slot, the newest last: what an upstream may have seen of it.
    pub fn each(&self, credential: &str, look: impl FnMut(&[u8])) {
        let values = self.shared.read().unwrap_or_else(PoisonError::into_inner);
        let own = values.slots.iter().find(|own| own.is(credential, ""));
        let own = own.into_iter().flat_map(|own| &own.values);
        own.map(|value| value.as_slice()).for_each(look);
    }

    /// The text, with every known secret replaced by its credential's name.
    pub fn scrub<'a>(&self, text: &'a str) -> Cow<'a, str> {
        let values = self.shared.read().unwrap_or_else(PoisonError::into_inner);
        values.scrub(text)
    }

    /// Lends [`KnownSecrets::scrub`] for many texts at once.
    pub fn scrubbing<T>(&self, run: impl FnOnce(&Scrub<'_>) -> T) -> T {
        let values = self.shared.read().unwrap_or_else(PoisonError::into_inner);
        run(&|text| values.scrub(text))
    }

    /// [`KnownSecrets::scrub`] for every text of `value`, names of members included.
    pub fn scrub_json(&self, value: &mut Value) {
        let values = self.shared.read().unwrap_or_else(PoisonError::into_inner);
        if !values.needles.is_empty() {
            values.scrub_json(value);
        }
    }
}

impl Slot {
    fn is(&self, credential: &str, slot: &str) -> bool {
        self.credential == credential && self.slot == slot
    }
}

impl Values {
    /// Makes the needles and the filter anew.
    fn prepare(&mut self) {
        self.needles.clear();
        for slot in &self.slots {
            let instead: Arc<str> = format!("(secret of {})", slot.credential).into();
            for value in &slot.values {
                let lines = value.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
                let lines = lines.filter(|line| line.len() >= LINE_BYTES_MIN && !line.starts_with(b"-----"));
                let parts =
                    std::iter::once(value.as_slice()).chain(lines.filter(|line| line.len() < value.len()));
                for part in parts {
                    self.needles
                        .extend(needles(part, part).into_iter().map(|text| Needle {
                            text,
                            instead: instead.clone(),
                        }));
                }
            }
        }
        self.needles
            .sort_by_key(|needle| std::cmp::Reverse(needle.text.len()));
        self.filter = Filter::of(self.needles.iter().map(|needle| needle.text.as_slice()));
    }

    fn scrub<'a>(&self, text: &'a str) -> Cow<'a, str> {
        let bytes = text.as_bytes();
        let stands = |rest: &[u8]| self.needles.iter().find(|needle| rest.starts_with(&needle.text));
        let mut out: Option<Vec<u8>> = None;
        let mut kept = 0;
        while let Some(rest) = bytes.get(kept..)
            && let Some((at, needle)) = self.filter.first_in(rest, stands)
        {
            let out = out.get_or_insert_default();
            out.extend_from_slice(rest.get(..at).unwrap_or_default());
            out.extend_from_slice(needle.instead.as_bytes());
            kept += at + needle.text.len();
        }
        match out {
            None => Cow::Borrowed(text),
            Some(mut out) => {
                out.extend_from_slice(bytes.get(kept..).unwrap_or_default());
                // A needle that ends inside a character leaves half of it; that half is shown as such.
                Cow::Owned(String::from_utf8_lossy(&out).into_owned())
            }
        }
    }

    fn scrub_json(&self, value: &mut Value) {
        match value {
            Value::String(text) => {
                if let Cow::Owned(clean) = self.scrub(text) {
                    *text = clean;
                }
            }
            Value::Number(number) => {
                if let Cow::Owned(clean) = self.scrub(&number.to_string()) {
                    *value = Value::String(clean);
                }
            }
            Value::Array(values) => values.iter_mut().for_each(|value| self.scrub_json(value)),
            Value::Object(members) => {
                let dirty: Vec<String> = members
                    .keys()
                    .filter(|name| matches!(self.scrub(name), Cow::Owned(_)))
                    .cloned()
                    .collect();
                for name in dirty {
                    if let Some(value) = members.remove(&name) {
                        members.insert(self.scrub(&name).into_owned(), value);
                    }
                }
                members.values_mut().for_each(|value| self.scrub_json(value));
            }
            Value::Null | Value::Bool(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;

    use super::*;

    const VALUE: &str = "ghp_Real/Value+1 é";

    fn known() -> KnownSecrets {
        let known = KnownSecrets::default();
        known.learn("bearer_token.pat", "", VALUE.as_bytes());
        known
    }

    #[test]
    fn every_form_is_found() {
        let known = known();
        let basic = STANDARD.encode(format!("user:{VALUE}"));
        let percent = percent_encoding::utf8_percent_encode(VALUE, percent_encoding::NON_ALPHANUMERIC);
        for text in [
            VALUE.to_owned(),
            format!("a {VALUE} b {VALUE}"),
            format!("Basic {basic}"),
            percent.to_string(),
            percent.to_string().to_lowercase(),
            serde_json::json!({ "a": VALUE }).to_string(),
        ] {
            let clean = known.scrub(&text).into_owned();
            assert!(!clean.contains("Real"), "{text}: {clean}");
            assert!(clean.contains("(secret of bearer_token.pat)"), "{text}: {clean}");
            assert!(clean.len() > text.len() || !text.starts_with("a "), "{clean}");
        }
        assert!(matches!(known.scrub("GET /ghp_other"), Cow::Borrowed(_)));
        let mut json = serde_json::json!({ VALUE: [{ "a": format!("x{VALUE}y") }], "n": 1 });
        known.scrub_json(&mut json);
        assert!(!json.to_string().contains("Real"), "{json}");
    }

    #[test]
    fn values_are_kept_for_a_while_after_they_are_replaced() {
        let known = known();
        for turn in 1..VALUES_PER_SLOT_MAX {
            known.learn("bearer_token.pat", "", format!("turn-{turn}").as_bytes());
        }
        assert!(matches!(known.scrub(VALUE), Cow::Owned(_)));
        known.learn("bearer_token.pat", "", b"one more");
        assert!(matches!(known.scrub(VALUE), Cow::Borrowed(_)));
        assert!(matches!(known.scrub("one more"), Cow::Owned(_)));
    }

    #[test]
    fn short_values_are_not_looked_for_and_keys_are_by_their_lines() {
        let known = KnownSecrets::default();
        known.learn("a.b", "", b"abc");
        assert_eq!(known.scrub("abc"), "abc");
        let line = "MHcCAQEEIIUKU2T0hXLnp7yDBEYFAQ";
        let rest = "b".repeat(LINE_BYTES_MIN - 1);
        let pem = format!("-----BEGIN EC PRIVATE KEY-----\n{line}\n{rest}\n-----END EC PRIVATE KEY-----\n");
        known.learn("mtls_credential.c", "key", pem.as_bytes());
        assert_eq!(known.scrub(line), "(secret of mtls_credential.c)");
        assert_eq!(known.scrub(&rest), rest, "the end of a key is too short to tell");
        let harmless = "-----BEGIN EC PRIVATE KEY-----";
        assert_eq!(known.scrub(harmless), harmless);
    }

    proptest::proptest! {
        #[test]
        fn arbitrary_text_is_changed_only_where_a_secret_stands(text: String, value in "[a-z]{4,8}") {
            let known = KnownSecrets::default();
            known.learn("a.b", "", value.as_bytes());
            let clean = known.scrub(&text).into_owned();
            proptest::prop_assert!(!clean.contains(&value));
            let spliced = format!("{text}{value}{text}");
            let clean = known.scrub(&spliced).into_owned();
            proptest::prop_assert!(!clean.replace("(secret of a.b)", " ").contains(&value));
        }
    }
}
