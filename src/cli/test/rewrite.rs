//! A file of fixtures as text: what is set in it leaves the rest byte for byte. *Of `tailkeep test`.*

use std::io::Write as _;
use std::ops::Range;
use std::path::Path;

use anyhow::{Context as _, bail};
use serde::de::IgnoredAny;

use super::Decided;

/// One file.
pub(super) struct Document {
    /// As it was read.
    text: String,
    /// The same with blanks in the place of comments, so that every byte stands where it stood.
    json: String,
    /// What is to stand in the place of what, in the order of the file.
    edits: Vec<(Range<usize>, String)>,
}

impl Document {
    pub(super) fn new(text: String) -> Document {
        Document {
            json: without_comments(&text),
            text,
            edits: Vec::new(),
        }
    }

    /// Whether it holds a list of fixtures, and not one.
    pub(super) fn is_list(&self) -> bool {
        self.json.trim_start().starts_with('[')
    }

    /// Where each fixture stands.
    ///
    /// # Errors
    /// It is no JSON, or a list of none.
    pub(super) fn items(&self) -> anyhow::Result<Vec<Range<usize>>> {
        serde_json::from_str::<IgnoredAny>(&self.json)?;
        let start = self.json.len() - self.json.trim_start().len();
        if self.is_list() {
            let found = elements(&self.json, start)?;
            if found.is_empty() {
                bail!("there is no fixture in this list");
            }
            return Ok(found);
        }
        let own = start..self.json.trim_end().len();
        Ok(Vec::from([own]))
    }

    /// A fixture as JSON.
    pub(super) fn json(&self, range: &Range<usize>) -> &str {
        self.json.get(range.clone()).unwrap_or_default()
    }

    /// Has a fixture expect what was decided.
    ///
    /// # Errors
    /// It is no fixture.
    pub(super) fn set(&mut self, fixture: &Range<usize>, decided: &Decided) -> anyhow::Result<()> {
        let wanted = member(&self.json, fixture.start, "match")?.context("there is no `match`")?;
        let verdict = member(&self.json, wanted.start, "verdict")?.context("there is no `verdict`")?;
        let quoted = |text: &str| serde_json::Value::from(text).to_string();
        let rule = member(&self.json, wanted.start, "rule")?;
        let mut own = vec![(verdict.clone(), quoted(decided.verdict))];
        match rule {
            Some(rule) => own.push((rule, quoted(&decided.rule))),
            None if decided.rule.is_empty() => {}
            None => own.push((
                verdict.end..verdict.end,
                format!(", \"rule\": {}", quoted(&decided.rule)),
            )),
        }
        if let Some(reason) = member(&self.json, wanted.start, "reason")? {
            own.push((reason, quoted(&decided.reason)));
        }
        self.edits.extend(own);
        Ok(())
    }

    /// Writes what was set, if anything was; the file is the old one or the new one, whenever the
    /// machine stops.
    ///
    /// # Errors
    /// The folder cannot be written to.
    pub(super) fn save(mut self, file: &Path) -> anyhow::Result<()> {
        if self.edits.is_empty() {
            return Ok(());
        }
        self.edits.sort_by_key(|(range, _)| (range.start, range.end));
        for (range, text) in self.edits.iter().rev() {
            self.text.replace_range(range.clone(), text);
        }
        let context = || format!("cannot write {}", file.display());
        // What a link points at is written anew, not the link.
        let file = std::fs::canonicalize(file).with_context(context)?;
        let mut name = file.file_name().context("a file has a name")?.to_owned();
        name.push(format!(".{}.new", std::process::id()));
        let new = file.with_file_name(name);
        let write = || -> std::io::Result<()> {
            let mut out = std::fs::File::create_new(&new)?;
            out.write_all(self.text.as_bytes())?;
            out.set_permissions(std::fs::metadata(&file)?.permissions())?;
            out.sync_all()?;
            std::fs::rename(&new, &file)
        };
        let written = write();
        if written.is_err() {
            let _ = std::fs::remove_file(&new);
        }
        written.with_context(context)
    }
}

