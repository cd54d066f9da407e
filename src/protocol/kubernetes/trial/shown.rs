//! What people are shown of the API server's answers: on what it was tried, and the lines that differ. *Pure.*

use http::StatusCode;
use serde_json::{Map, Value, json};

use super::super::diff::{Diff, plain};
use super::{Stamp, Stand, Trial, said};
use crate::facts::mask::MASKED;
use crate::facts::{Fact, Mask};
use crate::policy::Previews;
use crate::verdict::Digest;

/// What is never shown: what the mask knows, and what the endpoint names.
#[derive(Clone, Copy)]
pub struct Hide<'a> {
    pub mask: &'a Mask,
    pub previews: &'a Previews,
}

impl Trial {
    /// What people are shown: `before` is what was read, `answer` what the dry run gave.
    pub fn shown(
        &self,
        stand: Option<&Stand>,
        before: &Value,
        (status, answer): (StatusCode, &Value),
        hide: Hide<'_>,
    ) -> Value {
        let mut does = self.about(stand, before, answer);
        if !status.is_success() {
            does.insert("error".to_owned(), said(status, answer).into());
            return json!({ "does": does });
        }
        let (was, is) = (plain(before.clone()), plain(answer.clone()));
        let [was_shown, is_shown] = [&was, &is].map(|one| self.hidden(one.clone(), hide));
        let there = |has: bool, own, shown| has.then_some((own, shown));
        let has_before = matches!(stand, Some(Stand::Object(_)));
        let deletes = self.verb.starts_with("delete");
        let diff = match stand {
            Some(Stand::Objects(objects)) => of_many(objects),
            _ => Diff::of(
                there(has_before, &was, &was_shown),
                there(!deletes, &is, &is_shown),
            ),
        };
        does.insert("lines".to_owned(), diff.count.into());
        // What the server makes anew has names, addresses and times of its own each time.
        if has_before || self.is_of_many() {
            does.insert("digest".to_owned(), diff.digest.to_string().into());
        }
        let mut shown = json!({ "does": does, "diff": diff.lines });
        if let Some(note) = self.note(&diff, has_before, answer) {
            shown["note"] = note.into();
        }
        shown
    }

    fn note(&self, diff: &Diff, has_before: bool, answer: &Value) -> Option<String> {
        let finalizers = answer.pointer("/metadata/finalizers").and_then(Value::as_array);
        if diff.count > diff.lines.len() {
            return Some(format!(
                "{} more lines are not shown",
                diff.count - diff.lines.len()
            ));
        }
        match self.verb.as_str() {
            _ if diff.count == 0 => Some("nothing would change".to_owned()),
            "delete" if finalizers.is_some_and(|all| !all.is_empty()) => {
                Some("it stays, marked to be deleted, until its finalizers have run".to_owned())
            }
            "create" | "update" | "patch" if !has_before => {
                Some("what the API server chooses itself may come out otherwise".to_owned())
            }
            _ => None,
        }
    }

    /// What it is about, by the server's word where there is one.
    fn about(&self, stand: Option<&Stand>, before: &Value, answer: &Value) -> Map<String, Value> {
        let mut about = Map::new();
        let mut put = |name: &str, value: Value| about.insert(name.to_owned(), value);
        put("verb", self.verb.clone().into());
        let kind = [before, answer]
            .into_iter()
            .find_map(|one| match one["kind"].as_str() {
                Some("Status") | None => None,
                Some(kind) => Some(kind),
            });
        let kind = kind.filter(|_| !self.is_of_many()).unwrap_or(&self.own.resource);
        put("kind", kind.into());
        if !self.own.namespace.is_empty() {
            put("namespace", self.own.namespace.clone().into());
        }
        let created = answer
            .pointer("/metadata/name")
            .filter(|_| answer["metadata"]["generateName"].is_null());
        match &self.own.name {
            Fact::Known(name) if !name.is_empty() => _ = put("name", name.clone().into()),
            _ if self.verb == "create" => _ = put("name", created.cloned().unwrap_or_default()),
            _ => {}
        }
        match stand {
            Some(Stand::Object(stamp)) => {
                put("uid", stamp.uid.clone().into());
                put("resource_version", stamp.version.clone().into());
            }
            Some(Stand::Objects(objects)) => _ = put("objects", objects.len().into()),
            Some(Stand::Absent) | None => {}
        }
        about
    }

    fn hidden(&self, mut object: Value, hide: Hide<'_>) -> Value {
        hide.mask.json(&mut object);
        let resource = std::slice::from_ref(&self.own.resource);
        if !hide.previews.masked.is_empty() {
            hide_members(&mut object, &|name| hide.previews.is_masked(resource, name));
        }
        object
    }
}

/// The names of all, and of each state that they are in their digest.
fn of_many(objects: &[(String, Stamp)]) -> Diff {
    let mut diff = Diff::default();
    for (name, _) in objects {
        diff.push(format!("- {}", Value::from(name.as_str())));
    }
    let states = objects
        .iter()
        .flat_map(|(_, stamp)| [stamp.uid.as_bytes(), stamp.version.as_bytes()]);
    diff.digest = Digest::of_parts([diff.digest.as_bytes().as_slice()].into_iter().chain(states));
    diff
}

fn hide_members(value: &mut Value, is_masked: &dyn Fn(&str) -> bool) {
    match value {
        Value::Array(values) => values.iter_mut().for_each(|one| hide_members(one, is_masked)),
        Value::Object(members) => {
            for (name, value) in members {
                match is_masked(name) {
                    true => *value = MASKED.into(),
                    false => hide_members(value, is_masked),
                }
            }
        }
        _ => {}
    }
}