/// Blanks where `//` and `/* */` comments stand outside of strings.
fn without_comments(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let (length, is_comment) = match first {
            '"' => (string(rest), false),
            '/' if rest.starts_with("//") => (rest.find('\n').unwrap_or(rest.len()), true),
            '/' if rest.starts_with("/*") => {
                let end = rest.get(2..).and_then(|rest| rest.find("*/"));
                (end.map_or(rest.len(), |end| end + 4), true)
            }
            other => (other.len_utf8(), false),
        };
        let (own, behind) = rest.split_at(length);
        match is_comment {
            true => out.extend(own.bytes().map(|byte| if byte == b'\n' { '\n' } else { ' ' })),
            false => out.push_str(own),
        }
        rest = behind;
    }
    out
}

/// The bytes of the string that a text begins with.
fn string(text: &str) -> usize {
    let mut escaped = false;
    for (index, byte) in text.bytes().enumerate().skip(1) {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return index + 1,
            _ => {}
        }
    }
    text.len()
}

/// The first byte at or behind `from` that is neither blank nor a comma nor a colon.
fn next(json: &str, from: usize) -> usize {
    let rest = json.get(from..).unwrap_or_default();
    let blank = |c: char| c.is_ascii_whitespace() || c == ',' || c == ':';
    json.len() - rest.trim_start_matches(blank).len()
}

/// Where the value ends that begins at `start`.
fn end(json: &str, start: usize) -> anyhow::Result<usize> {
    let rest = json.get(start..).unwrap_or_default();
    let mut stream = serde_json::Deserializer::from_str(rest).into_iter::<IgnoredAny>();
    stream.next().context("a value is missing")??;
    Ok(start + stream.byte_offset())
}

/// The elements of the list that begins at `start`.
fn elements(json: &str, start: usize) -> anyhow::Result<Vec<Range<usize>>> {
    let mut found = Vec::new();
    let mut at = next(json, start + 1);
    while json.get(at..).is_some_and(|rest| !rest.starts_with(']')) {
        let end = end(json, at)?;
        found.push(at..end);
        at = next(json, end);
    }
    Ok(found)
}

/// The value of a member of the object that begins at `start`.
fn member(json: &str, start: usize, name: &str) -> anyhow::Result<Option<Range<usize>>> {
    if !json.get(start..).is_some_and(|rest| rest.starts_with('{')) {
        bail!("this is no object");
    }
    let mut at = next(json, start + 1);
    while json.get(at..).is_some_and(|rest| !rest.starts_with('}')) {
        let key_end = end(json, at)?;
        let key: String = serde_json::from_str(json.get(at..key_end).unwrap_or_default())?;
        let value = next(json, key_end);
        let value_end = end(json, value)?;
        if key == name {
            return Ok(Some(value..value_end));
        }
        at = next(json, value_end);
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_set_leaves_the_rest_as_it_is() {
        let text = "// é: kept\n[ {\"action\":{\"match\": {\"verdict\": \"x\"}}, /* \"match\" */\n  \"match\" : { \"rule\":\"a\\\"]}\" ,\n \
                    \"reason\": \"old\",\"verdict\" : \"allow\" } // \"verdict\"\n },\n{\"match\":{\"verdict\":\"deny\"}}]\n";
        let mut document = Document::new(text.to_owned());
        let items = document.items().unwrap_or_default();
        assert_eq!(items.len(), 2);
        let decided = Decided {
            verdict: "approve",
            rule: "p/\"b".to_owned(),
            reason: String::new(),
        };
        for item in &items {
            assert!(document.set(item, &decided).is_ok());
        }
        let folder = std::env::temp_dir().join(format!("tailkeep-rewrite-{}", std::process::id()));
        assert!(std::fs::write(&folder, text).is_ok());
        assert!(document.save(&folder).is_ok());
        let written = std::fs::read_to_string(&folder).unwrap_or_default();
        let _ = std::fs::remove_file(&folder);
        let wanted = "// é: kept\n[ {\"action\":{\"match\": {\"verdict\": \"x\"}}, /* \"match\" */\n  \"match\" : { \"rule\":\"p/\\\"b\" ,\n \
                      \"reason\": \"\",\"verdict\" : \"approve\" } // \"verdict\"\n },\n{\"match\":{\"verdict\":\"approve\", \"rule\": \"p/\\\"b\"}}]\n";
        assert_eq!(written, wanted);
    }
}
